"""What happened, from the journals and logs of all peers at hand: one order of events by wall time.

Wall times are each peer's own clock's; a no-op and an entry of a controller's clock-less test have none, and take the
time of the next entry that has one. A crash leaves no record: it is seen at the next start that no stop precedes, or in
a peer that nobody runs and that recorded no stop, and lies between the last trace before it and then; a trace is a record
of the journal and, of a peer that nobody runs, the youngest entry of its log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.inspect.history_words import ranges
from tools.inspect.reader import Unreadable, ask


@dataclass
class Past:
    """What one peer tells: `head` as in `traces.heading`, the rest the objects of its trace by type."""

    head: dict[str, Any]
    journal: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    stored: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`server-<gid>-<peer>`."""
        return str(self.head["name"])

    @property
    def gid(self) -> int:
        """Its group."""
        return int(self.head["gid"])

    @property
    def durable(self) -> int:
        """Up to here the peer itself knows its entries to be committed."""
        return max(int(self.head["commit"]), int(self.head["applied"][1]))


@dataclass(frozen=True)
class Event:
    """One event; the fields are the keys of `timeline --json`.

    `time_ms`: wall time, 0 if nothing near it has one. `peer`: who tells it, or the leader whose entry it is. `kind`: start
    stop crash candidate pre-candidate vote leader follow step-down image recovered members config in-force move journal.
    `other`: the peer voted for or followed. `index`: of the entry. `since_ms`: of a crash, the last trace before it.
    """

    time_ms: int
    peer: str
    gid: int
    kind: str
    term: int
    text: str
    other: int | None = None
    index: int | None = None
    since_ms: int | None = None
    boot: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Without the fields that are not known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Mixed(Exception):
    """The directories cannot be put in one picture: of several clusters, or the same peer twice."""


def read_past(directory: Path) -> Past:
    """Raises `Unreadable`."""
    answers = ask("trace", str(directory))
    past = Past(next(answers))
    kinds = {"journal": past.journal, "run": past.runs, "stored": past.stored}
    for answer in answers:
        kinds.get(answer["type"], past.told).append(answer)
    return past


def read_pasts(directories: Sequence[Path]) -> tuple[list[Past], list[tuple[Path, Unreadable]]]:
    """The pasts that can be read, by group and peer, and what cannot. Raises `Mixed`."""
    pasts: list[Past] = []
    broken: list[tuple[Path, Unreadable]] = []
    for directory in directories:
        try:
            pasts.append(read_past(directory))
        except Unreadable as error:
            broken.append((directory, error))
    seen: dict[tuple[int, int], Past] = {}
    for past in pasts:
        if past.head["cluster"] != pasts[0].head["cluster"]:
            a, b = pasts[0].head, past.head
            raise Mixed(
                f"{a['directory']} is of cluster {a['cluster'][:8]}, {b['directory']} of {b['cluster'][:8]}: one at a time"
            )
        twin = seen.setdefault((past.gid, past.head["peer"]), past)
        if twin is not past:
            raise Mixed(f"{twin.head['directory']} and {past.head['directory']} are both {past.name}")
    return [seen[key] for key in sorted(seen)], broken


# --- events ----------------------------------------------------------------------------------------------------------


def events(pasts: Sequence[Past]) -> list[Event]:
    """All events, by wall time; those without any come first."""
    found = [event for past in pasts for event in journal_events(past)]
    for gid in sorted({past.gid for past in pasts}):
        found += _log([past for past in pasts if past.gid == gid], found)
    return sorted(found, key=lambda event: event.time_ms)


_WORDS = {
    "start": "starts, number {boot}",
    "stop": "stops in good order",
    "pre-candidate": "asks whether it could win an election after term {term}",
    "candidate": "asks for votes in term {term}",
    "vote": "votes for peer {peer} in term {term}",
    "leader": "leads term {term}",
    "follow": "follows peer {peer} in term {term}",
    "image installed": "has installed an image of the state",
    "recovered": "has caught up with what it had forgotten, and votes again",
}


