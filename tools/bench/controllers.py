"""`bench controllers`: the shard configuration on one kvsrv, or on a kvraft of 1, 3, 5 or 7 peers, with peers down.

What a replicated controller costs, and what it gives. Per case a fresh cluster of real processes, and two parts:

* **the scenario 5D** (`tools.demo`): 60 puts, 60 gets, the fault, a join, 60 gets, a leave, a query. Its seconds, the
  requests of all peers and clients, its operations.
* **steady use**: every peer runs again; one client asks for the configuration again and again, another moves a shard to and
  fro; the fault comes once more. Latencies of both, and for how long no query was answered: the sum of all pauses between
  two answers that are longer than `PAUSE_S`.

The faults: nobody; `follower` or `leader`, killed (-9), and dead from then on; `rolling`, one peer after another killed and
started again. A single server that is killed comes back after `BACK_S`, for nobody can go on without it, and has no
follower. The unreliable network drops one frame in ten, delays and reorders the others, on every way from and to a
controller peer; shard groups and their clients are not touched.

The results of the report: store, peers, down, network, `figures` ({name: {median spread rounds}}: seconds, rpcs, ops;
query_count, query_p50_ms, query_p99_ms; change_count, change_p50_ms, change_p99_ms; unavailable_s), `case` false where there
is no such case, `error` if a round failed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import trio

import shardkv
from ctrler.clerk import ControllerClerk
from raftlog.net.base import NetworkError, RpcClient
from raftlog.net.tcp import TcpRpcClient
from shardkv.errors import KvError
from tools.admin import control, network, peer_statuses
from tools.bench.figures import quantile
from tools.bench.report import Report, Reporting, Tell, over_rounds
from tools.cluster import LocalCluster
from tools.demo import DemoFailed, Outcome, Stage, join_and_leave, spread
from tools.layout import ClusterError, Layout
from tools.processes import ProcessError
from tools.proxy import UNRELIABLE
from tools.proxy.local import behind_proxy

STORES = (("kvsrv", 1), ("kvraft", 1), ("kvraft", 3), ("kvraft", 5), ("kvraft", 7))
DOWN = ("nobody", "follower", "leader", "rolling")
NETWORKS = ("reliable", "unreliable")
PAUSE_S = {"reliable": 0.05, "unreliable": 1.5}
"""A pause between two answered queries that is longer counts as time in which nobody answered. A lost frame costs the client
a second, and is no outage."""
BACK_S = 1.0
"""After so long a single server that was killed is started again."""
ROLL_S = 0.7
"""How long a rolling crash leaves a peer dead, and then everybody alive."""
QUERY_EVERY_S = 0.005
CHANGE_EVERY_S = 0.05
CALM_S = 0.5
"""Steady use goes on for so long before the fault."""
CELL_S = 180.0
"""A case that takes longer has failed."""
TROUBLES = (DemoFailed, KvError, NetworkError, ClusterError, ProcessError)


@dataclass(frozen=True)
class Case:
    """One row of the comparison."""

    store: str
    peers: int
    down: str
    network: str

    @property
    def exists(self) -> bool:
        """Whether there is such a case."""
        return self.peers > 1 or self.down != "follower"

    def name(self) -> str:
        """In words."""
        return f"{self.store} of {self.peers}, {self.down} down, {self.network}"


@dataclass(frozen=True)
class Plan:
    """The cases, so many rounds of each kind of network, and how long steady use is watched in each, in seconds."""

    cases: tuple[Case, ...]
    rounds: int = 3
    watch_s: float = 3.0
    unreliable_rounds: int = 1
    unreliable_watch_s: float = 8.0

    def rounds_of(self, case: Case) -> int:
        """How often a case is played."""
        return self.rounds if case.network == "reliable" else self.unreliable_rounds


def cases(
    stores: Sequence[tuple[str, int]] = STORES, down: Sequence[str] = DOWN, networks: Sequence[str] = NETWORKS
) -> tuple[Case, ...]:
    """All combinations."""
    return tuple(Case(store, peers, d, n) for n, (store, peers), d in product(networks, stores, down))


_SOME = (("kvsrv", 1), ("kvraft", 3), ("kvraft", 5))
QUICK = Plan(cases(_SOME[:2], networks=("reliable",)), rounds=1, watch_s=2.0)
STANDARD = Plan(
    cases(networks=("reliable",)) + cases(_SOME, ("nobody", "leader"), ("unreliable",)),
    rounds=2,
    watch_s=2.5,
    unreliable_watch_s=10.0,
)
FULL = Plan(cases(), rounds=5, watch_s=5.0, unreliable_rounds=3, unreliable_watch_s=20.0)
"""Quick: one server against three. Standard: all on the reliable network, the most telling of the unreliable one."""


def chosen(plan: Plan, networks: Sequence[str], down: Sequence[str], rounds: int | None = None) -> Plan:
    """Only the plan's cases on these networks and with these faults; without names all of them. In so many rounds, if that
    is said."""
    wanted = [c for c in plan.cases if c.network in (networks or NETWORKS) and c.down in (down or DOWN)]
    plan = replace(plan, cases=tuple(wanted))
    return plan if rounds is None else replace(plan, rounds=rounds, unreliable_rounds=rounds)


# --- one case --------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What steady use saw. Times in seconds: latencies, and when a query was answered, from the fault's moment on."""

    queries: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)


