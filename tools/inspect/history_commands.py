"""`shardkv inspect diff | config-history | timeline | shiviz`: several peers' pasts side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import click

from tools.inspect.child import CANNOT_OPEN, FINDINGS
from tools.inspect.config_history import Configuration, Step, configurations
from tools.inspect.diff import Comparison, Copy, Range, Row, Standing, compare
from tools.inspect.history_words import clock, ranges, span
from tools.inspect.places import places
from tools.inspect.reader import Unreadable, ask
from tools.inspect.shiviz import Contradiction, graph, ordered, shiviz
from tools.inspect.timeline import Event, Mixed, Past, events, read_pasts
from tools.inspect.timeline_page import page

USAGE = 2
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")


def add_to(group: click.Group) -> None:
    """Make the commands known to `shardkv inspect`."""
    for command in (diff, config_history, timeline, causality):
        group.add_command(command)


def _say(text: str) -> None:
    click.echo(f"shardkv inspect: {text}", err=True)


def _stop(text: str, code: int) -> NoReturn:
    _say(text)
    sys.exit(code)


def _complain(directory: Path, error: Unreadable) -> None:
    text = str(error)
    _say(text if str(directory) in text else f"{directory}: {text}")


# --- diff ------------------------------------------------------------------------------------------------------------


@click.command()
@places
@click.option("--group", "gid", type=click.IntRange(0), help="Only the peers of this group, of a cluster's directory.")
@click.option("--merge", is_flag=True, help="Also the log that stands on a quorum of the voters.")
@_JSON
def diff(directories: Sequence[Path], gid: int | None, merge: bool, as_json: bool) -> None:
    """The logs of a group's peers side by side: where they agree, lack entries, or contradict each other.

    A lag and an uncommitted tail are no fault (exit 0). Fatal (exit 1) is a conflict that no crash explains: of two
    committed entries, of two entries of one term, or of a committed entry with a later term's.

    --merge: the log that stands on a quorum. It is called committed only where a durable commit says so.

    \b
    Example: shardkv inspect diff --group 1 shardkv-data
    --json: one object per range: first last state terms missing purged committed fatal why; with --merge also: first last
    term state by voters merge; last: entries fatal first_difference lasts.
    """
    standings: list[Standing] = []

    def on_range(found: Range) -> None:
        click.echo(json.dumps(asdict(found)) if as_json else _range_line(found))

    def on_standing(found: Standing) -> None:
        standings.append(found)

    try:
        copies = _copies(directories, gid)
        done = compare(copies, on_range, on_standing if merge else None)
    except Unreadable as error:
        _stop(str(error), error.exit_code)
    for standing in standings:
        click.echo(json.dumps({**asdict(standing), "merge": True}) if as_json else _standing_line(standing))
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        for line in _verdict(done, copies):
            click.echo(line)
    sys.exit(FINDINGS if done.fatal else 0)


def _copies(directories: Sequence[Path], gid: int | None) -> list[Copy]:
    """The peers' logs, opened. Ends the program, with one line, if they are not of one group."""
    heads: list[tuple[dict[str, Any], Iterator[dict[str, Any]]]] = []
    for directory in directories:
        answers = ask("sketch", str(directory))
        try:
            head = next(answers)
        except Unreadable as error:
            _complain(directory, error)
            sys.exit(error.exit_code)
        if gid in (None, head["gid"]):
            heads.append((head, answers))
        else:
            answers.close()
    if len({head["cluster"] for head, _ in heads}) > 1:
        a, b = heads[0][0], next(h for h, _ in heads if h["cluster"] != heads[0][0]["cluster"])
        _stop(
            f"{a['directory']} is of cluster {a['cluster'][:8]}, {b['directory']} of {b['cluster'][:8]}: not comparable",
            CANNOT_OPEN,
        )
    groups = sorted({head["gid"] for head, _ in heads})
    if len(groups) > 1:
        _stop(f"these are peers of the groups {', '.join(map(str, groups))}: choose one with --group", USAGE)
    if len(heads) < 2:
        of = "" if gid is None else f" of group {gid}"
        _stop(f"diff needs the directories of two peers{of} or more, not {len(heads)}", USAGE)
    names = [head["name"] for head, _ in heads]
    return [
        Copy(h["name"] if names.count(h["name"]) == 1 else h["directory"], h, _rows(answers)) for h, answers in heads
    ]


