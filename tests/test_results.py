"""The pages of results speak of everything that there is to be played."""

from __future__ import annotations

from pathlib import Path

from tools.mutants.catalogue import MUTANTS
from tools.scenarios.catalogue import entries

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_every_planted_bug_has_its_row() -> None:
    rows = [line for line in (DOCS / "planted-bugs.md").read_text().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(MUTANTS)


def test_every_scenario_has_its_row_and_passed() -> None:
    text = (DOCS / "scenarios.md").read_text()
    assert "failed" not in text.partition("## Results")[2]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| scenario")]
    assert len(rows) == len(entries())
    for name in {entry.name for entry in entries()}:
        assert f"| {name} |" in text, name
