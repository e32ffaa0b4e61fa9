"""One seed, from its first start to its verdict: a safety phase in which everything may fail and nothing acknowledged may be
lost, then a liveness phase: a random quorum of every group is healed, the rest stays away for ever, and it must converge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from time import process_time

import trio

from ctrler.controller import Controller
from raftlog.net.sim import RELIABLE
from shardkv.config import ShardConfig
from shardkv.errors import KvError
from shardkv.kvmachine import VersionedMachine
from store.engine import StoreError
from tools.checker.history import Op, Recorder
from tools.checker.linearizability import Verdict, check
from tools.sim.cluster import SimCluster
from tools.sim.group import SimGroup
from tools.sim.watch import Watch
from tools.sim.world import World, simulate, sub_rng
from tools.swarm.changes import Changer
from tools.swarm.clients import SwarmClient, key_name
from tools.swarm.contents import wrong_contents
from tools.swarm.faults import Nemesis
from tools.swarm.ledger import Ledger, watched
from tools.swarm.shape import Shape, draw, features

SAFETY_S = 15.0
SAFETY_MAX_S = 300.0
OPERATIONS = 200
CONVERGE_S = 40.0

PASSED, VIOLATION, NO_CONVERGENCE, CRASH = "passed", "violation", "no convergence", "crash"


class NoConvergence(Exception):
    """After the faults ended the system did not come to rest in time; the text says what was missing."""


class HistoryBroken(AssertionError):
    """The clients' histories have no explanation."""


@dataclass
class Outcome:
    """What became of a seed. `check` names what found the violation; `virtual_s` and `cpu_s` are what it took."""

    seed: int
    verdict: str = PASSED
    check: str = ""
    text: str = ""
    shape: str = ""
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    operations: int = 0
    steps: int = 0
    trace: str = ""
    marks: dict[str, int] = field(default_factory=dict)


def play(seed: int, *, invariants: bool = True, story: Callable[[Run], None] | None = None) -> Outcome:
    """Play a seed. With `invariants` off only the clients' histories judge. `story` is given the run before it begins."""
    outcome = Outcome(seed)
    began = process_time()
    try:
        simulate(lambda world: Run(world, outcome, invariants, story).run(), seed=seed, limit_s=600.0)
    except BaseException as group:  # tidy: whatever a seed ends with is its verdict
        if isinstance(group, KeyboardInterrupt):
            raise
        judge(outcome, group)
    outcome.cpu_s = process_time() - began
    return outcome


def judge(outcome: Outcome, error: BaseException) -> None:
    """Write down what a run that raised this is."""
    leaves = _leaves(error)
    worst = next((e for e in leaves if isinstance(e, AssertionError)), leaves[0])
    outcome.text = f"{type(worst).__name__}: {worst}"
    outcome.check = type(worst).__name__
    if isinstance(worst, AssertionError):
        outcome.verdict = VIOLATION
    elif isinstance(worst, NoConvergence | trio.TooSlowError):
        outcome.verdict = NO_CONVERGENCE
    else:
        outcome.verdict = CRASH
        where = worst.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        if where is not None:
            outcome.text += f" at {where.tb_frame.f_code.co_qualname}, line {where.tb_lineno}"


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


