"""A history that has no explanation, as one self-contained HTML page: lanes per client, the longest explanation found as
numbered marks in its order, and in red the operations of which none could come next, with what each claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tools.checker.history import FOREVER, Op, text_of
from tools.checker.linearizability import KeyVerdict, Verdict, explained_state

LANE, LABEL, TOP, WIDTH = 26, 130, 34, 1400
AROUND = 60
"""So many operations of a key are drawn, around the failure."""
KEYS_SHOWN = 5


def picture(history: Sequence[Op], verdict: Verdict, title: str = "history") -> str:
    """The page. Of a history that is linearizable it shows the keys with most operations."""
    keys = verdict.failed or sorted(verdict.keys, key=lambda key: -key.ops)
    sections = [_section([op for op in history if op.key == key.key], key) for key in keys[:KEYS_SHOWN]]
    more = f"<p>{len(keys) - KEYS_SHOWN} more keys are not shown.</p>" if len(keys) > KEYS_SHOWN else ""
    words = escape(str(verdict)).splitlines()[0]
    return _PAGE.format(title=escape(title), verdict=words, sections="\n".join(sections) + more)


def _section(ops: list[Op], key: KeyVerdict) -> str:
    shown = _window(sorted(ops, key=lambda op: op.start), key)
    begin = min((op.start for op in shown), default=0.0)
    end = max((op.end if op.end != FOREVER else op.start for op in shown), default=1.0)
    scale = (WIDTH - 40) / max(end - begin, 1e-9)
    lanes = _lanes(shown, end)
    names = sorted({client for client, _ in lanes.values()})
    depth = {name: 1 + max(level for client, level in lanes.values() if client == name) for name in names}
    tops = {name: TOP + LANE * sum(depth[other] for other in names[:i]) for i, name in enumerate(names)}
    order = {op: number for number, op in enumerate(_originals(key.order, ops))}
    body = [f'<text class="lane" x="{LABEL - 8}" y="{y + 17}">{escape(name)}</text>' for name, y in tops.items()]
    stuck = set(_originals(key.stuck, ops))
    for op in shown:
        client, level = lanes[op]
        x = LABEL + (op.start - begin) * scale
        until = end if op.end == FOREVER else op.end
        width = max((until - op.start) * scale, 3.0)
        body.append(_bar(op, x, tops[client] + level * LANE, width, order.get(op), op in stuck))
    height = TOP + LANE * sum(depth.values()) + 10
    cut = f" ({len(shown)} of {len(ops)} operations, around the failure)" if len(shown) < len(ops) else ""
    return (
        f"<h2>key {escape(text_of(key.key))}: {escape(key.verdict)}{cut}</h2>{_why(key)}"
        f'<div class="wide"><svg width="{WIDTH + LABEL}" height="{height}">{"".join(body)}</svg></div>'
    )


def _window(ops: list[Op], key: KeyVerdict) -> list[Op]:
    if len(ops) <= AROUND or not key.stuck:
        return ops[-AROUND:] if key.stuck else ops[:AROUND]
    at = next((i for i, op in enumerate(ops) if op.start >= min(s.start for s in key.stuck)), len(ops))
    first = max(0, min(at - AROUND * 2 // 3, len(ops) - AROUND))
    return ops[first : first + AROUND]


def _originals(found: Sequence[Op], ops: list[Op]) -> list[Op]:
    """The operations as they were told: the search works on copies that say more."""
    known = {(op.client, op.op, op.start, op.value): op for op in ops}
    return [known.get((op.client, op.op, op.start, op.value), op) for op in found]


def _lanes(ops: list[Op], end: float) -> dict[Op, tuple[str, int]]:
    """(client, level): a client's operations that overlap are put below each other."""
    free: dict[str, list[float]] = {}
    lanes = {}
    for op in ops:
        levels = free.setdefault(op.client, [])
        level = next((n for n, until in enumerate(levels) if until <= op.start), len(levels))
        levels[level : level + 1] = [end if op.end == FOREVER else op.end]
        lanes[op] = (op.client, level)
    return lanes


def _bar(op: Op, x: float, y: int, width: float, number: int | None, stuck: bool) -> str:
    kind = {"ok": op.op, "maybe": "maybe", "failed": "failed"}.get(op.result, "refused")
    words = _words(op)
    text = f'<text class="in" x="{x + 4:.1f}" y="{y + 16}">{escape(words)}</text>' if width > 7 * len(words) else ""
    mark = ""
    if number is not None:
        at = x + width / 2
        mark = f'<circle cx="{at:.1f}" cy="{y + 22}" r="3"/>'
        mark += f'<text class="number" x="{at + 5:.1f}" y="{y + 25}">{number + 1}</text>'
    return (
        f'<g><title>{escape(str(op))}</title><rect class="{kind}{" stuck" if stuck else ""}" x="{x:.1f}" y="{y + 3}" '
        f'width="{width:.1f}" height="{LANE - 8}" rx="3"/>{text}{mark}</g>'
    )


def _words(op: Op) -> str:
    version = "" if op.now is None else f" v{op.now}"
    match op.op, op.result:
        case "get", "ok":
            return f"{text_of(op.value)}{version}"
        case "put", "ok" | "maybe":
            return f"={text_of(op.value)}{version}"
        case "delete", "ok":
            return f"deleted{version}"
        case _:
            return op.result


def _why(key: KeyVerdict) -> str:
    if key.verdict == "ok":
        return f"<p>{key.ops} operations, all explained: the numbers are their order.</p>"
    state = explained_state(key.order)
    now = "the key was missing" if state.version == 0 else f"the key had a value of version {state.version}"
    if state.version and state.value is not None:
        now = f"the key was {text_of(state.value)}, version {state.version}"
    claims = "".join(f"<li>{escape(str(op))}</li>" for op in key.stuck[:10])
    return (
        f"<p>{len(key.order)} operations could be put in an order; then {escape(now)}, and each of those that must come next "
        f"says something else:</p><ul>{claims}</ul>"
    )


_PAGE = """<!doctype html>
<meta charset="utf-8"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: light-dark(#222, #ddd); --back: light-dark(#fff, #1b1b1b); }}
body {{ font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2em; }}
h2 {{ margin-top: 2em; }} .wide {{ overflow-x: auto; }}
text {{ fill: var(--ink); font-size: 11px; }} .lane {{ text-anchor: end; }} .in {{ fill: #fff; }}
.number {{ font-size: 9px; }} circle {{ fill: var(--ink); }}
.get {{ fill: #4269d0; }} .put {{ fill: #2f8f46; }} .delete {{ fill: #8d4fd6; }} .refused {{ fill: #7d818a; }}
.maybe {{ fill: #b9850b; opacity: .7; }} .failed {{ fill: #9498a0; opacity: .35; }}
.stuck {{ stroke: #e00; stroke-width: 3; }}
</style>
<h1>{title}</h1><p>{verdict}</p>
<p>A lane per client; gets are blue, puts green, deletes purple, mismatches and missing keys grey, unknown outcomes yellow.
The numbers are the order of the longest explanation; red are those of which none can come next. Point at a bar to
read it.</p>
{sections}
"""
