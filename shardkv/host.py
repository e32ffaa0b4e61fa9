"""One peer in a process of its own: its disk, its sockets, its node and its server, put together and run.

Order at a start: open both environments (and own them), recover, say what the disk says ("recovered"), and only then
open the port. A writer that fails, or a disk that hangs, ends the process at once: the only honest answer.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any, Protocol

import trio

from raftlog.config import RaftConfig
from raftlog.core import RaftCore
from raftlog.durable import LOG_TABLES, fill_log, fill_log_recovering, fill_state, read_applied, state_tables
from raftlog.net.base import Request
from raftlog.net.tcp import Address, TcpRpcClient, TcpTransport, parse_address
from raftlog.net.tcp_server import TcpServer
from raftlog.node import Node
from raftlog.node_values import NodeLimits
from raftlog.rsm import Rsm
from raftlog.scrubbing import Scrub
from raftlog.types import ZERO, LogId, Member, Membership, Restored
from shardkv.admin import Admin
from shardkv.bases import Bases
from shardkv.disk_watch import STATE_STALL_S, watch_disk
from shardkv.group import GroupMachine
from shardkv.group_clerk import GroupClerk
from shardkv.kvmachine import VersionedMachine
from shardkv.peer_disk import open_disk
from shardkv.routing import REPORT
from shardkv.server import Extra, GroupServer
from shardkv.views import Views
from store.engine import CorruptRecord, StoreError, WriteTxn
from store.format import Stamp
from store.lmdb_engine import CannotOpen, LmdbEngine
from store.space import make_ballast
from store.writer import ThreadWriter

DAMAGED_MAX, DAMAGED_S = 3, 60.0
"""A peer whose state turns out to be damaged so often within so many seconds gives up."""
FATAL_EXIT = 3
"""The exit code of a peer that dies of its disk."""
LAST_WORDS_S = 1.0
"""How long it may take to say so."""

Event = dict[str, Any]


@dataclass(frozen=True)
class PeerSpec:
    """All that a peer must be told. `peers` and `incarnations` cover its whole group, itself included; `controllers` are
    the addresses of group 0; `store` is group 0's: "kvraft" or "kvsrv"; with `failpoints` they may be armed by a call. Where
    an address is in `routes`, this peer dials the one it has there instead; what it tells others is the first one. `viewer`
    is the command that shows the peer's directory to callers (`views`), none by default; `retain_bases` is how many bases
    are kept (`bases`), made by the command `keeper`."""

    cluster: bytes
    gid: int
    peer: int
    incarnation: int
    directory: Path
    listen: Address
    peers: Mapping[int, Address]
    incarnations: Mapping[int, int]
    shards: int = 12
    controllers: tuple[str, ...] = ()
    store: str = "kvraft"
    config: RaftConfig = field(default_factory=RaftConfig)
    limits: NodeLimits = field(default_factory=NodeLimits)
    lease_reads: bool = False
    failpoints: bool = False
    routes: Mapping[str, str] = field(default_factory=dict)
    viewer: tuple[str, ...] = ()
    keeper: tuple[str, ...] = ()
    retain_bases: int = 0

    @property
    def name(self) -> str:
        """`server-<gid>-<peer>`."""
        return f"server-{self.gid}-{self.peer}"

    @property
    def membership(self) -> Membership:
        """The bootstrap membership: entry 1 of the group's log, the same on all its peers."""
        return Membership(tuple(Member(p, self.incarnations[p]) for p in sorted(self.incarnations)))

    def stamp(self, kind: str) -> Stamp:
        """The stamp of one of its environments."""
        return Stamp(kind, self.cluster, self.gid, self.peer, self.incarnation)

    def dialled(self) -> dict[int, Address]:
        """Where this peer dials each of its group."""
        return {
            peer: parse_address(self.routes[text]) if (text := f"{at[0]}:{at[1]}") in self.routes else at
            for peer, at in self.peers.items()
        }

    def address_of(self, peer: int) -> str | None:
        """Where a peer of the group listens."""
        found = self.peers.get(peer)
        return None if found is None else f"{found[0]}:{found[1]}"


def create_peer(spec: PeerSpec, machine: VersionedMachine | None = None, recover_to: LogId | None = None) -> None:
    """The explicit bootstrap of a voting peer: its directory, with both environments. Durable on return; after a crash
    call it again. With `recover_to` it is the successor of a peer whose disk is gone, which its group has taken in there
    (`raftlog.replacing`). Raises `CannotOpen` if the peer exists."""
    tables = (machine or GroupMachine(spec.shards)).tables
    log, state = spec.directory / "log", spec.directory / "state"
    if log.exists():  # made last
        raise CannotOpen(f"{spec.directory} exists already: a peer is bootstrapped once")

    def fill(txn: WriteTxn) -> None:
        if recover_to is None:
            fill_log(txn, spec.membership)
        else:
            fill_log_recovering(txn, recover_to)

    if not state.exists():
        LmdbEngine.create(state, state_tables(tables), spec.stamp("state"), fill_state)
    LmdbEngine.create(log, LOG_TABLES, spec.stamp("log"), fill)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def die(name: str, on_event: Callable[[Event], None], error: BaseException) -> None:
    """End the process now: nothing may be answered after a failed commit, and nothing may be retried. Whether anybody can be
    told makes no difference: the words may go to the disk that hangs."""
    last = threading.Timer(LAST_WORDS_S, os._exit, (FATAL_EXIT,))
    last.daemon = True
    last.start()
    try:
        text = f"{name}: fatal: {error}"
        on_event({"event": "error", "text": text, "exit": FATAL_EXIT})
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    finally:
        os._exit(FATAL_EXIT)


