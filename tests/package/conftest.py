"""The package tier needs root and packaging tools. It is skipped without them, with the remedy; in CI it fails."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from building import build  # noqa: E402
from clean_root import CleanRoot  # noqa: E402

TOOLS = {
    "dpkg-buildpackage": "build-essential",
    "dh": "debhelper",
    "dh_python3": "dh-python",
    "lintian": "lintian",
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "man": "man-db",
}


def missing() -> str:
    packages = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if packages:
        return f"needs tools that are not installed: apt-get install {' '.join(packages)}"
    return "" if os.geteuid() == 0 else "needs root: run `sudo make check`"


REASON = missing()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if REASON and item.path.name != "test_docs.py":
        if os.environ.get("VMNET_CI") == "1":
            pytest.fail(f"VMNET_CI=1 and the package tier {REASON}", pytrace=False)
        pytest.skip(f"package tier {REASON}")


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"), DEB_BUILD_OPTIONS=os.environ.get("DEB_BUILD_OPTIONS", ""))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[CleanRoot]:
    with CleanRoot(tmp_path / "overlay") as root:
        yield root
