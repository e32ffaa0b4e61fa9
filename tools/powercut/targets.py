"""What can be recorded, as a folder that holds all of a recording, so that a state of it can be looked at again later.

recording.json   {"target", "seed", "planted", "root", "setup"}
trace            what strace wrote
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tools.powercut.campaign import Recorded, Witness
from tools.powercut.peer_drive import RECORDED, drive
from tools.powercut.peer_load import GID
from tools.powercut.peer_witness import PeerWitness
from tools.powercut.recording import MARKS_FILE, read_recording, record
from tools.powercut.store_check import StoreWitness

STATES = {"store": 2500, "peer": 1500}
"""How many different states a campaign looks at, unless told otherwise."""
ROOT_NAME = "disk"
ABOUT, TRACE = "recording.json", "trace"
STORE_S = 120.0
"""The longest that the recording of a store may take."""


def make_recording(target: str, folder: Path, seed: int, planted: str = "") -> None:
    """Run the program of a target under strace and leave its recording in `folder`, which is there and empty. Raises
    `BadTrace`, `FileNotFoundError` without strace."""
    about = {"target": target, "seed": seed, "planted": planted, **_MAKERS[target](folder, seed, planted)}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Recorded:
    """A recording that was made. Raises `OSError`, `ValueError` if it is none, `BadTrace`."""
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    recording = read_recording(folder / TRACE, Path(about["root"]), Path(about["root"]).parent / MARKS_FILE)
    return Recorded(
        about["target"],
        about["seed"],
        about["planted"],
        recording,
        _WITNESSES[about["target"]],
        {**about["setup"], "planted": about["planted"]},
    )


def _store(folder: Path, seed: int, planted: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="powercut-") as working:
        root = Path(working).resolve() / ROOT_NAME
        root.mkdir()
        program = [sys.executable, "-m", "tools.powercut.store_load", str(root), str(root.parent / MARKS_FILE)]
        record(folder / TRACE, [*program, str(seed), *([planted] if planted else [])], STORE_S)
    return {"root": str(root), "setup": {"seed": seed}}


def _peer(folder: Path, seed: int, planted: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="powercut-") as working:
        others = Path(working).resolve()
        root = others / ROOT_NAME
        root.mkdir()
        ports, numbers = trio.run(drive, others, root, others / MARKS_FILE, folder / TRACE, seed, planted)
    name = f"server-{GID}-{RECORDED}"
    return {"root": str(root), "setup": {"name": name, "peer": RECORDED, "ports": ports, "numbers": numbers}}


_MAKERS: dict[str, Callable[[Path, int, str], dict[str, Any]]] = {"store": _store, "peer": _peer}
_WITNESSES: dict[str, Callable[[], Witness]] = {"store": StoreWitness, "peer": lambda: PeerWitness(RECORDED)}
