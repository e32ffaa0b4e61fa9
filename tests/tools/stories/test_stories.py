"""Each story leaves directories in which its cause can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tools.cli.main import cli
from tools.inspect.logview import Wanted
from tools.inspect.reader import findings, log_rows, peer_info
from tools.stories.accidents import STORIES, make
from tools.stories.directories import flip_bit


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, made once."""
    folder = tmp_path_factory.mktemp("stories")
    for name in STORIES:
        assert len(make(name, folder / name)) == 9
    return folder


def entries(peer: Path) -> dict[int, dict[str, Any]]:
    return {row["index"]: row for row in log_rows(peer, Wanted())}


def keys(peer: Path) -> set[str]:
    return {op["key"] for row in log_rows(peer, Wanted()) for op in row.get("operations", ()) if op["command"] == "put"}


def everybody(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_lost_vote_makes_two_leaders_of_one_term_and_two_committed_entries_of_one_index(stories: Path) -> None:
    places = findings(everybody(stories / "lost-vote"))
    assert list(places) == ["group 1"] and "committed entry" in places["group 1"][0]
    logs = [entries(stories / "lost-vote" / f"server-1-{peer}") for peer in range(3)]
    leaders = {(row["term"], row["leader"]) for log in logs for row in log.values() if row["kind"] == "noop"}
    twice = [term for term, _ in leaders]
    assert len(twice) > len(set(twice)), leaders


def test_a_full_disk_refuses_puts_and_takes_deletes(stories: Path) -> None:
    folder = stories / "full-disk"
    assert findings(everybody(folder)) == {}
    written = keys(folder / "server-1-0")
    assert any(key.startswith("evening") for key in written) and not any(key.startswith("refused") for key in written)


def test_a_partitioned_leader_keeps_entries_that_nobody_else_has(stories: Path) -> None:
    folder = stories / "partitioned-leader"
    assert findings(everybody(folder)) == {}, "an uncommitted tail is no fault"
    alone = [peer for peer in range(3) if any(k.startswith("lost") for k in keys(folder / f"server-1-{peer}"))]
    assert len(alone) == 1
    found = peer_info(folder / f"server-1-{alone[0]}")
    assert found["last"][1] > found["commit"]


def test_a_controller_killed_in_a_move_leaves_a_change_posted_and_shards_frozen(stories: Path) -> None:
    folder = stories / "killed-in-a-move"
    assert findings(everybody(folder)) == {}
    controllers = [peer_info(folder / f"server-0-{peer}")["config_committed"] for peer in range(3)]
    assert {(config["num"], config["next"]) for config in controllers} == {(1, 2)}
    states = {state for _, state, *_ in peer_info(folder / "server-2-0")["shards"]}
    assert "frozen" in states


def test_a_flipped_bit_is_named(stories: Path) -> None:
    places = findings(everybody(stories / "flipped-bit"))
    (place,) = places
    assert place.endswith("server-1-2") and "log/entries, record" in places[place][0]


def test_the_same_story_is_told_each_time(stories: Path, tmp_path: Path) -> None:
    make("lost-vote", tmp_path / "again")
    for peer in everybody(tmp_path / "again"):
        assert entries(peer) == entries(stories / "lost-vote" / peer.name)


def test_a_record_that_is_not_there_is_not_flipped(stories: Path) -> None:
    with pytest.raises(LookupError, match="0 times"):
        flip_bit(stories / "full-disk" / "server-1-0" / "log", "entries", b"no such key", b"payload")


def test_the_command_lists_and_refuses(tmp_path: Path) -> None:
    runner = CliRunner()
    assert all(name in runner.invoke(cli, ["story"]).output for name in STORIES)
    for arguments, text in (
        (["no-such", "x"], "there is no story"),
        (["lost-vote"], "name the directory"),
        (["lost-vote", str(tmp_path)], "exists already"),
    ):
        done = runner.invoke(cli, ["story", *arguments])
        assert done.exit_code == 2 and text in done.output
