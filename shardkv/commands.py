"""The formats of the data plane: calls, with the fields of an OK reply to each, and commands in the log. Replies are in
`replies`. The formats are decided in these two modules and nowhere else.

Format `VERSION` 1. Everything is a CBOR array of integers, byte strings, text, null and booleans. Keys are byte strings
of 0..`MAX_KEY_BYTES` bytes, values byte strings of at most `MAX_VALUE_BYTES`; a version is 1 or more, 0 = "missing".

**Calls** (`Method`) and the fields of their OK reply. A reply is an array [code, fields ...].

    GET           [key]                                          [value, version]
    WRITE         [client, seq, acked_below, as_of, command]     the command's own, below
    SCAN          [shard, start, stop | null, limit, max_bytes]  [[[key, value, version] ...], more]
    READ_SHARD    [shard, num, after, max_bytes]                 [summary, entries, last, more]
    STATUS        []                                             [[[shard, state, num, gid | null, rows, size,
                                                                    sessions, tick] ...]]
    GET_MANY      [[key ...]]                                    [[reply of GET per key, or [LATER] ...]]

`SCAN` gives start <= key < stop; a page after key k starts at k + b"\\0". `client` 0 = no session (control commands go
so). `seq`, `acked_below` and `as_of` count per shard, see `raftlog.sessions`.

**Commands** (first item the tag), their data as `WRITE` carries it and the log keeps it, and the fields of OK:

    PUT           [1, key, value, version | null]                [new version]            null = unconditional
    DELETE        [2, key, version | null]                       [version that was deleted]
    FREEZE        [16, shard, num, gid, [address ...]]           [summary]                gid, addresses: where it goes
    INSTALL_CHUNK [17, shard, num, after, entries]               [position]               or RESUME, INSTALLED
    INSTALL       [18, shard, num, summary]                      []                       or RESUME
    DELETE_SHARD  [19, shard, num]                               []
    KEEP          [20, shard, num]                               []

The hand-over of a shard: an INSTALL_CHUNK with after = b"" and entries = b"" at the destination (it answers where to go
on; a dead destination takes no shard out of service) -> FREEZE at the source -> READ_SHARD pages from any peer of the
source (NOT_YET from one that has not applied the freeze), each handed on as INSTALL_CHUNK with the same `after` and the
same `entries`, unread -> INSTALL with the source's summary -> DELETE_SHARD at the source. A shard without a source is
made by INSTALL with `summary_of_nobody`. A shard with keys is not frozen for nobody (REFUSED): such a change is given up, and
KEEP gives the shards it would have taken back to those who had them. Every step may be repeated and made by several
controllers at once.

    summary    [rows, size, hash (16 bytes), sessions, hash of the sessions, tick, horizon, last position]
    entries    b"" or the CBOR array [position, payload, position, payload ...], positions ascending. A position is
               b"\\0" + key (payload: the row) or b"\\1" + client, 8 bytes (payload: the session)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from raftlog.codec import CodecError, array, dumps, loads
from raftlog.types import MAX_COMMAND_BYTES
from shardkv.config import MAX_GID, MAX_NAME_BYTES, MAX_NUM, MAX_SERVERS, MAX_SHARDS

VERSION = 1

MAX_KEY_BYTES = 400
"""The longest key, in bytes. The empty key is a key."""

MAX_VALUE_BYTES = MAX_COMMAND_BYTES
"""The largest value, in bytes: the one limit, checked at the client's edge, at the server and in `apply`."""

MAX_PAGE_BYTES = 1 << 20
"""The most that one reply to SCAN, READ_SHARD or GET_MANY carries, in bytes, except that one row always fits."""

MAX_PAGE_ROWS = 10_000
"""The most rows of a SCAN, keys of a GET_MANY and entries of a READ_SHARD."""

MAX_ENTRIES_BYTES = MAX_VALUE_BYTES + 1024
"""The largest `entries` of an INSTALL_CHUNK, in bytes."""


class Tag(IntEnum):
    """The first item of a command."""

    PUT = 1
    DELETE = 2
    FREEZE = 16
    INSTALL_CHUNK = 17
    INSTALL = 18
    DELETE_SHARD = 19
    KEEP = 20


# --- keys and values -------------------------------------------------------------------------------------------------


class TooLarge(CodecError):
    """A key, a value or a chunk over its limit; the text says which and by how much. Answer with TOO_LARGE."""


