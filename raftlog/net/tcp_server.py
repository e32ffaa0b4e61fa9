"""TCP, the serving side: one port per peer, for the links of other peers and for clients.

Every limit is checked before anything is allocated. A client that stops reading is cut off when its replies pile up; a
frame of a huge length, a handshake for another cluster or peer, or bytes of another protocol end the connection.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio

from raftlog.codec import CodecError
from raftlog.messages import Envelope
from raftlog.net.base import EnvelopeSink, Request, RequestSink
from raftlog.net.frames import (
    MAX_HANDSHAKE_BYTES,
    Deframer,
    FrameError,
    Hello,
    Kind,
    decode_hello,
    decode_messages,
    decode_requests,
    encode_batch,
    encode_reply,
    encode_welcome,
)
from raftlog.net.tcp import RECEIVE_BYTES, Address

HANDSHAKE_S = 5.0
"""How long a new connection may take to say who it is."""
CONNECTIONS_MAX = 1024
"""The most connections at a time; more are closed at once."""
OUTSTANDING_MAX = 1024
"""The most unanswered requests of one connection; above it nothing more is read from it."""
REPLY_BYTES_MAX = 16 << 20
"""The most unsent reply bytes of one connection; above it the connection is closed."""


class _ClientConnection:
    """Replies on their way to one client."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.waiting_bytes = 0
        self.outstanding = 0
        self.closed = False
        self.wake = trio.Event()
        self.room = trio.Event()

    def reply(self, number: int, body: Any) -> None:
        """Queue one reply."""
        self.outstanding -= 1
        if self.outstanding < OUTSTANDING_MAX:
            self.room.set()
        if self.closed:
            return
        data = encode_reply(number, body)
        self.waiting.append(data)
        self.waiting_bytes += len(data)
        self.wake.set()


class _TcpRequest:
    """See `Request`."""

    __slots__ = ("_connection", "_number", "args", "method")

    def __init__(self, connection: _ClientConnection, number: int, method: int, args: list[Any]) -> None:
        self.method = method
        self.args = args
        self._number = number
        self._connection = connection

    def reply(self, body: Any) -> None:
        """See `Request.reply`."""
        self._connection.reply(self._number, body)


