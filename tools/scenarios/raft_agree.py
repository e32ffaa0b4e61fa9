"""Lab 3, parts A and B: elections and agreement (MIT 6.5840, `raft1`), by the names of the originals."""

from __future__ import annotations

import trio

from tools.scenarios.asserts import require
from tools.scenarios.raft_lab import RaftLab
from tools.sim.world import World

ELECTION_S = 1.0
"""The labs' RaftElectionTimeout."""


def number(value: int) -> bytes:
    """A command."""
    return str(value).encode()


async def initial_election_3a(world: World) -> None:
    """One leader; equal terms of at least 1; still one leader 2 s later."""
    lab = RaftLab(world, 3)
    await lab.check_one_leader()
    await trio.sleep(0.05)
    require(lab.check_terms() >= 1, "the term is below 1")
    await trio.sleep(2 * ELECTION_S)
    await lab.check_one_leader()


async def re_election_3a(world: World) -> None:
    """A leader whenever a quorum is connected, none when not."""
    lab = RaftLab(world, 3)
    first = await lab.check_one_leader()
    lab.disconnect(first)
    await lab.check_one_leader()
    lab.connect(first)
    second = await lab.check_one_leader()
    lab.disconnect(second, (second + 1) % 3)
    await trio.sleep(2 * ELECTION_S)
    lab.check_no_leader()
    lab.connect((second + 1) % 3)
    await lab.check_one_leader()
    lab.connect(second)
    await lab.check_one_leader()


async def many_elections_3a(world: World) -> None:
    """7 peers, 9 times 3 random ones disconnected: always exactly one leader."""
    lab = RaftLab(world, 7)
    rng = world.rng("many elections")
    await lab.check_one_leader()
    for _ in range(9):
        chosen = [rng.randrange(7) for _ in range(3)]
        lab.disconnect(*chosen)
        await lab.check_one_leader()
        lab.connect(*chosen)
    await lab.check_one_leader()


async def basic_agree_3b(world: World) -> None:
    """Command i is committed at index i by all, and nothing before it was started."""
    lab = RaftLab(world, 3)
    for index in (1, 2, 3):
        require(lab.committed_by(index)[0] == 0, "something is committed before Start")
        found = await lab.one(number(index * 100), 3, retry=False)
        require(found == index, f"got index {found}, expected {index}")


async def rpc_bytes_3b(world: World) -> None:
    """Each command is sent to each peer once."""
    lab = RaftLab(world, 3)
    await lab.one(b"99", 3, retry=False)
    before = world.net.bytes_total
    rng = world.rng("bytes")
    for index in range(2, 12):
        found = await lab.one(rng.randbytes(2500).hex().encode(), 3, retry=False)
        require(found == index, f"got index {found}, expected {index}")
    sent = world.net.bytes_total - before
    require(sent <= 3 * 50_000 + 50_000, f"{sent} bytes for ten commands of 5000, at most 200,000")


async def follower_failure_3b(world: World) -> None:
    """Agreement with one follower away, none with both away."""
    lab = RaftLab(world, 3)
    await lab.one(b"101", 3, retry=False)
    leader = await lab.check_one_leader()
    lab.disconnect((leader + 1) % 3)
    await lab.one(b"102", 2, retry=False)
    await trio.sleep(ELECTION_S)
    await lab.one(b"103", 2, retry=False)
    leader = await lab.check_one_leader()
    lab.disconnect((leader + 1) % 3, (leader + 2) % 3)
    taken = lab.start(leader, b"104")
    require(taken is not None and taken[0] == 4, f"the leader took the command as {taken}, expected index 4")
    await trio.sleep(2 * ELECTION_S)
    require(lab.committed_by(4)[0] == 0, "committed without a majority")


async def leader_failure_3b(world: World) -> None:
    """Agreement without the first leader, none without the second."""
    lab = RaftLab(world, 3)
    await lab.one(b"101", 3, retry=False)
    lab.disconnect(await lab.check_one_leader())
    await lab.one(b"102", 2)
    await trio.sleep(ELECTION_S)
    await lab.one(b"103", 2)
    lab.disconnect(await lab.check_one_leader())
    for peer in lab.everybody():
        lab.start(peer, b"104")
    await trio.sleep(2 * ELECTION_S)
    require(lab.committed_by(4)[0] == 0, "committed without a majority")


async def fail_agree_3b(world: World) -> None:
    """A follower that was away catches up."""
    lab = RaftLab(world, 3)
    await lab.one(b"101", 3, retry=False)
    leader = await lab.check_one_leader()
    away = (leader + 1) % 3
    lab.disconnect(away)
    await lab.one(b"102", 2, retry=False)
    await lab.one(b"103", 2, retry=False)
    await trio.sleep(ELECTION_S)
    await lab.one(b"104", 2, retry=False)
    await lab.one(b"105", 2, retry=False)
    lab.connect(away)
    await lab.one(b"106", 3)
    await trio.sleep(ELECTION_S)
    await lab.one(b"107", 3)


