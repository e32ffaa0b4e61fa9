"""What a follower does with a leader's messages (sections 5.3 and 7)."""

from __future__ import annotations

from raftlog.messages import AppendEntries, AppendReply, Envelope, Heartbeat, HeartbeatReply, ImageChunk
from raftlog.roles import Follower
from raftlog.state import CoreState
from raftlog.types import ZERO, Entry, LogId, Membership, Mode, PeerId


def hear(state: CoreState, leader: PeerId, now: float) -> Follower:
    """A message of this term's leader came: follow it, and start the election timer anew."""
    state.follow(leader, now)
    role = state.role
    assert isinstance(role, Follower)
    state.leader_heard = now
    state.reset_election_timer(now)
    return role


def well_formed(message: AppendEntries) -> bool:
    """Entries follow `prev` without gaps, terms never fall, none is of a later term than the sender's."""
    last = message.prev
    for entry in message.entries:
        if entry.id.index != last.index + 1 or not last.term <= entry.id.term <= message.term:
            return False
        last = entry.id
    return last.term <= message.term


def on_append_entries(state: CoreState, sender: PeerId, message: AppendEntries, now: float) -> None:
    """Take what is new. An existing suffix is cut only at a real conflict (a delayed append cuts nothing)."""
    role = hear(state, sender, now)
    if state.installing is not None:
        return
    prev, entries = message.prev, message.entries
    if prev.index < state.log.base.index:  # purged here, hence committed: what follows the base may still be new
        skip = min(state.log.base.index - prev.index, len(entries))
        prev = entries[skip - 1].id if skip else prev
        entries = entries[skip:]
        if prev.index < state.log.base.index:
            prev = state.log.base
    if prev.index > state.log.last.index:
        _refuse(state, sender, message, state.log.last.index + 1, 0)
        return
    term = state.log.term_at(prev.index)
    if term != prev.term:
        assert term is not None
        assert prev.index > state.commit, f"{prev} conflicts with the committed term {term}"
        _refuse(state, sender, message, state.log.first_index_of_term(prev.index, state.commit), term)
        return
    _take(state, entries)
    match = message.prev.index + len(message.entries)
    role.match = max(role.match, match)
    state.raise_commit(min(message.commit, match))
    reply = AppendReply(state.term, match, context=message.context, counts=state.mode is Mode.VOTER)
    state.promise(sender, reply, match)


def _take(state: CoreState, entries: tuple[Entry, ...]) -> None:
    for at, entry in enumerate(entries):
        known = state.log.term_at(entry.id.index)
        if known == entry.id.term:
            continue
        if known is not None:
            state.truncate(entry.id.index)
        state.log.append(entries[at:])
        state.durability.appended(entry.id.index)
        return


def _refuse(state: CoreState, sender: PeerId, message: AppendEntries, hint: int, conflict_term: int) -> None:
    state.mark("append refused")
    reply = AppendReply(
        state.term, None, message.prev.index, hint, conflict_term, message.context, state.mode is Mode.VOTER
    )
    state.send(sender, reply)


def on_heartbeat(state: CoreState, sender: PeerId, message: Heartbeat, now: float) -> None:
    """Answered at once, without a new promise (law 4). The leader names no commit beyond what we acknowledged.

    While the term itself is not durable the answer names no match: after a crash we could be back in an older term and
    take other entries there, while the leader goes on to name its commit up to that match.
    """
    role = hear(state, sender, now)
    if state.installing is None:
        # What a recovering peer acknowledged before it lost its log says nothing of the log that it has now.
        held = state.log.last.index if state.mode is Mode.VOTER else role.match
        state.raise_commit(min(message.commit, held))
    match = min(role.match, state.durability.stable) if state.durability.hard_durable else 0
    counts = state.mode is Mode.VOTER
    state.send(sender, HeartbeatReply(state.term, match, message.context, counts, state.no_space, state.refill))


def on_image_chunk(state: CoreState, sender: PeerId, message: ImageChunk, now: float) -> None:
    """The node collects the pieces; to the core it is a sign of life from the leader."""
    hear(state, sender, now)
    state.images.append(Envelope(sender, state.me, message))


def begin_install(state: CoreState, at: LogId) -> bool:
    """An image is complete at the node. False if it brings nothing new, or while our term is not durable (law 5: what is
    applied must not outlive the term it was learned in); it comes again then. Once True, appends are dropped and saves
    carry the hard state only, until `finish_install`. A peer without a state takes any image that its log goes on from."""
    needed = at.index > state.commit or (state.refill and at.index >= state.applied)
    if not needed or not state.durability.hard_durable:
        state.mark("image too early" if needed else "image not needed")
        return False
    state.installing = at
    state.durability.ends = ZERO  # a save meanwhile may come before or after the log is reset
    return True


def finish_install(state: CoreState, at: LogId, membership: Membership) -> None:
    """The image is durably in place and so is the log's new base (steps 0 to 2 of an installation)."""
    assert state.installing == at, f"installing {state.installing}, not {at}"
    state.installing = None
    if state.log.term_at(at.index) not in (None, at.term):
        state.mark("image over a conflicting suffix")
    kept = state.log.reset(at, membership)
    state.mark("image installed, suffix kept" if kept else "image installed")
    if not kept:
        state.truncated = at.index + 1 if state.truncated is None else min(state.truncated, at.index + 1)
    state.durability.installed(at.index, state.log.last.index)
    state.durability.ends = state.stable_id()
    state.highest = max(state.highest, at)
    state.refill = False
    state.commit = max(state.commit, at.index)
    state.handed = state.applied = at.index
