"""A peer whose wall clock can be set: `python -m tools.chaos.clocked_peer CLOCK MODULE WORD...` runs MODULE's `main(WORDS)`.

The file CLOCK has the seconds by which the wall clock is ahead, in digits with a sign; a change is seen within `SEEN_S`. What
Python's `time` says of the wall clock is moved, and nothing else: monotonic clocks stay. (libfaketime does the same for any
program, but its conditional variables made the interpreter's lock bounce between our two threads, and peers slow.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

SEEN_S = 0.1


class Clock:
    """The wall clock of this process, `offset_ns` ahead of the machine's."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._real = time.time_ns
        self._offset_ns = 0
        self._read_at = -SEEN_S

    def time_ns(self) -> int:
        """See `time.time_ns`."""
        now = time.monotonic()
        if now - self._read_at >= SEEN_S:
            self._read_at = now
            with suppress(OSError, ValueError):
                self._offset_ns = int(self.file.read_text(encoding="ascii")) * 1_000_000_000
        return self._real() + self._offset_ns

    def time(self) -> float:
        """See `time.time`."""
        return self.time_ns() / 1e9


def main(words: list[str]) -> int:
    """The program. Returns the exit code of what it runs."""
    file, module, *rest = words
    clock = Clock(Path(file))
    time.time_ns, time.time = clock.time_ns, clock.time
    run: Callable[[list[str]], int] = import_module(module).main
    return run(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
