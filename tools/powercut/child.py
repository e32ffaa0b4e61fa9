"""The process that recovers states, and may die of one: `python -m tools.powercut.child TARGET SETUP`.

TARGET is `store` or `peer`, SETUP what its check must know, as JSON. Each line of standard input is {"root", "owed"}: a
state's directory, and what the recorded program owed by then. Each is answered by one line {"wrong": [text, ...]}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[Path, dict[str, Any]], list[str]]


def checker(target: str, setup: dict[str, Any]) -> Check:
    """What judges the states of a target. A bug that was planted in the program is in what recovers, too: it is the program
    that is started again."""
    if setup.get("planted"):
        from tools.mutants.planting import plant
        from tools.powercut.planted import PLANTED

        plant(PLANTED[setup["planted"]])
    if target == "store":
        from tools.powercut import store_check

        return lambda root, owed: store_check.check(root, owed, setup["seed"])
    from tools.powercut import peer_check

    return lambda root, owed: peer_check.check(root, owed, setup)


def main(target: str, setup: str) -> None:
    """Until the end of the input."""
    from tools.workers import end_with

    end_with(os.getppid())
    check = checker(target, json.loads(setup))
    for line in sys.stdin:
        asked = json.loads(line)
        wrong = [text.replace(f"{asked['root']}/", "") for text in check(Path(asked["root"]), asked["owed"])]
        print(json.dumps({"wrong": wrong}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
