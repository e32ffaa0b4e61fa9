"""Our cluster as a system to measure: real processes in a temporary directory, with the defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import trio

from raftlog.net.base import RpcClient
from tools.admin import network, peer_statuses
from tools.bench.generator import BenchError, Play, play
from tools.bench.system import LOAD, Sample
from tools.bench.usage import Usage, cpu_between, usages
from tools.bench.workload import Job, Workload
from tools.cluster import LocalCluster
from tools.layout import Layout

FILL_CLIENTS = 256
FILL_LEAST_PER_S = 200
"""A filling that is slower has failed."""
STATUS_S = 5.0
"""How long a peer under load may take to say how it is."""
LEADERS_S = 15.0
BARRIERS = 2
"""Of a synced commit of LMDB: its pages, then its meta page."""


@dataclass
class Look:
    """What the processes have used and counted so far."""

    used: dict[str, Usage]
    statuses: dict[str, dict[str, Any]]

    def counted(self, key: str) -> int:
        """The sum of a counter over all peers."""
        return sum(int(status.get(key, 0)) for status in self.statuses.values())


class OurSystem:
    """A cluster that runs. Made by `our_system`."""

    def __init__(self, cluster: LocalCluster, rpc: RpcClient, name: str, generators: int) -> None:
        self.name = name
        self.interface = "own protocol"
        self.cluster = cluster
        self._rpc = rpc
        self._generators = generators
        self._paused: list[str] = []

    @property
    def controllers(self) -> tuple[str, ...]:
        """Where the controllers listen."""
        return tuple(self.cluster.addresses(0).values())

    def about(self) -> Mapping[str, Any]:
        """See `System.about`."""
        manifest = self.cluster.manifest
        return {
            "version": version("shardkv"),
            "groups": len([gid for gid in manifest.groups if gid]),
            "peers": {str(gid): len(group.addresses) for gid, group in manifest.groups.items()},
            "load_generators": self._generators,
        }

    async def look(self) -> Look:
        """What the peers have used and counted so far."""
        processes = {name: self.cluster.process(name).pid() for name in self.cluster.addresses()}
        statuses = await peer_statuses(self._rpc, self.cluster.addresses(), STATUS_S)
        return Look(usages({name: pid for name, pid in processes.items() if pid is not None}), statuses)

    def _jobs(self, job: Job) -> list[Job]:
        clients = job.workload.clients
        count = min(self._generators, clients)
        shares = [clients // count + (number < clients % count) for number in range(count)]
        rng = Random(job.seed)
        return [
            replace(
                job,
                seed=rng.getrandbits(32),
                workload=replace(job.workload, clients=share, rate_per_s=job.workload.rate_per_s / count),
            )
            for share in shares
        ]

    async def fill(self, workload: Workload) -> None:
        """See `System.fill`."""
        await self.fill_keys(workload, 0, workload.keys)

    async def fill_keys(self, workload: Workload, first: int, end: int) -> None:
        """Put the keys with these numbers once."""
        filling = replace(workload, operation="put", clients=FILL_CLIENTS, connections=1)
        limit_s = 60.0 + (end - first) / FILL_LEAST_PER_S
        await play([Job(self.controllers, filling, 0.0, limit_s, 1, fill=(first, end))], trio.lowlevel.checkpoint)

    async def measure(
        self,
        workload: Workload,
        warm_up_s: float,
        measure_s: float,
        seed: int,
        *,
        on_begin: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> Sample:
        """See `System.measure`. `on_begin` is awaited when the warm-up is over."""
        before = Look({}, {})

        async def on_measuring() -> None:
            nonlocal before
            before = await self.look()
            await on_begin()

        jobs = self._jobs(Job(self.controllers, workload, warm_up_s, measure_s, seed))
        played = await play(jobs, on_measuring)
        return _sample(played, before, await self.look())

    def pause(self) -> None:
        """See `System.pause`."""
        self._paused = self.cluster.running()
        for name in self._paused:
            self.cluster.pause(name)

    async def resume(self) -> None:
        """See `System.resume`. A leader that slept steps down, so it takes an election."""
        for name in self._paused:
            self.cluster.resume(name)
        self._paused = []
        with trio.move_on_after(LEADERS_S):
            gids = [gid for gid, group in self.cluster.manifest.groups.items() if group.active]
            await self.cluster.wait_leaders(self._rpc, gids)
            return
        raise BenchError(f"{self.name}: not every group has a leader {LEADERS_S:.0f} s after a pause")


def _sample(played: Play, before: Look, after: Look) -> Sample:
    cpu_s = cpu_between(before.used, after.used)
    roles = {
        name: "leader" if status.get("role") == "leader" else "follower"
        for name, status in after.statuses.items()
        if status["gid"]
    }
    return Sample(
        played.gets,
        played.puts,
        played.seconds,
        {**cpu_s, LOAD: played.cpu_s},
        roles,
        after.counted("requests_sent") - before.counted("requests_sent"),
        after.counted("messages_sent") - before.counted("messages_sent"),
        BARRIERS * (after.counted("commits") - before.counted("commits")),
        played.repeated,
    )


@asynccontextmanager
async def our_system(folder: Path, layout: Layout, name: str, generators: int = 1) -> AsyncIterator[OurSystem]:
    """A fresh cluster of real processes; every process is ended, whatever happens."""
    cluster = LocalCluster(folder)
    try:
        await cluster.up(layout)
        async with network(cluster.manifest.cluster) as rpc:
            yield OurSystem(cluster, rpc, name, generators)
    finally:
        with trio.CancelScope(shield=True):
            await cluster.kill_all()
