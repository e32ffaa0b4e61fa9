"""What `bench kv` measures in which form. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from tools.bench.workload import Workload

BASE = Workload()
CLIENTS = (1, 8, 64, 512)
VALUES = (16, 128, 1024, 65536)
SEVERAL = 2
"""How many groups are "several"."""


@dataclass(frozen=True)
class Point:
    """A load, how many groups serve it, and whether their leaders answer gets under a lease."""

    workload: Workload
    groups: int = 1
    lease_reads: bool = False

    @property
    def cluster(self) -> tuple[int, bool]:
        """What kind of cluster it needs: points of the same kind share one."""
        return self.groups, self.lease_reads

    def name(self) -> str:
        """In words."""
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"{self.workload.name()}{groups}{', lease reads' if self.lease_reads else ''}"


@dataclass(frozen=True)
class Plan:
    """The points, played in turn for so many rounds. Times in seconds, per point and round."""

    points: tuple[Point, ...]
    rounds: int = 3
    warm_up_s: float = 1.0
    measure_s: float = 3.0

    def seconds(self, systems: int) -> float:
        """About how long the measuring takes."""
        played = sum(systems if point.cluster == (1, False) else 1 for point in self.points)
        turns = len(self.points) if systems > 1 else len({point.cluster for point in self.points}) - 1
        return self.rounds * (played * (self.warm_up_s + self.measure_s + 0.6) + 1.5 * turns)


def _points(workloads: Sequence[Workload], groups: int = 1) -> list[Point]:
    return [Point(workload, groups) for workload in workloads]


def quick() -> Plan:
    """Two minutes: puts and gets by clients, the mixes, a lease read."""
    loads = [replace(BASE, operation=o, clients=c) for o, c in product(("put", "get"), (1, 64, 512))]
    loads += [replace(BASE, operation=operation) for operation in ("95/5", "50/50")]
    lease = Point(replace(BASE, operation="get", clients=1), lease_reads=True)
    return Plan((*_points(loads), lease), rounds=3, warm_up_s=0.5, measure_s=2.0)


def standard() -> Plan:
    """Ten minutes: one factor varied at a time around 64 clients, 128 B, uniform keys, one group."""
    both = ("put", "get")
    loads = [replace(BASE, operation=operation) for operation in (*both, "95/5", "50/50")]
    loads += [replace(BASE, operation=o, clients=c) for o, c in product(both, CLIENTS) if c != BASE.clients]
    loads += [replace(BASE, operation=o, value_bytes=v) for o, v in product(both, VALUES) if v != BASE.value_bytes]
    loads += [replace(BASE, operation=o, choice="zipf") for o in both]
    loads += [replace(BASE, operation=o, connections=0) for o in both]
    loads += [replace(BASE, operation=o, driver="clerk", clients=c) for o, c in product(both, (1, 64))]
    several = [replace(BASE, operation=operation) for operation in both]
    lease = [Point(replace(BASE, operation="get", clients=clients), lease_reads=True) for clients in (1, 64)]
    return Plan((*_points(loads), *_points(several, SEVERAL), *lease), rounds=3, warm_up_s=0.7, measure_s=2.3)


def full() -> Plan:
    """An hour or two: every operation with every number of clients and every size; the rest around the base."""
    loads = [
        replace(BASE, operation=o, clients=c, value_bytes=v)
        for o, c, v in product(("put", "get", "95/5", "50/50"), CLIENTS, VALUES)
    ]
    loads += [replace(BASE, operation=o, clients=c, choice="zipf") for o, c in product(("put", "get"), (64, 512))]
    loads += [replace(BASE, operation=o, clients=c, connections=0) for o, c in product(("put", "get"), (64, 512))]
    loads += [replace(BASE, operation=o, clients=c, driver="clerk") for o, c in product(("put", "get"), CLIENTS)]
    several = [
        Point(replace(BASE, operation=o, clients=c), groups)
        for o, c, groups in product(("put", "get"), (64, 512), (2, 4))
    ]
    lease = [Point(replace(BASE, operation="get", clients=clients), lease_reads=True) for clients in CLIENTS]
    return Plan((*_points(loads), *several, *lease), rounds=5, warm_up_s=1.0, measure_s=5.0)


def chosen(
    plan: Plan,
    *,
    operations: Sequence[str] = (),
    clients: Sequence[int] = (),
    values: Sequence[int] = (),
    choices: Sequence[str] = (),
    drivers: Sequence[str] = (),
    connections: Sequence[int] = (),
    groups: Sequence[int] = (),
    lease_reads: bool = False,
) -> Plan:
    """With any of these given, all their combinations instead of the plan's points; what is not given is as in the base."""
    if not any((operations, clients, values, choices, drivers, connections, groups, lease_reads)):
        return plan
    loads = product(
        operations or ("put", "get"),
        clients or (BASE.clients,),
        values or (BASE.value_bytes,),
        choices or (BASE.choice,),
        drivers or (BASE.driver,),
        connections or (BASE.connections,),
    )
    workloads = [Workload(*load) for load in loads]
    return replace(plan, points=tuple(Point(w, g, lease_reads) for g, w in product(groups or (1,), workloads)))
