"""Lab 3, parts C and D: crashes, unreliable networks, snapshots (MIT 6.5840, `raft1`), by the names of the originals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from raftlog.net.sim import LONG_REORDERING
from tools.scenarios.asserts import require
from tools.scenarios.raft_agree import ELECTION_S, number
from tools.scenarios.raft_lab import MAX_LOG_BYTES, RaftLab
from tools.sim.world import World


async def persist1_3c(world: World) -> None:
    """All restart, then the leader, then the other leader, then a follower; nothing committed is lost."""
    lab = RaftLab(world, 3)
    await lab.one(b"11", 3)
    lab.crash()
    lab.restart(*lab.everybody())
    await lab.one(b"12", 3)
    leader = await lab.check_one_leader()
    lab.crash(leader)
    lab.restart(leader)
    await lab.one(b"13", 3)
    leader = await lab.check_one_leader()
    lab.crash(leader)
    await lab.one(b"14", 2)
    lab.restart(leader)
    await lab.wait(4, 3, None)
    follower = (await lab.check_one_leader() + 1) % 3
    lab.crash(follower)
    await lab.one(b"15", 2)
    lab.restart(follower)
    await lab.one(b"16", 3)


async def persist2_3c(world: World) -> None:
    """Two of five crash, then the other three, and come back piecemeal, five times."""
    lab = RaftLab(world, 5)
    value = 10
    for _ in range(5):
        await lab.one(number(value), 5)
        value += 1
        leader = await lab.check_one_leader()
        lab.crash((leader + 1) % 5, (leader + 2) % 5)
        await lab.one(number(value), 3)
        value += 1
        lab.crash(*((leader + i) % 5 for i in (0, 3, 4)))
        lab.restart((leader + 1) % 5, (leader + 2) % 5)
        await trio.sleep(ELECTION_S)
        lab.restart((leader + 3) % 5)
        await lab.one(number(value), 3)
        value += 1
        lab.restart((leader + 4) % 5, leader)
    await lab.one(b"1000", 5)


async def persist3_3c(world: World) -> None:
    """A cut-off follower and a crashed leader agree once they are the two that are up."""
    lab = RaftLab(world, 3)
    await lab.one(b"101", 3)
    leader = await lab.check_one_leader()
    lab.disconnect((leader + 2) % 3)
    await lab.one(b"102", 2)
    lab.crash(leader, (leader + 1) % 3)
    lab.connect((leader + 2) % 3)
    lab.restart(leader)
    await lab.one(b"103", 2)
    lab.restart((leader + 1) % 3)
    await lab.one(b"104", 3)


async def figure8_3c(world: World) -> None:
    """1000 rounds of starting everywhere and crashing the leader: figure 8's trap is not stepped into."""
    lab = RaftLab(world, 5)
    rng = world.rng("figure 8")
    await lab.one(number(rng.getrandbits(40)), 1)
    for _ in range(1000):
        leader = None
        for peer in lab.everybody():
            if lab.start(peer, number(rng.getrandbits(40))) is not None:
                leader = peer
        await trio.sleep(rng.random() * 0.5 if rng.random() < 0.1 else rng.random() * 0.013)
        if leader is not None:
            lab.crash(leader)
        if len(lab.group.peers) < 3:
            peer = rng.randrange(5)
            if peer not in lab.group.peers:
                lab.restart(peer)
    lab.restart(*(p for p in lab.everybody() if p not in lab.group.peers))
    await lab.one(number(rng.getrandbits(40)), 5)


async def unreliable_agree_3c(world: World) -> None:
    """200 commands, four at a time, over a lossy network."""
    lab = RaftLab(world, 5, unreliable=True)
    async with trio.open_nursery() as nursery:
        for round_number in range(1, 50):
            for j in range(4):
                nursery.start_soon(partial(lab.one, number(100 * round_number + j), 1))
            await lab.one(number(round_number), 1)
    lab.set_network(unreliable=False)
    await lab.one(b"100", 5)


