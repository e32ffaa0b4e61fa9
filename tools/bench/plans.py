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
    """A load and how many groups serve it."""

    workload: Workload
    groups: int = 1

    def name(self) -> str:
        """In words."""
        return self.workload.name() + (f", {self.groups} groups" if self.groups > 1 else "")


@dataclass(frozen=True)
class Plan:
    """The points, played in turn for so many rounds. Times in seconds, per point and round."""

    points: tuple[Point, ...]
    rounds: int = 3
    warm_up_s: float = 1.0
    measure_s: float = 3.0

    def seconds(self, systems: int) -> float:
        """About how long the measuring takes."""
        alone = sum(1 if point.groups > 1 or point.workload.driver != "wire" else systems for point in self.points)
        pauses = 1.5 if systems > 1 else 0.0
        return alone * self.rounds * (self.warm_up_s + self.measure_s + 0.6 + pauses)


def _points(workloads: Sequence[Workload], groups: int = 1) -> list[Point]:
    return [Point(workload, groups) for workload in workloads]


def quick() -> Plan:
    """Two minutes: puts and gets by clients, the mixes, 64 clerks."""
    loads = [replace(BASE, operation=o, clients=c) for o, c in product(("put", "get"), (1, 64, 512))]
    loads += [replace(BASE, operation=operation) for operation in ("95/5", "50/50")]
    return Plan(tuple(_points(loads)), rounds=3, warm_up_s=0.5, measure_s=2.0)


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
    return Plan((*_points(loads), *_points(several, SEVERAL)), rounds=3, warm_up_s=0.7, measure_s=2.3)


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
    return Plan((*_points(loads), *several), rounds=5, warm_up_s=1.0, measure_s=5.0)


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
) -> Plan:
    """With any of these given, all their combinations instead of the plan's points; what is not given is as in the base."""
    if not any((operations, clients, values, choices, drivers, connections, groups)):
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
    return replace(plan, points=tuple(Point(w, g) for g, w in product(groups or (1,), workloads)))
