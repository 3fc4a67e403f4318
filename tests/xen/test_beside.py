"""Xen's own scripts and ours on the same NIC of the same xl.cfg, in the same dom0: what the kernel has with each, and why it
differs. A difference that is not explained here is a failure, and so is an explanation of what does not differ.
"""

from __future__ import annotations

import difflib
import re

import pytest
from lab.xen import MAC, Guest, World

pytestmark = pytest.mark.usefixtures("restored")
NICS = {
    "bridge": f"mac={MAC.format(0x21)},bridge=lan,ip=10.0.0.21",
    "route": f"mac={MAC.format(0x21)},ip=192.0.2.21 198.51.100.16/28",
}
# Lines of a difference (`-` is Xen's, `+` ours), and why.
OURS = (
    (r"\+.*\b(table|chain|set|map|rule|type|elements|policy|counter|\}|iifname|oifname|comment|flags|ether|ip6?|arp)\b.*", "nft"),
)
EXPLAINED: dict[str, tuple[tuple[str, str], ...]] = {"bridge": OURS, "route": OURS}


def seen(world: World, script: str, nic: str) -> list[str]:
    """The state with a guest that is not started, whose domid and interface number are left out."""
    guest = Guest(world.dom0, "beside", f"{nic},script={script}")
    try:
        done = guest.create("-p")
        assert done.returncode == 0, done.stderr
        assert guest.backend("hotplug-status") == "connected"
        state = world.dom0.state().replace(f"vif/{guest.domid}/", "vif/D/").replace(f"domain/{guest.domid}/", "domain/D/")
        state = state.replace(f'id = "{guest.domid}"', 'id = "D"').replace(f"vif{guest.domid}.", "vifD.")
        state = state.replace(f"xen:{guest.domid}", "xen:D").replace(f"/{script}", "/SCRIPT")
        return [re.sub(r"^\d+: ", "", line) for line in state.splitlines()]
    finally:
        guest.destroy()


@pytest.mark.parametrize("kind", NICS)
def test_beside(world: World, kind: str):
    xens = seen(world, f"vif-{kind}", NICS[kind])
    ours = seen(world, f"vmnet-vif-{kind}", NICS[kind])
    found = [line for line in difflib.unified_diff(xens, ours, lineterm="", n=0) if not line.startswith(("---", "+++", "@@"))]
    print("\n".join(found))
    explained = EXPLAINED[kind]
    assert [line for line in found if not any(re.fullmatch(pattern, line) for pattern, _ in explained)] == []
    assert [pattern for pattern, _ in explained if not any(re.fullmatch(pattern, line) for line in found)] == []
