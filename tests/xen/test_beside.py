"""Xen's own scripts and ours on the same NIC of the same xl.cfg, in the same dom0: what the kernel has with each, and why it
differs. A difference that is not explained here is a failure, and so is an explanation of what does not differ.
"""

from __future__ import annotations

import difflib
import re

import pytest
from lab.xen import MAC, World, idle

pytestmark = pytest.mark.usefixtures("restored")
NICS = {
    "bridge": f"mac={MAC.format(0x21)},bridge=lan,ip=10.0.0.21",
    "route": f"mac={MAC.format(0x21)},ip=192.0.2.21 198.51.100.16/28",
}
PORT = "vifD.0"


def was(path: str, xens: object, ours: object) -> tuple[str, str]:
    return f"-/proc/sys/net/{path}:{xens}", f"+/proc/sys/net/{path}:{ours}"


PORTS = "frames to link-local groups end at the port, and checksums are finished before the filter"
# The lines that differ (`-` is Xen's, `+` ours), by their reasons.
EXPLAINED = {
    "bridge": {
        PORTS: (
            "+table netdev vmnet",
            f"-{PORT} guard off",
            f"+{PORT} guard on",
            f"-{PORT} off root_block",
            f"+{PORT} on root_block",
        ),
        "`ip` is enforced; Debian has switched this off in Xen's script (bug 894013)": ("+table bridge vmnet",),
        "frames that no filter sees (01:80:c2:00:00:0X) teach the bridge no MAC of a guarded guest": (
            "-lan no_linklocal_learn 0",
            "+lan no_linklocal_learn 1",
        ),
        "the MAC of a guarded guest is at its port, whoever sends from it": (
            f"-{PORT} learning on",
            f"+{PORT} learning off",
            f"-{PORT} on flood",
            f"+{PORT} off flood",
            f"+{MAC.format(0x21)} dev {PORT} sticky master lan static",
            f"+{MAC.format(0x21)} dev {PORT} vlan 1 sticky master lan static",
        ),
        "a port of a bridge has no addresses of its own": was(f"ipv6/conf/{PORT}/disable_ipv6", 0, 1),
    },
    "route": {
        PORTS: ("+table netdev vmnet",),
        "what a guest may send is filtered by address and MAC": ("+table inet vmnet", "+table arp vmnet"),
        "our routes are known by their protocol": (
            f"-192.0.2.21 dev {PORT} scope 253 src 192.0.2.1 metric 2",
            f"+192.0.2.21 dev {PORT} proto 86 scope 253 src 192.0.2.1 metric 2",
            f"-198.51.100.16/28 dev {PORT} scope 253 src 192.0.2.1 metric 2",
            f"+198.51.100.16/28 dev {PORT} proto 86 scope 253 src 192.0.2.1 metric 2",
        ),
        "ifconfig makes up a broadcast address for 192.0.2.1/32, from the time before netmasks": (
            f"-{PORT} inet 192.0.2.1/32 brd 192.0.2.255 scope 0 {PORT}\\",
            f"+{PORT} inet 192.0.2.1/32 scope 0 {PORT}\\",
            f"-3 192.0.2.255 dev {PORT} table 255 proto 2 scope 253 src 192.0.2.1",
        ),
        "ours answers ARP for the guest by itself; Xen's leaves it to proxy_arp, which an admin has to set": (
            "+192.0.2.21 dev eth0 proxy",
            *was("ipv4/neigh/eth0/proxy_delay", 80, 0),
            *was(f"ipv4/neigh/{PORT}/proxy_delay", 80, 0),
        ),
        "ours forwards between the two; Xen's leaves it to ip_forward, which an admin has to set": (
            *was("ipv4/conf/eth0/forwarding", 0, 1),
            *was(f"ipv4/conf/{PORT}/forwarding", 0, 1),
        ),
        "a guest is told nothing of its neighbours, and may be reached by another way than it answers": (
            *was(f"ipv4/conf/{PORT}/send_redirects", 1, 0),
            *was(f"ipv4/conf/{PORT}/rp_filter", 0, 2),
        ),
        "no IPv6 for a guest that has none": was(f"ipv6/conf/{PORT}/disable_ipv6", 0, 1),
    },
}


def lines(state: str) -> list[str]:
    """A state by lines that can be compared: each attribute of a link is one, and each table of ours."""
    kernel = re.sub(r"(?ms)^(table \w+ vmnet) \{.*?^\}", r"\1", state.partition("### files")[0])
    found: list[str] = []
    for line in kernel.splitlines():
        if re.search(r"\bvmnet-ifb\b", line):
            # The link on which checksums are finished.
            continue
        words = re.sub(r"^\d+: ", "", line).split()
        if "<" in line and words[0].endswith(":"):
            ifname = words[0].rstrip(":").partition("@")[0]
            pairs = zip(words[1:], words[2:], strict=False)
            found += [f"{ifname} {word} {value}" for word, value in pairs if not word[0].isdigit()]
        elif words:
            found.append(" ".join(words))
    return found


def seen(world: World, script: str, nic: str) -> list[str]:
    """The state with a guest that is not started, whose domid is left out."""
    guest = idle(world.dom0, "beside", f"{nic},script={script}")
    try:
        done = guest.create("-p")
        assert done.returncode == 0, done.stderr
        assert guest.backend("hotplug-status") == "connected"
        domid = guest.domid
        return lines(re.sub(rf"\bvif(\W){domid}\b", r"vif\1D", world.dom0.state().replace(guest.vif(), PORT)))
    finally:
        guest.destroy()


@pytest.mark.parametrize("kind", NICS)
def test_beside(world: World, kind: str):
    xens = seen(world, f"vif-{kind}", NICS[kind])
    ours = seen(world, f"vmnet-vif-{kind}", NICS[kind])
    compared = difflib.unified_diff(xens, ours, lineterm="", n=0)
    found = sorted(line for line in compared if not line.startswith(("---", "+++", "@@")))
    for reason, differences in EXPLAINED[kind].items():
        print(f"{reason}:", *(line for line in found if line in differences), sep="\n    ")
    expected = sorted(line for differences in EXPLAINED[kind].values() for line in differences)
    assert found == expected, "\n" + "\n".join(difflib.unified_diff(expected, found, "explained", "found", lineterm="", n=0))
