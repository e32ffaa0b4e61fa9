"""Random histories: the two engines against each other, and the view against a plain dictionary."""

from bisect import bisect_left
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.engine import CorruptRecord, Engine, ReadTxn, WriteTxn
from store.memory_engine import MemoryTable
from store.overlay import Overlay
from tests.store.boxes import BOXES, TABLES, Box, content, lmdb_box, memory_box

Step = tuple[Any, ...]

# Few and close, so that steps meet on them; some that are awkward.
KEYS = st.sampled_from([b"\x00", b"\x01\xff", b"\x02", b"\x02\x00", b"k", b"l", b"\xff", b"\xff\xff"]) | st.integers(
    0, 40
).map(lambda number: number.to_bytes(2, "big"))
BOUNDS = KEYS | st.just(b"")
STOPS = BOUNDS | st.none()
TABLE = st.sampled_from(TABLES[1:])
PAYLOADS = st.binary(max_size=3)

READS = st.one_of(
    st.tuples(st.just("get"), TABLE, KEYS),
    st.tuples(st.just("scan"), TABLE, BOUNDS, STOPS, st.booleans()),
    st.tuples(st.just("last"), TABLE, BOUNDS, STOPS),
)
WRITES = st.one_of(
    st.tuples(st.just("put"), TABLE, KEYS, PAYLOADS),
    st.tuples(st.just("append"), TABLE, KEYS, PAYLOADS),
    st.tuples(st.just("fill"), TABLE, st.integers(0, 30), st.integers(1, 40), PAYLOADS),
    st.tuples(st.just("delete"), TABLE, KEYS),
    st.tuples(st.just("delete_range"), TABLE, BOUNDS, STOPS, st.none() | st.integers(0, 5)),
)


def read_step(txn: ReadTxn, step: Step) -> Any:
    match step:
        case "get", table, key:
            return txn.get(table, key)
        case "scan", table, start, stop, reverse:
            return list(txn.scan(table, start, stop, reverse=reverse))
        case "last", table, start, stop:
            return txn.last(table, start, stop)
    raise AssertionError(step)


def write_step(txn: WriteTxn, step: Step) -> Any:
    match step:
        case "put", table, key, payload:
            return txn.put(table, key, payload)
        case "append", table, key, payload:
            last = txn.last(table)
            if last is None or key > last[0]:
                txn.put(table, key, payload, append=True)
            return last
        case "fill", table, first, count, payload:
            for number in range(first, first + count):
                txn.put(table, number.to_bytes(2, "big"), payload)
            return None
        case "delete", table, key:
            return txn.delete(table, key)
        case "delete_range", table, start, stop, limit:
            return txn.delete_range(table, start, stop, limit=limit)
    return read_step(txn, step)


# --- the engines against each other ----------------------------------------------------------------------------------

TRANSACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(WRITES | READS, max_size=8), st.booleans()),
        st.tuples(st.just("open"), st.integers(0, 2)),
        st.tuples(st.just("look"), st.integers(0, 2), st.lists(READS, min_size=1, max_size=4)),
        st.tuples(st.just("close"), st.integers(0, 2)),
        st.tuples(st.just("crash")),
    ),
    max_size=25,
)


class Undo(Exception):
    """Raised in a write transaction to give it up."""


