"""An engine in memory: a verified fake, held to the same contract tests as the LMDB engine.

What is committed lives on a `MemoryDisk`, which outlives the engine: a crash is `fence()`, a restart is a new engine on
the same disk. Records are sealed as on a real disk, so a test can damage one. A job can be prepared (`prepare`) and
made durable later at one instant (`commit`), which is what a simulated disk needs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from store.engine import MAX_KEY_BYTES, EngineInfo, Fenced, ReadTxn, StoreError, WriteTxn
from store.records import open_record, seal


class MemoryTable:
    """Records by key, with the keys in order."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def copy(self) -> MemoryTable:
        """An independent copy."""
        twin = MemoryTable()
        twin.records = dict(self.records)
        twin.keys = list(self.keys)
        return twin

    def put(self, key: bytes, record: bytes) -> None:
        """Store a record."""
        if key not in self.records:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                insort(self.keys, key)
        self.records[key] = record

    def remove(self, low: int, high: int) -> None:
        """Drop the records at places low..high-1 of the key order."""
        for key in self.keys[low:high]:
            del self.records[key]
        del self.keys[low:high]

    def span(self, start: bytes, stop: bytes | None) -> tuple[int, int]:
        """The places of start <= key < stop in the key order."""
        low = bisect_left(self.keys, start) if start else 0
        high = len(self.keys) if stop is None else bisect_left(self.keys, stop)
        return low, max(low, high)


class MemoryDisk:
    """What a crash leaves: the committed tables."""

    def __init__(self, tables: Sequence[str]) -> None:
        self.tables = {name: MemoryTable() for name in tables}
        self.last_txnid = 0
        self.readers = 0
        self.used_bytes = 0

    def corrupt(self, table: str, key: bytes) -> None:
        """Flip a bit of a stored record (fault injection)."""
        record = self.tables[table].records[key]
        self.tables[table].records[key] = record[:-1] + bytes([record[-1] ^ 1])


class MemoryReadTxn:
    """A snapshot: writers copy a table that an open reader may look at."""

    def __init__(self, tables: dict[str, MemoryTable]) -> None:
        self._tables = tables

    def _table(self, name: str) -> MemoryTable:
        try:
            return self._tables[name]
        except KeyError:
            raise StoreError(f"no table {name!r}; there are {', '.join(sorted(self._tables))}") from None

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        record = self._table(table).records.get(key)
        return None if record is None else open_record(table, key, record)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`."""
        found = self._table(table)
        low, high = found.span(start, stop)
        places = range(high - 1, low - 1, -1) if reverse else range(low, high)
        for place in places:
            key = found.keys[place]
            yield key, open_record(table, key, found.records[key])

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`."""
        return next(self.scan(table, start, stop, reverse=True), None)


class MemoryWriteTxn(MemoryReadTxn):
    """Keeps an undo list while it writes in place; or writes into copies while readers are open."""

    def __init__(self, tables: dict[str, MemoryTable]) -> None:
        super().__init__(tables)
        self.changed: dict[str, MemoryTable] = {}

    def _writable(self, name: str) -> MemoryTable:
        if name not in self.changed:
            self._table(name)
            self.changed[name] = _Layer(self._tables[name])
            self._tables = {**self._tables, name: self.changed[name]}
        return self.changed[name]

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        """See `WriteTxn.put`."""
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise StoreError(f"a key of {len(key)} bytes in table {table!r}, allowed are 1 to {MAX_KEY_BYTES}")
        found = self._writable(table)
        if append and found.keys and key <= found.keys[-1]:
            raise StoreError(f"append to {table!r}: key {key.hex()} is not above the last, {found.keys[-1].hex()}")
        found.put(key, seal(table, key, payload))

    def delete(self, table: str, key: bytes) -> bool:
        """See `WriteTxn.delete`."""
        found = self._writable(table)
        if key not in found.records:
            return False
        low = bisect_left(found.keys, key)
        found.remove(low, low + 1)
        return True

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """See `WriteTxn.delete_range`."""
        found = self._writable(table)
        low, high = found.span(start, stop)
        high = high if limit is None else min(high, low + limit)
        found.remove(low, high)
        return high - low


class _Layer(MemoryTable):
    """A table being written: a copy, made at the first write of a transaction."""

    def __init__(self, base: MemoryTable) -> None:
        self.records = dict(base.records)
        self.keys = list(base.keys)


class MemoryEngine:
    """See the protocol `Engine`. Everything is synchronous and on one thread."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.tables = tuple(disk.tables)
        self._fenced = False

    def _check(self) -> None:
        if self._fenced:
            raise Fenced("the engine is fenced: its peer is dead")

    @contextmanager
    def read(self) -> Iterator[ReadTxn]:
        """See `Engine.read`."""
        self._check()
        self.disk.readers += 1
        try:
            yield MemoryReadTxn(dict(self.disk.tables))
        finally:
            self.disk.readers -= 1

    @contextmanager
    def write(self) -> Iterator[WriteTxn]:
        """See `Engine.write`."""
        txn = self.prepare()
        yield txn
        self.commit(txn)

    def prepare(self) -> MemoryWriteTxn:
        """A transaction whose effects exist only after `commit`. One at a time."""
        self._check()
        return MemoryWriteTxn(dict(self.disk.tables))

    def commit(self, txn: MemoryWriteTxn) -> None:
        """Make a prepared transaction durable, at this instant."""
        self._check()
        self.disk.tables.update(txn.changed)
        self.disk.last_txnid += 1

    def info(self) -> EngineInfo:
        """See `Engine.info`. Sizes are those of the records."""
        used = sum(len(k) + len(r) for t in self.disk.tables.values() for k, r in t.records.items())
        return EngineInfo(1 << 40, used, self.disk.last_txnid, 0, self.disk.readers)

    def fence(self) -> None:
        """See `Engine.fence`."""
        self._fenced = True

    def close(self) -> None:
        """See `Engine.close`."""
        self._fenced = True
