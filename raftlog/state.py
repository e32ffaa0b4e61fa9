"""The state of a core and the few moves that every role makes: terms, votes, sends, promises, timers.

The roles' rules live in `elections`, `following` and `leading`, as functions over this state; `core` is the funnel.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from raftlog.config import RaftConfig
from raftlog.log import LogView
from raftlog.messages import Envelope, Message
from raftlog.roles import Candidate, Follower, Leader, RoleState
from raftlog.saves import Durability, Save
from raftlog.types import ZERO, Entry, HardState, LogId, Membership, Mode, PeerId, Restored, Role


class Event(NamedTuple):
    """A change of role or a granted vote, for the journal: what, in which term, about which peer."""

    name: str
    term: int
    peer: PeerId | None


class ReadDone(NamedTuple):
    """A read is answered. `ready`: the state machine's state, as applied now, may be read. Else: not leader."""

    token: Any
    ready: bool


@dataclass(frozen=True, slots=True)
class Effects:
    """All that a core asks of its node, in the order in which it is to be done: start the save, send, tell the waiters of
    what was cut off, apply what is committed (at the latest before anybody else looks), answer reads, feed images. The save
    need not be waited for."""

    save: Save | None = None
    send: tuple[Envelope, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadDone, ...] = ()
    images: tuple[Envelope, ...] = ()
    image_wanted: tuple[PeerId, ...] = ()
    truncated: int | None = None
    events: tuple[Event, ...] = ()

    def __bool__(self) -> bool:
        return self != NOTHING


NOTHING = Effects()


