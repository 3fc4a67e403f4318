"""The examples of etc/xen with VLANs, bonds and dummies: run as they are written, and their drawings hold."""

from __future__ import annotations

import pytest
from lab import xen_examples


@pytest.mark.parametrize("name", xen_examples.IN_VM)
def test_example(name):
    xen_examples.play(name)
