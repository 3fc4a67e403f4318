"""The package tier needs root and packaging tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from building import build  # noqa: E402
from clean_root import CleanRoot  # noqa: E402
from lab import tier  # noqa: E402

TOOLS = {
    "dpkg-buildpackage": "build-essential",
    "dh": "debhelper",
    "dh_python3": "dh-python",
    "lintian": "lintian",
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "man": "man-db",
}


REASON = tier.lacks(TOOLS, "check")


def pytest_runtest_setup(item: pytest.Item) -> None:
    tier.refuse("package", REASON)


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"), DEB_BUILD_OPTIONS=os.environ.get("DEB_BUILD_OPTIONS", ""))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[CleanRoot]:
    with CleanRoot(tmp_path / "overlay") as root:
        yield root
