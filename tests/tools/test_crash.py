"""Real processes, real disks, real `kill -9`: nothing acknowledged is lost, whenever it strikes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest
import trio

import shardkv
from ctrler.clerk import ControllerClerk
from ctrler.records import CURRENT, NEXT, unpack_change, unpack_config
from raftlog.codec import CodecError
from raftlog.durable import LOG_TABLES, read_entries
from raftlog.machine import decode_operations
from raftlog.net.base import RpcClient
from raftlog.types import EntryKind
from shardkv.commands import Put, decode_command
from shardkv.errors import KvError
from store.lmdb_engine import LmdbEngine
from tools.admin import control, network
from tools.cluster import LocalCluster
from tools.layout import Layout

pytestmark = pytest.mark.process


@asynccontextmanager
async def running(folder: Path, layout: Layout) -> AsyncIterator[LocalCluster]:
    """A cluster that is up, and that leaves no process behind."""
    cluster = LocalCluster(folder)
    try:
        await cluster.up(layout)
        yield cluster
    finally:
        with trio.CancelScope(shield=True):
            await cluster.kill_all()


def controllers(cluster: LocalCluster) -> list[str]:
    return list(cluster.addresses(0).values())


@asynccontextmanager
async def clients(cluster: LocalCluster) -> AsyncIterator[tuple[shardkv.Clerk, ControllerClerk, RpcClient]]:
    async with network(cluster.manifest.cluster) as rpc, shardkv.connect(controllers(cluster)) as kv:
        yield kv, control(rpc, controllers(cluster)), rpc


async def spread(kv: shardkv.Clerk, count: int = 60) -> dict[str, bytes]:
    """As the labs' SpreadPuts: each key created once, so its version must stay 1."""
    values = {f"k{i}": f"value-{i:014}".encode() for i in range(count)}
    for key, value in values.items():
        assert await kv.put(key, value, 0) == 1
    return values


async def check(kv: shardkv.Clerk, values: dict[str, bytes]) -> None:
    for key, value in values.items():
        assert await kv.get(key, deadline_s=20) == (value, 1), key


def configurations_on_disk(folder: Path) -> tuple[int, int]:
    """(next.num, current.num) that whoever is elected will have at least. Nobody may be running.

    What one disk alone has may be lost: the two others elect each other without it."""
    found = []
    for directory in sorted(folder.glob("server-0-*")):
        if not (directory / "log").is_dir():
            continue
        engine = LmdbEngine.open_readonly(directory / "log", LOG_TABLES)
        try:
            with engine.read() as txn:
                entries = list(read_entries(txn))
        finally:
            engine.close()
        nums = {NEXT: 0, CURRENT: 0}
        for entry in entries:
            if entry.kind is not EntryKind.COMMAND:
                continue
            for operation in decode_operations(entry.data):
                try:
                    command = decode_command(operation.command)
                except CodecError:
                    continue
                if isinstance(command, Put) and command.key == NEXT.encode():
                    nums[NEXT] = max(nums[NEXT], unpack_change(command.value).config.num)
                if isinstance(command, Put) and command.key == CURRENT.encode():
                    nums[CURRENT] = max(nums[CURRENT], unpack_config(command.value).num)
        found.append((entries[-1].id, nums[NEXT], nums[CURRENT]))
    electable = sorted(found)[len(found) // 2 :]
    return min(following for _, following, _ in electable), min(current for _, _, current in electable)


async def test_all_controllers_killed_in_the_middle_of_moves(tmp_path: Path) -> None:
    rng = Random(7)
    hits = 0
    layout = Layout(ctrl_peers=3, groups=2, replicas=1, join=False)
    async with running(tmp_path / "c", layout) as cluster:
        async with clients(cluster) as (kv, _, _):
            values = await spread(kv)
        for _ in range(40):
            async with clients(cluster) as (kv, ctl, _), trio.open_nursery() as nursery:
                groups = (await ctl.query(deadline_s=20)).groups
                if 2 in groups:
                    nursery.start_soon(ignoring, ctl.leave, [2])
                else:
                    nursery.start_soon(ignoring, ctl.join, {2: list(cluster.addresses(2).values())})
                await trio.sleep(rng.uniform(0.0, 0.03))
                for name in cluster.running(0):
                    await cluster.kill(name)
                following, current = configurations_on_disk(tmp_path / "c")
                hits += following > current
                nursery.cancel_scope.cancel()
            await cluster.up(layout)
            async with clients(cluster) as (kv, ctl, _):
                await until_settled(ctl, at_least=following)
                await check(kv, values)
            if hits >= 5:
                break
    assert hits >= 5, f"only {hits} kills hit a move"


async def ignoring(call: object, *args: object) -> None:
    """A call whose outcome does not matter: its server is about to be killed."""
    with suppress(KvError):
        await call(*args, deadline_s=30)  # type: ignore[operator]


async def until_settled(ctl: ControllerClerk, at_least: int) -> None:
    """The successor has finished what was posted."""
    with trio.fail_after(30):
        while True:
            routing = await ctl.routing(deadline_s=20)
            if routing.next is None and routing.current.num >= at_least:
                return
            await trio.sleep(0.02)


async def test_every_process_killed_at_random_moments(tmp_path: Path, crash_moments: int) -> None:
    """The first `up` included: every acknowledged put is there afterwards, with its version."""
    rng = Random(11)
    layout = Layout(ctrl_peers=3, groups=2, replicas=1)
    clusters: list[LocalCluster] = []
    acknowledged: dict[str, tuple[bytes, int]] = {}
    checked = 0
    try:
        for moment in range(crash_moments):
            if moment % 4 == 0:
                clusters.append(LocalCluster(tmp_path / f"c{moment}"))
                acknowledged = {}
            cluster = clusters[-1]
            await live_and_die(cluster, layout, rng, acknowledged, moment)
            await cluster.up(layout)
            async with clients(cluster) as (kv, _, _):
                for key, (value, version) in acknowledged.items():
                    found = await kv.get(key, deadline_s=30)
                    assert found[1] >= version, f"{key} has version {found[1]}, {version} was acknowledged"
                    assert found[1] > version or found[0] == value, key
                    acknowledged[key] = found
                    checked += 1
            await cluster.kill_all()
    finally:
        with trio.CancelScope(shield=True):
            for cluster in clusters:
                await cluster.kill_all()
    assert checked, "no put was ever acknowledged"


async def live_and_die(
    cluster: LocalCluster, layout: Layout, rng: Random, acknowledged: dict[str, tuple[bytes, int]], moment: int
) -> None:
    """Start everything, put as fast as it goes, and kill all processes after a random time, wherever that strikes. Of four
    moments the first strikes the first `up` of a new cluster, two its puts, and the last a later `up`, mostly."""
    putting = trio.Event()

    async def put_on() -> None:
        await cluster.up(layout)
        async with clients(cluster) as (kv, _, _):
            for number in range(100_000):
                key = f"k{number % 40}"
                value = f"{moment}-{number}".encode()
                try:
                    acknowledged[key] = (value, await kv.put(key, value))
                except KvError:
                    return
                putting.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put_on)
        if moment % 4 in (1, 2):
            await putting.wait()
        await trio.sleep(rng.uniform(0.05, 1.0))
        nursery.cancel_scope.cancel()
    await cluster.kill_all()
