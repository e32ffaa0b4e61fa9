"""The two network shapes, implemented by `tcp` and `sim` under one contract test.

Between peers: one-way, lossy messages (`Transport`). For clerks: calls and replies with deadlines, many in flight on
one connection (`RpcClient`, `RequestSink`). Nothing on the hot path starts a task per request: requests, proposals and
replies move in batches, with one flush per connection per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from raftlog.messages import Envelope

DEFAULT_CALL_TIMEOUT_S = 1.0
"""How long a call waits for its reply unless told otherwise, in seconds."""


class NetworkError(Exception):
    """Trouble of the network, never of the protocol above it."""


class CallFailed(NetworkError):
    """A call got no reply. `sent` is False only if the request surely never reached its server's handler."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class Request(Protocol):
    """A clerk's request at its server. Reply at most once, at any time, from the loop's thread; never blocks."""

    @property
    def method(self) -> int: ...

    @property
    def args(self) -> list[Any]: ...

    def reply(self, body: Any) -> None:
        """`body` is any CBOR-encodable value. After the connection is gone it is dropped silently."""
        ...


RequestSink = Callable[[Sequence[Request]], None]
"""Takes a batch of requests as it came off one connection. Synchronous; must not block."""

EnvelopeSink = Callable[[Sequence[Envelope]], None]
"""Takes a batch of peer messages, in the order they came off one connection. Synchronous; must not block."""


class Transport(Protocol):
    """Sends messages to the other peers of one group: lossy, unordered, never blocking."""

    requests_sent: int
    """How many requests (`messages.Request`, a frame with n counts n) were handed to the network so far."""

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Hand over a batch. What can't be sent soon (peer down, queue full) is dropped."""
        ...


class RpcClient(Protocol):
    """Calls servers by address ("host:port", or a name in simulation)."""

    requests_sent: int

    async def call(
        self,
        address: str,
        method: int,
        args: list[Any],
        *,
        timeout_s: float = DEFAULT_CALL_TIMEOUT_S,
    ) -> Any:
        """The reply's body. Raises `CallFailed`. Cancellable at any time; the request may then still take effect."""
        ...
