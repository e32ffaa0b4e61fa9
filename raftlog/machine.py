"""The contract between the replicated log and the state machine above it.

A command entry's data is a CBOR array of operations, each `[client, seq, acked_below, as_of, command]`. `client` 0
means "no session". The replicated state machine (`raftlog.rsm`) decodes the operations, asks `sessions` whether each is
new, and gives the new ones to `StateMachine.apply`, in log order, inside the transaction that also moves `applied`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from raftlog.codec import CodecError, array, dumps, loads
from raftlog.types import LogId, PeerId
from store.engine import ReadTxn, WriteTxn

T = TypeVar("T")

_NUMBERS = 1 << 64


class Operation(NamedTuple):
    """One client operation. A command that may be sent again carries the same (client, seq, as_of) each time.

    `acked_below`: the client has seen the replies of all its sequence numbers below. `as_of`: the last tick of the
    session's scope that the client had seen when it first sent the operation.
    """

    client: int
    seq: int
    acked_below: int
    as_of: int
    command: bytes


def plain(command: bytes) -> Operation:
    """An operation without a session: applied each time it is in the log."""
    return Operation(0, 0, 0, 0, command)


def encode_operations(operations: Sequence[Operation]) -> bytes:
    """The data of a command entry."""
    return dumps([list(op) for op in operations])


def decode_operations(data: bytes) -> list[Operation]:
    """Raises `CodecError`; the caller turns that into a deterministic error reply (apply is total)."""
    found = []
    for item in array(loads(data)):
        client, seq, acked_below, as_of, command = array(item, 5)
        if not (
            type(client) is type(seq) is type(acked_below) is type(as_of) is int
            and 0 <= client < _NUMBERS
            and 0 <= seq < _NUMBERS
            and 0 <= acked_below < _NUMBERS
            and 0 <= as_of < _NUMBERS
            and type(command) is bytes
        ):
            raise CodecError(f"no operation: {item!r:.60}")
        found.append(Operation(client, seq, acked_below, as_of, command))
    return found


class Refusal(IntEnum):
    """Why an operation of a session was not applied. In each case it had no effect now; see `raftlog.sessions`."""

    EXPIRED = 1
    """No session, and `as_of` is below the horizon: whether it was applied before is not known any more."""
    ACKNOWLEDGED = 2
    """Its number is below `acked_below`: its client has seen the reply already."""
    WINDOW_FULL = 3
    """Its number is too far above `acked_below`: the client has to wait for its oldest operation."""


class StateMachine(Protocol):
    """Deterministic: all it knows is in its tables; equal logs give equal tables, replies and hashes."""

    tables: tuple[str, ...]
    """The tables it owns. "meta" belongs to the replicated state machine."""

    def scope(self, txn: ReadTxn, command: bytes) -> bytes | None:
        """Where the session of this command lives, e.g. (shard, incarnation) as bytes, None for "no session applies"
        (an unknown command, a shard that is not served here: `apply` then answers without a session)."""
        ...

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        """The effect and the encoded reply. Total: bad bytes give an error reply; raises only on a broken invariant."""
        ...

    def grows(self, command: bytes) -> bool:
        """The command may need room for data: it is refused before it is proposed while the space alarm is on."""
        ...

    def stamp(self, reply: bytes, tick: int) -> bytes:
        """`reply`, as `apply` gave it, with the tick that its operation got in its session's scope. Pure. A machine
        whose `scope` is always None is never asked."""
        ...

    def refuse(self, why: Refusal, tick: int) -> bytes:
        """The encoded reply to an operation that its session refuses; `tick` is the scope's. Pure."""
        ...

    def background(self, txn: WriteTxn, budget: int) -> bool:
        """Work outside the log's effects, outside the state hash (rows of retired incarnations), at most `budget` rows.
        True if some is left."""
        ...

    def state_hash(self, txn: ReadTxn) -> bytes:
        """16 bytes over the live state, sessions included; equal on peers of equal applied position. Cheap: kept up by
        `apply`, not computed from the rows."""
        ...


# --- what becomes of a submitted operation ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Applied:
    """Committed and applied; `reply` is the machine's."""

    reply: bytes
    at: LogId


@dataclass(frozen=True, slots=True)
class NotLeader:
    """Definitely not taken: this peer does not lead. `leader` is a hint."""

    leader: PeerId | None


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Definitely not taken: another entry stands where it was, or it was refused at the door (`why`)."""

    why: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may or may not be or become committed. Never to be turned into "no"."""

    why: str


Outcome = Applied | NotLeader | NotTaken | Unknown


class ReplicatedStateMachine(Protocol):
    """What a server sees of its group (implemented by `raftlog.rsm.Rsm`). All calls on the loop's thread."""

    def submit(self, operation: Operation, done: Callable[[Outcome], Any]) -> None:
        """Propose. `done` is called exactly once, possibly before `submit` returns; never blocks."""
        ...

    def when_readable(
        self, read: Callable[[ReadTxn], T], done: Callable[[T | NotLeader | Unknown], Any], *, early: bool = False
    ) -> None:
        """Calls `read(view)` once a linearizable read may be made, and `done` with what it returned; or `done` alone
        with why not. `view` is valid during the call only. (In two steps, because a lease is checked between them.) With
        `early` the value may be read, and kept, before it is known whether it may be told: for what is small."""
        ...

    @property
    def view(self) -> ReadTxn:
        """The applied state as of now: NOT linearizable by itself. Valid until the next await."""
        ...

    def is_leader(self) -> bool: ...

    def leader(self) -> PeerId | None: ...

    async def role_change(self) -> None:
        """Until whether this peer leads, its term, or whom it takes for the leader is another. Look, then wait, without
        an await between: no change is missed, though several may have come."""
        ...
