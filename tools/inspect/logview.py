"""A peer's log, entry by entry, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from raftlog.codec import CodecError, array, loads
from raftlog.durable import CorruptLog, read_entries
from raftlog.machine import Operation, decode_operations
from raftlog.types import Entry, EntryKind
from shardkv.commands import Delete, Put, decode_command
from shardkv.config import NSHARDS, shard_of
from shardkv.group import stored_shards
from store.lmdb_engine import LmdbEngine
from tools.inspect.peer import OpenPeer

KINDS = [kind.name.lower() for kind in EntryKind]
"""The kinds of entries, as people write them."""
BATCH = 256
"""Entries per read transaction: a reader that is paged through by a person must not pin a running peer's pages."""
BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Wanted:
    """What of the log to show. `raw`: the data as it is stored, in hex. `hex`: keys and values in hex, whole."""

    first: int = 0
    last: int | None = None
    limit: int | None = None
    kind: str | None = None
    raw: bool = False
    hex: bool = False

    def as_json(self) -> dict[str, Any]:
        """Arguments of the class, for another process."""
        return asdict(self)


def rows(peer: OpenPeer, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The entries that are wanted; the keys are those of `log --json`. Nothing of a kvsrv. Raises `StoreError`."""
    engine = peer.engines.get("log")
    if engine is None:
        return
    shards = shards_of(peer)
    left = wanted.limit
    for entry in entries(engine, wanted.first, wanted.last):
        if wanted.kind not in (None, entry.kind.name.lower()):
            continue
        if left is not None:
            if not left:
                return
            left -= 1
        yield {"peer": peer.name, **describe(entry, wanted, shards)}


def shards_of(peer: OpenPeer) -> int | None:
    """How many shards the keys of this group's commands are spread over; None of the controllers, whose keys are in none
    and whose values are the records of the configurations."""
    if peer.stamp.gid == 0:
        return None
    with peer.view() as view:
        return stored_shards(view.state) or NSHARDS


def entries(engine: LmdbEngine, first: int = 0, last: int | None = None) -> Iterator[Entry]:
    """The entries first..last, read in batches that are each a moment of their own: what the peer appends meanwhile is
    seen, and if it removes entries their numbers are left out. Raises `CorruptRecord`, `CorruptLog`."""
    while True:
        batch, whole = _batch(engine, first, last)
        yield from batch
        if whole:
            return
        first = batch[-1].id.index + 1


def _batch(engine: LmdbEngine, first: int, last: int | None) -> tuple[list[Entry], bool]:
    """Some entries, and whether they are all there are."""
    found: list[Entry] = []
    size = 0
    with engine.read() as txn:
        for entry in read_entries(txn, first, last):
            if found and entry.id.index <= found[-1].id.index:
                raise CorruptLog(f"record entries/{found[-1].id.index} is followed by {entry.id.index}")
            found.append(entry)
            size += entry.size_bytes
            if len(found) >= BATCH or size >= BATCH_BYTES:
                return found, False
    return found, True


# --- an entry ------------------------------------------------------------------------------------------------------


def describe(entry: Entry, wanted: Wanted, shards: int | None = None) -> dict[str, Any]:
    """An entry as an object."""
    row: dict[str, Any] = {
        "index": entry.id.index,
        "term": entry.id.term,
        "kind": entry.kind.name.lower(),
        "time_ms": entry.time_ms,
        "bytes": len(entry.data),
    }
    if wanted.raw:
        return {**row, "data": entry.data.hex()}
    try:
        match entry.kind:
            case EntryKind.COMMAND:
                row["operations"] = [describe_operation(op, wanted, shards) for op in decode_operations(entry.data)]
            case EntryKind.NOOP:
                row["leader"], row["boot"] = array(loads(entry.data), 2)
            case EntryKind.MEMBERSHIP:
                row["voters"], row["learners"] = array(loads(entry.data), 2)
    except CodecError as error:
        row["undecodable"] = str(error)
    return row


def describe_operation(operation: Operation, wanted: Wanted, shards: int | None) -> dict[str, Any]:
    """An operation of an entry as an object: its session's client and number, its command and the fields of that. `shards`
    is None for the controllers' commands, as `shards_of` has it."""
    row: dict[str, Any] = {}
    if operation.client:
        row |= {"client": f"{operation.client:016x}", "seq": operation.seq}
    try:
        command = decode_command(operation.command)
    except CodecError as error:
        return {**row, "command": "undecodable", "why": str(error)}
    row["command"] = type(command).__name__.lower()
    if shards is not None and isinstance(command, Put | Delete):
        row["shard"] = shard_of(command.key, shards)
    for field, value in command._asdict().items():
        row[field] = plain(value, wanted)
    if shards is None and isinstance(command, Put) and not wanted.hex:
        with suppress(CodecError):
            row["value"] = plain(loads(command.value), wanted)
    return row


def plain(value: Any, wanted: Wanted) -> Any:
    """Bytes as text, also in lists and maps: as `printable` has it, or whole in hex if that is wanted."""
    if isinstance(value, bytes):
        return value.hex() if wanted.hex else printable(value)
    if isinstance(value, tuple | list):
        return [plain(item, wanted) for item in value]
    if isinstance(value, dict):
        return {str(plain(key, wanted)): plain(item, wanted) for key, item in value.items()}
    return value


def printable(data: bytes, longest: int = 64) -> str:
    """Bytes as text: as they are if they are plain text, else as hex; long ones cut."""
    shown = data[:longest]
    text = shown.decode("utf-8", "replace")
    if not text.isprintable() or "\ufffd" in text:
        text = "0x" + shown.hex()
    return text + (f"... ({len(data)} bytes)" if len(data) > longest else "")
