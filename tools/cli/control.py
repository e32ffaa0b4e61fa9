"""`shardkv ctrl`: the shard configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tools.cli.common import dir_option, fail, json_option, put_out, run

_DEADLINE = click.option("--deadline", default=60.0, show_default=True, help="Give up waiting after so many seconds.")


def _ask(folder: Path, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """The result of `work(clerk)` with a clerk of the controllers."""

    async def body() -> Any:
        from tools.admin import control, network
        from tools.manifest import need_manifest

        manifest = need_manifest(folder)
        async with network(manifest.cluster) as rpc:
            return await work(control(rpc, manifest.controllers))

    return run(body)


@click.group()
def ctrl() -> None:
    """The shard configuration: which group owns which shard.

    \b
    Example: shardkv ctrl query
    """


@ctrl.command()
@click.option("--num", type=click.IntRange(0), help="That configuration instead of the one in force.")
@dir_option
@json_option
def query(num: int | None, folder: Path, as_json: bool) -> None:
    """The configuration in force, and the next while a change runs.

    \b
    Example: shardkv ctrl query --num 1
    --json: num, shards [gid per shard], groups {gid: [server]}, next (number or null), addresses {gid: [address]}.
    """
    routing = _ask(folder, lambda clerk: clerk.routing(num))
    config = routing.current
    following = None if routing.next is None else routing.next.num
    if as_json:
        groups = {gid: list(servers) for gid, servers in config.groups.items()}
        addresses = {gid: list(found) for gid, found in routing.addresses.items()}
        shards = list(config.shards)
        put_out({"num": config.num, "shards": shards, "groups": groups, "next": following, "addresses": addresses})
        return
    click.echo(f"configuration {config.num}" + (f", changing to {following}" if following else ""))
    for gid, servers in config.groups.items():
        owned = [str(s) for s, owner in enumerate(config.shards) if owner == gid]
        click.echo(f"  group {gid}: shards {' '.join(owned) or 'none'}  ({', '.join(servers)})")


@ctrl.command()
@dir_option
@json_option
def status(folder: Path, as_json: bool) -> None:
    """What a running change waits for: shard, step, group, since when.

    \b
    Example: shardkv ctrl status
    --json: current, next, cleaned, trouble, steps [[shard, step, gid, age in seconds]].
    """
    found = _ask(folder, lambda clerk: clerk.status())
    if as_json:
        put_out(found)
        return
    if found["next"] > found["current"]:
        click.echo(f"configuration {found['current']}, changing to {found['next']}")
    else:
        click.echo(f"configuration {found['current']}, no change runs")
    for shard, step, gid, age in found["steps"]:
        click.echo(f"  shard {shard}: {step} at group {gid} for {age:.1f} s")
    if found["trouble"]:
        click.echo(f"  trouble: {found['trouble']}")


@ctrl.command()
@click.option("--first", default=1, type=click.IntRange(1), show_default=True)
@click.option("--last", type=click.IntRange(1))
@dir_option
@json_option
def history(first: int, last: int | None, folder: Path, as_json: bool) -> None:
    """Every configuration: when its change was begun, when it was in force, by which request.

    \b
    Example: shardkv ctrl history
    --json: one object per configuration: num, begun_ms, in_force_ms, request, config.
    """
    for past in _ask(folder, lambda clerk: clerk.history(first, last)):
        if as_json:
            row = {"num": past.config.num, "begun_ms": past.begun_ms, "in_force_ms": past.in_force_ms}
            put_out({**row, "request": past.request.hex(), "config": past.config.to_json()})
            continue
        when = datetime.fromtimestamp(past.begun_ms / 1000, UTC).isoformat(timespec="milliseconds")
        click.echo(f"{past.config.num:>4} {when} {past.in_force_ms - past.begun_ms:>6} ms  {past.config.to_json()}")


def _told(num: int, as_json: bool) -> None:
    put_out({"num": num}) if as_json else click.echo(f"configuration {num}")


@ctrl.command()
@click.argument("gid", type=click.IntRange(1))
@click.option("--address", "addresses", multiple=True, help="host:port of a server of the group, once for each.")
@_DEADLINE
@dir_option
@json_option
def join(gid: int, addresses: tuple[str, ...], deadline: float, folder: Path, as_json: bool) -> None:
    """Take group GID in and rebalance. Its addresses are known for a group of this directory.

    \b
    Example: shardkv ctrl join 2
    --json: num (of the configuration that it made).
    """
    known = addresses or _known_addresses(folder, gid)
    _told(_ask(folder, lambda clerk: clerk.join({gid: known}, deadline_s=deadline)), as_json)


def _known_addresses(folder: Path, gid: int) -> tuple[str, ...]:
    from tools.cli.common import one_line_errors
    from tools.manifest import need_manifest

    with one_line_errors():
        groups = need_manifest(folder).groups
        if gid in groups and gid:
            return groups[gid].addresses
    fail(f"the addresses of group {gid} are not known: name them with --address, or run `shardkv group add {gid}`", 2)


@ctrl.command()
@click.argument("gid", type=click.IntRange(1))
@_DEADLINE
@dir_option
@json_option
def leave(gid: int, deadline: float, folder: Path, as_json: bool) -> None:
    """Let group GID go and rebalance. The last group cannot leave while it holds data.

    \b
    Example: shardkv ctrl leave 1
    --json: num.
    """
    _told(_ask(folder, lambda clerk: clerk.leave([gid], deadline_s=deadline)), as_json)


@ctrl.command()
@click.argument("shard", type=click.IntRange(0))
@click.argument("gid", type=click.IntRange(1))
@_DEADLINE
@dir_option
@json_option
def move(shard: int, gid: int, deadline: float, folder: Path, as_json: bool) -> None:
    """Give SHARD to group GID, whatever the balance.

    \b
    Example: shardkv ctrl move 3 2
    --json: num.
    """
    _told(_ask(folder, lambda clerk: clerk.move(shard, gid, deadline_s=deadline)), as_json)
