"""Verify: which record is wrong and what it was; the pages of a running peer; the sessions against their counts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from raftlog.durable import LOG_TABLES
from shardkv.kv import ROWS
from store.lmdb_engine import MAP_SIZE_BYTES, LmdbEngine
from tests.tools.inspect.played_peer import make_past
from tests.tools.inspect.small_peer import damage_record, make_peer
from tests.tools.inspect.test_replay import change
from tools.inspect.commands import inspect
from tools.inspect.long_log import make_long_log
from tools.inspect.reader import findings

PAGE = 4096


def test_a_wrong_record_is_told_with_what_it_was(tmp_path: Path) -> None:
    peer = make_peer(tmp_path / "peer")
    damage_record(peer, "log", "entries", (8).to_bytes(8, "big"))
    (found,) = findings([peer])[str(peer)]
    assert found.startswith("log/entries, record 8: checksum ")
    assert "it was an entry of the log" in found and "reads as 2:8, noop" in found


def test_info_has_a_verdict_on_all_checksums_and_the_real_map(tmp_path: Path) -> None:
    peer = make_peer(tmp_path / "peer")
    runner = CliRunner()
    whole = runner.invoke(inspect, ["info", str(peer), "--json"])
    told = json.loads(whole.stdout)
    assert (whole.exit_code, told["checksums"], told["records_wrong"]) == (0, "all records pass", [])
    assert told["log_map_bytes"] == told["state_map_bytes"] == MAP_SIZE_BYTES and told["records"] > 10
    damage_record(peer, "log", "entries", (8).to_bytes(8, "big"))
    wrong = runner.invoke(inspect, ["info", str(peer), "--json"])
    told = json.loads(wrong.stdout)
    assert (wrong.exit_code, told["checksums"]) == (1, "1 records are wrong")
    assert told["records_wrong"][0].startswith("log/entries, record 8")


def test_the_pages_of_a_running_peer_are_looked_at_on_an_online_copy(tmp_path: Path) -> None:
    """Page numbers in the heads of pages: nothing that LMDB reads, and no record."""
    peer = make_peer(tmp_path / "peer")
    owner = LmdbEngine.open(peer / "log", LOG_TABLES, None)
    try:
        assert not findings([peer])
        file = os.open(peer / "log" / "data.mdb", os.O_RDWR)
        for page in range(2, os.fstat(file).st_size // PAGE):
            os.pwrite(file, b"\x77", page * PAGE + 5)
        os.close(file)
        assert any(found.startswith("log/: ") for found in findings([peer])[str(peer)])
    finally:
        owner.close()


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("table", [ROWS, "sessions"])
def test_rows_and_sessions_are_held_against_their_counts(tmp_path: Path, table: str, flip: bool) -> None:
    past = make_past(3)
    directory = past.write(tmp_path, 20, 25)
    assert not findings([directory])
    change(directory, table, -1, flip)
    assert findings([directory])


def test_a_long_log_to_measure_with_is_fine(tmp_path: Path) -> None:
    make_long_log(tmp_path / "long", 9000)
    assert not findings([tmp_path / "long"])
    counted = CliRunner().invoke(inspect, ["log", str(tmp_path / "long"), "--count", "--json"])
    assert json.loads(counted.stdout) == {"membership": 1, "command": 9000}
