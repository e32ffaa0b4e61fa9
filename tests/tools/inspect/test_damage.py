"""A damaged or hostile file never crashes a tool and never fools it: what `verify` calls fine reads as it was written."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from store.lmdb_engine import LmdbEngine
from tools.inspect.logview import Wanted
from tools.inspect.peer import open_peer
from tools.inspect.reader import Unreadable, findings, log_rows, peer_info, verify_directories
from tools.inspect.structure import environments

Damage = Callable[[random.Random, bytearray], None]
PAGE = 4096


def flip_anywhere(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_in_a_meta_page(rng: random.Random, data: bytearray) -> None:
    data[rng.choice((0, PAGE)) + rng.randrange(160)] ^= 1 << rng.randrange(8)


def flip_in_a_page_header(rng: random.Random, data: bytearray) -> None:
    page = rng.randrange(2, len(data) // PAGE)
    data[page * PAGE + rng.randrange(64)] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at : at + 512] = rng.randbytes(len(data[at : at + 512]))


def zero_a_page(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


def swap_two_pages(rng: random.Random, data: bytearray) -> None:
    a, b = (rng.randrange(len(data) // PAGE) * PAGE for _ in range(2))
    data[a : a + PAGE], data[b : b + PAGE] = data[b : b + PAGE], data[a : a + PAGE]


def truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def truncate_at_a_page(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) // PAGE) * PAGE :]


DAMAGES: list[Damage] = [
    flip_anywhere,
    flip_in_a_meta_page,
    flip_in_a_page_header,
    overwrite,
    zero_a_page,
    swap_two_pages,
    truncate,
    truncate_at_a_page,
]


def contents(directory: Path) -> dict[tuple[str, str], list[tuple[bytes, bytes]]]:
    """Every record of every table."""
    found = {}
    with open_peer(directory) as peer:
        for kind, engine in peer.engines.items():
            assert isinstance(engine, LmdbEngine)
            with engine.read() as txn:
                for table in engine.tables:
                    found[kind, table] = list(txn.scan(table))
    return found


def test_damaged_files_are_never_fine_and_never_fatal(
    cluster_directory: Path, tmp_path: Path, damaged_files: int
) -> None:
    whole = cluster_directory / "server-1-0"
    before = contents(whole)
    made: dict[Path, str] = {}
    for seed in range(damaged_files):
        rng = random.Random(seed)
        directory = tmp_path / f"{seed}"
        for path in environments(whole).values():
            (directory / path.name).mkdir(parents=True)
            shutil.copy(path / "data.mdb", directory / path.name)
        damage = DAMAGES[seed % len(DAMAGES)]
        file = directory / rng.choice(("log", "state")) / "data.mdb"
        data = bytearray(file.read_bytes())
        damage(rng, data)
        file.write_bytes(data)
        made[directory] = f"seed {seed}, {damage.__name__} in {file.parent.name}"
    told = {Path(found["place"]): found["findings"] for found in verify_directories(list(made))}
    assert set(made) <= set(told)
    for directory, what in made.items():
        for finding in told[directory]:
            assert "\n" not in finding and "reading it" not in finding, (what, finding)
        if not told[directory]:
            assert contents(directory) == before, what
    assert sum(1 for directory in made if told[directory]) > damaged_files // 4


def test_info_and_log_of_a_damaged_peer_are_one_line(cluster_directory: Path, tmp_path: Path) -> None:
    for seed, damage in enumerate([truncate, zero_a_page, overwrite, flip_in_a_meta_page] * 3):
        directory = tmp_path / str(seed)
        shutil.copytree(cluster_directory / "server-1-1", directory)
        rng = random.Random(seed)
        file = directory / "log" / "data.mdb"
        data = bytearray(file.read_bytes())
        damage(rng, data)
        file.write_bytes(data)
        for read in (lambda d: peer_info(d), lambda d: list(log_rows(d, Wanted()))):
            try:
                read(directory)
            except Unreadable as error:
                assert "\n" not in str(error) and error.exit_code == 1, (seed, error)


def test_two_peers_halves_are_found(cluster_directory: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(cluster_directory / "server-1-0" / "log", mixed / "log")
    shutil.copytree(cluster_directory / "server-1-1" / "state", mixed / "state")
    assert "two peers' halves" in findings([mixed])[str(mixed)][0]


@pytest.mark.parametrize("kind", ["log", "state"])
def test_an_earlier_half_is_found(cluster_directory: Path, tmp_path: Path, kind: str) -> None:
    """A file that was put back from an earlier copy is whole in itself; only the other half shows it."""
    peer = tmp_path / "peer"
    shutil.copytree(cluster_directory / "server-1-0", peer)
    with open_peer(peer) as opened:
        assert not findings([peer])
        stamp = opened.stamp
    engine = LmdbEngine.open(peer / kind, tuple(open_tables(peer, kind)), None)
    try:
        with engine.write() as txn:
            if kind == "log":
                last = txn.last("entries")
                assert last is not None
                txn.delete_range("entries", last[0][:-1], None)
            else:
                row = txn.last("meta")
                assert row is not None and stamp.gid == 1
                txn.delete("meta", b"applied")
    finally:
        engine.close()
    assert findings([peer])


def open_tables(peer: Path, kind: str) -> list[str]:
    with open_peer(peer) as opened:
        return list(opened.engines[kind].tables)
