"""The LMDB engine: the one module that imports `lmdb`.

Synced commits only; `NOSYNC`, `NOMETASYNC`, `MAPASYNC` and `WRITEMAP` are never used and no option exposes them. LMDB
never syncs the parent directory and is not safe while it creates its file, so an environment is made under a temporary
name, committed, closed, renamed, and the parent synced: a directory under its real name is whole.

A truncated file would kill the process (SIGBUS) when LMDB touches it, so the file's structure is checked before LMDB
opens it. The engine's generation is named explicitly: LMDB 0.9 and 1.0 do not read each other's files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb

from store.engine import (
    MAX_KEY_BYTES,
    CommitFailed,
    CorruptRecord,
    EngineInfo,
    Fenced,
    FormatMismatch,
    ReadTxn,
    StoreError,
    WriteTxn,
)
from store.format import Stamp, check_stamp, read_stamp, write_stamp
from store.records import open_record, seal

GENERATION = 0
"""LMDB 0.9; the stamp carries it."""
MAP_SIZE_BYTES = 16 << 30
"""The default map: address space, not disk. Changed only at open."""
MAX_READERS = 126
DATA_FILE = "data.mdb"
OWNER_FILE = "owner.lock"

_META_MAGIC = 0xBEEFC0DE
_DATA_VERSIONS = {0: 1}
_open_paths: dict[Path, int] = {}


class CannotOpen(StoreError):
    """The directory is not there, in use, or its file is damaged; one line says which."""


def check_structure(path: Path) -> None:
    """Raise `CannotOpen` for a data file that LMDB could not open or that would kill the process: no file, too short, no
    meta page, or shorter than its newest meta page says."""
    file = path / DATA_FILE
    if not file.is_file():
        raise CannotOpen(f"{path} holds no database: {DATA_FILE} is missing")
    size = file.stat().st_size
    page = os.sysconf("SC_PAGE_SIZE")
    if size < 2 * page:
        raise CannotOpen(f"{file} is damaged: {size} bytes, shorter than its two meta pages")
    pages = []
    with file.open("rb") as stream:
        for number in (0, 1):
            stream.seek(number * page)
            pages.append(_meta_page(stream.read(page), number, file, page))
    last = max(pages)[1]
    if size < (last + 1) * page:
        raise CannotOpen(f"{file} is damaged: {size} bytes, but it needs {(last + 1) * page}: it was cut off")


def _meta_page(data: bytes, number: int, file: Path, page: int) -> tuple[int, int]:
    """(transaction, last page) of a meta page of LMDB 0.9 on a 64-bit machine."""
    flags = struct.unpack_from("<H", data, 10)[0]
    magic, version = struct.unpack_from("<II", data, 16)
    if not flags & 0x08 or magic != _META_MAGIC:
        raise CannotOpen(f"{file} is damaged: page {number} is no meta page of LMDB")
    if version != _DATA_VERSIONS[GENERATION]:
        raise FormatMismatch(
            f"{file} has LMDB data format {version}, LMDB {GENERATION}.x reads {_DATA_VERSIONS[GENERATION]}"
        )
    page_size = struct.unpack_from("<I", data, 40)[0]
    if page_size != page:
        raise CannotOpen(f"{file} has pages of {page_size} bytes, this machine's have {page}")
    last, txnid = struct.unpack_from("<QQ", data, 136)
    return txnid, last


class _Txn:
    """A transaction over named tables with sealed records."""

    __slots__ = ("_dbs", "_txn")

    def __init__(self, txn: Any, dbs: dict[str, Any]) -> None:
        self._txn = txn
        self._dbs = dbs

    def _db(self, table: str) -> Any:
        try:
            return self._dbs[table]
        except KeyError:
            raise StoreError(f"no table {table!r}; there are {', '.join(sorted(self._dbs))}") from None

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        record = self._txn.get(key, db=self._db(table)) if key else None
        return None if record is None else open_record(table, key, record)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `ReadTxn.scan`."""
        cursor = self._txn.cursor(db=self._db(table))
        try:
            if reverse:
                yield from self._backward(cursor, table, start, stop)
                return
            found = cursor.set_range(start) if start else cursor.first()
            if not found:
                return
            for key, record in cursor.iternext():
                if stop is not None and key >= stop:
                    return
                yield key, open_record(table, key, record)
        finally:
            cursor.close()

    def _backward(self, cursor: Any, table: str, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        if stop is None:
            found = cursor.last()
        else:
            found = cursor.prev() if cursor.set_range(stop) else cursor.last()
        if not found:
            return
        for key, record in cursor.iterprev():
            if key < start:
                return
            yield key, open_record(table, key, record)

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`."""
        return next(self.scan(table, start, stop, reverse=True), None)


class _WriteTxn(_Txn):
    __slots__ = ()

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        """See `WriteTxn.put`."""
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise StoreError(f"a key of {len(key)} bytes in table {table!r}, allowed are 1 to {MAX_KEY_BYTES}")
        stored = self._txn.put(key, seal(table, key, payload), db=self._db(table), append=append)
        if not stored:
            raise StoreError(f"append to {table!r}: key {key.hex()} is not above the last one")

    def delete(self, table: str, key: bytes) -> bool:
        """See `WriteTxn.delete`."""
        return bool(key) and bool(self._txn.delete(key, db=self._db(table)))

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """See `WriteTxn.delete_range`."""
        cursor = self._txn.cursor(db=self._db(table))
        try:
            found = cursor.set_range(start) if start else cursor.first()
            count = 0
            while found and (limit is None or count < limit):
                if stop is not None and cursor.key() >= stop:
                    break
                found = cursor.delete() and bool(cursor.key())
                count += 1
            return count
        finally:
            cursor.close()


class LmdbEngine:
    """One environment on disk; see the protocol `Engine`. Made by `open`, `open_readonly` or, first, `create`.

    One open per path and process, one owner process per path; never used across a fork. A read transaction belongs to
    the thread that opened it; write transactions to one thread only (see `store.writer`).
    """

    def __init__(self, path: Path, env: Any, tables: Sequence[str], owner: int | None) -> None:
        self.path = path
        self.tables = tuple(tables)
        self._env = env
        self._owner = owner
        self._pid = os.getpid()
        self._fenced = False
        self._dbs = {table: env.open_db(table.encode(), create=False) for table in self.tables}

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
        """Make a new environment with what `fill` writes. On return it is durable under its name; after a crash it is
        either whole or not there (a leftover of an earlier crash is removed). Raises `CannotOpen` if it exists."""
        if path.exists():
            raise CannotOpen(f"{path} exists already")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        env = _open_env(temporary, len(tables), map_size_bytes)
        try:
            dbs = {table: env.open_db(table.encode()) for table in tables}
            with env.begin(write=True) as txn:
                write_stamp(_WriteTxn(txn, dbs), stamp)
                fill(_WriteTxn(txn, dbs))
        finally:
            env.close()
        sync_directory(temporary)
        temporary.rename(path)
        sync_directory(path.parent)

    @classmethod
    def open(
        cls, path: Path, tables: Sequence[str], expected: Stamp, *, map_size_bytes: int = MAP_SIZE_BYTES
    ) -> LmdbEngine:
        """Open for writing, as the one owner. Raises `CannotOpen`, `FormatMismatch`, `CorruptRecord`; then nothing was
        changed."""
        if not path.is_dir():
            raise CannotOpen(f"{path} does not exist: an empty peer may not vote; bootstrap makes a new one, once")
        check_structure(path)
        real = path.resolve()
        if _open_paths.get(real) == os.getpid():
            raise CannotOpen(f"{path} is open in this process already")
        owner = _take_ownership(path)
        try:
            env = _open_env(path, len(tables), map_size_bytes)
            try:
                env.reader_check()
                engine = cls(path, env, tables, owner)
                with engine.read() as txn:
                    check_stamp(expected, read_stamp(txn, str(path)), str(path))
            except (lmdb.Error, StoreError):
                env.close()
                raise
        except lmdb.Error as error:
            os.close(owner)
            raise CannotOpen(f"{path} cannot be opened: {error}") from error
        except StoreError:
            os.close(owner)
            raise
        _open_paths[real] = os.getpid()
        return engine

    @classmethod
    def open_readonly(cls, path: Path, tables: Sequence[str]) -> LmdbEngine:
        """Open to look, beside a live owner or not. Writes nothing but LMDB's reader table. Raises `CannotOpen`."""
        check_structure(path)
        try:
            env = lmdb.open(
                str(path), readonly=True, lock=True, create=False, max_dbs=len(tables), lib_version=GENERATION
            )
            return cls(path, env, tables, None)
        except lmdb.Error as error:
            raise CannotOpen(f"{path} cannot be opened: {error}") from error

    # --- transactions --------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._fenced:
            raise Fenced(f"{self.path} is fenced: its peer is dead")
        if self._pid != os.getpid():
            raise StoreError(
                f"{self.path} was opened by process {self._pid}, this is {os.getpid()}: never across a fork"
            )

    @contextmanager
    def read(self) -> Iterator[ReadTxn]:
        """See `Engine.read`."""
        self._check()
        try:
            txn = self._env.begin(buffers=False)
        except lmdb.MapResizedError:  # another process, the owner, has a larger map
            self._env.set_mapsize(0)
            txn = self._env.begin(buffers=False)
        try:
            yield _Txn(txn, self._dbs)
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        finally:
            txn.abort()

    @contextmanager
    def write(self) -> Iterator[WriteTxn]:
        """See `Engine.write`."""
        self._check()
        txn = self._env.begin(write=True)
        done = False
        try:
            yield _WriteTxn(txn, self._dbs)
            done = True
        except lmdb.Error as error:
            raise StoreError(f"{self.path}: {error}") from error
        finally:
            if not done:
                txn.abort()
        self._commit(txn)

    def _commit(self, txn: Any) -> None:
        if self._fenced:
            txn.abort()
            self._check()
        try:
            txn.commit()
        except lmdb.Error as error:
            self.fence()
            raise CommitFailed(f"a commit to {self.path} failed: {error}") from error

    # --- the rest ------------------------------------------------------------------------------------------------

    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        self._check()
        info = self._env.info()
        stat = self._env.stat()
        used = (info["last_pgno"] + 1) * stat["psize"]
        return EngineInfo(info["map_size"], used, info["last_txnid"], 0, info["num_readers"])

    def check_readers(self) -> int:
        """Free the slots of readers whose process died; call on a timer. How many there were."""
        self._check()
        return int(self._env.reader_check())

    def damaged(self, table: str) -> Iterator[tuple[bytes, str]]:
        """(key, what is wrong) of every record that fails its check. For inspection; a good table gives nothing."""
        self._check()
        with self._env.begin(buffers=False) as txn, txn.cursor(db=self._dbs[table]) as cursor:
            for key, record in cursor:
                try:
                    open_record(table, key, record)
                except CorruptRecord as error:
                    yield key, error.why

    def fence(self) -> None:
        """See `Engine.fence`."""
        self._fenced = True

    def close(self) -> None:
        """Close the files. Idempotent; no transaction may be open."""
        self._fenced = True
        if self._owner is not None:
            _open_paths.pop(self.path.resolve(), None)
            with suppress(OSError):
                os.close(self._owner)
            self._owner = None
        self._env.close()


def _open_env(path: Path, tables: int, map_size_bytes: int) -> Any:
    return lmdb.open(
        str(path),
        map_size=map_size_bytes,
        max_dbs=tables,
        max_readers=MAX_READERS,
        lib_version=GENERATION,
        metasync=True,
        sync=True,
        writemap=False,
        map_async=False,
    )


def _take_ownership(path: Path) -> int:
    """The peer's lock, held while the process lives."""
    owner = os.open(path / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(owner)
        raise CannotOpen(f"{path} is in use by another process") from error
    return owner


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
