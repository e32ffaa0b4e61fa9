"""What durable writes cost when several peers make them at once on one disk: `python -m tools.bench.barriers [SECONDS]`.

All peers of a local cluster share a disk, and a put by one client waits for what at least two of them make durable at the
same moment. So this bounds it from below: N processes, each of which repeats one durable write as fast as it can. `lmdb` is
a synced commit of one record, as our log makes it (two barriers, each after a write); `append` is a write of 4 KiB with
one `fdatasync`, as a write-ahead log in a plain file makes it. Microseconds per write, as it is waited for, and of CPU.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from store.format import Stamp
from store.lmdb_engine import LmdbEngine

SECONDS = 3.0
RECORD = b"v" * 300
PAGE = b"y" * 4096
PAGES = 256

Write = Callable[[int], Any]


def lmdb_commit(folder: Path) -> Write:
    """A synced commit of one record."""
    stamp = Stamp("probe", bytes(16), 0, 0, 0)
    LmdbEngine.create(folder / "env", ("meta", "rows"), stamp, lambda txn: None)
    engine = LmdbEngine.open(folder / "env", ("meta", "rows"), stamp)

    def write(number: int) -> None:
        with engine.write() as txn:
            txn.put("rows", b"%016d" % number, RECORD)

    return write


def append(folder: Path) -> Write:
    """A page and one barrier, in a file that has its length already."""
    file = os.open(folder / "wal", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(file, PAGE * PAGES)
    os.fsync(file)

    def write(number: int) -> None:
        os.pwrite(file, PAGE, number % PAGES * len(PAGE))
        os.fdatasync(file)

    return write


KINDS: dict[str, Callable[[Path], Write]] = {"lmdb": lmdb_commit, "append": append}


def repeat(kind: str, folder: Path, seconds: float, together: Barrier, found: Any) -> None:
    """In a process of its own: write until the time is over, and tell (us waited, us of CPU) per write."""
    write = KINDS[kind](folder)
    together.wait()
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        write(count)
        count += 1
    found.put(((time.perf_counter() - began) / count * 1e6, (time.process_time() - cpu) / count * 1e6))


def at_once(kind: str, processes: int, seconds: float) -> tuple[float, float]:
    """(us waited, us of CPU) per write with so many processes, each on files of its own; the median of them."""
    context = multiprocessing.get_context("spawn")
    together, found = context.Barrier(processes), context.Queue()
    with TemporaryDirectory() as folder:
        running = []
        for number in range(processes):
            home = Path(folder) / str(number)
            home.mkdir()
            running.append(context.Process(target=repeat, args=(kind, home, seconds, together, found)))
        for process in running:
            process.start()
        told = [found.get(timeout=60 + seconds) for _ in running]
        for process in running:
            process.join()
    return statistics.median(us for us, _ in told), statistics.median(us for _, us in told)


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    print(f"{'kind':8}{'at once':>8}{'waited us':>11}{'CPU us':>8}")
    for kind in KINDS:
        for processes in (1, 2, 3):
            waited_us, cpu_us = at_once(kind, processes, seconds)
            print(f"{kind:8}{processes:8}{waited_us:11.0f}{cpu_us:8.0f}", flush=True)


if __name__ == "__main__":
    main()
