"""TCP, the calling side: links to the other peers (`TcpTransport`) and calls to servers (`TcpRpcClient`).

No task per message: what is handed over in one turn of the loop leaves in one write per connection. Nothing here blocks
its caller; what can't be sent soon is dropped (peers) or fails (calls). The serving side is `tcp_server`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any

import trio

from raftlog.codec import CodecError
from raftlog.messages import Envelope
from raftlog.messages import Request as PeerRequest
from raftlog.net.base import DEFAULT_CALL_TIMEOUT_S, CallFailed
from raftlog.net.frames import (
    MAX_ITEM_BYTES,
    Deframer,
    Hello,
    Kind,
    decode_replies,
    encode_batch,
    encode_message_bytes,
    encode_request,
)
from raftlog.net.tcp_link import (
    RECEIVE_BYTES,
    Address,
    Outbox,
    Refused,
    Troubles,
    dial,
    parse_address,
)

__all__ = ["Address", "TcpRpcClient", "TcpTransport", "parse_address"]

BACKOFF_S = (0.02, 0.5)
"""The first and the longest pause before a peer is dialled again; each is drawn from its upper half."""
LINK_BYTES_MAX = 32 << 20
"""What may wait on a link to a peer; more is dropped. Above what the core has unanswered to one peer."""
EARLY_BYTES_MAX = 256 << 10
"""What may wait while a peer is being dialled, so that the first vote or heartbeat is not lost."""
UNREACHED_TOLD = 8
"""A peer that could not be reached so many times in a row (a few seconds) is worth a line."""


class _Link:
    """One peer: where it is, and what waits for it. `outbox` is None while it is neither connected nor dialled."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.outbox: Outbox | None = None
        self.scope = trio.CancelScope()
        self.failures = 0


class TcpTransport:
    """See `Transport`. `run` keeps a link to each other peer; what is sent while that is down is dropped."""

    def __init__(self, cluster: bytes, gid: int, me: int, incarnation: int, peers: Mapping[int, Address], rng: Random):
        self.requests_sent = 0
        self.messages_sent = 0
        self.on_trouble: Callable[[str], None] = lambda text: None
        self._troubles = Troubles(lambda text: self.on_trouble(text))
        self._cluster = cluster
        self._gid = gid
        self._me = me
        self._incarnation = incarnation
        self._rng = rng
        self._links = {peer: _Link(address) for peer, address in peers.items() if peer != me}
        self._nursery: trio.Nursery | None = None

    def set_address(self, peer: int, address: Address) -> None:
        """The peer (it may be a new one) listens there from now on. A link to another address is given up."""
        link = self._links.get(peer)
        if peer == self._me or (link is not None and link.address == address):
            return
        if link is not None:
            link.address = address
            link.scope.cancel()
            return
        link = self._links[peer] = _Link(address)
        if self._nursery is not None:
            self._nursery.start_soon(self._keep, peer, link)

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """See `Transport.send`. A message shared by several envelopes is encoded once."""
        encoded: dict[int, bytes] = {}
        touched: dict[int, Outbox] = {}
        self.messages_sent += len(envelopes)
        for _, to, message in envelopes:
            if isinstance(message, PeerRequest):
                self.requests_sent += 1
            link = self._links.get(to)
            if link is None or link.outbox is None:
                continue
            data = encoded.get(id(message))
            if data is None:
                data = encoded[id(message)] = encode_message_bytes(message)
            if len(data) > MAX_ITEM_BYTES:
                self._troubles(f"a {type(message).__name__} of {len(data)} bytes is dropped: above {MAX_ITEM_BYTES}")
                continue
            link.outbox.put(data)  # without room it is dropped: the core sends again what is not answered
            touched[to] = link.outbox
        for outbox in touched.values():
            outbox.flush()

    async def run(self) -> None:
        """Keep a link to every other peer, for ever. To be run once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer, link in sorted(self._links.items()):
                nursery.start_soon(self._keep, peer, link)
            await trio.sleep_forever()

    async def _keep(self, peer: int, link: _Link) -> None:
        pause_s, longest_s = BACKOFF_S
        while True:
            with trio.CancelScope() as link.scope:
                try:
                    if await self._use(peer, link):
                        pause_s = BACKOFF_S[0]
                finally:
                    link.outbox = None
                await trio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = BACKOFF_S[0] if link.scope.cancelled_caught else min(2 * pause_s, longest_s)

    async def _use(self, peer: int, link: _Link) -> bool:
        """Dial once, and send what waits until the connection breaks. Whether there was a connection."""
        host, port = link.address
        outbox = link.outbox = Outbox(EARLY_BYTES_MAX)
        try:
            hello = Hello(Kind.PEER, self._cluster, self._gid, self._me, self._incarnation, peer)
            stream = await dial(link.address, hello)
        except Refused as refused:
            self._troubles(f"peer {peer} at {host}:{port} refused this one: {refused}")
            return False
        except OSError as error:
            link.failures += 1
            if link.failures == UNREACHED_TOLD:
                self._troubles(f"peer {peer} at {host}:{port} can't be reached: {error}")
            return False
        if link.failures >= UNREACHED_TOLD:
            self._troubles(f"peer {peer} at {host}:{port} is reached again")
        link.failures = 0
        outbox.bytes_max = LINK_BYTES_MAX
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_watch, stream, nursery.cancel_scope)
            with suppress(trio.BrokenResourceError):
                await outbox.write_to(stream)
            nursery.cancel_scope.cancel()
        return True


async def _watch(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the other side closes, so that nothing more is written into the void. A link carries nothing
    back; what comes nevertheless ends it too."""
    with suppress(trio.BrokenResourceError):
        await stream.receive_some(1)
    scope.cancel()


