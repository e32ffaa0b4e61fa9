"""`shardkv simulate`."""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tools.cli.common import fail, json_option, put_out, tell

if TYPE_CHECKING:
    from tools.swarm.campaign import Report
    from tools.swarm.run import Outcome

VIOLATION, NO_CONVERGENCE, CRASH, DIFFERS = 1, 5, 6, 7
_CODES = {"violation": VIOLATION, "no convergence": NO_CONVERGENCE, "crash": CRASH}


@click.command()
@click.option("--seed", type=click.IntRange(0), help="Play this one seed.")
@click.option("--seeds", type=click.IntRange(1), help="Play so many seeds.  [default: 20]")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first of --seeds.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Play new seeds for so long.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at once.  [default: one per core]")
@click.option("--no-invariants", is_flag=True, help="Judge by the clients' histories alone.")
@click.option("--events", is_flag=True, help="With --seed: tell what happens, a line per event.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="With --seed: write its picture here.")
@click.option("--marks", is_flag=True, help="How often each fault and each rare branch was reached.")
@json_option
def simulate(
    seed: int | None,
    seeds: int | None,
    first: int,
    minutes: float | None,
    jobs: int | None,
    no_invariants: bool,
    events: bool,
    html: Path | None,
    marks: bool,
    as_json: bool,
) -> None:
    """Play whole clusters with faults, in virtual time, from seeds, and check everything that they may never break.

    \b
    Example: shardkv simulate --seeds 100
    Exit codes: 0 all passed, 1 a violation, 5 no convergence after the faults, 6 a crash of our own code, 7 a seed that
    played differently in another process. --json: a line per seed (seed verdict check text shape virtual_s cpu_s operations
    steps trace marks), then one with the sums.
    """
    if sum(choice is not None for choice in (seed, seeds, minutes)) > 1:
        fail("one of --seed, --seeds and --minutes", 2)
    if seed is not None:
        _one(seed, not no_invariants, events, html, as_json)
        return
    if events or html is not None:
        fail("--events and --html go with --seed", 2)
    from tools.swarm.campaign import campaign

    start = secrets.randbelow(1 << 40) if minutes is not None else first
    count = None if minutes is not None else seeds or 20
    if minutes is not None and not as_json:
        click.echo(f"seeds from {start} on, for {minutes:g} minutes")
    report = campaign(
        itertools.count(start) if count is None else iter(range(start, start + count)),
        jobs=jobs or os.cpu_count() or 1,
        until=None if minutes is None else time.monotonic() + 60 * minutes,
        invariants=not no_invariants,
        told=lambda outcome: _tell(outcome, as_json),
    )
    _sums(report, marks, as_json)
    codes = [_CODES[outcome.verdict] for outcome in report.failures]
    sys.exit(min(codes) if codes else DIFFERS if report.differing else 0)


def _one(seed: int, invariants: bool, events: bool, html: Path | None, as_json: bool) -> None:
    from tools.swarm.run import play
    from tools.swarm.story import Story

    story = Story(on_line=click.echo if events else None)
    outcome = play(seed, invariants=invariants, story=story.attach)
    if html is not None:
        html.write_text(story.html(outcome), encoding="utf-8")
    _tell(outcome, as_json, always=True)
    sys.exit(_CODES.get(outcome.verdict, 0))


def _tell(outcome: Outcome, as_json: bool, *, always: bool = False) -> None:
    if as_json:
        put_out(asdict(outcome))
        return
    line = f"seed {outcome.seed}: {outcome.verdict}, {outcome.virtual_s:.1f} virtual s, {outcome.operations} operations"
    if outcome.verdict == "passed":
        if always:
            click.echo(f"{line}\n  {outcome.shape}\n  trace {outcome.trace}")
        else:
            tell(line)
        return
    click.echo(line)
    click.echo(f"  {outcome.shape}")
    for text in outcome.text.splitlines():
        click.echo(f"  {text}")
    click.echo(f"  reproduce: shardkv simulate --seed {outcome.seed} --html seed-{outcome.seed}.html")


def _sums(report: Report, marks: bool, as_json: bool) -> None:
    found: dict[str, Any] = {
        "seeds": report.seeds,
        "passed": report.passed,
        "failed": [outcome.seed for outcome in report.failures],
        "wall_s": round(report.wall_s, 1),
        "cpu_s": round(report.cpu_s, 1),
        "virtual_s": round(report.virtual_s, 1),
        "operations": report.operations,
        "steps": report.steps,
        "compared": report.compared,
        "differing": report.differing,
        "marks": report.marks,
        "seeds_with": report.seeds_with,
    }
    if as_json:
        put_out(found)
        return
    click.echo(
        f"{report.seeds} seeds, {report.passed} passed: {report.virtual_s / 3600:.2f} virtual hours, "
        f"{report.operations} operations, {report.steps} checked steps, {report.cpu_s:.0f} CPU s; "
        f"{report.compared} played twice, {len(report.differing)} differ"
    )
    if marks:
        for name in sorted(report.marks):
            click.echo(f"  {report.marks[name]:>9} times in {report.seeds_with[name]:>5} seeds  {name}")
