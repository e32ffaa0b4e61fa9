"""The Raft core: state in, effects out; nothing waits (paper sections 5 to 8; thesis chapters 3, 6 and 9).

A core does no I/O and holds no clock. Inputs are method calls that carry the time; all that is to be done comes out of
`take()`. A disk commit is in flight while messages, ticks and proposals go on being stepped: heartbeats, batching and
reads never wait for an fsync. The ordering laws:

1. At most one save is in flight; what changes meanwhile coalesces into the next.
2. *Promises* (a request for votes, a granted vote, our own vote and match, an acknowledgement of entries or of an
   image) stay inside the core until their save is reported, and are dropped if the term has moved. Everything in `send`
   may leave at once: a leader's appends go out before its own sync.
3. Truncation lowers `stable`. `saved(t)` raises it no further than what t held and no later truncation cut.
4. Heartbeat and read answers leave at once, with match = min(match, stable), or 0 while the term is not durable.
5. `committed` <= min(commit, stable), and none while the term is not durable: `applied` passes neither the local durable
   log nor the term in which the commit was learned. A `take()` is bounded in bytes.
6. A save older than `storage_slow_s`: a leader hands over to a faster disk. One older than `storage_stall_s`: the node exits.
7. An inline commit is just `saved()` called at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, assert_never

from raftlog import elections, following, leading, members
from raftlog.config import RaftConfig
from raftlog.leading import Refusal
from raftlog.messages import (
    AppendEntries,
    AppendReply,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    ImageChunk,
    ImageReply,
    Message,
    RequestVote,
    StateHash,
    TransferNow,
    VoteReply,
)
from raftlog.roles import Candidate, Flow, Follower, Leader
from raftlog.saves import Save
from raftlog.state import NOTHING, CoreState, Effects, ReadDone
from raftlog.types import Entry, LogId, Membership, Mode, PeerId, Proposal, Restored

INFINITY = float("inf")


class RaftCore:
    """One peer's part in its group. All methods are synchronous and belong to one task, the node.

    `now` is in seconds of any monotonic clock and never falls between calls. `rng` draws the election time-outs.
    """

    def __init__(self, me: PeerId, config: RaftConfig, restored: Restored, rng: Random, now: float) -> None:
        self.state = CoreState(me, config, restored, rng, now)

    # --- time ----------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `on_time` is due, if nothing happens before; infinity for never."""
        state = self.state
        due = INFINITY
        if state.durability.in_flight_since is not None and not state.stalled:
            stalled = state.durability.in_flight_since + state.config.storage_stall_s
            due = min(stalled, state.now + state.config.election_min_s)  # so that `state.at` can tell when nobody ran
        match state.role:
            case Leader() as leader:
                due = min(due, leader.next_heartbeat, leader.hedge_due(state.config.read_hedge_s))
                since = state.durability.in_flight_since
                if since is not None and state.now < since + state.config.storage_slow_s:  # later: at each heartbeat
                    due = min(due, since + state.config.storage_slow_s)
                if leader.transfer_to is not None:
                    due = min(due, leader.transfer_until)
            case Follower() | Candidate():
                if state.may_lead:
                    due = min(due, state.election_deadline)
        return due

    def on_time(self, now: float) -> None:
        """Whatever is due by `now`. Drain the inbox and sample the time again before calling this."""
        state = self.state
        state.at(now)
        since = state.durability.in_flight_since
        if since is not None and now - since >= state.config.storage_stall_s and not state.stalled:
            state.mark("storage stalled")
            self.storage_failed()
        if since is not None and now - since >= state.config.storage_slow_s:
            self._hand_over(now)
        self._check_quorum(now)
        match state.role:
            case Leader() as leader:
                if leader.transfer_to is not None and now >= leader.transfer_until:
                    leader.transfer_to = None
                    state.mark("transfer timed out")
                if now >= leader.next_heartbeat:
                    leading.on_heartbeat_time(state, leader, now)
                else:
                    leading.hedge_reads(state, leader, now)
            case Follower() | Candidate():
                if state.may_lead and now >= state.election_deadline and elections.campaign(state, now):
                    elections.campaign(state, now, pre=False)

    def _hand_over(self, now: float) -> None:
        """The disk is slow: let who has most of the log lead, at once. Alone in its group a peer goes on, and so it does
        if no other disk has been faster: who takes over has to save a vote first."""
        state = self.state
        if isinstance(state.role, Leader) and (to := leading.best_successor(state, state.role)) is not None:
            state.mark("slow disk")
            state.send(to, TransferNow(state.term))
            state.slow = True
            state.follow(None, now)

    def _check_quorum(self, now: float) -> None:
        state = self.state
        if not isinstance(state.role, Leader):
            return
        if now - leading.quorum_contact(state, state.role, now) > state.config.election_max_s:
            state.mark("check-quorum")
            state.follow(None, now)

    # --- messages ------------------------------------------------------------------------------------------------

    def step(self, envelope: Envelope, now: float) -> None:
        """One message of another member. A leader that overslept its quorum steps down before it looks at it."""
        state = self.state
        state.at(now)
        assert envelope.to == state.me, f"a message for peer {envelope.to} at peer {state.me}"
        self._check_quorum(now)
        message = envelope.message
        if isinstance(message, AppendEntries) and not following.well_formed(message):
            state.mark("malformed append")
            return
        if not self._term_rule(envelope.sender, message, now):
            return
        self._dispatch(envelope.sender, message, now)

    def _term_rule(self, sender: PeerId, message: Message, now: float) -> bool:
        """The rule in front of all handlers (section 5.1). False if the message is dealt with."""
        state = self.state
        if message.term > state.term:
            match message:
                case RequestVote(pre=True):
                    return True
                case VoteReply(pre=True, granted=True):
                    return True
                case RequestVote(transfer=False) if elections.sticky(state, now):
                    state.mark("sticky")
                    return False
                case _:
                    state.enter_term(message.term, now)
                    return True
        if message.term < state.term:
            match message:
                case RequestVote():
                    state.send(sender, VoteReply(state.term, False, message.pre))
                case AppendEntries() | Heartbeat() | ImageChunk():
                    state.mark("old leader told")
                    # It may lead again by now: what it is told must be true of this peer.
                    counts = state.mode is Mode.VOTER
                    state.send(sender, HeartbeatReply(state.term, 0, 0, counts, state.no_space))
                case _:
                    pass  # an answer to something of an older term
            return False
        return True

    def _dispatch(self, sender: PeerId, message: Message, now: float) -> None:
        state = self.state
        match message:
            case RequestVote():
                elections.on_request_vote(state, sender, message, now)
            case VoteReply():
                if elections.on_vote_reply(state, sender, message, now):
                    self._on_won(now)
            case AppendEntries() | Heartbeat() | ImageChunk():
                assert not isinstance(state.role, Leader), f"two leaders in term {state.term}: {state.me}, {sender}"
                self._from_leader(sender, message, now)
            case AppendReply():
                if isinstance(state.role, Leader):
                    leading.on_append_reply(state, state.role, sender, message, now)
            case HeartbeatReply():
                if isinstance(state.role, Leader):
                    leading.on_heartbeat_reply(state, state.role, sender, message, now)
            case ImageReply():
                if isinstance(state.role, Leader):
                    leading.on_image_reply(state, state.role, sender, message, now)
                    state.images.append(Envelope(sender, state.me, message))
            case TransferNow():
                if state.may_lead and now >= state.quiet_until and not isinstance(state.role, Leader):
                    state.mark("transfer received")
                    elections.campaign(state, now, pre=False, transfer=True)
            case StateHash():
                pass  # the node's affair
            case _:
                assert_never(message)

    def _from_leader(self, sender: PeerId, message: AppendEntries | Heartbeat | ImageChunk, now: float) -> None:
        match message:
            case AppendEntries():
                following.on_append_entries(self.state, sender, message, now)
            case Heartbeat():
                following.on_heartbeat(self.state, sender, message, now)
            case ImageChunk():
                following.on_image_chunk(self.state, sender, message, now)

    def _on_won(self, now: float) -> None:
        state = self.state
        assert isinstance(state.role, Candidate)
        if state.role.pre:
            elections.campaign(state, now, pre=False)
        else:
            leading.become_leader(state, now)

    # --- the client side -----------------------------------------------------------------------------------------

    def propose_many(self, items: Sequence[Proposal], now: float) -> list[LogId | Refusal]:
        """Append to the log. A position is a promise of nothing: watch `committed` for exactly that LogId. A refusal
        means definitely not taken."""
        state = self.state
        state.at(now)
        self._check_quorum(now)
        if not isinstance(state.role, Leader):
            return [Refusal.NOT_LEADER] * len(items)
        return leading.propose(state, state.role, items, now)

    def read(self, token: Any, now: float) -> None:
        """Ask for a linearizable read; a `ReadDone(token, ...)` comes out of a later `take()`, exactly one."""
        state = self.state
        state.at(now)
        self._check_quorum(now)
        if isinstance(state.role, Leader):
            leading.read(state, state.role, token)
        else:
            state.reads_done.append(ReadDone(token, False))

    def may_read_early(self) -> bool:
        """What is read from the state machine now may be told once a read that was asked for before this moment is done:
        this peer has applied all that it knows to be committed, its term's first entry among it. (If it still leads when
        a later round is answered, nobody else has committed anything before now.)"""
        state = self.state
        role = state.role
        return isinstance(role, Leader) and role.term_start <= state.commit == state.applied

    def lease_until(self) -> float:
        """A lease read is valid if, *after* the value was read, the time is below this. Minus infinity for never."""
        role = self.state.role
        return leading.lease_until(self.state, role) if isinstance(role, Leader) else -INFINITY

    def set_no_space(self, alarm: bool) -> None:
        """Whether this peer's disk or map is nearly full. It tells the leader; entries are taken all the same."""
        if alarm != self.state.no_space:
            self.state.no_space = alarm
            self.state.note("no space" if alarm else "space again")

    def short_of_space(self) -> bool:
        """This peer is short of space, or leads a group that has no quorum without one that is: propose nothing that
        grows. Purges, deletes and no-ops make room."""
        role = self.state.role
        return leading.short_of_space(self.state, role) if isinstance(role, Leader) else self.state.no_space

    def transfer(self, to: PeerId, now: float) -> bool:
        """Hand leadership to `to` once it has the whole log. Proposals are refused meanwhile, at most election_max_s.
        False if this peer does not lead or `to` is no other voter."""
        state = self.state
        state.at(now)
        self._check_quorum(now)
        role = state.role
        if not isinstance(role, Leader) or to == state.me or not state.membership.is_voter(to):
            return False
        role.transfer_to = to
        role.transfer_asked = False
        role.transfer_until = now + state.config.election_max_s
        return True

    def replace_member(self, peer: PeerId, incarnation: int, time_ms: int, now: float) -> LogId | str:
        """Append a membership with another incarnation of a voter whose disk is gone; where, or why not. It does what it
        is for once it is committed (see `raftlog.replacing`)."""
        state = self.state
        state.now = now
        self._check_quorum(now)
        if not isinstance(state.role, Leader):
            return "this peer does not lead"
        if why := members.why_not(state, state.role, peer, incarnation, now):
            return why
        membership = members.with_successor(state.membership, peer, incarnation)
        (outcome,) = leading.propose(state, state.role, [members.proposal(membership, time_ms)], now)
        return outcome if isinstance(outcome, LogId) else f"not taken: {outcome.name.lower()}"

    # --- storage -------------------------------------------------------------------------------------------------

    def saved(self, ticket: int, now: float) -> None:
        """The save in flight is durable."""
        state = self.state
        state.at(now)
        state.durability.saved(ticket)
        state.slow = False
        self._release(now)
        if isinstance(state.role, Leader):
            leading.maybe_commit(state, state.role)

    def _release(self, now: float) -> None:
        state = self.state
        for promise in state.durability.release(state.term):
            if promise.envelope is not None:
                state.outbox.append(promise.envelope)
            elif isinstance(state.role, Candidate) and not state.role.pre:
                state.role.votes[state.me] = True
                if elections.won(state):
                    leading.become_leader(state, now)

    def _maybe_recovered(self) -> None:
        """A peer that had forgotten promises counts again once it holds all it can have promised, durably and committed.
        Whoever led a later term than `recover_to`'s was elected without it, or before it forgot, and has what was
        committed with its help. Its vote in this term is spent: it may have given it."""
        state = self.state
        if state.mode is not Mode.RECOVERING or state.refill or state.installing is not None:
            return
        if min(state.stable_id(), state.log.id_at(state.commit)) >= state.recover_to:
            state.mode = Mode.VOTER
            state.vote = state.me if state.vote is None else state.vote
            state.durability.hard_changed()
            state.note("recovered")

    def storage_failed(self) -> None:
        """The disk failed or hangs: lead no more, campaign and vote no more. The node exits."""
        self.state.stalled = True
        if not isinstance(self.state.role, Follower):
            self.state.follow(None, self.state.now)

    def save_again(self) -> None:
        """Have the hard state saved though it has not changed."""
        self.state.durability.hard_changed()

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index` (which was handed out in `committed`)."""
        state = self.state
        assert state.applied <= index <= state.handed, f"applied {index}: had {state.applied}, handed {state.handed}"
        state.applied = index
        if isinstance(state.role, Leader):
            leading.answer_reads(state, state.role)

    def compacted(self, to: LogId) -> None:
        """The log is durably purged up to `to`, which is at or below the durable applied position."""
        assert to.index <= self.state.applied, f"purge at {to}, applied {self.state.applied}"
        self.state.log.compact(to)

    # --- images --------------------------------------------------------------------------------------------------

    def image_ended(self, peer: PeerId) -> None:
        """The transfer to `peer` ended without success; it is tried again when the peer is heard."""
        role = self.state.role
        if isinstance(role, Leader) and peer in role.progress and role.progress[peer].flow is Flow.IMAGE:
            role.progress[peer].probe(role.progress[peer].match + 1)
            role.progress[peer].probing = True

    def begin_install(self, at: LogId) -> bool:
        """See `following.begin_install`; the node then does steps 0 to 2 and calls `installed`."""
        return following.begin_install(self.state, at)

    def installed(self, at: LogId, membership: Membership) -> None:
        """The image at `at` is durably in place, and the log's base with it."""
        following.finish_install(self.state, at, membership)

    def acknowledge_image(self, to: PeerId, reply: ImageReply) -> None:
        """Say that an image is in place, or which piece is wanted. The first is a promise, and held like one."""
        if reply.installed:
            self.state.promise(to, reply, reply.image[1].index)
        else:
            self.state.send(to, reply)

    # --- the way out ---------------------------------------------------------------------------------------------

    def take(self) -> Effects:
        """All that is to be done now; call until it is empty (falsy). Never blocks further input."""
        state = self.state
        if isinstance(state.role, Leader):
            leading.begin_round(state, state.role, state.now)
            leading.replicate(state, state.role, state.now)
        self._maybe_recovered()
        save = self._begin_save()
        self._release(state.now)
        committed: tuple[Entry, ...] = ()
        upto = min(state.commit, state.durability.stable)
        if upto > state.handed and state.installing is None and state.durability.hard_durable and not state.refill:
            committed = state.log.slice(state.handed + 1, upto, state.config.take_bytes_max)
            state.handed = committed[-1].id.index
        if save is None and not committed and not state.has_effects:
            return NOTHING
        effects = Effects(
            save,
            tuple(state.outbox),
            committed,
            tuple(state.reads_done),
            tuple(state.images),
            tuple(state.image_wanted),
            state.truncated,
            tuple(state.events),
        )
        state.outbox.clear()
        state.reads_done.clear()
        state.images.clear()
        state.image_wanted.clear()
        state.events.clear()
        state.truncated = None
        return effects

    def _begin_save(self) -> Save | None:
        state = self.state
        durability = state.durability
        with_log = durability.dirty is not None and state.installing is None
        if not durability.due or state.stalled:
            return None
        if not with_log and durability.hard_durable:
            return None
        entries: tuple[Entry, ...] = ()
        last = state.log.last.index
        covered = durability.stable  # the last entry that will be durable with this save
        if with_log and durability.dirty is not None and durability.dirty <= last:
            entries = state.log.slice(durability.dirty, last, state.config.take_bytes_max)
        if with_log and durability.dirty is not None:
            covered = entries[-1].id.index if entries else durability.dirty - 1
        if with_log:
            durability.ends = state.log.id_at(covered)
            state.highest = max(state.highest, durability.ends)
        hard = state.hard(min(state.commit, covered))
        return durability.begin(hard, entries, with_log=with_log, last=last, now=state.now)
