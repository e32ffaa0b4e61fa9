"""The bases that a peer retains, if it is told to: before its log is purged, an export of all that it has on its disk.

`<directory>/bases/base-<applied index>.skv`, the newest `keep` of them; an older one goes when a newer one is complete. With
them `inspect replay` shows the state as of every index since the oldest of them.

A base is made by another process (`PeerSpec.keeper`: a command that takes the directory and a file, and says {"applied": its
index} as JSON), so the peer goes on meanwhile; only its purge waits, for `LIMIT_S` at most. A base that cannot be made is
trouble, told, and no reason to keep the log: it must not fill the disk.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from store.directory import sync_directory

BASES = "bases"
MAKING = "making.skv"
LIMIT_S = 600.0
"""How long the making of a base may take."""


def base_files(directory: Path) -> dict[int, Path]:
    """The bases of a peer's directory by the index that their state is as of, the oldest first."""
    found = {}
    for path in (directory / BASES).glob("base-*.skv"):
        number = path.stem.removeprefix("base-")
        if number.isascii() and number.isdecimal():
            found[int(number)] = path
    return dict(sorted(found.items()))


class Bases:
    """Makes and forgets the bases of one peer."""

    def __init__(self, directory: Path, keeper: Sequence[str], keep: int, trouble: Callable[[str], Any]) -> None:
        self._directory = directory
        self._keeper = tuple(keeper)
        self._keep = keep
        self._trouble = trouble
        self._ask, self._asked = trio.open_memory_channel[tuple[int, Callable[[], Any]]](1)

    def before_purge(self, applied: int, go: Callable[[], Any]) -> None:
        """Make a base of a peer whose state on disk is as of `applied` or later; then `go`. One at a time."""
        self._ask.send_nowait((applied, go))

    async def run(self) -> None:
        """For as long as the peer lives. Cancelled, it ends the process that makes a base."""
        async for applied, go in self._asked:
            try:
                await self._retain(applied)
            except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
                self._trouble(f"the base before a purge was not retained: {_words(error)}")
            go()

    async def _retain(self, applied: int) -> None:
        folder = self._directory / BASES
        folder.mkdir(exist_ok=True)
        for leftover in (*folder.glob("*.new"), *folder.glob(MAKING)):
            leftover.unlink()
        if max(base_files(self._directory), default=-1) < applied:
            made = folder / MAKING
            index = await self._make(made)
            made.rename(folder / f"base-{index:020}.skv")
            await trio.to_thread.run_sync(sync_directory, folder)
        for old in list(base_files(self._directory).values())[: -self._keep]:
            old.unlink()

    async def _make(self, path: Path) -> int:
        command = [*self._keeper, str(self._directory), str(path)]
        with trio.move_on_after(LIMIT_S) as limit:
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        if limit.cancelled_caught:
            raise OSError(f"it took longer than {LIMIT_S:.0f} s")
        return int(json.loads(done.stdout)["applied"])


def _words(error: Exception) -> str:
    said = error.stdout + error.stderr if isinstance(error, subprocess.CalledProcessError) else b""
    return " ".join(said.decode("utf-8", "replace").split())[-300:] or str(error)
