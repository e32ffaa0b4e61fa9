"""The disk that forgets: what was synced stays, what was not may be lost, block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from store.engine import StoreError
from store.format import Stamp
from store.lmdb_engine import LmdbEngine
from tools.chaos.forgetful import BLOCK, ForgetfulFiles
from tools.chaos.places import ForgetfulDisk, SmallDisk

TABLES = ("meta", "rows")
STAMP = Stamp("state", bytes(16), 1, 0, 100)


@contextmanager
def a_file(files: ForgetfulFiles, path: str = "/f") -> Iterator[int]:
    handle = files.create(path, 0o600)
    yield handle
    os.close(handle)


def content(files: ForgetfulFiles, path: str = "/f") -> bytes:
    return files.at(path).read_bytes()


def test_what_was_synced_stays_and_what_was_not_is_lost(tmp_path: Path) -> None:
    files = ForgetfulFiles(tmp_path)
    with a_file(files) as handle:
        files.write("/f", b"a" * 10_000, 0, handle)
        files.sync("/f")
        files.write("/f", b"b" * 10_000, 5_000, handle)
        assert files.forget(1.0, Random(1)) == 3  # the blocks of bytes 5,000 to 15,000
        assert content(files) == b"a" * 10_000
        files.write("/f", b"c", 0, handle)
        files.sync("/f")
        assert files.forget(1.0, Random(1)) == 0
        assert content(files) == b"c" + b"a" * 9_999


def test_each_block_is_lost_by_chance_and_what_is_left_is_durable(tmp_path: Path) -> None:
    files = ForgetfulFiles(tmp_path)
    with a_file(files) as handle:
        files.write("/f", b"a" * BLOCK * 100, 0, handle)
        files.sync("/f")
        files.write("/f", b"b" * BLOCK * 100, 0, handle)
        lost = files.forget(0.5, Random(1))
        assert 25 < lost < 75
        blocks = [content(files)[at : at + BLOCK] for at in range(0, BLOCK * 100, BLOCK)]
        assert blocks.count(b"a" * BLOCK) == lost and blocks.count(b"b" * BLOCK) == 100 - lost
        before = content(files)
        assert files.forget(1.0, Random(2)) == 0 and content(files) == before


def test_a_file_that_was_cut_or_lengthened_without_a_sync_has_its_old_length_again(tmp_path: Path) -> None:
    files = ForgetfulFiles(tmp_path)
    with a_file(files) as handle:
        files.write("/f", b"a" * 9_000, 0, handle)
        files.sync("/f")
        for length in (0, 4_000, 20_000):
            files.truncate("/f", length)
            files.forget(1.0, Random(1))
            assert content(files) == b"a" * 9_000
        files.truncate("/f", 100)
        files.sync("/f")
        files.forget(1.0, Random(1))
        assert content(files) == b"a" * 100


def test_a_renamed_file_takes_along_what_is_not_durable_and_names_are_durable(tmp_path: Path) -> None:
    files = ForgetfulFiles(tmp_path)
    files.mkdir("/old", 0o700)
    with a_file(files, "/old/f") as handle:
        files.write("/old/f", b"a", 0, handle)
        files.rename("/old", "/new")
        assert content(files, "/new/f") == b"a"
        files.forget(1.0, Random(1))
        assert content(files, "/new/f") == b""
        files.unlink("/new/f")
        files.rmdir("/new")
    assert not any(files.live.iterdir()) and not any(files.durable.iterdir())


@pytest.mark.process
@pytest.mark.system
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_mounted_no_synced_commit_of_the_store_is_lost(tmp_path: Path, share: float) -> None:
    if why := ForgetfulDisk.missing():
        pytest.skip(f"the disk that forgets {why}")
    place = ForgetfulDisk(tmp_path / "disk")

    async def main() -> None:
        await place.mount()
        try:
            path = place.directory / "state"
            LmdbEngine.create(path, TABLES, STAMP, lambda txn: None)
            for turn in range(5):
                engine = LmdbEngine.open(path, TABLES, STAMP)
                with engine.read() as txn:
                    assert len(list(txn.scan("rows"))) == 20 * turn
                for number in range(20):
                    with engine.write() as txn:
                        txn.put("rows", b"%d-%d" % (turn, number), bytes(3_000))
                unsynced = place.directory / "unsynced"
                unsynced.write_bytes(b"x" * 8_000)
                engine.close()
                assert place.forget(share, Random(turn)) > 0 or share < 1
                assert share < 1 or unsynced.read_bytes() == b""
        finally:
            await place.unmount()
        assert not place.directory.is_mount()
        engine = LmdbEngine.open(place.directory / "state", TABLES, STAMP)
        with engine.read() as txn:
            assert len(list(txn.scan("rows"))) == 100
        engine.close()

    trio.run(main)


@pytest.mark.process
@pytest.mark.system
def test_a_small_disk_is_filled_and_emptied_and_becomes_a_directory(tmp_path: Path) -> None:
    if why := SmallDisk.missing():
        pytest.skip(f"a small disk {why}")
    place = SmallDisk(tmp_path / "disk")

    async def main() -> None:
        await place.mount()
        try:
            path = place.directory / "state"
            LmdbEngine.create(path, TABLES, STAMP, lambda txn: None)
            engine = LmdbEngine.open(path, TABLES, STAMP)
            place.fill(0)
            with pytest.raises(StoreError, match=r"(?i)no space|ENOSPC"):
                for number in range(1000):
                    with engine.write() as txn:
                        txn.put("rows", b"%d" % number, bytes(30_000))
            engine.close()
            place.empty()
            (place.directory / "note").write_text("kept")
        finally:
            await place.unmount()
        assert not place.directory.is_mount()
        assert (place.directory / "note").read_text() == "kept"
        LmdbEngine.open(place.directory / "state", TABLES, STAMP).close()

    trio.run(main)
