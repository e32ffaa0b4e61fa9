"""The writer thread: outcomes in order, nothing after a failure, and an end that waits for the job in progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import trio

from store.engine import Fenced, WriteTxn
from store.memory_engine import MemoryDisk, MemoryEngine
from store.patience import CommitStalled
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


async def here() -> tuple[ThreadWriter, MemoryEngine, list[BaseException]]:
    engine = MemoryEngine(MemoryDisk(("t",)))
    fatal: list[BaseException] = []
    return ThreadWriter(engine, fatal.append, stall_s=0.2), engine, fatal


async def test_a_short_job_is_done_on_the_loops_thread_while_the_disk_is_fast() -> None:
    writer, engine, fatal = await here()
    threads: list[int] = []
    writer.submit_soon(lambda txn: (put(1)(txn), threading.get_ident())[1], threads.append)
    assert keys(engine) == [] and threads == [] and writer.busy_since is not None
    assert writer.settle()
    assert keys(engine) == [b"1"] and threads == [threading.get_ident()]
    assert writer.busy_since is None and writer.finished == 1 and not fatal
    assert not writer.settle()
    writer.close()


async def test_behind_another_job_and_before_another_job_the_order_is_kept() -> None:
    writer, engine, _ = await here()
    reported: list[int] = []
    writer.submit(put(1), reported.append)
    writer.submit_soon(put(2), reported.append)
    assert not writer.settle(), "the thread is at work"
    await writer.drain()
    writer.submit_soon(put(3), reported.append)
    writer.submit(put(4), reported.append)
    assert not writer.settle(), "it went to the thread, before the other"
    await writer.drain()
    assert reported == [1, 2, 3, 4] and keys(engine) == [b"1", b"2", b"3", b"4"]
    writer.close()


async def test_a_slow_disk_is_left_to_the_thread_until_it_is_fast_again(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, _, _ = await here()
    monkeypatch.setattr("store.writer.FAST_S", -1.0)
    writer.submit_soon(put(0), lambda _: None)
    writer.settle()
    monkeypatch.setattr("store.writer.FAST_S", 0.0)
    writer.submit_soon(put(1), lambda _: None)
    assert not writer.settle()
    await writer.drain()
    monkeypatch.setattr("store.writer.FAST_S", 60.0)
    writer.submit_soon(put(2), lambda _: None)
    assert writer.settle()
    writer.close()


async def test_a_commit_that_hangs_on_the_loops_thread_is_fatal_though_the_loop_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("store.writer.LOOK_S", 0.02)
    told = threading.Event()
    fatal: list[tuple[BaseException, int]] = []

    def die(error: BaseException) -> None:
        fatal.append((error, threading.get_ident()))
        told.set()

    writer = ThreadWriter(MemoryEngine(MemoryDisk(("t",))), die, stall_s=0.2)
    for number in range(3):
        writer.submit_soon(put(number), lambda _: None)
        assert writer.settle()
    writer.submit_soon(lambda txn: told.wait(30), lambda _: None)
    writer.settle()
    ((error, thread),) = fatal
    assert type(error) is CommitStalled and "disk hangs" in str(error) and thread != threading.get_ident()
    writer.close()


async def test_what_fails_on_the_loops_thread_fences_and_is_not_reported() -> None:
    writer, engine, fatal = await here()
    reported: list[int] = []

    def fail(txn: WriteTxn) -> int:
        raise OSError(5, "Input/output error")

    writer.submit_soon(fail, reported.append)
    assert not writer.settle()
    writer.submit_soon(put(1), reported.append)
    assert not writer.settle()
    assert reported == [] and [type(error) for error in fatal] == [OSError]
    with pytest.raises(Fenced):
        keys(engine)
    writer.close()


async def test_after_a_hiccup_the_thread_has_the_commits_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.writer.HICCUP_S", 0.0)
    writer, _, _ = await here()
    writer.submit_soon(put(0), lambda _: None)
    assert writer.settle()
    monkeypatch.setattr("store.writer.HICCUP_S", 60.0)
    for number in range(100):
        writer.submit_soon(put(number), lambda _: None)
        assert not writer.settle(), number
        await writer.drain()
    monkeypatch.setattr("store.writer.perf_counter", lambda: time.perf_counter() + 61)
    writer.submit_soon(put(0), lambda _: None)
    assert writer.settle()
    writer.close()


async def test_a_long_job_says_nothing_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.writer.HICCUP_S", 0.0)
    monkeypatch.setattr("store.writer.FAST_S", 0.0)
    writer, _, _ = await here()
    writer.submit(put(0), lambda _: None)
    await writer.drain()
    writer.submit_soon(put(1), lambda _: None)
    assert writer.settle(), "no purge of the log makes the disk a slow one"
    writer.submit_soon(put(2), lambda _: None)
    assert not writer.settle()
    writer.close()


async def test_what_is_ready_to_leave_leaves_before_the_loop_stops() -> None:
    writer, engine, _ = await here()
    seen: list[list[bytes]] = []
    writer.before_commit = lambda: seen.append(keys(engine))
    assert not writer.settle() and not seen
    writer.submit_soon(put(1), lambda _: None)
    assert writer.settle() and seen == [[]]
    writer.close()
