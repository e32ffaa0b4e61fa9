"""kvsrv: one server on one LMDB environment, without Raft and hence without a log (lab 2; the controller's single store).

It replies only after its own commit. Commands that wait together share one transaction. Reads look at the last commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from raftlog.machine import Applied, NotLeader, NotTaken, Operation, Outcome, Unknown
from raftlog.sessions import Sessions
from raftlog.types import LogId, PeerId
from shardkv.kvmachine import VersionedMachine
from store.engine import ReadTxn, Writer, WriteTxn
from store.failpoints import step

T = TypeVar("T")

WRITE = step("write", "writes of clients, at a kvsrv")

QUEUE_MAX = 8192
"""The most operations that wait for a commit; more are refused."""
QUEUE_BYTES_MAX = 32 << 20
"""The most bytes of commands that wait for a commit; the next is refused."""
BATCH_MAX = 256
"""The most operations in one commit."""
BATCH_BYTES = 4 << 20
"""A commit takes no further operation once it holds so many bytes of commands."""

_Item = tuple[Operation, Callable[[Outcome], Any]]


class KvServer:
    """A `ReplicatedStateMachine` of one replica. All calls on the loop's thread.

    Invariant: at most one job is at the writer; what is submitted meanwhile goes into the next.
    """

    def __init__(self, machine: VersionedMachine, writer: Writer) -> None:
        self.machine = machine
        self.writer = writer
        self.no_space = False
        self._queue: deque[_Item] = deque()
        self._queue_bytes = 0
        self._committing = False
        self._count = 0
        self._closed = False

    @property
    def view(self) -> ReadTxn:
        """Not held open between calls: see `when_readable`."""
        return _FreshView(self.writer)

    def is_leader(self) -> bool:
        """Always: there is no other."""
        return True

    def leader(self) -> PeerId | None:
        """Itself."""
        return 0

    async def role_change(self) -> None:
        """See `ReplicatedStateMachine.role_change`: it never comes."""
        await trio.sleep_forever()

    def submit(self, operation: Operation, done: Callable[[Outcome], Any]) -> None:
        """See `ReplicatedStateMachine.submit`; `done` comes after the commit."""
        if self._closed:
            done(NotTaken("the server stops"))
        elif len(self._queue) >= QUEUE_MAX or self._queue_bytes >= QUEUE_BYTES_MAX:
            done(NotTaken("busy"))
        elif self.no_space and self.machine.grows(operation.command):
            done(NotTaken("no space"))
        else:
            self._queue.append((operation, done))
            self._queue_bytes += len(operation.command)
            self._next()

    def _batch(self) -> list[_Item]:
        """Take what the next commit is to hold."""
        batch: list[_Item] = []
        size = 0
        while self._queue and len(batch) < BATCH_MAX and size < BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += len(batch[-1][0].command)
        self._queue_bytes -= size
        return batch

    def _next(self) -> None:
        if self._committing or not self._queue:
            return
        batch = self._batch()
        self._committing = True
        self._count += 1
        at = LogId(0, self._count)  # no log: the position is only a number

        def job(txn: WriteTxn) -> list[bytes]:
            sessions = Sessions(self.machine, txn)
            replies = [sessions.apply(operation, at) for operation, _ in batch]
            sessions.settle()
            return replies

        def committed(replies: list[bytes]) -> None:
            self._committing = False
            for (_, done), reply in zip(batch, replies, strict=True):
                done(Applied(reply, at))
            self._next()

        self.writer.submit(job, committed, WRITE)

    def when_readable(
        self, read: Callable[[ReadTxn], T], done: Callable[[T | NotLeader | Unknown], Any], *, early: bool = False
    ) -> None:
        """See `ReplicatedStateMachine.when_readable`: at once, from the last commit, which holds every reply given."""
        with self.writer.engine.read() as txn:
            value = read(txn)
        done(value)

    def close(self) -> None:
        """Refuse what waits; what is at the writer is answered if its commit returns."""
        self._closed = True
        queue, self._queue, self._queue_bytes = self._queue, deque(), 0
        for _, done in queue:
            done(NotTaken("the server stops"))


class _FreshView:
    """Reads each time from the last commit."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def get(self, table: str, key: bytes) -> bytes | None:
        """See `ReadTxn.get`."""
        with self._writer.engine.read() as txn:
            return txn.get(table, key)

    def scan(self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False) -> Any:
        """See `ReadTxn.scan`."""
        with self._writer.engine.read() as txn:
            return iter(list(txn.scan(table, start, stop, reverse=reverse)))

    def last(self, table: str, start: bytes = b"", stop: bytes | None = None) -> tuple[bytes, bytes] | None:
        """See `ReadTxn.last`."""
        with self._writer.engine.read() as txn:
            return txn.last(table, start, stop)
