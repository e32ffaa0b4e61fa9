"""What it costs a peer to be followed: `python -m tools.inspect.follow_cost [PAIRS [SECONDS]]`.

A cluster of one group puts as fast as `CLIENTS` clients can; windows with `inspect follow` on the leader's directory, entries
shown and thrown away, alternate with windows without, the first of a pair in turn. Per window: CPU seconds of the leader's
process per acknowledged put. What the follower itself uses is told apart: another process, on another core if there is one.
Before that: how long after its transaction an entry is shown, by a follower of a log that is written to now and then.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import trio

import shardkv
from raftlog.durable import LOG_TABLES, append_entries
from shardkv.errors import KvError
from store.lmdb_engine import LmdbEngine
from tools.bench.usage import usage
from tools.cluster import LocalCluster
from tools.inspect.long_log import entries, make_long_log
from tools.inspect.reader import ask
from tools.layout import Layout

CLIENTS = 16
PAIRS = 10
WINDOW_S = 2.0
ENTRIES = 200
WARM_S = 0.5
"""A window is preceded by this much, with or without the follower: its start is not measured."""


@dataclass
class Window:
    """CPU seconds of the leader and of its follower per put, and puts per second."""

    peer_s: float
    follower_s: float
    puts_per_s: float


def cpu_s(pid: int) -> float:
    """What a process has used, with all its threads; 0 if it is gone."""
    found = usage(pid)
    return 0.0 if found is None else found.cpu_s


class Load:
    """Clients that put without a pause; `done` counts what was acknowledged."""

    def __init__(self, kv: shardkv.Clerk) -> None:
        self._kv = kv
        self.done = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(self._puts, client)

    async def _puts(self, client: int) -> None:
        for number in count():
            with suppress(KvError):
                await self._kv.put(f"{client}-{number % 1000}", b"x" * 100)
                self.done += 1


async def window(pid: int, directory: Path, load: Load, seconds: float, followed: bool) -> Window:
    """Measure one."""
    command = [sys.executable, "-m", "tools.inspect.child", "follow", "-", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL) if followed else None
    try:
        await trio.sleep(WARM_S)
        begun, before, done = trio.current_time(), cpu_s(pid), load.done
        used = cpu_s(process.pid) if process else 0.0
        await trio.sleep(seconds)
        puts = max(load.done - done, 1)
        follower = cpu_s(process.pid) - used if process else 0.0
        return Window((cpu_s(pid) - before) / puts, follower / puts, puts / (trio.current_time() - begun))
    finally:
        if process is not None:
            process.terminate()
            process.wait()


async def measure(folder: Path, pairs: int, seconds: float) -> list[tuple[Window, Window]]:
    """(without, with) per pair."""
    cluster = LocalCluster(folder)
    found = []
    try:
        await cluster.up(Layout(ctrl_peers=1, groups=1, replicas=3))
        leader = next(peer for peer in await cluster.status() if peer["gid"] and peer.get("role") == "leader")
        directory = folder / leader["name"]
        async with shardkv.connect(list(cluster.addresses(0).values())) as kv, trio.open_nursery() as nursery:
            load = Load(kv)
            nursery.start_soon(load.run)
            for pair in range(pairs):
                order = (False, True) if pair % 2 == 0 else (True, False)
                told = {on: await window(leader["pid"], directory, load, seconds, on) for on in order}
                found.append((told[False], told[True]))
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await cluster.down()
    return found


def delays_s(folder: Path) -> list[float]:
    """From the end of an entry's transaction until it is shown, one after another."""
    make_long_log(folder, 10)
    log = LmdbEngine.open(folder / "log", LOG_TABLES, None)
    found = []
    with closing(row for row in ask("follow", "-", str(folder)) if row.get("event") != "idle") as rows:
        next(rows)  # that it follows
        for entry in entries(first=12, count=ENTRIES):
            with log.write() as txn:
                append_entries(txn, [entry])
            done = perf_counter()
            next(rows)
            found.append(perf_counter() - done)
    log.close()
    return sorted(found)


def report(pairs: list[tuple[Window, Window]]) -> list[str]:
    """The pairs, and what they come to."""
    lines = ["pair   alone us/put   followed us/put   ratio   follower us/put   puts/s alone, followed"]
    for number, (alone, followed) in enumerate(pairs, 1):
        ratio = followed.peer_s / alone.peer_s
        lines.append(
            f"{number:>4} {alone.peer_s * 1e6:>14.0f} {followed.peer_s * 1e6:>17.0f} {ratio:>7.3f} "
            f"{followed.follower_s * 1e6:>17.0f}   {alone.puts_per_s:.0f}, {followed.puts_per_s:.0f}"
        )
    ratios = sorted(followed.peer_s / alone.peer_s for alone, followed in pairs)
    lines.append(
        f"median ratio {statistics.median(ratios):.3f} of {len(ratios)} pairs, from {ratios[0]:.3f} to {ratios[-1]:.3f}"
    )
    return lines


def main(arguments: list[str]) -> None:
    """Measure and print."""
    pairs = int(arguments[0]) if arguments else PAIRS
    seconds = float(arguments[1]) if len(arguments) > 1 else WINDOW_S
    with TemporaryDirectory(prefix="shardkv-follow-") as folder:
        late = delays_s(Path(folder) / "log")
        print(
            f"an entry is shown {late[len(late) // 2] * 1e3:.1f} ms after its transaction (median), p99 {late[-3] * 1e3:.1f}"
        )
        print("\n".join(report(trio.run(measure, Path(folder) / "c", pairs, seconds))))


if __name__ == "__main__":
    main(sys.argv[1:])
