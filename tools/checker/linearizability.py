"""Is there one order of all operations that explains every answer? Wing and Gong's search as Lowe keeps it short: key by
key, remembering which sets of done operations with which state were seen (P. B. Gibbons and E. Korach; G. Lowe 2017).

What makes histories with many unknown outcomes tractable, without giving up exactness:

* An unknown write whose value somebody read, and that only it wrote, surely happened, before that read ended and with the
  version that it showed. One of which the logs know the version is a known write without an end.
* Of the rest those that nobody can tell apart are taken in the order of their start: whatever can be explained with a later
  one can be with an earlier one.
* An operation that changes nothing and may come now does: whoever can wait for it can do without it.
* What failed with some of them used up fails with more of them used up.
* Where all versions are known they are put off, having no end, until an operation that must come next needs what
  they do: a version that is not reached yet, or the key gone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from operator import le
from typing import NamedTuple

from tools.checker.history import FOREVER, Op

STEPS_MAX = 3_000_000
"""How many steps the search of one key may take before its verdict is "unknown"."""

OPAQUE = b"\0opaque"
"""A value that nobody read."""


class State(NamedTuple):
    """A key: missing with version 0, or a value with a version from 1 on."""

    value: bytes | None
    version: int


MISSING = State(None, 0)


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    """What was found for one key. `order` is the longest explanation found: all of them if it is legal. `stuck` are the
    operations of which none could come next."""

    key: bytes
    verdict: str
    ops: int
    steps: int
    order: tuple[Op, ...] = ()
    stuck: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """ "ok", "illegal" or "unknown": the worst of the keys'."""

    keys: list[KeyVerdict] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """Of the whole history."""
        found = {key.verdict for key in self.keys}
        return next((word for word in ("illegal", "unknown") if word in found), "ok")

    @property
    def failed(self) -> list[KeyVerdict]:
        """The keys that are not ok."""
        return [key for key in self.keys if key.verdict != "ok"]

    def __str__(self) -> str:
        if self.verdict == "ok":
            return f"linearizable: {sum(k.ops for k in self.keys)} operations on {len(self.keys)} keys"
        worst = self.failed[0]
        lines = [f"{self.verdict}: key {worst.key!r}, {len(worst.order)} of {worst.ops} operations explained"]
        lines += [f"  last explained: {op}" for op in worst.order[-3:]]
        lines += [f"  cannot follow:  {op}" for op in worst.stuck[:5]]
        return "\n".join(lines)


def check(history: Iterable[Op], *, steps_max: int = STEPS_MAX) -> Verdict:
    """The verdict on a history, key by key."""
    by_key: dict[bytes, list[Op]] = defaultdict(list)
    for op in history:
        by_key[op.key].append(op)
    return Verdict([check_key(key, ops, steps_max=steps_max) for key, ops in sorted(by_key.items())])


# --- the model ------------------------------------------------------------------------------------------------------


def step(state: State, op: Op) -> State | None:
    """The state after an operation with a definite answer; None if that answer is impossible here."""
    if op.op == "get":
        return _get(state, op)
    told = op.result
    does = _effect(state, op)
    if told == "ok":
        new = state.version if op.op == "delete" else does.version if does is not None else 0
        return does if does is not None and op.now in (None, new) else None
    if does is not None:
        return None
    if told == "no key":
        return state if state.version == 0 else None
    assert told == "mismatch", told
    return state if state.version > 0 and op.now in (None, state.version) else None


def _get(state: State, op: Op) -> State | None:
    if op.result == "no key":
        return state if state.version == 0 else None
    same = state.version > 0 and state.value == op.value and op.now in (None, state.version)
    return state if same else None


def _effect(state: State, op: Op) -> State | None:
    """What a put or delete makes of the state; None if it has no effect."""
    if op.op == "delete":
        allowed = state.version > 0 and op.version in (None, state.version)
        return MISSING if allowed else None
    return State(op.value, state.version + 1) if op.version in (None, state.version) else None


def explained_state(order: Iterable[Op]) -> State:
    """The state after an explanation."""
    state = MISSING
    for op in order:
        state = (_effect(state, op) or state) if op.result == "maybe" else (step(state, op) or state)
    return state


