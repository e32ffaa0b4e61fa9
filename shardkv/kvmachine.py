"""The state machines over versioned key/value: what they share, and `KvMachine`, the one of kvsrv and kvraft.

Everything here is synchronous and deterministic. `apply` is total, and so is `read`: bytes that are no call or command
get a reply that says so. Replies of `read` are arrays, ready for `Request.reply`; those of `apply` are encoded.

A machine keeps nothing but its tables. What its object remembers (the last command decoded, records decoded) is a
cache that is checked against the bytes it came from, and may be used from two threads.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, NamedTuple

from raftlog import sessions
from raftlog.codec import CodecError, array, dumps, dumps_uint
from raftlog.machine import Refusal
from raftlog.types import LogId
from shardkv import kv
from shardkv.commands import (
    MAX_KEY_BYTES,
    MAX_PAGE_BYTES,
    MAX_PAGE_ROWS,
    Command,
    Delete,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    Keep,
    Put,
    Tag,
    checked_int,
    checked_key,
    checked_shard,
    decode_command,
)
from shardkv.config import shard_of
from shardkv.methods import Method
from shardkv.replies import Code, bad_request, error
from shardkv.shards import SHARDS, ShardRecord, State, decode_record, encode_record, scope_of
from store.engine import ReadTxn, WriteTxn
from store.keys import u16

Control = Freeze | InstallChunk | Install | DeleteShard | Keep
"""The commands of the hand-over."""

_DESCRIBED = (State.SERVING, State.FROZEN)
_SMALL = frozenset(bytes((tag,)) for tag in (Tag.DELETE, Tag.FREEZE, Tag.INSTALL, Tag.DELETE_SHARD, Tag.KEEP))
_ONE_LONGER = {head: bytes((head + 1,)) for head in range(0x80, 0x97)}
"""By the head of a CBOR array of less than 23 items, that of an array with one more."""
_WORDS = {
    Refusal.ACKNOWLEDGED: "the client has acknowledged this operation already",
    Refusal.WINDOW_FULL: "too many operations of the client are open",
}


class ShardStatus(NamedTuple):
    """A shard for people and tools: a row of STATUS, in this order. `size` in bytes; `gid` is where it went."""

    shard: int
    state: str
    num: int
    gid: int | None
    rows: int
    size: int
    sessions: int
    tick: int


class _Decoded(NamedTuple):
    data: bytes
    command: Command | CodecError
    shard: int


class _Place(NamedTuple):
    """A shard's record, as it is stored and as it is read, and the scope of its incarnation."""

    payload: bytes
    record: ShardRecord
    scope: bytes


