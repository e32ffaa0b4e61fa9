"""What a leader does: replicate, commit, heartbeats, read rounds, leases, transfer.

Paper sections 5.3, 5.4, 8; thesis 3.10 (transfer), 6.4 (reads).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from raftlog.codec import dumps
from raftlog.messages import AppendEntries, AppendReply, Heartbeat, HeartbeatReply, ImageReply, TransferNow
from raftlog.roles import Flow, Leader, Progress, ReadRound, quorum_value
from raftlog.state import CoreState, ReadDone
from raftlog.types import MAX_ENTRY_BYTES, Entry, EntryKind, LogId, PeerId, Proposal


class Refusal(IntEnum):
    """Why a proposal was definitely not taken."""

    NOT_LEADER = 1
    TRANSFERRING = 2
    TOO_LARGE = 3
    BUSY = 4
    """Too many uncommitted bytes; try again later."""


def become_leader(state: CoreState, now: float) -> None:
    """Start the term with a no-op that names leader and boot number; only it makes older entries committed."""
    leader = Leader(state.log.last.index + 1, now, {}, now + state.config.heartbeat_s)
    state.role = leader
    state.note("leader", state.me)
    refresh_members(state, leader, now)
    _append(state, [Proposal(dumps([state.me, state.boot]), 0, EntryKind.NOOP)])


def refresh_members(state: CoreState, leader: Leader, now: float) -> None:
    """Follow the membership in force: progress for every peer in it and for nobody else. The successor of a peer whose disk
    is gone begins with nothing, and counts when it says so."""
    peers = state.peers()
    for peer in peers:
        incarnation = state.membership.incarnation_of(peer) or 0
        known = leader.progress.get(peer)
        if known is None or known.incarnation != incarnation:
            leader.progress[peer] = Progress(
                leader.term_start, heard=now, counts=known is None, incarnation=incarnation
            )
    for gone in sorted(set(leader.progress) - set(peers)):
        del leader.progress[gone]


def _append(state: CoreState, proposals: Sequence[Proposal]) -> list[LogId]:
    first = state.log.last.index + 1
    entries = [Entry(LogId(state.term, first + i), p.kind, p.data, p.time_ms) for i, p in enumerate(proposals)]
    state.log.append(entries)
    state.durability.appended(first)
    return [e.id for e in entries]


def propose(state: CoreState, leader: Leader, proposals: Sequence[Proposal], now: float) -> list[LogId | Refusal]:
    """Append what fits, in order; a refused one leaves no trace."""
    outcomes: list[LogId | Refusal] = []
    room = state.config.uncommitted_bytes_max - state.log.bytes_between(state.commit, state.log.last.index)
    for proposal in proposals:
        if leader.transfer_to is not None:
            outcomes.append(Refusal.TRANSFERRING)
        elif len(proposal.data) > MAX_ENTRY_BYTES:
            outcomes.append(Refusal.TOO_LARGE)
        elif len(proposal.data) > room:
            state.mark("uncommitted cap")
            outcomes.append(Refusal.BUSY)
        else:
            room -= len(proposal.data) + 32
            outcomes.extend(_append(state, [proposal]))
            if proposal.kind is EntryKind.MEMBERSHIP:
                refresh_members(state, leader, now)
    return outcomes


def quorum_contact(state: CoreState, leader: Leader, now: float) -> float:
    """The latest time at which a quorum, this peer included, had been heard."""
    heard = [(peer, p.heard) for peer, p in leader.progress.items() if p.counts]
    return quorum_value(state.membership, [*heard, (state.me, now)])


def lease_until(state: CoreState, leader: Leader) -> float:
    """Until when no other leader can have been elected: from the *send* time of a round that a quorum acknowledged.
    Minus infinity before the term's no-op is *applied*, for what earlier leaders acknowledged is seen only then, and after a
    transfer was sent in this term."""
    if leader.transfer_sent or state.applied < leader.term_start:
        return float("-inf")
    sent = [(peer, p.lease_from) for peer, p in leader.progress.items() if p.counts]
    start = quorum_value(state.membership, [*sent, (state.me, float("inf"))])
    return start + state.config.election_min_s * (1 - state.config.clock_drift)


# --- answers -----------------------------------------------------------------------------------------------------


def _heard(state: CoreState, leader: Leader, progress: Progress, context: int, counts: bool, now: float) -> None:
    progress.heard = now
    progress.counts = counts
    if context > progress.context:
        progress.context = context
        progress.lease_from = leader.context_sent.get(context, progress.lease_from)
        if counts:
            confirm_reads(state, leader)


def on_append_reply(state: CoreState, leader: Leader, sender: PeerId, message: AppendReply, now: float) -> None:
    """Move `match` and `next`; on a refusal look further back, a term at a time."""
    progress = leader.progress.get(sender)
    if progress is None:
        return
    _heard(state, leader, progress, message.context, message.counts, now)
    if message.match is not None:
        _advance(state, leader, progress, message.match)
        return
    if progress.flow is Flow.IMAGE or (message.prev_index <= progress.match and message.counts):
        return  # an old refusal
    if message.prev_index <= progress.match:  # it has lost what it acknowledged
        state.mark("acknowledgement lost")
        progress.forget(min(message.hint, message.prev_index) - 1, message.prev_index + 1)
    if progress.flow is Flow.PROBE and message.prev_index != progress.next - 1:
        return
    hint = min(message.hint, message.prev_index)
    if message.conflict_term:
        ours = state.log.last_index_of_term(message.conflict_term, message.prev_index)
        if ours is not None and ours >= hint:
            hint = min(ours + 1, message.prev_index)
    progress.probe(hint)


def on_heartbeat_reply(state: CoreState, leader: Leader, sender: PeerId, message: HeartbeatReply, now: float) -> None:
    """A sign of life; repairs a lost acknowledgement and lets a probe go on.

    A probe is not sent again within a heartbeat of the last: read rounds are answered at once and often, while the
    probe's own answer waits for the peer's disk.
    """
    progress = leader.progress.get(sender)
    if progress is None:
        return
    _heard(state, leader, progress, message.context, message.counts, now)
    progress.no_space = message.no_space
    progress.refill = message.refill
    if now - progress.probed >= state.config.heartbeat_s:
        progress.probing = False
    if message.match > progress.match:
        _advance(state, leader, progress, message.match)
    elif message.match < progress.match and not message.counts and progress.flow is not Flow.IMAGE:
        state.mark("acknowledgement lost")
        progress.forget(message.match, state.log.last.index)
    if message.refill and progress.flow is not Flow.IMAGE:
        state.image_wanted.append(sender)


def on_image_reply(state: CoreState, leader: Leader, sender: PeerId, message: ImageReply, now: float) -> None:
    """The node drives the transfer; an installed image moves the peer's match."""
    progress = leader.progress.get(sender)
    if progress is None:
        return
    progress.heard = now
    if message.installed:
        _advance(state, leader, progress, message.image[1].index)