# --- calls -----------------------------------------------------------------------------------------------------------


class _Call:
    """A task that waits for a reply, until `deadline` on Trio's clock."""

    __slots__ = ("body", "deadline", "failed", "task", "timeout_s")

    def __init__(self, timeout_s: float, deadline: float) -> None:
        self.task = trio.lowlevel.current_task()
        self.timeout_s = timeout_s
        self.deadline = deadline
        self.body: Any = None
        self.failed: CallFailed | None = None


class _Connection:
    """The calls to one address. A number in `calls` waits for its reply; if it is in `unsent` too, its bytes are still
    here.

    Invariant: a call in `calls` has a task that sleeps, and whoever wakes it takes it out first; so it is woken once.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.calls: dict[int, _Call] = {}
        self.unsent: dict[int, bytes] = {}
        self.wake = trio.Event()
        self.closed = False

    def put(self, number: int, data: bytes) -> None:
        """Queue a request."""
        self.unsent[number] = data
        self.wake.set()

    async def wait(self, number: int, call: _Call) -> Any:
        """The reply to a request that was just put. Raises `CallFailed`. Cancelled, it is not sent any more."""
        self.calls[number] = call

        def abort(_: Any) -> trio.lowlevel.Abort:
            del self.calls[number]
            self.unsent.pop(number, None)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if call.failed is not None:
            raise call.failed
        return call.body

    def end_late(self, now: float) -> float:
        """Fail the calls whose time is over; when the next one's will be."""
        for number in [number for number, call in self.calls.items() if call.deadline <= now]:
            call = self.calls.pop(number)
            unsent = self.unsent.pop(number, None) is not None
            call.failed = CallFailed(f"no answer from {self.address} in {call.timeout_s:g} s", sent=not unsent)
            trio.lowlevel.reschedule(call.task)
        return min((call.deadline for call in self.calls.values()), default=float("inf"))

    def answered(self, number: int, body: Any) -> None:
        """A reply came. Nobody may wait for it any more."""
        call = self.calls.pop(number, None)
        if call is not None:
            call.body = body
            trio.lowlevel.reschedule(call.task)

    def close(self, why: str) -> None:
        """Fail every call: the connection is gone, or never came."""
        self.closed = True
        calls, self.calls = self.calls, {}
        for number, call in calls.items():
            call.failed = CallFailed(f"{self.address}: {why}", sent=number not in self.unsent)
            trio.lowlevel.reschedule(call.task)
        self.unsent.clear()


