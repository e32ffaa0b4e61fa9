"""The form of every stored value: a record is its payload with a version and a checksum in front.

    record = version (1 byte, now 1) | CRC-32 (4 bytes, big-endian) | payload

The CRC runs over (length of the table's name, table's name, length of the key, key, payload), so a record that landed
in the wrong place fails as surely as one with a flipped bit. LMDB 0.9 has no checksums of its own.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from store.engine import CorruptRecord

RECORD_VERSION = 1
OVERHEAD_BYTES = 5

TOLD_RECORDS = 1 << 13
"""Who looks at very many records tells how far it is each time after so many."""

_VERSION = bytes([RECORD_VERSION])


@lru_cache(maxsize=4096)
def _head_crc(table: str, key_bytes: int) -> int:
    name = table.encode()
    return zlib.crc32(len(name).to_bytes(2, "big") + name + key_bytes.to_bytes(2, "big"))


def _crc(table: str, key: bytes, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(key, _head_crc(table, len(key))))


def seal(table: str, key: bytes, payload: bytes) -> bytes:
    """The record that stands for `payload` at (table, key)."""
    return _VERSION + _crc(table, key, payload).to_bytes(4, "big") + payload


def open_record(table: str, key: bytes, record: bytes) -> bytes:
    """The payload of a record. Raises `CorruptRecord`, which names it; nothing of it may be used then."""
    if len(record) < OVERHEAD_BYTES:
        raise CorruptRecord(table, key, f"{len(record)} bytes, shorter than a record's head")
    if record[0] != RECORD_VERSION:
        raise CorruptRecord(table, key, f"record version {record[0]}, known is {RECORD_VERSION}")
    payload = record[OVERHEAD_BYTES:]
    stored = int.from_bytes(record[1:OVERHEAD_BYTES], "big")
    computed = _crc(table, key, payload)
    if stored != computed:
        raise CorruptRecord(table, key, f"checksum {stored:08x}, its contents give {computed:08x}")
    return payload
