"""`bench recovery`: what a crash, an absence and a move cost, in four parts (`restart`, `catch-up`, `move`, `fail-over`).

The results of the report, each with `kind` and `figures` ({name: {median spread rounds}}):

    restart    peers, keys; first_get_s (from `imported` to the first linearizable get), listening_s, memory_mb
    catch-up   how, by (image or log), bytes (of the values it missed); seconds, mb_per_s
    move       load, bytes, rate_per_s; seconds, mb_per_s, memory_mb (the most of any peer), and of the others' load: share
               (of the rate that was asked for), p50_ms, p99_ms, p999_ms
    fail-over  way, trials, pauses_ms (all of them, ascending); min_ms p50_ms p90_ms p99_ms max_ms
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.bench.failover import failovers
from tools.bench.moving import moving
from tools.bench.report import Report, Reporting, Tell
from tools.bench.restart import catching_up, restarts

PARTS = ("restart", "catch-up", "move", "fail-over")


@dataclass(frozen=True)
class Plan:
    """How much of each part is done, and which parts."""

    keys: tuple[int, ...] = (10_000, 100_000)
    replicas: tuple[int, ...] = (1, 3)
    rounds: int = 5
    absent_keys: int = 50_000
    catch_up_rounds: int = 3
    move_bytes: int = 100 << 20
    move_rounds: int = 3
    measure_s: float = 3.0
    trials: int = 20
    parts: tuple[str, ...] = PARTS


QUICK = Plan(rounds=2, keys=(10_000,), absent_keys=20_000, catch_up_rounds=1, move_rounds=1, measure_s=2.0, trials=6)
STANDARD = Plan()
FULL = Plan(keys=(10_000, 100_000, 1_000_000), rounds=9, absent_keys=200_000, move_rounds=5, measure_s=10.0, trials=200)


async def run_recovery(folder: Path, plan: Plan, tell: Tell) -> Report:
    """Do the plan's parts, one after another, each on a cluster of its own under `folder`."""
    reporting = Reporting("recovery", folder)
    results = reporting.report.results
    reporting.probe()
    if "restart" in plan.parts:
        for replicas in plan.replicas:
            place = folder / f"restart-{replicas}"
            results += await restarts(place, plan.keys, plan.rounds, replicas, tell)
        reporting.probe()
    if "catch-up" in plan.parts:
        results += await catching_up(folder / "catch-up", plan.absent_keys, plan.catch_up_rounds, tell)
        reporting.probe()
    if "move" in plan.parts:
        results += await moving(folder / "move", plan.move_bytes, plan.move_rounds, plan.measure_s, tell)
        reporting.probe()
    if "fail-over" in plan.parts:
        results += await failovers(folder / "fail-over", plan.trials, tell)
    reporting.probe()
    return reporting.end()
