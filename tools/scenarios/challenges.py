"""The challenges of the labs' earlier years (MIT 6.5840, `shardkv`), and their demand of few moves, in simulation: state
that is deleted once it has moved, shards that are served although others of the same change cannot move.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from raftlog.node_values import NodeLimits
from shardkv.clerk import Clerk
from shardkv.config import ShardConfig
from tools.scenarios.asserts import ends_within, require
from tools.scenarios.lab5 import Lab5, Scenario, StoreKind
from tools.sim.world import World

CHALLENGE_KEYS = 30
CHALLENGE_VALUE_BYTES = 1000
CHALLENGE_BYTES = 117_000
"""All keys on three replicas, three of them also in the memory of clients, and 6000 bytes of slop per replica."""
EVERY_ENTRY = NodeLimits(batch_operations=1, log_bytes=1, keep_bytes=0, flush_idle_s=0.05)
"""A snapshot at every entry: nothing that is applied stays in the log."""
SERVED_S = 5.0
"""How long reads and writes of the keys of some shards may take that must be served."""


async def challenge_1_delete(world: World, kind: StoreKind) -> int:
    """TestChallenge1Delete: 30 keys of 1000 bytes go round three groups, which all stay up; at the end the logs and
    snapshots of all their peers have 117,000 bytes at most."""
    lab = Lab5(world, kind, limits=EVERY_ENTRY)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk, size=CHALLENGE_VALUE_BYTES, keys=CHALLENGE_KEYS)
    some = list(lab.values)[:3]

    async def check_some(after_s: float) -> None:
        await trio.sleep(after_s)
        for key in some:
            await lab.check_get(clerk, key)

    for _ in range(2):
        for joins, leaves, last in ((2, 1, 3), (1, 3, None)):
            if last is None:
                await lab.leave(controller, 2, exit_group=False)
            await lab.join(controller, joins)
            await lab.leave(controller, leaves, exit_group=False)
            if last is not None:
                await lab.join(controller, last)
            await check_some(3.0)
    for gid in (2, 3):
        await lab.join(controller, gid)
    for _ in range(3):
        await check_some(1.0)
    held = {gid: lab.log_bytes(gid) + sum(lab.snapshot_bytes(gid)) for gid in (1, 2, 3)}
    require(sum(held.values()) <= CHALLENGE_BYTES, f"the groups hold {held} bytes, together {CHALLENGE_BYTES} at most")
    await lab.check_gets(clerk)
    return lab.ops


async def _write_and_read(lab: Lab5, clerk: Clerk, keys: Sequence[str], versions: dict[str, int], add: bytes) -> None:
    """Get, put and get again every key; they are served in time."""

    async def all_keys() -> None:
        for key in keys:
            version = versions.get(key, 1)
            require(await clerk.get(key) == (lab.values[key], version), f"{key} before it is written")
            lab.values[key] += add
            versions[key] = await clerk.put(key, lab.values[key], version)
            require(versions[key] == version + 1, f"{key} has version {versions[key]} after {version}")
            require(await clerk.get(key) == (lab.values[key], versions[key]), f"{key} after it was written")
            lab.ops += 3

    await ends_within(all_keys, SERVED_S, f"reads and writes of {len(keys)} keys that are served")


def _keys_of(lab: Lab5, config: ShardConfig, gid: int) -> list[str]:
    found = [key for key in lab.values if config.shards[config.shard_of(key)] == gid]
    require(bool(found), f"group {gid} has no key")
    return found


async def _check_all(lab: Lab5, clerk: Clerk, versions: dict[str, int]) -> None:
    for key, value in lab.values.items():
        require(await clerk.get(key) == (value, versions.get(key, 1)), f"{key} at the end")
        lab.ops += 1


async def challenge_2_unaffected(world: World, kind: StoreKind) -> int:
    """TestChallenge2Unaffected: group 1 dies and is to leave, which waits for it; group 2 serves its own shards all the
    while. Once group 1 is back, the leave ends and nothing is lost."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    await lab.join(controller, 2)
    await trio.sleep(1.0)
    keys = _keys_of(lab, (await controller.query()).current, 2)
    versions: dict[str, int] = {}
    await _write_and_read(lab, clerk, keys, versions, b" at 2")
    lab.cluster.group(1).crash()
    left = trio.Event()

    async def leave() -> None:
        await controller.leave([1])
        left.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.sleep(1.0)
        await _write_and_read(lab, clerk, keys, versions, b" alone")
        require(not left.is_set(), "the leave of a dead group with data ended")
        lab.cluster.start_group(1)
        lab.cluster.start_group(3)
        await ends_within(left.wait, 5.0, "the leave, once group 1 was back,")
    await _check_all(lab, clerk, versions)
    return lab.ops


