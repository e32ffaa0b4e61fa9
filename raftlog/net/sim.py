"""The simulated network: deterministic, in virtual time, with the labs' fault model; part of the product.

One pump delivers everything, from a heap ordered by (time, number), so there is no task per message and no order that
depends on one. Every message is encoded when sent and decoded when delivered. A crash is not a cancel: `crash` fences
a host synchronously; what is on its way to or from it is lost, and no `finally` of a dead host reaches the network.
A restart is a new `SimHost` under the old name, so nothing meant for the dead one can reach it.

Where it differs from TCP, it follows the labs: a lost request or reply fails its call at once, and a cut link fails it
as unreachable, where TCP could only let the call's deadline pass.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import trio
import trio.testing

from raftlog.codec import CodecError, decode_message, loads
from raftlog.messages import Envelope
from raftlog.messages import Request as PeerRequest
from raftlog.net.base import DEFAULT_CALL_TIMEOUT_S, CallFailed, EnvelopeSink, RequestSink
from raftlog.net.frames import MAX_ITEM_BYTES, encode_message_bytes, encode_reply, encode_request


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
    """Share of messages, requests and replies alike, that are held back by `reorder_s` more."""
    reorder_s: tuple[float, float] = (0.2, 2.2)
    reply_reorder: float = 0.0
    """Share of replies that are held back by 0.2 s, and up to 2 s more: evenly up to an evenly drawn bound."""
    unreachable_s: tuple[float, float] = (0.0005, 0.1)
    """How long a call to a server that can't be reached takes to fail."""
    broken_s: tuple[float, float] = (0.0005, 0.1)
    """How long after the death of a server its unanswered calls fail."""


RELIABLE = NetConditions()
UNRELIABLE = NetConditions(delay_s=(0.001, 0.027), request_loss=0.1, reply_loss=0.1)
"""The labs' unreliable network: requests take 0 to 26 ms and a tenth is lost, as is a tenth of the replies."""
LONG_REORDERING = replace(UNRELIABLE, reply_reorder=2 / 3)
"""The same, with the labs' long reordering."""
LONG_DELAYS = replace(RELIABLE, unreachable_s=(0.0005, 7.0))


class SimHost:
    """One machine: its name is its address. Made by `SimNetwork.host`; a restart makes a new one under the same name.

    Set `requests` to serve calls, and `alive` to False to fence it, for good.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sinks: dict[tuple[int, int], EnvelopeSink] = {}
        self.requests: RequestSink | None = None
        self.received = 0
        self.sent = 0
        self._alive = True
        self._open: dict[_Call, None] = {}  # calls that its handler has and has not answered, in order
        self._resumed: trio.Event | None = None
        self._held: deque[Callable[[], None]] = deque()

    @property
    def alive(self) -> bool:
        """Whether it takes part. Once False, it sends nothing, its sinks are not called, its replies are dropped."""
        return self._alive

    @alive.setter
    def alive(self, alive: bool) -> None:
        assert self._alive or not alive, f"{self.name} is dead: a restart is a new host"
        self._alive = alive
        if not alive:
            opened, self._open = self._open, {}
            for call in opened:
                call.server_died()

    def pause(self) -> None:
        """As by SIGSTOP: what comes in waits. Its tasks must wait for `resumed` themselves."""
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self) -> None:
        """Take what has come meanwhile, in order."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None
            while self._held and self._resumed is None:
                self._held.popleft()()

    async def resumed(self) -> None:
        """Wait while it is paused."""
        while self._resumed is not None:
            await self._resumed.wait()

    def hold(self, act: Callable[[], None]) -> bool:
        """Whether it is paused; then `act` is done once it is not."""
        if self._resumed is not None:
            self._held.append(act)
        return self._resumed is not None

    def took(self, call: _Call) -> None:
        """Its handler has the call."""
        self.received += 1
        self._open[call] = None

    def answered(self, call: _Call) -> None:
        """Its handler has replied."""
        self._open.pop(call, None)


class SimRequest:
    """See `Request`."""

    __slots__ = ("_answer", "args", "method")

    def __init__(self, method: int, args: list[Any], answer: Callable[[Any], None]) -> None:
        self.method = method
        self.args = args
        self._answer: Callable[[Any], None] | None = answer

    def reply(self, body: Any) -> None:
        """See `Request.reply`."""
        answer, self._answer = self._answer, None
        assert answer is not None, f"a second reply to a request of method {self.method}"
        answer(body)


