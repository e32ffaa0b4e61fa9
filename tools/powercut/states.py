"""Which crash states of a recording are looked at: all by name, in an order that a seed decides.

A state is where the power was cut (so many steps of the recording had happened) and what survived of what was not durable:

    all          everything written so far: the states that a mere kill leaves
    none         only what the syncs made durable
    lost N       everything but one: sector, length or name change N of those that were not durable
    only N       nothing but that one
    torn N       everything, but of the write in progress only its first N sectors
    mixed N      of each thing a version by chance: any reordering between two barriers

States of the last five kinds are taken where most is at stake: before a barrier ends, while a write is in progress, and when
something is acknowledged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from tools.powercut.disk import Choice, Disk
from tools.powercut.events import BEGIN, END, Mark, Names, Recording, Resize, Step, Sync, Talk, Write

MIXED_PER_CUT = 8
"""So many states by chance for each moment."""
PREFIXES_PER_TURN = 6
"""See `planned`."""

_NAME = re.compile(r"(\d+):(all|none|lost|only|torn|mixed)(?::(\d+))?")


@dataclass(frozen=True, slots=True, order=True)
class Survivors:
    """One crash state: after `cut` steps of the recording, of this kind, number `number` of it."""

    cut: int
    kind: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.cut}:{self.kind}" + (f":{self.number}" if self.kind not in ("all", "none") else "")

    @classmethod
    def parse(cls, text: str) -> Survivors:
        """The inverse of `str`. `ValueError` says what is wrong."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} names no state: it is CUT:all, CUT:none or CUT:lost|only|torn|mixed:NUMBER")
        return cls(int(found[1]), found[2], int(found[3] or 0))

    def choice(self, disk: Disk, recording: Recording, seed: int) -> Choice:
        """The versions that survive, for a disk as of `cut`. `ValueError` if there is no such state."""
        atoms = disk.atoms()
        if self.kind in ("lost", "only") and not self.number < len(atoms):
            raise ValueError(f"{self}: only {len(atoms)} things were not durable then")
        match self.kind:
            case "all":
                return {}
            case "none":
                return dict.fromkeys(atoms, 0)
            case "lost":
                return {list(atoms)[self.number]: 0}
            case "only":
                kept = list(atoms)[self.number]
                return {atom: 0 for atom in atoms if atom != kept}
            case "torn":
                written = disk.atoms_of_call(recording.steps[self.cut - 1].call)
                return dict(list(written.items())[self.number :])
            case _:
                rng = Random(f"{seed}/{self.cut}/{self.number}")
                share = rng.choice((0.1, 0.5, 0.9))
                return {
                    atom: newest if rng.random() < share else rng.randrange(newest) for atom, newest in atoms.items()
                }


def _is_moment(step: Step) -> bool:
    """What may be found, or is owed, is different from here on."""
    match step.action:
        case Sync():
            return step.moment is END
        case Write(synced=True):
            return True
        case Write() | Resize() | Names() | Mark():
            return step.moment is BEGIN
        case Talk(out=out):
            return out and step.moment is BEGIN
        case _:
            return False


def candidates(recording: Recording) -> Iterator[Survivors]:
    """Every state that is worth a look, in the order of the recording."""
    disk = Disk()
    for at, step in enumerate(recording.steps):
        barrier = step.moment is END and isinstance(step.action, Sync | Write) and _is_moment(step)
        if barrier:
            yield from _around(at, disk)
        disk.take(step)
        if not _is_moment(step):
            continue
        yield Survivors(at + 1, "all")
        if isinstance(step.action, Write) and step.moment is BEGIN:
            yield from (Survivors(at + 1, "torn", n) for n in range(1, len(disk.atoms_of_call(step.call))))
        if isinstance(step.action, Mark | Talk):
            yield from _around(at + 1, disk)


def _around(cut: int, disk: Disk) -> Iterator[Survivors]:
    """What a crash may leave at this moment beside everything."""
    count = len(disk.atoms())
    if not count:
        return
    yield Survivors(cut, "none")
    for kind in ("lost", "only") if count > 1 else ():
        yield from (Survivors(cut, kind, number) for number in range(count))
    if count > 2:
        yield from (Survivors(cut, "mixed", number) for number in range(MIXED_PER_CUT))


def planned(recording: Recording, seed: int, stakes: Mapping[str, Sequence[int]] | None = None) -> list[Survivors]:
    """All candidates, those to be looked at first in front: by turns one of each kind, but `PREFIXES_PER_TURN` prefixes, as
    the seed draws them. So a campaign that is long enough has every prefix, and a short one has some of each. `stakes` are
    the cuts at which something more is owed, by what: of each one comes in every turn, too, with all and with nothing."""
    kinds: dict[str, list[Survivors]] = {}
    for one in candidates(recording):
        kinds.setdefault(one.kind, []).append(one)
    rng = Random(seed)
    drawn = {kind: rng.sample(kinds[kind], len(kinds[kind])) for kind in sorted(kinds)}
    prefixes = drawn.get("all", [])
    queues = [prefixes[at::PREFIXES_PER_TURN] for at in range(PREFIXES_PER_TURN)]
    queues += [drawn[kind] for kind in drawn if kind != "all"]
    for name in sorted(stakes or {}):
        cuts = set((stakes or {})[name])
        found = [one for kind in ("all", "none") for one in drawn.get(kind, []) if one.cut in cuts]
        queues.append(rng.sample(found, len(found)))
    return list(dict.fromkeys(one for turn in zip_longest(*queues) for one in turn if one is not None))
