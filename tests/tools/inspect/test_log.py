"""`inspect log`: every condition against a plain search, every form against the others, and long logs in several readers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tools.inspect.reader as reader
from raftlog.codec import dumps
from raftlog.machine import Operation, encode_operations
from raftlog.types import Entry, EntryKind, LogId
from shardkv.commands import Delete, Freeze, Put, encode_command
from shardkv.config import NSHARDS, shard_of
from tests.tools.inspect.made import NOON_MS, Made, noop
from tests.tools.inspect.small_peer import damage_record
from tools.inspect.commands import inspect
from tools.inspect.logtext import BLOCK, clock, diagnostic
from tools.inspect.logview import Wanted, redacted

KEYS = [b"color", b"size", b"\x00\xff", "é".encode()]


def made(index: int) -> Entry:
    """Four kinds of commands in turn; two operations in every seventh entry."""
    key = KEYS[index % len(KEYS)]
    commands = [Put(key, b"v%d" % index, None), Delete(key, index), Freeze(3, index, 2, ("a:1",))]
    operations = [Operation(index % 3, index, 0, 0, encode_command(commands[index % 3]))]
    if not index % 7:
        operations.append(Operation(9, index, 0, 0, encode_command(Put(b"seventh", b"x", None))))
    return Entry(
        LogId(2 + index // 20, index), EntryKind.COMMAND, encode_operations(operations), NOON_MS + index * 1000
    )


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [noop(2, 2, 1), *(made(index) for index in range(3, 41))]
    entries.append(Entry(LogId(4, 41), EntryKind.COMMAND, encode_operations([Operation(0, 0, 0, 0, b"\xff")])))
    entries.append(Entry(LogId(4, 42), EntryKind.COMMAND, b"\xff"))
    return Made(0, entries, commit=40).write(tmp_path_factory.mktemp("log"))


def run(peer: Path, *options: str) -> str:
    result = CliRunner().invoke(inspect, ["log", str(peer), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(peer: Path, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(peer, "--json", *options).splitlines()]


def ops(row: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = row.get("operations", [])
    return found


CONDITIONS: dict[str, tuple[list[str], Callable[[dict[str, Any]], bool]]] = {
    "indices": (["--first", "5", "--last", "9"], lambda row: 5 <= row["index"] <= 9),
    "term": (["--term", "3"], lambda row: row["term"] == 3),
    "kind": (["--kind", "noop"], lambda row: row["kind"] == "noop"),
    "since": (["--since", f"{NOON_MS // 1000 + 30}"], lambda row: row["time_ms"] >= NOON_MS + 30_000),
    "until": (["--until", "2023-11-14T22:13:30"], lambda row: 0 < row["time_ms"] <= NOON_MS + 10_000),
    "until, with a zone": (
        ["--until", "2023-11-14T23:13:30+01:00"],
        lambda row: 0 < row["time_ms"] <= NOON_MS + 10_000,
    ),
    "key": (["--key", "color"], lambda row: any(op.get("key") == "color" for op in ops(row))),
    "key, not ASCII": (["--key", "é"], lambda row: any(op.get("key") == "é" for op in ops(row))),
    "shard of a move": (["--shard", "3"], lambda row: any(op.get("shard") == 3 for op in ops(row))),
    "session": (["--session", "9"], lambda row: any(op.get("client") == "0" * 15 + "9" for op in ops(row))),
    "operation": (["--session", "2#8"], lambda row: row["index"] == 8),
    "two at once": (
        ["--key", "color", "--term", "2"],
        lambda row: row["term"] == 2 and any(op.get("key") == "color" for op in ops(row)),
    ),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_leaves_what_a_plain_search_finds(peer: Path, name: str) -> None:
    options, wanted = CONDITIONS[name]
    everything = rows(peer)
    assert len(everything) == 42
    found = rows(peer, *options)
    assert found == [row for row in everything if wanted(row)] and found
    assert json.loads(run(peer, *options, "--count", "--json")) == {
        kind: n for kind in ("noop", "command", "membership") if (n := sum(row["kind"] == kind for row in found))
    }


def test_a_shard_is_that_of_its_keys(peer: Path) -> None:
    shard = shard_of(b"seventh", NSHARDS)
    assert {row["index"] for row in rows(peer, "--shard", str(shard))} >= {7, 14, 21, 28, 35}


def test_the_forms_tell_the_same(peer: Path) -> None:
    everything = rows(peer)
    assert json.loads(run(peer, "--format", "json")) == everything
    assert [int(line.split()[0]) for line in run(peer).splitlines()] == [row["index"] for row in everything]
    diag = run(peer, "--format", "diag").splitlines()
    assert [int(line.split(", ")[1]) for line in diag] == [row["index"] for row in everything]
    assert json.loads(run(peer, "--format", "json", "--kind", "noop", "--term", "9")) == []
    assert (
        len(rows(peer, "--limit", "7", "--first", "3"))
        == 7
        == sum(json.loads(run(peer, "--limit", "7", "--first", "3", "--count", "--json")).values())
    )


def test_what_cannot_be_decoded_is_shown_as_it_is(peer: Path) -> None:
    operation, entry = rows(peer, "--first", "41")
    assert ops(operation)[0]["command"] == "undecodable" and "CBOR" in entry["undecodable"]
    assert run(peer, "--first", "42", "--format", "diag").endswith(", h'ff']\n")
    assert rows(peer, "--first", "42", "--raw")[0]["data"] == "ff"


def test_diagnostic_notation_shows_what_is_inside_byte_strings() -> None:
    put = Operation(7, 8, 9, 10, encode_command(Put(b"k", b"it's", 0)))
    entry = Entry(LogId(2, 5), EntryKind.COMMAND, encode_operations([put]), 99)
    assert diagnostic(entry) == "[2, 5, 1, 1, 99, <<[[7, 8, 9, 10, <<[1, 'k', h'69742773', 0]>>]]>>]"
    assert "h'6b'" in diagnostic(entry, in_hex=True)
    odd = Entry(LogId(2, 6), EntryKind.NOOP, dumps([True, None, {"a": b"\x00"}]))
    assert diagnostic(odd) == "[2, 6, 0, 1, 0, <<[true, null, {\"a\": h'00'}]>>]"


def test_redacted_keys_can_be_told_apart_and_nothing_else(peer: Path) -> None:
    everything, hidden = rows(peer), rows(peer, "--redact")
    told = re.compile(r"#[0-9a-f]{10} \(\d+ bytes\)")
    seen: dict[str, str] = {}
    for plain, secret in zip(everything, hidden, strict=True):
        for a, b in zip(ops(plain), ops(secret), strict=True):
            for field in {"key", "value"} & a.keys():
                assert told.fullmatch(b[field])
                assert seen.setdefault(b[field], a[field]) == a[field]
    assert len(set(seen.values())) == len(seen)
    assert "color" not in run(peer, "--redact") and rows(peer, "--redact") != hidden, "each time another salt"
    assert redacted(b"a", "00") != redacted(b"a", "01")
    for other in (["--hex"], ["--raw"], ["--format", "diag"]):
        assert CliRunner().invoke(inspect, ["log", str(peer), "--redact", *other]).exit_code == 2


@pytest.mark.parametrize(
    "options", [["--since", "noon"], ["--session", "xyz"], ["--session", "1#x"], ["--kind", "vote"]]
)
def test_a_condition_that_is_none_is_a_usage_error(peer: Path, options: list[str]) -> None:
    assert CliRunner().invoke(inspect, ["log", str(peer), *options]).exit_code == 2


def test_a_long_log_is_read_by_several_and_told_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = 5 * BLOCK + 3
    peer = Made(0, [made(index) for index in range(2, last + 1)], commit=last).write(tmp_path)
    alone = list(reader.log_lines(peer, Wanted(), "table"))
    monkeypatch.setattr(reader, "ALONE", 0)
    monkeypatch.setattr(reader.os, "cpu_count", lambda: 3)
    together = list(reader.log_lines(peer, Wanted(), "table"))
    assert together == alone and sum(len(block["text"].splitlines()) for block in together) == last
    assert together[-1]["through"] == together[-1]["last"] == last
    damage_record(peer, "log", "entries", (2 * BLOCK + 5).to_bytes(8, "big"))
    told = 0
    with pytest.raises(reader.Unreadable, match=f"entries/{2 * BLOCK + 5}|checksum"):
        for block in reader.log_lines(peer, Wanted(), "table"):
            told = block["through"]
    assert told == 2 * BLOCK, "all before it"


def test_a_block_of_large_values_comes_in_parts(tmp_path: Path) -> None:
    big = [Entry(LogId(2, i), EntryKind.COMMAND, bytes(1 << 20), 1) for i in range(2, 8)]
    peer = Made(0, big, commit=7).write(tmp_path)
    found = list(reader.log_lines(peer, Wanted(raw=True), "jsonl"))
    lines = [block["text"].splitlines() for block in found]
    assert [len(some) for some in lines] == [2, 1, 1, 1, 1, 1, 0]
    assert [json.loads(line)["index"] for some in lines for line in some] == list(range(1, 8))


def test_times_far_away_are_still_told() -> None:
    assert (clock(0), clock(NOON_MS + 1)) == ("-", "22:13:20.001")
    assert clock((1 << 63) - 1).endswith(".807")
