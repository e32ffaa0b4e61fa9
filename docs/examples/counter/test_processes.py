"""A count kept in a cluster of real processes, some of which are killed."""

from __future__ import annotations

import pytest
import trio

THREE = {"ctrl_peers": 1, "groups": 1, "replicas": 3}
ALONE = {"ctrl_peers": 1, "groups": 1, "replicas": 1}


@pytest.mark.trio
async def test_a_count_survives_kill_9(shardkv_cluster):
    async with shardkv_cluster(**THREE) as cluster, cluster.clerk() as kv:
        acknowledged = 0

        async def count_up() -> None:
            nonlocal acknowledged
            while True:
                version = await kv.put("count", str(acknowledged + 1).encode(), acknowledged, deadline_s=30)
                assert version == acknowledged + 1
                acknowledged = version

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_up)
            await trio.sleep(0.3)
            leader = await cluster.leader(1)
            await cluster.kill(leader)
            await trio.sleep(0.5)
            await cluster.start(leader)
            nursery.cancel_scope.cancel()

        _, version = await kv.get("count", deadline_s=30)
        assert acknowledged > 0
        assert version in (acknowledged, acknowledged + 1)  # the one under way may have counted


def test_a_count_survives_the_end_of_everything(shardkv_cluster):
    with shardkv_cluster(**ALONE) as cluster:

        async def put() -> None:
            async with cluster.clerk() as kv:
                assert await kv.put("count", b"1", 0) == 1

        async def get() -> None:
            async with cluster.clerk() as kv:
                assert await kv.get("count", deadline_s=30) == (b"1", 1)

        cluster.run(put)
        cluster.end()  # kill -9 for every process
        cluster.run(cluster.up, cluster.layout)
        cluster.run(get)