class CoreState:
    """Invariants: base <= applied <= handed <= min(commit, stable); commit <= last; the term never falls."""

    def __init__(self, me: PeerId, config: RaftConfig, restored: Restored, rng: Random, now: float) -> None:
        hard = restored.hard
        self.me = me
        self.config = config
        self.rng = rng
        self.now = now
        self.boot = restored.boot
        self.log = LogView(restored.base, restored.base_membership, restored.entries)
        self.term = max(hard.term, self.log.last.term)
        self.vote = hard.vote if self.term == hard.term else None
        self.mode = hard.mode
        self.recover_to = hard.recover_to
        self.highest = max(hard.highest, self.log.last)
        self.refill = restored.refill
        self.commit = max(min(hard.commit, self.log.last.index), restored.applied.index)
        self.handed = self.applied = restored.applied.index
        self.durability = Durability(hard, self.log.last)
        self.role: RoleState = Follower()
        self.leader_heard = float("-inf")  # when any leader was last heard, of whatever term: stickiness and leases
        self.installing: LogId | None = None
        self.stalled = False
        self.slow = False  # the save in flight takes longer than storage_slow_s: a leader has handed over
        self.no_space = False
        self.outbox: list[Envelope] = []
        self.reads_done: list[ReadDone] = []
        self.images: list[Envelope] = []
        self.image_wanted: list[PeerId] = []
        self.truncated: int | None = None
        self.events: list[Event] = []
        self.rare: dict[str, int] = {}
        restarted = restored.boot > 1 or hard.mode is Mode.RECOVERING
        self.quiet_until = now + config.election_max_s if restarted else now
        self.election_deadline = self.quiet_until + self._timeout() - (config.election_min_s if restarted else 0.0)
        if self.membership.peers == (me,):
            self.quiet_until = self.election_deadline = now  # nobody else to wait for
        if self.term != hard.term:
            self.durability.hard_changed()

    def at(self, now: float) -> None:
        """Time goes on. While a save is in flight nobody waits longer than `election_min_s` (see `RaftCore.deadline`), so
        after a gap of twice that this process did not run. Nor did its disk writer: the disk did not take that time."""
        gap, since = now - self.now, self.durability.in_flight_since
        if since is not None and gap > 2 * self.config.election_min_s:
            self.durability.in_flight_since = since + gap
        self.now = now

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def membership(self) -> Membership:
        return self.log.membership

    def hard(self, commit: int) -> HardState:
        """What a save has to keep, with this commit index."""
        ends = self.durability.ends
        return HardState(self.term, self.vote, commit, self.mode, self.recover_to, self.highest, ends)

    @property
    def electable(self) -> bool:
        """May vote, and campaign if there is nothing to refill: a voter that has forgotten nothing, whose disk works."""
        return (
            self.mode is Mode.VOTER
            and not self.stalled
            and not self.slow
            and self.installing is None
            and self.membership.is_voter(self.me)
        )

    @property
    def may_lead(self) -> bool:
        """May campaign: electable, and there is a state to lead with."""
        return self.electable and not self.refill

    @property
    def role_name(self) -> Role:
        match self.role:
            case Leader():
                return Role.LEADER
            case Candidate(pre=pre):
                return Role.PRE_CANDIDATE if pre else Role.CANDIDATE
            case Follower():
                return Role.FOLLOWER

    @property
    def leader(self) -> PeerId | None:
        match self.role:
            case Leader():
                return self.me
            case Follower(leader=leader):
                return leader
            case Candidate():
                return None

    def peers(self) -> list[PeerId]:
        """Everybody else who receives the log, sorted."""
        return sorted(p for p in self.membership.peers if p != self.me)

    def mark(self, name: str) -> None:
        """A rare branch was reached: simulations count these ("sometimes" marks)."""
        self.rare[name] = self.rare.get(name, 0) + 1

    @property
    def has_effects(self) -> bool:
        """Something waits to be taken out."""
        return bool(
            self.outbox
            or self.reads_done
            or self.events
            or self.images
            or self.image_wanted
            or self.truncated is not None
        )

    # --- moves ---------------------------------------------------------------------------------------------------

    def send(self, to: PeerId, message: Message) -> None:
        """May leave at once: a request, a refusal, or an answer that promises nothing new."""
        self.outbox.append(Envelope(self.me, to, message))

    def promise(self, to: PeerId, message: Message, index: int = 0) -> None:
        """Leaves once the hard state of now and the log up to `index` are durable (law 2)."""
        self.durability.hold(self.term, index, Envelope(self.me, to, message))

    def note(self, name: str, peer: PeerId | None = None) -> None:
        self.events.append(Event(name, self.term, peer))

    def _timeout(self) -> float:
        return self.rng.uniform(self.config.election_min_s, self.config.election_max_s)

    def reset_election_timer(self, now: float) -> None:
        """A fresh random time-out from now; never before the quiet time of a restarted peer is over."""
        self.election_deadline = max(now, self.quiet_until - self.config.election_min_s) + self._timeout()

    def set_term(self, term: int) -> None:
        """Enter a greater term, without a vote in it."""
        assert term > self.term, f"the term falls: {self.term} -> {term}"
        self.term = term
        self.vote = None
        self.durability.hard_changed()

    def follow(self, leader: PeerId | None, now: float) -> None:
        """Become or stay a follower in this term. Reads of a leader that steps down are answered "not leader"."""
        role = self.role
        if isinstance(role, Leader):
            self.fail_reads(role)
        if not isinstance(role, Follower) or role.leader != leader:
            if leader is not None or not isinstance(role, Follower):
                self.note("follow", leader)
            self.role = Follower(leader)
        if not isinstance(role, Follower):
            self.reset_election_timer(now)

    def enter_term(self, term: int, now: float) -> None:
        """The term rule (section 5.1): a greater term seen makes a follower of anyone."""
        self.set_term(term)
        self.follow(None, now)
        self.role = Follower()

    def fail_reads(self, leader: Leader) -> None:
        """Tell every waiting read that this peer does not lead."""
        for read_round in (*leader.confirmed, *leader.rounds):
            self.reads_done.extend(ReadDone(token, False) for token in read_round.tokens)
        self.reads_done.extend(ReadDone(token, False) for token in leader.queued)
        leader.confirmed.clear()
        leader.rounds.clear()
        leader.queued.clear()

    def truncate(self, first: int) -> None:
        """Cut the log at a real term conflict, never at or below commit."""
        assert first > self.commit, f"truncation at {first}, at or below commit {self.commit}"
        self.log.truncate(first)
        self.durability.truncated(first)
        self.truncated = first if self.truncated is None else min(self.truncated, first)
        self.mark("truncate")

    def raise_commit(self, index: int) -> None:
        """Commit only grows, and never past the log."""
        assert index <= self.log.last.index, f"commit {index} past the last entry {self.log.last}"
        self.commit = max(self.commit, index)

    def stable_id(self) -> LogId:
        """The last durable position."""
        return self.log.id_at(self.durability.stable) if self.durability.stable else ZERO
