"""`shardkv demo`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tools.cli.common import NEGATIVE, fail, json_option, put_out, put_table, run

# Seconds and RPCs that others reach: the seed write-up (Go, in-process network, no disk), the best Go solution found.
PUBLISHED = {3: ("32.4", "9007", "4.8-5.0", "1335-1347"), 5: ("51.2", "9580", "4.3-4.9", "1738-1786")}


@click.command()
@click.option("--peers", type=click.Choice(["3", "5", "7"]), help="Controller peers; without it 3 and then 5.")
@click.option("--store", type=click.Choice(["kvraft", "kvsrv"]), default="kvraft", show_default=True)
@click.option("--down", type=click.Choice(["follower", "leader"]), default="follower", show_default=True)
@click.option("--lease-reads", is_flag=True, help="Leaders answer gets under their lease, without asking the others.")
@click.option("--keep", is_flag=True, help="Keep the directory of a run that passed, too.")
@json_option
def demo(peers: str | None, store: str, down: str, lease_reads: bool, keep: bool, as_json: bool) -> None:
    """Watch the controller group lose a peer (kill -9), go on, and get it back from its own disk.

    The scenario TestRaftPeerDown5D on real processes and real disks, in a temporary directory.

    \b
    Example: shardkv demo --peers 3 --down leader
    --json: one object per run: passed peers store down lease_reads seconds rpcs ops query_seconds recovered startup_seconds
    recovery_seconds total_seconds killed findings error. Exit code 1 if a run did not pass.
    """
    if store == "kvsrv" and peers is not None:
        fail("--peers goes with --store kvraft: a kvsrv is one server", 2)
    counts = [1] if store == "kvsrv" else [int(peers)] if peers else [3, 5]
    outcomes = [_one(count, store, down, lease_reads, keep, as_json) for count in counts]
    if not as_json:
        _table(outcomes)
    sys.exit(0 if all(outcome["passed"] for outcome in outcomes) else NEGATIVE)


def _one(peers: int, store: str, down: str, lease_reads: bool, keep: bool, as_json: bool) -> dict[str, Any]:
    from tools.demo import run_demo

    folder = Path(tempfile.mkdtemp(prefix="shardkv-demo-"))
    quiet = as_json or not sys.stdout.isatty()

    def tell(line: str) -> None:
        if not quiet:
            click.echo(f"  {line}")

    if not as_json:
        click.echo(f"Test (5D): Config with one peer down, {down} of {peers} {store} (real processes, real disks)...")
    how: dict[str, Any] = {"peers": peers, "store": store, "down": down, "lease_reads": lease_reads, "tell": tell}
    outcome = asdict(run(lambda: run_demo(folder / "cluster", **how)))
    if outcome["passed"] and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        put_out({k: round(v, 4) if isinstance(v, float) else v for k, v in outcome.items()})
    else:
        word = "... Passed --" if outcome["passed"] else "... FAILED --"
        times = f"time {outcome['seconds']:4.1f}s #peers {peers} #RPCs {outcome['rpcs']:5d} #Ops {outcome['ops']:4d}"
        click.echo(f"  {word}  {times}")
    for problem in [outcome["error"], *outcome["findings"]]:
        if problem:
            click.echo(f"shardkv demo: {problem}", err=True)
    if not outcome["passed"]:
        click.echo(f"shardkv demo: the directories are kept in {folder}", err=True)
    return outcome


def _table(outcomes: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(
        "peers", "down", "seconds", "RPCs", "query ms", "recovery s", "seed s", "seed RPCs", "best Go s", "best Go RPCs"
    )
    for outcome in outcomes:
        known = PUBLISHED.get(outcome["peers"], ("-",) * 4)
        query = f"{outcome['query_seconds'] * 1000:.1f}"
        row = [str(outcome["peers"]), outcome["down"], f"{outcome['seconds']:.2f}", str(outcome["rpcs"]), query]
        table.add_row(*row, f"{outcome['recovery_seconds']:.2f}", *known)
    put_table(table)
