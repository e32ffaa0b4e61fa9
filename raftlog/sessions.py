"""Exactly-once sessions: the replies of a client's last operations, kept with the state (thesis, section 6.3).

A *scope* is where a session lives, e.g. one incarnation of one shard; the machine names it (`StateMachine.scope`). All
scopes of one machine have the same length. A client keeps, per scope's place (per shard, whoever serves it): a sequence
number of its own for each new operation, `acked_below` (it has seen the replies of all its numbers below), and `as_of`,
the greatest tick it saw there when it *first* sent the operation; a retry repeats all three.

Laws:

1. Each scope counts the commands applied under sessions: its `tick`. Every reply is stamped with the tick it got.
2. An operation whose number is remembered is answered with the remembered reply, without effect.
3. At most `SESSIONS_MAX` sessions live in a scope. For a new one the least recently used goes, by tick, decided in
   apply and never by a clock; `horizon` is the greatest last tick of those that went.
4. An operation without a session and with `as_of` < horizon is refused without effect: it may be a duplicate of what an
   evicted session did. With `as_of` >= horizon it is surely new: had it been applied, then at a tick above `as_of`,
   and its session would still be here. A session begun after such an eviction keeps the horizon of its beginning, and
   an operation that it does not remember is held against that one: else a duplicate from the client's evicted session
   would pass as new in its next one.
5. At most `WINDOW` numbers from `acked_below` on; one beyond is refused (the client waits for its oldest), and one
   below `acked_below` too (a late duplicate: nobody waits for it).

Format (version 1, big-endian; part of a machine's image):

    sessions        scope              [tick u64, horizon u64, number of sessions u64, sum of hashes 16 bytes]
    sessions        scope, client u64  [last tick u64, horizon at its beginning u64, acked_below u64,
                                                 then per reply: seq u64, length u32, reply]
    session_order   scope, tick u64, client u64     empty; one per session, tick <= its last tick

The order is brought up to date only when a session is to be evicted: the first row of the order whose tick is still
its session's last is the least recently used. So an ordinary operation writes one session and one scope, and each step
of a search is paid for by an operation before it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from raftlog.machine import Operation, Refusal, StateMachine
from raftlog.types import LogId
from store.engine import CorruptRecord, ReadTxn, WriteTxn
from store.keys import prefix_stop, u64

SESSIONS = "sessions"
ORDER = "session_order"
TABLES = (SESSIONS, ORDER)
"""The tables that a machine with sessions owns for them."""

SESSIONS_MAX = 4096
"""The most sessions of a scope. Equal on all peers of a group, so part of the format."""

WINDOW = 128
"""The most operations of one client in one scope that are not acknowledged. Part of the format."""

KNOWN_MAX = 8192
"""How many sessions are kept decoded, for speed alone."""

_SCOPE = Struct(">QQQ16s")
_HEAD = Struct(">QQQ")
_REPLY = Struct(">QI")
_HASHES = (1 << 128) - 1


class Counters(NamedTuple):
    """The record of a scope. `hash` is the sum of the hashes of its sessions, modulo 2^128."""

    tick: int = 0
    horizon: int = 0
    sessions: int = 0
    hash: int = 0

    @property
    def digest(self) -> bytes:
        """The hash as 16 bytes."""
        return self.hash.to_bytes(16, "big")


class Session(NamedTuple):
    """One client's. `horizon` is the scope's at its beginning; `replies` are the (sequence number, reply) pairs that the
    client has not acknowledged, ascending."""

    last_tick: int
    horizon: int
    acked_below: int
    replies: tuple[tuple[int, bytes], ...] = ()


class Replay(NamedTuple):
    """It was applied before, with this reply."""

    reply: bytes


class Refused(NamedTuple):
    """Not to be applied. `tick` is the scope's, for the client to go on from."""

    why: Refusal
    tick: int


# --- records ---------------------------------------------------------------------------------------------------------


class BadSession(ValueError):
    """A payload that is no session of this format."""


def encode_session(session: Session) -> bytes:
    """The payload of a session's row."""
    parts = [_HEAD.pack(session.last_tick, session.horizon, session.acked_below)]
    for seq, reply in session.replies:
        parts.append(_REPLY.pack(seq, len(reply)))
        parts.append(reply)
    return b"".join(parts)


def decode_session(payload: bytes) -> Session:
    """Raises `BadSession`: a row of our own is then corrupt, one from elsewhere is a bad request."""
    try:
        last_tick, horizon, acked_below = _HEAD.unpack_from(payload)
        replies = []
        at = _HEAD.size
        while at < len(payload):
            seq, length = _REPLY.unpack_from(payload, at)
            at += _REPLY.size + length
            if at > len(payload):
                raise BadSession(f"a reply of {length} bytes ends {at - len(payload)} bytes behind the session")
            replies.append((seq, payload[at - length : at]))
    except StructError as error:
        raise BadSession(f"a session of {len(payload)} bytes is cut off: {error}") from error
    return Session(last_tick, horizon, acked_below, tuple(replies))


