"""Storage progress is part of liveness: a leader whose disk hangs leads no longer, and a pause is no hung disk."""

from __future__ import annotations

import pytest

from raftlog.config import RaftConfig
from raftlog.core import RaftCore
from raftlog.messages import AppendReply, Envelope, HeartbeatReply, TransferNow
from raftlog.types import Proposal, Role
from tests.raftlog.script_runner import Script

STALL_S = RaftConfig().storage_stall_s
SLOW_S = RaftConfig().storage_slow_s


def leading_with_a_save_in_flight() -> tuple[Script, RaftCore]:
    """Three peers, of which 0 leads and waits for its disk."""
    played = Script()
    played.run("cluster 3\ntimeout 0\ndeliver all\ntick 0\ndeliver all\nauto off")
    core = played.core(0)
    core.propose_many([Proposal(b"x")], played.now)
    assert core.take().save is not None
    return played, core


def run_until(played: Script, core: RaftCore, until: float, *, contact: bool = True) -> None:
    """Live as a node does: wake at each deadline. The others go on answering this one."""
    while played.now < until:
        played.now = min(core.deadline(), until)
        core.on_time(played.now)
        if contact:
            for envelope in core.take().send:
                played.wires[envelope.sender, envelope.to].append(envelope)
            played.run("deliver all")


def test_a_leader_whose_save_does_not_return_hands_over_stays_silent_and_is_given_up() -> None:
    played, core = leading_with_a_save_in_flight()
    began = played.now
    run_until(played, core, began + SLOW_S - 0.01)
    assert core.state.role_name is Role.LEADER
    core.step(Envelope(1, 0, AppendReply(2, 3)), played.now)
    run_until(played, core, began + SLOW_S, contact=False)
    assert [e for e in core.take().send if isinstance(e.message, TransferNow)] == [Envelope(0, 1, TransferNow(2))]
    assert core.state.role_name is Role.FOLLOWER and not core.state.stalled
    run_until(played, core, began + STALL_S - 0.01, contact=False)
    assert not core.state.stalled
    run_until(played, core, began + 10 * STALL_S, contact=False)
    assert core.state.stalled and core.state.role_name is Role.FOLLOWER
    assert not core.take().send, "it neither leads nor campaigns"


def test_a_leader_with_a_slow_disk_hands_over_to_who_has_most_and_may_lead_again_once_the_disk_has_answered() -> None:
    played, core = leading_with_a_save_in_flight()
    began = played.now
    run_until(played, core, began + SLOW_S - 0.01)
    core.step(Envelope(2, 0, AppendReply(2, 3)), played.now)
    run_until(played, core, began + SLOW_S, contact=False)
    assert [e.to for e in core.take().send if isinstance(e.message, TransferNow)] == [2]
    assert not core.state.electable
    save = core.state.durability.in_flight
    assert save is not None
    core.saved(save.ticket, played.now)
    assert core.state.electable


@pytest.mark.parametrize("voters", [1, 3])
def test_a_leader_whose_disk_is_no_slower_than_the_others_leads_on_and_is_not_woken_for_nothing(voters: int) -> None:
    """All disks are slow (they may be one): whoever took over would have to save its vote first, and be as slow."""
    played = Script()
    played.run(f"cluster {voters}\ntimeout 0\ndeliver all\ntick 0\ndeliver all\nauto off")
    core = played.core(0)
    core.propose_many([Proposal(b"x")], played.now)
    assert core.take().save is not None
    began, wakes = played.now, 0
    while played.now < began + 2 * SLOW_S:
        wakes += 1
        assert core.deadline() > played.now
        played.now = core.deadline()
        core.on_time(played.now)
        sent = core.take().send
        assert not any(isinstance(e.message, TransferNow) for e in sent)
        for peer in range(1, voters):
            core.step(Envelope(peer, 0, HeartbeatReply(2, 2)), played.now)
    assert core.state.role_name is Role.LEADER and wakes < 50


def test_a_pause_of_the_process_is_no_hung_disk() -> None:
    """Found on real processes: whoever was paused for longer than the limit with a save in flight died when it went on."""
    played, core = leading_with_a_save_in_flight()
    played.now += 3 * STALL_S
    resumed = played.now
    core.on_time(resumed)
    assert not core.state.stalled
    run_until(played, core, resumed + STALL_S - 0.5, contact=False)
    assert not core.state.stalled
    run_until(played, core, resumed + STALL_S, contact=False)
    assert core.state.stalled, "the disk did hang: it only gets the time in which nobody looked"
