"""What peers say to each other: one frozen class a message, a closed union, one way, lossy, in any order.

Every message carries the sender's `term`. Requests may leave as soon as the core hands them out; promises (votes and
acknowledgements of durable entries) are held by the core until their save is reported. The wire form is in `codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from raftlog.types import Entry, LogId, Membership, PeerId


@dataclass(frozen=True, slots=True)
class RequestVote:
    """A (pre-)candidate asks for a vote (section 5.2). For a pre-vote, `term` is the term it would start.

    `transfer` is set when the leader itself asked for the election: leader stickiness is then no reason to refuse.
    """

    term: int
    last: LogId
    pre: bool = False
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteReply:
    """The answer. A granted pre-vote echoes the asked term; any other reply carries the voter's own term."""

    term: int
    granted: bool
    pre: bool = False


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """Entries that follow `prev` (section 5.3). `commit` is the leader's commit index.

    `context` numbers the leader's read and lease rounds: an answer echoes it.
    """

    term: int
    prev: LogId
    entries: tuple[Entry, ...]
    commit: int
    context: int = 0


@dataclass(frozen=True, slots=True)
class AppendReply:
    """`match`: the follower's log equals the leader's up to here, durably. `None` = refused at `prev`; then
    `hint` is where the leader should look: the first index of the follower's conflicting term (`conflict_term`), or
    the index after its last entry with conflict_term 0. `counts` is False from a recovering peer: it takes entries, but
    is no part of any quorum."""

    term: int
    match: int | None
    prev_index: int = 0
    hint: int = 0
    conflict_term: int = 0
    context: int = 0
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Keeps leadership known and carries a read round. `commit` <= what the receiver is known to hold."""

    term: int
    commit: int
    context: int = 0


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """Leaves at once. `match` is min(what was acknowledged to this leader, stable): no new promise is in it. `no_space`:
    the peer's disk or map is nearly full. `refill`: it has its log and no state, and asks for an image."""

    term: int
    match: int
    context: int = 0
    counts: bool = True
    no_space: bool = False
    refill: bool = False


@dataclass(frozen=True, slots=True)
class TransferNow:
    """The leader asks its most up-to-date peer to campaign at once (thesis, section 3.10)."""

    term: int


@dataclass(frozen=True, slots=True)
class ImageChunk:
    """One piece of an image of the state machine for a peer behind the purge base (section 7).

    `image` names it: (a number for the sender's disk and commit, applied position); pieces of one name are
    interchangeable, so a transfer is resumed. `number` counts pieces from 0; `last` marks the final one. `data` is
    opaque here, `crc` its CRC-32.
    """

    term: int
    image: tuple[int, LogId]
    membership: Membership
    number: int
    last: bool
    data: bytes
    crc: int


@dataclass(frozen=True, slots=True)
class ImageReply:
    """`wanted` is the number of the next piece the receiver lacks; `installed` says that the image is in place."""

    term: int
    image: tuple[int, LogId]
    wanted: int
    installed: bool = False


@dataclass(frozen=True, slots=True)
class StateHash:
    """The hash of the sender's state at a position; to whoever compares (`comparing`). No core needs it."""

    term: int
    at: LogId
    state_hash: bytes


Message = (
    RequestVote
    | VoteReply
    | AppendEntries
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | TransferNow
    | ImageChunk
    | ImageReply
    | StateHash
)

Request = RequestVote | AppendEntries | Heartbeat | TransferNow | ImageChunk
"""The messages that count as requests handed to the network; the others are their replies."""


class Envelope(NamedTuple):
    """A message on its way between two peers of one group."""

    sender: PeerId
    to: PeerId
    message: Message
