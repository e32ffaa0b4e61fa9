"""Power cuts of the store: what was acknowledged is always there, and a planted bug is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from store.lmdb_engine import LmdbEngine
from tools.cli.main import cli
from tools.powercut.disk import Contents, Tree
from tools.powercut.planted import STORE
from tools.powercut.recovering import Recoverers, Task, recoverers
from tools.powercut.store_check import check
from tools.powercut.store_load import TABLES, WHERE, apply, contents, fill, script, stamp


def powercut(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    result = CliRunner().invoke(cli, ["powercut", *arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def owing(acknowledged: int, begun: int) -> dict[str, Any]:
    return {"created": True, "acknowledged": acknowledged, "begun": begun}


def made(root: Path, commits: int, seed: int = 3) -> None:
    """The environment after so many commits of the script."""
    from tools.powercut.store_load import _job

    LmdbEngine.create(root / WHERE, TABLES, stamp(), fill, map_size_bytes=64 << 20)
    engine = LmdbEngine.open(root / WHERE, TABLES, stamp(), map_size_bytes=64 << 20)
    for changes in script(seed)[:commits]:
        with engine.write() as txn:
            _job(changes)(txn)
    engine.close()


def test_the_script_says_what_the_environment_holds_after_each_commit(tmp_path: Path) -> None:
    for commits in (0, 1, 60):
        made(tmp_path / str(commits), commits)
        assert check(tmp_path / str(commits), owing(commits, commits), 3) == []


def test_a_commit_too_few_too_many_or_torn_is_told(tmp_path: Path) -> None:
    made(tmp_path / "few", 4)
    assert check(tmp_path / "few", owing(5, 6), 3) == ["commit 5 was acknowledged, the newest that is found is 4"]
    made(tmp_path / "many", 4)
    assert check(tmp_path / "many", owing(2, 3), 3) == ["commit 4 is found, only 3 were begun"]
    made(tmp_path / "torn", 4)
    engine = LmdbEngine.open(tmp_path / "torn" / WHERE, TABLES, stamp())
    with engine.write() as txn:
        txn.put("small", b"stray", b"")
    engine.close()
    (told,) = check(tmp_path / "torn", owing(4, 4), 3)
    assert "1 rows are wrong, the first is b'stray' of table small" in told


def test_an_environment_may_be_missing_until_its_creation_is_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert check(tmp_path / "a", owing(0, 0) | {"created": False}, 3) == []
    assert check(tmp_path / "b", owing(0, 0), 3) == ["the environment is gone: its creation was acknowledged"]


def test_cutting_a_range_is_what_the_store_does() -> None:
    rows = {("log", bytes([n])): b"" for n in range(6)} | {("small", b"\x03"): b""}
    (change,) = (c for c in script(1)[0][:1])
    cut = type(change)("cut", "log", b"\x02", b"\x04")
    assert set(apply(rows, [cut])) == {("log", bytes([n])) for n in (0, 1, 4, 5)} | {("small", b"\x03")}
    assert len(list(contents(1))) == len(script(1)) + 1


def test_a_state_that_kills_its_reader_is_a_finding_and_the_next_is_read_all_the_same() -> None:
    told: list[list[str]] = []
    empty = Tree({"peer": None, "peer/environment": None, "peer/environment/data.mdb": Contents(b"", 0)})
    with recoverers("store", {"seed": 3}, "disk", 1) as working:
        assert isinstance(working, Recoverers)
        working.put(Task(Tree({}), {"created": False}, told.append))  # what is owed is not complete: it fails
        working.put(Task(empty, owing(0, 0), told.append))
    assert "exit code 1: KeyError" in told[0][0]
    assert "recovery failed: peer/environment/data.mdb is damaged" in told[1][0]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.system
class TestWithStrace:
    def test_nothing_that_was_acknowledged_is_lost(self) -> None:
        code, (report,) = powercut("store", "--states", "400")
        assert code == 0, report["failures"][:3]
        assert report["distinct"] >= 400 and set(report["kinds"]) == {"all", "none", "lost", "only", "torn", "mixed"}

    @pytest.mark.parametrize("bug", [mutant.name for mutant in STORE])
    def test_a_planted_bug_is_found(self, bug: str, tmp_path: Path) -> None:
        code, (report,) = powercut("--plant", bug, "--states", "120", "--keep", str(tmp_path / "kept"))
        assert code == 1 and report["planted"] == bug
        failure = report["failures"][-1]
        assert failure["wrong"] and Path(failure["kept"]).is_dir()
        code, (again,) = powercut("--recording", str(tmp_path / "kept" / "store"), "--state", failure["state"])
        assert code == 1 and again["failures"][0]["wrong"] == failure["wrong"]


def test_wrong_calls_are_told_in_one_line(tmp_path: Path) -> None:
    for words, text in (
        (("--state", "3:all"), "--state goes with --recording"),
        (("--plant", "nothing"), "there is no planted bug"),
        (("--recording", str(tmp_path), "store"), "give no target"),
        (("--recording", str(tmp_path)), "No such file"),
    ):
        result = CliRunner().invoke(cli, ["powercut", *words])
        assert result.exit_code in (2, 3) and text in result.output, result.output
