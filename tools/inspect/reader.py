"""Reading a peer's directory from another process: every question goes to `tools.inspect.child`, which may die of it.

A place is a directory, or the address of a running peer, whose own view of its disk is shown then (`remote`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from tools.inspect.child import CANNOT_OPEN, FINDINGS
from tools.inspect.logtext import Share
from tools.inspect.logview import Wanted
from tools.inspect.remote import is_address
from tools.inspect.verify import Committed, Found, Members, conflicts

PIPE_BYTES = 1 << 20
"""A child may be ahead by so much: several can work at once though one after the other is listened to."""
READERS_MAX = 4
"""The most children that read one log."""
ALONE = 50_000
"""So many entries are read by one child: to start another costs as much as they do."""


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


def log_lines(directory: Path, wanted: Wanted, form: str) -> Iterator[dict[str, Any]]:
    """The entries that are wanted as lines of a form of `logtext`, block by block: {"text", "counts" by kind, "through",
    "first", "last" of all}. Nothing of a peer without a log. Raises `Unreadable`, also in the middle.

    A long log is read by several children at once, each a share of the blocks; what they say is told in order.
    """
    (whole,) = ask("span", str(directory))
    if whole["first"] is None:
        return
    first = max(wanted.first, whole["first"])
    last = whole["last"] if wanted.last is None else min(wanted.last, whole["last"])
    long = last - first > ALONE and wanted.limit is None and not is_address(directory)
    readers = min(READERS_MAX, os.cpu_count() or 1) if long else 1
    shares = [Share(first, last, form, reader, readers) for reader in range(readers)]
    told = [ask("lines", json.dumps(wanted.as_json()), json.dumps(s.as_json()), str(directory)) for s in shares]
    with ExitStack() as stack:
        for one in told:
            stack.enter_context(closing(one))
        for one in told:
            next(one)  # that it began
        for number in count():
            while (block := next(told[number % readers], None)) is not None:
                yield block | {"first": first, "last": last}
                if not block["more"]:
                    break
            else:
                break
        for one in told:
            for _ in one:  # to its end, where it says how it ended
                pass


def verify_directories(
    directories: Sequence[Path], progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[dict[str, Any]]:
    """The fields of `Found` per place; a directory whose reading killed the reader has that as its finding. `progress` hears
    how many records of a directory were looked at, of how many."""
    if any(is_address(directory) for directory in directories):
        yield from _verify_apart(directories, progress)
        return
    told = []
    try:
        for found in ask("verify", *(str(d) for d in directories)):
            if "total" in found:
                progress(found["done"], found["total"])
                continue
            told.append(found["place"])
            yield found
    except Unreadable as error:
        if len(told) >= len(directories):
            yield {"place": "all together", "findings": [str(error)], "opened": True}
            return
        fatal, rest = directories[len(told)], directories[len(told) + 1 :]
        yield {"place": str(fatal), "findings": [str(error)], "opened": True}
        if rest:
            yield from verify_directories(rest, progress)


def _verify_apart(directories: Sequence[Path], progress: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
    """As `verify_directories`, each place by a reader of its own, since they are in several places of the world."""
    groups: dict[tuple[str, int], Members] = {}
    for place in directories:
        try:
            for answer in ask("verdict", str(place)):
                if "total" in answer:
                    progress(answer["done"], answer["total"])
                elif "findings" in answer:
                    yield answer | {"place": str(place)}
                elif "first" in answer:
                    group = groups.setdefault((answer["cluster"], answer["gid"]), {})
                    held = group[place] = Committed(answer["first"])
                else:
                    held.digests.extend(answer["digests"])
        except Unreadable as error:
            yield asdict(Found(str(place), [str(error)], error.exit_code != CANNOT_OPEN))
    yield from map(asdict, conflicts(groups))


def findings(directories: Sequence[Path]) -> dict[str, list[str]]:
    """The places with something wrong, and what."""
    return {found["place"]: found["findings"] for found in verify_directories(directories) if found["findings"]}


def ask(*arguments: str) -> Generator[dict[str, Any], None, None]:
    """What the child answers to a verb and its arguments, object by object; the place, if it has one, is the last of them.
    Raises `Unreadable`, also in the middle."""
    module = "tools.inspect.remote" if is_address(arguments[-1]) else "tools.inspect.child"
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pipesize=PIPE_BYTES,
    )
    assert process.stdout is not None and process.stderr is not None
    whole = True
    try:
        for line in process.stdout:
            whole = line.endswith("\n")
            if not whole:
                break  # it died in the middle of a word
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
    if code not in (0, CANNOT_OPEN) or not whole:
        raise Unreadable(f"reading it failed: {said[-1] if said else f'exit code {code}'}: the file is damaged")
