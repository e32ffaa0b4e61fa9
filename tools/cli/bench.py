"""`shardkv bench`."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tools.cli.common import NEGATIVE, USAGE, fail, json_option, one_line_errors, put_out, put_table, run, tell, warn

if TYPE_CHECKING:
    from tools.bench.charts import Chart
    from tools.bench.grid import Grid
    from tools.bench.report import Report

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Output:
    """How a report is shown."""

    as_json: bool
    markdown: bool
    picture: Path | None


@click.group()
def bench() -> None:
    """How fast it is on this machine, beside what the machine's disk does at the moment.

    \b
    Example: shardkv bench kv --quick
    Every benchmark works in a temporary directory, with real processes and synced disks, and ends all of them.
    """


def bench_options(command: F) -> F:
    """`--quick`, `--full`, `--dir`, `--picture`, `--markdown`, `--json`: of every benchmark."""
    command = json_option(command)
    command = click.option("--markdown", is_flag=True, help="The tables as in the docs.")(command)
    command = click.option(
        "--picture",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the pictures here, as SVG; to a .html, a page with the tables too.",
    )(command)
    command = click.option(
        "--dir",
        "parent",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Where the temporary directory is made: the disk to measure.  [default: the system's]",
    )(command)
    command = click.option("--full", "form", flag_value="full", help="The long form.")(command)
    return click.option("--quick", "form", flag_value="quick", help="The form of about two minutes.")(command)


def measured(parent: Path | None, work: Callable[[Path], Awaitable[Report]]) -> Report:
    """Do the work in a temporary directory; its errors end the command. Told to end (SIGTERM), it ends its processes first,
    as it does at a Ctrl-C: whoever limits its time finds no cluster left. A script's background command has SIGINT ignored,
    and would take no notice of either."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    folder = Path(tempfile.mkdtemp(prefix="shardkv-bench-", dir=parent))
    try:
        return run(lambda: work(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def show(report: Report, output: Output, grids: Sequence[Grid], charts: Sequence[Chart]) -> None:
    """The report as JSON, or as tables under a line about the machine and one about its disk; the pictures in their file."""
    if output.picture is not None:
        from tools.bench.charts import stacked
        from tools.bench.page import page

        as_page = output.picture.suffix in (".html", ".htm")
        text = page(report, grids, charts) if as_page else stacked(charts)
        with one_line_errors():
            output.picture.write_text(text, encoding="utf-8")
    if output.as_json:
        put_out(report.as_json())
    else:
        click.echo(report.machine_text())
        click.echo(report.probe_text())
        for grid in grids:
            put_grid(grid, output.markdown)
    for line in report.warnings:
        warn(line)


def put_grid(grid: Grid, markdown: bool) -> None:
    """One table."""
    if markdown:
        click.echo(f"\n{grid.title}\n\n{grid.markdown()}")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=grid.title, title_justify="left")
    for at, name in enumerate(grid.columns):
        table.add_column(name, justify="left" if at < grid.words else "right")
    for row in grid.rows:
        table.add_row(*row)
    put_table(table)


def numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    """`1,8,64` as numbers."""
    try:
        found = tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers with commas between") from None
    if any(number < 0 for number in found):
        raise click.BadParameter("a number is negative")
    return found


def names(allowed: Sequence[str]) -> Callable[..., tuple[str, ...]]:
    """`put,get` as names out of `allowed`."""

    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
        found = tuple(text.split(",")) if text else ()
        for name in found:
            if name not in allowed:
                raise click.BadParameter(f"{name!r} is none of {', '.join(allowed)}")
        return found

    return read


@bench.command()
@click.option("--against", type=click.Choice(["etcd"]), help="Measure this beside ours, in turn.")
@click.option("--operations", callback=names(("put", "get", "95/5", "50/50")), metavar="put,get,95/5,50/50")
@click.option("--clients", callback=numbers, metavar="1,8,...", help="Sessions with one request outstanding each.")
@click.option("--values", callback=numbers, metavar="16,128,...", help="Sizes of values in bytes.")
@click.option("--keys", callback=names(("uniform", "zipf")), metavar="uniform,zipf")
@click.option("--drivers", callback=names(("wire", "clerk")), metavar="wire,clerk", help="What the clients are.")
@click.option("--connections", callback=numbers, metavar="1,0", help="Connections they share; 0 for one each.")
@click.option("--groups", callback=numbers, metavar="1,2,...", help="Shard groups of 3 peers.")
@click.option("--lease-reads", is_flag=True, help="Leaders answer gets under a lease, without asking the others.")
@click.option("--generators", default=1, show_default=True, type=click.IntRange(1, 8), help="Load generator processes.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds, instead of the form's.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Measured per point and round, instead of the form's.")
@bench_options
def kv(
    against: str | None,
    operations: tuple[str, ...],
    clients: tuple[int, ...],
    values: tuple[int, ...],
    keys: tuple[str, ...],
    drivers: tuple[str, ...],
    connections: tuple[int, ...],
    groups: tuple[int, ...],
    lease_reads: bool,
    generators: int,
    rounds: int | None,
    seconds: float | None,
    form: str | None,
    parent: Path | None,
    picture: Path | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """Puts, linearizable gets and mixes: operations per second, latencies, CPU, RPCs and syncs per operation.

    \b
    Example: shardkv bench kv --operations put --clients 64,512 --rounds 3
    A client is a session with one single-key request outstanding. "wire" clients are a lean load generator, as wrk is
    for HTTP; "clerk" clients are the Python library. Any of the lists given: all combinations instead of the form's
    points. --json: one object; its keys are in docs/performance.md.
    """
    from dataclasses import replace

    from tools.bench import plans
    from tools.bench.kv import run_kv
    from tools.bench.show_kv import kv_charts, kv_grids

    if any(not 1 <= count <= 4096 for count in clients) or any(not 1 <= count <= 8 for count in groups):
        fail("1 to 4096 clients and 1 to 8 groups", USAGE)
    if any(size > 1 << 20 for size in values):
        fail("a value has at most 1 MiB", USAGE)
    plan = {"quick": plans.quick, "full": plans.full, None: plans.standard}[form]()
    plan = plans.chosen(
        plan,
        operations=operations,
        clients=clients,
        values=values,
        choices=keys,
        drivers=drivers,
        connections=connections,
        groups=groups,
        lease_reads=lease_reads,
    )
    plan = replace(plan, rounds=rounds or plan.rounds, measure_s=seconds or plan.measure_s)
    tell(f"{len(plan.points)} points, {plan.rounds} rounds: about {plan.seconds(2 if against else 1) / 60:.0f} minutes")
    another = None
    if against == "etcd":
        from tools.bench.etcd import etcd_system, need_programs

        with one_line_errors():
            need_programs()
        another = etcd_system
    report = measured(parent, lambda folder: run_kv(folder, plan, tell, generators=generators, another=another))
    show(report, Output(as_json, markdown, picture), kv_grids(report), kv_charts(report))


@bench.command()
@click.option("--networks", callback=names(("reliable", "unreliable")), help="Only these cases, with commas.")
@click.option(
    "--down", callback=names(("nobody", "follower", "leader", "rolling")), help="Only these cases, with commas."
)
@click.option("--rounds", type=click.IntRange(1), help="Rounds, instead of the form's.")
@bench_options
def controllers(
    networks: tuple[str, ...],
    down: tuple[str, ...],
    rounds: int | None,
    form: str | None,
    parent: Path | None,
    picture: Path | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """The shard configuration on one kvsrv or on a kvraft of 1, 3, 5 or 7 peers, with nobody, a follower or the leader
    killed, or one after another; on a reliable and on an unreliable network.

    \b
    Example: shardkv bench controllers --picture controllers.svg
    Per case the scenario 5D (seconds, RPCs, operations), and steady use: latencies of queries and of changes, and for how
    long nobody answered. --json: one object; its keys are in docs/performance.md. Exit code 1 if a case failed.
    """
    from tools.bench import controllers as bench_controllers
    from tools.bench.show_controllers import controllers_charts, controllers_grids

    plans = {"quick": bench_controllers.QUICK, "full": bench_controllers.FULL, None: bench_controllers.STANDARD}
    plan = bench_controllers.chosen(plans[form], networks, down, rounds)
    if not plan.cases:
        fail("this form has no such cases", USAGE)
    report = measured(parent, lambda folder: bench_controllers.run_controllers(folder, plan, tell))
    show(report, Output(as_json, markdown, picture), controllers_grids(report), controllers_charts(report))
    failed = [result for result in report.results if result["error"]]
    for result in failed:
        warn(f"{result['store']} of {result['peers']}, {result['down']}, {result['network']}: {result['error']}")
    sys.exit(NEGATIVE if failed else 0)


@bench.command()
@click.option("--parts", callback=names(("restart", "catch-up", "move", "fail-over")), help="Only these, with commas.")
@click.option("--keys", callback=numbers, metavar="10000,...", help="Numbers of keys to restart with.")
@click.option("--trials", type=click.IntRange(1), help="Of fail-over, of each way.")
@bench_options
def recovery(
    parts: tuple[str, ...],
    keys: tuple[int, ...],
    trials: int | None,
    form: str | None,
    parent: Path | None,
    picture: Path | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """Restart after a kill, catching up of a follower, the move of a 100 MB shard and what the others feel, fail-over.

    \b
    Example: shardkv bench recovery --parts fail-over --trials 50
    --json: one object; its keys are in docs/performance.md.
    """
    from dataclasses import replace

    from tools.bench import recovery as bench_recovery
    from tools.bench.show_recovery import recovery_charts, recovery_grids

    plan = {"quick": bench_recovery.QUICK, "full": bench_recovery.FULL, None: bench_recovery.STANDARD}[form]
    need_ascending(keys)
    plan = replace(plan, parts=parts or plan.parts, keys=keys or plan.keys, trials=trials or plan.trials)
    report = measured(parent, lambda folder: bench_recovery.run_recovery(folder, plan, tell))
    show(report, Output(as_json, markdown, picture), recovery_grids(report), recovery_charts(report))


@bench.command()
@click.option("--parts", callback=names(("groups", "idle", "growth")), help="Only these, with commas.")
@click.option("--keys", callback=numbers, metavar="10000,...", help="Numbers of keys to grow to.")
@bench_options
def scale(
    parts: tuple[str, ...],
    keys: tuple[int, ...],
    form: str | None,
    parent: Path | None,
    picture: Path | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """One to eight groups; what an idle group costs; how memory, files and speed grow with keys and with the log.

    \b
    Example: shardkv bench scale --parts idle
    --json: one object; its keys are in docs/performance.md.
    """
    from dataclasses import replace

    from tools.bench import scale as bench_scale
    from tools.bench.show_scale import scale_charts, scale_grids

    plan = {"quick": bench_scale.QUICK, "full": bench_scale.FULL, None: bench_scale.STANDARD}[form]
    need_ascending(keys)
    plan = replace(plan, parts=parts or plan.parts, keys=keys or plan.keys)
    report = measured(parent, lambda folder: bench_scale.run_scale(folder, plan, tell))
    show(report, Output(as_json, markdown, picture), scale_grids(report), scale_charts(report))


def need_ascending(keys: tuple[int, ...]) -> None:
    """Numbers of keys are reached one after the other."""
    if any(later <= earlier for earlier, later in pairwise((0, *keys))):
        fail("--keys must ascend from 1 on: the data of one is kept for the next", USAGE)
