"""Chaos for a state machine of one's own: a cluster that is one group of it, and clients of that group.

    class CounterLoad:                                   # a `Workload`, see `load`
        async def work(self, client):
            async with connect_machine(client) as counter:
                while True:
                    reply = await counter.call(b"inc")
        ...

    outcome = trio.run(run, Plan(minutes=1, machine=Counter), Path("report"), CounterLoad())

The machine's class must be importable by its module's name. Its peers are `server-0-0` and on; `Plan.layout.ctrl_peers` is
how many. Faults that need controllers and shard groups are skipped.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from raftlog.machine import StateMachine
from raftlog.net.base import CallFailed, RpcClient
from raftlog.net.tcp import TcpRpcClient
from shardkv.methods import Method
from shardkv.replies import Code
from tools.admin import peer_statuses
from tools.chaos.arena import Arena, ChaosCluster
from tools.chaos.load import Client
from tools.chaos.machine_peer import create_machine_peer
from tools.chaos.places import Place
from tools.layout import Layout
from tools.manifest import GroupSpec, Manifest, new_cluster_id
from tools.processes import ROOT, PeerProcess, free_ports

TRY_S = 1.0
PAUSE_S = (0.01, 0.05)
EQUAL_S = 30.0
"""How long all peers may take to have applied equally much."""


class MachineCluster(ChaosCluster):
    """One group, number 0, of peers that run `machine`."""

    def __init__(self, folder: Path, place_of: Callable[[str, int, int], Place], machine: type[StateMachine]) -> None:
        super().__init__(folder, place_of)
        self.machine = machine

    def process(self, name: str) -> PeerProcess:
        """See `LocalCluster.process`."""
        known = name in self.processes
        process = super().process(name)
        if known:
            return process
        module = self.machine.__module__
        process.program = ("-m", "tools.chaos.machine_peer", f"{module}:{self.machine.__qualname__}")
        home = Path(inspect.getfile(self.machine)).resolve().parents[module.count(".")]
        process.environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(home)))
        return process

    def sizes(self, layout: Layout) -> dict[int, int]:
        """See `ChaosCluster.sizes`."""
        return {0: layout.ctrl_peers}

    def _planned(self, layout: Layout) -> Manifest:
        addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(layout.ctrl_peers))
        return Manifest(new_cluster_id(), {0: GroupSpec.fresh(addresses)}, layout.shards, layout.store)

    def _create_data(self, manifest: Manifest, gid: int) -> None:
        for peer in range(len(manifest.groups[gid].addresses)):
            settings = manifest.settings(self.folder, gid, peer)
            if not (settings.directory / "log").exists():
                create_machine_peer(settings.spec(), self.machine)

    async def _publish(self, rpc: RpcClient, manifest: Manifest) -> None:
        """There is no configuration."""


class MachineClient:
    """Sends commands to whoever leads, under a session where the machine has them. One call at a time."""

    def __init__(self, rpc: RpcClient, client: Client) -> None:
        self.retries = 0
        self._rpc = rpc
        self._addresses = list(client.addresses)
        self._rng = client.rng
        self._id = client.rng.getrandbits(63) | 1
        self._seq = 0
        self._at = self._addresses[0]

    async def call(self, command: bytes) -> bytes:
        """The machine's reply to a command, which is sent again until there is one: with sessions it takes effect exactly
        once. It never gives up; cancelled, it may have taken effect, and may still."""
        self._seq += 1
        operation = [self._id, self._seq, self._seq, 0, command]
        while (reply := await self._try(operation)) is None:
            self.retries += 1
            await trio.sleep(self._rng.uniform(*PAUSE_S))
        return reply

    async def _try(self, operation: list[object]) -> bytes | None:
        try:
            reply = await self._rpc.call(self._at, int(Method.WRITE), operation, timeout_s=TRY_S)
        except CallFailed:
            self._at = self._rng.choice(self._addresses)
            return None
        if type(reply) is bytes:
            return reply
        hint = reply[2] if reply[:1] == [Code.NOT_LEADER] and len(reply) > 2 else None
        self._at = hint if isinstance(hint, str) else self._rng.choice(self._addresses)
        return None


@asynccontextmanager
async def connect_machine(client: Client) -> AsyncIterator[MachineClient]:
    """A client of the machine's group, through the proxy as `client` is told."""
    async with TcpRpcClient(routes=client.routes) as rpc:
        yield MachineClient(rpc, client)


async def equal_states(arena: Arena) -> tuple[str, list[str]]:
    """Wait until all peers have applied equally much, and compare their state hashes: what was looked at, what is wrong."""
    statuses: dict[str, dict[str, object]] = {}
    with trio.move_on_after(EQUAL_S):
        while True:
            statuses = await peer_statuses(arena.rpc, arena.cluster.addresses(), 1.0)
            if len(statuses) == len(arena.names()) and len({str(s["applied"]) for s in statuses.values()}) == 1:
                hashes = {name: str(status["state_hash"]) for name, status in statuses.items()}
                wrong = [f"peers that applied equally much differ: {hashes}"] if len(set(hashes.values())) > 1 else []
                return f"the states of {len(statuses)} peers compared", wrong
            await trio.sleep(0.05)
    applied = {name: status["applied"] for name, status in statuses.items()}
    return "", [f"after {EQUAL_S:.0f} s without commands not all peers have applied equally much: {applied}"]