def _hash(client: bytes, payload: bytes) -> int:
    return int.from_bytes(blake2b(client + payload, digest_size=16).digest(), "big")


def counters(txn: ReadTxn, scope: bytes) -> Counters:
    """The scope's record; zeros for a scope that has none yet."""
    payload = txn.get(SESSIONS, scope)
    if payload is None:
        return Counters()
    tick, horizon, sessions, digest = _SCOPE.unpack(payload)
    return Counters(tick, horizon, sessions, int.from_bytes(digest, "big"))


def tally(txn: ReadTxn, scope: bytes) -> tuple[int, int]:
    """How many sessions of a scope are there and the sum of their hashes, by their rows: what its record should say. Raises
    `CorruptRecord` for a row that holds no session."""
    number = total = 0
    for key, payload in txn.scan(SESSIONS, scope + b"\0", prefix_stop(scope)):
        _own(key, payload)
        number, total = number + 1, (total + _hash(key[-8:], payload)) & _HASHES
    return number, total


def _put_counters(txn: WriteTxn, scope: bytes, found: Counters) -> None:
    txn.put(SESSIONS, scope, _SCOPE.pack(found.tick, found.horizon, found.sessions, found.digest))


# --- exactly once ----------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """A session as it was last read or written, with the hash of its row."""

    payload: bytes
    session: Session
    hash: int


class Sessions:
    """Applies the operations of a machine in one transaction or view, each exactly once if it has a session.

    The counters of scopes are kept here from one operation to the next and written by `settle`, once for all operations
    since the last: call it before anybody else reads the view (at the end of an entry), or before the transaction is
    committed. `sessions_max` has to be the same on all peers and for all of a group's life.
    """

    def __init__(self, machine: StateMachine, txn: WriteTxn, *, sessions_max: int = SESSIONS_MAX) -> None:
        self._machine = machine
        self._txn = txn
        self._sessions_max = sessions_max
        self._pending: dict[bytes, Counters] = {}
        # Only what decoding and hashing gave, never what is: a row is read each time, and known only if it is the same.
        self._known: dict[bytes, _Known] = {}

    def apply(self, op: Operation, at: LogId) -> bytes:
        """The effect of one operation of an entry at `at`, and its encoded reply. Total, as `StateMachine.apply` is."""
        machine, txn = self._machine, self._txn
        scope = machine.scope(txn, op.command) if op.client else None
        if scope is None:
            self.settle()  # what moves a scope reads its counters
            return machine.apply(txn, op.command, at)
        counters_now = self._pending.get(scope)
        if counters_now is None:
            counters_now = counters(txn, scope)
        key = scope + u64(op.client)
        known = self._read(key)
        found = judge(counters_now, None if known is None else known.session, op)
        if found is None:
            reply = machine.stamp(machine.apply(txn, op.command, at), counters_now.tick + 1)
            self._record(scope, key, op, reply, counters_now, known)
            return reply
        return found.reply if isinstance(found, Replay) else machine.refuse(found.why, found.tick)

    def settle(self) -> None:
        """Write the counters that moved."""
        for scope, found in self._pending.items():
            _put_counters(self._txn, scope, found)
        self._pending.clear()

    def _read(self, key: bytes) -> _Known | None:
        payload = self._txn.get(SESSIONS, key)
        if payload is None:
            return None
        known = self._known.get(key)
        if known is not None and known.payload == payload:
            return known
        return _Known(payload, _own(key, payload), _hash(key[-8:], payload))

    def _record(
        self, scope: bytes, key: bytes, op: Operation, reply: bytes, before: Counters, known: _Known | None
    ) -> None:
        """Keep the reply of a new operation; the scope's tick goes up by one."""
        txn = self._txn
        tick, horizon, sessions, total = before
        tick += 1
        if known is None:
            # Those that go now are other clients': of this one, all that went is at or below the horizon so far.
            begun = horizon
            while sessions >= self._sessions_max:
                last_tick, gone = _evict(txn, scope)
                sessions, horizon, total = sessions - 1, max(horizon, last_tick), total - gone
            session = Session(tick, begun, op.acked_below, ((op.seq, reply),))
            sessions += 1
            txn.put(ORDER, scope + u64(tick) + key[-8:], b"")
        else:
            acked_below = max(known.session.acked_below, op.acked_below)
            replies = known.session.replies
            if not replies or replies[-1][0] < acked_below:
                replies = ((op.seq, reply),)
            else:
                kept = [pair for pair in replies if pair[0] >= acked_below]
                insort(kept, (op.seq, reply))
                replies = tuple(kept)
            session = Session(tick, known.session.horizon, acked_below, replies)
            total -= known.hash
        payload = encode_session(session)
        digest = _hash(key[-8:], payload)
        txn.put(SESSIONS, key, payload)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[key] = _Known(payload, session, digest)
        self._pending[scope] = Counters(tick, horizon, sessions, (total + digest) & _HASHES)


