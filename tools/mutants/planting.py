"""Planting: a module's source is changed as it is imported. Nothing in the production code knows of it, and nothing is left
of it once the process ends.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


class NotPlanted(Exception):
    """The text to be changed is not in its module exactly once, or the module was imported too early."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In `module`, `old` becomes `new`. `old` must be there exactly once."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug that somebody had. `source` says where it is from; `why` what goes wrong by it."""

    name: str
    source: str
    why: str
    edits: tuple[Edit, ...]


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, edits: list[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType | None:
        """Compiled from the changed text, past any cache."""
        path = self.get_filename(fullname)
        text = changed(self.get_data(path).decode(), self._edits)
        code: CodeType = compile(text, path, "exec", dont_inherit=True)
        return code


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._edits: dict[str, list[Edit]] = {}
        for edit in mutant.edits:
            self._edits.setdefault(edit.module, []).append(edit)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Only for the modules that are changed."""
        if fullname not in self._edits:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise NotPlanted(f"there is no module {fullname}")
        spec.loader = _Loader(fullname, spec.origin, self._edits[fullname])
        return spec


def changed(text: str, edits: list[Edit]) -> str:
    """The module's text with the edits made. Raises `NotPlanted`."""
    for edit in edits:
        if text.count(edit.old) != 1:
            raise NotPlanted(f"{edit.module} has {text.count(edit.old)} times, not once: {edit.old.strip()[:60]!r}")
        text = text.replace(edit.old, edit.new)
    return text


def plant(mutant: Mutant) -> None:
    """From now on in this process the modules come with the bug. Before any of them is imported. Raises `NotPlanted`."""
    early = [edit.module for edit in mutant.edits if edit.module in sys.modules]
    if early:
        raise NotPlanted(f"{early[0]} is imported already")
    sys.meta_path.insert(0, _Finder(mutant))
