"""The unit tier needs neither root nor a kernel of its own."""

from collections.abc import Iterator

import pytest
from scenario import SAVED


@pytest.fixture(autouse=True)
def _nothing_saved() -> Iterator[None]:
    yield
    SAVED.clear()
