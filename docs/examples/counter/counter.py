"""A replicated counter: one number, which `inc` makes one more, exactly once for each client that says so."""

from __future__ import annotations

from hashlib import blake2b

from raftlog import sessions
from raftlog.codec import dumps, loads
from raftlog.machine import Refusal
from raftlog.types import LogId
from store.engine import ReadTxn, WriteTxn

INC = b"inc"
TABLE = "counter"
KEY = b"n"
SCOPE = b"counter"


class Counter:
    """The state machine. It has no attributes that change: all it knows is in its tables, which survive a crash."""

    tables: tuple[str, ...] = (TABLE, *sessions.TABLES)

    def scope(self, txn: ReadTxn, command: bytes) -> bytes | None:
        """All clients' sessions are in one place. With None here there would be none."""
        return SCOPE

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        """The reply is [new value], or [None] for a command that is unknown."""
        if command != INC:
            return dumps([None])
        value = counted(txn) + 1
        txn.put(TABLE, KEY, dumps(value))
        return dumps([value])

    def stamp(self, reply: bytes, tick: int) -> bytes:
        """A reply under a session carries the session's time."""
        return dumps([*loads(reply), tick])

    def refuse(self, why: Refusal, tick: int) -> bytes:
        """The reply to a repeated command that the session has forgotten."""
        return dumps([None, tick])

    def grows(self, command: bytes) -> bool:
        """It needs no more space than it has."""
        return False

    def background(self, txn: WriteTxn, budget: int) -> bool:
        """It has nothing to tidy up."""
        return False

    def state_hash(self, txn: ReadTxn) -> bytes:
        """Of the number and of what the sessions remember."""
        remembered = sessions.counters(txn, SCOPE).digest
        return blake2b(dumps([counted(txn), remembered]), digest_size=16).digest()


def counted(txn: ReadTxn) -> int:
    """The number as this transaction sees it."""
    payload = txn.get(TABLE, KEY)
    return 0 if payload is None else int(loads(payload))
