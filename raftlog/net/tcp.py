"""TCP, the calling side: links to the other peers (`TcpTransport`) and calls to servers (`TcpRpcClient`).

No task per message: what is handed over in one turn of the loop leaves in one write per connection. Nothing here blocks
its caller; what can't be sent soon is dropped (peers) or fails (calls).
"""

from __future__ import annotations

import socket
from collections import deque
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
    MAX_HANDSHAKE_BYTES,
    Deframer,
    FrameError,
    Hello,
    Kind,
    decode_replies,
    decode_welcome,
    encode_batch,
    encode_message_bytes,
    encode_messages,
    encode_request,
)

CONNECT_S = 2.0
"""How long a connection may take until its handshake is answered."""
BACKOFF_S = (0.02, 0.5)
"""The first and the longest pause before a peer is dialled again."""
LINK_BYTES_MAX = 32 << 20
"""What may wait on a link to a peer; more is dropped."""
RECEIVE_BYTES = 64 << 10

Address = tuple[str, int]


def parse_address(text: str) -> Address:
    """("host", port) of "host:port" or "[v6]:port". Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"not an address of the form host:port: {text!r}")
    return host, int(port)


class Refused(OSError):
    """The server answered the handshake with a refusal; the text is its reason."""


async def dial(address: Address, hello: Hello) -> trio.SocketStream:
    """A connection whose handshake is done. Raises `OSError`."""
    with trio.move_on_after(CONNECT_S):
        stream = await trio.open_tcp_stream(*address)
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await stream.send_all(hello.encode())
            reason = decode_welcome(await _one_frame(stream))
            if reason:
                raise Refused(reason)
        except (trio.BrokenResourceError, FrameError) as error:
            await trio.aclose_forcefully(stream)
            raise ConnectionError(f"no handshake: {error}") from error
        except BaseException:  # tidy: a cancelled or refused dial must not leave its socket open
            await trio.aclose_forcefully(stream)
            raise
        return stream
    raise TimeoutError(f"no handshake in {CONNECT_S} s")


async def _one_frame(stream: trio.SocketStream) -> bytes:
    deframer = Deframer(MAX_HANDSHAKE_BYTES)
    while True:
        data = await stream.receive_some(MAX_HANDSHAKE_BYTES)
        if not data:
            raise FrameError("closed during the handshake")
        bodies = deframer.feed(bytes(data))
        if bodies:
            return bodies[0]


# --- to peers --------------------------------------------------------------------------------------------------------


class _Link:
    """One peer: what waits for it, and whether it is connected."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.waiting: list[bytes] = []
        self.waiting_bytes = 0
        self.up = False
        self.wake = trio.Event()


class TcpTransport:
    """See `Transport`. `run` keeps the links; until one is up, what is sent to that peer is dropped."""

    def __init__(self, cluster: bytes, gid: int, me: int, incarnation: int, peers: Mapping[int, Address], rng: Random):
        self.requests_sent = 0
        self.on_trouble: Callable[[str], None] = lambda text: None
        self._cluster = cluster
        self._gid = gid
        self._me = me
        self._incarnation = incarnation
        self._rng = rng
        self._links = {peer: _Link(address) for peer, address in peers.items() if peer != me}

    def set_address(self, peer: int, address: Address) -> None:
        """The peer listens elsewhere from now on; used at the next dial."""
        self._links[peer].address = address

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """See `Transport.send`. Messages shared by several envelopes are encoded once."""
        encoded: dict[int, bytes] = {}
        for envelope in envelopes:
            message = envelope.message
            if isinstance(message, PeerRequest):
                self.requests_sent += 1
            link = self._links.get(envelope.to)
            if link is None or not link.up:
                continue
            data = encoded.get(id(message))
            if data is None:
                data = encoded[id(message)] = encode_message_bytes(message)
            if link.waiting_bytes + len(data) > LINK_BYTES_MAX:
                continue
            link.waiting.append(data)
            link.waiting_bytes += len(data)
            link.wake.set()

    async def run(self) -> None:
        """Keep a link to every other peer, for ever."""
        async with trio.open_nursery() as nursery:
            for peer, link in sorted(self._links.items()):
                nursery.start_soon(self._keep, peer, link)

    async def _keep(self, peer: int, link: _Link) -> None:
        pause, longest = BACKOFF_S
        hello = Hello(Kind.PEER, self._cluster, self._gid, self._me, self._incarnation, peer)
        while True:
            try:
                stream = await dial(link.address, hello)
            except Refused as refused:
                self.on_trouble(f"peer {peer} refused us: {refused}")
                pause = longest
            except OSError:
                pass
            else:
                pause = BACKOFF_S[0]
                await self._feed(link, stream)
            await trio.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)

    async def _feed(self, link: _Link, stream: trio.SocketStream) -> None:
        """Send what waits until the connection breaks."""
        link.up = True
        try:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(_watch, stream, nursery.cancel_scope)
                while True:
                    link.wake = trio.Event()
                    if not link.waiting:
                        await link.wake.wait()
                    batch, link.waiting = link.waiting, []
                    link.waiting_bytes = 0
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await stream.send_all(b"".join(encode_messages(batch)))
                        continue
                    nursery.cancel_scope.cancel()
                    await trio.lowlevel.checkpoint()
        finally:
            link.up = False
            link.waiting.clear()
            link.waiting_bytes = 0


