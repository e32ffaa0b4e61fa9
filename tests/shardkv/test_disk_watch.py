"""A commit that does not return ends the peer, whatever it was to write; a pause of the process does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from shardkv.disk_watch import LOOK_S, watch_disk
from store.engine import WriteTxn
from store.memory_engine import MemoryDisk, MemoryEngine
from store.patience import CommitStalled, Patience
from tools.sim.disk import DiskConditions, SimWriter
from tools.sim.world import World, simulate


def writer_of(world: World, commit_s: float) -> SimWriter:
    """A writer whose every commit takes this long."""
    conditions = DiskConditions(commit_s=(commit_s, commit_s))
    return SimWriter(
        MemoryEngine(MemoryDisk(("t",))), world.net.later, world.rng("disk"), lambda error: None, conditions
    )


def write(txn: WriteTxn) -> None:
    txn.put("t", b"k", b"v")


async def watched(writer: SimWriter, limit_s: float, seconds: float) -> list[BaseException]:
    """What the watching calls fatal in so many seconds."""
    found: list[BaseException] = []
    with trio.move_on_after(seconds):
        await watch_disk(Path("/"), (), ((writer, limit_s),), on_alarm=print, trouble=print, fatal=found.append)
    return found


def test_a_commit_that_does_not_return_is_fatal() -> None:
    async def body(world: World) -> None:
        writer = writer_of(world, commit_s=1e6)
        writer.submit(write, lambda _: None)
        began = trio.current_time()
        (error,) = await watched(writer, 5.0, 60.0)
        assert isinstance(error, CommitStalled) and "the disk hangs" in str(error)
        assert 5.0 <= trio.current_time() - began <= 5.0 + 2 * LOOK_S

    simulate(body)


def test_a_slow_disk_that_goes_on_is_not() -> None:
    async def body(world: World) -> None:
        writer = writer_of(world, commit_s=4.5)
        for _ in range(10):
            writer.submit(write, lambda _: None)
        assert await watched(writer, 5.0, 60.0) == []
        assert writer.commits == 10 and writer.busy_since is None

    simulate(body)


def test_a_pause_between_two_looks_counts_as_one() -> None:
    async def body(world: World) -> None:
        writer = writer_of(world, commit_s=1e6)
        writer.submit(write, lambda _: None)
        patience = Patience(3.0, LOOK_S)
        for _ in range(3):
            assert writer.busy_since is not None
            patience.look(writer.finished)
            await trio.sleep(500.0)
        with pytest.raises(CommitStalled):
            patience.look(writer.finished)

    simulate(body)
