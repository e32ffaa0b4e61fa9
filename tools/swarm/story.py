"""A seed for people: what happened, line by line, and a picture: a lane per peer with its roles and crashes, the faults
above, the clients' operations below, the key whose history has no explanation marked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from tools.checker.history import FOREVER, Op
from tools.swarm.run import Outcome, Run

WIDTH, LABEL, LANE, TOP = 1500, 150, 22, 30
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")
"""Of terms, in turn."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a lane."""

    lane: str
    begin: float
    end: float
    kind: str
    text: str
    colour: str = ""


class Story:
    """Collects what happens in one run; `attach` is given to `play`."""

    def __init__(self, on_line: Callable[[str], None] | None = None) -> None:
        self._on_line = on_line
        self._run: Run | None = None
        self._roles: dict[str, list[tuple[float, str, int]]] = {}
        self._lives: dict[str, list[tuple[float, str]]] = {}
        self._faults: list[tuple[float, str, float]] = []

    def attach(self, run: Run) -> None:
        """Watch this run."""
        self._run = run
        run.world.trace.log = self._event
        run.watch.on_role = self._role

    def _line(self, now: float, text: str) -> None:
        if self._on_line is not None:
            self._on_line(f"{now:10.4f}  {text}")

    def _event(self, kind: str, now: float, source: str, target: str, data: bytes) -> None:
        if kind in ("start", "crash"):
            self._lives.setdefault(source, []).append((now, kind))
            self._line(now, f"{source} {kind}s" if kind == "start" else f"{source} crashes")
        elif kind == "fault":
            self._faults.append((now, source, float(target)))
            self._line(now, f"fault: {source}, for {target} s")
        elif kind == "client":
            self._line(now, f"{source}: {target}")

    def _role(self, gid: int, peer: int, role: str, term: int) -> None:
        assert self._run is not None
        now = self._run.world.now()
        name = f"server-{gid}-{peer}"
        self._roles.setdefault(name, []).append((now, role, term))
        self._line(now, f"{name} is {role} in term {term}")

    # --- the picture ----------------------------------------------------------------------------------------------

    def html(self, outcome: Outcome) -> str:
        """One page, nothing to load."""
        assert self._run is not None
        end = max(outcome.virtual_s, 1.0)
        ops = self._run.history.ops
        bad = {key.key for key in self._run.verdict.failed}
        troubles = [
            Span(t.peer, t.begin, t.end, t.kind, f"{t.peer}: {t.text}, {t.begin:.3f}..{t.end:.3f}")
            for t in self._run.nemesis.troubles
        ]
        spans = [
            *self._fault_spans(),
            *self._peer_spans(end),
            *troubles,
            *(_op_span(op, end, op.key in bad) for op in ops),
        ]
        lanes = sorted({s.lane for s in spans}, key=_order)
        rows = {lane: TOP + LANE * number for number, lane in enumerate(lanes)}
        scale = WIDTH / end
        body = [_axis(end, scale, TOP + LANE * len(lanes)), *(_label(lane, y) for lane, y in rows.items())]
        body += [_rect(span, rows[span.lane], scale) for span in spans]
        height = TOP + LANE * len(lanes) + 20
        return _PAGE.format(
            title=f"seed {outcome.seed}: {escape(outcome.verdict)}",
            shape=escape(outcome.shape),
            text=escape(outcome.text),
            width=WIDTH + LABEL + 20,
            height=height,
            body="\n".join(body),
        )

    def _fault_spans(self) -> list[Span]:
        """Faults in as few lanes as keep them apart."""
        free: list[float] = []
        spans = []
        for begin, name, seconds in self._faults:
            lane = next((n for n, until in enumerate(free) if until <= begin), len(free))
            free[lane : lane + 1] = [begin + max(seconds, 0.3)]
            spans.append(Span(f"faults {lane}", begin, begin + seconds, "fault", f"{name} ({seconds:.2f} s)"))
        return spans

    def _peer_spans(self, end: float) -> list[Span]:
        spans = []
        for name, lives in sorted(self._lives.items()):
            if not name.startswith("server"):
                continue
            ups = [(at, next((t for t, k in lives[i + 1 :] if k == "crash"), end)) for i, (at, k) in enumerate(lives)]
            ups = [up for up, (_, kind) in zip(ups, lives, strict=True) if kind == "start"]
            roles = self._roles.get(name, [])
            for begin, until in ups:
                spans.append(Span(name, begin, until, "up", f"{name} up {begin:.3f}..{until:.3f}"))
                mine = [r for r in roles if begin <= r[0] < until]
                for i, (at, role, term) in enumerate(mine):
                    to = mine[i + 1][0] if i + 1 < len(mine) else until
                    text = f"{name}: {role} in term {term}, {at:.3f}..{to:.3f}"
                    spans.append(Span(name, at, to, role.replace("_", "-"), text, COLOURS[term % len(COLOURS)]))
        return spans


