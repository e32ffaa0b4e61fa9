"""The configurations of a cluster, one after the other: from the controllers' logs, for older ones from the records of the
history that their state keeps, and how long each step took from the shard groups' logs, as far as they reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tools.inspect.timeline import Past, entries_told


@dataclass
class Step:
    """A shard that a change moved. Times are wall times in ms, None where no log at hand says it. `rows`: how many rows
    were installed."""

    shard: int
    source: int
    target: int
    freeze_ms: int | None = None
    copy_ms: int | None = None
    install_ms: int | None = None
    delete_ms: int | None = None
    rows: int | None = None


@dataclass
class Configuration:
    """A configuration; the fields are the keys of `config-history --json`.

    `posted_ms`: when the entry was proposed that made it the next one. `in_force_ms`: the same of the current one.
    `request`: the id of the client's request, hex, "" if it had none; `client` and `seq`: of the controller's session, if
    it used one. `source`: log, or history (a record of the state: its times are the controller's, of when it began and
    when the last shard had moved). `committed`: its entry is at or below a durable commit.
    """

    num: int
    posted_ms: int | None
    in_force_ms: int | None
    request: str
    client: str | None
    seq: int | None
    source: str
    committed: bool
    groups: dict[str, list[str]]
    shards: list[int]
    moves: list[Step] = field(default_factory=list)
    moves_known: bool = True

    def as_json(self) -> dict[str, Any]:
        """The keys and values of `config-history --json`."""
        return asdict(self)


def configurations(pasts: Sequence[Past]) -> list[Configuration]:
    """All that the controllers' directories among them know, by number."""
    found = dict(_stored(pasts))
    in_force: set[int] = set()
    told = [one for one in entries_told([p for p in pasts if p.gid == 0]) if one[1]["type"] == "config"]
    for _, record, committed in sorted(told, key=lambda one: not one[2]):  # what is committed first, in log order
        if record["record"] == "next":
            _posted(record, found, committed)
        elif record["record"] == "current" and committed and record["num"] not in in_force:
            in_force.add(record["num"])
            _in_force(record, found)
    ordered = [found[num] for num in sorted(found)]
    steps = _steps(pasts)
    before: Configuration | None = None
    for config in ordered:
        if before is not None and before.num + 1 == config.num:
            config.moves = list(_moves(before.shards, config, steps))
        elif config.num == 1:
            config.moves = list(_moves([0] * len(config.shards), config, steps))
        else:
            config.moves_known = False
        before = config
    return ordered


def _stored(pasts: Sequence[Past]) -> Iterator[tuple[int, Configuration]]:
    for past in pasts:
        for record in past.stored:
            yield (
                record["num"],
                Configuration(
                    num=record["num"],
                    posted_ms=record["time_ms"] or None,
                    in_force_ms=record["end_ms"] or None,
                    request=record["request"],
                    client=None,
                    seq=None,
                    source="history",
                    committed=True,
                    groups=record["groups"],
                    shards=record["shards"],
                ),
            )


def _posted(record: dict[str, Any], found: dict[int, Configuration], committed: bool) -> None:
    """The first post of a number wins: later ones fail by its version, also where only the history shows the first."""
    known = found.get(record["num"])
    if known is not None and (known.source == "log" or known.shards != record["shards"]):
        return
    if known is not None and known.request != record["request"]:
        return
    found[record["num"]] = Configuration(
        num=record["num"],
        posted_ms=record["time_ms"] or None,
        in_force_ms=None if known is None else known.in_force_ms,
        request=record["request"],
        client=record["client"],
        seq=record["seq"] if record["client"] else None,
        source="log",
        committed=committed or known is not None,
        groups=record["groups"],
        shards=record["shards"],
    )


def _in_force(record: dict[str, Any], found: dict[int, Configuration]) -> None:
    known = found.setdefault(
        record["num"],
        Configuration(record["num"], None, None, "", None, None, "log", True, record["groups"], record["shards"]),
    )
    known.in_force_ms = record["time_ms"] or known.in_force_ms


Told = dict[tuple[str, int, int, int], dict[str, Any]]
"""(step, gid of the log, shard, num) -> the first entry that says so."""


def _steps(pasts: Sequence[Past]) -> Told:
    found: Told = {}
    for past in pasts:
        for told in past.told:
            if told["type"] == "move" and told["index"] <= past.durable:
                key = (told["step"], past.gid, told["shard"], told["num"])
                if key not in found or told["index"] < found[key]["index"]:
                    found[key] = told
    return found


def _moves(old: Sequence[int], config: Configuration, steps: Told) -> Iterator[Step]:
    for shard, (source, target) in enumerate(zip(old, config.shards, strict=False)):
        if source == target:
            continue
        step = Step(shard, source, target)
        step.freeze_ms = _time(steps, "freeze", source, shard, config.num)
        step.copy_ms = _time(steps, "chunk", target, shard, config.num)
        step.install_ms = _time(steps, "install", target, shard, config.num)
        step.delete_ms = _time(steps, "delete", source, shard, config.num)
        installed = steps.get(("install", target, shard, config.num))
        step.rows = None if installed is None else installed["rows"]
        yield step


def _time(steps: Told, step: str, gid: int, shard: int, num: int) -> int | None:
    told = steps.get((step, gid, shard, num))
    return None if told is None else told["time_ms"] or None
