"""`get`, `put`, `delete`, `scan`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from tools.cli.common import client_options, key_of, printable, put_out, raw, run, seeds_of, text_fields

if TYPE_CHECKING:
    from shardkv import Clerk

DEADLINE_S = 10.0
_VERSION = click.option(
    "--version", type=click.IntRange(min=0), default=None, help="Only if the key has this version (0: is missing)."
)

T = TypeVar("T")


def _with_clerk(folder: Path, connect: str | None, deadline: float | None, work: Callable[[Clerk], Awaitable[T]]) -> T:
    """Run `work` with a clerk of the cluster."""
    cluster, controllers = seeds_of(folder, connect)

    async def go() -> T:
        import shardkv

        async with shardkv.connect(controllers, deadline_s=deadline or DEADLINE_S, cluster=cluster) as kv:
            return await work(kv)

    return run(go)


@click.command()
@click.argument("key")
@client_options
def get(key: str, folder: Path, connect: str | None, deadline: float | None, as_json: bool) -> None:
    """Write the value of KEY to standard output, byte for byte (on a terminal, with a line end).

    \b
    Example: shardkv get greeting

    JSON keys: key, value, version; key_base64 or value_base64 instead for what is not UTF-8. Exit code 1: no such key.
    """
    value, version = _with_clerk(folder, connect, deadline, lambda kv: kv.get(key_of(key)))
    if as_json:
        put_out({**text_fields("key", raw(key)), **text_fields("value", value), "version": version})
        return
    click.echo(value, nl=sys.stdout.isatty())


@click.command()
@click.argument("key")
@click.argument("value", default="-")
@_VERSION
@client_options
def put(
    key: str,
    value: str,
    version: int | None,
    folder: Path,
    connect: str | None,
    deadline: float | None,
    as_json: bool,
) -> None:
    """Store VALUE under KEY and tell the new version. Without VALUE, or with -, it is read from standard input.

    \b
    Example: shardkv put greeting hello --version 1

    JSON keys: key, version. Exit codes: 1 the key has another version, 4 it may have been stored.
    """
    data = sys.stdin.buffer.read() if value == "-" else raw(value)
    new = _with_clerk(folder, connect, deadline, lambda kv: kv.put(key_of(key), data, version))
    if as_json:
        put_out({**text_fields("key", raw(key)), "version": new})
    else:
        click.echo(f"version {new}")


@click.command()
@click.argument("key")
@_VERSION
@client_options
def delete(
    key: str, version: int | None, folder: Path, connect: str | None, deadline: float | None, as_json: bool
) -> None:
    """Delete KEY and tell the version that it had. After that it is as if never written.

    \b
    Example: shardkv delete greeting

    JSON keys: key, version. Exit codes: 1 no such key or another version, 4 it may have been deleted.
    """
    old = _with_clerk(folder, connect, deadline, lambda kv: kv.delete(key_of(key), version))
    if as_json:
        put_out({**text_fields("key", raw(key)), "version": old})
    else:
        click.echo(f"deleted version {old}")


@click.command()
@click.option("--prefix", default=None, help="Keys that begin so.")
@click.option("--start", default=None, help="Keys from this one on.")
@click.option("--stop", default=None, help="Keys before this one.")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="At most so many.")
@client_options
def scan(
    prefix: str | None,
    start: str | None,
    stop: str | None,
    limit: int | None,
    folder: Path,
    connect: str | None,
    deadline: float | None,
    as_json: bool,
) -> None:
    """List keys in order: key, version and value, separated by tabs. Bytes that are no printable text are escaped.

    \b
    Example: shardkv scan --prefix user/ --limit 10

    JSON keys, an object per key: key, version, value; key_base64 or value_base64 for what is not UTF-8.
    """
    if prefix is not None and (start is not None or stop is not None):
        raise click.UsageError("--prefix goes without --start and --stop")

    async def work(kv: Clerk) -> None:
        rows = kv.scan(
            prefix=None if prefix is None else raw(prefix),
            start=b"" if start is None else raw(start),
            stop=None if stop is None else raw(stop),
            limit=limit,
        )
        async for key, value, version in rows:
            if as_json:
                put_out({**text_fields("key", key), "version": version, **text_fields("value", value)})
            else:
                click.echo(f"{printable(key)}\t{version}\t{printable(value)}")

    _with_clerk(folder, connect, deadline, work)
