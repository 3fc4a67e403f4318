"""A bridged network that brings its own VLAN device and bridge; QinQ; MTUs that do not fit; bridges without a NIC."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack

import pytest
from lab.capture import Capture
from lab.guest import Nic
from lab.nodes import wire
from lab.routed import eventually, reach
from lab.vm import Host, assert_restored, everywhere, guest, snapshots

SLOW = 20
TENANT = """
[networks.tenant]
mode = "bridged"
bridge = "tbr0"
uplink = "eth1"
vlan = 100
"""


@pytest.fixture
def hosts(product):
    """Two hosts, eth1 wired to eth1."""
    with ExitStack() as stack:
        pair = [stack.enter_context(Host(name, product)) for name in ("left", "right")]
        wire(pair[0], "eth1", pair[1], "eth1", "02:00:00:00:0a:01", "02:00:00:00:0b:01")
        for host in pair:
            host.run("ip link set eth1 up")
        yield pair


def nic(last: int) -> Nic:
    return Nic(f"52:54:00:0c:00:0{last}", f"10.7.0.{last}")


def links(host: Host) -> set[str]:
    return {link["ifname"] for link in json.loads(host.run("ip -j link show").stdout)}


def up(*hosts: Host) -> None:
    for done in everywhere(hosts, "up"):
        assert done.returncode == 0, done.stdout + done.stderr


def refused(host: Host, *named: str) -> None:
    """`up` fails with one line that names each, and one for each part that stands on that; nothing is touched."""
    before = snapshots([host])
    done = host.cli("up")
    lines = done.stderr.strip().splitlines()
    assert done.returncode != 0 and all(name in lines[0] for name in named), done
    assert all(" stands on " in line and line.endswith("which is not up") for line in lines[1:]), done
    assert_restored([host], before)


def down_leaves(before: list[str], *hosts: Host) -> None:
    for done in everywhere(hosts, "down"):
        assert done.returncode == 0, done.stdout + done.stderr
    assert_restored(hosts, before)


def test_vlan_device_and_bridge_live_as_long_as_their_guests(hosts):
    left, right = hosts
    for host in hosts:
        host.config(TENANT)
    with ExitStack() as stack:
        one, two, three = (
            stack.enter_context(guest(host, f"guest{last}", "tenant", nic(last), start=False))
            for last, host in ((1, left), (2, left), (3, right))
        )
        before = snapshots([left])
        assert not {"eth1.100", "tbr0"} & links(left)
        for each in (one, two, three):
            each.plug()
            assert {"eth1.100", "tbr0"} <= links(each.host)
        with Capture(left, "eth1") as wire:
            assert eventually(lambda: reach([(one.node, two.nic.ip4), (one.node, three.nic.ip4)]) == [], SLOW)
        frames = wire.having("ICMP echo")
        assert frames and all("vlan 100," in frame for frame in frames), wire
        done = left.cli("check")
        assert done.returncode == 0, done.stdout + done.stderr
        one.unplug()
        assert {"eth1.100", "tbr0"} <= links(left)
        assert eventually(lambda: reach([(two.node, three.nic.ip4)]) == [], SLOW), "the second guest lost its network"
        two.unplug()
        assert not {"eth1.100", "tbr0"} & links(left)
        assert_restored([left], before)
        one.plug()
        one.unplug()
        assert_restored([left], before)


def test_what_the_admin_made_stays(hosts):
    left = hosts[0]
    left.config(TENANT)
    left.sh("""
        ip link add link eth1 name eth1.100 type vlan id 100
        ip link add tbr0 type bridge; ip link set eth1.100 master tbr0
        ip link set eth1.100 up; ip link set tbr0 up
    """)
    with guest(left, "guest1", "tenant", nic(1), start=False) as one, guest(left, "guest2", "tenant", nic(2), start=False) as two:
        before = snapshots([left])
        one.plug()
        two.plug()
        assert eventually(lambda: reach([(one.node, two.nic.ip4)]) == [], SLOW)
        one.unplug()
        two.unplug()
        assert {"eth1.100", "tbr0"} <= links(left)
        assert_restored([left], before)


def test_a_vlan_device_of_the_admin_with_another_id(hosts):
    """Its name is what we would need: an error that names it, and nothing is touched."""
    left = hosts[0]
    left.config(TENANT)
    left.run("ip link add link eth1 name eth1.100 type vlan id 101")
    with guest(left, "guest1", "tenant", nic(1), start=False) as one:
        before = snapshots([left])
        with pytest.raises(AssertionError, match=r"eth1\.100"):
            one.plug()
        assert_restored([left], before)


QINQ = """
[vlans."eth1.200"]
parent = "eth1"
id = 200
protocol = "802.1ad"

