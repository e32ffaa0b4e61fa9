"""One way between two hosts, and what travels it: the bytes of each connection, cut into frames."""

from __future__ import annotations

import heapq
from contextlib import suppress
from random import Random

import trio

from raftlog.net.frames import MAX_FRAME_BYTES, Deframer
from raftlog.net.tcp_link import RECEIVE_BYTES
from tools.proxy.conditions import PERFECT, Conditions

TRAVELLING_BYTES_MAX = 16 << 20
"""With so many bytes on its way a connection is not read from: the sender's own limits shall work."""


class Way:
    """From one host to another. `conditions` are replaced by `set` only; the counts are of frames, handshakes included."""

    def __init__(self, rng: Random, conditions: Conditions = PERFECT) -> None:
        self.conditions = conditions
        self.rng = rng
        self.passed = 0
        self.dropped = 0
        self._changed = trio.Event()

    def set(self, conditions: Conditions) -> None:
        """From now on."""
        if conditions != self.conditions:
            self.conditions = conditions
            self._changed.set()
            self._changed = trio.Event()

    async def wait_open(self) -> None:
        """Until the way is not cut."""
        while self.conditions.cut:
            await self._changed.wait()


class Flow:
    """One connection's frames in one direction. `run` returns when the source ended it and all that travelled arrived."""

    def __init__(self, way: Way, source: trio.abc.ReceiveStream, target: trio.abc.SendStream) -> None:
        self._way = way
        self._source = source
        self._target = target
        self._travelling: list[tuple[float, int, bytes]] = []
        self._numbers = 0
        self.size_bytes = 0
        self._latest = 0.0
        self._ended = False
        self._greeted = False
        self._moved = trio.Event()

    async def run(self) -> None:
        """Carry frames until the source ends. Raises `trio.BrokenResourceError` if the target did, and `FrameError` for
        what is no frame."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver)
            with suppress(trio.BrokenResourceError):
                await self._take()
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def _take(self) -> None:
        deframer = Deframer(MAX_FRAME_BYTES)
        way = self._way
        first = True
        while data := await self._source.receive_some(RECEIVE_BYTES):
            for body in deframer.feed(bytes(data)):
                if first:
                    await way.wait_open()
                    first = False
                elif way.conditions.drops(way.rng):
                    way.dropped += 1
                    continue
                self._send_off(len(body).to_bytes(4, "big") + body)
            while self.size_bytes > TRAVELLING_BYTES_MAX:
                await self._moved.wait()

    def _send_off(self, frame: bytes) -> None:
        conditions = self._way.conditions
        at = trio.current_time() + conditions.takes_s(self._way.rng)
        if not conditions.reordered:
            at = self._latest = max(at, self._latest)
        self._numbers += 1
        self.size_bytes += len(frame)
        heapq.heappush(self._travelling, (at, self._numbers, frame))
        self._wake()

    async def _deliver(self) -> None:
        while True:
            now = trio.current_time()
            due = []
            while self._travelling and self._travelling[0][0] <= now:
                due.append(heapq.heappop(self._travelling)[2])
            if due:
                await self._arrive(due)
            elif self._travelling:
                with trio.move_on_at(self._travelling[0][0]):
                    await self._moved.wait()
            elif self._ended:
                return
            else:
                await self._moved.wait()

    async def _arrive(self, frames: list[bytes]) -> None:
        """Hand over what has travelled; what meets a cut at its end is lost too, but for the handshake."""
        way = self._way
        size = sum(map(len, frames))
        if way.conditions.cut and self._greeted:
            way.dropped += len(frames)
        else:
            await way.wait_open()
            self._greeted = True
            await self._target.send_all(b"".join(frames))
            way.passed += len(frames)
        self.size_bytes -= size
        self._wake()
