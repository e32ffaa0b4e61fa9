"""The program that is recorded for `peer`: one peer of a shard group, with the limits of a log that is purged often.

`python -m tools.powercut.peer_load FILE [PLANTED]`: FILE is a `Plan` as JSON. The directory is made if it is not there.
Marks: `created`; `recovered N` at start number N; `step NAME` when a durable step is done; `cuts N` at the end of a life, how
often its log was cut. SIGTERM ends a life in good order; as many as planned follow each other in this process, which dies
with its parent. Events go to standard output as JSON lines.

What the peer acknowledges is not marked: it is what it sends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import trio

    from shardkv.host import PeerHost, PeerSpec

GID = 1
SHARDS = 1
CLUSTER = bytes(range(16))
LOG_BYTES, KEEP_BYTES = 48 << 10, 12 << 10
FLUSH_BYTES, FLUSH_IDLE_S = 24 << 10, 0.1
LARGE_BYTES = 14_000

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Which peer, where, with whom. `lives`: how often it is started in one process."""

    directory: str
    peer: int
    ports: list[int]
    marks: str
    lives: int = 1

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return asdict(self)


def value_of(key: str, number: int) -> bytes:
    """What the load writes to a key the N-th time; it begins with the number."""
    rng = Random(f"{key}/{number}")
    length = LARGE_BYTES if key.startswith("large") else rng.choice((10, 100, 400, 1500))
    return b"%d " % number + rng.randbytes(length)


def spec_of(directory: Path, peer: int, ports: list[int]) -> PeerSpec:
    """What the peer is told."""
    from raftlog.node_values import NodeLimits
    from shardkv.host import PeerSpec

    limits = NodeLimits(log_bytes=LOG_BYTES, keep_bytes=KEEP_BYTES, flush_bytes=FLUSH_BYTES, flush_idle_s=FLUSH_IDLE_S)
    addresses = {at: ("127.0.0.1", port) for at, port in enumerate(ports)}
    incarnations = {at: 1000 + at for at in addresses}
    return PeerSpec(
        CLUSTER,
        GID,
        peer,
        incarnations[peer],
        directory,
        addresses[peer],
        addresses,
        incarnations,
        shards=SHARDS,
        limits=limits,
    )


def main(plan: Plan) -> None:
    """Make it if it is not there, and live."""
    import trio

    from shardkv.group import GroupMachine
    from shardkv.host import PeerHost, create_peer
    from store.failpoints import PLACES
    from tools.serve import SWITCH_INTERVAL_S

    die_with_parent()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    handle = os.open(plan.marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def mark(text: str) -> None:
        os.write(handle, f"{text}\n".encode())

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "recovered":
            mark(f"recovered {event['boot']}")
        print(json.dumps(event, default=str), flush=True)

    print(json.dumps({"event": "begun", "pid": os.getpid()}), flush=True)
    spec = spec_of(Path(plan.directory), plan.peer, plan.ports)
    if not (spec.directory / "log").exists():
        create_peer(spec)
        mark("created")
    for name, place in PLACES.items():
        if name.endswith(".done"):
            place.set("mark", partial(mark, f"step {name.removesuffix('.done')}"))
    for _ in range(plan.lives):
        host = PeerHost(spec, GroupMachine(SHARDS), on_event)
        trio.run(_live, host)
        mark(f"cuts {host.node.core.state.rare.get('truncate', 0)}")


async def _live(host: PeerHost) -> None:
    """From a start to SIGTERM."""
    import trio

    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_told, signals, stop)
            await host.run(stop)
            nursery.cancel_scope.cancel()


async def _stop_when_told(signals: Any, stop: trio.Event) -> None:
    async for _ in signals:
        stop.set()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends and even while this one is stopped."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


if __name__ == "__main__":
    if sys.argv[2:]:
        from tools.mutants.planting import plant
        from tools.powercut.planted import PLANTED

        plant(PLANTED[sys.argv[2]])
    main(Plan(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
