"""The meter, and the built-in workload's judgement: what was lost or invented is found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import StringIO
from random import Random

import pytest
import trio
import trio.testing

from shardkv.errors import NoKey, VersionMismatch
from tools.chaos.kv_load import KvShape, KvWorkload
from tools.chaos.load import Client, Meter
from tools.checker.history import read_history


class Liar:
    """A clerk over a dictionary, which from its n-th put on forgets that put but says it is done."""

    def __init__(self, lies_from: int | None) -> None:
        self.lies_from = lies_from
        self.rows: dict[bytes, tuple[bytes, int]] = {}
        self.puts = 0

    async def get(self, key: bytes) -> tuple[bytes, int]:
        await trio.sleep(0.001)
        if key not in self.rows:
            raise NoKey("missing")
        return self.rows[key]

    async def put(self, key: bytes, value: bytes, version: int | None = None) -> int:
        await trio.sleep(0.001)
        now = self.rows.get(key, (b"", 0))[1]
        if version is not None and version != now:
            raise VersionMismatch(now)
        self.puts += 1
        if self.lies_from is None or self.puts != self.lies_from:
            self.rows[key] = value, now + 1
        return now + 1

    async def delete(self, key: bytes, version: int | None = None) -> int:
        await trio.sleep(0.001)
        if key not in self.rows:
            raise NoKey("missing")
        return self.rows.pop(key)[1]


def judged(lies_from: int | None) -> tuple[list[str], str]:
    clerk = Liar(lies_from)

    @asynccontextmanager
    async def connect(addresses: Sequence[str], **options: object) -> AsyncIterator[Liar]:
        yield clerk

    file = StringIO()

    async def main() -> list[str]:
        meter = Meter()
        workload = KvWorkload(KvShape(keys=2, generation_s=3.0), file, connect)  # type: ignore[arg-type]
        with trio.move_on_after(10):
            await workload.work(Client("c0", (), {}, Random(1), meter))
        wrong = await workload.judge(Client("judge", (), {}, Random(2), meter))
        assert meter.acknowledged == sum(second.writes for second in meter.seconds) > 100
        return wrong

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)), file.getvalue()


def test_an_honest_store_passes_and_every_operation_is_in_the_file() -> None:
    wrong, text = judged(None)
    assert wrong == []
    ops = list(read_history(text.splitlines()))
    assert len(ops) > 300
    assert {op.op for op in ops} == {"get", "put", "delete"}
    assert {op.key for op in ops if op.client == "judge"} == {op.key for op in ops}


def test_one_acknowledged_write_that_is_lost_is_found() -> None:
    wrong, _ = judged(60)
    assert any("illegal" in line for line in wrong)


def test_the_meter_counts_by_the_second_and_who_was_blocked() -> None:
    async def main() -> None:
        meter = Meter()
        meter.begin("a")
        meter.begin("b")
        await trio.sleep(0.2)
        meter.end("a", write=True, answered=True)
        meter.begin("a")
        await trio.sleep(2.0)
        meter.end("a", write=False, answered=True)
        meter.end("b", write=True, answered=False)
        assert [(s.writes, s.reads, s.failed, s.blocked) for s in meter.seconds] == [
            (1, 0, 0, 2),
            (0, 0, 0, 2),
            (0, 1, 1, 2),
        ]
        assert meter.seconds[0].latencies_s == [pytest.approx(0.2)]
        assert (meter.acknowledged, meter.answered, meter.failed) == (1, 1, 1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
