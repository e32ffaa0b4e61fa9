"""The LMDB engine: the one module that imports `lmdb`.

Synced commits only; `NOSYNC`, `NOMETASYNC`, `MAPASYNC` and `WRITEMAP` are never used and no option exposes them. LMDB
never syncs the parent directory and is not safe while it creates its file, so an environment is made under a temporary
name, committed, closed, renamed, and the parent synced: a directory under its real name is whole.

In an environment's directory: `data.mdb` and `lock.mdb` are LMDB's; `owner.lock` is held (flock) by the process that may
write, and names it. A crash inside a commit leaves the state before it or after it. The engine's generation is named
explicitly: LMDB 0.9 and 1.0 do not read each other's files.

A truncated file would kill the process (SIGBUS) when LMDB touches it, so the file is checked before LMDB opens it. A file
that is shorter than its meta page says is not always damaged, though: LMDB does not write pages that one transaction
both took and freed, so the tail of a healthy file may be missing (measured: after most commits that delete what they
wrote). So each commit lengthens such a file, and one that is short all the same (a crash came between) is walked page
by page (`verify_pages`) and refused only if a page in use is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb
from lmdb import verify as lmdb_verify

from store.engine import (
    MAX_KEY_BYTES,
    CommitFailed,
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
TEMPORARY_SUFFIX = ".new"

_META_MAGIC = 0xBEEFC0DE
_META_FLAG = 0x08
_DATA_VERSIONS = {0: 1}
_PAGE_SIZES = [1 << bits for bits in range(8, 17)]

_open_paths: dict[Path, int] = {}
"""What this process (its id, lest a child believes it) has open for writing."""
_ENDED: dict[str, Any] = {}
"""The tables of a transaction that has ended."""


class CannotOpen(StoreError):
    """The directory is not there, in use, or its file is damaged; one line says which."""


# --- the file, before LMDB sees it ---------------------------------------------------------------------------------


def check_structure(path: Path) -> None:
    """Raise `CannotOpen` for a data file that LMDB could not open or that would kill the process: no file, too short, no
    meta page, or a page in use is cut off. Reads only; the file may belong to a live owner."""
    file = path / DATA_FILE
    if not file.is_file():
        raise CannotOpen(f"{path} holds no database: {DATA_FILE} is missing")
    with file.open("rb") as stream:
        head = stream.read(64)
        page = _page_size(head, file)
        metas = []
        for number in (0, 1):
            stream.seek(number * page)
            metas.append(_meta_page(stream.read(page), number, file, page))
        size = os.fstat(stream.fileno()).st_size  # after the metas: a live owner lengthens the file first
    needed = (max(metas)[1] + 1) * page
    if size < needed and not _has_owner(path) and (wrong := verify_pages(path)):
        raise CannotOpen(f"{file} is damaged: {size} bytes of {needed}, it was cut off: {wrong[0]}")


def _page_size(head: bytes, file: Path) -> int:
    if len(head) < 64:
        raise CannotOpen(f"{file} is damaged: {len(head)} bytes, shorter than a meta page")
    _check_meta_head(head, 0, file)
    page: int = struct.unpack_from("=I", head, 40)[0]
    if page not in _PAGE_SIZES:
        raise CannotOpen(f"{file} is damaged: pages of {page} bytes")
    return page


def _check_meta_head(data: bytes, number: int, file: Path) -> None:
    flags = struct.unpack_from("=H", data, 10)[0]
    magic, version = struct.unpack_from("=II", data, 16)
    if not flags & _META_FLAG or magic != _META_MAGIC:
        # LMDB 1.0 has a longer page header; its magic is 8 bytes on.
        if struct.unpack_from("=I", data, 24)[0] == _META_MAGIC:
            raise FormatMismatch(f"{file} was written by LMDB 1.x, this program reads LMDB {GENERATION}.9: export it there")
        raise CannotOpen(f"{file} is damaged: page {number} is no meta page of LMDB")
    if version != _DATA_VERSIONS[GENERATION]:
        raise FormatMismatch(f"{file} has LMDB data format {version}, this program reads {_DATA_VERSIONS[GENERATION]}")


def _meta_page(data: bytes, number: int, file: Path, page: int) -> tuple[int, int]:
    """(transaction, last page) of a meta page of LMDB 0.9 on a 64-bit machine."""
    if len(data) < page:
        raise CannotOpen(f"{file} is damaged: cut off inside meta page {number}")
    _check_meta_head(data, number, file)
    last, txnid = struct.unpack_from("=QQ", data, 136)
    return txnid, last


def verify_pages(path: Path) -> list[str]:
    """What is structurally wrong with the data file of an environment that nobody has open; empty = sound. Reads every
    page without LMDB, so nothing in the file can hurt; takes seconds per 100 MB. The records' own checks are not made."""
    try:
        return [str(problem) for problem in lmdb_verify.verify(str(path / DATA_FILE), subdir=False)]
    except lmdb_verify.VerifyError as error:
        return [str(error)]


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
        cursor = self._txn.cursor(self._db(table))
        try:
            if not _seek_below(cursor, stop):
                return None
            key, record = cursor.item()
            return None if key < start else (key, open_record(table, key, record))
        finally:
            cursor.close()


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
        cursor = self._txn.cursor(self._db(table))
        try:
            found = _seek(cursor, start)
            count = 0
            while found and (limit is None or count < limit):
                if stop is not None and cursor.key() >= stop:
                    break
                found = cursor.delete() and bool(cursor.key())  # it stands on the next one then
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