def journal_events(past: Past) -> Iterator[Event]:
    """What a peer's own journal says, in its order."""
    last: dict[str, Any] | None = None
    for record in past.journal:
        name = str(record["name"])
        if name == "start" and last is not None and last["name"] != "stop":
            yield _crash(past, last, record["time_ms"], f"found at start {record['boot']}")
        kind = {"image installed": "image"}.get(name, name)
        words = _WORDS.get(name, f"{name} in term {{term}}")
        if name == "follow" and record["peer"] is None:
            kind, words = "step-down", "steps down in term {term}"
        text = words.format(boot=record["boot"], term=record["term"], peer=record["peer"])
        if kind not in {*_WORDS, "image", "step-down"}:
            kind = "journal"
        yield _event(past, record["time_ms"], kind, record["term"], text, other=record["peer"], boot=record["boot"])
        last = record
    if last is not None and last["name"] != "stop" and not past.head["running"]:
        # It lived at least until the youngest entry that it holds was made.
        alive_ms = max([last["time_ms"], *(run["to_ms"] for run in past.runs)])
        yield _crash(past, {**last, "time_ms": alive_ms}, alive_ms, "nobody runs it")


def _crash(past: Past, last: dict[str, Any], time_ms: int, how: str) -> Event:
    text = f"crashed or was killed after its start {last['boot']}: no stop is recorded ({how})"
    return _event(past, time_ms, "crash", last["term"], text, since_ms=last["time_ms"], boot=last["boot"])


def _event(past: Past, time_ms: int, kind: str, term: int, text: str, **more: Any) -> Event:
    return Event(time_ms, past.name, past.gid, kind, term, text, **more)


def _log(group: Sequence[Past], journals: Sequence[Event]) -> Iterator[Event]:
    """The events in the entries of a group's logs, each once, as its leader's."""
    gid = group[0].gid
    leaders = {noop["term"]: noop["leader"] for past in group for noop in past.told if noop["type"] == "noop"}
    led = {(e.gid, e.term) for e in journals if e.kind == "leader"}
    times = _times(group)
    for past, told, committed in entries_told(group):
        found = _entry(told)
        if found is None or (told["type"] == "noop" and (gid, told["term"]) in led):
            continue
        kind, text = found
        leader = leaders.get(told["term"])
        name = f"server-{gid}-{leader}" if leader is not None else past.name
        time_ms = told["time_ms"] or times.get(told["term"], 0)
        words = text if committed else f"{text} (not known to be committed)"
        yield Event(time_ms, name, gid, kind, told["term"], words, index=told["index"])


def entries_told(group: Sequence[Past]) -> list[tuple[Past, dict[str, Any], bool]]:
    """What the entries of a group's logs tell, each once, in log order, with one of those who have it, and whether one
    who has it has committed it durably."""
    found: dict[tuple[Any, ...], tuple[Past, dict[str, Any], bool]] = {}
    for past in group:
        for told in past.told:
            more = (told.get(name) for name in ("shard", "step", "record", "num"))
            key = (told["index"], told["term"], told["type"], *more)
            if told["index"] <= past.durable or key not in found:
                found[key] = (past, told, told["index"] <= past.durable)
    return sorted(found.values(), key=lambda one: (one[1]["index"], one[1]["term"]))


def _times(group: Sequence[Past]) -> dict[int, int]:
    """The first wall time of an entry of each term."""
    found: dict[int, int] = {}
    for past in group:
        for run in past.runs:
            if run["from_ms"]:
                found[run["term"]] = min(run["from_ms"], found.get(run["term"], run["from_ms"]))
    return found


def _entry(told: dict[str, Any]) -> tuple[str, str] | None:
    match told["type"]:
        case "noop":
            return "leader", f"leads term {told['term']}: its first entry says so, no journal at hand does"
        case "members":
            voters = ranges(peer for peer, _ in told["voters"])
            learners = ranges(peer for peer, _ in told["learners"])
            return "members", f"the voters are the peers {voters}" + (f", learners {learners}" if learners else "")
        case "config" if told["record"] == "next":
            return "config", f"configuration {told['num']} is posted: {_owners(told)}"
        case "config" if told["record"] == "current":
            return "in-force", f"configuration {told['num']} is in force"
        case "move":
            return "move", f"shard {told['shard']}, configuration {told['num']}: {_step(told)}"
    return None


def _step(told: dict[str, Any]) -> str:
    match told["step"]:
        case "freeze":
            return f"frozen, for group {told['gid']}"
        case "chunk":
            return "its first rows arrive"
        case "install":
            return f"installed, {told['rows']} rows"
        case _:
            return "deleted at its old owner"


def _owners(config: dict[str, Any]) -> str:
    owners: dict[int, list[int]] = {}
    for shard, gid in enumerate(config["shards"]):
        owners.setdefault(gid, []).append(shard)
    return "; ".join(f"group {gid} has {ranges(shards)}" for gid, shards in sorted(owners.items())) or "no shards"
