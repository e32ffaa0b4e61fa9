"""Two slots of tables in one environment, so that an image is staged beside the live state and flipped in one step.

The state machine sees logical tables; a `SlotEngine` maps them to those of one slot. "meta" is common to both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from store.engine import Engine, EngineInfo, ReadTxn, WriteTxn


class SlotReadTxn:
    """A read transaction that sees one slot under the logical table names."""

    def __init__(self, txn: ReadTxn, names: dict[str, str]) -> None:
        self._txn = txn
        self._names = names

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        return self._txn.get(self._names[table], key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`."""
        return self._txn.scan(self._names[table], start, stop, reverse=reverse)

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`."""
        return self._txn.last(self._names[table], start, stop)


class SlotWriteTxn(SlotReadTxn):
    """A write transaction on one slot."""

    def __init__(self, txn: WriteTxn, names: dict[str, str]) -> None:
        super().__init__(txn, names)
        self._write = txn

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        """See `WriteTxn.put`."""
        self._write.put(self._names[table], key, payload, append=append)

    def delete(self, table: str, key: bytes) -> bool:
        """See `WriteTxn.delete`."""
        return self._write.delete(self._names[table], key)

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """See `WriteTxn.delete_range`."""
        return self._write.delete_range(self._names[table], start, stop, limit=limit)


class SlotEngine:
    """One slot of `inner` as an engine of its own. Shares its transactions and its fate."""

    def __init__(self, inner: Engine, tables: tuple[str, ...], slot: int) -> None:
        self.inner = inner
        self.slot = slot
        self.tables = ("meta", *tables)
        self.names = {"meta": "meta", **{t: f"{t}@{slot}" for t in tables}}

    @contextmanager
    def read(self) -> Iterator[ReadTxn]:
        """See `Engine.read`."""
        with self.inner.read() as txn:
            yield SlotReadTxn(txn, self.names)

    @contextmanager
    def write(self) -> Iterator[WriteTxn]:
        """See `Engine.write`."""
        with self.inner.write() as txn:
            yield SlotWriteTxn(txn, self.names)

    def on(self, txn: WriteTxn) -> WriteTxn:
        """The slot inside a write transaction of the inner engine."""
        return SlotWriteTxn(txn, self.names)

    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return self.inner.info()

    def fence(self) -> None:
        """See `Engine.fence`."""
        self.inner.fence()

    def close(self) -> None:
        """The inner engine belongs to somebody else: nothing to do."""
