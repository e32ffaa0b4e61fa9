"""Simulated Raft groups: nodes over the world's disks and network, with crash, restart and partition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from raftlog.config import RaftConfig
from raftlog.core import RaftCore
from raftlog.durable import LOG_TABLES, StateLost, fill_log, fill_log_recovering, fill_state, recover, state_tables
from raftlog.machine import StateMachine
from raftlog.net.base import Request
from raftlog.net.sim import SimHost
from raftlog.node import Node
from raftlog.node_values import NodeLimits
from raftlog.replacing import take_in
from raftlog.rsm import Rsm
from raftlog.sessions import SESSIONS_MAX
from raftlog.types import LogId, Member, Membership, Restored
from shardkv.kvmachine import VersionedMachine
from shardkv.server import GroupServer
from store.engine import CannotOpen, CorruptRecord, StoreError
from store.memory_engine import MemoryDisk, MemoryEngine
from tools.sim.disk import SimWriter
from tools.sim.world import World


def server_name(gid: int, peer: int) -> str:
    """The name, and in simulation the address, of a peer."""
    return f"server-{gid}-{peer}"


class SimNode(Node):
    """A node whose turns the network takes with its deliveries, not a task of its own, which would cost more. It stands still
    while its host is paused."""

    def __init__(self, world: World, host: SimHost, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._world = world
        self._host = host
        self._due = False
        self._timer = float("inf")
        self._ended = trio.Event()

    def _soon(self) -> None:
        """Take a turn now, after what is being delivered."""
        if not self._due:
            self._due = True
            self._world.net.later(0.0, self._now)

    async def _live(self) -> None:
        self._ring = self._soon
        self._soon()
        await self._ended.wait()
        if self.failure is not None:
            raise self.failure

    def _now(self) -> None:
        if not self._host.alive or self._ended.is_set() or self._host.hold(self._now):
            return
        self._due = False
        if self.failure is None:
            self._guarded_turn()
        if self.failure is not None or self._stopping:
            self._ended.set()
        elif self.has_work:
            self._soon()
        else:
            self._ring_by()

    def _ring_by(self) -> None:
        self._turn_at(self._world.now() + max(self.due() - self.clock(), 0.0002))

    def _turn_at(self, at: float) -> None:
        """Take a turn then, or before: an earlier timer is not taken back. Rounding alone makes no new one."""
        if at < self._timer - 1e-9:
            self._timer = at
            self._world.net.later(at - self._world.now(), lambda: self._timed(at))

    def _timed(self, at: float) -> None:
        if at == self._timer:  # else an earlier one has been
            self._timer = float("inf")
            self._soon()


@dataclass(slots=True)
class SimPeer:
    """One running peer. `died` is called with what it must die of."""

    host: SimHost
    node: Node
    machine: StateMachine
    server: GroupServer | None
    log: SimWriter
    state: SimWriter
    scope: trio.CancelScope
    died: Callable[[BaseException], None]
    tasks: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def crash(self) -> None:
        """Die now: first fence disk and network, then cancel; nothing of it happens afterwards."""
        self.host.alive = False
        self.log.fence()
        self.state.fence()
        self.scope.cancel()


class SimGroup:
    """A group of peers, each on a host of its own. Peers are started by `start`."""

    def __init__(
        self,
        world: World,
        gid: int,
        peers: int,
        machine: Callable[[], StateMachine],
        *,
        config: RaftConfig | None = None,
        limits: NodeLimits | None = None,
        lease_reads: bool = False,
        sessions_max: int = SESSIONS_MAX,
        compare: bool = False,
        service: Callable[[SimGroup, int, SimPeer], Any] | None = None,
    ) -> None:
        self.world = world
        self.gid = gid
        self.machine = machine
        self.config = config or RaftConfig()
        self.limits = limits or NodeLimits()
        self.lease_reads = lease_reads
        self.sessions_max = sessions_max
        self.compare = compare
        """Whether peers tell each other the hashes of their states. The swarm's ledger compares more of them."""
        self.service = service
        self.names = {i: server_name(gid, i) for i in range(peers)}
        self.membership = Membership(tuple(Member(i, i + 1) for i in range(peers)))
        self.incarnations = {m.id: m.incarnation for m in self.membership.voters}
        self.peers: dict[int, SimPeer] = {}
        self._made: set[str] = set()
        self.died: list[tuple[int, BaseException]] = []
        self.damaged: set[int] = set()
        """Peers whose state/ was found damaged while they ran: they start with an empty one."""
        self.mended: list[tuple[int, str]] = []
        """What peers found damaged on their disks when they started."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of all peers, up or down."""
        return tuple(self.names.values())

    def start(self, *peers: int) -> None:
        """Start these peers (all without arguments) from their disks; a new peer's disk is made first."""
        for peer in peers or tuple(self.names):
            if peer not in self.peers:
                self._start(peer)

    def _start(self, peer: int) -> None:
        world, name = self.world, self.names[peer]
        host = world.host(name)
        machine = self.machine()
        log_disk, fresh = world.disk(name, "log", LOG_TABLES)
        if fresh and name in self._made:
            raise CannotOpen(f"{name} was made before and its directory is empty: it may not vote")
        self._made.add(name)
        state_disk, empty = world.disk(name, "state", state_tables(machine.tables))
        if fresh:
            with MemoryEngine(log_disk).write() as txn:
                fill_log(txn, self.membership)
        if empty or peer in self.damaged:
            state_disk = self._empty_state(peer, machine)

        def fatal(error: BaseException) -> None:
            if isinstance(error, CorruptRecord):
                self.damaged.add(peer)
            self.died.append((peer, error))
            self.crash(peer)

        clock = world.clock(name)
        log = world.writer(host, "log", log_disk, fatal)
        restored, state_disk = self._recovered(peer, machine, log.engine, state_disk)
        state = world.writer(host, "state", state_disk, fatal)
        rsm = Rsm(machine, state, sessions_max=self.sessions_max)
        rng = world.rng("election", name, restored.boot)
        make = RaftCore if world.watch is None else world.watch.core_of(self.gid, log_disk, clock)
        core = make(peer, self.config, restored, rng, clock())
        transport = world.net.transport(host, self.gid, self.names)
        node = SimNode(
            world,
            host,
            core,
            rsm,
            log,
            transport,
            incarnation=self.incarnations[peer],
            clock=clock,
            wall_ms=world.wall_ms,
            fatal=fatal,
            limits=self.limits,
            lease_reads=self.lease_reads,
            compare=self.compare,
        )
        transport.listen(peer, node.at_once(node.deliver) if world.turns_at_once else node.deliver)
        server = None
        if isinstance(machine, VersionedMachine):
            server = GroupServer(node, machine, self.names.get)
            turn = node.at_once(server.on_requests, alone=True) if world.turns_at_once else server.on_requests
            host.requests = self._guarded(turn, fatal)
        alive = SimPeer(host, node, machine, server, log, state, trio.CancelScope(), fatal)
        self.peers[peer] = alive
        world.nursery.start_soon(self._run, alive)
        if self.service is not None:
            self.service(self, peer, alive)

    def _recovered(
        self, peer: int, machine: StateMachine, log: MemoryEngine, state: MemoryDisk
    ) -> tuple[Restored, MemoryDisk]:
        """What the disks say, and the one of state/, which is another if that was lost."""
        now_ms = self.world.wall_ms()
        try:
            restored = recover(log, MemoryEngine(state), now_ms)
        except StateLost as lost:
            self.mended.append((peer, str(lost)))
            state = self._empty_state(peer, machine)
            restored = recover(log, MemoryEngine(state), now_ms)
        self.mended += [(peer, note) for note in restored.mended]
        return restored, state

    async def replace(self, peer: int, within_s: float = 20.0) -> bool:
        """Lose the disk of a peer, have its group take in a successor (`raftlog.replacing`) and start that. False if it was
        not taken in in time; then the peer stays away."""
        world, name = self.world, self.names[peer]
        self.crash(peer)
        for place in [place for place in world.disks if place[0] == name]:
            del world.disks[place]
        with trio.move_on_after(within_s):
            while True:
                for leader in self.leaders():
                    self.incarnations[peer] += 1
                    at = await take_in(self.peers[leader].node, peer, self.incarnations[peer], 2.0)
                    if isinstance(at, LogId):
                        self._succeed(peer, at)
                        return True
                await trio.sleep(0.1)
        return False

    def _succeed(self, peer: int, at: LogId) -> None:
        world, name, machine = self.world, self.names[peer], self.machine()
        log_disk, _ = world.disk(name, "log", LOG_TABLES)
        with MemoryEngine(log_disk).write() as txn:
            fill_log_recovering(txn, at)
        world.disk(name, "state", state_tables(machine.tables))
        self._empty_state(peer, machine)
        if world.watch is not None:
            world.watch.forget(self.gid, peer)
        self.start(peer)

    def _empty_state(self, peer: int, machine: StateMachine) -> MemoryDisk:
        """What becomes of a state/ that cannot be used."""
        self.damaged.discard(peer)
        disk = self.world.disks[self.names[peer], "state"] = MemoryDisk(state_tables(machine.tables))
        with MemoryEngine(disk).write() as txn:
            fill_state(txn)
        return disk

    async def _run(self, peer: SimPeer) -> None:
        try:
            with peer.scope:
                async with trio.open_nursery() as nursery:
                    for task in peer.tasks:
                        nursery.start_soon(task)
                    await peer.node.run()
                    nursery.cancel_scope.cancel()
        except* StoreError as errors:
            if peer.host.alive:  # a dead one's last turn before its cancellation reaches nothing: as it must be
                error: BaseException = errors
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                peer.died(error)

    def _guarded(
        self, sink: Callable[[Sequence[Request]], None], fatal: Callable[[BaseException], None]
    ) -> Callable[[Sequence[Request]], None]:
        def on_requests(requests: Sequence[Request]) -> None:
            try:
                sink(requests)
            except StoreError as error:
                fatal(error)

        return on_requests

    def crash(self, *peers: int) -> None:
        """Kill these peers (all without arguments): what was not durable is lost."""
        for peer in peers or tuple(self.peers):
            alive = self.peers.pop(peer, None)
            if alive is not None:
                self.world.trace.add("crash", self.world.now(), self.names[peer], self.names[peer])
                alive.crash()

    def leaders(self) -> list[int]:
        """The peers that lead now, as they think."""
        return [i for i, peer in sorted(self.peers.items()) if peer.node.is_leader()]

    async def wait_leader(self, within_s: float = 10.0) -> int:
        """The peer that leads in the highest term, once there is one that a majority follows."""
        with trio.fail_after(within_s):
            while True:
                claims = [(self.peers[i].node.core.state.term, i) for i in self.leaders()]
                if claims:
                    term, leader = max(claims)
                    followers = sum(p.node.core.state.term == term for p in self.peers.values())
                    if followers >= self.membership.quorum:
                        return leader
                await trio.sleep(0.02)