class _Jumper(trio.abc.Instrument):
    """Moves the time on while nothing else could happen: no task is to run, and no deadline comes before.

    Invariant: `_waiting` are the tasks that were scheduled since this was made and have not had their turn; `_deadline` is
    the next deadline, if no task has had a turn since it was asked for.
    """

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self._waiting: set[trio.lowlevel.Task] = set()
        self._deadline: float | None = None
        self._begun = False

    @classmethod
    def of_this_run(cls) -> _Jumper | None:
        """None if the clock does not jump by itself, for then nor may we."""
        clock = trio.lowlevel.current_clock()
        if not isinstance(clock, trio.testing.MockClock) or clock.autojump_threshold != 0:
            return None
        jumper = cls(clock)
        trio.lowlevel.add_instrument(jumper)
        return jumper

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self._waiting.add(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self._waiting.discard(task)
        self._deadline = None

    def jump(self, due: float) -> bool:
        """Make it `due`, if nothing can happen before. Not the first time: tasks may wait that we have not seen."""
        if self._waiting or not self._begun:
            self._begun = True
            return False
        now = self._clock.current_time()
        if self._deadline is None:  # to be asked costs as much as a delivery, and only tasks set deadlines
            self._deadline = now + trio.lowlevel.current_statistics().seconds_to_next_deadline
        if due >= self._deadline:
            return False
        self._clock.jump(max(0.0, due - now))
        return True


class SimNetwork:
    """All hosts of a simulated world. Run `pump` in a task of the world's nursery."""

    def __init__(self, rng: Random, conditions: NetConditions = RELIABLE) -> None:
        self.rng = rng
        self.conditions = conditions
        self.links: dict[tuple[str, str], NetConditions] = {}
        """Conditions of single links, one direction each: (source, target). `conditions` hold for the others."""
        self.hosts: dict[str, SimHost] = {}
        self.requests_total = 0
        self.bytes_total = 0
        self.on_event: Callable[[str, float, str, str, bytes], None] = lambda *event: None
        """Called for each delivery: ("message" | "request" | "reply", time, source, target, its bytes)."""
        self._blocked: set[tuple[str, str]] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._asleep: trio.CancelScope | None = None

    # --- the world's side ----------------------------------------------------------------------------------------

    def host(self, name: str) -> SimHost:
        """A new host; one of the same name that was there before is fenced."""
        self.crash(name)
        host = self.hosts[name] = SimHost(name)
        return host

    def crash(self, name: str) -> None:
        """From now on the host neither sends nor receives. Calls to it fail; calls it made never end (its tasks are dead
        men, to be cancelled next)."""
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
        """Deliver, for ever. What a sink raises ends it. Under a clock that jumps to the next deadline it jumps itself as
        long as no task has anything to do: most of a simulation is that, and the scheduler would cost as much again."""
        jumper = _Jumper.of_this_run()
        while True:
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                heapq.heappop(self._heap)[2]()
            due = self._heap[0][0] if self._heap else float("inf")
            if jumper is not None and jumper.jump(due):
                continue
            with trio.CancelScope(deadline=due) as self._asleep:
                await trio.sleep_forever()
            self._asleep = None

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        """Call `act` after a virtual time, in a turn of its own. Equal times go in the order of these calls."""
        self._count += 1
        first = self._heap[0] if self._heap else None
        heapq.heappush(self._heap, (trio.current_time() + delay_s, self._count, act))
        if self._asleep is not None and self._heap[0] is not first:
            self._asleep.deadline = self._heap[0][0]

    def conditions_of(self, source: str, target: str) -> NetConditions:
        """What holds on one link, in one direction."""
        return self.links.get((source, target), self.conditions)

    def delay(self, source: str, target: str, *, reply: bool = False) -> float:
        """Draw a one-way delay."""
        conditions = self.conditions_of(source, target)
        drawn = self.rng.uniform(*conditions.delay_s)
        if conditions.reorder and self.rng.random() < conditions.reorder:
            drawn += self.rng.uniform(*conditions.reorder_s)
        if reply and conditions.reply_reorder and self.rng.random() < conditions.reply_reorder:
            drawn += 0.2 + self.rng.uniform(0.0, self.rng.uniform(0.0, 2.0))
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
        """See `Transport.send`. A dead host's is dropped."""
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
        net, source, target = self.net, self.host.name, self.names.get(to)
        if target is None or len(data) > MAX_ITEM_BYTES:
            return
        conditions = net.conditions_of(source, target)
        if net.rng.random() < (conditions.request_loss if request else conditions.reply_loss):
            return
        copies = 2 if conditions.duplicate and net.rng.random() < conditions.duplicate else 1
        aimed = net.hosts.get(target)  # not its successor, if it dies meanwhile
        for _ in range(copies):
            net.later(net.delay(source, target, reply=not request), lambda: self._arrive(aimed, sender, to, data))

    def _arrive(self, host: SimHost | None, sender: int, to: int, data: bytes) -> None:
        if host is None or not host.alive or not self.host.alive or not self.net.reaches(self.host.name, host.name):
            return
        sink = host.sinks.get((self.gid, to))
        if sink is None or host.hold(lambda: self._arrive(host, sender, to, data)):
            return
        message = decode_message(loads(data))
        host.received += int(isinstance(message, PeerRequest))
        self.net.on_event("message", trio.current_time(), self.host.name, host.name, data)
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
        """See `RpcClient.call`. By the labs' model a lost request or reply fails at once, not at the time-out. On a dead
        host it never returns: an error would only send a clerk that nobody has cancelled yet round and round."""
        await self.host.resumed()
        if not self.host.alive:
            await trio.sleep_forever()
        try:
            data = encode_request(self.requests_sent, method, args)
        except CodecError as error:
            raise CallFailed(f"a request that can't be sent: {error}", sent=False) from error
        call = _Call(self, address, data)
        self.requests_sent += 1
        self.host.sent += 1
        self.net.requests_total += 1
        call.start()
        with trio.move_on_after(timeout_s):
            await call.done.wait()
        if not self.host.alive:
            await trio.sleep_forever()
        if call.failed is not None:
            raise call.failed
        if call.body is None:
            raise CallFailed(f"no answer from {address} in {timeout_s:g} s", sent=True)
        return loads(call.body)[1]


class _Call:
    """One call, from its sending to its end."""

    def __init__(self, client: SimRpcClient, address: str, data: bytes) -> None:
        self.net = client.net
        self.host = client.host
        self.address = address
        self.data = data
        self.done = trio.Event()
        self.body: bytes | None = None
        self.failed: CallFailed | None = None

    def _end(self, failed: CallFailed | None, body: bytes | None = None) -> None:
        if not self.done.is_set() and self.host.alive and not self.host.hold(lambda: self._end(failed, body)):
            self.failed, self.body = failed, body
            self.done.set()

    def _fail(self, why: str, *, sent: bool, after_s: float) -> None:
        failed = CallFailed(f"{self.address}: {why}", sent=sent)
        self.net.later(after_s, lambda: self._end(failed))

    def start(self) -> None:
        """Send the request."""
        net, source, target = self.net, self.host.name, self.address
        net.bytes_total += len(self.data)
        aimed = net.hosts.get(target)  # not its successor, if it dies meanwhile
        delay_s = net.delay(source, target)
        if net.rng.random() < net.conditions_of(source, target).request_loss:
            self._fail("the request was lost", sent=True, after_s=delay_s)
        else:
            net.later(delay_s, lambda: self._arrive(aimed))

    def _arrive(self, server: SimHost | None) -> None:
        net, source = self.net, self.host.name
        if not self.host.alive:
            return
        if server is None or not server.alive or server.requests is None or not net.reaches(source, self.address):
            unreachable_s = net.conditions_of(source, self.address).unreachable_s
            self._fail("unreachable", sent=False, after_s=net.rng.uniform(*unreachable_s))
            return
        if server.hold(lambda: self._arrive(server)):
            return
        server.took(self)
        net.on_event("request", trio.current_time(), source, self.address, self.data)
        _, method, args = loads(self.data)
        server.requests([SimRequest(method, args, lambda body: self._reply(server, body))])

    def server_died(self) -> None:
        """The server that had the request is dead."""
        broken_s = self.net.conditions_of(self.address, self.host.name).broken_s
        self._fail("its server died", sent=True, after_s=self.net.rng.uniform(*broken_s))

    def _reply(self, server: SimHost, body: Any) -> None:
        if not server.alive:
            return
        server.answered(self)
        net, source, target = self.net, self.address, self.host.name
        delay_s = net.delay(source, target, reply=True)
        try:
            data = encode_reply(0, body)
        except CodecError as error:
            self._fail(f"no reply: {error}", sent=True, after_s=delay_s)
            return
        net.bytes_total += len(data)
        if net.rng.random() < net.conditions_of(source, target).reply_loss:
            self._fail("the reply was lost", sent=True, after_s=delay_s)
        else:
            net.later(delay_s, lambda: self._back(server, data))

    def _back(self, server: SimHost, data: bytes) -> None:
        if server.alive and self.net.reaches(server.name, self.host.name):
            self.net.on_event("reply", trio.current_time(), server.name, self.host.name, data)
            self._end(None, data)
        else:
            after_s = self.net.delay(server.name, self.host.name)
            self._fail("cut off before its reply came", sent=True, after_s=after_s)