class VersionedMachine:
    """A `StateMachine` of versioned rows in shards. Below it: who owns a shard, and how it changes hands."""

    tables: tuple[str, ...] = (SHARDS, kv.ROWS, *sessions.TABLES)

    def __init__(self) -> None:
        self._last = _Decoded(b"", CodecError("no command"), 0)
        self._places: dict[int, _Place] = {}

    # --- what differs ------------------------------------------------------------------------------------------------

    def shard_count(self, txn: ReadTxn) -> int:
        """The number of shards of the cluster, fixed when the group first got one."""
        raise NotImplementedError

    def control(self, txn: WriteTxn, command: Control) -> list[Any]:
        """The effect of a command of the hand-over and its reply."""
        raise NotImplementedError

    def read_shard(self, txn: ReadTxn, shard: Any, num: Any, after: Any, max_bytes: Any) -> list[Any]:
        """A page of a frozen shard. Raises `CodecError`."""
        raise NotImplementedError

    def missing(self) -> ShardRecord:
        """What a shard without a record is."""
        raise NotImplementedError

    # --- StateMachine ------------------------------------------------------------------------------------------------

    def scope(self, txn: ReadTxn, command: bytes) -> bytes | None:
        """(shard, incarnation) of a put or delete whose shard is served here. None else: the answer of a group that
        does not own the shard says nothing about the operation, so no session may remember it."""
        _, found, shard = self._decode(txn, command)
        if not isinstance(found, Put | Delete):
            return None
        _, record, scope = self._place(txn, shard)
        return scope if record.state is State.SERVING else None

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        """See `StateMachine.apply`. The reply is one of `replies`, without a tick."""
        _, found, shard = self._decode(txn, command)
        if isinstance(found, CodecError):
            return dumps(bad_request(found))
        if not isinstance(found, Put | Delete):
            return dumps(self.control(txn, found))
        _, record, scope = self._place(txn, shard)
        if record.state is not State.SERVING:
            return dumps(wrong_group(record))
        if isinstance(found, Put):
            reply, after = kv.put(txn, scope, record, found)
        else:
            reply, after = kv.delete(txn, scope, record, found)
        if after is not record:
            self.put_record(txn, shard, after)
        return dumps(reply)

    def grows(self, command: bytes) -> bool:
        """See `StateMachine.grows`: all but deletes and the small steps of a hand-over. An array of less than 24 items
        and a tag below 24 take a byte each, so nothing is decoded for it."""
        return command[1:2] not in _SMALL

    def stamp(self, reply: bytes, tick: int) -> bytes:
        """The reply's array with the tick as one more item. An array of less than 23 items has its length in the
        first byte, so nothing is decoded for it."""
        assert 0x80 <= reply[0] < 0x97, f"a reply that begins with byte {reply[0]:#x} is no short array"
        return b"".join((_ONE_LONGER[reply[0]], reply[1:], dumps_uint(tick)))

    def refuse(self, why: Refusal, tick: int) -> bytes:
        """See `StateMachine.refuse`."""
        if why is Refusal.EXPIRED:
            return dumps([*error(Code.SESSION_EXPIRED), tick])
        return dumps([*error(Code.REFUSED, _WORDS[why]), tick])

    def background(self, txn: WriteTxn, budget: int) -> bool:
        """Nothing to do."""
        return False

    def state_hash(self, txn: ReadTxn) -> bytes:
        """16 bytes over every shard's record and its sessions'. Where rows lie (the incarnation) and what is staged are
        outside it, so it does not depend on the way a shard came here."""
        shards = self.shard_count(txn)
        digest = blake2b(dumps([shards]), digest_size=16)
        for shard in range(shards):
            record = self.record(txn, shard)
            items: list[Any] = [shard, int(record.state), record.num, record.gid, list(record.addresses)]
            if record.state in _DESCRIBED:
                found = sessions.counters(txn, scope_of(shard, record))
                items += [record.rows, record.size, record.digest]
                items += [found.tick, found.horizon, found.sessions, found.digest]
            digest.update(dumps(items))
        return digest.digest()

    # --- reads: each checks who owns the shard in the view that it reads ---------------------------------------------

    def read(self, txn: ReadTxn, method: int, args: Any) -> list[Any]:
        """The reply to a call that only reads (GET, GET_MANY, SCAN, READ_SHARD, STATUS), from the view `txn`. Total.

        GET, GET_MANY and SCAN are linearizable if the view is; READ_SHARD is right in any view of any peer.
        """
        try:
            match method:
                case Method.GET:
                    return self.get(txn, *array(args, 1))
                case Method.GET_MANY:
                    return self.get_many(txn, *array(args, 1))
                case Method.SCAN:
                    return self.scan(txn, *array(args, 5))
                case Method.READ_SHARD:
                    return self.read_shard(txn, *array(args, 4))
                case Method.STATUS:
                    array(args, 0)
                    return [int(Code.OK), [list(row) for row in self.shard_table(txn)]]
                case _:
                    return error(Code.BAD_REQUEST, f"method {method!r:.60} is not one that reads")
        except CodecError as problem:
            return bad_request(problem)

    def get(self, txn: ReadTxn, key: Any) -> list[Any]:
        """The reply to GET. Raises `CodecError` for what is no key."""
        shard = shard_of(checked_key(key), self.shard_count(txn))
        _, record, scope = self._place(txn, shard)
        if record.state is not State.SERVING:
            return wrong_group(record)
        return kv.get(txn, scope, key)

    def get_many(self, txn: ReadTxn, keys: Any) -> list[Any]:
        """The reply to GET_MANY. Raises `CodecError`."""
        if len(array(keys)) > MAX_PAGE_ROWS:
            raise CodecError(f"{len(keys)} keys; at most {MAX_PAGE_ROWS}")
        replies: list[list[Any]] = []
        size = 0
        for key in keys:
            if size >= MAX_PAGE_BYTES:
                replies.append(error(Code.LATER))
                continue
            reply = self.get(txn, key)
            size += len(reply[1]) if reply[0] == Code.OK else 0
            # The first is always answered, so that asking again comes to an end.
            replies.append(error(Code.LATER) if replies and size > MAX_PAGE_BYTES else reply)
        return [int(Code.OK), replies]

    def scan(self, txn: ReadTxn, shard: Any, start: Any, stop: Any, limit: Any, max_bytes: Any) -> list[Any]:
        """The reply to SCAN. Raises `CodecError`."""
        shard = self.checked_shard(txn, shard)
        for bound in (start, b"" if stop is None else stop):
            # One byte more than a key: the bound just behind a longest key.
            if type(bound) is not bytes or len(bound) > MAX_KEY_BYTES + 1:
                raise CodecError(f"not the bound of a scan: {bound!r:.60}")
        checked_int(limit, 1, (1 << 63) - 1, "the limit of a scan")
        checked_int(max_bytes, 0, (1 << 63) - 1, "the size of a page")
        record = self.record(txn, shard)
        if record.state is not State.SERVING:
            return wrong_group(record)
        return kv.scan(txn, scope_of(shard, record), start, stop, limit, max_bytes)

    def shard_table(self, txn: ReadTxn) -> list[ShardStatus]:
        """Every shard, in order."""
        table = []
        for shard in range(self.shard_count(txn)):
            record = self.record(txn, shard)
            # What a dead incarnation still has is removed by each peer at its own time: not told.
            live = record.state in _DESCRIBED
            found = sessions.counters(txn, scope_of(shard, record)) if live else sessions.Counters()
            held = (record.rows, record.size, found.sessions, found.tick)
            table.append(ShardStatus(shard, record.state.name.lower(), record.num, record.gid, *held))
        return table

    # --- below them --------------------------------------------------------------------------------------------------

    def record(self, txn: ReadTxn, shard: int) -> ShardRecord:
        """The shard's record in this view."""
        return self._place(txn, shard).record

    def _place(self, txn: ReadTxn, shard: int) -> _Place:
        payload = txn.get(SHARDS, u16(shard))
        if payload is None:
            missing = self.missing()
            return _Place(b"", missing, scope_of(shard, missing))
        known = self._places.get(shard)
        if known is None or known.payload != payload:
            record = decode_record(shard, payload)
            self._places[shard] = known = _Place(payload, record, scope_of(shard, record))
        return known

    def put_record(self, txn: WriteTxn, shard: int, record: ShardRecord) -> None:
        """Store the shard's record."""
        payload = encode_record(record)
        txn.put(SHARDS, u16(shard), payload)
        self._places[shard] = _Place(payload, record, scope_of(shard, record))

    def checked_shard(self, txn: ReadTxn, shard: Any) -> int:
        """`shard` if there is one of that number. Raises `CodecError`."""
        if checked_shard(shard) >= self.shard_count(txn):
            raise CodecError(f"there is no shard {shard}: they are 0..{self.shard_count(txn) - 1}")
        return int(shard)

    def _decode(self, txn: ReadTxn, data: bytes) -> _Decoded:
        # `scope` and then `apply` get the very same object: a big value is decoded once. A read on another thread
        # (kvsrv applies on its writer's) sees either pair, each whole.
        last = self._last
        if last.data is data:
            return last
        command: Command | CodecError
        shard = 0
        try:
            command = decode_command(data)
            if isinstance(command, Put | Delete):
                shard = shard_of(command.key, self.shard_count(txn))
        except CodecError as problem:
            command = problem
        self._last = last = _Decoded(data, command, shard)
        return last


def wrong_group(record: ShardRecord) -> list[Any]:
    """The reply to whoever asks for a key of a shard that is not served here, with where it went if that is known."""
    if record.gid is None:
        return error(Code.WRONG_GROUP, record.num, None, None)
    return error(Code.WRONG_GROUP, record.num, record.gid, list(record.addresses))


class KvMachine(VersionedMachine):
    """Versioned key/value without shards, for kvsrv and kvraft: one shard, served from the first day and for ever."""

    def shard_count(self, txn: ReadTxn) -> int:
        """One."""
        return 1

    def missing(self) -> ShardRecord:
        """Served, and empty."""
        return ShardRecord(State.SERVING)

    def control(self, txn: WriteTxn, command: Control) -> list[Any]:
        """Refused: a shard of such a server goes nowhere."""
        return error(Code.BAD_REQUEST, "this server keeps all keys; it hands no shard over")

    def read_shard(self, txn: ReadTxn, shard: Any, num: Any, after: Any, max_bytes: Any) -> list[Any]:
        """Refused, as `control`."""
        return error(Code.BAD_REQUEST, "this server keeps all keys; it hands no shard over")
