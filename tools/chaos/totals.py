"""Several reports together: what a campaign of runs has shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class NoReport(Exception):
    """A directory has no report of a run that is over; one line."""


SUMMED = ("lasted_s", "acknowledged_writes", "answered_reads", "failed", "moves", "seconds_without_a_write")


def totals(reports: Sequence[Path]) -> dict[str, Any]:
    """The sums over the `report.json` of these directories; of what was measured how often, the sum, and the most. The
    verdict is "passed" if all of them are. Raises `NoReport`."""
    sums: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("cycles", "pairs", "missed", "verdicts")}
    skipped: dict[str, str] = {}
    measured: dict[str, dict[str, float]] = {}
    findings: list[str] = []
    for folder in reports:
        found = _read(folder)
        sums.update({name: found[name] for name in SUMMED})
        counts["verdicts"][f"{found['verdict']}, {found['controllers']} controllers"] += 1
        for name in ("cycles", "pairs", "missed"):
            counts[name].update(found[name])
        skipped |= found["skipped"]
        findings += [f"{folder}: {line}" for line in found["findings"]]
        for what, figures in found["measured"].items():
            known = measured.setdefault(what, {"count": 0, "sum": 0.0, "max": 0.0})
            known["count"] += figures["count"]
            known["sum"] = round(known["sum"] + figures["sum"], 4)
            known["max"] = max(known["max"], figures["max"])
    passed = all(verdict.startswith("passed,") for verdict in counts["verdicts"])
    return {
        "verdict": "passed" if passed else "failed",
        "runs": len(reports),
        **{name: round(value, 1) for name, value in sums.items()},
        **{name: dict(sorted(each.items())) for name, each in counts.items()},
        "skipped": skipped,
        "measured": dict(sorted(measured.items())),
        "findings": findings,
    }


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoReport(f"{folder}: no report of a run that is over: {error}") from error
    if not isinstance(found, dict) or "cycles" not in found:
        raise NoReport(f"{folder}: its report.json is of something else")
    return found
