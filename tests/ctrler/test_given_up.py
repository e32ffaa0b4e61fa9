"""A change that would leave keys to nobody is given up: the last group keeps what it has, whoever ends the change."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

from ctrler.controller import Controller
from ctrler.records import config_key
from shardkv.config import ShardConfig
from shardkv.errors import Refused
from tools.sim.cluster import SimCluster
from tools.sim.world import World, simulate

REQUEST = b"leave-all"
KEYS = [b"k%d" % number for number in range(40)]

Body = Callable[[SimCluster, Controller, ShardConfig], Coroutine[Any, Any, None]]


def last_group_leaves(body: Body) -> None:
    """Run `body` with the configuration that has no groups; group 1 owns all, its shards hold no key."""

    async def whole(world: World) -> None:
        cluster = SimCluster(world)
        controller = cluster.controller().controller
        await body(cluster, controller, (await cluster.set_up(controller)).leave([1]))

    simulate(whole, limit_s=60.0)


async def serves_all(cluster: SimCluster) -> None:
    clerk = cluster.clerk()
    for key in KEYS:
        await clerk.put(key, b"v")
        assert (await clerk.get(key))[0] == b"v"


async def dies_at(controller: Controller, key: str, post: ShardConfig) -> None:
    """The controller posts the change and dies when it is about to write `key`."""
    put = controller.store.put
    scope = trio.CancelScope()

    async def put_or_die(name: str, value: bytes, version: int) -> int:
        if name == key:
            scope.cancel()
            await trio.lowlevel.checkpoint()
        return await put(name, value, version)

    controller.store.put = put_or_die  # type: ignore[method-assign, assignment]
    with scope:
        await controller.change_config_to(post, REQUEST)
    assert scope.cancelled_caught


def test_a_key_that_came_after_the_look_is_kept_and_so_is_the_group() -> None:
    async def body(cluster: SimCluster, controller: Controller, empty: ShardConfig) -> None:
        await cluster.clerk().put(KEYS[0], b"v")  # the look that `leave` takes was before this
        with pytest.raises(Refused, match="change 2 was given up: groups \\[1\\] hold keys"):
            await controller.change_config_to(empty, REQUEST)
        current, _ = await controller.current()
        assert (current.num, current.shards) == (2, (1,) * len(current.shards)) and list(current.groups) == [1]
        assert (await controller.past(2)).config == current and (await controller.status()).next == 2
        with pytest.raises(Refused, match="change 2 was given up"):  # the same answer to who asks again
            await controller.leave([1], REQUEST)
        await serves_all(cluster)
        cluster.start_group(2)
        await cluster.group(2).wait_leader()
        assert await controller.join({2: cluster.servers(2)}) == 3
        await serves_all(cluster)

    last_group_leaves(body)


def test_without_a_key_the_last_group_leaves_and_one_that_comes_later_serves() -> None:
    async def body(cluster: SimCluster, controller: Controller, empty: ShardConfig) -> None:
        assert await controller.leave([1]) == 2
        assert (await controller.current())[0] == empty
        assert await controller.join({1: cluster.servers(1)}) == 3
        await serves_all(cluster)

    last_group_leaves(body)


def test_who_finishes_a_given_up_change_later_gives_it_up_too() -> None:
    """The first controller dies with the decision in the history and nothing kept yet; then the key goes. For the one that
    comes later all shards freeze, and yet they must be served again."""

    async def body(cluster: SimCluster, controller: Controller, empty: ShardConfig) -> None:
        clerk = cluster.clerk()
        await clerk.put(KEYS[0], b"v")
        with trio.fail_after(5.0):
            await dies_at(controller, "request/" + REQUEST.hex(), empty)
        await clerk.delete(KEYS[0])
        later = cluster.controller().controller
        await later.init_controller()
        current, _ = await later.current()
        assert (current.num, list(current.groups)) == (2, [1])
        with pytest.raises(Refused, match="given up"):
            await later.leave([1], REQUEST)
        await serves_all(cluster)

    last_group_leaves(body)


@pytest.mark.parametrize("given_up", [False, True])
def test_the_first_to_record_decides_and_the_other_yields(given_up: bool) -> None:
    """One controller meets a key. It goes, and another one freezes all shards. Now the history says which it is."""

    async def body(cluster: SimCluster, controller: Controller, empty: ShardConfig) -> None:
        clerk = cluster.clerk()
        await clerk.put(KEYS[0], b"v")
        other = cluster.controller().controller
        gates = {who: Gate(who, config_key(2)) for who in (controller, other)}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, controller, empty)
            await gates[controller].reached.wait()
            await clerk.delete(KEYS[0])
            nursery.start_soon(other.init_controller)
            await gates[other].reached.wait()
            first, second = (controller, other) if given_up else (other, controller)
            gates[first].go_on.set()
            await trio.sleep(2.0)
            gates[second].go_on.set()
        current, _ = await controller.current()
        assert current.num == 2 and bool(current.groups) is given_up
        assert current == (await other.past(2)).config
        if not given_up:
            await other.join({1: cluster.servers(1)})
        await serves_all(cluster)

    last_group_leaves(body)


async def outcome_of(controller: Controller, post: ShardConfig) -> None:
    try:
        await controller.change_config_to(post, REQUEST)
    except Refused as error:
        assert "given up" in str(error)


class Gate:
    """The controller stops before it writes `key`, until it may go on."""

    def __init__(self, controller: Controller, key: str) -> None:
        self.reached = trio.Event()
        self.go_on = trio.Event()
        put = controller.store.put

        async def waits(name: str, value: bytes, version: int) -> int:
            if name == key:
                self.reached.set()
                await self.go_on.wait()
            return await put(name, value, version)

        controller.store.put = waits  # type: ignore[method-assign, assignment]


def test_a_change_that_could_not_be_given_up_is_not_posted() -> None:
    """It names a server of the group that might have to stay under another one."""

    async def body(cluster: SimCluster, controller: Controller, empty: ShardConfig) -> None:
        (server, *_) = (await controller.current())[0].groups[1]
        shards = (0, *[2] * (len(empty.shards) - 1))
        with pytest.raises(Refused, match=r"could not be given up: .*server-1-0"):
            await controller.change_config_to(ShardConfig(2, shards, {2: (server,)}))
        assert (await controller.status()).next == 1
        await serves_all(cluster)

    last_group_leaves(body)


def test_a_member_that_keeps_a_shard_is_named() -> None:
    async def body(cluster: SimCluster, controller: Controller, empty: ShardConfig) -> None:
        current, _ = await controller.current()
        await cluster.clerk().put(KEYS[0], b"v")
        shards = list(current.shards)
        shards[current.shard_of(KEYS[0])] = 0
        with pytest.raises(Refused, match=r"groups \[1\] hold keys"):
            await controller.change_config_to(ShardConfig(2, tuple(shards), current.groups))
        await serves_all(cluster)

    last_group_leaves(body)


def test_keeping() -> None:
    old = ShardConfig(4, (1, 1, 2), {1: ("a",), 2: ("b",)})
    assert ShardConfig(5, (0, 0, 0)).keeping(old) == ShardConfig(5, old.shards, old.groups)
    mixed = ShardConfig(5, (0, 3, 3), {3: ("c",)})
    assert mixed.keeping(old) == ShardConfig(5, (1, 3, 3), {1: ("a",), 3: ("c",)})
    assert old.keeping(old) == old
