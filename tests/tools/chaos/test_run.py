"""Whole runs with real processes: one that passes, and some in which a fault is planted that the run must find."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from tools.chaos.arena import Arena
from tools.chaos.kv_load import KvWorkload
from tools.chaos.load import Client, Meter
from tools.chaos.page import page
from tools.chaos.places import ForgetfulDisk
from tools.chaos.run import NO_CONVERGENCE, PASSED, VIOLATION, Outcome, Plan, run, summary
from tools.checker.history import read_history
from tools.cli.chaos import chaos
from tools.inspect import reader
from tools.layout import Layout

SMALL = Layout(ctrl_peers=1, groups=1, replicas=1, shards=2)


def played(folder: Path, workload: KvWorkload | None = None, watch: object = None, **plan: object) -> Outcome:
    options = {"minutes": 0.02, "seed": 1, "faults": "kill-one", "layout": SMALL, "clients": 2, **plan}

    async def main() -> Outcome:
        more = {} if watch is None else {"watch": watch}
        return await run(Plan(**options), folder, workload, **more)  # type: ignore[arg-type]

    return trio.run(main)


@pytest.mark.process
@pytest.mark.system
def test_a_run_passes_and_leaves_a_report_and_no_cluster(tmp_path: Path) -> None:
    report = tmp_path / "report"
    sizes = ["--peers", "1", "--groups", "1", "--clients", "4"]
    words = [*sizes, "--cycles", "1", "--seed", "5", "--json", "--report", str(report)]
    done = CliRunner().invoke(chaos, [*words, "--faults", "kill-leader,partition-leader,slow-links,leave-join"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["verdict"] == PASSED and found["acknowledged_writes"] > 0
    struck = {"kill-leader", "partition-leader", "slow-links"}
    assert all(found["cycles"][name] >= 1 for name in struck)
    assert found["pairs"]["kill+partition"] >= 1
    assert found["skipped"] == {"leave-join": "needs controllers and two shard groups"}
    assert {**json.loads((report / "report.json").read_text()), "report": str(report)} == found
    with (report / "history.jsonl").open() as file:
        ops = list(read_history(file))
    assert sum(op.op in ("put", "delete") and op.result == "ok" for op in ops) == found["acknowledged_writes"]
    text = (report / "report.html").read_text()
    assert "kill-leader" in text and "http" not in text.replace("http-equiv", "")
    assert not (report / "cluster").exists()


@pytest.mark.process
@pytest.mark.system
def test_a_peer_that_dies_without_a_fault_is_a_violation_and_all_directories_are_kept(tmp_path: Path) -> None:
    def watch(meter: Meter, arena: Arena) -> None:
        arena.cluster.process("server-1-0").signal(signal.SIGKILL)

    outcome = played(tmp_path, watch=watch, faults="pause-leader")
    assert outcome.verdict == VIOLATION
    assert any("server-1-0 ended by itself" in line for line in outcome.findings)
    assert reader.findings([tmp_path / "cluster" / name for name in ("server-0-0", "server-1-0")]) == {}
    assert "ended by itself" in page(outcome)


class Forger(KvWorkload):
    """Claims to have written what it never wrote."""

    async def judge(self, client: Client) -> list[str]:
        begun = client.meter.now()
        number = self._recorder.begin("c0", "put", b"g0-k0", begun, value=b"never")
        self._recorder.end(number, client.meter.now(), "ok")
        return await super().judge(client)


@pytest.mark.process
@pytest.mark.system
def test_an_acknowledged_write_that_is_not_there_is_a_violation(tmp_path: Path) -> None:
    outcome = played(tmp_path, Forger())
    assert outcome.verdict == VIOLATION
    assert any("illegal" in line for line in outcome.findings)


NEVER_SYNCS = """
import sys, lmdb
from tools.serve import main
opened = lmdb.open
lmdb.open = lambda *args, **options: opened(*args, **{**options, "sync": False})
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.process
@pytest.mark.system
def test_a_store_that_does_not_sync_is_found_by_a_disk_that_forgets(tmp_path: Path) -> None:
    if why := ForgetfulDisk.missing():
        pytest.skip(f"a disk that forgets {why}")

    def watch(meter: Meter, arena: Arena) -> None:
        for name in arena.names(1):  # from its next start on
            arena.cluster.process(name).program = ("-c", NEVER_SYNCS)

    outcome = played(tmp_path, watch=watch, faults="lost-writes", cycles=6, disks=(ForgetfulDisk,))
    assert outcome.verdict != PASSED
    assert any("illegal" in line or "server-1-0" in line for line in outcome.findings)


