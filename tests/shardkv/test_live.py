"""A peer whose state is damaged starts over in the same process; not for ever."""

from __future__ import annotations

import pytest

from shardkv.host import DAMAGED_MAX, live
from store.engine import StoreError


class Host:
    """Ends for damage as often as it is told to."""

    def __init__(self, times: int, starts: list[str]) -> None:
        self.times = times
        self.starts = starts
        self.damage = ""

    async def run(self) -> None:
        self.damage = f"damage {len(self.starts)}" if len(self.starts) <= self.times else ""


async def lived(times: int) -> list[str]:
    starts: list[str] = []

    def make(damage: str) -> Host:
        starts.append(damage)
        return Host(times, starts)

    await live(make, Host.run)  # type: ignore[arg-type]  # all that it needs of a host
    return starts


async def test_each_host_is_told_what_the_one_before_found() -> None:
    assert await lived(0) == [""]
    assert await lived(2) == ["", "damage 1", "damage 2"]


async def test_a_state_that_is_damaged_again_and_again_ends_the_peer() -> None:
    with pytest.raises(StoreError, match=f"was damaged {DAMAGED_MAX} times in 60 s, now: damage {DAMAGED_MAX}"):
        await lived(10)