[vlans."eth1.200.30"]
parent = "eth1.200"
id = 30

[bridges.qbr0]
ports = ["eth1.200.30"]

[networks.tenant]
mode = "bridged"
bridge = "qbr0"
"""


def test_qinq(hosts):
    for host in hosts:
        host.config(QINQ)
    before = snapshots(hosts)
    up(*hosts)
    with ExitStack() as stack:
        one, two = (stack.enter_context(guest(host, f"guest{last}", "tenant", nic(last))) for last, host in enumerate(hosts, 1))
        with Capture(hosts[0], "eth1") as wire:
            assert eventually(lambda: reach([(one.node, two.nic.ip4)]) == [], SLOW)
        frames = wire.having("ICMP echo")
        assert frames, wire
        for frame in frames:
            assert re.search(r"802\.1Q-QinQ \(0x88a8\).*vlan 200,.*802\.1Q.*vlan 30,", frame), frame
        for each in (one, two):
            each.unplug()
    down_leaves(before, *hosts)


MTU = """
[vlans."eth1.100"]
parent = "eth1"
id = 100
mtu = {vlan}

[bridges.br100]
ports = ["eth1.100"]
mtu = {bridge}

[networks.tenant]
mode = "bridged"
bridge = "br100"
"""


def test_an_mtu_that_does_not_fit(hosts):
    """NICs that cannot carry the tag have 1496; more is an error, and nothing of the part that asks for it is set up."""
    left = hosts[0]
    for host in hosts:
        host.run("ip link set eth1 mtu 1496")
    left.config(MTU.format(vlan=1500, bridge=1500))
    refused(left, "eth1.100", "1500", "1496")
    before = snapshots([left])
    left.config(MTU.format(vlan=1496, bridge=1500))
    done = left.cli("up")
    assert done.returncode == 2 and all(name in done.stderr for name in ("br100", "1500", "1496")), done
    # The VLAN stands without it, and is up.
    assert links(left) >= {"eth1.100"} and "br100" not in links(left)
    down_leaves(before, left)


def test_mtu_1496(hosts):
    for host in hosts:
        host.run("ip link set eth1 mtu 1496")
        host.config(MTU.format(vlan=1496, bridge=1496))
    before = snapshots(hosts)
    up(*hosts)
    with ExitStack() as stack:
        one, two = (stack.enter_context(guest(host, f"guest{last}", "tenant", nic(last))) for last, host in enumerate(hosts, 1))
        for host, each in zip(hosts, (one, two), strict=True):
            assert " mtu 1496 " in host.run("ip link show br100").stdout
            assert " mtu 1496 " in host.run(f"ip link show {each.tap}").stdout
            each.node.run("ip link set eth0 mtu 1496")
        assert eventually(lambda: reach([(one.node, two.nic.ip4)]) == [], SLOW)
        big = ["ping", "-n", "-c", "2", "-W", "3", "-M", "do", "-s", str(1496 - 28), two.nic.ip4]
        assert " 0% packet loss" in one.node.run(big, check=False).stdout
        for each in (one, two):
            each.unplug()
    down_leaves(before, *hosts)


BARE = """
[bridges.br5]
addresses = ["10.7.0.254/24"]

[dummies.dummy6]

[bridges.br6]
ports = ["dummy6"]

[networks.bare]
mode = "bridged"
bridge = "br5"

[networks.tenant]
mode = "bridged"
bridge = "br6"
"""


def test_bridges_without_a_nic(hosts):
    """One with no port and one with a dummy: their MACs stay when guests come and go."""
    left = hosts[0]
    left.config(BARE)
    before = snapshots([left])
    up(left)

    def macs() -> list[str]:
        return [left.run(f"cat /sys/class/net/{name}/address").stdout.strip() for name in ("br5", "br6")]

    first = macs()
    with ExitStack() as stack:
        for network, offset in (("bare", 0), ("tenant", 2)):
            one, two = (stack.enter_context(guest(left, f"guest{last}", network, nic(last))) for last in (offset + 1, offset + 2))
            targets = [(one.node, two.nic.ip4), *([(one.node, "10.7.0.254")] if network == "bare" else [])]
            assert eventually(lambda targets=targets: reach(targets) == [], SLOW), network
            assert macs() == first
            for each in (one, two):
                each.unplug()
        done = left.cli("up")
        assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
        done = left.cli("check")
        assert done.returncode == 0, done.stdout + done.stderr
    assert macs() == first
    down_leaves(before, left)