def wall_ms() -> int:
    """Wall time in ms."""
    return time.time_ns() // 1_000_000


def boot_clock() -> float:
    """A monotonic clock that goes on while the machine is suspended, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Service(Protocol):
    """What runs on a peer beside its group: the control plane, on group 0."""

    def on_request(self, request: Request) -> bool:
        """Take a request of a method that is neither the data plane's nor an admin call; False if it is unknown."""
        ...

    async def run(self) -> None:
        """For as long as the peer lives."""
        ...


class PeerHost:
    """A Raft peer: opened (synchronously, before any socket), then run."""

    def __init__(
        self,
        spec: PeerSpec,
        machine: VersionedMachine,
        on_event: Callable[[Event], None],
        *,
        config_of: Callable[[Any], Any] = lambda view: None,
        damage: str = "",
    ) -> None:
        """`damage` is what a host before this one found wrong with state/ while it ran."""
        self.spec = spec
        self.damage = damage
        self.machine = machine
        self.on_event = on_event
        self._config_of = config_of
        self.rng = SystemRandom()

    def _fatal(self, error: BaseException) -> None:
        if isinstance(error, CorruptRecord):
            self.start_over(str(error))
        else:
            die(self.spec.name, self.on_event, error)

    def start_over(self, damage: str) -> None:
        """state/ is damaged, and holds no promise: end this host; the next one begins with an empty state/."""
        self.damage = self.damage or damage
        self._scope.cancel()

    def open(self) -> Restored:
        """Open and recover the disk, mend what may be mended, and say what it says. Raises `StoreError`; then nothing was
        lost."""
        spec = self.spec
        damage, self.damage = self.damage, ""
        self._made_anew = bool(damage)
        disk = open_disk(spec.directory, spec.stamp("log"), self.machine, wall_ms(), damage)
        self.log_engine, self.state_engine, restored = disk.log, disk.state, disk.restored
        make_ballast(spec.directory)
        self.mended = restored.mended
        for text in restored.mended:
            self.on_event({"event": "mended", "text": text})
        self.log = ThreadWriter(self.log_engine, self._fatal, name="log", stall_s=spec.config.storage_stall_s)
        self.state = ThreadWriter(self.state_engine, self._fatal, name="state")
        self.rsm = Rsm(self.machine, self.state)
        with self.state_engine.read() as txn:
            _, _, state_hash = read_applied(txn)
        last = restored.entries[-1].id if restored.entries else restored.base
        self.on_event(
            {
                "event": "recovered",
                "boot": restored.boot,
                "term": restored.hard.term,
                "last": list(last),
                "applied": list(restored.applied),
                "config": self._config_of(self.rsm.view),
                "state_hash": state_hash.hex() if restored.applied != ZERO and not restored.refill else "",
                "mode": "refilling" if restored.refill else restored.hard.mode.name.lower(),
            }
        )
        return restored

    async def run(
        self,
        stop: trio.Event,
        make_service: Callable[[PeerHost, TcpRpcClient], Service] | None = None,
    ) -> None:
        """Until `stop`: then hand over leadership, flush, close. Ends before with `damage` set if state/ turns out to be
        damaged: what fails its check is not served, and the next host has it refilled. Raises `OSError` if the port can't
        be had."""
        restored = self.open()
        self._scope = trio.CancelScope()
        try:
            with self._scope:
                await self._run(restored, stop, make_service)
        except* CorruptRecord as found:
            self.damage = self.damage or str(next(leaves(found)))
        self.close()
        self.on_event({"event": "trouble", "text": self.damage} if self.damage else {"event": "stopped"})

    async def _run(
        self, restored: Restored, stop: trio.Event, make_service: Callable[[PeerHost, TcpRpcClient], Service] | None
    ) -> None:
        spec = self.spec
        core = RaftCore(spec.peer, spec.config, restored, self.rng, boot_clock())
        transport = TcpTransport(spec.cluster, spec.gid, spec.peer, spec.incarnation, spec.dialled(), self.rng)
        transport.on_trouble = self._trouble
        self.transport = transport
        self.node = Node(
            core,
            self.rsm,
            self.log,
            transport,
            incarnation=spec.incarnation,
            clock=boot_clock,
            wall_ms=wall_ms,
            fatal=self._fatal,
            limits=spec.limits,
            lease_reads=spec.lease_reads,
            trouble=self._trouble,
        )
        # Once is enough: a state that was made anew and differs again differs for another reason than its disk.
        self.node.comparison.heal = not self._made_anew
        self.scrub = Scrub(self.node, spec.stamp("log"), hurry=not restored.clean)
        async with TcpRpcClient(spec.cluster, spec.routes) as rpc, trio.open_nursery() as nursery:
            self.server = GroupServer(self.node, self.machine, spec.address_of)
            service = make_service(self, rpc) if make_service is not None else None
            views = Views(spec.viewer, spec.directory)
            self.server.extra = self._extra(service, Admin(self, rpc, stop, nursery, views))
            server = TcpServer(
                spec.cluster,
                spec.gid,
                spec.peer,
                self.node.at_once(self.server.on_requests, alone=True),
                self.node.at_once(self.node.deliver),
                self._incarnation_of,
                self._trouble,
            )
            self.log.before_commit = server.flush
            address = await nursery.start(server.serve, spec.listen)
            self.on_event({"event": "listening", "address": f"{address[0]}:{address[1]}"})
            nursery.start_soon(transport.run)
            nursery.start_soon(self._watch)
            nursery.start_soon(views.run)
            if spec.retain_bases:
                bases = Bases(spec.directory, spec.keeper, spec.retain_bases, self._trouble)
                self.node.flushing.before_purge = bases.before_purge
                nursery.start_soon(bases.run)
            nursery.start_soon(self._report_roles)
            nursery.start_soon(self.scrub.run)
            if service is not None:
                nursery.start_soon(service.run)
            nursery.start_soon(self._stop_when, stop, nursery.cancel_scope)
            await self.node.run()

    def _incarnation_of(self, peer: int) -> int | None:
        """By the log; a peer that has no log yet goes by its settings."""
        membership = self.node.core.state.membership
        return membership.incarnation_of(peer) if membership.voters else self.spec.incarnations.get(peer)

    @staticmethod
    def _extra(service: Service | None, admin: Admin) -> Extra:
        def extra(request: Request) -> None:
            if not admin.on_request(request) and not (service is not None and service.on_request(request)):
                admin.unknown(request)

        return extra

    async def _stop_when(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        await self.node.stop()
        await self.log.drain()
        scope.cancel()

    def _trouble(self, text: str) -> None:
        self.on_event({"event": "trouble", "text": text})

    async def _watch(self) -> None:
        """See `watch_disk`. The saves of log/ the core watches itself."""

        def alarmed(alarm: bool) -> None:
            self.node.no_space = alarm

        await watch_disk(
            self.spec.directory,
            (self.log_engine, self.state_engine),
            ((self.log, STATE_STALL_S), (self.state, STATE_STALL_S)),
            on_alarm=alarmed,
            trouble=self._trouble,
            fatal=self._fatal,
        )

    async def _report_roles(self) -> None:
        before: tuple[bool, int, int | None] | None = None
        while True:
            state = self.node.core.state
            now = (self.node.is_leader(), state.term, state.leader)
            if now != before and (now[0] or now[2] is not None):
                before = now
                kind = "leader" if now[0] else "follower"
                self.on_event({"event": kind, "term": now[1], "leader": now[2]})
            await self.node.role_change()

    def close(self) -> None:
        """Close writers and files."""
        for writer in (self.log, self.state):
            writer.close()
        self.rsm.overlay.close()
        self.log_engine.close()
        self.state_engine.close()


class AddressReport:
    """Tells the controllers where this peer listens, once, however long they take: addresses may change, names not."""

    def __init__(self, spec: PeerSpec, rpc: TcpRpcClient) -> None:
        self._spec = spec
        self._controllers = GroupClerk(rpc, 0, spec.controllers, rng=SystemRandom()) if spec.controllers else None

    def on_request(self, request: Request) -> bool:
        """It answers nothing."""
        return False

    async def run(self) -> None:
        """Until it is told."""
        if self._controllers is not None:
            names = {self._spec.name: self._spec.address_of(self._spec.peer)}
            await self._controllers.call(REPORT, [self._spec.gid, names], deadline_s=None)


async def run_peer(spec: PeerSpec, *, on_event: Callable[[Event], None], stop: trio.Event) -> None:
    """A peer of a shard group, until `stop`."""
    await live(
        lambda damage: PeerHost(spec, GroupMachine(spec.shards), on_event, damage=damage),
        lambda host: host.run(stop, lambda host, rpc: AddressReport(spec, rpc)),
    )


async def live(make: Callable[[str], PeerHost], run: Callable[[PeerHost], Awaitable[None]]) -> None:
    """One host after another, as long as they end for damage that the next one mends. `StoreError` if that does not end:
    then it is not this disk's fault alone."""
    host = make("")
    begun = [trio.current_time()]
    await run(host)
    while host.damage:
        begun = [*begun[-DAMAGED_MAX:], trio.current_time()]
        if len(begun) > DAMAGED_MAX and begun[-1] - begun[0] < DAMAGED_S:
            raise StoreError(f"state/ was damaged {DAMAGED_MAX} times in {DAMAGED_S:.0f} s, now: {host.damage}")
        host = make(host.damage)
        await run(host)
