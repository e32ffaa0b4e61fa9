"""The built-in workload: the key/value service, judged by the linearizability checker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TextIO

import trio

import shardkv
from shardkv.clerk import Clerk
from shardkv.errors import Maybe, NoKey, Refused, Unavailable, VersionMismatch
from tools.chaos.load import Client
from tools.checker.history import Op, Recorder, to_line
from tools.checker.linearizability import Verdict, check

Connect = Callable[..., AbstractAsyncContextManager[Clerk]]

FINAL_S = 30.0
"""How long each key may take to be read when all is well again."""
SHOWN = 20
"""So many keys that are wrong are named."""


@dataclass(frozen=True)
class KvShape:
    """How the clients behave. Times in seconds."""

    keys: int = 16
    """Keys in use at a time."""
    generation_s: float = 20.0
    """After this all clients go over to new keys: what was written to the old ones must stay."""
    think_s: float = 0.02
    deadline_s: float = 10.0


@dataclass(frozen=True)
class _Asked:
    """One operation. `call` gives the value found, None for a write, and the version."""

    op: str
    key: bytes
    call: Callable[[], Awaitable[tuple[bytes | None, int]]]
    value: bytes | None = None
    version: int | None = None


class KvWorkload:
    """Gets, puts and deletes with sessions, each value unique, some by version. The final read of every key is part of the
    history that is judged. `file` gets each operation as it ends. `verdict` is there after `judge`."""

    def __init__(
        self, shape: KvShape | None = None, file: TextIO | None = None, connect: Connect = shardkv.connect
    ) -> None:
        self.shape = shape or KvShape()
        self.verdict: Verdict | None = None
        self._file = file
        self._connect = connect
        self._recorder = Recorder()
        self._values = 0

    def history(self) -> Sequence[Op]:
        """See `Workload`."""
        return self._recorder.ops

    async def work(self, client: Client) -> None:
        """See `Workload`."""
        shape = self.shape
        seen: dict[bytes, int] = {}
        async with self._connect(client.addresses, routes=client.routes, deadline_s=shape.deadline_s) as clerk:
            while True:
                await trio.sleep(client.rng.expovariate(1 / shape.think_s))
                generation = int(client.meter.now() / shape.generation_s)
                key = b"g%d-k%d" % (generation, client.rng.randrange(shape.keys))
                await self._operate(client, self._drawn(client, clerk, key, seen), seen)

    def _drawn(self, client: Client, clerk: Clerk, key: bytes, seen: dict[bytes, int]) -> _Asked:
        what = client.rng.random()
        version = None if client.rng.random() < 0.5 else seen.get(key, 0)
        if what < 0.3:
            return _read(clerk, key)
        if what < 0.92:
            self._values += 1
            value = b"%s:%d" % (client.name.encode(), self._values)
            return _Asked("put", key, lambda: _written(clerk.put(key, value, version)), value, version)
        return _Asked("delete", key, lambda: _written(clerk.delete(key, version)), None, version)

    async def _operate(self, client: Client, asked: _Asked, seen: dict[bytes, int]) -> str:
        """Do it and record it; how it came out, in the words of the history."""
        begun = client.meter.begin(client.name)
        number = self._recorder.begin(client.name, asked.op, asked.key, begun, value=asked.value, version=asked.version)
        result, found, version = "failed", None, None
        try:
            found, version = await asked.call()
            result = "ok"
            seen[asked.key] = 0 if asked.op == "delete" else version
        except NoKey:
            result = "no key"
            seen[asked.key] = 0
        except VersionMismatch as error:
            result, version = "mismatch", error.current
            seen[asked.key] = error.current
        except Maybe:
            result = "maybe"
        except (Unavailable, Refused):
            pass
        answered = result not in ("maybe", "failed")
        now = client.meter.end(client.name, write=asked.op != "get" and result == "ok", answered=answered)
        self._recorder.end(number, now, result, value=found, version=version)
        if self._file is not None:
            print(to_line(self._recorder[number]), file=self._file)
        return result

    async def judge(self, client: Client) -> list[str]:
        """See `Workload`: read every key, then ask the checker. A history that it cannot decide is no pass."""
        self._write_open()
        wrong: list[str] = []
        async with self._connect(client.addresses, routes=client.routes, deadline_s=FINAL_S) as clerk:
            for key in sorted({op.key for op in self._recorder.ops}):
                if await self._operate(client, _read(clerk, key), {}) not in ("ok", "no key"):
                    wrong.append(f"key {key.decode()} cannot be read at the end")
        self.verdict = await trio.to_thread.run_sync(check, self._recorder.ops)
        wrong += [f"key {key.key.decode()} is {key.verdict}" for key in self.verdict.failed[:SHOWN]]
        if wrong:
            wrong.insert(0, f"the history is {self.verdict}")
        return wrong

    def _write_open(self) -> None:
        """Into the file what was under way when the clients were ended."""
        if self._file is not None:
            for op in self._recorder.ops:
                if op.end == float("inf"):
                    print(to_line(op), file=self._file)


def _read(clerk: Clerk, key: bytes) -> _Asked:
    return _Asked("get", key, lambda: _found(clerk.get(key)))


async def _found(call: Awaitable[tuple[bytes, int]]) -> tuple[bytes | None, int]:
    return await call


async def _written(call: Awaitable[int]) -> tuple[bytes | None, int]:
    return None, await call
