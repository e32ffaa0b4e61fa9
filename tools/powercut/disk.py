"""The model of a disk: what of the writes so far a crash may leave.

* A sector of 512 bytes is written whole or not at all. A larger write tears between any two sectors, in any order.
* Nothing is ordered but by a barrier: of every sector that was written since the file's last sync any version from the
  durable one to the newest may be found, each for itself.
* A sync makes durable what had ended when it began. A write on an O_DSYNC descriptor makes its own sectors durable, and no
  others, when it ends.
* A file's length is one more such thing: any since the last sync. Bytes that should be there and were lost are zeros.
* Names are durable by a sync of their directory only, whatever was synced in the file. Of the calls since then any may be
  lost, each as a whole: a rename is atomic.

Each thing that may be found in more than one version is an *atom* with its number of versions; a crash state is a choice of
one version for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tools.powercut.events import BEGIN, ROOT, Action, Names, New, Resize, Step, Sync, Write

SECTOR_BYTES = 512
ZEROS = bytes(SECTOR_BYTES)


@dataclass(frozen=True, slots=True, order=True)
class Atom:
    """Something of a node that a crash may leave in an older version: `sector` N of a file, `size`, or call N of the `names`
    in a directory."""

    node: int
    kind: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}" if self.kind != "size" else self.kind


Choice = Mapping[Atom, int]
"""Which version of an atom is found: 0 is the durable one. What is not named is the newest."""


@dataclass(slots=True)
class File:
    """`durable` holds the sectors that are durable, `pending` all versions since, each with the call that wrote it."""

    durable: dict[int, bytes] = field(default_factory=dict)
    size_bytes: int = 0
    pending: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def newest(self, sector: int) -> bytes:
        """What a reader sees now."""
        versions = self.pending.get(sector)
        return versions[-1][1] if versions else self.durable.get(sector, ZEROS)

    @property
    def newest_size_bytes(self) -> int:
        """The length that a reader sees now."""
        return self.sizes[-1][1] if self.sizes else self.size_bytes


@dataclass(slots=True)
class Directory:
    """`durable` are the names that are, `pending` the calls since."""

    durable: dict[str, int] = field(default_factory=dict)
    pending: list[tuple[int, Names]] = field(default_factory=list)


class Contents(NamedTuple):
    """A file's bytes, without the zeros at its end, and its length."""

    data: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Tree:
    """What is found after a crash: the contents of each file by its path, None for a directory."""

    entries: Mapping[str, Contents | None]

    @property
    def digest(self) -> str:
        """Equal for equal contents."""
        found = hashlib.blake2b(digest_size=16)
        for path in sorted(self.entries):
            file = self.entries[path]
            found.update(f"{path}\0{file and (file.size_bytes, len(file.data))}\0".encode())
            found.update(file.data if file else b"")
        return found.hexdigest()

    def write(self, folder: Path) -> None:
        """Make it in a folder that is not there. Zeros at the end of a file take no room."""
        folder.mkdir(parents=True)
        for path in sorted(self.entries):
            file = self.entries[path]
            if file is None:
                (folder / path).mkdir()
                continue
            with (folder / path).open("wb") as stream:
                stream.write(file.data)
                stream.truncate(file.size_bytes)


