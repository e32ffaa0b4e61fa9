"""The lean load generator: sessions that speak the wire protocol themselves, in one plain loop without tasks.

What wrk is for HTTP: so little work per request that the servers are what is measured. It stamps writes as the clerk does,
follows a leader that moved, and repeats under the same stamp what may or may not have happened. It knows no deadlines and
no moving shards; what it cannot go on from raises `LoadError`.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom
from time import perf_counter
from typing import Any

from raftlog.codec import CodecError, dumps, loads
from raftlog.net.frames import Deframer, Hello, Kind, decode_replies, decode_welcome, encode_batch
from raftlog.net.tcp_link import parse_address
from shardkv.client_session import ShardSession
from shardkv.commands import Put, encode_command
from shardkv.methods import Method
from shardkv.replies import Code
from tools.bench.workload import Workload, draws, key_of, value_of

RECEIVE_BYTES = 1 << 18
CONNECT_S = 5.0
AGAIN_S = 0.02
"""The pause before a group without a leader is asked again."""
STUCK_S = 15.0
"""Without any reply for so long there is nothing to measure."""


class LoadError(Exception):
    """The load cannot go on. One line for the user."""


@dataclass
class Times:
    """What a generator measured: latencies in seconds of what ended while it measured, how long that was, and how many
    requests had to be repeated (a leader moved)."""

    gets: list[float] = field(default_factory=list)
    puts: list[float] = field(default_factory=list)
    seconds: float = 0.0
    repeated: int = 0


@dataclass(frozen=True)
class Routes:
    """Which group serves a shard, and the addresses of a group's servers, its leader first."""

    shard_of: Callable[[bytes], int]
    owners: Sequence[int]
    servers: Mapping[int, Sequence[str]]


