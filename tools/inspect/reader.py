"""Reading a peer's directory from another process: every question goes to `tools.inspect.child`, which may die of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.inspect.child import CANNOT_OPEN, FINDINGS
from tools.inspect.logview import Wanted


class Unreadable(Exception):
    """What was asked cannot be read; the text says why, `exit_code` whether there is nothing to open (3) or whether what is
    there is wrong (1)."""

    def __init__(self, message: str, exit_code: int = FINDINGS) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def peer_info(directory: Path) -> dict[str, Any]:
    """The fields of `PeerInfo`. Raises `Unreadable`."""
    (found,) = ask("info", str(directory))
    return found


def log_rows(directory: Path, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The entries that are wanted, one by one. Raises `Unreadable`, also in the middle."""
    return ask("log", json.dumps(wanted.as_json()), str(directory))


def verify_directories(directories: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The fields of `Found` per place; a directory whose reading killed the reader has that as its finding."""
    told = []
    try:
        for found in ask("verify", *(str(d) for d in directories)):
            told.append(found["place"])
            yield found
    except Unreadable as error:
        if len(told) >= len(directories):
            yield {"place": "all together", "findings": [str(error)], "opened": True}
            return
        fatal, rest = directories[len(told)], directories[len(told) + 1 :]
        yield {"place": str(fatal), "findings": [str(error)], "opened": True}
        if rest:
            yield from verify_directories(rest)


def findings(directories: Sequence[Path]) -> dict[str, list[str]]:
    """The places with something wrong, and what."""
    return {found["place"]: found["findings"] for found in verify_directories(directories) if found["findings"]}


def ask(*arguments: str) -> Iterator[dict[str, Any]]:
    """What the child answers to a verb and its arguments, object by object. Raises `Unreadable`, also in the middle."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.inspect.child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        for line in process.stdout:
            answer = json.loads(line)
            if "error" in answer:
                raise Unreadable(answer["error"], answer["exit"])
            yield answer
    finally:
        process.stdout.close()
        said = process.stderr.read().strip().splitlines()
        process.stderr.close()
        code = process.wait()
    if code < 0:
        raise Unreadable(f"reading it killed the reader with {signal.Signals(-code).name}: the file is damaged")
    if code not in (0, CANNOT_OPEN):
        raise Unreadable(f"reading it failed: {said[-1] if said else f'exit code {code}'}: the file is damaged")
