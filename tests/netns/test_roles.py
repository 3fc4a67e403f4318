"""Nodes without a physical router: one of ours holds the gateway address, and translates guests' addresses on the way
out.

    guest h1 -- host (role host) -- up0 --+
                                          |== segment == up0 -- gate (role router or router+host) -- ext0 -- world
    guest g1 -- gate (router+host only)                                                            203.0.113.2
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.capture import Capture
from lab.domains import domain_xml
from lab.guest import Nic, wired
from lab.nodes import Node, Switch, settled, wire
from lab.routed import GATEWAY4, GATEWAY6, PUBLIC, call, ping, ran, reach
from lab.single import Single, routed, same

OUT4, OUT6 = "203.0.113.2", "2001:db8:f::2"


def of_role(role: str) -> str:
    return PUBLIC + f'role = "{role}"\n'


class Roles:
    """`gate` and `host` before the product has done anything. The host has no address at all, not even elsewhere."""

    def __init__(self, stack: ExitStack, config: str):
        self.segment = stack.enter_context(Switch("segment"))
        self.gate = stack.enter_context(Node("gate"))
        self.host = stack.enter_context(Node("host"))
        self.world = stack.enter_context(Node("world"))
        self.segment.plug(self.gate, "up0", "02:00:00:00:00:01")
        self.segment.plug(self.host, "up0", "02:00:00:00:00:aa")
        wire(self.gate, "ext0", self.world, "eth0", "02:00:00:00:01:01", "02:00:00:00:01:02")
        self.gate.sh(
            "echo 0 > /proc/sys/net/ipv6/conf/ext0/accept_dad; ip link set ext0 up\n"
            "ip addr add 203.0.113.1/24 dev ext0; ip -6 addr add 2001:db8:f::1/64 dev ext0 nodad\n"
            f"ip route add default via {OUT4}; ip -6 route add default via {OUT6}"
        )
        self.world.sh(
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up\n"
            f"ip addr add {OUT4}/24 dev eth0; ip -6 addr add {OUT6}/64 dev eth0 nodad"
        )
        self.gate.config(config)
        self.host.config(PUBLIC)
        self.guests = []
        for node, last, name in ((self.host, 10, "h1"), (self.gate, 20, "g1")):
            nic = routed(last, f"tap-{name}")
            guest = stack.enter_context(
                wired(node, nic.tap, f"guest-{name}", Nic(nic.mac, nic.ips[0], 24, GATEWAY4, nic.ips[1], GATEWAY6))
            )
            self.guests.append((nic, guest))

    def up(self) -> None:
        done = self.gate.cli("up", "public")
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        done = self.gate.cli("down", "public")
        assert done.returncode == 0, done.stderr

    def start(self, which: int) -> Node:
        nic, guest = self.guests[which]
        for op in ("start", "started"):
            call((self.host, self.gate)[which], f"dom{which}", op, nic)
        return guest

    def stop(self, which: int) -> None:
        for op in ("stopped", "release"):
            call((self.host, self.gate)[which], f"dom{which}", op, self.guests[which][0])


def tracked(node: Node) -> int:
    """How many connections a node's kernel tracks."""
    return int(node.sh("cat /proc/sys/net/netfilter/nf_conntrack_count 2>/dev/null || echo 0"))


@pytest.fixture
def roles():
    with ExitStack() as stack:
        yield lambda config: Roles(stack, config)


