"""TCP, the serving side: one port per peer, for the links of other peers and for clients.

Every limit is checked before anything is allocated. A client that stops reading is cut off when its replies pile up; a
frame of a huge length, a handshake for another cluster or peer, or bytes of another protocol end the connection. What
ends a connection for a fault of the other side is told to `on_trouble`, a few lines at most (`tcp_link.Troubles`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import trio

from raftlog.codec import CodecError
from raftlog.messages import Envelope
from raftlog.net.base import EnvelopeSink, Request, RequestSink
from raftlog.net.frames import (
    MAX_FRAME_BYTES,
    MAX_HANDSHAKE_BYTES,
    MAX_ITEM_BYTES,
    Deframer,
    FrameError,
    Hello,
    Kind,
    WrongProtocol,
    decode_hello,
    decode_messages,
    decode_requests,
    encode_reply,
    encode_welcome,
)
from raftlog.net.tcp_link import RECEIVE_BYTES, Address, Outbox, Troubles, tune

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of one port. Sizes in bytes, times in seconds."""

    handshake_s: float = 5.0
    """How long a new connection may take to say who it is."""
    clients_max: int = 896
    """The most clients; more are refused. Below `connections_max`, so that clients can't keep out the peers."""
    connections_max: int = 960
    """The most connections; more are closed at once. Below the 1024 files that a process usually may open."""
    outstanding_max: int = 1024
    """With so many unanswered requests of a client, nothing more is read from it."""
    unread_pause_bytes: int = 4 << 20
    """With so many bytes of replies that a client has not read, nothing more is read from it."""
    unread_bytes_max: int = 64 << 20
    """With so many it is cut off. Far above the pause: requests that were taken may still be answered."""
    silence_s: float = 30.0
    """A client or peer that reads nothing of what it is sent, or vanished, is cut off after this."""

    def __post_init__(self) -> None:
        relations = (
            (self.clients_max < self.connections_max, "clients_max must be below connections_max"),
            (self.unread_pause_bytes < self.unread_bytes_max, "unread_pause_bytes must be below unread_bytes_max"),
            (self.unread_bytes_max > MAX_ITEM_BYTES + 64, f"unread_bytes_max must be above {MAX_ITEM_BYTES + 64}"),
        )
        for holds, text in relations:
            if not holds:
                raise ValueError(f"{text}: {self}")


class _Client:
    """One client's connection: the replies on their way to it."""

    def __init__(
        self,
        who: str,
        limits: ServerLimits,
        troubles: Troubles,
        scope: trio.CancelScope,
        answered: Callable[[_Client], None],
    ) -> None:
        self.who = who
        self.outbox = Outbox(limits.unread_bytes_max)
        self.outstanding = 0
        self.closed = False
        self._limits = limits
        self._troubles = troubles
        self._scope = scope
        self._answered = answered
        self._moved = trio.Event()

    def reply(self, number: int, body: Any) -> None:
        """Queue one reply. One that can't be sent ends the connection: the call must fail, not wait."""
        self.outstanding -= 1
        self._moved.set()
        if self.closed:
            return
        try:
            data = encode_reply(number, body)
        except CodecError as error:
            self.cut(f"a reply can't be sent: {error}")
            return
        if not self.outbox.put(data):
            self.cut(f"it does not read its replies: {self.outbox.size_bytes} bytes wait", about="unread")
            return
        self._answered(self)

    def cut(self, why: str, about: str = "") -> None:
        """End the connection for a fault."""
        if not self.closed:
            self.closed = True
            self._troubles(f"the connection of client {self.who} is closed: {why}", about or why)
            self._scope.cancel()

    async def wait_room(self) -> None:
        """Until it may send us more: back-pressure."""
        limits = self._limits
        while self.outstanding >= limits.outstanding_max or self.outbox.size_bytes >= limits.unread_pause_bytes:
            self._moved = trio.Event()
            await self._moved.wait()

    async def write(self, stream: trio.SocketStream) -> None:
        """Send replies as they come, until the connection breaks."""
        with suppress(trio.BrokenResourceError):
            await self.outbox.write_to(stream, lambda: self._moved.set())
        self._scope.cancel()


