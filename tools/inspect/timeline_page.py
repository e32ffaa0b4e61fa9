"""The timeline as one self-contained HTML page: a lane per peer over time, its log as cells of equal term, the shard map of
each configuration, and all events to search. Everything from a disk is escaped; nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from tools.inspect.config_history import Configuration
from tools.inspect.history_words import clock, ranges, span
from tools.inspect.page_frame import PAGE
from tools.inspect.timeline import Event, Past

LABEL, WIDTH, LANE, TOP = 120, 1280, 30, 34
COLOURS = ("#4269d0", "#d99e0b", "#e4572e", "#3f9f8f", "#3ca951", "#d6568c", "#8d4fd6", "#5f8fd8", "#9c6b4e", "#7d818a")
"""Of terms and of groups, in turn."""
EVENTS_MAX = 1600
"""So many events are on a page, the last ones; the text form has all."""
SPANS_MAX = 1000
"""About so many spans, cells and marks of a kind are in all lanes together; narrower ones are drawn as one."""
MARKS = {"start": "▶", "stop": "■", "crash": "✕", "vote": "◦", "members": "◆", "config": "▼", "in-force": "▲"}
ROLES = {"leader": "leader", "follow": "follower", "candidate": "candidate", "pre-candidate": "candidate"}


def page(pasts: Sequence[Past], found: Sequence[Event], configs: Sequence[Configuration]) -> str:
    """The page, as text."""
    shown = [event for event in found if event.time_ms][-EVENTS_MAX:]
    cluster = pasts[0].head["cluster"][:8]
    groups = sorted({past.gid for past in pasts})
    timed = sum(1 for event in found if event.time_ms)
    cut = f" The last {len(shown)} are shown." if len(shown) < timed else ""
    cut += f" {len(found) - timed} have no time and are only in the text form." if timed < len(found) else ""
    summary = (
        f"{len(pasts)} peers of the groups {ranges(groups)}, {len(found)} events from {clock(_begin(shown))} "
        f"to {clock(_end(shown))} UTC.{cut}"
    )
    options = "".join(f'<option value="{escape(p.name)}">{escape(p.name)}</option>' for p in pasts)
    kinds = "".join(
        f'<option value="{escape(kind)}">{escape(kind)}</option>' for kind in sorted({e.kind for e in shown})
    )
    return PAGE.format(
        title=f"cluster {escape(cluster)}",
        summary=escape(summary),
        peers=options,
        kinds=kinds,
        lanes=_lanes(pasts, shown),
        logs=_logs(pasts),
        configs=_configs(configs),
        events="\n".join(_row(event) for event in shown),
    )


def _begin(shown: Sequence[Event]) -> int:
    return min((e.since_ms or e.time_ms for e in shown), default=0)


def _end(shown: Sequence[Event]) -> int:
    return max((e.time_ms for e in shown), default=1)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _rect(kind: str, x: float, y: float, width: float, height: float, text: str, data: str, fill: str = "") -> str:
    style = f' fill="{fill}"' if fill else ""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{height:.0f}"{style} {data}>'
        f"<title>{escape(text)}</title></rect>"
    )


def _label(past: Past, y: float) -> str:
    return f'<text class="label" x="{LABEL - 8}" y="{y + 19:.0f}">{escape(past.name)}</text>'


def _rows(pasts: Sequence[Past]) -> tuple[dict[str, int], int]:
    """The top of each peer's row, groups apart, and the height of all."""
    rows: dict[str, int] = {}
    y, gid = TOP, None
    for past in pasts:
        if gid not in (None, past.gid):
            y += 14
        gid = past.gid
        rows[past.name] = y
        y += LANE
    return rows, y + 10


# --- lanes over time -------------------------------------------------------------------------------------------------


def _lanes(pasts: Sequence[Past], shown: Sequence[Event]) -> str:
    begin, end = _begin(shown), _end(shown)
    scale = WIDTH / max(end - begin, 1)
    rows, height = _rows(pasts)
    least = _narrowest(len(pasts))
    body = list(_axis(begin, end, scale, height))
    for past in pasts:
        y = rows[past.name]
        mine = [event for event in shown if event.peer == past.name]
        body.append(f'<g class="lane" data-peer="{escape(past.name)}">{_label(past, y)}')
        body += _spans(past, mine, y, begin, end, scale, least)
        body += _marks(mine, y, begin, scale, least)
        body.append("</g>")
    return f'<svg id="lanes" width="{LABEL + WIDTH + 20}" height="{height}">{"".join(body)}</svg>'


