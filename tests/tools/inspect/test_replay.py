"""Replay: the state as of any index is the one that a peer had then, and a stored state that is another one is found."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftlog.durable import LOG_TABLES, index_key, read_applied, write_applied, write_intent
from raftlog.rsm import FLUSH_BYTES
from raftlog.slots import SlotEngine
from raftlog.types import LogId
from shardkv.group import GroupMachine
from shardkv.kv import ROWS
from store.lmdb_engine import LmdbEngine
from tests.tools.inspect.made import MEMBERS, Made
from tests.tools.inspect.played_peer import TABLES, Past, make_past
from tests.tools.inspect.test_diff import run
from tools.inspect import playing, replay_commands
from tools.inspect.peer import open_peer
from tools.inspect.portable import export_peer
from tools.inspect.reader import findings
from tools.inspect.replay import Asked, replayed

APPLIED, COMMIT, PURGED = 20, 28, 15


@pytest.fixture(scope="module")
def past() -> Past:
    return make_past(2)


def summary(directory: Path, to: int, base: Path | None = None) -> dict[str, Any]:
    with open_peer(directory) as peer, replayed(peer, Asked(str(to), base, None, True)) as (_, row):
        return row


def replay(directory: Path, *options: object) -> tuple[int, list[dict[str, Any]], str]:
    code, out, err = run("replay", directory, "--json", *options)
    return code, [json.loads(line) for line in out.splitlines()], err


@pytest.mark.parametrize("flush_bytes", [FLUSH_BYTES, 200], ids=["in memory", "spilled"])
def test_every_index_has_the_hash_of_applying_step_by_step(
    past: Past, tmp_path: Path, flush_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playing, "FLUSH_BYTES", flush_bytes)
    directory = past.write(tmp_path, APPLIED, COMMIT)
    for index, state_hash in past.hashes():
        row = summary(directory, index)
        assert (row["at"], row["state_hash"]) == ([past.id_at(index).term, index], state_hash)
        assert (row["rows"], row["sessions"]) == (len(past.rows[index]), len(past.sessions[index]))
        assert (row["committed"], row["entries"]) == (index <= COMMIT, index)
        assert (row["compared"], row["findings"]) == ("rows" if index == APPLIED else "nothing", [])
    assert summary(directory, 0)["rows"] == 0


def test_the_stored_state_carries_on_where_the_log_is_purged(past: Past, tmp_path: Path) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT, purge=PURGED)
    for index, state_hash in past.hashes():
        if index >= APPLIED:
            assert summary(directory, index)["state_hash"] == state_hash
    code, rows, err = replay(directory, "--to-index", APPLIED - 1)
    assert (code, rows, len(err.splitlines())) == (3, [], 1)
    assert f"the log begins behind {PURGED}, the state is as of {APPLIED}; give --base" in err
    assert replay(directory, "--to-index", "applied")[1][0]["compared"] == "hash"


@pytest.mark.parametrize("exported", [PURGED, 6], ids=["at the purge base", "before it, with its log"])
def test_an_export_reaches_back_behind_the_purge_base(past: Past, tmp_path: Path, exported: int) -> None:
    export_peer(past.write(tmp_path / "then", exported, 17, peer=1, slot=1), tmp_path / "then.skv")
    directory = past.write(tmp_path, APPLIED, COMMIT, purge=PURGED)
    for index, state_hash in past.hashes():
        if index >= exported:
            row = summary(directory, index, tmp_path / "then.skv")
            assert (row["state_hash"], row["entries"]) == (state_hash, index - exported)
            assert row["compared"] == ("rows" if index == APPLIED else "nothing")
    code, rows, err = replay(directory, "--to-index", exported - 1, "--base", tmp_path / "then.skv")
    assert (code, rows, len(err.splitlines())) == (3, [], 1)
    told = run("history", directory, "a", "--base", tmp_path / "then.skv", "--json")[1].splitlines()
    rows = [row for row in map(json.loads, told) if row.get("index", 0) > exported]
    assert rows and all(row["outcome"]["told_by"] == "replay" for row in rows)


def test_an_export_that_ends_before_the_log_begins_does_not_do(past: Past, tmp_path: Path) -> None:
    export_peer(past.write(tmp_path / "then", 5, 8), tmp_path / "then.skv")
    directory = past.write(tmp_path, APPLIED, COMMIT, purge=PURGED)
    code, rows, err = replay(directory, "--to-index", "applied", "--base", tmp_path / "then.skv")
    assert (code, rows) == (3, []) and f"committed up to 8; the log begins behind {PURGED}" in err


def test_an_export_of_others_or_a_damaged_one_is_refused(past: Past, tmp_path: Path) -> None:
    export_peer(Made(0, gid=2).write(tmp_path), tmp_path / "other.skv")
    directory = past.write(tmp_path, APPLIED, COMMIT)
    code, _, err = replay(directory, "--to-index", "applied", "--base", tmp_path / "other.skv")
    assert code == 3 and "not of group 1's peers" in err
    (tmp_path / "cut.skv").write_bytes((tmp_path / "other.skv").read_bytes()[:-9])
    code, _, err = replay(directory, "--to-index", "applied", "--base", tmp_path / "cut.skv")
    assert (code, len(err.splitlines())) == (1, 1) and "cut off" in err
    assert replay(directory, "--to-index", "applied", "--base", tmp_path / "none.skv")[0] == 3


def test_another_past_with_the_same_numbers_is_no_base(past: Past, tmp_path: Path) -> None:
    other = make_past(3)
    other.entries[:] = [entry._replace(id=LogId(1, entry.id.index)) for entry in other.entries]
    export_peer(other.write(tmp_path / "then", 6, 17), tmp_path / "then.skv")
    for purge in (0, PURGED):
        directory = past.write(tmp_path / f"{purge}", APPLIED, COMMIT, purge=purge)
        code, _, err = replay(directory, "--to-index", "applied", "--base", tmp_path / "then.skv")
        assert (code, len(err.splitlines())) == (1, 1), err


def test_what_is_not_committed_is_refused_unless_asked_for(past: Past, tmp_path: Path) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT)
    code, rows, err = replay(directory, "--to-index", COMMIT + 1)
    assert (code, rows) == (3, []) and f"is not committed, the durable commit is {COMMIT}" in err
    code, (row,), _ = replay(directory, "--to-index", COMMIT + 1, "--uncommitted")
    assert (code, row["committed"]) == (0, False)
    assert "NOT COMMITTED" in run("replay", directory, "--to-index", COMMIT + 1, "--uncommitted")[1]
    assert replay(directory, "--to-index", "commit")[1][0]["at"] == [2, COMMIT]
    code, _, err = replay(directory, "--to-index", past.last + 1)
    assert code == 3 and f"it ends at {past.last}" in err
    assert replay(directory, "--to-index", "-1")[0] == 2


def test_an_image_whose_installation_is_unfinished_is_the_state(past: Past, tmp_path: Path) -> None:
    """The state was flipped, the log not yet reset: it ends before the state, and its entries do not follow it."""
    directory = past.write(tmp_path, past.last, 9, slot=1)
    log = LmdbEngine.open(directory / "log", LOG_TABLES, None)
    with log.write() as txn:
        txn.delete_range("entries", index_key(10), None)
        write_intent(txn, past.id_at(past.last), MEMBERS)
    log.close()
    code, (row,), _ = replay(directory, "--to-index", "applied")
    assert (code, row["at"], row["compared"]) == (0, [2, past.last], "hash")
    assert run("get", directory, "a", "--through-log")[1].startswith(f"at index {past.last}, ")
    assert replay(directory, "--to-index", 9)[1][0]["state_hash"] == dict(past.hashes())[9]
    assert replay(directory, "--to-index", past.last - 1)[0] == 3
    assert run("history", directory, "a")[0] == 0


def test_keys_and_rows_as_of_then(past: Past, tmp_path: Path) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT)
    index = 12
    key = next(iter(past.rows[index]))
    code, (_, row, *rows, end), _ = replay(directory, "--to-index", index, "--hex", "--key", key.hex(), "--scan")
    assert code == 0
    assert (row["version"], row["value"]) == (past.rows[index][key][0], past.rows[index][key][1].hex())
    assert [row["key"] for row in rows] == [key.hex() for key in sorted(past.rows[index])]
    assert end == {"shown": len(rows), "next": None}


# --- a stored state that is wrong ------------------------------------------------------------------------------------


def change(directory: Path, table: str, nth: int, flip: bool = True) -> bytes:
    """Another payload for a row of the state, or none, with a valid checksum; its key."""
    state = LmdbEngine.open(directory / "state", TABLES, None)
    live = SlotEngine(state, GroupMachine.tables, 0)
    with live.write() as txn:
        key, payload = list(txn.scan(table))[nth]
        if flip:
            txn.put(table, key, payload[:-1] + bytes([payload[-1] ^ 1]))
        else:
            txn.delete(table, key)
    state.close()
    return key[10:]


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("table", [ROWS, "sessions"])
def test_a_row_that_the_log_does_not_give_is_a_finding(past: Past, tmp_path: Path, table: str, flip: bool) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT)
    key = change(directory, table, -1, flip)
    code, (row,), _ = replay(directory, "--to-index", "applied")
    assert code == 1 and len(row["findings"]) == 1, row["findings"]
    assert (key.hex() if table == "sessions" else "key ") in row["findings"][0]
    code, out, _ = run("replay", directory, "--to-index", "applied")
    assert code == 1 and "it differs" in out and "FINDING: shard " in out
    assert run("replay", directory, "--to-index", COMMIT)[0] == 0  # the log alone


def test_a_whole_state_that_is_wrong_is_found_by_its_hash(past: Past, tmp_path: Path) -> None:
    """A state that agrees with itself, and that `verify` calls fine."""
    directory = past.write(tmp_path, APPLIED, COMMIT)
    state = LmdbEngine.open(directory / "state", TABLES, None)
    with SlotEngine(state, GroupMachine.tables, 0).write() as txn:
        write_applied(txn, past.id_at(APPLIED - 1), MEMBERS, read_applied(txn)[2])  # one too few
    state.close()
    assert not findings([directory])
    code, (row,), _ = replay(directory, "--to-index", "applied")
    assert code == 1 and any("the log gives the state" in finding for finding in row["findings"])


def test_nothing_is_left_where_the_state_was_made(past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a reader that dies of what it reads, and removes nothing itself."""
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    directory = past.write(tmp_path, APPLIED, COMMIT)
    assert run("replay", directory, "--to-index", "applied")[0] == 0

    def dies(verb: str, options: dict[str, Any], directory: Path) -> Iterator[dict[str, Any]]:
        (Path(options["folder"]) / "base").mkdir()
        yield {"found": False, "key": "k", "shard": 0, "state": "serving", "num": 1, "gid": None}
        sys.exit(1)

    monkeypatch.setattr(replay_commands, "answers", dies)
    assert run("replay", directory, "--to-index", "applied")[0] == 1
    assert not list(room.iterdir())


def test_a_hole_in_the_log_is_a_finding(past: Past, tmp_path: Path) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT)
    log = LmdbEngine.open(directory / "log", LOG_TABLES, None)
    with log.write() as txn:
        txn.delete("entries", index_key(9))
    log.close()
    code, rows, err = replay(directory, "--to-index", "applied")
    assert (code, rows, len(err.splitlines())) == (1, [], 1) and "record 9 is missing" in err
    assert replay(directory, "--to-index", 8)[0] == 0
