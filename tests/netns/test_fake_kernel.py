"""The fake kernel, on which the laws are tested, is like the real one: the laws' scenarios run on both, and agree after each step
(see lab/twin_kernel.py). VMNET_SCENARIOS=all runs all of them that need no VLANs and no bonds, not only these.
"""

from __future__ import annotations

import os
import sys

import pytest
from lab import twin_kernel
from lab.nodes import IN_VENV, Node

CHOSEN = (
    "plug: hostroute, router advertisements, strict",
    "plug: hostroute with NAT beside plain",
    "plug: second half of a NIC, routed",
    "plug: bridged, isolated, mtu",
    "plug: bridged, antispoof beside another",
    "plug: bridged, antispoof switched off",
    "plug: routed v4+v6",
    "plug: routed, no neighbours, own MAC, mtu",
    "plug: routed and bridged",
    "plug: router+host beside host",
    "plug: replug after an edit, two guests",
    "plug: from routed to bridged",
    "plug: second half of a NIC at a wire",
    "plug: wire to a link",
    "unplug: bridged, isolated",
    "unplug: network deleted",
    "unplug: at a wire with another",
    "act: bridge",
    "act: adopt",
    "act: NAT",
    "act: masquerade",
    "act: port exchanged",
    "act: STP on",
    "act: address changed",
    "act: bridge renamed",
    "act: adopting bridge gets STP",
    "act: adopts no more",
    "act: guest that brings the bridge",
    "act: down of an adoption",
)
ALL = [name for name in twin_kernel.SCENARIOS if twin_kernel.everywhere(name)]
PYTHON = sys.executable if IN_VENV else "/usr/bin/python3"


@pytest.mark.parametrize("name", ALL if os.environ.get("VMNET_SCENARIOS") == "all" else CHOSEN)
def test_both_kernels_agree(name):
    with Node("twin") as node:
        done = node.run([PYTHON, twin_kernel.__file__, name], check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]


def test_the_scenarios_are_known():
    assert set(CHOSEN) < set(ALL)


def test_a_difference_is_found():
    """A fake kernel on which links keep their IPv6 addresses when IPv6 is disabled is not like the real one."""
    script = (
        f"import sys; sys.path.insert(0, {str(twin_kernel.ROOT / 'tests')!r})\n"
        "from lab import twin_kernel\n"
        "twin_kernel.FakeKernel._ipv6_switched = lambda *_, **__: None\n"
        "twin_kernel.main('act: adopt')"
    )
    with Node("twin") as node:
        done = node.run([PYTHON, "-c", script], check=False, timeout=300)
    assert done.returncode == 1 and "\n  link eth0 lladdr\n    fake" in done.stderr, done.stderr[-4000:]
