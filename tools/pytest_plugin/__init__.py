"""The pytest plugin of an installed shardkv, for other people's suites; `docs/testing-your-own.md` shows its use.

    shardkv_sim       runs an async function in a simulated world, in virtual time, from a seed
    shardkv_seed      that seed
    shardkv_cluster   makes clusters of real processes, and ends every one of those with the test

The helpers for what runs inside are in `tools.pytest_plugin.sim` (groups of one's own state machine, faults, checks) and
`tools.pytest_plugin.processes`. Simulations are run from plain `def` tests, never by asynchronous fixtures: those of
pytest-trio start in an order of their own, and a seed would mean nothing.

This module is loaded in every pytest run of an environment that shardkv is installed in, so it imports nothing but
pytest; Trio and the rest come with the first fixture that needs them.
"""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentTypeError
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tools.pytest_plugin.processes import ProcessCluster
    from tools.pytest_plugin.sim import Simulation

LIMIT_S = 3600.0
"""How long a simulated test may take unless it or the command line says otherwise, in virtual seconds."""

Notes = list[Callable[[], list[str]]]
_notes = pytest.StashKey[Notes]()
"""Of a test: what tells the lines for its report, should it fail."""


# --- options -----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Seeds and the limit of virtual time."""
    group = parser.getgroup("shardkv", "simulated shardkv worlds")
    group.addoption("--sim-seed", type=int, metavar="N", help="run each simulated test with this seed and no other")
    group.addoption(
        "--sim-seeds",
        type=seed_range,
        metavar="N|A-B",
        default=range(1, 2),
        help="run each simulated test once per seed: with 1 to N, or with A to B (default: 1)",
    )
    group.addoption(
        "--sim-limit",
        type=float,
        metavar="SECONDS",
        help=f"virtual seconds that a simulated test may take (default: what its marker sim_limit says, or {LIMIT_S:g})",
    )


def seed_range(text: str) -> range:
    """`5` is 1 to 5, `10-12` is 10 to 12."""
    first, dash, last = text.partition("-")
    try:
        found = range(int(first), int(last) + 1) if dash else range(1, int(first) + 1)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a number of seeds nor a range as 10-19") from None
    if not found:
        raise ArgumentTypeError(f"{text!r} has no seeds in it")
    return found


def seeds_of(config: pytest.Config) -> range:
    """The seeds of this run."""
    one = config.getoption("--sim-seed")
    chosen: range = config.getoption("--sim-seeds") if one is None else range(one, one + 1)
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "sim_limit(seconds): virtual seconds that a simulated test may take; --sim-limit goes before it"
    )


def pytest_report_header(config: pytest.Config) -> str:
    """Which seeds are played."""
    seeds = seeds_of(config)
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"
    return f"shardkv: simulated tests with {which}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With several seeds, each simulated test is one test per seed."""
    seeds = seeds_of(metafunc.config)
    if "shardkv_seed" not in metafunc.fixturenames or len(seeds) == 1:
        return
    if any("shardkv_seed" in str(mark.args[:1]) for mark in metafunc.definition.iter_markers("parametrize")):
        return  # the test says itself which seeds it wants
    metafunc.parametrize("shardkv_seed", seeds, ids=[_seed_id(seed) for seed in seeds], indirect=True)


def _seed_id(seed: int) -> str:
    return f"seed={seed}"


# --- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shardkv_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test's simulations."""
    return int(getattr(request, "param", seeds_of(request.config)[0]))


@pytest.fixture
def shardkv_sim(request: pytest.FixtureRequest, shardkv_seed: int) -> Simulation:
    """`shardkv_sim(body)` runs `await body(world)` in a simulated world and returns what it returns. For `def` tests."""
    from tools.pytest_plugin.sim import Simulation

    simulation = Simulation(shardkv_seed, limit_of(request.node))
    item = request.node
    note(item, lambda: [*simulation.story(), reproduce(item, shardkv_seed)])
    return simulation


@pytest.fixture
def shardkv_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., ProcessCluster]]:
    """Makes clusters of real processes: `async with shardkv_cluster(groups=1) as cluster`, in a `def` test `with`. Takes
    the fields of `tools.layout.Layout`. Whatever becomes of the test, no process outlives it."""
    from tools.pytest_plugin.processes import ProcessCluster

    made: list[ProcessCluster] = []

    def make(**layout: Any) -> ProcessCluster:
        cluster = ProcessCluster(tmp_path / f"cluster-{len(made) + 1}", **layout)
        made.append(cluster)
        note(request.node, lambda: [f"events of the processes: {cluster.folder / 'logs'}"])
        return cluster

    yield make
    for cluster in made:
        cluster.end()


def limit_of(item: pytest.Item) -> float:
    """The virtual time that a test may take, in seconds."""
    given = item.config.getoption("--sim-limit")
    if given is not None:
        return float(given)
    marker = item.get_closest_marker("sim_limit")
    return LIMIT_S if marker is None else float(marker.args[0])


# --- the report --------------------------------------------------------------------------------------------------------


def note(item: pytest.Item, lines: Callable[[], list[str]]) -> None:
    """Have these lines in the test's report, should it fail. They are asked for when it has."""
    item.stash.setdefault(_notes, []).append(lines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell of a failed test how to have the failure again."""
    report = yield
    if report.failed and item.stash.get(_notes, None):
        lines = [line for lines in item.stash[_notes] for line in lines()]
        report.sections.append(("shardkv", "\n".join(lines)))
    return report


def reproduce(item: pytest.Item, seed: int) -> str:
    """The command that plays the test again, from where pytest was started."""
    config = item.config
    path = os.path.relpath(item.path, config.invocation_params.dir)
    name = str(item.nodeid).partition("::")[2]
    words = ["pytest", f"{path}::{without_seed(name, seed)}", "--sim-seed", str(seed)]
    if (limit := config.getoption("--sim-limit")) is not None:
        words += ["--sim-limit", f"{limit:g}"]
    return shlex.join(words)


def without_seed(name: str, seed: int) -> str:
    """A test's name as it is when there is one seed only: that is then no part of it."""
    ours = _seed_id(seed)
    for with_it, without in ((f"[{ours}]", ""), (f"[{ours}-", "["), (f"-{ours}]", "]"), (f"-{ours}-", "-")):
        if with_it in name:
            return name.replace(with_it, without, 1)
    return name
