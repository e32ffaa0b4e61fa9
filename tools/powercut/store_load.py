"""The program that is recorded for `store`: an environment is made, and used through its writer, by a script from a seed.

`python -m tools.powercut.store_load DIRECTORY MARKS SEED [PLANTED]`

Marks: `created`, then `begun N` when commit N is handed over and `acknowledged N` when it was reported durable. PLANTED names
a bug of `tools.powercut.planted`, which this process then has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

COMMITS = 110
LIVES = 4
"""The environment is closed and opened again so often, less one."""
AHEAD = 3
"""So many commits wait in the writer at a time, at most."""
TABLES = ("meta", "small", "log", "large")
WHERE = Path("peer") / "environment"

Rows = dict[tuple[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """One operation of a commit: `put`, `delete` or `cut` (a range from `key` to `value`)."""

    verb: str
    table: str
    key: bytes
    value: bytes = b""


def script(seed: int) -> list[list[Change]]:
    """The commits after the creation: small rows written over, a log that is appended to and cut at both ends, values of
    several pages. The environment stays below a megabyte."""
    rng = Random(seed)
    commits, first, last = [], 1, 0
    for number in range(COMMITS):
        changes: list[Change] = []
        for _ in range(rng.choice((1, 1, 2, 5, 12))):
            key = b"key-%03d" % rng.randrange(150)
            if rng.random() < 0.15:
                changes.append(Change("delete", "small", key))
            else:
                changes.append(Change("put", "small", key, rng.randbytes(rng.randrange(8, 240))))
        if rng.random() < 0.7:
            for _ in range(rng.choice((1, 3, 10))):
                last += 1
                changes.append(Change("put", "log", last.to_bytes(8, "big"), rng.randbytes(rng.randrange(20, 400))))
        if rng.random() < 0.15 and last > first:
            last = rng.randrange(first, last + 1)
            changes.append(Change("cut", "log", (last + 1).to_bytes(8, "big")))
        if rng.random() < 0.15 and last > first:
            first = rng.randrange(first, last + 1)
            changes.append(Change("cut", "log", b"", first.to_bytes(8, "big")))
        if rng.random() < 0.25:
            key = b"large-%d" % rng.randrange(4)
            changes.append(Change("put", "large", key, rng.randbytes(rng.choice((3000, 9000, 30_000)))))
        changes.append(Change("put", "meta", b"number", b"%d" % (number + 1)))
        commits.append(changes)
    return commits


def apply(rows: Rows, changes: list[Change]) -> Rows:
    """The rows after one more commit."""
    after = dict(rows)
    for change in changes:
        match change.verb:
            case "put":
                after[change.table, change.key] = change.value
            case "delete":
                after.pop((change.table, change.key), None)
            case _:
                for table, key in list(after):
                    if table == change.table and change.key <= key and (not change.value or key < change.value):
                        after.pop((table, key))
    return after


def contents(seed: int) -> Iterator[Rows]:
    """What the environment holds after its creation, and after each commit."""
    rows: Rows = {("meta", b"number"): b"0"}
    yield rows
    for changes in script(seed):
        rows = apply(rows, changes)
        yield rows


def fill(txn: Any) -> None:
    """What a new environment holds."""
    txn.put("meta", b"number", b"0")


def stamp() -> Any:
    """Its stamp."""
    from store.format import Stamp

    return Stamp("log", bytes(range(16)), 1, 0, 4711)


def _job(changes: list[Change]) -> Any:
    def job(txn: Any) -> None:
        for change in changes:
            match change.verb:
                case "put":
                    txn.put(change.table, change.key, change.value)
                case "delete":
                    txn.delete(change.table, change.key)
                case _:
                    txn.delete_range(change.table, change.key, change.value or None)

    return job


async def _live(path: Path, number: int, commits: list[list[Change]], mark: Any) -> None:
    """Open it, commit, close it."""
    import trio

    from store.lmdb_engine import LmdbEngine
    from store.writer import ThreadWriter

    engine = LmdbEngine.open(path, TABLES, stamp())

    def fatal(error: BaseException) -> None:
        raise error

    writer = ThreadWriter(engine, fatal)
    room = trio.Semaphore(AHEAD)
    for at, changes in enumerate(commits, number):
        await room.acquire()
        mark(f"begun {at}")

        def done(_: Any, at: int = at) -> None:
            mark(f"acknowledged {at}")
            room.release()

        writer.submit(_job(changes), done)
    await writer.drain()
    writer.close()
    engine.close()


def main(root: Path, marks: Path, seed: int) -> None:
    """Make it, and use it in several lives."""
    import trio

    from store.lmdb_engine import LmdbEngine

    handle = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def mark(text: str) -> None:
        os.write(handle, f"{text}\n".encode())

    LmdbEngine.create(root / WHERE, TABLES, stamp(), fill)
    mark("created")
    commits = script(seed)
    share = -(-len(commits) // LIVES)
    for start in range(0, len(commits), share):
        trio.run(_live, root / WHERE, start + 1, commits[start : start + share], mark)


if __name__ == "__main__":
    if sys.argv[4:]:
        from tools.mutants.planting import plant
        from tools.powercut.planted import PLANTED

        plant(PLANTED[sys.argv[4]])
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
