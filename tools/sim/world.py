"""A world: its clock, its network, its disks, its hosts, its trace; and the way to run one from a seed.

Determinism: Trio's scheduler is seeded, every purpose draws from a sub-seed of its own (so one more draw here does not
shift the rest), and nothing that can reach a message depends on the order of a set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import trio
import trio.testing

from raftlog.net.sim import RELIABLE, NetConditions, SimHost, SimNetwork
from store.memory_engine import MemoryDisk, MemoryEngine
from tools.sim.disk import DiskConditions, SimWriter
from tools.sim.watch import Watch

T = TypeVar("T")

WALL_MS = 1_800_000_000_000
"""Wall time at virtual time 0, in ms."""


def sub_rng(seed: int, *purpose: Any) -> Random:
    """A generator for one purpose, the same for equal seeds in any process."""
    text = "/".join(str(p) for p in (seed, *purpose))
    return Random(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))


@dataclass(slots=True)
class Trace:
    """A running hash over everything that happened, with its time. `log` is called with each event, for people."""

    digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    count: int = 0
    log: Callable[[str, float, str, str, bytes], None] | None = None

    def add(self, kind: str, now: float, source: str, target: str, data: bytes = b"") -> None:
        """One event."""
        self.count += 1
        self.digest.update(f"{kind}|{now:.9f}|{source}|{target}|".encode())
        self.digest.update(data)
        if self.log is not None:
            self.log(kind, now, source, target, data)

    def hexdigest(self) -> str:
        """The hash so far."""
        return str(self.digest.hexdigest())


class World:
    """Everything outside the nodes. Made by `simulate`, inside `trio.run`."""

    def __init__(self, seed: int, nursery: trio.Nursery, net: NetConditions, disk: DiskConditions) -> None:
        self.seed = seed
        self.nursery = nursery
        self.trace = Trace()
        self.net = SimNetwork(sub_rng(seed, "net"), net)
        self.net.on_event = self.trace.add
        self.disk_conditions = disk
        self.disks: dict[tuple[str, str], MemoryDisk] = {}
        self.clocks: dict[str, Callable[[], float]] = {}
        """The monotonic clocks of hosts that do not run at the world's speed."""
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        """Virtual seconds since the world began; asked of the clock itself, for it is asked all the time."""
        self.turns_at_once = False
        """Whether nodes take a turn with each delivery, as those of real peers do, and not only after it."""
        self.watch: Watch | None = None
        """Set to have every core watched from its start on."""
        self._boots: dict[str, int] = {}
        nursery.start_soon(self.net.pump)

    def rng(self, *purpose: Any) -> Random:
        """See `sub_rng`."""
        return sub_rng(self.seed, *purpose)

    def clock(self, name: str) -> Callable[[], float]:
        """The monotonic clock of a host."""
        return self.clocks.get(name, self.now)

    def wall_ms(self) -> int:
        """Wall time as the peers see it."""
        return WALL_MS + int(self.now() * 1000)

    def host(self, name: str) -> SimHost:
        """A (re)started machine under this name."""
        self._boots[name] = self._boots.get(name, 0) + 1
        self.trace.add("start", self.now(), name, name)
        return self.net.host(name)

    def disk(self, name: str, kind: str, tables: tuple[str, ...]) -> tuple[MemoryDisk, bool]:
        """The disk of a host, which outlives it; and whether it is new and empty."""
        known = self.disks.get((name, kind))
        if known is not None:
            return known, False
        disk = self.disks[name, kind] = MemoryDisk(tables)
        return disk, True

    def writer(self, host: SimHost, kind: str, disk: MemoryDisk, on_fatal: Callable[[BaseException], Any]) -> SimWriter:
        """A writer on a disk, for the life of a host."""
        rng = self.rng("disk", host.name, kind, self._boots[host.name])
        return SimWriter(
            MemoryEngine(disk),
            self.net.later,
            rng,
            on_fatal,
            self.disk_conditions,
            hold=host.hold,
            on_commit=lambda: self.trace.add("commit", self.now(), host.name, kind),
        )


def simulate(
    body: Callable[[World], Awaitable[T]],
    *,
    seed: int = 1,
    net: NetConditions = RELIABLE,
    disk: DiskConditions | None = None,
    limit_s: float = 3600.0,
) -> T:
    """Run `body(world)` in virtual time and return what it returns. Ends after `limit_s` virtual seconds at the latest,
    with `trio.TooSlowError`."""

    async def main() -> T:
        # Both are needed for equal traces: Trio shuffles each batch of runnable tasks.
        trio._core._run._r.seed(seed)
        found: list[T] = []
        with trio.fail_after(limit_s):
            async with trio.open_nursery() as nursery:
                world = World(seed, nursery, net, disk or DiskConditions())
                found.append(await body(world))
                nursery.cancel_scope.cancel()
        return found[0]

    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
