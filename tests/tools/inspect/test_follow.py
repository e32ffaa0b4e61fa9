"""Follow: what is appended is shown soon, what is overwritten is shown again, and purges are told."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raftlog.durable import LOG_TABLES, append_entries, index_key, write_purge
from raftlog.types import Entry, LogId
from store.lmdb_engine import LmdbEngine
from tests.tools.inspect.small_peer import MEMBERS, entry, make_peer
from tools.inspect.following import Follower
from tools.inspect.reader import ask


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    return make_peer(tmp_path / "peer")


def shown(follower: Follower) -> list[Any]:
    return [tuple(item.id) if isinstance(item, Entry) else tuple(item.values()) for item in follower.news()]


def test_new_overwritten_and_purged_entries_are_shown(peer: Path) -> None:
    log = LmdbEngine.open(peer / "log", LOG_TABLES, None)
    follower = Follower(log, 9)
    assert shown(follower) == [(2, 9), (2, 10)]
    assert shown(follower) == []
    with log.write() as txn:
        append_entries(txn, [entry(11), entry(12)])
    assert shown(follower) == [(2, 11), (2, 12)]
    with log.write() as txn:
        txn.delete_range("entries", index_key(10), None)
        append_entries(txn, [entry(10, 5)])
    assert shown(follower) == [("truncated", 10, 12), (5, 10)]
    with log.write() as txn:
        append_entries(txn, [entry(index, 5) for index in range(11, 20)])
        write_purge(txn, LogId(5, 15), MEMBERS)
    assert shown(follower) == [("purged", 11, 15), *((5, index) for index in range(16, 20))]
    with log.write() as txn:
        write_purge(txn, LogId(5, 19), MEMBERS)
    assert shown(follower) == []  # it had been shown
    log.close()


def test_an_entry_is_shown_when_its_transaction_is_done_and_no_reader_stays(peer: Path) -> None:
    log = LmdbEngine.open(peer / "log", LOG_TABLES, None)
    rows = (row for row in ask("follow", "-", str(peer)) if row.get("event") != "idle")
    try:
        assert next(rows)["event"] == "following"
        for index in range(11, 61):
            with log.write() as txn:
                append_entries(txn, [entry(index)])
            row = next(rows)
            assert (row["index"], row["again"]) == (index, False)
        log.close()
        assert next(rows) == {"event": "stopped"}
    finally:
        log.close()
        rows.close()


def test_it_ends_on_ctrl_c_with_exit_code_0(peer: Path) -> None:
    command = [sys.executable, "-m", "tools.cli.main", "inspect", "follow", str(peer), "--from", "9"]
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[0].startswith("-- following") and " 9 " in lines[1] and " 10 " in lines[2]
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
