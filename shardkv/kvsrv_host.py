"""The one kvsrv of a cluster that keeps its configuration without Raft: its disk, its socket, its server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from raftlog.net.base import Request
from raftlog.net.tcp import TcpRpcClient
from raftlog.net.tcp_server import TcpServer
from shardkv.admin import failpoints
from shardkv.disk_watch import watch_disk
from shardkv.host import Event, PeerSpec, Service, die
from shardkv.kvmachine import VersionedMachine
from shardkv.kvsrv import KvServer
from shardkv.methods import Method
from shardkv.replies import Code, error
from shardkv.server import GroupServer
from shardkv.views import Views
from store.lmdb_engine import LmdbEngine
from store.space import make_ballast
from store.writer import ThreadWriter


def kvsrv_tables(machine: VersionedMachine) -> tuple[str, ...]:
    """The tables of its one environment, state/: no log, no slots, since nothing is ever installed."""
    return ("meta", *machine.tables)


def create_kvsrv(spec: PeerSpec, machine: VersionedMachine) -> None:
    """Make its directory. Raises `CannotOpen` if it exists."""
    LmdbEngine.create(spec.directory / "state", kvsrv_tables(machine), spec.stamp("state"), lambda txn: None)


class KvServerHost:
    """Opened and run like a `PeerHost`; `node` is the server itself."""

    def __init__(
        self,
        spec: PeerSpec,
        machine: VersionedMachine,
        on_event: Callable[[Event], None],
        *,
        config_of: Callable[[Any], Any] = lambda view: None,
    ) -> None:
        self.spec = spec
        self.machine = machine
        self.on_event = on_event
        self._config_of = config_of
        self._rpc: TcpRpcClient | None = None
        self._views = Views(spec.viewer, spec.directory)

    def open(self) -> None:
        """Open the disk and say what it says. Raises `StoreError`."""
        spec = self.spec
        self.engine = LmdbEngine.open(spec.directory / "state", kvsrv_tables(self.machine), spec.stamp("state"))
        make_ballast(spec.directory)
        self.writer = ThreadWriter(self.engine, self._fatal, name="state")
        self.node = KvServer(self.machine, self.writer)
        with self.engine.read() as txn:
            self.on_event(
                {
                    "event": "recovered",
                    "boot": None,
                    "term": 0,
                    "last": [0, 0],
                    "applied": [0, 0],
                    "config": self._config_of(txn),
                    "state_hash": self.machine.state_hash(txn).hex(),
                }
            )

    async def run(
        self,
        stop: trio.Event,
        make_service: Callable[[KvServerHost, TcpRpcClient], Service] | None = None,
    ) -> None:
        """Until `stop`. Raises `OSError` if the port can't be had."""
        self.open()
        spec = self.spec
        async with TcpRpcClient(spec.cluster, spec.routes) as rpc, trio.open_nursery() as nursery:
            self._rpc = rpc
            service: Service | None = None

            def extra(request: Request) -> None:
                if not self._admin(request, stop) and not (service is not None and service.on_request(request)):
                    request.reply(error(Code.BAD_REQUEST, f"there is no method {request.method!r:.40} here"))

            self.server = GroupServer(self.node, self.machine, spec.address_of, extra)
            service = make_service(self, rpc) if make_service is not None else None
            server = TcpServer(spec.cluster, spec.gid, spec.peer, self.server.on_requests, on_trouble=self._trouble)
            address = await nursery.start(server.serve, spec.listen)
            self.on_event({"event": "listening", "address": f"{address[0]}:{address[1]}"})
            self.on_event({"event": "leader", "term": 0, "leader": spec.peer})
            nursery.start_soon(self._watch)
            nursery.start_soon(self._views.run)
            if service is not None:
                nursery.start_soon(service.run)
            await stop.wait()
            self.node.close()
            await self.writer.drain()
            nursery.cancel_scope.cancel()
        self.writer.close()
        self.engine.close()
        self.on_event({"event": "stopped"})

    def _trouble(self, text: str) -> None:
        self.on_event({"event": "trouble", "text": text})

    async def _watch(self) -> None:
        """See `watch_disk`. Every reply waits for a commit here."""

        def alarmed(alarm: bool) -> None:
            self.node.no_space = alarm

        await watch_disk(
            self.spec.directory,
            (self.engine,),
            ((self.writer, self.spec.config.storage_stall_s),),
            on_alarm=alarmed,
            trouble=self._trouble,
            fatal=self._fatal,
        )

    def _fatal(self, error: BaseException) -> None:
        die(self.spec.name, self.on_event, error)

    def _admin(self, request: Request, stop: trio.Event) -> bool:
        match request.method:
            case Method.PEER_INFO | Method.PEER_STATUS:
                request.reply([int(Code.OK), self.status()])
            case Method.PEER_TRANSFER:
                request.reply([int(Code.OK), False])
            case Method.PEER_SHUTDOWN:
                request.reply([int(Code.OK), True])
                stop.set()
            case Method.PEER_FAILPOINTS:
                request.reply(failpoints(request.args, allowed=self.spec.failpoints))
            case Method.PEER_VIEW:
                self._views.on_request(request)
            case _:
                return False
        return True

    def status(self) -> dict[str, Any]:
        """The keys of a Raft peer's status, as far as they have a meaning here."""
        spec = self.spec
        with self.engine.read() as txn:
            state_hash = self.machine.state_hash(txn)
            shards = [list(row) for row in self.machine.shard_table(txn)]
        return {
            "name": spec.name,
            "cluster": spec.cluster.hex(),
            "gid": spec.gid,
            "peer": spec.peer,
            "incarnation": spec.incarnation,
            "boot": None,
            "role": "leader",
            "mode": "voter",
            "term": 0,
            "vote": None,
            "leader": spec.peer,
            "commit": 0,
            "applied": [0, 0],
            "flushed": [0, 0],
            "last": [0, 0],
            "base": [0, 0],
            "state_hash": state_hash.hex(),
            "log_bytes": 0,
            "pending_bytes": 0,
            "requests_sent": 0 if self._rpc is None else self._rpc.requests_sent,
            "messages_sent": 0 if self._rpc is None else self._rpc.requests_sent,
            "commits": self.engine.last_txnid(),
            "shards": shards,
            "map_used_bytes": self.engine.info().used_bytes,
            "no_space": self.node.no_space,
        }
