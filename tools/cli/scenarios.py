"""`shardkv scenarios`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import click

from tools.cli.common import NEGATIVE, fail, json_option, put_out, put_table, tell

if TYPE_CHECKING:
    from tools.scenarios.catalogue import Result


@click.command()
@click.option("--match", "wanted", default="", help="Only those whose title has this in it, e.g. 5D or 'kvraft 3'.")
@click.option("--seed", type=click.IntRange(0), default=5, show_default=True)
@click.option("--jobs", type=click.IntRange(1), help="Processes at once.  [default: one per core]")
@click.option("--list", "only_list", is_flag=True, help="Only name them.")
@json_option
def scenarios(wanted: str, seed: int, jobs: int | None, only_list: bool, as_json: bool) -> None:
    """The labs' tests by name, in virtual time: all of MIT 6.5840 labs 2 to 5, the 5D extension and the challenges.

    The network takes 1 to 4 ms one way (unreliable: 1 to 27 ms, a tenth of requests and of replies is lost), a commit 1 ms.

    \b
    Example: shardkv scenarios --match 5D
    --json: a line per scenario: name variant passed seconds rpcs ops cpu_s error official ([seconds, rpcs, ops] or null).
    Exit code 1 if one failed.
    """
    from tools.scenarios.catalogue import entries, play
    from tools.workers import pool

    titles = [entry.title for entry in entries() if wanted in entry.title]
    if not titles:
        fail(f"no scenario has {wanted!r} in its title: see shardkv scenarios --list", 2)
    if only_list:
        click.echo("\n".join(titles))
        return
    results = []
    with pool(jobs) as workers:
        for result in workers.map(partial(play, seed=seed), titles):
            results.append(result)
            if as_json:
                put_out(asdict(result))
            else:
                tell(f"{result.name} {result.variant}: {'passed' if result.passed else result.error}")
    if not as_json:
        _table(results)
    sys.exit(0 if all(result.passed for result in results) else NEGATIVE)


def _table(results: list[Result]) -> None:
    from rich.table import Table

    table = Table("scenario", "variant", "virtual s", "RPCs", "Ops", "official s", "RPCs", "Ops", "CPU s")
    for result in results:
        official = ["-", "-", "-"] if result.official is None else [str(figure) for figure in result.official]
        ours = [f"{result.seconds:.1f}", str(result.rpcs), str(result.ops)] if result.passed else ["FAILED", "", ""]
        table.add_row(result.name, result.variant, *ours, *official, f"{result.cpu_s:.1f}")
    put_table(table)
    for result in results:
        if not result.passed:
            click.echo(f"{result.name} {result.variant}: {result.error}")
    passed = sum(result.passed for result in results)
    click.echo(f"{passed} of {len(results)} passed, {sum(result.cpu_s for result in results):.0f} CPU s")
