"""One view of both networks, for the tests of their common contract. Nothing is faked: real loopback, real simulation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import trio
import trio.testing

from raftlog.messages import Envelope, Message
from raftlog.net.base import EnvelopeSink, Request, RequestSink, RpcClient, Transport
from raftlog.net.sim import RELIABLE, NetConditions, SimHost, SimNetwork
from raftlog.net.tcp import Address, TcpRpcClient, TcpTransport
from raftlog.net.tcp_server import ServerLimits, TcpServer

CLUSTER = b"contract-cluster"
GID = 3
INCARNATION = 77
LIMIT_S = 20.0


class Inbox:
    """Takes messages and lets a test wait for them."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self._came = trio.Event()

    def __call__(self, envelopes: Sequence[Envelope]) -> None:
        self.envelopes += envelopes
        self._came.set()

    @property
    def messages(self) -> list[Message]:
        """What came, without its envelopes."""
        return [envelope.message for envelope in self.envelopes]

    async def wait_count(self, count: int) -> None:
        """Until so many came."""
        while len(self.envelopes) < count:
            self._came = trio.Event()
            await self._came.wait()

    async def wait_sending(self, transport: Transport, envelope: Envelope) -> None:
        """Send the message again and again until one more came: a link may be down at first."""
        count = len(self.envelopes) + 1
        while len(self.envelopes) < count:
            transport.send([envelope])
            with trio.move_on_after(0.02):
                await self.wait_count(count)


class Requests:
    """Takes requests; answers at once with `answer`, or keeps them for the test if that is None."""

    def __init__(self, answer: Callable[[Request], Any] | None = lambda request: request.args) -> None:
        self.answer = answer
        self.taken: list[Request] = []
        self.batches: list[int] = []
        self._came = trio.Event()

    def __call__(self, requests: Sequence[Request]) -> None:
        self.batches.append(len(requests))
        for request in requests:
            self.taken.append(request)
            if self.answer is not None:
                request.reply(self.answer(request))
        self._came.set()

    async def wait_count(self, count: int) -> None:
        """Until so many came."""
        while len(self.taken) < count:
            self._came = trio.Event()
            await self._came.wait()


class World(Protocol):
    """Peers of one group, and clients. Peer i can be started, stopped (as by a crash) and started again."""

    def address(self, peer: int) -> str: ...

    async def start(
        self, peer: int, requests: RequestSink | None = None, envelopes: EnvelopeSink | None = None
    ) -> Transport: ...

    async def stop(self, peer: int) -> None: ...

    async def rpc(self) -> RpcClient: ...


@dataclass
class _Running:
    transport: TcpTransport
    scope: trio.CancelScope
    ended: trio.Event


class TcpWorld:
    """Real sockets on loopback. The ports are chosen by the first start of each peer."""

    def __init__(self, nursery: trio.Nursery, stack: AsyncExitStack, limits: ServerLimits | None = None) -> None:
        self.nursery = nursery
        self.stack = stack
        self.limits = limits
        self.troubles: list[str] = []
        self.addresses: dict[int, Address] = {}
        self.running: dict[int, _Running] = {}
        self.servers: dict[int, TcpServer] = {}
        self.incarnations: dict[int, int] = dict.fromkeys(range(9), INCARNATION)

    def address(self, peer: int) -> str:
        """Of a peer that was started at least once; of any other, one where nobody listens."""
        host, port = self.addresses.get(peer, ("127.0.0.1", 1))
        return f"{host}:{port}"

    async def start(
        self, peer: int, requests: RequestSink | None = None, envelopes: EnvelopeSink | None = None
    ) -> TcpTransport:
        """The peer's server, and its transport to all peers started so far (and they to it)."""
        server = self.servers[peer] = TcpServer(
            CLUSTER,
            GID,
            peer,
            requests or Requests(),
            envelopes or Inbox(),
            self.incarnations.get,
            self.troubles.append,
            self.limits,
        )
        transport = TcpTransport(CLUSTER, GID, peer, INCARNATION, self.addresses, Random(peer))
        transport.on_trouble = self.troubles.append
        running = _Running(transport, trio.CancelScope(), trio.Event())
        address = await self.nursery.start(self._run, server, running, self.addresses.get(peer, ("127.0.0.1", 0)))
        self.addresses[peer] = address
        self.running[peer] = running
        for other, there in self.running.items():
            there.transport.set_address(peer, address)
            transport.set_address(other, self.addresses[other])
        return transport

    async def _run(
        self, server: TcpServer, running: _Running, address: Address, task_status: trio.TaskStatus[Address]
    ) -> None:
        try:
            with running.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(running.transport.run)
                    task_status.started(await nursery.start(server.serve, address))
        finally:
            running.ended.set()

    async def stop(self, peer: int) -> None:
        """Close the port and all connections of the peer."""
        running = self.running.pop(peer)
        running.scope.cancel()
        await running.ended.wait()

    async def rpc(self) -> TcpRpcClient:
        """A client."""
        return await self.stack.enter_async_context(TcpRpcClient(CLUSTER))


class SimWorld:
    """The simulated network under a clock that jumps."""

    def __init__(self, nursery: trio.Nursery, conditions: NetConditions = RELIABLE, seed: int = 1) -> None:
        self.net = SimNetwork(Random(seed), conditions)
        self.names = {peer: f"server-{peer}" for peer in range(9)}
        self.clients = 0
        nursery.start_soon(self.net.pump)

    def address(self, peer: int) -> str:
        """The peer's name."""
        return self.names[peer]

    def host(self, peer: int) -> SimHost:
        """The peer's host."""
        return self.net.hosts[self.names[peer]]

    async def start(
        self, peer: int, requests: RequestSink | None = None, envelopes: EnvelopeSink | None = None
    ) -> Transport:
        """A new host for the peer."""
        host = self.net.host(self.names[peer])
        host.requests = requests or Requests()
        transport = self.net.transport(host, GID, self.names)
        transport.listen(peer, envelopes or Inbox())
        return transport

    async def stop(self, peer: int) -> None:
        """Crash the peer."""
        self.net.crash(self.names[peer])

    async def rpc(self) -> RpcClient:
        """A client on a host of its own."""
        self.clients += 1
        return self.net.rpc(self.net.host(f"client-{self.clients}"))


def play_tcp(body: Callable[[TcpWorld], Awaitable[None]], limits: ServerLimits | None = None) -> None:
    """Run a test over TCP."""

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                await body(TcpWorld(nursery, stack, limits))
                nursery.cancel_scope.cancel()

    trio.run(main)


def play_sim(
    body: Callable[[SimWorld], Awaitable[None]], conditions: NetConditions = RELIABLE, *, seed: int = 1
) -> None:
    """Run a test in simulation."""

    async def main() -> None:
        with trio.fail_after(1000 * LIMIT_S):
            async with trio.open_nursery() as nursery:
                await body(SimWorld(nursery, conditions, seed))
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def play(kind: str, body: Callable[[World], Awaitable[None]]) -> None:
    """Run a test of the contract."""
    if kind == "tcp":
        play_tcp(body)
    else:
        play_sim(body)
