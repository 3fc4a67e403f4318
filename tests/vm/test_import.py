"""`vmnet-hook import` of interfaces files with VLAN devices and bonds, and of what ifupdown made of them: the same state, by
us."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.ring import FORWARD_DELAY, HELLO_TIME, MAX_AGE
from lab.single import same
from lab.twins import Twins, state
from lab.vm import Host

# A node of the ring of ring.py, as bridge-utils, vlan and ifupdown can say it.
RING = f"""\
auto lo
iface lo inet loopback

auto eth1.100
iface eth1.100 inet manual

auto guestbr0
iface guestbr0 inet static
    address 10.5.5.254
    netmask 255.255.255.0
    bridge_ports eth1.100 eth2.100
    bridge_stp on
    bridge_fd {FORWARD_DELAY}
    bridge_hello {HELLO_TIME}
    bridge_maxage {MAX_AGE}
    bridge_maxwait 0
    post-up true

auto xenbr0
iface xenbr0 inet static
    address 192.168.122.13/24
    gateway 192.168.122.1
    bridge_ports eth0
    bridge_stp off
    bridge_fd 0
    bridge_maxwait 0
"""
# A bond with VLANs on it: one with a bridge, one with addresses; names of both kinds.
BONDED = """\
auto bond0
iface bond0 inet manual
    bond-slaves eth1 eth2
    bond-mode active-backup
    bond-miimon 100
    bond-updelay 200
    bond-downdelay 200
    bond-primary eth1

auto vlan7
iface vlan7 inet static
    vlan-raw-device bond0
    address 10.7.0.1/16
    mtu 1400
iface vlan7 inet6 static
    address 2001:db8:7::1/64
    gateway 2001:db8:7::fe

auto br20
iface br20 inet manual
    bridge_ports bond0.20
    bridge_stp off
    bridge_fd 0
    bridge_maxwait 0

auto bond1
iface bond1 inet manual
    bond-slaves none
    bond-mode 802.3ad
    bond-miimon 50
    bond-lacp-rate fast
    bond-xmit-hash-policy layer3+4
iface eth3 inet manual
    bond-master bond1
auto eth3 eth4
iface eth4 inet manual
    bond-master bond1

auto bond1.30
iface bond1.30 inet static
    address 10.30.0.1/24
    hwaddress 02:00:00:00:30:01
"""

# The example of gnt-networking's vmrouter.ifup, on a VLAN device.
ROUTED = """\
auto eth1.100
iface eth1.100 inet manual
    ip-routing-table 100
    ip-routes 192.0.2.0/24
    ip-gateway 192.0.2.1
    ip-forwarding 1
    ip-proxy-arp 1
    arp-ip 192.0.2.254

iface eth1.100 inet6 manual
    ip-routing-table 100
    ip-routes 2001:db8:100::/64
    ip-gateway 2001:db8:100::1
    ip-forwarding 1
    ip-proxy-ndp 1
"""


@pytest.fixture
def three(product):
    with ExitStack() as stack:
        nics = [f"eth{number}" for number in range(5)]
        yield Twins(stack, lambda name: Host(name, product), ("ifupdown", "file", "live"), nics)


@pytest.mark.parametrize("text", [RING, BONDED], ids=["ring", "bonded"])
def test_the_state_is_that_of_ifupdown(three, text, tmp_path):
    twin, file, live = three.nodes
    three.by_ifupdown(twin, text)
    expected = state(twin)
    (tmp_path / "interfaces").write_text(text)
    three.by_us(file, three.imported(file, "--interfaces", str(tmp_path / "interfaces")))
    same(expected, state(file))
    three.by_us(live, three.imported(twin, "--live"))
    same(expected, state(live))


def test_a_routed_network_on_a_vlan_device(three, tmp_path):
    twin, file, _ = three.nodes
    three.by_ifupdown(twin, ROUTED)
    (tmp_path / "interfaces").write_text(ROUTED)
    three.by_us(file, three.imported(file, "--interfaces", str(tmp_path / "interfaces")))
    same(state(twin), state(file))
