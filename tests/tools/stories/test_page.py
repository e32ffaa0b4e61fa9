"""docs/what-happened.md: its commands are run, in their order, and say what the page says that they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.cli.main import cli

PAGE = Path(__file__).resolve().parents[3] / "docs" / "what-happened.md"
BLOCK = re.compile(r"```(sh|text)\n(.*?)```", re.DOTALL)
STORIES = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]


@pytest.mark.parametrize("story", STORIES, ids=lambda text: text.splitlines()[0])
def test_the_page_is_true(story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said, checked = "", 0
    for kind, body in BLOCK.findall(story):
        lines = [line for line in body.splitlines() if line.strip()]
        if kind == "sh":
            said = "".join(run(line) for line in lines)
            continue
        for line in lines:
            assert squeezed(line) in squeezed(said), f"not said: {line}\n{said}"
            checked += 1
    assert checked >= 3


def run(line: str) -> str:
    program, *arguments = shlex.split(line)
    assert program == "shardkv"
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code in (0, 1), f"{line}: {done.output}"
    return done.output


def squeezed(text: str) -> str:
    """Without the widths of columns."""
    return re.sub(r"\s+", " ", text)
