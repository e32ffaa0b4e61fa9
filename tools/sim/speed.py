"""How fast a group of three is simulated, in virtual seconds per second of one core: `python -m tools.sim.speed`."""

from __future__ import annotations

from functools import partial
from time import process_time

import trio

from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine
from tools.sim.group import SimGroup
from tools.sim.watch import Watch
from tools.sim.world import World, simulate

ROUNDS = 3
VIRTUAL_S = 100.0


async def _live(world: World, puts_per_s: float, watched: bool) -> float:
    """Virtual seconds per CPU second of a group that gets so many puts."""
    if watched:
        world.watch = Watch()
    group = SimGroup(world, 0, 3, KvMachine)
    group.start()
    await group.wait_leader(5.0)
    clerk = KvClerk(world.net.rpc(world.host("client")), group.addresses, rng=world.rng("client"))
    began, cpu_s, number = world.now(), process_time(), 0
    while world.now() - began < VIRTUAL_S:
        if puts_per_s == 0:
            await trio.sleep(VIRTUAL_S)
            continue
        await clerk.put(f"k{number % 10}", b"x" * 128)
        number += 1
        await trio.sleep(max(0.0, began + number / puts_per_s - world.now()))
    return (world.now() - began) / (process_time() - cpu_s)


def main() -> None:
    """Print the best of some rounds, each world in turn. Watched: every step is checked, as in `shardkv simulate`."""
    worlds = [(rate, watched) for watched in (False, True) for rate in (0.0, 20.0)]
    found: dict[tuple[float, bool], list[float]] = {world: [] for world in worlds}
    for seed in range(ROUNDS):
        for rate, watched in worlds:
            found[rate, watched].append(simulate(partial(_live, puts_per_s=rate, watched=watched), seed=seed))
    for (rate, watched), speeds in found.items():
        name = f"{f'{rate:g} puts/s' if rate else 'idle'}{', watched' if watched else ''}"
        rounds = ", ".join(f"{speed:.0f}" for speed in speeds)
        print(f"{name}: {max(speeds):.0f} virtual seconds per CPU second (rounds: {rounds})")


if __name__ == "__main__":
    main()
