"""`shardkv failpoints`: named places at which a peer dies, waits or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tools.cli.common import dir_option, json_option, put_out, put_table, run


@click.command()
@click.argument("peer", metavar="PEER")
@click.argument("specs", nargs=-1, metavar="[NAME=ACTION...]")
@dir_option
@json_option
def failpoints(peer: str, specs: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """Show the failpoints of a running peer, and arm some of them.

    ACTION is exit, kill, error, sleep:SECONDS or off; behind it @N (from the N-th time on), *T (at most T times), %P (with a
    probability of P percent). A peer refuses unless it was started with `serve --failpoints`, or with SHARDKV_FAILPOINTS set
    in its environment, as of `up`.

    \b
    Example: shardkv failpoints server-1-0 save.done=kill@3
    --json: one object per place: name what armed reached.
    """
    from tools.admin import failpoints as ask
    from tools.admin import network
    from tools.cluster import LocalCluster

    async def work() -> list[list[Any]]:
        cluster = LocalCluster(folder)
        async with network(cluster.manifest.cluster) as rpc:
            return await ask(rpc, cluster.address(peer), specs)

    rows = run(work)
    if as_json:
        for name, what, armed, reached in rows:
            put_out({"name": name, "what": what, "armed": armed, "reached": reached})
        return
    from rich.table import Table

    table = Table("failpoint", "armed", "reached", "where")
    for name, what, armed, reached in rows:
        table.add_row(name, armed, str(reached) if armed else "", what)
    put_table(table)
