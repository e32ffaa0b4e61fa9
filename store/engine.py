"""The protocols of the storage floor: engines, transactions and the writer.

An engine holds named tables of byte keys in byte order. Transactions are synchronous on purpose: none may span an
`await`. Values handed to and from a transaction are *payloads*; the engine seals each into a record with a format
version and a CRC over (table, key, payload) and opens it on every read (see `store.records`), so a damaged record
raises `CorruptRecord` with its name and is never skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from store.failpoints import Step

T = TypeVar("T")

MAX_KEY_BYTES = 511
"""The longest key of any table, in bytes (LMDB's own limit)."""


class StoreError(Exception):
    """Local trouble with storage. The peer dies of it with one clear line and an exit code."""


class CorruptRecord(StoreError):
    """A record failed its check. Carries `table` and `key`; nothing of it may be served."""

    def __init__(self, table: str, key: bytes, why: str) -> None:
        super().__init__(f"corrupt record in table {table!r}, key {key.hex()}: {why}")
        self.table = table
        self.key = key
        self.why = why


class FormatMismatch(StoreError):
    """The directory is not what was expected: other format, engine, cluster, peer or kind of environment."""


class CannotOpen(StoreError):
    """The directory is not there, there already, in use, or its file is damaged; one line says which."""


class Damaged(CannotOpen):
    """The file is there and is not what LMDB wrote: it is damaged, or cut off. Nothing of it may be believed."""


class CommitFailed(StoreError):
    """A commit raised. What it held may or may not be on disk: the peer must die and recover, never retry."""


class Fenced(StoreError):
    """The engine was fenced (its peer is dead); no call reaches the disk any more."""


class ReadTxn(Protocol):
    """A consistent view of all tables at one commit. Valid inside its `with` block only, on one thread."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The payload at `key`, or None. Raises `CorruptRecord`."""
        ...

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, payload) for start <= key < stop in key order (or reversed). `stop=None` is the end of the table.

        The iterator must be used up before the same transaction writes to the same table.
        """
        ...

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """The entry with the greatest key in start <= key < stop, or None."""
        ...


class Snapshot(ReadTxn, Protocol):
    """What an engine's own read transaction is."""

    @property
    def number(self) -> int:
        """Of the commit that it sees. Equal numbers of one environment mean equal contents, for good."""
        ...


class WriteTxn(ReadTxn, Protocol):
    """A transaction that also writes; its own writes are visible to its reads."""

    def put(self, table: str, key: bytes, payload: bytes, *, append: bool = False) -> None:
        """Store `payload`. With `append`, `key` must be greater than every key of the table (`StoreError` if not)."""
        ...

    def delete(self, table: str, key: bytes) -> bool:
        """Remove `key`; False if it was not there."""
        ...

    def delete_range(self, table: str, start: bytes, stop: bytes | None, *, limit: int | None = None) -> int:
        """Remove start <= key < stop, in key order, at most `limit` entries. The number removed."""
        ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Sizes of an environment, in bytes, and its latest transaction number."""

    map_size_bytes: int
    used_bytes: int
    last_txnid: int
    free_pages: int
    """Pages inside `used_bytes` that hold nothing; some may be pinned by a reader until it ends."""
    readers: int
    page_size_bytes: int = 4096


class Engine(Protocol):
    """One environment: a fixed set of tables, one writer at a time, any number of readers."""

    tables: tuple[str, ...]

    def read(self) -> AbstractContextManager[Snapshot]:
        """A snapshot of the latest commit. Several may be open at once, beside a write transaction."""
        ...

    def write(self) -> AbstractContextManager[WriteTxn]:
        """One durable transaction. Clean exit = durable; an exception inside = nothing of it; an exception from the
        commit itself is raised as `CommitFailed` and the engine is fenced. `StoreError` if one is open already."""
        ...

    def info(self) -> EngineInfo:
        """Cheap enough to call each second."""
        ...

    def fence(self) -> None:
        """From now on every call raises `Fenced`, inside open transactions too (a scan in progress may run on until it
        next asks the engine). Synchronous, idempotent, never blocks on the disk."""
        ...

    def close(self) -> None:
        """Let go of the files. Idempotent; afterwards every call raises `Fenced`."""
        ...


class Writer(Protocol):
    """Runs write jobs of one engine in order, each in a transaction of its own, away from the event loop but for those that
    `submit_soon` takes.

    `on_done(result)` is called on the event loop's thread after the job's transaction is durable, in order of
    submission. A job that raises, or a commit that fails, calls the writer's `on_fatal(exception)` (given when it was
    made) once and no `on_done` after it.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def busy_since(self) -> float | None:
        """Loop time at which the oldest unfinished job was submitted, None when idle."""
        ...

    @property
    def finished(self) -> int:
        """How many jobs are finished: a writer that is busy and where this does not grow hangs."""
        ...

    def submit(self, job: Callable[[WriteTxn], T], on_done: Callable[[T], Any], step: Step | None = None) -> None:
        """Queue `job`, the durable step `step` if it is one with a name. Never blocks. After `fence()` or a failure it is
        dropped silently."""
        ...

    def submit_soon(self, job: Callable[[WriteTxn], T], on_done: Callable[[T], Any], step: Step | None = None) -> None:
        """As `submit`, for a short job; the writer may keep it until `settle`, which must follow in the same turn of the
        loop."""
        ...

    def settle(self) -> bool:
        """Do now, on the loop's thread, what was kept. True if something was: it is durable, and its `on_done` has been
        called."""
        ...

    def fence(self) -> None:
        """No further job starts, no further `on_done` is called. Fences the engine too."""
        ...

    async def drain(self) -> None:
        """Wait until every job submitted so far is done (or the writer is fenced)."""
        ...

    def close(self) -> None:
        """End the writer after the job in progress; queued jobs are dropped, and no `on_done` is called any more. The
        engine is left open."""
        ...
