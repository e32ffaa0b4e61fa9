"""The portable form of a peer's directory: one file, versioned, every part of it checksummed, read and written as a stream.

    file    = magic (8 bytes, b"SKVEXP\\r\\n") | frame ...
    frame   = kind (1 byte) | length of the body (u32) | body | CRC-32 (u32) over (offset of the frame (u64), kind,
              length, body); numbers are big-endian

    "H"  first, once     CBOR [format version, [stamp ...]], stamp = [kind, cluster, gid, peer, incarnation, engine,
                         generation, version]; the environments follow in this order
    "T"  a table begins  CBOR [kind of the environment, name of the table]
    "R"  a record of it  length of the key (u16) | key | payload; keys ascend
    "E"  the table ends  CBOR [number of records]
    "Z"  last, once      CBOR [number of tables, number of records, SHA-256 of all bytes before this frame]

Nothing follows the trailer. A cut leaves no trailer, a flipped bit a wrong checksum, a moved frame a wrong offset.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import IO, Any

from raftlog.codec import CodecError, array, dumps, loads
from store.engine import MAX_KEY_BYTES, CannotOpen, FormatMismatch
from store.format import Stamp

MAGIC = b"SKVEXP\r\n"
VERSION = 1
BODY_MAX_BYTES = 16 << 20
"""The longest body of a frame; a longer one is refused before it is read."""

_HEAD = struct.Struct(">cI")
_STAMP_TYPES = (str, bytes, int, int, int, str, int, int)


class BadFile(CannotOpen):
    """No export, or a damaged one; the text names the offset."""


@dataclass(frozen=True)
class Table:
    """A table begins."""

    kind: str
    name: str


@dataclass(frozen=True)
class Row:
    """A record of the table that began last."""

    key: bytes
    payload: bytes


Item = Table | Row


@dataclass(frozen=True)
class Totals:
    """What a whole export holds."""

    tables: int
    records: int
    bytes: int


class ExportWriter:
    """Writes an export to a stream. `begin` per environment's table, `row` per record, `end` at the end."""

    def __init__(self, stream: IO[bytes], stamps: list[Stamp]) -> None:
        self._stream = stream
        self._sha = sha256()
        self._offset = 0
        self._tables = self._records = 0
        self._here: int | None = None
        self._put(MAGIC)
        self._frame(b"H", dumps([VERSION, [_pack(stamp) for stamp in stamps]]))

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._sha.update(data)
        self._offset += len(data)

    def _frame(self, kind: bytes, body: bytes) -> None:
        if len(body) > BODY_MAX_BYTES:
            raise CannotOpen(f"a record of {len(body)} bytes; an export holds records up to {BODY_MAX_BYTES}")
        head = _HEAD.pack(kind, len(body))
        self._put(head + body + _crc(self._offset, head, body))

    def begin(self, kind: str, table: str) -> None:
        """The next table."""
        self._finish()
        self._here = 0
        self._tables += 1
        self._frame(b"T", dumps([kind, table]))

    def row(self, key: bytes, payload: bytes) -> None:
        """The next record of the table, in key order."""
        assert self._here is not None, "a record before the first table"
        self._here += 1
        self._frame(b"R", len(key).to_bytes(2, "big") + key + payload)

    def _finish(self) -> None:
        if self._here is not None:
            self._frame(b"E", dumps([self._here]))
            self._records += self._here
            self._here = None

    def end(self) -> Totals:
        """The trailer."""
        self._finish()
        self._frame(b"Z", dumps([self._tables, self._records, self._sha.digest()]))
        return Totals(self._tables, self._records, self._offset)


