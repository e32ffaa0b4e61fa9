"""The simulated network: deterministic, in virtual time, with the labs' fault model; part of the product.

One pump delivers everything, from a heap ordered by (time, number), so there is no task per message and no order that
depends on one. Every message is encoded when sent and decoded when delivered. A crash is not a cancel: `crash` fences
a host synchronously; what is on its way to or from it is lost, and no `finally` of a dead host reaches the network.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import trio

from raftlog.codec import dumps, loads
from raftlog.messages import Envelope
from raftlog.messages import Request as PeerRequest
from raftlog.net.base import DEFAULT_CALL_TIMEOUT_S, CallFailed, EnvelopeSink, RequestSink
from raftlog.net.frames import decode_messages, encode_message_bytes, encode_messages


@dataclass(frozen=True, slots=True)
class NetConditions:
    """How the network is. Times in seconds; shares in 0..1. The constants of every published simulated figure."""

    delay_s: tuple[float, float] = (0.001, 0.004)
    """One way, drawn per message; never 0, or a closed loop of clients would stop virtual time."""
    request_loss: float = 0.0
    reply_loss: float = 0.0
    duplicate: float = 0.0
    """Share of peer messages that arrive twice."""
    reorder: float = 0.0
    """Share of messages that are held back by `reorder_s` more."""
    reorder_s: tuple[float, float] = (0.2, 2.2)
    unreachable_s: tuple[float, float] = (0.0005, 0.1)
    """How long a call to a server that can't be reached takes to fail."""


RELIABLE = NetConditions()
UNRELIABLE = NetConditions(delay_s=(0.001, 0.027), request_loss=0.1, reply_loss=0.1)
"""The labs' unreliable network: requests take 0 to 26 ms and a tenth is lost, as is a tenth of the replies."""
LONG_REORDERING = replace(UNRELIABLE, reorder=2 / 3)
LONG_DELAYS = replace(RELIABLE, unreachable_s=(0.0005, 7.0))


@dataclass(slots=True)
class SimHost:
    """One machine: its name is its address. A restart makes a new one under the same name."""

    name: str
    alive: bool = True
    sinks: dict[tuple[int, int], EnvelopeSink] = field(default_factory=dict)
    requests: RequestSink | None = None
    received: int = 0
    sent: int = 0


@dataclass(slots=True)
class SimRequest:
    """See `Request`."""

    method: int
    args: list[Any]
    answer: Callable[[Any], None]

    def reply(self, body: Any) -> None:
        """See `Request.reply`."""
        self.answer(body)


class SimNetwork:
    """All hosts of a simulated world. Run `pump` in a task of the world's nursery."""

    def __init__(self, rng: Random, conditions: NetConditions = RELIABLE) -> None:
        self.rng = rng
        self.conditions = conditions
        self.hosts: dict[str, SimHost] = {}
        self.requests_total = 0
        self.bytes_total = 0
        self.on_event: Callable[[str, float, str, str, bytes], None] = lambda *event: None
        self._blocked: set[tuple[str, str]] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._wake = trio.Event()

    # --- the world's side ----------------------------------------------------------------------------------------

    def host(self, name: str) -> SimHost:
        """A new host; one of the same name that was there before is fenced."""
        self.crash(name)
        host = self.hosts[name] = SimHost(name)
        return host

    def crash(self, name: str) -> None:
        """From now on the host neither sends nor receives, and its pending calls stay unanswered."""
        host = self.hosts.get(name)
        if host is not None:
            host.alive = False

    def block(self, source: str, target: str) -> None:
        """Cut one direction."""
        self._blocked.add((source, target))

    def unblock(self, source: str, target: str) -> None:
        """Mend one direction."""
        self._blocked.discard((source, target))

    def partition(self, *sides: Iterable[str]) -> None:
        """Only hosts of one side reach each other. Hosts of no side reach nobody. Replaces earlier cuts."""
        side_of = {name: number for number, side in enumerate(sides) for name in side}
        names = sorted(set(self.hosts) | set(side_of))
        self._blocked = {(a, b) for a in names for b in names if a != b and side_of.get(a, -1) != side_of.get(b, -2)}

    def isolate(self, name: str, others: Iterable[str]) -> None:
        """Cut both directions between one host and others, besides the cuts there are."""
        for other in others:
            if other != name:
                self._blocked |= {(name, other), (other, name)}

    def rejoin(self, name: str) -> None:
        """Mend every cut of one host."""
        self._blocked = {cut for cut in self._blocked if name not in cut}

    def heal(self) -> None:
        """No cuts."""
        self._blocked.clear()

    def reaches(self, source: str, target: str) -> bool:
        """A message may pass now."""
        return (source, target) not in self._blocked

    async def pump(self) -> None:
        """Deliver, for ever."""
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                heapq.heappop(self._heap)[2]()
            self._wake = trio.Event()
            due = self._heap[0][0] if self._heap else float("inf")
            with trio.move_on_at(due):
                await self._wake.wait()

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        """Call `act` after a virtual time."""
        self._count += 1
        first = self._heap[0] if self._heap else None
        heapq.heappush(self._heap, (trio.current_time() + delay_s, self._count, act))
        if first is None or self._heap[0] is not first:
            self._wake.set()

    def delay(self) -> float:
        """Draw a one-way delay."""
        drawn = self.rng.uniform(*self.conditions.delay_s)
        if self.conditions.reorder and self.rng.random() < self.conditions.reorder:
            drawn += self.rng.uniform(*self.conditions.reorder_s)
        return drawn

    # --- handles -------------------------------------------------------------------------------------------------

    def transport(self, host: SimHost, gid: int, names: dict[int, str]) -> SimTransport:
        """The peer side of a host; `names` gives each peer's host."""
        return SimTransport(self, host, gid, names)

    def rpc(self, host: SimHost) -> SimRpcClient:
        """The calling side of a host."""
        return SimRpcClient(self, host)


