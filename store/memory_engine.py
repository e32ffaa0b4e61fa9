"""An engine in memory: a verified fake, held to the same contract tests as the LMDB engine.

What is committed lives on a `MemoryDisk`, which outlives the engine: a crash is `fence()`, a restart is a new engine on
the same disk. Records are sealed as on a real disk, so a test can damage one. A job can be prepared (`prepare`) and
made durable later at one instant (`commit`), which is what a simulated disk needs.

A transaction is a layer over the committed tables. A writer's layer holds its pending writes; a reader's holds what later
commits replaced, and is told by them: so a commit costs what it changes, whoever reads meanwhile and however long.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from store.engine import MAX_KEY_BYTES, EngineInfo, Fenced, Snapshot, StoreError, WriteTxn
from store.layers import Item, Layer
from store.records import open_record, seal

MAP_SIZE_BYTES = 1 << 40
PAGE_SIZE_BYTES = 4096

_CHUNK_MAX = 256
"""The most records that a scan takes at once."""
_FEW = 16
"""Up to so many keys a commit moves one by one; more in one pass over the table."""


@dataclass(frozen=True, slots=True)
class Over:
    """Why an engine or a transaction takes no more calls."""

    kind: type[StoreError]
    text: str

    def error(self) -> StoreError:
        """To be raised."""
        return self.kind(self.text)


ENDED = Over(StoreError, "the transaction has ended")


class MemoryTable:
    """Committed records by key, with the keys in order."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        # Invariant: the keys of `records`, sorted.
        self.keys: list[bytes] = []
        self.size_bytes = 0

    def copy(self) -> MemoryTable:
        """An independent copy."""
        twin = MemoryTable()
        twin.records = dict(self.records)
        twin.keys = list(self.keys)
        twin.size_bytes = self.size_bytes
        return twin

    def apply(self, writes: dict[bytes, bytes | None]) -> None:
        """Take the writes of a transaction; None removes."""
        added: list[bytes] = []
        removed: list[bytes] = []
        records = self.records
        for key, record in writes.items():
            before = records.get(key)
            if before is not None:
                self.size_bytes -= len(key) + len(before)
            if record is not None:
                self.size_bytes += len(key) + len(record)
                records[key] = record
                if before is None:
                    added.append(key)
            elif before is not None:
                del records[key]
                removed.append(key)
        self._drop(removed)
        self._add(added)

    def _drop(self, removed: list[bytes]) -> None:
        if len(removed) <= _FEW:
            for key in removed:
                del self.keys[bisect_left(self.keys, key)]
        else:
            self.keys = [key for key in self.keys if key in self.records]

    def _add(self, added: list[bytes]) -> None:
        if len(added) <= _FEW:
            for key in added:
                insort(self.keys, key)
        else:
            self.keys.extend(sorted(added))
            self.keys.sort()


class MemoryDisk:
    """What a crash leaves: the committed tables."""

    def __init__(self, tables: Sequence[str]) -> None:
        self.tables = {name: MemoryTable() for name in tables}
        self.last_txnid = 0
        # The snapshots that commits must tell what they replace.
        self.readers: list[MemoryReadTxn] = []

    @property
    def used_bytes(self) -> int:
        """Of all records and keys."""
        return sum(table.size_bytes for table in self.tables.values())

    def corrupt(self, table: str, key: bytes) -> None:
        """Flip a bit of a stored record (fault injection). `KeyError` if there is none."""
        record = self.tables[table].records[key]
        self.tables[table].records[key] = record[:-1] + bytes([record[-1] ^ 1])

    def copy(self) -> MemoryDisk:
        """An independent disk with what is committed now: the disk as a crash at this instant would leave it."""
        twin = MemoryDisk(())
        twin.tables = {name: table.copy() for name, table in self.tables.items()}
        twin.last_txnid = self.last_txnid
        return twin


