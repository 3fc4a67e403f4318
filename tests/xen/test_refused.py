"""A script that must fail: `xl create` fails with its reason, and dom0 is as before."""

from __future__ import annotations

import pytest
from lab.xen import MAC, World, idle

pytestmark = pytest.mark.usefixtures("restored")


def test_refused(world: World):
    """What else is refused, tests/netns shows without Xen."""
    vif, word = "script=vmnet-vif-route,ip=192.0.2.999", "192.0.2.999"
    guest = idle(world.dom0, "refused", f"mac={MAC.format(9)},{vif}")
    try:
        done = guest.create("-p")
        said = [line for line in done.stderr.splitlines() if "vmnet-hook: " in line]
        print(done.stderr)
        assert done.returncode != 0
        assert len(said) == 1 and word in said[0], done.stderr
        # libxl itself quotes what the script left in xenstore.
        assert any("hotplug" in line and word in line for line in done.stderr.splitlines() if line not in said), done.stderr
        assert not guest.domid
    finally:
        guest.destroy()
