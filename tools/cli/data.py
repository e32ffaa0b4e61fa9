"""`shardkv get | put | delete | scan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from tools.cli.common import controllers_of, dir_option, fail, json_option, one_line_errors, put_out, run, text_of

_DEADLINE = click.option("--deadline", default=10.0, show_default=True, help="Give up after so many seconds.")


async def _with_clerk(folder: Path, deadline: float, work: Any) -> Any:
    import shardkv

    async with shardkv.connect(controllers_of(folder), deadline_s=deadline) as kv:
        return await work(kv)


@click.command()
@click.argument("key")
@_DEADLINE
@dir_option
@json_option
def get(key: str, deadline: float, folder: Path, as_json: bool) -> None:
    """The value of KEY, linearizable. Exit code 1 if there is no such key.

    \b
    Example: shardkv get name
    --json: key, value, version. Without it the value's bytes and a newline.
    """
    value, version = run(lambda: _with_clerk(folder, deadline, lambda kv: kv.get(key)))
    if as_json:
        put_out({"key": key, "value": text_of(value), "version": version})
    else:
        sys.stdout.buffer.write(value + b"\n")


@click.command()
@click.argument("key")
@click.argument("value")
@click.option("--version", "wanted", type=click.IntRange(0), help="Only if the key has this version (0: is missing).")
@_DEADLINE
@dir_option
@json_option
def put(key: str, value: str, wanted: int | None, deadline: float, folder: Path, as_json: bool) -> None:
    """Store VALUE ("-": what comes on standard input) under KEY; takes effect once.

    \b
    Example: shardkv put name value --version 0
    --json: key, version (the new one). Exit code 1: the key has another version; 4: the outcome is unknown.
    """
    data = sys.stdin.buffer.read() if value == "-" else value.encode()
    version = run(lambda: _with_clerk(folder, deadline, lambda kv: kv.put(key, data, wanted)))
    put_out({"key": key, "version": version}) if as_json else click.echo(str(version))


@click.command()
@click.argument("key")
@click.option("--version", "wanted", type=click.IntRange(1), help="Only if the key has this version.")
@_DEADLINE
@dir_option
@json_option
def delete(key: str, wanted: int | None, deadline: float, folder: Path, as_json: bool) -> None:
    """Remove KEY. Afterwards it is as if it was never written.

    \b
    Example: shardkv delete name
    --json: key, version (the one that was removed).
    """
    version = run(lambda: _with_clerk(folder, deadline, lambda kv: kv.delete(key, wanted)))
    put_out({"key": key, "version": version}) if as_json else click.echo(str(version))


@click.command()
@click.option("--prefix", help="Keys that begin so.")
@click.option("--start", default="", help="From this key on.")
@click.option("--stop", help="Up to this key, without it.")
@click.option("--limit", type=click.IntRange(1), help="At most so many keys.")
@_DEADLINE
@dir_option
@json_option
def scan(
    prefix: str | None, start: str, stop: str | None, limit: int | None, deadline: float, folder: Path, as_json: bool
) -> None:
    """Keys in order, with version and value. No snapshot across shards.

    \b
    Example: shardkv scan --prefix user/ --limit 10
    --json: one object per key: key, value, version.
    """
    if prefix is not None and (start or stop is not None):
        fail("--prefix goes without --start and --stop", 2)

    async def work(kv: Any) -> None:
        async for key, value, version in kv.scan(prefix=prefix, start=start, stop=stop, limit=limit):
            if as_json:
                put_out({"key": text_of(key), "value": text_of(value), "version": version})
            else:
                click.echo(f"{text_of(key)}\t{version}\t{text_of(value)}")

    with one_line_errors():
        run(lambda: _with_clerk(folder, deadline, work))