class MemoryReadTxn:
    """A snapshot: the committed tables, with what was replaced since in the layers."""

    def __init__(self, tables: dict[str, MemoryTable], number: int) -> None:
        self.number = number
        self._tables = tables
        self._layers: dict[str, Layer] = {}
        self._over: Over | None = None

    def end(self, why: Over) -> None:
        """Every further call raises `why`."""
        self._over = why
        self._tables = {}
        self._layers = {}

    def _table(self, name: str) -> MemoryTable:
        try:
            return self._tables[name]
        except KeyError:
            if self._over is not None:
                raise self._over.error() from None
            raise StoreError(f"no table {name!r}; there are {', '.join(sorted(self._tables))}") from None

    def replaced(self, name: str, key: bytes, record: bytes | None) -> None:
        """A commit is about to replace this record (None: there is none) of the tables that this is a snapshot of."""
        layer = self._layers.get(name)
        if layer is None:
            layer = self._layers[name] = Layer()
        if key not in layer.writes:
            layer.put(key, record)

    def _record(self, name: str, key: bytes) -> bytes | None:
        table = self._table(name)
        layer = self._layers.get(name)
        if layer is not None and key in layer.writes:
            return layer.writes[key]
        return table.records.get(key)

    def _scan_records(
        self, name: str, start: bytes, stop: bytes | None, *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """The records of a range, in growing chunks, so that a commit may come between two of them."""
        size = 1
        while stop is None or start < stop:
            table = self._table(name)
            low = bisect_left(table.keys, start)
            high = len(table.keys) if stop is None else bisect_left(table.keys, stop)
            part = slice(max(low, high - size), high) if reverse else slice(low, min(low + size, high))
            keys = table.keys[part]
            whole = len(keys) == high - low
            if whole:
                begin, end = start, stop
            elif reverse:
                begin, end = keys[0], stop
            else:
                begin, end = start, keys[-1] + b"\0"
            chunk = self._chunk(name, table, keys, begin, end)
            yield from reversed(chunk) if reverse else chunk
            if whole:
                return
            if reverse:
                stop = begin
            else:
                assert end is not None, "a part of a range has an end"
                start = end
            size = min(2 * size, _CHUNK_MAX)

    def _chunk(
        self, name: str, table: MemoryTable, keys: list[bytes], start: bytes, stop: bytes | None
    ) -> list[tuple[bytes, bytes]]:
        layer = self._layers.get(name)
        if layer is None or not layer.touches(start, stop):
            return [(key, table.records[key]) for key in keys]
        merged: dict[bytes, bytes | None] = {key: table.records[key] for key in keys}
        merged.update((key, layer.writes[key]) for key in layer.keys(start, stop))
        found: list[Item] = sorted(merged.items())
        return [(key, record) for key, record in found if record is not None]

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        record = self._record(table, key)
        return None if record is None else open_record(table, key, record)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`."""
        for key, record in self._scan_records(table, start, stop, reverse=reverse):
            yield key, open_record(table, key, record)

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`."""
        return next(self.scan(table, start, stop, reverse=True), None)


class MemoryWriteTxn(MemoryReadTxn):
    """Its layers hold the pending writes, already sealed."""

    def __init__(self, tables: dict[str, MemoryTable], based_on: int) -> None:
        super().__init__(tables, based_on)
        self.based_on = based_on

    @property
    def writes(self) -> dict[str, dict[bytes, bytes | None]]:
        """What is to be committed: records by table and key, None to remove."""
        return {name: layer.writes for name, layer in self._layers.items()}

    def _put(self, name: str, key: bytes, record: bytes | None) -> None:
        layer = self._layers.get(name)
        if layer is None:
            layer = self._layers[name] = Layer()
        layer.put(key, record)

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        """See `WriteTxn.put`."""
        self._table(table)
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise StoreError(f"a key of {len(key)} bytes in table {table!r}, allowed are 1 to {MAX_KEY_BYTES}")
        if append:
            last = next(self._scan_records(table, b"", None, reverse=True), None)
            if last is not None and key <= last[0]:
                raise StoreError(f"append to {table!r}: key {key.hex()} is not above the last, {last[0].hex()}")
        self._put(table, key, seal(table, key, payload))

    def delete(self, table: str, key: bytes) -> bool:
        """See `WriteTxn.delete`."""
        if self._record(table, key) is None:
            return False
        self._put(table, key, None)
        return True

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """See `WriteTxn.delete_range`."""
        doomed: list[bytes] = []
        self._table(table)
        if limit is None or limit > 0:
            for key, _ in self._scan_records(table, start, stop, reverse=False):
                doomed.append(key)
                if len(doomed) == limit:
                    break
        for key in doomed:
            self._put(table, key, None)
        return len(doomed)


class MemoryEngine:
    """See the protocol `Engine`. Everything is synchronous and on one thread, the loop's.

    `tables`, if given, must be on the disk (`StoreError`); all of the disk's tables are open in any case.
    """

    def __init__(self, disk: MemoryDisk, tables: Sequence[str] | None = None) -> None:
        missing = [name for name in tables or () if name not in disk.tables]
        if missing:
            raise StoreError(f"the disk has no table {missing[0]!r}; there are {', '.join(sorted(disk.tables))}")
        self.disk = disk
        self.tables = tuple(disk.tables)
        self._over: Over | None = None
        self._readers: list[MemoryReadTxn] = []
        self._writing = False

    def _check(self) -> None:
        if self._over is not None:
            raise self._over.error()

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """See `Engine.read`."""
        self._check()
        txn = MemoryReadTxn(dict(self.disk.tables), self.disk.last_txnid)
        self._readers.append(txn)
        self.disk.readers.append(txn)
        try:
            yield txn
        finally:
            if txn in self._readers:  # or else the engine was fenced meanwhile
                self._readers.remove(txn)
                self.disk.readers.remove(txn)
                txn.end(ENDED)

    @contextmanager
    def write(self) -> Iterator[WriteTxn]:
        """See `Engine.write`."""
        self._check()
        if self._writing:
            raise StoreError("a write transaction is open already; there is one at a time")
        self._writing = True
        try:
            txn = self.prepare()
            try:
                yield txn
                self.commit(txn)
            finally:
                txn.end(ENDED)
        finally:
            self._writing = False

    def prepare(self) -> MemoryWriteTxn:
        """A transaction whose effects exist only after `commit`; to give it up, drop it. One at a time."""
        self._check()
        return MemoryWriteTxn(dict(self.disk.tables), self.disk.last_txnid)

    def commit(self, txn: MemoryWriteTxn) -> None:
        """Make a prepared transaction durable, at this instant. Raises `Fenced`; then nothing of it exists."""
        self._check()
        disk = self.disk
        assert txn.based_on == disk.last_txnid, f"commit {disk.last_txnid} came after this one began at {txn.based_on}"
        for name, writes in txn.writes.items():
            table = disk.tables[name]
            for reader in disk.readers:
                for key in writes:
                    reader.replaced(name, key, table.records.get(key))
            table.apply(writes)
        disk.last_txnid += 1
        txn.end(ENDED)

    def info(self) -> EngineInfo:
        """See `Engine.info`. Sizes are those of the keys and records."""
        self._check()
        disk = self.disk
        return EngineInfo(MAP_SIZE_BYTES, disk.used_bytes, disk.last_txnid, 0, len(disk.readers), PAGE_SIZE_BYTES)

    def fence(self) -> None:
        """See `Engine.fence`. Open read transactions end with it."""
        self._end(Over(Fenced, "the engine is fenced: its peer is dead"))

    def close(self) -> None:
        """See `Engine.close`."""
        self._end(Over(Fenced, "the engine is closed"))

    def _end(self, why: Over) -> None:
        if self._over is None:
            self._over = why
        for txn in self._readers:
            self.disk.readers.remove(txn)
            txn.end(self._over)
        self._readers = []
