"""The stamp: a directory that is not this peer's, or of another program's format, is refused in a line and left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest

from store.engine import FormatMismatch
from store.format import FORMAT_VERSION, KEY, Stamp, read_stamp, upgrade_stamp
from store.lmdb_engine import LmdbEngine
from store.memory_engine import MemoryDisk, MemoryEngine
from tests.store.boxes import STAMP, TABLES, nothing

OTHERS = {
    "another cluster": (replace(STAMP, cluster=b"d" * 16), f"belongs to cluster {'64' * 16}, not to {'63' * 16}"),
    "another group": (replace(STAMP, gid=9), "belongs to group 9, not to group 1"),
    "another peer": (replace(STAMP, peer=0), "belongs to peer 0 of its group, not to peer 2"),
    "another disk of the peer": (replace(STAMP, incarnation=4), "has incarnation 4, its membership and settings say 3"),
    "the other half": (replace(STAMP, kind="state"), "is a 'state' directory, not a 'log' one"),
    "another engine": (replace(STAMP, engine="rocks"), "was written by engine 'rocks', this is 'lmdb'"),
    "another LMDB": (replace(STAMP, generation=1), "was written by LMDB 1.x, which LMDB 0.x does not read"),
    "a newer format": (
        replace(STAMP, version=FORMAT_VERSION + 1),
        f"has format {FORMAT_VERSION + 1}, this program reads up to {FORMAT_VERSION}: use a newer one",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_this_peers_is_refused_in_one_line_and_left_as_it_is(what: str, tmp_path: Path) -> None:
    stamp, told = OTHERS[what]
    path = tmp_path / "log"
    LmdbEngine.create(path, TABLES, stamp, nothing)
    before = (path / "data.mdb").read_bytes()
    with pytest.raises(FormatMismatch) as found:
        LmdbEngine.open(path, TABLES, STAMP)
    assert told in str(found.value) and str(path) in str(found.value) and "\n" not in str(found.value)
    assert (path / "data.mdb").read_bytes() == before


def stamped(payload: bytes | None) -> MemoryEngine:
    engine = MemoryEngine(MemoryDisk(("meta",)))
    with engine.write() as txn:
        if payload is not None:
            txn.put("meta", KEY, payload)
    return engine


def row_of(stamp: Stamp) -> list[Any]:
    owner = [stamp.cluster, stamp.gid, stamp.peer, stamp.incarnation]
    return [stamp.version, stamp.engine, stamp.generation, stamp.kind, *owner]


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (None, "has no format stamp"),
        (b"", "unreadable format stamp"),
        (b"\xff", "unreadable format stamp"),
        (cbor2.dumps({}), "unreadable format stamp"),
        (cbor2.dumps(["2"]), "unreadable format stamp"),
        (cbor2.dumps([1, 2, 3]), "with 3 fields"),
        (cbor2.dumps([FORMAT_VERSION, 5, 0, "log", b"", 1, 2, 3]), "unreadable format stamp"),
        (cbor2.dumps([99, "whatever comes"]), "has format 99"),
    ],
)
def test_what_is_no_stamp_is_named(payload: bytes | None, told: str) -> None:
    with stamped(payload).read() as txn, pytest.raises(FormatMismatch, match=told):
        read_stamp(txn, "somewhere")


def test_an_older_format_is_read_and_raised_in_the_transaction_that_makes_it_true() -> None:
    old = replace(STAMP, version=1)
    engine = stamped(cbor2.dumps(row_of(old)))
    with engine.read() as txn:
        assert read_stamp(txn, "somewhere") == old
    with engine.write() as txn:
        upgrade_stamp(txn)
        upgrade_stamp(txn)
    with engine.read() as txn:
        assert read_stamp(txn, "somewhere") == STAMP
