"""A data file before LMDB sees it: read as a file, so that nothing in it can hurt.

A truncated file would kill the process (SIGBUS) when LMDB touches what is missing, so the file is checked before LMDB opens
it. A file that is shorter than its meta page says is not always damaged, though: LMDB does not write pages that one
transaction both took and freed, so the tail of a healthy file may be missing (measured: after most commits that delete
what they wrote). So each commit lengthens such a file, and one that is short all the same (a crash came between) is walked
page by page, lengthened and read record by record, and refused only if something in use is missing: the walk alone passes
over the later pages of a large value.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
from lmdb import verify as lmdb_verify

from store.directory import DATA_FILE, has_owner, read_shape
from store.engine import CannotOpen, Damaged
from store.lmdb_metas import check_succession

GENERATION = 0
"""LMDB 0.9; the stamp carries it."""


def check_structure(path: Path) -> None:
    """Raise `Damaged` for a data file that LMDB could not open or that would kill the process: no file, too short, no
    meta page, meta pages that do not follow each other, or a page in use is cut off. Reads only; the file may belong to a
    live owner."""
    check_pages(path, has_owner)  # a live owner has looked, and goes on writing


def check_pages(path: Path, trusted: Callable[[Path], bool] = lambda path: False) -> int | None:
    """The length of the file if it is short. Raises as `check_structure`."""
    shape = read_shape(path)
    if not trusted(path):
        check_succession(path, trusted)
    if shape.size_bytes >= shape.needed_bytes:
        return None
    if not trusted(path) and (wrong := verify_pages(path)):
        sizes = f"{shape.size_bytes} bytes of {shape.needed_bytes}"
        raise Damaged(f"{path / DATA_FILE} is damaged: {sizes}, it was cut off: {wrong[0]}")
    return shape.size_bytes


def verify_pages(path: Path) -> list[str]:
    """What is structurally wrong with the data file of an environment that nobody writes to; empty = sound. Reads every
    page without LMDB, so nothing in the file can hurt; takes seconds per 100 MB. The records' own checks are not made."""
    verify: Any = lmdb_verify.verify
    try:
        return [str(problem) for problem in verify(str(path / DATA_FILE), subdir=False)]
    except lmdb_verify.VerifyError as error:
        return [str(error)]


def online_copy(path: Path, to: Path) -> None:
    """Copy an environment in use by another process as of now, page by page as it lies there, into the empty directory `to`.
    Raises `CannotOpen`. This process must not have it open."""
    try:
        with lmdb.open(str(path), readonly=True, lock=True, create=False, lib_version=GENERATION) as env:
            env.copy(str(to))
    except (lmdb.Error, OSError) as error:
        raise CannotOpen(f"{path} cannot be copied: {error}") from error