def _rows(answers: Iterator[dict[str, Any]]) -> Iterator[Row]:
    for answer in answers:
        yield from answer["rows"]


def _indexes(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}..{last}"


def _range_line(found: Range) -> str:
    text = f"{_indexes(found.first, found.last):>20}  {found.state:<8}"
    if found.state == "conflict":
        text += "; ".join(f"{peer} term {term}" for peer, term in found.terms.items())
        text += f"; committed at {', '.join(found.committed)}" if found.committed else "; committed nowhere"
    elif found.terms:
        text += f"{', '.join(found.terms)}"
    if found.missing:
        text += f"; missing at {', '.join(found.missing)}"
    if found.purged:
        text += f"; purged at {', '.join(found.purged)}"
    if found.fatal:
        text += f"; FATAL: {found.why}"
    elif found.state == "conflict":
        text += "; an uncommitted tail, which its peer gives up when it hears the leader"
    return text


def _standing_line(found: Standing) -> str:
    by = ", ".join(found.by) or "nobody"
    words = {
        "committed": f"committed: the durable commit of {by} says so",
        "quorum": f"on a quorum of {found.voters} voters ({by}); not known to be committed",
        "purged": f"not to be compared: purged at, or held by too few: {by}",
        "short": f"only on {by}, of {found.voters} voters: the merged log ends before it",
    }[found.state]
    term = f"term {found.term}" if found.term else ""
    return f"{'merged ' + _indexes(found.first, found.last):>20}  {term} {words}"


def _verdict(done: Comparison, copies: Sequence[Copy]) -> Iterator[str]:
    most = max(done.lasts.values())
    for copy in copies:
        behind = most - done.lasts[copy.label]
        lag = f", {behind} behind the longest" if behind else ""
        yield f"{copy.label}: purged to {copy.base}, committed {copy.durable}, last {done.lasts[copy.label]}{lag}"
    first = done.first_difference
    if first is None:
        yield "no difference"
        return
    yield f"the first difference is at index {first.first}: {first.state}"
    if done.fatal:
        yield "FATAL: the logs contradict each other; no crash explains this"
    else:
        yield "nothing fatal: each difference is a lag or an uncommitted tail"


# --- config-history --------------------------------------------------------------------------------------------------


def _pasts(directories: Sequence[Path]) -> tuple[list[Past], int]:
    """What can be read, and the worst exit code of what cannot, which is told. Ends the program if nothing can."""
    try:
        pasts, broken = read_pasts(directories)
    except Mixed as mixed:
        _stop(str(mixed), USAGE)
    for directory, error in broken:
        _complain(directory, error)
    worst = max((error.exit_code for _, error in broken), default=0)
    if not pasts:
        sys.exit(worst)
    return pasts, worst


@click.command(name="config-history")
@places
@_JSON
def config_history(directories: Sequence[Path], as_json: bool) -> None:
    """Each configuration of the cluster: when, by which request, which shards moved where, how long each step took.

    DIR: a controller peer's, or the cluster's; only with the shard groups' directories are the steps known.

    \b
    Example: shardkv inspect config-history shardkv-data
    --json: one object per configuration: num posted_ms in_force_ms request client seq source committed groups shards
    moves_known moves [{shard source target freeze_ms copy_ms install_ms delete_ms rows}].
    """
    pasts, worst = _pasts(directories)
    if all(past.gid for past in pasts):
        _stop("no controller's directory is among them: the configurations are in group 0", USAGE)
    for config in configurations(pasts):
        if as_json:
            click.echo(json.dumps(config.as_json()))
        else:
            click.echo("\n".join(_config_lines(config)))
    sys.exit(worst)