SWALLOWS = """
import sys
from store.lmdb_engine import LmdbEngine
from tools.serve import main
committed = LmdbEngine._commit
def commit(self, *args):
    before = self._over
    try:
        committed(self, *args)
    except Exception:
        self._over = before
LmdbEngine._commit = commit
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.process
@pytest.mark.system
def test_a_peer_that_goes_on_after_a_failed_sync_is_a_violation(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not here")

    def watch(meter: Meter, arena: Arena) -> None:
        for name in arena.names(1):
            arena.cluster.process(name).program = ("-c", SWALLOWS)

    outcome = played(tmp_path, watch=watch, faults="disk-error", cycles=12)
    assert outcome.verdict != PASSED
    assert any("it is still there" in line or "illegal" in line for line in outcome.findings), outcome.findings


class Surprised(KvWorkload):
    """Meets what it did not expect."""

    async def work(self, client: Client) -> None:
        raise AssertionError("a value that nobody wrote")


@pytest.mark.process
@pytest.mark.system
def test_what_a_workload_raises_is_a_violation(tmp_path: Path) -> None:
    outcome = played(tmp_path, Surprised())
    assert outcome.verdict == VIOLATION
    assert any("a value that nobody wrote" in line for line in outcome.findings)


@pytest.mark.process
@pytest.mark.system
def test_a_peer_that_cannot_come_back_is_told_as_no_convergence(tmp_path: Path) -> None:
    def watch(meter: Meter, arena: Arena) -> None:
        (tmp_path / "cluster" / "server-1-0" / "log").rename(tmp_path / "lost")

    outcome = played(tmp_path, watch=watch, faults="kill-all", minutes=1.0)
    assert outcome.verdict == NO_CONVERGENCE
    assert any("server-1-0" in line for line in outcome.findings)


def test_the_faults_are_listed_with_what_they_need() -> None:
    done = CliRunner().invoke(chaos, ["--list", "--json", "--faults", "disk"])
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert {row["kind"] for row in rows} == {"disk"} and all(row["needs"] for row in rows)


def test_reports_are_summed_and_one_that_failed_fails_them_all(tmp_path: Path) -> None:
    for name, verdict, cycles in (("a", PASSED, {"move": 2}), ("b", VIOLATION, {"move": 3, "kill-one": 1})):
        outcome = Outcome(Plan(), verdict, ["something"] if verdict != PASSED else [], lasted_s=90.0)
        outcome.tally.faults.update(cycles)
        outcome.metrics["a wait"] = [float(len(cycles))]
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(summary(outcome)))
    one = CliRunner().invoke(chaos, ["--json", "--sum", str(tmp_path / "a")])
    assert one.exit_code == 0 and json.loads(one.output)["verdict"] == "passed"
    both = CliRunner().invoke(chaos, ["--json", "--sum", str(tmp_path / "a"), "--sum", str(tmp_path / "b")])
    found = json.loads(both.output)
    assert both.exit_code == 1
    assert (found["runs"], found["lasted_s"], found["cycles"]) == (2, 180.0, {"kill-one": 1, "move": 5})
    assert found["measured"] == {"a wait": {"count": 2, "sum": 3.0, "max": 2.0}}
    assert found["findings"] == [f"{tmp_path / 'b'}: something"]
    told = CliRunner().invoke(chaos, ["--sum", str(tmp_path / "a"), "--sum", str(tmp_path / "b")])
    assert "2 runs, 3.0 minutes" in told.output and "kill-one" in told.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--faults", "no-such"], "there is no fault 'no-such'"),
        (["--minutes", "1", "--cycles", "1"], "one of --minutes and --cycles"),
        (["--report", "."], "there is something already"),
        (["--sum", "."], "no report of a run that is over"),
    ],
)
def test_a_wrong_call_is_told_in_a_line(words: list[str], text: str) -> None:
    done = CliRunner().invoke(chaos, words)
    assert done.exit_code == 2 and text in done.output
