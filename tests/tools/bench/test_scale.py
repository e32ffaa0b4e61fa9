"""`bench scale` in its smallest form, on real processes. No figure is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.bench.scale import Plan, run_scale
from tools.bench.show_scale import scale_charts, scale_grids
from tools.cli.main import cli

TINY = Plan(
    groups=(1,),
    rounds=1,
    warm_up_s=0.1,
    measure_s=0.3,
    idle_groups=(1,),
    idle_s=0.5,
    idle_rounds=1,
    keys=(100, 200),
    overwrites=(100,),
    settle_s=0.2,
)


@pytest.mark.process
@pytest.mark.system  # ten seconds
async def test_every_part_of_scale_is_measured(tmp_path: Path) -> None:
    report = await run_scale(tmp_path, TINY, lambda line: None)
    kinds = [(result["kind"], result.get("count")) for result in report.results]
    growth = [("growth", count) for count in (0, 100, 200, 0, 100)]
    assert kinds == [("groups", None), ("idle", None), *growth]
    for result in report.results:
        assert all(found["median"] >= 0 for found in result["figures"].values())
    assert [len(grid.rows) for grid in scale_grids(report)] == [1, 1, 5]
    assert "a million keys add" in scale_grids(report)[-1].title
    assert len(scale_charts(report)) == 3
    json.dumps(report.as_json(), allow_nan=False)


@pytest.mark.process
async def test_an_idle_group_is_measured(tmp_path: Path) -> None:
    plan = Plan(idle_groups=(1,), idle_s=0.5, idle_rounds=1, settle_s=0.2, parts=("idle",))
    (found,) = (await run_scale(tmp_path, plan, lambda line: None)).results
    assert found["figures"]["messages_per_s"]["median"] > 0
    assert found["figures"]["memory_mb"]["median"] > 1


@pytest.mark.parametrize("name", ["recovery", "scale"])
@pytest.mark.parametrize("words", [["--keys", "5,5"], ["--keys", "0"], ["--parts", "nothing"]])
def test_a_wrong_call_is_refused(name: str, words: list[str]) -> None:
    done = CliRunner().invoke(cli, ["bench", name, *words])
    assert done.exit_code == 2