# --- the search -----------------------------------------------------------------------------------------------------


Node = tuple[int, int, tuple[int, ...], State]
"""Where a search is: the operations before the first number are done, and those whose bits the second one has after it; how
many of each class are; the state."""


def check_key(key: bytes, ops: list[Op], *, steps_max: int = STEPS_MAX) -> KeyVerdict:
    """The verdict on one key's operations."""
    musts, classes = _sorted_out(ops)
    return _Search(key, musts, classes, steps_max).run()


def _sorted_out(ops: list[Op]) -> tuple[list[Op], list[list[Op]]]:
    """The operations that must be explained, by start; and those that may or may not have happened, in classes of which
    nobody can tell two apart, by start."""
    reads: dict[bytes | None, list[Op]] = defaultdict(list)
    writers: dict[bytes | None, int] = defaultdict(int)
    for op in ops:
        if op.op == "get" and op.result == "ok":
            reads[op.value].append(op)
        elif op.op == "put" and op.result != "failed":
            writers[op.value] += 1
    musts: list[Op] = []
    maybes: dict[tuple[object, ...], list[Op]] = defaultdict(list)
    for op in ops:
        if op.result == "failed" or op.happened is False or (op.op == "get" and op.result == "maybe"):
            continue
        read = reads.get(op.value, []) if op.op == "put" else []
        if op.result == "ok" and op.op == "put":
            musts.append(_versioned(op, read if writers[op.value] == 1 else []))
        elif op.result != "maybe":
            musts.append(op)
        elif read and writers[op.value] == 1:
            end = min(get.end for get in read)
            musts.append(_versioned(replace(op, result="ok", now=None, end=max(end, op.start)), read))
        elif op.happened and op.now is not None:
            musts.append(replace(op, result="ok", end=FOREVER))
        else:
            maybes[op.op, op.version, op.value if read else OPAQUE].append(op)
    musts.sort(key=lambda op: (op.start, op.end))
    ordered = sorted(maybes.items(), key=lambda item: repr(item[0]))
    return musts, [sorted(found, key=lambda op: op.start) for _, found in ordered]


def _versioned(put: Op, read: list[Op]) -> Op:
    """The put with the version that it gave, as far as its condition or a read of it tells."""
    told = [put.now, None if put.version is None else put.version + 1, *(get.now for get in read)]
    return replace(put, now=next((version for version in told if version is not None), None))


@dataclass(slots=True)
class _Wanted:
    """What of the state would let one of the operations that must come next come: the key gone, or a version."""

    gone: bool = False
    versions: list[int] = field(default_factory=list)

    def add(self, state: State, op: Op) -> None:
        """What this operation wants."""
        if op.result == "no key":
            self.gone = True
        elif op.result == "mismatch":
            self.versions.append(state.version + 1 if op.now is None else op.now)
        elif op.op == "delete":
            self.versions.append(next((v for v in (op.now, op.version) if v is not None), 1))
        elif op.version is not None:
            self.versions.append(op.version)
        elif op.now is not None:
            self.versions.append(op.now - 1)

    def wants(self, state: State, op: Op) -> bool:
        """Whether an unknown write could serve."""
        if op.op == "delete":
            return self.gone or any(version < state.version for version in self.versions)
        return any(version > state.version for version in self.versions)


