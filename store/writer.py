"""The writer: one own thread per environment that runs write jobs in order.

A job is a closure that runs between begin and commit; no write transaction spans an await, and none runs on the event
loop, which does not wait for an fsync. LMDB binds a write transaction to its thread, so it must be one thread of our own
and not one of a pool. Outcomes come back through `TrioToken.run_sync_soon`, many at a time.

There is one exception: a short job whose submitter would only wait for it (`submit_soon`) is done on the loop's thread
while the disk is fast (`FAST_S`, `HICCUP_S`). Two switches between threads that both want the interpreter cost more than
such a commit. While one is done on the loop the thread watches it: a disk that hangs there stops the loop, so it is the
thread that says so.

Law: outcomes are reported in order of submission, and nothing after the first failure. A job is not retried.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import trio

from store.engine import Engine, WriteTxn
from store.failpoints import UNNAMED, Step
from store.patience import CommitStalled, Patience

T = TypeVar("T")

CLOSE_S = 5.0
"""How long `close` waits for the job in progress."""
FAST_S = 0.002
"""While the last commits took less than this on average, the disk is fast."""
MEMORY = 16
"""How many commits that average remembers, about."""
HICCUP_S = 0.05
"""A disk that once took so long for a commit may do it again, and would make the loop miss heartbeats ..."""
DISTRUST_S = 60.0
"""... so commits are the thread's for this long; each time for twice as long, up to `DISTRUST_MAX_S`."""
DISTRUST_MAX_S = 3600.0
LOOK_S = 0.5
"""How often the thread looks whether the loop still is at the same commit."""


class _Job(NamedTuple):
    """`soon`: it is a short one, so the time it takes says something of the disk."""

    work: Callable[[WriteTxn], Any]
    on_done: Callable[[Any], Any]
    step: Step
    soon: bool


