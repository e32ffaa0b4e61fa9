"""A real cluster behind the proxy: it can be cut in two, and heals."""

from pathlib import Path

import pytest
import trio

import shardkv
from tools.cluster import LocalCluster
from tools.layout import Layout
from tools.proxy.local import behind_proxy

LAYOUT = Layout(ctrl_peers=1, groups=1, replicas=3, shards=2)


@pytest.mark.process
def test_a_leader_that_is_cut_off_is_replaced_and_what_it_had_is_there(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)

    async def main() -> None:
        async with behind_proxy(cluster, LAYOUT) as proxy:
            await cluster.up(LAYOUT)
            routes = await proxy.join("client")
            async with shardkv.connect(cluster.manifest.controllers, routes=routes, deadline_s=30.0) as kv:
                await kv.put("key", b"before")
                before = await cluster.leader(1)
                proxy.split([[before], [name for name in proxy.hosts if name != before]])
                assert await kv.get("key") == (b"before", 1)
                await kv.put("key", b"during", version=1)
                after = await cluster.leader(1)
                proxy.mend()
                assert await kv.get("key") == (b"during", 2)
            assert after != before
            assert proxy.counts()[before, after].dropped > 0
            # Nobody has found a way around: each peer has only ever been dialled through its ports.
            assert cluster.settings(before).routes.keys() == set(cluster.addresses().values()) - {
                cluster.address(before)
            }
            await cluster.down()

    try:
        trio.run(main)
    finally:
        trio.run(cluster.kill_all)
