"""What a client may say of a write: "without effect" only if that is sure, and never twice what was asked once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio

from raftlog.net.base import Request
from raftlog.net.sim import NetConditions
from shardkv.errors import Maybe, NoKey, Unavailable
from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine
from tools.sim.group import SimGroup
from tools.sim.world import World, simulate


async def made(world: World, *, sessions: bool = True) -> tuple[SimGroup, KvClerk]:
    group = SimGroup(world, 0, 3, KvMachine)
    group.start()
    await group.wait_leader()
    clerk = KvClerk(world.net.rpc(world.host("client")), group.addresses, rng=world.rng("client"), sessions=sessions)
    await clerk.put("k", b"first")
    return group, clerk


def test_a_write_that_the_deadline_cuts_off_on_its_way_may_have_happened() -> None:
    """Found by simulation, seeds 5 and 9: it was told as "surely without effect"."""

    async def body(world: World) -> None:
        _, clerk = await made(world)
        with pytest.raises(Maybe):
            await clerk.put("k", b"second", deadline_s=0.003)
        await trio.sleep(1.0)
        assert await clerk.get("k") == (b"second", 2)

    simulate(body)


def test_a_write_that_never_left_is_without_effect() -> None:
    async def body(world: World) -> None:
        group, clerk = await made(world)
        world.net.partition(list(group.names.values()))
        world.net.conditions = NetConditions(unreachable_s=(0.0005, 0.001), delay_s=(0.0001, 0.0002))
        seen = set()
        for _ in range(40):
            with pytest.raises((Unavailable, Maybe)) as found:
                await clerk.put("k", b"second", deadline_s=0.05)
            seen.add(found.type)
        assert Unavailable in seen

    simulate(body)


@pytest.mark.parametrize("sessions", [False, True])
def test_without_a_session_a_write_of_any_version_is_not_sent_twice(sessions: bool) -> None:
    """Found by simulation, seeds 3 and 7: its reply lost, it was sent again and took effect twice."""

    async def body(world: World) -> None:
        _, clerk = await made(world, sessions=sessions)
        world.net.conditions = NetConditions(reply_loss=0.5)
        done = maybe = 0
        for number in range(40):
            try:
                await clerk.put("k", b"%d" % number)
                done += 1
            except Maybe:
                maybe += 1
        world.net.conditions = NetConditions()
        _, version = await clerk.get("k")
        assert 1 + done <= version <= 1 + done + maybe
        assert (maybe == 0) == sessions

    simulate(body)


@pytest.mark.parametrize("resend", [False, True])
def test_a_write_by_version_that_is_sent_again_may_come_after_a_delete(resend: bool) -> None:
    """Found by simulation, seed 10341: a put "if missing" took effect, its reply was lost, somebody deleted the key, and it
    was sent again. Without `resend` it is not."""

    async def body(world: World) -> None:
        group, other = await made(world)
        clerk = KvClerk(
            world.net.rpc(world.host("plain")), group.addresses, rng=world.rng("p"), sessions=False, resend=resend
        )
        world.net.links[group.names[await group.wait_leader()], "plain"] = NetConditions(reply_loss=1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_put_new, clerk)
            while True:
                with suppress(NoKey):
                    await other.delete("new")
                    break
            world.net.links.clear()
        await trio.sleep(2.0)
        if resend:
            assert await other.get("new") == (b"v", 1), "the labs' way: it came twice"
        else:
            with pytest.raises(NoKey):
                await other.get("new")

    simulate(body)


async def _put_new(clerk: KvClerk) -> None:
    with suppress(Maybe):
        await clerk.put("new", b"v", 0)


def test_no_space_after_a_lost_try_is_no_promise() -> None:
    async def body(world: World) -> None:
        group, clerk = await made(world)
        leader = await group.wait_leader()

        def fill() -> None:
            group.peers[leader].node.no_space = True
            world.net.links.clear()

        for name in group.names.values():
            world.net.links[name, "client"] = NetConditions(reply_loss=1.0)
        world.net.later(0.02, fill)
        with pytest.raises(Maybe, match="an earlier try"):
            await clerk.put("k", b"second")
        assert await clerk.get("k") == (b"second", 2)

    simulate(body)


def test_a_write_whose_reply_is_of_another_format_may_have_happened() -> None:
    async def body(world: World) -> None:
        def answer(requests: Sequence[Request]) -> None:
            for request in requests:
                request.reply([99, "a code of times to come"])

        world.host("later").requests = answer
        clerk = KvClerk(world.net.rpc(world.host("client")), ["later"], rng=world.rng("client"))
        with pytest.raises(Maybe, match="another format"):
            await clerk.put("k", b"v")

    simulate(body)
