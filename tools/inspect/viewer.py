"""The child process for callers without access to the files: `python -m tools.inspect.viewer VERB ARGUMENTS DIR`.

A running peer starts it for a PEER_VIEW (`shardkv.views`). It answers the verbs of `child` that only read, names no file of
the caller's, and stands back: everything else on the machine goes first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from tempfile import TemporaryDirectory
from typing import NoReturn

from tools.inspect.child import main as answer
from tools.inspect.child import say

SHOWN = frozenset(
    (
        *("info", "log", "span", "lines", "verdict", "sketch", "trace"),
        *("get", "scan", "sessions", "history", "replay", "follow"),
    )
)
"""The verbs that only read."""
MAKING = frozenset(("history", "replay"))
"""Those that make a state, in a directory that is given to them."""
NICENESS = 5
REFUSED = 2


def main(arguments: list[str]) -> int:
    """Answer; the exit code, as of `child`."""
    os.nice(NICENESS)
    signal.signal(signal.SIGTERM, _end)
    verb, *words, directory = arguments
    if verb not in SHOWN:
        return _refuse(directory, f"{verb!r:.40} is no view that is given over the network")
    if verb not in MAKING:
        return answer([verb, *words, directory])
    options = json.loads(words[0])
    if options.get("base") is not None:
        return _refuse(directory, "--base is a file: only where the peer's directory is at hand")
    with TemporaryDirectory(prefix="shardkv-inspect-") as folder:
        return answer([verb, json.dumps({**options, "folder": folder}), directory])


def _end(number: int, frame: object) -> NoReturn:
    """By an exception, so that what was made is removed."""
    sys.exit(128 + number)


def _refuse(directory: str, why: str) -> int:
    say({"directory": directory, "error": why, "exit": REFUSED})
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
