"""`inspect diff`: agreement, lag, uncommitted tails, and the contradictions that no crash explains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from raftlog.types import LogId
from tests.tools.inspect.made import Made, commands, noop
from tools.inspect.commands import inspect

OLD = [noop(2, 2, 0), *commands(3, 9, 2)]


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(inspect, [str(a) for a in arguments])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, found.stdout, found.stderr


def differ(folder: Path, *peers: Made) -> tuple[int, list[dict[str, Any]]]:
    directories = [peer.write(folder) for peer in peers]
    code, out, err = run("diff", "--json", "--merge", *directories)
    assert not err
    return code, [json.loads(line) for line in out.splitlines()]


def states(lines: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
    return [(line["first"], line["last"], line["state"]) for line in lines if "terms" in line]


def merged(lines: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
    return [(line["first"], line["last"], line["state"]) for line in lines if "merge" in line]


def test_equal_logs_have_no_difference(tmp_path: Path) -> None:
    code, lines = differ(tmp_path, *(Made(peer, OLD, 9) for peer in range(3)))
    assert (code, states(lines), lines[-1]["first_difference"]) == (0, [(1, 9, "agree")], None)
    assert merged(lines) == [(1, 1, "committed"), (2, 9, "committed")]


def test_a_lag_is_no_fault(tmp_path: Path) -> None:
    code, lines = differ(tmp_path, Made(0, OLD, 5), Made(1, OLD, 5), Made(2, OLD[:4], 4))
    assert code == 0
    assert states(lines) == [(1, 5, "agree"), (6, 9, "missing")]
    assert lines[1]["missing"] == ["server-1-2"]
    # 6..9 are on two of three: a quorum, and nobody's durable commit
    assert merged(lines) == [(1, 1, "committed"), (2, 4, "committed"), (5, 5, "committed"), (6, 9, "quorum")]


def test_an_uncommitted_tail_against_committed_entries_is_no_fault(tmp_path: Path) -> None:
    """A leader that was cut off holds entries of its old term; the others went on in the next."""
    new = [*OLD[:4], noop(6, 3, 1), *commands(7, 8, 3)]
    code, lines = differ(tmp_path, Made(0, OLD, 5), Made(1, new, 8), Made(2, new, 7))
    assert code == 0
    assert states(lines)[:2] == [(1, 5, "agree"), (6, 7, "conflict")]
    assert lines[-1]["first_difference"]["first"] == 6 and not lines[-1]["fatal"]
    assert lines[1]["terms"] == {"server-1-0": 2, "server-1-1": 3, "server-1-2": 3}
    assert merged(lines)[-1] == (9, 9, "short")
    assert (6, 7, "committed") in merged(lines)
    code, out, _ = run("diff", tmp_path)
    assert code == 0 and "an uncommitted tail" in out and "nothing fatal" in out


def test_two_committed_entries_at_an_index_are_fatal(tmp_path: Path) -> None:
    new = [*OLD[:4], noop(6, 3, 1), *commands(7, 9, 3)]
    code, lines = differ(tmp_path, Made(0, OLD, 7), Made(1, new, 7))
    assert code == 1 and lines[-1]["fatal"]
    fatal = next(line for line in lines if line.get("fatal") and "terms" in line)
    assert (fatal["first"], fatal["last"], fatal["why"]) == (6, 7, "two entries are committed here")


def test_two_entries_of_one_term_are_fatal_though_uncommitted(tmp_path: Path) -> None:
    other = [*OLD[:6], *commands(8, 8, 2)]
    other[-1] = type(other[-1])(other[-1].id, other[-1].kind, other[-1].data, time_ms=1)
    code, lines = differ(tmp_path, Made(0, OLD, 5), Made(1, other, 5))
    assert code == 1
    assert next(line for line in lines if line.get("why"))["why"] == "two entries of term 2"


def test_a_later_term_against_a_committed_entry_is_fatal(tmp_path: Path) -> None:
    later = [*OLD[:4], noop(6, 3, 1)]
    code, lines = differ(tmp_path, Made(0, OLD, 9), Made(1, later, 5))
    assert code == 1
    assert "whose leader had to have it" in next(line for line in lines if line.get("why"))["why"]


def test_below_a_base_is_purged_and_not_missing(tmp_path: Path) -> None:
    code, lines = differ(tmp_path, Made(0, OLD, 9, purge=LogId(2, 6)), Made(1, OLD, 9), Made(2, OLD, 9))
    assert code == 0
    assert [line["purged"] for line in lines if "terms" in line] == [["server-1-0"], ["server-1-0"], []]
    assert {state for _, _, state in states(lines)} == {"agree"}
    assert lines[-1]["first_difference"] is None


def test_a_base_of_another_term_is_a_conflict(tmp_path: Path) -> None:
    new = [*OLD[:4], noop(6, 3, 1)]
    code, lines = differ(tmp_path, Made(0, OLD, 6, purge=LogId(2, 6)), Made(1, new, 6))
    assert code == 1 and lines[-1]["first_difference"]["first"] == 6


def test_a_commit_that_is_nowhere_is_never_claimed(tmp_path: Path) -> None:
    code, lines = differ(tmp_path, *(Made(peer, OLD, 1) for peer in range(3)))
    assert code == 0
    assert merged(lines) == [(1, 1, "committed"), (2, 9, "quorum")]


def test_one_peer_alone_is_no_quorum(tmp_path: Path) -> None:
    code, lines = differ(tmp_path, Made(0, OLD, 1), Made(1, [], 1))
    assert code == 0
    assert merged(lines) == [(1, 1, "committed"), (2, 2, "short")]


@pytest.mark.parametrize(
    ("peers", "code", "word"),
    [
        ([Made(0), Made(0, gid=2)], 2, "the groups 1, 2"),
        ([Made(0)], 2, "two peers"),
        ([Made(0), Made(1, cluster=bytes(16))], 3, "of cluster"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, peers: list[Made], code: int, word: str) -> None:
    found, out, err = run("diff", *(peer.write(tmp_path) for peer in peers))
    assert (found, out, err.count("\n")) == (code, "", 1) and word in err


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    found, _, err = run("diff", Made(0).write(tmp_path), tmp_path / "nowhere")
    assert (found, err.count("\n")) == (3, 1)


def test_a_group_is_chosen_from_a_clusters_directory(tmp_path: Path) -> None:
    for peer in (Made(0, OLD, 9), Made(1, OLD, 9), Made(0, gid=2), Made(1, gid=2)):
        peer.write(tmp_path)
    code, out, _ = run("diff", "--group", 1, tmp_path)
    assert code == 0 and "1..9" in out and "no difference" in out


def test_nothing_is_written(tmp_path: Path) -> None:
    directories = [Made(peer, OLD, 9).write(tmp_path) for peer in range(2)]
    files = [d / half / "data.mdb" for d in directories for half in ("log", "state")]
    before = [(f.read_bytes(), f.stat().st_mtime_ns) for f in files]
    run("diff", *directories)
    assert [(f.read_bytes(), f.stat().st_mtime_ns) for f in files] == before
