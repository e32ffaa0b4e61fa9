"""The Raft paper, rule by rule: each test is named after what the paper asks for, and says where.

The cores are moved by hand with `Script`; figure and section numbers are those of the extended version.
"""

from __future__ import annotations

import pytest

from raftlog.core import RaftCore
from raftlog.durable import bootstrap_entry
from raftlog.following import well_formed
from raftlog.messages import AppendEntries, AppendReply, Envelope, Heartbeat, HeartbeatReply, RequestVote, VoteReply
from raftlog.state import CoreState
from raftlog.types import Entry, EntryKind, LogId, Member, Membership, Mode, Proposal, Role
from tests.raftlog.script_runner import Script

THREE = Membership(tuple(Member(i, 1) for i in range(3)))


def script(text: str) -> Script:
    played = Script()
    played.run(text)
    return played


def elected(more: str = "") -> Script:
    """Three peers, of which 0 leads in term 2 and everybody has its no-op."""
    return script(f"cluster 3\ntimeout 0\ndeliver all\ntick 0\ndeliver all\n{more}")


def state(played: Script, peer: int) -> CoreState:
    return played.core(peer).state


def entry(term: int, index: int) -> Entry:
    return Entry(LogId(term, index), EntryKind.COMMAND, b"%d:%d" % (term, index))


def send(played: Script, to: int, sender: int, message: object) -> list[object]:
    """What peer `to` answers, with every save announced at once."""
    played.wires.clear()
    played.core(to).step(Envelope(sender, to, message), played.now)  # type: ignore[arg-type]
    played.settle(to)
    return [e.message for e in played.wires.get((to, sender), [])]


# --- 5.1 terms -------------------------------------------------------------------------------------------------------


def test_5_1_a_greater_term_makes_a_follower_of_a_leader() -> None:
    played = elected()
    send(played, 0, 1, AppendReply(5, None))
    assert state(played, 0).term == 5 and state(played, 0).role_name is Role.FOLLOWER


def test_5_1_a_request_of_an_older_term_is_refused_and_told_the_newer_one() -> None:
    played = elected()
    (reply,) = send(played, 1, 2, Heartbeat(1, 0))
    assert isinstance(reply, HeartbeatReply) and reply.term == 2


def test_what_an_old_leader_is_told_counts_no_recovering_peer_and_ends_no_alarm() -> None:
    """The old leader may lead the present term too: the answer to its old request would be one to its newest round."""
    played = elected()
    peer = state(played, 1)
    peer.mode, peer.no_space = Mode.RECOVERING, True
    assert send(played, 1, 0, Heartbeat(1, 0)) == [HeartbeatReply(2, 0, 0, counts=False, no_space=True)]


def test_5_1_the_term_survives_a_restart() -> None:
    played = elected("crash 1\nrestart 1")
    assert state(played, 1).term == 2


# --- 5.2 elections ---------------------------------------------------------------------------------------------------


def test_5_2_a_candidate_enters_a_new_term_votes_for_itself_and_asks_all() -> None:
    played = script("cluster 3\ntimeout 0\ndeliver 0->1\ndeliver 1->0")
    assert state(played, 0).role_name is Role.CANDIDATE
    assert state(played, 0).term == 2 and state(played, 0).vote == 0
    asked = {to for (_, to), wires in played.wires.items() for e in wires if e.message == RequestVote(2, LogId(1, 1))}
    assert asked == {1, 2}


def test_5_2_at_most_one_vote_in_a_term_first_come_first_served() -> None:
    played = script("cluster 3")
    (first,) = send(played, 2, 0, RequestVote(7, LogId(1, 1)))
    (second,) = send(played, 2, 1, RequestVote(7, LogId(1, 1)))
    (again,) = send(played, 2, 0, RequestVote(7, LogId(1, 1)))
    assert [first, second, again] == [VoteReply(7, True), VoteReply(7, False), VoteReply(7, True)]


def test_5_2_the_vote_survives_a_restart() -> None:
    played = script("cluster 3")
    send(played, 2, 0, RequestVote(7, LogId(1, 1)))
    played.run("crash 2\nrestart 2\npass 2")
    (other,) = send(played, 2, 1, RequestVote(7, LogId(1, 1)))
    assert other == VoteReply(7, False)