def _axis(begin: int, end: int, scale: float, height: int) -> Iterator[str]:
    step = next((s for s in (1, 10, 50, 100, 500, 1000, 5000, 10_000, 60_000, 600_000, 3_600_000)
                 if (end - begin) / s <= 14), max(1, (end - begin) // 10))  # fmt: skip
    for at in range(0, end - begin + 1, step):
        x = LABEL + at * scale
        yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 6}"/>'
        yield f'<text class="time" x="{x:.1f}" y="{TOP - 12}">{escape("+" + span(at))}</text>'


def _narrowest(lanes: int) -> float:
    """The least width of what is drawn by itself in one of so many lanes."""
    return WIDTH * max(lanes, 1) / SPANS_MAX


def _spans(
    past: Past, mine: Sequence[Event], y: int, begin: int, end: int, scale: float, least: float
) -> Iterator[str]:
    """Lives, in grey, and on them the roles in the colour of their term."""
    name = escape(past.name)
    role: tuple[int, str, int] | None = None
    drawn: dict[str, float] = {}
    for event in [*mine, Event(end, past.name, past.gid, "end", 0, "")]:
        until = event.since_ms if event.kind == "crash" and event.since_ms else event.time_ms
        ends = event.kind in (*ROLES, "start", "stop", "crash", "step-down", "end")
        if role is not None and ends:
            at, kind, term = role
            x, width = LABEL + (at - begin) * scale, max((until - at) * scale, 1.5)
            if LABEL + (until - begin) * scale >= drawn.get(kind, 0):  # many changes in so little are one
                text = f"{past.name}: {kind} in term {term}, {clock(at)}, {span(until - at)}"
                data = f'data-peer="{name}" data-kind="{kind}" data-term="{term}"'
                yield _rect(f"role {kind}", x, y + 4, width, LANE - 10, text, data, _colour(term))
                drawn[kind] = x + max(width, least)
        if event.kind == "crash" and event.since_ms and event.since_ms < event.time_ms:
            x, width = LABEL + (event.since_ms - begin) * scale, max((event.time_ms - event.since_ms) * scale, 1.5)
            data = f'data-peer="{name}" data-kind="crash"'
            yield _rect("unknown", x, y + 4, width, LANE - 10, f"{past.name}: {event.text}", data)
        if event.kind in ROLES:
            role = (event.time_ms, ROLES[event.kind], event.term)
        elif event.kind in ("start", "step-down"):
            role = (event.time_ms, "follower", event.term)
        elif event.kind in ("stop", "crash"):
            role = None


def _middle(event: Event) -> float:
    """Where its mark is: of a crash in the middle of the time in which it can have been."""
    return event.time_ms if event.since_ms is None else (event.time_ms + event.since_ms) / 2


def _marks(mine: Sequence[Event], y: int, begin: int, scale: float, least: float) -> Iterator[str]:
    """One mark of a kind for each `least` pixels: the events behind it are in the list."""
    last: dict[str, float] = {}
    for event in mine:
        x = LABEL + (_middle(event) - begin) * scale
        if event.kind in MARKS and x >= last.get(event.kind, 0) + least:
            last[event.kind] = x
            yield _mark(event, x, y)


def _mark(event: Event, x: float, y: int) -> str:
    return (
        f'<text class="mark {event.kind}" x="{x:.1f}" y="{y + 19}" data-peer="{escape(event.peer)}" '
        f'data-kind="{event.kind}">{MARKS[event.kind]}<title>{escape(_words(event))}</title></text>'
    )


def _words(event: Event) -> str:
    return f"{clock(event.time_ms)} {event.peer}: {event.text}"


# --- logs ------------------------------------------------------------------------------------------------------------


def _logs(pasts: Sequence[Past]) -> str:
    rows, height = _rows(pasts)
    body: list[str] = []
    for gid in sorted({past.gid for past in pasts}):
        group = [past for past in pasts if past.gid == gid]
        most = max(int(past.head["last"][1]) for past in group)
        scale = WIDTH / max(most, 1)
        for past in group:
            y = rows[past.name]
            body.append(f'<g class="log" data-peer="{escape(past.name)}">{_label(past, y)}')
            body += _cells(past, y, scale, _narrowest(len(pasts)) / scale)
            for kind, index in (("applied", past.head["applied"][1]), ("commit", past.head["commit"])):
                x = LABEL + index * scale
                words = escape(f"{past.name}: {kind} {index}, durable")
                body.append(
                    f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + LANE - 4}" '
                    f'data-peer="{escape(past.name)}" data-index="{index}"><title>{words}</title></line>'
                )
            body.append("</g>")
    return f'<svg id="logs" width="{LABEL + WIDTH + 20}" height="{height}">{"".join(body)}</svg>'


