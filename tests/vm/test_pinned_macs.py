"""The MAC of a filtered guest on a VLAN-aware bridge: at its port in each of its VLANs, whatever others send from it.

guests guest thief -- ebr0 host eth3 == segment == eth0 outside
"""

from __future__ import annotations

import re

import pytest
from lab.domains import Interface
from lab.frames import tagged, udp4
from lab.guest import Nic, wired
from lab.nodes import Node, Switch
from lab.offload import Listener
from lab.routed import call as libvirt
from lab.routed import send
from lab.vm import Host

MAC, OTHER, PEER, OWN4 = "52:54:00:bb:00:10", "52:54:00:bb:00:11", "02:00:00:00:06:01", "10.7.0.16"
CONFIG = """
[bridges.ebr0]
ports = ["eth3"]
vlan_filtering = true
vlans = [10, 20, 30]
[networks.lan]
mode = "bridged"
bridge = "ebr0"
vlan = 10
[networks.trunk]
mode = "bridged"
bridge = "ebr0"
tagged = [10, 20, 30]
"""
NIC, THIEF = Interface(MAC, "tap1", "lan", (OWN4,)), Interface(OTHER, "tap2", "trunk")


def entries(host: Node) -> set[str]:
    """The VLANs in which the guest's MAC is pinned, each with the link that it is at."""
    found = re.findall(rf"^{MAC} dev (\S+)(?: vlan (\d+))? sticky", host.sh("bridge fdb show br ebr0"), re.M)
    return {f"{vid or '-'} {link}" for link, vid in found}


@pytest.fixture
def guests(product):
    with Switch("segment") as segment, Host("host", product) as host, Node("outside") as outside:
        segment.plug(host, "eth3", "02:00:00:00:00:01")
        segment.plug(outside, "eth0", PEER)
        host.config(CONFIG)
        assert host.cli("up").returncode == 0
        with wired(host, "tap1", "guest", Nic(MAC)) as guest, wired(host, "tap2", "thief", Nic(OTHER)) as thief:
            for op in ("start", "started"):
                libvirt(host, "dom1", op, NIC)
                libvirt(host, "dom2", op, THIEF)
            yield host, outside, guest, thief
            for op in ("stopped", "release"):
                libvirt(host, "dom2", op, THIEF)
                libvirt(host, "dom1", op, NIC)
        assert entries(host) == set()


def is_reached(outside: Node, guest: Node, thief: Node, vid: int) -> bool:
    """Whether a frame to the guest's MAC gets to it and to no other, once the thief has sent from it."""
    send(thief, "eth0", *(tagged(udp4(PEER, MAC, OWN4, "10.7.0.99", 7), each) for each in (10, 20, 30)))
    wanted = udp4(MAC, PEER, "10.7.0.99", OWN4, 9)
    with Listener(guest, "eth0") as own, Listener(thief, "eth0") as other:
        send(outside, "eth0", tagged(wanted, vid))
        return own.has(wanted) and not other.has(wanted, 0.3) and not other.has(tagged(wanted, vid), 0)


def test_in_each_vlan(guests):
    """And in those that it has after an edit, not in those of before, which the kernel would not delete any more."""
    host, outside, guest, thief = guests
    assert entries(host) == {"- tap1", "10 tap1"}
    assert is_reached(outside, guest, thief, 10)
    for vlans, there in (
        ("vlan = 20", {"- tap1", "20 tap1"}),
        ("vlan = 20\ntagged = [10, 30]", {"- tap1", "10 tap1", "20 tap1", "30 tap1"}),
        ("vlan = 10", {"- tap1", "10 tap1"}),
    ):
        host.config(CONFIG.replace("vlan = 10", vlans))
        libvirt(host, "dom1", "start", NIC)
        assert host.cli("check").returncode == 0 and entries(host) == there
        assert is_reached(outside, guest, thief, 10 if vlans == "vlan = 10" else 20)
