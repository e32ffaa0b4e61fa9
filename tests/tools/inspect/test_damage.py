"""A damaged or hostile file never crashes a tool and never fools it: what `verify` calls fine reads as it was written."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from raftlog.durable import LOG_TABLES, fill_log, fill_state, write_applied
from raftlog.slots import SlotEngine
from raftlog.types import LogId
from shardkv.group import GroupMachine
from store.lmdb_engine import LmdbEngine
from tests.tools.inspect.small_peer import MEMBERS, STATE_TABLES, stamp
from tools.inspect.commands import inspect
from tools.inspect.peer import open_peer
from tools.inspect.reader import findings, verify_directories
from tools.inspect.structure import environments

Damage = Callable[[random.Random, bytearray, bytes], None]
"""What is done to a file; the last is the same file of another peer of the group."""
PAGE = 4096


def flip_anywhere(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_in_a_meta_page(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[rng.choice((0, PAGE)) + rng.randrange(160)] ^= 1 << rng.randrange(8)


def flip_in_a_page_header(rng: random.Random, data: bytearray, other: bytes) -> None:
    page = rng.randrange(2, len(data) // PAGE)
    data[page * PAGE + rng.randrange(64)] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(len(data))
    data[at : at + 512] = rng.randbytes(len(data[at : at + 512]))


def zero_a_page(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    data[at : at + PAGE] = bytes(PAGE)


def swap_two_pages(rng: random.Random, data: bytearray, other: bytes) -> None:
    a, b = (rng.randrange(len(data) // PAGE) * PAGE for _ in range(2))
    data[a : a + PAGE], data[b : b + PAGE] = data[b : b + PAGE], data[a : a + PAGE]


def truncate(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def truncate_at_a_page(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data) // PAGE) * PAGE :]


def pages_of_another_peer(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(len(data) // PAGE) * PAGE
    count = rng.choice((1, 2, 5, 1000)) * PAGE
    data[at : at + count] = other[at : at + count] or data[at : at + count]


def the_file_of_another_peer(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[:] = other


DAMAGES: list[Damage] = [
    flip_anywhere,
    flip_in_a_meta_page,
    flip_in_a_page_header,
    overwrite,
    zero_a_page,
    swap_two_pages,
    truncate,
    truncate_at_a_page,
    pages_of_another_peer,
    the_file_of_another_peer,
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
        damage(rng, data, (cluster_directory / "server-1-1" / file.parent.name / "data.mdb").read_bytes())
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


COMMANDS: list[list[str]] = [
    ["info", "DIR"],
    ["log", "DIR", "--json"],
    ["log", "DIR", "--format", "diag"],
    ["get", "DIR", "key-1"],
    ["get", "DIR", "key-1", "--through-log"],
    ["scan", "DIR", "--limit", "9"],
    ["sessions", "DIR"],
    ["history", "DIR", "key-7"],
    ["replay", "DIR", "--to-index", "applied"],
    ["diff", "DIR", "OTHER"],
    ["timeline", "DIR", "OTHER"],
    ["config-history", "DIR"],
    ["shiviz", "DIR", "OTHER"],
    ["export", "DIR", "NEW"],
    ["copy", "DIR", "NEW"],
    ["repair", "DIR", "NEW"],
]
"""DIR is damaged, OTHER a whole peer of its group, NEW a name that nothing has."""


def test_every_command_on_a_damaged_peer_ends_in_at_most_one_line(
    cluster_directory: Path, tmp_path: Path, damaged_files: int
) -> None:
    runner = CliRunner()
    told: Counter[int] = Counter()
    for seed in range(max(24, damaged_files // 5)):
        command = COMMANDS[seed % len(COMMANDS)]
        directory = tmp_path / str(seed)
        peer = "server-0-0" if command[0] == "config-history" else "server-1-1"
        shutil.copytree(cluster_directory / peer, directory)
        rng = random.Random(seed)
        file = directory / rng.choice(("log", "state")) / "data.mdb"
        data = bytearray(file.read_bytes())
        other = cluster_directory / "server-1-2" / file.parent.name / "data.mdb"
        rng.choice(DAMAGES)(rng, data, other.read_bytes())
        file.write_bytes(data)
        places = {"DIR": str(directory), "OTHER": str(cluster_directory / "server-1-2"), "NEW": str(tmp_path / "new")}
        words = [places.get(word, word) for word in command]
        result = runner.invoke(inspect, words)
        assert result.exit_code in (0, 1, 3) and isinstance(result.exception, SystemExit | None), (words, result)
        assert "Traceback" not in result.output and len(result.stderr.splitlines()) <= 1, (words, result.output)
        told[result.exit_code] += 1
        assert result.exit_code == 0 or not (tmp_path / "new").exists(), words
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        (tmp_path / "new").unlink(missing_ok=True)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith("new")], words
        shutil.rmtree(directory)
    assert told[1] and told[0], told


def test_two_peers_halves_are_found(cluster_directory: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(cluster_directory / "server-1-0" / "log", mixed / "log")
    shutil.copytree(cluster_directory / "server-1-1" / "state", mixed / "state")
    assert "two peers' halves" in findings([mixed])[str(mixed)][0]
    for command in ("info", "log", "sessions", "timeline", "export"):
        result = CliRunner().invoke(inspect, [command, str(mixed), *([str(tmp_path / "new")] * (command == "export"))])
        assert result.exit_code == 1 and "two peers' halves" in result.stderr, (command, result.output)
    assert not (tmp_path / "new").exists()


def test_a_line_of_another_peers_journal_is_found(cluster_directory: Path, tmp_path: Path) -> None:
    """It is whole in itself, as all of a page that was put there is."""
    peer = tmp_path / "peer"
    shutil.copytree(cluster_directory / "server-1-0", peer)
    with open_peer(cluster_directory / "server-1-1") as other, other.engines["log"].read() as txn:
        line = txn.last("journal")
    assert line is not None and not findings([peer])
    engine = LmdbEngine.open(peer / "log", tuple(open_tables(peer, "log")), None)
    try:
        with engine.write() as txn:
            txn.put("journal", line[0], line[1])
    finally:
        engine.close()
    (found,) = findings([peer])[str(peer)]
    assert "of another peer" in found


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


def test_a_group_that_no_shard_came_to_yet_is_fine_whatever_number_of_shards_the_cluster_has(tmp_path: Path) -> None:
    """Its tables do not say the number, and the hash that is stored with them is of nothing else."""
    machine = GroupMachine(3)
    LmdbEngine.create(tmp_path / "p" / "log", LOG_TABLES, stamp("log"), lambda txn: fill_log(txn, MEMBERS))
    LmdbEngine.create(tmp_path / "p" / "state", STATE_TABLES, stamp("state"), fill_state)
    engine = LmdbEngine.open(tmp_path / "p" / "state", STATE_TABLES, None)
    with SlotEngine(engine, machine.tables, 0).write() as txn:
        write_applied(txn, LogId(1, 1), MEMBERS, machine.state_hash(txn))
    engine.close()
    assert findings([tmp_path / "p"]) == {}
