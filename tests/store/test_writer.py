"""The writer thread: outcomes in order, nothing after a failure, and an end that waits for the job in progress."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio

from store.engine import Fenced, WriteTxn
from store.memory_engine import MemoryDisk, MemoryEngine
from store.writer import ThreadWriter


def made() -> tuple[ThreadWriter, MemoryEngine, list[BaseException]]:
    engine = MemoryEngine(MemoryDisk(("t",)))
    fatal: list[BaseException] = []
    return ThreadWriter(engine, fatal.append), engine, fatal


def put(number: int) -> Callable[[WriteTxn], int]:
    def job(txn: WriteTxn) -> int:
        txn.put("t", b"%d" % number, b"v")
        return number

    return job


def keys(engine: MemoryEngine) -> list[bytes]:
    with engine.read() as txn:
        return [key for key, _ in txn.scan("t")]


async def test_every_job_is_durable_before_it_is_reported_in_order() -> None:
    writer, engine, fatal = made()
    reported: list[int] = []

    def done(number: int) -> None:
        assert b"%d" % number in keys(engine)
        reported.append(number)

    for number in range(8):
        writer.submit(put(number), done)
    assert writer.busy_since is not None
    await writer.drain()
    assert reported == list(range(8)) and writer.finished == 8 and writer.busy_since is None and not fatal
    writer.close()
    writer.submit(put(9), done)
    assert b"9" not in keys(engine), "what comes after the end is dropped"


async def test_a_job_that_raises_fences_and_nothing_is_reported_after_it() -> None:
    writer, engine, fatal = made()
    reported: list[int] = []

    def fail(txn: WriteTxn) -> int:
        txn.put("t", b"half", b"v")
        raise OSError(5, "Input/output error")

    writer.submit(put(1), reported.append)
    writer.submit(fail, reported.append)
    writer.submit(put(2), reported.append)
    await writer.drain()
    with trio.fail_after(10):
        while not fatal:
            await trio.lowlevel.checkpoint()
    assert reported == [1]
    assert [type(error) for error in fatal] == [OSError]
    with pytest.raises(Fenced):
        keys(engine)
    writer.close()


async def test_a_commit_that_hangs_is_seen_in_what_is_finished_and_close_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.writer.CLOSE_S", 0.05)
    writer, _, _ = made()
    entered, go_on = threading.Event(), threading.Event()

    def hang(txn: WriteTxn) -> None:
        entered.set()
        go_on.wait()

    writer.submit(put(0), lambda _: None)
    await writer.drain()
    writer.submit(hang, lambda _: None)
    await trio.to_thread.run_sync(entered.wait)
    assert writer.busy_since is not None and writer.finished == 1
    writer.close()
    go_on.set()


async def test_the_thread_is_always_the_same() -> None:
    writer, _, _ = made()
    threads: list[int] = []
    for _ in range(5):
        writer.submit(lambda txn: threading.get_ident(), threads.append)
        await writer.drain()
    assert len(set(threads)) == 1 and threads[0] != threading.get_ident()
    writer.close()
