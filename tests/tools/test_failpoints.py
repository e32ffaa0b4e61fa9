"""Killed at every named place, in every role: what was acknowledged is there, and what was begun is finished."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

import shardkv
from ctrler.clerk import ControllerClerk
from raftlog.durable import LOG_TABLES
from raftlog.net.base import CallFailed, RpcClient
from shardkv.errors import KvError
from store.failpoints import EXIT_CODE, PLACES
from store.lmdb_engine import LmdbEngine
from tests.tools.inspect.small_peer import damage_record
from tests.tools.test_crash import clients, controllers, running
from tools.admin import failpoints, peer_statuses
from tools.cluster import LocalCluster
from tools.inspect.reader import findings, peer_info
from tools.layout import Layout
from tools.serve import main as serve

pytestmark = pytest.mark.process

DURABLE = ("begin", "commit", "done")
ASKED = ("begin", "done")
MOVES = [f"move.{step}.{at}" for step in ("probe", "freeze", "read", "copy", "install", "delete") for at in ASKED]
CONFIGS = [f"config.{step}.{at}" for step in ("next", "record", "current", "cleaned") for at in ASKED]
IMAGES = [f"image.{step}.{at}" for step in ("clear", "stage", "intent", "flip", "reset") for at in DURABLE]


def of(step: str) -> list[str]:
    return [f"{step}.{at}" for at in DURABLE]


@dataclass
class Bench:
    """A cluster whose peers may be killed at a place, and what it has acknowledged."""

    cluster: LocalCluster
    kv: shardkv.Clerk
    ctl: ControllerClerk
    rpc: RpcClient
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    hit: set[str] = field(default_factory=set)
    size_bytes: int = 20
    keys: int | None = None

    async def puts(self) -> None:
        """Until cancelled. With `keys` set they are written over and over."""
        number = len(self.acknowledged)
        while True:
            key = f"k{number if self.keys is None else f'-{number % self.keys}'}"
            value = f"{number:08}".encode().ljust(self.size_bytes, b".")
            number += 1
            self.acknowledged.pop(key, None)
            try:
                await self.kv.put(key, value, deadline_s=10)
            except KvError:
                continue
            self.acknowledged[key] = value

    async def changes(self) -> None:
        """Group 2 joins and leaves, until cancelled."""
        while True:
            try:
                if 2 in (await self.ctl.query(deadline_s=20)).groups:
                    await self.ctl.leave([2], deadline_s=20)
                else:
                    await self.ctl.join({2: list(self.cluster.addresses(2).values())}, deadline_s=20)
            except KvError:
                continue

    async def role(self, gid: int, role: str) -> str:
        """A peer of the group that has this role, once somebody leads and all answer."""
        addresses = self.cluster.addresses(gid)
        with trio.fail_after(20):
            while True:
                found = await peer_statuses(self.rpc, addresses)
                roles = {name: status["role"] for name, status in found.items()}
                if len(roles) == len(addresses) and "leader" in roles.values() and role in roles.values():
                    return next(name for name, its in sorted(roles.items()) if its == role)
                await trio.sleep(0.02)

    async def strike(self, name: str, point: str, load: Callable[[], Awaitable[None]]) -> None:
        """Kill it there, while it is under load; start it again."""
        with suppress(CallFailed):  # it may come there before its answer has left: that it ends is asserted below
            await failpoints(self.rpc, self.cluster.address(name), [f"{point}=kill"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            assert await self.cluster.process(name).wait_ended(30), f"{name} does not come to {point}"
            nursery.cancel_scope.cancel()
        self.hit.add(point)
        await self.cluster.start(name)

    async def strike_start(self, name: str, point: str) -> None:
        """Have a stopped peer killed there after its start."""
        os.environ["SHARDKV_FAILPOINTS"] = f"{point}=kill"
        try:
            self.cluster.process(name).start(self.cluster.folder / f"{name}.toml")
        finally:
            os.environ["SHARDKV_FAILPOINTS"] = ""
        assert await self.cluster.process(name).wait_ended(30), f"{name} does not come to {point}"
        assert self.cluster.process(name).exit_code() == -9, self.cluster.process(name).last_words()
        self.hit.add(point)

    async def check(self) -> None:
        """All that was acknowledged is there."""
        for key, value in self.acknowledged.items():
            assert (await self.kv.get(key, deadline_s=30))[0] == value, key

    async def caught_up(self, name: str) -> None:
        """The peer has applied what its group has."""
        gid = int(name.split("-")[1])
        with trio.fail_after(30):
            while True:
                found = await peer_statuses(self.rpc, self.cluster.addresses(gid))
                commit = max((status["commit"] for status in found.values()), default=0)
                if name in found and found[name]["applied"][1] == commit > 0:
                    return
                await trio.sleep(0.02)


@asynccontextmanager
async def bench(folder: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("SHARDKV_FAILPOINTS", "")
    async with running(folder, layout) as cluster:
        async with clients(cluster) as (kv, ctl, rpc):
            yield Bench(cluster, kv, ctl, rpc)
        await cluster.down()
        assert findings([folder / name for name in cluster.manifest.names()]) == {}


async def test_killed_at_some_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(ctrl_peers=3, groups=2, replicas=2, join=False)
    async with bench(tmp_path / "c", layout, monkeypatch) as it:
        await it.strike(await it.role(1, "leader"), "save.done", it.puts)
        await it.strike(await it.role(1, "follower"), "flush.commit", it.puts)
        await it.strike(await it.role(1, "leader"), "reply", it.puts)
        for point in ("config.next.done", "move.install.begin"):
            await it.strike(await it.role(0, "leader"), point, it.changes)
        await it.check()


@pytest.mark.system
async def test_killed_at_every_place_in_every_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(ctrl_peers=3, groups=2, replicas=3, join=False)
    async with bench(tmp_path / "c", layout, monkeypatch) as it:
        for role in ("leader", "follower"):
            for point in (*of("save"), *of("flush")):
                await it.strike(await it.role(1, role), point, it.puts)
        await it.strike(await it.role(1, "leader"), "reply", it.puts)
        for gid in (0, 1):
            await killed_in_the_last_moment(it, gid)
        await it.check()
        for point in (*MOVES, *CONFIGS):
            await it.strike(await it.role(0, "leader"), point, it.changes)
        for role in ("leader", "follower"):  # of the controllers: the change is an entry of theirs
            for point in of("save"):
                await it.strike(await it.role(0, role), point, it.changes)
        await it.check()
        it.size_bytes, it.keys = 1 << 20, 8
        for role in ("leader", "follower"):
            for point in of("purge"):
                await it.strike(await it.role(1, role), point, it.puts)
        await images(it)
        await mending(it)
        await it.check()
        elsewhere = ("job.", "write.", "move.keep")  # of other kinds of peers, and the next test's
        known = {name for name in PLACES if not name.startswith(elsewhere)}
        assert it.hit == known, f"never killed at {sorted(known - it.hit)}"


@pytest.mark.system  # ten seconds
async def test_a_controller_killed_while_it_gives_a_change_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last group is to leave. The controller dies between its look and the first freeze, and a key is put meanwhile."""
    name = "server-0-0"
    async with bench(tmp_path / "c", Layout(ctrl_peers=1, groups=1, replicas=1), monkeypatch) as it:
        await it.kv.put("to know the way", b"")
        await it.kv.delete("to know the way")
        await failpoints(it.rpc, it.cluster.address(name), ["config.next.done=kill"])

        async def leave() -> None:
            with suppress(KvError):
                await it.ctl.leave([1], deadline_s=20)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            assert await it.cluster.process(name).wait_ended(30), f"{name} does not come to config.next.done"
            nursery.cancel_scope.cancel()
        await it.kv.put("k", b"v", deadline_s=10)
        it.acknowledged["k"] = b"v"
        for point in ("move.keep.begin", "move.keep.done"):
            await it.strike_start(name, point)
        await it.cluster.start(name)
        await it.check()
        await it.kv.put("another", b"v", deadline_s=30)
        with trio.fail_after(30):
            while (config := await it.ctl.query(deadline_s=30)).num < 2:
                await trio.sleep(0.05)
        assert list(config.groups) == [1] and config.num == 2


