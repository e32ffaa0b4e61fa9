"""`shardkv mutants`."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import click

from tools.cli.common import NEGATIVE, fail, json_option, put_out, put_table, tell


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--list", "only_list", is_flag=True, help="Only name them.")
@click.option("--seeds", type=click.IntRange(1), default=300, show_default=True, help="Seeds to play per bug, at most.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first seed.")
@click.option("--jobs", type=click.IntRange(1), help="Processes at once.  [default: one per core]")
@click.option("--no-invariants", is_flag=True, help="Judge by the clients' histories alone.")
@click.option("--scenarios", is_flag=True, help="Play the labs' scenarios without faults instead: which ones fail?")
@json_option
def mutants(
    names: tuple[str, ...],
    only_list: bool,
    seeds: int,
    first: int,
    jobs: int | None,
    no_invariants: bool,
    scenarios: bool,
    as_json: bool,
) -> None:
    """Plant known bugs in our own code, one at a time, and see which seed and which check of the simulation finds each.

    \b
    Example: shardkv mutants half-is-a-quorum --json
    --json: a line per bug: name found seed check text seeds cpu_s source why. Exit code 1 if one was not found.
    With --scenarios: name failed ({title: error}) source why. Exit code 1 if a scenario failed.
    """
    from tools.mutants.catalogue import MUTANTS
    from tools.mutants.hunt import fault_free, hunt

    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        fail(f"there is no planted bug {unknown[0]!r}: see shardkv mutants --list", 2)
    chosen = list(names or MUTANTS)
    if only_list:
        for name in chosen:
            row = {"name": name, "source": MUTANTS[name].source, "why": MUTANTS[name].why}
            put_out(row) if as_json else click.echo(f"{name}: {row['why']} ({row['source']})")
        return
    rows: list[dict[str, Any]] = []

    def one(name: str) -> None:
        if scenarios:
            found: dict[str, Any] = {"name": name, "failed": fault_free(name)}
        else:
            found = asdict(hunt(name, first=first, seeds=seeds, invariants=not no_invariants))
        row = {**found, "source": MUTANTS[name].source, "why": MUTANTS[name].why}
        rows.append(row)
        put_out(row) if as_json else tell(f"{name}: {_told(row)}")

    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        list(pool.map(one, chosen))
    rows.sort(key=lambda row: chosen.index(row["name"]))
    if not as_json:
        _scenarios_table(rows) if scenarios else _table(rows)
    good = all(not row["failed"] for row in rows) if scenarios else all(row["found"] for row in rows)
    sys.exit(0 if good else NEGATIVE)


def _told(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{len(row['failed'])} scenarios failed" if row["failed"] else "passed"
    return f"seed {row['seed']}" if row["found"] else "not found"


def _scenarios_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("planted bug", "scenarios without faults that fail")
    for row in rows:
        table.add_row(row["name"], "\n".join(row["failed"]) or "-")
    put_table(table)


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("planted bug", "found by", "at seed", "seeds", "CPU s")
    for row in rows:
        found = row["found"]
        table.add_row(
            row["name"],
            row["check"] if found else "-",
            str(row["seed"]) if found else "-",
            str(row["seeds"]),
            str(row["cpu_s"]),
        )
    put_table(table)
