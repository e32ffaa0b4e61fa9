"""`bench kv` in its smallest form, on real processes. No figure is judged: only that each is there and can be one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from shardkv.methods import Method
from tools.admin import network
from tools.bench.etcd import PROGRAMS, etcd_system
from tools.bench.kv import run_kv
from tools.bench.ours import our_system
from tools.bench.plans import Plan, Point
from tools.bench.report import Report
from tools.bench.show_kv import kv_charts, kv_grids
from tools.bench.workload import Workload
from tools.cli.main import cli
from tools.layout import Layout
from tools.processes import child_environment, is_locked


def tiny(*points: Point) -> Plan:
    return Plan(points, rounds=1, warm_up_s=0.1, measure_s=0.3)


def check(report: Report) -> None:
    assert len(report.probes) >= 2 and all(probe["commit_p50_ms"] > 0 for probe in report.probes)
    for result in report.results:
        figures = {name: found["median"] for name, found in result["figures"].items()}
        assert figures["ops_per_s"] > 0
        assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"]
        assert result["cpu_us"]["load"] > 0
        if result["workload"]["operation"] == "put":
            assert figures["syncs_per_op"] > 0
    json.dumps(report.as_json(), allow_nan=False)


@pytest.mark.process
async def test_every_kind_of_client_is_measured(tmp_path: Path) -> None:
    points = (
        Point(Workload("put", 8, 16)),
        Point(Workload("50/50", 9, 16, "zipf", connections=0)),
        Point(Workload("get", 4, 16, driver="clerk")),
        Point(Workload("get", 4, 16), lease_reads=True),
    )
    lines: list[str] = []
    report = await run_kv(tmp_path, tiny(*points), lines.append, generators=2)
    check(report)
    assert [result["point"] for result in report.results] == [point.name() for point in points]
    assert {"server-1-0", "server-1-1", "server-1-2", "load"} <= set(report.results[0]["cpu_us"])
    assert any("round 1 of 1" in line for line in lines)
    (grid,) = kv_grids(report)
    assert len(grid.rows) == len(points)
    assert len(kv_charts(report)) == 2


@pytest.mark.system
@pytest.mark.process
@pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason="needs etcd-server and wrk")
async def test_etcd_is_measured_beside_ours(tmp_path: Path) -> None:
    points = (Point(Workload("put", 8)), Point(Workload("get", 8)), Point(Workload("get", 8), lease_reads=True))
    report = await run_kv(tmp_path, tiny(*points), lambda line: None, another=etcd_system)
    check(report)
    assert [(result["system"], "ratio" in result) for result in report.results] == [
        ("shardkv", True),
        ("etcd", False),
        ("shardkv", True),
        ("etcd", False),
        ("shardkv leases", True),
    ]
    assert {system["interface"] for system in report.systems} == {"own protocol", "JSON gateway, wrk"}


@pytest.mark.process
@pytest.mark.system
async def test_a_load_follows_a_leader_that_hands_over(tmp_path: Path) -> None:
    load = Workload("50/50", 16, 16)
    async with our_system(tmp_path / "c", Layout(ctrl_peers=1, groups=1, replicas=3), "shardkv") as system:
        await system.fill(load)
        leader = await system.cluster.leader(1)
        heir = next(peer for peer, name in enumerate(system.cluster.addresses(1)) if name != leader)

        async def hand_over() -> None:
            async with network(system.cluster.manifest.cluster) as rpc:
                reply = await rpc.call(system.cluster.address(leader), Method.PEER_TRANSFER, [heir], timeout_s=5.0)
                assert reply == [0, True]

        sample = await system.measure(load, 0.1, 2.0, 1, on_begin=hand_over)
        assert await system.cluster.leader(1) == f"server-1-{heir}"
    assert sample.repeated > 0
    assert sample.roles[f"server-1-{heir}"] == "leader" and sample.operations > 0


@pytest.mark.process
@pytest.mark.system
@pytest.mark.parametrize("shell", [[], ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]], ids=["", "as a script's &"])
def test_told_to_end_it_leaves_no_process_and_no_directory(tmp_path: Path, shell: list[str]) -> None:
    command = [sys.executable, "-m", "tools.cli.main", "bench", "scale", "--parts", "idle", "--dir", str(tmp_path)]
    done = subprocess.Popen(
        shell + command, env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        peers = trio.run(_running_peers, tmp_path)
        done.terminate()
        assert done.wait(timeout=60) == 130
    finally:
        done.kill()
    assert peers and not any(_runs_in(tmp_path, pid) for pid in peers)
    assert list(tmp_path.iterdir()) == []


def _runs_in(folder: Path, pid: int) -> bool:
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def _running_peers(folder: Path) -> list[int]:
    """The pids of peers that run there; waits for some."""
    with trio.fail_after(60):
        while True:
            words = [file.read_text().split() for file in folder.rglob("server-*.pid") if is_locked(file)]
            if found := [int(pid) for pid, *_ in filter(None, words)]:
                return found
            await trio.sleep(0.02)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(cli, ["bench", "kv", "--quick", "--against", "etcd"])
    assert done.exit_code == 3
    assert "etcd is not installed: Debian's package etcd-server has it" in str(done.output)


@pytest.mark.parametrize(
    "words",
    [["--operations", "swap"], ["--clients", "1,x"], ["--clients", "0"], ["--values", "2000000"], ["--groups", "9"]],
)
def test_a_wrong_call_is_refused(words: list[str]) -> None:
    done = CliRunner().invoke(cli, ["bench", "kv", *words])
    assert done.exit_code == 2
