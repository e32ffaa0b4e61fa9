"""`shardkv inspect`: the command line over `reader`. Exit codes: 0 fine, 1 findings, 2 usage, 3 cannot open."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tools.inspect.child import CANNOT_OPEN, FINDINGS
from tools.inspect.history_commands import add_to as add_history_commands
from tools.inspect.logview import KINDS, Wanted
from tools.inspect.portable_commands import COMMANDS as PORTABLE
from tools.inspect.reader import Unreadable, log_rows, verify_directories
from tools.inspect.reader import peer_info as read_info
from tools.inspect.replay_commands import COMMANDS as REPLAY
from tools.inspect.state_commands import COMMANDS as STATE
from tools.inspect.structure import peer_directories

_DIRECTORIES = click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


def _complain(directory: Path, error: Unreadable) -> None:
    text = str(error)
    click.echo(f"shardkv inspect: {text if str(directory) in text else f'{directory}: {text}'}", err=True)


@click.group(name="inspect")
def inspect() -> None:
    """Read what is on a peer's disk, stopped or running. Never writes.

    DIR is a peer's directory, or a cluster's for all of its peers.

    \b
    Example: shardkv inspect verify shardkv-data
    """


@inspect.command()
@_DIRECTORIES
@_JSON
def info(directories: tuple[Path, ...], as_json: bool) -> None:
    """Who a peer is and where it stands: identity, term, vote, log positions, configuration or shards, sizes.

    \b
    Example: shardkv inspect info shardkv-data/server-0-0
    --json: one object per directory: name directory running cluster gid peer incarnation format engine store boot term
    vote mode recover_to commit base first last applied membership learners intent slot state_hash state_hash_now config
    config_committed shards and, of log and state, _used_bytes _free_bytes _map_bytes _txnid _readers; or directory, error.
    """
    worst = 0
    for directory in peer_directories(directories):
        try:
            found = read_info(directory)
        except Unreadable as error:
            worst = max(worst, error.exit_code)
            if as_json:
                click.echo(json.dumps({"directory": str(directory), "error": str(error)}))
            else:
                _complain(directory, error)
            continue
        if as_json:
            click.echo(json.dumps(found))
        else:
            _print_info(found)
    sys.exit(worst)


def _print_info(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=found["name"], show_header=False, title_justify="left")
    for key, value in found.items():
        if value is None:
            continue
        if key == "shards":
            value = "\n".join(f"{s}: {state}, num {num}, {rows} rows" for s, state, num, _, rows, *_ in value)
        table.add_row(key, str(value))
    Console(highlight=False).print(table)


@inspect.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--first", default=0, type=click.IntRange(0), help="The first index to show.")
@click.option("--last", type=click.IntRange(0), help="The last index to show.")
@click.option("--limit", type=click.IntRange(1), help="At most so many entries.")
@click.option("--kind", type=click.Choice(KINDS), help="Entries of this kind only.")
@click.option("--hex", "in_hex", is_flag=True, help="Keys and values whole, in hex.")
@click.option("--raw", is_flag=True, help="The entries' data as stored, in hex, not decoded.")
@click.option("--count", is_flag=True, help="Only count them, by kind.")
@_JSON
def log(
    directory: Path,
    first: int,
    last: int | None,
    limit: int | None,
    kind: str | None,
    in_hex: bool,
    raw: bool,
    count: bool,
    as_json: bool,
) -> None:
    """A peer's log, entry by entry, decoded.

    \b
    Example: shardkv inspect log shardkv-data/server-1-0 --last 20
    --json: one object per line: peer index term kind time_ms bytes and operations [{client seq command shard key ...}] |
    leader boot | voters learners | data (with --raw).
    """
    counts: Counter[str] = Counter()
    try:
        for row in log_rows(directory, Wanted(first, last, limit, kind, raw, in_hex)):
            counts[row["kind"]] += 1
            if not count:
                click.echo(json.dumps(row) if as_json else entry_line(row))
    except Unreadable as error:
        _complain(directory, error)
        sys.exit(error.exit_code)
    if count:
        click.echo(json.dumps(counts) if as_json else ", ".join(f"{n} {k}" for k, n in sorted(counts.items())) or "0")


def entry_line(row: dict[str, Any]) -> str:
    """A row of `log` for people."""
    time = datetime.fromtimestamp(row["time_ms"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3] if row["time_ms"] else "-"
    head = f"{row['index']:>8} {row['term']:>5} {time:>12} {row['kind']:<10}"
    if "operations" in row:
        return f"{head} " + "; ".join(_words(operation) for operation in row["operations"])
    rest = {k: v for k, v in row.items() if k not in ("peer", "index", "term", "time_ms", "kind", "bytes")}
    return f"{head} " + ", ".join(f"{k} {v}" for k, v in rest.items())


def _words(operation: dict[str, Any]) -> str:
    shown = {k: v for k, v in operation.items() if k not in ("command", "client", "seq")}
    whom = f" [{operation['client'][:6]}#{operation['seq']}]" if "client" in operation else ""
    return f"{operation['command']}{whom} " + " ".join(f"{k}={v}" for k, v in shown.items())


@inspect.command()
@_DIRECTORIES
@_JSON
def verify(directories: tuple[Path, ...], as_json: bool) -> None:
    """Check every page and record, the log, and the relations between log and state; peers of a group also against each
    other.

    \b
    Example: shardkv inspect verify shardkv-data
    --json: one object {place: [finding ...]}; all lists empty if everything is fine.
    """
    found: dict[str, list[str]] = {}
    closed = False
    for one in verify_directories(peer_directories(directories)):
        found[one["place"]] = one["findings"]
        closed = closed or not one["opened"]
        if as_json:
            continue
        for finding in one["findings"] or ["fine"]:
            click.echo(finding if one["place"] in finding else f"{one['place']}: {finding}")
    if as_json:
        click.echo(json.dumps(found))
    sys.exit(CANNOT_OPEN if closed else FINDINGS if any(found.values()) else 0)


add_history_commands(inspect)
for _command in (*PORTABLE, *STATE, *REPLAY):
    inspect.add_command(_command)
