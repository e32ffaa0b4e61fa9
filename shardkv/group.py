"""`GroupMachine`: the state machine of a shard group (MIT 6.5840 lab 5, "shardgrp"): shards that come, serve and go.

What becomes of each event of the hand-over is decided by the table in `shards`; this module does it. Each command
touches a bounded number of rows, whatever the size of the shard: chunks are staged under an incarnation of their own,
an install flips the shard's record, a delete retires the incarnation, and `background` removes its rows in steps.

    shards    shard u16                         see `shards`
    rows      scope, key                        see `kv`
    sessions, session_order                     see `raftlog.sessions`
    garbage   scope                             empty; an incarnation whose rows and sessions are to be removed
    group     "format"                          CBOR [format version, number of shards]

A crash leaves either all of a command's effects or none (they are in one transaction with `applied`). Rows of a scope
that is neither a shard's incarnation nor in `garbage` cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raftlog import sessions
from raftlog.codec import CodecError, array, dumps, loads
from raftlog.sessions import BadSession, decode_session
from shardkv import kv
from shardkv.commands import (
    MAX_KEY_BYTES,
    MAX_PAGE_BYTES,
    MAX_PAGE_ROWS,
    MAX_VALUE_BYTES,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    Keep,
    Summary,
    checked_int,
    checked_num,
    checked_position,
    decode_entries,
    encode_entries,
)
from shardkv.config import MAX_SHARDS, NOBODY, NSHARDS, shard_of
from shardkv.kvmachine import Control, VersionedMachine
from shardkv.replies import Code, bad_request, error
from shardkv.shards import (
    NO_SHARD,
    TABLE,
    Action,
    Event,
    ShardRecord,
    State,
    incarnation_of,
    relation,
    restarts_of,
    scope_of,
)
from store.engine import CorruptRecord, FormatMismatch, ReadTxn, WriteTxn
from store.keys import prefix_stop

GARBAGE = "garbage"
GROUP = "group"

FORMAT = 1
"""The version of all of a group's tables together."""

RESTARTS_MAX = 1000
"""How often the staging of one shard at one num may begin again."""

_FORMAT_KEY = b"format"
_ROW = b"\0"
_SESSION = b"\1"
_ENTRY_OVERHEAD_BYTES = 16

_EVENTS: dict[type, Event] = {
    Freeze: Event.FREEZE,
    InstallChunk: Event.CHUNK,
    Install: Event.INSTALL,
    DeleteShard: Event.DELETE,
    Keep: Event.KEEP,
}


