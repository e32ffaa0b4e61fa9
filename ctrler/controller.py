"""The controller: changes of configuration, carried out shard by shard (MIT 6.5840 lab 5, parts A to C).

A change: compare-and-set *next* (the versioned put decides between controllers) -> per shard, independently: probe,
freeze, copy, install -> create `config/<num>` and the request's record -> compare-and-set *current* -> deletes at the old
owners -> `cleaned`. After *next* is posted it only goes forward; whoever comes later derives from the store what is left
and finishes it. A change that finds keys in a shard that nobody is to have is given up, and that goes forward too: what it
was to give to nobody stays where it was (`ShardConfig.keeping`). Which of both it is, the creation of `config/<num>`
decides. Any number of controllers may run at once: the loser of a put, and one that was cut off and comes back, are fenced
by the numbers and return.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import trio

from ctrler.configstore import ConfigStore
from ctrler.moves import Fenced, Group, Kept, Move, Mover, Step, Stuck
from ctrler.records import (
    CLEANED,
    CURRENT,
    NEXT,
    Change,
    Outcome,
    Past,
    addresses_key,
    config_key,
    pack_addresses,
    pack_change,
    pack_config,
    pack_num,
    pack_outcome,
    pack_past,
    request_key,
    unpack_addresses,
    unpack_change,
    unpack_config,
    unpack_num,
    unpack_outcome,
    unpack_past,
)
from shardkv.commands import MAX_PAGE_BYTES
from shardkv.config import NSHARDS, ShardConfig
from shardkv.errors import Maybe, NoKey, Refused, Unavailable, VersionMismatch
from shardkv.methods import Method
from shardkv.replies import Code
from shardkv.routing import Routing
from store.failpoints import call

POST = call("config.next", "the next configuration is posted")
RECORD = call("config.record", "a configuration goes into the history")
RAISE = call("config.current", "a configuration comes into force")
CLEAN = call("config.cleaned", "what was moved away is deleted everywhere")

MOVES_AT_ONCE = 16
"""How many shards of a change move at the same time."""
DELETE_S = 1.0
"""How long a delete at an old owner is tried before it is left to a later cleaning."""

GroupOf = Callable[[int, tuple[str, ...]], Group]


class Status(NamedTuple):
    """The configuration in force, the one that a running change leads to, what its shards wait for, and what is wrong."""

    current: int
    next: int
    cleaned: int
    steps: tuple[Step, ...]
    trouble: str


def _outcome(asked: ShardConfig, decided: ShardConfig) -> Outcome:
    if decided == asked:
        return Outcome(decided.num)
    keep = sorted({had for gid, had in zip(asked.shards, decided.shards, strict=True) if gid != had})
    return Outcome(decided.num, f"change {decided.num} was given up: groups {keep} hold keys that nobody would have")


def _num_of(outcome: Outcome) -> int:
    if outcome.given_up:
        raise Refused(outcome.given_up)
    return outcome.num


def server_names(gid: int, count: int) -> tuple[str, ...]:
    """The names of a group's servers: identities, not addresses."""
    return tuple(f"server-{gid}-{i}" for i in range(count))


