"""`shardkv bench`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tools.cli.common import USAGE, fail, json_option, one_line_errors, put_out, put_table, run, tell, warn

if TYPE_CHECKING:
    from tools.bench.report import Report

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def bench() -> None:
    """How fast it is on this machine, beside what the machine's disk does at the moment.

    \b
    Example: shardkv bench kv --quick
    Every benchmark works in a temporary directory, with real processes and synced disks, and ends all of them.
    """


def bench_options(command: F) -> F:
    """`--quick`, `--full`, `--dir`, `--json`: of every benchmark."""
    command = json_option(command)
    command = click.option(
        "--dir",
        "parent",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Where the temporary directory is made: the disk to measure.  [default: the system's]",
    )(command)
    command = click.option("--full", "form", flag_value="full", help="The long form.")(command)
    return click.option("--quick", "form", flag_value="quick", help="The form of about two minutes.")(command)


def measured(parent: Path | None, work: Callable[[Path], Awaitable[Report]]) -> Report:
    """Do the work in a temporary directory; its errors end the command."""
    folder = Path(tempfile.mkdtemp(prefix="shardkv-bench-", dir=parent))
    try:
        return run(lambda: work(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def show(report: Report, as_json: bool, tables: Callable[[], None]) -> None:
    """The report as JSON, or as tables under a line about the machine and one about its disk."""
    if as_json:
        put_out(report.as_json())
    else:
        click.echo(report.machine_text())
        click.echo(report.probe_text())
        tables()
    for line in report.warnings:
        warn(line)


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
    generators: int,
    rounds: int | None,
    seconds: float | None,
    form: str | None,
    parent: Path | None,
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
    show(report, as_json, lambda: _kv_table(report))


def _kv_table(report: Report) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("load", "system"):
        table.add_column(name)
    titles = ("ops/s", "+-%", "p50 ms", "p99", "p99.9", "CPU us/op leader", "followers", "load", "RPCs/op", "syncs/op")
    for name in (*titles, "load busy", "ratio"):
        table.add_column(name, justify="right")
    for result in report.results:
        figures = result["figures"]

        def figure(name: str, form: str, figures: Any = figures) -> str:
            return format(figures[name]["median"], form) if name in figures else "-"

        table.add_row(
            result["point"],
            f"{result['system']} ({result['interface']})",
            figure("ops_per_s", ",.0f"),
            f"{100 * figures['ops_per_s']['spread']:.0f}",
            *(figure(name, ".2f") for name in ("p50_ms", "p99_ms", "p999_ms")),
            *(figure(name, ".1f") for name in ("leader_cpu_us", "follower_cpu_us", "load_cpu_us")),
            figure("rpcs_per_op", ".3f"),
            figure("syncs_per_op", ".3f"),
            figure("load_busy", ".0%"),
            f"{result['ratio']:.2f}" if "ratio" in result else "",
        )
    put_table(table)
