"""`bench recovery` and `bench controllers` in their smallest forms, on real processes. No time is judged."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.bench.controllers import Case, Watch, cases, chosen, run_controllers, unavailable, watched
from tools.bench.controllers import Plan as ControllersPlan
from tools.bench.failover import Puts
from tools.bench.recovery import Plan, run_recovery
from tools.bench.show_controllers import controllers_charts, controllers_grids
from tools.bench.show_recovery import recovery_charts, recovery_grids
from tools.cli.main import cli

TINY = Plan(
    keys=(50, 100),
    replicas=(1,),
    rounds=1,
    absent_keys=50,
    catch_up_rounds=1,
    move_bytes=1 << 20,
    move_rounds=1,
    measure_s=0.3,
    trials=1,
)


@pytest.mark.process
@pytest.mark.system  # half a minute: it writes more than a log holds
async def test_every_part_of_recovery_is_measured(tmp_path: Path) -> None:
    report = await run_recovery(tmp_path, TINY, lambda line: None)
    kinds = [result["kind"] for result in report.results]
    assert kinds == ["restart"] * 2 + ["catch-up"] * 3 + ["move"] * 3 + ["fail-over"] * 2
    behind = {result["how"]: result["by"] for result in report.results if result["kind"] == "catch-up"}
    assert behind == {"it has nothing": "image", "it is far behind": "image", "it was away for a moment": "log"}
    for result in report.results:
        assert all(found["median"] is not None for found in result["figures"].values())
    assert len(recovery_grids(report)) == 4 and len(recovery_charts(report)) == 2
    json.dumps(report.as_json(), allow_nan=False)


@pytest.mark.process
@pytest.mark.system
async def test_a_group_is_killed_and_its_first_get_timed(tmp_path: Path) -> None:
    plan = Plan(keys=(50,), replicas=(1,), rounds=1, trials=1, parts=("restart", "fail-over"))
    report = await run_recovery(tmp_path, plan, lambda line: None)
    restart, kill, stop = report.results
    assert restart["figures"]["listening_s"]["median"] > 0
    assert restart["figures"]["first_get_s"]["median"] > 0
    assert [kill["way"], stop["way"]] == ["kill", "stop"] and kill["pauses_ms"][0] > 0 < stop["pauses_ms"][0]


@pytest.mark.process
async def test_controllers_are_compared_and_a_case_that_is_none_is_told(tmp_path: Path) -> None:
    some = (Case("kvsrv", 1, "follower", "reliable"), Case("kvraft", 3, "leader", "reliable"))
    report = await run_controllers(tmp_path, ControllersPlan(some, rounds=1, watch_s=0.3), lambda line: None)
    none, found = report.results
    assert (none["case"], none["figures"], found["error"]) == (False, {}, None)
    figures = {name: one["median"] for name, one in found["figures"].items()}
    assert figures["rpcs"] > figures["ops"] > 100 and figures["seconds"] > 0
    (grid,) = controllers_grids(report)
    assert grid.rows[0][2:] == ["n/a"] * 8 and "n/a" not in grid.rows[1]
    assert len(controllers_charts(report)) == 2
    json.dumps(report.as_json(), allow_nan=False)


@pytest.mark.process
@pytest.mark.system
async def test_controllers_are_compared_on_the_unreliable_network(tmp_path: Path) -> None:
    some = (Case("kvraft", 1, "nobody", "unreliable"),)
    plan = ControllersPlan(some, unreliable_rounds=1, unreliable_watch_s=0.3)
    (found,) = (await run_controllers(tmp_path, plan, lambda line: None)).results
    assert found["error"] is None and found["figures"]["seconds"]["median"] > 0


# --- what needs no process -------------------------------------------------------------------------------------------


def test_every_store_meets_every_fault_on_both_networks() -> None:
    found = cases()
    assert len(found) == len(set(found)) == 5 * 4 * 2
    assert [case.name() for case in found if not case.exists] == [
        f"{store} of 1, follower down, {network}"
        for network in ("reliable", "unreliable")
        for store in ("kvsrv", "kvraft")
    ]


def test_cases_can_be_chosen() -> None:
    plan = chosen(ControllersPlan(cases()), ["reliable"], ["leader", "nobody"])
    assert {(case.network, case.down) for case in plan.cases} == {("reliable", "leader"), ("reliable", "nobody")}
    assert chosen(plan, [], []) == plan
    assert {chosen(plan, [], [], rounds=7).rounds_of(case) for case in cases()} == {7}
    done = CliRunner().invoke(cli, ["bench", "controllers", "--quick", "--networks", "unreliable"])
    assert done.exit_code == 2


def test_nobody_answered_in_the_long_pauses_only() -> None:
    answered = [0.5, 1.01, 1.02, 1.5, 1.51, 2.5]
    assert unavailable(1.0, answered, 2.0, 0.05) == pytest.approx(0.48 + 0.49)
    assert unavailable(1.0, [], 2.0, 0.05) == pytest.approx(1.0)
    assert unavailable(1.0, [1.0 + number / 100 for number in range(101)], 2.0, 0.05) == 0


def test_without_a_change_there_is_no_latency_of_changes() -> None:
    found = watched(Watch(queries=[0.001, 0.002], answered=[1.0]), 1.0, 1.01, 0.05)
    assert (found["query_count"], found["change_count"], found["change_p50_ms"]) == (2.0, 0.0, None)
    assert found["query_p50_ms"] == pytest.approx(1.0)


def test_the_longest_pause_is_that_around_the_event() -> None:
    puts = Puts()
    puts.answered = [0.0, 5.0, 5.1, 5.2, 5.9, 6.0, 6.1]
    assert puts.longest_pause(5.25) == pytest.approx(0.7)
    assert all(later > earlier for earlier, later in pairwise(puts.answered))