async def figure8_unreliable_3c(world: World) -> None:
    """As figure 8, by disconnecting, over a lossy network that reorders from the 200th round on."""
    lab = RaftLab(world, 5, unreliable=True)
    rng = world.rng("figure 8 unreliable")
    await lab.one(number(rng.randrange(10000)), 1)
    up = 5
    for turn in range(1000):
        if turn == 200:
            lab.set_network(unreliable=True, reply_reorder=LONG_REORDERING.reply_reorder)
        leader = None
        for peer in lab.everybody():
            if lab.start(peer, number(rng.randrange(10000))) is not None and lab.connected[peer]:
                leader = peer
        await trio.sleep(rng.random() * 0.5 if rng.random() < 0.1 else rng.random() * 0.013)
        if leader is not None and rng.random() < 0.5:
            lab.disconnect(leader)
            up -= 1
        if up < 3:
            peer = rng.randrange(5)
            if not lab.connected[peer]:
                lab.connect(peer)
                up += 1
    lab.connect(*lab.everybody())
    await lab.one(number(rng.randrange(10000)), 5)


async def _churn(world: World, *, unreliable: bool) -> None:
    lab = RaftLab(world, 5, unreliable=unreliable)
    rng = world.rng("churn")
    stop = trio.Event()
    values: list[bytes] = []

    async def client(me: int) -> None:
        draws = world.rng("churn client", me)
        while not stop.is_set():
            command = number(draws.getrandbits(40))
            taken = None
            for peer in lab.everybody():
                taken = lab.start(peer, command) or taken
            if taken is None:
                await trio.sleep(0.079 + 0.017 * me)
                continue
            for pause in (0.01, 0.02, 0.05, 0.1, 0.2):
                found = lab.committed_by(taken[0])[1]
                if found is not None:
                    require(found.isdigit(), f"wrong command type: {found!r}")
                    if found == command:
                        values.append(command)
                    break
                await trio.sleep(pause)

    async with trio.open_nursery() as nursery:
        for me in range(3):
            nursery.start_soon(client, me)
        for _ in range(20):
            if rng.random() < 0.2:
                lab.disconnect(rng.randrange(5))
            if rng.random() < 0.5:
                peer = rng.randrange(5)
                if peer not in lab.group.peers:
                    lab.restart(peer)
                lab.connect(peer)
            if rng.random() < 0.2:
                lab.crash(rng.randrange(5))
            await trio.sleep(0.7)
        await trio.sleep(ELECTION_S)
        lab.set_network(unreliable=False)
        lab.restart(*(p for p in lab.everybody() if p not in lab.group.peers))
        lab.connect(*lab.everybody())
        stop.set()
    await trio.sleep(ELECTION_S)
    last = await lab.one(number(rng.getrandbits(40)), 5)
    kept = {await lab.wait(index, 5, None) for index in range(1, last + 1)}
    lost = [value for value in values if value not in kept]
    require(not lost, f"{len(lost)} values that were seen committed are not in the log")
    require(bool(values), "no client ever saw its value committed")


async def reliable_churn_3c(world: World) -> None:
    """Three clients while peers come and go: what a client saw committed stays."""
    await _churn(world, unreliable=False)


async def unreliable_churn_3c(world: World) -> None:
    """The same over a lossy network."""
    await _churn(world, unreliable=True)


