"""Elections: pre-vote, votes, stickiness, the quiet time after a restart (section 5.2, 5.4.1; thesis 9.6, 6.2)."""

from __future__ import annotations

from raftlog.messages import RequestVote, VoteReply
from raftlog.roles import Candidate, Leader
from raftlog.state import CoreState
from raftlog.types import PeerId


def campaign(state: CoreState, now: float, *, pre: bool = True, transfer: bool = False) -> bool:
    """Ask for (pre-)votes. True once the election is already won (a group of one voter, pre-vote only)."""
    state.reset_election_timer(now)
    candidate = Candidate(pre, transfer)
    if pre:
        state.role = candidate
        candidate.votes[state.me] = True
        state.note("pre-candidate")
        request = RequestVote(state.term + 1, state.log.last, pre=True)
        for voter in _other_voters(state):
            state.send(voter, request)
        return won(state)
    state.set_term(state.term + 1)
    state.vote = state.me
    state.role = candidate
    state.note("candidate")
    request = RequestVote(state.term, state.log.last, transfer=transfer)
    for voter in _other_voters(state):
        state.promise(voter, request)
    state.durability.hold(state.term, 0, None)  # our own vote counts once it is durable
    return False


def _other_voters(state: CoreState) -> list[PeerId]:
    return [m.id for m in state.membership.voters if m.id != state.me]


def won(state: CoreState) -> bool:
    """A quorum has granted."""
    role = state.role
    assert isinstance(role, Candidate)
    granted = sum(role.votes.get(m.id, False) for m in state.membership.voters)
    return granted >= state.membership.quorum


def lost(state: CoreState) -> bool:
    """So many refused that no quorum can grant any more."""
    role = state.role
    assert isinstance(role, Candidate)
    refused = sum(not role.votes.get(m.id, True) for m in state.membership.voters)
    return refused > len(state.membership.voters) - state.membership.quorum


def sticky(state: CoreState, now: float) -> bool:
    """This peer leads, or has heard a leader within the shortest election time-out: it helps no one depose it.

    That a greater term was seen since is no excuse: the leader's lease rests on what was answered to it.
    """
    return isinstance(state.role, Leader) or now - state.leader_heard < state.config.election_min_s


def on_request_vote(state: CoreState, sender: PeerId, message: RequestVote, now: float) -> None:
    """Grant or refuse. The term rule ran before, so a real request is of our term or older."""
    up_to_date = message.last >= state.log.last
    if message.pre:
        grant = (
            message.term > state.term
            and up_to_date
            and state.electable
            and not sticky(state, now)
            and now >= state.quiet_until
        )
        state.send(sender, VoteReply(message.term if grant else state.term, grant, pre=True))
        return
    free = state.vote is None or state.vote == sender
    grant = (
        message.term == state.term
        and free
        and up_to_date
        and state.electable
        and now >= state.quiet_until
        and state.leader is None
        and (message.transfer or not sticky(state, now))
    )
    if not grant:
        state.send(sender, VoteReply(state.term, False))
        return
    if state.vote is None:
        state.vote = sender
        state.durability.hard_changed()
        state.note("vote", sender)
    if isinstance(state.role, Candidate):  # a pre-candidate: its own try is over
        state.follow(None, now)
    state.reset_election_timer(now)
    state.promise(sender, VoteReply(state.term, True))


def on_vote_reply(state: CoreState, sender: PeerId, message: VoteReply, now: float) -> bool:
    """Count it; True if the election (or pre-election) is won by it."""
    role = state.role
    if not isinstance(role, Candidate) or role.pre != message.pre:
        return False
    asked = state.term + 1 if role.pre else state.term
    if message.granted and message.term != asked:
        return False
    role.votes[sender] = message.granted or role.votes.get(sender, False)  # a late refusal takes no vote back
    if won(state):
        return True
    if lost(state):
        state.mark("election lost")
        state.follow(None, now)
    return False
