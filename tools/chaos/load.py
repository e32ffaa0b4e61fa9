"""The load: clients that work while everything breaks, what they count, and the protocol for a workload of one's own.

A workload is an object with three methods; `kv_load.KvWorkload` is the built-in one. For each client `work` is called once,
in a task of its own, and goes on until it is cancelled; it tells the `Meter` of each operation. `judge` is called once, after
all faults have ended and the cluster has come back: it reads what there is and returns what is wrong, a line each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import trio

from tools.checker.history import Op

BLOCKED_S = 0.5
"""An operation that takes longer counts as blocked from then on."""


@dataclass
class Second:
    """What happened in one second of the run. `latencies_s` are those of operations that ended in it with an answer."""

    reads: int = 0
    writes: int = 0
    failed: int = 0
    latencies_s: list[float] = field(default_factory=list)
    blocked: int = 0
    """How many clients had waited for longer than `BLOCKED_S` at some moment of it."""


class Meter:
    """Counts operations, second by second. `begun` starts its clock."""

    def __init__(self) -> None:
        self.start = trio.current_time()
        self.seconds: list[Second] = []
        self.acknowledged = 0
        self.answered = 0
        self.failed = 0
        self._open: dict[str, float] = {}

    def now(self) -> float:
        """Seconds since the run began."""
        return trio.current_time() - self.start

    def second(self, at: float) -> Second:
        """The one that `at` lies in."""
        while len(self.seconds) <= int(at):
            self.seconds.append(Second())
        return self.seconds[int(at)]

    def begin(self, client: str) -> float:
        """A client sends an operation, its only one at this time; now."""
        self._open[client] = self.now()
        return self._open[client]

    def end(self, client: str, *, write: bool, answered: bool) -> float:
        """Its answer came (with an effect, if it is a write), or it never will; now."""
        begun, now = self._open.pop(client), self.now()
        second = self.second(now)
        if not answered:
            second.failed += 1
            self.failed += 1
        elif write:
            second.writes += 1
            self.acknowledged += 1
        else:
            second.reads += 1
            self.answered += 1
        if answered:
            second.latencies_s.append(now - begun)
        for number in range(int(begun + BLOCKED_S), int(now) + 1):
            if now - begun > BLOCKED_S:
                self.second(number).blocked += 1
        return now


@dataclass(frozen=True)
class Client:
    """What a client of a workload gets: a name, the addresses to begin with, the routes that put it behind the proxy (both as
    `shardkv.connect` takes them), chance of its own, and the meter."""

    name: str
    addresses: Sequence[str]
    routes: Mapping[str, str]
    rng: Random
    meter: Meter


class Workload(Protocol):
    """See the module."""

    async def work(self, client: Client) -> None:
        """Operations, until it is cancelled. What it raises ends the run as a violation."""
        ...

    async def judge(self, client: Client) -> list[str]:
        """What is wrong, after everything has come back. This client has no faults in its way."""
        ...

    def history(self) -> Sequence[Op]:
        """For the report: every operation, in the order of their start; empty if it has none of the checker's kind."""
        ...