class GroupMachine(VersionedMachine):
    """The state machine of one shard group. Owns no shard until one is installed.

    `shards` is the cluster's number of shards. It goes to disk with the first shard that comes; from then on a machine
    made with another number raises `FormatMismatch`.
    """

    tables = (*VersionedMachine.tables, GARBAGE, GROUP)

    def __init__(self, shards: int = NSHARDS) -> None:
        super().__init__()
        if not 1 <= shards <= MAX_SHARDS:
            raise ValueError(f"{shards} shards; there must be 1..{MAX_SHARDS}")
        self._shards = shards
        self._checked = False

    def shard_count(self, txn: ReadTxn) -> int:
        """The number of shards. Raises `FormatMismatch` if the disk has another, or a later format."""
        if not self._checked:
            stored = stored_shards(txn)
            if stored is not None and stored != self._shards:
                raise FormatMismatch(
                    f"the group was made with {stored} shards; this peer is started with {self._shards}"
                )
            self._checked = stored is not None
        return self._shards

    def missing(self) -> ShardRecord:
        """Absent."""
        return NO_SHARD

    # --- the hand-over -----------------------------------------------------------------------------------------------

    def control(self, txn: WriteTxn, command: Control) -> list[Any]:
        """The effect and the reply of a command of the hand-over, as the table has it."""
        try:
            shard = self.checked_shard(txn, command.shard)
            entries = self._checked_chunk(txn, command) if isinstance(command, InstallChunk) else []
        except CodecError as problem:
            return bad_request(problem)
        record = self.record(txn, shard)
        event = _EVENTS[type(command)]
        action = TABLE[record.state, event, relation(command.num, record.num)]
        match action:
            case Action.STALE:
                return error(Code.STALE, record.num)
            case Action.GONE:
                return error(Code.GONE)
            case Action.INSTALLED:
                return error(Code.INSTALLED)
            case Action.REFUSE:
                what = f"{event.name.lower()} of shard {shard} at num {command.num}"
                return error(Code.REFUSED, f"{what}: it is {record.state.name.lower()} at num {record.num}")
            case Action.STAGE | Action.INSTALL_ANEW:
                self._ensure_format(txn)
                record = self._stage_anew(txn, shard, record, incarnation_of(command.num), command.num)
            case Action.DELETE:
                self._retire(txn, shard, record)
                gone = ShardRecord(State.DELETED, command.num, record.incarnation)
                self.put_record(txn, shard, gone._replace(gid=record.gid, addresses=record.addresses))
        match command:
            case Freeze():
                if action is Action.FREEZE:
                    if command.gid == NOBODY and record.rows:
                        return error(
                            Code.REFUSED, f"shard {shard} holds {record.rows} keys, and nobody is to have them"
                        )
                    record = record._replace(
                        state=State.FROZEN, num=command.num, gid=command.gid, addresses=command.addresses
                    )
                    self.put_record(txn, shard, record)
                return [int(Code.OK), list(summary_of(txn, shard, record))]
            case InstallChunk():
                return self._stage(txn, shard, record, command.after, entries)
            case Install():
                return [int(Code.OK)] if action is Action.AGAIN else self._install(txn, shard, record, command.summary)
            case DeleteShard():
                return [int(Code.OK)]
            case Keep():
                return self._keep(txn, shard, record, command.num) if action is Action.KEEP else [int(Code.OK)]

    def _keep(self, txn: WriteTxn, shard: int, record: ShardRecord, num: int) -> list[Any]:
        if record.state is State.FROZEN and record.gid != NOBODY:
            return error(Code.REFUSED, f"shard {shard} goes to group {record.gid} at num {num}")
        self.put_record(txn, shard, record._replace(state=State.SERVING, num=num, gid=None, addresses=()))
        return [int(Code.OK)]

    def _stage_anew(self, txn: WriteTxn, shard: int, record: ShardRecord, incarnation: int, num: int) -> ShardRecord:
        if record.state in (State.STAGING, State.FROZEN):
            self._retire(txn, shard, record)
        fresh = ShardRecord(State.STAGING, num, incarnation)
        self.put_record(txn, shard, fresh)
        return fresh

    def _retire(self, txn: WriteTxn, shard: int, record: ShardRecord) -> None:
        txn.put(GARBAGE, scope_of(shard, record), b"")

    def _checked_chunk(self, txn: ReadTxn, chunk: InstallChunk) -> list[tuple[bytes, bytes]]:
        """The chunk's entries. Raises `CodecError` unless all may stand in this shard: nothing of it is staged then."""
        entries = decode_entries(chunk.entries)
        shards = self.shard_count(txn)
        for position, payload in entries:
            kind, name = position[:1], position[1:]
            if kind == _ROW and len(name) <= MAX_KEY_BYTES:
                if shard_of(name, shards) != chunk.shard or not kv.is_row(payload, MAX_VALUE_BYTES):
                    raise CodecError(f"no row of shard {chunk.shard}: {name!r:.60}")
            elif kind == _SESSION and len(name) == 8:
                try:
                    decode_session(payload)
                except BadSession as problem:
                    raise CodecError(str(problem)) from problem
            else:
                raise CodecError(f"not the position of an entry: {position!r:.60}")
        if entries and entries[0][0] <= chunk.after:
            raise CodecError("the entries of a chunk do not follow its position")
        return entries

    def _stage(
        self, txn: WriteTxn, shard: int, record: ShardRecord, after: bytes, entries: list[tuple[bytes, bytes]]
    ) -> list[Any]:
        if after != record.position:
            return error(Code.RESUME, record.position)
        if not entries:
            return [int(Code.OK), record.position]
        scope = scope_of(shard, record)
        rows, size, total = record.rows, record.size, record.hash
        found = []
        for position, payload in entries:
            name = position[1:]
            if position[:1] == _ROW:
                txn.put(kv.ROWS, scope + name, payload)
                rows, size = rows + 1, size + len(name) + len(payload) - kv.VERSION_BYTES
                total += kv.row_hash(name, payload)
            else:
                found.append((name, payload))
        if found:
            sessions.import_sessions(txn, scope, found)
        last = entries[-1][0]
        staged = record._replace(rows=rows, size=size, hash=total % kv.HASH_MODULUS, position=last)
        self.put_record(txn, shard, staged)
        return [int(Code.OK), last]

    def _install(self, txn: WriteTxn, shard: int, record: ShardRecord, wanted: Summary) -> list[Any]:
        """Serve what is staged if it is what the source has, by the source's own count from before it sent."""
        if record.position < wanted.last:
            return error(Code.RESUME, record.position)
        staged = summary_of(txn, shard, record)._replace(tick=wanted.tick, horizon=wanted.horizon)
        if staged != wanted:
            restarts = restarts_of(record) + 1
            if restarts <= RESTARTS_MAX:
                self._stage_anew(txn, shard, record, incarnation_of(record.num, restarts), record.num)
            return error(
                Code.REFUSED,
                f"shard {shard}: {staged.rows} rows, {staged.sessions} sessions staged, not the source's "
                f"{wanted.rows}, {wanted.sessions}, or others of them; the staging begins again",
            )
        scope = scope_of(shard, record)
        sessions.finish_import(txn, scope, wanted.tick, wanted.horizon)
        self.put_record(txn, shard, record._replace(state=State.SERVING, position=b""))
        return [int(Code.OK)]

    def _ensure_format(self, txn: WriteTxn) -> None:
        if stored_shards(txn) is None:
            txn.put(GROUP, _FORMAT_KEY, dumps([FORMAT, self._shards]))

    # --- reading a frozen shard --------------------------------------------------------------------------------------

    def read_shard(self, txn: ReadTxn, shard: Any, num: Any, after: Any, max_bytes: Any) -> list[Any]:
        """The reply to READ_SHARD: entries behind position `after`, rows first, then sessions. Raises `CodecError`.

        A frozen shard does not change, so any view of any peer that has applied the freeze gives the same page.
        """
        shard = self.checked_shard(txn, shard)
        checked_num(num)
        checked_position(after)
        max_bytes = min(checked_int(max_bytes, 0, (1 << 63) - 1, "the size of a page"), MAX_PAGE_BYTES)
        record = self.record(txn, shard)
        if record.num < num:
            return error(Code.NOT_YET, num)
        if record.num > num:
            return error(Code.STALE, record.num)
        if record.state is State.DELETED:
            return error(Code.GONE)
        if record.state is not State.FROZEN:
            return error(
                Code.REFUSED, f"shard {shard} is {record.state.name.lower()} at num {num}: nothing to hand over"
            )
        summary = summary_of(txn, shard, record)
        page: list[tuple[bytes, bytes]] = []
        size = 0
        for position, payload in _stream(txn, scope_of(shard, record), after):
            size += len(position) + len(payload) + _ENTRY_OVERHEAD_BYTES
            if page and (size > max_bytes or len(page) >= MAX_PAGE_ROWS):
                break
            page.append((position, payload))
        last = page[-1][0] if page else after
        return [int(Code.OK), list(summary), encode_entries(page), last, last < summary.last]

    # --- what lies behind --------------------------------------------------------------------------------------------

    def background(self, txn: WriteTxn, budget: int) -> bool:
        """Remove up to `budget` rows of retired incarnations. See `StateMachine.background`."""
        first = txn.last(GARBAGE)
        if first is None:
            return False
        scope = first[0]
        removed = txn.delete_range(kv.ROWS, scope, prefix_stop(scope), limit=budget)
        if removed < budget:
            removed += sessions.drop_sessions(txn, scope, budget - removed)
        if removed < budget:
            txn.delete(GARBAGE, scope)
        return txn.last(GARBAGE) is not None


