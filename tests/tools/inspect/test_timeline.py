"""`inspect timeline` and `shiviz`: the order of what happened, the page that shows it, and what provably came first."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from raftlog.types import LogId
from shardkv.commands import Freeze
from tests.tools.inspect.made import NOON_MS, Made, command, commands, noop, note
from tests.tools.inspect.test_diff import run
from tools.inspect.config_history import Configuration
from tools.inspect.shiviz import Contradiction, Node, ordered
from tools.inspect.timeline import Past, events
from tools.inspect.timeline_page import page

LOG = [noop(2, 2, 0), *commands(3, 6, 2), noop(7, 3, 1, 2), *commands(8, 9, 3)]


def cluster(folder: Path) -> list[Path]:
    """Peer 0 leads term 2 and crashes; peer 1 leads term 3 by the vote of peer 2; peer 0 comes back."""
    journals = [
        [
            note(0, "start", 1),
            note(100, "pre-candidate", 1),
            note(110, "candidate", 2),
            note(130, "leader", 2, 0),
            note(900, "start", 2, boot=2),
            note(950, "follow", 3, 1, boot=2),
            note(1000, "stop", 3, boot=2),
        ],
        [
            note(5, "start", 1),
            note(120, "vote", 2, 0),
            note(140, "follow", 2, 0),
            note(500, "candidate", 3),
            note(540, "leader", 3, 1),
            note(1000, "stop", 3),
        ],
        [note(6, "start", 1), note(141, "follow", 2, 0), note(520, "vote", 3, 1), note(545, "follow", 3, 1)],
    ]
    return [Made(peer, LOG, 8, journal=journals[peer]).write(folder) for peer in range(3)]


def told(*arguments: object) -> list[dict[str, Any]]:
    code, out, err = run("timeline", "--json", *arguments)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_events_are_in_the_order_of_time(tmp_path: Path) -> None:
    found = told(*cluster(tmp_path))
    assert [e["time_ms"] for e in found] == sorted(e["time_ms"] for e in found)
    kinds = [(e["time_ms"] - NOON_MS, e["peer"], e["kind"], e["term"]) for e in found if e["time_ms"]]
    assert (130, "server-1-0", "leader", 2) in kinds
    assert (520, "server-1-2", "vote", 3) in kinds
    assert (1000, "server-1-1", "stop", 3) in kinds


def test_a_start_without_a_stop_is_a_crash_between_two_times(tmp_path: Path) -> None:
    crashes = [e for e in told(*cluster(tmp_path)) if e["kind"] == "crash"]
    assert [(e["peer"], e["since_ms"] - NOON_MS, e["time_ms"] - NOON_MS) for e in crashes] == [
        ("server-1-2", 545, 545),  # nobody runs it, and it recorded no stop
        ("server-1-0", 130, 900),
    ]


def test_a_peer_that_nobody_runs_lived_until_the_youngest_entry_that_it_holds(tmp_path: Path) -> None:
    log = [noop(2, 2, 0), command(3, 2, time_ms=NOON_MS + 7000)]
    (crash,) = [e for e in told(Made(2, log, 3, journal=[note(6, "start", 1)]).write(tmp_path)) if e["kind"] == "crash"]
    assert (crash["since_ms"], crash["time_ms"]) == (NOON_MS + 7000, NOON_MS + 7000)


def test_a_leader_whose_journal_is_lost_is_told_by_its_entry(tmp_path: Path) -> None:
    directory = Made(2, LOG, 8, journal=[note(6, "start", 1), note(7, "stop", 1)]).write(tmp_path)
    leaders = [(e["peer"], e["term"], e["index"]) for e in told(directory) if e["kind"] == "leader"]
    assert leaders == [("server-1-0", 2, 2), ("server-1-1", 3, 7)]


def test_an_entry_that_nobody_has_committed_says_so(tmp_path: Path) -> None:
    freeze = command(10, 3, Freeze(4, 2, 7, ()))
    for peer in range(2):
        Made(peer, [*LOG, freeze], 9, journal=[note(0, "start", 1), note(1, "stop", 1)]).write(tmp_path)
    (move,) = [e for e in told(tmp_path) if e["kind"] == "move"]
    assert move["text"] == "shard 4, configuration 2: frozen, for group 7 (not known to be committed)"


@pytest.mark.parametrize("verb", ["timeline", "shiviz", "config-history"])
def test_bad_input_is_one_line(tmp_path: Path, verb: str) -> None:
    one = Made(0).write(tmp_path / "a")
    other = Made(1, cluster=bytes(16)).write(tmp_path / "b")
    copy = tmp_path / "c"
    shutil.copytree(one, copy)
    for directories, code in (([tmp_path / "nowhere"], 3), ([one, other], 2), ([one, copy], 2)):
        found, out, err = run(verb, *directories)
        assert (found, out, err.count("\n")) == (code, "", 1), (directories, err)


def test_a_damaged_peer_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    directories = cluster(tmp_path)
    file = directories[1] / "log" / "data.mdb"
    file.write_bytes(file.read_bytes()[:5000])
    code, out, err = run("timeline", *directories)
    assert code == 1 and err.count("\n") == 1 and "server-1-1" in err
    assert "server-1-0" in out and "leads term 2" in out


# --- the page --------------------------------------------------------------------------------------------------------


class Parsed(HTMLParser):
    """Every tag of a page with its attributes; void tags and svg leaves may stay open, all others must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, kind: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.tags if kind in attrs.get("class", "").split()]


