"""A large shard that moves to another group, alone and beside a load on all other shards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import trio

import shardkv
from shardkv.config import shard_of
from tools.admin import control, network
from tools.bench.figures import median
from tools.bench.generator import BenchError
from tools.bench.ours import OurSystem, our_system
from tools.bench.report import Tell, over_rounds
from tools.bench.usage import usages
from tools.bench.workload import Workload
from tools.layout import Layout

VALUE_BYTES = 64 << 10
SHARDS = 12
MOVE_S = 300.0
WARM_UP_S = 1.0
LOOK_S = 0.1


@dataclass
class Peak:
    """The most memory that any peer used, looked at now and then."""

    memory_bytes: int = 0
    by: str = ""
    before: dict[str, int] = field(default_factory=dict)

    async def watch(self, system: OurSystem) -> None:
        """For ever."""
        names = [name for gid in (1, 2) for name in system.cluster.addresses(gid)]
        pids = {name: pid for name in names if (pid := system.cluster.process(name).pid()) is not None}
        self.before = {name: used.memory_bytes for name, used in usages(pids).items()}
        while True:
            for name, used in usages(pids).items():
                if used.memory_bytes > self.memory_bytes:
                    self.memory_bytes, self.by = used.memory_bytes, name
            await trio.sleep(LOOK_S)


async def fill_shard(system: OurSystem, shard: int, size: int) -> int:
    """Put values into one shard until it holds about `size` bytes; how many bytes that are."""
    rng = Random(1)
    keys = [
        key
        for number in range(size // VALUE_BYTES * 4 * SHARDS)
        if shard_of(key := b"move-%d" % number, SHARDS) == shard
    ]
    keys = keys[: max(1, size // VALUE_BYTES)]
    async with shardkv.connect(system.controllers, deadline_s=60.0) as kv:
        for at in range(0, len(keys), 64):
            outcome = await kv.put_many({key: rng.randbytes(VALUE_BYTES) for key in keys[at : at + 64]})
            for failed in outcome.values():
                if not isinstance(failed, int):
                    raise BenchError(f"a shard could not be filled: {failed}")
    return len(keys) * VALUE_BYTES


async def move(system: OurSystem, shard: int, gid: int) -> float:
    """Move a shard; the seconds until the configuration with it is in force and the old owner has let it go."""
    async with network(b"") as rpc:
        began = time.monotonic()
        await control(rpc, system.controllers).move(shard, gid, deadline_s=MOVE_S)
        return time.monotonic() - began


async def moving(folder: Path, size: int, rounds: int, measure_s: float, tell: Tell) -> list[dict[str, Any]]:
    """Measure the moves of a shard of `size` bytes, and what the others feel."""
    layout = Layout(ctrl_peers=1, groups=2, replicas=3, shards=SHARDS)
    others = Workload("put", 64, 128)
    results = []
    async with our_system(folder, layout, "shardkv x2") as system:
        async with network(b"") as rpc:
            owners = (await control(rpc, system.controllers).query()).shards
        shard, home = 0, owners[0]
        others = replace(others, without_shard=shard)
        await system.fill(others)
        written = await fill_shard(system, shard, size)
        tell(f"shard {shard} holds {written / 1e6:.0f} MB")
        turn = [home]

        def away() -> int:
            turn[0] = 3 - turn[0]
            return turn[0]

        found = [await _alone(system, shard, away, written) for _ in range(rounds)]
        results.append({"kind": "move", "load": "none", "bytes": written, "figures": over_rounds(found)})
        tell(f"moved alone: {found[-1]['mb_per_s']:.0f} MB/s")
        alone_s = median([one["seconds"] or 0.0 for one in found])
        best = await system.measure(others, WARM_UP_S, measure_s, 1)
        half = replace(others, rate_per_s=best.operations / best.seconds / 2)
        calm, found = [], []
        for number in range(rounds):
            sample = await system.measure(half, WARM_UP_S, measure_s, 2 + number)
            calm.append({"share": sample.operations / sample.seconds / half.rate_per_s, **_latencies(sample.figures())})
            found.append(await _beside(system, shard, away, written, half, alone_s))
            share = 100 * (found[-1]["share"] or 0)
            tell(f"moved beside a load: {found[-1]['mb_per_s']:.0f} MB/s, the others keep {share:.0f} %")
        rate = {"rate_per_s": half.rate_per_s}
        results.append({"kind": "move", "load": "half, no move", "bytes": 0, **rate, "figures": over_rounds(calm)})
        results.append({"kind": "move", "load": "half", "bytes": written, **rate, "figures": over_rounds(found)})
    return results


def _latencies(figures: dict[str, float | None]) -> dict[str, float | None]:
    return {name: figures[name] for name in ("p50_ms", "p99_ms", "p999_ms")}


async def _alone(system: OurSystem, shard: int, away: Callable[[], int], size: int) -> dict[str, float | None]:
    peak = Peak()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peak.watch, system)
        seconds = await move(system, shard, away())
        nursery.cancel_scope.cancel()
    return {"seconds": seconds, "mb_per_s": size / 1e6 / seconds, "memory_mb": peak.memory_bytes / 1e6}


async def _beside(
    system: OurSystem, shard: int, away: Callable[[], int], size: int, load: Workload, alone_s: float
) -> dict[str, float | None]:
    """A move while the others are under a load that begins before it and is measured from the move's begin on, for as long as
    a move takes alone: beside a load it takes longer, so no calm is measured with it."""
    moved: dict[str, float | None] = {}

    async def begin() -> None:
        nursery.start_soon(go)

    async def go() -> None:
        moved.update(await _alone(system, shard, away, size))

    async with trio.open_nursery() as nursery:
        sample = await system.measure(load, WARM_UP_S, max(0.2, alone_s), time.time_ns(), on_begin=begin)
    return {
        **moved,
        "share": sample.operations / sample.seconds / load.rate_per_s,
        **_latencies(sample.figures()),
    }
