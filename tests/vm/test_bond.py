"""Two hosts with two cables between them: a bond, a VLAN on the bond, a bridge on the VLAN, a guest on the bridge."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from lab.capture import Capture
from lab.guest import Nic
from lab.hostnet import Product as Command
from lab.hostnet import Uplinks, attribute, ports
from lab.nodes import Node, settled, wire
from lab.routed import GATEWAY4, GATEWAY6, WORLD4, WORLD6, eventually, reach
from lab.single import same
from lab.vm import Guest, Host, assert_restored, everywhere, guest, snapshots

SLOW = 20
CONFIG = """
[vlans."bond0.42"]
parent = "bond0"
id = 42

[bridges.br42]
ports = ["bond0.42"]

[networks.tenant]
mode = "bridged"
bridge = "br42"

[bonds.bond0]
ports = ["eth1", "eth2"]
miimon = 100
"""
MODES = {
    "active-backup": 'mode = "active-backup"\nprimary = "eth1"\n',
    "802.3ad": 'mode = "802.3ad"\nlacp_rate = "fast"\nxmit_hash_policy = "layer2+3"\n',
}


@dataclass
class Bonded:
    hosts: list[Host]
    guests: list[Guest]
    before: list[str]


@pytest.fixture(params=MODES)
def bonded(product, request):
    with ExitStack() as stack:
        hosts = [stack.enter_context(Host(name, product)) for name in ("left", "right")]
        for port in ("eth1", "eth2"):
            wire(*(hosts[0], port), *(hosts[1], port), f"02:00:00:00:0a:{port[3:]}1", f"02:00:00:00:0b:{port[3:]}1")
        for host in hosts:
            host.sh("ip link set eth1 up; ip link set eth2 up")
            host.config(CONFIG + MODES[request.param])
        before = snapshots(hosts)
        for done in everywhere(hosts, "up"):
            assert done.returncode == 0, done.stdout + done.stderr
        guests = [
            stack.enter_context(guest(host, f"guest{last}", "tenant", Nic(f"52:54:00:0b:0d:0{last}", f"10.42.0.{last}")))
            for last, host in enumerate(hosts, 1)
        ]
        yield Bonded(hosts, guests, before)


def test_bond(bonded, request):
    mode = request.node.callspec.params["bonded"]
    (left, right), (one, other) = bonded.hosts, bonded.guests
    shown = left.run("cat /proc/net/bonding/bond0").stdout
    assert mode in shown.replace("IEEE 802.3ad Dynamic link aggregation", "802.3ad").replace("fault-tolerance (", "")
    if mode == "802.3ad":
        assert eventually(lambda: aggregated(left) and aggregated(right), SLOW), left.run("cat /proc/net/bonding/bond0").stdout
    assert eventually(lambda: reach([(one.node, other.nic.ip4)]) == [], SLOW)

    with Capture(left, "eth1") as first, Capture(left, "eth2") as second:
        assert reach([(one.node, other.nic.ip4)]) == []
    frames = first.having("ICMP echo") + second.having("ICMP echo")
    assert frames and all("vlan 42" in frame and "802.1Q" in frame for frame in frames), frames

    lost = failover(bonded)
    print(f"{mode}: {lost:.2f} s without traffic")
    assert lost < 1, f"{lost:.2f} s"

    for host in bonded.hosts:
        done = host.cli("up")
        assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
        done = host.cli("check")
        assert done.returncode == 0, done.stdout + done.stderr
    for each in bonded.guests:
        each.unplug()
        each.host.run(f"ip link del {each.tap}")
    for done in everywhere(bonded.hosts, "down"):
        assert done.returncode == 0, done.stdout + done.stderr
    assert_restored(bonded.hosts, bonded.before)


def aggregated(host: Host) -> bool:
    """Whether LACP has put both ports into one aggregator with a partner."""
    shown = host.run("cat /proc/net/bonding/bond0").stdout
    return bool(re.search(r"Number of ports: 2", shown)) and not re.search(r"Partner Mac Address: 00:00:00:00:00:00", shown)


def failover(bonded: Bonded) -> float:
    """Cut the cable that carries the guests' traffic, at the far end; mend it. Returns the longest time without an
    answer."""
    (left, right), (one, other) = bonded.hosts, bonded.guests
    with Capture(left, "eth1", "vlan 42") as seen:
        assert reach([(one.node, other.nic.ip4)]) == []
    port = "eth1" if seen.having("ICMP echo request") else "eth2"
    ping = one.node.popen(["ping", "-D", "-n", "-i", "0.05", other.nic.ip4], stdout=-1)
    Capture.pause(2)
    right.run(f"ip link set {port} down")
    Capture.pause(4)
    ping.send_signal(2)
    output, _ = ping.communicate(timeout=10)
    times = [float(stamp) for stamp in re.findall(r"(?m)^\[([0-9.]+)\] .* bytes from", output)]
    assert times and times[-1] - times[0] > 4, output[-500:]
    right.run(f"ip link set {port} up")
    assert eventually(lambda: reach([(one.node, other.nic.ip4)]) == [], SLOW)
    return max(after - before for before, after in zip(times, times[1:], strict=False))


ADOPTING = {
    "bond": '[bonds.bond0]\nports = ["eth1", "eth0"]\nadopt = "eth0"\n',
    "bridge on a bond": '[bonds.bond0]\nports = ["eth1", "eth0"]\n[bridges.br0]\nports = ["bond0"]\nadopt = "eth0"\n',
    "bridge": '[bridges.br0]\nports = ["eth0"]\nadopt = "eth0"\n',
}


def test_a_bond_takes_over_the_way_out():
    """eth0 carries the host. It becomes a port of a bond, a bridge comes between, and all of it goes again."""
    with Uplinks() as uplinks, Node("host") as node:
        for name, last in (("eth0", 10), ("eth1", 11)):
            uplinks.switch.plug(node, name, f"02:00:00:00:00:{last}")
        node.sh(f"""
            echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra
            ip link set eth0 up; ip addr add 192.0.2.10/24 brd + dev eth0; ip -6 addr add 2001:db8::10/64 dev eth0 nodad
            ip route add default via {GATEWAY4}; ip -6 route add default via {GATEWAY6}
        """)
        paths = [(node, WORLD4), (node, WORLD6), (uplinks.router, "192.0.2.10"), (uplinks.router, "2001:db8::10")]
        assert eventually(lambda: reach(paths) == [], SLOW)
        before, vmnet = settled(node), Command(node)
        for what, link in (("bridge", "br0"), ("bridge on a bond", "br0"), ("bond", "bond0"), ("bridge on a bond", "br0")):
            node.config(ADOPTING[what])
            assert f"gateway {GATEWAY4} answers" in vmnet("up"), what
            assert reach(paths) == [], what
            assert "192.0.2.10/24" in node.run(f"ip addr show dev {link}").stdout
            assert attribute(node, link, "address") == "02:00:00:00:00:10", "the host keeps its MAC"
            assert vmnet("check") == "ok\n", what
        assert ports(node, "br0") == ["bond0"]
        node.sh("ip link set eth0 down")
        assert eventually(lambda: reach(paths) == [], SLOW), "eth1 does it, too"
        node.sh("ip link set eth0 up")
        vmnet("down")
        assert eventually(lambda: reach(paths) == [], SLOW)
        same(before, settled(node))
