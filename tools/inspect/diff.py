"""The logs of a group's peers, side by side: where they agree, where one is behind, where they contradict each other.

Entries are compared as they come, index by index, and forgotten: a digest of each, not the log, is in memory. What two
logs may differ in without harm is what is not committed: a peer that is behind, and a tail that a leader without a quorum
has left behind. These cannot be, whoever crashed when, and are called fatal:

* two entries of one term at one index (a term has one leader, which appends once: Raft, section 5.3),
* two entries at one index that two peers have both committed, durably (section 5.4.3),
* an entry of a greater term at an index that is committed with a lesser one (its leader had the committed entry, 5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = list[Any]
"""[index, term, digest, kind, voters | null] of a sketch."""
Version = tuple[int, int | None]
"""(term, digest); the digest is None of an entry that is the purge base: only its term is known."""


@dataclass
class Copy:
    """A peer's log, read forward. `durable`: up to here the peer itself knows its entries to be committed."""

    label: str
    head: dict[str, Any]
    rows: Iterator[Row]
    row: Row | None = None
    last: int = 0

    def __post_init__(self) -> None:
        self.base = int(self.head["base"][1])
        self.durable = max(int(self.head["commit"]), int(self.head["applied"][1]))
        self.last = self.base
        self.advance()

    def advance(self) -> None:
        """To the next entry."""
        self.row = next(self.rows, None)
        if self.row is not None:
            self.last = self.row[0]


@dataclass
class Range:
    """Indexes first..last of which the same is true: a line of `diff`, and its `--json` object.

    `state`: agree, missing (some peers do not have it yet), conflict, gap (a hole in a log), purged (nobody has it).
    `terms`: the term of the (first) entry at each peer that has it. `committed`: of a conflict, who has committed its
    entry durably. `fatal`: it can only be damage or a fault of the program, and
    `why` says which law is broken.
    """

    first: int
    last: int
    state: str
    terms: dict[str, int]
    missing: list[str]
    purged: list[str]
    committed: list[str]
    fatal: bool = False
    why: str = ""

    def goes_on_with(self, other: Range) -> bool:
        """Whether `other` says the same of the next index."""
        return self.last + 1 == other.first and self._said() == other._said()

    def _said(self) -> tuple[Any, ...]:
        terms = self.terms if self.state == "conflict" else sorted(self.terms)
        return (self.state, terms, self.missing, self.purged, self.committed, self.why)


@dataclass
class Standing:
    """Indexes first..last of the merged log. `state`: committed (a durable commit of `by` says so), quorum (equal on
    `by`, a quorum of the voters), purged (committed and removed at some, too few hold it to compare), short (on no
    quorum: the merged log ends before it)."""

    first: int
    last: int
    term: int
    state: str
    by: list[str]
    voters: int

    def goes_on_with(self, other: Standing) -> bool:
        """Whether `other` says the same of the next index."""
        mine, others = ((s.term, s.state, s.by, s.voters) for s in (self, other))
        return self.last + 1 == other.first and mine == others


@dataclass
class Comparison:
    """What `compare` tells at its end: the ranges are given out as they are found."""

    entries: int = 0
    fatal: bool = False
    first_difference: Range | None = None
    lasts: dict[str, int] = field(default_factory=dict)


def compare(
    copies: Sequence[Copy], on_range: Callable[[Range], None], on_standing: Callable[[Standing], None] | None = None
) -> Comparison:
    """Walk the logs once. `on_standing` is told the merged log; nothing of it after its first "short" range."""
    done = Comparison()
    merge = _Merge(copies) if on_standing is not None else None
    index = min((c.row[0] for c in copies if c.row is not None), default=1)
    index = min([index, *(c.base for c in copies if c.base)])
    open_range: Range | None = None
    open_standing: Standing | None = None
    while any(c.row is not None for c in copies) or any(c.base >= index for c in copies):
        held = {c.label: c.row for c in copies if c.row is not None and c.row[0] == index}
        found = _at(index, copies, held)
        if open_range is not None and open_range.goes_on_with(found):
            open_range.last = index
        else:
            if open_range is not None:
                on_range(open_range)
            open_range = found
        if found.state not in ("agree", "purged") and done.first_difference is None:
            done.first_difference = open_range
        done.fatal = done.fatal or found.fatal
        done.entries += bool(held)
        if merge is not None and on_standing is not None and not merge.ended:
            standing = merge.at(index, held)
            if open_standing is not None and open_standing.goes_on_with(standing):
                open_standing.last = index
            else:
                if open_standing is not None:
                    on_standing(open_standing)
                open_standing = standing
        for copy in copies:
            if copy.row is not None and copy.row[0] == index:
                copy.advance()
        index += 1
    if open_range is not None:
        on_range(open_range)
    if open_standing is not None and on_standing is not None:
        on_standing(open_standing)
    done.lasts = {c.label: c.last for c in copies}
    return done


