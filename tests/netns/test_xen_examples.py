"""The examples of etc/xen are run as they are written, and their drawings hold. Those that need more of the kernel: tests/vm."""

from __future__ import annotations

import pytest
from lab import xen_examples


@pytest.mark.parametrize("name", xen_examples.IN_NETNS)
def test_example(name):
    xen_examples.play(name)


def test_every_example_is_played():
    assert sorted(xen_examples.names()) == sorted((*xen_examples.IN_NETNS, *xen_examples.IN_VM))
