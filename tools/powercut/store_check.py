"""What a crash may leave of `store_load`'s environment, and what it may not.

* Once its creation was reported it is there. Before, it is there as a whole or not at all, and it can be made (again).
* What it holds is what it held after one of its commits: none of those that were acknowledged is missing, and nothing is
  there that was not begun.
* It can be opened, committed to, closed, and opened again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from store.engine import StoreError
from store.lmdb_engine import LmdbEngine
from tools.powercut.events import BEGIN, Mark, Step
from tools.powercut.store_load import TABLES, WHERE, Rows, contents, fill, stamp

MAP_BYTES = 64 << 20


class StoreWitness:
    """What is owed as of a step: {created, acknowledged, begun}."""

    def __init__(self) -> None:
        self._owed = {"created": False, "acknowledged": 0, "begun": 0}

    def take(self, step: Step) -> None:
        """See one step of the recording."""
        if step.moment is BEGIN and isinstance(step.action, Mark):
            verb, _, number = step.action.text.partition(" ")
            self._owed[verb] = int(number) if number else True

    def owed(self) -> dict[str, Any]:
        """A value of its own."""
        return dict(self._owed)

    def covered(self) -> dict[str, int]:
        """How many commits were acknowledged."""
        return {"commits": int(self._owed["acknowledged"])}


@cache
def _expected(seed: int) -> list[Rows]:
    return list(contents(seed))


def check(root: Path, owed: dict[str, Any], seed: int) -> list[str]:
    """Recover a state; what is wrong with it. A damaged file may kill this process."""
    path = root / WHERE
    expected = _expected(seed)
    try:
        if not path.is_dir():
            if owed["created"]:
                return ["the environment is gone: its creation was acknowledged"]
            LmdbEngine.create(path, TABLES, stamp(), fill, map_size_bytes=MAP_BYTES)
        found = _rows(path, commit=True)
        wrong = _compare(found, expected, owed)
        again = _rows(path, commit=False)
        if not wrong and again != found | {("meta", b"after"): b"the crash"}:
            wrong.append("a commit after the recovery is not what the next open finds")
        return wrong
    except StoreError as error:
        return [f"recovery failed: {error}"]


def _rows(path: Path, *, commit: bool) -> Rows:
    """All rows but the stamp; then perhaps one more commit."""
    engine = LmdbEngine.open(path, TABLES, stamp(), map_size_bytes=MAP_BYTES)
    try:
        with engine.read() as txn:
            rows = {(t, key): value for t in TABLES for key, value in txn.scan(t) if (t, key) != ("meta", b"format")}
        if commit:
            with engine.write() as wtxn:
                wtxn.put("meta", b"after", b"the crash")
        return rows
    finally:
        engine.close()


def _compare(found: Rows, expected: list[Rows], owed: dict[str, Any]) -> list[str]:
    number = int(found.get(("meta", b"number"), b"-1"))
    if number < owed["acknowledged"]:
        return [f"commit {owed['acknowledged']} was acknowledged, the newest that is found is {number}"]
    if number > owed["begun"]:
        return [f"commit {number} is found, only {owed['begun']} were begun"]
    if found != expected[number]:
        wrong = [key for key in found.keys() | expected[number].keys() if found.get(key) != expected[number].get(key)]
        table, key = min(wrong)
        return [f"after commit {number}, {len(wrong)} rows are wrong, the first is {key!r} of table {table}"]
    return []
