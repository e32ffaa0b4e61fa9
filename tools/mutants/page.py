"""The table of docs/planted-bugs.md, in Markdown, from the three ways in which a planted bug is tried:

shardkv mutants --json > all.jsonl
shardkv mutants --no-invariants --json > histories.jsonl
shardkv mutants --scenarios --json > scenarios.jsonl
python -m tools.mutants.page all.jsonl histories.jsonl scenarios.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tools.mutants.catalogue import MUTANTS

Rows = dict[str, dict[str, Any]]


def table(everything: Rows, histories: Rows, scenarios: Rows) -> str:
    """One row per bug: where it is from, what goes wrong, and what found it."""
    lines = [
        "| planted bug | from | what goes wrong | found by | at seed | CPU s | by histories alone, at seed |",
        "|---|---|---|---|--:|--:|--:|",
    ]
    for name, mutant in MUTANTS.items():
        failed = scenarios.get(name, {}).get("failed", {})
        note = f"; fails without any fault in {', '.join(failed)}" if failed else ""
        cells = [
            f"`{name}`",
            mutant.source,
            mutant.why + note,
            *_found(everything.get(name)),
            _alone(histories.get(name)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _found(row: dict[str, Any] | None) -> tuple[str, str, str]:
    """By which check, at which seed, in how many CPU seconds."""
    if row is None:
        return "**not hunted yet**", "", ""
    by = row["check"].split(": ")[-1] if row["found"] else f"**not in {row['seeds']} seeds**"
    return by, str(row["seed"]) if row["found"] else "", f"{row['cpu_s']:.0f}"


def _alone(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return str(row["seed"]) if row["found"] else f"not in {row['seeds']}"


def read(path: Path) -> Rows:
    """The JSON lines of a file, by the bug's name."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["name"]: row for row in rows}


if __name__ == "__main__":
    print(table(*(read(Path(name)) for name in sys.argv[1:4])))
