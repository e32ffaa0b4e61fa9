"""How long a client waits when its group's leader is killed, or told to stop.

One client puts without pause. In a trial the leader is killed (-9), or asked to end, which hands over leadership first; the
trial's time is the longest pause between two answered puts around it. Then the peer is started again, and the next trial
begins when it has caught up and may vote again.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import trio

import shardkv
from raftlog.config import RaftConfig
from tools.bench.figures import quantile
from tools.bench.generator import BenchError
from tools.bench.ours import OurSystem, our_system
from tools.bench.report import Tell
from tools.layout import Layout

CALM_S = 0.15
AFTER_S = 0.3
"""So long a trial goes on after the leader's end and the first answer after it."""
TRIAL_S = 30.0
WAYS = ("kill", "stop")


class Puts:
    """One client that puts without pause, and when its puts were answered."""

    def __init__(self) -> None:
        self.answered: list[float] = []
        self.wake = trio.Event()

    async def run(self, kv: shardkv.Clerk) -> None:
        """For ever."""
        while True:
            await kv.put("failover", b"x" * 128, deadline_s=TRIAL_S)
            self.answered.append(time.monotonic())
            self.wake.set()

    async def next(self) -> None:
        """Wait for the next answer."""
        self.wake = trio.Event()
        await self.wake.wait()

    def longest_pause(self, begin: float) -> float:
        """Between two answers of which the later one came after `begin`."""
        last_before = max((at for at in self.answered if at <= begin), default=begin)
        return max(
            after - before for before, after in pairwise([last_before, *(a for a in self.answered if a > begin)])
        )


async def trial(system: OurSystem, kv: shardkv.Clerk, way: str) -> float:
    """One: the longest pause in seconds. Raises `BenchError`."""
    cluster = system.cluster
    leader = await cluster.leader(1)
    puts = Puts()
    with trio.move_on_after(TRIAL_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(puts.run, kv)
            await puts.next()
            await trio.sleep(CALM_S)
            begin = time.monotonic()
            if way == "kill":
                await cluster.kill(leader)
            else:
                await cluster.stop(leader)
            await puts.next()
            await trio.sleep(AFTER_S)
            await puts.next()
            nursery.cancel_scope.cancel()
        pause = puts.longest_pause(begin)
        await cluster.start(leader)
        await _level(system)
        await trio.sleep(RaftConfig().election_max_s)
        return pause
    raise BenchError(f"no end of a trial ({way} {leader}) after {TRIAL_S:.0f} s")


async def _level(system: OurSystem) -> None:
    """Wait until all peers of group 1 have applied the same."""
    cluster = system.cluster
    while True:
        found = [await cluster.peer(name) for name in cluster.addresses(1)]
        if len({str(status["applied"]) if status is not None else "" for status in found} | {""}) == 2:
            return
        await trio.sleep(0.02)


async def failovers(folder: Path, trials: int, tell: Tell) -> list[dict[str, Any]]:
    """So many trials of each way, in turn; the distribution of the pauses."""
    pauses: dict[str, list[float]] = {way: [] for way in WAYS}
    async with our_system(folder, Layout(ctrl_peers=1, groups=1, replicas=3), "shardkv") as system:
        async with shardkv.connect(system.controllers) as kv:
            for number in range(trials):
                for way in WAYS:
                    pauses[way].append(await trial(system, kv, way))
                    tell(f"trial {number + 1} of {trials}, {way}: {1000 * pauses[way][-1]:.0f} ms")
    return [
        {
            "kind": "fail-over",
            "way": way,
            "trials": trials,
            "figures": {
                f"{word}_ms": {"median": 1000 * quantile(found, share)}
                for word, share in (("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
            },
            "pauses_ms": sorted(1000 * pause for pause in found),
        }
        for way, found in pauses.items()
    ]
