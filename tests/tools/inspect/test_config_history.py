"""`inspect config-history`: each configuration, from the controllers' log and history, with its steps in the groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctrler.records import CURRENT, NEXT, Change, pack_change, pack_config
from raftlog.machine import plain
from raftlog.types import Entry
from shardkv.commands import (
    EMPTY_SUMMARY,
    Command,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    Keep,
    Put,
    encode_command,
)
from shardkv.config import ShardConfig
from tests.tools.inspect.made import NOON_MS, Made, command, noop
from tests.tools.inspect.test_diff import run
from tools.inspect.traces import MOVES, _command

FIRST = ShardConfig.initial(4).join({1: ["server-1-0"]})
SECOND = FIRST.join({2: ["server-2-0"]})
MOVED = [shard for shard in range(4) if SECOND.shards[shard] == 2]


def posted(config: ShardConfig, version: int, request: bytes = b"") -> Command:
    return Put(NEXT.encode(), pack_change(Change(config, request)), version)


def in_force(config: ShardConfig, version: int) -> Command:
    return Put(CURRENT.encode(), pack_config(config), version)


def controllers() -> list[Entry]:
    steps = [posted(FIRST, 0, b"\x01\x02"), in_force(FIRST, 0), posted(SECOND, 1), in_force(SECOND, 1)]
    return [noop(2, 2, 0), *(command(3 + n, 2, one, time_ms=NOON_MS + 1000 * n) for n, one in enumerate(steps))]


def history(*arguments: object) -> list[dict[str, Any]]:
    code, out, err = run("config-history", "--json", *arguments)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_each_configuration_is_told_with_its_times_and_request(tmp_path: Path) -> None:
    found = history(Made(0, controllers(), 6, gid=0).write(tmp_path))
    assert [(c["num"], c["posted_ms"] - NOON_MS, c["in_force_ms"] - NOON_MS, c["request"]) for c in found] == [
        (1, 0, 1000, "0102"),
        (2, 2000, 3000, ""),
    ]
    assert [(c["source"], c["committed"]) for c in found] == [("log", True)] * 2
    assert [(m["shard"], m["source"], m["target"]) for m in found[0]["moves"]] == [(s, 0, 1) for s in range(4)]
    assert [(m["shard"], m["source"], m["target"]) for m in found[1]["moves"]] == [(s, 1, 2) for s in MOVED]
    assert found[1]["moves"][0]["freeze_ms"] is None  # no shard group's directory is at hand


def test_the_steps_are_in_the_groups_logs(tmp_path: Path) -> None:
    shard = MOVED[0]
    source = [Freeze(shard, 2, 2, ()), DeleteShard(shard, 2)]
    summary = EMPTY_SUMMARY._replace(rows=7)
    target = [InstallChunk(shard, 2, b"", b""), InstallChunk(shard, 2, b"", b"rows"), Install(shard, 2, summary)]
    Made(0, controllers(), 6, gid=0).write(tmp_path)
    one = [command(3 + n, 2, c, time_ms=NOON_MS + 2100 + 1000 * n) for n, c in enumerate(source)]
    two = [command(3 + n, 2, c, time_ms=NOON_MS + 2200 + 100 * n) for n, c in enumerate(target)]
    Made(0, [noop(2, 2, 0), *one], 4, gid=1).write(tmp_path)
    Made(0, [noop(2, 2, 0), *two], 5, gid=2).write(tmp_path)
    moves = {move["shard"]: move for move in history(tmp_path)[1]["moves"]}
    steps = [moves[shard][name] - NOON_MS for name in ("freeze_ms", "copy_ms", "install_ms", "delete_ms")]
    assert (steps, moves[shard]["rows"]) == ([2100, 2300, 2400, 3100], 7)
    code, out, _ = run("config-history", tmp_path)
    assert code == 0
    assert "frozen +100 ms, first rows +200 ms, installed +100 ms, in force +600 ms, deleted +100 ms (7 rows)" in out


def test_a_post_that_lost_the_race_is_no_configuration(tmp_path: Path) -> None:
    other = FIRST.move(0, 1)
    entries = [*controllers(), command(7, 2, posted(other, 1, b"\xff"), time_ms=NOON_MS + 9000)]
    found = history(Made(0, entries, 7, gid=0).write(tmp_path))
    assert [c["request"] for c in found] == ["0102", ""]
    assert tuple(found[1]["shards"]) == SECOND.shards


def test_a_change_that_is_not_committed_says_so(tmp_path: Path) -> None:
    directory = Made(0, controllers()[:4], 4, gid=0).write(tmp_path)
    found = history(directory)
    assert [(c["num"], c["committed"], c["in_force_ms"]) for c in found][1] == (2, False, None)
    assert "not known to be committed" in run("config-history", directory)[1]


def test_without_a_controller_it_is_one_line(tmp_path: Path) -> None:
    code, out, err = run("config-history", Made(0).write(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1) and "group 0" in err


@pytest.mark.process
def test_of_a_real_cluster_the_log_and_the_stored_history_agree(cluster_directory: Path) -> None:
    (config,) = history(cluster_directory)
    assert config["num"] == 1 and config["committed"] and len(config["request"]) == 32
    assert config["posted_ms"] < config["in_force_ms"]
    for move in config["moves"]:
        assert (move["source"], move["target"]) == (0, 1)
        assert config["posted_ms"] <= move["install_ms"] <= config["in_force_ms"]
    code, out, _ = run("timeline", cluster_directory)
    crashed = [line for line in out.splitlines() if " crash " in line]
    assert code == 0 and len(crashed) == 1 and "server-1-2" in crashed[0]
    code, out, _ = run("diff", "--group", "1", cluster_directory)
    assert code == 0
    code, out, _ = run("shiviz", cluster_directory)
    assert code == 0 and "votes for peer" in out


def test_every_command_of_a_hand_over_is_one_of_those_that_are_looked_for() -> None:
    commands = (
        Freeze(70, 2, 2, ()),
        InstallChunk(70, 2, b"", b""),
        Install(70, 2, EMPTY_SUMMARY),
        DeleteShard(70, 2),
        Keep(70, 2),
    )
    assert [encode_command(command)[:2] for command in commands] == list(MOVES)
    steps = [next(_command(plain(encode_command(command)), 1), {}).get("step") for command in commands]
    assert steps == ["freeze", None, "install", "delete", "keep"]
