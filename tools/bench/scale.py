"""`bench scale`: what grows with what. Three parts (`groups`, `idle`, `growth`).

The results of the report, each with `kind` and `figures` ({name: {median spread rounds}}):

    groups   groups; put_per_s, get_per_s of 64 clients, put_leader_cpu_us and get_leader_cpu_us of all leaders together
    idle     groups; per group messages_per_s and syncs_per_s, per peer cpu_share (of a core) and memory_mb
    growth   by: "keys" (new ones) or "overwrites" (of a fixed set); count, of all puts so far; of the peer that has the most
             memory_mb, state_mb (used of state/), log_mb (entries in memory), files_mb (on disk); put_per_s, get_per_s;
             restart_s, from a kill under load to the first get (see `restart`)

Memory is the processes' own (see `usage`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from tools.bench.kv import run_kv
from tools.bench.ours import BARRIERS, OurSystem, our_system
from tools.bench.plans import BASE, Point
from tools.bench.plans import Plan as KvPlan
from tools.bench.report import Report, Reporting, Tell, over_rounds
from tools.bench.restart import restart_group
from tools.bench.usage import cpu_between
from tools.bench.workload import Workload
from tools.layout import Layout

PARTS = ("groups", "idle", "growth")
FIXED_KEYS = 10_000


@dataclass(frozen=True)
class Plan:
    """How much of each part is done, and which parts. Times in seconds."""

    groups: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 3
    warm_up_s: float = 0.7
    measure_s: float = 2.0
    idle_groups: tuple[int, ...] = (1, 4)
    idle_s: float = 10.0
    idle_rounds: int = 3
    keys: tuple[int, ...] = (10_000, 50_000, 100_000, 200_000)
    overwrites: tuple[int, ...] = (50_000, 100_000, 200_000)
    settle_s: float = 2.0
    """After a start or a load: elections are over, and what is written behind is written."""
    parts: tuple[str, ...] = PARTS


QUICK = Plan(
    groups=(1, 4), rounds=1, measure_s=1.5, idle_s=5.0, idle_rounds=1, keys=(10_000, 50_000), overwrites=(50_000,)
)
STANDARD = Plan()
FULL = Plan(
    groups=tuple(range(1, 9)),
    rounds=5,
    measure_s=5.0,
    idle_groups=(1, 2, 4, 8),
    idle_s=30.0,
    keys=(10_000, 100_000, 300_000, 1_000_000),
    overwrites=(100_000, 300_000, 1_000_000, 3_000_000),
)


async def run_scale(folder: Path, plan: Plan, tell: Tell) -> Report:
    """Do the plan's parts, one after another, under `folder`."""
    reporting = Reporting("scale", folder)
    results = reporting.report.results
    reporting.probe()
    if "groups" in plan.parts:
        results += await _groups(folder / "groups", plan, tell)
        reporting.probe()
    if "idle" in plan.parts:
        for groups in plan.idle_groups:
            results.append(await _idle(folder / f"idle-{groups}", groups, plan, tell))
        reporting.probe()
    if "growth" in plan.parts:
        results += await _growth(folder / "keys", "keys", plan, plan.keys, tell)
        results += await _growth(folder / "overwrites", "overwrites", plan, plan.overwrites, tell)
    reporting.probe()
    return reporting.end()


async def _groups(folder: Path, plan: Plan, tell: Tell) -> list[dict[str, Any]]:
    """Speed by the number of groups. One cluster at a time: idle peers of another would cost some of it."""
    found = []
    for groups in plan.groups:
        points = tuple(Point(replace(BASE, operation=operation), groups) for operation in ("put", "get"))
        place = folder / str(groups)
        place.mkdir(parents=True)
        report = await run_kv(place, KvPlan(points, plan.rounds, plan.warm_up_s, plan.measure_s), tell)
        put, get = (result["figures"] for result in report.results)
        figures = {"put_per_s": put["ops_per_s"], "get_per_s": get["ops_per_s"]}
        cpu = {"put_leader_cpu_us": put["leader_cpu_us"], "get_leader_cpu_us": get["leader_cpu_us"]}
        found.append({"kind": "groups", "groups": groups, "figures": {**figures, **cpu}})
    return found


