"""`bench kv`: puts, linearizable gets and mixes, of ours and of a system beside it, in interleaved rounds.

A round plays every point once, every system in turn; whose turn it is not is paused. The results of the report:

    point      in words
    workload   {operation clients value_bytes choice driver connections rate_per_s without_shard keys_max groups lease_reads}
    system     name, and `interface`: what the load generator speaks
    figures    {name: {median spread rounds}}, names as in `system.Sample.figures`: ops_per_s, p50_ms p99_ms p999_ms,
               CPU of leaders, followers and load generators per operation in us, leader_busy and load_busy as shares of a
               core, rpcs_per_op (between peers, without the client's own), messages_per_op (with the answers), syncs_per_op
               (disk barriers of all peers together), repeated (requests that were sent again, or failed)
    cpu_us     {process: CPU time per operation in us}, the median of the rounds; "load" are the load generators
    ratio      ops_per_s (median) as a multiple of the other system's under the same load; only of ours, where there is one
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import trio

from tools.bench.figures import median
from tools.bench.ours import our_system
from tools.bench.plans import Plan, Point
from tools.bench.report import Report, Reporting, Tell, over_rounds
from tools.bench.system import Sample, System
from tools.layout import Layout

REPLICAS = 3
BUSY = 0.85
"""A load generator that uses more of a core may be the bottleneck."""


@dataclass
class Entry:
    """One point on one system, and the rounds so far."""

    point: Point
    system: System
    samples: list[Sample] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "point": self.point.name(),
            "workload": {
                **asdict(self.point.workload),
                "groups": self.point.groups,
                "lease_reads": self.point.lease_reads,
            },
            "system": self.system.name,
            "interface": self.system.interface,
            "figures": over_rounds([sample.figures() for sample in self.samples]),
            "cpu_us": self._cpu_us(),
        }

    def _cpu_us(self) -> dict[str, float]:
        names = dict.fromkeys(name for sample in self.samples for name in sample.cpu_s)
        return {
            name: median([1e6 * s.cpu_s[name] / max(1, s.operations) for s in self.samples if name in s.cpu_s])
            for name in names
        }


Another = Callable[[Path], Any]
"""Given a directory, an async context that gives a `System`."""


async def run_kv(
    folder: Path, plan: Plan, tell: Tell, *, generators: int = 1, another: Another | None = None, seed: int = 1
) -> Report:
    """Measure all points of the plan under `folder`, which must be empty. Raises `BenchError`, `ClusterError`."""
    reporting = Reporting("kv", folder)
    reporting.probe()
    async with _systems(folder, plan, generators, another) as (ours, other):
        systems = [*ours.values(), *([other] if other is not None else [])]
        entries = [Entry(point, ours[point.cluster]) for point in plan.points]
        entries += [Entry(point, other) for point in plan.points if other is not None and _comparable(point)]
        entries.sort(key=lambda entry: plan.points.index(entry.point))
        turns = Turns(systems)
        for system in systems:
            await turns.give(system)
            tell(f"{system.name}: writing the keys")
            for workload in {
                e.point.workload.value_bytes: e.point.workload for e in entries if e.system is system
            }.values():
                await system.fill(workload)
        for number in range(plan.rounds):
            turns.nobody()
            await trio.to_thread.run_sync(reporting.probe)
            for entry in entries:
                await turns.give(entry.system)
                sample = await entry.system.measure(
                    entry.point.workload, plan.warm_up_s, plan.measure_s, seed * 1000 + number
                )
                entry.samples.append(sample)
                speed = sample.operations / sample.seconds
                tell(f"round {number + 1} of {plan.rounds}, {entry.system.name}: {entry.point.name()}: {speed:,.0f}/s")
        reporting.report.systems = [{"name": s.name, "interface": s.interface, **s.about()} for s in systems]
    reporting.report.results = _with_ratios(entries, other)
    reporting.probe()
    reporting.report.warnings += doubts(reporting.report.results)
    return reporting.end()


def doubts(results: Sequence[dict[str, Any]]) -> list[str]:
    """What was measured beside what should have been: load generators that had no time left, leaders that moved."""
    found = []
    for result in results:
        figures, where = result["figures"], f"{result['point']} ({result['system']})"
        if figures["load_busy"]["median"] > BUSY:
            busy = f"{100 * figures['load_busy']['median']:.0f} % of a core"
            found.append(f"{where}: the load generator used {busy}, and may be what was measured; use --generators")
        if repeated := sum(figures["repeated"]["rounds"]):
            found.append(
                f"{where}: {repeated:.0f} requests were sent again or failed: a leader moved, or was overloaded"
            )
    return found


def _comparable(point: Point) -> bool:
    """Whether another system is put under the same load: it knows neither our groups and leases nor our clients."""
    workload = point.workload
    return point.cluster == (1, False) and workload.driver == "wire" and workload.connections == 1


def _with_ratios(entries: list[Entry], other: System | None) -> list[dict[str, Any]]:
    results = [entry.result() for entry in entries]
    theirs = {
        entry.point.workload: result["figures"]["ops_per_s"]["median"]
        for entry, result in zip(entries, results, strict=True)
        if entry.system is other
    }
    for entry, result in zip(entries, results, strict=True):
        if entry.system is not other and (speed := theirs.get(entry.point.workload)):
            result["ratio"] = result["figures"]["ops_per_s"]["median"] / speed
    return results


class Turns:
    """One system runs at a time: the others' processes are paused. Alone, a system is never paused."""

    def __init__(self, systems: list[System]) -> None:
        self._systems = systems
        self._running = list(systems)

    def nobody(self) -> None:
        """Pause them all."""
        if len(self._systems) > 1:
            for system in self._running:
                system.pause()
            self._running = []

    async def give(self, system: System) -> None:
        """Its turn: it serves on return."""
        if self._running != [system]:
            self.nobody()
            if system not in self._running:
                await system.resume()
                self._running = [system]


@asynccontextmanager
async def _systems(
    folder: Path, plan: Plan, generators: int, another: Another | None
) -> AsyncIterator[tuple[dict[tuple[int, bool], System], System | None]]:
    """Ours by kind (`Point.cluster`), and the other one; all of them run."""
    async with AsyncExitStack() as stack:
        ours: dict[tuple[int, bool], System] = {}
        for groups, lease in sorted({point.cluster for point in plan.points}):
            layout = Layout(ctrl_peers=1, groups=groups, replicas=REPLICAS, lease_reads=lease)
            name = ("shardkv" if groups == 1 else f"shardkv x{groups}") + (" leases" if lease else "")
            place = folder / f"ours-{groups}{'-leases' if lease else ''}"
            ours[groups, lease] = await stack.enter_async_context(our_system(place, layout, name, generators))
        other = await stack.enter_async_context(another(folder / "another")) if another is not None else None
        yield ours, other