def _advance(state: CoreState, leader: Leader, progress: Progress, match: int) -> None:
    """The peer holds the log durably up to `match`. An image goes on unless the log can take over from there."""
    assert match <= state.log.last.index, f"a peer holds {match}, we {state.log.last}"
    if progress.flow is Flow.IMAGE and match < state.log.base.index:
        return  # an answer to what was sent before the image
    progress.matched(match)
    maybe_commit(state, leader)


def maybe_commit(state: CoreState, leader: Leader) -> None:
    """Commit by counting, entries of the own term only (section 5.4.2, figure 8). Our own match is what is stable."""
    counted = [(peer, float(p.match)) for peer, p in leader.progress.items() if p.counts]
    index = int(max(0, quorum_value(state.membership, [*counted, (state.me, float(state.durability.stable))])))
    if index > state.commit and state.log.term_at(index) == state.term:
        state.raise_commit(index)


def best_successor(state: CoreState, leader: Leader) -> PeerId | None:
    """The other voter that has most of the log durably, of equals the lowest; None if none has more than this peer."""
    others = [(-p.match, peer) for peer, p in leader.progress.items() if state.membership.is_voter(peer)]
    most, peer = min(others, default=(0, state.me))
    return peer if -most > state.durability.stable else None


def short_of_space(state: CoreState, leader: Leader) -> bool:
    """This peer is short of space, or so many of the others that an entry would spend the reserve of a quorum's member."""
    others = sum(p.no_space for peer, p in leader.progress.items() if state.membership.is_voter(peer))
    return state.no_space or others > len(state.membership.voters) - state.membership.quorum


# --- sending -----------------------------------------------------------------------------------------------------


def replicate(state: CoreState, leader: Leader, now: float) -> None:
    """Hand out what each peer may get now. Peers at the same position share one message (and so one encoding)."""
    last = state.log.last.index
    shared: dict[int, AppendEntries] = {}
    for peer, progress in sorted(leader.progress.items()):
        while progress.next <= last and _may_send(state, progress):
            if progress.next <= state.log.base.index:
                progress.flow, progress.probing = Flow.IMAGE, False
                progress.inflight.clear()
                progress.inflight_bytes = 0
                state.image_wanted.append(peer)
                state.mark("image wanted")
                break
            message = shared.get(progress.next)
            if message is None:
                entries = state.log.slice(progress.next, last, state.config.append_bytes_max)
                prev = state.log.id_at(progress.next - 1)
                message = AppendEntries(state.term, prev, entries, state.commit, leader.context)
                shared[progress.next] = message
            state.send(peer, message)
            progress.sent(message.entries[-1].id.index, sum(e.size_bytes for e in message.entries), now)
    if leader.transfer_to is not None:
        _maybe_transfer(state, leader)


