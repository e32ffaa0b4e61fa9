"""Failpoints: named places at the durable steps of a peer where a test makes it die, wait or fail.

Whoever has such a place names it once, at import, and calls `reach` there; nothing is armed in a process that was not
started for it, and then a place costs a call and a look. The pure modules have none: what they decide is carried out
elsewhere.

What may be armed, as text:

    NAME=ACTION[@N][*T][%P]

    exit         the process ends at once, with exit code 86
    kill         the same by SIGKILL
    error        `StoreError`: the peer ends as by a failed commit
    sleep:S      the thread that came here waits S seconds: the disk's (a slow or hung disk) or the loop's (a pause)
    off          not armed any more

    @N           only from the N-th time on that the place is reached, counted from the arming (1)
    *T           at most T times (without it: each time)
    %P           each time with a probability of P percent, by a fixed seed
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from store.engine import StoreError

EXIT_CODE = 86

_SPEC = re.compile(
    r"(?P<name>[a-z.]+)=(?P<action>exit|kill|error|off|sleep:(?P<seconds>\d+(\.\d+)?))"
    r"(@(?P<first>[1-9]\d{0,8}))?(\*(?P<times>[1-9]\d{0,8}))?(%(?P<percent>\d{1,3}(\.\d+)?))?"
)


class BadFailpoint(ValueError):
    """A text that arms nothing; it says why in one line."""


class Failpoint:
    """One place. `reached` counts while it is armed."""

    __slots__ = ("_act", "name", "reached", "spec", "what")

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        self.what = what
        self.reached = 0
        self.spec = ""
        self._act: Callable[[], None] | None = None

    def reach(self) -> None:
        """The place is here. May not return; raises `StoreError` if it is armed to."""
        if self._act is not None:
            self._act()

    def set(self, spec: str, act: Callable[[], None] | None) -> None:
        """Arm it with what `spec` describes, or disarm it with None."""
        self.spec, self._act, self.reached = spec, act, 0


class Step(NamedTuple):
    """The three places of a durable step: before anything is written, when all is written but nothing durable, when it is
    durable and nobody was told."""

    begin: Failpoint
    commit: Failpoint
    done: Failpoint

    @property
    def name(self) -> str:
        """What the names of its places begin with."""
        return self.begin.name.rpartition(".")[0]


class Call(NamedTuple):
    """The two places of a step that somebody else carries out: not asked yet, and answered."""

    begin: Failpoint
    done: Failpoint


PLACES: dict[str, Failpoint] = {}
"""Every place of the modules that are loaded, by name."""


def place(name: str, what: str) -> Failpoint:
    """A new place; `what` is one line for people."""
    assert name not in PLACES, f"two places are called {name}"
    PLACES[name] = Failpoint(name, what)
    return PLACES[name]


def step(name: str, what: str) -> Step:
    """The places of a new durable step."""
    return Step(
        place(f"{name}.begin", f"{what}: before anything is written"),
        place(f"{name}.commit", f"{what}: written, not durable yet"),
        place(f"{name}.done", f"{what}: durable, and nobody was told"),
    )


def call(name: str, what: str) -> Call:
    """The places of a step that is asked for elsewhere."""
    return Call(place(f"{name}.begin", f"{what}: not asked yet"), place(f"{name}.done", f"{what}: answered"))


UNNAMED = step("job", "a write without a name of its own")


@dataclass
class _Armed:
    point: Failpoint
    action: str
    seconds: float
    first: int
    times: int | None
    chance: float
    rng: Random

    def __call__(self) -> None:
        self.point.reached += 1
        if self.point.reached < self.first or self.times == 0 or self.rng.random() >= self.chance:
            return
        if self.times is not None:
            self.times -= 1
        match self.action:
            case "exit":
                os._exit(EXIT_CODE)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "error":
                raise StoreError(f"failpoint {self.point.name}")
            case _:
                time.sleep(self.seconds)


def arm(text: Any, *, try_only: bool = False) -> Failpoint:
    """Arm or disarm one place; with `try_only` see only whether it can be. Raises `BadFailpoint`."""
    found = _SPEC.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise BadFailpoint(f"{text!r:.80} is not NAME=exit|kill|error|sleep:SECONDS|off, with @N, *T, %P behind it")
    point = PLACES.get(found["name"])
    if point is None:
        raise BadFailpoint(f"there is no failpoint {found['name']!r}")
    chance = float(found["percent"] or 100) / 100
    if not 0 < chance <= 1:
        raise BadFailpoint(f"{text!r:.80}: a probability is above 0 and at most 100 percent")
    if try_only:
        return point
    if found["action"] == "off":
        point.set("", None)
        return point
    action, _, seconds = found["action"].partition(":")
    times = None if found["times"] is None else int(found["times"])
    armed = _Armed(point, action, float(seconds or 0), int(found["first"] or 1), times, chance, Random(point.name))
    point.set(text.strip().partition("=")[2], armed)
    return point


def disarm_all() -> None:
    """Nothing is armed any more."""
    for point in PLACES.values():
        point.set("", None)
