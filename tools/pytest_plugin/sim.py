"""What tests do inside a simulated world: groups of their own state machine, clients of them, faults, and the checks at the
end. `world` is a `tools.sim.world.World`, made by the fixture `shardkv_sim`.

    group = make_group(world, MyMachine)          a group of three peers, running
    group.crash(0), group.start(0)                a crash that leaves what was durable, and a restart from that
    world.net.isolate, .partition, .rejoin, .heal links cut and mended, by the hosts' names (`group.names[0]`)
    await trouble(group, seconds)                 all that at random, from the seed
    await settle(group)                           an end to faults, and everybody caught up
    check_group(group)                            nobody contradicts anybody
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from itertools import count, pairwise
from typing import Any, TypeVar

import pytest
import trio

from raftlog.codec import CodecError
from raftlog.invariants import GroupWitness, check
from raftlog.machine import Applied, NotLeader, NotTaken, Operation, Outcome, StateMachine, Unknown, decode_operations
from raftlog.net.base import CallFailed, Request
from raftlog.net.sim import RELIABLE, UNRELIABLE, NetConditions
from raftlog.sessions import apply_operation
from raftlog.types import EntryKind, LogId
from store.engine import ReadTxn
from store.memory_engine import MemoryDisk, MemoryEngine
from tools.sim.cluster import SimCluster
from tools.sim.disk import DiskConditions
from tools.sim.group import SimGroup, SimPeer
from tools.sim.watch import Watch
from tools.sim.world import World, simulate

T = TypeVar("T")

SUBMIT = 1
"""The method of a client's call: args are those of an `Operation`, the reply is [word, value]."""

TRY_S = 1.0
"""How long a client waits for one peer's answer, in virtual seconds."""


# --- running -----------------------------------------------------------------------------------------------------------


class Simulation:
    """Runs simulated worlds from one seed. Made by the fixture `shardkv_sim`."""

    def __init__(self, seed: int, limit_s: float) -> None:
        self.seed = seed
        self.limit_s = limit_s
        self.world: World | None = None
        self._ended_s = 0.0

    def __call__(
        self,
        body: Callable[[World], Awaitable[T]],
        *,
        net: NetConditions = RELIABLE,
        disk: DiskConditions | None = None,
    ) -> T:
        """Run `await body(world)` in virtual time; return what it returns and raise what it raises. Every Raft group in
        the world is watched: a broken invariant of any peer fails the test at that moment."""
        __tracebackhide__ = True
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("shardkv_sim has a loop of its own: write `def test_...` and not `async def test_...`")

        async def watched(world: World) -> T:
            self.world = world
            world.watch = Watch()
            try:
                return await body(world)
            finally:
                self._ended_s = world.now()

        error: BaseException
        try:
            return simulate(watched, seed=self.seed, net=net, disk=disk, limit_s=self.limit_s)
        except trio.TooSlowError:  # of the world's own limit: one from inside would come in a group
            error = AssertionError(f"the test did not end within {self.limit_s:g} virtual seconds")
        except BaseExceptionGroup as group:
            error = alone(group)
        raise error

    def story(self) -> list[str]:
        """How far the latest run came. Equal traces are equal runs."""
        if self.world is None:
            return [f"seed {self.seed}: no simulation was run"]
        trace = self.world.trace
        at = f"at {self._ended_s:.3f} virtual s, {trace.count} events, trace {trace.hexdigest()}"
        return [f"seed {self.seed}: {at}"]