async def _watch(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the other side closes: a peer link carries nothing back."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(1024):
            pass
    scope.cancel()


# --- calls -----------------------------------------------------------------------------------------------------------


class _Call:
    """A call in flight."""

    __slots__ = ("body", "data", "done", "failed", "number")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.done = trio.Event()
        self.body: Any = None
        self.failed: CallFailed | None = None

    def fail(self, text: str, *, sent: bool) -> None:
        """End it without a reply."""
        if not self.done.is_set():
            self.failed = CallFailed(text, sent=sent)
            self.done.set()


class _Connection:
    """The calls to one address: waiting to be sent, and sent and unanswered."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.waiting: deque[_Call] = deque()
        self.sent: dict[int, _Call] = {}
        self.wake = trio.Event()
        self.closed = False

    def fail(self, why: str, *, sent: bool) -> None:
        """End every call: the connection is gone (or never came)."""
        self.closed = True
        for call in self.waiting:
            call.fail(f"{self.address}: {why}", sent=False)
        for call in self.sent.values():
            call.fail(f"{self.address}: {why}", sent=sent)
        self.waiting.clear()
        self.sent.clear()


class TcpRpcClient:
    """See `RpcClient`. Use as `async with TcpRpcClient() as rpc`; leaving the block fails what is in flight."""

    def __init__(self, cluster_id: bytes = b"") -> None:
        self.requests_sent = 0
        self._cluster = cluster_id
        self._numbers = 0
        self._connections: dict[str, _Connection] = {}
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> TcpRpcClient:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        self._nursery = None
        try:
            await self._manager.__aexit__(None, None, None)
        finally:
            for connection in self._connections.values():
                connection.fail("the client is closed", sent=True)

    async def call(
        self, address: str, method: int, args: list[Any], *, timeout_s: float = DEFAULT_CALL_TIMEOUT_S
    ) -> Any:
        """See `RpcClient.call`. Calls made in one turn of the loop leave in one frame."""
        if self._nursery is None:
            raise CallFailed("the client is closed", sent=False)
        self._numbers += 1
        try:
            call = _Call(self._numbers, encode_request(self._numbers, method, args))
        except CodecError as error:
            raise CallFailed(f"a request that can't be sent: {error}", sent=False) from error
        connection = self._connections.get(address)
        if connection is None or connection.closed:
            connection = self._connections[address] = _Connection(address)
            self._nursery.start_soon(self._serve, connection)
        connection.waiting.append(call)
        connection.wake.set()
        try:
            with trio.move_on_after(timeout_s):
                await call.done.wait()
        finally:
            handed = connection.sent.pop(call.number, None) is not None
            with suppress(ValueError):
                connection.waiting.remove(call)
        if call.failed is not None:
            raise call.failed
        if not call.done.is_set():
            raise CallFailed(f"no answer from {address} in {timeout_s:g} s", sent=handed)
        return call.body

    async def _serve(self, connection: _Connection) -> None:
        """Dial, then send and receive until the connection breaks."""
        try:
            stream = await dial(parse_address(connection.address), Hello(Kind.CLIENT, self._cluster))
        except (OSError, ValueError) as error:
            connection.fail(str(error) or type(error).__name__, sent=False)
            return
        why = "the connection was closed"
        try:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, connection, stream, nursery.cancel_scope)
                await self._send(connection, stream)
                nursery.cancel_scope.cancel()
        finally:
            connection.fail(why, sent=True)

    async def _send(self, connection: _Connection, stream: trio.SocketStream) -> None:
        while True:
            connection.wake = trio.Event()
            if not connection.waiting:
                await connection.wake.wait()
            calls = list(connection.waiting)
            connection.waiting.clear()
            for call in calls:
                connection.sent[call.number] = call
            self.requests_sent += len(calls)
            try:
                await stream.send_all(b"".join(encode_batch([call.data for call in calls])))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _receive(self, connection: _Connection, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        deframer = Deframer()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, CodecError):
            while data := await stream.receive_some(RECEIVE_BYTES):
                for body in deframer.feed(bytes(data)):
                    for number, reply in decode_replies(body):
                        call = connection.sent.pop(number, None)
                        if call is not None:
                            call.body = reply
                            call.done.set()
        scope.cancel()
