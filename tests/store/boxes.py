"""Engines to test, each in a box that can crash it, restart it and damage its disk; no test asks which one it has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import lmdb
import pytest

from store.engine import CannotOpen, Engine, StoreError
from store.format import Stamp
from store.lmdb_engine import LmdbEngine
from store.memory_engine import MemoryDisk, MemoryEngine

TABLES = ("meta", "a", "b")
STAMP = Stamp("log", b"c" * 16, 1, 2, 3)


class Box(Protocol):
    """One disk and the engine that has it open."""

    engine: Engine

    def crash(self) -> None:
        """The peer dies; a new one opens the disk."""

    def corrupt(self, table: str, key: bytes) -> None:
        """Flip a bit of a stored record."""

    def close(self) -> None: ...


class LmdbBox:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "log"
        LmdbEngine.create(self.path, TABLES, STAMP, lambda txn: None)
        self.engine = LmdbEngine.open(self.path, TABLES, STAMP)

    def crash(self) -> None:
        self.engine.fence()
        self.engine.close()
        self.engine = LmdbEngine.open(self.path, TABLES, STAMP)

    def corrupt(self, table: str, key: bytes) -> None:
        self.engine.close()
        with raw(self.path) as (env, dbs), env.begin(write=True) as txn:
            record = txn.get(key, db=dbs[table])
            txn.put(key, record[:-1] + bytes([record[-1] ^ 1]), db=dbs[table])
        self.engine = LmdbEngine.open(self.path, TABLES, STAMP)

    def close(self) -> None:
        self.engine.close()


class MemoryBox:
    def __init__(self) -> None:
        self.disk = MemoryDisk(TABLES)
        self.engine = MemoryEngine(self.disk, TABLES)

    def crash(self) -> None:
        self.engine.fence()
        self.engine = MemoryEngine(self.disk, TABLES)

    def corrupt(self, table: str, key: bytes) -> None:
        self.disk.corrupt(table, key)

    def close(self) -> None:
        self.engine.close()


@contextmanager
def raw(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """An environment as plain LMDB sees it."""
    env = lmdb.open(str(path), max_dbs=8, map_size=1 << 30, lib_version=0)
    try:
        yield env, {table: env.open_db(table.encode()) for table in TABLES}
    finally:
        env.close()


@contextmanager
def lmdb_box() -> Iterator[Box]:
    with TemporaryDirectory() as directory:
        box = LmdbBox(Path(directory))
        try:
            yield box
        finally:
            box.close()


@contextmanager
def memory_box() -> Iterator[Box]:
    yield MemoryBox()


BOXES: dict[str, Callable[[], Any]] = {"lmdb": lmdb_box, "memory": memory_box}


def put(engine: Engine, table: str, *items: tuple[bytes, bytes]) -> None:
    """One transaction."""
    with engine.write() as txn:
        for key, payload in items:
            txn.put(table, key, payload)


def content(engine: Engine, table: str) -> dict[bytes, bytes]:
    with engine.read() as txn:
        return dict(txn.scan(table))


def nothing(txn: Any) -> None:
    """Fill an environment with nothing."""


@contextmanager
def opened(path: Path) -> Iterator[LmdbEngine]:
    engine = LmdbEngine.open(path, TABLES, STAMP)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def looking(path: Path, tables: tuple[str, ...] = TABLES) -> Iterator[LmdbEngine]:
    engine = LmdbEngine.open_readonly(path, tables)
    try:
        yield engine
    finally:
        engine.close()


def the_line(call: Callable[[], Any], kind: type[StoreError] = CannotOpen) -> str:
    """The one line of the error that the call raises."""
    with pytest.raises(kind) as found:
        call()
    line = str(found.value)
    assert line.count("\n") == 0
    return line


def kept_by_lmdb_1(path: Path, tables: dict[str, list[tuple[bytes, bytes]]]) -> dict[str, list[tuple[bytes, bytes]]]:
    """What LMDB 1.0 gives back of tables of records that it was given in files of its own, in `path`."""
    with lmdb.open(str(path), max_dbs=len(tables), map_size=1 << 26, lib_version=1) as env:
        for name, rows in tables.items():
            table = env.open_db(name.encode())
            with env.begin(write=True, db=table) as txn:
                for key, payload in rows:
                    txn.put(key, payload)
    with lmdb.open(str(path), max_dbs=len(tables), readonly=True, lib_version=1) as env:
        with env.begin() as txn:
            return {name: list(txn.cursor(db=env.open_db(name.encode(), txn))) for name in tables}