def _at(index: int, copies: Sequence[Copy], held: dict[str, Row]) -> Range:
    terms = {label: int(row[1]) for label, row in held.items()}
    versions: dict[str, Version] = {label: (row[1], row[2]) for label, row in held.items()}
    missing, purged, gaps = [], [], []
    for copy in copies:
        if copy.label in held:
            continue
        if index <= copy.base or (copy.row is not None and copy.head["running"]):
            purged.append(copy.label)  # of a running peer also what it has purged since its base was read
            if index == copy.base:
                terms[copy.label] = int(copy.head["base"][0])
                versions[copy.label] = (terms[copy.label], None)
        elif copy.row is not None:
            gaps.append(copy.label)
        else:
            missing.append(copy.label)
    committed = [c.label for c in copies if c.durable >= index]
    found = Range(index, index, "agree", terms, missing, purged, [])
    if _differ(versions):
        found.state = "conflict"
        found.committed = committed
        found.why = _law(versions, set(committed))
        found.fatal = bool(found.why)
    elif gaps:
        found.state, found.missing, found.fatal = "gap", missing + gaps, True
        found.why = f"the log of {', '.join(gaps)} has a hole here"
    elif not held:
        found.state = "purged"
    elif missing:
        found.state = "missing"
    if missing and any(c.durable >= index for c in copies if c.label in missing):
        found.fatal = True
        found.why = found.why or "a peer that lacks it has committed it"
    return found


def _same(a: Version, b: Version) -> bool:
    return a[0] == b[0] and (a[1] == b[1] or None in (a[1], b[1]))


def _differ(versions: dict[str, Version]) -> bool:
    found = list(versions.values())
    return any(not _same(found[0], other) for other in found[1:]) or len({d for _, d in found if d is not None}) > 1


def _law(versions: dict[str, Version], committed: set[str]) -> str:
    """The law that the versions break, "" if one of them is only an uncommitted tail."""
    for one, a in versions.items():
        for other, b in versions.items():
            if one == other or _same(a, b):
                continue
            if one in committed and other in committed:
                return "two entries are committed here"
            if a[0] == b[0]:
                return f"two entries of term {a[0]}"
            if one in committed and b[0] > a[0]:
                return f"{one} has committed term {a[0]} here, {other} has term {b[0]}, whose leader had to have it"
    return ""


class _Merge:
    """The log that stands on a quorum, index by index."""

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = {c.label: c for c in copies}
        lowest = min(copies, key=lambda c: c.base)
        self._voters: set[tuple[int, int]] = {(p, i) for p, i in lowest.head["voters"]}
        self.ended = False

    def at(self, index: int, held: dict[str, Row]) -> Standing:
        """What stands at `index`."""
        groups: dict[Version, list[str]] = {}
        for label, row in held.items():
            groups.setdefault((row[1], row[2]), []).append(label)
        best: Standing | None = None
        for (term, _), labels in groups.items():
            members = next((held[label][4] for label in labels if held[label][4] is not None), None)
            voters = self._voters if members is None else {(p, i) for p, i in members}
            by = [label for label in labels if self._identity(label) in voters]
            sure = [label for label in labels if self._copies[label].durable >= index]
            state = "committed" if sure else "quorum" if len(by) > len(voters) // 2 else "short"
            standing = Standing(index, index, term, state, sure or by, len(voters))
            rank = ("short", "quorum", "committed").index(state)
            if best is None or (rank, len(by)) > (("short", "quorum", "committed").index(best.state), len(best.by)):
                best = standing
                chosen = voters
        if best is None:
            return Standing(index, index, 0, "purged", self._purged(index), len(self._voters))
        if best.state == "short" and self._purged(index):
            best.state = "purged"
        self.ended = best.state == "short"
        if not self.ended:
            self._voters = chosen
        return best

    def _purged(self, index: int) -> list[str]:
        return [c.label for c in self._copies.values() if c.base >= index]

    def _identity(self, label: str) -> tuple[int, int]:
        head = self._copies[label].head
        return head["peer"], head["incarnation"]