class ThreadWriter:
    """See the protocol `Writer`. Made inside `trio.run`; all its methods belong to the loop's thread.

    `on_fatal(exception)` is called once, on the loop's thread, when a job or its commit raised; writer and engine are
    fenced by then, and the peer must die. A commit that never returns on the thread is not noticed here: watch `busy_since`
    and `finished`. With `stall_s`, what `submit_soon` takes is done on the loop's thread while the disk is fast; a commit
    that does not return for so many seconds there is told to `on_fatal` on the writer's thread, for the loop stands still.
    """

    def __init__(
        self,
        engine: Engine,
        on_fatal: Callable[[BaseException], Any],
        *,
        name: str = "writer",
        stall_s: float | None = None,
    ) -> None:
        self._engine = engine
        self._on_fatal = on_fatal
        self._token = trio.lowlevel.current_trio_token()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Submission times of the jobs that are not reported yet, the oldest first.
        self._submitted: deque[float] = deque()
        self._reported = 0
        # Filled by the thread, emptied by the loop; a deque needs no lock for that.
        self._done: deque[tuple[Callable[[Any], Any], Any]] = deque()
        self._fenced = False
        self._closing = False
        self._stall_s = stall_s
        self._kept: _Job | None = None
        self._here: int | None = None
        """How many jobs were reported before the one that is being done on the loop's thread."""
        self._commit_s = 0.0
        """How long the last commits took on average."""
        self._distrust_s = DISTRUST_S
        self._distrust_until = 0.0
        self.before_commit: Callable[[], Any] = lambda: None
        """Called before a commit stops the loop: what is ready to leave shall leave."""
        self._drainers = trio.lowlevel.ParkingLot()
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

    @property
    def finished(self) -> int:
        """See `Writer.finished`."""
        return self._reported

    def submit(self, job: Callable[[WriteTxn], T], on_done: Callable[[T], Any], step: Step | None = None) -> None:
        """See `Writer.submit`. After `close` it is dropped too."""
        self._queue(_Job(job, on_done, step or UNNAMED, soon=False))

    def _queue(self, job: _Job) -> None:
        if self._fenced or self._closing:
            return
        if self._kept is not None:  # for the loop's own thread: now another job comes behind it
            self._jobs.put(self._kept)
            self._kept = None
        self._submitted.append(trio.current_time())
        self._jobs.put(job)

    def submit_soon(self, job: Callable[[WriteTxn], T], on_done: Callable[[T], Any], step: Step | None = None) -> None:
        """See `Writer.submit_soon`."""
        slow = self._commit_s > FAST_S or perf_counter() < self._distrust_until
        if self._stall_s is None or slow or self._submitted:
            self._queue(_Job(job, on_done, step or UNNAMED, soon=True))
        elif not (self._fenced or self._closing):
            self._submitted.append(trio.current_time())
            self._kept = _Job(job, on_done, step or UNNAMED, soon=True)

    def settle(self) -> bool:
        """See `Writer.settle`."""
        job, self._kept = self._kept, None
        if job is None or self._fenced or self._closing:
            return False
        self.before_commit()
        self._here = self._reported
        try:
            result = self._do(job)
        except Exception as error:  # noqa: BLE001  # tidy: as on the thread
            self._fail(error)
            return False
        finally:
            self._here = None
        self._done.append((job.on_done, result))
        self._report()
        return True

    # --- on either thread ----------------------------------------------------------------------------------------

    def _do(self, job: _Job) -> Any:
        begun = perf_counter()
        with self._engine.write() as txn:
            job.step.begin.reach()
            result = job.work(txn)
            job.step.commit.reach()
        job.step.done.reach()
        if job.soon:
            self._learn(perf_counter() - begun)
        return result

    def _learn(self, took_s: float) -> None:
        self._commit_s += (took_s - self._commit_s) / MEMORY
        if took_s > HICCUP_S:
            self._distrust_until = perf_counter() + self._distrust_s
            self._distrust_s = min(2 * self._distrust_s, DISTRUST_MAX_S)

    # --- on the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None and not (self._closing or self._fenced):
            try:
                result = self._do(job)
            except BaseException as error:  # noqa: BLE001  # tidy: whatever stops a commit is fatal to the peer
                self._call_soon(self._fail, error)
                return
            self._done.append((job.on_done, result))
            if not self._call_soon(self._report):
                return

    def _next(self) -> _Job | None:
        """The next job. Meanwhile, watch what the loop does itself."""
        if self._stall_s is None:
            return self._jobs.get()
        patience = Patience(self._stall_s, LOOK_S)
        while True:
            try:
                return self._jobs.get(timeout=LOOK_S)
            except queue.Empty:
                try:
                    patience.look(self._here)
                except CommitStalled as error:
                    self._on_fatal(error)
                    return None

    def _call_soon(self, call: Callable[..., Any], *args: Any) -> bool:
        """False if the loop has ended: then nobody is there to hear of it."""
        try:
            self._token.run_sync_soon(call, *args, idempotent=not args)
        except trio.RunFinishedError:
            return False
        return True

    # --- on the loop ---------------------------------------------------------------------------------------------

    def _report(self) -> None:
        while self._done and not (self._fenced or self._closing):
            on_done, result = self._done.popleft()
            self._submitted.popleft()
            self._reported += 1
            self._drainers.unpark_all()
            on_done(result)

    def _fail(self, error: BaseException) -> None:
        self._report()
        if self._fenced:
            return  # the peer is dead already, and that may be why the job failed
        self.fence()
        self._on_fatal(error)

    def fence(self) -> None:
        """See `Writer.fence`. Idempotent."""
        self._fenced = True
        self._engine.fence()
        self._submitted.clear()
        self._done.clear()
        self._kept = None
        self._jobs.put(None)
        self._drainers.unpark_all()

    async def drain(self) -> None:
        """See `Writer.drain`; returns at a `close` too. May be cancelled; the jobs go on."""
        target = self._reported + len(self._submitted)
        while self._reported < target and not (self._fenced or self._closing):
            await self._drainers.park()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """See `Writer.close`; `drain` first to lose nothing. Waits for the job in progress, at most `CLOSE_S` (a hung disk
        is left to its fate). No `on_done` is called any more; a failure of that job still is reported."""
        self._closing = True
        self._jobs.put(None)
        self._drainers.unpark_all()
        self._thread.join(timeout=CLOSE_S)
