"""`shardkv top`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tools.cli.common import dir_option, json_option, one_line_errors, put_out, run

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from tools.top import Frame

ROLES = {"leader": "bold green", "candidate": "yellow", "pre_candidate": "yellow", "follower": ""}
STATES = {"running": "", "paused": "yellow", "silent": "bold red", "dead": "bold red", "removed": "dim"}


@click.command()
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.1, 3600), metavar="SECONDS")
@click.option(
    "--count", type=click.IntRange(1), help="End after so many looks.  [default: Ctrl-C ends it; in a pipe 1]"
)
@dir_option
@json_option
def top(every: float, count: int | None, folder: Path, as_json: bool) -> None:
    """The live cluster as a dashboard: roles, terms, how far each peer is, rates, shards, the running change.

    \b
    Example: shardkv top --every 0.5
    --json: a line per look: peers [{name gid peer state role term log_bytes pending_bytes map_used_bytes no_space boot
    commit applied behind entries_per_s requests_per_s}], groups [{gid leader up peers entries_per_s shards [[shard,
    state]]}], change {current next cleaned trouble steps} or null. Rates are of the time between two looks.
    """
    from tools.cluster import LocalCluster

    live = sys.stdout.isatty() and not as_json
    with one_line_errors():
        cluster = LocalCluster(folder)
        cluster.manifest  # noqa: B018  # raises when there is no cluster
    try:
        run(lambda: _show(cluster, every, count if live or count else 1, as_json, live))
    except KeyboardInterrupt:
        sys.exit(0)  # the way to end it


async def _show(cluster: Any, every: float, count: int | None, as_json: bool, live: bool) -> None:
    from contextlib import nullcontext

    import trio
    from rich.console import Console
    from rich.live import Live

    from tools.top import frame, look

    console = Console(highlight=False)
    shown = 0
    before = await look(cluster)
    with Live(console=console, auto_refresh=False, screen=True) if live else nullcontext() as screen:
        while count is None or shown < count:
            await trio.sleep(every)
            now = await look(cluster)
            found = frame(before, now)
            before, shown = now, shown + 1
            if as_json:
                put_out(found.as_json())
            elif screen is not None:
                screen.update(picture(found), refresh=True)
            else:
                console.print(picture(found))


def picture(found: Frame) -> Group:
    """A frame for the terminal: a table of the peers, a line per group, the running change."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("peer", "state", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("term", "applied", "behind", "entries/s", "calls/s", "log", "boot"):
        table.add_column(name, justify="right", no_wrap=True)
    gid = None
    for peer in found.peers:
        if gid not in (None, peer["gid"]):
            table.add_row()
        gid = peer["gid"]
        state = "no space" if peer["no_space"] else peer["state"]
        table.add_row(
            peer["name"],
            Text(state, "bold red" if peer["no_space"] else STATES.get(peer["state"], "")),
            Text(peer["role"] or "", ROLES.get(peer["role"] or "", "")),
            *(_number(peer[key]) for key in ("term", "applied", "behind", "entries_per_s", "requests_per_s")),
            _size(peer["log_bytes"]),
            _number(peer["boot"]),
        )
    return Group(table, Text(), *(_group_line(group) for group in found.groups), *_change_lines(found.change))


def _group_line(group: dict[str, Any]) -> Text:
    from rich.text import Text

    what = "controllers" if group["gid"] == 0 else f"group {group['gid']}"
    line = Text(f"{what:<12} {group['up']}/{group['peers']} up, ")
    line.append(f"led by {group['leader']}" if group["leader"] else "no leader", "" if group["leader"] else "bold red")
    if group["entries_per_s"] is not None:
        line.append(f", {group['entries_per_s']:.0f} entries/s")
    served = [str(shard) for shard, state in group["shards"] if state == "serving"]
    other = [f"{shard} {state}" for shard, state in group["shards"] if state in ("frozen", "staging")]
    if group["gid"]:
        line.append(f"; serves {' '.join(served) or 'no shard'}")
    if other:
        line.append(f"; {', '.join(other)}", "yellow")
    return line


def _change_lines(change: dict[str, Any] | None) -> list[Text]:
    from rich.text import Text

    if change is None:
        return []
    if change["next"] <= change["current"]:
        return [Text(f"configuration {change['current']}, no change runs")]
    lines = [Text(f"configuration {change['current']}, changing to {change['next']}", "yellow")]
    lines += [
        Text(f"  shard {shard}: {step} at group {gid} for {age:.1f} s") for shard, step, gid, age in change["steps"]
    ]
    if change["trouble"]:
        lines.append(Text(f"  trouble: {change['trouble']}", "bold red"))
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _size(value: float | None) -> str:
    if value is None:
        return ""
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"
