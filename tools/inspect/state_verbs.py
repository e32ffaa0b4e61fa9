"""The verbs of the child process that look at a peer's state: see `child`. OPTIONS is a JSON object, with `through_log` and
`shards` for all.

get OPTIONS DIR           {key (hex), hex}: one object, see `state.key_row`
scan OPTIONS DIR          {range: `state.Range`}: the heading, rows, the end, see `state.scan`
sessions OPTIONS DIR      {shard, client, limit}: the heading, rows, the end, see `state.session_rows`

What is found is kept aside until the view is closed, in memory or in a temporary file: who reads it may be slow, and a view
pins a running peer's pages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from tools.inspect.peer import open_peer
from tools.inspect.playing import Moment, moment
from tools.inspect.state import Range, heading, key_row, scan, session_rows

SPOOL_BYTES = 4 << 20
"""What is kept in memory of the rows that are found."""

Options = dict[str, Any]
Found = Iterator[Any]


def _aside(rows: Callable[[], Iterable[Any]]) -> Found:
    """The rows, given out when the last of them was made; nothing is if an error comes."""
    with SpooledTemporaryFile(SPOOL_BYTES, "w+", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows())
        file.seek(0)
        for line in file:
            yield json.loads(line)


def _looking(arguments: list[str], rows: Callable[[Moment, Options], Iterator[Any]]) -> Found:
    options: Options = json.loads(arguments[0])

    def found() -> Found:
        with (
            open_peer(Path(arguments[1])) as peer,
            moment(peer, through_log=options["through_log"], shards=options["shards"]) as now,
        ):
            yield from rows(now, options)

    return _aside(found)


def _get(now: Moment, options: Options) -> Found:
    yield {**heading(now), **key_row(now, bytes.fromhex(options["key"]), options["hex"])}


def _scan(now: Moment, options: Options) -> Found:
    yield heading(now)
    yield from scan(now, Range(**options["range"]))


def _sessions(now: Moment, options: Options) -> Found:
    yield heading(now)
    yield from session_rows(now, options["shard"], options["client"], options["limit"])


VERBS: dict[str, Callable[[list[str]], Found]] = {
    "get": lambda arguments: _looking(arguments, _get),
    "scan": lambda arguments: _looking(arguments, _scan),
    "sessions": lambda arguments: _looking(arguments, _sessions),
}
