"""What all TCP connections share: addresses, socket options, the caller's handshake, the queue before the socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final

import trio

from raftlog.net.frames import (
    MAX_HANDSHAKE_BYTES,
    Deframer,
    FrameError,
    Hello,
    decode_welcome,
    encode_batch,
)

CONNECT_S = 2.0
"""How long a connection may take until its handshake is answered. Longer than one retransmission of a lost SYN."""
SILENCE_S = 3.0
"""A caller's connection ends when what it sent is not acknowledged for this long. The kernel retries ever more rarely: a
link that was cut for a minute would stay silent for up to another minute after it is mended, a new one for none."""
RECEIVE_BYTES = 64 << 10
ITEM_OVERHEAD_BYTES = 64
"""What an item counts for in a queue besides its bytes, or many small ones would get past every limit."""
QUIET_S = 10.0
"""The same trouble is told once in this time."""
TROUBLES_MAX = 16
"""The most troubles told in that time, whatever they are: strangers can make up new ones."""

Address = tuple[str, int]


def parse_address(text: str) -> Address:
    """("host", port) of "host:port" or "[v6]:port". Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ValueError(f"not an address of the form host:port: {text!r:.80}")
    return host, int(port)


class Refused(OSError):
    """The server answered the handshake with a refusal; the text is its reason."""


def tune(stream: trio.SocketStream, silence_s: float) -> None:
    """Find out about hosts that vanished: unacknowledged bytes end the connection after `silence_s`, and idle ones are
    probed. (That small writes leave at once is Trio's default.)"""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", int(silence_s * 1000)),
    ):
        if hasattr(socket, option):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def dial(address: Address, hello: Hello) -> trio.SocketStream:
    """A connection whose handshake is done. Raises `OSError`, `Refused` among them. When cancelled, nothing is left."""
    with trio.move_on_after(CONNECT_S):
        try:
            stream = await trio.open_tcp_stream(*address)
        except ValueError as error:  # a host name that can't be one
            raise ConnectionError(f"{address[0]!r:.80} is no host: {error}") from error
        done = False
        try:
            tune(stream, SILENCE_S)
            await stream.send_all(hello.encode())
            reason = decode_welcome(await _one_frame(stream))
            if reason:
                raise Refused(reason)
            done = True
        except (trio.BrokenResourceError, FrameError) as error:
            raise ConnectionError(f"no handshake: {error}") from error
        finally:
            if not done:
                stream.socket.close()
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


class Outbox:
    """What waits to be sent on one connection. Bounded. `put` and then `flush`, which writes at once what the socket takes;
    the rest, and what came before the connection did, is written by the one task in `write_to`.

    Invariant: `size_bytes` counts what waits and what is being written, each item with its overhead. While `_busy`, the
    socket belongs to that task.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.size_bytes = 0
        self._items: list[bytes] = []
        self._stream: trio.SocketStream | None = None
        self._wrote: Callable[[], None] = lambda: None
        self._busy = True
        self._rest = b""
        self._wake = trio.Event()

    def put(self, item: bytes) -> bool:
        """Queue an encoded message, request or reply. False, and nothing queued, if there is no room."""
        size = self.size_bytes + len(item) + ITEM_OVERHEAD_BYTES
        if size > self.bytes_max:
            return False
        self.size_bytes = size
        self._items.append(item)
        return True

    def flush(self) -> None:
        """Write what was put, in one system call, without a task having to wake for it. Never blocks."""
        if self._busy or not self._items:
            return
        assert self._stream is not None
        data = self._taken()
        try:
            sent = os.write(self._stream.socket.fileno(), data)
        except OSError:  # it takes nothing now, or is broken: the task finds out which
            sent = 0
        if sent == len(data):
            self._drop()
        else:
            self._rest, self._busy = data[sent:], True
            self._wake.set()

    def _taken(self) -> bytes:
        data = b"".join(encode_batch(self._items))
        self._items.clear()
        return data

    def _drop(self) -> None:
        """All that was taken is written."""
        self.size_bytes = sum(map(len, self._items)) + ITEM_OVERHEAD_BYTES * len(self._items)
        self._wrote()

    async def write_to(self, stream: trio.SocketStream, wrote: Callable[[], None] = lambda: None) -> None:
        """Write what `flush` can't, for ever; `wrote` is called after each write, the flushed ones too. Raises
        `trio.BrokenResourceError`. A cancelled write may have been made in part: close the connection."""
        self._stream, self._wrote = stream, wrote
        while True:
            while self._rest or self._items:
                data, self._rest = self._rest + self._taken(), b""
                await stream.send_all(data)
                self._drop()
            self._busy = False
            self._wake = trio.Event()
            await self._wake.wait()


class Troubles:
    """Passes lines on to the operator, but few: see `QUIET_S` and `TROUBLES_MAX`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell: Final = tell
        self._told: dict[str, float] = {}
        self._held_back = 0

    def __call__(self, text: str, about: str = "") -> None:
        """Tell it, unless the same (`about`, by default the text) was told lately."""
        now = trio.current_time()
        self._told = {key: at for key, at in self._told.items() if now - at < QUIET_S}
        about = about or text
        if about in self._told:
            return
        if len(self._told) >= TROUBLES_MAX:
            self._held_back += 1
            return
        self._told[about] = now
        more, self._held_back = self._held_back, 0
        self._tell(f"{text} (and {more} more such lines before)" if more else text)