class SimTransport:
    """See `Transport`."""

    def __init__(self, net: SimNetwork, host: SimHost, gid: int, names: dict[int, str]) -> None:
        self.net = net
        self.host = host
        self.gid = gid
        self.names = names
        self.requests_sent = 0

    def listen(self, me: int, deliver: EnvelopeSink) -> None:
        """Messages for peer `me` of the group go to `deliver`."""
        self.host.sinks[self.gid, me] = deliver

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """See `Transport.send`."""
        if not self.host.alive:
            return
        encoded: dict[int, bytes] = {}
        for envelope in envelopes:
            message = envelope.message
            data = encoded.get(id(message))
            if data is None:
                data = encoded[id(message)] = encode_message_bytes(message)
            request = isinstance(message, PeerRequest)
            if request:
                self.requests_sent += 1
                self.host.sent += 1
                self.net.requests_total += 1
            self.net.bytes_total += len(data)
            self._send(envelope.sender, envelope.to, data, request)

    def _send(self, sender: int, to: int, data: bytes, request: bool) -> None:
        net, conditions = self.net, self.net.conditions
        target = self.names[to]
        if net.rng.random() < (conditions.request_loss if request else conditions.reply_loss):
            return
        copies = 2 if conditions.duplicate and net.rng.random() < conditions.duplicate else 1
        for _ in range(copies):
            net.later(net.delay(), lambda: self._arrive(target, sender, to, data))

    def _arrive(self, target: str, sender: int, to: int, data: bytes) -> None:
        host = self.net.hosts.get(target)
        if host is None or not host.alive or not self.host.alive or not self.net.reaches(self.host.name, target):
            return
        sink = host.sinks.get((self.gid, to))
        if sink is None:
            return
        host.received += 1
        self.net.on_event("message", trio.current_time(), self.host.name, target, data)
        (body,) = encode_messages([data])
        (message,) = decode_messages(body[4:])
        sink([Envelope(sender, to, message)])


class SimRpcClient:
    """See `RpcClient`. Made by `SimNetwork.rpc`."""

    def __init__(self, net: SimNetwork, host: SimHost) -> None:
        self.net = net
        self.host = host
        self.requests_sent = 0

    async def call(
        self, address: str, method: int, args: list[Any], *, timeout_s: float = DEFAULT_CALL_TIMEOUT_S
    ) -> Any:
        """See `RpcClient.call`. By the labs' model a lost request or reply fails at once, not at the time-out."""
        if not self.host.alive:
            await trio.sleep_forever()
        call = _Call(self, address, dumps([method, args]))
        self.requests_sent += 1
        self.host.sent += 1
        self.net.requests_total += 1
        call.start()
        with trio.move_on_after(timeout_s):
            await call.done.wait()
        if call.failed is not None:
            raise call.failed
        if call.body is None:
            raise CallFailed(f"no answer from {address} in {timeout_s:g} s", sent=True)
        return loads(call.body)


class _Call:
    def __init__(self, client: SimRpcClient, address: str, data: bytes) -> None:
        self.net = client.net
        self.host = client.host
        self.address = address
        self.data = data
        self.done = trio.Event()
        self.body: bytes | None = None
        self.failed: CallFailed | None = None

    def _end(self, failed: CallFailed | None, body: bytes | None = None) -> None:
        if not self.done.is_set() and self.host.alive:
            self.failed, self.body = failed, body
            self.done.set()

    def _fail(self, why: str, *, sent: bool, after_s: float) -> None:
        failed = CallFailed(f"{self.address}: {why}", sent=sent)
        self.net.later(after_s, lambda: self._end(failed))

    def start(self) -> None:
        """Send the request."""
        net = self.net
        net.bytes_total += len(self.data)
        if net.rng.random() < net.conditions.request_loss:
            self._fail("the request was lost", sent=True, after_s=net.delay())
        else:
            net.later(net.delay(), self._arrive)

    def _arrive(self) -> None:
        net = self.net
        server = net.hosts.get(self.address)
        up = server is not None and server.alive and server.requests is not None
        if server is None or not up or not net.reaches(self.host.name, self.address):
            self._fail("unreachable", sent=False, after_s=net.rng.uniform(*net.conditions.unreachable_s))
            return
        server.received += 1
        net.on_event("request", trio.current_time(), self.host.name, self.address, self.data)
        method, args = loads(self.data)
        assert server.requests is not None
        server.requests([SimRequest(method, args, lambda body: self._reply(server, dumps(body)))])

    def _reply(self, server: SimHost, body: bytes) -> None:
        net = self.net
        if not server.alive:
            return
        net.bytes_total += len(body)
        if net.rng.random() < net.conditions.reply_loss:
            self._fail("the reply was lost", sent=True, after_s=net.delay())
        else:
            net.later(net.delay(), lambda: self._back(server, body))

    def _back(self, server: SimHost, body: bytes) -> None:
        if server.alive and self.net.reaches(server.name, self.host.name):
            self.net.on_event("reply", trio.current_time(), server.name, self.host.name, body)
            self._end(None, body)
        else:
            self._fail("cut off before its reply came", sent=True, after_s=self.net.delay())
