"""Damaged data files, and files that only look damaged."""

import os
from pathlib import Path

import pytest

from store.directory import read_shape
from store.engine import CorruptRecord
from store.lmdb_engine import LmdbEngine
from store.lmdb_file import check_structure, verify_pages
from tests.store.boxes import STAMP, TABLES, content, looking, opened, put, raw, the_line

PAGE = 4096


def fill(path: Path) -> None:
    with opened(path) as engine:
        for number in range(5):
            put(engine, "a", *((b"%d-%d" % (number, i), bytes(500)) for i in range(50)))


@pytest.mark.parametrize("pages", [0, 0.01, 1, 1.01, 2, 3, 5, -1])
def test_a_truncated_file_gives_one_line_and_does_not_kill(path: Path, pages: float) -> None:
    fill(path)
    size = (path / "data.mdb").stat().st_size
    left = int(pages * PAGE) if pages >= 0 else size - PAGE
    os.truncate(path / "data.mdb", left)
    for call in (
        lambda: LmdbEngine.open(path, TABLES, STAMP),
        lambda: LmdbEngine.open_readonly(path, TABLES),
        lambda: check_structure(path),
    ):
        line = the_line(call)
        assert str(path) in line
        assert "damaged" in line
    assert (path / "data.mdb").stat().st_size == left


@pytest.mark.parametrize("page", [0, 1])
def test_an_overwritten_meta_page_is_named(path: Path, page: int) -> None:
    with (path / "data.mdb").open("r+b") as file:
        file.seek(page * PAGE)
        file.write(bytes(64))
    assert f"page {page} is no meta page" in the_line(lambda: LmdbEngine.open(path, TABLES, STAMP))


def test_a_tail_of_half_a_page_after_a_full_disk_is_no_damage(path: Path) -> None:
    with (path / "data.mdb").open("ab") as file:
        file.write(b"x" * 100)
    with opened(path) as engine:
        put(engine, "a", (b"k", bytes(100_000)))
        assert content(engine, "a") == {b"k": bytes(100_000)}


def leave_short(path: Path) -> None:
    """Two commits of plain LMDB that take pages and free them again."""
    with raw(path) as (env, dbs):
        for _ in range(2):
            with env.begin(write=True) as txn:
                txn.put(b"big", bytes(3_000_000), db=dbs["a"])
                txn.delete(b"big", db=dbs["a"])


def test_a_healthy_file_may_be_shorter_than_its_meta_page_says_and_is_opened(path: Path) -> None:
    leave_short(path)
    shape = read_shape(path)
    assert shape.size_bytes < shape.needed_bytes, "LMDB writes such pages now: the walk at open has lost its reason"
    check_structure(path)
    with looking(path) as engine:
        assert content(engine, "a") == {}
    with opened(path) as engine:
        put(engine, "a", (b"k", b"v"))
        assert content(engine, "a") == {b"k": b"v"}
    shape = read_shape(path)
    assert shape.size_bytes >= shape.needed_bytes


def test_a_file_cut_off_inside_a_large_value_is_refused_and_left_as_it_is(path: Path) -> None:
    with opened(path) as engine:
        for n in range(4):  # free pages in front, for the small ones of the commit that matters
            put(engine, "a", (b"k", b"%d" % n))
        put(engine, "a", (b"large", bytes(range(256)) * 400))
    data = path / "data.mdb"
    whole = data.read_bytes()
    cut = whole[: whole.rindex(bytes(range(256)) * 20)]
    cut = cut[: len(cut) // 4096 * 4096]
    data.write_bytes(cut)
    assert verify_pages(path) == [], "the walk sees it now: reading every record at open has lost its reason"
    assert b"large".hex() in the_line(lambda: LmdbEngine.open(path, TABLES, STAMP), CorruptRecord)
    assert data.read_bytes() == cut
    data.write_bytes(whole)
    with opened(path) as engine:
        assert content(engine, "a")[b"large"] == bytes(range(256)) * 400


def test_a_commit_lengthens_the_file_so_that_the_next_open_need_not_walk_it(path: Path) -> None:
    with opened(path) as engine:
        for _ in range(2):
            with engine.write() as txn:
                txn.put("a", b"big", bytes(3_000_000))
                txn.delete("a", b"big")
            shape = read_shape(path)
            assert shape.size_bytes >= shape.needed_bytes
    assert verify_pages(path) == []


def test_verify_pages_sees_a_page_in_the_wrong_place(path: Path) -> None:
    fill(path)
    assert verify_pages(path) == []
    with (path / "data.mdb").open("r+b") as file:
        file.seek(5 * PAGE)
        page = file.read(PAGE)
        file.seek(6 * PAGE)  # over every page behind it, for which of them are free is LMDB's affair
        file.write(page * (path.joinpath("data.mdb").stat().st_size // PAGE - 6))
    assert verify_pages(path) != []
    (path / "data.mdb").write_bytes(b"")
    assert len(verify_pages(path)) == 1


def test_damaged_lists_every_bad_record_of_a_table(path: Path) -> None:
    with opened(path) as engine:
        put(engine, "a", *((b"%d" % number, b"v") for number in range(6)))
    with raw(path) as (env, dbs), env.begin(write=True) as txn:
        txn.put(b"1", b"short", db=dbs["a"])
        txn.put(b"2", txn.get(b"3", db=dbs["a"]), db=dbs["a"])
        txn.put(b"4", b"\x09" + bytes(9), db=dbs["a"])
    with looking(path) as engine:
        found = {key: why for key, why, _ in engine.damaged("a")}
        assert sorted(found) == [b"1", b"2", b"4"]
        assert "checksum" in found[b"2"]
        assert "version 9" in found[b"4"]
        assert list(engine.damaged("b")) == []
