"""The table of docs/scenarios.md: `shardkv scenarios --json | python -m tools.scenarios.page` writes it in Markdown.

One row per scenario, its variants side by side where it has several: virtual seconds / RPCs / Ops.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any


def table(results: Iterable[dict[str, Any]]) -> str:
    """The rows of `shardkv scenarios --json` as Markdown, in their order."""
    lines = [
        "| scenario | variant | virtual s | RPCs | Ops | official: s | RPCs | Ops |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    before, known = "", None
    for row in results:
        name = row["name"] if row["name"] != before else ""
        before = row["name"]
        ours = [f"{row['seconds']:.1f}", row["rpcs"], row["ops"]] if row["passed"] else ["**failed**", "", ""]
        official = (
            ["", "", ""] if row["official"] is None or (not name and row["official"] == known) else row["official"]
        )
        known = row["official"]
        cells = [name, row["variant"], *ours, *(figure or "" for figure in official)]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(line) for line in sys.stdin))
