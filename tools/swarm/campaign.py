"""Many seeds, in several processes: `campaign` plays them and adds up what was reached.

`python -m tools.swarm.campaign SEED` plays one and prints its trace hash: to compare processes with different hash seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial

from tools.swarm.run import PASSED, Outcome, play
from tools.workers import end_with, pool

COMPARE_EVERY = 25
"""One seed of so many is played again, in a process with another PYTHONHASHSEED, and its trace compared."""


@dataclass
class Report:
    """What a campaign found. Times in seconds; `marks` counts what was reached, `seeds_with` in how many seeds."""

    seeds: int = 0
    passed: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    operations: int = 0
    steps: int = 0
    compared: int = 0
    differing: list[int] = field(default_factory=list)
    failures: list[Outcome] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    seeds_with: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count one seed."""
        self.seeds += 1
        self.cpu_s += outcome.cpu_s
        self.virtual_s += outcome.virtual_s
        self.operations += outcome.operations
        self.steps += outcome.steps
        if outcome.verdict == PASSED:
            self.passed += 1
        else:
            self.failures.append(outcome)
        for name, count in outcome.marks.items():
            self.marks[name] = self.marks.get(name, 0) + count
            self.seeds_with[name] = self.seeds_with.get(name, 0) + 1


def campaign(
    seeds: Iterator[int],
    *,
    jobs: int = 1,
    until: float | None = None,
    stop_at: int | None = None,
    invariants: bool = True,
    compare_every: int = COMPARE_EVERY,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Play seeds until there are no more, the time `until` (of `time.monotonic`) has come, or `stop_at` of them failed."""
    report = Report()
    began = time.monotonic()
    with pool(jobs, tasks_per_child=200) as workers:
        work = partial(play, invariants=invariants)
        running: set[Future[Outcome]] = set()

        def over() -> bool:
            late = until is not None and time.monotonic() >= until
            return late or (stop_at is not None and len(report.failures) >= stop_at)

        while not over():
            while len(running) < 2 * jobs and (seed := next(seeds, None)) is not None:
                running.add(workers.submit(work, seed))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for outcome in sorted((future.result() for future in done), key=lambda found: found.seed):
                report.add(outcome)
                told(outcome)
                if compare_every and report.seeds % compare_every == 1:
                    _compare(outcome, report)
        workers.shutdown(wait=True, cancel_futures=True)
    report.failures.sort(key=lambda outcome: outcome.seed)
    report.wall_s = time.monotonic() - began
    return report


def _compare(outcome: Outcome, report: Report) -> None:
    report.compared += 1
    if trace_elsewhere(outcome.seed, hash_seed=1 + outcome.seed % 1000) != outcome.trace:
        report.differing.append(outcome.seed)


def trace_elsewhere(seed: int, hash_seed: int) -> str:
    """The trace hash of a seed, played in a process of its own with this PYTHONHASHSEED."""
    return subprocess.run(
        [sys.executable, "-m", "tools.swarm.campaign", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


if __name__ == "__main__":
    end_with(os.getppid())
    print(play(int(sys.argv[1])).trace)
