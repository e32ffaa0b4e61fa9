"""Moving one shard: probe the destination, freeze the source, copy page by page, install; delete at the source later.
A shard that holds keys is not given to nobody: the change is given up then, and its shards stay where they were.

Every step is guarded by the number of the change and may be repeated, also by several controllers at once. Tries go on
for as long as it takes; between them the caller's `fenced` is asked whether somebody else has finished the change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import trio

from raftlog.codec import CodecError
from shardkv.commands import (
    MAX_PAGE_BYTES,
    DeleteShard,
    Freeze,
    Install,
    InstallChunk,
    Keep,
    Summary,
    checked_position,
    encode_command,
    summary_of_nobody,
    unpack_summary,
)
from shardkv.config import NOBODY
from shardkv.errors import KvError, Unavailable
from shardkv.group_clerk import ATTEMPT_S
from shardkv.methods import Method
from shardkv.replies import Code, Reply, decode_reply, ok_fields
from store.failpoints import call

T = TypeVar("T")

ASKED = {
    "probe": call("move.probe", "the target says where a shard's copy goes on"),
    "freeze": call("move.freeze", "the source stops to serve a shard"),
    "read": call("move.read", "a page of a shard from the source"),
    "copy": call("move.copy", "a page of a shard to the target"),
    "install": call("move.install", "the target serves a shard"),
    "keep": call("move.keep", "the source goes on serving what nobody was to have"),
}
DELETE = call("move.delete", "the source forgets a shard")

PATIENCE_S = 1.0
"""How long a group may be silent, at first, before we ask whether the change is still ours to make, and ask it again."""
PATIENCE_MAX_S = 8.0
"""How long in the end: it doubles each time, so that a slow group gets to the end of what it was asked."""

NOT_YET_S = 0.01
"""How long to wait before a page is asked for again, at another peer, that one which lags behind did not have."""

NO_SPACE_S = 0.2
"""How long to wait before a group that is short of space is asked again."""


class Fenced(Exception):
    """The change is no longer ours: it is finished, or a later one runs. Return and do nothing more."""


class Kept(Exception):
    """A shard that nobody was to have still holds keys. The text says which; the change is to be given up."""


class Stuck(Exception):
    """A group answered what it never may. The text names shard, step and group; the change stays as it is."""


class Group(Protocol):
    """The part of `shardkv.group_clerk.GroupClerk` that moves need."""

    gid: int
    addresses: tuple[str, ...]

    async def call(
        self, method: int, args: list[Any], *, deadline_s: float | None, attempt_s: float = ATTEMPT_S
    ) -> list[Any]:
        """See `GroupClerk.call`."""
        ...

    async def command(self, command: bytes, *, deadline_s: float | None, attempt_s: float = ATTEMPT_S) -> list[Any]:
        """See `GroupClerk.command`."""
        ...


class Move(NamedTuple):
    """One shard of a change: who gives it and who gets it; None is nobody."""

    shard: int
    source: Group | None
    target: Group | None


class Page(NamedTuple):
    """Entries of a shard, the position of the last one, and whether others follow."""

    entries: bytes
    last: bytes
    more: bool


def page_behind(position: bytes, fields: Sequence[Any]) -> Page:
    """What follows the summary in a reply to READ_SHARD. Raises `CodecError`."""
    page = Page(*fields)
    if [type(field) for field in page] != [bytes, bytes, bool] or (page.more and page.last <= position):
        raise CodecError(f"no page behind {position!r:.60}")
    return page


@dataclass(slots=True)
class Step:
    """What a shard's move waits for, since when (seconds of the controller's clock)."""

    shard: int
    step: str
    gid: int
    since: float


class Mover:
    """Moves the shards of one change, number `num`."""

    def __init__(
        self,
        num: int,
        fenced: Callable[[], Awaitable[bool]],
        told: Callable[[Step | None, int], None],
        now: Callable[[], float],
        page_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        self.num = num
        self._fenced = fenced
        self._told = told
        self._now = now
        self._page_bytes = page_bytes

    async def move(self, move: Move) -> None:
        """Until the target serves the shard. Raises `Fenced`, `Kept`, `Stuck`."""
        shard = move.shard
        try:
            if move.target is None:
                assert move.source is not None
                await self._freeze(move.source, shard, 0, ())
                return
            position = await self._probe(move.target, shard)
            if position is None:
                return
            if move.source is None:
                await self._install(move.target, shard, summary_of_nobody(self.num))
                return
            summary = await self._freeze(move.source, shard, move.target.gid, move.target.addresses)
            while (again := await self._copy(move.source, move.target, shard, position, summary)) is not None:
                position = again
        finally:
            self._told(None, shard)

    async def keep(self, move: Move) -> None:
        """What was to go to nobody stays with its source, and is served there. Raises `Fenced`, `Stuck`."""
        if move.target is not None or move.source is None:
            return
        try:
            reply = await self._command(move.source, "keep", Keep(move.shard, self.num))
            if reply.code is not Code.OK:
                raise self._stuck(move.source, move.shard, "keep", reply)
        finally:
            self._told(None, move.shard)

    async def delete(self, source: Group, shard: int, deadline_s: float) -> bool:
        """Delete what was moved away. False if the group did not answer in time."""
        DELETE.begin.reach()
        try:
            body = await source.command(encode_command(DeleteShard(shard, self.num)), deadline_s=deadline_s)
        except Unavailable:
            return False
        DELETE.done.reach()
        reply = decode_reply(body, 0)
        return reply.code in (Code.OK, Code.GONE, Code.STALE)

    # --- steps ---------------------------------------------------------------------------------------------------

    def _tell(self, group: Group, shard: int, step: str) -> None:
        """What the shard's move waits for from now on."""
        self._told(Step(shard, step, group.gid, self._now()), shard)

    async def _ask(
        self, group: Group, shard: int, step: str, ask: Callable[[float], Awaitable[list[Any]]], fields: int
    ) -> Reply:
        """One answer of the group, however long it takes; `ask` is told how many seconds to wait for it. Raises `Fenced` on a
        stale number."""
        began, patience_s = self._now(), PATIENCE_S
        asked = ASKED[step]
        asked.begin.reach()
        while True:
            try:
                body = await ask(patience_s)
            except Unavailable:
                patience_s = min(2 * patience_s, PATIENCE_MAX_S)
                if await self._fenced():
                    raise Fenced(f"change {self.num} was finished by somebody else") from None
                continue
            reply = self._read_as(lambda got: decode_reply(got, fields), body, group, shard, step)
            if reply.code is Code.STALE:
                raise Fenced(
                    f"group {group.gid} has seen change {reply.fields[0]} for shard {shard}, we make {self.num}"
                )
            if reply.code is Code.NO_SPACE:
                if await self._fenced():
                    raise Fenced(f"change {self.num} was finished by somebody else")
                self._told(Step(shard, f"{step}, no space", group.gid, began), shard)
                await trio.sleep(NO_SPACE_S)
                continue
            asked.done.reach()
            return reply

    async def _command(self, group: Group, step: str, command: Freeze | InstallChunk | Install | Keep) -> Reply:
        shard = command.shard
        data = encode_command(command)
        self._tell(group, shard, step)
        return await self._ask(
            group, shard, step, lambda s: group.command(data, deadline_s=s, attempt_s=s), ok_fields(command)
        )

    def _read_as(self, check: Callable[[Any], T], value: Any, group: Group, shard: int, step: str) -> T:
        """A field of an answer, as `check` gives it. Raises `Stuck`: the group speaks another format."""
        try:
            return check(value)
        except CodecError as error:
            raise Stuck(f"shard {shard}, {step}: group {group.gid} speaks another format: {error}") from error

    def _stuck(self, group: Group, shard: int, step: str, reply: Reply) -> Stuck:
        return Stuck(f"change {self.num}, shard {shard}, {step}: group {group.gid} answered {reply.why}")

    async def _probe(self, target: Group, shard: int) -> bytes | None:
        """Where the staging at the target goes on, None if it serves the shard already. A shard is frozen only after
        this answer, so a dead target takes no live shard out of service."""
        reply = await self._command(target, "probe", InstallChunk(shard, self.num, b"", b""))
        match reply.code:
            case Code.INSTALLED:
                return None
            case Code.OK | Code.RESUME:
                return self._read_as(checked_position, reply.fields[0], target, shard, "probe")
            case _:
                raise self._stuck(target, shard, "probe", reply)

    async def _freeze(self, source: Group, shard: int, gid: int, addresses: tuple[str, ...]) -> Summary:
        reply = await self._command(source, "freeze", Freeze(shard, self.num, gid, addresses))
        if reply.code is Code.REFUSED and gid == NOBODY:
            raise Kept(f"group {source.gid} keeps what it has: {reply.fields[0]}")
        if reply.code is Code.GONE:
            raise Fenced(f"shard {shard} was moved and deleted by somebody else")
        if reply.code is not Code.OK:
            raise self._stuck(source, shard, "freeze", reply)
        return self._read_as(unpack_summary, reply.fields[0], source, shard, "freeze")

    async def _copy(self, source: Group, target: Group, shard: int, position: bytes, summary: Summary) -> bytes | None:
        """Copy what follows `position` and install. None when installed, else the position to go on from."""
        if position < summary.last:
            reached = await self._hand_on(source, target, shard, position)
            if reached is None or reached < summary.last:
                return reached
        return await self._install(target, shard, summary)

    async def _hand_on(self, source: Group, target: Group, shard: int, position: bytes) -> bytes | None:
        """The pages behind `position` to the target, each while the next one is read. Where the staging goes on in the end,
        None if it serves the shard already."""
        pages, taken = trio.open_memory_channel[InstallChunk](0)
        reply: Reply | None = None
        problems: list[Exception] = []

        async def read() -> None:
            async with pages:
                after, more = position, True
                while more:
                    page = await self._read(source, shard, after)
                    await pages.send(InstallChunk(shard, self.num, after, page.entries))
                    after, more = page.last, page.more

        async def copy() -> None:
            nonlocal reply
            while True:
                self._tell(source, shard, "read")
                try:
                    chunk = await taken.receive()
                except trio.EndOfChannel:
                    return
                reply = await self._command(target, "copy", chunk)
                if reply.code not in (Code.OK, Code.RESUME, Code.INSTALLED):
                    raise self._stuck(target, shard, "copy", reply)
                if reply.code is not Code.OK:  # it goes on elsewhere, or not at all
                    nursery.cancel_scope.cancel()

        async def without_group(task: Callable[[], Awaitable[None]]) -> None:
            try:
                await task()
            except (KvError, Fenced, Stuck) as problem:
                problems.append(problem)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(without_group, read)
            nursery.start_soon(without_group, copy)
        if problems:
            raise problems[0]
        assert reply is not None, "no page was read"
        if reply.code is Code.INSTALLED:
            return None
        return self._read_as(checked_position, reply.fields[0], target, shard, "copy")

    async def _read(self, source: Group, shard: int, position: bytes) -> Page:
        """The page behind `position`. Tells nothing: it may be read ahead. Raises `Fenced`, `Stuck`."""
        args = [shard, self.num, position, self._page_bytes]

        async def ask(patience_s: float) -> list[Any]:
            return await source.call(Method.READ_SHARD, args, deadline_s=patience_s, attempt_s=patience_s)

        while True:
            reply = await self._ask(source, shard, "read", ask, 4)
            match reply.code:
                case Code.OK:
                    return self._read_as(partial(page_behind, position), reply.fields[1:], source, shard, "read")
                case Code.NOT_YET:  # it applies the freeze soon, or is cut off: another peer is asked next
                    await trio.sleep(NOT_YET_S)
                case Code.GONE:
                    raise Fenced(f"shard {shard} was moved and deleted by somebody else")
                case _:
                    raise self._stuck(source, shard, "read", reply)

    async def _install(self, target: Group, shard: int, summary: Summary) -> bytes | None:
        reply = await self._command(target, "install", Install(shard, self.num, summary))
        match reply.code:
            case Code.OK | Code.INSTALLED:
                return None
            case Code.RESUME:
                return self._read_as(checked_position, reply.fields[0], target, shard, "install")
            case Code.REFUSED:
                return await self._probe(target, shard)  # staged wrongly: it begins again, or is refused for good
            case _:
                raise self._stuck(target, shard, "install", reply)
