"""Export, import and online copy of a peer's directory: every record passes its CRC on the way, none is interpreted.

The source is read in one view of both environments, so all of it is one moment; a running peer goes on writing, and its
files grow while the view is open because its pages are pinned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from raftlog.durable import read_applied
from store.directory import sync_directory
from store.engine import CannotOpen, FormatMismatch, ReadTxn
from store.lmdb_engine import TEMPORARY_SUFFIX
from tools.inspect.exportfile import BadFile, ExportReader, ExportWriter, Item, Row, Table
from tools.inspect.making import Record, make_environment, new_directory, tables_of
from tools.inspect.peer import OpenPeer, View, open_peer
from tools.inspect.structure import NotThere, environments, structure_findings


def _sound(directory: Path) -> None:
    for path in environments(directory).values():
        for finding in structure_findings(path):
            raise CannotOpen(f"{directory}: {finding}")


def _kinds(peer: OpenPeer, view: View) -> Iterator[tuple[str, ReadTxn]]:
    if view.log is not None:
        yield "log", view.log
    yield "state", view.meta


def export_peer(directory: Path, file: Path) -> dict[str, Any]:
    """Write `file`, durably; {file, tables, records, bytes, applied (an index, null of a kvsrv)}. Raises `StoreError`; then
    there is no file."""
    if file.exists() or file.is_symlink():
        raise CannotOpen(f"{file} exists already: a new file is made, none is changed")
    _sound(directory)
    temporary = file.with_name(f"{file.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as stream:
            with open_peer(directory) as peer, peer.view() as view:
                kinds = list(_kinds(peer, view))
                applied = None if view.log is None else read_applied(view.meta)[0].index
                writer = ExportWriter(stream, [peer.stamps[kind] for kind, _ in kinds])
                for kind, txn in kinds:
                    for table in peer.engines[kind].tables:
                        writer.begin(kind, table)
                        for key, payload in txn.scan(table):
                            writer.row(key, payload)
                totals = writer.end()
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, file)  # unlike a rename, never over a file
        sync_directory(file.parent)
    except OSError as error:
        raise CannotOpen(f"{file} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    counts = {"tables": totals.tables, "records": totals.records, "bytes": totals.bytes}
    return {"file": str(file), **counts, "applied": applied}


def import_peer(file: Path, directory: Path) -> dict[str, Any]:
    """Make `directory` of an export; {directory, records}. Raises `NotThere`, `BadFile`, `StoreError`; then it is not
    there."""
    try:
        stream = file.open("rb")
    except OSError as error:
        raise NotThere(f"{file} cannot be read: {error.strerror}") from error
    with stream:
        reader = ExportReader(stream, str(file))
        items = reader.items()
        count = 0
        with new_directory(directory) as made:
            ahead = next(items, None)
            for stamp in reader.stamps:
                wanted = tables_of(stamp, with_log=len(reader.stamps) == 2)
                source = _Records(file, items, ahead, stamp.kind, wanted)
                count += make_environment(made, stamp, wanted, source.records())
                if source.missing:
                    raise BadFile(f"{file} lacks the tables {', '.join(source.missing)} of {stamp.kind}/")
                ahead = source.ahead
            if ahead is not None:
                raise BadFile(f"{file} holds more than its environments")
    return {"directory": str(directory), "records": count}


class _Records:
    """The records of one environment out of the items of a file; `ahead` is the first item that is not its own."""

    def __init__(
        self, file: Path, items: Iterator[Item], ahead: Item | None, kind: str, tables: tuple[str, ...]
    ) -> None:
        self._file = file
        self._items = items
        self._kind = kind
        self.ahead = ahead
        self.missing = list(tables)

    def records(self) -> Iterator[Record]:
        """Raises `BadFile`, also at the end of the file."""
        table = ""
        first = [] if self.ahead is None else [self.ahead]
        self.ahead = None
        for item in chain(first, self._items):
            match item:
                case Table(kind, name) if kind == self._kind:
                    if name not in self.missing:
                        raise FormatMismatch(f"{self._file}: {kind}/ has no table {name!r:.60}, or it comes twice")
                    self.missing.remove(name)
                    table = name
                case Table():
                    self.ahead = item
                    return
                case Row(key, payload):
                    yield table, key, payload


def copy_peer(directory: Path, new: Path) -> dict[str, Any]:
    """A compact copy of a peer's directory as of one moment; {directory, records}. Raises `StoreError`; then `new` is not
    there."""
    _sound(directory)
    count = 0
    with new_directory(new) as made, open_peer(directory) as peer, peer.view() as view:
        for kind, txn in _kinds(peer, view):
            tables = peer.engines[kind].tables
            count += make_environment(made, peer.stamps[kind], tables, _all(txn, tables))
    return {"directory": str(new), "records": count}


def _all(txn: ReadTxn, tables: tuple[str, ...]) -> Iterator[Record]:
    for table in tables:
        for key, payload in txn.scan(table):
            yield table, key, payload