def test_5_2_a_majority_makes_a_leader_and_less_does_not() -> None:
    played = script("cluster 5\ntimeout 0\ndeliver 0->1\ndeliver 0->2\ndeliver 1->0\ndeliver 2->0")
    played.run("deliver 0->1\ndeliver 1->0")
    assert state(played, 0).role_name is Role.CANDIDATE
    played.run("deliver 0->2\ndeliver 2->0")
    assert state(played, 0).role_name is Role.LEADER


def test_5_2_a_candidate_that_hears_the_leader_of_its_term_follows_it() -> None:
    played = script("cluster 3\ntimeout 0\ndeliver 0->1\ndeliver 1->0")
    send(played, 0, 2, Heartbeat(2, 0))
    assert state(played, 0).role_name is Role.FOLLOWER and state(played, 0).leader == 2


def test_5_2_granting_a_vote_resets_the_election_timer() -> None:
    played = script("cluster 3\npass 0.25")
    before = state(played, 2).election_deadline
    send(played, 2, 0, RequestVote(7, LogId(1, 1)))
    assert state(played, 2).election_deadline >= played.now + 0.3 > before - 0.3


def test_5_2_timeouts_are_drawn_from_the_interval() -> None:
    played = script("cluster 7")
    deadlines = {state(played, peer).election_deadline for peer in range(7)}
    assert len(deadlines) == 7 and all(0.3 <= d <= 0.6 for d in deadlines)


# --- 5.3 replication -------------------------------------------------------------------------------------------------


def test_5_3_an_append_that_does_not_fit_is_refused_with_a_hint() -> None:
    played = elected()
    (reply,) = send(played, 1, 0, AppendEntries(2, LogId(2, 9), (entry(2, 10),), 0))
    assert isinstance(reply, AppendReply) and reply.match is None and reply.hint == 3


def test_5_3_conflicting_entries_are_replaced_by_the_leaders() -> None:
    played = script("cluster 3 log 1 1 1")
    (reply,) = send(played, 1, 0, AppendEntries(3, LogId(1, 2), (entry(3, 3),), 0))
    assert isinstance(reply, AppendReply) and reply.match == 3
    assert [state(played, 1).log.term_at(i) for i in (1, 2, 3, 4)] == [1, 1, 3, None]
    assert [e.term for e in played.peers[1].entries] == [1, 1, 3]


def test_5_3_entries_that_are_there_already_cut_nothing() -> None:
    played = elected("propose 0 a\npropose 0 b\ndeliver all")
    log = state(played, 1).log
    known = log.slice(2, 3, 1 << 20)
    send(played, 1, 0, AppendEntries(2, LogId(1, 1), known, 0))
    assert log.last == LogId(2, 4)


def test_5_3_a_follower_commits_what_the_leader_says_up_to_what_it_verified() -> None:
    played = script("cluster 3 log 1 1 1")
    send(played, 1, 0, AppendEntries(3, LogId(1, 2), (), 4))
    assert state(played, 1).commit == 2


def test_5_3_a_leader_never_overwrites_its_own_log() -> None:
    played = elected("propose 0 a")
    before = state(played, 0).log.slice(1, 3, 1 << 20)
    played.run("propose 0 b\ndeliver all\ntick 0\ndeliver all")
    assert state(played, 0).log.slice(1, 3, 1 << 20) == before


def test_5_3_entries_with_gaps_or_falling_terms_are_no_append() -> None:
    good = AppendEntries(5, LogId(2, 3), (entry(2, 4), entry(4, 5)), 0)
    assert well_formed(good)
    for wrong in (
        AppendEntries(5, LogId(2, 3), (entry(2, 5),), 0),
        AppendEntries(5, LogId(2, 3), (entry(1, 4),), 0),
        AppendEntries(5, LogId(2, 3), (entry(6, 4),), 0),
        AppendEntries(5, LogId(2, 3), (entry(4, 4), entry(3, 5)), 0),
    ):
        assert not well_formed(wrong)


# --- 5.4 safety ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "granted"),
    [(LogId(1, 3), False), (LogId(1, 9), True), (LogId(2, 2), True), (LogId(1, 4), True), (LogId(0, 9), False)],
)
def test_5_4_1_no_vote_for_a_log_that_is_less_up_to_date(last: LogId, granted: bool) -> None:
    played = script("cluster 3 log 1 1 1")
    (reply,) = send(played, 1, 0, RequestVote(7, last))
    assert reply == VoteReply(7, granted)