class Run:
    """The parts of one run."""

    def __init__(
        self, world: World, outcome: Outcome, invariants: bool, story: Callable[[Run], None] | None = None
    ) -> None:
        self.world = world
        self.outcome = outcome
        self.invariants = invariants
        self.shape: Shape = draw(world.seed)
        outcome.shape = str(self.shape)
        self.history = Recorder()
        self.ledger = Ledger(exactly_once=self.shape.sessions, strict=invariants)
        self.watch = world.watch = Watch(invariants=invariants)
        self.cluster = self._cluster()
        self.clients: list[SwarmClient] = []
        self.changers = [Changer(self.cluster, self.shape, world.rng("changer", n)) for n in range(self.shape.changers)]
        self.nemesis = Nemesis(world, self.cluster, self.shape, self.changers, world.rng("nemesis"))
        self.verdict = Verdict()
        if story is not None:
            story(self)

    def _cluster(self) -> SimCluster:
        shape, ledger = self.shape, self.ledger
        cluster = SimCluster(
            self.world,
            controllers=shape.controllers,
            store=shape.store,
            replicas=shape.replicas,
            shards=shape.shards,
            service=shape.service,
            config=shape.raft,
            limits=shape.limits,
            lease_reads=shape.lease_reads,
            sessions_max=shape.sessions_max,
            store_sessions=shape.store_sessions,
            page_bytes=shape.page_bytes,
            watched=lambda machine, gid: watched(machine, gid, ledger),
        )
        for gid in range(1, shape.groups + 1):
            cluster.group(gid)
        if shape.drift:
            for group in [*cluster.groups.values(), cluster.store]:
                for name in group.names.values():
                    self.world.clocks[name] = drifting(sub_rng(shape.seed, "clock", name), shape.drift)
        return cluster

    # --- the phases -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything. Raises what is wrong."""
        self.world.disk_conditions = self.shape.disk
        self.world.turns_at_once = self.shape.turns_at_once
        try:
            await self._begin()
            await self._safety()
            await self._liveness()
            self._check_end()
        finally:
            self._account()

    async def _begin(self) -> None:
        cluster = self.cluster
        for group in cluster.groups.values():
            group.start()
        await cluster.set_up(cluster.controller().controller)
        self.world.net.conditions = self.shape.net
        make = cluster.service_clerk if self.shape.service else cluster.clerk
        for number in range(self.shape.clients):
            clerk = make(sessions=self.shape.sessions, resend=self.shape.resend)
            rng = self.world.rng("client", number)
            self.clients.append(SwarmClient(f"c{number}", clerk, self.shape, self.history, rng, self._told))

    def _told(self, client: str, text: str) -> None:
        self.world.trace.add("client", self.world.now(), client, text)

    async def _safety(self) -> None:
        """Faults, changes and clients at once, for a time and a number of operations."""
        began = self.world.now()
        async with trio.open_nursery() as nursery:
            tasks = [client.run for client in self.clients] + [changer.run for changer in self.changers]
            for task in (*tasks, self.nemesis.run, self._look):
                nursery.start_soon(task)
            while self.world.now() - began < SAFETY_MAX_S:
                await trio.sleep(0.5)
                enough = sum(client.ops for client in self.clients) >= OPERATIONS
                if enough and self.world.now() - began >= SAFETY_S:
                    break
            nursery.cancel_scope.cancel()

    async def _look(self) -> None:
        """States of replicas at equal positions, again and again."""
        while True:
            await trio.sleep(0.21)
            for group in self.nemesis.groups():
                for peer in group.peers.values():
                    if not self.nemesis.bad(peer.host.name):
                        rsm = peer.node.rsm
                        self.ledger.hashed(group.gid, rsm.applied, rsm.state_hash())

    async def _liveness(self) -> None:
        """Heal a random quorum of every group, and let the rest be gone."""
        rng = self.world.rng("liveness")
        self.nemesis.resting = True
        self.world.net.heal()
        self.world.net.links.clear()
        self.world.net.conditions = RELIABLE
        for group in self.nemesis.groups():
            self._keep_a_quorum(group, rng)
            group.died.clear()
        if not isinstance(self.cluster.store, SimGroup):
            self.cluster.store.start()
        await self._in_time("every group has a leader", self._leaders)
        controller = self.cluster.controller().controller
        await self._in_time("the running change is finished", lambda: self._finished(controller))
        await self._in_time("a group is there", lambda: self._a_group(controller))
        await self._in_time("every key can be read and written", self._served)
        await self._check_configurations(controller)
        for group in self.nemesis.groups():
            for number, peer in sorted(group.peers.items()):
                if isinstance(peer.machine, VersionedMachine):
                    wrong = list(wrong_contents(peer.machine, peer.node.view))
                    self._require(not wrong, f"peer {number} of group {group.gid}: {wrong}")

    def _keep_a_quorum(self, group: SimGroup, rng: Random) -> None:
        good = [peer for peer, name in sorted(group.names.items()) if not self.nemesis.bad(name)]
        kept = set(rng.sample(good, group.membership.quorum))
        for peer in sorted(group.names):
            if peer not in kept:
                group.crash(peer)
                continue
            before = group.peers.get(peer)
            if before is not None and (before.log.stuck() or before.state.stuck()):
                group.crash(peer)  # its disk hangs: it would give up in the middle
            if peer not in group.peers:
                group.start(peer)
            alive = group.peers[peer]
            alive.host.resume()
            alive.log.conditions = alive.state.conditions = self.shape.disk
            alive.node.no_space = False

    async def _in_time(self, what: str, wait: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(CONVERGE_S) as scope:
            await wait()
        if scope.cancelled_caught:
            died = [f"{g.names[p]}: {e}" for g in self.nemesis.groups() for p, e in g.died]
            raise NoConvergence(f"{CONVERGE_S:g} s after the last fault it is not so that {what}; died: {died[:3]}")

    async def _leaders(self) -> None:
        for group in self.nemesis.groups():
            await group.wait_leader(CONVERGE_S + 1)

    async def _finished(self, controller: Controller) -> None:
        """The controller peers finish it themselves; without them a controller that comes new does."""
        clerk = self.cluster.controller_clerk()
        while True:
            with suppress(KvError):
                if self.shape.service:
                    routing = await clerk.routing(deadline_s=5.0)
                else:
                    await controller.init_controller()
                    routing = await controller.query()
                if routing.next is None:
                    return
            await trio.sleep(0.1)

    async def _a_group(self, controller: Controller) -> None:
        """Two changers, each with a group to let go of, can leave nobody: then somebody is asked to join."""
        gid = min(self.cluster.groups)
        while True:
            with suppress(KvError):
                if (await controller.current())[0].groups:
                    return
                await controller.join({gid: self.cluster.servers(gid)})
                self.changers[0].count("join of the first, again")

    async def _served(self) -> None:
        for client in self.clients:
            for number in range(self.shape.keys):
                while not await client.get(key_name(number)):
                    pass
                client.ops += 1
                value = f"{client.name}:{client.ops}".encode()
                while not await client.put(key_name(number), value, None):
                    client.ops += 1
                    value = f"{client.name}:{client.ops}".encode()

    # --- the verdict ----------------------------------------------------------------------------------------------

    async def _check_configurations(self, controller: Controller) -> None:
        """The history has no gap, each configuration follows from the one before, and the groups serve what the last one
        says."""
        current, _ = await controller.current()
        history = [past.config for past in await controller.history(1, current.num)]
        require = self._require
        require([c.num for c in history] == list(range(1, current.num + 1)), f"numbers {[c.num for c in history]}")
        require(not history or history[-1] == current, f"the last of the history is not the one in force: {current}")
        for before, after in pairwise(history):
            require(follows(before, after), f"{after} does not follow from {before}")

    def _require(self, holds: bool, text: str) -> None:
        if self.invariants and not holds:
            raise ConfigurationsBroken(text)

    def _check_end(self) -> None:
        for group in self.nemesis.groups():
            self.watch.check_logs(group.gid, [p.node.core for p in group.peers.values()])
            for peer, error in group.died:
                if not isinstance(error, StoreError):
                    raise error
                assert self.nemesis.bad(group.names[peer]), f"{group.names[peer]} died in peace: {error}"
        self.verdict = check(self.settled())
        if self.verdict.verdict != "ok":
            raise HistoryBroken(str(self.verdict))

    def settled(self) -> list[Op]:
        """The history, with what the machines did in place of "maybe". A delete leaves no trace to tell it by."""
        for number, op in enumerate(self.history.ops):
            if op.op == "put" and op.result == "maybe" and op.value is not None:
                version = self.ledger.versions.get((op.key, op.value))
                self.history.settle(number, version is not None, version)
        return self.history.ops

    def _account(self) -> None:
        outcome = self.outcome
        outcome.virtual_s = self.world.now()
        outcome.operations = len(self.history.ops)
        outcome.steps = self.watch.steps
        outcome.trace = self.world.trace.hexdigest()
        marks = {f"fault: {name}": count for name, count in self.nemesis.marks.items()}
        marks |= {f"core: {name}": count for name, count in self.watch.rare.items()}
        marks |= {f"world: {name}": 1 for name in features(self.shape)}
        for changer in self.changers:
            for name, count in changer.done.items():
                marks[f"change: {name}"] = marks.get(f"change: {name}", 0) + count
        for op in self.history.ops:
            marks[f"client: {op.op} {op.result}"] = marks.get(f"client: {op.op} {op.result}", 0) + 1
        outcome.marks = dict(sorted(marks.items()))


class ConfigurationsBroken(AssertionError):
    """The history of configurations is none that the rules give."""


def follows(before: ShardConfig, after: ShardConfig) -> bool:
    """One join, leave or move leads from one to the other."""
    joined = {gid: names for gid, names in after.groups.items() if gid not in before.groups}
    left = [gid for gid in before.groups if gid not in after.groups]
    if joined or left:
        made = before.join(joined) if joined else before.leave(left)
        return not (joined and left) and made == after
    moved = [shard for shard, gid in enumerate(after.shards) if gid != before.shards[shard]]
    return len(moved) <= 1 and after.groups == before.groups and after.num == before.num + 1


def drifting(rng: Random, most: float) -> Callable[[], float]:
    """A clock with an offset that runs up to `most` too fast or too slow."""
    speed, offset = 1 + rng.uniform(-most, most), rng.uniform(0, 1000)
    return lambda: offset + speed * trio.current_time()
