"""`shardkv ctrl`: the shard configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from tools.cli.common import USAGE, client_options, fail, one_line_errors, put_out, run, seeds_of

if TYPE_CHECKING:
    from ctrler.clerk import ControllerClerk
    from tools.manifest import GroupSpec

T = TypeVar("T")

CHANGE_DEADLINE_S = 60.0
QUERY_DEADLINE_S = 10.0


def _ask(folder: Path, connect: str | None, work: Callable[[ControllerClerk], Awaitable[T]]) -> T:
    """The result of `work` with a clerk of the controllers."""
    cluster, controllers = seeds_of(folder, connect)

    async def body() -> T:
        from tools.admin import control, network

        async with network(cluster) as rpc:
            return await work(control(rpc, controllers))

    return run(body)


@click.group()
def ctrl() -> None:
    """The shard configuration: which group owns which shard.

    \b
    Example: shardkv ctrl query
    """


@ctrl.command()
@click.option("--num", type=click.IntRange(0), help="That configuration instead of the one in force.")
@client_options
def query(num: int | None, folder: Path, connect: str | None, deadline: float | None, as_json: bool) -> None:
    """The configuration in force, and the next while a change runs.

    \b
    Example: shardkv ctrl query --num 1
    --json: num, shards [gid per shard], groups {gid: [server]}, next (number or null), addresses {gid: [address]}.
    """
    routing = _ask(folder, connect, lambda clerk: clerk.routing(num, deadline_s=deadline or QUERY_DEADLINE_S))
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
@client_options
def status(folder: Path, connect: str | None, deadline: float | None, as_json: bool) -> None:
    """What a running change waits for: shard, step, group, since when.

    \b
    Example: shardkv ctrl status
    --json: current, next, cleaned, trouble, steps [[shard, step, gid, age in seconds]].
    """
    found = _ask(folder, connect, lambda clerk: clerk.status(deadline_s=deadline or QUERY_DEADLINE_S))
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
@client_options
def history(
    first: int, last: int | None, folder: Path, connect: str | None, deadline: float | None, as_json: bool
) -> None:
    """Every configuration: when its change was begun, when it was in force, by which request.

    \b
    Example: shardkv ctrl history
    --json: one object per configuration: num, begun_ms, in_force_ms, request, config.
    """
    for past in _ask(
        folder, connect, lambda clerk: clerk.history(first, last, deadline_s=deadline or QUERY_DEADLINE_S)
    ):
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
@client_options
def join(
    gid: int, addresses: tuple[str, ...], folder: Path, connect: str | None, deadline: float | None, as_json: bool
) -> None:
    """Take group GID in and rebalance. Its addresses are known for a group of this directory.

    \b
    Example: shardkv ctrl join 2
    --json: num (of the configuration that it made).
    """
    known = _checked(addresses) or _known_addresses(folder, gid)
    _told(_ask(folder, connect, lambda clerk: _take_in(clerk, gid, known, deadline)), as_json)


async def _take_in(clerk: ControllerClerk, gid: int, addresses: tuple[str, ...], deadline: float | None) -> int:
    """Join; the first group of all makes the first configuration."""
    limit = deadline or CHANGE_DEADLINE_S
    change = clerk.join if (await clerk.query(deadline_s=limit)).num else clerk.init
    return await change({gid: addresses}, deadline_s=limit)


def _checked(addresses: tuple[str, ...]) -> tuple[str, ...]:
    from tools.settings import address_text, parse_address

    try:
        return tuple(address_text(parse_address(text)) for text in addresses)
    except ValueError as error:
        fail(f"--address: {error}", USAGE)


def _known_addresses(folder: Path, gid: int) -> tuple[str, ...]:
    from tools.manifest import need_manifest

    groups: dict[int, GroupSpec] = {}
    with one_line_errors():
        groups = dict(need_manifest(folder).groups)
    if gid not in groups:
        fail(
            f"the addresses of group {gid} are not known: name them with --address, or run `shardkv group add {gid}`",
            USAGE,
        )
    return groups[gid].addresses


@ctrl.command()
@click.argument("gid", type=click.IntRange(1))
@client_options
def leave(gid: int, folder: Path, connect: str | None, deadline: float | None, as_json: bool) -> None:
    """Let group GID go and rebalance. The last group cannot leave while it holds data.

    \b
    Example: shardkv ctrl leave 1
    --json: num.
    """
    _told(_ask(folder, connect, lambda clerk: clerk.leave([gid], deadline_s=deadline or CHANGE_DEADLINE_S)), as_json)


@ctrl.command()
@click.argument("shard", type=click.IntRange(0))
@click.argument("gid", type=click.IntRange(1))
@client_options
def move(shard: int, gid: int, folder: Path, connect: str | None, deadline: float | None, as_json: bool) -> None:
    """Give SHARD to group GID, whatever the balance.

    \b
    Example: shardkv ctrl move 3 2
    --json: num.
    """
    _told(
        _ask(folder, connect, lambda clerk: clerk.move(shard, gid, deadline_s=deadline or CHANGE_DEADLINE_S)), as_json
    )
