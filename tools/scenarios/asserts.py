"""What scenarios assert with, and the limits they keep, in virtual seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


class ScenarioFailed(AssertionError):
    """What a scenario asserts did not hold; the text says what."""


def require(holds: bool, text: str) -> None:
    """An assertion that also counts under `python -O`."""
    if not holds:
        raise ScenarioFailed(text)


async def ends_within(work: Callable[[], Awaitable[T]], seconds: float, what: str) -> T:
    """The result of `work`, which must end in time."""
    with trio.move_on_after(seconds):
        return await work()
    raise ScenarioFailed(f"{what} did not end within {seconds} s")


async def stays_open(scope_s: float, done: trio.Event, what: str) -> None:
    """`done` must not be set for a while."""
    with trio.move_on_after(scope_s):
        await done.wait()
        raise ScenarioFailed(f"{what} ended, it must not")
