"""Get, scan, sessions and history: what they say is what a model says, on disk and through the log."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from raftlog.durable import LOG_TABLES, read_applied
from raftlog.machine import Operation, encode_operations
from raftlog.types import Entry, EntryKind, LogId
from shardkv.commands import InstallChunk, Put, encode_command, encode_entries
from shardkv.config import shard_of
from shardkv.kv import encode_row
from shardkv.kvmachine import KvMachine
from shardkv.kvsrv_host import kvsrv_tables
from store.engine import StoreError
from store.format import Stamp
from store.lmdb_engine import LmdbEngine
from tests.tools.inspect.made import CLUSTER, NOON_MS, Made, command
from tests.tools.inspect.played_peer import CLIENTS, KEYS, SHARDS, TABLES, Past, freeze, make_past
from tests.tools.inspect.small_peer import damage_record
from tests.tools.inspect.test_diff import run
from tools.inspect import playing
from tools.inspect.peer import open_peer

APPLIED, COMMIT = 20, 28
MOMENTS = [(APPLIED, ()), (COMMIT, ("--through-log",))]


@pytest.fixture(scope="module")
def past() -> Past:
    return make_past(1)


@pytest.fixture(scope="module")
def peer(past: Past, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return past.write(tmp_path_factory.mktemp("state"), APPLIED, COMMIT)


def asked(*arguments: object) -> list[dict[str, Any]]:
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def in_hex(rows: dict[bytes, tuple[int, bytes]]) -> list[tuple[str, int, str]]:
    return [(key.hex(), version, value.hex()) for key, (version, value) in sorted(rows.items())]


# --- get and scan ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "how"), MOMENTS)
def test_the_rows_are_those_of_the_model(past: Past, peer: Path, index: int, how: tuple[str, ...]) -> None:
    head, *rows, end = asked("scan", peer, "--hex", *how)
    assert (head["at"], head["through_log"], head["stored"]) == ([2, index], bool(how), [2, APPLIED])
    assert [(row["key"], row["version"], row["value"]) for row in rows] == in_hex(past.rows[index])
    assert all(row["shard"] == shard_of(bytes.fromhex(row["key"]), SHARDS) for row in rows)
    assert end == {"shown": len(rows), "next": None}


@pytest.mark.parametrize(("index", "how"), MOMENTS)
def test_a_key_is_that_of_the_model(past: Past, peer: Path, index: int, how: tuple[str, ...]) -> None:
    for key in (KEYS[0], KEYS[5], KEYS[6], b"never"):
        (row,) = asked("get", peer, "--hex", key.hex(), *how)
        version, value = past.rows[index].get(key, (0, None))
        assert (row["at"], row["found"], row["version"]) == ([2, index], key in past.rows[index], version)
        assert row["value"] == (None if value is None else value.hex())


def test_scan_keeps_to_its_bounds_and_says_where_to_go_on(past: Past, peer: Path) -> None:
    def keys(*options: object) -> list[str]:
        return [row["key"] for row in asked("scan", peer, *options)[1:-1]]

    there = past.rows[APPLIED]
    assert keys("--prefix", "b/") == sorted(key.decode() for key in there if key.startswith(b"b/"))
    assert keys("--start", "ab", "--stop", "b/3") == sorted(k.decode() for k in there if b"ab" <= k < b"b/3")
    shard = shard_of(b"a", SHARDS)
    assert len(keys("--shard", shard)) == sum(1 for key in there if shard_of(key, SHARDS) == shard)
    found: list[str] = []
    start = ""
    while start is not None:
        *rows, end = asked("scan", peer, "--hex", "--limit", 2, "--start", start)[1:]
        found += [row["key"] for row in rows]
        start = end["next"]
    assert found == [key.hex() for key in sorted(there)]


def test_people_see_text_and_else_hex(past: Past, peer: Path) -> None:
    code, out, _ = run("scan", peer)
    lines = out.splitlines()
    assert (code, lines[0], lines[-1]) == (0, f"at index {APPLIED}, term 2", f"{len(past.rows[APPLIED])} rows")
    shown = {b"c\xff\x00": "0x63ff00", "d\u00e9".encode(): "d\u00e9"}
    assert set(shown) & set(past.rows[APPLIED])
    for key, (version, _) in past.rows[APPLIED].items():
        shard = shard_of(key, SHARDS)
        assert any(
            line.startswith(f"{shown.get(key) or key.decode()}  shard {shard}, version {version}, ") for line in lines
        )
    code, out, _ = run("get", peer, "d\u00e9", "--through-log")
    assert code == 0
    assert out.startswith(f"at index {COMMIT}, term 2: the log up to its commit, over the state at index {APPLIED}\n")


def test_a_shard_that_was_given_away_is_shown_as_such(past: Past, tmp_path: Path) -> None:
    shard = shard_of(b"a", SHARDS)
    frozen = freeze(past, shard)
    directory = frozen.write(tmp_path, APPLIED, frozen.last)
    (row,) = asked("get", directory, "a", "--through-log")
    assert (row["state"], row["num"], row["gid"]) == ("frozen", 2, 7)
    assert row["version"] == frozen.rows[-1].get(b"a", (0, b""))[0]
    *_, told, end = asked("history", directory, "a")
    assert (told["command"], told["outcome"]["effect"], told["applied"]) == ("freeze", "applied", False)
    assert end["present"]["state"] == "serving"


# --- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "how"), MOMENTS)
def test_the_sessions_are_those_of_the_model(past: Past, peer: Path, index: int, how: tuple[str, ...]) -> None:
    head, *rows, end = asked("sessions", peer, *how)
    assert head["at"] == [2, index]
    found = {(row["shard"], int(row["client"], 16)): row for row in rows if "client" in row}
    assert set(found) == set(past.sessions[index]) and end == {"shown": len(found), "more": False}
    for whose, kept in past.sessions[index].items():
        row = found[whose]
        assert (row["last_tick"], row["acked_below"], row["horizon"]) == (kept.last_tick, kept.acked_below, 0)
        replies = {reply["seq"]: (reply["code"], reply["fields"]) for reply in row["replies"]}
        assert replies == {seq: ("OK", [version]) for seq, version in kept.replies.items()}
    for row in rows:
        if "client" not in row:
            here = [kept for (shard, _), kept in past.sessions[index].items() if shard == row["shard"]]
            assert (row["sessions"], row["tick"]) == (len(here), max((k.last_tick for k in here), default=0))


def test_sessions_of_one_client_of_one_shard_and_only_some(past: Past, peer: Path) -> None:
    shard = next(shard for shard, client in past.sessions[APPLIED] if client == CLIENTS[0])
    rows = asked("sessions", peer, "--client", "0123", "--shard", shard)[1:-1]
    assert [row.get("client") for row in rows] == [None, f"{CLIENTS[0]:016x}"]
    assert asked("sessions", peer, "--limit", 1)[-1] == {"shown": 1, "more": True}


def test_what_cannot_be_a_key_or_a_client_is_a_usage_error(peer: Path) -> None:
    for wrong in (["sessions", peer, "--client", "xyz"], ["get", peer, "k" * 402], ["get", peer, "xy", "--hex"]):
        code, out, err = run(*wrong)
        assert (code, out) == (2, "") and "Error: " in err
    assert run("scan", peer, "--shard", SHARDS)[0] == 3
    assert run("scan", peer, "--shards", SHARDS + 1)[0] == 3


def test_a_log_with_more_effects_than_fit_in_memory_is_refused(peer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "OVERLAY_BYTES_MAX", 100)
    with open_peer(peer) as opened, pytest.raises(StoreError, match="more effects than fit in memory"):
        with playing.moment(opened, through_log=True):
            pass


# --- history ---------------------------------------------------------------------------------------------------------


def test_each_put_of_a_key_is_told_with_what_became_of_it(past: Past, peer: Path) -> None:
    for key in KEYS[:4]:
        head, *told, end = asked("history", peer, key.decode())
        assert (head["first"], head["last"], head["commit"]) == (1, past.last, COMMIT)
        assert end["present"]["version"] == past.rows[APPLIED].get(key, (0, b""))[0]
        assert told[0]["command"] == "install"
        for row in told:
            assert (row["committed"], row["applied"]) == (row["index"] <= COMMIT, row["index"] <= APPLIED)
        last = {row["index"]: row["outcome"]["version_after"] for row in told}
        now = 0
        for index in range(4, past.last + 1):
            now = last.get(index, now)
            assert now == past.rows[index].get(key, (0, b""))[0], (key, index)


def test_retries_mismatches_and_the_uncommitted_are_told_apart(tmp_path: Path) -> None:
    client, put = 0xAB, encode_command(Put(b"key", b"one"))
    twice = Entry(LogId(2, 2), EntryKind.COMMAND, encode_operations([Operation(client, 1, 1, 0, put)] * 2), NOON_MS)
    late = Entry(LogId(2, 3), EntryKind.COMMAND, encode_operations([Operation(client, 0, 1, 0, put)]), NOON_MS)
    wrong, lost = (command(index, 2, Put(b"key", b"two", 7)) for index in (4, 5))
    entries = [twice, late, wrong, lost]
    directory = Made(0, entries, 4, gid=0).write(tmp_path)
    told = [row for row in asked("history", directory, "key") if "index" in row]
    outcomes = [(row["index"], row["outcome"]["effect"], row["outcome"]["code"], row["committed"]) for row in told]
    assert outcomes == [
        (2, "applied", "OK", True),
        (2, "duplicate", "OK", True),
        (3, "refused", "REFUSED", True),
        (4, "none", "VERSION", True),
        (5, "none", "VERSION", False),
    ]
    lines = run("history", directory, "key")[1].splitlines()
    assert lines[0] == "at index 0, term 0" and "[not committed]" in lines[-2]
    assert lines[-1].startswith("stored: key: no such key here")


def test_a_chunk_with_the_key_is_part_of_its_history(tmp_path: Path) -> None:
    shard = shard_of(b"key", 12)
    chunk = InstallChunk(shard, 1, b"", encode_entries([(b"\0key", encode_row(5, b"moved"))]))
    directory = Made(0, [command(2, 2, chunk)], 2).write(tmp_path)
    told = [row for row in asked("history", directory, "key") if "index" in row]
    assert [(row["command"], row["outcome"]["version_after"]) for row in told] == [("installchunk", 5)]


def test_where_the_beginning_is_purged_only_what_is_remembered_is_told(past: Past, tmp_path: Path) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT, purge=10)
    by = set()
    for key in KEYS[:5]:
        for row in asked("history", directory, key.decode()):
            if "index" in row:
                outcome = row["outcome"]
                by.add((row["index"] > APPLIED, outcome and outcome["told_by"]))
                if outcome and outcome["told_by"] == "session":
                    kept = past.sessions[APPLIED][row["shard"], int(row["client"], 16)]
                    assert outcome["fields"] == [kept.replies[row["seq"]]]
    assert by == {(False, None), (False, "session"), (True, "replay")}


# --- what it must not do ---------------------------------------------------------------------------------------------

VERBS: list[tuple[str, ...]] = [
    ("get", "DIR", "a", "--through-log"),
    ("scan", "DIR", "--through-log"),
    ("sessions", "DIR", "--through-log"),
    ("history", "DIR", "a"),
    ("replay", "DIR", "--to-index", "applied"),
]


def names(verb: tuple[str, ...]) -> str:
    return verb[0]


def on(verb: tuple[str, ...], directory: Path) -> list[object]:
    return [directory if word == "DIR" else word for word in verb]


def digests(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return {str(path): sha256(path.read_bytes()).digest() for path in files}


def test_a_running_peer_is_not_disturbed(past: Past, tmp_path: Path) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT)
    owner = LmdbEngine.open(directory / "state", TABLES, None)
    log = LmdbEngine.open(directory / "log", LOG_TABLES, None)
    try:
        before = digests(directory)
        for verb in VERBS:
            assert run(*on(verb, directory))[0] == 0, verb
        assert digests(directory) == before
        assert owner.check_readers() == log.check_readers() == 0  # none of them left a slot behind
        with owner.write() as txn:
            assert read_applied(txn)[0] == past.id_at(APPLIED)
    finally:
        owner.close()
        log.close()


@pytest.mark.parametrize("verb", VERBS, ids=names)
def test_a_damaged_peer_is_one_line(past: Past, tmp_path: Path, verb: tuple[str, ...]) -> None:
    directory = past.write(tmp_path, APPLIED, COMMIT)
    damage_record(directory, "state", "meta", b"applied")
    code, out, err = run(*on(verb, directory))
    assert (code, out, len(err.splitlines())) == (1, "", 1) and "corrupt record in table 'meta'" in err
    file = directory / "state" / "data.mdb"
    file.write_bytes(file.read_bytes()[:5000])
    code, out, err = run(*on(verb, directory))
    assert (code, out, len(err.splitlines())) == (1, "", 1)


@pytest.mark.parametrize("verb", VERBS, ids=names)
def test_nothing_to_open_is_exit_3(tmp_path: Path, verb: tuple[str, ...]) -> None:
    code, out, err = run(*on(verb, tmp_path / "nobody"))
    assert (code, out, len(err.splitlines())) == (3, "", 1)


def test_a_kvsrv_has_no_log(tmp_path: Path) -> None:
    directory = tmp_path / "server-0-0"
    stamp = Stamp("state", CLUSTER, 0, 0, 100)
    LmdbEngine.create(directory / "state", kvsrv_tables(KvMachine()), stamp, lambda txn: None)
    state = LmdbEngine.open(directory / "state", kvsrv_tables(KvMachine()), None)
    with state.write() as txn:
        KvMachine().apply(txn, encode_command(Put(b"key", b"value")), LogId(0, 1))
    state.close()
    (row,) = asked("get", directory, "key")
    assert (row["at"], row["version"], row["value"]) == (None, 1, "value")
    for verb in VERBS:
        code, out, err = run(*on(verb, directory))
        assert (code, out, len(err.splitlines())) == (3, "", 1) and "a kvsrv's: it has no log" in err