def unavailable(begin: float, answered: Sequence[float], end: float, pause_s: float) -> float:
    """For how long nobody answered between begin and end: the sum of the longer pauses."""
    moments = [begin, *(at for at in answered if begin <= at <= end), end]
    return sum(pause for before, after in pairwise(moments) if (pause := after - before) > pause_s)


class Faults:
    """Kills and starts controller peers. `lost_requests` are those that killed peers had sent and no longer can tell of."""

    def __init__(self, cluster: LocalCluster, rpc: RpcClient, down: str) -> None:
        self.lost_requests = 0
        self._cluster = cluster
        self._rpc = rpc
        self._down = down
        self._names = list(cluster.addresses(0))

    async def strike(self, nursery: trio.Nursery) -> None:
        """The fault; what goes on of it does so in the nursery."""
        if self._down == "nobody":
            return
        if self._down == "rolling":
            nursery.start_soon(self._roll)
            return
        leader = await self._cluster.leader(0) if len(self._names) > 1 else self._names[0]
        victim = leader if self._down == "leader" else next(name for name in self._names if name != leader)
        await self._kill(victim)
        if len(self._names) == 1:
            nursery.start_soon(self._back, victim)

    async def heal(self) -> None:
        """Start everybody who is dead, and wait for a leader."""
        for name in self._names:
            if not self._cluster.process(name).is_running():
                await self._cluster.start(name)
        await self._cluster.leader(0)

    async def _back(self, name: str) -> None:
        await trio.sleep(BACK_S)
        await self._cluster.start(name)

    async def _roll(self) -> None:
        """One after another, the leader of the beginning last: a cancel leaves at most one of them dead."""
        while True:
            for name in self._names:
                await self._kill(name)
                await trio.sleep(ROLL_S)
                await self._cluster.start(name)
                await trio.sleep(ROLL_S)

    async def _kill(self, name: str) -> None:
        statuses = await peer_statuses(self._rpc, {name: self._cluster.address(name)})
        self.lost_requests += sum(status["requests_sent"] for status in statuses.values())
        await self._cluster.kill(name)


async def play(folder: Path, case: Case, watch_s: float) -> dict[str, float | None]:
    """One round of one case in a new directory: its figures. Raises `TROUBLES`."""
    layout = Layout(ctrl_peers=case.peers, groups=2, replicas=3, store=case.store, join=False)
    with trio.move_on_after(CELL_S):
        async with _clients(folder, layout, case) as (at, rest):
            faults = Faults(at.cluster, at.rpc, case.down)
            figures = await _scenario(at, faults)
            await faults.heal()
            if case.down == "rolling":
                watch_s = max(watch_s, 2 * ROLL_S * case.peers)  # everybody dies once
            watch, begin, end = await _steady(at, rest, faults, watch_s)
            return {**figures, **watched(watch, begin, end, PAUSE_S[case.network])}
    raise DemoFailed(f"no end after {CELL_S:.0f} s")


def watched(watch: Watch, begin: float, end: float, pause_s: float) -> dict[str, float | None]:
    """The figures of steady use."""
    found: dict[str, float | None] = {"unavailable_s": unavailable(begin, watch.answered, end, pause_s)}
    for name, times in (("query", watch.queries), ("change", watch.changes)):
        found[f"{name}_count"] = float(len(times))
        for word, share in (("p50", 0.5), ("p99", 0.99)):
            found[f"{name}_{word}_ms"] = 1000 * quantile(times, share) if times else None
    return found


