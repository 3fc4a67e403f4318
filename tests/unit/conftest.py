"""The unit tier needs neither root nor a kernel of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scenario import PARSED, SAVED

from vmnet_hooks.declared import configuration
from vmnet_hooks.model.declaration import Config


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    yield
    SAVED.clear()
    PARSED.clear()


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Config]:
    """Reads a vmnet.toml with this text."""

    def loaded(text: str) -> Config:
        (tmp_path / "vmnet.toml").write_text(text)
        return configuration.load(str(tmp_path))

    return loaded
