"""Making a new peer's directory: under a temporary name, in bounded transactions, verified, synced, and only then renamed.

A crash leaves nothing under the new name; a leftover `NAME.new` of an earlier crash is removed by the next try.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from raftlog.durable import LOG_TABLES, state_tables
from shardkv.group import GroupMachine
from shardkv.kvmachine import KvMachine
from shardkv.kvsrv_host import kvsrv_tables
from store.directory import locked_directory, make_directory, sync_directory
from store.engine import CannotOpen, WriteTxn
from store.format import FORMAT_VERSION, KEY, Stamp
from store.lmdb_engine import TEMPORARY_SUFFIX, LmdbEngine
from store.lmdb_file import GENERATION
from tools.inspect.verify import verify_peer

BATCH_ROWS = 4096
BATCH_BYTES = 8 << 20
"""What one transaction of the making holds at most, and one record more."""

Record = tuple[str, bytes, bytes]
"""Table, key, payload."""


def tables_of(stamp: Stamp, *, with_log: bool) -> tuple[str, ...]:
    """The tables of the environment that a stamp names."""
    if stamp.kind == "log":
        return LOG_TABLES
    machine = KvMachine() if stamp.gid == 0 else GroupMachine()
    return state_tables(machine.tables) if with_log else kvsrv_tables(machine)


@contextmanager
def new_directory(path: Path, *, check: bool = True) -> Iterator[Path]:
    """A directory to fill; on a clean exit it is verified, durable and at `path`. Raises `CannotOpen` if `path` exists or
    what was made is not fine; after any error there is nothing."""
    if path.exists() or path.is_symlink():
        raise CannotOpen(f"{path} exists already: a new directory is made, none is changed")
    try:
        make_directory(path.parent)
    except OSError as error:
        raise CannotOpen(f"{path} cannot be made: {error}") from error
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with locked_directory(path.parent):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            if check and (findings := verify_peer(temporary).findings):
                raise CannotOpen(f"{path} would not be fine: {'; '.join(findings[:3])}")
            for lock in temporary.glob("*/lock.mdb"):
                lock.unlink()
            sync_directory(temporary)
            if path.exists():
                raise CannotOpen(f"{path} exists already: it was made meanwhile")
            temporary.rename(path)
            sync_directory(path.parent)
        except OSError as error:
            raise CannotOpen(f"{path} cannot be made: {error}") from error
        finally:
            with suppress(OSError):
                shutil.rmtree(temporary)


def make_environment(
    directory: Path,
    stamp: Stamp,
    tables: tuple[str, ...],
    records: Iterable[Record],
    finish: Callable[[WriteTxn], None] | None = None,
) -> int:
    """Fill `directory`/<kind> with the records, table by table in key order, under the stamp in this engine's form; the
    stamps among the records are left out. `finish` runs in a transaction of its own. How many records there are."""
    path = directory / stamp.kind
    ours = replace(stamp, engine="lmdb", generation=GENERATION, version=FORMAT_VERSION)
    LmdbEngine.create(path, tables, ours, lambda txn: None)
    engine = LmdbEngine.open(path, tables, ours)
    count = 0
    try:
        source = iter(records)
        more = True
        while more:
            with engine.write() as txn:
                written, more = _some(txn, source)
            count += written
        if finish is not None:
            with engine.write() as txn:
                finish(txn)
    finally:
        engine.close()
    return count


def _some(txn: WriteTxn, source: Iterator[Record]) -> tuple[int, bool]:
    size = rows = 0
    for table, key, payload in source:
        rows += 1
        if (table, key) == ("meta", KEY):
            continue
        txn.put(table, key, payload, append=table != "meta")
        size += len(key) + len(payload)
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            return rows, True
    return rows, False
