"""What all tests share: options, and nothing asynchronous (fixtures of pytest-trio start in no fixed order)."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--crash-moments",
        type=int,
        default=6,
        help="how many random moments the crash test kills everything at (50 for the full proof)",
    )
    parser.addoption("--damaged-files", type=int, default=240, help="how many damaged files are inspected")
    parser.addoption("--rewrite-scripts", action="store_true", help="write the golden scripts' output anew")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests with real processes share one worker, so that one cluster at a time asks for the processor."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("process"):
                item.add_marker(pytest.mark.xdist_group("process"))


@pytest.fixture
def crash_moments(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--crash-moments"))


@pytest.fixture
def damaged_files(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--damaged-files"))
