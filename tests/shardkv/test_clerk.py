"""The client API on a whole simulated cluster: what each call gives, what it raises, and how long it may take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio

import shardkv
from shardkv.clerk import Clerk
from shardkv.client_session import WINDOW
from shardkv.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES
from shardkv.config import shard_of
from shardkv.errors import KvError, Maybe, NoKey, Refused, Unavailable, VersionMismatch
from tools.sim.cluster import SimCluster
from tools.sim.world import World, simulate


def play(body: Callable[[SimCluster, Clerk], Awaitable[None]]) -> None:
    """On a cluster of two groups that share the shards, with a clerk that has the API's own deadline."""

    async def whole(world: World) -> None:
        cluster = SimCluster(world)
        controller = cluster.controller().controller
        await cluster.set_up(controller)
        cluster.start_group(2)
        await controller.join({2: cluster.servers(2)})
        await body(cluster, cluster.clerk(deadline_s=10.0))

    simulate(whole)


async def seconds_of(call: Callable[[], Awaitable[Any]], error: type[KvError]) -> float:
    """How long a call takes that must end in this error."""
    began = trio.current_time()
    with pytest.raises(error):
        await call()
    return trio.current_time() - began


async def test_what_is_no_list_of_addresses_is_told_at_once() -> None:
    for wrong, error in (("127.0.0.1:7000", TypeError), (["127.0.0.1"], ValueError), ([], ValueError)):
        with pytest.raises(error):
            async with shardkv.connect(wrong):
                pass


# --- one key ---------------------------------------------------------------------------------------------------------


def test_versions_count_up_and_a_deleted_key_is_as_if_never_written() -> None:
    async def body(cluster: SimCluster, kv: Clerk) -> None:
        with pytest.raises(NoKey, match="'k'"):
            await kv.get("k")
        with pytest.raises(NoKey):
            await kv.put("k", b"v", 1)
        with pytest.raises(NoKey):
            await kv.delete("k")
        assert await kv.put("k", b"v", 0) == 1
        assert await kv.put("k", b"w", 1) == 2
        assert await kv.put(b"k", b"x") == 3, "a str is its bytes in UTF-8"
        for stale in (0, 2, 9):
            with pytest.raises(VersionMismatch) as found:
                await kv.put("k", b"y", stale)
            assert found.value.current == 3
            with pytest.raises(VersionMismatch):
                await kv.delete("k", stale)
        assert await kv.get("k") == (b"x", 3)
        assert await kv.delete("k", 3) == 3
        with pytest.raises(NoKey):
            await kv.get("k")
        assert await kv.put("k", b"again", 0) == 1

    play(body)


def test_the_limits_are_those_that_are_told() -> None:
    async def body(cluster: SimCluster, kv: Clerk) -> None:
        longest, largest = "k" * MAX_KEY_BYTES, bytes(MAX_VALUE_BYTES)
        assert (MAX_KEY_BYTES, MAX_VALUE_BYTES) == (400, 1 << 20)
        assert await kv.put(longest, largest) == 1
        assert await kv.get(longest) == (largest, 1)
        sent = kv.requests_sent
        for call in (
            lambda: kv.get(longest + "k"),
            lambda: kv.delete(longest + "k"),
            lambda: kv.put("k", largest + b"x"),
            lambda: kv.put_many({"fine": b"v", longest + "k": b"v"}),
            lambda: kv.get_many(["fine", longest + "k"]),
        ):
            with pytest.raises(Refused, match="at most"):
                await call()
        assert kv.requests_sent == sent, "nothing may be sent of a call that is over a limit"

    play(body)


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_a_call_ends_at_its_deadline_whatever_it_waits_for() -> None:
    """The controllers, the group, or room among its own open writes: all of it is in the one deadline."""

    async def body(cluster: SimCluster, kv: Clerk) -> None:
        await kv.put("k", b"v")
        owner = (await kv.router.config()).shards[shard_of(b"k", 12)]
        cluster.group(owner).crash()
        assert await seconds_of(lambda: kv.get("k"), Unavailable) == pytest.approx(10.0, abs=0.01)
        assert await seconds_of(lambda: kv.put("k", b"w", deadline_s=2.0), KvError) == pytest.approx(2.0, abs=0.01)
        async with trio.open_nursery() as nursery:
            for _ in range(WINDOW):
                nursery.start_soon(swallowed, lambda: kv.put("k", b"w", deadline_s=30.0))
            await trio.sleep(0.1)
            waited = await seconds_of(lambda: kv.put("k", b"w", deadline_s=2.0), Unavailable)
            assert waited == pytest.approx(2.0, abs=0.01), "it waits for room in its session"
            nursery.cancel_scope.cancel()
        stranger = cluster.clerk(deadline_s=3.0)
        cluster.store.crash(*cluster.store.names)
        for call in (lambda: stranger.get("k"), lambda: stranger.put("k", b"w"), lambda: stranger.delete("k")):
            assert await seconds_of(call, Unavailable) == pytest.approx(3.0, abs=0.01)

    play(body)


