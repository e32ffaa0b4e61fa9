"""Clusters of real processes for tests; see the fixture `shardkv_cluster`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

import shardkv
from tools.cluster import END_S, LocalCluster
from tools.layout import Layout
from tools.processes import ProcessError

T = TypeVar("T")


class ProcessCluster(LocalCluster):
    """A `LocalCluster` that is up inside a `with` or `async with` block, and leaves no process behind.

    Peers are named "server-GID-PEER", group 0 are the controllers. `kill`, `stop`, `start`, `pause`, `resume` and `leader`
    are for one peer or group, `up(cluster.layout)` starts every peer that is down; most of them are async, and in a `def`
    test they are called by `run`.
    """

    def __init__(self, folder: Path, **layout: Any) -> None:
        """`layout` are fields of `Layout`: ctrl_peers, groups, replicas, shards, store, join."""
        super().__init__(folder)
        self.layout = Layout(**layout)

    @property
    def controllers(self) -> list[str]:
        """The addresses that clients begin with."""
        return list(self.addresses(0).values())

    def clerk(self, **options: Any) -> AbstractAsyncContextManager[shardkv.Clerk]:
        """A client of the cluster, as `async with cluster.clerk() as kv`. The options are those of `shardkv.connect`."""
        return shardkv.connect(self.controllers, **options)

    def run(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """`await work(*args)` from a `def` test."""
        return trio.run(work, *args)

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end_all()

    def __enter__(self) -> Self:
        if trio.lowlevel.in_trio_run():
            raise RuntimeError("in an async test, say `async with` for a cluster")
        trio.run(self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """`kill -9` for every process that it started. May be repeated."""
        trio.run(self._end_all)

    async def _begin(self) -> None:
        try:
            await self.up(self.layout)
        except BaseException:  # tidy: whatever it was, the processes that were started end, and it goes on its way
            await self._end_all()
            raise

    async def _end_all(self) -> None:
        with trio.CancelScope(shield=True):
            await self.kill_all()
        left = [name for name, process in self.processes.items() if process.is_running()]
        if left:
            raise ProcessError(f"still there {END_S:.0f} s after kill -9: {', '.join(sorted(left))}")
