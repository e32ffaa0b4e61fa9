"""`shardkv inspect log`: a peer's log, entry by entry."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tools.inspect.logtext import FORMS
from tools.inspect.logview import KINDS, Wanted
from tools.inspect.progress import progress_bar
from tools.inspect.reader import Unreadable, log_lines


class _Time(click.ParamType[int]):
    """ISO 8601 (UTC if it names no zone) or seconds since 1970, as ms since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        try:
            return round(float(value) * 1000)
        except (ValueError, OverflowError):
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither ISO 8601 (2026-01-31T12:00:00) nor seconds since 1970", param, ctx)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class _Session(click.ParamType[list[int]]):
    """CLIENT or CLIENT#SEQ, the client in hex as it is shown."""

    name = "session"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """See `click.ParamType`."""
        client, _, seq = str(value).partition("#")
        try:
            return [int(client, 16), *([int(seq)] if seq else [])]
        except ValueError:
            self.fail(f"{value!r} is no CLIENT or CLIENT#SEQ, the client in hex", param, ctx)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--first", default=0, type=click.IntRange(0), help="The first index to show.")
@click.option("--last", type=click.IntRange(0), help="The last index to show.")
@click.option("--limit", type=click.IntRange(1), help="At most so many entries.")
@click.option("--kind", type=click.Choice(KINDS), help="Entries of this kind only.")
@click.option("--term", type=click.IntRange(0), help="Of this term only.")
@click.option("--since", "since_ms", type=_Time(), help="Not before: ISO 8601 or seconds since 1970.")
@click.option("--until", "until_ms", type=_Time(), help="Not after.")
@click.option("--key", help="With an operation on this key.")
@click.option("--shard", type=click.IntRange(0), help="With an operation on this shard.")
@click.option("--session", type=_Session(), help="With an operation of this client: its hex number, or number#seq.")
@click.option("--hex", "in_hex", is_flag=True, help="Keys and values whole, in hex.")
@click.option("--raw", is_flag=True, help="The entries' data as stored, in hex, not decoded.")
@click.option("--redact", is_flag=True, help="Keys and values as salted hashes: equal ones can be told, no more.")
@click.option("--count", is_flag=True, help="Only count them, by kind.")
@click.option("--format", "form", type=click.Choice(FORMS), default="table", help="How to show them.  [default: table]")
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
def log(
    directory: Path, key: str | None, in_hex: bool, redact: bool, count: bool, form: str, as_json: bool, **rest: Any
) -> None:
    """A peer's log, entry by entry, decoded. Conditions may be combined.

    \b
    Example: shardkv inspect log shardkv-data/server-1-0 --key color --since 2026-01-31T12:00:00
    --json: one object per line: peer index term kind time_ms bytes and operations [{client seq command shard key ...}] |
    leader boot | voters learners | data (with --raw). With --count: one object {kind: number}.
    --format diag: each record in CBOR's diagnostic notation: [term, index, kind, version, time_ms, data].
    """
    if redact and (in_hex or rest["raw"] or form == "diag"):
        raise click.UsageError("--redact goes with none of --hex, --raw and --format diag")
    wanted = Wanted(
        key=None if key is None else os.fsencode(key).hex(),
        hex=in_hex,
        salt=os.urandom(16).hex() if redact else None,
        **rest,
    )
    form = "jsonl" if as_json and form == "table" else form
    counts: Counter[str] = Counter()
    try:
        with _progress(count) as told:
            blocks = log_lines(directory, wanted, "count" if count else form)
            _write((_noted(block, counts, told) for block in blocks), "count" if count else form)
    except Unreadable as error:
        text = str(error)
        click.echo(f"shardkv inspect: {text if str(directory) in text else f'{directory}: {text}'}", err=True)
        sys.exit(error.exit_code)
    if count:
        plain = ", ".join(f"{n} {k}" for k, n in sorted(counts.items())) or "0"
        click.echo(json.dumps(counts) if form in ("json", "jsonl") else plain)


def _noted(block: dict[str, Any], counts: Counter[str], told: Callable[[int, int], None]) -> str:
    counts.update(block["counts"])
    told(block["through"] - block["first"] + 1, block["last"] - block["first"] + 1)
    text: str = block["text"]
    return text


def _write(blocks: Iterable[str], form: str) -> None:
    """The lines to standard output; as one array if that is the form, also if the log cannot be read to its end."""
    written = False
    if form == "json":
        click.echo("[")
    try:
        separator = ",\n" if form == "json" else "\n"
        for text in blocks:
            if text:
                sys.stdout.write((separator if written else "") + text.replace("\n", separator))
                written = True
    finally:
        if written or form == "json":
            click.echo("")
        if form == "json":
            click.echo("]")


@contextmanager
def _progress(count: bool) -> Iterator[Callable[[int, int], None]]:
    """How far it is: a bar on standard error if somebody looks there, and the lines do not go there too."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not count):
        yield lambda done, total: None
        return
    with progress_bar("reading") as told:
        yield told