def stored_shards(txn: ReadTxn) -> int | None:
    """The number of shards that the tables were made with; None before the first shard came. Raises `FormatMismatch`
    for tables of a later format."""
    payload = txn.get(GROUP, _FORMAT_KEY)
    if payload is None:
        return None
    try:
        version, shards = array(loads(payload), 2)
        if version != FORMAT:
            raise FormatMismatch(f"the group's tables have format {version!r:.20}; this is format {FORMAT}")
        return checked_int(shards, 1, MAX_SHARDS, "the number of shards")
    except CodecError as problem:
        raise CorruptRecord(GROUP, _FORMAT_KEY, str(problem)) from problem


def summary_of(txn: ReadTxn, shard: int, record: ShardRecord) -> Summary:
    """What the shard's incarnation holds: of a frozen shard what goes, of a staging what came."""
    scope = scope_of(shard, record)
    found = sessions.counters(txn, scope)
    if record.state is State.STAGING:
        last = record.position
    else:
        client = sessions.last_session(txn, scope) if found.sessions else None
        key = kv.last_key(txn, scope) if client is None and record.rows else None
        last = _SESSION + client if client is not None else b"" if key is None else _ROW + key
    return Summary(
        record.rows, record.size, record.digest, found.sessions, found.digest, found.tick, found.horizon, last
    )


def _stream(txn: ReadTxn, scope: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(position, payload) behind `after`, in order of position."""
    if after[:1] <= _ROW:
        start = scope + after[1:] + b"\0" if after else scope
        for key, payload in kv.rows_from(txn, scope, start, prefix_stop(scope)):
            yield _ROW + key, payload
    client = after[1:] if after[:1] == _SESSION else None
    if after[:1] <= _SESSION:
        for name, payload in sessions.export_sessions(txn, scope, client):
            yield _SESSION + name, payload
