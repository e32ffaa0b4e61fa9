"""The roles of a peer and what only they know: role state lives in the role (section 5.1).

A follower knows its leader; a candidate its votes; a leader how far each peer is and which read rounds are out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from raftlog.types import Membership, PeerId


class Flow(IntEnum):
    """How a leader sends to one peer."""

    PROBE = 0
    """One append at a time, until the peer's log is known."""
    STREAM = 1
    """Pipelined appends, within the window."""
    IMAGE = 2
    """The peer is behind the purge base: it gets an image."""


@dataclass(slots=True)
class Progress:
    """What a leader knows of one `incarnation` of a peer. Invariant: match < next; `match` is durable at the peer."""

    next: int
    match: int = 0
    flow: Flow = Flow.PROBE
    probing: bool = False
    heard: float = float("-inf")
    probed: float = float("-inf")
    counts: bool = True
    no_space: bool = False
    refill: bool = False
    incarnation: int = 0
    context: int = 0
    lease_from: float = float("-inf")
    inflight: deque[tuple[int, int, float]] = field(default_factory=deque)  # (last index, bytes, sent at)
    inflight_bytes: int = 0

    def may_lead(self, heard_after: float) -> bool:
        """It was heard since then, and nothing keeps it from leading."""
        return self.heard > heard_after and self.counts and not self.refill

    def sent(self, last: int, size: int, now: float) -> None:
        """An append up to `last` left."""
        if self.flow is Flow.PROBE:
            self.probing, self.probed = True, now
            return
        self.next = last + 1
        self.inflight.append((last, size, now))
        self.inflight_bytes += size

    def matched(self, index: int) -> None:
        """The peer holds the log durably up to `index`: stream from there."""
        self.match = max(self.match, index)
        while self.inflight and self.inflight[0][0] <= self.match:
            self.inflight_bytes -= self.inflight.popleft()[1]
        self.next = max(self.next, self.match + 1)
        if self.flow is not Flow.STREAM:
            self.flow, self.probing = Flow.STREAM, False

    def probe(self, next_index: int) -> None:
        """Forget what is in flight and look again from `next_index` (never at or below match)."""
        self.flow, self.probing = Flow.PROBE, False
        self.next = max(next_index, self.match + 1)
        self.inflight.clear()
        self.inflight_bytes = 0

    def forget(self, match: int, last: int) -> None:
        """The peer is recovering and says that it holds no more than up to `match`: see what it has by the last entry."""
        self.match = match
        self.probe(last)


@dataclass(slots=True)
class ReadRound:
    """Reads that share one heartbeat round, begun at `begun`. Confirmed once a quorum has answered `context`."""

    context: int
    index: int
    begun: float
    tokens: list[Any]


@dataclass(slots=True)
class Follower:
    """Listens to `leader`, if it knows one in this term. `match` is what it verified against this leader's log."""

    leader: PeerId | None = None
    match: int = 0


@dataclass(slots=True)
class Candidate:
    """Collects votes; `pre` for the round before the term moves. `votes` maps voter to granted."""

    pre: bool
    transfer: bool = False
    votes: dict[PeerId, bool] = field(default_factory=dict)


@dataclass(slots=True)
class Leader:
    """Replicates. `term_start` is the index of its no-op; before that is committed no read is answered."""

    term_start: int
    since: float
    progress: dict[PeerId, Progress]
    next_heartbeat: float
    context: int = 0
    context_sent: dict[int, float] = field(default_factory=dict)
    context_for_all: int = 0
    """The last one that every peer was sent."""
    queued: list[Any] = field(default_factory=list)
    rounds: deque[ReadRound] = field(default_factory=deque)
    confirmed: deque[ReadRound] = field(default_factory=deque)
    transfer_to: PeerId | None = None
    transfer_until: float = 0.0
    transfer_asked: bool = False
    """TransferNow is on its way; asked again with the next heartbeat round, for it may be lost."""
    transfer_sent: bool = False
    """It was sent at least once in this term: no lease any more."""

    def hedge_due(self, hedge_s: float) -> float:
        """When the oldest read round is to ask everybody; infinity for never: it has, or there is none."""
        if not self.rounds or self.rounds[0].context <= self.context_for_all:
            return float("inf")
        return self.rounds[0].begun + hedge_s

    def waiting_reads(self) -> int:
        return len(self.queued) + sum(len(r.tokens) for r in (*self.rounds, *self.confirmed))


RoleState = Follower | Candidate | Leader


def quorum_value(membership: Membership, values: Iterable[tuple[PeerId, float]]) -> float:
    """The greatest value that a majority of the voters reaches; voters without one count as minus infinity."""
    known = dict(values)
    ranked = sorted((known.get(m.id, float("-inf")) for m in membership.voters), reverse=True)
    return ranked[membership.quorum - 1] if ranked else float("-inf")
