"""The server side of a group: takes batches of requests off the network and answers from the replicated machine.

Reads wait for a read round and are made in the view; writes are proposed and answered when applied. `READ_SHARD` and
`STATUS` are right on any peer. Nothing here blocks or starts a task: a reply is made whenever its outcome is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raftlog.codec import CodecError, array
from raftlog.machine import Applied, NotLeader, NotTaken, Operation, Outcome, ReplicatedStateMachine, Unknown
from raftlog.net.base import Request
from raftlog.types import MAX_ENTRY_BYTES
from shardkv.commands import checked_int
from shardkv.kvmachine import VersionedMachine
from shardkv.methods import Method
from shardkv.replies import Code, bad_request, error
from store.failpoints import place

REPLY = place("reply", "the answer to a write is known, not sent")

LEADER_READS = frozenset((Method.GET, Method.GET_MANY, Method.SCAN))
ANYWHERE_READS = frozenset((Method.READ_SHARD, Method.STATUS))

_NUMBER_MAX = (1 << 64) - 1

Extra = Callable[[Request], None]


def operation_of(args: Any) -> Operation:
    """The operation in a WRITE's arguments. Raises `CodecError`."""
    client, seq, acked_below, as_of, command = array(args, 5)
    for number in (client, seq, acked_below, as_of):
        checked_int(number, 0, _NUMBER_MAX, "a number of a session")
    if type(command) is not bytes:
        raise CodecError(f"a command is bytes, not {command!r:.60}")
    if len(command) > MAX_ENTRY_BYTES - 256:
        raise CodecError(f"a command of {len(command)} bytes; at most {MAX_ENTRY_BYTES - 256}")
    return Operation(client, seq, acked_below, as_of, command)


class GroupServer:
    """Dispatches the requests of one peer. `address_of` gives a peer's address for hints; `extra` takes the methods that
    are not the data plane's (admin calls, the control plane)."""

    def __init__(
        self,
        group: ReplicatedStateMachine,
        machine: VersionedMachine,
        address_of: Callable[[int], str | None],
        extra: Extra | None = None,
    ) -> None:
        self.group = group
        self.machine = machine
        self.address_of = address_of
        self.extra = extra

    def on_requests(self, requests: Sequence[Request]) -> None:
        """One batch, in order. Synchronous; see `RequestSink`."""
        for request in requests:
            method = request.method
            if method == Method.WRITE:
                self._write(request)
            elif method in LEADER_READS:
                self._read(request)
            elif method in ANYWHERE_READS:
                request.reply(self.machine.read(self.group.view, method, request.args))
            elif self.extra is not None:
                self.extra(request)
            else:
                request.reply(error(Code.BAD_REQUEST, f"there is no method {method!r:.40} here"))

    def _read(self, request: Request) -> None:
        def answer(found: Any) -> None:
            match found:
                case NotLeader(leader):
                    request.reply(self.not_leader(leader))
                case Unknown():
                    request.reply(self.not_leader(None))  # nothing was read: ask anyone again
                case _:
                    request.reply(found)

        method, args = request.method, request.args
        self.group.when_readable(lambda view: self.machine.read(view, method, args), answer, early=method == Method.GET)

    def _write(self, request: Request) -> None:
        try:
            operation = operation_of(request.args)
        except CodecError as problem:
            request.reply(bad_request(problem))
            return

        def reply(outcome: Outcome) -> None:
            REPLY.reach()
            request.reply(self.encode(outcome))

        self.group.submit(operation, reply)

    def encode(self, outcome: Outcome) -> Any:
        """The reply's body for what became of a write."""
        match outcome:
            case Applied(reply=reply):
                return reply
            case NotLeader(leader):
                return self.not_leader(leader)
            case NotTaken(why="no space"):
                return error(Code.NO_SPACE)
            case NotTaken():
                return self.not_leader(None)  # surely without effect: try again
            case Unknown(why):
                return error(Code.MAYBE, why)

    def not_leader(self, leader: int | None) -> list[Any]:
        """The reply that sends a clerk on, with whom to ask if that is known."""
        return error(Code.NOT_LEADER, leader, None if leader is None else self.address_of(leader))
