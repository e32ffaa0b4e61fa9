"""Do the two meta pages of a data file follow each other? Read as a file, without LMDB.

LMDB believes the meta page with the larger transaction number, and has no checksum on it. So one flipped bit in the number of
the newest would quietly make the commit before it the newest: the file is whole, every record passes its check, and the last
commit is lost. It can be told, though, for a commit never leaves the main tree's root in its place, and notes the page that
it replaced as free under its own number:

    the two numbers differ by one, and page i has the one that is i modulo 2;
    the root in the older page is among the pages that the newer one's transaction freed.

Were the older page really the later transaction, its root would be a page that the other had not in use, freed earlier or
never. (LMDB does not reuse the pages that the latest commit freed.) It costs reading one page per level of the free tree.

One sound file looks just like that. When the write of a meta page fails, LMDB tries to undo it: it writes the old number back
with the new roots: an older page whose root the newer one never freed. So whoever sees a commit fail leaves its number in the
file FAILED_FILE (`note_failure`), and that commit's page, which nothing reads, may have any root. Where the note cannot be
written either, the file is refused, which loses nothing.

Format of LMDB 0.9, in the machine's byte order. A meta page has, from byte 40 on, the records of the free tree and of
the main tree, 48 bytes each with the root's page number in the last 8, then the last page in use and the transaction's
number. A tree's page: its number u64, 2 bytes, flags u16 (1 branch, 2 leaf), the end u16 of the u16 offsets of its
nodes, which begin at byte 16. A node: u16, u16, flags u16, size of the key u16, key, data. The first two are the
data's size; in a branch they and the flags are a child's page number. Flag 1 of a leaf's node: the data is the number
of a page, and lies there from byte 16 on. The free tree maps a transaction's number to a list of page numbers with
their count in front, all u64.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from struct import error as StructError
from struct import unpack_from
from typing import BinaryIO, NamedTuple

from store.directory import DATA_FILE
from store.engine import Damaged

_NO_PAGE = (1 << 64) - 1
_BRANCH, _LEAF, _ELSEWHERE = 1, 2, 1
_DEPTH_MAX = 32


FAILED_FILE = "commit-failed"
"""The number of the transaction whose commit failed last, in digits. It means nothing any more once there are later ones."""


class Meta(NamedTuple):
    """What a meta page says. `slot` is its own number, roots are page numbers."""

    txnid: int
    slot: int
    page_bytes: int
    free_root: int
    main_root: int


class _Wrong(Exception):
    """What the file cannot be if its newest meta page is true."""


def check_succession(path: Path, written: Callable[[Path], bool] = lambda path: False) -> None:
    """Raise `Damaged` if the meta pages of the data file in this directory do not follow each other. The head of the
    file must have been checked (`directory.read_shape`). While somebody writes to it, which `written` may tell, nothing is
    said."""
    try:
        with (path / DATA_FILE).open("rb") as file:
            first = _meta(file, 0, 0)
            _check(file, sorted((first, _meta(file, 1, first.page_bytes))), _failed(path))
    except (_Wrong, StructError) as error:
        if written(path):
            return
        why = "a page that they need is cut off" if isinstance(error, StructError) else str(error)
        raise Damaged(f"{path / DATA_FILE} is damaged: its meta pages do not follow each other: {why}") from error


def _meta(file: BinaryIO, slot: int, page_bytes: int) -> Meta:
    head = _read(file, slot * page_bytes, 152)
    (size,) = unpack_from("=I", head, 40)
    (free_root,) = unpack_from("=Q", head, 80)
    main_root, _, txnid = unpack_from("=QQQ", head, 128)
    return Meta(txnid, slot, size, free_root, main_root)


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    if not 0 <= at < 1 << 62:
        raise _Wrong(f"byte {at} is nowhere")
    file.seek(at)
    return file.read(length)


def note_failure(path: Path, txnid: int) -> None:
    """Leave a note that the commit of this transaction failed, durable if the disk can still do it. Raises nothing."""
    with suppress(OSError):
        handle = os.open(path / FAILED_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, b"%d\n" % txnid)
            os.fsync(handle)
        finally:
            os.close(handle)


def _failed(path: Path) -> int | None:
    try:
        return int((path / FAILED_FILE).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _check(file: BinaryIO, metas: list[Meta], failed: int | None) -> None:
    older, newer = metas
    if older.page_bytes != newer.page_bytes:
        raise _Wrong(f"pages of {older.page_bytes} and {newer.page_bytes} bytes")
    if newer.txnid == 0:
        return  # nothing was ever committed
    if newer.txnid - older.txnid != 1 or newer.txnid % 2 != newer.slot:
        raise _Wrong(f"transactions {metas[0].txnid} and {metas[1].txnid}, the later on page {newer.slot}")
    if failed == newer.txnid + 1:
        return  # the older page may be what is left of that commit
    if older.main_root != _NO_PAGE and older.main_root not in _freed(file, newer):
        raise _Wrong(f"transaction {newer.txnid} did not replace the root of {older.txnid}, page {older.main_root}")


def _freed(file: BinaryIO, meta: Meta) -> tuple[int, ...]:
    """The pages that the newest transaction freed: the last record of the free tree, if it is its own."""
    number = meta.free_root
    for _ in range(_DEPTH_MAX):
        if number == _NO_PAGE:
            return ()
        page = _read(file, number * meta.page_bytes, meta.page_bytes)
        flags, end = unpack_from("=HH", page, 10)
        (at,) = unpack_from("=H", page, end - 2)
        low, high, kind, key_bytes = unpack_from("=HHHH", page, at)
        if flags & _BRANCH:
            number = low | high << 16 | kind << 32
            continue
        if not flags & _LEAF or unpack_from("=Q", page, at + 8)[0] != meta.txnid:
            return ()
        data = page[at + 8 + key_bytes :]
        if kind & _ELSEWHERE:
            data = _read(file, unpack_from("=Q", data)[0] * meta.page_bytes + 16, low | high << 16)
        return unpack_from(f"={min(unpack_from('=Q', data)[0], len(data) // 8 - 1)}Q", data, 8)
    return ()