def apply_operation(
    machine: StateMachine, txn: WriteTxn, op: Operation, at: LogId, *, sessions_max: int = SESSIONS_MAX
) -> bytes:
    """One operation by itself: see `Sessions.apply`; all of it is written on return."""
    sessions = Sessions(machine, txn, sessions_max=sessions_max)
    reply = sessions.apply(op, at)
    sessions.settle()
    return reply


def judge(found: Counters, session: Session | None, op: Operation) -> Replay | Refused | None:
    """What becomes of `op` in a scope with these counters, whose client has this session; None = it is new. Pure."""
    acked_below = op.acked_below
    horizon = found.horizon
    if session is not None:
        horizon = session.horizon
        for seq, reply in session.replies:
            if seq == op.seq:
                return Replay(reply)
        acked_below = max(acked_below, session.acked_below)
    if op.as_of < horizon:
        return Refused(Refusal.EXPIRED, found.tick)
    if op.seq < acked_below:
        return Refused(Refusal.ACKNOWLEDGED, found.tick)
    if op.seq >= acked_below + WINDOW:
        return Refused(Refusal.WINDOW_FULL, found.tick)
    return None


def lookup(txn: ReadTxn, scope: bytes, op: Operation) -> Replay | Refused | None:
    """What would become of `op` in `scope` as `txn` has it; None = it is new. Changes nothing."""
    key = scope + u64(op.client)
    payload = txn.get(SESSIONS, key)
    return judge(counters(txn, scope), None if payload is None else _own(key, payload), op)


def _evict(txn: WriteTxn, scope: bytes) -> tuple[int, int]:
    """Remove the least recently used session; its last tick and its hash."""
    while True:
        first = next(iter(txn.scan(ORDER, scope, prefix_stop(scope))), None)
        assert first is not None, f"no session of scope {scope.hex()} is in the order"
        key = first[0]
        client = key[len(scope) + 8 :]
        payload = txn.get(SESSIONS, scope + client)
        assert payload is not None, f"client {client.hex()} of scope {scope.hex()} has an order and no session"
        last_tick = _own(scope + client, payload).last_tick
        txn.delete(ORDER, key)
        if u64(last_tick) == key[len(scope) : len(scope) + 8]:
            txn.delete(SESSIONS, scope + client)
            return last_tick, _hash(client, payload)
        txn.put(ORDER, scope + u64(last_tick) + client, b"")


def _own(key: bytes, payload: bytes) -> Session:
    try:
        return decode_session(payload)
    except BadSession as error:
        raise CorruptRecord(SESSIONS, key, str(error)) from error


# --- moving a scope --------------------------------------------------------------------------------------------------


def export_sessions(txn: ReadTxn, scope: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """(client as 8 bytes, payload) of the sessions behind client `after`, in order. The scope must not change."""
    start = scope + (after + b"\0" if after is not None else b"\0" * 8)
    for key, payload in txn.scan(SESSIONS, start, prefix_stop(scope)):
        yield key[len(scope) :], payload


def last_session(txn: ReadTxn, scope: bytes) -> bytes | None:
    """The greatest client of the scope as 8 bytes, None if it has no session."""
    found = txn.last(SESSIONS, scope + b"\0" * 8, prefix_stop(scope))
    return None if found is None else found[0][len(scope) :]


def import_sessions(txn: WriteTxn, scope: bytes, rows: Iterable[tuple[bytes, bytes]]) -> None:
    """Add exported rows, checked by `decode_session` before, to a scope in which no operation was applied yet. Each
    client once."""
    tick, horizon, sessions, total = counters(txn, scope)
    for client, payload in rows:
        txn.put(SESSIONS, scope + client, payload)
        txn.put(ORDER, scope + u64(decode_session(payload).last_tick) + client, b"")
        sessions += 1
        total += _hash(client, payload)
    _put_counters(txn, scope, Counters(tick, horizon, sessions, total & _HASHES))


def finish_import(txn: WriteTxn, scope: bytes, tick: int, horizon: int) -> None:
    """The scope goes on with the tick and the horizon that it had where it came from."""
    _put_counters(txn, scope, counters(txn, scope)._replace(tick=tick, horizon=horizon))


def drop_sessions(txn: WriteTxn, scope: bytes, limit: int) -> int:
    """Remove at most `limit` rows of a scope that is dead. How many were removed; fewer than `limit` = nothing left."""
    stop = prefix_stop(scope)
    removed = txn.delete_range(SESSIONS, scope, stop, limit=limit)
    if removed < limit:
        removed += txn.delete_range(ORDER, scope, stop, limit=limit - removed)
    return removed