@asynccontextmanager
async def _clients(folder: Path, layout: Layout, case: Case) -> AsyncIterator[tuple[Stage, ControllerClerk]]:
    """The cluster of a case with its clients, and a second clerk of the controllers; every process is ended."""
    cluster = LocalCluster(folder)
    try:
        if case.network == "reliable":
            await cluster.up(layout)
            async with _dialled(cluster, {}, case) as found:
                yield found
            return
        async with behind_proxy(cluster, layout) as proxy:
            await cluster.up(layout)
            routes = await proxy.join("client")
            proxy.set_between(cluster.addresses(0), proxy.hosts, UNRELIABLE)
            async with _dialled(cluster, routes, case) as found:
                yield found
            await cluster.kill_all()
    finally:
        with trio.CancelScope(shield=True):
            await cluster.kill_all()


@asynccontextmanager
async def _dialled(
    cluster: LocalCluster, routes: dict[str, str], case: Case
) -> AsyncIterator[tuple[Stage, ControllerClerk]]:
    controllers = list(cluster.addresses(0).values())
    async with (
        network(cluster.manifest.cluster) as rpc,
        TcpRpcClient(routes=routes) as calls,
        TcpRpcClient(routes=routes) as others,
        shardkv.connect(controllers, deadline_s=CELL_S, routes=routes) as kv,
    ):
        outcome = Outcome(peers=case.peers, store=case.store, down=case.down)
        at = Stage(cluster, kv, control(calls, controllers), rpc, lambda line: None, outcome)
        yield at, control(others, controllers)


async def _scenario(at: Stage, faults: Faults) -> dict[str, float | None]:
    """The scenario once."""
    before = sum((await at.counted()).values()) - at.kv.requests_sent - at.ctl.requests_sent
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        await spread(at)
        await faults.strike(nursery)
        await join_and_leave(at)
        seconds = time.monotonic() - began
        nursery.cancel_scope.cancel()
    after = sum((await at.counted()).values()) + faults.lost_requests + at.kv.requests_sent + at.ctl.requests_sent
    return {"seconds": seconds, "rpcs": float(after - before), "ops": float(at.outcome.ops)}


async def _steady(at: Stage, rest: ControllerClerk, faults: Faults, watch_s: float) -> tuple[Watch, float, float]:
    """Steady use under the fault; what was seen, and from when to when."""
    watch = Watch()
    await rest.join({1: list(at.cluster.addresses(1).values())}, deadline_s=CELL_S)

    async def queries() -> None:
        while True:
            began = time.monotonic()
            await at.ctl.query(deadline_s=CELL_S)
            watch.answered.append(time.monotonic())
            watch.queries.append(watch.answered[-1] - began)
            await trio.sleep(QUERY_EVERY_S)

    async def changes() -> None:
        gid = 1
        while True:
            began = time.monotonic()
            await rest.move(0, gid, deadline_s=CELL_S)
            watch.changes.append(time.monotonic() - began)
            gid = 3 - gid
            await trio.sleep(CHANGE_EVERY_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(queries)
        nursery.start_soon(changes)
        await trio.sleep(CALM_S)
        watch.queries.clear()
        watch.changes.clear()
        begin = time.monotonic()
        await faults.strike(nursery)
        await trio.sleep(watch_s)
        end = time.monotonic()
        nursery.cancel_scope.cancel()
    return watch, begin, end


# --- all of them -----------------------------------------------------------------------------------------------------


async def run_controllers(folder: Path, plan: Plan, tell: Tell) -> Report:
    """Every case of the plan, in interleaved rounds, under `folder`. A case that fails is told in its result."""
    reporting = Reporting("controllers", folder)
    found: dict[Case, list[dict[str, float | None]]] = {case: [] for case in plan.cases}
    errors: dict[Case, str] = {}
    for number in range(max(map(plan.rounds_of, plan.cases), default=0)):
        reporting.probe()
        for case in plan.cases:
            if not case.exists or number >= plan.rounds_of(case):
                continue
            watch_s = plan.watch_s if case.network == "reliable" else plan.unreliable_watch_s
            place = folder / f"{number}-{'-'.join(map(str, (case.store, case.peers, case.down, case.network)))}"
            try:
                figures = await play(place, case, watch_s)
            except* TROUBLES as group:
                errors[case] = f"round {number + 1}: {_first(group)}"
                tell(f"{case.name()}: {errors[case]}")
            else:
                found[case].append(figures)
                tell(f"round {number + 1}: {case.name()}: {figures['seconds']:.2f} s, {figures['rpcs']:.0f} RPCs")
    reporting.report.results = [_result(case, found[case], errors.get(case)) for case in plan.cases]
    reporting.probe()
    return reporting.end()


def _result(case: Case, rounds: list[dict[str, float | None]], error: str | None) -> dict[str, Any]:
    return {
        "store": case.store,
        "peers": case.peers,
        "down": case.down,
        "network": case.network,
        "case": case.exists,
        "figures": over_rounds(rounds) if rounds else {},
        "error": error,
    }


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
