"""A peer's directory with a long log, to measure the tools with: `python -m tools.inspect.long_log DIR ENTRIES`.

Each entry is one put of a value of 100 bytes, under a session, in term 2; all are committed, none is applied yet.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from raftlog.durable import LOG_TABLES, append_entries, fill_log, fill_state, state_tables, write_hard
from raftlog.machine import Operation, encode_operations
from raftlog.types import Entry, EntryKind, HardState, LogId, Member, Membership
from shardkv.commands import Put, encode_command
from shardkv.group import GroupMachine
from store.format import Stamp
from store.lmdb_engine import LmdbEngine
from tools.inspect.making import BATCH_ROWS

MEMBERS = Membership((Member(0, 1),))
TERM = 2
BEGIN_MS = 1_700_000_000_000


def make_long_log(directory: Path, count: int) -> None:
    """Make `directory`, with so many entries behind the first. Raises `CannotOpen` if it exists."""
    cluster = bytes(16)
    LmdbEngine.create(
        directory / "state", state_tables(GroupMachine.tables), Stamp("state", cluster, 1, 0, 1), fill_state
    )
    LmdbEngine.create(directory / "log", LOG_TABLES, Stamp("log", cluster, 1, 0, 1), lambda txn: fill_log(txn, MEMBERS))
    engine = LmdbEngine.open(directory / "log", LOG_TABLES, None)
    try:
        made = entries(2, count)
        while batch := list(islice(made, BATCH_ROWS)):
            with engine.write() as txn:
                append_entries(txn, batch)
        with engine.write() as txn:
            write_hard(txn, HardState(TERM, 0, count + 1))
    finally:
        engine.close()


def entries(first: int, count: int) -> Iterator[Entry]:
    """So many of these entries, from index `first` on."""
    for number in range(first - 2, first - 2 + count):
        put = Put(b"key-%d" % (number % 10_000), b"%0100d" % number)
        operation = Operation(1 + number % 64, 1 + number // 64, 1, 0, encode_command(put))
        yield Entry(LogId(TERM, 2 + number), EntryKind.COMMAND, encode_operations([operation]), BEGIN_MS + number)


if __name__ == "__main__":
    make_long_log(Path(sys.argv[1]), int(sys.argv[2]))
