"""Real files, real processes: a peer whose records went bad says so, and is whole again without anybody's help."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

import shardkv
from raftlog.durable import HARD_COPY, LOG_TABLES
from shardkv.group import GroupMachine
from store.lmdb_engine import LmdbEngine
from tests.tools.inspect.small_peer import damage_record
from tools.cluster import LocalCluster
from tools.inspect.reader import findings
from tools.layout import ClusterError, Layout, WrongCall
from tools.processes import ProcessError
from tools.replacing import replace_peer

pytestmark = pytest.mark.process

PEER, OTHER = "server-1-1", "server-1-0"


async def until_whole(cluster: LocalCluster, name: str, least: int) -> dict[str, Any]:
    """The peer's status once it is whole, has applied so much, and was looked at from one end to the other."""
    with trio.fail_after(30):
        while True:
            status = await cluster.peer(name)
            if status is not None and status["health"] == "ok" and status["applied"][1] >= least and looked_at(status):
                return status
            await trio.sleep(0.05)


def looked_at(status: dict[str, Any]) -> bool:
    return bool(status["scrub"]["rounds"]) and status["mode"] == "voter"


def last_key(directory: Path, table: str) -> bytes:
    engine = LmdbEngine.open_readonly(directory / "log", LOG_TABLES)
    try:
        with engine.read() as txn:
            found = txn.last(table)
    finally:
        engine.close()
    assert found is not None
    return found[0]


def some_row(directory: Path) -> tuple[str, bytes]:
    for slot in (0, 1):
        table = f"{GroupMachine.tables[1]}@{slot}"
        engine = LmdbEngine.open_readonly(directory / "state", ("meta", table))
        try:
            with engine.read() as txn:
                for key, _ in txn.scan(table):
                    return table, key
        finally:
            engine.close()
    raise AssertionError("no row")


async def test_a_peer_mends_its_log_has_its_state_refilled_and_gets_a_successor(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    try:
        await cluster.up(Layout(ctrl_peers=1, groups=1))
        async with shardkv.connect(list(cluster.addresses(0).values())) as kv:
            for number in range(60):
                await kv.put(f"k{number}", b"value %d" % number)
            with trio.fail_after(30):  # that states are the same is seen by itself
                while not (status := await cluster.peer(PEER)) or status["agreed"][1] < 60:
                    await trio.sleep(0.05)
            before = await until_whole(cluster, PEER, 60)
            applied = before["applied"][1]

            await cluster.kill(PEER)  # entries that its state may not hold, and a line of its journal
            damage_record(tmp_path / PEER, "log", "entries", last_key(tmp_path / PEER, "entries"))
            damage_record(tmp_path / PEER, "log", "journal", last_key(tmp_path / PEER, "journal"))
            await cluster.start(PEER)
            status = await until_whole(cluster, PEER, applied)
            assert status["mended"] and (status["scrub"]["found"], status["scrub"]["mended"]) == (1, 1)

            await cluster.stop(PEER)  # a row, which nothing but the scrub reads
            damage_record(tmp_path / PEER, "state", *some_row(tmp_path / PEER))
            await cluster.start(PEER)
            status = await until_whole(cluster, PEER, applied)
            assert "corrupt record in table 'rows@" in status["mended"][0]
            assert await kv.get("k7") == (b"value 7", 1) and (tmp_path / PEER / "state.damaged").is_dir()

            await cluster.kill(PEER)  # both copies of what it promised, and then all of it
            for table, key in (("meta", b"hard"), ("journal", HARD_COPY)):
                damage_record(tmp_path / PEER, "log", table, key)
            with pytest.raises(ProcessError, match=f"shardkv peer replace {PEER}"):
                await cluster.start(PEER)
            at = await replace_peer(cluster, PEER)
            status = await until_whole(cluster, PEER, max(applied, at.index))
            assert status["incarnation"] > before["incarnation"]
            with pytest.raises(WrongCall, match="runs: end it first"):
                await replace_peer(cluster, PEER)
            await cluster.kill(PEER)
            shutil.rmtree(tmp_path / PEER)
            await cluster.kill(OTHER)
            with pytest.raises(ClusterError, match=f"{PEER} is not replaced"):
                await replace_peer(cluster, PEER, limit_s=2.0)
            await cluster.start(OTHER)
            await replace_peer(cluster, PEER)
            await until_whole(cluster, PEER, applied)
            assert await kv.get("k8") == (b"value 8", 1)
        await cluster.down()
        assert findings([tmp_path / name for name in cluster.manifest.names()]) == {}
    finally:
        with trio.CancelScope(shield=True):
            await cluster.kill_all()
