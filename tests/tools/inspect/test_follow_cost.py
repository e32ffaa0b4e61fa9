"""What a follower costs: the pairs are reported as they were measured."""

from __future__ import annotations

import os

from tools.inspect.follow_cost import Window, cpu_s, report


def test_each_pair_and_the_median_of_the_ratios_are_told() -> None:
    pairs = [(Window(100e-6, 0.0, 5000.0), Window(ratio * 100e-6, 7e-6, 4900.0)) for ratio in (1.0, 1.2, 1.1)]
    head, *rows, last = report(pairs)
    assert "us/put" in head and len(rows) == 3
    assert rows[1].split()[:5] == ["2", "100", "120", "1.200", "7"]
    assert last == "median ratio 1.100 of 3 pairs, from 1.000 to 1.200"


def test_the_time_of_a_process_is_what_it_used() -> None:
    used = sum(os.times()[:2])
    assert abs(cpu_s(os.getpid()) - used) < 1.0