def _cells(past: Past, y: int, scale: float, least: float) -> Iterator[str]:
    name = escape(past.name)
    base = int(past.head["base"][1])
    if base:
        text = f"{past.name}: 1..{base} are purged, the last of term {past.head['base'][0]}"
        yield _rect("purged", LABEL, y + 4, max(base * scale, 2), LANE - 12, text, f'data-peer="{name}"')
    for first, last, terms in _together(past.runs, least):
        x, width = LABEL + (first - 1) * scale, max((last - first + 1) * scale - 0.5, 1)
        term = f"term {terms[0]}" if terms[0] == terms[-1] else f"terms {terms[0]} to {terms[-1]}"
        text = f"{past.name}: entries {first}..{last}, {last - first + 1} of {term}"
        data = f'data-peer="{name}" data-first="{first}" data-last="{last}" data-term="{terms[-1]}"'
        yield _rect("cell", x, y + 4, width, LANE - 12, text, data, _colour(terms[-1]))
        if width > 30:
            yield f'<text class="in" x="{x + 5:.1f}" y="{y + 18}">{terms[-1]}</text>'


def _together(runs: Sequence[dict[str, Any]], least: float) -> Iterator[tuple[int, int, list[int]]]:
    """Runs as cells; neighbours that together are shorter than `least` entries are one."""
    least = max(least, 1.0)
    open_: tuple[int, int, list[int]] | None = None
    for run in runs:
        if open_ is not None and least > 1 and run["last"] - open_[0] + 1 <= least and run["first"] == open_[1] + 1:
            open_ = (open_[0], run["last"], [open_[2][0], run["term"]])
            continue
        if open_ is not None:
            yield open_
        open_ = (run["first"], run["last"], [run["term"]])
    if open_ is not None:
        yield open_


# --- configurations and events ---------------------------------------------------------------------------------------


def _configs(configs: Sequence[Configuration]) -> str:
    if not configs:
        return "<p>No controller's directory is at hand.</p>"
    shown: list[Configuration] = []
    cells = 0
    for config in reversed(configs):
        cells += min(1 + sum(a != b for a, b in pairwise(config.shards)), SPANS_MAX)
        if shown and cells > SPANS_MAX:
            break
        shown.insert(0, config)
    cut = f"<p>The last {len(shown)} of {len(configs)}.</p>" if len(shown) < len(configs) else ""
    return "<table><tr><th>number</th><th>posted</th><th>took</th><th>shards</th><th>moved</th></tr>" + "".join(
        f'<tr class="config" data-num="{c.num}"><td>{c.num}</td><td>{escape(clock(c.posted_ms))}</td>'
        f"<td>{escape(_took(c))}</td><td>{_map(c)}</td><td>{escape(_moved(c))}</td></tr>"
        for c in shown
    ) + f"</table>{cut}"  # fmt: skip


def _took(config: Configuration) -> str:
    if config.in_force_ms is None:
        return "not in force"
    return span(None if config.posted_ms is None else config.in_force_ms - config.posted_ms)


def _moved(config: Configuration) -> str:
    return f"{len(config.moves)} shards" if config.moves_known else "?"


def _map(config: Configuration) -> str:
    """A bar of the shards, coloured by owner; neighbours of one owner are one cell."""
    runs: list[list[int]] = []
    for shard, gid in enumerate(config.shards):
        if runs and runs[-1][2] == gid:
            runs[-1][1] = shard
        else:
            runs.append([shard, shard, gid])
    scale = 480 / max(len(config.shards), 1)
    cells = []
    for first, last, gid in runs[:SPANS_MAX]:
        owner = f"group {gid}" if gid else "nobody"
        text = f"configuration {config.num}: shards {first}..{last} belong to {owner}"
        data = f'data-gid="{gid}" data-first="{first}" data-last="{last}"'
        x, width = first * scale, max((last - first + 1) * scale - 1, 0.5)
        cells.append(_rect("shard", x, 2, width, 18, text, data, _colour(gid) if gid else "var(--soft)"))
        if width > 12:
            cells.append(f'<text class="in" x="{x + 3:.1f}" y="16">{gid or ""}</text>')
    return f'<svg width="484" height="22">{"".join(cells)}</svg>'


def _row(event: Event) -> str:
    crash = ' class="bad"' if event.kind == "crash" else ""
    return (
        f'<tr data-peer="{escape(event.peer)}" data-kind="{escape(event.kind)}"{crash}>'
        f"<td>{escape(clock(event.time_ms))}</td>"
        f"<td>{escape(event.peer)}</td><td>{escape(event.kind)}</td>"
        f'<td><i style="background:{_colour(event.term)}"></i>{event.term}</td><td>{escape(event.text)}</td></tr>'
    )