async def killed_in_the_last_moment(it: Bench, gid: int) -> None:
    """While it writes the last words of a graceful end, and while it counts its start."""
    name = await it.role(gid, "follower")
    for point in of("last"):
        await failpoints(it.rpc, it.cluster.address(name), [f"{point}=kill"])
        await it.cluster.stop(name)
        it.hit.add(point)
        await it.cluster.start(name)
    await it.cluster.stop(name)
    for point in of("start"):
        await it.strike_start(name, point)
    boot = peer_info(it.cluster.folder / name)["boot"]
    await it.cluster.start(name)
    await it.caught_up(name)
    assert (await peer_statuses(it.rpc, it.cluster.addresses(gid)))[name]["boot"] == boot + 1


async def images(it: Bench) -> None:
    """A peer that fell behind the purge base is killed at each step of installing an image, and of finishing that."""
    name = await it.role(1, "follower")
    await it.cluster.kill(name)
    await fall_behind(it, name)
    for point in IMAGES:
        if point.startswith("image.reset"):
            await fall_behind(it, name)  # what was flipped in is not sent again
        await it.strike_start(name, point)
        if point == "image.flip.done":
            for redo in of("start.redo"):
                await it.strike_start(name, redo)
    await fall_behind(it, name)
    leader = await it_leads(it, name)
    await failpoints(it.rpc, it.cluster.address(leader), ["image.send=kill"])
    await it.cluster.start(name)
    assert await it.cluster.process(leader).wait_ended(30), f"{leader} sends no image"
    it.hit.add("image.send")
    await it.cluster.start(leader)
    await it.caught_up(name)


