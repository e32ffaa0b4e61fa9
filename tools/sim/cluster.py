"""Simulated clusters: a config store (kvsrv or kvraft n) in group 0, shard groups, clerks and controllers on hosts of their
own. With `service` the peers of group 0 are the controller themselves, as in production; without it controllers run on
client hosts, as in the labs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctrler.clerk import ControllerClerk
from ctrler.configstore import RemoteStore
from ctrler.controller import Controller
from ctrler.service import ControllerService
from raftlog.config import RaftConfig
from raftlog.net.base import RpcClient
from raftlog.net.sim import SimHost
from raftlog.node_values import NodeLimits
from raftlog.sessions import SESSIONS_MAX
from shardkv.clerk import Clerk
from shardkv.client import make_clerk
from shardkv.commands import MAX_PAGE_BYTES
from shardkv.config import NSHARDS, ShardConfig
from shardkv.group import GroupMachine
from shardkv.group_clerk import GroupClerk
from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine, VersionedMachine
from shardkv.kvsrv import KvServer
from shardkv.router import Router
from shardkv.routing import Routing
from shardkv.server import GroupServer
from tools.sim.disk import SimWriter
from tools.sim.group import SimGroup, SimPeer, server_name
from tools.sim.world import World


@dataclass(slots=True)
class SimController:
    """A controller on a client host, which can be cut off or crashed."""

    host: SimHost
    controller: Controller


class SimKvServer:
    """Group 0 as one kvsrv: the same moves as a `SimGroup`, for one server."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gid = 0
        self.names = {0: server_name(0, 0)}
        self.server: KvServer | None = None
        self._host: SimHost | None = None
        self._writer: SimWriter | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its one address."""
        return tuple(self.names.values())

    def start(self, *peers: int) -> None:
        """Start it from its disk."""
        if self._host is not None:
            return
        machine = KvMachine()
        name = self.names[0]
        host = self._host = self.world.host(name)
        disk, _ = self.world.disk(name, "state", ("meta", *machine.tables))
        self._writer = self.world.writer(host, "state", disk, lambda error: self.crash())
        self.server = KvServer(machine, self._writer)
        host.requests = GroupServer(self.server, machine, self.names.get).on_requests

    def crash(self, *peers: int) -> None:
        """Kill it."""
        if self._host is not None and self._writer is not None:
            self._host.alive = False
            self._writer.fence()
            self._host = None

    async def wait_leader(self, within_s: float = 10.0) -> int:
        """It always leads."""
        return 0


class SimCluster:
    """A whole system. Groups are started by `start_group`; they own nothing until a controller says so."""

    def __init__(
        self,
        world: World,
        *,
        controllers: int = 3,
        store: str = "kvraft",
        replicas: int = 3,
        shards: int = NSHARDS,
        service: bool = False,
        config: RaftConfig | None = None,
        limits: NodeLimits | None = None,
        lease_reads: bool = False,
        sessions_max: int = SESSIONS_MAX,
        store_sessions: bool = True,
        page_bytes: int = MAX_PAGE_BYTES,
        watched: Callable[[VersionedMachine, int], VersionedMachine] = lambda machine, gid: machine,
    ) -> None:
        self.world = world
        self.lease_reads = lease_reads
        self.sessions_max = sessions_max
        self.store_sessions = store_sessions
        self.page_bytes = page_bytes
        self.watched = watched
        self.replicas = replicas
        self.shards = shards
        self.config = config
        self.limits = limits
        self.groups: dict[int, SimGroup] = {}
        self._clients = 0
        self.store: SimGroup | SimKvServer
        if store == "kvsrv":
            self.store = SimKvServer(world)
        else:
            serve = self._serve if service else None
            self.store = SimGroup(world, 0, controllers, KvMachine, config=config, limits=limits, service=serve)

    def _serve(self, group: SimGroup, peer: int, alive: SimPeer) -> None:
        server = alive.server
        assert server is not None
        rpc = self.world.net.rpc(alive.host)
        nonce = self.world.rng("nonce", alive.host.name, alive.node.core.state.boot).randbytes(12)
        service = ControllerService(
            alive.node,
            server.machine,
            self._group_of(rpc, alive.host.name),
            server.not_leader,
            nonce=nonce,
            shards=self.shards,
            wall_ms=self.world.wall_ms,
            page_bytes=self.page_bytes,
        )
        server.extra = lambda request: None if service.on_request(request) else request.reply([12, "unknown"])
        alive.tasks.append(service.run)

    def _group_of(self, rpc: RpcClient, name: str) -> Any:
        known: dict[tuple[int, tuple[str, ...]], GroupClerk] = {}

        def group_of(gid: int, addresses: tuple[str, ...]) -> GroupClerk:
            key = (gid, addresses)
            if key not in known:
                known[key] = GroupClerk(rpc, gid, addresses, rng=self.world.rng("group clerk", name, gid))
            return known[key]

        return group_of

    # --- parts ---------------------------------------------------------------------------------------------------

    def group(self, gid: int) -> SimGroup:
        """The group, made if it is new; not started."""
        if gid not in self.groups:
            self.groups[gid] = SimGroup(
                self.world,
                gid,
                self.replicas,
                lambda: self.watched(GroupMachine(self.shards), gid),
                config=self.config,
                limits=self.limits,
                lease_reads=self.lease_reads,
                sessions_max=self.sessions_max,
            )
        return self.groups[gid]

    def start_group(self, gid: int) -> SimGroup:
        """The group, with all its peers started."""
        group = self.group(gid)
        group.start()
        return group

    def servers(self, gid: int) -> tuple[str, ...]:
        """The addresses of a group."""
        return self.group(gid).addresses

    def client_host(self, kind: str = "client") -> SimHost:
        """A new client machine."""
        self._clients += 1
        return self.world.host(f"{kind}-{self._clients}")

    def controller(self) -> SimController:
        """A controller on a client host of its own, as in the labs."""
        host = self.client_host("controller")
        rpc = self.world.net.rpc(host)
        rng = self.world.rng("store clerk", host.name)
        clerk = KvClerk(rpc, self.store.addresses, rng=rng, sessions=self.store_sessions)
        controller = Controller(
            RemoteStore(clerk),
            self._group_of(rpc, host.name),
            nonce=self.world.rng("nonce", host.name).randbytes(12),
            shards=self.shards,
            wall_ms=self.world.wall_ms,
            page_bytes=self.page_bytes,
        )
        return SimController(host, controller)

    def clerk(
        self,
        host: SimHost | None = None,
        *,
        deadline_s: float | None = None,
        sessions: bool = True,
        resend: bool = False,
    ) -> Clerk:
        """A routing clerk that reads the configuration from the store itself (labs: no controller need be alive)."""
        machine = host or self.client_host()
        rpc = self.world.net.rpc(machine)
        rng = self.world.rng("clerk", machine.name)
        store = RemoteStore(KvClerk(rpc, self.store.addresses, rng=rng))
        reader = Controller(store, self._group_of(rpc, machine.name), nonce=b"", shards=self.shards)

        async def query() -> Routing:
            return await reader.query()

        return Clerk(Router(rpc, query, rng), deadline_s=deadline_s, sessions=sessions, resend=resend)

    def service_clerk(self, *, deadline_s: float | None = None, sessions: bool = True, resend: bool = False) -> Clerk:
        """A routing clerk that asks the controller peers, as in production."""
        host = self.client_host()
        rng = self.world.rng("clerk", host.name)
        rpc = self.world.net.rpc(host)
        return make_clerk(rpc, self.store.addresses, rng, deadline_s=deadline_s, sessions=sessions, resend=resend)

    def controller_clerk(self) -> ControllerClerk:
        """A clerk of the controller peers."""
        host = self.client_host()
        return ControllerClerk(self.world.net.rpc(host), self.store.addresses, self.world.rng("control", host.name))

    async def set_up(self, controller: Controller) -> ShardConfig:
        """Start the store and group 1 and make the first configuration, in which group 1 owns all."""
        self.store.start()
        self.start_group(1)
        await self.store.wait_leader()
        await self.group(1).wait_leader()
        await controller.init_config({1: self.servers(1)})
        return (await controller.current())[0]
