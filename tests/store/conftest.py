"""`box`: every test that takes it runs on both engines."""

from collections.abc import Iterator

import pytest

from store.engine import Engine
from tests.store.boxes import BOXES, Box


@pytest.fixture(params=sorted(BOXES))
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    with BOXES[request.param]() as made:
        yield made


@pytest.fixture
def engine(box: Box) -> Engine:
    return box.engine
