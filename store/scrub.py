"""Looking at every record of an environment, a little at a time, for what nobody has read for long.

A step is one short read transaction, bounded in records and bytes, so it pins no pages and holds up nobody; the caller
decides when the next one comes. A record that fails its check is told and passed over.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.engine import CorruptRecord, Engine, Fenced, StoreError


class Scrubber:
    """Goes round the tables of one environment. `records` counts what was looked at, `passes` the rounds that are done."""

    def __init__(self, engine: Engine, tables: Sequence[str]) -> None:
        self.engine = engine
        self.records = 0
        self.passes = 0
        self._tables = tuple(tables)
        self._at = 0
        self._start = b""

    def step(self, records: int, size_bytes: int) -> list[CorruptRecord]:
        """Look at about so much more; what is wrong with it. Ends early at the end of a round. A table that cannot be read
        on is told as a record without a key, and left for this round. Raises `Fenced`."""
        found: list[CorruptRecord] = []
        table = self._tables[self._at]
        left, room = records, size_bytes
        try:
            with self.engine.read() as txn:
                for key, payload in txn.scan(table, self._start):
                    left -= 1
                    room -= len(key) + len(payload)
                    self._start = key + b"\0"
                    if left <= 0 or room <= 0:
                        self.records += records - left
                        return found
        except CorruptRecord as error:
            self.records += records - left + 1
            self._start = error.key + b"\0"
            return [error]
        except Fenced:
            raise
        except StoreError as error:
            found.append(CorruptRecord(table, b"", str(error)))
        self.records += records - left
        self._next_table()
        return found

    def _next_table(self) -> None:
        self._start = b""
        self._at += 1
        if self._at == len(self._tables):
            self._at = 0
            self.passes += 1
