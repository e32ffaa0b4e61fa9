"""`shardkv inspect`: the command line over `child`. Exit codes: 0 fine, 1 findings, 2 usage, 3 cannot open."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

FINDINGS, CANNOT_OPEN = 1, 3

_DIRECTORIES = click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


class ChildDied(Exception):
    """The process that read the files was killed by them; the text says how."""


def ask_child(*arguments: str) -> Iterator[dict[str, Any]]:
    """The objects that the child says, as they come. Raises `ChildDied`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.inspect.child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        for line in process.stdout:
            yield json.loads(line)
    finally:
        process.stdout.close()
        said = process.stderr.read().strip().splitlines()
        process.stderr.close()
        code = process.wait()
    if code < 0:
        raise ChildDied(f"reading it killed the reader with {signal.Signals(-code).name}: the file is damaged")
    if code not in (0, CANNOT_OPEN):
        raise ChildDied(f"reading it failed: {said[-1] if said else f'exit code {code}'}: the file is damaged")


def peer_info(directory: Path) -> dict[str, Any]:
    """What `info --json` tells of one directory. Raises `ChildDied`, and `ValueError` if it cannot be opened."""
    (found,) = ask_child("info", str(directory))
    if "error" in found:
        raise ValueError(found["error"])
    return found


def verify_directories(directories: list[Path]) -> dict[str, list[str]]:
    """The findings per place; a directory whose reading killed the reader has that as its finding."""
    try:
        (found,) = ask_child("verify", *(str(d) for d in directories))
        return found
    except ChildDied as error:
        if len(directories) == 1:
            return {str(directories[0]): [str(error)]}
    apart: dict[str, list[str]] = {}
    for directory in directories:
        apart |= verify_directories([directory])
    return apart


@click.group(name="inspect")
def inspect() -> None:
    """Read what is on a peer's disk, stopped or running. Never writes.

    \b
    Example: shardkv inspect verify shardkv-data/server-0-*
    """


@inspect.command()
@_DIRECTORIES
@_JSON
def info(directories: tuple[Path, ...], as_json: bool) -> None:
    """Who a peer is and where it stands: identity, term, vote, log positions, configuration or shards, sizes.

    \b
    Example: shardkv inspect info shardkv-data/server-0-0
    --json: one object per directory: name cluster gid peer incarnation format engine store boot term vote mode commit
    base first last applied state_hash slot intent membership config|shards and sizes; or directory, error.
    """
    failed = 0
    for directory in directories:
        try:
            found = next(iter(ask_child("info", str(directory))))
        except ChildDied as error:
            found = {"directory": str(directory), "error": str(error)}
        failed = failed or (CANNOT_OPEN if "error" in found else 0)
        if as_json:
            click.echo(json.dumps(found))
        elif "error" in found:
            click.echo(f"shardkv inspect: {found['error']}", err=True)
        else:
            _print_info(found)
    sys.exit(failed)


def _print_info(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=found["name"], show_header=False, title_justify="left")
    for key, value in found.items():
        if key == "shards":
            value = "\n".join(f"{s}: {state}, num {num}, {rows} rows" for s, state, num, _, rows, *_ in value)
        table.add_row(key, str(value))
    Console(highlight=False).print(table)


@inspect.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--first", default=0, type=click.IntRange(0), help="The first index to show.")
@click.option("--last", type=click.IntRange(0), help="The last index to show.")
@click.option("--limit", type=click.IntRange(1), help="At most so many entries.")
@click.option("--kind", type=click.Choice(["noop", "command", "membership"]), help="Entries of this kind only.")
@click.option("--count", is_flag=True, help="Only count them, by kind.")
@_JSON
def log(
    directory: Path, first: int, last: int | None, limit: int | None, kind: str | None, count: bool, as_json: bool
) -> None:
    """A peer's log, entry by entry, decoded.

    \b
    Example: shardkv inspect log shardkv-data/server-1-0 --last 20
    --json: one object per line: index term kind time_ms bytes and operations [{client seq command key ...}] | leader boot
    | membership.
    """
    arguments = [str(first), _dash(last), _dash(limit), kind or "-", str(directory)]
    counts: dict[str, int] = {}
    try:
        for row in ask_child("log", *arguments):
            if "error" in row:
                click.echo(f"shardkv inspect: {row['error']}", err=True)
                sys.exit(CANNOT_OPEN)
            counts[row["kind"]] = counts.get(row["kind"], 0) + 1
            if count:
                continue
            click.echo(json.dumps(row) if as_json else _line(row))
    except ChildDied as error:
        click.echo(f"shardkv inspect: {directory}: {error}", err=True)
        sys.exit(FINDINGS)
    if count:
        click.echo(json.dumps(counts) if as_json else ", ".join(f"{n} {k}" for k, n in sorted(counts.items())) or "0")


def _dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _line(row: dict[str, Any]) -> str:
    time = datetime.fromtimestamp(row["time_ms"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3] if row["time_ms"] else "-"
    head = f"{row['index']:>8} {row['term']:>5} {time:>12} {row['kind']:<10}"
    if "operations" in row:
        return f"{head} " + "; ".join(_words(operation) for operation in row["operations"])
    rest = {k: v for k, v in row.items() if k not in ("index", "term", "time_ms", "kind", "bytes")}
    return f"{head} " + ", ".join(f"{k} {v}" for k, v in rest.items())


def _words(operation: dict[str, Any]) -> str:
    shown = {k: v for k, v in operation.items() if k not in ("command", "client", "seq")}
    whom = f" [{operation['client'][:6]}#{operation['seq']}]" if "client" in operation else ""
    return f"{operation['command']}{whom} " + " ".join(f"{k}={v}" for k, v in shown.items())


@inspect.command()
@_DIRECTORIES
@_JSON
def verify(directories: tuple[Path, ...], as_json: bool) -> None:
    """Check every record, the log, and the relations between log and state; peers of a group also against each other.

    \b
    Example: shardkv inspect verify shardkv-data/server-*
    --json: one object {place: [finding ...]}; all lists empty if everything is fine.
    """
    found = verify_directories(list(directories))
    if as_json:
        click.echo(json.dumps(found))
    for place, findings in found.items():
        if as_json:
            continue
        if not findings:
            click.echo(f"{place}: fine")
        for finding in findings:
            click.echo(f"{place}: {finding}")
    sys.exit(FINDINGS if any(found.values()) else 0)
