"""The write-behind view: a `WriteTxn`-shaped view over one read transaction, with two layers of pending writes.

`active` takes writes; `flushing` is frozen while the writer commits it. After the commit the read transaction is renewed
first and the flushing layer dropped then, so a reader never sees a gap. `None` in a layer is a deletion.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from store.engine import MAX_KEY_BYTES, Engine, ReadTxn, StoreError, WriteTxn

ENTRY_OVERHEAD_BYTES = 64
"""What a pending write counts for beside its key and payload."""


class Layer:
    """Pending writes of one table: key -> payload, or None for "deleted"."""

    __slots__ = ("_sorted", "writes")

    def __init__(self) -> None:
        self.writes: dict[bytes, bytes | None] = {}
        self._sorted: list[bytes] | None = None

    def put(self, key: bytes, payload: bytes | None) -> None:
        """Take a write."""
        if key not in self.writes:
            self._sorted = None
        self.writes[key] = payload

    def between(self, start: bytes, stop: bytes | None, *, reverse: bool) -> list[bytes]:
        """The keys of the layer in start <= key < stop, in order or reversed. Sorted once per burst of writes."""
        if self._sorted is None:
            self._sorted = sorted(self.writes)
        low = bisect_left(self._sorted, start)
        high = len(self._sorted) if stop is None else bisect_left(self._sorted, stop)
        found = self._sorted[low : max(low, high)]
        return found[::-1] if reverse else found


Layers = dict[str, Layer]


class Overlay:
    """See the module. All calls on the thread that made it; `close` ends the read transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._active: Layers = {table: Layer() for table in engine.tables}
        self._flushing: Layers | None = None
        self._active_bytes = 0
        self._flushing_bytes = 0
        self._context: AbstractContextManager[ReadTxn] | None = None
        self._base = self._begin()

    def _begin(self) -> ReadTxn:
        self._context = self._engine.read()
        return self._context.__enter__()

    @property
    def size_bytes(self) -> int:
        """The pending writes of both layers, with an overhead per entry."""
        return self._active_bytes + self._flushing_bytes

    @property
    def flushing(self) -> bool:
        """A layer is frozen: `freeze` was called and `flushed` not yet."""
        return self._flushing is not None

    def _layer(self, table: str) -> Layer:
        try:
            return self._active[table]
        except KeyError:
            raise StoreError(f"no table {table!r}; there are {', '.join(sorted(self._active))}") from None

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        writes = self._layer(table).writes
        if key in writes:
            return writes[key]
        if self._flushing is not None:
            writes = self._flushing[table].writes
            if key in writes:
                return writes[key]
        return self._base.get(table, key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`. The newest layer that names a key decides."""
        layers = [self._layer(table)]
        if self._flushing is not None:
            layers.append(self._flushing[table])
        base = self._base.scan(table, start, stop, reverse=reverse)
        if not any(layer.writes for layer in layers):
            yield from base
            return
        streams: list[Iterator[tuple[bytes, int, bytes | None]]] = [((k, len(layers), v) for k, v in base)]
        for age, layer in enumerate(layers):
            keys = layer.between(start, stop, reverse=reverse)
            streams.append(_aged(keys, age, layer.writes))
        before: bytes | None = None
        sign = (lambda item: (_Reversed(item[0]), item[1])) if reverse else (lambda item: (item[0], item[1]))
        for key, _, payload in heapq.merge(*streams, key=sign):
            if key == before:
                continue  # an older layer's word on the same key
            before = key
            if payload is not None:
                yield key, payload

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
        self._write(table, key, payload)

    def _write(self, table: str, key: bytes, payload: bytes | None) -> None:
        layer = self._layer(table)
        before = layer.writes.get(key)
        self._active_bytes += len(payload or b"") - len(before or b"")
        if key not in layer.writes:
            self._active_bytes += len(key) + ENTRY_OVERHEAD_BYTES
        layer.put(key, payload)

    def delete(self, table: str, key: bytes) -> bool:
        """See `WriteTxn.delete`."""
        if self.get(table, key) is None:
            return False
        self._write(table, key, None)
        return True

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """See `WriteTxn.delete_range`. Bounded by `limit`, since each deletion is a pending write."""
        doomed: list[bytes] = []
        for key, _ in self.scan(table, start, stop):
            if limit is not None and len(doomed) >= limit:
                break
            doomed.append(key)
        for key in doomed:
            self._write(table, key, None)
        return len(doomed)

    # --- flushing ------------------------------------------------------------------------------------------------

    def freeze(self) -> Callable[[WriteTxn], None]:
        """Freeze what is pending and return the job that writes it, in key order. One flush at a time: `flushed()` must
        follow once the job's transaction is durable. Writes go on meanwhile, into a new layer."""
        if self._flushing is not None:
            raise StoreError("a flush is under way")
        frozen = self._flushing = self._active
        self._flushing_bytes = self._active_bytes
        self._active = {table: Layer() for table in frozen}
        self._active_bytes = 0

        def job(txn: WriteTxn) -> None:
            for table, layer in frozen.items():
                for key, payload in sorted(layer.writes.items()):
                    if payload is None:
                        txn.delete(table, key)
                    else:
                        txn.put(table, key, payload)

        return job

    def flushed(self) -> None:
        """The frozen layer is durable: look at the newest commit, then forget the layer."""
        if self._flushing is None:
            raise StoreError("no flush is under way")
        self._end()
        self._base = self._begin()
        self._flushing = None
        self._flushing_bytes = 0

    def _end(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None

    def close(self) -> None:
        """End the read transaction and forget what is pending. Idempotent."""
        self._end()


def _aged(keys: list[bytes], age: int, writes: dict[bytes, bytes | None]) -> Iterator[tuple[bytes, int, bytes | None]]:
    for key in keys:
        yield key, age, writes[key]


class _Reversed:
    """Orders byte strings the other way round."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key

    def __lt__(self, other: _Reversed) -> bool:
        return other.key < self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)
