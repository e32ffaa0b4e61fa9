"""Entries as lines: for people, as JSON, in CBOR's diagnostic notation. Made where the log is read, and handed on in blocks,
so that several processes can read one log and a third one only passes their lines on in order."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from raftlog.codec import CodecError, loads
from raftlog.machine import decode_operations
from raftlog.types import Entry, EntryKind
from tools.inspect.logview import KIND_NAMES, Wanted, describe, entries, matches, shards_of
from tools.inspect.peer import OpenPeer

FORMS = ("table", "jsonl", "json", "diag")
"""A line for people; one JSON object per line; the same as one array; RFC 8949's notation of the stored record."""

BLOCK = 2048
"""Entries per block. Block b is read by reader b modulo their number."""
BLOCK_CHARS = 1 << 20
"""A block with more text than this is handed on in several parts."""


@dataclass(frozen=True)
class Share:
    """The blocks that one of several readers reads: of the indices first..last every `of`-th block, from number `reader` on.
    `form` is one of `FORMS`, or "count" for no lines at all."""

    first: int
    last: int
    form: str = "table"
    reader: int = 0
    of: int = 1

    def as_json(self) -> dict[str, Any]:
        """Arguments of the class, for another process."""
        return asdict(self)


def span(peer: OpenPeer) -> dict[str, Any]:
    """{"peer", "first", "last"}: the indices that the log has, last < first for none; both None without a log."""
    engine = peer.engines.get("log")
    if engine is None:
        return {"peer": peer.name, "first": None, "last": None}
    with engine.read() as txn:
        first = next(txn.scan("entries"), None)
        last = txn.last("entries")
    numbers = [int.from_bytes(found[0], "big") if found else 0 for found in (first, last)]
    return {"peer": peer.name, "first": numbers[0] if first else 1, "last": numbers[1]}


def blocks(peer: OpenPeer, wanted: Wanted, share: Share) -> Iterator[dict[str, Any]]:
    """First {"began"}, then {"text" (its lines), "counts" (by kind), "through" (an index), "more" (of the same block)}, in
    order: one text, for to pass lines on one by one takes a tenth of the time. Raises
    `StoreError`."""
    yield {"began": True}
    engine = peer.engines["log"]
    shards = shards_of(peer)
    line = _lines(peer.name, wanted, share.form, shards)
    everything = wanted.everything
    left = sys.maxsize if wanted.limit is None else wanted.limit
    for start in range(share.first + share.reader * BLOCK, share.last + 1, share.of * BLOCK):
        lines: list[str] = []
        counts: Counter[str] = Counter()
        size = 0
        for entry in entries(engine, start, min(start + BLOCK - 1, share.last)):
            if not everything and not matches(entry, wanted, shards):
                continue
            if not left:
                break
            left -= 1
            counts[KIND_NAMES[entry.kind]] += 1
            if line is None:
                continue
            text = line(entry)
            lines.append(text)
            size += len(text)
            if size >= BLOCK_CHARS:
                yield {"text": "\n".join(lines), "counts": counts, "through": entry.id.index, "more": True}
                lines, counts, size = [], Counter(), 0
        yield {"text": "\n".join(lines), "counts": counts, "through": min(start + BLOCK - 1, share.last), "more": False}
        if not left:
            return


def _lines(peer: str, wanted: Wanted, form: str, shards: int | None) -> Callable[[Entry], str] | None:
    """How an entry becomes a line."""
    match form:
        case "count":
            return None
        case "diag":
            return lambda entry: diagnostic(entry, in_hex=wanted.hex or wanted.raw)
        case "table":
            return lambda entry: entry_line(describe(entry, wanted, shards))
    encode = json.JSONEncoder().encode
    return lambda entry: encode({"peer": peer, **describe(entry, wanted, shards)})


# --- for people ------------------------------------------------------------------------------------------------------

_HEAD = frozenset(("peer", "index", "term", "time_ms", "kind", "bytes"))
_IN_FRONT = frozenset(("command", "client", "seq"))


def entry_line(row: dict[str, Any]) -> str:
    """A row of `log` for people."""
    head = f"{row['index']:>8} {row['term']:>5} {clock(row['time_ms']):>12} {row['kind']:<10} "
    operations = row.get("operations")
    if operations is not None:
        return head + "; ".join([_words(operation) for operation in operations])
    return head + ", ".join([f"{k} {v}" for k, v in row.items() if k not in _HEAD])


def clock(time_ms: int) -> str:
    """The time of day, UTC; "-" for none."""
    return f"{_second(time_ms // 1000)}.{time_ms % 1000:03}" if time_ms else "-"


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{second} s"


def _words(operation: dict[str, Any]) -> str:
    words = [operation["command"]]
    if "client" in operation:
        words.append(f"[{operation['client'][:6]}#{operation['seq']}]")
    words += [f"{k}={v}" for k, v in operation.items() if k not in _IN_FRONT]
    return " ".join(words)


# --- diagnostic notation ---------------------------------------------------------------------------------------------


def diagnostic(entry: Entry, *, in_hex: bool = False) -> str:
    """The record of an entry in the extended diagnostic notation of RFC 8610: encoded items inside byte strings are shown as
    << items >>, byte strings that are plain ASCII as 'text' unless `in_hex`."""
    head = ", ".join(map(str, (entry.id.term, entry.id.index, int(entry.kind), entry.version, entry.time_ms)))
    return f"[{head}, {_data(entry, in_hex)}]"


def _data(entry: Entry, in_hex: bool) -> str:
    try:
        if entry.kind is not EntryKind.COMMAND:
            return f"<<{_item(loads(entry.data), in_hex)}>>"
        operations = [
            f"[{', '.join(map(str, op[:4]))}, {_embedded(op.command, in_hex)}]" for op in decode_operations(entry.data)
        ]
        return f"<<[{', '.join(operations)}]>>"
    except CodecError:
        return _item(entry.data, in_hex=True)


def _embedded(data: bytes, in_hex: bool) -> str:
    try:
        return f"<<{_item(loads(data), in_hex)}>>"
    except CodecError:
        return _item(data, in_hex=True)


def _item(value: Any, in_hex: bool) -> str:
    match value:
        case bytes():
            plain = not in_hex and value.isascii() and (text := value.decode()).isprintable()
            return f"'{text}'" if plain and "'" not in text and "\\" not in text else f"h'{value.hex()}'"
        case list():
            return f"[{', '.join([_item(item, in_hex) for item in value])}]"
        case dict():
            return f"{{{', '.join(f'{_item(k, in_hex)}: {_item(v, in_hex)}' for k, v in value.items())}}}"
    return json.dumps(value)
