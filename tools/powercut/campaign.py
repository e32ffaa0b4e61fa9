"""A campaign: the states of one recording, recovered and judged until enough different ones were seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from tools.powercut.disk import Choice, Disk, Tree
from tools.powercut.events import BEGIN, Mark, Recording, Step, Talk
from tools.powercut.recovering import Recoverers, Task, recoverers
from tools.powercut.states import Survivors, planned

SHOWN = 12
"""So many of the things that were lost are told by name."""


class Witness(Protocol):
    """Reads the recording along, and knows what the program owes."""

    def take(self, step: Step) -> None:
        """See one step."""
        ...

    def owed(self) -> dict[str, Any]:
        """What a recovery after a crash now must show; for the check, as JSON."""
        ...

    def covered(self) -> dict[str, int]:
        """How often the recorded program did what, for people."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording with what a campaign needs: whose it is, the seed of its load, what judges it. `setup` is what the check
    must know, as JSON."""

    target: str
    seed: int
    planted: str
    recording: Recording
    make_witness: Callable[[], Witness]
    setup: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A state that was not recovered as it must be."""

    state: str
    wrong: list[str]
    owed: dict[str, Any]
    lost: list[str]
    kept: str = ""


@dataclass(slots=True)
class Report:
    """How a campaign went. `candidates` counts the states there are, by kind, and `looked` those that were made; many are
    equal. `distinct` counts them by their contents (`kinds`: the same by the kind that was first), `recovered` also by what
    was owed. `covered` is what the program did."""

    target: str
    seed: int
    steps: int
    candidates: dict[str, int]
    distinct: int = 0
    recovered: int = 0
    looked: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    covered: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def campaign(
    recorded: Recorded,
    *,
    seed: int,
    states: int,
    jobs: int,
    keep: Path | None = None,
    told: Callable[[int], None] = lambda distinct: None,
) -> Report:
    """Recover `states` different states, or as many as there are. A failed state's files are kept below `keep`. `told` hears
    how many there were so far."""
    began = monotonic()
    recording = recorded.recording
    covered, stakes = _along(recorded)
    plan = planned(recording, seed, stakes)
    report = Report(recorded.target, seed, len(recording.steps), _by_kind(plan), covered=covered)
    seen: set[tuple[str, str]] = set()
    contents: set[str] = set()
    left = iter(plan)
    with recoverers(recorded.target, recorded.setup, recording.root, jobs) as working:
        while len(contents) < states and (batch := list(islice(left, max(64, states - len(contents))))):
            work = _Batch(recording, recorded.make_witness(), seed, report, keep, working)
            work.run(sorted(batch), seen, contents, lambda: told(len(contents)))
    report.distinct = len(contents)
    report.failures.sort(key=lambda failure: Survivors.parse(failure.state))
    report.seconds = round(monotonic() - began, 2)
    return report


def _along(recorded: Recorded) -> tuple[dict[str, int], dict[str, list[int]]]:
    """What the program did, and the cuts at which something new is owed, by what, or something was marked, by its words."""
    witness = recorded.make_witness()
    before = witness.owed()
    stakes: dict[str, list[int]] = {}
    for cut, step in enumerate(recorded.recording.steps, 1):
        witness.take(step)
        if isinstance(step.action, Mark | Talk):
            owed = witness.owed()
            for name in owed:
                if owed[name] != before[name]:
                    stakes.setdefault(name, []).append(cut)
            before = owed
        if isinstance(step.action, Mark) and step.moment is BEGIN:
            stakes.setdefault(step.action.text.rstrip(" 0123456789"), []).append(cut)
    return witness.covered(), stakes


def _by_kind(states: Sequence[Survivors]) -> dict[str, int]:
    return dict(sorted(Counter(state.kind for state in states).items()))


def one_state(recorded: Recorded, *, seed: int, state: Survivors, keep: Path | None = None) -> Report:
    """Recover one state. `ValueError` if there is no such state."""
    began = monotonic()
    recording = recorded.recording
    report = Report(recorded.target, seed, len(recording.steps), _by_kind([state]))
    if not 0 < state.cut <= len(recording.steps):
        raise ValueError(f"{state}: the recording has {len(recording.steps)} steps")
    contents: set[str] = set()
    with recoverers(recorded.target, recorded.setup, recording.root, 1) as working:
        work = _Batch(recording, recorded.make_witness(), seed, report, keep, working)
        work.run([state], set(), contents, lambda: None)
    report.distinct = len(contents)
    report.seconds = round(monotonic() - began, 2)
    return report


class _Batch:
    """States in the order of the recording, so that it is walked through once."""

    def __init__(
        self,
        recording: Recording,
        witness: Witness,
        seed: int,
        report: Report,
        keep: Path | None,
        working: Recoverers,
    ) -> None:
        self.recording = recording
        self.witness = witness
        self.seed = seed
        self.report = report
        self.keep = keep
        self.working = working
        self.disk = Disk()
        self.at = 0

    def run(
        self,
        batch: Sequence[Survivors],
        seen: set[tuple[str, str]],
        contents: set[str],
        told: Callable[[], None],
    ) -> None:
        """Hand over those that were not seen yet."""
        kinds = Counter(self.report.kinds)
        self.report.looked = dict(sorted((Counter(self.report.looked) + Counter(_by_kind(batch))).items()))
        for state in batch:
            while self.at < state.cut:
                self.disk.take(self.recording.steps[self.at])
                self.witness.take(self.recording.steps[self.at])
                self.at += 1
            choice = state.choice(self.disk, self.recording, self.seed)
            tree, owed = self.disk.left(choice), self.witness.owed()
            key = (tree.digest, repr(owed))
            if key in seen:
                continue
            seen.add(key)
            if key[0] not in contents:
                contents.add(key[0])
                kinds[state.kind] += 1
            self.report.recovered += 1
            self.working.put(Task(tree, owed, self._judge(state, choice, tree, owed)))
            told()
        self.report.kinds = dict(sorted(kinds.items()))

    def _judge(self, state: Survivors, choice: Choice, tree: Tree, owed: dict[str, Any]) -> Callable[[list[str]], None]:
        lost = self._lost(choice)

        def told(wrong: list[str]) -> None:
            if not wrong:
                return
            kept = ""
            if self.keep is not None:
                folder = self.keep / str(state).replace(":", "-")
                tree.write(folder / self.recording.root)
                kept = str(folder / self.recording.root)
            self.report.failures.append(Failure(str(state), wrong, owed, lost, kept))

        return told

    def _lost(self, choice: Choice) -> list[str]:
        """What did not survive, in words."""
        paths, atoms = self.disk.paths(), self.disk.atoms()
        gone = [atom for atom in atoms if choice.get(atom, atoms[atom]) < atoms[atom]]
        words = [f"{paths.get(atom.node, 'a file without a name')}: {atom}" for atom in gone[:SHOWN]]
        return [*words, f"and {len(gone) - SHOWN} more"] if len(gone) > SHOWN else words
