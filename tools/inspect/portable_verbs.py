"""The verbs of the child process that make something new of a peer's directory, or follow it: see `child`.

export DIR FILE           one object: file, tables, records, bytes, applied
import FILE DIR           one object: directory, records
copy DIR NEW              one object: directory, records
repair DIR NEW 0|1        one object: the audit record; 1: unsafe
follow FIRST|- DIR        rows and events, see `following`
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.inspect.following import follow
from tools.inspect.portable import copy_peer, export_peer, import_peer
from tools.inspect.repair import repair_peer


def _export(arguments: list[str]) -> Iterator[Any]:
    yield export_peer(Path(arguments[0]), Path(arguments[1]))


def _import(arguments: list[str]) -> Iterator[Any]:
    yield import_peer(Path(arguments[0]), Path(arguments[1]))


def _copy(arguments: list[str]) -> Iterator[Any]:
    yield copy_peer(Path(arguments[0]), Path(arguments[1]))


def _repair(arguments: list[str]) -> Iterator[Any]:
    yield repair_peer(Path(arguments[0]), Path(arguments[1]), arguments[2] == "1")


def _follow(arguments: list[str]) -> Iterator[Any]:
    try:
        for found in follow(Path(arguments[1]), None if arguments[0] == "-" else int(arguments[0])):
            yield found
            sys.stdout.flush()
    except (KeyboardInterrupt, BrokenPipeError):
        return


VERBS: dict[str, Callable[[list[str]], Iterator[Any]]] = {
    "export": _export,
    "import": _import,
    "copy": _copy,
    "repair": _repair,
    "follow": _follow,
}
