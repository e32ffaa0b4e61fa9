"""`shardkv inspect get | scan | sessions`: the command line over the child's verbs that look at a peer's state."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from shardkv.commands import MAX_KEY_BYTES
from shardkv.config import MAX_SHARDS
from tools.inspect.reader import Unreadable, ask
from tools.inspect.state import CLIENT_DIGITS, SHORT, Range

Row = dict[str, Any]

DIRECTORY = click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
HEX = click.option("--hex", "in_hex", is_flag=True, help="Keys are given and shown in hex, values shown so, whole.")
_SHARD = click.option("--shard", type=click.IntRange(0), help="Of this shard only.")
SHARDS = click.option(
    "--shards",
    type=click.IntRange(1, MAX_SHARDS),
    help="The cluster's number of shards, if the state does not say it yet.",
)
_LOG = click.option(
    "--through-log", is_flag=True, help="Apply the log up to the durable commit, in memory; nothing is written."
)
LIMIT = click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="At most so many.")


def key_bytes(key: str, in_hex: bool) -> bytes:
    """A key, or a bound of keys, as it was given. Raises `UsageError`."""
    try:
        found = bytes.fromhex(key.removeprefix("0x")) if in_hex else key.encode("utf-8", "surrogateescape")
    except ValueError as error:
        raise click.UsageError(f"not {'hex' if in_hex else 'text'}: {key!r:.60}") from error
    if len(found) > MAX_KEY_BYTES + 1:  # the bound just behind a longest key
        raise click.UsageError(f"a key of {len(found)} bytes; there is none above {MAX_KEY_BYTES}")
    return found


def answers(verb: str, options: Row, directory: Path) -> Iterator[Row]:
    """What the child says. Ends the program with one line if it cannot."""
    try:
        yield from ask(verb, json.dumps(options), str(directory))
    except Unreadable as error:
        text = str(error)
        text = text if str(directory) in text else f"{directory}: {text}"
        click.echo(f"shardkv inspect: {text}", err=True)
        sys.exit(error.exit_code)


def show(rows: Iterator[Row], as_json: bool, line: Callable[[Row], str]) -> None:
    """Print the rows, one by one; after an error nothing more."""
    for row in rows:
        click.echo(json.dumps(row) if as_json else line(row))


def at_line(row: Row) -> str:
    """As of when a state is."""
    if row["at"] is None:
        return "as it is: a kvsrv numbers nothing"
    (term, index), stored = row["at"], row["stored"]
    if not row["through_log"]:
        return f"at index {index}, term {term}"
    return f"at index {index}, term {term}: the log up to its commit, over the state at index {stored[1]}"


def cut(value: Any) -> str:
    """A value for a line."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."


# --- get -------------------------------------------------------------------------------------------------------------


@click.command()
@DIRECTORY
@click.argument("key", metavar="KEY")
@HEX
@_LOG
@SHARDS
@JSON
def get(directory: Path, key: str, in_hex: bool, through_log: bool, shards: int | None, as_json: bool) -> None:
    """A key as it is in a peer's state on disk: value, version, shard, and whether the shard is served here.

    The state on disk is behind the log: it is written from time to time. --through-log applies the rest of what is
    committed, as a restarted peer would.

    \b
    Example: shardkv inspect get shardkv-data/server-1-0 greeting --through-log
    --json: one object: peer at [term, index] through_log stored [term, index] key shard state num gid found version bytes
    value; version 0 and value null if it is not found, gid: where its shard went.
    """
    options = {"key": key_bytes(key, in_hex).hex(), "hex": in_hex, "through_log": through_log, "shards": shards}
    for row in answers("get", options, directory):
        if as_json:
            click.echo(json.dumps(row))
            continue
        click.echo(at_line(row))
        click.echo("\n".join([key_line(row), *value_lines(row)]))


def key_line(row: Row) -> str:
    """A key without its value."""
    where = f"shard {row['shard']}, {row['state']} at num {row['num']}"
    if row["gid"] is not None:
        where += f", gone to group {row['gid']}"
    if not row["found"]:
        return f"{row['key']}: no such key here ({where})"
    return f"{row['key']}: version {row['version']}, {row['bytes']} bytes ({where})"


def value_lines(row: Row) -> list[str]:
    """The value of a key, whole; nothing if it is not there."""
    if not row["found"]:
        return []
    return [row["value"] if isinstance(row["value"], str) else json.dumps(row["value"])]


