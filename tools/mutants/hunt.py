"""Hunting: plays seeds with a bug planted until one finds it.

`python -m tools.mutants.hunt NAME FIRST COUNT all|histories` plants the bug in this process and plays; one JSON object on
standard output: found seed check text seeds cpu_s. `python -m tools.mutants.hunt NAME` plays the scenarios without faults
instead: a JSON object of the titles of those that failed, each with its error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tools.mutants.catalogue import MUTANTS
from tools.mutants.planting import plant
from tools.workers import end_with

SEEDS = 300
"""Within so many seeds, with the distribution that `simulate` has by default, every bug must be found."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """How a bug fared: found at which seed, by which check, after how many seeds and CPU seconds."""

    name: str
    found: bool
    seed: int
    check: str
    text: str
    seeds: int
    cpu_s: float


def hunt(name: str, *, first: int = 0, seeds: int = SEEDS, invariants: bool = True) -> Hunt:
    """Play seeds in a process of its own that has the bug."""
    return Hunt(name, **_process(name, str(first), str(seeds), "all" if invariants else "histories"))


def fault_free(name: str) -> dict[str, str]:
    """Play the scenarios without faults in a process of its own that has the bug; the errors of those that failed."""
    return _process(name)


def _process(*args: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tools.mutants.hunt", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def scenarios(name: str) -> dict[str, str]:
    """In the process that has the bug: title -> error of the scenarios without faults that fail."""
    plant(MUTANTS[name])
    from tools.scenarios.catalogue import FAULT_FREE
    from tools.scenarios.catalogue import play as play_scenario

    results = {title: play_scenario(title, seed=5) for title in FAULT_FREE}
    return {title: result.error[:200] for title, result in results.items() if not result.passed}


def main(name: str, first: int, seeds: int, invariants: bool) -> dict[str, Any]:
    """In the process that has the bug."""
    plant(MUTANTS[name])
    from tools.swarm.run import PASSED, play

    cpu_s = 0.0
    for seed in range(first, first + seeds):
        outcome = play(seed, invariants=invariants)
        cpu_s += outcome.cpu_s
        if outcome.verdict != PASSED:
            text = outcome.text.splitlines()[0][:200]
            return _row(True, seed, f"{outcome.verdict}: {outcome.check}", text, seed - first + 1, cpu_s)
    return _row(False, -1, "", "", seeds, cpu_s)


def _row(found: bool, seed: int, check: str, text: str, seeds: int, cpu_s: float) -> dict[str, Any]:
    return {"found": found, "seed": seed, "check": check, "text": text, "seeds": seeds, "cpu_s": round(cpu_s, 1)}


if __name__ == "__main__":
    end_with(os.getppid())
    if len(sys.argv) == 2:
        print(json.dumps(scenarios(sys.argv[1])))
    else:
        print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "all")))
