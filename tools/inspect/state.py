"""What a peer's state holds, for people and programs: a key, the rows of a range, the clients' sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from heapq import merge
from itertools import islice
from typing import Any

from raftlog import sessions
from raftlog.codec import CodecError, loads
from raftlog.sessions import BadSession, Session, decode_session
from shardkv import kv
from shardkv.commands import MAX_KEY_BYTES
from shardkv.config import shard_of
from shardkv.replies import decode_reply
from shardkv.shards import ShardRecord, State, scope_of
from store.engine import CorruptRecord, ReadTxn
from store.keys import prefix_stop, u64
from tools.inspect.logview import Wanted, plain, printable
from tools.inspect.playing import Moment
from tools.inspect.structure import NotThere

HELD = (State.STAGING, State.SERVING, State.FROZEN)
"""The states in which a shard has rows and sessions here. Only those of a served shard are answered to clients."""
SHORT = 64
"""How many bytes of a value a line for people shows."""
CLIENT_DIGITS = 16

Row = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """The rows to show: keys with `prefix` and start <= key < stop, all in hex; at most `limit`. `shard`: of this one only.
    `hex`: show keys and values in hex."""

    prefix: str = ""
    start: str = ""
    stop: str | None = None
    limit: int = 100
    shard: int | None = None
    hex: bool = False

    def as_json(self) -> Row:
        """Arguments of the class, for another process."""
        return asdict(self)

    def bounds(self) -> tuple[bytes, bytes | None]:
        """The first key and the one behind the last; None = to the end."""
        prefix = bytes.fromhex(self.prefix)
        start = max(prefix, bytes.fromhex(self.start))
        behind = prefix_stop(prefix)
        known = [] if behind is None else [behind]
        known += [] if self.stop is None else [bytes.fromhex(self.stop)]
        return start, min(known, default=None)


def heading(moment: Moment) -> Row:
    """Whose state it is and as of when."""
    at, stored = (None if p is None else list(p) for p in (moment.at, moment.stored))
    return {"peer": moment.peer, "at": at, "through_log": moment.through_log, "stored": stored}


def key_of(key: bytes, in_hex: bool) -> str:
    """A key, whole: as text if it is that, else, or if it is wanted, in hex."""
    return key.hex() if in_hex else printable(key, MAX_KEY_BYTES)


def _value(moment: Moment, value: bytes, in_hex: bool) -> Any:
    """A value, whole; a controllers' record decoded."""
    if in_hex:
        return value.hex()
    if moment.gid == 0:
        with suppress(CodecError):
            return plain(loads(value), Wanted())
    return printable(value, len(value))


def _row(moment: Moment, scope: bytes, key: bytes, payload: bytes, in_hex: bool) -> Row:
    version = kv.version_of(scope, key, payload)
    value = payload[kv.VERSION_BYTES :]
    return {"version": version, "bytes": len(value), "value": _value(moment, value, in_hex)}


def _owner(shard: int, record: ShardRecord) -> Row:
    return {"shard": shard, "state": record.state.name.lower(), "num": record.num, "gid": record.gid}


def checked_shard(moment: Moment, shard: int | None) -> int | None:
    """The shard if there is one of that number. Raises `NotThere`."""
    try:
        return None if shard is None else moment.machine.checked_shard(moment.txn, shard)
    except CodecError as error:
        raise NotThere(str(error)) from error


# --- get and scan ----------------------------------------------------------------------------------------------------


def key_row(moment: Moment, key: bytes, in_hex: bool = False) -> Row:
    """A key: its shard, and its version and value if it is there; version 0 and value null if not."""
    shard = shard_of(key, moment.machine.shard_count(moment.txn))
    record = moment.machine.record(moment.txn, shard)
    row = {"key": key_of(key, in_hex), **_owner(shard, record)}
    scope = scope_of(shard, record)
    payload = moment.txn.get(kv.ROWS, scope + key) if record.state in HELD else None
    if payload is None:
        return {**row, "found": False, "version": 0, "bytes": 0, "value": None}
    return {**row, "found": True, **_row(moment, scope, key, payload, in_hex)}


