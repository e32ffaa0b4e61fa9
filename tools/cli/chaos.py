"""`shardkv chaos`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tools.cli.common import USAGE, fail, json_option, put_out, put_table, run, tell

if TYPE_CHECKING:
    import trio

    from tools.chaos.arena import Arena
    from tools.chaos.load import Meter
    from tools.chaos.run import Outcome, Plan

VIOLATION, NO_CONVERGENCE = 1, 5
_CODES = {"passed": 0, "violation": VIOLATION, "no convergence": NO_CONVERGENCE}


@click.command()
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="How long.  [default: 5]")
@click.option("--cycles", type=click.IntRange(1), help="Instead: until every fault and pair was struck so often.")
@click.option("--seed", type=click.IntRange(0), help="What is drawn, from faults to victims.  [default: a new one]")
@click.option("--faults", metavar="NAME,...", help="Only these faults, or kinds of them (see --list).")
@click.option("--peers", type=click.IntRange(1, 9), default=3, show_default=True, help="Controller peers.")
@click.option("--groups", type=click.IntRange(1, 20), default=2, show_default=True, help="Shard groups.")
@click.option("--replicas", type=click.IntRange(1, 9), default=3, show_default=True, help="Peers of a shard group.")
@click.option(
    "--clients", type=click.IntRange(1, 500), default=8, show_default=True, help="Clients that read and write."
)
@click.option("--no-moves", is_flag=True, help="Do not move shards all the while.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), help="Where to.  [default: ./chaos-SEED]")
@click.option("--list", "as_list", is_flag=True, help="The faults, what each needs, and whether that is here.")
@click.option(
    "--sum",
    "reports",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="REPORT",
    help="Play nothing: what these reports say together.",
)
@json_option
def chaos(
    minutes: float | None,
    cycles: int | None,
    seed: int | None,
    faults: str | None,
    peers: int,
    groups: int,
    replicas: int,
    clients: int,
    no_moves: bool,
    report: Path | None,
    as_list: bool,
    reports: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Torment a cluster of real processes under load, and judge what its clients saw and what its disks hold.

    Kills, pauses, partitions, slow and lossy links, disks that are full, fail, forget or hang, clocks that jump, changes of
    the configuration, and pairs of these. The report is a page (report.html) with its figures (report.json) and every
    operation (history.jsonl, for `shardkv check`); after a failure also all directories of the peers (cluster/).

    \b
    Example: shardkv chaos --minutes 1 --faults kill,partition --seed 7
    Exit codes: 0 nothing wrong, 1 a violation, 3 no cluster came up, 5 it did not come back after a fault.
    --json: verdict seed lasted_s controllers groups replicas clients findings cycles pairs missed skipped
    acknowledged_writes answered_reads failed moves latency_s seconds_without_a_write measured judged report; with --list
    an object per fault: name kind what needs missing; with --sum the sums: verdict runs lasted_s acknowledged_writes
    answered_reads failed moves seconds_without_a_write cycles pairs missed verdicts skipped measured findings.
    """
    from tools.chaos.faults import UnknownFault, chosen_faults

    try:
        chosen = chosen_faults(faults)
    except UnknownFault as unknown:
        fail(str(unknown), USAGE)
    if as_list:
        _list(chosen, as_json)
        return
    if reports:
        _sum(reports, as_json)
    if minutes is not None and cycles is not None:
        fail("one of --minutes and --cycles", USAGE)
    plan = _plan(minutes, cycles, seed, faults, clients, not no_moves, (peers, groups, replicas))
    folder = report or Path(f"chaos-{plan.seed}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fail(f"{folder}: there is something already: name another --report", USAGE)
    outcome = _play(plan, folder)
    _tell(outcome, folder, as_json)
    sys.exit(_CODES[outcome.verdict])


def _plan(
    minutes: float | None,
    cycles: int | None,
    seed: int | None,
    faults: str | None,
    clients: int,
    moves: bool,
    sizes: tuple[int, int, int],
) -> Plan:
    from secrets import randbelow

    from tools.chaos.run import Plan
    from tools.layout import Layout

    peers, groups, replicas = sizes
    return Plan(
        minutes=minutes or 5.0,
        cycles=cycles,
        seed=randbelow(1 << 32) if seed is None else seed,
        faults=faults,
        layout=Layout(ctrl_peers=peers, groups=groups, replicas=replicas),
        clients=clients,
        moves=moves,
    )


def _play(plan: Plan, folder: Path) -> Outcome:
    """Run it, and leave the report."""
    from tools.chaos.kv_load import KvWorkload
    from tools.chaos.page import page
    from tools.chaos.run import run as play
    from tools.chaos.run import summary

    folder.mkdir(parents=True, exist_ok=True)
    tell(f"seed {plan.seed}, report in {folder}")
    with (folder / "history.jsonl").open("w", encoding="utf-8") as file:

        async def work() -> Outcome:
            import trio

            async with trio.open_nursery() as nursery:
                status = _Status(nursery)
                outcome = await play(plan, folder, KvWorkload(file=file), status.line, status.watch)
                nursery.cancel_scope.cancel()
            return outcome

        outcome = run(work)
    (folder / "report.json").write_text(json.dumps(summary(outcome), indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(outcome), encoding="utf-8")
    return outcome


class _Status:
    """A line that is written over each second, where a person looks; the steps scroll by above it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._shown = sys.stderr.isatty()

    def line(self, text: str) -> None:
        """A step."""
        if self._shown:
            click.echo(f"\r\x1b[K  {text}", err=True)

    def watch(self, meter: Meter, arena: Arena) -> None:
        """The run has begun."""
        if self._shown:
            self._nursery.start_soon(self._keep, meter, arena)

    async def _keep(self, meter: Meter, arena: Arena) -> None:
        import trio

        while True:
            second = meter.seconds[-2] if len(meter.seconds) > 1 else None
            rate = "" if second is None else f", {second.writes} writes and {second.reads} reads in the last second"
            down = f", down: {' '.join(sorted(arena.dead))}" if arena.dead else ""
            text = f"{meter.now():.0f} s: {meter.acknowledged} writes acknowledged, {meter.failed} without answer{rate}{down}"
            click.echo(f"\r\x1b[K{text:.118}", err=True, nl=False)
            await trio.sleep(1.0)


def _tell(outcome: Outcome, folder: Path, as_json: bool) -> None:
    from tools.chaos.run import summary

    found: dict[str, Any] = {**summary(outcome), "report": str(folder)}
    if as_json:
        put_out(found)
        return
    click.echo(
        f"{outcome.verdict}: seed {found['seed']}, {found['lasted_s']:.0f} s, {found['acknowledged_writes']} writes "
        f"acknowledged, {found['answered_reads']} reads, {found['failed']} without an answer, {found['moves']} moves; "
        f"{sum(found['cycles'].values())} faults struck; {found['judged'] or 'nothing could be judged'}"
    )
    for line in outcome.findings:
        click.echo(f"  {line}")
    for name, why in outcome.skipped.items():
        click.echo(f"  skipped: {name} {why}")
    click.echo(f"  {folder / 'report.html'}")


def _sum(reports: tuple[Path, ...], as_json: bool) -> NoReturn:
    from tools.chaos.totals import NoReport, totals

    try:
        found = totals(reports)
    except NoReport as problem:
        fail(str(problem), USAGE)
    if as_json:
        put_out(found)
        sys.exit(0 if found["verdict"] == "passed" else VIOLATION)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdicts"].items())
    click.echo(
        f"{found['runs']} runs, {found['lasted_s'] / 60:.1f} minutes: {verdicts}; "
        f"{found['acknowledged_writes']:.0f} writes acknowledged, {found['answered_reads']:.0f} reads, "
        f"{found['failed']:.0f} without an answer, {found['moves']:.0f} moves"
    )
    from rich.table import Table

    table = Table("fault or pair", "struck", "missed")
    for name, count in {**found["cycles"], **found["pairs"]}.items():
        table.add_row(name, str(count), str(found["missed"].get(name, "")))
    put_table(table)
    table = Table("measured", "count", "sum", "most")
    for what, figures in found["measured"].items():
        table.add_row(what, *(f"{figures[word]:g}" for word in ("count", "sum", "max")))
    put_table(table)
    for line in found["findings"]:
        click.echo(f"  {line}")
    sys.exit(0 if found["verdict"] == "passed" else VIOLATION)


def _list(chosen: list[Any], as_json: bool) -> None:
    rows = [
        {"name": f.name, "kind": f.kind.value, "what": f.what, "needs": f.needs, "missing": f.missing()} for f in chosen
    ]
    if as_json:
        for row in rows:
            put_out(row)
        return
    from rich.table import Table

    table = Table("fault", "kind", "what", "needs", "here")
    for row in rows:
        table.add_row(row["name"], row["kind"], row["what"], row["needs"], row["missing"] or "yes")
    put_table(table)