@pytest.mark.parametrize("role", ["router", "router+host"])
def test_masquerade(roles, role):
    """Guests of a host node reach the world through the router, under the router's address; `down` restores
    everything."""
    lab = roles(of_role(role) + 'masquerade = "ext0"\n')
    before = settled(lab.gate)
    lab.up()
    up = settled(lab.gate)
    guest = lab.start(0)
    assert reach([(guest, GATEWAY4), (guest, GATEWAY6)]) == []
    with Capture(lab.world, "eth0", "icmp or icmp6") as seen:
        assert reach([(guest, OUT4), (guest, OUT6)]) == [], lab.gate.run("nft list ruleset").stdout
    assert seen.having(rf"203\.0\.113\.1 > {OUT4}: ICMP echo request"), str(seen)
    assert seen.having(rf"2001:db8:f::1 > {OUT6}: .*echo request"), str(seen)
    assert not seen.having(r"192\.0\.2\.10 >") and not seen.having(r"2001:db8::10 >"), str(seen)
    assert ping(lab.gate, "192.0.2.10") and ping(lab.gate, "2001:db8::10")
    assert tracked(lab.gate) > 0 and tracked(lab.host) == 0
    lab.stop(0)
    lab.up()
    same(up, settled(lab.gate))
    done = lab.gate.cli("check")
    assert done.returncode == 0, done.stdout + done.stderr
    lab.down()
    same(before, settled(lab.gate))


FILL = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, 501):
    sock.sendto(b"x", (sys.argv[1], port))
"""


def test_connections_of_one_guest_are_limited(roles):
    """Of one of another node, and of one of the router's own; what they have goes on, and each has a limit of its own."""
    lab = roles(of_role("router+host") + 'masquerade = "ext0"\nconnections = 50\n')
    lab.world.sh("nft add table inet f; nft add chain inet f i '{ type filter hook prerouting priority -300; }'")
    lab.world.run("nft add rule inet f i udp dport 1-1000 drop")
    before = settled(lab.gate)
    lab.up()
    guests = [lab.start(0), lab.start(1)]
    assert reach([(guest, out) for guest in guests for out in (OUT4, OUT6)]) == []
    for count, (guest, out) in enumerate([(guest, out) for out in (OUT4, OUT6) for guest in guests], 1):
        was = tracked(lab.gate)
        guest.run(["/usr/bin/python3", "-IS", "-c", FILL, out])
        assert 40 <= tracked(lab.gate) - was <= 60, (count, was, tracked(lab.gate))
        assert ping(guest, out, 1) is None
    assert lab.gate.cli("check").returncode == 0
    lab.stop(1)
    lab.stop(0)
    lab.down()
    same(before, settled(lab.gate))


@pytest.mark.parametrize("role", ["router", "router+host"])
def test_without_masquerade(roles, role):
    """The world routes to the guests itself: it sees their own addresses. `external` forwards without translating."""
    lab = roles(of_role(role) + 'external = "ext0"\n')
    lab.world.sh("ip route add 192.0.2.0/24 via 203.0.113.1; ip -6 route add 2001:db8::/64 via 2001:db8:f::1")
    before = settled(lab.gate)
    lab.up()
    guest = lab.start(0)
    with Capture(lab.world, "eth0", "icmp or icmp6") as seen:
        assert reach([(guest, OUT4), (guest, OUT6), (lab.world, "192.0.2.10"), (lab.world, "2001:db8::10")]) == []
    assert seen.having(rf"192\.0\.2\.10 > {OUT4}: ICMP echo request"), str(seen)
    assert seen.having(rf"2001:db8::10 > {OUT6}: .*echo request"), str(seen)
    # Nobody translates.
    assert "vmnet-nat" not in lab.gate.run("nft list tables").stdout
    assert tracked(lab.gate) == tracked(lab.host) == 0
    lab.stop(0)
    lab.down()
    same(before, settled(lab.gate))


@pytest.mark.parametrize("strict", [0, 1, 2])
def test_router_and_host(roles, strict):
    """A node that is both: its own guest reaches the gateway (its own host), guests elsewhere, and the world."""
    lab = roles(of_role("router+host") + 'masquerade = "ext0"\n')
    for node in (lab.gate, lab.host):
        node.sysctl("ipv4/conf/all/rp_filter", strict)
    before = settled(lab.gate)
    lab.up()
    up = settled(lab.gate)
    elsewhere, own = lab.start(0), lab.start(1)
    assert (
        reach(
            [(own, target) for target in (GATEWAY4, GATEWAY6, OUT4, OUT6, "192.0.2.10", "2001:db8::10")]
            + [(elsewhere, target) for target in (GATEWAY4, GATEWAY6, OUT4, OUT6, "192.0.2.20", "2001:db8::20")]
            + [(lab.gate, target) for target in ("192.0.2.10", "2001:db8::10", "192.0.2.20", "2001:db8::20")]
        )
        == []
    )
    lab.stop(1)
    same(up, settled(lab.gate))
    lab.stop(0)
    lab.down()
    same(before, settled(lab.gate))


