"""The verbs of the child process that look at a peer's state: see `child`. OPTIONS is a JSON object, with `shards` for all
of them and `through_log` for the first three.

get OPTIONS DIR           {key (hex), hex}: one object, see `state.key_row`
scan OPTIONS DIR          {range: `state.Range`}: the heading, rows, the end, see `state.scan`
sessions OPTIONS DIR      {shard, client, limit}: the heading, rows, the end, see `state.session_rows`
history OPTIONS DIR       {key (hex), hex, base}: see `key_history.history`
replay OPTIONS DIR        {to, base, uncommitted, key (hex) | null, range | null, hex}: the summary, then as get and scan

`folder` of the last two is for a state that is made: the parent removes it, also if this process dies.

What is found is kept aside until the view is closed, in memory or in a temporary file: who reads it may be slow, and a view
pins a running peer's pages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from tools.inspect.key_history import history
from tools.inspect.peer import open_peer
from tools.inspect.playing import Moment, moment
from tools.inspect.replay import Asked, replayed
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


def _history(arguments: list[str]) -> Found:
    options: Options = json.loads(arguments[0])

    def found() -> Found:
        key, folder = bytes.fromhex(options["key"]), Path(options["folder"])
        with open_peer(Path(arguments[1])) as peer:
            yield from history(peer, key, _base(options), options["shards"], options["hex"], folder)

    return _aside(found)


def _base(options: Options) -> Path | None:
    return None if options["base"] is None else Path(options["base"])


def _replay(arguments: list[str]) -> Found:
    options: Options = json.loads(arguments[0])
    asked = Asked(options["to"], _base(options), options["shards"], options["uncommitted"], Path(options["folder"]))

    def found() -> Found:
        with open_peer(Path(arguments[1])) as peer, replayed(peer, asked) as (then, summary):
            yield summary
            if options["key"] is not None:
                yield key_row(then, bytes.fromhex(options["key"]), options["hex"])
            if options["range"] is not None:
                yield from scan(then, Range(**options["range"]))

    return _aside(found)


VERBS: dict[str, Callable[[list[str]], Found]] = {
    "get": lambda arguments: _looking(arguments, _get),
    "scan": lambda arguments: _looking(arguments, _scan),
    "sessions": lambda arguments: _looking(arguments, _sessions),
    "history": _history,
    "replay": _replay,
}
