"""The child process that opens the files: `python -m tools.inspect.child VERB ARGUMENTS`, JSON lines on standard output.

    info DIR                  one object: the fields of `PeerInfo`
    log WANTED DIR            one object per entry; WANTED: the fields of `Wanted` as a JSON object
    span DIR                  one object: see `logtext.span`
    lines WANTED SHARE DIR    one object per block of lines; SHARE: the fields of `Share`. See `logtext.blocks`
    verify DIR...             one object per place: the fields of `Found`; before it any number of {place, done, total}
    verdict DIR               the same of one place, and what it has committed: see `verify.verdict`
    sketch DIR, trace DIR     see `traces`
    export, import, copy, repair, follow     see `portable_verbs`
    get, scan, sessions, history, replay     see `state_verbs`

What cannot be read is told on the last line as {"directory", "error", "exit"}: 3 if there is nothing to open, 1 if what is
in it is wrong. A damaged file may kill this process: that is what it is for.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raftlog.codec import CodecError
from store.engine import FormatMismatch, StoreError
from tools.inspect.info import peer_info
from tools.inspect.logtext import Share, blocks, span
from tools.inspect.logview import Wanted, rows
from tools.inspect.peer import open_peer
from tools.inspect.portable_verbs import VERBS as PORTABLE_VERBS
from tools.inspect.state_verbs import VERBS as STATE_VERBS
from tools.inspect.structure import NotThere
from tools.inspect.traces import sketch, trace
from tools.inspect.verify import verdict, verify

FINDINGS, CANNOT_OPEN = 1, 3
VERBS = {**PORTABLE_VERBS, **STATE_VERBS}


def say(value: Any) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def _progress(place: str, done: int, total: int) -> None:
    say({"place": place, "done": done, "total": total})
    sys.stdout.flush()


def answers(verb: str, arguments: list[str]) -> Iterator[Any]:
    """What the verb says, object by object. Raises `StoreError` and `CodecError`."""
    if verb == "verify":
        yield from (asdict(found) for found in verify([Path(directory) for directory in arguments], _progress))
        return
    if verb == "verdict":
        yield from verdict(Path(arguments[0]), _progress)
        return
    if verb in VERBS:
        yield from VERBS[verb](arguments)
        return
    *options, directory = arguments
    if verb in ("sketch", "trace"):
        yield from (sketch if verb == "sketch" else trace)(Path(directory))
        return
    with open_peer(Path(directory)) as peer:
        match verb:
            case "info":
                yield peer_info(peer).as_json()
            case "span":
                yield span(peer)
            case "lines":
                yield from blocks(peer, Wanted(**json.loads(options[0])), Share(**json.loads(options[1])))
            case _:
                yield from rows(peer, Wanted(**json.loads(options[0])))


def main(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    verb, *rest = arguments
    gc.set_threshold(100_000)  # reading makes no cycles: to look for them takes a sixth of the time
    try:
        for answer in answers(verb, rest):
            say(answer)
    except (StoreError, CodecError) as error:
        code = CANNOT_OPEN if isinstance(error, NotThere | FormatMismatch) else FINDINGS
        say({"directory": rest[-1], "error": str(error), "exit": code})
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
