"""The counter under crashes, in simulated worlds: real Raft, virtual time, everything drawn from one seed."""

from __future__ import annotations

import pytest
import trio
from counter import INC, Counter, counted

from raftlog.codec import loads
from raftlog.machine import Applied, Unknown
from tools.pytest_plugin.sim import GroupClient, check_group, make_cluster, make_group, settle, trouble
from tools.sim.group import SimGroup
from tools.sim.world import World


def values(group: SimGroup) -> list[int]:
    """The number at every peer that is up, as far as each has come."""
    return [counted(peer.node.view) for peer in group.peers.values()]


def test_a_leader_that_is_cut_off_and_one_that_crashes(shardkv_sim):
    async def body(world: World) -> None:
        group = make_group(world, Counter)
        client = GroupClient(group)
        first = await group.wait_leader()
        assert loads(await client.call(INC))[0] == 1

        world.net.isolate(group.names[first], world.net.hosts)
        assert loads(await client.call(INC))[0] == 2  # the other two have a leader of their own
        assert counted(group.peers[first].node.view) == 1  # and the first one knows nothing of it
        world.net.rejoin(group.names[first])

        second = await group.wait_leader()
        group.crash(second)
        assert loads(await client.call(INC))[0] == 3
        group.start(second)

        await settle(group)
        assert values(group) == [3, 3, 3]
        check_group(group)

    shardkv_sim(body)


@pytest.mark.sim_limit(300)
def test_every_increment_counts_exactly_once(shardkv_sim):
    async def body(world: World) -> None:
        group = make_group(world, Counter)
        clients = [GroupClient(group) for _ in range(3)]
        replies: list[int] = []

        async def increment(client: GroupClient) -> None:
            for _ in range(20):
                replies.append(loads(await client.call(INC))[0])
                await trio.sleep(0.3)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(increment, client)
            await trouble(group, seconds=10)

        await settle(group)
        assert sum(client.retries for client in clients) > 0, "nothing ever failed: the test shows nothing"
        assert sorted(replies) == list(range(1, 61))  # no increment is lost, none is counted twice
        assert values(group) == [60, 60, 60]
        check_group(group)

    shardkv_sim(body)


@pytest.mark.sim_limit(300)
def test_without_a_session_an_unknown_increment_may_count(shardkv_sim):
    async def body(world: World) -> None:
        group = make_group(world, Counter)
        client = GroupClient(group)
        acknowledged = unknown = 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble, group, 20)
            for _ in range(100):
                outcome = await client.once(INC)
                acknowledged += isinstance(outcome, Applied)
                unknown += isinstance(outcome, Unknown)
                await trio.sleep(0.2)

        await settle(group)
        assert len(set(values(group))) == 1
        assert acknowledged <= values(group)[0] <= acknowledged + unknown
        check_group(group)

    shardkv_sim(body)


def test_the_key_value_service_itself(shardkv_sim):
    async def body(world: World) -> None:
        cluster = await make_cluster(world, groups=2)
        kv = cluster.service_clerk()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble, cluster.group(1), 5)
            for number in range(20):
                version = await kv.put("count", str(number).encode(), number)  # exactly once, so no version is skipped
                assert version == number + 1
                await trio.sleep(0.2)
        assert await kv.get("count") == (b"19", 20)
        await settle(cluster.group(1))
        check_group(cluster.group(1), rows=False)

    shardkv_sim(body)
