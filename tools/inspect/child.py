"""The child process that opens the files: `python -m tools.inspect.child VERB ARGUMENTS`, JSON lines on standard output.

    info DIR...                                      one object per directory, or {"directory", "error"}
    log FIRST LAST|- LIMIT|- KIND|- DIR              one object per entry
    verify DIR...                                    one object {place: [finding ...]}

Exit codes: 0; 3 a directory cannot be opened, with {"directory", "error"} on the last line.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from store.engine import StoreError
from tools.inspect.peer import describe, entries, info, open_peer
from tools.inspect.verify import verify

CANNOT_OPEN = 3


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


def main(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    verb, *rest = arguments
    code = 0
    if verb == "info":
        for directory in rest:
            try:
                with open_peer(Path(directory)) as peer:
                    _say(info(peer))
            except StoreError as error:
                _say({"directory": directory, "error": str(error)})
                code = CANNOT_OPEN
    elif verb == "log":
        first, last, limit, kind, directory = rest
        try:
            with open_peer(Path(directory)) as peer:
                found = entries(peer, int(first), None if last == "-" else int(last))
                kept = (e for e in found if kind in ("-", e.kind.name.lower()))
                for entry in islice(kept, None if limit == "-" else int(limit)):
                    _say(describe(entry))
        except StoreError as error:
            _say({"directory": directory, "error": str(error)})
            code = CANNOT_OPEN
    else:
        _say(verify([Path(directory) for directory in rest]))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
