"""The stamp of an environment: what it is and whose it is, written when it is created and checked at every open.

Record "meta"/"format": CBOR [format version, engine, engine generation, kind, cluster id, gid, peer, incarnation].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cbor2

from store.engine import CorruptRecord, FormatMismatch, ReadTxn, WriteTxn

FORMAT_VERSION = 2
"""The newest format of a directory that this program reads; it writes this one. In format 1 a log/ has no second copy of
its hard state."""

KEY = b"format"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Whose environment it is. `kind` is "log" or "state"; the cluster id is 16 bytes."""

    kind: str
    cluster: bytes
    gid: int
    peer: int
    incarnation: int
    engine: str = "lmdb"
    generation: int = 0
    version: int = FORMAT_VERSION


_WORDS = {
    "kind": "is a {found!r} directory, not a {wanted!r} one",
    "cluster": "belongs to cluster {found}, not to {wanted}",
    "gid": "belongs to group {found}, not to group {wanted}",
    "peer": "belongs to peer {found} of its group, not to peer {wanted}",
    "incarnation": "has incarnation {found}, its membership and settings say {wanted}: it is another disk's",
    "engine": "was written by engine {found!r}, this is {wanted!r}",
    "generation": "was written by LMDB {found}.x, which LMDB {wanted}.x does not read: export and import it",
    "version": "has format {found}, this program reads up to {wanted}: use a newer one",
}


def write_stamp(txn: WriteTxn, stamp: Stamp) -> None:
    """Part of the transaction that creates the environment."""
    row = [stamp.version, stamp.engine, stamp.generation, stamp.kind, stamp.cluster]
    txn.put("meta", KEY, cbor2.dumps([*row, stamp.gid, stamp.peer, stamp.incarnation]))


def upgrade_stamp(txn: WriteTxn) -> None:
    """Have the stamp say that the environment is in the newest format, in the transaction that makes it true."""
    payload = txn.get("meta", KEY)
    if payload is not None and (row := cbor2.loads(payload))[0] < FORMAT_VERSION:
        txn.put("meta", KEY, cbor2.dumps([FORMAT_VERSION, *row[1:]]))


def owner_of(txn: ReadTxn) -> int | None:
    """The incarnation in the stamp, None without one that can be read."""
    try:
        payload = txn.get("meta", KEY)
    except CorruptRecord:
        return None
    return None if payload is None else int(cbor2.loads(payload)[7])


_TYPES = (int, str, int, str, bytes, int, int, int)


def read_stamp(txn: ReadTxn, path: str) -> Stamp:
    """The stamp of the environment at `path`. Raises `FormatMismatch` if it has none or a newer one, `CorruptRecord`."""
    payload = txn.get("meta", KEY)
    if payload is None:
        raise FormatMismatch(f"{path} has no format stamp: it is no directory of shardkv, or was never finished")
    try:
        row: Any = cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise FormatMismatch(f"{path} has an unreadable format stamp: {error}") from error
    if not isinstance(row, list) or not row or not isinstance(row[0], int):
        raise FormatMismatch(f"{path} has an unreadable format stamp: {row!r:.60}")
    if row[0] > FORMAT_VERSION:
        raise FormatMismatch(f"{path} " + _WORDS["version"].format(found=row[0], wanted=FORMAT_VERSION))
    if len(row) != len(_TYPES):
        raise FormatMismatch(f"{path} has a format stamp with {len(row)} fields, not {len(_TYPES)}")
    if not all(isinstance(value, kind) for value, kind in zip(row, _TYPES, strict=True)):
        raise FormatMismatch(f"{path} has an unreadable format stamp: {row!r:.60}")
    version, engine, generation, kind, cluster, gid, peer, incarnation = row
    return Stamp(kind, cluster, gid, peer, incarnation, engine, generation, version)


def check_stamp(expected: Stamp, found: Stamp, path: str) -> None:
    """Raises `FormatMismatch` with one line that says what is wrong and what would be right. An older format that this
    program reads is no mismatch; `read_stamp` has refused a newer one."""
    for name in ("engine", "generation", "kind", "cluster", "gid", "peer", "incarnation"):
        wanted, is_found = getattr(expected, name), getattr(found, name)
        if wanted != is_found:
            if isinstance(wanted, bytes):
                wanted, is_found = wanted.hex(), is_found.hex()
            raise FormatMismatch(f"{path} " + _WORDS[name].format(found=is_found, wanted=wanted))
