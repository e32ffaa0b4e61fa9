"""How long a commit may take before its disk counts as hung: what every watcher of writers goes by."""

from __future__ import annotations

from store.engine import StoreError


class CommitStalled(StoreError):
    """A commit did not return in time: the disk hangs."""


class Patience:
    """How long one job has been going on, as far as somebody looked, each `look_s`: a pause of the process is no hang."""

    def __init__(self, limit_s: float, look_s: float) -> None:
        self._limit_s = limit_s
        self._look_s = look_s
        self._job: int | None = None
        self._waited_s = 0.0

    def look(self, job: int | None) -> None:
        """Which job is going on now, by a number of its own, None for none. Raises `CommitStalled`."""
        self._waited_s = self._waited_s + self._look_s if job is not None and job == self._job else 0.0
        self._job = job
        if self._waited_s >= self._limit_s:
            raise CommitStalled(f"a commit has not returned for {self._waited_s:g} s: the disk hangs")
