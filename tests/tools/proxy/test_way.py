"""What one connection's frames go through on their way, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio
import trio.testing

from raftlog.net.frames import Deframer, FrameError, frame
from tools.proxy import CUT, PERFECT, Conditions
from tools.proxy.way import Flow, Way

HELLO = b"hello"


class Line:
    """A connection through a way: `write` at one end, `read` at the other."""

    def __init__(self, conditions: Conditions = PERFECT, seed: int = 1) -> None:
        self.way = Way(Random(seed), conditions)
        self.near, source = trio.testing.memory_stream_one_way_pair()
        target, self.far = trio.testing.memory_stream_one_way_pair()
        self.flow = Flow(self.way, source, target)
        self._deframer = Deframer()
        self._read: list[bytes] = []

    async def write(self, *bodies: bytes) -> None:
        await self.near.send_all(b"".join(map(frame, bodies)))

    async def read(self, count: int) -> list[bytes]:
        while len(self._read) < count:
            self._read += self._deframer.feed(bytes(await self.far.receive_some()))
        bodies, self._read = self._read[:count], self._read[count:]
        return bodies


def play(line: Line, body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(3600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.flow.run)
                await body()
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_frames_arrive_in_their_order_however_the_bytes_are_cut() -> None:
    line = Line()

    async def body() -> None:
        for byte in b"".join(map(frame, [HELLO, *numbered(20)])):
            await line.near.send_all(bytes([byte]))
        assert await line.read(21) == [HELLO, *numbered(20)]
        assert (line.way.passed, line.way.dropped) == (21, 0)

    play(line, body)


def test_a_delay_holds_each_frame_for_its_time_and_keeps_the_order() -> None:
    line = Line(Conditions(delay_s=(0.1, 0.3)))

    async def body() -> None:
        begun = trio.current_time()
        await line.write(HELLO, *numbered(50))
        assert await line.read(1) == [HELLO]
        assert trio.current_time() - begun >= 0.1
        assert await line.read(50) == numbered(50)
        assert 0.2 < trio.current_time() - begun <= 0.301

    play(line, body)


def test_where_frames_may_overtake_some_do_and_none_is_lost() -> None:
    line = Line(Conditions(delay_s=(0.0, 1.0), reordered=True))

    async def body() -> None:
        await line.write(HELLO)
        assert await line.read(1) == [HELLO]
        await line.write(*numbered(50))
        found = await line.read(50)
        assert found != numbered(50) and sorted(found) == sorted(numbered(50))

    play(line, body)


def test_loss_takes_whole_frames_the_same_ones_from_the_same_seed_and_never_the_handshake() -> None:
    found = []
    for seed in (1, 1, 2):
        line = Line(Conditions(loss=0.5), seed)
        got: list[bytes] = []

        async def body(line: Line = line, got: list[bytes] = got) -> None:
            await line.write(HELLO, *numbered(100))
            while line.way.passed + line.way.dropped < 101:
                await trio.testing.wait_all_tasks_blocked()
            got += await line.read(line.way.passed)

        play(line, body)
        found.append(got)
        assert 25 < line.way.dropped < 75
    assert found[0] == found[1] != found[2]
    assert all(got[0] == HELLO for got in found)


def test_a_cut_drops_what_comes_and_what_is_on_its_way_and_the_connection_goes_on_after_it() -> None:
    line = Line(Conditions(delay_s=(1.0, 1.0)))

    async def body() -> None:
        await line.write(HELLO)
        assert await line.read(1) == [HELLO]
        await line.write(b"on its way")
        await trio.testing.wait_all_tasks_blocked()
        line.way.set(CUT)
        await line.write(b"into the void")
        with trio.move_on_after(5):
            await line.read(1)
        assert line.way.dropped == 2
        line.way.set(PERFECT)
        await line.write(b"after it")
        assert await line.read(1) == [b"after it"]

    play(line, body)


def test_a_handshake_waits_until_the_cut_is_over() -> None:
    line = Line(CUT)

    async def body() -> None:
        await line.write(HELLO, b"first")
        await trio.testing.wait_all_tasks_blocked()
        assert (line.way.passed, line.way.dropped) == (0, 0)
        line.way.set(PERFECT)
        assert await line.read(2) == [HELLO, b"first"]

    play(line, body)


def test_a_way_that_is_slow_is_not_read_from_without_end() -> None:
    line = Line(Conditions(delay_s=(60.0, 60.0)))
    large = bytes(1 << 20)

    async def body() -> None:
        await line.write(HELLO)
        with trio.move_on_after(30):
            for _ in range(64):
                await line.write(large)
                await trio.testing.wait_all_tasks_blocked()
        assert 16 << 20 < line.flow.size_bytes < 20 << 20
        assert await line.read(1) == [HELLO]

    play(line, body)


def test_bytes_of_another_protocol_end_the_connection() -> None:
    line = Line()

    async def main() -> None:
        await line.near.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ExceptionGroup) as caught:
            await line.flow.run()
        assert caught.group_contains(FrameError)

    trio.run(main)


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.5}, {"loss": -0.1}, {"delay_s": (2.0, 1.0)}, {"delay_s": (-1.0, 1.0)}, {"delay_s": (0, 1e999)}]
)
def test_impossible_conditions_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Conditions(**wrong)  # type: ignore[arg-type]
