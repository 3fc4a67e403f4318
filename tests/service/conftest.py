"""The service tier runs where systemd is the init, in a machine that it may change: `make check-service` boots one under QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import tier

# Made by image.py.
MADE = Path("/sbin/lab-job")


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = "needs a machine that it may change: `sudo make check-service` boots one under QEMU"
    tier.refuse("service", "" if MADE.exists() else reason)
