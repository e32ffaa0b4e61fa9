"""A load: how many clients do what to which keys, and how a load generator is told so. Pure."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from random import Random
from typing import Any

OPERATIONS = {"put": 0.0, "get": 1.0, "95/5": 0.95, "50/50": 0.5}
"""The operations of a load by name, and the share of gets in them."""
CHOICES = ("uniform", "zipf")
ZIPF_EXPONENT = 0.99
"""How fast the popularity of keys falls, as in the common cloud-serving benchmarks."""
KEYS_MAX = 10_000
DATA_BYTES_MAX = 64 << 20
"""Large values have fewer keys, so that all of them together stay in memory on every peer."""
DRAWS = 1 << 14
"""So many keys are drawn beforehand and used again and again, or drawing would cost as much as sending."""


@dataclass(frozen=True)
class Workload:
    """`clients` sessions with one single-key request outstanding each.

    `driver`: "wire" speaks the protocol itself, as wrk does HTTP; "clerk" is the Python client. `connections`: how many
    TCP connections to a server the clients share, 0 for one each. `rate_per_s`: so many requests a second are begun by all
    clients together, as long as clients are free; 0: as many as they can. `without_shard`: keys of this shard are left out.
    The last two are the wire driver's.
    """

    operation: str = "put"
    clients: int = 64
    value_bytes: int = 128
    choice: str = "uniform"
    driver: str = "wire"
    connections: int = 1
    rate_per_s: float = 0.0
    without_shard: int = -1
    keys_max: int = KEYS_MAX

    @property
    def keys(self) -> int:
        """How many different keys there are."""
        return max(1, min(self.keys_max, DATA_BYTES_MAX // max(1, self.value_bytes)))

    @property
    def reads(self) -> float:
        """The share of gets."""
        return OPERATIONS[self.operation]

    def name(self) -> str:
        """In words, for a table."""
        words = [self.operation, f"{self.clients} clients", size_text(self.value_bytes), self.choice]
        if self.driver != "wire":
            words.append(self.driver)
        if self.connections != 1:
            words.append(f"{self.connections or self.clients} connections")
        return ", ".join(words)


def size_text(size: int) -> str:
    """16 B, 1 KiB, 64 KiB."""
    return f"{size >> 10} KiB" if size >= 1024 and size % 1024 == 0 else f"{size} B"


def key_of(number: int, value_bytes: int) -> bytes:
    """The key with this number among those whose values have this size."""
    return f"bench-{value_bytes}-{number:08}".encode()


def value_of(rng: Random, size: int) -> bytes:
    """A value that no compression makes smaller."""
    return rng.randbytes(size)


def draws(choice: str, keys: int, rng: Random, count: int = DRAWS) -> list[int]:
    """Numbers of keys as `choice` picks them. Which keys are the popular ones is shuffled: not neighbours in the store."""
    if choice == "uniform":
        return [rng.randrange(keys) for _ in range(count)]
    order = list(range(keys))
    rng.shuffle(order)
    below = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, keys + 1)))
    return [order[min(keys - 1, bisect(below, rng.random() * below[-1]))] for _ in range(count)]


@dataclass(frozen=True)
class Job:
    """What one load generator is to do, as the line of JSON that it gets on standard input. Times in seconds.

    With `fill`, the keys with the numbers from its first up to its second are put once instead, and nothing is measured.
    """

    controllers: tuple[str, ...]
    workload: Workload
    warm_up_s: float
    measure_s: float
    seed: int
    fill: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, given: dict[str, Any]) -> Job:
        """From a JSON object."""
        controllers: Sequence[str] = given["controllers"]
        fill = None if given["fill"] is None else (int(given["fill"][0]), int(given["fill"][1]))
        workload = Workload(**given["workload"])
        return cls(**{**given, "controllers": tuple(controllers), "workload": workload, "fill": fill})
