"""What a seed draws: the shape of the cluster, the constants of its configuration, and which faults exist, how often.

Each kind of fault is there in a share of the seeds only, so that its absence is tried too: a world with everything at once
hides what needs a quiet hour to go wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from raftlog.config import RaftConfig
from raftlog.net.sim import NetConditions
from raftlog.node_values import NodeLimits
from store.writer import FAST_S
from tools.sim.disk import DiskConditions
from tools.sim.world import sub_rng

FAULTS = {
    "crash one": 3.0,
    "crash a leader": 3.0,
    "crash new leaders": 2.0,
    "crash a majority": 1.0,
    "crash all": 0.6,
    "pause": 2.0,
    "pause a leader": 2.0,
    "isolate a leader": 3.0,
    "split": 2.0,
    "ring": 1.0,
    "one-way cut": 2.0,
    "cut a group from another": 1.5,
    "bad link": 2.0,
    "disk stalls": 2.0,
    "disk hangs": 0.4,
    "disk errors": 1.0,
    "no space": 0.7,
    "corrupt a record": 0.5,
    "lose a disk": 0.5,
    "transfer leadership": 2.0,
    "compact": 1.0,
    "cut a controller": 1.5,
    "crash a controller": 1.5,
}
"""Every fault that a seed may have, and its weight beside the others it has."""
LATER_FAULTS = {
    "crash at a commit": 3.0,
    "slow a controller": 2.0,
    "heal a record": 2.0,
    "replace a disk": 1.0,
    "strand a leader": 2.0,
}
"""Those that came later: drawn apart, so that the worlds of the seeds without them stay as they were."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A drawn world. Times in seconds. `groups` is how many shard groups there are, of which group 1 owns all at first.
    `resend`: clients without sessions send writes by version again, which is right where nobody deletes. Without
    `store_sessions` controllers on client hosts do not know whether a put to their store was taken if its reply is lost."""

    seed: int
    store: str
    controllers: int
    service: bool
    store_sessions: bool
    groups: int
    replicas: int
    shards: int
    page_bytes: int
    clients: int
    keys: int
    sessions: bool
    sessions_max: int
    resend: bool
    deletes: bool
    lease_reads: bool
    changers: int
    change_every_s: float
    think_s: float
    deadline_s: float
    drift: float
    fault_every_s: float
    fault_s: float
    faults: dict[str, float]
    turns_at_once: bool
    net: NetConditions
    disk: DiskConditions
    raft: RaftConfig
    limits: NodeLimits

    def __str__(self) -> str:
        store = (
            self.store if self.store == "kvsrv" else f"kvraft {self.controllers}{' service' if self.service else ''}"
        )
        faults = ", ".join(sorted(self.faults)) or "none"
        return (
            f"store {store}, {self.groups} groups of {self.replicas}, {self.shards} shards, {self.clients} clients"
            f"{' with sessions' if self.sessions else ''}{', leases' if self.lease_reads else ''}, "
            f"{self.changers} changers; faults: {faults}"
        )


def features(shape: Shape) -> list[str]:
    """What a world is like apart from its faults, for the count of what was reached."""
    net = shape.net
    found = {
        "loss": net.request_loss > 0 or net.reply_loss > 0,
        "duplication": net.duplicate > 0,
        "reordering": net.reorder > 0,
        "slow network": net.delay_s[1] > 0.01,
        "slow disks": shape.disk.commit_s[1] > 0.01,
        "saves on the loop's thread": shape.disk.at_once,
        "turns with the delivery": shape.turns_at_once,
        "clocks that drift": shape.drift > 0,
        "lease reads": shape.lease_reads,
        "no sessions": not shape.sessions,
        "no sessions, sent again": shape.resend,
        "sessions that are evicted": shape.sessions and shape.sessions_max < shape.clients,
        "deletes": shape.deletes,
        "shards that move": shape.groups > 1 and shape.changers > 0,
        "several controllers at once": shape.changers > 1,
        "one change on the heels of another": shape.changers > 0 and shape.change_every_s < 1,
        "small pages of a move": shape.page_bytes < 1000,
        "controller peers": shape.service,
        "controllers that must ask what they did": not shape.service and not shape.store_sessions,
        "a kvsrv as the store": shape.store == "kvsrv",
        "small logs and images": shape.limits.log_bytes < 10_000,
    }
    return [name for name, there in found.items() if there]


def draw(seed: int) -> Shape:
    """The shape of a seed."""
    rng = sub_rng(seed, "shape")
    store = "kvsrv" if rng.random() < 0.12 else "kvraft"
    raft = replace(_raft(rng), **_sizes(sub_rng(seed, "sizes")))
    shape = Shape(
        seed=seed,
        store=store,
        controllers=1 if store == "kvsrv" else rng.choice((3, 3, 3, 5)),
        service=store == "kvraft" and rng.random() < 0.4,
        store_sessions=sub_rng(seed, "store sessions").random() < 0.5,
        groups=rng.choice((1, 2, 2, 2, 3)),
        replicas=rng.choice((1, 2, 3, 3, 3, 3, 4, 5)),
        shards=rng.choice((1, 2, 4, 12)),
        page_bytes=sub_rng(seed, "pages").choice((1, 60, 1 << 20)),
        clients=rng.randint(2, 5),
        keys=rng.choice((1, 2, 4, 8)),
        sessions=rng.random() < 0.75,
        sessions_max=rng.choice((2, 3, 4096)),
        resend=False,
        deletes=rng.random() < 0.4,
        lease_reads=rng.random() < 0.4,
        changers=rng.choice((0, 1, 1, 2)) + (sub_rng(seed, "more changers").random() < 0.3),
        change_every_s=sub_rng(seed, "pace of changes").choice((0.5, 1.5, 1.5)),
        think_s=rng.choice((0.02, 0.1, 0.2)),
        deadline_s=rng.choice((0.5, 2.0, 5.0)),
        drift=rng.uniform(0, 0.045) if rng.random() < 0.5 else 0.0,
        fault_every_s=rng.choice((0.3, 0.8, 2.0)),
        fault_s=rng.choice((0.3, 1.0, 2.5)),
        faults={name: weight for name, weight in FAULTS.items() if rng.random() < 0.35},
        turns_at_once=sub_rng(seed, "turns at once").random() < 0.5,
        net=_net(rng),
        disk=_disk(rng, raft.election_min_s),
        raft=raft,
        limits=_limits(rng),
    )
    resend = sub_rng(seed, "resend").random() < 0.5
    later = {name: weight for name, weight in LATER_FAULTS.items() if sub_rng(seed, name).random() < 0.35}
    resend = resend and not shape.sessions and not shape.deletes
    if sub_rng(seed, "crowd").random() < 0.12:  # of controllers, each of which posts while another's post is open
        shape = replace(shape, changers=4, change_every_s=0.15)
    at_once = shape.disk.commit_s[1] < FAST_S and sub_rng(seed, "commits at once").random() < 0.6
    disk = replace(shape.disk, at_once=at_once)
    return replace(shape, resend=resend, faults=shape.faults | later, disk=disk)


def _maybe(rng: Random, most: float, share: float = 0.4) -> float:
    return rng.uniform(0, most) if rng.random() < share else 0.0


def _net(rng: Random) -> NetConditions:
    return NetConditions(
        delay_s=(0.001, rng.choice((0.004, 0.004, 0.027))),
        request_loss=_maybe(rng, 0.12),
        reply_loss=_maybe(rng, 0.12),
        duplicate=_maybe(rng, 0.2),
        reorder=_maybe(rng, 0.1),
        reorder_s=(0.01, rng.choice((0.1, 1.0))),
    )


def _disk(rng: Random, election_min_s: float) -> DiskConditions:
    """Slow ones too, but two commits fit into an election time-out: else nobody is ever elected."""
    slow = min(rng.choice((1, 1, 10, 40, 100)), election_min_s / 0.0034)
    return DiskConditions(commit_s=(0.0003 * slow, 0.0012 * slow), announce_s=(0.0001 * slow, 0.0005 * slow))


def _raft(rng: Random) -> RaftConfig:
    heartbeat = rng.choice((0.05, 0.1, 0.1, 0.2))
    shortest = heartbeat * rng.choice((2, 3, 4))
    return RaftConfig(
        heartbeat_s=heartbeat,
        election_min_s=shortest,
        election_max_s=shortest * rng.choice((1.5, 2, 3)),
        retry_s=heartbeat * rng.choice((2, 4)),
        window_messages=rng.choice((1, 4, 64)),
        reads_max=rng.choice((1, 3, 8192)),
        read_rounds_max=rng.choice((1, 2, 16)),
        storage_stall_s=5.0,
    )


def _sizes(rng: Random) -> dict[str, int]:
    """Small ones make what usually goes in one message, or one save, go in several."""
    return {
        "append_bytes_max": rng.choice((1, 200, 2 << 20)),
        "window_bytes": rng.choice((2 << 20, 8 << 20)),
        "take_bytes_max": rng.choice((1, 300, 4 << 20)),
    }


def _limits(rng: Random) -> NodeLimits:
    log_bytes = rng.choice((600, 2_000, 10_000, 16 << 20))
    return NodeLimits(
        batch_operations=rng.choice((1, 4, 128)),
        log_bytes=log_bytes,
        keep_bytes=rng.choice((0, log_bytes // 2)),
        flush_bytes=rng.choice((200, 4_000, 1 << 20)),
        flush_idle_s=rng.choice((0.05, 0.3, 1.0)),
    )