def held(moment: Moment, shard: int | None = None) -> Iterator[tuple[int, ShardRecord]]:
    """The shards that have something here, in order, or the one."""
    shards = range(moment.machine.shard_count(moment.txn)) if shard is None else [shard]
    for number in shards:
        record = moment.machine.record(moment.txn, number)
        if record.state in HELD:
            yield number, record


def scan(moment: Moment, wanted: Range) -> Iterator[Row]:
    """The rows of a range, of all shards in one order of keys, and last {shown, next}: `next` is the first key that the
    limit left out, in hex, null if there is none."""
    start, stop = wanted.bounds()
    streams = [_stream(moment, *one, start, stop) for one in held(moment, checked_shard(moment, wanted.shard))]
    shown = 0
    following = None
    for key, shard, payload in islice(merge(*streams), wanted.limit + 1):
        if shown == wanted.limit:
            following = key.hex()
            break
        record = moment.machine.record(moment.txn, shard)
        row = _row(moment, scope_of(shard, record), key, payload, wanted.hex)
        yield {"key": key_of(key, wanted.hex), "shard": shard, "state": record.state.name.lower(), **row}
        shown += 1
    yield {"shown": shown, "next": following}


def _stream(
    moment: Moment, shard: int, record: ShardRecord, start: bytes, stop: bytes | None
) -> Iterator[tuple[bytes, int, bytes]]:
    scope = scope_of(shard, record)
    if stop is not None and stop <= start:
        return
    end = prefix_stop(scope) if stop is None else scope + stop
    for key, payload in kv.rows_from(moment.txn, scope, scope + start, end):
        yield key, shard, payload


# --- sessions --------------------------------------------------------------------------------------------------------


def reply_row(body: bytes, fields: int = 1) -> Row:
    """A reply as it was remembered or made, whose OK has `fields` fields, as that of a put or a delete has one."""
    try:
        reply = decode_reply(body, fields)
    except CodecError as error:
        return {"code": "undecodable", "fields": [str(error)], "tick": None}
    return {"code": reply.code.name, "fields": plain(list(reply.fields), Wanted()), "tick": reply.tick}


def clients(prefix: str) -> tuple[int, int]:
    """The first and the last client whose number, of 16 hex digits, begins so."""
    return int(prefix.ljust(CLIENT_DIGITS, "0"), 16), int(prefix.ljust(CLIENT_DIGITS, "f"), 16)


def session_rows(moment: Moment, shard: int | None = None, client: str = "", limit: int = 100) -> Iterator[Row]:
    """Per shard with sessions its counters, then its clients' sessions, at most `limit` in all, and last {shown, more}.
    `client`: only those whose number begins with these hex digits."""
    shown = 0
    more = False
    first, last = (number.to_bytes(8, "big") for number in clients(client))
    for number, record in held(moment, checked_shard(moment, shard)):
        scope = scope_of(number, record)
        found = sessions.counters(moment.txn, scope)
        yield {**_owner(number, record), "tick": found.tick, "horizon": found.horizon, "sessions": found.sessions}
        # A client's row is longer than the scope's own, which has no client behind it.
        for key, payload in moment.txn.scan(sessions.SESSIONS, scope + first, scope + last + b"\0"):
            if shown == limit:
                more = True
                break
            shown += 1
            yield {"shard": number, "client": key[len(scope) :].hex(), **_session(key, payload)}
    yield {"shown": shown, "more": more}


def session_of(txn: ReadTxn, scope: bytes, client: int) -> Session | None:
    """The session of a client in a scope, None if it has none."""
    key = scope + u64(client)
    payload = txn.get(sessions.SESSIONS, key)
    return None if payload is None else _decoded(key, payload)


def _decoded(key: bytes, payload: bytes) -> Session:
    try:
        return decode_session(payload)
    except BadSession as error:
        raise CorruptRecord(sessions.SESSIONS, key, str(error)) from error


def _session(key: bytes, payload: bytes) -> Row:
    found = _decoded(key, payload)
    return {
        "last_tick": found.last_tick,
        "acked_below": found.acked_below,
        "horizon": found.horizon,
        "replies": [{"seq": seq, **reply_row(reply)} for seq, reply in found.replies],
    }
