"""The set-up of a checkout works on a poor machine: python3 with pip, git and make, no more.

The poor machine is made here: a python3 with everything but ensurepip (as Debian's is without
python3-venv), and a PATH on which there is no compiler. On it, the quick tests set up a checkout
whose project has no dependencies, so that they need no network; the test marked `system` sets up
this project itself, from a fresh clone.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tidy_rules import Tree
from tools.bootstrap import Checkout

CHECKOUT = Path(__file__).resolve().parent.parent

# What a fresh Debian has anyway, and git and make. No cc, gcc, c++, clang or rustc.
TOOLS = "awk cat cp dirname env git grep id ln ls make mkdir mv rm sed sh tr uname"
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "x86_64-linux-gnu-gcc", "rustc", "cargo")

COMMAND_LIMIT_S = 240.0


@dataclass(frozen=True)
class Machine:
    """A PATH, and how to run a command with nothing else on it."""

    bin: Path

    @property
    def python(self) -> Path:
        return self.bin / "python3"

    def start(self, *command: str | Path, cwd: Path, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env={**outer_environment(), "PATH": str(self.bin), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str | Path, cwd: Path, **env: str) -> tuple[int, str]:
        """Return the exit code and the output."""
        process = self.start(*command, cwd=cwd, **env)
        with process:
            try:
                output, _ = process.communicate(timeout=COMMAND_LIMIT_S)
            finally:
                process.kill()
        return process.returncode, output

    def set_up(self, checkout: Path, **env: str) -> tuple[int, str]:
        return self.run(self.python, "tools/bootstrap.py", cwd=checkout, **env)


def outer_environment() -> dict[str, str]:
    """The environment without what belongs to the make, the venv or the pytest around us."""
    ours = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "PYTHONPATH", "PATH")
    return {name: value for name, value in os.environ.items() if name not in ours}


def poor_python(folder: Path, base: Path, hidden: tuple[str, ...]) -> Path:
    """Copy an interpreter, with a standard library of links to all of the base's but `hidden`.

    An interpreter finds its library beside itself, so the copy lives in the given folder only.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    real = (base / "bin" / version).resolve()
    copy = folder / "bin" / version
    copy.parent.mkdir(parents=True)
    shutil.copy(real, copy)
    library = folder / "lib" / version
    library.mkdir(parents=True)
    for entry in (base / "lib" / version).iterdir():
        if entry.name not in (*hidden, "__pycache__", "site-packages"):
            (library / entry.name).symlink_to(entry)
    # pip lies in site-packages, on Debian in dist-packages beside the library.
    packages = library / "site-packages"
    packages.mkdir()
    for holder in (base / "lib" / version / "site-packages", base / "lib/python3/dist-packages"):
        if (holder / "pip").is_dir() and "pip" not in hidden:
            (packages / "pip").symlink_to(holder / "pip")
            break
    if holder.name == "dist-packages":
        debian = folder / "lib/python3/dist-packages"
        debian.parent.mkdir()
        packages.rename(debian)
        packages.mkdir()
    (copy.parent / "python3").symlink_to(version)
    return copy


def make_machine(folder: Path, base: Path, hidden: tuple[str, ...] = ("ensurepip",)) -> Machine:
    bin_folder = folder / "path"
    bin_folder.mkdir(parents=True)
    for tool in TOOLS.split():
        if found := shutil.which(tool):
            (bin_folder / tool).symlink_to(found)
    python = poor_python(folder / "python", base, hidden)
    # A script and not a link: started through a link, a venv would be built on the link.
    (bin_folder / "python3").write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
    (bin_folder / "python3").chmod(0o755)
    return Machine(bin_folder)