class Disk:
    """A disk as of a step of a recording."""

    def __init__(self) -> None:
        self.files: dict[int, File] = {}
        self.directories: dict[int, Directory] = {ROOT: Directory()}
        self._running: dict[int, Action] = {}
        self._covered: dict[int, frozenset[int]] = {}

    # --- what happens ------------------------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """Let one step of the recording happen."""
        if step.moment is BEGIN:
            self._running[step.call] = step.action
            self._begin(step.call, step.action)
        else:
            self._running.pop(step.call, None)
            self._end(step.call, step.action)

    def _begin(self, call: int, action: Action) -> None:
        match action:
            case New(node, is_directory):
                if is_directory:
                    self.directories[node] = Directory()
                else:
                    self.files[node] = File()
            case Write():
                self._write(call, action)
            case Resize(file, size_bytes):
                self._resize(call, self.files[file], size_bytes)
            case Names():
                self.directories[action.directory].pending.append((call, action))
            case Sync():
                self._covered[call] = frozenset(self._running)  # those that run beside it are not covered by it
            case _:
                pass

    def _end(self, call: int, action: Action) -> None:
        match action:
            case Write(file=file, synced=True):
                self._settle_file(self.files[file], lambda other: other == call)
            case Sync(node):
                beside = self._covered.pop(call, frozenset())
                if node in self.files:
                    self._settle_file(self.files[node], lambda other: other < call and other not in beside)
                else:
                    self._settle_names(self.directories[node], beside, call)
            case _:
                pass

    def _write(self, call: int, write: Write) -> None:
        file, end = self.files[write.file], write.offset + len(write.data)
        for sector in range(write.offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            start = sector * SECTOR_BYTES
            low, high = max(write.offset, start), min(end, start + SECTOR_BYTES)
            data = write.data[low - write.offset : high - write.offset]
            if len(data) < SECTOR_BYTES:
                before = file.newest(sector)
                data = before[: low - start] + data + before[high - start :]
            file.pending.setdefault(sector, []).append((call, data))
        if end > file.newest_size_bytes:
            file.sizes.append((call, end))

    def _resize(self, call: int, file: File, size_bytes: int) -> None:
        if size_bytes < file.newest_size_bytes:
            for sector in sorted(file.durable.keys() | file.pending.keys()):
                kept = max(0, min(SECTOR_BYTES, size_bytes - sector * SECTOR_BYTES))
                if kept < SECTOR_BYTES and (before := file.newest(sector)) != ZEROS:
                    after = before[:kept] + ZEROS[kept:]
                    file.pending.setdefault(sector, []).append((call, after))
        if size_bytes != file.newest_size_bytes:
            file.sizes.append((call, size_bytes))

    def _settle_file(self, file: File, is_covered: Callable[[int], bool]) -> None:
        for sector in list(file.pending):
            versions = file.pending[sector]
            upto = max((at for at, (call, _) in enumerate(versions, 1) if is_covered(call)), default=0)
            if upto:
                file.durable[sector] = versions[upto - 1][1]
                file.pending[sector] = versions[upto:]
                if not file.pending[sector]:
                    del file.pending[sector]
        upto = max((at for at, (call, _) in enumerate(file.sizes, 1) if is_covered(call)), default=0)
        if upto:
            file.size_bytes = file.sizes[upto - 1][1]
            file.sizes = file.sizes[upto:]

    @staticmethod
    def _settle_names(directory: Directory, beside: frozenset[int], call: int) -> None:
        left = []
        for other, names in directory.pending:
            if other < call and other not in beside:
                _name(directory.durable, names)
            else:
                left.append((other, names))
        directory.pending = left

    # --- what a crash leaves -----------------------------------------------------------------------------------------

    def atoms(self) -> dict[Atom, int]:
        """What may be found in an older version now, with the number of the newest. In a fixed order."""
        found: dict[Atom, int] = {}
        for node, file in self.files.items():
            found.update({Atom(node, "sector", at): len(file.pending[at]) for at in sorted(file.pending)})
            if file.sizes:
                found[Atom(node, "size")] = len(file.sizes)
        for node, directory in self.directories.items():
            found.update({Atom(node, "names", at): 1 for at in range(len(directory.pending))})
        return found

    def atoms_of_call(self, call: int) -> dict[Atom, int]:
        """The atoms that a call has written, each with the version before it."""
        found: dict[Atom, int] = {}
        for node, file in self.files.items():
            for sector, versions in file.pending.items():
                for at, (writer, _) in enumerate(versions):
                    if writer == call:
                        found[Atom(node, "sector", sector)] = at
        return dict(sorted(found.items()))

    def left(self, choice: Choice) -> Tree:
        """The state with these versions."""
        return Tree(dict(self._walk("", ROOT, choice)))

    def _walk(self, prefix: str, node: int, choice: Choice) -> Iterator[tuple[str, Contents | None]]:
        for name, child in sorted(self._names(node, choice).items()):
            path = prefix + name
            if child in self.files:
                yield path, self._contents(child, choice)
            else:
                yield path, None
                yield from self._walk(f"{path}/", child, choice)

    def _names(self, node: int, choice: Choice) -> dict[str, int]:
        directory = self.directories[node]
        names = dict(directory.durable)
        for at, (_, change) in enumerate(directory.pending):
            if choice.get(Atom(node, "names", at), 1):
                _name(names, change)
        return names

    def _contents(self, node: int, choice: Choice) -> Contents:
        file = self.files[node]
        size = file.newest_size_bytes
        if file.sizes and (version := choice.get(Atom(node, "size"))) is not None:
            size = file.sizes[version - 1][1] if version else file.size_bytes
        written = (max((*file.durable, *file.pending), default=-1) + 1) * SECTOR_BYTES
        data = bytearray(min(size, written))
        for sector, durable in file.durable.items():
            _put(data, sector, durable)
        for sector, versions in file.pending.items():
            version = choice.get(Atom(node, "sector", sector), len(versions))
            _put(data, sector, versions[version - 1][1] if version else file.durable.get(sector, ZEROS))
        return Contents(bytes(data.rstrip(b"\0")), size)

    def paths(self) -> dict[int, str]:
        """The path of each node that has one, as a reader sees it now."""
        found: dict[int, str] = {}

        def walk(prefix: str, node: int) -> None:
            for name, child in sorted(self._names(node, {}).items()):
                found[child] = prefix + name
                if child in self.directories:
                    walk(f"{prefix}{name}/", child)

        walk("", ROOT)
        return found


def _name(names: dict[str, int], change: Names) -> None:
    for name, node in change.names:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _put(data: bytearray, sector: int, content: bytes) -> None:
    start = sector * SECTOR_BYTES
    if start < len(data):
        data[start : start + SECTOR_BYTES] = content[: len(data) - start]
