"""The LMDB engine. Beside `store.lmdb_file` the one module that imports `lmdb`.

Synced commits only; `NOSYNC`, `NOMETASYNC`, `MAPASYNC` and `WRITEMAP` are never used and no option exposes them. LMDB
never syncs the parent directory and is not safe while it creates its file, so an environment is made under a temporary
name, committed, closed, renamed, and the parent synced: a directory under its real name is whole.

In an environment's directory: `data.mdb` and `lock.mdb` are LMDB's; `owner.lock` is held (flock) by the process that may
write, and names it. A crash inside a commit leaves the state before it or after it. The engine's generation is named
explicitly: LMDB 0.9 and 1.0 do not read each other's files.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb

from store.directory import (
    DATA_FILE,
    locked_directory,
    make_directory,
    read_shape,
    sync_directory,
    sync_file,
    take_ownership,
)
from store.engine import (
    MAX_KEY_BYTES,
    CommitFailed,
    CorruptRecord,
    Damaged,
    EngineInfo,
    Fenced,
    Snapshot,
    StoreError,
    WriteTxn,
)
from store.engine import CannotOpen as CannotOpen
from store.format import Stamp, check_stamp, read_stamp, write_stamp
from store.lmdb_file import GENERATION, check_pages, check_structure
from store.lmdb_metas import note_failure
from store.records import TOLD_RECORDS, open_record, seal

MAP_SIZE_BYTES = 16 << 30
"""The default map: address space, not disk. Changed only at open."""
MAX_READERS = 126
TEMPORARY_SUFFIX = ".new"

_DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError)
_open_paths: dict[Path, int] = {}  # what this process (its id, lest a child believes it) has open for writing
_ENDED: dict[str, Any] = {}  # the tables of a transaction that has ended


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except (lmdb.Error, OSError) as error:
        kind = Damaged if isinstance(error, _DAMAGE) else CannotOpen
        raise kind(f"{path} cannot be opened: {error}") from error


# --- transactions --------------------------------------------------------------------------------------------------


def _seek(cursor: Any, start: bytes) -> bool:
    """To the first key >= start, which may be longer than a key can be (the successor of one: key + 0)."""
    if not start:
        return bool(cursor.first())
    if len(start) <= MAX_KEY_BYTES:
        return bool(cursor.set_range(start))
    longest = start[:MAX_KEY_BYTES]
    found = cursor.set_range(longest)
    return bool(cursor.next() if found and cursor.key() == longest else found)


def _seek_below(cursor: Any, stop: bytes | None) -> bool:
    """To the last key < stop."""
    if stop is None:
        return bool(cursor.last())
    if not cursor.set_range(stop[:MAX_KEY_BYTES]):
        return bool(cursor.last())
    if len(stop) > MAX_KEY_BYTES and cursor.key() == stop[:MAX_KEY_BYTES]:
        return True
    return bool(cursor.prev())


class _Txn:
    """A transaction over named tables with sealed records."""

    __slots__ = ("_dbs", "_txn")

    def __init__(self, txn: Any, dbs: dict[str, Any]) -> None:
        self._txn = txn
        self._dbs = dbs

    def _no_table(self, table: str) -> StoreError:
        if self._dbs is _ENDED:
            return StoreError("the transaction has ended")
        if not self._dbs:  # the engine's own, emptied by its fence
            return Fenced("the engine was fenced inside this transaction")
        return StoreError(f"no table {table!r}; there are {', '.join(sorted(self._dbs))}")

    def _db(self, table: str) -> Any:
        try:
            return self._dbs[table]
        except KeyError:
            raise self._no_table(table) from None

    @property
    def number(self) -> int:
        """See `Snapshot.number`."""
        return int(self._txn.id())

    def end(self) -> None:
        """Every further call raises `StoreError`."""
        self._dbs = _ENDED

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        try:
            db = self._dbs[table]
        except KeyError:
            raise self._no_table(table) from None
        record = self._txn.get(key, None, db) if key else None
        return None if record is None else open_record(table, key, record)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`."""
        cursor = self._txn.cursor(self._db(table))
        try:
            if reverse:
                yield from self._backward(cursor, table, start, stop)
            elif _seek(cursor, start):
                for key, record in cursor.iternext():
                    if stop is not None and key >= stop:
                        return
                    yield key, open_record(table, key, record)
        except lmdb.Error as error:
            raise StoreError(f"scan of table {table!r}: {error}") from error
        finally:
            cursor.close()

    def _backward(self, cursor: Any, table: str, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        if _seek_below(cursor, stop):
            for key, record in cursor.iterprev():
                if key < start:
                    return
                yield key, open_record(table, key, record)

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`."""
        with self._txn.cursor(self._db(table)) as cursor:
            if not _seek_below(cursor, stop):
                return None
            key, record = cursor.item()
            return None if key < start else (key, open_record(table, key, record))


class _WriteTxn(_Txn):
    __slots__ = ()

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        """See `WriteTxn.put`."""
        db = self._db(table)
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise StoreError(f"a key of {len(key)} bytes in table {table!r}, allowed are 1 to {MAX_KEY_BYTES}")
        if not self._txn.put(key, seal(table, key, payload), append=append, db=db):
            raise StoreError(f"append to {table!r}: key {key.hex()} is not above the last one")

    def delete(self, table: str, key: bytes) -> bool:
        """See `WriteTxn.delete`."""
        db = self._db(table)
        return 0 < len(key) <= MAX_KEY_BYTES and bool(self._txn.delete(key, db=db))

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """See `WriteTxn.delete_range`."""
        with self._txn.cursor(self._db(table)) as cursor:
            found = _seek(cursor, start)
            count = 0
            while found and (limit is None or count < limit):
                if stop is not None and cursor.key() >= stop:
                    break
                found = cursor.delete() and bool(cursor.key())  # it stands on the next one then
                count += 1
            return count


class LmdbEngine:
    """One environment on disk; see the protocol `Engine`. Made by `open`, `open_readonly` or, first, `create`.

    One open per path and process, one owner process per path; never used across a fork. A read transaction belongs to
    the thread that opened it; a write transaction is opened and ended on one thread (see `store.writer`).
    """

    def __init__(self, path: Path, env: Any, tables: Sequence[str], owner: int | None) -> None:
        self.path = path
        self.tables = tuple(tables)
        self._env = env
        self._owner = owner
        self._pid = os.getpid()
        self._over = ""
        self._writing = threading.Lock()
        self._reading = 0
        self._dbs: dict[str, Any] = {}
        for table in self.tables:
            try:
                self._dbs[table] = env.open_db(table.encode(), create=False)
            except lmdb.NotFoundError:
                raise CannotOpen(
                    f"{path} has no table {table!r}: it is of another kind, or of another program"
                ) from None
        self._page_size_bytes: int = env.stat()["psize"]
        self._size_bytes = 0

    # --- making and opening --------------------------------------------------------------------------------------

    @staticmethod
    def create(
        path: Path,
        tables: Sequence[str],
        stamp: Stamp,
        fill: Callable[[WriteTxn], Any],
        *,
        map_size_bytes: int = MAP_SIZE_BYTES,
    ) -> None:
        """Make a new environment with what `fill` writes. On return it is durable under its name; after a crash or an error
        it is whole or not there (a leftover is removed). `tables` must have "meta", for the stamp. Raises `CannotOpen` if
        the path exists, `CommitFailed` if there is no room, and whatever `fill` raises."""
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        with _opening(path), ExitStack() as undo:
            make_directory(path.parent)
            undo.enter_context(locked_directory(path.parent))  # or two makers remove each other's work
            if path.exists():
                raise CannotOpen(f"{path} exists already")
            shutil.rmtree(temporary, ignore_errors=True)
            undo.callback(shutil.rmtree, temporary, ignore_errors=True)
            _make(temporary, tables, stamp, fill, map_size_bytes)
            temporary.rename(path)
            sync_directory(path.parent)

    @classmethod
    def open(
        cls, path: Path, tables: Sequence[str], expected: Stamp | None, *, map_size_bytes: int = MAP_SIZE_BYTES
    ) -> LmdbEngine:
        """Open for writing, as the one owner. With `expected` None any stamp of this format will do. Raises
        `CannotOpen`, `FormatMismatch`, `CorruptRecord`; then nothing was changed and nothing is held."""
        if not path.is_dir():
            raise CannotOpen(f"{path} does not exist: an empty peer may not vote; bootstrap makes a new one, once")
        real = path.resolve()
        if _open_paths.get(real) == os.getpid():
            raise CannotOpen(f"{path} is open in this process already")
        with _opening(path), ExitStack() as undo:
            read_shape(path)  # no lock file is left in a directory that is no environment
            owner = take_ownership(path)
            undo.callback(os.close, owner)
            short = check_pages(path)
            env = _open_env(path, len(tables), map_size_bytes, create=False)
            undo.callback(env.close)
            env.reader_check()
            engine = cls(path, env, tables, owner)
            with engine.read() as txn:
                found = read_stamp(txn, str(path))
            if expected is not None:
                check_stamp(expected, found, str(path))
            engine._lengthen()
            if short is not None:
                undo.callback(os.truncate, path / DATA_FILE, short)
                engine._read_all()
            undo.pop_all()
        _open_paths[real] = os.getpid()
        return engine

    @classmethod
    def open_readonly(cls, path: Path, tables: Sequence[str]) -> LmdbEngine:
        """Open to look, beside a live owner (of another process) or not. Writes nothing but LMDB's reader table. Keep
        transactions short: they pin pages. Raises `CannotOpen`, `FormatMismatch`."""
        with _opening(path), ExitStack() as undo:
            check_structure(path)
            env = lmdb.open(
                str(path), readonly=True, lock=True, create=False, max_dbs=len(tables), lib_version=GENERATION
            )
            undo.callback(env.close)
            engine = cls(path, env, tables, None)
            undo.pop_all()
        return engine

    # --- transactions --------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._over:
            raise Fenced(f"{self.path} {self._over}")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.path} was opened by process {self._pid}, this is {os.getpid()}: never across a fork"
            )

    def _begin_read(self) -> Any:
        try:
            return self._env.begin(buffers=False)
        except lmdb.MapResizedError:  # its owner, another process, has a larger map
            if self._reading:
                raise
            self._env.set_mapsize(0)
            return self._env.begin(buffers=False)

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        """See `Engine.read`. `StoreError` when the table of readers is full."""
        self._check()
        try:
            txn = self._begin_read()
            view = _Txn(txn, self._dbs)
            self._reading += 1
            try:
                yield view
            finally:
                self._reading -= 1
                view.end()
                txn.abort()
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    @contextmanager
    def write(self) -> Iterator[WriteTxn]:
        """See `Engine.write`."""
        self._check()
        if not self._writing.acquire(blocking=False):
            raise StoreError(f"{self.path}: a write transaction is open already; there is one at a time")
        try:
            thread = threading.get_ident()
            txn = self._env.begin(write=True)
            view = _WriteTxn(txn, self._dbs)
            try:
                yield view
                # LMDB would take it, and deadlock the next writer.
                assert threading.get_ident() == thread, "a transaction is committed by the thread that began it"
                self._check()
                self._commit(txn, txn.id())
            finally:
                view.end()
                txn.abort()  # nothing to do after a commit
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        finally:
            self._writing.release()

    def _commit(self, txn: Any, number: int) -> None:
        try:
            txn.commit()
        except lmdb.Error as error:
            # Not `fence()`: the loop's thread may be reading, and shall hear of this first.
            self._over = f"is fenced: a commit to it failed: {error}"
            note_failure(self.path, number)
            raise CommitFailed(f"a commit to {self.path} failed: {error}") from error
        self._lengthen()

    def _lengthen(self) -> None:
        """Give the file the length that its meta page speaks of (see the module); what is added reads as zeros, takes no
        room and is not in use. No part of the commit: without it the next start only takes longer."""
        needed = (self._env.info()["last_pgno"] + 1) * self._page_size_bytes
        if needed > self._size_bytes:
            with suppress(OSError):
                file = self.path / DATA_FILE
                if file.stat().st_size < needed:
                    os.truncate(file, needed)
                self._size_bytes = needed

    def info(self) -> EngineInfo:
        """See `Engine.info`. `free_pages` counts the pages of tables that are not open here as free."""
        self._check()
        try:
            info, main = self._env.info(), self._env.stat()
            with self._env.begin() as txn:
                stats = [main, *(txn.stat(db) for db in self._dbs.values())]
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        in_use = 2 + sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        pages = info["last_pgno"] + 1
        return EngineInfo(
            info["map_size"],
            pages * self._page_size_bytes,
            info["last_txnid"],
            max(0, pages - in_use),
            info["num_readers"],
            self._page_size_bytes,
        )

    def check_readers(self) -> int:
        """Free the slots of readers whose process died; call on a timer. How many there were."""
        self._check()
        return int(self._env.reader_check())

    def last_txnid(self) -> int:
        """The number of the latest commit, by a read transaction that ends at once."""
        with self.read() as txn:
            return txn.number

    def salvage(self, table: str) -> Iterator[tuple[bytes, bytes | None]]:
        """(key, payload, or None if the record fails its check) as far as the table can be walked. Raises `StoreError`
        where it cannot be walked on, and at the end if it told of more records than were found."""
        self._check()
        try:
            with self._env.begin(buffers=False) as txn, txn.cursor(db=self._dbs[table]) as cursor:
                left = txn.stat(self._dbs[table])["entries"]
                for key, record in cursor:
                    left -= 1
                    try:
                        yield key, open_record(table, key, record)
                    except CorruptRecord:
                        yield key, None
        except lmdb.Error as error:
            raise StoreError(f"table {table!r} cannot be walked: {error}") from error
        if left:
            raise StoreError(f"table {table!r} tells of {left} records more than are found")

    def records(self, table: str) -> int:
        """How many records a table tells it has."""
        self._check()
        with self._env.begin() as txn:
            return int(txn.stat(self._dbs[table])["entries"])

    def damaged(
        self, table: str, told: Callable[[int], object] = lambda count: None
    ) -> Iterator[tuple[bytes, str, bytes]]:
        """(key, what is wrong, the record) of each that fails its check; `told` hears now and then of how many more."""
        self._check()
        with self._env.begin(buffers=False) as txn, txn.cursor(db=self._dbs[table]) as cursor:
            for number, (key, record) in enumerate(cursor, 1):
                if not number % TOLD_RECORDS:
                    told(TOLD_RECORDS)
                try:
                    open_record(table, key, record)
                except CorruptRecord as error:
                    yield key, error.why, record

    def _read_all(self) -> None:
        for table in self.tables:
            for key, why, _ in self.damaged(table):
                raise CorruptRecord(table, key, why)

    def fence(self) -> None:
        """See `Engine.fence`."""
        self._over = self._over or "is fenced: its peer is dead"
        self._dbs.clear()

    def close(self) -> None:
        """See `Engine.close`. While a commit hangs in another thread files and ownership last as long as the process."""
        self._over = self._over or "is closed"
        self._dbs.clear()
        if self._writing.acquire(blocking=False):  # for good
            self._env.close()
            if self._owner is not None:
                _open_paths.pop(self.path.resolve(), None)
                os.close(self._owner)
                self._owner = None


def _make(
    path: Path, tables: Sequence[str], stamp: Stamp, fill: Callable[[WriteTxn], Any], map_size_bytes: int
) -> None:
    path.mkdir()
    env = _open_env(path, len(tables), map_size_bytes, create=True)
    try:
        try:
            dbs = {table: env.open_db(table.encode()) for table in tables}
            with env.begin(write=True) as txn:
                write_stamp(_WriteTxn(txn, dbs), stamp)
                fill(_WriteTxn(txn, dbs))
        finally:
            env.close()
        sync_file(path / DATA_FILE)
        sync_directory(path)
    except (lmdb.Error, OSError) as error:
        raise CommitFailed(f"{path} could not be filled: {error}") from error


def _open_env(path: Path, tables: int, map_size_bytes: int, *, create: bool) -> Any:
    return lmdb.open(
        str(path),
        map_size=map_size_bytes,
        max_dbs=tables,
        max_readers=MAX_READERS,
        lib_version=GENERATION,
        create=create,
        metasync=True,
        sync=True,
        writemap=False,
        map_async=False,
    )
