"""A wall clock that can be set from outside, in a process that knows nothing of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.chaos.arena import clock_file, set_clock
from tools.processes import child_environment

TOLD = """
import sys, time
def main(words):
    monotonic = time.monotonic()
    for line in sys.stdin:
        time.sleep(0.12)
        print(words[0], round(time.time()), time.time_ns() // 10**9, flush=True)
    return int(time.monotonic() - monotonic > 1000)
"""


def test_a_step_moves_the_wall_clock_and_leaves_the_monotonic_one(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(TOLD)
    set_clock(tmp_path, "server-1-0", 0)
    command = [
        sys.executable,
        "-m",
        "tools.chaos.clocked_peer",
        str(clock_file(tmp_path, "server-1-0")),
        "told",
        "word",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=child_environment()
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        told = []
        for offset in (0, 86_400, -3_600, 0):
            set_clock(tmp_path, "server-1-0", offset)
            process.stdin.write("\n")
            process.stdin.flush()
            word, seconds, from_ns = process.stdout.readline().split()
            assert word == "word" and abs(int(seconds) - int(from_ns)) <= 1
            told.append(int(seconds) - offset)
        process.stdin.close()
        assert max(told) - min(told) < 60
        assert process.wait() == 0