class TcpRpcClient:
    """See `RpcClient`. Use as `async with TcpRpcClient() as rpc`; leaving the block fails what is in flight.

    One connection per address, made by the first call and kept. When it breaks, all its calls fail; the next one dials.
    `requests_sent` counts what was handed to a socket. Where an address is in `routes`, the one it has there is dialled
    instead.
    """

    def __init__(self, cluster_id: bytes = b"", routes: Mapping[str, str] | None = None) -> None:
        self.requests_sent = 0
        self._cluster = cluster_id
        self._routes = routes or {}
        self._numbers = 0
        self._connections: dict[str, _Connection] = {}
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None
        self._next_late = trio.CancelScope()
        """Ends at the first deadline of a call: one for all of them, since a scope for each costs more than the call."""

    async def __aenter__(self) -> TcpRpcClient:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        self._nursery.start_soon(self._end_late)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        for connection in self._connections.values():
            connection.close("the client is closed")
        # The block's own error goes on as it is, not wrapped into a group: it is not the nursery's.
        await self._manager.__aexit__(None, None, None)

    async def call(
        self, address: str, method: int, args: list[Any], *, timeout_s: float = DEFAULT_CALL_TIMEOUT_S
    ) -> Any:
        """See `RpcClient.call`. Calls made in one turn of the loop leave in one write."""
        if self._nursery is None:
            raise CallFailed("the client is closed", sent=False)
        self._numbers += 1
        number = self._numbers
        try:
            data = encode_request(number, method, args)
        except CodecError as error:
            raise CallFailed(f"a request that can't be sent: {error}", sent=False) from error
        connection = self._connections.get(address)
        if connection is None or connection.closed:
            connection = self._connections[address] = _Connection(address)
            self._nursery.start_soon(self._serve, connection)
        deadline = trio.current_time() + timeout_s
        if deadline < self._next_late.deadline:
            self._next_late.deadline = deadline
        connection.put(number, data)
        return await connection.wait(number, _Call(timeout_s, deadline))

    async def _end_late(self) -> None:
        """Fail every call at its deadline."""
        while True:
            with self._next_late:
                await trio.sleep_forever()
            now = trio.current_time()
            next_late = min(
                (connection.end_late(now) for connection in self._connections.values()), default=float("inf")
            )
            self._next_late = trio.CancelScope(deadline=next_late)

    async def _serve(self, connection: _Connection) -> None:
        """Dial, then send and receive until the connection breaks."""
        why = "the client is closed"
        try:
            address = self._routes.get(connection.address, connection.address)
            stream = await dial(parse_address(address), Hello(Kind.CLIENT, self._cluster))
            why = "the connection was lost"
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, connection, stream, nursery.cancel_scope)
                with suppress(trio.BrokenResourceError):
                    await self._send(connection, stream)
                nursery.cancel_scope.cancel()
        except Refused as refused:
            why = f"refused: {refused}"
        except (OSError, ValueError) as error:
            why = str(error) or type(error).__name__
        finally:
            connection.close(why)

    async def _send(self, connection: _Connection, stream: trio.SocketStream) -> None:
        while True:
            if not connection.unsent:
                connection.wake = trio.Event()
                await connection.wake.wait()
            batch = list(connection.unsent.values())
            connection.unsent.clear()
            self.requests_sent += len(batch)
            await stream.send_all(b"".join(encode_batch(batch)))

    async def _receive(self, connection: _Connection, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        deframer = Deframer()
        why = "the connection was closed"
        try:
            while data := await stream.receive_some(RECEIVE_BYTES):
                for body in deframer.feed(bytes(data)):
                    for number, reply in decode_replies(body):
                        connection.answered(number, reply)
        except trio.BrokenResourceError as error:
            why = f"the connection was lost: {error.__cause__ or error}"
        except CodecError as error:
            why = f"the server speaks another protocol: {error}"
        connection.close(why)
        scope.cancel()