class Controller:
    """One controller over a config store. `group_of(gid, addresses)` gives a clerk of a group.

    `nonce` must be its own (random): it tells its posts from others'. `now` is its clock, for ages in `status`. A
    shard is copied in pages of about `page_bytes`.
    """

    def __init__(
        self,
        store: ConfigStore,
        group_of: GroupOf,
        *,
        nonce: bytes,
        shards: int = NSHARDS,
        now: Callable[[], float] = trio.current_time,
        wall_ms: Callable[[], int] = lambda: 0,
        page_bytes: int = MAX_PAGE_BYTES,
    ) -> None:
        self.store = store
        self.shards = shards
        self._group_of = group_of
        self._nonce = nonce
        self._now = now
        self._wall_ms = wall_ms
        self._page_bytes = page_bytes
        self._posts = 0
        self._steps: dict[int, Step] = {}
        self._trouble = ""

    # --- reading -------------------------------------------------------------------------------------------------

    async def _get(self, key: str) -> tuple[bytes | None, int]:
        try:
            return await self.store.get(key)
        except NoKey:
            return None, 0

    async def current(self) -> tuple[ShardConfig, int]:
        """The configuration in force and the version of its record. Number 0, without groups, before the first."""
        value, version = await self._get(CURRENT)
        return (ShardConfig.initial(self.shards) if value is None else unpack_config(value)), version

    async def _next(self) -> tuple[Change | None, int]:
        value, version = await self._get(NEXT)
        return (None if value is None else unpack_change(value)), version

    async def _cleaned(self) -> tuple[int, int]:
        value, version = await self._get(CLEANED)
        return (0 if value is None else unpack_num(value)), version

    async def past(self, num: int) -> Past:
        """A configuration of the history. Raises `NoKey`."""
        if num == 0:
            return Past(ShardConfig.initial(self.shards), b"", 0, 0)
        value, _ = await self.store.get(config_key(num))
        return unpack_past(value)

    async def history(self, first: int = 1, last: int | None = None) -> list[Past]:
        """The configurations first..last (the one in force if None) that are recorded, oldest first."""
        end = (await self.current())[0].num if last is None else last
        return [await self.past(num) for num in range(max(first, 1), end + 1)]

    async def addresses(self, gid: int) -> dict[str, str]:
        """Where a group's servers listen, by name."""
        value, _ = await self._get(addresses_key(gid))
        return {} if value is None else unpack_addresses(value)

    async def query(self, num: int | None = None) -> Routing:
        """The configuration in force, the next while a change runs, and the groups' addresses. With a number, that
        configuration. Raises `NoKey` for one that never was."""
        current, _ = await self.current()
        change, _ = await self._next()
        following = change.config if change is not None and change.config.num > current.num else None
        if num is not None:
            current, following = (await self.past(num)).config, None
        gids = set(current.groups) | (set(following.groups) if following is not None else set())
        return Routing(current, following, {g: tuple((await self.addresses(g)).values()) for g in sorted(gids)})

    async def status(self) -> Status:
        """What a running change waits for."""
        current, _ = await self.current()
        change, _ = await self._next()
        cleaned, _ = await self._cleaned()
        running = max(current.num, change.config.num if change is not None else 0)
        steps = tuple(self._steps[s] for s in sorted(self._steps))
        return Status(current.num, running, cleaned, steps, self._trouble)

    # --- changing ------------------------------------------------------------------------------------------------

    async def init_config(self, groups: Mapping[int, Sequence[str]], request: bytes = b"") -> int:
        """Make the first configuration: these groups (gid -> addresses) own all shards, installed empty. Its number, also
        if somebody was faster."""
        current, _ = await self.current()
        if current.num:
            return current.num
        return await self.join(groups, request, only_first=True)

    async def join(self, groups: Mapping[int, Sequence[str]], request: bytes = b"", *, only_first: bool = False) -> int:
        """Take groups in (gid -> addresses) and rebalance; the number of the configuration it made. Raises `Refused` for a
        group that is in already. With a request id a repeated call answers with the recorded outcome."""
        for gid, addresses in sorted(groups.items()):
            names = server_names(gid, len(addresses))
            await self.report(gid, dict(zip(names, addresses, strict=True)))
        named = {gid: server_names(gid, len(addresses)) for gid, addresses in groups.items()}

        def make(config: ShardConfig) -> ShardConfig | None:
            return None if only_first and config.num else config.join(named)

        return await self._change(make, request)

    async def leave(self, gids: Sequence[int], request: bytes = b"") -> int:
        """Let groups go and rebalance. Raises `Refused` for a stranger, and for the last group while it holds data; should
        a key be written between that look and the freeze, the change is given up: the group stays, and so does the key."""
        return await self._change(lambda config: config.leave(list(gids)), request)

    async def move(self, shard: int, gid: int, request: bytes = b"") -> int:
        """Give one shard to a group, whatever the balance. Raises `Refused`."""
        return await self._change(lambda config: config.move(shard, gid), request)

    async def _require_empty(self, config: ShardConfig) -> None:
        for gid in sorted(config.groups):
            reply = await (await self._group(gid)).call(Method.STATUS, [], deadline_s=DELETE_S)
            if reply[0] != Code.OK or any(row[4] for row in reply[1]):
                raise Refused(f"group {gid} is the last and holds data: it cannot leave")

    async def _change(self, make: Callable[[ShardConfig], ShardConfig | None], request: bytes) -> int:
        """Post what `make` gives for the configuration in force, and carry it out; again if another was faster."""
        while True:
            await self.init_controller()
            done = await self._outcome_of(request)
            if done is not None:
                return _num_of(done)
            current, _ = await self.current()
            try:
                new = make(current)
            except ValueError as error:
                raise Refused(str(error)) from error
            if new is None:
                return current.num
            if not new.groups:
                await self._require_empty(current)
            if await self._post(current, new, request):
                try:
                    decided = await self._finish(new.num)
                except Unavailable as error:
                    raise Maybe(f"change {new.num} is posted and will be finished: {error}") from error
                return _num_of(_outcome(new, decided))

    async def _outcome_of(self, request: bytes) -> Outcome | None:
        if not request:
            return None
        value, _ = await self._get(request_key(request))
        return None if value is None else unpack_outcome(value)

    async def change_config_to(self, new: ShardConfig, request: bytes = b"") -> bool:
        """Make `new` the next configuration (its number is the current one plus 1) and carry it out. False, with nothing
        done, if another controller posted a change of that number first. Returns also when it is fenced. Raises `Refused` if
        the change was given up: it left keys to nobody."""
        await self.init_controller()
        current, _ = await self.current()
        if new.num != current.num + 1 or not await self._post(current, new, request):
            return False
        _num_of(_outcome(new, await self._finish(new.num)))
        return True

    async def _post(self, current: ShardConfig, new: ShardConfig, request: bytes) -> bool:
        """The compare-and-set of *next*. True only if ours is the one that stands there."""
        assert new.num == current.num + 1, f"from {current.num} to {new.num}"
        try:
            new.keeping(current)
        except ValueError as error:
            raise Refused(f"change {new.num} could not be given up: {error}") from error
        change, version = await self._next()
        if change is not None and change.config.num >= new.num:
            return False
        self._posts += 1
        nonce = self._nonce + self._posts.to_bytes(4, "big")
        value = pack_change(Change(new, request, nonce, self._wall_ms()))
        POST.begin.reach()
        try:
            await self.store.put(NEXT, value, version)
            POST.done.reach()
            return True
        except (VersionMismatch, NoKey):
            return False
        except Maybe:
            stored, _ = await self._get(NEXT)
            return stored == value

    async def init_controller(self) -> None:
        """Finish what a controller before this one has left: a posted change, then the deletes."""
        current, _ = await self.current()
        change, _ = await self._next()
        if change is not None and change.config.num > current.num:
            await self._finish(change.config.num)

    async def _finish(self, num: int) -> ShardConfig:
        """Carry the posted change `num` to its end. Returns when it is in force, by whomever; with what is in force under
        that number, which is not what was posted if the change was given up (`ShardConfig.keeping`)."""
        change, _ = await self._next()
        current, _ = await self.current()
        if change is None or change.config.num != num or current.num >= num:
            return (await self.past(num)).config
        moves = await self._moves(current, change.config)
        mover = Mover(num, lambda: self._fenced(num), self._told, self._now, self._page_bytes)
        try:
            kept = await self._each(moves, mover.move)
            decided = await self._record(change, change.config.keeping(current) if kept else change.config)
            if decided != change.config:
                await self._each(moves, mover.keep)
        except Fenced:
            return (await self.past(num)).config
        if await self._raise_current(decided):
            await self.clean()
        return decided

    async def _fenced(self, num: int) -> bool:
        return (await self.current())[0].num >= num

    async def _group(self, gid: int) -> Group:
        addresses = tuple((await self.addresses(gid)).values())
        if not addresses:
            raise Stuck(f"no address of group {gid} is known")
        return self._group_of(gid, addresses)

    async def _moves(self, old: ShardConfig, new: ShardConfig) -> list[Move]:
        moving = [s for s in range(len(new.shards)) if old.shards[s] != new.shards[s]]
        gids = {config.shards[s] for s in moving for config in (old, new)} - {0}
        groups = {gid: await self._group(gid) for gid in sorted(gids)}
        return [Move(s, groups.get(old.shards[s]), groups.get(new.shards[s])) for s in moving]

    async def _each(self, moves: Sequence[Move], do: Callable[[Move], Awaitable[None]]) -> bool:
        """Do it for each of the moves, some at a time. Whether one found keys that nobody was to have: the others go on to
        their end then. Raises `Fenced`, `Stuck` for the first that does, and gives up the others."""
        room = trio.CapacityLimiter(MOVES_AT_ONCE)
        ended: list[Fenced | Stuck] = []
        kept: list[Kept] = []

        async def one(move: Move, scope: trio.CancelScope) -> None:
            async with room:
                try:
                    await do(move)
                except Kept as error:
                    kept.append(error)
                except (Fenced, Stuck) as error:
                    ended.append(error)
                    scope.cancel()

        self._trouble = ""
        async with trio.open_nursery() as nursery:
            for move in moves:
                nursery.start_soon(one, move, nursery.cancel_scope)
        self._steps.clear()
        for error in ended:
            if isinstance(error, Stuck):
                self._trouble = str(error)
            raise error
        return bool(kept)

    def _told(self, step: Step | None, shard: int) -> None:
        if step is None:
            self._steps.pop(shard, None)
        else:
            self._steps[shard] = step

    async def _record(self, change: Change, wanted: ShardConfig) -> ShardConfig:
        """The history and the request's outcome: before *current*, so that no later change can overtake them. What stands
        in the history from now on: the first controller to record it decides whether the change was given up."""
        RECORD.begin.reach()
        past = Past(wanted, change.request, change.time_ms, self._wall_ms())
        ours = await self._create(config_key(wanted.num), pack_past(past))
        decided = wanted if ours else (await self.past(wanted.num)).config
        if change.request:
            await self._create(request_key(change.request), pack_outcome(_outcome(change.config, decided)))
        RECORD.done.reach()
        return decided

    async def _create(self, key: str, value: bytes) -> bool:
        """Put a record that is written once. True if it is there now by this call for certain."""
        while True:
            try:
                await self.store.put(key, value, 0)
                return True
            except VersionMismatch:
                return False
            except Maybe:
                continue

    async def _raise_current(self, config: ShardConfig) -> bool:
        """Compare-and-set *current*. True if it is in force now and was not overtaken."""
        while True:
            current, version = await self.current()
            if current.num >= config.num:
                return current.num == config.num
            RAISE.begin.reach()
            try:
                await self.store.put(CURRENT, pack_config(config), version)
                RAISE.done.reach()
                return True
            except (VersionMismatch, Maybe, NoKey):
                continue

    # --- what is left to do at old owners ------------------------------------------------------------------------

    async def clean(self) -> bool:
        """Delete, at their old owners, the shards that finished changes moved away. False if a group did not answer; the
        rest is left to a later call."""
        current, _ = await self.current()
        cleaned, version = await self._cleaned()
        while cleaned < current.num:
            num = cleaned + 1
            try:
                moves = await self._moves((await self.past(num - 1)).config, (await self.past(num)).config)
            except NoKey:
                return False  # a controller before us is about to write it
            if not await self._delete(num, [m for m in moves if m.source is not None]):
                return False
            CLEAN.begin.reach()
            try:
                version = await self.store.put(CLEANED, pack_num(num), version)
                CLEAN.done.reach()
                cleaned = num
            except (VersionMismatch, Maybe, NoKey):
                cleaned, version = await self._cleaned()
        return True

    async def _delete(self, num: int, moves: Sequence[Move]) -> bool:
        mover = Mover(num, lambda: self._fenced(num), self._told, self._now)
        done: list[bool] = []

        async def one(move: Move) -> None:
            assert move.source is not None
            done.append(await mover.delete(move.source, move.shard, DELETE_S))

        async with trio.open_nursery() as nursery:
            for move in moves:
                nursery.start_soon(one, move)
        return all(done)

    async def report(self, gid: int, addresses: Mapping[str, str]) -> None:
        """Servers of a group say where they listen."""
        while True:
            value, version = await self._get(addresses_key(gid))
            known = {} if value is None else unpack_addresses(value)
            if all(known.get(name) == address for name, address in addresses.items()):
                return
            try:
                await self.store.put(addresses_key(gid), pack_addresses({**known, **addresses}), version)
                return
            except (VersionMismatch, Maybe, NoKey):
                continue