def checked_key(key: Any) -> bytes:
    """`key` if it is one. Raises `CodecError`."""
    if type(key) is not bytes:
        raise CodecError(f"a key is bytes, not {key!r:.60}")
    if len(key) > MAX_KEY_BYTES:
        raise TooLarge(f"a key of {len(key)} bytes; at most {MAX_KEY_BYTES}")
    return key


def checked_value(value: Any) -> bytes:
    """`value` if it is one. Raises `CodecError`."""
    if type(value) is not bytes:
        raise CodecError(f"a value is bytes, not {value!r:.60}")
    if len(value) > MAX_VALUE_BYTES:
        raise TooLarge(f"a value of {len(value)} bytes; at most {MAX_VALUE_BYTES}")
    return value


def checked_int(value: Any, least: int, most: int, what: str) -> int:
    """`value` if it is an integer of least..most. Raises `CodecError`."""
    if type(value) is not int or not least <= value <= most:
        raise CodecError(f"{what} is an integer of {least}..{most}, not {value!r:.60}")
    return value


def _bytes(value: Any, most: int, what: str) -> bytes:
    if type(value) is not bytes:
        raise CodecError(f"{what} is bytes, not {value!r:.60}")
    if len(value) > most:
        raise TooLarge(f"{what} of {len(value)} bytes; at most {most}")
    return value


def _version(value: Any) -> int | None:
    return None if value is None else checked_int(value, 0, (1 << 64) - 1, "a version")


def checked_shard(value: Any) -> int:
    """`value` if it may number a shard. Raises `CodecError`."""
    return checked_int(value, 0, MAX_SHARDS - 1, "a shard")


def checked_num(value: Any) -> int:
    """`value` if it may number a configuration that moves something. Raises `CodecError`."""
    return checked_int(value, 1, MAX_NUM, "the number of a change")


def checked_position(value: Any) -> bytes:
    """`value` if it may be a position of the stream of a shard. Raises `CodecError`."""
    return _bytes(value, MAX_KEY_BYTES + 1, "a position")


def checked_addresses(value: Any) -> tuple[str, ...]:
    """`value` as addresses of a group. Raises `CodecError`."""
    found = tuple(array(value))
    if len(found) > MAX_SERVERS or any(type(a) is not str or len(a) > MAX_NAME_BYTES for a in found):
        raise CodecError(f"not at most {MAX_SERVERS} addresses: {value!r:.60}")
    return found


# --- commands --------------------------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """What a frozen shard holds; the source says it, the destination checks its staging against it.

    `size` counts keys and values, in bytes. `hash` and `session_hash` are sums over the rows and over the sessions, so
    they do not depend on order or chunks. `last` is the last position of the stream, b"" if the shard holds nothing.
    """

    rows: int
    size: int
    hash: bytes
    sessions: int
    session_hash: bytes
    tick: int
    horizon: int
    last: bytes


EMPTY_SUMMARY = Summary(0, 0, bytes(16), 0, bytes(16), 0, 0, b"")
"""Of a shard that nobody ever wrote to."""

_LIFE_BITS = 40
"""A shard that belonged to nobody counts on from its change's number times 2^40: above all that its lives before came to."""


def summary_of_nobody(num: int) -> Summary:
    """What change `num` installs for a shard that has no source.

    Its sessions are gone as if all had been evicted: whoever sends again what he first sent in an earlier life of the shard
    is refused, not obeyed a second time. Change 1 is before all others, so there the count is 0.
    """
    count = 0 if num == 1 else num << _LIFE_BITS
    return EMPTY_SUMMARY._replace(tick=count, horizon=count)


def unpack_summary(value: Any) -> Summary:
    """Raises `CodecError`."""
    rows, size, digest, sessions, session_digest, tick, horizon, last = array(value, 8)
    for number in (rows, size, sessions, tick, horizon):
        checked_int(number, 0, (1 << 63) - 1, "a number of a summary")
    for found in (digest, session_digest):
        if type(found) is not bytes or len(found) != 16:
            raise CodecError(f"a hash is 16 bytes, not {found!r:.60}")
    return Summary(rows, size, digest, sessions, session_digest, tick, horizon, checked_position(last))


class Put(NamedTuple):
    """Store `value`. With `version`, only if the key has it (0 = missing); None = whatever it has."""

    key: bytes
    value: bytes
    version: int | None = None


class Delete(NamedTuple):
    """Remove the key. With `version`, only if the key has it."""

    key: bytes
    version: int | None = None


