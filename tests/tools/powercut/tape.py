"""A recording written by hand: a program's calls one after another, each with both its moments unless told otherwise."""

from __future__ import annotations

from tools.powercut.disk import Disk
from tools.powercut.events import BEGIN, END, ROOT, Action, Mark, Names, New, Recording, Resize, Step, Sync, Talk, Write

SECTOR = 512


class Tape:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._nodes = ROOT
        self._calls = 0

    def begin(self, *actions: Action) -> int:
        self._calls += 1
        self.steps += [Step(self._calls, BEGIN, action) for action in actions]
        return self._calls

    def end(self, call: int) -> None:
        self.steps += [Step(call, END, step.action) for step in self.steps if step.call == call]

    def call(self, *actions: Action) -> None:
        self.end(self.begin(*actions))

    def file(self, name: str, directory: int = ROOT) -> int:
        return self._made(name, directory, is_directory=False)

    def directory(self, name: str, directory: int = ROOT) -> int:
        return self._made(name, directory, is_directory=True)

    def _made(self, name: str, directory: int, *, is_directory: bool) -> int:
        self._nodes += 1
        self.call(New(self._nodes, is_directory), Names(directory, ((name, self._nodes),)))
        return self._nodes

    def write(self, file: int, offset: int, data: bytes, *, synced: bool = False) -> None:
        self.call(Write(file, offset, data, synced))

    def resize(self, file: int, size_bytes: int) -> None:
        self.call(Resize(file, size_bytes))

    def sync(self, node: int) -> None:
        self.call(Sync(node))

    def rename(self, old: str, new: str, node: int, directory: int = ROOT) -> None:
        self.call(Names(directory, ((old, None), (new, node))))

    def mark(self, text: str) -> None:
        self.call(Mark(text))

    def say(self, socket: int, data: bytes, *, out: bool = True) -> None:
        self.call(Talk(socket, out, data))

    def recording(self) -> Recording:
        return Recording("disk", tuple(self.steps))

    def disk(self) -> Disk:
        disk = Disk()
        for step in self.steps:
            disk.take(step)
        return disk


def sector(letter: str) -> bytes:
    """A sector full of one letter."""
    return letter.encode() * SECTOR
