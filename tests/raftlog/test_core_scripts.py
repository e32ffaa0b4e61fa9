"""The golden scripts: `pytest --rewrite-scripts` writes them anew; then read the diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raftlog.script_runner import Script

SCRIPTS = sorted(Path(__file__).with_name("scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    played = Script().run(text)
    if request.config.getoption("--rewrite-scripts"):
        path.write_text(played)
    assert played == path.read_text()


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 12
