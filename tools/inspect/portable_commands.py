"""`shardkv inspect export | import | copy | repair | follow`: the command line over the child's verbs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from tools.inspect.reader import Unreadable, ask

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
_PATH = click.Path(path_type=Path)


def _new(path: Path) -> Path:
    if path.exists() or path.is_symlink():
        raise click.UsageError(f"{path} exists already: give a name that is free, nothing is overwritten")
    return path


def _one(*arguments: str) -> dict[str, Any]:
    try:
        (found,) = ask(*arguments)
        return found
    except Unreadable as error:
        click.echo(f"shardkv inspect: {error}", err=True)
        sys.exit(error.exit_code)


@click.command()
@click.argument("directory", type=_PATH, metavar="DIR")
@click.argument("file", type=_PATH, metavar="FILE")
@_JSON
def export(directory: Path, file: Path, as_json: bool) -> None:
    """Write a peer's directory, stopped or running, as of one moment, to a new portable and checksummed FILE.

    \b
    Example: shardkv inspect export shardkv-data/server-1-0 server-1-0.skv
    --json: one object: file tables records bytes applied, the index that the state is as of, null of a kvsrv.
    """
    found = _one("export", str(directory), str(_new(file)))
    text = f"{file}: {found['records']} records of {found['tables']} tables, {found['bytes']} bytes"
    click.echo(json.dumps(found) if as_json else text)


@click.command(name="import")
@click.argument("file", type=_PATH, metavar="FILE")
@click.argument("directory", type=_PATH, metavar="DIR")
@_JSON
def import_(file: Path, directory: Path, as_json: bool) -> None:
    """Make a new peer's directory of an export. Never run the peer from it while another copy of it runs.

    \b
    Example: shardkv inspect import server-1-0.skv restored/server-1-0
    --json: one object: directory records.
    """
    found = _one("import", str(file), str(_new(directory)))
    click.echo(json.dumps(found) if as_json else f"{directory}: {found['records']} records, verified")


@click.command()
@click.argument("directory", type=_PATH, metavar="DIR")
@click.argument("new", type=_PATH, metavar="NEW")
@_JSON
def copy(directory: Path, new: Path, as_json: bool) -> None:
    """Copy a peer's directory, stopped or running, as of one moment, compactly, to NEW; verified.

    \b
    Example: shardkv inspect copy shardkv-data/server-1-0 copies/server-1-0
    --json: one object: directory records.
    """
    found = _one("copy", str(directory), str(_new(new)))
    click.echo(json.dumps(found) if as_json else f"{new}: {found['records']} records, verified")


@click.command()
@click.argument("directory", type=_PATH, metavar="DIR")
@click.argument("new", type=_PATH, metavar="NEW")
@click.option("--unsafe", is_flag=True, help="Cut the log, or drop the state; the peer must be refilled then.")
@_JSON
def repair(directory: Path, new: Path, unsafe: bool, as_json: bool) -> None:
    """Salvage a stopped peer's damaged directory into NEW, with an audit record in NEW/repair.json. What loses nothing is
    done; the rest needs --unsafe, and the peer then neither votes nor campaigns until it holds recover_to again.

    \b
    Example: shardkv inspect repair shardkv-data/server-1-0 repaired/server-1-0
    --json: the audit record: source time_ms way term vote commit base last last_before state intent mode recover_to
    dropped damage pages.
    """
    found = _one("repair", str(directory), str(_new(new)), str(int(unsafe)))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{new}: {found['way']}; entries to {found['last']} of {found['last_before']}, state {found['state']}")
    for line in found["damage"] + found["dropped"]:
        click.echo(f"  {line}")
    if found["recover_to"]:
        click.echo(f"  the peer neither votes nor campaigns before it holds {found['recover_to']} (term, index)")


@click.command()
@click.argument("directory", type=_PATH, metavar="DIR")
@click.option("--from", "first", type=click.IntRange(0), help="The first index to show; else only what is new.")
@_JSON
def follow(directory: Path, first: int | None, as_json: bool) -> None:
    """Show a live peer's log as it grows, until Ctrl-C. An index that is written again is shown again, marked.

    \b
    Example: shardkv inspect follow shardkv-data/server-1-0
    --json: one object per line, as of `log`, with again; or event (following truncated purged stopped started), from, to.
    """
    from tools.inspect.logtext import entry_line

    try:
        for row in ask("follow", "-" if first is None else str(first), str(directory)):
            if row.get("event") == "idle":
                continue
            if as_json:
                text = json.dumps(row)
            elif "event" in row:
                text = "-- " + " ".join(f"{k} {v}" if k != "event" else v for k, v in row.items())
            else:
                text = ("~" if row.pop("again") else " ") + entry_line(row)
            click.echo(text)
            sys.stdout.flush()
    except Unreadable as error:
        click.echo(f"shardkv inspect: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(0)


COMMANDS = (export, import_, copy, repair, follow)
