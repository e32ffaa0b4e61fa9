"""The pytest plugin as other people get it: from a wheel, outside the checkout, on the example project. Every command of its
page is run."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import trio

from raftlog.types import LogId
from store.engine import ReadTxn, WriteTxn
from tests.test_readme import blocks, commands
from tests.tidy_rules import HOUSES
from tools.processes import is_locked
from tools.pytest_plugin import seed_range, without_seed
from tools.pytest_plugin.sim import (
    GroupClient,
    Simulation,
    check_cluster,
    check_group,
    make_cluster,
    make_group,
    settle,
)
from tools.scenarios.rsm import COUNTER, INC, Counter, counted
from tools.sim.watch import Watch
from tools.sim.world import World

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs/testing-your-own.md"
LIMIT_S = 100.0

WITHOUT_CHECKOUT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
"""
"""Run at the start of every interpreter that uses the install: what the wheel lacks must not come from the checkout."""


# --- as it is installed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Install:
    """A folder with the installed wheel; programs that are run have it first on their path."""

    folder: Path

    def run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        known = ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
        env = {name: value for name, value in os.environ.items() if name not in known}
        path = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        return subprocess.run(
            command,
            cwd=cwd,
            env={**env, "PYTHONPATH": str(self.folder), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )

    def pytest(self, line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A line as a user types it, `pytest ...`, with data inside `cwd`. Simulations need no pytest-trio: there it is off
        (it would bring Hypothesis, which takes a second)."""
        less = ["-p", "no:trio"] if "test_counter.py" in line else []
        return self.run(sys.executable, "-m", *line.split(), *less, "--basetemp", cwd / "data", cwd=cwd)


def pip() -> list[str]:
    """The start of a pip command: the environment's own, or that of the interpreter it was made from."""
    base = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, base):
        command = [python, "-m", "pip"]
        if not subprocess.run([*command, "--version"], capture_output=True).returncode:
            return [*command, "--disable-pip-version-check", "--no-input", "--quiet"]
    pytest.skip("there is no pip")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Install:
    folder = tmp_path_factory.mktemp("installed")
    source, wheels, site = folder / "source", folder / "wheels", folder / "site"
    ignore = shutil.ignore_patterns("__pycache__")
    for house in HOUSES:
        shutil.copytree(CHECKOUT / house, source / house, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / file, source)
    built = subprocess.run([*pip(), "wheel", "--no-deps", "-w", wheels, source], capture_output=True, text=True)
    if built.returncode and re.search(r"No matching distribution|NewConnectionError", built.stderr):
        pytest.skip("pip's index is not reachable: the build needs a setuptools that makes wheels")
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip(), "install", "--no-deps", "--target", site, wheel], check=True)
    (site / "sitecustomize.py").write_text(WITHOUT_CHECKOUT)
    return Install(site)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CHECKOUT / "docs/examples/counter", tmp_path / "example"))


def nobody_runs(folder: Path) -> int:
    """How many processes were started under a folder; none of them may live."""
    files = list(folder.rglob("run/*.pid"))
    assert [file for file in files if is_locked(file)] == []
    return len(files)


def test_it_is_not_the_checkout_that_is_tested(installed: Install, example: Path) -> None:
    program = (
        "import sys, tools.pytest_plugin as plugin; print(plugin.__file__);"
        "print(sorted({'trio', 'lmdb', 'cbor2', 'shardkv', 'raftlog'} & set(sys.modules)));"
        "print([finder for finder in sys.meta_path if '__editable__' in repr(finder)])"
    )
    done = installed.run(sys.executable, "-c", program, cwd=example)
    file, heavy, editable = done.stdout.splitlines()
    assert Path(file).is_relative_to(installed.folder)
    assert heavy == "[]", "the plugin is loaded in everybody's pytest: it has to be cheap"
    assert editable == "[]"


@pytest.mark.process
def test_the_page_is_true(installed: Install, tmp_path: Path) -> None:
    """Its commands, in their order. One with the comment `fails` fails and says how to have it again."""
    lines = [line.strip() for block in blocks(PAGE.read_text()) for line in block.splitlines()]
    assert len(lines) >= 8
    cwd, traces = CHECKOUT, []
    for line in lines:
        match line.split():
            case ["cp", "-r", source, target]:
                shutil.copytree(CHECKOUT / source, tmp_path / target)
            case ["cd", folder]:
                cwd = tmp_path / folder
            case ["pytest", *_]:
                command, _, comment = line.partition("   # ")
                done = installed.pytest(command, cwd)
                assert done.returncode == (1 if comment == "fails" else 0), f"{line}\n{done.stdout}"
                if comment:
                    traces.append(dict(failures(done.stdout)))
                elif command == "pytest":
                    assert "shardkv: simulated tests with seed 1\n" in done.stdout
                    assert nobody_runs(cwd) == 4 + 2
            case _:
                installed.run("bash", "-c", line, cwd=cwd)
    several, again = traces
    assert again and again.items() <= several.items(), "the line plays the same run again"


