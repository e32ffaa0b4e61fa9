"""The past as a log for ShiViz, the viewer of causality: vector clocks over what the journals and logs prove.

A host is a peer. Its events are its journal's records in their order and, at their end, what its log holds now. Edges
between hosts are drawn only where one event had to happen before another, whatever the clocks say:

* a candidate asks before it is voted for;
* a vote comes before the leadership that needed it: it is drawn if no other voter can have stood in for it;
* a leader leads before it is followed, and appends its entries before they are in another log;
* a configuration is posted before its shards are frozen, a shard is frozen before it is installed elsewhere, and all
  are installed before the configuration is in force (where the logs still reach back to their first entry).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tools.inspect.history_words import clock
from tools.inspect.timeline import Past, entries_told, journal_events

PARSER = r"(?<host>\S+) (?<clock>\{.*\})\n(?<event>.*)"
"""The first line: the regular expression by which ShiViz reads the rest."""
ENDS_LEADERSHIP = ("follow", "step-down", "start", "stop", "crash", "candidate", "pre-candidate")


@dataclass(eq=False)
class Node:
    """An event of a host; `after` are the events, of any host, that came before it."""

    host: str
    text: str
    kind: str
    term: int
    other: int | None = None
    after: list[Node] = field(default_factory=list)
    clock: dict[str, int] = field(default_factory=dict)


class Contradiction(Exception):
    """The journals and logs prove that an event came before itself; the text names it."""


def shiviz(pasts: Sequence[Past]) -> Iterator[str]:
    """The lines of the file. Raises `Contradiction`."""
    yield PARSER
    yield ""
    for node in ordered(graph(pasts)):
        yield f"{node.host} {json.dumps(node.clock, sort_keys=True)}"
        yield node.text


def graph(pasts: Sequence[Past]) -> list[Node]:
    """All events with their edges, host by host."""
    hosts = {past.name: _own(past) for past in pasts}
    for gid in sorted({past.gid for past in pasts}):
        group = [past for past in pasts if past.gid == gid]
        _elections(group, hosts)
    _moves(pasts, hosts)  # before the sums of what each leader appended, which come after all of it
    for gid in sorted({past.gid for past in pasts}):
        _entries([past for past in pasts if past.gid == gid], hosts)
    for nodes in hosts.values():
        for before, node in pairwise(nodes):
            node.after.append(before)
    return [node for nodes in hosts.values() for node in nodes]


def _own(past: Past) -> list[Node]:
    return [Node(past.name, f"{clock(e.time_ms)} {e.text}", e.kind, e.term, e.other) for e in journal_events(past)]


def _elections(group: Sequence[Past], hosts: dict[str, list[Node]]) -> None:
    first: dict[tuple[str, str, int], Node] = {}
    for past in group:
        for node in hosts[past.name]:
            first.setdefault((past.name, node.kind, node.term), node)
    gid = group[0].gid
    for past in group:
        for node in hosts[past.name]:
            if node.kind == "vote":
                asked = first.get((f"server-{gid}-{node.other}", "candidate", node.term))
                if asked is not None:
                    node.after.append(asked)
            elif node.kind == "follow":
                leader = first.get((f"server-{gid}-{node.other}", "leader", node.term))
                if leader is not None:
                    node.after.append(leader)
            elif node.kind == "leader":
                node.after += _needed_votes(node, past, group, hosts)


def _needed_votes(leader: Node, past: Past, group: Sequence[Past], hosts: dict[str, list[Node]]) -> list[Node]:
    """The votes without which this leader had no quorum. A voter whose journal is not at hand, or no longer reaches back to
    the term, may have voted for it too; then none of the others is proven."""
    members = [t["voters"] for t in past.told if t["type"] == "members" and t["term"] < leader.term]
    voters = [peer for peer, _ in (members[-1] if members else past.head["voters"] or past.head["voters_applied"])]
    votes: list[Node] = []
    unknown = 0
    by_peer = {one.head["peer"]: one for one in group}
    for peer in voters:
        if peer == past.head["peer"]:
            continue
        nodes = hosts[by_peer[peer].name] if peer in by_peer else []
        vote = [n for n in nodes if n.kind == "vote" and n.term == leader.term and n.other == past.head["peer"]]
        reaches = bool(nodes) and (nodes[0].term < leader.term or nodes[0].kind == "start")
        votes += vote
        unknown += not vote and not reaches
    return votes if len(votes) + unknown == len(voters) // 2 else []


def _append(hosts: dict[str, list[Node]], host: str, term: int, node: Node) -> bool:
    """Put what a leader did in its term at the end of that leadership; False if its journal does not show it."""
    nodes = hosts.get(host, [])
    at = next((i for i, n in enumerate(nodes) if n.kind == "leader" and n.term == term), None)
    if at is None:
        return False
    end = next((i for i in range(at + 1, len(nodes)) if nodes[i].kind in ENDS_LEADERSHIP), len(nodes))
    end = next((i for i in range(at + 1, end) if nodes[i].kind == "holds"), end)
    nodes.insert(end, node)
    return True


def _entries(group: Sequence[Past], hosts: dict[str, list[Node]]) -> None:
    gid = group[0].gid
    leaders = {told["term"]: told["leader"] for p in group for told in p.told if told["type"] == "noop"}
    holds: dict[int, list[tuple[Past, Node, int, int]]] = {}
    for past in group:
        for run in past.runs:
            text = f"its log holds the entries {run['first']}..{run['last']} of term {run['term']}"
            node = Node(past.name, text, "holds", run["term"])
            hosts[past.name].append(node)
            holds.setdefault(run["term"], []).append((past, node, run["first"], run["last"]))
    for term, held in sorted(holds.items()):
        if term not in leaders:
            continue
        host = f"server-{gid}-{leaders[term]}"
        first, last = min(h[2] for h in held), max(h[3] for h in held)
        appended = Node(host, f"has appended the entries {first}..{last} of term {term}", "append", term)
        if _append(hosts, host, term, appended):
            for _, node, _, _ in held:
                if node.host != host:
                    node.after.append(appended)


def _moves(pasts: Sequence[Past], hosts: dict[str, list[Node]]) -> None:
    """The steps of changes of configuration, at the leaders that appended them."""
    steps: dict[tuple[str, int, int, int], Node] = {}
    whole = {gid for gid in {p.gid for p in pasts} if any(p.gid == gid and p.head["base"][1] == 0 for p in pasts)}
    for gid in sorted(whole):
        group = [past for past in pasts if past.gid == gid]
        leaders = {told["term"]: told["leader"] for p in group for told in p.told if told["type"] == "noop"}
        for _, told, committed in entries_told(group):
            step = told.get("step") or told.get("record")
            if not committed or step not in _EARLIER:
                continue
            key = (str(step), gid, int(told.get("shard", 0)), int(told["num"]))
            host = f"server-{gid}-{leaders.get(told['term'])}"
            where = f"shard {told['shard']}, configuration {told['num']}" if "shard" in told else f"{told['num']}"
            node = Node(host, f"{clock(told['time_ms'])} entry {told['index']}: {step} {where}", "entry", told["term"])
            if key not in steps and _append(hosts, host, told["term"], node):
                steps[key] = node
    by_step = {(step, shard, num): node for (step, _, shard, num), node in steps.items()}
    for (step, shard, num), node in by_step.items():
        for earlier in _EARLIER[step]:
            before = by_step.get((earlier, 0 if earlier in ("next", "current") else shard, num))
            if before is not None:
                node.after.append(before)
        if step in ("install", "keep") and ("current", 0, num) in by_step:
            by_step["current", 0, num].after.append(node)


_EARLIER: dict[str, tuple[str, ...]] = {
    "next": (),
    "freeze": ("next",),
    "install": ("next", "freeze"),
    "current": ("next",),
    "delete": ("freeze", "current"),
    "keep": ("next",),
}
"""Which steps of the same change come before a step, of the same shard where they are of one."""


def ordered(nodes: Sequence[Node]) -> list[Node]:
    """The events so that each comes after those before it, with their vector clocks. Raises `Contradiction`."""
    waits = {node: len(node.after) for node in nodes}
    then: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for before in node.after:
            then[before].append(node)
    ready = deque(node for node in nodes if not waits[node])
    done: list[Node] = []
    while ready:
        node = ready.popleft()
        for before in node.after:
            for host, count in before.clock.items():
                node.clock[host] = max(count, node.clock.get(host, 0))
        node.clock[node.host] = node.clock.get(node.host, 0) + 1
        done.append(node)
        for following in then[node]:
            waits[following] -= 1
            if not waits[following]:
                ready.append(following)
    if len(done) < len(nodes):
        stuck = next(node for node in nodes if waits[node])
        raise Contradiction(f"{stuck.host}: {stuck.text!r} would have to come before itself")
    return done
