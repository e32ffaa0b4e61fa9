"""The writer: one own thread per environment that runs write jobs in order.

A job is a closure that runs between begin and commit; no write transaction spans an await, and none runs on the event
loop, which never waits for an fsync. LMDB binds a write transaction to its thread, so it must be one thread of our own
and not one of a pool. Outcomes come back through `TrioToken.run_sync_soon`, many at a time.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from store.engine import Engine, Fenced, WriteTxn

T = TypeVar("T")

_Job = tuple[Callable[[WriteTxn], Any], Callable[[Any], Any]]


class ThreadWriter:
    """See the protocol `Writer`. Made inside `trio.run`; all its methods belong to the loop's thread.

    `on_fatal(exception)` is called on the loop's thread when a job or its commit raised; the peer must die then.
    """

    def __init__(self, engine: Engine, on_fatal: Callable[[BaseException], Any], *, name: str = "writer") -> None:
        self._engine = engine
        self._on_fatal = on_fatal
        self._token = trio.lowlevel.current_trio_token()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._submitted: deque[float] = deque()
        self._done: deque[tuple[Callable[[Any], Any], Any]] = deque()
        self._fenced = False
        self._idle = trio.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def engine(self) -> Engine:
        """The environment written to."""
        return self._engine

    @property
    def busy_since(self) -> float | None:
        """See `Writer.busy_since`."""
        return self._submitted[0] if self._submitted else None

    def submit(self, job: Callable[[WriteTxn], T], on_done: Callable[[T], Any]) -> None:
        """See `Writer.submit`."""
        if self._fenced:
            return
        if not self._submitted:
            self._idle = trio.Event()
        self._submitted.append(trio.current_time())
        self._jobs.put((job, on_done))

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, on_done = item
            try:
                with self._engine.write() as txn:
                    result = job(txn)
            except Fenced:
                return
            except BaseException as error:  # noqa: BLE001  # tidy: whatever stops a commit is fatal to the peer
                self._call_soon(self._fatal, error)
                return
            self._done.append((on_done, result))
            self._call_soon(self._report)

    def _call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            self._token.run_sync_soon(call, *args, idempotent=not args)
        except trio.RunFinishedError:
            self._fenced = True  # nobody is there to hear of it

    def _report(self) -> None:
        while self._done:
            on_done, result = self._done.popleft()
            if self._fenced:
                return
            self._submitted.popleft()
            if not self._submitted:
                self._idle.set()
            on_done(result)

    def _fatal(self, error: BaseException) -> None:
        self._report()
        if not self._fenced:
            self.fence()
            self._on_fatal(error)

    def fence(self) -> None:
        """See `Writer.fence`."""
        self._fenced = True
        self._engine.fence()
        self._submitted.clear()
        self._idle.set()

    async def drain(self) -> None:
        """See `Writer.drain`."""
        while self._submitted and not self._fenced:
            await self._idle.wait()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """See `Writer.close`. Waits for the job in progress, at most a few seconds (a hung disk is left to its fate)."""
        self._jobs.put(None)
        self._thread.join(timeout=5.0)
