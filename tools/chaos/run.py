"""A run of chaos, from an empty folder to a judgement: `run`, for the command and for whoever has a workload of their own.

    outcome = trio.run(run, Plan(minutes=1.0), Path("report"), MyWorkload())
    assert outcome.verdict == "passed", outcome.findings

See `load` for what a workload is and `docs/chaos.md` for an example.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import trio

from raftlog.machine import StateMachine
from tools.chaos.arena import Arena, ChaosCluster, NotConverged, open_arena
from tools.chaos.changes import random_move
from tools.chaos.faults import Fault, NotStruck, chosen_faults
from tools.chaos.judge import judge_directories
from tools.chaos.kv_load import KvWorkload
from tools.chaos.load import Client, Meter, Workload
from tools.chaos.machine import MachineCluster, equal_states
from tools.chaos.nemesis import Band, Nemesis, Tally
from tools.chaos.network import CLIENT
from tools.chaos.places import Place
from tools.layout import Layout
from tools.processes import ProcessError

PASSED, VIOLATION, NO_CONVERGENCE = "passed", "violation", "no convergence"
MOVE_EVERY_S = 2.0
"""The mean time between moves of shards that happen all the while."""


@dataclass(frozen=True)
class Plan:
    """What a run is. It lasts `minutes`, or with `cycles` until every fault that can be struck here, and every pair of
    kinds, was struck so often. With `moves` shards move all the while."""

    minutes: float = 5.0
    cycles: int | None = None
    seed: int = field(default_factory=lambda: secrets.randbelow(1 << 32))
    faults: str | None = None
    layout: Layout = field(default_factory=lambda: Layout(ctrl_peers=3, groups=2, replicas=3))
    clients: int = 8
    moves: bool = True
    machine: type[StateMachine] | None = None
    """A state machine of one's own instead of the key/value service; see `machine`."""
    disks: tuple[type[Place], ...] | None = None
    """What the peers of a group lie on, in turn; None: of all kinds there are here, groups of one peer on a plain one."""


@dataclass
class Outcome:
    """How a run came out. Times are in seconds since it began."""

    plan: Plan
    verdict: str = PASSED
    findings: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """The faults that were asked for and cannot be struck on this machine, and why."""
    tally: Tally = field(default_factory=Tally)
    bands: list[Band] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    meter: Meter | None = None
    moves: int = 0
    lasted_s: float = 0.0
    judged: str = ""
    """What the workload and the inspector looked at, in words."""


@dataclass
class _Run:
    plan: Plan
    arena: Arena
    outcome: Outcome
    workload: Workload
    meter: Meter
    tell: Callable[[str], None]

    def client(self, name: str, routes: dict[str, str]) -> Client:
        addresses = list(self.arena.cluster.addresses(0).values())
        return Client(name, addresses, routes, Random(f"{self.plan.seed} {name}"), self.meter)

    async def play(self, faults: list[Fault]) -> None:
        """Load and faults, until the plan is done; then everything comes back."""
        routes = await self.arena.proxy.join(CLIENT)
        async with trio.open_nursery() as nursery:
            for number in range(self.plan.clients):
                nursery.start_soon(self._work, self.client(f"c{number}", routes))
            if self.plan.moves and len(self.arena.gids) > 2:
                nursery.start_soon(self._move, Random(f"{self.plan.seed} moves"))
            nemesis = Nemesis(self.arena, faults, self.plan.seed, self.meter.now, self._told)
            self.outcome.bands, self.outcome.tally = nemesis.bands, nemesis.tally
            await nemesis.run(lambda: self._goes_on(nemesis))
            await trio.sleep(0.5)  # a moment of peace, so that the clients finish something
            nursery.cancel_scope.cancel()
        await self.arena.converge()

    async def _work(self, client: Client) -> None:
        try:
            await self.workload.work(client)
        except Exception as error:  # noqa: BLE001  # tidy: a workload may be anybody's; what it raises was found
            self.arena.findings.append(f"client {client.name} ended: {error!r}")

    def _goes_on(self, nemesis: Nemesis) -> bool:
        if self.arena.findings:
            return False
        if self.plan.cycles is not None:
            return not nemesis.has_struck(self.plan.cycles)
        return self.meter.now() < 60 * self.plan.minutes

    async def _move(self, rng: Random) -> None:
        while True:
            await trio.sleep(rng.expovariate(1 / MOVE_EVERY_S))
            try:
                await random_move(self.arena, rng)
            except NotStruck:
                continue  # a group is away at the moment
            self.outcome.moves += 1

    def _told(self, band: Band) -> None:
        how = f"missed: {band.missed}" if band.missed else f"back after {band.back - band.ended:.1f} s"
        self.tell(f"{band.begun:7.1f} s  {' + '.join(band.faults)}: {band.text or '-'}; {how}")

    async def judge(self) -> None:
        """Ask the workload, end the peers in good order, and look at what they left."""
        findings = self.outcome.findings
        self.tell("reading everything back, and judging the history")
        findings += await self.workload.judge(self.client("judge", {}))
        self.tell("ending the peers, and comparing what is on their disks")
        if self.plan.machine is not None:
            self.outcome.judged, wrong = await equal_states(self.arena)
            findings += wrong
        await self.arena.cluster.down()
        if self.plan.machine is None:
            self.outcome.judged, wrong = await trio.to_thread.run_sync(judge_directories, self.arena.cluster)
            findings += wrong


