"""The two meta pages follow each other after every commit there is, and no flipped bit in a transaction's number passes."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from random import Random

import pytest

from store.engine import CannotOpen
from store.format import Stamp
from store.lmdb_engine import LmdbEngine
from store.lmdb_metas import check_succession, note_failure

TABLES = ("meta", "rows", "more")
STAMP = Stamp("state", bytes(16), 1, 0, 100)
PAGE = 4096


def numbers(path: Path) -> list[int]:
    head = (path / "data.mdb").read_bytes()[: 2 * PAGE]
    return [struct.unpack_from("=Q", head, at + 144)[0] for at in (0, PAGE)]


@pytest.mark.parametrize("seed", range(4))
def test_every_commit_leaves_metas_that_follow(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    path = tmp_path / "state"
    LmdbEngine.create(path, TABLES, STAMP, lambda txn: None)
    check_succession(path)
    engine = LmdbEngine.open(path, TABLES, STAMP)
    for _ in range(300):
        with engine.write() as txn:
            for _ in range(rng.choice((0, 1, 1, 3, 50, 300))):
                table, key = rng.choice(TABLES[1:]), b"%06d" % rng.randrange(8000)
                if rng.random() < 0.6:
                    txn.put(table, key, rng.randbytes(rng.choice((5, 50, 500, 9000))))
                else:
                    txn.delete(table, key)
            if rng.random() < 0.05:
                txn.delete_range(rng.choice(TABLES[1:]), b"", None)
        check_succession(path)
    assert sorted(numbers(path))[1] > 150
    engine.close()
    LmdbEngine.open(path, TABLES, STAMP).close()


@pytest.mark.parametrize("commits", [0, 1, 7])
def test_a_flipped_bit_in_a_number_is_found(tmp_path: Path, commits: int) -> None:
    """Bit 1 of the newest is the one that only the free pages betray: the commit before would be taken for the latest."""
    path = tmp_path / "state"
    LmdbEngine.create(path, TABLES, STAMP, lambda txn: txn.put("rows", b"k", b"0"))
    engine = LmdbEngine.open(path, TABLES, STAMP)
    for number in range(commits):
        with engine.write() as txn:
            txn.put("rows", b"k", b"%d" % number)
    engine.close()
    whole = (path / "data.mdb").read_bytes()
    for slot in (0, 1):
        for bit in range(64):
            data = bytearray(whole)
            data[slot * PAGE + 144 + bit // 8] ^= 1 << bit % 8
            (path / "data.mdb").write_bytes(data)
            with pytest.raises(CannotOpen, match="do not follow each other"):
                check_succession(path)
            with pytest.raises(CannotOpen, match=r"do not follow each other|shorter|cut off"):
                LmdbEngine.open(path, TABLES, STAMP)
    (path / "data.mdb").write_bytes(whole)
    LmdbEngine.open(path, TABLES, STAMP).close()


def test_a_file_that_cannot_be_walked_is_damage_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    LmdbEngine.create(path, TABLES, STAMP, lambda txn: None)
    engine = LmdbEngine.open(path, TABLES, STAMP)
    for number in range(600):
        with engine.write() as txn:
            txn.put("rows", b"%d" % number, bytes(3000))
    engine.close()
    whole = (path / "data.mdb").read_bytes()
    rng = Random(5)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    for _ in range(400):
        data = bytearray(whole[: rng.choice((len(whole), rng.randrange(2 * PAGE, len(whole))))])
        for _ in range(20):
            at = rng.choice((rng.randrange(2 * PAGE), rng.randrange(len(data))))
            data[at] ^= 1 << rng.randrange(8)
        struct.pack_into("=I", data, 40, PAGE)
        (copy / "data.mdb").write_bytes(data)
        try:
            check_succession(copy)
        except CannotOpen as error:
            assert "\n" not in str(error)


def test_what_a_failed_write_of_a_meta_page_leaves_is_taken_for_what_it_is(tmp_path: Path) -> None:
    """LMDB undoes it by writing the old number back, with the new roots (found by chaos: EIO from pwrite64)."""
    path = tmp_path / "state"
    LmdbEngine.create(path, TABLES, STAMP, lambda txn: txn.put("rows", b"k", b"0"))
    engine = LmdbEngine.open(path, TABLES, STAMP)
    for number in (1, 2, 3):
        with engine.write() as txn:
            txn.put("rows", b"k", b"%d" % number)
    engine.close()
    newest = max(numbers(path))
    at = PAGE * (newest % 2) + 144
    data = bytearray((path / "data.mdb").read_bytes())
    struct.pack_into("=Q", data, at, newest - 2)
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(CannotOpen, match="do not follow each other"):
        LmdbEngine.open(path, TABLES, STAMP)
    note_failure(path, newest - 1)  # of another commit
    with pytest.raises(CannotOpen, match="do not follow each other"):
        LmdbEngine.open(path, TABLES, STAMP)
    note_failure(path, newest)
    engine = LmdbEngine.open(path, TABLES, STAMP)
    with engine.read() as txn:
        assert txn.get("rows", b"k") == b"2"
    with engine.write() as txn:
        txn.put("rows", b"k", b"3 again")
    engine.close()
    LmdbEngine.open(path, TABLES, STAMP).close()  # and the note says nothing about later commits
