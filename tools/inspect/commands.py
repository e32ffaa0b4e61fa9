"""`shardkv inspect`: the command line over `reader`. Exit codes: 0 fine, 1 findings, 2 usage, 3 cannot open."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tools.inspect.child import CANNOT_OPEN, FINDINGS
from tools.inspect.history_commands import add_to as add_history_commands
from tools.inspect.log_command import log
from tools.inspect.places import places
from tools.inspect.portable_commands import COMMANDS as PORTABLE
from tools.inspect.progress import progress_bar
from tools.inspect.reader import Unreadable, verify_directories
from tools.inspect.reader import peer_info as read_info
from tools.inspect.replay_commands import COMMANDS as REPLAY
from tools.inspect.state_commands import COMMANDS as STATE

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


def _complain(directory: Path, error: Unreadable) -> None:
    text = str(error)
    click.echo(f"shardkv inspect: {text if str(directory) in text else f'{directory}: {text}'}", err=True)


@click.group(name="inspect")
def inspect() -> None:
    """Read what is on a peer's disk, stopped or running. Never writes.

    DIR is a peer's directory, or a cluster's for all of its peers. Without access to the files: the HOST:PORT of a running
    peer stands for its directory in every command that only reads, and --connect for all peers of a running cluster.

    \b
    Examples: shardkv inspect verify shardkv-data
              shardkv inspect log 127.0.0.1:7100 --limit 20
              shardkv inspect timeline --connect 127.0.0.1:7000
    """


@inspect.command()
@places
@_JSON
def info(directories: list[Path], as_json: bool) -> None:
    """Who a peer is and where it stands: identity, term, vote, log positions, configuration or shards, sizes.

    \b
    Example: shardkv inspect info shardkv-data/server-0-0
    --json: one object per directory: name directory running cluster gid peer incarnation format engine store boot term
    vote mode recover_to highest hard_copies commit base first last applied membership learners intent slot state_hash
    state_hash_now config config_committed shards records records_wrong checksums and, of log and state, _used_bytes
    _free_bytes _map_bytes _map_percent _txnid _readers; or directory, error. Exit code 1 if a record is wrong.
    """
    worst = 0
    for directory in directories:
        try:
            found = read_info(directory)
        except Unreadable as error:
            worst = max(worst, error.exit_code)
            if as_json:
                click.echo(json.dumps({"directory": str(directory), "error": str(error)}))
            else:
                _complain(directory, error)
            continue
        worst = max(worst, FINDINGS if found["records_wrong"] else 0)
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
        elif key in ("config", "config_committed"):
            following = "" if value["next"] is None else f", changing to {value['next']}"
            value = f"{value['num']}{following}\n{value['json']}"
        elif key == "records_wrong":
            value = "\n".join(value) or "none"
        table.add_row(key, str(value))
    Console(highlight=False).print(table)


@inspect.command()
@places
@_JSON
def verify(directories: list[Path], as_json: bool) -> None:
    """Check every page and record, the log, and the relations between log and state; peers of a group also against each
    other.

    \b
    Example: shardkv inspect verify shardkv-data
    --json: one object {place: [finding ...]}; all lists empty if everything is fine.
    """
    found: dict[str, list[str]] = {}
    closed = False
    with progress_bar("records") as told:
        for one in verify_directories(directories, told):
            found[one["place"]] = one["findings"]
            closed = closed or not one["opened"]
    for place, findings in found.items() if not as_json else ():
        for finding in findings or ["fine"]:
            click.echo(finding if place in finding else f"{place}: {finding}")
    if as_json:
        click.echo(json.dumps(found))
    sys.exit(CANNOT_OPEN if closed else FINDINGS if any(found.values()) else 0)


inspect.add_command(log)
add_history_commands(inspect)
for _command in (*PORTABLE, *STATE, *REPLAY):
    inspect.add_command(_command)