class _Line:
    """A connection; never blocks after its handshake. What is queued leaves at `flush`, as much as the socket takes."""

    def __init__(self, address: str, selector: selectors.BaseSelector) -> None:
        self.address = address
        self.queue: list[bytes] = []
        self._unsent = b""
        self._deframer = Deframer()
        self._selector = selector
        try:
            self.socket = socket.create_connection(parse_address(address), timeout=CONNECT_S)
            self.socket.sendall(Hello(Kind.CLIENT).encode())
            frames: list[bytes] = []
            while not frames:
                data = self.socket.recv(RECEIVE_BYTES)
                if not data:
                    raise LoadError(f"{address} closed the connection during the handshake")
                frames = self._deframer.feed(data)
        except OSError as error:
            raise LoadError(f"{address}: {error}") from error
        if reason := decode_welcome(frames[0]):
            raise LoadError(f"{address} refused: {reason}")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        selector.register(self.socket, selectors.EVENT_READ, self)

    def receive(self) -> list[tuple[int, Any]]:
        """(call, body) of each reply that is there. Raises `LoadError` if the connection is lost."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LoadError(f"{self.address}: {error}") from error
        if not data:
            raise LoadError(f"{self.address} closed the connection")
        return [reply for body in self._deframer.feed(data) for reply in decode_replies(body)]

    def flush(self) -> None:
        """Send what is queued."""
        if self.queue:
            self._unsent = b"".join([self._unsent, *encode_batch(self.queue)])
            self.queue.clear()
        if not self._unsent:
            return
        try:
            sent = self.socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise LoadError(f"{self.address}: {error}") from error
        self._unsent = self._unsent[sent:]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(self.socket).events != wanted:
            self._selector.modify(self.socket, wanted, self)


class _Session:
    """One client: its request on the way, when that began, and its sessions per shard."""

    __slots__ = ("began", "call", "client", "draw", "gid", "lane", "number", "request", "shard", "shards", "stamp")

    def __init__(self, number: int, lane: int, client: int, draw: int) -> None:
        self.number = number
        self.lane = lane
        self.client = client
        self.draw = draw
        self.call = number
        self.began = 0.0
        self.request: list[Any] = []
        self.gid = 0
        self.shard = 0
        self.stamp: Any = None
        self.shards: dict[int, ShardSession] = {}


class WireLoad:
    """The sessions of one generator. `run` once."""

    def __init__(self, workload: Workload, routes: Routes, rng: Random) -> None:
        self._workload = workload
        self._routes = routes
        self._selector = selectors.DefaultSelector()
        self._servers = {gid: list(servers) for gid, servers in routes.servers.items()}
        self._lines: dict[tuple[int, int], _Line] = {}
        self._changed: set[_Line] = set()
        self._later: list[tuple[float, _Session]] = []
        self._times = Times()
        self._measuring = False
        self._left: Iterator[int] | None = None
        self._pace = 1 / workload.rate_per_s if workload.rate_per_s else 0.0
        self._due = 0.0
        self._idle: list[_Session] = []
        self._value = value = value_of(rng, workload.value_bytes)
        self._keys = [key_of(number, workload.value_bytes) for number in range(workload.keys)]
        self._shards = [routes.shard_of(key) for key in self._keys]
        self._puts = [encode_command(Put(key, value, None)) for key in self._keys] if workload.reads < 1 else []
        picked = draws(workload.choice, workload.keys, rng)
        self._draws = [number for number in picked if self._shards[number] != workload.without_shard]
        self._is_get = [rng.random() < workload.reads for _ in self._draws]
        lanes = workload.connections or workload.clients
        ids = SystemRandom()  # the servers remember sessions: no two loads may have the same
        self._sessions = [
            _Session(number, number % lanes, ids.getrandbits(63) | 1, rng.randrange(len(self._draws)))
            for number in range(workload.clients)
        ]

    def close(self) -> None:
        """Close all connections."""
        for line in self._lines.values():
            line.socket.close()
        self._selector.close()

    def run(self, warm_up_s: float, measure_s: float, on_measuring: Callable[[], None]) -> Times:
        """Warm up, measure, and return the times. Raises `LoadError`."""
        begin = perf_counter() + warm_up_s
        self._start()
        self._turn_until(begin)
        on_measuring()
        begin = perf_counter()
        self._measuring = True
        self._turn_until(begin + measure_s)
        self._times.seconds = perf_counter() - begin
        return self._times

    def fill(self, first: int, end: int) -> None:
        """Put the keys with these numbers once. Raises `LoadError`."""
        self._left = iter(range(first, end))
        self._start()
        while any(session.request for session in self._sessions):
            self._turn_until(perf_counter() + 0.05)

    def _start(self) -> None:
        now = perf_counter()
        self._heard = self._due = now
        for session in self._sessions:
            self._free(session, now)
        self._flush()

    def _turn_until(self, end: float) -> None:
        while (now := perf_counter()) < end:
            wait = min(0.05, end - now)
            if self._idle:
                wait = min(wait, max(0.0, self._due - now))
            for key, events in self._selector.select(wait):
                line = key.data
                if events & selectors.EVENT_WRITE:
                    self._changed.add(line)
                if events & selectors.EVENT_READ:
                    self._receive(line)
            if self._idle:
                self._begin_due(perf_counter())
            if self._later:
                self._repeat_due(perf_counter())
            self._flush()
            if now - self._heard > STUCK_S:
                raise LoadError(f"no reply for {STUCK_S:.0f} s")

    def _flush(self) -> None:
        for line in self._changed:
            line.flush()
        self._changed.clear()

    def _receive(self, line: _Line) -> None:
        replies = line.receive()
        now = perf_counter()
        if replies:
            self._heard = now
        sessions = self._sessions
        for call, body in replies:
            session = sessions[call % len(sessions)]
            if session.call == call and session.request:
                self._answered(session, body, now, line)

    def _answered(self, session: _Session, body: Any, now: float, line: _Line) -> None:
        if type(body) is bytes:
            body = loads(body)
        code = body[0]
        put = session.request[1] == Method.WRITE
        if code == Code.OK:
            if put:
                shard = session.shards[session.shard]
                shard.end(session.stamp)
                shard.seen(body[-1])
            if self._measuring:
                (self._times.puts if put else self._times.gets).append(now - session.began)
            self._free(session, now)
        elif code in (Code.NOT_LEADER, Code.MAYBE):
            self._moved(session, line, body[2] if code == Code.NOT_LEADER else None, now)
        elif code == Code.SESSION_EXPIRED:
            self._times.repeated += 1
            session.shards[session.shard].seen(body[-1])  # a new session has to be of now: others were evicted
            self._stamp(session)
            self._send(session)
        else:
            raise LoadError(f"{line.address} answered {Code(code).name} {body[1:]!r:.80}")

    def _moved(self, session: _Session, line: _Line, hint: Any, now: float) -> None:
        """The server does not lead: ask whom it names at once, or the next one after a pause."""
        self._times.repeated += 1
        servers = self._servers[session.gid]
        if isinstance(hint, str):
            if servers[0] != hint:
                self._servers[session.gid] = [hint, *(address for address in servers if address != hint)]
            self._send(session)
            return
        if servers[0] == line.address:
            self._servers[session.gid] = [*servers[1:], servers[0]]
        self._later.append((now + AGAIN_S, session))

    def _repeat_due(self, now: float) -> None:
        due = [session for at, session in self._later if at <= now]
        self._later = [(at, session) for at, session in self._later if at > now]
        for session in due:
            self._send(session)

    def _free(self, session: _Session, now: float) -> None:
        """A session has no request on its way: it begins its next one, at once or when it is due."""
        session.request = []
        if self._left is not None:
            self._fill_next(session, now)
        elif self._pace:
            self._idle.append(session)
        else:
            self._next(session, now)

    def _begin_due(self, now: float) -> None:
        """Begin what is due. The latency counts from when it was due: a server that is late must not slow the clock by which
        it is measured. What could not be begun since all clients were busy is not made up for."""
        while self._idle and self._due <= now:
            self._next(self._idle.pop(), self._due)
            self._due += self._pace
        if not self._idle:
            self._due = max(self._due, now)

    def _fill_next(self, session: _Session, now: float) -> None:
        assert self._left is not None
        number = next(self._left, None)
        if number is not None:
            key = key_of(number, self._workload.value_bytes)
            self._put(session, self._routes.shard_of(key), encode_command(Put(key, self._value, None)), now)

    def _next(self, session: _Session, now: float) -> None:
        """Have a session begin its next request."""
        at = session.draw = (session.draw + 1) % len(self._draws)
        number = self._draws[at]
        if not self._is_get[at]:
            self._put(session, self._shards[number], self._puts[number], now)
            return
        self._begin(session, self._shards[number], now)
        session.request = [session.call, int(Method.GET), [self._keys[number]]]
        self._send(session)

    def _put(self, session: _Session, shard: int, command: bytes, now: float) -> None:
        self._begin(session, shard, now)
        session.request = [session.call, int(Method.WRITE), [0, 0, 0, 0, command]]
        self._stamp(session)
        self._send(session)

    def _begin(self, session: _Session, shard: int, now: float) -> None:
        session.shard = shard
        session.gid = self._routes.owners[shard]
        session.call += len(self._sessions)
        session.began = now

    def _stamp(self, session: _Session) -> None:
        shard = session.shards.get(session.shard)
        if shard is None:
            shard = session.shards[session.shard] = ShardSession(session.client)
        shard.open.clear()
        session.stamp = shard.begin()
        session.request[2][:4] = session.stamp

    def _send(self, session: _Session) -> None:
        address = self._servers[session.gid][0]
        line = self._lines.get((session.gid, session.lane))
        if line is None or line.address != address:
            line = self._lines[session.gid, session.lane] = _Line(address, self._selector)
        try:
            line.queue.append(dumps(session.request))
        except CodecError as error:
            raise LoadError(str(error)) from error
        self._changed.add(line)