def html(folder: Path, *directories: Path) -> str:
    file = folder / "t.html"
    code, _, err = run("timeline", "--html", file, *directories)
    assert (code, err) == (0, "")
    return file.read_text(encoding="utf-8")


def check(text: str) -> None:
    """The lanes and cells of `cluster`."""
    found = Parsed(text)
    names = [f"server-1-{peer}" for peer in range(3)]
    assert [lane["data-peer"] for lane in found.of("lane")] == names
    cells = [(c["data-peer"], c["data-first"], c["data-last"], c["data-term"]) for c in found.of("cell")]
    runs = [("1", "1", "1"), ("2", "6", "2"), ("7", "9", "3")]
    assert cells == [(name, *run) for name in names for run in runs]
    assert [line["data-index"] for line in found.of("commit")] == ["8"] * 3
    assert {(r["data-peer"], r["data-term"]) for r in found.of("leader")} == {("server-1-0", "2"), ("server-1-1", "3")}
    assert [u["data-peer"] for u in found.of("unknown")] == ["server-1-0"]


def test_the_page_has_lanes_and_cells_and_loads_nothing(tmp_path: Path) -> None:
    text = html(tmp_path, *cluster(tmp_path))
    check(text)
    assert not Parsed(text).open
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text


@pytest.mark.system
def test_the_page_is_rendered_by_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    html(tmp_path, *cluster(tmp_path))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command_line = [browser, *options, (tmp_path / "t.html").as_uri()]
    dom = subprocess.run(command_line, capture_output=True, text=True, timeout=120, check=True).stdout
    check(dom)
    events_of_the_page = dom.count("<tr data-peer=")
    # the page's own program has counted them: it ran
    assert f"{events_of_the_page} of {events_of_the_page} events" in re.sub("<[^>]*>", "", dom)


def test_what_is_on_the_disk_cannot_be_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    directory = Made(0, LOG, 8, journal=[note(0, "start", 1), note(5, evil, 2)]).write(tmp_path)
    text = html(tmp_path, directory)
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text


def test_the_page_of_a_large_log_is_small() -> None:
    head = {"name": "server-1-0", "cluster": "00" * 16, "gid": 1, "peer": 0, "running": False, "commit": 1_000_000}
    head |= {"base": [0, 0], "last": [99, 1_000_000], "applied": [99, 1_000_000], "directory": "d"}
    runs = [{"first": n * 10 + 1, "last": n * 10 + 10, "term": n + 1, "from_ms": 1, "to_ms": 2} for n in range(100_000)]
    journal = [
        {"type": "journal", "time_ms": NOON_MS + n, "boot": 1, "name": name, "term": n, "peer": 0}
        for n, name in enumerate(["candidate", "leader", "vote", "follow"] * 1024)
    ]
    past = Past(head, journal=journal, runs=runs)
    shards = [1 + shard % 2 for shard in range(1000)]
    config = Configuration(1, 1, 2, "", None, None, "log", True, {}, shards)
    text = page([past] * 3, events([past]), [config] * 1000)
    assert len(text.encode()) < 2_000_000
    cells = Parsed(text).of("cell")
    assert (cells[0]["data-first"], cells[-1]["data-last"]) == ("1", "1000000")
    assert len(cells) > 300
    assert "The last 1 of 1000" in text


