"""The swarm itself: what seeds draw, what a run checks, that a seed plays the same anywhere, and what its picture shows."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from click.testing import CliRunner

from raftlog.types import LogId
from shardkv.config import ShardConfig
from tools.cli.main import cli
from tools.swarm.campaign import campaign, trace_elsewhere
from tools.swarm.cuts import cut_off
from tools.swarm.ledger import Ledger, LedgerBroken
from tools.swarm.page import campaign_page
from tools.swarm.run import OPERATIONS, SAFETY_S, NoConvergence, Outcome, Run, follows, judge, play
from tools.swarm.shape import FAULTS, LATER_FAULTS, draw
from tools.swarm.story import Story

SEEDS = (3, 5, 9, 11, 31, 36, 745, 1597, 2032, 10570)
"""Seeds that once found something."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_passes(seed: int) -> None:
    outcome = play(seed)
    assert outcome.verdict == "passed", f"{outcome.text}\n{outcome.shape}"
    assert outcome.virtual_s >= SAFETY_S and outcome.operations >= OPERATIONS and outcome.steps > 1000


def test_a_seed_plays_the_same_in_another_process_with_another_hash_seed() -> None:
    assert play(7).trace == trace_elsewhere(7, hash_seed=123)


def test_seeds_draw_every_fault_and_every_kind_of_cluster() -> None:
    shapes = [draw(seed) for seed in range(300)]
    known = FAULTS | LATER_FAULTS
    assert {name for shape in shapes for name in shape.faults} == set(known)
    assert all(0 < len([s for s in shapes if name not in s.faults]) < 300 for name in known)
    assert {s.store for s in shapes} == {"kvsrv", "kvraft"} and {s.service for s in shapes} == {True, False}
    assert {s.replicas for s in shapes} == {1, 2, 3, 4, 5} and {s.sessions for s in shapes} == {True, False}
    assert draw(17) == draw(17)


def test_a_campaign_adds_up_and_compares() -> None:
    told: list[Outcome] = []
    report = campaign(iter(range(2)), jobs=2, compare_every=2, told=told.append)
    assert (report.seeds, report.passed, report.compared, report.differing) == (2, 2, 1, [])
    assert report.operations == sum(outcome.operations for outcome in told) > 2 * OPERATIONS
    assert report.marks["client: put ok"] == sum(outcome.marks["client: put ok"] for outcome in told)


def test_an_endless_campaign_stops_at_its_time() -> None:
    assert campaign(itertools.count(0), until=0.0).seeds == 0


# --- what it would notice --------------------------------------------------------------------------------------------


def test_the_ledger_notices_a_second_effect_two_owners_and_two_states() -> None:
    ledger = Ledger(exactly_once=True, strict=True)
    ledger.wrote(1, LogId(2, 5), b"k", b"v", 1)
    ledger.wrote(1, LogId(2, 5), b"k", b"v", 1)  # another replica
    with pytest.raises(LedgerBroken, match="took effect again"):
        ledger.wrote(1, LogId(2, 9), b"k", b"v", 2)
    with pytest.raises(LedgerBroken, match="version 1 and 3"):
        ledger.wrote(1, LogId(2, 5), b"k", b"v", 3)
    ledger.applied(1, LogId(2, 6), 1, lambda: {0, 1})
    ledger.applied(1, LogId(2, 7), 1, lambda: {0})
    ledger.applied(1, LogId(2, 7), 2, lambda: {0, 1})  # a replica that comes later says nothing new
    ledger.applied(2, LogId(2, 3), 3, lambda: {1})
    with pytest.raises(LedgerBroken, match=r"shard 0 is served by groups \[1, 2\]"):
        ledger.applied(2, LogId(2, 4), 3, lambda: {0, 1})
    ledger.hashed(1, LogId(2, 7), b"a")
    with pytest.raises(LedgerBroken, match="different states"):
        ledger.hashed(1, LogId(2, 7), b"b")


def test_with_the_invariants_off_the_ledger_is_silent() -> None:
    ledger = Ledger(exactly_once=True, strict=False)
    ledger.hashed(1, LogId(2, 7), b"a")
    ledger.hashed(1, LogId(2, 7), b"b")


