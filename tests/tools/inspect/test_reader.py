"""The reader's child may die at any moment; whoever asked it is told so in one line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tools.inspect.logview import Wanted
from tools.inspect.long_log import make_long_log
from tools.inspect.reader import Unreadable, log_lines


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_reader_that_is_killed_in_the_middle_of_a_word_is_told_in_one_line(tmp_path: Path) -> None:
    make_long_log(tmp_path / "peer", 60_000)
    before = set(children())
    blocks = log_lines(tmp_path / "peer", Wanted(), "table")
    next(blocks)
    readers = set(children()) - before
    while any(state(reader) != "S" for reader in readers):  # until what they say fills their pipes: a word is cut then
        os.sched_yield()
    for reader in readers:
        os.kill(reader, signal.SIGKILL)
    with pytest.raises(Unreadable, match="killed the reader with SIGKILL"):
        for _ in blocks:
            pass
