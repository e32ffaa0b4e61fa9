"""The campaign's part of docs/simulation.md, in Markdown, from what `shardkv simulate --json` printed:

shardkv simulate --seeds 3000 --json > campaign.jsonl
python -m tools.swarm.page campaign.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.swarm.shape import FAULTS, LATER_FAULTS

KINDS = {
    "fault": "Faults that took place",
    "core": "Rare branches of the core",
    "change": "Changes of the configuration",
    "client": "What clients were told",
    "world": "What worlds were like",
}
"""The kinds of marks, in the order of the page."""


def campaign_page(lines: Iterable[str]) -> str:
    """The sums over the seeds, then how often each mark was reached. A seed that comes twice counts once; the sums that the
    command itself printed are passed over. Raises `ValueError` for a fault that no seed has reached: the page would claim
    what was not tried."""
    seeds = {row["seed"]: row for row in map(json.loads, lines) if "seed" in row}
    times: dict[str, int] = {}
    within: dict[str, int] = {}
    for row in seeds.values():
        for name, count in row["marks"].items():
            times[name] = times.get(name, 0) + count
            within[name] = within.get(name, 0) + 1
    missing = sorted(name for name in FAULTS | LATER_FAULTS if f"fault: {name}" not in times)
    if missing:
        raise ValueError(f"no seed reached {', '.join(missing)}")
    parts = [_sums(list(seeds.values()))]
    for kind, title in KINDS.items():
        rows = [f"| {title} | times | seeds |", "|---|--:|--:|"]
        rows += [
            f"| {name.partition(': ')[2]} | {times[name]:,} | {within[name]:,} |"
            for name in sorted(times)
            if name.startswith(f"{kind}: ")
        ]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _sums(rows: list[dict[str, Any]]) -> str:
    failed = sorted(row["seed"] for row in rows if row["verdict"] != "passed")
    hours = sum(row["virtual_s"] for row in rows) / 3600
    cpu_s = sum(row["cpu_s"] for row in rows)
    return (
        f"{len(rows):,} seeds ({min(row['seed'] for row in rows)} to {max(row['seed'] for row in rows)}), "
        f"{hours:.1f} virtual hours, {sum(row['operations'] for row in rows):,} operations of clients, "
        f"{sum(row['steps'] for row in rows):,} checked steps of cores, {cpu_s / len(rows):.1f} s of CPU a seed. "
        f"Failed: {', '.join(map(str, failed)) or 'none'}."
    )


def _read(names: list[str]) -> Iterable[str]:
    for name in names:
        yield from Path(name).read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    print(campaign_page(_read(sys.argv[1:])))
