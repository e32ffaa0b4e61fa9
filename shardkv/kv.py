"""Versioned key/value over rows (MIT 6.5840 lab 2): what a put, a get and a delete mean, and the state's hash.

    rows    scope (10 bytes: shard u16, incarnation u64), key    [version u64, value]

A key that was never written, or was deleted, has version 0 and no row; a put makes the version one more. Each row adds
`row_hash` to its shard's hash, a sum modulo 2^128: so it is kept up with each put, and neither the order of the puts
nor the way the rows came here shows in it.

The functions take the record of a shard that is served and give the new one; they don't ask who owns it.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from struct import Struct
from typing import Any

from shardkv.commands import MAX_PAGE_BYTES, MAX_PAGE_ROWS, Delete, Put
from shardkv.replies import Code
from shardkv.shards import ShardRecord
from store.engine import CorruptRecord, ReadTxn, WriteTxn
from store.keys import prefix_stop

ROWS = "rows"

HASH_MODULUS = 1 << 128

VERSION_BYTES = 8

SCOPE_BYTES = 10

_VERSION = Struct(">Q")
_KEY_LENGTH = Struct(">H")


def row_hash(key: bytes, payload: bytes) -> int:
    """What a row adds to its shard's hash."""
    digest = blake2b(b"".join((_KEY_LENGTH.pack(len(key)), key, payload)), digest_size=16).digest()
    return int.from_bytes(digest, "big")


def encode_row(version: int, value: bytes) -> bytes:
    """The payload of a row."""
    return _VERSION.pack(version) + value


def version_of(scope: bytes, key: bytes, payload: bytes) -> int:
    """The version in a row's payload. Raises `CorruptRecord`."""
    if len(payload) < _VERSION.size:
        raise CorruptRecord(ROWS, scope + key, f"a row of {len(payload)} bytes")
    version: int = _VERSION.unpack_from(payload)[0]
    return version


def put(txn: WriteTxn, scope: bytes, record: ShardRecord, command: Put) -> tuple[list[Any], ShardRecord]:
    """The reply [OK, new version], [NO_KEY] or [VERSION, current], and the shard's record afterwards."""
    key, value, expected = command
    old = txn.get(ROWS, scope + key)
    current = 0 if old is None else version_of(scope, key, old)
    if expected is not None and expected != current:
        return ([int(Code.VERSION), current] if current else [int(Code.NO_KEY)]), record
    payload = encode_row(current + 1, value)
    txn.put(ROWS, scope + key, payload)
    state, num, incarnation, rows, size, total = record[:6]
    total += row_hash(key, payload)
    size += len(value)
    if old is None:
        rows, size = rows + 1, size + len(key)
    else:
        total -= row_hash(key, old)
        size -= len(old) - _VERSION.size
    return [int(Code.OK), current + 1], ShardRecord(state, num, incarnation, rows, size, total % HASH_MODULUS)


def delete(txn: WriteTxn, scope: bytes, record: ShardRecord, command: Delete) -> tuple[list[Any], ShardRecord]:
    """The reply [OK, version deleted], [NO_KEY] or [VERSION, current], and the shard's record afterwards."""
    key, expected = command
    old = txn.get(ROWS, scope + key)
    if old is None:
        return [int(Code.NO_KEY)], record
    current = version_of(scope, key, old)
    if expected is not None and expected != current:
        return [int(Code.VERSION), current], record
    txn.delete(ROWS, scope + key)
    return [int(Code.OK), current], record._replace(
        rows=record.rows - 1,
        size=record.size - len(key) - len(old) + _VERSION.size,
        hash=(record.hash - row_hash(key, old)) % HASH_MODULUS,
    )


def get(txn: ReadTxn, scope: bytes, key: bytes) -> list[Any]:
    """The reply [OK, value, version] or [NO_KEY]."""
    payload = txn.get(ROWS, scope + key)
    if payload is None:
        return [int(Code.NO_KEY)]
    return [int(Code.OK), payload[_VERSION.size :], version_of(scope, key, payload)]


def scan(txn: ReadTxn, scope: bytes, start: bytes, stop: bytes | None, limit: int, max_bytes: int) -> list[Any]:
    """The reply [OK, [[key, value, version] ...], more] with the rows of start <= key < stop in key order: at most
    `limit` rows and `max_bytes` bytes (both also bounded here), but one row at least if there is one."""
    rows: list[list[Any]] = []
    size = 0
    limit = max(1, min(limit, MAX_PAGE_ROWS))
    max_bytes = min(max_bytes, MAX_PAGE_BYTES)
    end = prefix_stop(scope) if stop is None else scope + stop
    for key, payload in islice(rows_from(txn, scope, scope + start, end), limit + 1):
        size += len(key) + len(payload)
        if rows and (size > max_bytes or len(rows) == limit):
            return [int(Code.OK), rows, True]
        rows.append([key, payload[_VERSION.size :], version_of(scope, key, payload)])
    return [int(Code.OK), rows, False]


def rows_from(txn: ReadTxn, scope: bytes, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """(key, payload) of the scope's rows with start <= scope + key < end."""
    for key, payload in txn.scan(ROWS, start, end):
        yield key[SCOPE_BYTES:], payload


def last_key(txn: ReadTxn, scope: bytes) -> bytes | None:
    """The greatest key of the scope, None if it has no row."""
    found = txn.last(ROWS, scope, prefix_stop(scope))
    return None if found is None else found[0][SCOPE_BYTES:]


def is_row(payload: bytes, most: int) -> bool:
    """Whether a payload from elsewhere is a row with a value of at most `most` bytes."""
    return _VERSION.size <= len(payload) <= _VERSION.size + most and 0 < _VERSION.unpack_from(payload)[0] < 1 << 63
