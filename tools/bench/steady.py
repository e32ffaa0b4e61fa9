"""Does anything grow without bound? `python -m tools.bench.steady [MINUTES [PUTS_PER_S]]`, an hour of 500 puts/s by default.

A group of three is given puts to a fixed set of keys, at a fixed rate. Each minute: the puts so far, and of the peer that
has the most its memory, what `state/` uses, the entries of the log in memory, its files on the disk, all in MB. Before the
first minute and after the last one the group is killed under load and started again: seconds to the first get.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tools.bench.ours import our_system
from tools.bench.plans import BASE
from tools.bench.restart import restart_group
from tools.bench.scale import FIXED_KEYS, sizes
from tools.bench.workload import Workload
from tools.layout import Layout

MINUTES = 60
PUTS_PER_S = 500.0
MINUTE_S = 60.0

HEADS = ("minute", "puts", "memory_mb", "state_mb", "log_mb", "files_mb")


async def steady(folder: Path, minutes: int, puts_per_s: float, minute_s: float, tell: Callable[[str], object]) -> None:
    """See the module."""
    load = replace(BASE, operation="put", keys_max=FIXED_KEYS, rate_per_s=puts_per_s)
    async with our_system(folder, Layout(ctrl_peers=1, groups=1, replicas=3), "shardkv") as system:
        await system.fill_keys(Workload("put"), 0, FIXED_KEYS)
        tell(f"restart before: {(await restart_group(system, 1))['first_get_s']:.2f} s")
        tell("  ".join(head.rjust(9) for head in HEADS))
        puts = 0
        for minute in range(1, minutes + 1):
            sample = await system.measure(load, 0.1, minute_s, minute)
            puts += sample.operations
            row = [minute, puts, *(await sizes(system)).values()]
            tell("  ".join(f"{value:9.1f}" if isinstance(value, float) else f"{value:9}" for value in row))
        tell(f"restart after: {(await restart_group(system, 2))['first_get_s']:.2f} s")


def main(minutes: int = MINUTES, puts_per_s: float = PUTS_PER_S, minute_s: float = MINUTE_S) -> None:
    """Print a line each minute."""
    with TemporaryDirectory(prefix="shardkv-steady-") as folder:
        trio.run(steady, Path(folder), minutes, puts_per_s, minute_s, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float), sys.argv[1:], strict=False)))
