"""Talking to one group: find its leader, follow its hints, try again under a deadline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import trio

from raftlog.codec import CodecError, array, loads
from raftlog.net.base import CallFailed, RpcClient
from shardkv.errors import Unavailable
from shardkv.methods import Method
from shardkv.replies import Code

ATTEMPT_S = 1.0
"""How long the first try at a server may take."""
ATTEMPT_MAX_S = 8.0
"""Each try that ends without an answer in its time doubles the time of the next, up to this: whoever repeats what a slow
group has in its log already, faster than it can commit, keeps it slow for ever."""
BACKOFF_S = (0.01, 0.2)
"""The first and the longest pause after a round of all servers in which none answered as leader."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try gave. `reply` None: no answer, or "not leader". `open`: the request may have taken effect, or may
    yet. `slow`: its time was used up."""

    reply: list[Any] | None
    open: bool
    why: str
    slow: bool = False


def longer(attempt_s: float, attempt: Attempt) -> float:
    """How long the try after this one may take."""
    return min(2 * attempt_s, ATTEMPT_MAX_S) if attempt.slow else attempt_s


def decoded(body: Any) -> list[Any]:
    """The array that a reply's body is (WRITE's comes as the bytes from the log). Raises `CodecError`."""
    return array(loads(body) if type(body) is bytes else body)


class GroupClerk:
    """Calls one group. Any number of calls at once; one task's cancellation ends only its own call."""

    def __init__(self, rpc: RpcClient, gid: int, addresses: Sequence[str], *, rng: Random) -> None:
        if not addresses:
            raise ValueError(f"group {gid} has no addresses")
        self.rpc = rpc
        self.gid = gid
        self.addresses = tuple(addresses)
        self._rng = rng
        self._guess = addresses[0]
        self.why = "no try yet"
        """Why the latest try gave no answer."""

    async def attempt(self, method: int, args: list[Any], timeout_s: float = ATTEMPT_S) -> Attempt:
        """One try at the server that is thought to lead. Moves the guess on if it does not."""
        made = await self._attempt(method, args, timeout_s)
        if made.reply is None:
            self.why = made.why
        return made

    async def _attempt(self, method: int, args: list[Any], timeout_s: float) -> Attempt:
        server = self._guess
        began = trio.current_time()
        try:
            reply = decoded(await self.rpc.call(server, method, args, timeout_s=timeout_s))
        except CallFailed as failed:
            self._next_after(server)
            return Attempt(None, failed.sent, str(failed), slow=trio.current_time() - began >= timeout_s)
        except CodecError as error:
            self._next_after(server)
            return Attempt(None, True, f"{server} speaks another format: {error}")
        if reply[:1] == [Code.NOT_LEADER]:
            hint = reply[2] if len(reply) > 2 else None
            if isinstance(hint, str) and hint != server:
                self._guess = hint
                if hint not in self.addresses:
                    self.addresses = (*self.addresses, hint)
            else:
                self._next_after(server)
            return Attempt(None, False, f"{server} does not lead group {self.gid}")
        if reply[:1] == [Code.MAYBE]:
            self._next_after(server)
            return Attempt(None, True, f"{server}: {reply[1] if len(reply) > 1 else 'unknown outcome'}")
        if reply[:1] == [Code.NOT_YET]:
            self._next_after(server)  # a peer that lags behind, perhaps for long: it may be cut off from the others
        return Attempt(reply, False, "")

    def _next_after(self, server: str) -> None:
        if self._guess == server:
            at = self.addresses.index(server) if server in self.addresses else -1
            self._guess = self.addresses[(at + 1) % len(self.addresses)]

    def pause(self, failures: int) -> float:
        """How long to wait after so many tries in a row without an answer: nothing within a round, then more."""
        rounds, within = divmod(failures, len(self.addresses))
        if within or not rounds:
            return 0.0
        low, high = BACKOFF_S
        grown: float = low * 2 ** min(rounds - 1, 10)
        return min(high, grown) * self._rng.uniform(0.5, 1.0)

    async def call(
        self, method: int, args: list[Any], *, deadline_s: float | None, attempt_s: float = ATTEMPT_S
    ) -> list[Any]:
        """The decoded reply array, of whoever leads. For calls that may be repeated only: an open try is repeated too.
        Raises `Unavailable` at the deadline; None waits for ever."""
        failures = 0
        with trio.move_on_after(float("inf") if deadline_s is None else deadline_s):
            while True:
                attempt = await self.attempt(method, args, attempt_s)
                if attempt.reply is not None:
                    return attempt.reply
                failures += 1
                attempt_s = longer(attempt_s, attempt)
                await trio.sleep(self.pause(failures))
        raise Unavailable(f"group {self.gid} did not answer in {deadline_s:g} s; last: {self.why}")

    async def command(self, command: bytes, *, deadline_s: float | None, attempt_s: float = ATTEMPT_S) -> list[Any]:
        """Commit a command that may be repeated (guarded by its number), without a session; its decoded reply."""
        return await self.call(Method.WRITE, [0, 0, 0, 0, command], deadline_s=deadline_s, attempt_s=attempt_s)
