"""Freed memory is kept, so that large blocks are not mapped and faulted in anew each time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from tools.allocator import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
[bytes(1 << 20) for _ in range(3)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(400):
    [bytes(1 << 20) for _ in range(3)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_blocks_that_are_freed_cost_no_page_faults_again() -> None:
    def faults(kept: bool) -> int:
        code = FAULTS.format(kept=kept)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    assert 5 * faults(kept=True) < faults(kept=False)