def bases() -> list[Path]:
    """The prefixes of the interpreters to start from: the system's own, and ours."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    prefixes = [Path("/usr"), Path(sys.base_prefix)]
    return [p for p in dict.fromkeys(prefixes) if (p / "bin" / version).exists()]


def machine_with_pip(folder: Path, base: Path) -> Machine:
    machine = make_machine(folder, base)
    if machine.run(machine.python, "-m", "pip", "--version", cwd=machine.bin)[0]:
        pytest.skip(f"{base} has no pip")
    return machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return machine_with_pip(tmp_path_factory.mktemp("machine"), bases()[0])


# A project with a build backend of its own and no dependencies: pip needs no index for it.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["backend"]
[project]
name = "tiny"
version = "1"
dependencies = {dependencies}
"""
BACKEND = """
import pathlib, zipfile
TAG = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
META = "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\nProvides-Extra: dev\\n"
def build_editable(folder, config_settings=None, metadata_directory=None):
    needs = pathlib.Path("needs.txt")
    meta = META + (f"Requires-Dist: {needs.read_text()}\\n" if needs.exists() else "")
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr("tiny.pth", str(pathlib.Path("src").resolve()))
        for entry, text in {"METADATA": meta, "WHEEL": TAG, "RECORD": ""}.items():
            wheel.writestr(f"tiny-1.dist-info/{entry}", text)
    return name
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A checkout with our set-up and the tiny project, in a folder with a space in its name."""
    root = tmp_path / "a checkout"
    for path, text in {
        "pyproject.toml": PYPROJECT.format(dependencies=[]),
        "backend/backend.py": BACKEND,
        "src/tiny.py": "where = __file__\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "tools").mkdir()
    for path in ("tools/bootstrap.py", "Makefile"):
        shutil.copy(CHECKOUT / path, root / path)
    return root


def where_tiny_is(machine: Machine, checkout: Path) -> str:
    code, output = machine.run(checkout / ".venv/bin/python", "-c", "import tiny; print(tiny.where)", cwd=checkout)
    assert code == 0, output
    return output.strip()


def made_at(checkout: Path) -> int:
    """When the environment itself was made (not when packages were installed into it)."""
    return (checkout / ".venv/pyvenv.cfg").stat().st_mtime_ns


def test_the_poor_machine_is_poor(machine: Machine, tmp_path: Path) -> None:
    code, output = machine.run(machine.python, "-m", "venv", tmp_path / "x", cwd=tmp_path)
    assert code != 0, output
    for compiler in COMPILERS:
        assert machine.run("sh", "-c", f"command -v {compiler}", cwd=tmp_path)[0] != 0


def test_a_fresh_checkout_is_set_up_once(machine: Machine, tiny: Path) -> None:
    code, output = machine.run("make", "setup", cwd=tiny)
    assert code == 0, output
    assert output.splitlines()[-1] == "set-up: done"
    assert where_tiny_is(machine, tiny) == str(tiny / "src/tiny.py")

    assert machine.run("make", "setup", cwd=tiny) == (0, "")


@pytest.mark.system  # pip is slow to start
def test_two_set_ups_at_once_make_one_environment(machine: Machine, tiny: Path) -> None:
    both = [machine.start(machine.python, "tools/bootstrap.py", cwd=tiny) for _ in range(2)]
    outputs = sorted(process.communicate(timeout=COMMAND_LIMIT_S)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert "".join(outputs).count("set-up: done") == 1
    assert where_tiny_is(machine, tiny)


@pytest.mark.system  # pip is slow to start
def test_a_changed_pyproject_is_installed_into_the_same_environment(machine: Machine, tiny: Path) -> None:
    assert machine.set_up(tiny)[0] == 0
    before = made_at(tiny)
    with (tiny / "pyproject.toml").open("a") as file:
        file.write("# changed\n")

    code, output = machine.set_up(tiny)
    assert (code, output.splitlines()[-1]) == (0, "set-up: done")
    assert made_at(tiny) == before


@pytest.mark.system  # pip is slow to start
def test_an_interrupted_set_up_is_made_again_from_nothing(machine: Machine, tiny: Path) -> None:
    assert machine.set_up(tiny)[0] == 0
    (tiny / ".venv/setup.json").write_text('{"state": "begun"}')
    half = tiny / ".venv/half-installed"
    half.touch()

    assert machine.set_up(tiny)[0] == 0
    assert not half.exists()
    assert where_tiny_is(machine, tiny)


@pytest.mark.parametrize("text", ["", "[]", '{"state"'])
def test_a_damaged_stamp_counts_as_an_interrupted_set_up(tmp_path: Path, text: str) -> None:
    checkout = Checkout(tmp_path)
    checkout.venv.mkdir()
    assert checkout.read_stamp() is None
    checkout.stamp.write_text(text)
    assert checkout.read_stamp() == {"state": "begun"}


@pytest.mark.system  # pip is slow to start
def test_a_moved_checkout_is_made_again_even_from_inside(machine: Machine, tiny: Path) -> None:
    assert machine.set_up(tiny)[0] == 0
    moved = tiny.rename(tiny.with_name("moved"))

    code, output = machine.run(moved / ".venv/bin/python", "tools/bootstrap.py", cwd=moved)
    assert (code, output.splitlines()[-1]) == (0, "set-up: done")
    assert where_tiny_is(machine, moved) == str(moved / "src/tiny.py")


@pytest.mark.system  # pip is slow to start
def test_an_environment_of_somebody_else_is_used_and_not_deleted(machine: Machine, tiny: Path) -> None:
    code, output = machine.run(machine.python, "-m", "venv", "--without-pip", ".venv", cwd=tiny)
    assert code == 0, output
    theirs = tiny / ".venv/theirs"
    theirs.touch()

    assert machine.set_up(tiny)[0] == 0
    assert theirs.exists()
    assert where_tiny_is(machine, tiny)


def test_a_broken_environment_of_somebody_else_is_left_to_them(machine: Machine, tiny: Path) -> None:
    (tiny / ".venv").mkdir()

    assert machine.set_up(tiny) == (
        1,
        "set-up: making .venv ready (once; takes less than a minute)\n"
        "set-up: .venv was not made by this set-up and does not work; remove it\n",
    )
    assert (tiny / ".venv").exists()


def test_a_dependency_without_a_wheel_is_one_clear_line(machine: Machine, tiny: Path) -> None:
    """Also: pip's own configuration counts, or the index here would not be a folder."""
    index = tiny.parent / "index"
    index.mkdir()
    (index / "needs-a-compiler-1.tar.gz").touch()
    (tiny / "needs.txt").write_text("needs-a-compiler")

    code, output = machine.set_up(tiny, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index))
    assert code == 1
    line = output.splitlines()[-1]
    assert "no ready-made wheel" in line
    assert "needs-a-compiler" in line
    assert "needs-a-compiler" in (tiny / ".venv/setup.log").read_text()

    (tiny / "needs.txt").unlink()
    assert machine.set_up(tiny)[0] == 0


def test_a_python_without_pip_is_one_clear_line(tiny: Path) -> None:
    machine = make_machine(tiny.parent / "machine", bases()[0], hidden=("ensurepip", "pip"))

    code, output = machine.set_up(tiny)
    assert code == 1
    assert "no pip of version 22.3 or newer" in output.splitlines()[-1]
    assert "apt-get install python3-pip" in output.splitlines()[-1]


def test_a_python_that_is_too_old_is_one_clear_line(machine: Machine, tiny: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tools'); sys.version_info = (3, 9, 2);"
        "import bootstrap; sys.exit(bootstrap.main())"
    )
    code, output = machine.run(machine.python, "-c", program, cwd=tiny)
    assert code == 1
    assert len(output.splitlines()) == 1
    assert output.startswith("set-up: python 3.11 or newer is needed")
    assert "is 3.9;" in output
    assert not (tiny / ".venv").exists()


def test_no_python_at_all_is_one_clear_line(machine: Machine, tiny: Path) -> None:
    code, output = machine.run("make", "PYTHON=python9", "setup", cwd=tiny)
    assert code != 0
    assert output.splitlines()[0] == "set-up: python9 not found"


@pytest.fixture(scope="module")
def fresh_clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A git clone of a repository with everything that is, or would be, committed here."""
    origin = tmp_path_factory.mktemp("origin")
    for path in Tree(CHECKOUT).paths:
        (origin / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / path, origin / path)
    clone = tmp_path_factory.mktemp("clone") / "shardkv"
    author = ("-c", "user.name=a test", "-c", "user.email=test@localhost")
    for command in (
        ("git", "-C", origin, "init", "--quiet"),
        ("git", "-C", origin, "add", "--all"),
        ("git", "-C", origin, *author, "commit", "--quiet", "--message", "all"),
        ("git", "clone", "--quiet", origin, clone),
    ):
        subprocess.run(command, check=True)
    yield clone


@pytest.mark.system
@pytest.mark.parametrize("base", bases(), ids=str)
def test_a_fresh_clone_of_this_project_is_set_up(base: Path, fresh_clone: Path, tmp_path: Path) -> None:
    machine = machine_with_pip(tmp_path, base)
    probe = ("-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "outcome")
    code, output = machine.run(machine.python, *probe, cwd=tmp_path)
    if code:
        pytest.skip(f"pip's index is not reachable: {output.strip().splitlines()[-1]}")
    shutil.rmtree(fresh_clone / ".venv", ignore_errors=True)

    code, output = machine.run("make", "setup", cwd=fresh_clone)
    assert code == 0, output
    code, output = machine.run(fresh_clone / ".venv/bin/shardkv", "--help", cwd=fresh_clone)
    assert code == 0, output
    assert "demo" in output
    status = machine.run("git", "status", "--porcelain", cwd=fresh_clone)
    assert status == (0, ""), "the set-up leaves files that git would commit"
