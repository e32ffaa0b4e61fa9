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

    def __init__(self, name: str, clerk: Clerk, shape: Shape, history: Recorder, rng: Random) -> None:
        self.name = name
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
            self.history.end(number, trio.current_time(), "no key")
            return True
        except Unavailable:
            self.history.end(number, trio.current_time(), "failed")
            return False
        self._seen[key] = version
        self.history.end(number, trio.current_time(), "ok", value=value, version=version)
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

    async def _write(self, number: int, key: bytes, call: Call, *, gone: bool = False) -> bool:
        end = self.history.end
        try:
            new = await call()
        except NoKey:
            self._seen[key] = 0
            end(number, trio.current_time(), "no key")
        except VersionMismatch as error:
            self._seen[key] = error.current
            end(number, trio.current_time(), "mismatch", version=error.current)
        except Maybe:
            end(number, trio.current_time(), "maybe")
            return False
        except (Unavailable, Refused):
            end(number, trio.current_time(), "failed")
            return False
        else:
            self._seen[key] = 0 if gone else new
            end(number, trio.current_time(), "ok", version=new)
        return True
