"""The write-behind view: a `WriteTxn`-shaped view over one read transaction, with two layers of pending writes.

*Active* takes writes; *flushing* is frozen while the writer commits it. After the commit the read transaction is renewed
first and the flushing layer dropped then, so a reader never sees a gap. `None` in a layer is a deletion.

A crash leaves what the last committed flush wrote and nothing of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

from store.engine import MAX_KEY_BYTES, ReadTxn, StoreError, WriteTxn
from store.layers import ENTRY_OVERHEAD_BYTES as ENTRY_OVERHEAD_BYTES
from store.layers import Layer, overlaid

Layers = dict[str, Layer]

SEEN_MAX = 8192
"""So many payloads of the snapshot are kept in each table, once read and checked: no record of it changes ..."""
SEEN_BYTES_MAX = 1024
"""... of at most this size."""


class Readable(Protocol):
    """What an overlay needs of an `Engine`."""

    @property
    def tables(self) -> tuple[str, ...]: ...

    def read(self) -> AbstractContextManager[ReadTxn]: ...


class Overlay:
    """See the module. All calls belong to the thread that made it; `close` ends the read transaction.

    It holds a read transaction from one flush to the next, which keeps LMDB from reusing pages freed since: flush it
    every so often even when it is small.
    """

    def __init__(self, engine: Readable) -> None:
        self._engine = engine
        self._active: Layers = {table: Layer() for table in engine.tables}
        self._flushing: Layers | None = None
        self._active_bytes = 0
        self._flushing_bytes = 0
        self._seen: dict[str, dict[bytes, bytes]] = {}
        self._context: AbstractContextManager[ReadTxn] | None = None
        self._base = self._renew()

    def _renew(self) -> ReadTxn:
        """Begin a read transaction, then end the one before it."""
        context = self._engine.read()
        base = context.__enter__()
        self._end()
        self._context = context
        self._seen = {table: {} for table in self._active}
        return base

    @property
    def size_bytes(self) -> int:
        """The pending writes of both layers, with an overhead per entry."""
        return self._active_bytes + self._flushing_bytes

    @property
    def flushing(self) -> bool:
        """A layer is frozen: `freeze` was called and `flushed` not yet."""
        return self._flushing is not None

    def _no_table(self, table: str) -> StoreError:
        return StoreError(f"no table {table!r}; there are {', '.join(sorted(self._active))}")

    def _layers(self, table: str) -> list[Layer]:
        """The layers of a table that hold writes, the newest first."""
        try:
            layers = [self._active[table]]
        except KeyError:
            raise self._no_table(table) from None
        if self._flushing is not None:
            layers.append(self._flushing[table])
        return layers

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        try:
            writes = self._active[table].writes
        except KeyError:
            raise self._no_table(table) from None
        if key in writes:
            return writes[key]
        if self._flushing is not None:
            writes = self._flushing[table].writes
            if key in writes:
                return writes[key]
        seen = self._seen[table]
        if key in seen:
            return seen[key]
        payload = self._base.get(table, key)
        if payload is not None and len(payload) <= SEEN_BYTES_MAX and len(seen) < SEEN_MAX:
            seen[key] = payload
        return payload

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`. The newest layer that names a key decides."""
        layers = [layer for layer in self._layers(table) if layer.touches(start, stop)]
        base = self._base.scan(table, start, stop, reverse=reverse)
        if not layers:
            return base
        pending = layers[0].items(start, stop, reverse=reverse)
        if len(layers) == 2:
            pending = overlaid(pending, layers[1].items(start, stop, reverse=reverse), reverse=reverse)
        merged = overlaid(pending, iter(base), reverse=reverse)
        return ((key, payload) for key, payload in merged if payload is not None)

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`."""
        return next(self.scan(table, start, stop, reverse=True), None)

    # --- writing -------------------------------------------------------------------------------------------------

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        """See `WriteTxn.put`; pending until a flush is done."""
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise StoreError(f"a key of {len(key)} bytes in table {table!r}, allowed are 1 to {MAX_KEY_BYTES}")
        if append:
            last = self.last(table)
            if last is not None and key <= last[0]:
                raise StoreError(f"append to {table!r}: key {key.hex()} is not above the last, {last[0].hex()}")
        try:
            self._active_bytes += self._active[table].put(key, payload)
        except KeyError:
            raise self._no_table(table) from None

    def _write(self, table: str, key: bytes, payload: bytes | None) -> None:
        self._active_bytes += self._active[table].put(key, payload)

    def delete(self, table: str, key: bytes) -> bool:
        """See `WriteTxn.delete`."""
        if self.get(table, key) is None:
            return False
        self._write(table, key, None)
        return True

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """See `WriteTxn.delete_range`. Give a limit: each deletion is a pending write of its own."""
        doomed = [key for key, _ in islice(self.scan(table, start, stop), limit)]
        for key in doomed:
            self._write(table, key, None)
        return len(doomed)

    # --- flushing ------------------------------------------------------------------------------------------------

    def freeze(self) -> Callable[[WriteTxn], None]:
        """Freeze what is pending and return the job that writes it, in key order. One flush at a time (`StoreError`):
        `flushed()` must follow once the job's transaction is durable. Writes go on meanwhile, into a new layer. The job
        may run on another thread."""
        if self._flushing is not None:
            raise StoreError("a flush is under way")
        frozen = self._flushing = self._active
        self._flushing_bytes = self._active_bytes
        self._active = {table: Layer() for table in frozen}
        self._active_bytes = 0

        def job(txn: WriteTxn) -> None:
            # Not by the layers' own order, which the thread of the view may be working out just now.
            for table, layer in frozen.items():
                for key in sorted(layer.writes):
                    payload = layer.writes[key]
                    if payload is None:
                        txn.delete(table, key)
                    else:
                        txn.put(table, key, payload)

        return job

    def flushed(self) -> None:
        """The frozen layer is durable: look at the newest commit, then forget the layer. `StoreError` if none is."""
        if self._flushing is None:
            raise StoreError("no flush is under way")
        self._base = self._renew()
        self._flushing = None
        self._flushing_bytes = 0

    def _end(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None

    def close(self) -> None:
        """End the read transaction; what is pending is lost. Idempotent."""
        self._end()
