"""`vmnet-hook import` of an interfaces file, and of what ifupdown made of it: the same state, by us. VLANs and bonds are in
tests/vm."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.hostnet import Uplinks
from lab.ifupdown import Ifupdown
from lab.nodes import Node
from lab.routed import GATEWAY4, ping
from lab.single import same
from lab.twins import Twins, state
from test_ifupdown import FAMILIES, STATIC, stanzas

BRIDGES = """\
auto lo
iface lo inet loopback

auto xenbr0
iface xenbr0 inet static
    address 192.168.122.11/24
    gateway 192.168.122.1
    dns-nameservers 192.168.122.1
    bridge_ports eth0
    bridge_stp off
    bridge_fd 0
    bridge_maxwait 0
iface xenbr0 inet6 static
    address 2001:db8:122::11/64
    gateway 2001:db8:122::1

auto guestbr0
iface guestbr0 inet static
    address 10.5.5.254
    netmask 255.255.255.0
    bridge_ports eth1 eth2
    bridge_stp on
    bridge_fd 4
    bridge_hello 1
    bridge_maxage 6
    bridge_bridgeprio 4096
    bridge_ageing 60
    bridge_maxwait 0
    post-up true

auto inner0
iface inner0 inet manual
    bridge_ports none
    bridge_hw 02:00:00:00:99:01
    mtu 1400
"""


# As providers give addresses: gateways outside of the subnet, a peer, routes by commands, metrics.
RENTED = """\
auto br0
iface br0 inet static
    address 198.51.100.250/32
    gateway 198.51.100.193
    metric 20
    bridge_ports eth0
    bridge_stp off
    bridge_maxwait 0
    up ip route add 10.0.0.0/8 via 198.51.100.194 dev br0 onlink mtu 1400
    up ip route add 10.1.0.0/16 via 198.51.100.195 dev br0 onlink metric 5 table 100 || true
    down ip route del 10.0.0.0/8
iface br0 inet6 static
    address 2001:db8:1::2/128
    gateway fe80::1
    up ip -6 route add 2001:db8:9::/48 via fe80::2 dev br0

auto br1
iface br1 inet static
    address 192.0.2.9/29
    gateway 203.0.113.1
    metric 30
    bridge_ports eth1
    bridge_maxwait 0

auto br2
iface br2 inet static
    address 192.0.2.130
    netmask 255.255.255.255
    pointopoint 192.0.2.129
    bridge_ports eth2
    bridge_stp on # one port
    bridge_fd 2
    bridge_maxwait 0
"""


@pytest.fixture
def three():
    with ExitStack() as stack:
        yield Twins(stack, Node, ("ifupdown", "file", "live"), ("eth0", "eth1", "eth2"))


def test_bridges(three, tmp_path):
    twin, file, live = three.nodes
    three.by_ifupdown(twin, BRIDGES)
    expected = state(twin)
    (tmp_path / "interfaces").write_text(BRIDGES)
    toml = three.imported(file, "--interfaces", str(tmp_path / "interfaces"))
    for line in ("iface lo inet loopback", "dns-nameservers 192.168.122.1", "bridge_maxwait 0", "post-up true"):
        assert any(f"`{line}`" in comment and "not carried over" in comment for comment in toml.splitlines())
    three.by_us(file, toml)
    same(expected, state(file))
    three.by_us(live, three.imported(twin, "--live"))
    same(expected, state(live))


def test_rented_addresses(three, tmp_path):
    twin, file, live = three.nodes
    three.by_ifupdown(twin, RENTED)
    # The gateway that ifup says is on the link has a route of its own here.
    twin.run("ip route add 203.0.113.1 dev br1")
    expected = state(twin)
    (tmp_path / "interfaces").write_text(RENTED)
    toml = three.imported(file, "--interfaces", str(tmp_path / "interfaces"))
    assert [line for line in toml.splitlines() if "not carried over" in line and "maxwait" not in line] == []
    three.by_us(file, toml)
    same(expected, state(file))
    three.by_us(live, three.imported(twin, "--live"))
    same(expected, state(live))


def test_a_bridge_that_is_an_uplink(three, tmp_path):
    """The network switches IPv6 on where the bridge alone would have none."""
    twin, file, _ = three.nodes
    text = "auto br0\n" + stanzas("both", "host", "br0").replace(
        "inet manual\n", "inet manual\n    bridge_ports eth0\n    bridge_hw eth0\n    bridge_maxwait 0\n", 1
    )
    for node in (twin, file):
        node.write("/etc/iproute2/rt_tables.d/admin.conf", "222 snf_public\n")
    three.by_ifupdown(twin, text)
    (tmp_path / "interfaces").write_text(text)
    three.by_us(file, three.imported(file, "--interfaces", str(tmp_path / "interfaces")))
    same(state(twin), state(file))
    assert file.sysctl("ipv6/conf/br0/disable_ipv6") == "0"
    done = file.cli("up")
    assert "nothing to do" in done.stdout, done


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("role", ["host", "router", "router+host"])
def test_routed_roles(role, families):
    with ExitStack() as stack:
        twins = Twins(stack, Node, ("ifupdown", "file"), ("eth1",))
        twin, file = twins.nodes
        text = "auto eth1\n" + stanzas(families, role)
        for node in twins.nodes:
            node.sh(STATIC)
            node.write("/etc/iproute2/rt_tables.d/admin.conf", "222 snf_public\n")
        twins.by_ifupdown(twin, text)
        Ifupdown(file).interfaces(text)
        twins.by_us(file, twins.imported(file))
        same(state(twin), state(file))


def test_the_proposed_bridge(tmp_path):
    """An interface alone: the bridge in comments, without the #, takes over what it has, and the gateway answers."""
    (tmp_path / "interfaces").write_text("auto eth0\niface eth0 inet static\n    address 192.0.2.10/24\n    gateway 192.0.2.1\n")
    with Uplinks() as uplinks:
        host = uplinks.host()
        toml = host.vmnet("import", "--interfaces", str(tmp_path / "interfaces"))
        proposed = [line.removeprefix("# ") for line in toml.splitlines()[-3:]]
        assert proposed == ["[bridges.br0]", 'ports = ["eth0"]', 'adopt = "eth0"']
        host.node.config("\n".join(proposed))
        host.vmnet("up")
        assert host.is_taken_over("br0") and ping(host.node, GATEWAY4, 2) is not None
