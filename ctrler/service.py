"""The controller as a service of the peers of group 0: whoever leads answers, and runs the controller's loop.

A new leader first finishes what its predecessor left. Changes are carried out one after another; a leader that is
deposed in the middle drops its work (its successor goes on from the store) and answers MAYBE to who waits, which means
"ask again": the request id makes that safe.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from ctrler.api import (
    CHANGES,
    Control,
    check_change,
    checked_gid,
    checked_gids,
    checked_groups,
    checked_names,
)
from ctrler.configstore import LocalStore
from ctrler.controller import Controller, GroupOf
from ctrler.moves import Stuck
from ctrler.records import CURRENT, NEXT, addresses_key, unpack_addresses, unpack_change, unpack_config
from raftlog.codec import CodecError, array
from raftlog.machine import NotLeader, ReplicatedStateMachine, Unknown
from raftlog.net.base import Request
from shardkv.commands import MAX_PAGE_BYTES, checked_int
from shardkv.config import ShardConfig
from shardkv.errors import KvError, NoKey, Refused
from shardkv.kvmachine import VersionedMachine
from shardkv.methods import Method
from shardkv.replies import Code, bad_request, decode_reply, error
from shardkv.routing import Routing, encode_routing
from store.engine import ReadTxn

CLEAN_S = 2.0
"""How often deletes that were left over are tried again."""
QUEUE_MAX = 256
"""The most changes that wait."""


def read_routing(machine: VersionedMachine, view: ReadTxn, shards: int) -> Routing:
    """The routing as one view of the config store has it."""

    def record(key: str) -> bytes | None:
        reply = decode_reply(machine.read(view, Method.GET, [key.encode()]), 2)
        return bytes(reply.fields[0]) if reply.code is Code.OK else None

    value = record(CURRENT)
    current = ShardConfig.initial(shards) if value is None else unpack_config(value)
    posted = record(NEXT)
    change = None if posted is None else unpack_change(posted)
    following = change.config if change is not None and change.config.num > current.num else None
    addresses = {}
    for gid in sorted(set(current.groups) | (set(following.groups) if following is not None else set())):
        found = record(addresses_key(gid))
        addresses[gid] = () if found is None else tuple(unpack_addresses(found).values())
    return Routing(current, following, addresses)


class ControllerService:
    """One controller peer's. Made over the peer's own group; see `shardkv.host.Service`."""

    def __init__(
        self,
        group: ReplicatedStateMachine,
        machine: VersionedMachine,
        group_of: GroupOf,
        not_leader: Callable[[int | None], list[Any]],
        *,
        nonce: bytes,
        shards: int,
        wall_ms: Callable[[], int],
        page_bytes: int = MAX_PAGE_BYTES,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        self.group = group
        self.machine = machine
        self.shards = shards
        store = LocalStore(group, machine)
        self.controller = Controller(
            store, group_of, nonce=nonce, shards=shards, wall_ms=wall_ms, page_bytes=page_bytes
        )
        self._not_leader = not_leader
        self._on_event = on_event
        self._queue: list[list[Request]] = []  # per change: whoever asked for it, once or again
        self._running: list[Request] | None = None
        self._wake = trio.Event()
        self._tasks: trio.Nursery | None = None

    # --- requests ------------------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> bool:
        """Take a request of the control plane; False if it is none."""
        method = request.method
        if method == Control.QUERY and request.args == [None]:
            self._query(request)
        elif method in CHANGES:
            self._enqueue(request)
        elif method in tuple(Control):
            if self._tasks is None or not self.group.is_leader():
                request.reply(self._not_leader(self.group.leader()))
            else:
                self._tasks.start_soon(self._serve, request)
        else:
            return False
        return True

    def _query(self, request: Request) -> None:
        def answer(found: Any) -> None:
            if isinstance(found, NotLeader):
                request.reply(self._not_leader(found.leader))
            elif isinstance(found, Unknown):
                request.reply(self._not_leader(None))
            else:
                request.reply([int(Code.OK), *encode_routing(found)])

        self.group.when_readable(lambda view: read_routing(self.machine, view, self.shards), answer)

    def _enqueue(self, request: Request) -> None:
        try:
            check_change(request.method, request.args)
        except CodecError as problem:
            request.reply(bad_request(problem))
            return
        if not self.group.is_leader():
            request.reply(self._not_leader(self.group.leader()))
        elif len(self._queue) >= QUEUE_MAX:
            request.reply(error(Code.REFUSED, "too many changes wait"))
        elif (waiting := self._same(request)) is not None:
            waiting.append(request)
        else:
            self._queue.append([request])
            self._wake.set()

    def _same(self, request: Request) -> list[Request] | None:
        """Who waits for the same change already: the request was sent again."""
        for waiting in ([self._running] if self._running is not None else []) + self._queue:
            if request.args[0] and waiting[0].args == request.args and waiting[0].method == request.method:
                return waiting
        return None

    async def _serve(self, request: Request) -> None:
        """A read or a report: at once, beside a running change."""
        request.reply(await self._guarded(partial(self._answer, request)))

    async def _answer(self, request: Request) -> list[Any]:
        args = request.args
        match request.method:
            case Control.QUERY:
                (num,) = array(args, 1)
                routing = await self.controller.query(checked_int(num, 0, 1 << 48, "a configuration"))
                return [int(Code.OK), *encode_routing(routing)]
            case Control.STATUS:
                array(args, 0)
                return [int(Code.OK), await self._status()]
            case Control.HISTORY:
                first, last = array(args, 2)
                pasts = await self.controller.history(
                    checked_int(first, 0, 1 << 48, "a configuration"),
                    None if last is None else checked_int(last, 0, 1 << 48, "a configuration"),
                )
                rows = [[p.config.num, p.config.to_json(), p.request, p.time_ms, p.end_ms] for p in pasts]
                return [int(Code.OK), rows]
            case _:
                gid, names = array(args, 2)
                await self.controller.report(checked_gid(gid), checked_names(names))
                return [int(Code.OK)]

    async def _status(self) -> dict[str, Any]:
        status = await self.controller.status()
        now = trio.current_time()
        steps = [[s.shard, s.step, s.gid, round(now - s.since, 3)] for s in status.steps]
        return {
            "current": status.current,
            "next": status.next,
            "cleaned": status.cleaned,
            "trouble": status.trouble,
            "steps": steps,
        }

    async def _guarded(self, work: Callable[[], Any]) -> list[Any]:
        """The reply of `work`, or the one for how it failed."""
        found: list[list[Any]] = []
        try:
            found.append(await work())
        except* CodecError as problems:
            found.append(bad_request(_first(problems, CodecError)))
        except* Refused as refusals:
            found.append(error(Code.REFUSED, str(_first(refusals, Refused))))
        except* NoKey:
            found.append(error(Code.NO_KEY))
        except* (KvError, Stuck) as others:
            found.append(error(Code.MAYBE, str(_first(others, Exception))))
        return found[0]

    # --- the loop ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For as long as the peer lives: lead when the peer leads."""
        while True:
            if not self.group.is_leader():
                self._drop_queue()
                await self.group.role_change()
                continue
            async with trio.open_nursery() as nursery:
                self._tasks = nursery
                nursery.start_soon(self._lead)
                while self.group.is_leader():
                    await self.group.role_change()
                nursery.cancel_scope.cancel()
            self._tasks = None

    def _drop_queue(self) -> None:
        queue, self._queue = self._queue, []
        for waiting in queue:
            for request in waiting:
                request.reply(self._not_leader(self.group.leader()))

    async def _lead(self) -> None:
        """Finish what is unfinished, then carry out the queue, one change at a time; clean up when there is nothing."""
        await self._finish_predecessor()
        while True:
            self._wake = trio.Event()
            if not self._queue:
                with trio.move_on_after(CLEAN_S):
                    await self._wake.wait()
            if self._queue:
                await self._change(self._queue.pop(0))
            else:
                await self._guarded(self._clean)

    async def _finish_predecessor(self) -> None:
        while (reply := await self._guarded(self._init))[0] != Code.OK:
            self._on_event({"event": "trouble", "text": f"controller: {reply[-1]}"})
            await trio.sleep(CLEAN_S / 4)

    async def _init(self) -> list[Any]:
        await self.controller.init_controller()
        return [int(Code.OK)]

    async def _clean(self) -> list[Any]:
        await self.controller.init_controller()
        await self.controller.clean()
        return [int(Code.OK)]

    async def _change(self, waiting: list[Request]) -> None:
        """One change. Whatever ends it early, those who asked are told to ask again."""
        reply = error(Code.MAYBE, "the controller changed in the middle; ask again")
        self._running = waiting
        try:
            reply = await self._guarded(partial(self._carry_out, waiting[0]))
        finally:
            self._running = None
            for request in waiting:
                request.reply(reply)

    async def _carry_out(self, request: Request) -> list[Any]:
        args = request.args
        match request.method:
            case Control.INIT:
                num = await self.controller.init_config(checked_groups(args[1]), args[0])
            case Control.JOIN:
                num = await self.controller.join(checked_groups(args[1]), args[0])
            case Control.LEAVE:
                num = await self.controller.leave(checked_gids(args[1]), args[0])
            case _:
                num = await self.controller.move(args[1], args[2], args[0])
        self._on_event({"event": "config", "num": num})
        return [int(Code.OK), num]


def _first(group: BaseExceptionGroup[Any], kind: type[Any]) -> Any:
    """The first error of a group of groups."""
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            return _first(inner, kind)
        if isinstance(inner, kind):
            return inner
    return group