async def swallowed(call: Callable[[], Awaitable[Any]]) -> None:
    with suppress(Maybe, Unavailable):
        await call()


def test_without_a_deadline_a_call_waits_for_ever() -> None:
    async def body(cluster: SimCluster, kv: Clerk) -> None:
        await kv.put("k", b"v")
        for gid in (1, 2):
            cluster.group(gid).crash()
        found: list[tuple[bytes, int]] = []

        async def ask() -> None:
            found.append(await kv.get("k", deadline_s=None))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(60.0)
            assert not found
            for gid in (1, 2):
                cluster.group(gid).start()
        assert found == [(b"v", 1)]

    play(body)


# --- many keys -------------------------------------------------------------------------------------------------------


def test_many_keys_give_a_result_or_an_error_per_key() -> None:
    async def body(cluster: SimCluster, kv: Clerk) -> None:
        values: dict[str | bytes, bytes] = {f"k{i}": b"%d" % i for i in range(200)}
        assert set((await kv.put_many(values)).values()) == {1}
        found = await kv.get_many([*values, "absent", b"k7"])
        assert list(found) == [*values, "absent", b"k7"], "in the order of the keys"
        assert all(found[key] == (value, 1) for key, value in values.items())
        assert found[b"k7"] == (b"7", 1)
        assert isinstance(found["absent"], NoKey)
        assert await kv.get_many([]) == {} and await kv.put_many({}) == {}
        cluster.group(1).crash()
        mixed = await kv.get_many(values, deadline_s=2.0)
        shards = (await kv.router.config()).shards
        for key, result in mixed.items():
            dead = shards[shard_of(str(key).encode(), 12)] == 1
            assert isinstance(result, Unavailable) if dead else result == (values[key], 1)

    play(body)


async def keys_of(kv: Clerk, **bounds: Any) -> list[bytes]:
    return [key async for key, _, _ in kv.scan(**bounds)]


def test_a_scan_gives_its_range_in_key_order_across_shards_and_pages() -> None:
    async def body(cluster: SimCluster, kv: Clerk) -> None:
        names = [b"a/%04d" % i for i in range(400)] + [b"b", b"b\xff" * 200, b"c" * 400, b"\xff\xff"]
        await kv.put_many(dict.fromkeys(names, b"v"))
        ordered = sorted(names)
        assert await keys_of(kv) == ordered
        assert await keys_of(kv, prefix="a/") == [n for n in ordered if n.startswith(b"a/")]
        assert await keys_of(kv, prefix=b"\xff") == [b"\xff\xff"]
        assert await keys_of(kv, start="a/0200", stop="a/0210") == names[200:210]
        assert await keys_of(kv, start=b"b", limit=2) == [b"b", b"b\xff" * 200]
        assert await keys_of(kv, prefix="a/", limit=150) == names[:150]
        assert await keys_of(kv, limit=0) == [] and await keys_of(kv, prefix="none") == []
        assert await keys_of(kv, start="c", stop="b") == []

    play(body)


def test_a_scan_goes_on_behind_a_longest_key() -> None:
    async def body(cluster: SimCluster, kv: Clerk) -> None:
        values = [bytes([65 + i]) * MAX_KEY_BYTES for i in range(24)]
        # Two rows of a shard do not fit into a page: the next one begins behind a key of 400 bytes.
        await kv.put_many(dict.fromkeys(values, bytes(MAX_VALUE_BYTES)))
        assert await keys_of(kv) == values

    play(body)


@pytest.mark.parametrize(
    "bounds",
    [{"prefix": "a", "start": "b"}, {"prefix": "a", "stop": "b"}, {"limit": -1}, {"limit": 1.5}, {"prefix": 7}],
)
def test_a_scan_that_makes_no_sense_is_refused_at_the_call(bounds: dict[str, Any]) -> None:
    async def body(cluster: SimCluster, kv: Clerk) -> None:
        with pytest.raises(TypeError):
            kv.scan(**bounds)

    play(body)
