"""A cluster of `LocalCluster` whose peers reach each other through a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tools.cluster import LocalCluster
from tools.layout import Layout
from tools.proxy.switchboard import Proxy, open_proxy


@asynccontextmanager
async def behind_proxy(cluster: LocalCluster, layout: Layout, rng: Random | None = None) -> AsyncIterator[Proxy]:
    """Make the cluster, unless it is made, and a proxy with a host for each peer, by its name. Inside the block `up` and
    `start` run peers that dial through it. A client joins under a name of its own:

        async with behind_proxy(cluster, layout) as proxy:
            await cluster.up(layout)
            async with shardkv.connect(cluster.manifest.controllers, routes=await proxy.join("client")) as kv: ...

    Peers that still run when the block is left have lost each other. Raises what `LocalCluster.prepare` does.
    """
    with cluster.locked():
        cluster.prepare(layout)
    addresses = cluster.addresses()
    async with open_proxy(addresses, rng) as proxy:
        for name in addresses:
            cluster.routes[name] = await proxy.join(name)
        try:
            yield proxy
        finally:
            cluster.routes.clear()
