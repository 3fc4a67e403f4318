"""The examples of etc/xen with VLANs, bonds and dummies: run as they are written, and their drawings hold."""

from __future__ import annotations

import pytest
from lab import xen_examples
from lab.vm import QuickDom0


@pytest.mark.parametrize("name", xen_examples.IN_VM)
def test_example(product, name):
    xen_examples.play(name, lambda: QuickDom0(product))
