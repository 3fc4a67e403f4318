"""The service tier runs where systemd is the init, in a machine that it may change: `make check-service` boots one under QEMU.
Elsewhere its tests are skipped, saying so; in CI that is a failure.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `import lab`

# Made by image.py.
MADE = Path("/sbin/lab-job")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not MADE.exists():
        reason = "needs a machine of its own with systemd: `make check-service` boots one under QEMU, as root"
        if os.environ.get("VMNET_CI") == "1":
            pytest.fail(f"VMNET_CI=1 and the service tier {reason}", pytrace=False)
        pytest.skip(f"service tier {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told at once: the machine may not live until the summary."""
    if report.failed:
        print(f"\n{report.longreprtext}")