async def challenge_2_partial(world: World, kind: StoreKind) -> int:
    """TestChallenge2Partial: groups 1 and 3 are to leave, and 1 is dead: group 2 serves what it got from 3 although the
    change cannot end. Once group 1 is back, it does and nothing is lost."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.start_groups(2, 3)
    await controller.join({gid: lab.cluster.servers(gid) for gid in (2, 3)})
    await trio.sleep(1.0)
    await lab.spread_puts(clerk)
    config = (await controller.query()).current
    keys = _keys_of(lab, config, 3)
    lab.cluster.group(1).crash()
    left = trio.Event()
    versions: dict[str, int] = {}

    async def leave() -> None:
        await controller.leave([1, 3])
        left.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.sleep(1.0)
        lab.cluster.group(3).crash()  # whoever asks it must find the new owner without it
        await _write_and_read(lab, clerk, keys, versions, b" moved")
        await _write_and_read(lab, clerk, _keys_of(lab, config, 2), versions, b" kept")
        require(not left.is_set(), "a change ended that moves shards of a dead group")
        lab.cluster.start_group(1)
        await ends_within(left.wait, 5.0, "the leave, once group 1 was back,")
    await _check_all(lab, clerk, versions)
    return lab.ops


def fewest_moves(old: ShardConfig, new: ShardConfig) -> int:
    """How many shards must move at least from `old` for a balance over the groups of `new`: a group can keep what it has
    up to its part, and some groups' part is one more when the shards do not divide evenly."""
    part, larger = divmod(len(new.shards), len(new.groups))
    counts = [old.shards.count(gid) for gid in new.groups]
    kept = sum(min(count, part) for count in counts) + min(larger, sum(count > part for count in counts))
    return len(new.shards) - kept


async def minimal_transfer(world: World, kind: StoreKind) -> int:
    """TestMulti's minimal transfers, on joins and leaves of one and of several groups: afterwards no group has two shards
    more than another, and only the fewest possible shards have moved. The data are all there."""
    lab = Lab5(world, kind)
    controller, clerk = await lab.set_up()
    await lab.spread_puts(clerk)
    changes: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("join", (2,)),
        ("join", (3, 4)),
        ("join", (5,)),
        ("leave", (2,)),
        ("join", (2, 6, 7)),
        ("leave", (1, 4)),
        ("leave", (7,)),
        ("leave", (2, 3, 5)),
        ("join", (1,)),
    )
    for what, gids in changes:
        old = (await controller.query()).current
        if what == "join":
            await lab.start_groups(*gids)
            await controller.join({gid: lab.cluster.servers(gid) for gid in gids})
        else:
            await controller.leave(gids)
        new = (await controller.query()).current
        new.check(sorted({*old.groups, *gids} if what == "join" else {*old.groups} - {*gids}))
        moved = sum(a != b for a, b in zip(old.shards, new.shards, strict=True))
        least = fewest_moves(old, new)
        require(moved == least, f"{what} {gids}: {moved} shards moved, {least} would do: {old} -> {new}")
    await lab.check_gets(clerk)
    return lab.ops


CHALLENGES: tuple[tuple[str, Scenario], ...] = (
    ("TestChallenge1Delete", challenge_1_delete),
    ("TestChallenge2Unaffected", challenge_2_unaffected),
    ("TestChallenge2Partial", challenge_2_partial),
    ("TestMinimalTransfer", minimal_transfer),
)
