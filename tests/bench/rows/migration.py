"""The gap that a live migration leaves, as the tests of live migration between two real libvirt hosts measure it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

from bench.hosts import PYTHON, ROOT, CommandFailed, Product
from bench.report import Effort, Row, middle, unknown

LIMIT, CI_LIMIT = 1.2, 2.0
TESTS = {"test_with_agents": "with agents", "test_without_an_agent": "without an agent"}


def migration(product: Product, effort: Effort) -> Iterator[Row]:
    """Only in a full run: it boots a guest, and moves it a few times. Measures this checkout, whatever `product` is."""
    if effort.quick:
        return
    for test, how in TESTS.items():
        what = f"live migration {how}: longest gap, routed / plain bridge"
        try:
            yield middle(what, ratios(test), 1, "×", LIMIT, CI_LIMIT)
        except CommandFailed as error:
            yield unknown(what, error, LIMIT, CI_LIMIT)


def ratios(test: str) -> list[float]:
    """What a test printed: the gap of each migration's routed NIC to that of its bridged one. Raises CommandFailed."""
    env = {**os.environ, "VMNET_CI": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    path = f"tests/libvirt/test_migration.py::{test}"
    words = [PYTHON, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", path]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    found = re.search(r"ours to the bridge's: \[(.+)\]", done.stdout)
    if not found:
        raise CommandFailed(f"{path}: {done.stdout[-500:]}")
    return [float(word.strip(" '")) for word in found[1].split(",")]
