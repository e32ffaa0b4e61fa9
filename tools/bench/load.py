"""A load generator as a process: `python -m tools.bench.load`, a `Job` as one line of JSON on standard input.

It writes lines of JSON: {"event": "ready"} when it knows where the servers are; then it waits for a line on standard input;
{"event": "measuring"} after the warm-up; {"event": "done", ...} with the keys of `Measured`, or {"event": "error", "text"}.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import trio

from raftlog.net.base import NetworkError
from shardkv.config import shard_of
from shardkv.errors import KvError
from shardkv.group_clerk import GroupClerk
from shardkv.replies import Code
from shardkv.routing import QUERY, decode_routing
from tools.admin import network, peer_statuses
from tools.bench.figures import Histogram
from tools.bench.sessions import clerk_load
from tools.bench.wire import LoadError, Routes, Times, WireLoad
from tools.bench.workload import Job
from tools.workers import end_with

FIND_S = 15.0
"""How long the groups may take to be found and to have leaders, in seconds."""


@dataclass
class Measured:
    """What a generator measured: `gets` and `puts` are counts by bucket of a `figures.Histogram`; `cpu_s` is its own CPU
    time while it measured; `repeated` counts requests that were sent more than once."""

    gets: dict[int, int]
    puts: dict[int, int]
    seconds: float
    cpu_s: float
    repeated: int


def tell(event: str, **fields: Any) -> None:
    """Write a line for whoever started us."""
    print(json.dumps({"event": event, **fields}), flush=True)


async def find_routes(controllers: tuple[str, ...]) -> Routes:
    """Ask the controllers who serves what, and the groups who leads. Raises `LoadError`."""
    async with network(b"") as rpc:
        with trio.move_on_after(FIND_S):
            reply = await GroupClerk(rpc, 0, controllers, rng=Random()).call(QUERY, [None], deadline_s=FIND_S)
            if reply[0] != Code.OK:
                raise LoadError(f"the controllers refused a query: {reply!r:.100}")
            routing = decode_routing(reply[1:])
            owners = routing.current.shards
            servers: dict[int, list[str]] = {}
            for gid in sorted(set(owners)):
                addresses = routing.addresses[gid]
                while gid not in servers:
                    statuses = await peer_statuses(rpc, {address: address for address in addresses})
                    leaders = [name for name, status in statuses.items() if status.get("role") == "leader"]
                    if leaders:
                        leader = max(leaders, key=lambda name: int(statuses[name]["term"]))
                        servers[gid] = [leader, *(address for address in addresses if address != leader)]
                    else:
                        await trio.sleep(0.02)
            return Routes(lambda key: shard_of(key, len(owners)), owners, servers)
    raise LoadError(f"not every group has a leader after {FIND_S:.0f} s")


def play(job: Job) -> Measured | None:
    """Do what the job says. Raises `LoadError`."""
    rng = Random(job.seed)
    cpu = 0.0

    def on_measuring() -> None:
        nonlocal cpu
        tell("measuring")
        cpu = time.process_time()

    routes = trio.run(find_routes, job.controllers)
    tell("ready")
    sys.stdin.readline()
    # A collection in the middle would stop all sessions at once and be measured as the servers' latency.
    gc.collect()
    gc.freeze()
    times: Times | None = None
    if job.workload.driver == "clerk" and job.fill is None:
        times = trio.run(clerk_load, job.controllers, job.workload, rng, job.warm_up_s, job.measure_s, on_measuring)
    else:
        load = WireLoad(job.workload, routes, rng)
        try:
            if job.fill is not None:
                load.fill(*job.fill)
            else:
                times = load.run(job.warm_up_s, job.measure_s, on_measuring)
        finally:
            load.close()
    cpu = time.process_time() - cpu
    if times is None:
        return None
    gets, puts = (Histogram.of(found).counts for found in (times.gets, times.puts))
    return Measured(gets, puts, times.seconds, cpu, times.repeated)


def main() -> int:
    """Run one job; return the exit code."""
    end_with(os.getppid())
    try:
        measured = play(Job.read(json.loads(sys.stdin.readline())))
    except (LoadError, KvError, NetworkError, BaseExceptionGroup) as error:
        if not isinstance(first := _first(error), LoadError | KvError | NetworkError):
            raise
        tell("error", text=str(first))
        return 1
    tell("done", **(asdict(measured) if measured is not None else {}))
    return 0


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main())
