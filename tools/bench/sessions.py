"""The load generator of users: clerks, one per client, a task each, as a service on Trio would use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from random import Random, SystemRandom
from time import perf_counter

import trio

from raftlog.net.tcp import TcpRpcClient
from shardkv.clerk import Clerk
from shardkv.client import make_clerk
from tools.bench.wire import Times
from tools.bench.workload import Workload, draws, key_of, value_of


async def clerk_load(
    controllers: Sequence[str],
    workload: Workload,
    rng: Random,
    warm_up_s: float,
    measure_s: float,
    on_measuring: Callable[[], None],
) -> Times:
    """Warm up, measure, and return the times. Raises `KvError` for what a clerk could not do."""
    times = Times()
    picked = draws(workload.choice, workload.keys, rng)
    is_get = [rng.random() < workload.reads for _ in picked]
    keys = [key_of(number, workload.value_bytes) for number in range(workload.keys)]
    value = value_of(rng, workload.value_bytes)
    measuring = False

    async def client(clerk: Clerk, at: int) -> None:
        while True:
            at = (at + 1) % len(picked)
            began = perf_counter()
            if is_get[at]:
                await clerk.get(keys[picked[at]])
            else:
                await clerk.put(keys[picked[at]], value)
            if measuring:
                (times.gets if is_get[at] else times.puts).append(perf_counter() - began)

    async with AsyncExitStack() as stack:
        lanes = workload.connections or workload.clients
        networks = [await stack.enter_async_context(TcpRpcClient()) for _ in range(lanes)]
        async with trio.open_nursery() as nursery:
            for number in range(workload.clients):
                clerk = make_clerk(networks[number % lanes], controllers, SystemRandom())
                nursery.start_soon(client, clerk, rng.randrange(len(picked)))
            await trio.sleep(warm_up_s)
            on_measuring()
            measuring, began = True, perf_counter()
            await trio.sleep(measure_s)
            times.seconds = perf_counter() - began
            nursery.cancel_scope.cancel()
    return times
