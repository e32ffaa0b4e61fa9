"""`box`: every test that takes it runs on both engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.engine import Engine
from store.lmdb_engine import LmdbEngine
from tests.store.boxes import BOXES, STAMP, TABLES, Box, nothing


@pytest.fixture(params=sorted(BOXES))
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with BOXES[request.param]() as made:
        yield made


@pytest.fixture
def engine(box: Box) -> Engine:
    return box.engine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a new environment, closed."""
    path = tmp_path / "log"
    LmdbEngine.create(path, TABLES, STAMP, nothing)
    return path
