"""What all tiers share: where imports are found, and that nothing is skipped in CI.

With VMNET_CI=1 the machine has been prepared, so a skip is a failure. With VMNET_MACHINE=1 the tests run in a machine of their
own, see lab/boot.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# The package, `lab`, and the fakes of tests/unit, on which tests/cases runs too.
for folder in (TESTS.parent, TESTS, TESTS / "unit"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo) -> Generator:
    report = (yield).get_result()
    if report.skipped and os.environ.get("VMNET_CI") == "1":
        report.outcome = "failed"
        report.longrepr = f"VMNET_CI=1, and skipped: {call.excinfo.value}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a failure at once: the machine may not live until the summary."""
    if report.failed and os.environ.get("VMNET_MACHINE") == "1":
        print(f"\n{report.longreprtext}")