class Subject:
    """An engine with up to three readers; does a step and tells what came of it."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.readers: dict[int, tuple[ExitStack, ReadTxn]] = {}

    def step(self, step: Step) -> Any:
        match step:
            case "write", steps, commit:
                return self._write(steps, commit)
            case "open", number:
                self.close(number)
                stack = ExitStack()
                self.readers[number] = stack, stack.enter_context(self.box.engine.read())
            case "look", number, reads if number in self.readers:
                return [read_step(self.readers[number][1], read) for read in reads]
            case "close", number:
                self.close(number)
            case ("crash",):
                self.close_all()
                self.box.crash()
        return [content(self.box.engine, table) for table in TABLES[1:]]

    def _write(self, steps: list[Step], commit: bool) -> Any:
        found = []
        try:
            with self.box.engine.write() as txn:
                found = [write_step(txn, one) for one in steps]
                if not commit:
                    raise Undo
        except Undo:
            found.append("undone")
        return found

    def close(self, number: int) -> None:
        if number in self.readers:
            self.readers.pop(number)[0].close()

    def close_all(self) -> None:
        for number in sorted(self.readers):
            self.close(number)


@settings(max_examples=60, deadline=None)
@given(steps=TRANSACTIONS)
def test_the_fake_does_what_lmdb_does(steps: list[Step]) -> None:
    with lmdb_box() as real, memory_box() as fake:
        subjects = Subject(real), Subject(fake)
        for step in steps:
            told = [subject.step(step) for subject in subjects]
            assert told[0] == told[1], step
        for subject in subjects:
            subject.close_all()


@given(
    batches=st.lists(
        st.dictionaries(st.integers(0, 60).map(lambda n: n.to_bytes(2, "big")), st.none() | PAYLOADS), max_size=5
    )
)
def test_a_table_in_memory_keeps_its_order_and_its_size(batches: list[dict[bytes, bytes | None]]) -> None:
    table = MemoryTable()
    for batch in batches:
        table.apply(batch)
        assert table.keys == sorted(table.records)
        assert table.size_bytes == sum(len(key) + len(record) for key, record in table.records.items())
        assert all(table.records.get(key) == record for key, record in batch.items())


# --- the view against a dictionary -----------------------------------------------------------------------------------


class Model:
    """What an overlay shows: committed or not makes no difference to it."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {table: {} for table in TABLES}

    def get(self, table: str, key: bytes) -> bytes | None:
        return self.tables[table].get(key)

    def scan(self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False) -> Any:
        keys = sorted(self.tables[table])
        keys = keys[bisect_left(keys, start) : len(keys) if stop is None else bisect_left(keys, stop)]
        return iter([(key, self.tables[table][key]) for key in (keys[::-1] if reverse else keys)])

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        return next(self.scan(table, start, stop, reverse=True), None)

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        self.tables[table][key] = payload

    def delete(self, table: str, key: bytes) -> bool:
        return self.tables[table].pop(key, None) is not None

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        doomed = [key for key, _ in self.scan(table, start, stop)][:limit]
        for key in doomed:
            del self.tables[table][key]
        return len(doomed)


FLUSHES = st.sampled_from([("freeze",), ("commit",), ("flushed",)])


class Flusher:
    """Takes an overlay through its flushes, one at a time: freeze, then the commit, then `flushed`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.overlay = Overlay(engine)
        self.job: Any = None
        self.committed = False

    def step(self, name: str) -> None:
        if name == "freeze" and self.job is None:
            self.job, self.committed = self.overlay.freeze(), False
        elif name == "commit" and self.job is not None and not self.committed:
            with self.engine.write() as txn:
                self.job(txn)
            self.committed = True
        elif name == "flushed" and self.committed:
            self.overlay.flushed()
            self.job, self.committed = None, False

    def finish(self) -> None:
        """Everything to disk, whatever is under way."""
        for name in ("freeze", "commit", "flushed") * 2:
            self.step(name)


@pytest.mark.parametrize("kind", sorted(BOXES))
@settings(max_examples=80, deadline=None)
@given(steps=st.lists(WRITES | READS | FLUSHES, max_size=40))
def test_a_view_shows_what_a_dictionary_would(kind: str, steps: list[Step]) -> None:
    with BOXES[kind]() as box:
        flusher, model = Flusher(box.engine), Model()
        overlay = flusher.overlay
        for step in steps:
            if len(step) == 1:
                flusher.step(step[0])
            else:
                assert write_step(overlay, step) == write_step(model, step), step
        for table in TABLES[1:]:
            assert list(overlay.scan(table)) == list(model.scan(table))
            assert list(overlay.scan(table, reverse=True)) == list(model.scan(table, reverse=True))
        flusher.finish()
        assert overlay.size_bytes == 0
        assert [content(box.engine, table) for table in TABLES[1:]] == [model.tables[table] for table in TABLES[1:]]
        overlay.close()


def test_the_comparison_sees_a_damaged_record() -> None:
    with lmdb_box() as real, memory_box() as fake:
        subjects = Subject(real), Subject(fake)
        for subject in subjects:
            subject.step(("write", [("put", "a", b"k", b"v")], True))
        fake.corrupt("a", b"k")
        assert subjects[0].step(("open", 0)) == [{b"k": b"v"}, {}]
        with pytest.raises(CorruptRecord):
            subjects[1].step(("open", 0))
        subjects[0].close_all()
