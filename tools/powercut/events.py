"""What a recording consists of: the steps of the calls that reached files, names and sockets, in the order in which they
were made. Pure values.

A call has two moments. Its `BEGIN` is when the kernel was asked: from then on a write may be found after a crash, or some
of its sectors. Its `END` is when the caller was told: only then is a write surely before a later sync, or has a sync made
durable what had ended when it began. What is acknowledged (a marker, bytes to a socket) may be known from its `BEGIN` on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

ROOT = 0
"""The node of the directory that is recorded. It is durable from the start."""


class Moment(Enum):
    """Which end of a call."""

    BEGIN = auto()
    END = auto()


BEGIN, END = Moment.BEGIN, Moment.END


@dataclass(frozen=True, slots=True)
class New:
    """A file or directory that did not exist. It has no name yet."""

    node: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes of a file. `synced`: its descriptor is O_DSYNC or O_SYNC, so these bytes are durable at the end of the call."""

    file: int
    offset: int
    data: bytes
    synced: bool = False


@dataclass(frozen=True, slots=True)
class Resize:
    """A file's length is set: cut off, or grown by zeros."""

    file: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Names:
    """Names in a directory come to mean a node, or nothing; all of one call together, or none."""

    directory: int
    names: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """All of a file's bytes and its length, or all names in a directory, are made durable."""

    node: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The recorded program wrote a line to its file of marks."""

    text: str


@dataclass(frozen=True, slots=True)
class Talk:
    """Bytes on a connection, out or in; no bytes: it is new under this number."""

    socket: int
    out: bool
    data: bytes


Action = New | Write | Resize | Names | Sync | Mark | Talk


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of one call. Both moments of a call have its number."""

    call: int
    moment: Moment
    action: Action


@dataclass(frozen=True, slots=True)
class Recording:
    """All of it. `root` is the directory that was recorded, in which the states are shown under its own name."""

    root: str
    steps: tuple[Step, ...]
