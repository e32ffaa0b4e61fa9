"""The values of the replicated log: positions, entries, membership, hard state (Raft paper, figure 2).

A log position is one value, `LogId(term, index)`, ordered as the election restriction orders it (section 5.4.1);
indexes count from 1 and `LogId(0, 0)` is "before the first entry".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

PeerId = int
"""Peer i of its group, counted from 0. An identity, never an address."""

MAX_COMMAND_BYTES = 1 << 20
"""The largest value a client may store, in bytes; see `MAX_ENTRY_BYTES`."""

MAX_ENTRY_BYTES = MAX_COMMAND_BYTES + 4096
"""The one limit for an entry's data, in bytes: enforced at the client's edge, at propose, at append and at decode."""

MAX_VOTERS = 9
"""The most voting peers of a group."""


class LogId(NamedTuple):
    """A position in the log. Ordered by term first, then index: the greater one is "more up to date"."""

    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which no position needs


ZERO = LogId(0, 0)
"""Before the first entry."""


class EntryKind(IntEnum):
    """What an entry's data is."""

    NOOP = 0
    """The first entry of a leader's term; data is CBOR [leader, boot number]."""
    COMMAND = 1
    """A batch of operations for the state machine; see `raftlog.sessions`."""
    MEMBERSHIP = 2
    """A `Membership`, effective on append."""


ENTRY_VERSION = 1
"""The format version that new entries carry."""


class Entry(NamedTuple):
    """One entry of the log. `time_ms` is wall time in ms since 1970: data, never read by a decision."""

    id: LogId
    kind: EntryKind
    data: bytes
    time_ms: int = 0
    version: int = ENTRY_VERSION

    @property
    def index(self) -> int:  # type: ignore[override]  # shadows tuple.index, which no entry needs
        return self.id.index

    @property
    def term(self) -> int:
        return self.id.term

    @property
    def size_bytes(self) -> int:
        """What the entry counts for in windows and limits: its data and a fixed overhead."""
        return len(self.data) + 32


class Proposal(NamedTuple):
    """What a node asks its core to append."""

    data: bytes
    time_ms: int = 0
    kind: EntryKind = EntryKind.COMMAND


class Member(NamedTuple):
    """A peer in a membership. `incarnation` names the disk it was created with: random, on that disk too."""

    id: PeerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class Membership:
    """Who counts. A value in the log and nowhere else; effective on append, reverted on truncation.

    Invariant: both tuples sorted by id, no id twice, at most `MAX_VOTERS` voters.
    """

    voters: tuple[Member, ...]
    learners: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        ids = [m.id for m in self.voters + self.learners]
        if len(set(ids)) != len(ids):
            raise ValueError(f"a peer is named twice in the membership: {ids}")
        if len(self.voters) > MAX_VOTERS:
            raise ValueError(f"{len(self.voters)} voters, at most {MAX_VOTERS}")
        if list(self.voters) != sorted(self.voters) or list(self.learners) != sorted(self.learners):
            raise ValueError("the members are not sorted by id")

    @property
    def quorum(self) -> int:
        """The least number of voters that is a majority."""
        return len(self.voters) // 2 + 1

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Every member that receives the log, voters first."""
        return tuple(m.id for m in self.voters + self.learners)

    def is_voter(self, peer: PeerId) -> bool:
        return any(m.id == peer for m in self.voters)

    def incarnation_of(self, peer: PeerId) -> int | None:
        """The incarnation a member has to have, None for a stranger."""
        for m in self.voters + self.learners:
            if m.id == peer:
                return m.incarnation
        return None


class Mode(IntEnum):
    """What a peer may do, on its disk from the first day."""

    VOTER = 0
    """An ordinary peer."""
    RECOVERING = 1
    """It has forgotten promises (its disk was lost or damaged): it neither campaigns, votes nor counts for match
    until it holds at least `HardState.recover_to`."""


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before a promise leaves (figure 2, "persistent state"), and the commit that rides along."""

    term: int = 0
    vote: PeerId | None = None
    commit: int = 0
    mode: Mode = Mode.VOTER
    recover_to: LogId = ZERO
    highest: LogId = ZERO
    """The greatest position that was ever durable here: whatever this peer acknowledged is at or below it."""
    ends: LogId = ZERO
    """The log on the disk reaches at least to here: if it does not, entries were lost."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a peer finds on its disk and gives to its core.

    `base` is the last purged position (ZERO if none) and `base_membership` the membership as of `base`; `entries` are
    the entries after it, without gaps; `applied` is the durable position of the state machine, base <= applied.

    With `refill` there is no state as of `applied`, which is the base: the peer keeps the log and votes, but applies and
    leads nothing before it got an image. `clean`: the peer had stopped in good order. `mended`: what was found damaged
    and how it was dealt with, a line each.
    """

    hard: HardState
    base: LogId
    base_membership: Membership
    entries: tuple[Entry, ...]
    applied: LogId
    boot: int = 1
    refill: bool = False
    clean: bool = True
    mended: tuple[str, ...] = ()


class Role(IntEnum):
    """The role of a peer in its term (section 5.1)."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3
