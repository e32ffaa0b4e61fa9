"""Scenarios on real processes, and what users and strangers do wrong to them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cbor2
import pytest
import trio

import shardkv
from raftlog.codec import dumps
from raftlog.durable import LOG_TABLES
from raftlog.net.frames import Hello, Kind, encode_batch, encode_request
from shardkv.config import NSHARDS
from shardkv.methods import Method
from store.format import KEY
from store.lmdb_engine import LmdbEngine
from tests.tools.test_crash import check, clients, controllers, running, spread
from tools.cluster import LocalCluster
from tools.demo import run_demo
from tools.inspect.reader import findings
from tools.layout import Layout

pytestmark = pytest.mark.process

SMALL = Layout(ctrl_peers=1, groups=1, replicas=1)


@pytest.mark.parametrize(
    ("peers", "store", "down"),
    [(3, "kvraft", "follower"), (3, "kvraft", "leader"), (5, "kvraft", "leader"), (1, "kvsrv", "follower")],
)
async def test_raft_peer_down_5d(tmp_path: Path, peers: int, store: str, down: str) -> None:
    outcome = await run_demo(tmp_path / "c", peers=peers, store=store, down=down, tell=lambda line: None)
    assert outcome.passed, (outcome.error, outcome.findings)
    assert outcome.recovered and outcome.ops == 120


async def test_shutdown_5a(tmp_path: Path) -> None:
    """Every group is shut down at once and started again: all keys are back."""
    layout = Layout(ctrl_peers=3, groups=3, replicas=1)
    async with running(tmp_path / "c", layout) as cluster, clients(cluster) as (kv, ctl, _):
        values = await spread(kv)
        assert set((await ctl.query()).groups) == {1, 2, 3}
        for name in [n for gid in (1, 2, 3) for n in cluster.running(gid)]:
            await cluster.kill(name)
        await cluster.up(layout)
        await check(kv, values)


async def test_join_leave_5b(tmp_path: Path) -> None:
    """A join waits for its dead source, a leave for its dead destination; both end within 2 s of its return."""
    layout = Layout(ctrl_peers=3, groups=2, replicas=1, join=False)
    async with running(tmp_path / "c", layout) as cluster, clients(cluster) as (kv, ctl, _):
        values = await spread(kv)
        await waits_for(cluster, 1, ctl.join, {2: list(cluster.addresses(2).values())})
        config = await ctl.query()
        assert config.num == 2 and 2 in config.groups
        await waits_for(cluster, 2, ctl.leave, [1])
        assert set((await ctl.query()).groups) == {2}
        await check(kv, values)


async def waits_for(cluster: LocalCluster, gid: int, change: object, argument: object) -> None:
    (name,) = cluster.running(gid)
    await cluster.kill(name)
    done = trio.Event()

    async def run() -> None:
        await change(argument)  # type: ignore[operator]
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with trio.move_on_after(1.0):
            await done.wait()
        assert not done.is_set(), f"the change ended although group {gid} is dead"
        await cluster.start(name)
        with trio.fail_after(2.0 + 1.0):  # 2 s, and the election of a peer that restarts alone on a busy machine
            await done.wait()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def serve(file: Path) -> subprocess.CompletedProcess[str]:
    """`shardkv serve FILE`, which must end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "tools.serve", str(file)], capture_output=True, text=True, timeout=30, cwd=Path.cwd()
    )


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


async def made(folder: Path) -> LocalCluster:
    """A small cluster that has data and is down."""
    async with running(folder, SMALL) as cluster:
        async with clients(cluster) as (kv, _, _):
            await spread(kv, 12)
        await cluster.down()
    return cluster


def make_newer(path: Path) -> None:
    """As a later version of this program would have left it."""
    engine = LmdbEngine.open(path, LOG_TABLES, None)
    try:
        with engine.write() as txn:
            txn.put("meta", KEY, cbor2.dumps([99, *cbor2.loads(txn.get("meta", KEY) or b"")[1:]]))
    finally:
        engine.close()


