"""The planted bugs fit the code as it is, are planted in a process of their own only, and the quick ones are found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.cli.main import cli
from tools.mutants.catalogue import MUTANTS
from tools.mutants.hunt import fault_free, hunt
from tools.mutants.planting import Edit, Mutant, NotPlanted, changed, plant
from tools.powercut.planted import STORE as POWERCUT_STORE

CHECKOUT = Path(__file__).resolve().parents[3]


def edits_by_module(mutant: Mutant) -> dict[str, list[Edit]]:
    found: dict[str, list[Edit]] = {}
    for edit in mutant.edits:
        found.setdefault(edit.module, []).append(edit)
    return found


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_the_code_as_it_is(name: str) -> None:
    for module, edits in edits_by_module(MUTANTS[name]).items():
        path = CHECKOUT / f"{module.replace('.', '/')}.py"
        text = path.read_text(encoding="utf-8")
        after = changed(text, edits)
        assert after != text
        compile(after, str(path), "exec")


@pytest.mark.parametrize("mutant", POWERCUT_STORE, ids=lambda mutant: mutant.name)
def test_what_power_cuts_must_find_fits_the_code_as_it_is(mutant: Mutant) -> None:
    for module, edits in edits_by_module(mutant).items():
        path = CHECKOUT / f"{module.replace('.', '/')}.py"
        text = path.read_text(encoding="utf-8")
        compile(changed(text, edits), str(path), "exec")


def test_there_are_enough_and_each_says_where_it_is_from() -> None:
    assert len(MUTANTS) >= 30
    assert all(mutant.source and mutant.why and mutant.edits for mutant in MUTANTS.values())


def test_nothing_is_planted_too_late_or_where_the_text_is_not() -> None:
    with pytest.raises(NotPlanted, match="imported already"):
        plant(Mutant("late", "s", "w", (Edit("tools.mutants.planting", "a", "b"),)))
    with pytest.raises(NotPlanted, match="0 times, not once"):
        changed("text", [Edit("m", "other", "x")])
    with pytest.raises(NotPlanted, match="2 times, not once"):
        changed("a a", [Edit("m", "a", "x")])


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("vote-before-its-save", "InvariantBroken"),
        ("acknowledged-before-its-save", "InvariantBroken"),
        ("sessions-do-not-remember", "LedgerBroken"),
        ("deadline-means-no", "HistoryBroken"),
    ],
)
def test_a_planted_bug_is_found_and_named(name: str, check: str) -> None:
    found = hunt(name, seeds=10)
    assert found.found and check in found.check, found


def test_a_bug_that_needs_a_fault_passes_the_scenarios_without_one() -> None:
    assert fault_free("read-without-a-round") == {}


def test_the_command_lists_and_refuses_strangers() -> None:
    runner = CliRunner()
    listed = runner.invoke(cli, ["mutants", "--list", "--json"])
    rows = [json.loads(line) for line in listed.output.splitlines()]
    assert [row["name"] for row in rows] == list(MUTANTS)
    stranger = runner.invoke(cli, ["mutants", "no-such-bug"])
    assert stranger.exit_code == 2 and "no planted bug" in stranger.output


def test_the_production_code_knows_nothing_of_mutants() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import sys, tools.swarm.run; print([m for m in sys.modules if 'mutants' in m])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
