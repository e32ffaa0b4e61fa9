"""Clients that read and write a few hot keys, each value unique, and record what they were told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import trio

from shardkv.clerk import Clerk
from shardkv.errors import Maybe, NoKey, Refused, Unavailable, VersionMismatch
from tools.checker.history import Recorder
from tools.swarm.shape import Shape

Call = Callable[[], Awaitable[int]]


def key_name(number: int) -> bytes:
    """The keys of a world."""
    return b"k%d" % number


class SwarmClient:
    """One client. It remembers the versions that it saw, so that its writes by version often match."""

    def __init__(
        self, name: str, clerk: Clerk, shape: Shape, history: Recorder, rng: Random, told: Callable[[str, str], None]
    ) -> None:
        self.name = name
        self._told = told
        self.clerk = clerk
        self.shape = shape
        self.history = history
        self.rng = rng
        self.ops = 0
        self._seen: dict[bytes, int] = {}

    async def run(self) -> None:
        """One operation after another, for ever."""
        while True:
            await trio.sleep(self.rng.expovariate(1 / self.shape.think_s))
            await self.once()

    async def once(self) -> None:
        """One operation, drawn."""
        self.ops += 1
        key = key_name(self.rng.randrange(self.shape.keys))
        what = self.rng.random()
        version = None if self.rng.random() < 0.5 else self._seen.get(key, 0)
        if what < 0.45:
            await self.get(key)
        elif what < 0.92 or not self.shape.deletes:
            await self.put(key, f"{self.name}:{self.ops}".encode(), version)
        else:
            await self.delete(key, version)

    async def get(self, key: bytes) -> bool:
        """Whether it was answered."""
        number = self.history.begin(self.name, "get", key, trio.current_time())
        try:
            value, version = await self.clerk.get(key, deadline_s=self.shape.deadline_s)
        except NoKey:
            self._seen[key] = 0
            self._end(number, "no key")
            return True
        except Unavailable:
            self._end(number, "failed")
            return False
        self._seen[key] = version
        self._end(number, "ok", value=value, version=version)
        return True

    async def put(self, key: bytes, value: bytes, version: int | None) -> bool:
        """Whether it was answered."""
        number = self.history.begin(self.name, "put", key, trio.current_time(), value=value, version=version)
        return await self._write(
            number, key, lambda: self.clerk.put(key, value, version, deadline_s=self.shape.deadline_s)
        )

    async def delete(self, key: bytes, version: int | None) -> bool:
        """Whether it was answered."""
        number = self.history.begin(self.name, "delete", key, trio.current_time(), version=version)
        deadline_s = self.shape.deadline_s
        return await self._write(number, key, lambda: self.clerk.delete(key, version, deadline_s=deadline_s), gone=True)

    def _end(self, number: int, result: str, *, value: bytes | None = None, version: int | None = None) -> None:
        self.history.end(number, trio.current_time(), result, value=value, version=version)
        self._told(self.name, str(self.history[number]))

    async def _write(self, number: int, key: bytes, call: Call, *, gone: bool = False) -> bool:
        try:
            new = await call()
        except NoKey:
            self._seen[key] = 0
            self._end(number, "no key")
        except VersionMismatch as error:
            self._seen[key] = error.current
            self._end(number, "mismatch", version=error.current)
        except Maybe:
            self._end(number, "maybe")
            return False
        except (Unavailable, Refused):
            self._end(number, "failed")
            return False
        else:
            self._seen[key] = 0 if gone else new
            self._end(number, "ok", version=new)
        return True