async def mending(it: Bench) -> None:
    """A peer with a damaged entry, and then with a damaged line of its journal, is killed at each step of mending it."""
    name = await it.role(1, "follower")
    await it.cluster.kill(name)
    for table, step in (("entries", "start.mend"), ("journal", "rewrite")):
        engine = LmdbEngine.open_readonly(it.cluster.folder / name / "log", LOG_TABLES)
        with engine.read() as txn:
            last = txn.last(table)
        engine.close()
        assert last is not None
        damage_record(it.cluster.folder / name, "log", table, last[0])
        for point in of(step):
            await it.strike_start(name, point)
    await it.cluster.start(name)
    await it.caught_up(name)


async def it_leads(it: Bench, without: str) -> str:
    """Who leads group 1 while one of its peers is down."""
    with trio.fail_after(20):
        while True:
            for name, status in (await peer_statuses(it.rpc, it.cluster.addresses(1))).items():
                if status["role"] == "leader" and name != without:
                    return name
            await trio.sleep(0.02)


async def fall_behind(it: Bench, name: str) -> None:
    """Puts until the group has purged what the stopped peer would need next."""
    info = peer_info(it.cluster.folder / name)
    last = max(info["last"][1], info["applied"][1])  # an image may be flipped in, and the log not yet begin there
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.puts)
        with trio.fail_after(60):
            while True:
                found = await peer_statuses(it.rpc, it.cluster.addresses(1))
                others = [status["base"][1] for status in found.values()]
                if len(others) == 2 and min(others) > last:
                    break
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_a_kvsrv_killed_at_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(ctrl_peers=1, groups=2, replicas=1, store="kvsrv", join=False)
    async with bench(tmp_path / "c", layout, monkeypatch) as it:
        for point in of("write"):
            await it.strike("server-0-0", point, it.changes)
        assert 1 in (await it.ctl.query(deadline_s=30)).groups


async def test_what_is_armed_acts_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(tmp_path / "c", Layout(ctrl_peers=1, groups=1, replicas=1), monkeypatch) as it:
        name, address = "server-1-0", it.cluster.address("server-1-0")
        await failpoints(it.rpc, address, ["save.begin=exit@3"])
        with trio.move_on_after(20):
            await it.puts()
            pytest.fail("unreachable")
        assert it.cluster.process(name).exit_code() == EXIT_CODE and len(it.acknowledged) >= 2
        await it.cluster.start(name)
        await failpoints(it.rpc, address, ["save.commit=error"])
        with trio.move_on_after(5):
            await it.puts()
        assert it.cluster.process(name).exit_code() == 3 and "save.commit" in it.cluster.process(name).last_words()
        await it.cluster.start(name)
        rows = await failpoints(it.rpc, address, ["reply=sleep:0.3*2", "flush.done=sleep:0.1%50"])
        assert [row[2] for row in rows if row[2]] == ["sleep:0.1%50", "sleep:0.3*2"]
        began = trio.current_time()
        await it.kv.put("slow", b"1")
        assert trio.current_time() - began >= 0.3
        rows = await failpoints(it.rpc, address, ["reply=off", "flush.done=off"])
        assert not [row for row in rows if row[2]]


async def test_nothing_is_armed_in_a_peer_that_was_not_started_for_it(tmp_path: Path) -> None:
    async with running(tmp_path / "c", Layout(ctrl_peers=1, groups=1, replicas=1)) as cluster:
        async with clients(cluster) as (kv, _, rpc):
            with pytest.raises(shardkv.Refused, match="not started with --failpoints"):
                await failpoints(rpc, cluster.address("server-1-0"), ["save.done=kill"])
            await kv.put("k", b"v")
        assert controllers(cluster)


async def test_what_cannot_be_armed_is_refused_and_then_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path / "c", Layout(ctrl_peers=1, groups=1, replicas=1), monkeypatch) as it:
        address = it.cluster.address("server-1-0")
        for wrong in ("nosuch=kill", "save.done", "save.done=kill%0", "save.done=kill@0", "save.done=sleep", 7, None):
            with pytest.raises((shardkv.Refused, CallFailed)):
                await failpoints(it.rpc, address, ["reply=kill", wrong])  # type: ignore[list-item]
        assert not [row for row in await failpoints(it.rpc, address, []) if row[2]]
        await it.kv.put("k", b"v")
        file = it.cluster.folder / "server-1-0.toml"
        assert serve([str(file), "--failpoints=nosuch=kill"]) == 2
        outside = tmp_path / "outside.toml"
        lines = [line for line in file.read_text().splitlines() if not line.startswith(("listen", "insecure"))]
        outside.write_text("\n".join(['listen = "0.0.0.0:1"', "insecure = true", *lines]))
        assert serve([str(outside), "--failpoints"]) == 2