def alone(error: BaseException) -> BaseException:
    """The one exception in nested groups of one; the group, where there are more."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


# --- groups and clusters -----------------------------------------------------------------------------------------------


def make_group(
    world: World, machine: Callable[[], StateMachine], peers: int = 3, *, gid: int = 1, **options: Any
) -> SimGroup:
    """A running group of one's own state machine; `machine` makes one for each start of a peer, and all that it knows it
    reads from its tables. `options` are those of `SimGroup`."""
    group = SimGroup(world, gid, peers, machine, service=_serve, **options)
    group.start()
    return group


def _serve(group: SimGroup, peer: int, alive: SimPeer) -> None:
    """Have a peer serve `GroupClient`s."""

    def answer(request: Request) -> None:
        alive.node.submit(Operation(*request.args), lambda outcome: request.reply(_packed(outcome)))

    def on_requests(requests: Iterable[Request]) -> None:
        for request in requests:
            answer(request)

    if alive.server is None:
        alive.host.requests = on_requests


def _packed(outcome: Outcome) -> list[Any]:
    match outcome:
        case Applied(reply, at):
            return ["applied", reply, *at]
        case NotLeader(leader):
            return ["not leader", leader]
        case NotTaken(why):
            return ["not taken", why]
        case Unknown(why):
            return ["unknown", why]


class GroupClient:
    """A client of a group, on a host of its own: it can be cut off, and its calls and their replies can be lost."""

    def __init__(self, group: SimGroup) -> None:
        world = group.world
        name = next(name for n in count(1) if (name := f"client-{n}") not in world.net.hosts)
        self.group = group
        self.host = world.host(name)
        self.retries = 0
        self._rpc = world.net.rpc(self.host)
        self._rng = world.rng("group client", name)
        self._client = self._rng.getrandbits(63) | 1
        self._seq = 0
        self._target = 0
        self._one_at_a_time = trio.Lock()

    async def call(self, command: bytes) -> bytes:
        """The machine's reply to a command, which is sent again until there is one.

        With sessions (`StateMachine.scope` gives a place for them) the command takes effect exactly once, without them at
        least once. It never gives up: put `trio.fail_after` or `trio.move_on_after` around it; after those the command has
        taken effect or not, and may still.
        """
        async with self._one_at_a_time:
            self._seq += 1
            operation = Operation(self._client, self._seq, self._seq, 0, command)
            while not isinstance(outcome := await self._send(operation), Applied):
                self.retries += 1
                await trio.sleep(self._rng.uniform(0.01, 0.05))
            return outcome.reply

    async def once(self, command: bytes) -> Outcome:
        """What becomes of a command that is sent to one peer, once, without a session: `Applied` and `NotLeader` or
        `NotTaken` are certain, `Unknown` is not. It takes effect at most once."""
        return await self._send(Operation(0, 0, 0, 0, command))

    async def _send(self, operation: Operation) -> Outcome:
        names = self.group.addresses
        target = self._target % len(names)
        self._target = target + 1  # whom to ask next, unless this peer answers
        try:
            word, value, *at = await self._rpc.call(names[target], SUBMIT, list(operation), timeout_s=TRY_S)
        except CallFailed as error:
            return Unknown(str(error)) if error.sent else NotTaken(str(error))
        match word:
            case "applied":
                self._target = target
                return Applied(value, LogId(*at))
            case "not leader":
                if value is not None and value != target:
                    self._target = value
                return NotLeader(value)
            case "not taken":
                self._target = target
                return NotTaken(value)
        return Unknown(value)


async def make_cluster(
    world: World, *, groups: int = 2, controllers: int = 3, replicas: int = 3, shards: int = 12
) -> SimCluster:
    """A whole sharded cluster as in production: controller peers in group 0, shard groups that share the shards. Clients are
    `cluster.service_clerk()` and `cluster.controller_clerk()`; the groups are `cluster.store` and `cluster.group(gid)`."""
    cluster = SimCluster(world, controllers=controllers, replicas=replicas, shards=shards, service=True)
    cluster.store.start()
    for gid in range(1, groups + 1):
        cluster.start_group(gid)
    for group in (cluster.store, *cluster.groups.values()):
        await group.wait_leader()
    await cluster.controller_clerk().init({gid: cluster.servers(gid) for gid in cluster.groups})
    return cluster


# --- faults ------------------------------------------------------------------------------------------------------------


async def trouble(
    group: SimGroup,
    seconds: float,
    *,
    kinds: Iterable[str] = ("crash", "crash all", "cut", "split", "pause", "loss"),
    every_s: float = 0.5,
    lasts_s: float = 1.0,
) -> dict[str, int]:
    """One fault after another for a time, drawn from the world's seed; how many of each kind there were.

    Half of the faults look for a leader. `every_s` is the mean time between two and `lasts_s` the mean length of one, in
    virtual seconds. Each fault is ended before the next. A call that is cancelled may leave peers down: `settle` starts them.
    """
    world, rng = group.world, group.world.rng("trouble", group.gid, group.world.now())
    chosen, done = list(kinds), dict.fromkeys(kinds, 0)
    until = world.now() + seconds
    while True:
        pause = rng.expovariate(1 / every_s)
        if world.now() + pause >= until:
            await trio.sleep_until(until)
            return done
        await trio.sleep(pause)
        kind = rng.choice(chosen)
        group.start()  # one may have died of its disk
        leaders = group.leaders()
        peer = leaders[0] if leaders and rng.random() < 0.5 else rng.choice(list(group.names))
        lasts = min(rng.expovariate(1 / lasts_s), until - world.now())
        side = {name for name in sorted(world.net.hosts) if rng.random() < 0.5}
        await _FAULTS[kind](group, peer, side, lasts)
        done[kind] += 1


async def _crash(group: SimGroup, peer: int, side: set[str], seconds: float) -> None:
    group.crash(peer)
    await trio.sleep(seconds)
    group.start(peer)


async def _crash_all(group: SimGroup, peer: int, side: set[str], seconds: float) -> None:
    group.crash()
    await trio.sleep(seconds)
    group.start()


async def _cut(group: SimGroup, peer: int, side: set[str], seconds: float) -> None:
    """One peer from everybody."""
    await _split(group, peer, {group.names[peer]}, seconds)


async def _split(group: SimGroup, peer: int, side: set[str], seconds: float) -> None:
    """All hosts in two sides."""
    net = group.world.net
    names = sorted(net.hosts)
    cuts = [(a, b) for a in names for b in names if (a in side) != (b in side)]
    for source, target in cuts:
        net.block(source, target)
    try:
        await trio.sleep(seconds)
    finally:
        for source, target in cuts:
            net.unblock(source, target)


async def _pause(group: SimGroup, peer: int, side: set[str], seconds: float) -> None:
    host = group.peers[peer].host
    host.pause()
    try:
        await trio.sleep(seconds)
    finally:
        host.resume()


async def _loss(group: SimGroup, peer: int, side: set[str], seconds: float) -> None:
    """A tenth of all requests and of all replies."""
    net = group.world.net
    before, net.conditions = net.conditions, UNRELIABLE
    try:
        await trio.sleep(seconds)
    finally:
        net.conditions = before


_FAULTS: dict[str, Callable[[SimGroup, int, set[str], float], Awaitable[None]]] = {
    "crash": _crash,
    "crash all": _crash_all,
    "cut": _cut,
    "split": _split,
    "pause": _pause,
    "loss": _loss,
}


# --- the end -----------------------------------------------------------------------------------------------------------


async def settle(group: SimGroup, within_s: float = 30.0) -> None:
    """No cuts, no pauses, every peer up; return once all of them have applied the whole log, which takes an end to what
    clients send. Fails the test after `within_s` virtual seconds."""
    group.world.net.heal()
    for alive in group.peers.values():
        alive.host.resume()
    with trio.move_on_after(within_s):
        while not _at_rest(group):
            group.start()  # one may have died of its disk meanwhile
            await trio.sleep(0.02)
        return
    peers = {i: (p.node.core.state.role_name.name, p.node.rsm.applied) for i, p in sorted(group.peers.items())}
    pytest.fail(f"group {group.gid} is not at rest after {within_s:g} virtual s: {peers}")


def _at_rest(group: SimGroup) -> bool:
    leaders = group.leaders()
    if len(leaders) != 1 or len(group.peers) < len(group.names):
        return False
    last = group.peers[leaders[0]].node.core.state.log.last
    return all(peer.node.rsm.applied == last for peer in group.peers.values())


def check_group(group: SimGroup, *, rows: bool = True) -> None:
    """Nobody in the group contradicts anybody, now or ever; raises `AssertionError` that says who.

    Raft's invariants hold, the logs agree, peers that applied equally much have equal state hashes, and a fresh machine that
    is given the committed log comes to the same: so `apply` depends on nothing but the tables and the command. With `rows`
    the rows of the machine's tables are compared as well; a machine with work in `background` wants `rows=False`.
    """
    for peer, error in group.died:
        assert not isinstance(error, AssertionError), f"{group.names[peer]} died of a broken promise: {error}"
    watch, cores = group.world.watch, [peer.node.core for peer in group.peers.values()]
    witness = GroupWitness() if watch is None else watch.groups.setdefault(group.gid, GroupWitness())
    for core in cores:
        check(core)
        witness.observe(core)
    witness.check_logs(cores)
    states = sorted(
        (peer.node.rsm.applied, group.names[i], _state(peer.machine, peer.node.view, rows))
        for i, peer in group.peers.items()
    )
    for (at, one, state), (also_at, two, other) in pairwise(states):
        if at == also_at:
            _compare(f"{one} and {two}, both at {at.index}", state, other)
    for at, name, state in states[-1:]:
        replayed = _replayed(group, witness, at, rows)
        if replayed is not None:
            _compare(f"{name} and a fresh machine that applied the same log up to {at.index}", state, replayed)


State = tuple[str, dict[str, list[tuple[bytes, bytes]]]]
"""A state hash, and rows by table."""


def _state(machine: StateMachine, view: ReadTxn, rows: bool) -> State:
    return machine.state_hash(view).hex(), {table: list(view.scan(table)) for table in machine.tables if rows}


def _compare(who: str, one: State, two: State) -> None:
    for table, found in one[1].items():
        other = two[1][table]
        differing = sorted(set(found) ^ set(other))[:4]
        assert found == other, f"{who}, differ in table {table!r}, by {differing}"
    assert one[0] == two[0], f"{who}, have the state hashes {one[0]} and {two[0]}"


def _replayed(group: SimGroup, witness: GroupWitness, upto: LogId, rows: bool) -> State | None:
    """The state after the committed log; None if the witness has not seen all of it."""
    entries = [witness.committed.get(index) for index in range(1, upto.index + 1)]
    machine = group.machine()
    with MemoryEngine(MemoryDisk(machine.tables)).write() as txn:
        for entry in entries:
            if entry is None:
                return None
            if entry.kind is not EntryKind.COMMAND:
                continue
            with suppress(CodecError):  # an entry that a peer answers as undecodable
                for operation in decode_operations(entry.data):
                    apply_operation(machine, txn, operation, entry.id, sessions_max=group.sessions_max)
        return _state(machine, txn, rows)


def check_cluster(cluster: SimCluster) -> None:
    """`check_group` for every group of a sharded cluster."""
    for group in (cluster.store, *cluster.groups.values()):
        if isinstance(group, SimGroup):
            check_group(group, rows=False)