def _config_lines(config: Configuration) -> Iterator[str]:
    took = "not in force" if config.in_force_ms is None else f"in force {clock(config.in_force_ms)}"
    if config.posted_ms is not None and config.in_force_ms is not None:
        took += f" (after {span(config.in_force_ms - config.posted_ms)})"
    sure = "" if config.committed else ", not known to be committed"
    yield f"configuration {config.num}: posted {clock(config.posted_ms)}, {took}, from the {config.source}{sure}"
    by = f"request {config.request}" if config.request else "no request id"
    yield f"  by {by}" + (f", client {config.client}#{config.seq}" if config.client else "")
    if not config.moves_known:
        yield "  what moved is not known: the configuration before it is not at hand"
    ways: dict[tuple[int, int], list[Step]] = {}
    for step in config.moves:
        ways.setdefault((step.source, step.target), []).append(step)
    for (source, target), steps in sorted(ways.items()):
        names = [f"group {gid}" if gid else "nobody" for gid in (source, target)]
        yield f"  {names[0]} -> {names[1]}: shards {ranges(s.shard for s in steps)}"
        for step in steps:
            yield f"    shard {step.shard}: {_step_words(step, config)}"


def _step_words(step: Step, config: Configuration) -> str:
    marks = [
        ("posted", config.posted_ms),
        ("frozen", step.freeze_ms),
        ("first rows", step.copy_ms),
        ("installed", step.install_ms),
        ("in force", config.in_force_ms),
        ("deleted", step.delete_ms),
    ]
    known = [(name, ms) for name, ms in marks if ms is not None]
    if len(known) < 2 or (step.freeze_ms is None and step.install_ms is None):
        return "no log at hand tells its steps"
    words = [f"{name} {_signed(ms - before)}" for (_, before), (name, ms) in pairwise(known)]
    return ", ".join(words) + (f" ({step.rows} rows)" if step.rows is not None else "")


def _signed(ms: int) -> str:
    """A duration between two clocks: it may be negative."""
    return ("+" if ms >= 0 else "") + span(ms)


# --- timeline and shiviz ---------------------------------------------------------------------------------------------


@click.command()
@places
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page instead."
)
@_JSON
def timeline(directories: Sequence[Path], html_file: Path | None, as_json: bool) -> None:
    """Terms, votes, leaders, configurations, starts, stops and crashes of all peers, by wall time.

    A crash is a start that no stop precedes; when it was lies between the last trace before it and that start.

    \b
    Example: shardkv inspect timeline shardkv-data --html timeline.html
    --json: one object per event: time_ms peer gid kind term text other index since_ms boot; the last four if known.
    """
    pasts, worst = _pasts(directories)
    found = events(pasts)
    if html_file is not None:
        try:
            html_file.write_text(page(pasts, found, configurations(pasts)), encoding="utf-8")
        except OSError as error:
            _stop(f"{html_file} cannot be written: {error.strerror}", USAGE)
        click.echo(f"{html_file}: {len(pasts)} peers, {len(found)} events", err=as_json)
    if as_json:
        for event in found:
            click.echo(json.dumps(event.as_json()))
    elif html_file is None:
        for event in found:
            click.echo(_event_line(event))
    sys.exit(worst)


def _event_line(event: Event) -> str:
    return f"{clock(event.time_ms):<23}  {event.peer:<12} {event.term:>5}  {event.kind:<13} {event.text}"


@click.command(name="shiviz")
@places
@_JSON
def causality(directories: Sequence[Path], as_json: bool) -> None:
    """The past as a log for ShiViz, the viewer of causality: what provably came before what, whatever the clocks say.

    The first line is the regular expression by which ShiViz reads the rest; paste all of it there.

    \b
    Example: shardkv inspect shiviz shardkv-data > cluster.log
    --json: one object per event: host clock {host: count} event.
    """
    pasts, worst = _pasts(directories)
    try:
        if as_json:
            for node in ordered(graph(pasts)):
                click.echo(json.dumps({"host": node.host, "clock": node.clock, "event": node.text}))
        else:
            for line in shiviz(pasts):
                click.echo(line)
    except Contradiction as error:
        _stop(str(error), FINDINGS)
    sys.exit(worst)
