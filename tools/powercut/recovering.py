"""Children that recover states, one per core; one that dies of a state is a finding, and is replaced."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.powercut.disk import Tree

PATIENCE_S = 60.0
"""A state that is not recovered after so long is a finding too."""


@dataclass(frozen=True, slots=True)
class Task:
    """A state to recover, and what was owed by then. `told` is called with what is wrong, from any thread."""

    tree: Tree
    owed: dict[str, Any]
    told: Callable[[list[str]], None]


class _Child:
    def __init__(self, target: str, setup: str) -> None:
        self._command = [sys.executable, "-m", "tools.powercut.child", target, setup]
        self._process: subprocess.Popen[str] | None = None

    def ask(self, root: Path, owed: dict[str, Any]) -> list[str]:
        """What is wrong with the state."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        timer = threading.Timer(PATIENCE_S, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps({"root": str(root), "owed": owed}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line:
            wrong: list[str] = json.loads(line)["wrong"]
            return wrong
        return [self._last_words()]

    def _last_words(self) -> str:
        process, self._process = self._process, None
        assert process is not None
        _, said = process.communicate()
        lines = said.strip().splitlines()
        if process.returncode < 0:
            return f"recovery killed its process with {signal.Signals(-process.returncode).name}"
        return f"recovery failed with exit code {process.returncode}: {lines[-1] if lines else 'no word'}"

    def close(self) -> None:
        """Let it end."""
        if self._process is not None:
            self._process.communicate()


class Recoverers:
    """Recovers states as they are handed over; at most a few wait. Made by `recoverers`."""

    def __init__(self, target: str, setup: dict[str, Any], folder: Path, name: str, jobs: int) -> None:
        self._tasks: queue.Queue[Task | None] = queue.Queue(2 * jobs)
        self._threads = []
        self.failed: BaseException | None = None
        for number in range(jobs):
            args = (_Child(target, json.dumps(setup)), folder / str(number) / name)
            thread = threading.Thread(target=self._work, args=args)
            thread.start()
            self._threads.append(thread)

    def put(self, task: Task) -> None:
        """Hand over a state; waits for room."""
        self._tasks.put(task)

    def _work(self, child: _Child, root: Path) -> None:
        while (task := self._tasks.get()) is not None:
            if self.failed is not None:
                continue
            try:
                task.tree.write(root)
                task.told(child.ask(root, task.owed))
                shutil.rmtree(root)
            except BaseException as error:  # noqa: BLE001  # tidy: it is raised where the tasks come from
                self.failed = error
        child.close()

    def close(self) -> None:
        """Wait for all of them. Raises what failed."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        if self.failed is not None:
            raise self.failed


def scratch() -> str | None:
    """Where states are written: in memory, where there is such a place, for the syncs of a recovery ask nothing here."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else None


@contextmanager
def recoverers(target: str, setup: dict[str, Any], name: str, jobs: int) -> Iterator[Recoverers]:
    """`name` is that of the recorded directory. On leaving the block all that was handed over has been judged."""
    with tempfile.TemporaryDirectory(prefix="powercut-", dir=scratch()) as folder:
        working = Recoverers(target, setup, Path(folder), name, jobs)
        try:
            yield working
        finally:
            working.close()
