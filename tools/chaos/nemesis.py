"""Who strikes: a schedule of faults and of pairs of faults, drawn from the seed, played step by step.

A step strikes one fault, or two of different kinds together; they last; they end; and only when the whole cluster is as
it was does the next step begin, so that every cycle of a fault is a cycle of harm and of recovery. Faults come from a deck:
each of them, and each pair of kinds, once in a shuffled order, then anew. What is drawn depends on the seed and the number of
the step alone, not on what happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import combinations, count
from random import Random

import trio

from tools.chaos.arena import Arena, NotConverged
from tools.chaos.faults import PAIRED, Fault, Kind, NotStruck

PAUSE_S = (0.05, 0.3)
"""Between two steps."""

MISSES = 5

Card = tuple[Fault, ...] | tuple[Kind, Kind]


@dataclass
class Band:
    """One step: what was struck together, whom, and when it began, ended, and everything was as before, in seconds since the
    run began. `missed` says why it did not come about, "" if it did."""

    faults: tuple[str, ...]
    text: str
    begun: float
    ended: float = 0.0
    back: float = 0.0
    missed: str = ""


@dataclass
class Tally:
    """How often what was struck: each fault, alone or in a pair, and each pair of kinds; and what did not come about."""

    faults: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)


def schedule(faults: Sequence[Fault], seed: int) -> Iterator[tuple[int, tuple[Fault, ...]]]:
    """The steps, without end: a number, and what is struck together. At least one fault is needed."""
    kinds = {kind: [fault for fault in faults if fault.kind is kind] for kind in PAIRED}
    deck: list[Card] = [(fault,) for fault in faults]
    deck += [(one, other) for one, other in combinations(PAIRED, 2) if kinds[one] and kinds[other]]
    numbers = count(1)
    for turn in count():
        rng = Random(f"{seed} deck {turn}")
        rng.shuffle(deck)
        for card in deck:
            drawn = [rng.choice(kinds[each]) if isinstance(each, Kind) else each for each in card]
            rng.shuffle(drawn)
            # Who is killed first has no disk that could fail.
            yield next(numbers), tuple(sorted(drawn, key=lambda fault: fault.kind is Kind.KILL))


class Nemesis:
    """Plays a schedule on an arena. `now` are seconds since the run began; `on_band` hears of each step that is over."""

    def __init__(
        self,
        arena: Arena,
        faults: Sequence[Fault],
        seed: int,
        now: Callable[[], float],
        on_band: Callable[[Band], None] = lambda band: None,
    ) -> None:
        self.arena = arena
        self.bands: list[Band] = []
        self.tally = Tally()
        self._seed = seed
        self._faults = list(faults)
        self._now = now
        self._on_band = on_band

    def has_struck(self, cycles: int) -> bool:
        """Whether every fault and every pair of kinds was struck so often; a fault that has been missed three times as often,
        and more, will not come about here."""
        tally = self.tally
        given_up = {fault.name for fault in self._faults if tally.missed[fault.name] > 3 * cycles + MISSES}
        faults = all(tally.faults[f.name] >= cycles or f.name in given_up for f in self._faults)
        pairs = ["+".join(sorted((one.value, other.value))) for one, other in self._possible_pairs()]
        return faults and (all(tally.pairs[pair] >= cycles for pair in pairs) or bool(given_up))

    def _possible_pairs(self) -> list[tuple[Kind, Kind]]:
        kinds = {fault.kind for fault in self._faults}
        return [pair for pair in combinations(PAIRED, 2) if kinds.issuperset(pair)]

    async def run(self, goes_on: Callable[[], bool]) -> None:
        """Step after step while `goes_on`. Raises `NotConverged`."""
        for number, faults in schedule(self._faults, self._seed):
            if not goes_on():
                return
            await self._step(faults, Random(f"{self._seed} step {number}"))

    async def _step(self, faults: tuple[Fault, ...], rng: Random) -> None:
        band = Band(tuple(fault.name for fault in faults), "", self._now())
        try:
            await self._strike(band, faults, rng)
        except* NotStruck as group:
            band.missed = _first(group)
        band.ended = self._now()
        try:
            await self.arena.converge()
        except* NotConverged as group:
            raise NotConverged(f"{' and '.join(band.faults)} ({band.text}): {_first(group)}") from group
        finally:
            band.back = self._now()
            self._count(band, faults)
        await trio.sleep(rng.uniform(*PAUSE_S))

    async def _strike(self, band: Band, faults: tuple[Fault, ...], rng: Random) -> None:
        async with AsyncExitStack() as stack:
            texts = []
            for fault in faults:
                texts.append(await stack.enter_async_context(fault.strike(self.arena, rng)))
                band.text = "; ".join(texts)
            await trio.sleep(max(rng.uniform(*fault.last_s) for fault in faults))

    def _count(self, band: Band, faults: tuple[Fault, ...]) -> None:
        if band.missed:
            self.tally.missed.update(band.faults)
        else:
            self.tally.faults.update(band.faults)
            if len(faults) == 2:
                self.tally.pairs["+".join(sorted(fault.kind.value for fault in faults))] += 1
        self.bands.append(band)
        self._on_band(band)


def _first(group: BaseException) -> str:
    """The text of the first error in a group of groups."""
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else str(group)
