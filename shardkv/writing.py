"""One write under a session, from its first try to its outcome: shared by the clerks of one group and of all shards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from raftlog.codec import CodecError
from shardkv.client_session import ShardSession, Stamp
from shardkv.commands import Command, Delete, Put, encode_command
from shardkv.errors import KvError, Maybe, NoKey, Refused, Unavailable, VersionMismatch
from shardkv.group_clerk import ATTEMPT_S, Attempt, GroupClerk, longer
from shardkv.methods import Method
from shardkv.replies import Code, Reply, decode_reply, ok_fields

FULL_S = 0.005
"""The pause of a write before it looks again whether its session has room."""

PLAIN = Stamp(0, 0, 0, 0)
"""Without a session: what the labs' clerk does."""


def outcome(reply: Reply, *, open_before: bool) -> Any:
    """The first field of an OK reply, or the error that the reply is. `open_before`: an earlier try without a session
    may have taken effect, so a refusal by version is no proof."""
    match reply.code:
        case Code.OK:
            return reply.fields[0] if reply.fields else None
        case Code.NO_KEY:
            raise Maybe("an earlier try may have deleted the key") if open_before else NoKey("no such key")
        case Code.VERSION:
            if open_before:
                raise Maybe(f"the key has version {reply.fields[0]}; an earlier try may have written it")
            raise VersionMismatch(reply.fields[0])
        case Code.NO_SPACE:
            raise Unavailable("the disk is low on space: only deletes pass")
        case _:
            raise Refused(reply.why)


class Write:
    """A write in progress. Its tries go through whatever group is right at the moment. `resend`: without a session, one by
    version may be sent again after a lost reply."""

    def __init__(self, command: Command, session: ShardSession | None, resend: bool = False) -> None:
        self.command = command
        self.data = encode_command(command)
        self.session = session
        self.stamp = session.begin() if session is not None else PLAIN
        self.attempt_s = ATTEMPT_S
        self.open = False
        """A try may have taken effect, now or later."""
        by_version = not isinstance(command, Put | Delete) or command.version is not None
        self.repeatable = session is not None or (resend and by_version)

    async def attempt(self, group: GroupClerk) -> Reply | None:
        """One try; None if it must be repeated. Raises `Maybe` if it may have taken effect and must not be repeated: the
        session is gone, or there is none and the write could take effect twice: one of any version, or one by a version that
        a key which was deleted meanwhile has again."""
        before, self.open = self.open, True  # for as long as it is on its way: the deadline may cut it off
        attempt: Attempt = await group.attempt(Method.WRITE, [*self.stamp, self.data], self.attempt_s)
        self.attempt_s = longer(self.attempt_s, attempt)
        self.open = before or attempt.open
        if attempt.reply is None:
            if self.open and not self.repeatable:
                raise Maybe(f"it was sent once, without a session: {attempt.why}")
            return None
        try:
            reply = decode_reply(attempt.reply, ok_fields(self.command))
        except CodecError as error:
            raise Maybe(f"it was sent, and group {group.gid} answered in another format: {error}") from error
        if self.session is not None:
            self.session.seen(reply.tick)
        if reply.code is Code.SESSION_EXPIRED and self.session is not None:
            if self.open:
                raise Maybe("the session expired while the outcome of an earlier try was open")
            self.session.end(self.stamp)
            self.stamp = self.session.begin()
            return None
        return reply

    def finish(self, reply: Reply) -> Any:
        """The outcome; raises what the reply is, see `outcome`."""
        if self.open and reply.code in (Code.NO_SPACE, Code.REFUSED):
            raise Maybe(f"an earlier try may have taken effect; this one was refused: {reply.why}")
        return outcome(reply, open_before=self.open and self.session is None)

    def end(self) -> None:
        """No try follows."""
        if self.session is not None:
            self.session.end(self.stamp)

    def failed(self, why: str) -> KvError:
        """What to raise when the deadline passes."""
        return Maybe(why) if self.open else Unavailable(why)


async def within(deadline_s: float | None, work: Callable[[], Awaitable[Any]], late: Callable[[], KvError]) -> Any:
    """The result of `work`, or raise `late()` when it does not end within the deadline (None: for ever)."""
    with trio.move_on_after(float("inf") if deadline_s is None else deadline_s):
        return await work()
    raise late()


async def written(
    command: Command,
    deadline_s: float | None,
    *,
    resend: bool,
    session: Callable[[], Awaitable[ShardSession | None]],
    tries: Callable[[Write], Awaitable[Any]],
    why: Callable[[], str],
) -> Any:
    """One write, all of it within the deadline: finding its session, waiting for room there, and its tries. At the deadline
    raises `Unavailable` if it surely has no effect, else `Maybe`; `why` says what it waited for."""
    begun: list[Write] = []

    async def work() -> Any:
        found = await session()
        while found is not None and found.full:
            await trio.sleep(FULL_S)
        begun.append(Write(command, found, resend))
        return await tries(begun[0])

    def late() -> KvError:
        text = f"no answer in {deadline_s} s: {why()}"
        return begun[0].failed(text) if begun else Unavailable(text)

    try:
        return await within(deadline_s, work, late)
    finally:
        for write in begun:
            write.end()
