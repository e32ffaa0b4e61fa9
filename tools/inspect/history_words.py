"""Words for people, shared by the views of a cluster's past."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime


def clock(time_ms: int | None) -> str:
    """A wall time, UTC, to the millisecond; "-" if it is not known."""
    if not time_ms:
        return "-"
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"


def span(ms: int | None) -> str:
    """A duration: "41 ms", "3.2 s"; "?" if it is not known."""
    if ms is None:
        return "?"
    return f"{ms} ms" if abs(ms) < 1000 else f"{ms / 1000:.1f} s"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in order, consecutive ones together: "0-3, 7"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
