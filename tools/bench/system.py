"""A system that is measured: ours, or another one beside it; and what one measurement of it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tools.bench.figures import Histogram
from tools.bench.workload import Workload

LOAD = "load"
"""The name of the load generators among the processes of a sample."""


@dataclass
class Sample:
    """One system under one load for `seconds`. `cpu_s` by process, the load generators together as `LOAD`; `roles` says
    which processes lead and which follow. `requests` are those between peers, `messages` the answers too, `syncs` the disk
    barriers of all peers; None where the system does not say."""

    gets: Histogram
    puts: Histogram
    seconds: float
    cpu_s: dict[str, float] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    requests: int | None = None
    messages: int | None = None
    syncs: int | None = None
    repeated: int = 0

    @property
    def operations(self) -> int:
        """How many requests ended."""
        return self.gets.total + self.puts.total

    def figures(self) -> dict[str, float | None]:
        """The figures of one round by name; `figure_names` says what they are."""
        both = Histogram(dict(self.gets.counts))
        both.add(self.puts)
        operations = max(1, self.operations)
        cpu = dict.fromkeys(("leader", "follower", LOAD), 0.0)
        for name, used in self.cpu_s.items():
            role = LOAD if name == LOAD else self.roles.get(name, "")
            if role in cpu:
                cpu[role] += used
        found: dict[str, float | None] = {
            "ops_per_s": self.operations / self.seconds,
            "p50_ms": 1000 * both.quantile(0.5),
            "p99_ms": 1000 * both.quantile(0.99),
            "p999_ms": 1000 * both.quantile(0.999),
            "leader_cpu_us": 1e6 * cpu["leader"] / operations,
            "follower_cpu_us": 1e6 * cpu["follower"] / operations,
            "load_cpu_us": 1e6 * cpu[LOAD] / operations,
            "leader_busy": cpu["leader"] / self.seconds,
            "load_busy": cpu[LOAD] / self.seconds,
            "rpcs_per_op": None if self.requests is None else self.requests / operations,
            "messages_per_op": None if self.messages is None else self.messages / operations,
            "syncs_per_op": None if self.syncs is None else self.syncs / operations,
            "repeated": float(self.repeated),
        }
        return found


class System(Protocol):
    """Started by an async context; then filled, measured, paused and resumed in turn. Raises `BenchError`."""

    name: str
    interface: str

    async def fill(self, workload: Workload) -> None:
        """Put every key of the workload once."""
        ...

    async def measure(self, workload: Workload, warm_up_s: float, measure_s: float, seed: int) -> Sample:
        """One round."""
        ...

    def pause(self) -> None:
        """Take it off the processor, for another one's turn."""
        ...

    async def resume(self) -> None:
        """Its turn: it serves on return."""
        ...

    def about(self) -> Mapping[str, Any]:
        """What it is: version, peers, options."""
        ...
