"""The simulated disk: what survives a crash, and a writer whose commits take virtual time.

A commit takes a drawn time; it happens at one instant inside it; then a drawn time passes before it is announced. A
crash before that instant leaves nothing, one after it leaves a durable commit that nobody was told of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import trio

from store.engine import Fenced, StoreError, WriteTxn
from store.failpoints import UNNAMED, Step
from store.memory_engine import MemoryEngine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DiskConditions:
    """How a disk is. Times in seconds, drawn uniformly; the constants of every published simulated figure."""

    commit_s: tuple[float, float] = (0.0003, 0.0012)
    """From the submission (or the end of the job before) to the instant of the commit."""
    announce_s: tuple[float, float] = (0.0001, 0.0005)
    """From that instant to `on_done`."""
    stall: float = 0.0
    """Share of commits that stall ..."""
    stall_s: tuple[float, float] = (0.05, 1.5)
    """... for this long."""
    error: float = 0.0
    """Share of commits that fail."""
    at_once: bool = False
    """What may be done on the loop's own thread (`submit_soon`) takes no time, unless it stalls."""


_Job = tuple[Callable[[WriteTxn], Any], Callable[[Any], Any], float, str]


class SimWriter:
    """See the protocol `Writer`. `later(delay_s, act)` is the world's scheduler; `hold(act)` is true while the peer is
    paused: commits go on, but it is told of them later."""

    def __init__(
        self,
        engine: MemoryEngine,
        later: Callable[[float, Callable[[], None]], None],
        rng: Random,
        on_fatal: Callable[[BaseException], Any],
        conditions: DiskConditions | None = None,
        *,
        hold: Callable[[Callable[[], None]], bool] = lambda act: False,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._later = later
        self._rng = rng
        self._on_fatal = on_fatal
        self._hold = hold
        self._on_commit = on_commit
        self.conditions = conditions or DiskConditions()
        self.trap: Callable[[str], None] | None = None
        """Called with the name of the step when a commit is durable and nobody knows of it yet."""
        self.commits = 0
        self._jobs: deque[_Job] = deque()
        self._kept: _Job | None = None
        self._result: Any = None
        self._running = False
        self._ends = 0.0
        self._fenced = False
        self._idle = trio.Event()
        self._idle.set()

    @property
    def engine(self) -> MemoryEngine:
        """The environment written to."""
        return self._engine

    @property
    def busy_since(self) -> float | None:
        """See `Writer.busy_since`."""
        return self._jobs[0][2] if self._jobs else None

    @property
    def finished(self) -> int:
        """See `Writer.finished`."""
        return self.commits

    def stuck(self) -> bool:
        """The commit that is running takes so long still that the disk counts as hung."""
        return self._running and self._ends - trio.current_time() > 0.5

    def submit(self, job: Callable[[WriteTxn], T], on_done: Callable[[T], Any], step: Step | None = None) -> None:
        """See `Writer.submit`."""
        if self._fenced:
            return
        if self._kept is not None:
            kept, self._kept = self._kept, None
            self._queue(kept)
        self._queue((job, on_done, trio.current_time(), (step or UNNAMED).name))

    def _queue(self, item: _Job) -> None:
        if self._idle.is_set():
            self._idle = trio.Event()
        self._jobs.append(item)
        if not self._running:
            self._begin()

    def submit_soon(self, job: Callable[[WriteTxn], T], on_done: Callable[[T], Any], step: Step | None = None) -> None:
        """See `Writer.submit_soon`."""
        conditions = self.conditions
        free = conditions.at_once and not self._jobs and not self._fenced
        if not free or (conditions.stall and self._rng.random() < conditions.stall):
            self.submit(job, on_done, step)
            return
        self._kept = (job, on_done, trio.current_time(), (step or UNNAMED).name)

    def settle(self) -> bool:
        """See `Writer.settle`. A trap may end the peer when the commit is durable and before it is told."""
        kept, self._kept = self._kept, None
        if kept is None or self._fenced or not self._carry_out(kept):
            return False
        on_done, result = kept[1], self._result
        if self._fenced:
            return False
        try:
            on_done(result)
        except StoreError as error:
            self._on_fatal(error)
        return True

    def _begin(self) -> None:
        self._running = True
        drawn = self._rng.uniform(*self.conditions.commit_s)
        if self.conditions.stall and self._rng.random() < self.conditions.stall:
            drawn += self._rng.uniform(*self.conditions.stall_s)
        self._ends = trio.current_time() + drawn
        self._later(drawn, self._commit)

    def _commit(self) -> None:
        if not self._fenced and self._carry_out(self._jobs[0]):
            result = self._result
            self._later(self._rng.uniform(*self.conditions.announce_s), lambda: self._announce(result))

    def _carry_out(self, item: _Job) -> bool:
        """One job, at this instant; what it gives is in `_result`. False if it failed, or the peer is dead."""
        job, _, _, step = item
        try:
            if self.conditions.error and self._rng.random() < self.conditions.error:
                raise StoreError("the simulated disk failed")
            txn = self._engine.prepare()
            self._result = job(txn)
            self._engine.commit(txn)
        except Fenced:
            return False
        except (StoreError, AssertionError) as error:
            self.fence()
            self._on_fatal(error)
            return False
        self.commits += 1
        self._on_commit()
        if self.trap is not None:
            self.trap(step)
        return True

    def _announce(self, result: Any) -> None:
        if self._fenced or self._hold(lambda: self._announce(result)):
            return
        _, on_done, _, _ = self._jobs.popleft()
        self._running = False
        if self._jobs:
            self._begin()
        else:
            self._idle.set()
        try:
            on_done(result)
        except StoreError as error:
            self._on_fatal(error)

    def fence(self) -> None:
        """See `Writer.fence`."""
        self._fenced = True
        self._engine.fence()
        self._kept = None
        self._jobs.clear()
        self._idle.set()

    async def drain(self) -> None:
        """See `Writer.drain`."""
        while self._jobs and not self._fenced:
            await self._idle.wait()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """See `Writer.close`."""
        self._fenced = True
