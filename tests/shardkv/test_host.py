"""How a peer dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shardkv.host import FATAL_EXIT

DIE = "import time; from shardkv.host import die; die('server-1-0', {on_event}, OSError('the disk hangs'))"


@pytest.mark.parametrize("on_event", ["lambda event: None", "lambda event: time.sleep(60)", "lambda event: 1 / 0"])
def test_a_peer_dies_whether_it_can_say_why_or_not(on_event: str) -> None:
    """Its standard error is on a full disk, or whoever should hear of it does not listen."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", DIE.format(on_event=on_event)], stderr=full, timeout=60)
    assert done.returncode == FATAL_EXIT