# --- scan ------------------------------------------------------------------------------------------------------------


@click.command()
@DIRECTORY
@click.option("--prefix", default="", help="Keys that begin so.")
@click.option("--start", default="", help="Keys from this one on.")
@click.option("--stop", help="Keys before this one.")
@LIMIT
@_SHARD
@HEX
@_LOG
@SHARDS
@JSON
def scan(
    directory: Path,
    prefix: str,
    start: str,
    stop: str | None,
    limit: int,
    shard: int | None,
    in_hex: bool,
    through_log: bool,
    shards: int | None,
    as_json: bool,
) -> None:
    """The rows of a peer's state on disk, of all its shards in the order of their keys.

    Rows of shards that are frozen or arrive are shown too, marked: nobody is answered from them.

    \b
    Example: shardkv inspect scan shardkv-data/server-1-0 --prefix user/ --limit 20
    --json: one object per line: first peer at through_log stored, as of `get`; then rows: key shard state version bytes
    value; last shown next, the key (hex) that the limit left out first, or null.
    """
    start_hex, prefix_hex = (key_bytes(bound, in_hex).hex() for bound in (start, prefix))
    stop_hex = None if stop is None else key_bytes(stop, in_hex).hex()
    wanted = Range(prefix_hex, start_hex, stop_hex, limit, shard, in_hex)
    options = {"range": wanted.as_json(), "through_log": through_log, "shards": shards}
    show(answers("scan", options, directory), as_json, lambda row: row_line(row, in_hex))


def row_line(row: Row, whole: bool = False) -> str:
    """One object of `scan`."""
    if "at" in row:
        return at_line(row)
    if "shown" in row:
        return f"{row['shown']} rows" + (", and more: --limit" if row["next"] is not None else "")
    state = "" if row["state"] == "serving" else f" [{row['state']}]"
    value = row["value"] if whole else cut(row["value"])
    return f"{row['key']}  shard {row['shard']}{state}, version {row['version']}, {row['bytes']} bytes  {value}"


# --- sessions --------------------------------------------------------------------------------------------------------


def _client(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if len(value) > CLIENT_DIGITS or not set(value.lower()) <= set("0123456789abcdef"):
        raise click.BadParameter(f"a client is up to {CLIENT_DIGITS} hex digits, as `inspect log` shows it")
    return value.lower()


@click.command(name="sessions")
@DIRECTORY
@_SHARD
@click.option("--client", default="", callback=_client, help="Clients whose number, in hex, begins so.")
@LIMIT
@_LOG
@SHARDS
@JSON
def sessions_(
    directory: Path,
    shard: int | None,
    client: str,
    limit: int,
    through_log: bool,
    shards: int | None,
    as_json: bool,
) -> None:
    """The clients' sessions in a peer's state on disk: what each has acknowledged, and the replies kept for its retries.

    \b
    Example: shardkv inspect sessions shardkv-data/server-1-0 --shard 3
    --json: one object per line: first peer at through_log stored, as of `get`; then per shard: shard state num gid tick
    horizon sessions; behind it per session: shard client last_tick acked_below horizon replies [{seq code fields tick}];
    last shown more.
    """
    options = {"shard": shard, "client": client, "limit": limit, "through_log": through_log, "shards": shards}
    show(answers("sessions", options, directory), as_json, _session_line)


def _session_line(row: Row) -> str:
    if "at" in row:
        return at_line(row)
    if "shown" in row:
        return f"{row['shown']} sessions" + (", and more: --limit" if row["more"] else "")
    if "client" not in row:
        head = f"shard {row['shard']} ({row['state']}, num {row['num']})"
        return f"{head}: tick {row['tick']}, horizon {row['horizon']}, {row['sessions']} sessions"
    replies = ", ".join(f"#{reply['seq']} {reply_words(reply)}" for reply in row["replies"])
    return (
        f"  {row['client']}: last tick {row['last_tick']}, acked below {row['acked_below']}, "
        f"horizon {row['horizon']}; replies: {replies or 'none'}"
    )


def reply_words(reply: Row) -> str:
    """A reply for people."""
    words = [reply["code"], *(str(field) for field in reply["fields"])]
    return " ".join(words) + ("" if reply["tick"] is None else f" (tick {reply['tick']})")


COMMANDS = (get, scan, sessions_)
