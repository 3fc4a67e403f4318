"""What a bridged guest may not do, and the VLANs it is in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.xen import MAC, Guest, World, reaches

pytestmark = pytest.mark.usefixtures("restored")


def test_antispoof(world: World):
    """With `ip`, only the guest's own MAC and addresses get out."""
    mac, false_mac = MAC.format(0x11), MAC.format(0x66)
    vif = f"mac={mac},bridge=lan,script=vmnet-vif-bridge,ip=10.0.0.11 fd00::11"
    with Guest(world.dom0, "honest", vif) as guest:
        guest.address("10.0.0.11/24", "fd00::11/64")
        assert guest.pings("10.0.0.254") and guest.pings("fd00::fe")
        assert reaches(world.outside, "10.0.0.11") and reaches(world.outside, "fd00::11")
        false = "10.0.0.66"
        with world.heard("lan1", f"host {false} or ip6 host fd00::66 or arp host {false} or ether host {false_mac}") as heard:
            guest.address(f"{false}/24", "fd00::66/64")
            for source, target in ((false, "10.0.0.254"), ("fd00::66", "fd00::fe")):
                assert not guest.pings(target, source=source, tries=2), source
            guest.sh(f"arping -c 2 -w 3 -U -s {false} -I eth0 {false}", check=False)
            guest.sh(f"arping -c 2 -w 3 -s {false} -I eth0 10.0.0.254", check=False)
            guest.sh(f"ip addr del {false}/24 dev eth0; ip addr del fd00::66/64 dev eth0")
            guest.sh(f"ip link set eth0 down; ip link set eth0 address {false_mac}; ip link set eth0 up")
            assert not guest.pings("10.0.0.254", tries=2)
            guest.sh(f"ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up")
        assert heard == []
        assert guest.pings("10.0.0.254")


@pytest.fixture
def aware(world: World) -> Iterator[None]:
    """lan is VLAN-aware meanwhile, and its port to the outside has the VLANs 10 to 12."""
    world.dom0.sh("ip link set lan type bridge vlan_filtering 1; bridge vlan add dev lan0 vid 10-12")
    for vid in (10, 11, 12):
        world.outside.sh(
            f"ip link add link lan1 name lan1.{vid} type vlan id {vid}; ip link set lan1.{vid} up\n"
            f"ip addr add 10.{vid}.0.254/24 dev lan1.{vid}"
        )
    try:
        yield
    finally:
        for vid in (10, 11, 12):
            world.outside.run(f"ip link del lan1.{vid}")
        world.dom0.sh("bridge vlan del dev lan0 vid 10-12; ip link set lan type bridge vlan_filtering 0")


def in_vlan(world: World, guest: Guest) -> None:
    """`guest` has 10p/11-12: VLAN 10 untagged, the others tagged, and no more."""
    guest.address("10.10.0.2/24")
    with world.heard("lan1", "vlan and icmp") as heard:
        assert guest.pings("10.10.0.254")
    assert heard and all("vlan 10," in line for line in heard), heard
    guest.sh("vconfig add eth0 11 && ip link set eth0.11 up && ip addr add 10.11.0.2/24 dev eth0.11")
    with world.heard("lan1", "vlan and icmp") as heard:
        assert guest.pings("10.11.0.254")
    assert heard and all("vlan 11," in line for line in heard), heard
    # Nothing untagged, and nothing of a VLAN that is not the guest's.
    guest.address("10.0.0.12/24")
    guest.sh("vconfig add eth0 13 && ip link set eth0.13 up && ip addr add 10.13.0.2/24 dev eth0.13")
    with world.heard("lan1", "host 10.13.0.2 or (not vlan and host 10.0.0.12)") as heard:
        assert not guest.pings("10.13.0.254", tries=1)
    assert heard == []


@pytest.mark.debian13(only=True)
def test_vlan(world: World, aware: None):
    """Debian 13's xl has the key, Debian 12's not. What else it means, tests/vm shows without Xen."""
    vif = f"mac={MAC.format(0x13)},bridge=lan,script=vmnet-vif-bridge,vlan=10p/11-12"
    with Guest(world.dom0, "tagged", vif) as guest:
        assert guest.backend("vlan") == "10p/11-12"
        in_vlan(world, guest)