def _op_span(op: Op, end: float, bad: bool) -> Span:
    until = end if op.end == FOREVER else op.end
    kind = "bad" if bad else {"ok": op.op, "maybe": "maybe", "failed": "failed"}.get(op.result, "refused")
    return Span(op.client, op.start, until, f"op {kind}", str(op))


def _order(lane: str) -> tuple[int, str]:
    return (0 if lane.startswith("faults") else 1 if lane.startswith("server") else 2, lane)


def _axis(end: float, scale: float, height: int) -> str:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if end / s <= 30)
    return "".join(
        f'<line class="tick" x1="{LABEL + t * scale:.1f}" x2="{LABEL + t * scale:.1f}" y1="{TOP - 6}" y2="{height}"/>'
        f'<text class="time" x="{LABEL + t * scale:.1f}" y="{TOP - 10}">{t} s</text>'
        for t in range(0, int(end) + 1, step)
    )


def _label(lane: str, y: int) -> str:
    return f'<text class="lane" x="{LABEL - 8}" y="{y + 15}">{escape(lane)}</text>'


def _rect(span: Span, y: int, scale: float) -> str:
    x, width = LABEL + span.begin * scale, max((span.end - span.begin) * scale, 1.5)
    style = f' style="fill:{span.colour}"' if span.colour and "op" not in span.kind else ""
    kind = span.kind.split()[0]
    top, height = {"leader": (y + 4, 10), "op": (y + 4, 14), "cut": (y + 15, 3)}.get(kind, (y + 2, LANE - 4))
    if kind in ("pause", "disk"):
        top, height = y + (11 if kind == "pause" else 2), 3
    name = span.text.partition(" (")[0]
    inside = f'<text x="{x + 3:.1f}" y="{y + 15}">{escape(name)}</text>' if width > 6.5 * len(name) else ""
    return (
        f'<rect class="{span.kind}" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{height}"{style}>'
        f"<title>{escape(span.text)}</title></rect>{inside if span.kind == 'fault' else ''}"
    )


_PAGE = """<!doctype html>
<meta charset="utf-8"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: light-dark(#222, #ddd); --soft: light-dark(#ddd, #3a3a3a);
  --back: light-dark(#fff, #1b1b1b); }}
body {{ font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2em; }}
pre {{ white-space: pre-wrap; }} .wide {{ overflow-x: auto; }}
text {{ fill: var(--ink); font-size: 11px; }} .lane {{ text-anchor: end; }} .time {{ text-anchor: middle; }}
.tick {{ stroke: var(--soft); }} .up {{ fill: var(--soft); }} .fault {{ fill: #d9534f; opacity: .55; }}
.follower, .candidate, .pre-candidate {{ opacity: .35; }} .leader {{ opacity: 1; }}
.cut {{ fill: #d9534f; }} .pause {{ fill: #111; }} .disk {{ fill: #9c6b4e; }}
.op {{ opacity: .8; }} .get {{ fill: #4269d0; }} .put {{ fill: #3ca951; }} .delete {{ fill: #a463f2; }}
.maybe {{ fill: #efb118; opacity: .5; }} .failed, .refused {{ fill: #9498a0; opacity: .5; }}
.bad {{ fill: #e00; opacity: 1; }}
</style>
<h1>{title}</h1><p>{shape}</p><pre>{text}</pre>
<p>A lane per peer: grey while it is up, its term's colour faint as follower and full as leader; a brown line at its top while
its disk stalls, fails or is full, a red one at its bottom while it is cut off from somebody, a black one above that while it
is paused. Faults above the peers; clients below: gets blue, puts green, deletes purple, unknown outcomes yellow, refused
grey, and red where no order of the key's operations explains the answers. Point at anything to read it.</p>
<div class="wide"><svg width="{width}" height="{height}">
{body}
</svg></div>
"""