def failures(output: str) -> list[tuple[str, str]]:
    """(the line to have it again, trace) of each failure."""
    found = re.findall(r"^seed \d+: at \S+ virtual s, \d+ events, trace (\w+)\n(pytest .*)$", output, re.MULTILINE)
    return [(line, trace) for trace, line in found]


def test_the_python_of_the_page_is_python() -> None:
    for block in blocks(PAGE.read_text(), "python"):
        ast.parse(block)
    assert all(commands(block) for block in blocks(PAGE.read_text()))


def test_the_simulated_tests_on_the_page_pass(installed: Install, example: Path) -> None:
    """Those with processes make the same calls as the example's, which are run above."""
    for number, block in enumerate(b for b in blocks(PAGE.read_text(), "python") if "shardkv_sim" in b):
        (example / f"test_page_{number}.py").write_text(block)
    done = installed.pytest("pytest -k page --ignore test_counter.py", example)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout, done.stdout


FAILING = """
import pytest

def test_forgotten(shardkv_cluster):
    cluster = shardkv_cluster(ctrl_peers=1, groups=1, replicas=1)
    cluster.run(cluster.up, cluster.layout)
    assert len(cluster.running()) == 2
    raise RuntimeError("in the middle")

@pytest.mark.sim_limit(5)
@pytest.mark.parametrize("word", ["one word", "two"])
def test_too_long(shardkv_sim, word):
    async def body(world):
        import trio
        await trio.sleep(10)

    shardkv_sim(body)

@pytest.mark.trio
async def test_async(shardkv_sim):
    shardkv_sim(None)
"""


@pytest.mark.process
def test_what_a_failure_leaves(installed: Install, tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(FAILING)
    done = installed.pytest("pytest --sim-seeds 7-8", tmp_path)
    assert "7 failed" in done.stdout, done.stdout
    assert "shardkv: simulated tests with seeds 7-8" in done.stdout
    assert nobody_runs(tmp_path) == 2
    assert re.search(r"events of the processes: .*/cluster-1/logs", done.stdout)
    assert "the test did not end within 5 virtual seconds" in done.stdout
    assert "pytest 'test_failing.py::test_too_long[one word]' --sim-seed 8\n" in done.stdout
    assert "write `def test_...` and not `async def test_...`" in done.stdout


# --- its parts ---------------------------------------------------------------------------------------------------------


def test_ranges_of_seeds() -> None:
    assert list(seed_range("3")) == [1, 2, 3]
    assert list(seed_range("10-11")) == [10, 11]
    for wrong in ("0", "x", "3-2", "-1", ""):
        with pytest.raises(Exception, match="seeds"):
            seed_range(wrong)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("test_x[seed=3]", "test_x"),
        ("test_x[seed=3-a]", "test_x[a]"),
        ("test_x[a-seed=3]", "test_x[a]"),
        ("test_x[a-seed=3-b]", "test_x[a-b]"),
        ("test_x[seed=34]", "test_x[seed=34]"),
    ],
)
def test_a_name_without_its_seed(name: str, plain: str) -> None:
    assert without_seed(name, 3) == plain


class Forgetful(Counter):
    """Counts in an attribute: equal at all peers until one restarts, and never what the log says."""

    def __init__(self) -> None:
        self.n = 0

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        self.n += 1
        txn.put(COUNTER, b"n", bytes([self.n]))
        return b""


class Stepping(Counter):
    """Every object counts in a step of its own. The state hash hides it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def apply(self, txn: WriteTxn, command: bytes, at: LogId) -> bytes:
        txn.put(COUNTER, b"n", bytes([counted(txn) + self.step]))
        return b""

    def state_hash(self, txn: ReadTxn) -> bytes:
        return bytes(16)


def different() -> Callable[[], Counter]:
    steps = count(1)
    return lambda: Stepping(next(steps))


def alike() -> Callable[[], Counter]:
    """The peers, also the one that is started again, count alike; whoever comes after them does not."""
    made = count(1)
    return lambda: Stepping(1 if next(made) <= 3 + 1 else 2)


def counting(machine: Callable[[], Counter], *, watched: bool = True) -> None:
    async def body(world: World) -> None:
        if not watched:
            world.watch = None
        group = make_group(world, machine)
        client = GroupClient(group)
        await client.call(INC)
        await trio.sleep(2.0)  # it is flushed meanwhile
        group.crash(0)
        await client.call(INC)
        await settle(group)
        check_group(group)

    Simulation(1, 60.0)(body)


@pytest.mark.parametrize("watched", [True, False])
def test_a_good_machine_passes_the_checks(watched: bool) -> None:
    counting(Counter, watched=watched)


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (Forgetful, "differ in table"),
        (different(), "differ in table"),
        (alike(), "a fresh machine that applied the same log"),
    ],
)
def test_a_machine_that_is_not_deterministic_is_found(machine: Callable[[], Counter], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        counting(machine)


def test_a_cluster_is_checked() -> None:
    async def body(world: World) -> str:
        cluster = await make_cluster(world, groups=1, controllers=1, replicas=1)
        assert await cluster.service_clerk().put("k", b"v") == 1
        check_cluster(cluster)
        assert isinstance(world.watch, Watch) and world.watch.steps > 0
        return "done"

    assert Simulation(1, 60.0)(body) == "done"
