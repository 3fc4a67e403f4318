"""The unit tier needs neither root nor a kernel of its own."""

from collections.abc import Iterator

import pytest
from scenario import PARSED, SAVED


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    yield
    SAVED.clear()
    PARSED.clear()
