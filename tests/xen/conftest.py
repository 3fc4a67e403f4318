"""The xen tier runs in the dom0 of a real Xen: `make check-xen` boots one under QEMU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import tier
from lab.xen import Dom0, World, idle

# Made by lab/xen_image.py: these tests change the machine's own interfaces.
MADE = Path("/sbin/lab-init")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "debian13(only=False): is run on Debian 13's Xen too, or there only")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    newer = "trixie" in Path("/etc/os-release").read_text()
    items[:] = [item for item in items if newer or not any(mark.kwargs.get("only") for mark in item.iter_markers("debian13"))]


def pytest_runtest_setup(item: pytest.Item) -> None:
    tier.refuse("xen", "" if MADE.exists() else "needs a dom0 of its own: `sudo make check-xen` boots one under QEMU")


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with World() as made:
        # What the kernel and Xen leave behind after the first guest of all is not the scripts' doing.
        first = idle(made.dom0, "first", "mac=00:16:3e:00:00:ff,bridge=lan,script=vif-bridge")
        try:
            done = first.create("-p")
            assert done.returncode == 0, done.stderr
        finally:
            first.destroy()
        yield made


@pytest.fixture
def dom0(world: World) -> Dom0:
    return world.dom0


@pytest.fixture
def restored(dom0: Dom0) -> Iterator[None]:
    """Dom0's state after the test is that of before."""
    before = dom0.state()
    yield
    dom0.assert_restored(before)
