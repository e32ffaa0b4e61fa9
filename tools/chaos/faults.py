"""What a fault is, and the list of all of them.

A fault is struck as an asynchronous context manager: entering does the harm, inside it lasts, leaving takes it away as far as
it can be taken away (dead peers are started again by the nemesis, after all faults of a step have ended). Each kind has a
module of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from random import Random

from tools.chaos.arena import Arena


class NotStruck(Exception):
    """The fault found nothing to strike, or did not come about in its time; the cycle does not count."""


class Kind(Enum):
    """What a fault is about. Two of different kinds may be struck together if both are in `PAIRED`."""

    KILL = "kill"
    PAUSE = "pause"
    PARTITION = "partition"
    LINK = "link"
    DISK = "disk"
    CLOCK = "clock"
    CHANGE = "change"
    RESTART = "restart"


PAIRED = (Kind.KILL, Kind.PARTITION, Kind.DISK)

Strike = Callable[[Arena, Random], AbstractAsyncContextManager[str]]
"""Enters with a text: whom it struck, and how."""


@dataclass(frozen=True)
class Fault:
    """One fault. `missing` says why this machine has not what it needs, "" if it has. `last_s` is how long it lasts, drawn
    between the two, in seconds. `sharded`: it needs controllers and shard groups."""

    name: str
    kind: Kind
    what: str
    strike: Strike
    needs: str = "nothing"
    missing: Callable[[], str] = lambda: ""
    last_s: tuple[float, float] = (0.3, 1.0)
    sharded: bool = False


def every_fault() -> list[Fault]:
    """All of them, in the order of their kinds."""
    from tools.chaos import changes, disks, network, processes

    return [*processes.FAULTS, *network.FAULTS, *disks.FAULTS, *changes.FAULTS]


class UnknownFault(ValueError):
    """A name that no fault has; the text says which there are."""


def chosen_faults(text: str | None) -> list[Fault]:
    """The faults of a list with commas: names, or kinds for all of a kind; None for all. Raises `UnknownFault`."""
    every = every_fault()
    if text is None:
        return every
    found: list[Fault] = []
    for word in (word.strip() for word in text.split(",")):
        matching = [fault for fault in every if word in (fault.name, fault.kind.value)]
        if not matching:
            names = ", ".join([*(kind.value for kind in Kind), *(fault.name for fault in every)])
            raise UnknownFault(f"there is no fault {word!r}: there are {names}")
        found += [fault for fault in matching if fault not in found]
    return found
