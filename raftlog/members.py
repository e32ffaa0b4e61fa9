"""A peer whose disk is gone, in the membership: when a leader may take its successor in, and what changes by it.

The rule and why it is enough are at the head of `raftlog.replacing`.
"""

from __future__ import annotations

from dataclasses import replace

from raftlog.codec import dumps, pack_membership
from raftlog.roles import Leader
from raftlog.state import CoreState
from raftlog.types import EntryKind, Member, Membership, PeerId, Proposal


def with_successor(membership: Membership, peer: PeerId, incarnation: int) -> Membership:
    """The membership with a voter's incarnation replaced by its successor's."""
    voters = tuple(Member(m.id, incarnation) if m.id == peer else m for m in membership.voters)
    return replace(membership, voters=voters)


def proposal(membership: Membership, time_ms: int) -> Proposal:
    """The entry that puts a membership in force."""
    return Proposal(dumps(pack_membership(membership)), time_ms, EntryKind.MEMBERSHIP)


def why_not(state: CoreState, leader: Leader, peer: PeerId, incarnation: int, now: float) -> str:
    """Why the leader does not take in a successor of `peer` now; "" if it does."""
    membership = state.membership
    known = membership.incarnation_of(peer)
    if known is None or not membership.is_voter(peer):
        return f"peer {peer} is no voter of this group"
    if peer == state.me:
        return f"peer {peer} leads: it has not lost its disk"
    if len(membership.voters) - 1 < membership.quorum:
        return (
            f"a group of {len(membership.voters)} has no quorum without peer {peer}: nobody can prove what it promised"
        )
    if incarnation <= known:
        return f"incarnation {incarnation} is not above {known}, the one that peer {peer} has"
    if state.commit < leader.term_start or state.commit < state.log.membership_since:
        return "the leader, or a change of members, is too new: ask again in a moment"
    if now - leader.progress[peer].heard < state.config.election_max_s:
        return f"peer {peer} was heard a moment ago: end it first"
    return ""
