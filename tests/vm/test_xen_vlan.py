"""VLANs of Xen's guests, and bridges over devices that the machine's own kernel may lack: the scripts as libxl calls them.

guest -- vifD.0 -- br0 -- eth3 == outside eth0 (10.9.1.1), eth0.10 (10.9.10.1), eth0.20 (10.9.20.1)
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack

import pytest
from lab.capture import Capture
from lab.nodes import Node, wire
from lab.routed import eventually, ping, reach
from lab.vm import Product, QuickDom0, assert_restored, snapshots
from lab.xenhost import succeeded
from lab.xenstore import Vif

SLOW = 20


class Lab:
    def __init__(self, stack: ExitStack, product: Product):
        self.stack = stack
        self.host, self.outside = stack.enter_context(QuickDom0(product)), stack.enter_context(Node("outside"))
        wire(self.host, "eth3", self.outside, "eth0", "02:00:00:00:00:03", "02:00:00:00:00:0f")
        self.host.sh("""
            for f in all default eth3; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done
            ip link set eth3 up
        """)
        self.outside.sh("ip link set eth0 up; ip addr add 10.9.1.1/24 dev eth0")
        for vid in (10, 20):
            self.outside.sh(f"ip link add link eth0 name eth0.{vid} type vlan id {vid}; ip link set eth0.{vid} up")
            self.outside.sh(f"ip addr add 10.9.{vid}.1/24 dev eth0.{vid}")

    def bridge(self, *options: str) -> None:
        self.host.sh(f"ip link add br0 type bridge {' '.join(options)}; ip link set br0 up; ip link set eth3 master br0")

    def vif(self, domid: int, net: int, **keys: object) -> Vif:
        """A guest that has 10.9.NET.(10 + DOMID)."""
        vif = self.stack.enter_context(Vif(self.host, domid, **{"bridge": "br0", **keys}))
        vif.configure(f"10.9.{net}.{10 + domid}")
        return vif

    def links(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.host.run("ip -j link show").stdout)}

    def vids(self, ifname: str) -> dict[int, set[str]]:
        shown = json.loads(self.host.run("bridge -j vlan show").stdout)
        [port] = [port for port in shown if port["ifname"] == ifname]
        found = {}
        for entry in port.get("vlans", ()):
            for vid in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1):
                found[vid] = set(entry.get("flags", ()))
        return found


@pytest.fixture
def lab(product):
    with ExitStack() as stack:
        yield Lab(stack, product)


def online(vif: Vif) -> None:
    succeeded(vif.call("online"))
    assert vif.status == "connected"


def offline(vif: Vif) -> None:
    vif.leave()
    succeeded(vif.call("offline"))
    vif.forget()


def test_a_bridge_that_knows_no_vlans(lab):
    """A bridge and a VLAN device for the VLAN: there from its first guest to its last."""
    lab.bridge()
    before = snapshots([lab.host])
    first, second, other = lab.vif(1, 10, vlan="10"), lab.vif(2, 10, vlan="10p"), lab.vif(3, 1)
    online(first)
    assert {"br0.10", "eth3.10"} <= lab.links()
    online(second)
    online(other)
    with Capture(lab.outside, "eth0", "") as wire_:
        pairs = [(vif.guest, "10.9.10.1") for vif in (first, second)] + [(first.guest, "10.9.10.12"), (other.guest, "10.9.1.1")]
        assert eventually(lambda: reach(pairs) == [], SLOW)
    tagged = wire_.having("ICMP echo request", r"10\.9\.10\.")
    assert tagged and all("vlan 10," in frame for frame in tagged), str(wire_)
    other.guest.run("ip addr add 10.9.10.99/24 dev eth0")
    assert ping(other.guest, "10.9.10.11", 1) is None, "the VLANs are one"
    # By the bridge's own name, which is there by now; and by VLANs that it can't give.
    named = lab.vif(4, 10, bridge="br0.10")
    online(named)
    assert eventually(lambda: reach([(named.guest, "10.9.10.1"), (named.guest, "10.9.10.11")]) == [], SLOW)
    trunk = lab.vif(5, 10, bridge="br0.10:20")
    assert trunk.call("online").returncode and "one VLAN, untagged" in (trunk.error or "")
    offline(trunk)
    offline(first)
    assert {"br0.10", "eth3.10"} <= lab.links()
    assert reach([(second.guest, "10.9.10.1")]) == []
    offline(second)
    assert reach([(named.guest, "10.9.10.1")]) == []
    offline(named)
    assert not {"br0.10", "eth3.10"} & lab.links()
    offline(other)
    assert_restored([lab.host], before)


ACCESS = {"PVID", "Egress Untagged"}
VLANS = {
    "vlan=10": {10: ACCESS},
    "vlan=10p/20": {10: ACCESS, 20: set()},
    "vlan=100-103": {100: set(), 101: set(), 102: set(), 103: set()},
    "vlan=10p/100+10x4": {10: ACCESS, **{vid: set() for vid in (100, 110, 120, 130, 140)}},
    "bridge=br0.10": {10: ACCESS},
    "bridge=br0.10:20": {10: ACCESS, 20: set()},
    "bridge=br0:20": {20: set()},
    "bridge=br0:100:102": {100: set(), 102: set()},
}


def test_a_vlan_aware_bridge(lab):
    """The port is in these VLANs and no other."""
    lab.bridge("vlan_filtering", "1")
    lab.host.sh("for vid in 10 20 100-103 110 120 130 140; do bridge vlan add dev eth3 vid $vid; done")
    # A VLAN device of the host's own on the bridge is no bridge.
    lab.host.sh("ip link add link br0 name br0.10 type vlan id 10")
    before = snapshots([lab.host])
    for domid, (vlan, expected) in enumerate(VLANS.items(), 1):
        vif = lab.vif(domid, 10, **dict([vlan.split("=", 1)]))
        online(vif)
        assert lab.vids(vif.ifname) == expected, vlan
        if ACCESS in expected.values():
            assert eventually(lambda vif=vif: reach([(vif.guest, "10.9.10.1")]) == [], SLOW), vlan
        if expected.get(20) == set():
            vif.guest.sh("ip link add link eth0 name eth0.20 type vlan id 20; ip link set eth0.20 up")
            vif.guest.run(f"ip addr add 10.9.20.{10 + domid}/24 dev eth0.20")
            assert eventually(lambda vif=vif: reach([(vif.guest, "10.9.20.1")]) == [], SLOW), vlan
        offline(vif)
    assert_restored([lab.host], before)


@pytest.mark.parametrize("netdev, bridge", [("eth3.20", "xenbr20"), ("dummy0", "xenbr0")])
def test_network_bridge_over_a_device_that_is_made(lab, netdev, bridge):
    before = snapshots([lab.host])
    for _ in range(2):
        done = lab.host.script("vmnet-network-bridge", "start", f"netdev={netdev}", f"bridge={bridge}")
        assert done.returncode == 0 and done.stderr == "", done
    shown = lab.host.run(["ip", "-d", "link", "show", "dev", netdev]).stdout
    assert re.search(rf" master {bridge} ", shown) and ("vlan" if "." in netdev else "dummy") in shown
    vif = lab.vif(1, 20, bridge=bridge)
    online(vif)
    if "." in netdev:
        assert eventually(lambda: reach([(vif.guest, "10.9.20.1")]) == [], SLOW)
    offline(vif)
    done = lab.host.script("vmnet-network-bridge", "stop", f"netdev={netdev}", f"bridge={bridge}")
    assert done.returncode == 0 and done.stderr == "", done
    assert_restored([lab.host], before)


def test_network_bridge_over_a_vlan_of_a_bond(lab):
    lab.host.sh("ip link add bond0 type bond mode active-backup; ip link set eth3 down; ip link set eth3 master bond0")
    lab.host.sh("ip link set bond0 up; ip link set eth3 up")
    before = snapshots([lab.host])
    done = lab.host.script("vmnet-network-bridge", "start", "netdev=bond0.10", "bridge=xenbr0")
    assert done.returncode == 0 and done.stderr == "", done
    vif = lab.vif(1, 10, bridge="xenbr0")
    online(vif)
    assert eventually(lambda: reach([(vif.guest, "10.9.10.1")]) == [], SLOW)
    offline(vif)
    done = lab.host.script("vmnet-network-bridge", "stop", "netdev=bond0.10", "bridge=xenbr0")
    assert done.returncode == 0 and done.stderr == "", done
    assert_restored([lab.host], before)