async def run(
    plan: Plan,
    folder: Path,
    workload: Workload | None = None,
    tell: Callable[[str], None] = lambda line: None,
    watch: Callable[[Meter, Arena], None] = lambda meter, arena: None,
) -> Outcome:
    """Play the plan with a cluster in `folder`/cluster, which must not exist yet; it is removed if the verdict is "passed"
    and kept otherwise, as plain directories that `shardkv inspect` reads.

    `tell` gets a line per step; `watch` gets once what can be looked at meanwhile. Raises `UnknownFault`, and where no
    cluster comes up `ClusterError`, `ProcessError` or `OSError`. Cancelled, it ends all its processes.
    """
    chosen = chosen_faults(plan.faults)
    skipped = {fault.name: why for fault in chosen if (why := _why_not(fault, plan))}
    outcome = Outcome(plan, skipped=skipped)
    faults = [fault for fault in chosen if fault.name not in skipped]
    home = folder.resolve() / "cluster"
    make = ChaosCluster if plan.machine is None else partial(MachineCluster, machine=plan.machine)
    rng = Random(f"{plan.seed} places")
    async with open_arena(home, plan.layout, rng, make, plan.disks) as arena:
        meter = outcome.meter = Meter()
        outcome.metrics, arena.tell = arena.metrics, tell
        this = _Run(plan, arena, outcome, workload or KvWorkload(), meter, tell)
        watch(meter, arena)
        try:
            if faults:
                await this.play(faults)
            outcome.lasted_s = meter.now()
            await this.judge()
        except* (NotConverged, ProcessError) as group:
            outcome.verdict = NO_CONVERGENCE
            outcome.findings += _texts(group)
            outcome.lasted_s = outcome.lasted_s or meter.now()
        outcome.findings += arena.findings
    if outcome.findings and outcome.verdict == PASSED:
        outcome.verdict = VIOLATION
    if outcome.verdict == PASSED:
        await trio.to_thread.run_sync(shutil.rmtree, home)
    return outcome


def _why_not(fault: Fault, plan: Plan) -> str:
    """Why a fault cannot be struck in this run, "" if it can."""
    if fault.sharded and (plan.machine is not None or plan.layout.groups < 2):
        return "needs controllers and two shard groups"
    return fault.missing()


def _texts(group: BaseException) -> list[str]:
    if isinstance(group, BaseExceptionGroup):
        return [text for error in group.exceptions for text in _texts(error)]
    return [str(group)]


def summary(outcome: Outcome) -> dict[str, Any]:
    """The figures of a run: the keys of `shardkv chaos --json`."""
    meter, plan = outcome.meter, outcome.plan
    seconds = meter.seconds if meter is not None else []
    latencies = sorted(value for second in seconds for value in second.latencies_s)
    return {
        "verdict": outcome.verdict,
        "seed": plan.seed,
        "lasted_s": round(outcome.lasted_s, 1),
        "controllers": plan.layout.ctrl_peers,
        "groups": plan.layout.groups,
        "replicas": plan.layout.replicas,
        "clients": plan.clients,
        "findings": outcome.findings,
        "cycles": dict(sorted(outcome.tally.faults.items())),
        "pairs": dict(sorted(outcome.tally.pairs.items())),
        "missed": dict(sorted(outcome.tally.missed.items())),
        "skipped": outcome.skipped,
        "acknowledged_writes": meter.acknowledged if meter is not None else 0,
        "answered_reads": meter.answered if meter is not None else 0,
        "failed": meter.failed if meter is not None else 0,
        "moves": outcome.moves,
        "latency_s": figures(latencies),
        "seconds_without_a_write": sum(second.writes == 0 for second in seconds),
        "measured": {what: figures(sorted(values)) for what, values in sorted(outcome.metrics.items())},
        "judged": outcome.judged,
    }


def figures(values: list[float]) -> dict[str, float]:
    """Of a sorted list: count, sum, p50, p99, max."""
    if not values:
        return {"count": 0}
    at = [values[min(int(share * len(values)), len(values) - 1)] for share in (0.5, 0.99)]
    rounded = {"sum": sum(values), "p50": at[0], "p99": at[1], "max": values[-1]}
    return {"count": len(values), **{name: round(value, 4) for name, value in rounded.items()}}
