"""How long a peer, or a whole group, is away after a kill; and how long one needs to catch up.

A restart is timed as a user would see it: every peer of the group is killed (-9) under a load of puts and started again at
once. From the event `imported` of the last process (the program is loaded, no data file is open yet) to the answer of the
first linearizable get, asked for without pause.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

import shardkv
from shardkv.errors import KvError
from tools.bench.figures import median
from tools.bench.generator import BenchError
from tools.bench.ours import OurSystem, our_system
from tools.bench.report import Tell, over_rounds
from tools.bench.usage import usage
from tools.bench.workload import KEYS_MAX, Workload, key_of
from tools.layout import Layout

VALUE_BYTES = 128
ASK_S = 0.25
"""How long one try of the first get may take before it is asked anew."""
BACK_S = 60.0
CAUGHT_UP_S = 300.0
LOAD_S = 600.0
KILL_AFTER_S = 0.5
POLL_S = 0.005
LARGE_BYTES, LARGE_KEYS = 4 << 10, 6 << 10
"""24 MiB: more than the leader's log goes back, so a follower that missed it needs an image."""
MOMENT_KEYS = 5_000


@asynccontextmanager
async def under_load(system: OurSystem, workload: Workload) -> AsyncIterator[None]:
    """A load inside the block, whose outcome nobody looks at: it is told nothing when the servers die."""

    async def load() -> None:
        with suppress(BenchError):
            await system.measure(workload, 0.0, LOAD_S, time.time_ns())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        await trio.sleep(KILL_AFTER_S)
        yield
        nursery.cancel_scope.cancel()


async def restart_group(system: OurSystem, keys: int) -> dict[str, float | None]:
    """Kill all peers of group 1 under load, start them, and time the first get. `keys` are there already."""
    cluster = system.cluster
    names = list(cluster.addresses(1))
    async with under_load(system, Workload("put", 16, VALUE_BYTES, keys_max=min(keys, KEYS_MAX))):
        for name in names:
            await cluster.kill(name)
    with cluster.locked():
        for name in names:
            cluster.process(name).start(cluster.folder / f"{name}.toml")
    async with shardkv.connect(system.controllers, deadline_s=ASK_S) as kv:
        with trio.move_on_after(BACK_S) as scope:
            while True:
                with suppress(KvError):
                    await kv.get(key_of(0, VALUE_BYTES))
                    break
        answered = time.monotonic()
    if scope.cancelled_caught:
        raise BenchError(f"group 1 gave no answer {BACK_S:.0f} s after its restart")
    events = [cluster.process(name) for name in names]
    imported = [float((process.event("imported") or {})["monotonic"]) for process in events]
    listening = [float(said["monotonic"]) for process in events if (said := process.event("listening")) is not None]
    return {
        "first_get_s": answered - max(imported),
        "listening_s": median([at - min(imported) for at in listening]),
        "memory_mb": _memory_mb(system, names),
    }


def _memory_mb(system: OurSystem, names: Sequence[str]) -> float:
    found = [used for name in names if (pid := system.cluster.process(name).pid()) and (used := usage(pid))]
    return max((used.memory_bytes for used in found), default=0) / 1e6


async def restarts(folder: Path, counts: Sequence[int], rounds: int, replicas: int, tell: Tell) -> list[dict[str, Any]]:
    """Restart a group of so many peers with each number of keys, so often."""
    results = []
    layout = Layout(ctrl_peers=1, groups=1, replicas=replicas)
    async with our_system(folder, layout, f"shardkv of {replicas}") as system:
        written = 0
        for count in counts:
            await system.fill_keys(Workload("put", value_bytes=VALUE_BYTES), written, count)
            written = count
            found = []
            for number in range(rounds):
                found.append(await restart_group(system, count))
                tell(
                    f"restart {number + 1} of {rounds}, {replicas} peers, {count:,} keys: {found[-1]['first_get_s']:.2f} s"
                )
                await trio.sleep(1.0)  # an election time-out, and the flush of what was replayed
            what = {"kind": "restart", "peers": replicas, "keys": count}
            results.append({**what, "figures": over_rounds(found)})
    return results


# --- catching up -----------------------------------------------------------------------------------------------------


async def catch_up(system: OurSystem, name: str) -> float:
    """Start a follower, and wait until it has applied what its leader had committed at its start; the seconds from its
    `imported`. Raises `BenchError`."""
    cluster = system.cluster
    leader = await cluster.leader(1)
    status = await cluster.peer(leader)
    if status is None:
        raise BenchError(f"{leader} does not say how it is")
    await cluster.start(name)
    imported = float((cluster.process(name).event("imported") or {})["monotonic"])
    with trio.move_on_after(CAUGHT_UP_S):
        while True:
            own = await cluster.peer(name)
            if own is not None and own["applied"][1] >= status["commit"]:
                return time.monotonic() - imported
            await trio.sleep(POLL_S)
    raise BenchError(f"{name} has not caught up after {CAUGHT_UP_S:.0f} s")


async def catching_up(folder: Path, keys: int, rounds: int, tell: Tell) -> list[dict[str, Any]]:
    """A follower that has nothing, one that is far behind, one that was away for a moment."""
    small = Workload("put", value_bytes=VALUE_BYTES)
    large = Workload("put", value_bytes=LARGE_BYTES)
    results = []
    async with our_system(folder, Layout(ctrl_peers=1, groups=1, replicas=3), "shardkv") as system:
        cluster = system.cluster
        leader = await cluster.leader(1)
        victim = next(name for name in cluster.addresses(1) if name != leader)
        for how, missed, times in (
            ("it has nothing", ((small, keys), (large, LARGE_KEYS)), 1),
            ("it is far behind", ((large, LARGE_KEYS),), rounds),
            ("it was away for a moment", ((small, min(keys, MOMENT_KEYS)),), rounds),
        ):
            found, by = [], ""
            size = sum(workload.value_bytes * count for workload, count in missed)
            for _ in range(times):
                last = await _last(system, victim)
                await cluster.kill(victim)
                for workload, count in missed:
                    await system.fill_keys(workload, 0, count)
                seconds = await catch_up(system, victim)
                by = "image" if await _base(system, victim) > last else "log"
                found.append({"seconds": seconds, "mb_per_s": size / 1e6 / seconds})
                tell(f"catch-up by {by}, {how}: {seconds:.2f} s")
            results.append({"kind": "catch-up", "how": how, "by": by, "bytes": size, "figures": over_rounds(found)})
    return results


async def _last(system: OurSystem, name: str) -> int:
    """The index of a peer's last entry."""
    return int(((await system.cluster.peer(name)) or {})["last"][1])


async def _base(system: OurSystem, name: str) -> int:
    """The index up to which a peer's log is purged: past its own last entry only an image takes it."""
    return int(((await system.cluster.peer(name)) or {})["base"][1])