def test_one_join_leave_or_move_makes_the_next_configuration() -> None:
    one = ShardConfig.initial(4).join({1: ["a"]})
    two = one.join({2: ["b"]})
    assert follows(one, two) and follows(two, two.leave([1])) and follows(two, two.move(0, 1))
    assert not follows(one, two.move(3, 1).move(2, 1)) and not follows(two, one)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (AssertionError("x"), "violation"),
        (NoConvergence("x"), "no convergence"),
        (KeyError("x"), "crash"),
        (BaseExceptionGroup("g", [KeyError("x"), LedgerBroken("y")]), "violation"),
    ],
)
def test_the_verdict_on_what_a_run_ends_with(error: BaseException, verdict: str) -> None:
    outcome = Outcome(1)
    judge(outcome, error)
    assert outcome.verdict == verdict and outcome.text


# --- for people ------------------------------------------------------------------------------------------------------


def test_the_picture_has_a_lane_per_peer_and_the_events_their_times() -> None:
    lines: list[str] = []
    runs: list[Run] = []
    story = Story(on_line=lines.append)

    def attach(run: Run) -> None:
        runs.append(run)
        story.attach(run)

    outcome = play(5, story=attach)
    page = story.html(outcome)
    shape = draw(5)
    lanes = set(re.findall(r'class="lane"[^>]*>([^<]*)<', page))
    assert {f"server-1-{peer}" for peer in range(shape.replicas)} | {"c0", "c1"} <= lanes
    assert 'class="leader"' in page and 'class="op put"' in page and 'class="fault"' in page and "<script" not in page
    assert runs[0].nemesis.troubles
    for trouble in runs[0].nemesis.troubles:
        assert f'class="{trouble.kind}"' in page and f"<title>{trouble.peer}: {trouble.text}, " in page
    assert any("is leader in term" in line for line in lines) and any("fault: " in line for line in lines)
    assert [float(line.split()[0]) for line in lines] == sorted(float(line.split()[0]) for line in lines)


def test_whom_a_cut_peer_does_not_reach() -> None:
    assert cut_off({("server-1-0", "client-1"), ("client-1", "server-1-0"), ("server-1-0", "server-1-1")}) == [
        ("server-1-0", "cut off from client-1, server-1-1; not reached by client-1"),
        ("server-1-1", "not reached by server-1-0"),
    ]


def test_the_command_says_its_sums_and_refuses_contradictions() -> None:
    runner = CliRunner()
    one = runner.invoke(cli, ["simulate", "--seed", "1", "--json"])
    assert one.exit_code == 0 and json.loads(one.output)["verdict"] == "passed"
    both = runner.invoke(cli, ["simulate", "--seed", "1", "--seeds", "3"])
    assert both.exit_code == 2 and "one of --seed" in both.output
    events = runner.invoke(cli, ["simulate", "--seeds", "3", "--events"])
    assert events.exit_code == 2 and "go with --seed" in events.output


def test_the_page_of_a_campaign_counts_each_seed_once_and_claims_no_fault_that_was_not_tried() -> None:
    marks = {f"fault: {name}": 2 for name in FAULTS | LATER_FAULTS}
    one = {"seed": 4, "verdict": "passed", "virtual_s": 1800.0, "cpu_s": 1.0, "operations": 250, "steps": 9}
    rows = [{**one, "marks": marks}, {**one, "marks": marks}, {"seeds": 2}]
    rows.append({**one, "seed": 7, "verdict": "violation", "marks": {"fault: pause": 1, "world: loss": 1}})
    page = campaign_page(map(json.dumps, rows))
    assert "2 seeds (4 to 7), 1.0 virtual hours, 500 operations" in page and "Failed: 7." in page
    assert "| pause | 3 | 2 |" in page and "| loss | 1 | 1 |" in page
    del marks["fault: ring"]
    with pytest.raises(ValueError, match="no seed reached ring"):
        campaign_page(map(json.dumps, rows))