def test_network_is_up_for_its_guest_alone(roles):
    """router+host without `up`: the guest brings the network, and takes it away again. `up` in between keeps it."""
    lab = roles(of_role("router+host"))
    before = settled(lab.gate)
    guest = lab.start(1)
    assert reach([(guest, GATEWAY4), (guest, GATEWAY6)]) == []
    lab.up()
    lab.stop(1)
    assert GATEWAY4 in lab.gate.run("ip addr show dev up0").stdout
    lab.down()
    same(before, settled(lab.gate))


def test_down_keeps_what_a_running_guest_needs(roles):
    lab = roles(of_role("router+host"))
    before = settled(lab.gate)
    lab.up()
    guest = lab.start(1)
    lab.gate.cli("down", "public")  # it may refuse, or wait for the guest; it may not cut the guest off
    assert reach([(guest, GATEWAY4), (guest, GATEWAY6)]) == []
    lab.stop(1)
    lab.gate.cli("down", "public")
    same(before, settled(lab.gate))


def test_a_router_runs_no_guests(roles):
    lab = roles(of_role("router"))
    before = settled(lab.gate)
    nic = lab.guests[1][0]
    done = lab.gate.hook("dom1", "start", "begin", domain_xml("dom1", nic, stage="start"))
    assert done.returncode in (1, 2) and "router" in done.stderr, (done.returncode, done.stderr)
    same(before, settled(lab.gate))


def test_a_host_has_the_address_already(roles):
    """The gateway address was configured by the admin: `up` takes it as it is, `down` leaves it."""
    lab = roles(of_role("router"))
    lab.gate.sh(f"ip addr add {GATEWAY4}/24 dev up0; ip -6 addr add {GATEWAY6}/64 dev up0 nodad")
    before = settled(lab.gate)
    lab.up()
    lab.down()
    same(before, settled(lab.gate))
    ran(["addr"], lab.gate.run(f"ip addr show to {GATEWAY4} dev up0"))


@pytest.mark.parametrize("network, why", [("nosuch", "nosuch"), ("lan", "lan")])
def test_up_says_what_is_wrong(roles, network, why):
    lab = roles(of_role("router") + '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n')
    before = settled(lab.gate)
    done = lab.gate.cli("up", network)
    assert done.returncode in (1, 2) and why in done.stderr, (done.returncode, done.stdout, done.stderr)
    same(before, settled(lab.gate))


def test_the_gateway_moves_away_while_guests_run():
    """The role is edited, and edited back: the gateway's address goes from the host and from every tap at once."""
    nics = [routed(last) for last in (11, 12)]
    with Single(of_role("router+host"), foreign=False) as one, ExitStack() as stack:
        ran(["up"], one.host.cli("up", "public"))
        nodes = [
            stack.enter_context(
                wired(one.host, nic.tap, f"g{number}", Nic(nic.mac, nic.ips[0], 24, GATEWAY4, nic.ips[1], GATEWAY6))
            )
            for number, nic in enumerate(nics)
        ]
        for number, nic in enumerate(nics):
            one.start(f"web{number}", nic)
        pairs = [(node, address) for node, nic in zip(nodes, reversed(nics), strict=True) for address in nic.ips]
        for role in ("host", "router+host"):
            assert reach(pairs) == []
            one.host.config(of_role(role))
            assert one.host.cli("check").returncode == 1
            ran(["repair"], one.host.cli("repair"))
            assert one.host.cli("check").stdout == "ok\n"
            assert (GATEWAY4 in one.host.run("ip addr").stdout) == (role != "host")
        assert reach(pairs) == []
