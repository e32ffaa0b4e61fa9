"""`follow`: the log of a live peer as it grows, entry by entry, from another process.

The number of the latest commit is asked for every `POLL_S`, in a transaction that ends at once. Only when it has moved is the
log read, in transactions of at most `BATCH` entries that end before anything is shown: no page stays pinned.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raftlog.codec import loads, unpack_entry
from raftlog.durable import index_key, read_base, read_entries
from raftlog.types import Entry
from store.directory import OWNER_FILE
from store.engine import CannotOpen, ReadTxn
from store.lmdb_engine import LmdbEngine
from tools.inspect.logview import BATCH, BATCH_BYTES, Wanted, describe, shards_of
from tools.inspect.peer import open_peer

POLL_S = 0.003
"""How long a commit may stay unseen; a follower's own cost is 1 / POLL_S questions a second."""
ALIVE_S = 0.5
"""How often it is looked whether the peer lives."""
REMEMBERED = 8192
"""How many entries that were shown are remembered, to see where an overwritten suffix begins."""


class Follower:
    """What is new in a log since the last question. `next` is the first index that was not shown."""

    def __init__(self, engine: LmdbEngine, first: int | None) -> None:
        self._engine = engine
        self._seen: OrderedDict[int, int] = OrderedDict()
        self._txnid = -1
        self._highest = 0
        with engine.read() as txn:
            last = txn.last("entries")
            base, _ = read_base(txn)
            self.next = first if first is not None else (int.from_bytes(last[0], "big") if last else base.index) + 1
        self._wait_for = self.next

    def news(self) -> Iterator[dict[str, Any] | Entry]:
        """Entries, and {"event": "truncated" | "purged"}; nothing if there was no commit. Raises `StoreError`."""
        txnid = self._engine.last_txnid()
        if txnid == self._txnid:
            return
        whole = False
        while not whole:
            with self._engine.read() as txn:
                found, whole = self._batch(txn)
            yield from found
        self._txnid = txnid

    def _batch(self, txn: ReadTxn) -> tuple[list[dict[str, Any] | Entry], bool]:
        found: list[dict[str, Any] | Entry] = []
        first = self._first_overwritten(txn)
        if first is not None:
            found.append({"event": "truncated", "from": first, "to": self.next - 1})
            for index in [index for index in self._seen if index >= first]:
                del self._seen[index]
            self.next = first
        base, _ = read_base(txn)
        if base.index >= self.next:
            if self._wait_for <= base.index:
                found.append({"event": "purged", "from": self.next, "to": base.index})
            self.next = base.index + 1
        size = 0
        for entry in read_entries(txn, self.next):
            found.append(entry)
            size += entry.size_bytes
            self._seen[entry.id.index] = entry.id.term
            self.next = entry.id.index + 1
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            if len(found) >= BATCH or size >= BATCH_BYTES:
                return found, False
        return found, True

    def _first_overwritten(self, txn: ReadTxn) -> int | None:
        """The first shown index that holds another entry now, or none; purged ones are no loss. What was remembered is
        asked from the end on: an entry that is the same has the same ones below it."""
        base, _ = read_base(txn)
        first = None
        for index in reversed(self._seen):
            if index <= base.index:
                break
            payload = txn.get("entries", index_key(index))
            if payload is not None and unpack_entry(loads(payload)).id.term == self._seen[index]:
                break
            first = index
        return first

    def again(self, index: int) -> bool:
        """Whether the index was shown before, with another entry."""
        before, self._highest = self._highest, max(self._highest, index)
        return index <= before


def follow(directory: Path, first: int | None) -> Iterator[dict[str, Any]]:
    """Rows as `log --json` has them, with "again": true for an index that was shown before, and objects with "event":
    following, truncated, purged, stopped, started. Never ends by itself while its parent lives; {"event": "idle"} comes
    each second, for the one who writes to notice that nobody reads. Raises `StoreError`."""
    with open_peer(directory) as peer:
        engine = peer.engines.get("log")
        if engine is None:
            raise CannotOpen(f"{directory} is a kvsrv's, which has no log to follow")
        name, shards = peer.name, shards_of(peer)
        follower = Follower(engine, first)
        running = peer.running
        yield {"event": "following", "peer": name, "from": follower.next, "running": running}
        parent, looked, said = os.getppid(), time.monotonic(), time.monotonic()
        while os.getppid() == parent:
            for item in follower.news():
                if isinstance(item, Entry):
                    row = describe(item, Wanted(), shards)
                    yield {"peer": name, **row, "again": follower.again(item.id.index)}
                else:
                    yield item
            now = time.monotonic()
            if now - looked >= ALIVE_S:
                looked = now
                was, running = running, _runs(directory)
                if was != running:
                    yield {"event": "started" if running else "stopped"}
            if now - said >= 1.0:
                said = now
                yield {"event": "idle"}
            time.sleep(POLL_S)


def _runs(directory: Path) -> bool:
    """Whether somebody holds the owner's lock, by the kernel's list: to try the lock would keep a starting peer out."""
    try:
        inode = f":{(directory / 'log' / OWNER_FILE).stat().st_ino} "
        with Path("/proc/locks").open() as stream:
            return any("FLOCK" in line and inode in line for line in stream)
    except OSError:
        return False
