"""Durable writes by several processes at once are measured by real ones."""

from tools.bench.barriers import KINDS, at_once


def test_each_kind_is_measured_with_several_processes() -> None:
    for kind in KINDS:
        waited_us, cpu_us = at_once(kind, 2, 0.05)
        assert waited_us > 0 and cpu_us > 0