class ExportReader:
    """Reads an export from a stream. `stamps` is there at once; `items` gives the rest and raises `BadFile` at the first
    thing that is wrong, so nothing may be kept of it before `items` has ended."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._sha = sha256()
        self._offset = 0
        magic = stream.read(len(MAGIC))
        if magic != MAGIC:
            raise BadFile(f"{name} is no export of shardkv: it begins with {magic!r:.40}")
        self._pass(magic)
        kind, body = self._frame()
        if kind != b"H":
            raise self._bad(f"begins with a frame {kind!r}, not with its header", len(MAGIC))
        try:
            version, rows = array(loads(body), 2)
            if version != VERSION:
                raise FormatMismatch(f"{name} has export format {version!r:.20}, this program reads {VERSION}")
            self.stamps = [_unpack(row) for row in array(rows)]
        except CodecError as error:
            raise self._bad(f"has an unreadable header: {error}", len(MAGIC)) from error
        kinds = [stamp.kind for stamp in self.stamps]
        if kinds not in (["state"], ["log", "state"]):
            raise self._bad(f"holds the environments {kinds!r:.60}, which are no peer's", len(MAGIC))
        self._before = sha256()

    def _pass(self, data: bytes) -> None:
        self._sha.update(data)
        self._offset += len(data)

    def _bad(self, what: str, offset: int | None = None) -> BadFile:
        return BadFile(f"{self._name}, offset {self._offset if offset is None else offset}: {what}")

    def _frame(self) -> tuple[bytes, bytes]:
        head = self._stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise self._bad("the file is cut off: its trailer is missing")
        kind, length = _HEAD.unpack(head)
        if length > BODY_MAX_BYTES:
            raise self._bad(f"a frame of {length} bytes, at most {BODY_MAX_BYTES}: the file is damaged")
        rest = self._stream.read(length + 4)
        if len(rest) < length + 4:
            raise self._bad("the file is cut off inside a frame")
        body = rest[:length]
        if rest[length:] != _crc(self._offset, head, body):
            raise self._bad("the frame's checksum is wrong: the file is damaged")
        if kind == b"Z":
            self._before = self._sha.copy()
        self._pass(head + rest)
        return kind, body

    def items(self) -> Iterator[Item]:
        """Tables and their records, in the file's order. Used up without an error, the file was whole."""
        here: int | None = None
        tables = records = 0
        last = b""
        while True:
            at = self._offset
            kind, body = self._frame()
            try:
                match kind:
                    case b"T" if here is None:
                        here, last, tables = 0, b"", tables + 1
                        yield Table(*map(_text, array(loads(body), 2)))
                    case b"R" if here is not None:
                        stop = 2 + int.from_bytes(body[:2], "big")
                        key = body[2:stop]
                        if not last < key or len(key) > MAX_KEY_BYTES or len(body) < stop:
                            raise CodecError(f"a record whose key does not follow the one before: {key!r:.40}")
                        here, last, records = here + 1, key, records + 1
                        yield Row(key, body[stop:])
                    case b"E" if here is not None:
                        if loads(body) != [here]:
                            raise CodecError(f"{here} records in a table that tells of {loads(body)!r:.40}")
                        here = None
                    case b"Z" if here is None:
                        if loads(body) != [tables, records, self._before.digest()]:
                            raise CodecError("the trailer's counts or its SHA-256 are not those of the file")
                        break
                    case _:
                        raise CodecError(f"a frame {kind!r} that may not stand here")
            except CodecError as error:
                raise self._bad(str(error), at) from error
        if self._stream.read(1):
            raise self._bad("bytes after the trailer")


def _crc(offset: int, head: bytes, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(head, zlib.crc32(offset.to_bytes(8, "big")))).to_bytes(4, "big")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise CodecError(f"not a name: {value!r:.40}")
    return value


def _pack(stamp: Stamp) -> list[Any]:
    row = [stamp.kind, stamp.cluster, stamp.gid, stamp.peer, stamp.incarnation]
    return [*row, stamp.engine, stamp.generation, stamp.version]


def _unpack(value: Any) -> Stamp:
    row = array(value, len(_STAMP_TYPES))
    if not all(type(item) is kind for item, kind in zip(row, _STAMP_TYPES, strict=True)) or len(row[1]) != 16:
        raise CodecError(f"no stamp: {row!r:.80}")
    return Stamp(*row)
