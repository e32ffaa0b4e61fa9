"""Peers compare their states: who is odd is named by a majority, never guessed, and given a new state."""

from __future__ import annotations

import trio

from raftlog.comparing import EVERY, KEPT, Comparison
from raftlog.node_values import NodeLimits
from raftlog.types import ZERO, LogId, Member, Membership
from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine
from store.keys import u16
from tools.sim.group import SimGroup
from tools.sim.world import World, simulate

AT = LogId(2, 256)


def members(count: int) -> Membership:
    return Membership(tuple(Member(i, 1) for i in range(count)))


def compared(hashes: dict[int, bytes], count: int = 3, at: LogId = AT) -> Comparison:
    comparison = Comparison(0)
    for peer, state_hash in hashes.items():
        comparison.hear(peer, at, state_hash, members(count))
    return comparison


def test_a_majority_names_the_odd_one() -> None:
    found = compared({0: b"a", 1: b"b", 2: b"a"})
    assert (found.odd, found.agreed, found.split) == ({1: AT}, AT, None)


def test_the_odd_one_may_be_this_peer() -> None:
    assert compared({0: b"a", 1: b"b", 2: b"b"}).odd == {0: AT}


def test_two_that_differ_name_nobody() -> None:
    for count in (2, 3, 4, 5):
        found = compared({0: b"a", 1: b"b"}, count)
        assert (found.odd, found.agreed, found.split) == ({}, ZERO, AT)


def test_half_is_no_majority() -> None:
    found = compared({0: b"a", 1: b"b", 2: b"b", 3: b"a"}, 4)
    assert (found.odd, found.split) == ({}, AT)


def test_a_peer_that_is_right_again_is_no_longer_odd() -> None:
    found = compared({0: b"a", 1: b"b", 2: b"a"})
    for peer in range(3):
        found.hear(peer, LogId(2, 512), b"c", members(3))
    assert (found.odd, found.agreed) == ({}, LogId(2, 512))


def test_what_comes_late_changes_no_later_verdict() -> None:
    found = compared({0: b"a", 1: b"a"}, at=LogId(2, 512))
    for peer, state_hash in ((0, b"x"), (1, b"x"), (2, b"y")):
        found.hear(peer, AT, state_hash, members(3))
    assert (found.odd, found.agreed) == ({}, LogId(2, 512))


def test_positions_do_not_pile_up() -> None:
    found = Comparison(0)
    for index in range(10 * KEPT):
        found.hear(1, LogId(2, index), b"a", members(3))
    assert len(found._hashes[1]) == KEPT


def test_a_stranger_counts_for_nothing() -> None:
    assert compared({0: b"a", 7: b"b", 8: b"b"}).agreed == ZERO


def test_the_odd_one_of_a_running_group_gives_its_state_up_and_is_refilled() -> None:
    """A record of its state is wrong and passes its check, as after a fault of the memory: only the others can tell."""

    async def body(world: World) -> None:
        group = SimGroup(world, 0, 3, KvMachine, limits=NodeLimits(log_bytes=2000, flush_idle_s=0.1), compare=True)
        group.start()
        leader = await group.wait_leader()
        kv = KvClerk(world.net.rpc(world.host("client")), group.addresses, rng=world.rng("client"))
        for number in range(40):
            await kv.put(f"k{number % 7}", b"x" * 50)
        await trio.sleep(1.0)
        assert all(p.node.comparison.agreed.index > 0 and not p.node.comparison.odd for p in group.peers.values())
        odd = next(p for p in group.peers if p != leader)
        machine = group.peers[odd].machine
        assert isinstance(machine, KvMachine)
        overlay = group.peers[odd].node.rsm.overlay
        record = machine.record(overlay, 0)
        machine.put_record(overlay, 0, record._replace(size=record.size + 1))
        assert overlay.get("shards", u16(0)) is not None
        for number in range(EVERY):
            await kv.put(f"k{number % 7}", b"y")
        await trio.sleep(1.0)
        assert odd in group.damaged and odd not in group.peers
        assert group.peers[leader].node.comparison.odd.keys() == {odd}
        group.start(odd)
        await trio.sleep(1.0)
        for number in range(EVERY):
            await kv.put(f"k{number % 7}", b"z")
        await trio.sleep(1.0)
        assert not any(p.node.comparison.odd for p in group.peers.values()) and len(group.peers) == 3

    simulate(body)