async def test_wrong_directories_are_refused_in_one_line(tmp_path: Path) -> None:
    cluster = await made(tmp_path / "a")
    stranger = await made(tmp_path / "b")
    mine, theirs = cluster.folder / "server-1-0", stranger.folder / "server-1-0"
    file = cluster.folder / "server-1-0.toml"
    kept = tmp_path / "kept"
    mine.rename(kept)
    assert "missing or empty" in one_line(serve(file), 3)
    mine.mkdir()
    assert "missing or empty" in one_line(serve(file), 3)
    mine.rmdir()
    shutil.copytree(theirs, mine)
    assert "belongs to cluster" in one_line(serve(file), 3)
    shutil.rmtree(mine)
    shutil.copytree(cluster.folder / "server-0-0", mine)
    assert "belongs to group 0, not to group 1" in one_line(serve(file), 3)
    shutil.rmtree(mine)
    shutil.copytree(kept, mine)
    make_newer(mine / "log")
    assert "has format 99, this program reads up to" in one_line(serve(file), 3)
    shutil.rmtree(mine)
    shutil.copytree(kept, mine)
    data = mine / "log" / "data.mdb"
    os.truncate(data, data.stat().st_size // 3)
    assert "damaged" in one_line(serve(file), 3)
    shutil.rmtree(mine)
    kept.rename(mine)
    async with running(cluster.folder, SMALL) as again, clients(again) as (kv, _, _):
        await check(kv, {f"k{i}": f"value-{i:014}".encode() for i in range(12)})


async def test_a_flipped_bit_is_found_named_and_mended_from_the_state(tmp_path: Path) -> None:
    cluster = await made(tmp_path / "c")
    directory = cluster.folder / "server-1-0"
    data = directory / "log" / "data.mdb"
    content = bytearray(data.read_bytes())
    wanted = b"value-00000000000003"
    assert wanted in content
    data.write_bytes(content.replace(wanted, b"walue-00000000000003"))
    found = findings([directory])
    assert any("checksum" in finding for told in found.values() for finding in told), found
    async with running(cluster.folder, SMALL) as again, clients(again) as (kv, _, _):
        told = [event["text"] for event in again.process("server-1-0").events() if event["event"] == "mended"]
        assert len(told) == 1 and "entries" in told[0] and "checksum" in told[0]
        await check(kv, {f"k{i}": f"value-{i:014}".encode() for i in range(12)})
    assert not any(findings([directory]).values())


async def test_a_port_in_use_and_a_typo_are_one_line(tmp_path: Path) -> None:
    cluster = await made(tmp_path / "c")
    file = cluster.folder / "server-1-0.toml"
    host, port = cluster.address("server-1-0").split(":")
    with socket.create_server((host, int(port))):
        assert "cannot listen" in one_line(serve(file), 4)
    typo = cluster.folder / "typo.toml"
    typo.write_text(file.read_text().replace("controllers", "controlers"))
    assert "controlers" in one_line(serve(typo), 2)


async def test_hostile_connections_are_closed_and_nothing_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path / "c", SMALL) as cluster, clients(cluster) as (kv, _, _):
        values = await spread(kv, 12)
        host, port = cluster.address("server-1-0").split(":")
        hello = Hello(Kind.CLIENT).encode()
        for attack in (b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", hello + b"\xff\xff\xff\xff", hello + b"\0\0\0\1\xff"):
            stream = await trio.open_tcp_stream(host, int(port))
            async with stream:
                await stream.send_all(attack)
                with trio.fail_after(8):
                    while await stream.receive_some(4096):
                        pass
        await check(kv, values)
        async with shardkv.connect(controllers(cluster), cluster=bytes(16), deadline_s=0.3) as stranger:
            with pytest.raises(shardkv.Unavailable, match="this is cluster"):
                await stranger.get("k0")


async def test_a_client_that_stops_reading_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path / "c", SMALL) as cluster, clients(cluster) as (kv, _, _):
        big = b"x" * (1 << 20)
        await kv.put("big", big)
        host, port = cluster.address("server-1-0").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with stream:
            await stream.send_all(Hello(Kind.CLIENT).encode())
            assert await stream.receive_some(512)  # a request before the server's welcome would end the connection
            requests = [encode_request(i, int(Method.GET), [b"big"]) for i in range(200)]
            await stream.send_all(b"".join(encode_batch(requests)))
            with trio.fail_after(20):  # the server gives up on it, by itself
                while (
                    any("does not read" in e.get("text", "") for e in cluster.process("server-1-0").events()) is False
                ):
                    await trio.sleep(0.1)
        assert await kv.get("big") == (big, 1)


async def test_too_large_a_value_is_refused_at_every_edge(tmp_path: Path) -> None:
    async with running(tmp_path / "c", SMALL) as cluster, clients(cluster) as (kv, _, rpc):
        with pytest.raises(shardkv.Refused, match="at most"):
            await kv.put("k", b"x" * ((1 << 20) + 1))
        too_large = dumps([1, b"k", b"x" * ((1 << 20) + 1), None])
        reply = await rpc.call(cluster.address("server-1-0"), int(Method.WRITE), [0, 0, 0, 0, too_large], timeout_s=5)
        assert b"at most" in (reply if isinstance(reply, bytes) else json.dumps(reply).encode())
        await kv.put("k", b"x" * (1 << 20))
        with pytest.raises(shardkv.NoKey):
            await kv.get("other")
        assert len((await kv.router.config()).shards) == NSHARDS
