"""One cluster's directories, made once: three peers of a group with data, deletions and a restart behind them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from tests.tools.test_crash import clients
from tools.cluster import LocalCluster
from tools.layout import Layout


async def _make(folder: Path) -> None:
    layout = Layout(ctrl_peers=1, groups=1, replicas=3)
    cluster = LocalCluster(folder)
    await cluster.up(layout)
    try:
        async with clients(cluster) as (kv, _, _):
            await kv.put_many({f"key-{n}": b"value-%06d" % n * (1 + n % 40) for n in range(300)})
            for n in range(0, 300, 7):
                await kv.delete(f"key-{n}")
            await kv.put("big", b"x" * 60_000)
        await cluster.kill("server-1-2")
        await cluster.up(layout)
    finally:
        await cluster.down()


@pytest.fixture(scope="session")
def cluster_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected") / "c"
    trio.run(partial(_make, folder))
    return folder
