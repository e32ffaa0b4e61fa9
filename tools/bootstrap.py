"""Make `.venv` in this checkout ready to use, once: `python3 tools/bootstrap.py`.

This is what `make` runs before anything else. It stands outside the floors: the system's own
python3 runs it, before any dependency is there, so it imports the standard library only, and its
syntax is such that a python3 that is too old gets a clear line instead of a SyntaxError.

What it counts on is python3 with pip, and nothing else:

* No ensurepip (Debian leaves it out unless python3-venv is installed): the environment is made
  without pip, and the system's pip installs into it from outside (`pip --python`). The system's
  own packages are never touched, so its "externally managed" mark does not matter.
* No compiler: dependencies come as ready-made wheels or not at all.
* pip's own configuration (index, proxy, certificates) is respected, because none is given here.

`.venv/setup.json` is the stamp. It says "begun" from before the first package is installed, and
"done" only when everything is. So:

    no stamp              somebody else's .venv: we install into it and never delete it
    begun                 a set-up was interrupted: made again from nothing
    done, but not for this place and interpreter (moved checkout, upgraded python3): the same
    done, other pyproject.toml                    packages are brought up to date in place
    done                  nothing to do
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLDEST_PYTHON = (3, 11)
# The first pip that can install into another interpreter's environment (`pip --python`).
OLDEST_PIP = (22, 3)
PIP_OPTIONS = ("--disable-pip-version-check", "--no-input")
INSTALL_OPTIONS = (
    "--only-binary=:all:",
    "--no-user",  # a PIP_USER=1 in the environment would send the packages elsewhere
    "--root-user-action=ignore",
    "--editable",
    ".[dev]",
)


class SetupError(Exception):
    """The environment cannot be made; the message is the one line that the user gets."""


class Checkout:
    """The places in one checkout that the set-up reads and writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pyproject = root / "pyproject.toml"
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.stamp = self.venv / "setup.json"
        self.log = self.venv / "setup.log"

    def wanted_stamp(self) -> dict[str, str]:
        """Return what the stamp says when the set-up is done and still fits."""
        return {
            "state": "done",
            # Scripts in .venv/bin hold absolute paths, so a moved checkout needs a new .venv.
            "checkout": str(self.root),
            # The resolved name carries the version (python3.11): packages lie under it.
            "python": os.path.realpath(self.python),
            "pyproject": hashlib.sha256(self.pyproject.read_bytes()).hexdigest(),
        }

    def read_stamp(self) -> dict[str, str] | None:
        """Return the stamp, or None if there is none; a damaged one counts as "begun"."""
        try:
            stamp = json.loads(self.stamp.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            stamp = None
        return stamp if isinstance(stamp, dict) else {"state": "begun"}

    def write_stamp(self, stamp: dict[str, str]) -> None:
        """Replace the stamp in one step, so that no reader ever sees half of it."""
        fresh = self.stamp.with_suffix(".new")
        fresh.write_text(json.dumps(stamp, indent=1) + "\n")
        fresh.replace(self.stamp)

    def is_ready(self) -> bool:
        """Say whether there is nothing to do."""
        return os.access(self.python, os.X_OK) and self.read_stamp() == self.wanted_stamp()


def check_python(version: tuple[int, ...]) -> None:
    """Raise SetupError if this python3 is too old for the project."""
    if version < OLDEST_PYTHON:
        raise SetupError(
            f"python {dotted(OLDEST_PYTHON)} or newer is needed, and {sys.executable} is "
            f"{dotted(version)}; if another one is there, name it: make PYTHON=python3.x ..."
        )


def set_up(checkout: Checkout) -> None:
    """Bring `.venv` to the state "done". Safe to call from several processes at once.

    Raises SetupError with the line to show; whatever was half made is made again by the next call.
    """
    if checkout.is_ready():
        return
    with only_one(checkout):
        if checkout.is_ready():  # the one that we waited for has done it
            return
        say("making .venv ready (once; takes less than a minute)")
        interpreter = outer_python(checkout)
        make_venv(checkout, interpreter)
        install(checkout, interpreter)
        say("done")


@contextmanager
def only_one(checkout: Checkout) -> Iterator[None]:
    """Hold the checkout's set-up lock, which ends with the process however it ends."""
    with checkout.pyproject.open("rb") as held:  # a file that is there anyway: no lock file
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this checkout is running; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def outer_python(checkout: Checkout) -> str:
    """Return the interpreter to build from: never the one inside the `.venv` to be made."""
    if Path(sys.prefix).resolve() == checkout.venv.resolve():  # the user has activated it
        return str(Path(sys.base_prefix, "bin", f"python{dotted(sys.version_info[:2])}"))
    return sys.executable


def make_venv(checkout: Checkout, interpreter: str) -> None:
    """Leave an environment with a working interpreter and a stamp that says "begun"."""
    stamp = checkout.read_stamp()
    wanted = checkout.wanted_stamp()
    if stamp is None and checkout.venv.exists():
        if run([str(checkout.python), "-c", ""], checkout.root).returncode:
            raise SetupError(".venv was not made by this set-up and does not work; remove it")
    elif stamp is None or {**stamp, "pyproject": ""} != {**wanted, "pyproject": ""}:
        shutil.rmtree(checkout.venv, ignore_errors=True)
        made = run([interpreter, "-m", "venv", "--without-pip", str(checkout.venv)], checkout.root)
        if made.returncode:
            raise SetupError(f"python3 -m venv failed: {last_line(made.stdout)}")
    checkout.write_stamp({"state": "begun"})


def install(checkout: Checkout, interpreter: str) -> None:
    """Install the project and its dependencies into the environment, and stamp it as done."""
    wanted = checkout.wanted_stamp()  # read before pip reads it: a change meanwhile is seen later
    pip = find_pip(checkout, interpreter)
    done = run([*pip, *PIP_OPTIONS, "install", *INSTALL_OPTIONS], checkout.root)
    checkout.log.write_text(done.stdout)
    if done.returncode:
        raise SetupError(
            f"pip found no ready-made wheel of a dependency, or did not reach its index "
            f"(see .venv/{checkout.log.name}): {last_line(done.stdout)}"
        )
    checkout.write_stamp(wanted)


def find_pip(checkout: Checkout, interpreter: str) -> list[str]:
    """Return the start of a command that installs into the environment."""
    shown = run([interpreter, "-c", "import pip; print(pip.__version__)"], checkout.root)
    version = re.match(r"(\d+)\.(\d+)", shown.stdout)
    if version and (int(version[1]), int(version[2])) >= OLDEST_PIP:
        return [interpreter, "-m", "pip", "--python", str(checkout.python)]
    # A python3 built from source may come without pip but with ensurepip.
    inside = str(checkout.python)
    if not run([inside, "-m", "ensurepip", "--default-pip"], checkout.root).returncode:
        return [inside, "-m", "pip"]
    raise SetupError(
        f"{interpreter} has no pip of version {dotted(OLDEST_PIP)} or newer (on Debian: apt-get install python3-pip)"
    )


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder; its output and errors come together in `stdout`."""
    # Packages that the user's PYTHONPATH shows would count as installed, and later be missing.
    hidden = ("PYTHONPATH", "PYTHONHOME")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, str(error))


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(str(part) for part in version[:2])


def last_line(output: str) -> str:
    """Return the line of a tool's output that says most: its last error, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it said nothing"])[-1]


def say(text: str) -> None:
    """Tell the user what is going on, on stderr: stdout belongs to the command that follows."""
    sys.stderr.write(f"set-up: {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Set up the checkout that this file lies in; return the exit code."""
    try:
        check_python(sys.version_info[:2])
        set_up(Checkout(Path(__file__).resolve().parent.parent))
    except SetupError as error:
        say(str(error))
        return 1
    except OSError as error:  # a read-only checkout, a full disk
        say(f"cannot write the environment: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run starts it again")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