async def fail_no_agree_3b(world: World) -> None:
    """No agreement with three of five followers away; agreement at index 2 or 3 once they are back."""
    lab = RaftLab(world, 5)
    await lab.one(b"10", 5, retry=False)
    leader = await lab.check_one_leader()
    away = [(leader + i) % 5 for i in (1, 2, 3)]
    lab.disconnect(*away)
    taken = lab.start(leader, b"20")
    require(taken is not None and taken[0] == 2, f"the leader took the command as {taken}, expected index 2")
    await trio.sleep(2 * ELECTION_S)
    require(lab.committed_by(2)[0] == 0, "committed without a majority")
    lab.connect(*away)
    leader = await lab.check_one_leader()
    taken = lab.start(leader, b"30")
    require(taken is not None and taken[0] in (2, 3), f"the leader took the command as {taken}, expected index 2 or 3")
    await lab.one(b"1000", 5)


async def concurrent_starts_3b(world: World) -> None:
    """Five commands started in one term are all committed."""
    lab = RaftLab(world, 3)
    for attempt in range(5):
        if attempt:
            await trio.sleep(3.0)
        leader = await lab.check_one_leader()
        first = lab.start(leader, b"1")
        if first is None:
            continue
        taken = [lab.start(leader, number(100 + i)) for i in range(5)]
        if any(t is None or t[1] != first[1] for t in taken):
            continue
        found = [await lab.wait(t[0], 3, first[1]) for t in taken if t is not None]
        if None in found:
            continue
        require(found == [number(100 + i) for i in range(5)], f"committed {found}")
        return
    require(False, "the term changed too often")


async def rejoin_3b(world: World) -> None:
    """A leader that was cut off drops what it could not commit."""
    lab = RaftLab(world, 3)
    await lab.one(b"101", 3)
    first = await lab.check_one_leader()
    lab.disconnect(first)
    for value in (102, 103, 104):
        lab.start(first, number(value))
    await lab.one(b"103", 2)
    second = await lab.check_one_leader()
    lab.disconnect(second)
    lab.connect(first)
    await lab.one(b"104", 2)
    lab.connect(second)
    await lab.one(b"105", 3)


async def backup_3b(world: World) -> None:
    """Long conflicting suffixes are replaced fast."""
    lab = RaftLab(world, 5)
    rng = world.rng("backup")

    def command() -> bytes:
        return number(rng.getrandbits(40))

    await lab.one(command(), 5)
    leader = await lab.check_one_leader()
    lab.disconnect(*((leader + i) % 5 for i in (2, 3, 4)))
    for _ in range(50):
        lab.start(leader, command())
    await trio.sleep(ELECTION_S / 2)
    lab.disconnect(leader, (leader + 1) % 5)
    lab.connect(*((leader + i) % 5 for i in (2, 3, 4)))
    for _ in range(50):
        await lab.one(command(), 3)
    second = await lab.check_one_leader()
    other = (leader + 2) % 5 if second != (leader + 2) % 5 else (leader + 3) % 5
    lab.disconnect(other)
    for _ in range(50):
        lab.start(second, command())
    await trio.sleep(ELECTION_S / 2)
    lab.disconnect(*lab.everybody())
    lab.connect(leader, (leader + 1) % 5, other)
    for _ in range(50):
        await lab.one(command(), 3)
    lab.connect(*lab.everybody())
    await lab.one(command(), 5)


async def count_3b(world: World) -> None:
    """Elections, agreement and idleness cost few requests."""
    lab = RaftLab(world, 3)
    leader = await lab.check_one_leader()
    count = lab.requests_received()
    require(1 <= count <= 30, f"{count} requests to elect the first leader")
    for attempt in range(5):
        if attempt:
            await trio.sleep(3.0)
        leader = await lab.check_one_leader()
        before = lab.requests_received()
        first = lab.start(leader, b"1")
        if first is None:
            continue
        taken = [lab.start(leader, number(2 + i)) for i in range(11)]
        found = [await lab.wait(first[0] + 1 + i, 3, first[1]) for i in range(10)]
        if any(t is None or t[1] != first[1] for t in taken) or None in found:
            continue
        require(found == [number(2 + i) for i in range(10)], f"committed {found}")
        count = lab.requests_received() - before
        require(count <= (10 + 1 + 3) * 3, f"{count} requests for 10 commands")
        break
    else:
        require(False, "the term changed too often")
    await trio.sleep(ELECTION_S)
    before = lab.requests_received()
    await trio.sleep(ELECTION_S)
    count = lab.requests_received() - before
    require(count <= 3 * 20, f"{count} requests in an idle second")


SCENARIOS = (
    initial_election_3a,
    re_election_3a,
    many_elections_3a,
    basic_agree_3b,
    rpc_bytes_3b,
    follower_failure_3b,
    leader_failure_3b,
    fail_agree_3b,
    fail_no_agree_3b,
    concurrent_starts_3b,
    rejoin_3b,
    backup_3b,
    count_3b,
)
