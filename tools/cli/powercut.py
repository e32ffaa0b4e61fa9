"""`shardkv powercut`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tools.cli.common import NEGATIVE, UNREACHABLE, USAGE, fail, json_option, put_out, tell

if TYPE_CHECKING:
    from tools.powercut.campaign import Recorded, Report

TARGETS = ("store", "peer")
TOLD_FAILURES = 10
"""So many failures are told in full where a person reads them."""


@click.command()
@click.argument("targets", nargs=-1, type=click.Choice(TARGETS), metavar="[store|peer]...")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Decides the load and the states.")
@click.option("--states", type=click.IntRange(1), help="How many different states.  [default: store 2500, peer 1500]")
@click.option("--jobs", type=click.IntRange(1), help="Processes that recover.  [default: one per core]")
@click.option("--plant", metavar="BUG", help="Record with a bug planted, to see that it is found; `list` names them.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep recording and failed states here.")
@click.option(
    "--recording",
    "again",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Record nothing: take a recording that was kept.",
)
@click.option("--state", "name", metavar="STATE", help="With --recording: recover this one state.")
@json_option
def powercut(
    targets: tuple[str, ...],
    seed: int,
    states: int | None,
    jobs: int | None,
    plant: str | None,
    keep: Path | None,
    again: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Record what a program writes, make of it the states that a power cut may leave, recover each, and check that all that
    was acknowledged is there. Needs strace.

    \b
    Example: shardkv powercut store --states 500
    --json: an object per target: target seed planted steps candidates looked distinct recovered kinds covered seconds
    recording failures; a failure has state wrong owed lost kept reproduce.
    Exit code 1 if a state fails, 3 if nothing can be recorded.
    """
    if plant == "list":
        _list(as_json)
        return
    if name is not None and again is None:
        fail("--state goes with --recording: a state is one of a recording", USAGE)
    if again is not None:
        if plant is not None or targets:
            fail("--recording says what was recorded: give no target and no --plant with it", USAGE)
        failed = _campaign(again, again, states, jobs, keep, name, as_json)
    else:
        failed = False
        for target in _targets(targets, plant):
            failed |= _recorded(target, seed, plant or "", states, jobs, keep, as_json)
    sys.exit(NEGATIVE if failed else 0)


def _list(as_json: bool) -> None:
    from tools.powercut.planted import PLANTED

    for name, mutant in PLANTED.items():
        row = {"name": name, "source": mutant.source, "why": mutant.why}
        put_out(row) if as_json else click.echo(f"{name}: {mutant.why} ({mutant.source})")


def _targets(targets: tuple[str, ...], plant: str | None) -> tuple[str, ...]:
    from tools.powercut.planted import PLANTED, TARGET_OF

    if plant is None:
        return targets or TARGETS
    if plant not in PLANTED:
        fail(f"there is no planted bug {plant!r}: see shardkv powercut --plant list", USAGE)
    return targets or (TARGET_OF[plant],)


def _recorded(
    target: str, seed: int, planted: str, states: int | None, jobs: int | None, keep: Path | None, as_json: bool
) -> bool:
    """Record and judge; whether a state failed. The recording stays where it can be used again, if one did."""
    from tools.powercut.strace import BadTrace
    from tools.powercut.targets import make_recording

    try:
        if keep is not None:
            folder = keep / target
            if folder.exists():
                fail(f"--keep: {folder} is there already", USAGE)
            folder.mkdir(parents=True)
        else:
            folder = Path(tempfile.mkdtemp(prefix=f"powercut-{target}-"))
        tell(f"recording {target}")
        make_recording(target, folder, seed, planted)
        failed = _campaign(folder, folder, states, jobs, keep, None, as_json)
    except (BadTrace, OSError) as error:
        fail(str(error), UNREACHABLE)
    if keep is None and not failed:
        shutil.rmtree(folder)
    return failed


def _campaign(
    folder: Path, shown: Path, states: int | None, jobs: int | None, keep: Path | None, name: str | None, as_json: bool
) -> bool:
    """Judge the states of a recording and tell about it."""
    from tools.powercut.campaign import campaign, one_state
    from tools.powercut.states import Survivors
    from tools.powercut.strace import BadTrace
    from tools.powercut.targets import STATES, read

    try:
        recorded = read(folder)
        kept = None if keep is None else keep / f"{recorded.target}-states"
        if name is not None:
            report = one_state(recorded, seed=recorded.seed, state=Survivors.parse(name), keep=kept)
        else:
            wanted = states or STATES[recorded.target]
            report = campaign(
                recorded,
                seed=recorded.seed,
                states=wanted,
                jobs=jobs or os.cpu_count() or 1,
                keep=kept,
                told=_progress(wanted),
            )
    except (ValueError, KeyError) as error:
        fail(f"{folder}: {error}", USAGE)
    except (BadTrace, OSError) as error:
        fail(str(error), UNREACHABLE)
    _tell(recorded, report, shown, as_json)
    return bool(report.failures)


def _progress(wanted: int) -> Any:
    """Tells a person at a terminal how far it is, now and then."""
    step = max(1, wanted // 10)
    before = [0]

    def told(distinct: int) -> None:
        if distinct >= before[0] + step:
            before[0] = distinct
            tell(f"{distinct} of {wanted} states")

    return told


def _tell(recorded: Recorded, report: Report, folder: Path, as_json: bool) -> None:
    row: dict[str, Any] = {**report.as_json(), "planted": recorded.planted, "recording": str(folder)}
    if not report.failures:
        row["recording"] = ""
    for failure in row["failures"]:
        failure["reproduce"] = f"shardkv powercut --recording {folder} --state {failure['state']}"
    if as_json:
        put_out(row)
        return
    kinds = ", ".join(f"{count} of {report.candidates[kind]} {kind}" for kind, count in report.looked.items())
    with_bug = f" with {recorded.planted}" if recorded.planted else ""
    click.echo(
        f"{report.target}{with_bug}, seed {report.seed}: {report.distinct} different states, {report.recovered} recoveries "
        f"in {report.seconds:.0f} s, {len(report.failures)} failed"
    )
    click.echo(f"  looked at, of {report.steps} steps: {kinds}")
    click.echo(f"  recorded: {', '.join(f'{count} {what}' for what, count in report.covered.items())}")
    for failure in row["failures"][:TOLD_FAILURES]:
        click.echo(f"  {failure['state']}: {'; '.join(failure['wrong'])}")
        owed = ", ".join(
            f"{key} {value}" for key, value in failure["owed"].items() if not isinstance(value, dict | list)
        )
        click.echo(f"    acknowledged by then: {owed}")
        click.echo(f"    did not survive: {', '.join(failure['lost']) or 'nothing was lost'}")
        if failure["kept"]:
            click.echo(f"    its files: {failure['kept']}")
        click.echo(f"    reproduce: {failure['reproduce']}")
    if len(report.failures) > TOLD_FAILURES:
        click.echo(f"  and {len(report.failures) - TOLD_FAILURES} more: see --json")