def test_5_4_2_entries_of_older_terms_are_not_committed_by_counting() -> None:
    """Figure 8: a new leader that finds an old entry on a majority must not call it committed before one of its own."""
    played = script("cluster 3 log 1 1\ntimeout 0\ndeliver 0->1\ndeliver 1->0\ndeliver 0->1\ndeliver 1->0")
    leader = played.core(0)
    assert state(played, 0).role_name is Role.LEADER
    leader.step(Envelope(1, 0, AppendReply(2, 3)), played.now)
    assert state(played, 0).commit == 1
    leader.step(Envelope(1, 0, AppendReply(2, 4)), played.now)
    assert state(played, 0).commit == 4


def test_5_5_a_repeated_request_does_no_harm() -> None:
    played = elected()
    message = AppendEntries(2, LogId(2, 2), (entry(2, 3),), 0)
    first, again = send(played, 1, 0, message), send(played, 1, 0, message)
    assert first == again and state(played, 1).log.last == LogId(2, 3)


# --- 7 images, 8 clients ---------------------------------------------------------------------------------------------


def installing(at: LogId) -> RaftCore:
    played = script("cluster 3 log 1 1 1")
    core = played.core(1)
    assert core.begin_install(at)
    core.installed(at, THREE)
    return core


def test_7_an_image_keeps_the_suffix_only_if_index_and_term_match() -> None:
    assert installing(LogId(1, 3)).state.log.last == LogId(1, 4)
    assert installing(LogId(2, 3)).state.log.last == LogId(2, 3)
    assert installing(LogId(1, 9)).state.log.last == LogId(1, 9)


def test_7_an_image_that_brings_nothing_is_not_installed() -> None:
    played = elected()
    assert not played.core(0).begin_install(LogId(2, 2))


def test_8_a_leader_begins_its_term_with_an_entry_of_it() -> None:
    played = elected()
    (noop,) = state(played, 0).log.slice(2, 2, 1 << 20)
    assert noop.kind is EntryKind.NOOP and noop.term == 2


def test_8_a_read_is_answered_after_a_round_that_began_after_it() -> None:
    played = elected()
    core = played.core(0)
    core.read("r", played.now)
    assert not core.take().reads
    core.step(Envelope(1, 0, HeartbeatReply(2, 2, 0)), played.now)  # an answer to an older round
    assert not core.take().reads
    core.step(Envelope(1, 0, HeartbeatReply(2, 2, core.state.role.context)), played.now)  # type: ignore[union-attr]
    (answer,) = core.take().reads
    assert answer.ready


def test_the_bootstrap_entry_is_the_same_bytes_on_all_peers() -> None:
    assert bootstrap_entry(THREE) == bootstrap_entry(THREE)
    assert bootstrap_entry(THREE).id == LogId(1, 1)


def test_too_large_a_proposal_and_too_much_uncommitted_are_refused() -> None:
    played = elected()
    core = played.core(0)
    (refused,) = core.propose_many([Proposal(b"x" * (1 << 21))], played.now)
    assert refused.name == "TOO_LARGE"  # type: ignore[union-attr]
    big = [Proposal(b"x" * (1 << 20))] * 40
    names = [getattr(outcome, "name", "taken") for outcome in core.propose_many(big, played.now)]
    assert names[0] == "taken" and names[-1] == "BUSY"
    played.settle(0)
    played.run("deliver all\ntick 0\ndeliver all")
    assert core.state.log.bytes_between(core.state.commit, core.state.log.last.index) == 0


def test_a_lease_begins_once_the_noop_is_applied_and_not_when_it_is_committed() -> None:
    """Found by simulation, seed 36: what earlier leaders acknowledged is only seen once it is applied."""
    played = elected()
    core = played.core(0)
    leader = core.state.role
    played.run("tick 0\ndeliver all")
    assert core.state.commit >= leader.term_start and core.state.applied >= leader.term_start  # type: ignore[union-attr]
    assert core.lease_until() > played.now
    core.state.applied = leader.term_start - 1  # type: ignore[union-attr]
    assert core.lease_until() == float("-inf")