class Freeze(NamedTuple):
    """Stop serving the shard: config `num` gives it to group `gid` at `addresses`."""

    shard: int
    num: int
    gid: int
    addresses: tuple[str, ...]


class InstallChunk(NamedTuple):
    """Stage entries that follow position `after`."""

    shard: int
    num: int
    after: bytes
    entries: bytes


class Install(NamedTuple):
    """Serve the shard with what is staged, if it is what `summary` says."""

    shard: int
    num: int
    summary: Summary


class DeleteShard(NamedTuple):
    """Retire what was frozen."""

    shard: int
    num: int


class Keep(NamedTuple):
    """Go on serving what config `num` was to give to nobody."""

    shard: int
    num: int


Command = Put | Delete | Freeze | InstallChunk | Install | DeleteShard | Keep


def encode_command(command: Command) -> bytes:
    """The command's data, as WRITE carries it and the log keeps it. Limits are checked: raises `CodecError`
    (`TooLarge` for what is over a limit)."""
    match command:
        case Put():
            items: list[Any] = [Tag.PUT, *command]
        case Delete():
            items = [Tag.DELETE, *command]
        case Freeze(shard, num, gid, addresses):
            items = [Tag.FREEZE, shard, num, gid, list(addresses)]
        case InstallChunk():
            items = [Tag.INSTALL_CHUNK, *command]
        case Install(shard, num, summary):
            items = [Tag.INSTALL, shard, num, list(summary)]
        case DeleteShard():
            items = [Tag.DELETE_SHARD, *command]
        case Keep():
            items = [Tag.KEEP, *command]
    items[0] = int(items[0])
    _build(items)
    return dumps(items)


def decode_command(data: bytes) -> Command:
    """Raises `CodecError` (`TooLarge` for what is over a limit)."""
    return _build(array(loads(data)))


def _build(items: list[Any]) -> Command:
    tag = items[0] if items else None
    if type(tag) is not int or tag not in _COMMANDS:
        raise CodecError(f"unknown command {tag!r:.60}")
    length, build = _COMMANDS[tag]
    if len(items) != length + 1:
        raise CodecError(f"command {tag} with {len(items) - 1} fields, not {length}")
    return build(*items[1:])


def _put(key: Any, value: Any, version: Any) -> Put:
    return Put(checked_key(key), checked_value(value), _version(version))


def _delete(key: Any, version: Any) -> Delete:
    return Delete(checked_key(key), _version(version))


def _freeze(shard: Any, num: Any, gid: Any, addresses: Any) -> Freeze:
    return Freeze(
        checked_shard(shard), checked_num(num), checked_int(gid, 0, MAX_GID, "a group"), checked_addresses(addresses)
    )


def _install_chunk(shard: Any, num: Any, after: Any, entries: Any) -> InstallChunk:
    return InstallChunk(
        checked_shard(shard), checked_num(num), checked_position(after), _bytes(entries, MAX_ENTRIES_BYTES, "a chunk")
    )


def _install(shard: Any, num: Any, summary: Any) -> Install:
    return Install(checked_shard(shard), checked_num(num), unpack_summary(summary))


def _delete_shard(shard: Any, num: Any) -> DeleteShard:
    return DeleteShard(checked_shard(shard), checked_num(num))


def _keep(shard: Any, num: Any) -> Keep:
    return Keep(checked_shard(shard), checked_num(num))


_COMMANDS: dict[int, tuple[int, Callable[..., Command]]] = {
    Tag.PUT: (3, _put),
    Tag.DELETE: (2, _delete),
    Tag.FREEZE: (4, _freeze),
    Tag.INSTALL_CHUNK: (4, _install_chunk),
    Tag.INSTALL: (3, _install),
    Tag.DELETE_SHARD: (2, _delete_shard),
    Tag.KEEP: (2, _keep),
}


def encode_entries(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The (position, payload) pairs of a chunk as one byte string."""
    return dumps([item for entry in entries for item in entry]) if entries else b""


def decode_entries(data: bytes) -> list[tuple[bytes, bytes]]:
    """Raises `CodecError`, also for positions that do not ascend."""
    items = array(loads(data)) if data else []
    if len(items) % 2 or any(type(item) is not bytes for item in items):
        raise CodecError("a chunk is an array of positions and payloads")
    positions = items[::2]
    if any(not before < after for before, after in zip([b"", *positions], positions, strict=False)):
        raise CodecError("the positions of a chunk do not ascend")
    return list(zip(positions, items[1::2], strict=True))