async def _snapshots(world: World, *, disconnect: bool, unreliable: bool, crash: bool) -> None:
    """30 rounds of 5 to 14 commands; the log stays short; a victim that was away catches up by an image."""
    lab = RaftLab(world, 3, unreliable=unreliable, snapshots=True)
    rng = world.rng("snapshots")
    await lab.one(number(rng.getrandbits(40)), 3)
    leader = await lab.check_one_leader()
    for turn in range(30):
        victim, sender = (leader + 1) % 3, leader
        if turn % 3 == 1:
            sender, victim = (leader + 1) % 3, leader
        if disconnect:
            lab.disconnect(victim)
            await lab.one(number(rng.getrandbits(40)), 2)
        if crash:
            lab.crash(victim)
            await lab.one(number(rng.getrandbits(40)), 2)
        for _ in range(5 + rng.randrange(10)):
            lab.start(sender, number(rng.getrandbits(40)))
        if disconnect or crash:
            await lab.one(number(rng.getrandbits(40)), 2)
        else:
            await lab.one(number(rng.getrandbits(40)), 3)
        await trio.sleep(0.3)  # the flush and the purge come behind
        size = lab.log_bytes()
        require(size < MAX_LOG_BYTES, f"the log holds {size} bytes, below {MAX_LOG_BYTES} is asked")
        if disconnect:
            lab.connect(victim)
            await lab.one(number(rng.getrandbits(40)), 3)
            leader = await lab.check_one_leader()
        if crash:
            lab.restart(victim)
            await lab.one(number(rng.getrandbits(40)), 3)
            leader = await lab.check_one_leader()
    if disconnect or crash:
        require(lab.images_sent() > 0, "no image was ever sent: the scenario tests nothing")


async def snapshot_all_crash_3d(world: World) -> None:
    """All crash after some commands, five times, over a lossy network: the index goes on from where it was."""
    lab = RaftLab(world, 3, unreliable=True, snapshots=True)
    rng = world.rng("all crash")
    await lab.one(number(rng.getrandbits(40)), 3)
    for _ in range(5):
        for _ in range(5 + rng.randrange(10)):
            await lab.one(number(rng.getrandbits(40)), 3)
        before = await lab.one(number(rng.getrandbits(40)), 3)
        lab.crash()
        lab.restart(*lab.everybody())
        after = await lab.one(number(rng.getrandbits(40)), 3)
        require(after >= before + 1, f"index {after} after the crash, {before} before it")


async def snapshot_init_3d(world: World) -> None:
    """The state survives a crash with a purged log, and another one right after it."""
    lab = RaftLab(world, 3, unreliable=True, snapshots=True)
    rng = world.rng("init")
    await lab.one(number(rng.getrandbits(40)), 3)
    count = 11
    for _ in range(count):
        await lab.one(number(rng.getrandbits(40)), 3)
    for _ in range(2):
        await trio.sleep(0.3)
        lab.crash()
        lab.restart(*lab.everybody())
        await lab.one(number(rng.getrandbits(40)), 3)
    require(lab.committed_by(1)[0] == 3, "the first command is lost")


async def snapshot_basic_3d(world: World) -> None:
    """The log stays short without any image being sent."""
    await _snapshots(world, disconnect=False, unreliable=False, crash=False)


async def snapshot_install_3d(world: World) -> None:
    """A disconnected peer catches up by an image."""
    await _snapshots(world, disconnect=True, unreliable=False, crash=False)


async def snapshot_install_unreliable_3d(world: World) -> None:
    """The same over a lossy network."""
    await _snapshots(world, disconnect=True, unreliable=True, crash=False)


async def snapshot_install_crash_3d(world: World) -> None:
    """A crashed peer catches up by an image."""
    await _snapshots(world, disconnect=False, unreliable=False, crash=True)


async def snapshot_install_un_crash_3d(world: World) -> None:
    """The same over a lossy network."""
    await _snapshots(world, disconnect=False, unreliable=True, crash=True)


SCENARIOS: tuple[Callable[[World], object], ...] = (
    persist1_3c,
    persist2_3c,
    persist3_3c,
    figure8_3c,
    unreliable_agree_3c,
    figure8_unreliable_3c,
    reliable_churn_3c,
    unreliable_churn_3c,
    snapshot_basic_3d,
    snapshot_install_3d,
    snapshot_install_unreliable_3d,
    snapshot_install_crash_3d,
    snapshot_install_un_crash_3d,
    snapshot_all_crash_3d,
    snapshot_init_3d,
)
