"""Groups of which one peer's disk goes bad: it counts for nothing it forgot, and its group makes it whole again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from raftlog.durable import HARD_COPY, index_key
from raftlog.node_values import NodeLimits
from raftlog.replacing import Refused, take_in
from raftlog.roles import Progress
from raftlog.scrubbing import Scrub
from raftlog.types import Mode
from shardkv.errors import KvError
from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine
from store.engine import Fenced
from store.memory_engine import MemoryDisk
from tools.sim.group import SimGroup, server_name
from tools.sim.watch import Watch
from tools.sim.world import World, simulate

SMALL = NodeLimits(log_bytes=2_000, keep_bytes=500, flush_idle_s=0.1)


def run(body: Callable[[World, SimGroup, KvClerk], Awaitable[None]], limits: NodeLimits | None = None) -> Watch:
    """A group of three with everything watched."""

    async def main(world: World) -> Watch:
        world.watch = Watch()
        group = SimGroup(world, 0, 3, KvMachine, limits=limits)
        group.start()
        await group.wait_leader()
        await body(world, group, clerk(world, group))
        return world.watch

    return simulate(main)


def clerk(world: World, group: SimGroup) -> KvClerk:
    return KvClerk(world.net.rpc(world.host("client")), group.addresses, rng=world.rng("client"))


def disk(world: World, peer: int, kind: str) -> MemoryDisk:
    return world.disks[server_name(0, peer), kind]


async def put_some(kv: KvClerk, count: int = 30) -> None:
    for number in range(count):
        await kv.put(f"k{number % 7}", b"x" * 50 + str(number).encode())


async def whole(group: SimGroup, peer: int, within_s: float = 10.0) -> None:
    """The peer counts again, has a state, and has applied what the leader has."""
    with trio.fail_after(within_s):
        while True:
            await trio.sleep(0.02)
            alive = group.peers.get(peer)
            leaders = group.leaders()
            if alive is None or not leaders:
                continue
            state, leading = alive.node.core.state, group.peers[leaders[0]].node
            done = alive.node.rsm.applied == leading.rsm.applied and leading.core.state.commit == state.commit
            if state.mode is Mode.VOTER and not state.refill and done:
                assert alive.node.rsm.state_hash() == leading.rsm.state_hash()
                return


def above_applied(world: World, group: SimGroup, peer: int) -> bytes:
    """The last entry of a peer, which its state does not hold yet."""
    keys = disk(world, peer, "log").tables["entries"].keys
    return keys[-1]


def test_a_lost_entry_is_got_back_before_the_peer_votes_or_counts() -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv)
        follower = next(p for p in group.peers if p not in group.leaders())
        group.crash(follower)
        disk(world, follower, "log").corrupt("entries", above_applied(world, group, follower))
        group.start(follower)
        state = group.peers[follower].node.core.state
        assert state.mode is Mode.RECOVERING and not state.electable and group.mended
        await whole(group, follower)
        await put_some(kv)

    run(body, NodeLimits(flush_idle_s=60.0))


def test_a_committed_entry_that_its_only_other_holder_lost_is_not_voted_away() -> None:
    """The entry is on the leader and one follower; that follower loses it, and the leader dies. The third peer, which never
    had it, must not be elected by the one that forgot."""

    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 3)
        leader = await group.wait_leader()
        holder, ignorant = (p for p in group.peers if p != leader)
        group.crash(ignorant)
        await kv.put("acknowledged", b"by two")
        group.crash(leader, holder)
        disk(world, holder, "log").corrupt("entries", above_applied(world, group, holder))
        group.start(holder, ignorant)
        await trio.sleep(5.0)
        assert not group.leaders(), "a leader without an acknowledged entry"
        group.start(leader)
        assert await kv.get("acknowledged") == (b"by two", 1)
        await whole(group, holder)

    run(body, NodeLimits(flush_idle_s=60.0))


def test_a_crash_in_the_middle_of_recovering_forgets_nothing() -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv)
        leader = await group.wait_leader()
        peer, other = (p for p in group.peers if p != leader)
        group.crash(peer, leader, other)
        disk(world, peer, "log").corrupt("entries", index_key(5))
        for _ in range(3):
            group.start(peer)
            await trio.sleep(1.0)
            assert group.peers[peer].node.core.state.mode is Mode.RECOVERING
            group.crash(peer)
        group.start()
        await whole(group, peer)

    run(body, NodeLimits(flush_idle_s=60.0))


def test_a_state_that_is_gone_is_refilled_while_the_peer_votes_on() -> None:
    """The log is purged, so only an image helps. Meanwhile the group has lost another peer: the one without a state is half
    of its quorum, with its vote and its log."""

    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 60)
        await trio.sleep(1.0)
        leader = await group.wait_leader()
        peer, other = (p for p in group.peers if p != leader)
        group.crash(peer)
        disk(world, peer, "state").corrupt("meta", b"applied")
        group.crash(other)
        group.start(peer)
        state = group.peers[peer].node.core.state
        assert state.refill and state.electable and not state.may_lead and state.log.base.index > 0
        await whole(group, peer)
        await put_some(kv, 5)

    run(body, SMALL)


def test_a_damaged_record_that_a_read_finds_kills_and_heals_the_peer() -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 60)
        await trio.sleep(1.0)
        leader = await group.wait_leader()
        rows = next(
            n for n, t in sorted(disk(world, leader, "state").tables.items()) if n.startswith("rows@") and t.keys
        )
        for key in list(disk(world, leader, "state").tables[rows].keys):
            disk(world, leader, "state").corrupt(rows, key)
        value = None
        while value is None:
            try:
                value = await kv.get("k1")
            except KvError:
                continue
        assert value[0].startswith(b"x" * 50) and leader in group.damaged
        group.start(leader)
        assert group.peers[leader].node.core.state.refill
        await whole(group, leader)

    run(body, SMALL)


@pytest.mark.parametrize("limits", [SMALL, NodeLimits(flush_idle_s=60.0)])
@pytest.mark.parametrize(
    ("kind", "table", "which"),
    [
        ("log", "meta", b"hard"),
        ("log", "journal", HARD_COPY),
        ("log", "meta", b"base"),
        ("log", "meta", b"boot"),
        ("log", "journal", -1),
        ("log", "entries", 0),
        ("log", "entries", -1),
        ("state", "meta", b"applied"),
        ("state", "meta", b"slot"),
    ],
)
def test_each_kind_of_record_heals(kind: str, table: str, which: bytes | int, limits: NodeLimits) -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 60)
        await trio.sleep(0.5)
        peer = await group.wait_leader()
        group.crash(peer)
        damaged = disk(world, peer, kind)
        damaged.corrupt(table, damaged.tables[table].keys[which] if isinstance(which, int) else which)
        await group.wait_leader()
        group.start(peer)
        await whole(group, peer)
        await put_some(kv, 5)
        assert not group.died

    run(body, limits)


def test_a_whole_environment_that_is_gone_heals_if_it_held_no_promise() -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 60)
        await trio.sleep(0.5)
        peer = await group.wait_leader()
        group.crash(peer)
        del world.disks[server_name(0, peer), "state"]
        await group.wait_leader()
        group.start(peer)
        await whole(group, peer)

    run(body, SMALL)
    run(body, NodeLimits(flush_idle_s=60.0))


# --- the scrub of a running peer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "which"),
    [("meta", b"hard"), ("journal", HARD_COPY), ("meta", b"base"), ("meta", b"boot"), ("journal", -1), ("entries", -1)],
)
def test_a_running_peer_writes_its_log_again_from_memory(table: str, which: bytes | int) -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 40)
        await trio.sleep(0.5)
        peer = await group.wait_leader()
        log = disk(world, peer, "log")
        before = {name: dict(t.records) for name, t in log.tables.items()}
        key = log.tables[table].keys[which] if isinstance(which, int) else which
        log.corrupt(table, key)
        alive = group.peers[peer]
        scrub = Scrub(alive.node, None)
        scrub.whole_round()
        assert scrub.found == 1
        await trio.sleep(0.2)
        assert group.leaders() == [peer], "nobody noticed"
        if key not in (b"hard", HARD_COPY) and table != "journal":  # the commit in it has moved on
            assert log.tables[table].records[key] == before[table][key]
        scrub.whole_round()
        assert scrub.found == 1

    run(body, SMALL)


def test_a_scrub_that_finds_a_damaged_state_has_the_peer_start_over() -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 40)
        await trio.sleep(0.5)
        peer = await group.wait_leader()
        state = disk(world, peer, "state")
        table = next(name for name, t in sorted(state.tables.items()) if name.startswith("rows@") and t.keys)
        state.corrupt(table, state.tables[table].keys[0])
        with pytest.raises(Fenced):
            Scrub(group.peers[peer].node, None).whole_round()
        assert peer not in group.peers and peer in group.damaged
        group.start(peer)
        await whole(group, peer)

    run(body, SMALL)


# --- a disk that is gone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [SMALL, NodeLimits()])
def test_the_successor_of_a_lost_disk_is_refilled_and_counts_again(limits: NodeLimits) -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 60)
        await trio.sleep(0.5)
        for peer in range(3):  # each in turn, the leader too
            assert await group.replace(peer)
            state = group.peers[peer].node.core.state
            assert state.mode is Mode.RECOVERING and not state.electable
            await whole(group, peer)
        await put_some(kv, 5)
        memberships = {p.node.core.state.membership for p in group.peers.values()}
        assert [[m.incarnation > m.id + 1 for m in membership.voters] for membership in memberships] == [[True] * 3]

    run(body, limits)


def test_nobody_is_taken_in_without_a_majority_of_the_others() -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 10)
        leader = await group.wait_leader()
        lost, other = (p for p in group.peers if p != leader)
        group.crash(other)
        assert not await group.replace(lost, within_s=5.0)
        assert lost not in group.peers
        group.start(other)
        assert await group.replace(lost)
        await whole(group, lost)

    run(body)


def test_an_entry_that_the_lost_disk_had_helped_to_commit_survives() -> None:
    """Committed by the leader and the peer that loses its disk; then the leader is down. The third peer is behind: with the
    successor it would be a majority, and must not be one."""

    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 5)
        leader = await group.wait_leader()
        lost, behind = (p for p in group.peers if p != leader)
        group.crash(behind)
        await kv.put("acknowledged", b"by two")
        group.crash(leader)
        group.start(behind)
        assert not await group.replace(lost, within_s=8.0)
        assert not group.leaders()
        group.start(leader)
        assert await group.replace(lost)
        await whole(group, lost)
        assert await kv.get("acknowledged") == (b"by two", 1)

    run(body)


def test_a_group_of_two_can_prove_nothing_for_one_of_them() -> None:
    async def main(world: World) -> None:
        group = SimGroup(world, 0, 2, KvMachine)
        group.start()
        leader = await group.wait_leader()
        node = group.peers[leader].node
        refused = await take_in(node, 1 - leader, 9, 1.0)
        assert isinstance(refused, Refused) and "no quorum without peer" in refused.why

    simulate(main)


def test_a_peer_that_is_alive_is_not_replaced() -> None:
    async def body(world: World, group: SimGroup, kv: KvClerk) -> None:
        await put_some(kv, 5)
        leader = await group.wait_leader()
        alive = next(p for p in group.peers if p != leader)
        await trio.sleep(1.0)
        for peer, incarnation, why in ((alive, 9, "was heard a moment ago"), (leader, 9, "leads"), (7, 9, "no voter")):
            refused = await take_in(group.peers[leader].node, peer, incarnation, 1.0)
            assert isinstance(refused, Refused) and why in refused.why
        group.crash(alive)
        await trio.sleep(1.0)
        refused = await take_in(group.peers[leader].node, alive, 1, 1.0)
        assert isinstance(refused, Refused) and "not above" in refused.why

    run(body)


def test_leadership_is_handed_to_nobody_who_cannot_lead() -> None:
    assert Progress(next=1, heard=5.0).may_lead(4.0)
    assert not Progress(next=1, heard=5.0).may_lead(5.0)
    assert not Progress(next=1, heard=5.0, counts=False).may_lead(4.0), "it is recovering"
    assert not Progress(next=1, heard=5.0, refill=True).may_lead(4.0), "it has no state"