class _Search:
    """Depth first, with an explicit stack."""

    def __init__(self, key: bytes, musts: list[Op], classes: list[list[Op]], steps_max: int) -> None:
        self.key = key
        self.musts = musts
        self.classes = classes
        self.left = steps_max
        self.steps_max = steps_max
        self.seen: dict[tuple[int, int, State], list[tuple[int, ...]]] = {}
        self.read = {op.value for op in musts if op.op == "get"}
        writes = [op for op in musts if op.op == "put" and op.result == "ok"]
        self.lazy = all(op.now is not None for op in writes) and all(ops[0].value not in self.read for ops in classes)
        """Whether all that is known of versions is known at the writes, so that unknown ones can be put off."""
        self.deletes = any(op.op == "delete" for ops in (musts, *classes) for op in ops)
        """Without any, versions only grow, and a write by a version that has passed is of no more use: it need not be
        remembered whether it was done."""
        self.delete_versions = [
            ops[0].version for ops in classes if ops[0].op == "delete" and ops[0].version is not None
        ]
        self.by_version: dict[int | None, list[int]] = defaultdict(list)
        for number, ops in enumerate(classes):
            self.by_version[ops[0].version].append(number)

    def run(self) -> KeyVerdict:
        """Look until all is explained, or nothing is left to try."""
        total = len(self.musts)
        node: Node = (0, 0, (0,) * len(self.classes), MISSING)
        path: list[Op] = []
        best: tuple[int, list[Op], Node] = (-1, [], node)
        stack = [(node, self._next(node))]
        while stack:
            node, options = stack[-1]
            done = node[0] + node[1].bit_count()
            if done > best[0]:
                best = (done, list(path), node)
            if done == total:
                return KeyVerdict(self.key, "ok", total, self.steps_max - self.left, tuple(path))
            if self.left <= 0:
                return self._verdict("unknown", best)
            if not options:
                stack.pop()
                if path:
                    path.pop()
                continue
            op, after = options.pop()
            self.left -= 1
            if self._is_new(after):
                path.append(op)
                stack.append((after, self._next(after)))
        return self._verdict("illegal", best)

    def _is_new(self, node: Node) -> bool:
        """Whether nothing as good was seen: the same done, the same state, no more of the unknown used up."""
        low, bits, counts, state = node
        used = counts if self.deletes else tuple(counts[number] for number in self.by_version.get(None, ()))
        known = self.seen.setdefault((low, bits, state), [])
        if any(all(map(le, before, used)) for before in known):
            return False
        known[:] = [before for before in known if not all(map(le, used, before))]
        known.append(used)
        return True

    def _verdict(self, word: str, best: tuple[int, list[Op], Node]) -> KeyVerdict:
        _, path, node = best
        stuck = tuple(self.musts[index] for index in self._open(node[0], node[1])[0])
        return KeyVerdict(self.key, word, len(self.musts), self.steps_max - self.left, tuple(path), stuck)

    def _open(self, low: int, bits: int) -> tuple[list[int], float]:
        """The operations that may come next, and the time by which one of them must have."""
        found: list[int] = []
        until = FOREVER
        musts = self.musts
        for index in range(low, len(musts)):
            if bits >> (index - low) & 1:
                continue
            op = musts[index]
            if op.start > until:
                break
            found.append(index)
            until = min(until, op.end)
        return [index for index in found if musts[index].start <= until], until

    def _next(self, node: Node) -> list[tuple[Op, Node]]:
        """What may come next, the best guess last."""
        low, bits, counts, state = node
        indexes, until = self._open(low, bits)
        options: list[tuple[Op, Node]] = []
        wanted = _Wanted()
        for index in reversed(indexes):
            op = self.musts[index]
            after = step(state, op)
            if after == state:
                return [(op, (*self._done(low, bits, index), counts, state))]
            if after is not None:
                options.append((op, (*self._done(low, bits, index), counts, self._plain(after))))
            wanted.add(state, op)
        if wanted.gone or any(version < state.version for version in wanted.versions):
            wanted.versions += self.delete_versions  # which may have to be reached first
        unknown: list[tuple[Op, Node]] = []
        for number in (*self.by_version.get(None, ()), *self.by_version.get(state.version, ())):
            count, ops = counts[number], self.classes[number]
            if count == len(ops) or ops[count].start > until:
                continue
            after = _effect(state, ops[count])
            if after is not None and (not self.lazy or wanted.wants(state, ops[count])):
                more = (*counts[:number], count + 1, *counts[number + 1 :])
                unknown.append((ops[count], (low, bits, more, self._plain(after))))
        return unknown + options

    def _done(self, low: int, bits: int, index: int) -> tuple[int, int]:
        bits |= 1 << (index - low)
        while bits & 1:
            bits >>= 1
            low += 1
        return low, bits

    def _plain(self, state: State) -> State:
        """A value that nobody reads is like any other such."""
        return state if state.value in self.read or state.version == 0 else State(OPAQUE, state.version)
