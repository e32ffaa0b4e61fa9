"""Legal histories pass, planted illegal ones do not, and unknown outcomes neither hide nor fake a violation."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from tools.checker.history import FOREVER, Op
from tools.checker.linearizability import MISSING, State, _effect, check, step

KINDS = ("get", "get", "put", "put", "put", "delete")


def put(
    value: str, start: float, end: float, result: str = "ok", *, version: int | None = None, now: int | None = None
) -> Op:
    return Op("c", "put", b"k", value.encode(), version, start, end, result, now)


def get(value: str | None, start: float, end: float, now: int | None = None) -> Op:
    if value is None:
        return Op("c", "get", b"k", None, None, start, end, "no key")
    return Op("c", "get", b"k", value.encode(), None, start, end, "ok", now)


def delete(start: float, end: float, result: str = "ok", *, version: int | None = None, now: int | None = None) -> Op:
    return Op("c", "delete", b"k", None, version, start, end, result, now)


LEGAL = {
    "nothing": [],
    "one after another": [get(None, 0, 1), put("a", 1, 2, now=1), get("a", 2, 3, now=1), put("b", 3, 4, now=2)],
    "a get during a put sees either": [put("a", 0, 1), put("b", 2, 6), get("a", 3, 4), get("b", 4, 5)],
    "a put by version": [put("a", 0, 1, version=0, now=1), put("b", 1, 2, version=1, now=2)],
    "a mismatch": [put("a", 0, 1), put("b", 1, 2, "mismatch", version=5, now=1), get("a", 2, 3, 1)],
    "a put of a missing key by a version above 0": [put("a", 0, 1, "no key", version=3)],
    "after a delete as if never written": [put("a", 0, 1), delete(1, 2, now=1), get(None, 2, 3), put("b", 3, 4, now=1)],
    "an open put that was read": [put("a", 0, FOREVER, "maybe"), get("a", 5, 6, 1)],
    "an open put that never was": [put("a", 0, 1, "maybe"), get(None, 5, 6)],
    "a maybe that takes effect late": [put("a", 0, 1, "maybe"), get(None, 5, 6), get("a", 7, 8)],
    "a failed put": [put("a", 0, 1, "failed"), get(None, 2, 3)],
    "a gap in the versions by an unread maybe": [put("a", 0, 1), put("x", 1, 2, "maybe"), put("b", 3, 4, now=3)],
    "a maybe that the logs know of, late": [replace(put("a", 0, 1, "maybe"), happened=True, now=1), get(None, 5, 6)],
    "a maybe by a version that came later": [
        put("x", 0, 1, "maybe", version=1),
        put("a", 2, 3, version=0, now=1),
        get("x", 4, 5, 2),
    ],
}

ILLEGAL = {
    "a stale get": [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)],
    "a get that goes back": [put("a", 0, 1), put("b", 2, 10), get("b", 3, 4), get("a", 5, 6)],
    "a value out of nowhere": [get("z", 0, 1)],
    "a lost put": [put("a", 0, 1), get(None, 2, 3)],
    "a put that took effect twice": [put("a", 0, 1, now=1), put("b", 2, 3, now=3)],
    "two puts of one version": [put("a", 0, 5, version=0), put("b", 0, 5, version=0)],
    "a put that was refused by the right version": [put("a", 0, 1), put("b", 2, 3, "mismatch", version=1)],
    "a delete that was undone": [put("a", 0, 1), delete(2, 3), get("a", 4, 5)],
    "a version that outlived the delete": [put("a", 0, 1), delete(2, 3), put("b", 4, 5, now=2)],
    "the wrong version of the right value": [put("a", 0, 1), get("a", 2, 3, now=2)],
    "a maybe that the logs deny": [replace(put("a", 0, 1, "maybe"), happened=False), get("a", 5, 6)],
    "a maybe that the logs know of": [
        replace(put("a", 0, 1, "maybe"), happened=True, now=2),
        put("b", 2, 3, now=1),
        put("c", 4, 5, now=2),
    ],
    "a failed put that was read": [put("a", 0, 1, "failed"), get("a", 2, 3)],
    "a read before the put began": [get("a", 0, 1), put("a", 2, 3)],
    "a read maybe that is lost again": [put("a", 0, 1, "maybe"), get("a", 2, 3), get(None, 4, 5)],
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_history(name: str) -> None:
    found = check(LEGAL[name])
    assert found.verdict == "ok", str(found)


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_history(name: str) -> None:
    found = check(ILLEGAL[name])
    assert found.verdict == "illegal" and found.failed[0].stuck, str(found)


def made(
    rng: random.Random, clients: int, count: int, *, maybe: float = 0.0, kinds: tuple[str, ...] = KINDS
) -> list[Op]:
    """A history of a store that is linearizable by construction: every operation takes effect at an instant inside it."""
    state, free, ops = MISSING, [0.0] * clients, []
    number = 0
    plans = []
    for _ in range(count):
        client = min(range(clients), key=lambda c: free[c])
        start = free[client] + rng.random() * 0.1
        length = rng.random()
        plans.append((start + rng.random() * length, client, start, start + length))
        free[client] = start + length + rng.random() * 0.05
    for _, client, start, end in sorted(plans):
        number += 1
        kind = rng.choice(kinds)
        version = rng.choice((None, None, state.version, state.version + rng.randint(0, 2)))
        if kind == "get":
            told = "ok" if state.version else "no key"
            ops.append(Op(f"c{client}", "get", b"k", state.value, None, start, end, told, state.version or None))
            continue
        value = b"v%d" % number if kind == "put" else None
        op = Op(f"c{client}", kind, b"k", value, version, start, end, "ok")
        unknown = rng.random() < maybe
        if unknown and rng.random() < 0.5:
            ops.append(replace(op, result="maybe"))
            continue
        after = _effect(state, op)
        if after is None:
            missing = state.version == 0 and (kind == "delete" or version)
            ops.append(replace(op, result="maybe" if unknown else "no key" if missing else "mismatch"))
            continue
        told_version = after.version if kind == "put" else state.version
        state = after
        ops.append(replace(op, result="maybe") if unknown else replace(op, now=told_version))
    return ops


@pytest.mark.parametrize("seed", range(12))
def test_histories_made_linearizable_are_found_so(seed: int) -> None:
    rng = random.Random(seed)
    ops = made(rng, clients=rng.randint(1, 8), count=300, maybe=rng.choice((0.0, 0.05, 0.1)))
    found = check(ops)
    assert found.verdict == "ok", str(found)


@pytest.mark.parametrize("seed", range(12))
def test_one_wrong_answer_is_found(seed: int) -> None:
    """A get that shows the value before the last one that was surely there."""
    rng = random.Random(seed)
    ops = made(rng, clients=4, count=300)
    puts = [op for op in ops if op.op == "put" and op.result == "ok"]
    reads = [i for i, op in enumerate(ops) if op.op == "get" and op.result == "ok" and op.start > 20]
    at = rng.choice(reads)
    old = rng.choice([op for op in puts if op.end < ops[at].start - 10])
    ops[at] = replace(ops[at], value=old.value, now=None)
    assert check(ops).verdict == "illegal"


def test_ten_thousand_operations_on_ten_keys_take_about_a_second() -> None:
    rng = random.Random(1)
    ops = [replace(op, key=b"k%d" % key) for key in range(10) for op in made(rng, clients=10, count=1000)]
    began = time.monotonic()
    assert check(ops).verdict == "ok"
    assert time.monotonic() - began < 30, "far slower than it was: the search must have lost its memory"


def test_one_hot_key_with_many_unknown_outcomes_is_decided() -> None:
    rng = random.Random(3)
    ops = made(rng, clients=10, count=2000, maybe=0.3, kinds=KINDS[:-1])
    assert check(ops).verdict == "ok"
    last = max(op.end for op in ops)
    assert check([*ops, get("v1", last + 1, last + 2, now=10**6)]).verdict == "illegal"


def test_a_search_that_is_cut_short_says_so() -> None:
    ops = made(random.Random(5), clients=8, count=200)
    assert check(ops, steps_max=10).verdict == "unknown"


def explained_by_brute_force(ops: list[Op]) -> bool:
    """Every order is tried, nothing is left out."""
    musts = [op for op in ops if op.result not in ("maybe", "failed")]
    maybes = [op for op in ops if op.result == "maybe" and op.op != "get"]
    seen = set()

    def go(done: frozenset[int], used: frozenset[int], state: State) -> bool:
        if len(done) == len(musts):
            return True
        if (done, used, state) in seen:
            return False
        seen.add((done, used, state))
        left = [i for i in range(len(musts)) if i not in done]
        until = min(musts[i].end for i in left)
        for i in left:
            after = step(state, musts[i]) if musts[i].start <= until else None
            if after is not None and go(done | {i}, used, after):
                return True
        for i, op in enumerate(maybes):
            after = _effect(state, op) if i not in used and op.start <= until else None
            if after is not None and go(done, used | {i}, after):
                return True
        return False

    return go(frozenset(), frozenset(), MISSING)


def test_the_search_finds_what_brute_force_finds() -> None:
    """On small histories, legal and not, with and without versions, with many unknown outcomes."""
    verdicts = []
    for seed in range(600):
        rng = random.Random(seed)
        ops = [replace(op, now=rng.choice((None, op.now))) for op in made(rng, clients=3, count=9, maybe=0.4)]
        if rng.random() < 0.5:
            i, other = rng.randrange(len(ops)), rng.choice(ops)
            ops[i] = replace(ops[i], start=other.start, end=max(other.start, other.end))
        verdicts.append(check(ops).verdict == "ok")
        assert verdicts[-1] == explained_by_brute_force(ops), "\n".join(str(op) for op in ops)
    assert 100 < sum(verdicts) < 590
