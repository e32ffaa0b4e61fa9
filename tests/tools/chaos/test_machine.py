"""A state machine of one's own under chaos: the counter of the example, and one that counts wrongly and is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.processes import ROOT, child_environment

EXAMPLE = ROOT / "docs" / "examples" / "counter"


def play(folder: Path, seconds: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "chaos.py", seconds],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=child_environment(),
    )


@pytest.mark.system
def test_the_example_passes_and_leaves_its_report(tmp_path: Path) -> None:
    folder = tmp_path / "my-counter"
    shutil.copytree(EXAMPLE, folder)
    done = play(folder, "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "the states of 3 peers compared" in done.stdout
    assert "shardkv chaos" in (folder / "chaos-report" / "report.html").read_text()


@pytest.mark.system
def test_a_counter_that_keeps_its_number_in_an_attribute_is_found(tmp_path: Path) -> None:
    """The bug that the guide plants: a restart forgets it."""
    folder = tmp_path / "my-counter"
    shutil.copytree(EXAMPLE, folder)
    text = (folder / "counter.py").read_text()
    planted = text.replace("value = counted(txn) + 1", 'value = self.n = getattr(self, "n", 0) + 1')
    assert planted != text
    (folder / "counter.py").write_text(planted)
    chaos = (folder / "chaos.py").read_text()
    (folder / "chaos.py").write_text(chaos.replace("clients=4)", 'clients=4, faults="kill-all", cycles=3)'))
    done = play(folder, "3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "violation" in done.stdout
    assert any(word in done.stdout for word in ("the same number", "differ", "the counter is at"))
