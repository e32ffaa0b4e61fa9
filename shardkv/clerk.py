"""The routing clerk: the client of the sharded service.

Default reads are linearizable. A write takes effect exactly once while its session lives. `scan` reads a page of a shard
at a time, each linearizable, merged into key order; no snapshot across shards or pages is claimed.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import trio

from raftlog.codec import CodecError
from shardkv.arguments import key_bytes, row_limit, value_bytes, version_number
from shardkv.client_session import ClientSession, ShardSession
from shardkv.commands import MAX_PAGE_BYTES, Delete, Put
from shardkv.errors import KvError, NoKey, Refused
from shardkv.group_clerk import ATTEMPT_S, longer
from shardkv.methods import Method
from shardkv.replies import OK_FIELDS, Code, Reply, decode_reply, hint_of, rows_of
from shardkv.router import Router, Search
from shardkv.writing import Write, outcome, within, written
from store.keys import prefix_stop

DEADLINE_S = 10.0
"""The default deadline of a call, in seconds."""
MANY = 64
"""How many calls of a get_many or put_many are on their way at once."""

_DEFAULT: Any = object()
K = TypeVar("K")


class Clerk:
    """Get, put, delete and scan, in any number of tasks at once. Made by `shardkv.connect`.

    Every call has a deadline in seconds, `None` = for ever, the clerk's own unless given. Keys are str (as UTF-8) or
    bytes of at most 400 bytes, values bytes of at most 1 MiB. More raises `Refused`, another type `TypeError`, both before
    anything is sent, in the calls with many keys too.
    """

    def __init__(
        self, router: Router, *, deadline_s: float | None = DEADLINE_S, sessions: bool = True, resend: bool = False
    ) -> None:
        self.router = router
        self.deadline_s = deadline_s
        self._session = ClientSession(router.rng) if sessions else None
        self._resend = resend

    @property
    def requests_sent(self) -> int:
        """How many requests this clerk has handed to the network."""
        return self.router.rpc.requests_sent

    def _deadline(self, given: Any) -> float | None:
        return self.deadline_s if given is _DEFAULT else given

    # --- one key -------------------------------------------------------------------------------------------------

    async def get(self, key: str | bytes, *, deadline_s: float | None = _DEFAULT) -> tuple[bytes, int]:
        """(value, version). Raises `NoKey`, `Unavailable` at the deadline."""
        raw = key_bytes(key)
        reply = await self._read(Method.GET, [raw], raw, deadline_s)
        if reply.code is Code.NO_KEY:
            raise NoKey(f"no such key: {key!r}")
        outcome(reply, open_before=False)
        return reply.fields[0], reply.fields[1]

    async def put(
        self, key: str | bytes, value: bytes, version: int | None = None, *, deadline_s: float | None = _DEFAULT
    ) -> int:
        """Store; the new version. `version` None: whatever the key has; 0: it must be missing. Raises `NoKey` (a version
        above 0 for a missing key), `VersionMismatch`, `Maybe` (unknown outcome), `Unavailable` (without effect)."""
        new: int = await self._write(Put(key_bytes(key), value_bytes(value), version_number(version)), deadline_s)
        return new

    async def delete(self, key: str | bytes, version: int | None = None, *, deadline_s: float | None = _DEFAULT) -> int:
        """Remove; the version that was deleted. After it the key is as if never written. Raises as `put`."""
        old: int = await self._write(Delete(key_bytes(key), version_number(version)), deadline_s)
        return old

    async def _read(self, method: Method, args: list[Any], of: bytes | int, deadline_s: Any) -> Reply:
        """The reply of whoever serves the shard, or the shard of the key."""
        limit = self._deadline(deadline_s)
        search = Search(self.router, of)

        async def tries() -> Reply:
            shard = await search.start()
            attempt_s = ATTEMPT_S
            while True:
                group = await search.group()
                attempt = await group.attempt(method, args, attempt_s)
                attempt_s = longer(attempt_s, attempt)
                if attempt.reply is None:
                    await search.silent(group)
                    continue
                reply = _decoded(attempt.reply, OK_FIELDS[method])
                if reply.code is not Code.WRONG_GROUP:
                    self.router.served(shard, group)
                    return reply
                await search.refused(hint_of(reply))

        found: Reply = await within(limit, tries, lambda: search.late(limit))
        return found

    async def _write(self, command: Put | Delete, deadline_s: Any) -> Any:
        search = Search(self.router, command.key)

        async def session() -> ShardSession | None:
            shard = await search.start()
            return self._session.of(shard) if self._session is not None else None

        async def tries(write: Write) -> Any:
            while True:
                group = await search.group()
                reply = await write.attempt(group)
                if reply is None:
                    await search.silent(group)
                elif reply.code is Code.WRONG_GROUP:
                    await search.refused(hint_of(reply))
                else:
                    self.router.served(search.shard, group)
                    return write.finish(reply)

        limit = self._deadline(deadline_s)
        return await written(command, limit, resend=self._resend, session=session, tries=tries, why=lambda: search.why)

    # --- many keys -----------------------------------------------------------------------------------------------

    async def get_many(
        self, keys: Iterable[str | bytes], *, deadline_s: float | None = _DEFAULT
    ) -> dict[str | bytes, tuple[bytes, int] | KvError]:
        """Per key (value, version), or the `KvError` that a get of it would raise. Atomic per key only."""

        async def one(key: str | bytes) -> tuple[bytes, int]:
            return await self.get(key, deadline_s=deadline_s)

        wanted = list(keys)
        for key in wanted:
            key_bytes(key)
        return await each(wanted, one)

    async def put_many(
        self, values: Mapping[str | bytes, bytes], *, deadline_s: float | None = _DEFAULT
    ) -> dict[str | bytes, int | KvError]:
        """Unconditional puts. Per key the new version, or the `KvError` that a put of it would raise."""

        async def one(key: str | bytes) -> int:
            return await self.put(key, values[key], deadline_s=deadline_s)

        for key, value in values.items():
            key_bytes(key)
            value_bytes(value)
        return await each(list(values), one)

    def scan(
        self,
        *,
        prefix: str | bytes | None = None,
        start: str | bytes = b"",
        stop: str | bytes | None = None,
        limit: int | None = None,
        deadline_s: float | None = _DEFAULT,
    ) -> Scan:
        """`async for key, value, version in kv.scan(prefix="a")`, in key order: all keys, those with `prefix`, or those with
        start <= key < stop; `limit` of them at most. The deadline is that of each page. `TypeError` for a prefix with a
        start or a stop."""
        most = row_limit(limit)
        if prefix is None:
            low, high = key_bytes(start), None if stop is None else key_bytes(stop)
        elif start or stop is not None:
            raise TypeError("a scan takes a prefix, or a start and a stop, not both")
        else:
            low = key_bytes(prefix)
            high = prefix_stop(low)
        return Scan(self, low, high, most, deadline_s)

    async def page(
        self, shard: int, start: bytes, stop: bytes | None, limit: int, deadline_s: Any
    ) -> tuple[list[tuple[bytes, bytes, int]], bool]:
        """One linearizable page of one shard: its rows, and whether more follow."""
        args = [shard, start, stop, limit, MAX_PAGE_BYTES]
        reply = await self._read(Method.SCAN, args, shard, deadline_s)
        outcome(reply, open_before=False)
        return list(rows_of(reply)), bool(reply.fields[1])


class Scan:
    """The rows of a range, in key order, a page per shard at a time. Holds nothing open between steps."""

    def __init__(self, clerk: Clerk, start: bytes, stop: bytes | None, limit: int | None, deadline_s: Any) -> None:
        self._clerk = clerk
        self._start = start
        self._stop = stop
        self._left = limit
        self._deadline = deadline_s
        self._heap: list[tuple[bytes, int]] | None = None
        self._pages: dict[int, list[tuple[bytes, bytes, int]]] = {}
        self._more: dict[int, bytes] = {}

    def __aiter__(self) -> Scan:
        return self

    async def _fill(self, shard: int, start: bytes) -> None:
        limit = min(self._left or 1000, 1000)
        rows, more = await self._clerk.page(shard, start, self._stop, limit, self._deadline)
        self._more.pop(shard, None)
        if rows:
            self._pages[shard] = rows[::-1]
            if more:
                self._more[shard] = rows[-1][0] + b"\0"
            assert self._heap is not None
            heapq.heappush(self._heap, (rows[0][0], shard))

    async def __anext__(self) -> tuple[bytes, bytes, int]:
        if self._left is not None and self._left <= 0:
            raise StopAsyncIteration
        if self._heap is None:
            self._heap = []
            shards = list(range(len((await self._clerk.router.config()).shards)))
            filled = await each(shards, lambda shard: self._fill(shard, self._start))
            for failed in filled.values():
                if isinstance(failed, KvError):
                    raise failed
        if not self._heap:
            raise StopAsyncIteration
        _, shard = heapq.heappop(self._heap)
        row = self._pages[shard].pop()
        if self._left is not None:
            self._left -= 1
        if self._pages[shard]:
            heapq.heappush(self._heap, (self._pages[shard][-1][0], shard))
        elif shard in self._more and self._left != 0:
            await self._fill(shard, self._more[shard])
        return row


def _decoded(body: list[Any], fields: int) -> Reply:
    try:
        return decode_reply(body, fields)
    except CodecError as error:
        raise Refused(f"the server speaks another format: {error}") from error


async def each(keys: list[K], call: Callable[[K], Awaitable[Any]]) -> dict[K, Any]:
    """`call` for every key, `MANY` at a time; the result or the error per key, in the order of the keys."""
    found: dict[K, Any] = dict.fromkeys(keys)
    room = trio.CapacityLimiter(MANY)

    async def one(key: K) -> None:
        async with room:
            try:
                found[key] = await call(key)
            except KvError as error:
                found[key] = error

    async with trio.open_nursery() as nursery:
        for key in found:
            nursery.start_soon(one, key)
    return found