# --- shiviz ----------------------------------------------------------------------------------------------------------


def clocks(*directories: Path) -> list[tuple[str, dict[str, int], str]]:
    code, out, err = run("shiviz", *directories)
    assert (code, err) == (0, "")
    objects = [json.loads(line) for line in run("shiviz", "--json", *directories)[1].splitlines()]
    parser, empty, *rest = out.splitlines()
    assert empty == ""
    found = re.compile(parser.replace("(?<", "(?P<")).finditer("\n".join(rest))
    events_found = [(m["host"], json.loads(m["clock"]), m["event"]) for m in found]
    assert events_found == [(one["host"], one["clock"], one["event"]) for one in objects]
    return events_found


def happened_before(a: dict[str, int], b: dict[str, int]) -> bool:
    return a != b and all(count <= b.get(host, 0) for host, count in a.items())


def of(found: Sequence[tuple[str, dict[str, int], str]], host: str, words: str) -> dict[str, int]:
    return next(clock for name, clock, text in found if name == host and words in text)


def test_the_clocks_say_what_provably_came_first(tmp_path: Path) -> None:
    found = clocks(*cluster(tmp_path))
    asked, vote = of(found, "server-1-1", "asks for votes in term 3"), of(found, "server-1-2", "votes for peer 1")
    leads, follows = of(found, "server-1-1", "leads term 3"), of(found, "server-1-0", "follows peer 1")
    assert happened_before(asked, vote) and happened_before(vote, leads) and happened_before(leads, follows)
    appended, holds = (
        of(found, "server-1-1", "has appended the entries 7..9"),
        of(found, "server-1-2", "7..9 of term 3"),
    )
    assert happened_before(appended, holds)
    crash = of(found, "server-1-0", "crashed")
    assert not happened_before(crash, vote) and not happened_before(vote, crash)  # only the wall clocks order these


def test_each_host_counts_its_own_events_by_one(tmp_path: Path) -> None:
    found = clocks(*cluster(tmp_path))
    for peer in range(3):
        own = [clock[host] for host, clock, _ in found if host == f"server-1-{peer}"]
        assert own == list(range(1, len(own) + 1)) and len(own) > 6


def test_a_vote_that_was_not_needed_is_no_proof(tmp_path: Path) -> None:
    """With both others' votes recorded, either one may have come after the leadership."""
    journals = [
        [note(0, "start", 1), note(10, "candidate", 2), note(20, "leader", 2, 0), note(90, "stop", 2)],
        [note(0, "start", 1), note(15, "vote", 2, 0), note(90, "stop", 2)],
        [note(0, "start", 1), note(16, "vote", 2, 0), note(90, "stop", 2)],
    ]
    directories = [Made(p, LOG[:3], 3, purge=LogId(2, 3), journal=journals[p]).write(tmp_path) for p in range(3)]
    found = clocks(*directories)
    leads = of(found, "server-1-0", "leads term 2")
    assert not happened_before(of(found, "server-1-1", "votes"), leads)


def test_a_contradiction_is_found() -> None:
    one, other = Node("a", "one", "vote", 1), Node("b", "other", "vote", 1)
    one.after.append(other)
    other.after.append(one)
    with pytest.raises(Contradiction, match="before itself"):
        ordered([one, other])


def test_the_order_of_a_journal_counts_and_not_its_clock(tmp_path: Path) -> None:
    """A wall clock that was set back does not turn a peer's own events round."""
    journal = [note(500, "start", 1), note(100, "candidate", 2), note(120, "stop", 2)]
    found = clocks(Made(0, LOG[:2], 2, journal=journal).write(tmp_path))
    texts = [text for _, _, text in found]
    assert ["starts" in texts[0], "asks" in texts[1], "stops" in texts[2]] == [True] * 3
    assert all(happened_before(a[1], b[1]) for a, b in pairwise(found))
