"""Every command of the README is executed, in its order, as a new user would type it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.processes import free_ports

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 90.0


def blocks(text: str, language: str = "sh") -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(block: str) -> list[str]:
    """The commands of a block, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def with_free_ports(lines: list[str]) -> list[str]:
    """The same commands on ports that are free now."""
    named = sorted({p for line in lines for p in re.findall(r"127\.0\.0\.\d:(\d+)", line)})
    fresh = dict(zip(named, (str(p) for p in free_ports(len(named))), strict=True))
    return [re.sub(r"(127\.0\.0\.\d:)(\d+)", lambda m: m[1] + fresh[m[2]], line) for line in lines]


class Shell:
    """Runs commands in one directory, some in the background; ends what it started, by its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.background: list[subprocess.Popen[bytes]] = []
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("SHARDKV_")}, "PATH": path}

    def run(self, line: str) -> None:
        if line.endswith("&"):
            words = line.rstrip("& ").split()
            quiet = subprocess.DEVNULL
            self.background.append(
                subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=quiet, stderr=quiet)
            )
            return
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, f"{line}: exit code {done.returncode}\n{done.stdout}"

    def end(self) -> None:
        for process in self.background:
            process.send_signal(signal.SIGTERM)
        for process in self.background:
            assert process.wait(timeout=30) == 0
        for line in ("shardkv down", "shardkv down --dir three"):
            subprocess.run(["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True)


@pytest.mark.process
@pytest.mark.system  # a minute: every command there is
def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    lines = [line for block in blocks((ROOT / "README.md").read_text()) for line in commands(block)]
    lines = [line for line in lines if not line.startswith("export PATH")]
    made = [line for line in lines if line.startswith("make ")]
    targets = (ROOT / "Makefile").read_text()
    assert made and all(f"\n{line.split()[1]}:" in targets for line in made)  # run by .ci/run and test_setup
    typed = with_free_ports([line for line in lines if line not in made])
    assert len(typed) > 15
    shell = Shell(tmp_path)
    try:
        for line in typed:
            shell.run(line)
    finally:
        shell.end()


def test_the_python_of_the_readme_is_python() -> None:
    for block in blocks((ROOT / "README.md").read_text(), "python"):
        compile(block, "README.md", "exec")
