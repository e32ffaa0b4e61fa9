"""Numbers of numbers: quantiles of many latencies, medians and spreads of few rounds. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

STEP = 1.01
"""A bucket's upper bound is 1 % above its lower one, and so exact is a quantile."""
_LOG_STEP = math.log(STEP)
_LEAST_S = 1e-6
"""What is shorter counts as this long."""


@dataclass
class Histogram:
    """Many times in seconds, each to within 1 %, in little room. Can be added up across processes."""

    counts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, times_s: Iterable[float]) -> Histogram:
        """The histogram of these times."""
        counts: dict[int, int] = {}
        for time_s in times_s:
            bucket = int(math.log(max(time_s, _LEAST_S) / _LEAST_S) / _LOG_STEP)
            counts[bucket] = counts.get(bucket, 0) + 1
        return cls(counts)

    @classmethod
    def read(cls, counts: Mapping[str, int]) -> Histogram:
        """From JSON, whose keys are texts."""
        return cls({int(bucket): count for bucket, count in counts.items()})

    @property
    def total(self) -> int:
        """How many times there are."""
        return sum(self.counts.values())

    def add(self, other: Histogram) -> None:
        """Take in another one's times."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    def quantile(self, share: float) -> float:
        """The time that this share of all times does not exceed, in seconds; not a number if there are none."""
        left = math.ceil(share * self.total)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return _LEAST_S * math.exp(_LOG_STEP * (bucket + 0.5))
        return math.nan


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed (the nearest rank); not a number if there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle; not a number if there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float]) -> float:
    """How far apart the least and the greatest are, as a share of the median; not a number if there are none."""
    if not values:
        return math.nan
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0
