"""Histories: what clients asked, when, and what they were told. The format of `shardkv check` is one JSON object a line.

    {"client": "c1", "op": "put", "key": "k", "value": "v", "version": 3, "start": 1.25, "end": 1.5, "result": "ok", "now": 4}

    client   any text; one client may have several operations open
    op       "get", "put" or "delete"
    key      text; or "key_hex", the bytes in hex
    value    of a put what it writes, of a get what it found; or "value_hex"
    version  of a put or delete: the version that the key must have (0: it must be missing); missing or null: any
    start    when it was sent, end when its answer came, in seconds on one clock; null: no answer ever came
    result   "ok"; "no key" (it was missing); "mismatch" (another version, without effect); "maybe" (it may have happened, now
             or later, or not); "failed" (surely without effect); null if there was no answer, which counts as "maybe"
    now      a get: the version found; a put: the key's new version; a delete: the version that was deleted; a mismatch:
             the version it had. May be missing: then it is not checked.
    happened of a "maybe", if the logs tell: false, it never took effect; true, it did, and `now` says with which version

The model is a versioned key/value store: a put adds 1 to the version, a missing key has version 0, and after a delete a key
is as if never written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

FOREVER = float("inf")
OPS = ("get", "put", "delete")
RESULTS = ("ok", "no key", "mismatch", "maybe", "failed")


class BadHistory(ValueError):
    """A line that is no operation; the text names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation; see the module. `end` is `FOREVER` without an answer. `happened` is what the logs say of a "maybe"."""

    client: str
    op: str
    key: bytes
    value: bytes | None = None
    version: int | None = None
    start: float = 0.0
    end: float = FOREVER
    result: str = "maybe"
    now: int | None = None
    happened: bool | None = None

    def __str__(self) -> str:
        asked = f"{self.op} {text_of(self.key)}"
        if self.op == "put":
            asked += f"={text_of(self.value)}"
        if self.version is not None:
            asked += f" if version {self.version}"
        told = self.result
        if self.result == "ok" and self.op == "get":
            told = f"{text_of(self.value)}"
        if self.now is not None:
            told += f", version {self.now}"
        end = "never" if self.end == FOREVER else f"{self.end:.4f}"
        return f"{self.client}: {asked} -> {told} [{self.start:.4f}..{end}]"


def text_of(data: bytes | None) -> str:
    """Bytes for people."""
    if data is None:
        return "nothing"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "0x" + data.hex()
    return text if text.isprintable() else "0x" + data.hex()


class Recorder:
    """Collects operations as they run. `begin` gives a number, `end` completes it; what is never completed stays open."""

    def __init__(self) -> None:
        self._ops: list[Op] = []

    def begin(
        self, client: str, op: str, key: bytes, now: float, *, value: bytes | None = None, version: int | None = None
    ) -> int:
        """An operation was sent."""
        self._ops.append(Op(client, op, key, value, version, now))
        return len(self._ops) - 1

    def end(
        self, number: int, now: float, result: str, *, value: bytes | None = None, version: int | None = None
    ) -> None:
        """Its answer came. `value` is what a get found, `version` the field `now` of the format."""
        op = self._ops[number]
        self._ops[number] = replace(
            op, end=now, result=result, now=version, value=op.value if op.op == "put" else value
        )

    def settle(self, number: int, happened: bool, version: int | None = None) -> None:
        """What the logs say of an operation without a definite answer."""
        self._ops[number] = replace(self._ops[number], happened=happened, now=version)

    def __getitem__(self, number: int) -> Op:
        return self._ops[number]

    @property
    def ops(self) -> list[Op]:
        """All operations, in the order of their start."""
        return list(self._ops)


# --- the file format ------------------------------------------------------------------------------------------------


def to_line(op: Op) -> str:
    """An operation as a line of the format."""
    row: dict[str, Any] = {"client": op.client, "op": op.op}
    _put_bytes(row, "key", op.key)
    if op.value is not None:
        _put_bytes(row, "value", op.value)
    if op.version is not None:
        row["version"] = op.version
    answered = op.end != FOREVER
    row |= {"start": op.start, "end": op.end if answered else None, "result": op.result if answered else None}
    if op.now is not None:
        row["now"] = op.now
    if op.happened is not None:
        row["happened"] = op.happened
    return json.dumps(row, ensure_ascii=False)


def _put_bytes(row: dict[str, Any], name: str, data: bytes) -> None:
    try:
        row[name] = data.decode()
    except UnicodeDecodeError:
        row[f"{name}_hex"] = data.hex()


def read_history(lines: Iterable[str]) -> Iterator[Op]:
    """The operations of a file. Empty lines are skipped. Raises `BadHistory`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise BadHistory("no JSON object")
            yield _op(row)
        except (ValueError, TypeError, RecursionError) as error:
            raise BadHistory(f"line {number}: {error}") from error


def _op(row: dict[str, Any]) -> Op:
    unknown = sorted(set(row) - {*Op.__dataclass_fields__, "key_hex", "value_hex"})
    if unknown:
        raise BadHistory(f"unknown field {unknown[0]!r}")
    kind = row.get("op")
    if kind not in OPS:
        raise BadHistory(f"op is one of {', '.join(OPS)}, not {kind!r:.40}")
    start, end = _time(row, "start"), row.get("end")
    end = FOREVER if end is None else _time(row, "end")
    if start is None or end < start:
        raise BadHistory(f"it ends at {end} before it starts at {start}")
    result = "maybe" if row.get("result") is None or end == FOREVER else row["result"]
    if result not in RESULTS:
        raise BadHistory(f"result is one of {', '.join(RESULTS)}, not {result!r:.40}")
    key, value = _bytes(row, "key"), _bytes(row, "value")
    if key is None:
        raise BadHistory("there is no key")
    if value is None and (kind == "put" or (kind, result) == ("get", "ok")):
        raise BadHistory(f"a {kind} needs a value")
    if (kind, result) in (("get", "mismatch"), ("get", "maybe")) and end != FOREVER:
        raise BadHistory(f"the result of a get is not {result!r}")
    happened = row.get("happened")
    if happened not in (None, True, False):
        raise BadHistory("happened is true, false or null")
    client = str(row.get("client", ""))
    return Op(client, kind, key, value, _count(row, "version"), start, end, result, _count(row, "now"), happened)


def _time(row: dict[str, Any], name: str) -> float:
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise BadHistory(f"{name} is a number of seconds, not {found!r:.40}")
    if not abs(found) < FOREVER:
        raise BadHistory(f"{name} is {found}")
    return float(found)


def _count(row: dict[str, Any], name: str) -> int | None:
    found = row.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise BadHistory(f"{name} is an integer from 0 on, not {found!r:.40}")
    return found


def _bytes(row: dict[str, Any], name: str) -> bytes | None:
    if f"{name}_hex" in row:
        return bytes.fromhex(row[f"{name}_hex"])
    found = row.get(name)
    if found is None:
        return None
    if not isinstance(found, str):
        raise BadHistory(f"{name} is text, not {found!r:.40}")
    return found.encode()
