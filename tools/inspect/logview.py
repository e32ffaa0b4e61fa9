"""A peer's log, entry by entry, for people and programs."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple, get_args

from raftlog.codec import CodecError, array, loads
from raftlog.durable import CorruptLog, read_entries
from raftlog.machine import Operation, decode_operations
from raftlog.types import Entry, EntryKind
from shardkv.commands import Command, Delete, Put, decode_command
from shardkv.config import NSHARDS, shard_of
from shardkv.group import stored_shards
from store.lmdb_engine import LmdbEngine
from tools.inspect.peer import OpenPeer

KIND_NAMES = {kind: kind.name.lower() for kind in EntryKind}
KINDS = list(KIND_NAMES.values())
"""The kinds of entries, as people write them."""
_OF_KEYS = (Put, Delete)
_COMMAND_NAMES = {kind: kind.__name__.lower() for kind in get_args(Command)}
BATCH = 256
"""Entries per read transaction: a reader that is paged through by a person must not pin a running peer's pages."""
BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Wanted:
    """Which entries of the log to show, and how. All conditions must hold; those on keys, shards and sessions hold for an
    entry if they do for one of its operations.

    `key` is in hex, `session` a client's number or (number, sequence number), times are ms since 1970. `raw`: the data as
    it is stored, in hex. `hex`: keys and values in hex, whole. `salt`, in hex: keys and values as a salted hash and their
    length, so that equal ones can be told without being known.
    """

    first: int = 0
    last: int | None = None
    limit: int | None = None
    kind: str | None = None
    term: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    key: str | None = None
    shard: int | None = None
    session: list[int] | None = None
    raw: bool = False
    hex: bool = False
    salt: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Arguments of the class, for another process."""
        return asdict(self)

    @property
    def everything(self) -> bool:
        """It leaves out no entry for what it is."""
        heads = (self.term, self.kind, self.since_ms, self.until_ms)
        return not self.of_operations and all(condition is None for condition in heads)

    @property
    def of_operations(self) -> bool:
        """It asks for something that only the decoded operations tell."""
        return self.key is not None or self.shard is not None or self.session is not None

    def head(self, entry: Entry) -> bool:
        """Whether the entry passes what can be told without its data."""
        return (
            (self.term is None or entry.id.term == self.term)
            and (self.kind is None or entry.kind.name.lower() == self.kind)
            and (self.since_ms is None or entry.time_ms >= self.since_ms)
            and (self.until_ms is None or 0 < entry.time_ms <= self.until_ms)
        )

    def operation(self, operation: Operation, command: Command | None, shards: int | None) -> bool:
        """Whether one of its operations passes; `command` is None if it cannot be decoded."""
        if self.session is not None and self.session not in ([operation.client], [operation.client, operation.seq]):
            return False
        key = getattr(command, "key", None)
        if self.key is not None and (key is None or key.hex() != self.key):
            return False
        if self.shard is None:
            return True
        at = getattr(command, "shard", None) if key is None else shards and shard_of(key, shards)
        return at == self.shard


class Decoded(NamedTuple):
    """An operation with its command, or with what was wrong with it."""

    operation: Operation
    command: Command | None
    why: str = ""


def decoded(entry: Entry) -> list[Decoded]:
    """The operations of a command entry. Raises `CodecError`."""
    return [decoded_operation(operation) for operation in decode_operations(entry.data)]


def decoded_operation(operation: Operation) -> Decoded:
    """An operation with its command."""
    try:
        return Decoded(operation, decode_command(operation.command))
    except CodecError as error:
        return Decoded(operation, None, str(error))


def matches(entry: Entry, wanted: Wanted, shards: int | None) -> bool:
    """Whether the entry is wanted."""
    if not wanted.head(entry):
        return False
    if not wanted.of_operations:
        return True
    if entry.kind is not EntryKind.COMMAND:
        return False
    with suppress(CodecError):
        return any(wanted.operation(one.operation, one.command, shards) for one in decoded(entry))
    return False


def rows(peer: OpenPeer, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The entries that are wanted; the keys are those of `log --json`. Nothing of a kvsrv. Raises `StoreError`."""
    engine = peer.engines.get("log")
    if engine is None:
        return
    shards = shards_of(peer)
    found = (entry for entry in entries(engine, wanted.first, wanted.last) if matches(entry, wanted, shards))
    for entry in islice(found, wanted.limit):
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
    at, kind = entry.id, entry.kind
    row: dict[str, Any] = {
        "index": at.index,
        "term": at.term,
        "kind": KIND_NAMES[kind],
        "time_ms": entry.time_ms,
        "bytes": len(entry.data),
    }
    if wanted.raw:
        return {**row, "data": entry.data.hex()}
    try:
        match kind:
            case EntryKind.COMMAND:
                row["operations"] = [describe_operation(one, wanted, shards) for one in decoded(entry)]
            case EntryKind.NOOP:
                row["leader"], row["boot"] = array(loads(entry.data), 2)
            case EntryKind.MEMBERSHIP:
                row["voters"], row["learners"] = array(loads(entry.data), 2)
    except CodecError as error:
        row["undecodable"] = "" if wanted.salt is not None else str(error)
    return row


def describe_operation(one: Decoded, wanted: Wanted, shards: int | None) -> dict[str, Any]:
    """An operation of an entry as an object: its session's client and number, its command and the fields of that. `shards`
    is None for the controllers' commands, as `shards_of` has it."""
    operation, command, why = one
    row: dict[str, Any] = {}
    if operation.client:
        row["client"] = f"{operation.client:016x}"
        row["seq"] = operation.seq
    if command is None:
        return {**row, "command": "undecodable", "why": "" if wanted.salt is not None else why}
    row["command"] = _COMMAND_NAMES[type(command)]
    if shards is not None and isinstance(command, _OF_KEYS):
        row["shard"] = shard_of(command.key, shards)
    for field, value in zip(command._fields, command, strict=True):
        row[field] = value if value is None or type(value) is int else plain(value, wanted)
    if shards is None and isinstance(command, Put) and not wanted.hex and wanted.salt is None:
        with suppress(CodecError):
            row["value"] = plain(loads(command.value), wanted)
    return row


def plain(value: Any, wanted: Wanted) -> Any:
    """Bytes as text, also in lists and maps: as `printable` has it, whole in hex or redacted if that is wanted."""
    if type(value) is bytes:
        if wanted.salt is not None:
            return redacted(value, wanted.salt)
        return value.hex() if wanted.hex else printable(value)
    if isinstance(value, tuple | list):
        return [plain(item, wanted) for item in value]
    if isinstance(value, dict):
        return {str(plain(key, wanted)): plain(item, wanted) for key, item in value.items()}
    return value


def redacted(data: bytes, salt: str) -> str:
    """A short salted hash and the length."""
    return f"#{blake2b(data, key=bytes.fromhex(salt), digest_size=5).hexdigest()} ({len(data)} bytes)"


def printable(data: bytes, longest: int = 64) -> str:
    """Bytes as text: as they are if they are plain text, else as hex; long ones cut."""
    shown = data[:longest]
    try:
        text, _ = utf_8_decode(
            shown, "strict", len(data) <= longest
        )  # a character that the cut went through is left out
    except UnicodeDecodeError:
        text = "\n"
    if not text.isprintable():
        text = "0x" + shown.hex()
    return text if len(data) <= longest else f"{text}... ({len(data)} bytes)"