class _TcpRequest:
    """See `Request`."""

    __slots__ = ("_client", "_number", "args", "method")

    def __init__(self, client: _Client, number: int, method: int, args: list[Any]) -> None:
        self.method = method
        self.args = args
        self._number = number
        self._client: _Client | None = client

    def reply(self, body: Any) -> None:
        """See `Request.reply`."""
        client, self._client = self._client, None
        assert client is not None, f"a second reply to a request of method {self.method}"
        client.reply(self._number, body)


class TcpServer:
    """The port of one peer. Requests of clients go to `requests`, messages of peers to `envelopes`.

    `incarnation_of(peer)` says which incarnation a peer of the group must have, None for a stranger; without `envelopes`
    no peer may connect. What a sink raises ends `serve`, and with it the peer.
    """

    def __init__(
        self,
        cluster: bytes,
        gid: int,
        me: int,
        requests: RequestSink,
        envelopes: EnvelopeSink | None = None,
        incarnation_of: Callable[[int], int | None] = lambda peer: None,
        on_trouble: Callable[[str], None] = lambda text: None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.clients = 0
        self.connections = 0
        self._cluster = cluster
        self._gid = gid
        self._me = me
        self._requests = requests
        self._envelopes = envelopes
        self._incarnation_of = incarnation_of
        self._troubles = Troubles(on_trouble)
        self._limits = limits or ServerLimits()
        self._answered: dict[_Client, None] = {}
        self._giving = False
        self._flush = trio.Event()

    async def serve(
        self, address: Address, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen until cancelled; then all connections are closed. `started` gives the address with the real port.
        Raises `OSError` if the address can't be had."""
        listeners = await trio.open_tcp_listeners(address[1], host=address[0])
        port = listeners[0].socket.getsockname()[1]
        task_status.started((address[0], port))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_answers)
            await trio.serve_listeners(self._connection, listeners)

    def _note_answered(self, client: _Client) -> None:
        self._answered[client] = None
        if not self._giving:
            self._flush.set()

    def _give(self, sink: Callable[[Sequence[T]], None], batch: Sequence[T]) -> None:
        """Hand a batch on; what is answered meanwhile leaves at once."""
        self._giving = True
        try:
            sink(batch)
        finally:
            self._giving = False
        self.flush()

    async def _flush_answers(self) -> None:
        """What was answered in one turn of the loop leaves in one write per client, and this one task wakes for all."""
        while True:
            await self._flush.wait()
            self._flush = trio.Event()
            self.flush()

    def flush(self) -> None:
        """Write what was answered. Never blocks."""
        answered, self._answered = self._answered, {}
        for client in answered:
            client.outbox.flush()

    async def _connection(self, stream: trio.SocketStream) -> None:
        who = "?"
        self.connections += 1
        try:
            async with stream:
                if self.connections > self._limits.connections_max:
                    self._troubles(f"more than {self._limits.connections_max} connections: a new one is closed")
                    return
                with suppress(OSError):  # it may be gone already: then reading says so
                    who = _name(stream)
                    tune(stream, self._limits.silence_s)
                with suppress(trio.BrokenResourceError):
                    await self._talk(stream, who)
        except FrameError as error:
            self._troubles(f"the connection of {who} is closed: {error}", str(error))
        finally:
            self.connections -= 1

    async def _talk(self, stream: trio.SocketStream, who: str) -> None:
        deframer = Deframer(MAX_HANDSHAKE_BYTES)
        with trio.move_on_after(self._limits.handshake_s) as scope:
            body = await _first_frame(stream, deframer)
            if body is None:
                return
            hello: Hello | None = None
            try:
                hello = decode_hello(body)
                reason = self._reason_against(hello)
            except WrongProtocol as error:
                reason = str(error)
            await stream.send_all(encode_welcome(reason))
            if hello is None or reason:
                self._troubles(f"refused a connection of {who}: {reason}", reason)
                return
        if scope.cancelled_caught or hello is None:
            raise FrameError(f"no handshake in {self._limits.handshake_s:g} s")
        deframer.limit_bytes = MAX_FRAME_BYTES
        if hello.kind is Kind.PEER:
            await self._from_peer(stream, deframer, hello)
        else:
            await self._from_client(stream, deframer, who)

    def _reason_against(self, hello: Hello) -> str:
        """Why this caller is not let in, "" if it is."""
        if hello.cluster != self._cluster and (hello.cluster or hello.kind is Kind.PEER):
            return f"this is cluster {self._cluster.hex()}, not {hello.cluster.hex()}"
        if hello.kind is Kind.CLIENT:
            full = self.clients >= self._limits.clients_max
            return f"there are {self.clients} clients, at most {self._limits.clients_max}" if full else ""
        if self._envelopes is None:
            return "this server has no peers"
        if (hello.gid, hello.to) != (self._gid, self._me):
            return f"this is peer {self._me} of group {self._gid}, not peer {hello.to} of group {hello.gid}"
        return self._reason_against_member(hello)

    def _reason_against_member(self, hello: Hello) -> str:
        wanted = self._incarnation_of(hello.sender)
        if wanted is None:
            return f"peer {hello.sender} is no member of group {self._gid}"
        if (
            hello.incarnation < wanted
        ):  # a later one is its own: this peer has not heard of it yet (`raftlog.replacing`)
            return f"peer {hello.sender} has incarnation {hello.incarnation}; the membership says {wanted}"
        return ""

    async def _from_peer(self, stream: trio.SocketStream, deframer: Deframer, hello: Hello) -> None:
        assert self._envelopes is not None
        while data := await stream.receive_some(RECEIVE_BYTES):
            try:
                messages = [m for body in deframer.feed(bytes(data)) for m in decode_messages(body)]
            except CodecError as error:
                raise FrameError(f"peer {hello.sender}: {error}") from error
            if not messages:
                continue
            if reason := self._reason_against_member(hello):  # the membership may have changed since the handshake
                raise FrameError(reason)
            self._give(self._envelopes, [Envelope(hello.sender, self._me, message) for message in messages])

    async def _from_client(self, stream: trio.SocketStream, deframer: Deframer, who: str) -> None:
        self.clients += 1
        try:
            async with trio.open_nursery() as nursery:
                client = _Client(who, self._limits, self._troubles, nursery.cancel_scope, self._note_answered)
                nursery.start_soon(client.write, stream)
                try:
                    await self._read_requests(stream, deframer, client)
                finally:
                    client.closed = True
                nursery.cancel_scope.cancel()
        finally:
            self.clients -= 1

    async def _read_requests(self, stream: trio.SocketStream, deframer: Deframer, client: _Client) -> None:
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(RECEIVE_BYTES):
                try:
                    requests: list[Request] = [
                        _TcpRequest(client, number, method, args)
                        for body in deframer.feed(bytes(data))
                        for number, method, args in decode_requests(body)
                    ]
                except CodecError as error:
                    client.cut(str(error))
                    return
                if requests:
                    client.outstanding += len(requests)
                    self._give(self._requests, requests)
                    await client.wait_room()


async def _first_frame(stream: trio.SocketStream, deframer: Deframer) -> bytes | None:
    """The caller's handshake, None if it closes first. Nothing may follow it before it is answered."""
    while data := await stream.receive_some(MAX_HANDSHAKE_BYTES):
        bodies = deframer.feed(bytes(data))
        if len(bodies) > 1:
            raise FrameError("more than a handshake before its answer")
        if bodies:
            return bodies[0]
    return None


def _name(stream: trio.SocketStream) -> str:
    """Where a connection comes from, for people."""
    host, port = stream.socket.getpeername()[:2]
    return f"{host}:{port}"
