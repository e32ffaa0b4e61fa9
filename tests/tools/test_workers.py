"""Worker processes do not outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PARENT = """
import os, time
from tools.workers import pool

def here(number):
    time.sleep(0.2)
    return os.getpid()

if __name__ == "__main__":
    with pool(2) as workers:
        print(*set(workers.map(here, range(4))), flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_pool_leaves_no_workers(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    try:
        assert parent.stdout.readline().split(), "no worker said anything"
        parent.send_signal(number)
        parent.communicate(timeout=10)  # the end of its output: no worker holds it open any more
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
