"""`shardkv inspect history | replay`: the command line over the child's verbs that apply a peer's log again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tools.inspect.child import FINDINGS
from tools.inspect.history_words import clock
from tools.inspect.state import Range
from tools.inspect.state_commands import (
    DIRECTORY,
    HEX,
    JSON,
    LIMIT,
    SHARDS,
    Row,
    answers,
    at_line,
    cut,
    key_bytes,
    key_line,
    reply_words,
    row_line,
    value_lines,
)

_BASE = click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="Begin with the state in this export (`inspect export`) of a peer of the group.",
)


_NO_FIELDS = frozenset(
    ("index", "term", "time_ms", "committed", "applied", "client", "seq", "command", "shard", "key", "outcome")
)
"""What of an operation is no field of its command, or the same in each line."""


def _answers(verb: str, options: Row, directory: Path) -> Iterator[Row]:
    """What the child says, which has a directory for the state that it makes. It is removed whatever becomes of the child."""
    with TemporaryDirectory(prefix="shardkv-inspect-") as folder:
        yield from answers(verb, {**options, "folder": folder}, directory)


# --- history ---------------------------------------------------------------------------------------------------------


@click.command()
@DIRECTORY
@click.argument("key", metavar="KEY")
@_BASE
@HEX
@SHARDS
@JSON
def history(directory: Path, key: str, base: Path | None, in_hex: bool, shards: int | None, as_json: bool) -> None:
    """All entries of a peer's log that touch a key, what became of each, and the key as it is stored now.

    Also told are chunks of a hand-over with the key in them, and what happens to its shard. What became of an entry is
    found by applying the log from its beginning, or from --base; if its beginning is purged and there is no base, only
    of the entries behind the stored state, and of those whose reply a session remembers. Of entries that are not
    committed it is what would become of them.

    \b
    Example: shardkv inspect history shardkv-data/server-1-0 greeting
    --json: one object per line: first peer at through_log stored, as of `get`, key shard first last commit told_from; then
    per operation: index term time_ms committed applied client seq command and its fields, outcome: null if not known, or
    effect (applied none duplicate refused, null if not known) code fields tick version_after told_by (replay session);
    last present: as of `get`.
    """
    options = {"key": key_bytes(key, in_hex).hex(), "hex": in_hex, "shards": shards}
    options["base"] = None if base is None else str(base)
    for row in _answers("history", options, directory):
        click.echo(json.dumps(row) if as_json else _history_line(row))


def _history_line(row: Row) -> str:
    if "at" in row:
        entries = f"entries {row['first']}..{row['last']}, committed to {row['commit']};"
        return f"{at_line(row)}\n{row['key']}, shard {row['shard']}: {entries} applied anew to {row['told_from']}"
    if "present" in row:
        return f"stored: {key_line(row['present'])}"
    client = f" [{row['client'][:6]}#{row['seq']}]" if "client" in row else ""
    shown = {name: value for name, value in row.items() if name not in _NO_FIELDS and value is not None}
    fields = " ".join(f"{name}={cut(value)}" for name, value in shown.items())
    where = "" if row["committed"] else " [not committed]"
    head = f"{row['index']:>8} {row['term']:>5}  {clock(row['time_ms'])}  {row['command']}{client} {fields}"
    return f"{head}{where} -> {_outcome_words(row['outcome'])}"


def _outcome_words(outcome: Row | None) -> str:
    if outcome is None:
        return "not known"
    words = reply_words(outcome)
    if outcome["told_by"] == "session":
        return f"{words}, as its session remembers"
    version = "" if outcome["version_after"] is None else f", version {outcome['version_after']} then"
    return f"{outcome['effect']}: {words}{version}"


# --- replay ----------------------------------------------------------------------------------------------------------


def _index(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value not in ("applied", "commit") and not (value.isascii() and value.isdecimal() and len(value) < 20):
        raise click.BadParameter("an index, or one of the words applied and commit")
    return value


@click.command()
@DIRECTORY
@click.option("--to-index", "to", required=True, callback=_index, help="An index, or: applied, commit.")
@_BASE
@click.option("--uncommitted", is_flag=True, help="Also beyond the durable commit: what may never come to be.")
@click.option("--key", help="Also this key, as `get`.")
@click.option("--scan", "scanned", is_flag=True, help="Also the rows, as `scan`.")
@click.option("--prefix", default="", help="With --scan: keys that begin so.")
@LIMIT
@HEX
@SHARDS
@JSON
def replay(
    directory: Path,
    to: str,
    base: Path | None,
    uncommitted: bool,
    key: str | None,
    scanned: bool,
    prefix: str,
    limit: int,
    in_hex: bool,
    shards: int | None,
    as_json: bool,
) -> None:
    """A peer's state as of an index, made anew by applying its log from its beginning, or from --base.

    If the beginning is purged and there is no base, it goes on from the stored state. The state is made in the directory
    for temporary files. At the stored applied index it is compared with the stored state, row by row; a difference is a
    finding, exit 1. An index out of reach is exit 3.

    \b
    Example: shardkv inspect replay shardkv-data/server-1-0 --to-index applied
    --json: one object per line: peer at [term, index] base entries committed state_hash rows size sessions shards [[shard
    state num gid rows size sessions tick]] stored [term, index] stored_hash compared (nothing hash rows) findings [text];
    with --key: one as of `get`; with --scan: rows and the end, as of `scan`.
    """
    wanted = Range(key_bytes(prefix, in_hex).hex(), limit=limit, hex=in_hex).as_json() if scanned else None
    options = {"to": to, "uncommitted": uncommitted, "range": wanted, "hex": in_hex, "shards": shards}
    options["key"] = None if key is None else key_bytes(key, in_hex).hex()
    options["base"] = None if base is None else str(base)
    found = []
    for row in _answers("replay", options, directory):
        found += row.get("findings", [])
        click.echo(json.dumps(row) if as_json else _replay_lines(row, in_hex))
    sys.exit(FINDINGS if found else 0)


def _replay_lines(row: Row, whole: bool) -> str:
    if "findings" not in row:
        return "\n".join([key_line(row), *value_lines(row)]) if "found" in row else row_line(row, whole)
    term, index = row["at"]
    sure = "" if row["committed"] else ", NOT COMMITTED: it may never come to be"
    lines = [f"at index {index}, term {term}: {row['entries']} entries over {row['base']}{sure}"]
    lines.append(
        f"state hash {row['state_hash']}, {row['rows']} rows of {row['size']} bytes, {row['sessions']} sessions"
    )
    for shard, state, num, gid, rows, size, sessions, tick in row["shards"]:
        if state == "absent":
            continue
        gone = "" if gid is None else f", gone to group {gid}"
        held = f"{rows} rows of {size} bytes, {sessions} sessions, tick {tick}"
        lines.append(f"  shard {shard}: {state} at num {num}{gone}; {held}")
    lines.append(_verdict(row))
    return "\n".join([*lines, *(f"FINDING: {finding}" for finding in row["findings"])])


def _verdict(row: Row) -> str:
    stored = f"the stored state, as of index {row['stored'][1]}"
    if row["compared"] == "nothing":
        return f"not compared with {stored}"
    what = "by its hash" if row["compared"] == "hash" else "row by row"
    return f"compared with {stored}, {what}: {'it differs' if row['findings'] else 'equal'}"


COMMANDS = (history, replay)
