"""A guest's whole life by each script: created, pinged from outside and pinging out, NICs that come and go, reboot, end.
Nothing of it stays in dom0.
"""

from __future__ import annotations

import pytest
from lab.xen import FAR4, FAR6, MAC, Guest, World, eventually, reaches

pytestmark = pytest.mark.usefixtures("restored")


@pytest.mark.debian13
def test_bridge(world: World):
    dom0, outside = world.dom0, world.outside
    with Guest(dom0, "bridged", f"mac={MAC.format(1)},bridge=lan,script=vmnet-vif-bridge", on_reboot="restart") as guest:
        assert guest.backend("hotplug-status") == "connected"
        assert dom0.xenstore(f"/local/domain/{guest.domid}/device/vif/0/mtu") == "1500"
        guest.address("10.0.0.2/24", "fd00::2/64")
        assert guest.pings("10.0.0.254") and guest.pings("fd00::fe")
        assert reaches(outside, "10.0.0.2") and reaches(outside, "fd00::2")

        before = dom0.state()
        dom0.run(["xl", "network-attach", guest.name, f"mac={MAC.format(2)}", "bridge=lan", "script=vmnet-vif-bridge"])
        assert eventually(lambda: guest.backend("state", 1) == "4")
        guest.address("10.0.0.3/24", ifname="eth1")
        assert guest.pings("10.0.0.254", source="eth1")
        dom0.run(["xl", "network-detach", guest.name, "1"])
        dom0.assert_restored(before)

        domid = guest.domid
        guest.console.send("reboot -f")
        assert eventually(lambda: guest.domid not in ("", domid), 60), "it did not come back"
        guest.attach()
        guest.console.wait("@up", 120)
        guest.address("10.0.0.2/24")
        assert guest.pings("10.0.0.254")

        dom0.run(["xl", "shutdown", guest.name])
        assert guest.gone()


def test_route(world: World):
    dom0, outside = world.dom0, world.outside
    vif = f"mac={MAC.format(3)},script=vmnet-vif-route,ip=192.0.2.50 2001:db8::50 198.51.100.0/28"
    with Guest(dom0, "routed", vif) as guest:
        assert guest.backend("hotplug-status") == "connected"
        guest.routed("192.0.2.50", "2001:db8::50")
        assert guest.pings(FAR4) and guest.pings(FAR6)
        # The outside asks for these addresses on its own wire, and dom0 answers.
        assert reaches(outside, "192.0.2.50") and reaches(outside, "2001:db8::50")
        guest.address("198.51.100.3/32")
        outside.run("ip route add 198.51.100.0/28 via 192.0.2.1")
        assert reaches(outside, "198.51.100.3")
        outside.run("ip route del 198.51.100.0/28")

        before = dom0.state()
        dom0.run(["xl", "network-attach", guest.name, f"mac={MAC.format(4)}", "script=vmnet-vif-route", "ip=192.0.2.51"])
        assert eventually(lambda: guest.backend("state", 1) == "4")
        guest.address("192.0.2.51/32", ifname="eth1")
        guest.sh("ip route add 192.0.2.254 dev eth1 src 192.0.2.51; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter")
        guest.sh("ip rule add from 192.0.2.51 lookup 7; ip route add default dev eth1 table 7")
        assert guest.pings("192.0.2.254", source="192.0.2.51")
        dom0.run(["xl", "network-detach", guest.name, "1"])
        dom0.assert_restored(before)

        # What is not its own gets nowhere: another address, the host's, another MAC's ARP.
        with world.heard("eth0", "host 192.0.2.77 or host 203.0.113.77 or ip6 host 2001:db8::77") as heard:
            guest.address("192.0.2.77/32", "203.0.113.77/32", "2001:db8::77/128")
            for source, target in (("192.0.2.77", FAR4), ("203.0.113.77", FAR4), ("2001:db8::77", FAR6)):
                assert not guest.pings(target, source=source, tries=1), source
        assert heard == []
        assert guest.pings(FAR4, source="192.0.2.50") and guest.pings(FAR6, source="2001:db8::50")


def test_nat(world: World):
    dom0, outside = world.dom0, world.outside
    with Guest(dom0, "private", f"mac={MAC.format(5)},script=vmnet-vif-nat") as guest:
        assert guest.backend("hotplug-status") == "connected"
        domid = int(guest.domid)
        address, gateway = f"10.{domid // 256}.{domid % 256}.1", f"10.{domid // 256}.{domid % 256}.128"
        guest.address(f"{address}/24")
        guest.sh(f"ip route add default via {gateway}")
        with world.heard("eth0", "icmp") as heard:
            assert guest.pings(FAR4)
        assert heard and all(f"192.0.2.1 > {FAR4}" in line for line in heard), heard
        # Nobody outside has a route to it.
        assert not reaches(outside, address)
        guest.console.send("poweroff -f")
        assert guest.gone()


def test_destroyed_while_it_talks(world: World):
    """A NIC of each kind, by `xl destroy`, the guest's traffic under way."""
    vifs = (
        f"mac={MAC.format(6)},bridge=lan,script=vmnet-vif-bridge,ip=10.0.0.6",
        f"mac={MAC.format(7)},script=vmnet-vif-route,ip=192.0.2.60 2001:db8::60,vifname=routed0",
        f"mac={MAC.format(8)},script=vmnet-vif-nat,ip=10.99.0.1",
    )
    with Guest(world.dom0, "three", *vifs) as guest:
        assert [guest.backend("hotplug-status", number) for number in range(3)] == ["connected"] * 3
        guest.address("10.0.0.6/24")
        guest.routed("192.0.2.60", "2001:db8::60", ifname="eth1")
        assert guest.pings("10.0.0.254") and guest.pings(FAR4) and reaches(world.outside, "2001:db8::60")
        assert world.dom0.run("ip link show routed0").returncode == 0
        guest.sh(f"(ping {FAR4} & ping 10.0.0.254 &) >/dev/null 2>&1")
        world.dom0.run(["xl", "destroy", guest.name])
        assert not guest.domid
