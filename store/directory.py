"""The directory of an environment, without LMDB: the shape of its data file, its owner's lock, making names durable.

The head of a data file of LMDB 0.9, in the machine's byte order: page 0 and page 1 are meta pages (flag 8 at byte 10) with
the magic at byte 16, the data version at 20, the size of the map at 32, the page size at 40, the last page in use at 136 and
the number of the transaction that wrote it at 144; the one with the larger number holds.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from store.engine import CannotOpen, Damaged, FormatMismatch

DATA_FILE = "data.mdb"
OWNER_FILE = "owner.lock"

_HEAD_BYTES = 160
_META_MAGIC = 0xBEEFC0DE
_META_FLAG = 0x08
_DATA_VERSION = 1
_PAGE_SIZES = [1 << bits for bits in range(8, 17)]


# --- the data file -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """The length of a data file, the one that its newest meta page speaks of, and the size of the map that it was written
    with: how far the file may grow."""

    size_bytes: int
    needed_bytes: int
    map_bytes: int


def read_shape(path: Path) -> Shape:
    """Of the data file in this directory. `Damaged` if it is missing or its head is damaged, `FormatMismatch` if
    another generation of LMDB wrote it. May be read while its owner writes."""
    file = path / DATA_FILE
    if not file.is_file():
        raise Damaged(f"{path} holds no database: {DATA_FILE} is missing")
    with file.open("rb") as stream:
        metas = [_read_meta(stream.read(_HEAD_BYTES), 0, file)]
        page = metas[0][2]
        stream.seek(page)
        metas.append(_read_meta(stream.read(_HEAD_BYTES), 1, file))
        size = os.fstat(stream.fileno()).st_size  # after the metas: its owner lengthens the file first
    _, last, _, map_bytes = max(metas)
    return Shape(size, (last + 1) * page, map_bytes)


def _read_meta(head: bytes, number: int, file: Path) -> tuple[int, int, int, int]:
    """(transaction, last page, page size, size of the map) of a meta page."""
    if len(head) < _HEAD_BYTES:
        raise Damaged(f"{file} is damaged: cut off inside its meta page {number}")
    flags = struct.unpack_from("=H", head, 10)[0]
    magic, version = struct.unpack_from("=II", head, 16)
    if not flags & _META_FLAG or magic != _META_MAGIC:
        if struct.unpack_from("=I", head, 24)[0] == _META_MAGIC:  # LMDB 1.0: its page header is 8 bytes longer
            raise FormatMismatch(f"{file} was written by LMDB 1.x, this program reads LMDB 0.9: export and import it")
        raise Damaged(f"{file} is damaged: page {number} is no meta page of LMDB")
    if version != _DATA_VERSION:
        raise FormatMismatch(f"{file} has LMDB data format {version}, this program reads {_DATA_VERSION}")
    page = struct.unpack_from("=I", head, 40)[0]
    if page not in _PAGE_SIZES:
        raise Damaged(f"{file} is damaged: pages of {page} bytes")
    last, txnid = struct.unpack_from("=QQ", head, 136)
    return txnid, last, page, struct.unpack_from("=Q", head, 32)[0]


# --- the owner -----------------------------------------------------------------------------------------------------


def take_ownership(path: Path) -> int:
    """Take the lock of the one process that may write; a file descriptor that holds it until it is closed, at the latest
    by the end of the process. `CannotOpen`, with the owner's process id, if another has it."""
    owner = os.open(path / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(owner, 0)
        os.write(owner, b"%d\n" % os.getpid())
    except BlockingIOError:
        who = os.read(owner, 20).decode("ascii", "replace").strip()
        os.close(owner)
        raise CannotOpen(f"{path} is in use by another process{who and f', {who}'}: stop it first") from None
    except OSError:
        os.close(owner)
        raise
    return owner


def has_owner(path: Path) -> bool:
    """A process has the environment open for writing."""
    try:
        owner = os.open(path / OWNER_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(owner)
    return False


# --- names ---------------------------------------------------------------------------------------------------------


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Keep others who lock this directory out; waits for them."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, and their names durable. Nothing if it is there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make the contents of a file durable."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