class TcpServer:
    """The port of one peer. `incarnation_of(peer)` says which incarnation a peer of the group must have, None for a
    stranger; without `envelopes` no peer may connect."""

    def __init__(
        self,
        cluster: bytes,
        gid: int,
        me: int,
        requests: RequestSink,
        envelopes: EnvelopeSink | None = None,
        incarnation_of: Callable[[int], int | None] = lambda peer: None,
        on_trouble: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._cluster = cluster
        self._gid = gid
        self._me = me
        self._requests = requests
        self._envelopes = envelopes
        self._incarnation_of = incarnation_of
        self._on_trouble = on_trouble
        self._connections = 0
        self._said: dict[str, float] = {}

    async def serve(
        self, address: Address, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen until cancelled; `started` gives the address with the real port. Raises `OSError`."""
        listeners = await trio.open_tcp_listeners(address[1], host=address[0])
        port = listeners[0].socket.getsockname()[1]
        task_status.started((address[0], port))
        await trio.serve_listeners(self._connection, listeners)

    def trouble(self, text: str) -> None:
        """Say it, but the same thing once in ten seconds only."""
        now = trio.current_time()
        if now - self._said.get(text, -100.0) >= 10.0:
            if len(self._said) > 256:
                self._said.clear()
            self._said[text] = now
            self._on_trouble(text)

    async def _connection(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            async with stream:
                if self._connections > CONNECTIONS_MAX:
                    self.trouble(f"more than {CONNECTIONS_MAX} connections: a new one is closed")
                    return
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._talk(stream)
        except CodecError as error:
            self.trouble(f"a connection is closed: {error}")
        finally:
            self._connections -= 1

    async def _talk(self, stream: trio.SocketStream) -> None:
        deframer = Deframer(MAX_HANDSHAKE_BYTES)
        hello, rest = await self._hello(stream, deframer)
        if hello is None:
            return
        reason = self._reason_against(hello)
        await stream.send_all(encode_welcome(reason))
        if reason:
            self.trouble(f"refused a connection: {reason}")
            return
        deframer.limit_bytes = Deframer().limit_bytes
        if hello.kind is Kind.PEER:
            await self._from_peer(stream, deframer, hello, rest)
        else:
            await self._from_client(stream, deframer, rest)

    async def _hello(self, stream: trio.SocketStream, deframer: Deframer) -> tuple[Hello | None, list[bytes]]:
        with trio.move_on_after(HANDSHAKE_S):
            while data := await stream.receive_some(MAX_HANDSHAKE_BYTES):
                bodies = deframer.feed(bytes(data))
                if bodies:
                    return decode_hello(bodies[0]), bodies[1:]
            return None, []
        raise FrameError(f"no handshake in {HANDSHAKE_S} s")

    def _reason_against(self, hello: Hello) -> str:
        """Why this caller is not let in, "" if it is."""
        if hello.cluster != self._cluster and (hello.cluster or hello.kind is Kind.PEER):
            return f"this is cluster {self._cluster.hex()}, not {hello.cluster.hex()}"
        if hello.kind is Kind.CLIENT:
            return ""
        if self._envelopes is None:
            return "this server has no peers"
        if (hello.gid, hello.to) != (self._gid, self._me):
            return f"this is peer {self._me} of group {self._gid}, not peer {hello.to} of group {hello.gid}"
        wanted = self._incarnation_of(hello.sender)
        if wanted is None:
            return f"peer {hello.sender} is no member of group {self._gid}"
        if wanted != hello.incarnation:
            return f"peer {hello.sender} has incarnation {hello.incarnation}; the membership says {wanted}"
        return ""

    async def _from_peer(
        self, stream: trio.SocketStream, deframer: Deframer, hello: Hello, bodies: list[bytes]
    ) -> None:
        assert self._envelopes is not None
        while True:
            envelopes = [Envelope(hello.sender, self._me, m) for body in bodies for m in decode_messages(body)]
            if envelopes:
                self._envelopes(envelopes)
            data = await stream.receive_some(RECEIVE_BYTES)
            if not data:
                return
            bodies = deframer.feed(bytes(data))

    async def _from_client(self, stream: trio.SocketStream, deframer: Deframer, bodies: list[bytes]) -> None:
        connection = _ClientConnection()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer, stream, connection, nursery.cancel_scope)
                while True:
                    self._hand_over(connection, bodies)
                    while connection.outstanding >= OUTSTANDING_MAX:
                        connection.room = trio.Event()
                        await connection.room.wait()
                    data = await stream.receive_some(RECEIVE_BYTES)
                    if not data:
                        break
                    bodies = deframer.feed(bytes(data))
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* CodecError as group:
            self.trouble(f"a connection is closed: {group.exceptions[0]}")
        finally:
            connection.closed = True

    def _hand_over(self, connection: _ClientConnection, bodies: list[bytes]) -> None:
        requests: list[Request] = [
            _TcpRequest(connection, number, method, args)
            for body in bodies
            for number, method, args in decode_requests(body)
        ]
        if requests:
            connection.outstanding += len(requests)
            self._requests(requests)

    async def _answer(self, stream: trio.SocketStream, connection: _ClientConnection, scope: trio.CancelScope) -> None:
        """Send replies as they come; give up on a client that does not read them."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._guard, connection, scope)
            while True:
                connection.wake = trio.Event()
                if not connection.waiting:
                    await connection.wake.wait()
                batch, connection.waiting = connection.waiting, []
                await stream.send_all(b"".join(encode_batch(batch)))
                connection.waiting_bytes = sum(len(data) for data in connection.waiting)

    async def _guard(self, connection: _ClientConnection, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(0.25)
            if connection.waiting_bytes > REPLY_BYTES_MAX:
                self.trouble(
                    f"a client does not read its replies: {connection.waiting_bytes} bytes wait, it is cut off"
                )
                scope.cancel()
