"""`shardkv up | down | status | peer | group`: a cluster on this machine."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from tools.cli.common import (
    UNREACHABLE,
    USAGE,
    dir_option,
    fail,
    json_option,
    one_line_errors,
    put_out,
    put_table,
    run,
    tell,
)


def _cluster(folder: Path) -> Any:
    from tools.cluster import LocalCluster

    return LocalCluster(folder, tell)


def _do(folder: Path, work: Callable[[Any], Awaitable[Any]]) -> Any:
    return run(lambda: work(_cluster(folder)))


@click.command()
@click.option("--ctrl-peers", default=3, show_default=True, help="Controller peers of a new cluster (1, 3, 5, 7).")
@click.option("--groups", default=2, show_default=True, help="Shard groups of a new cluster.")
@click.option("--replicas", default=3, show_default=True, help="Peers of each shard group.")
@click.option("--store", type=click.Choice(["kvraft", "kvsrv"]), default="kvraft", show_default=True)
@click.option("--lease-reads", is_flag=True, help="Leaders of a new cluster answer gets under their lease.")
@click.option(
    "--retain-bases",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Each peer of a new cluster keeps N bases for `inspect replay`, one per purge of its log.",
)
@click.option("--detach", is_flag=True, help="Return when it is up, instead of ending it with Ctrl-C.")
@dir_option
@json_option
def up(
    ctrl_peers: int,
    groups: int,
    replicas: int,
    store: str,
    lease_reads: bool,
    retain_bases: int,
    detach: bool,
    folder: Path,
    as_json: bool,
) -> None:
    """Start a cluster, or bring it back with its data, or start only its dead peers.

    \b
    Example: shardkv up --detach
    --json: started [name], running [name], troubles {name: text}.
    """
    import trio

    from tools.layout import Layout

    with one_line_errors():
        _check_layout(folder)
        peers = 1 if store == "kvsrv" and not _given("ctrl_peers") else ctrl_peers
        layout = Layout(
            ctrl_peers=peers,
            groups=groups,
            replicas=replicas,
            store=store,
            lease_reads=lease_reads,
            retain_bases=retain_bases,
        )

    async def work(cluster: Any) -> None:
        report = await cluster.up(layout)
        if as_json:
            put_out({"started": report.started, "running": report.running, "troubles": report.troubles})
        else:
            click.echo(f"{folder}: {len(report.started)} peers started, {len(report.running)} ran already")
        for text in report.troubles.values():
            click.echo(f"shardkv: {text}", err=True)
        if not detach:
            tell("Ctrl-C ends it")
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await cluster.down()
        elif report.troubles:
            sys.exit(UNREACHABLE)

    _do(folder, work)


def _given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


def _check_layout(folder: Path) -> None:
    """A cluster that is there already is as it was made: an option that says otherwise is a mistake."""
    from tools.manifest import read_manifest

    manifest = read_manifest(folder)
    if manifest is None:
        return
    there: dict[str, Any] = {"ctrl_peers": len(manifest.controllers), "store": manifest.store}
    there["retain_bases"] = manifest.retain_bases
    there["groups"] = sum(gid > 0 and group.active for gid, group in manifest.groups.items())
    there["lease_reads"] = manifest.lease_reads
    there["replicas"] = max(len(group.addresses) for gid, group in manifest.groups.items() if gid)
    for option, value in there.items():
        asked = click.get_current_context().params[option]
        if _given(option) and asked != value:
            name = f"--{option.replace('_', '-')}" + (f" {asked}" if asked is not True else "")
            made = f"with {value}" if value is not False else "without"
            fail(f"{name}: the cluster in {folder} was made {made}, and `up` does not change it", USAGE)


@click.command()
@dir_option
@json_option
def down(folder: Path, as_json: bool) -> None:
    """End every peer; leadership is handed over first where it can be.

    \b
    Example: shardkv down
    --json: ended [name].
    """
    names = _do(folder, lambda cluster: cluster.down())
    put_out({"ended": names}) if as_json else click.echo(f"{len(names)} peers ended")


_COLUMNS = ("name", "state", "health", "role", "term", "commit", "applied", "last", "log_bytes", "address", "pid")


@click.command()
@dir_option
@json_option
def status(folder: Path, as_json: bool) -> None:
    """How every peer is. Exit code 1 if one is dead or silent.

    \b
    Example: shardkv status
    --json: one object per peer: name gid peer address state pid, and of one that answers role term leader commit applied
    flushed last base state_hash boot requests_sent log_bytes pending_bytes shards map_used_bytes no_space health odd
    agreed recover_to refill mended scrub.
    """
    rows = _do(folder, lambda cluster: cluster.status())
    if as_json:
        for row in rows:
            put_out(row)
    else:
        _print(rows)
    sys.exit(int(any(row["state"] in ("dead", "silent") for row in rows)))


def _print(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(*_COLUMNS, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        cells = [row.get(column) for column in _COLUMNS]
        table.add_row(*("" if c is None else f"{c[0]}:{c[1]}" if isinstance(c, list) else str(c) for c in cells))
    put_table(table)


@click.group()
def peer() -> None:
    """One peer, by its name (server-GROUP-NUMBER).

    \b
    Example: shardkv peer kill server-0-1
    """


def _peer_command(name: str, text: str, example: str) -> None:
    @peer.command(name, help=f"{text}\n\n\b\nExample: shardkv peer {name} {example}\n--json: name, done.")
    @click.argument("peer_name", metavar="NAME")
    @dir_option
    @json_option
    def command(peer_name: str, folder: Path, as_json: bool) -> None:
        async def work(cluster: Any) -> None:
            done = getattr(cluster, name)(peer_name)
            if done is not None:
                await done

        with one_line_errors():
            _do(folder, work)
        put_out({"name": peer_name, "done": name}) if as_json else click.echo(f"{peer_name}: {name} done")


_peer_command("kill", "kill -9.", "server-0-1")
_peer_command("stop", "Hand over leadership, then end.", "server-1-0")
_peer_command("start", "Start it from its own disk, and wait until it listens.", "server-0-1")
_peer_command("pause", "SIGSTOP: it hangs, with its connections open.", "server-2-0")
_peer_command("resume", "SIGCONT.", "server-2-0")


@peer.command("replace")
@click.argument("peer_name", metavar="NAME")
@dir_option
@json_option
def replace(peer_name: str, folder: Path, as_json: bool) -> None:
    """Make a peer anew whose disk is gone, or cannot be used, and have its group refill it.

    A majority of its group without it must be up: they prove what the lost disk had promised. What is left of its directory
    is kept beside, as NAME.replaced.

    \b
    Example: shardkv peer replace server-1-2
    --json: name, done, recover_to [term, index].
    """

    async def work(cluster: Any) -> Any:
        from tools.replacing import replace_peer

        return await replace_peer(cluster, peer_name)

    with one_line_errors():
        at = _do(folder, work)
    if as_json:
        put_out({"name": peer_name, "done": "replace", "recover_to": list(at)})
    else:
        click.echo(f"{peer_name}: made anew; it counts again once it holds {at.term}:{at.index} (`shardkv status`)")


@click.group()
def group() -> None:
    """Shard groups of a cluster on this machine.

    \b
    Example: shardkv group add 3
    """


@group.command("add")
@click.argument("gid", type=click.IntRange(1))
@click.option("--replicas", default=3, show_default=True, help="Peers of a new group.")
@dir_option
@json_option
def add(gid: int, replicas: int, folder: Path, as_json: bool) -> None:
    """Start group GID and let it join.

    \b
    Example: shardkv group add 3
    --json: gid, done.
    """
    _do(folder, lambda cluster: cluster.add_group(gid, replicas))
    put_out({"gid": gid, "done": "add"}) if as_json else click.echo(f"group {gid} has joined")


@group.command("remove")
@click.argument("gid", type=click.IntRange(1))
@dir_option
@json_option
def remove(gid: int, folder: Path, as_json: bool) -> None:
    """Let group GID leave, then end its peers. Its directories stay.

    \b
    Example: shardkv group remove 3
    --json: gid, done.
    """
    _do(folder, lambda cluster: cluster.remove_group(gid))
    put_out({"gid": gid, "done": "remove"}) if as_json else click.echo(f"group {gid} has left")
