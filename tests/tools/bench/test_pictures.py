"""Tables and pictures: complete, well-formed, and safe for any text."""

from __future__ import annotations

import xml.etree.ElementTree as tree
from itertools import pairwise
from random import Random

import pytest

from tools.bench.charts import Bars, Lines, stacked
from tools.bench.grid import Grid, figure, spread_text
from tools.bench.page import page
from tools.bench.report import Report

BARS = Bars("a < b & c", "s", ("one", "two"), (("first", (1.0, None)), ("second", (0.0, float("nan")))))
LINES = Lines("times", "x", "y", {"a": [(1.0, 10.0), (1000.0, 20.0)], "b": []}, log_x=True)


@pytest.mark.parametrize("chart", [BARS, LINES, Lines("none", "x", "y", {}), Bars("none", "s", ("one",), ())])
def test_a_picture_is_well_formed(chart: Bars | Lines) -> None:
    root = tree.fromstring(chart.svg())
    assert root.tag.endswith("svg")


def test_missing_values_are_no_bars() -> None:
    assert BARS.svg().count("n/a") == 2


def test_pictures_are_stacked_without_overlap() -> None:
    root = tree.fromstring(stacked([BARS, LINES, BARS]))
    inner = [child for child in root if child.tag.endswith("svg")]
    places = [(float(child.attrib["y"]), float(child.attrib["height"])) for child in inner]
    assert all(y + height <= after for (y, height), (after, _) in pairwise(places))
    assert float(root.attrib["height"]) >= sum(height for _, height in places)


def test_every_point_is_inside_the_picture() -> None:
    rng = Random(3)
    for log in (False, True):
        points = [(rng.lognormvariate(0, 4), rng.lognormvariate(0, 4)) for _ in range(50)]
        drawn = tree.fromstring(Lines("t", "x", "y", {"s": points}, log_x=log, log_y=log).svg())
        (line,) = (node for node in drawn.iter() if node.tag.endswith("polyline"))
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 860 and 0 <= y <= float(drawn.attrib["height"])


def test_a_grid_is_the_same_in_every_form() -> None:
    grid = Grid("a & b", ["name", "n"])
    grid.add("x|y", "1")
    assert grid.markdown().splitlines() == ["| name | n |", "| --- | ---: |", "| x\\|y | 1 |"]
    assert "<td>x|y</td><td>1</td>" in grid.html() and "a &amp; b" in grid.html()
    with pytest.raises(AssertionError, match="1 cells for 2 columns"):
        grid.add("x")


def test_a_figure_that_is_missing_is_a_dash() -> None:
    found = {"a": {"median": 0.5, "spread": 0.25}, "b": {"median": None}}
    assert (figure(found, "a", ".0%"), figure(found, "b"), figure(found, "c")) == ("50%", "-", "-")
    assert (spread_text(found, "a"), spread_text(found, "c")) == ("25", "-")


def test_a_page_has_the_machine_the_pictures_and_the_tables() -> None:
    names = ("processor", "cores", "file_system", "kernel", "python", "trio", "lmdb", "cbor2")
    probe = dict.fromkeys(("fdatasync_p50_ms", "fdatasync_p99_ms", "commit_p50_ms", "commit_p99_ms"), 0.2)
    report = Report("kv", "0.1.0", {**dict.fromkeys(names, "<x>"), "memory_gb": 8.0}, ["a < b"], [probe], 3.0)
    text = page(report, [Grid("table", ["name"])], [BARS])
    assert "&lt;x&gt;" in text and "<x>" not in text and "a &lt; b" in text
    assert "<svg" in text and "<h2>table</h2>" in text
