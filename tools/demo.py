"""`TestRaftPeerDown5D` on real processes: a controller group loses a peer, goes on, and gets it back from its own disk.

60 puts and 60 gets; `kill -9` of a controller peer; group 2 joins; 60 gets; group 1 leaves; a query. One key each, one
after another. Then the killed peer restarts, and counts as recovered only if

* before it opens a socket, it reports from its disk the last position, term and configuration that `inspect info` found
  in the dead directory;
* its state hash equals its peers' at equal `applied`;
* another controller peer is killed, so that the restarted one is needed for the quorum, and a query and a change succeed.

Last, `inspect verify` judges every directory. With a kvsrv as store there is one server: it is killed and restarted a
second later; the join blocks meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

import shardkv
from ctrler.clerk import ControllerClerk
from raftlog.net.base import RpcClient
from tools.admin import control, network, peer_statuses
from tools.cluster import LocalCluster
from tools.inspect.reader import findings, peer_info
from tools.layout import Layout

KEYS = 60
QUERY_LIMIT_S = 2.0
KVSRV_DOWN_S = 1.0

Tell = Callable[[str], None]


class DemoFailed(Exception):
    """The scenario did not hold; the text says what."""


@dataclass
class Outcome:
    """One run. The fields are the keys of `demo --json`; times in seconds."""

    passed: bool = False
    peers: int = 0
    store: str = ""
    down: str = ""
    lease_reads: bool = False
    seconds: float = 0.0
    rpcs: int = 0
    ops: int = 0
    query_seconds: float = 0.0
    recovered: bool = False
    startup_seconds: float = 0.0
    recovery_seconds: float = 0.0
    total_seconds: float = 0.0
    killed: str = ""
    findings: list[str] = field(default_factory=list)
    error: str = ""


@dataclass
class Stage:
    """What a run works with."""

    cluster: LocalCluster
    kv: shardkv.Clerk
    ctl: ControllerClerk
    rpc: RpcClient
    tell: Tell
    outcome: Outcome

    async def counted(self) -> dict[str, int]:
        """Requests that every running peer has handed to the network so far. The asking itself is not counted."""
        statuses = await peer_statuses(self.rpc, self.cluster.addresses())
        return {name: status["requests_sent"] for name, status in statuses.items() if status}


@asynccontextmanager
async def stage(folder: Path, layout: Layout, tell: Tell, outcome: Outcome) -> AsyncIterator[Stage]:
    """A fresh cluster of real processes, with clients; every process is ended, whatever happens."""
    cluster = LocalCluster(folder, lambda line: None)
    try:
        began = time.monotonic()
        await cluster.up(layout)
        outcome.startup_seconds = time.monotonic() - began
        controllers = list(cluster.addresses(0).values())
        admin = network(cluster.manifest.cluster)
        calls = network(cluster.manifest.cluster)
        async with admin as rpc, calls as control_rpc, shardkv.connect(controllers, deadline_s=30.0) as kv:
            yield Stage(cluster, kv, control(control_rpc, controllers), rpc, tell, outcome)
    finally:
        with trio.CancelScope(shield=True):
            await cluster.kill_all()


def value_of(number: int) -> bytes:
    """20 bytes, as in the original."""
    return f"value-{number:014}".encode()


async def check_gets(at: Stage) -> None:
    """Every key with its value and version 1."""
    for number in range(KEYS):
        found = await at.kv.get(f"k{number}")
        if found != (value_of(number), 1):
            raise DemoFailed(f"k{number} is {found}, it must be {value_of(number)!r} with version 1")
        at.outcome.ops += 1


async def run_demo(
    folder: Path, *, peers: int, store: str, down: str, tell: Tell, lease_reads: bool = False
) -> Outcome:
    """One run in a new directory. Never raises for a scenario that fails: the outcome says it."""
    outcome = Outcome(peers=peers, store=store, down=down, lease_reads=lease_reads)
    began = time.monotonic()
    layout = Layout(ctrl_peers=peers, groups=2, replicas=3, store=store, join=False, lease_reads=lease_reads)
    try:
        tell(f"starting {peers} controller peer{'s' * (peers > 1)} ({store}) and groups 1 and 2 of 3 peers each")
        async with stage(folder, layout, tell, outcome) as at:
            tell("every group has a leader; group 1 owns all 12 shards")
            await (_kvsrv_scenario if store == "kvsrv" else _raft_scenario)(at)
            await at.cluster.down()
        _verify(folder, outcome, tell)
        outcome.passed = not outcome.findings and outcome.recovered
    except* (DemoFailed, Exception) as group:  # noqa: BLE001  # tidy: whatever a run ends with is its outcome, told below
        outcome.error = "; ".join(f"{type(e).__name__}: {e}" for e in _leaves(group))
    outcome.total_seconds = time.monotonic() - began
    return outcome


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _verify(folder: Path, outcome: Outcome, tell: Tell) -> None:
    directories = sorted(p for p in folder.glob("server-*-*") if p.is_dir())
    found = findings(directories)
    outcome.findings = [f"{place}: {finding}" for place, told in found.items() for finding in told]
    tell(f"inspect verify: {len(directories)} directories, " + ("fine" if not outcome.findings else "FINDINGS"))


# --- the scenario ----------------------------------------------------------------------------------------------------


async def spread(at: Stage) -> None:
    """60 puts of new keys, and a get of each."""
    for number in range(KEYS):
        if await at.kv.put(f"k{number}", value_of(number), 0) != 1:
            raise DemoFailed(f"k{number} was not new")
    await check_gets(at)


async def choose(at: Stage) -> tuple[str, str]:
    """(the controller peer to kill, the one that leads)."""
    leader = await at.cluster.leader(0)
    followers = [name for name in at.cluster.addresses(0) if name != leader]
    return (leader if at.outcome.down == "leader" else followers[0]), leader


async def join_and_leave(at: Stage) -> None:
    """Group 2 joins, 60 gets, group 1 leaves, a query."""
    tell, groups = at.tell, at.cluster
    await at.ctl.join({2: list(groups.addresses(2).values())})
    if 2 not in (await at.ctl.query()).groups:
        raise DemoFailed("group 2 is no member after its join")
    tell("group 2 has joined: 6 shards moved")
    await check_gets(at)
    tell(f"{KEYS} gets: every value there, every version 1")
    await at.ctl.leave([1])
    began = time.monotonic()
    config = await at.ctl.query()
    at.outcome.query_seconds = time.monotonic() - began
    if 1 in config.groups:
        raise DemoFailed("group 1 is a member after it left")
    if at.outcome.query_seconds > QUERY_LIMIT_S:
        raise DemoFailed(f"the query took {at.outcome.query_seconds:.1f} s, at most {QUERY_LIMIT_S} s are allowed")
    tell(f"group 1 has left; the query answered in {at.outcome.query_seconds * 1000:.1f} ms")


async def _raft_scenario(at: Stage) -> None:
    outcome, cluster, tell = at.outcome, at.cluster, at.tell
    victim, leader = await choose(at)
    before = await at.counted()
    clients = at.kv.requests_sent + at.ctl.requests_sent
    began = time.monotonic()
    await spread(at)
    tell(f"{KEYS} puts, {KEYS} gets")
    last_count = (await peer_statuses(at.rpc, {victim: cluster.address(victim)}))[victim]["requests_sent"]
    await cluster.kill(victim)
    outcome.killed = victim
    tell(f"kill -9 {victim}, " + ("which led the controllers" if victim == leader else "a follower of the controllers"))
    await join_and_leave(at)
    outcome.seconds = time.monotonic() - began
    after = {**(await at.counted()), victim: last_count}
    outcome.rpcs = sum(after.values()) - sum(before.values()) + at.kv.requests_sent + at.ctl.requests_sent - clients
    await _recover(at, victim)


async def _recover(at: Stage, victim: str) -> None:
    """The killed peer comes back, from its disk and no other place, and is needed at once."""
    cluster, tell = at.cluster, at.tell
    dead = await trio.to_thread.run_sync(peer_info, cluster.folder / victim)
    began = time.monotonic()
    await cluster.start(victim)
    said = await _recovered_event(cluster, victim)
    for key in ("last", "term", "applied", "config"):
        if said.get(key) != dead.get(key):
            raise DemoFailed(f"{victim} recovered {key} {said.get(key)}, its dead directory had {dead.get(key)}")
    tell(f"{victim} is back: from its disk, term {said['term']}, last entry {said['last'][0]}:{said['last'][1]}")
    await _same_state(at)
    at.outcome.recovery_seconds = time.monotonic() - began
    tell("caught up: all controller peers have the same state hash at the same applied position")
    num = (await at.ctl.query()).num
    others = [n for n in cluster.running(0) if n != victim]
    for other in others[: (at.outcome.peers - 1) // 2]:
        await cluster.kill(other)
        tell(f"kill -9 {other}: now {victim} is needed for the quorum")
    await at.ctl.query(deadline_s=20)
    if await at.ctl.join({1: list(cluster.addresses(1).values())}) != num + 1:
        raise DemoFailed("the change after the recovery is not the next configuration")
    await check_gets_uncounted(at)
    tell("a query and a change succeed with it")
    at.outcome.recovered = True


async def check_gets_uncounted(at: Stage) -> None:
    """The gets after the scenario: they do not count as its operations."""
    ops = at.outcome.ops
    await check_gets(at)
    at.outcome.ops = ops


async def _recovered_event(cluster: LocalCluster, name: str) -> dict[str, Any]:
    """What the peer said of its disk at its last start, and that it said so before it opened its port."""
    events = cluster.process(name).events()
    order = [event["event"] for event in events]
    if "recovered" not in order or "listening" not in order or order.index("recovered") > order.index("listening"):
        raise DemoFailed(f"{name} did not report its disk before it opened its port: {order}")
    return events[order.index("recovered")]


async def _same_state(at: Stage) -> None:
    """All running controller peers: equal state hashes at an equal applied position."""
    addresses = {n: at.cluster.address(n) for n in at.cluster.running(0)}
    with trio.move_on_after(15):
        while True:
            statuses = [s for s in (await peer_statuses(at.rpc, addresses)).values() if s]
            applied = {tuple(s["applied"]) for s in statuses}
            if len(statuses) == len(addresses) and len(applied) == 1:
                hashes = {s["state_hash"] for s in statuses}
                if len(hashes) == 1:
                    return
                raise DemoFailed(f"different state hashes at applied {applied}: {hashes}")
            await trio.sleep(0.02)
    raise DemoFailed("the controller peers did not come to the same applied position in 15 s")


async def _kvsrv_scenario(at: Stage) -> None:
    """One server: it is killed, join and query block, it comes back from its disk, and nothing is lost."""
    outcome, cluster, tell = at.outcome, at.cluster, at.tell
    (victim,) = cluster.addresses(0)
    before = await at.counted()
    clients = at.kv.requests_sent + at.ctl.requests_sent
    began = time.monotonic()
    await spread(at)
    tell(f"{KEYS} puts, {KEYS} gets")
    last_count = (await peer_statuses(at.rpc, {victim: cluster.address(victim)}))[victim]["requests_sent"]
    await cluster.kill(victim)
    outcome.killed = victim
    dead = await trio.to_thread.run_sync(peer_info, cluster.folder / victim)
    tell(f"kill -9 {victim}: the only config store; the join waits")

    async def come_back() -> None:
        await trio.sleep(KVSRV_DOWN_S)
        restarted = time.monotonic()
        await cluster.start(victim)
        outcome.recovery_seconds = time.monotonic() - restarted
        tell(f"{victim} is back from its disk")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_back)
        await join_and_leave(at)
    outcome.seconds = time.monotonic() - began
    after = await at.counted()
    counts = sum(after.values()) + last_count - sum(before.values())
    outcome.rpcs = counts + at.kv.requests_sent + at.ctl.requests_sent - clients
    said = await _recovered_event(cluster, victim)
    if said["config"] != dead["config"]:
        raise DemoFailed(f"{victim} recovered configuration {said['config']}, its dead directory had {dead['config']}")
    outcome.recovered = True
