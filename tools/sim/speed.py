"""How fast a group of three is simulated, in virtual seconds per second of one core: `python -m tools.sim.speed`."""

from __future__ import annotations

from time import process_time

import trio

from shardkv.kv_clerk import KvClerk
from shardkv.kvmachine import KvMachine
from tools.sim.group import SimGroup
from tools.sim.watch import Watch
from tools.sim.world import World, simulate

ROUNDS = 3
VIRTUAL_S = 100.0


async def _live(world: World, puts_per_s: float) -> float:
    """Virtual seconds per CPU second of a group that gets so many puts."""
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
    """Print the best of some rounds, each world in turn; every step is checked, as in `shardkv simulate`."""
    worlds = {"idle": 0.0, "20 puts/s": 20.0}
    found: dict[str, list[float]] = {name: [] for name in worlds}
    for seed in range(ROUNDS):
        for name, rate in worlds.items():
            found[name].append(simulate(lambda world, rate=rate: _live(world, rate), seed=seed))  # type: ignore[misc]
    for name, speeds in found.items():
        print(
            f"{name}: {max(speeds):.0f} virtual seconds per CPU second (rounds: {', '.join(f'{s:.0f}' for s in speeds)})"
        )


if __name__ == "__main__":
    main()