async def _idle(folder: Path, groups: int, plan: Plan, tell: Tell) -> dict[str, Any]:
    """What groups cost that nobody uses."""
    rounds: list[dict[str, float | None]] = []
    async with our_system(folder, Layout(ctrl_peers=1, groups=groups, replicas=3), "shardkv") as system:
        await trio.sleep(plan.settle_s)
        peers = [name for name in system.cluster.addresses() if not name.startswith("server-0-")]
        for _ in range(plan.idle_rounds):
            before = await system.look()
            began = trio.current_time()
            await trio.sleep(plan.idle_s)
            after = await system.look()
            seconds = trio.current_time() - began
            cpu = cpu_between(before.used, after.used)
            messages, commits = (
                sum(after.statuses[name][key] - before.statuses[name][key] for name in peers)
                for key in ("messages_sent", "commits")
            )
            rounds.append(
                {
                    "messages_per_s": messages / seconds / groups,
                    "syncs_per_s": BARRIERS * commits / seconds / groups,
                    "cpu_share": sum(cpu[name] for name in peers) / seconds / len(peers),
                    "memory_mb": sum(after.used[name].memory_bytes for name in peers) / 1e6 / len(peers),
                }
            )
        tell(f"{groups} idle groups: {rounds[-1]['messages_per_s']:.0f} messages/s each")
    return {"kind": "idle", "groups": groups, "figures": over_rounds(rounds)}


async def _growth(folder: Path, by: str, plan: Plan, counts: Sequence[int], tell: Tell) -> list[dict[str, Any]]:
    """Sizes and speeds after so many puts of new keys, or of the same ones again and again."""
    workload = Workload("put")
    found = []
    async with our_system(folder, Layout(ctrl_peers=1, groups=1, replicas=3), "shardkv") as system:
        written = 0
        found.append(await _grown(system, by, 0, plan))
        for count in counts:
            while written < count:
                first = written if by == "keys" else 0
                end = count if by == "keys" else min(FIXED_KEYS, count - written)
                await system.fill_keys(workload, first, end)
                written += end - first
            found.append(await _grown(system, by, count, plan))
            tell(f"after {count:,} {by}: {found[-1]['figures']['memory_mb']['median']:.0f} MB")
    return found


async def _grown(system: OurSystem, by: str, count: int, plan: Plan) -> dict[str, Any]:
    """How large the peers of group 1 are, after a pause; then how fast, and how fast back, if there are keys."""
    await trio.sleep(plan.settle_s)
    figures: dict[str, float | None] = {**await sizes(system)}
    if count:
        for operation in ("put", "get"):
            load = replace(BASE, operation=operation, keys_max=min(count, FIXED_KEYS))
            sample = await system.measure(load, plan.warm_up_s, plan.measure_s, count)
            figures[f"{operation}_per_s"] = sample.operations / sample.seconds
        figures["restart_s"] = (await restart_group(system, count))["first_get_s"]
    return {"kind": "growth", "by": by, "count": count, "figures": over_rounds([figures])}


async def sizes(system: OurSystem) -> dict[str, float]:
    """How large the peers of group 1 are: of each size that of the peer that has the most."""
    names = list(system.cluster.addresses(1))
    look = await system.look()
    statuses = [look.statuses[name] for name in names]
    return {
        "memory_mb": max(look.used[name].memory_bytes for name in names) / 1e6,
        "state_mb": max(status["map_used_bytes"] for status in statuses) / 1e6,
        "log_mb": max(status["log_bytes"] for status in statuses) / 1e6,
        "files_mb": max(_on_disk(system.cluster.folder / name) for name in names) / 1e6,
    }


def _on_disk(folder: Path) -> int:
    """The bytes that the files under a directory take on the disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())