def _may_send(state: CoreState, progress: Progress) -> bool:
    match progress.flow:
        case Flow.PROBE:
            return not progress.probing
        case Flow.STREAM:
            return (
                len(progress.inflight) < state.config.window_messages
                and progress.inflight_bytes < state.config.window_bytes
            )
        case Flow.IMAGE:
            return False


def _new_context(leader: Leader, now: float) -> int:
    leader.context += 1
    leader.context_sent[leader.context] = now
    oldest = min((p.context for p in leader.progress.values()), default=leader.context)
    forget = max(oldest, leader.context - 65)
    while leader.context_sent and (first := next(iter(leader.context_sent))) <= forget:
        del leader.context_sent[first]
    return leader.context


def _send_heartbeats(state: CoreState, to: list[tuple[PeerId, Progress]], context: int) -> None:
    """They carry commit as far as each peer holds the log, so nothing unknown is committed."""
    for peer, progress in to:
        state.send(peer, Heartbeat(state.term, min(state.commit, progress.match), context))


def broadcast(state: CoreState, leader: Leader, now: float) -> None:
    """One heartbeat round to everybody."""
    leader.context_for_all = _new_context(leader, now)
    _send_heartbeats(state, sorted(leader.progress.items()), leader.context)


def on_heartbeat_time(state: CoreState, leader: Leader, now: float) -> None:
    """The regular round; appends unanswered for too long are taken for lost."""
    leader.next_heartbeat = now + state.config.heartbeat_s
    leader.transfer_asked = False
    for _, progress in sorted(leader.progress.items()):
        if progress.inflight and now - progress.inflight[0][2] > state.config.retry_s:
            state.mark("append lost")
            progress.probe(progress.match + 1)
            progress.probing = True
    broadcast(state, leader, now)


# --- reads -------------------------------------------------------------------------------------------------------


def begin_round(state: CoreState, leader: Leader, now: float) -> None:
    """Put all queued reads on one heartbeat round, once the term's no-op is committed."""
    if not leader.queued or state.commit < leader.term_start:
        return
    if len(leader.rounds) >= state.config.read_rounds_max:
        return
    tokens, leader.queued = leader.queued, []
    asked = _enough_voters(state, leader, now)
    if asked is None:
        broadcast(state, leader, now)
    else:
        _send_heartbeats(state, asked, _new_context(leader, now))
    leader.rounds.append(ReadRound(leader.context, state.commit, now, tokens))
    confirm_reads(state, leader)


def _enough_voters(state: CoreState, leader: Leader, now: float) -> list[tuple[PeerId, Progress]] | None:
    """As many voters as make a quorum with this one, those heard last, in order; None if not so many were heard lately."""
    since = now - 2 * state.config.heartbeat_s
    membership = state.membership
    wanted = membership.quorum - membership.is_voter(state.me)
    heard = [(-p.heard, -p.match, peer) for peer, p in leader.progress.items() if p.may_lead(since)]
    heard = sorted(item for item in heard if membership.is_voter(item[2]))
    if len(heard) < wanted:
        return None
    return [(peer, leader.progress[peer]) for peer in sorted(peer for _, _, peer in heard[:wanted])]


def hedge_reads(state: CoreState, leader: Leader, now: float) -> None:
    """Whoever was asked whether this peer still leads does not answer: ask everybody."""
    if now >= leader.hedge_due(state.config.read_hedge_s):
        state.mark("read hedged")
        broadcast(state, leader, now)


def confirm_reads(state: CoreState, leader: Leader) -> None:
    """Rounds that a quorum has answered become readable once their index is applied."""
    seen = [(peer, float(p.context)) for peer, p in leader.progress.items() if p.counts]
    confirmed = quorum_value(state.membership, [*seen, (state.me, float("inf"))])
    while leader.rounds and leader.rounds[0].context <= confirmed:
        leader.confirmed.append(leader.rounds.popleft())
    answer_reads(state, leader)


def answer_reads(state: CoreState, leader: Leader) -> None:
    """Answer the confirmed rounds whose index the state machine has reached."""
    while leader.confirmed and leader.confirmed[0].index <= state.applied:
        state.reads_done.extend(ReadDone(token, True) for token in leader.confirmed.popleft().tokens)


def read(state: CoreState, leader: Leader, token: Any) -> None:
    """Queue a linearizable read; refused when too many wait."""
    if leader.waiting_reads() >= state.config.reads_max:
        state.mark("reads refused")
        state.reads_done.append(ReadDone(token, False))
        return
    leader.queued.append(token)


# --- transfer ----------------------------------------------------------------------------------------------------


def _maybe_transfer(state: CoreState, leader: Leader) -> None:
    to = leader.transfer_to
    if to is None or leader.transfer_asked:
        return
    progress = leader.progress.get(to)
    if progress is not None and progress.match == state.log.last.index:
        leader.transfer_asked = leader.transfer_sent = True
        state.mark("transfer sent")
        state.send(to, TransferNow(state.term))
