"""Virtual networks: who reaches whom, and what comes up and goes with whom.

a, b (lab: 10.9.0.0/24, fd00:9::/64) -- lab --+
c (side: 10.8.0.0/24, fd00:8::/64) -- side ---+- host -- ext0 == world (203.0.113.2), which has routes to all of it
                                              +-------- in0 == desk, a machine on the segment that a shared network is on
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.capture import Capture
from lab.domains import Interface
from lab.guest import Nic, wired
from lab.hostnet import Product, refusal
from lab.nodes import Node, settled, wire
from lab.routed import call, eventually, ping, reach
from lab.single import same

WORLD4, WORLD6, OUT4, OUT6 = "203.0.113.2", "2001:db8:f::2", "203.0.113.1", "2001:db8:f::1"
LAB = """
[networks.lab]
mode = "virtual"
forward = "{forward}"
"""
FAMILIES = 'ipv4 = {{ subnet = "10.{net}.0.0/24" }}\nipv6 = {{ subnet = "fd00:{net}::/64"{nat} }}\n'
SIDE = '\n[networks.side]\nmode = "virtual"\nforward = "routed"\nout = "ext0"\n' + FAMILIES.format(net=8, nat="")


def lab_of(forward: str, more: str = "") -> str:
    """A network of that kind."""
    families = FAMILIES.format(net=9, nat=", nat = true" if forward == "nat" else "") if forward != "none" else ""
    out = 'out = "ext0"\n' if forward in ("nat", "routed") else ""
    return LAB.format(forward=forward) + families + out + more


class Lab:
    """The host before the product has done anything, and guests that come when they are asked for."""

    def __init__(self, config: str, bridged_packets: str = "1"):
        self.stack = ExitStack()
        try:
            self.host = host = self.stack.enter_context(Node("host"))
            self.world = world = self.stack.enter_context(Node("world"))
            self.desk = desk = self.stack.enter_context(Node("desk"))
            self.vmnet = Product(host)
            self.nics: dict[str, tuple[Node, Interface]] = {}
            host.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
            wire(host, "ext0", world, "eth0", "02:00:00:00:00:01", "02:00:00:00:00:02")
            wire(host, "in0", desk, "eth0", "02:00:00:00:01:01", "02:00:00:00:01:02")
            for node, name, last in ((host, "ext0", 1), (world, "eth0", 2)):
                node.sh(f"""
                    ip link set {name} up
                    ip addr add 203.0.113.{last}/24 dev {name}; ip -6 addr add 2001:db8:f::{last}/64 dev {name} nodad
                """)
            host.sh(f"ip link set in0 up; ip route add default via {WORLD4}; ip -6 route add default via {WORLD6}")
            for family in ("iptables", "ip6tables"):
                host.run(f"sysctl -qw net.bridge.bridge-nf-call-{family}={bridged_packets}")
            for net in (8, 9):
                world.sh(f"ip route add 10.{net}.0.0/16 via {OUT4}; ip -6 route add fd00:{net}::/64 via {OUT6}")
            desk.sh("ip link set eth0 up; ip addr add 10.9.0.77/24 dev eth0; ip -6 addr add fd00:9::77/64 dev eth0 nodad")
            for name in ("ext0", "in0"):
                shown = ["ip", "-6", "addr", "show", "dev", name, "-tentative"]
                assert eventually(lambda shown=shown: "fe80::" in host.run(shown).stdout), name
            host.config(config)
            self.before = settled(host)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def start(self, name: str, network: str, net: int, last: int, declared: bool = True) -> Node:
        """A guest on a network, with the addresses of that number."""
        own = (f"10.{net}.0.{last}", f"fd00:{net}::{last}")
        nic = Interface(f"52:54:00:00:{net:02}:{last:02}", f"tap-{name}", network, own if declared else ())
        node = self.stack.enter_context(wired(self.host, nic.tap, name, Nic(nic.mac, own[0], 24, f"10.{net}.0.1", own[1])))
        node.run(f"ip -6 route add default via fd00:{net}::1")
        call(self.host, name, "start", nic)
        call(self.host, name, "started", nic)
        self.nics[name] = node, nic
        return node

    def stop(self, name: str) -> None:
        node, nic = self.nics.pop(name)
        node.close()
        assert eventually(lambda: nic.tap not in self.host.run("ip link").stdout)
        call(self.host, name, "stopped", nic)
        call(self.host, name, "release", nic)

    def guests(self, declared: bool = True) -> tuple[Node, Node, Node]:
        """Two guests on the network, and one on the other."""
        a, b = self.start("a", "lab", 9, 5, declared), self.start("b", "lab", 9, 6, declared)
        return a, b, self.start("c", "side", 8, 5)


GATES, WORLDS, AS, BS, CS = (
    ("10.9.0.1", "fd00:9::1"),
    (WORLD4, WORLD6),
    ("10.9.0.5", "fd00:9::5"),
    ("10.9.0.6", "fd00:9::6"),
    (
        "10.8.0.5",
        "fd00:8::5",
    ),
)
REACHED = {
    "nat": "gateway out",
    "routed": "gateway out in",
    "open": "gateway out in",
    "isolated": "gateway",
    "none": "",
}
"""What is reached besides the guests of the network, by `forward`: from a guest the gateway and the world, from the world a
guest."""


@pytest.mark.parametrize("bridged_packets", ["0", "1"])
@pytest.mark.parametrize("forward", REACHED)
def test_who_reaches_whom(forward, bridged_packets):
    with Lab(lab_of(forward) + SIDE, bridged_packets) as lab:
        lab.vmnet("up")
        a, b, c = lab.guests(declared=forward != "none")
        pairs = {
            "neighbour": [(a, to) for to in BS] + [(b, to) for to in AS],
            "gateway": [(a, to) for to in GATES],
            "out": [(a, to) for to in WORLDS],
            "in": [(lab.world, to) for to in AS],
            "aside": [(a, to) for to in CS],
            "from aside": [(c, to) for to in AS],
        }
        wanted = {"neighbour", *REACHED[forward].split()}
        lost = set(reach([pair for what, them in pairs.items() if what in wanted for pair in them]))
        assert lost == set()
        closed = [pair for what, them in pairs.items() if what not in wanted for pair in them]
        assert len(reach(closed, 1)) == len(closed)
        assert reach([(c, to) for to in WORLDS]) == []
        assert lab.vmnet("check") == "ok\n"
        for name in ("c", "b", "a"):
            lab.stop(name)
        lab.vmnet("down")
        same(lab.before, settled(lab.host))


def test_nat_translates():
    with Lab(lab_of("nat") + SIDE) as lab:
        lab.vmnet("up")
        a, _, c = lab.guests()
        with Capture(lab.world, "eth0", "icmp or icmp6") as seen:
            assert reach([(node, to) for node in (a, c) for to in WORLDS]) == []
        assert seen.having(rf"{OUT4} > {WORLD4}: ICMP echo request") and seen.having(rf"{OUT6} > {WORLD6}: .*echo request")
        assert not seen.having(r"10\.9\.0\.5 >") and not seen.having(r"fd00:9::5 >"), str(seen)
        assert seen.having(rf"10\.8\.0\.5 > {WORLD4}: ICMP echo request"), str(seen)


def test_a_guests_low_port_is_not_the_hosts():
    """A server that trusts low ports would take the guest for the host."""
    with Lab(lab_of("nat")) as lab:
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        say = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', {})); s.sendto(b'x', ('{}', 9))"
        with Capture(lab.world, "eth0", "udp port 9") as seen:
            for port in (700, 7000):
                a.run(["/usr/bin/python3", "-IS", "-c", say.format(port, WORLD4)])
            assert eventually(lambda: lab.world.run("true").returncode == 0)
        sources = [int(line.split(f"{OUT4}.")[1].split(" ")[0]) for line in seen.lines if f"{OUT4}." in line]
        assert len(sources) == 2 and sources[0] >= 1024 and sources[1] == 7000, str(seen)


def test_reach_lets_in():
    """A network that reaches a translated one gets in, and answers get out."""
    with Lab(lab_of("nat") + SIDE + 'reach = ["lab"]\n') as lab:
        lab.vmnet("up")
        a, _, c = lab.guests()
        assert reach([(c, to) for to in AS] + [(a, to) for to in CS]) == [] and lab.vmnet("check") == "ok\n"


def test_a_network_that_reaches_one_that_is_up():
    """It is declared, and started, after the one that it names."""
    with Lab(lab_of("nat")) as lab:
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        lab.host.config(lab_of("nat") + SIDE + 'reach = ["lab"]\n')
        c = lab.start("c", "side", 8, 5)
        assert reach([(c, to) for to in AS] + [(a, to) for to in CS]) == []


@pytest.mark.parametrize("forward", ["nat", "isolated"])
def test_with_its_guests(forward):
    """A network that does not start with the host comes with its first guest, and goes with its last."""
    with Lab(lab_of(forward, "autostart = false\n")) as lab:
        lab.vmnet("up")
        same(lab.before, settled(lab.host))
        assert lab.vmnet("check") == "ok\n"
        a, b = lab.start("a", "lab", 9, 5), lab.start("b", "lab", 9, 6)
        assert reach([(a, BS[0]), (b, GATES[1])]) == [] and lab.vmnet("check") == "ok\n"
        lab.stop("a")
        assert reach([(b, GATES[0])]) == [] and len(reach([(lab.world, to) for to in BS], 1)) == 2
        lab.stop("b")
        same(lab.before, settled(lab.host))
        lab.vmnet("up", "lab")
        lab.start("a", "lab", 9, 5)
        lab.stop("a")
        assert "lab" in lab.host.run("ip -br link show type bridge").stdout
        lab.vmnet("down", "lab")
        same(lab.before, settled(lab.host))


def test_shared_with_an_interface():
    """Machines behind a port of the bridge are on the network, and reach what its guests do."""
    with Lab(lab_of("nat", 'ports = ["in0"]\n')) as lab:
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        lab.desk.sh("ip route add default via 10.9.0.1; ip -6 route add default via fd00:9::1")
        assert reach([(lab.desk, to) for to in (*AS, *GATES, *WORLDS)] + [(a, "10.9.0.77"), (a, "fd00:9::77")]) == []
        assert len(reach([(lab.world, to) for to in ("10.9.0.77", "fd00:9::77")], 1)) == 2
        assert lab.vmnet("check") == "ok\n"


def test_edits():
    """While guests run: `check` tells, the remedy does it."""
    with Lab(lab_of("nat") + SIDE) as lab:
        lab.vmnet("up")
        a, _, _ = lab.guests()
        for forward, out, into in (("isolated", 2, 2), ("routed", 0, 0), ("open", 0, 0), ("nat", 0, 2)):
            lab.host.config(lab_of(forward) + SIDE)
            lab.vmnet("check", status=1)
            lab.vmnet("up")
            lab.vmnet("repair")
            assert lab.vmnet("check") == "ok\n", forward
            assert (len(reach([(a, to) for to in WORLDS], 1)), len(reach([(lab.world, to) for to in AS], 1))) == (out, into), (
                forward
            )


def test_damage():
    with Lab(lab_of("nat")) as lab:
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        for damage in (
            "nft delete element inet vmnet-nat natted '{ lab }'",
            "nft flush ruleset",
            "ip addr flush dev lab",
            "sysctl -qw net.ipv4.conf.lab.forwarding=0",
        ):
            lab.host.sh(damage)
            lab.vmnet("check", status=1)
            lab.vmnet("repair")
            assert lab.vmnet("check") == "ok\n", damage
            assert reach([(a, to) for to in (*GATES, *WORLDS)]) == [] and ping(lab.world, AS[0], 1) is None, damage


COLLISIONS = {
    "ip addr add 10.9.0.200/24 dev in0": ["ipv4.subnet", "10.9.0.0/24 dev in0"],
    "ip addr add 10.9.0.200/8 dev in0": ["ipv4.subnet", "10.0.0.0/8 dev in0"],
    "ip route add 10.9.0.128/25 via 203.0.113.2": ["ipv4.subnet", "10.9.0.128/25 dev ext0"],
    "ip -6 addr add fd00:9::7/64 dev in0 nodad": ["ipv6.subnet", "fd00:9::/64 dev in0"],
    "ip link add lab type bridge": ["bridge", "lab exists already"],
}


@pytest.mark.parametrize("there", COLLISIONS)
def test_collisions_are_refused(there):
    with Lab(lab_of("nat")) as lab:
        lab.host.sh(there)
        before = settled(lab.host)
        said = refusal(lab.vmnet.tried("up", "lab"), "networks.lab", *COLLISIONS[there])
        assert said.returncode != 0
        same(before, settled(lab.host))
        nic = Interface("52:54:00:00:09:05", "tap-a", "lab", AS)
        with wired(lab.host, nic.tap, "a", Nic(nic.mac)):
            bare = settled(lab.host)
            with pytest.raises(Exception, match="lab"):
                call(lab.host, "a", "start", nic)
            call(lab.host, "a", "stopped", nic)
            same(bare, settled(lab.host))


def test_a_wider_route_is_no_collision():
    """That of a VPN to all private addresses: the network's own comes before it."""
    with Lab(lab_of("nat")) as lab:
        lab.host.sh(f"ip route add 10.0.0.0/8 via {WORLD4}")
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        assert reach([(a, GATES[0])]) == [] and lab.vmnet("check") == "ok\n"


# --- what must not get through ---------------------------------------------------------------------------------------

WIDE = """
[networks.wide]
mode = "routed"
role = "{role}"
uplink = "in0"
table = 222
ipv4 = {{ subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }}
"""
SAY = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('{}', 9))"


def say(node: Node, to: str) -> None:
    for _ in range(3):
        node.run(["/usr/bin/python3", "-IS", "-c", SAY.format(to)])


def test_an_isolated_network_beside_a_router():
    """Whose guests leave by whatever link the host has."""
    with Lab(lab_of("isolated") + WIDE.format(role="router+host")) as lab:
        lab.host.run("sysctl -qw net.ipv4.ip_forward=1")
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        nic = Interface("52:54:00:00:07:05", "tap-w", "wide", ["192.0.2.5"])
        w = lab.stack.enter_context(wired(lab.host, nic.tap, "w", Nic(nic.mac, "192.0.2.5", 24, "192.0.2.1")))
        call(lab.host, "w", "start", nic)
        call(lab.host, "w", "started", nic)
        with Capture(a, "eth0", "udp port 9") as inside:
            say(w, AS[0])
            say(lab.world, AS[0])
            assert reach([(w, "192.0.2.1")]) == []
        assert not inside.lines, str(inside)


@pytest.mark.parametrize("forward", ["isolated", "none"])
def test_machines_behind_a_port_of_an_isolated_network(forward):
    """On a host that forwards: they are on the network as its guests are."""
    with Lab(lab_of(forward, 'ports = ["in0"]\n') + SIDE) as lab:
        lab.host.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        lab.vmnet("up")
        lab.start("c", "side", 8, 5)
        inside = ["ip", "-br", "link", "show", "dev", "lab"]
        mac = lab.host.run(inside).stdout.split()[2]
        lab.desk.sh(f"""
            ip route add default via 10.9.0.1 onlink dev eth0; ip -6 route add default via fd00:9::1 onlink dev eth0
            ip neigh replace 10.9.0.1 lladdr {mac} dev eth0; ip -6 neigh replace fd00:9::1 lladdr {mac} dev eth0
        """)
        with Capture(lab.world, "eth0", "icmp or icmp6[0] == 128") as seen:
            assert len(reach([(lab.desk, to) for to in (*WORLDS, *CS)], 1)) == 4
        assert not seen.lines, str(seen)


def test_nothing_leaves_untranslated():
    """What has another source than the guests' subnet, and what leaves while the translation is not there."""
    with Lab(lab_of("nat")) as lab:
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5, declared=False)
        a.sh("ip addr add 198.51.100.9/32 dev eth0; ip -6 addr add 2001:db8:bad::9/128 dev eth0 nodad")
        with Capture(lab.world, "eth0", "icmp or icmp6[0] == 128") as seen:
            a.run(["ping", "-c2", "-W1", "-I", "198.51.100.9", WORLD4], check=False)
            a.run(["ping", "-c2", "-W1", "-I", "2001:db8:bad::9", WORLD6], check=False)
            assert reach([(a, WORLD4)]) == []
            a.run(["ping", "-c1", "-W2", "-I", AS[1], WORLD6])
        assert not seen.having(r"198\.51\.100\.9 >") and not seen.having("2001:db8:bad::9 >"), str(seen)
        assert lab.vmnet("check") == "ok\n"


def test_nothing_leaves_before_its_nat():
    """The way out came after the guest: until NAT is up, `check` tells what lacks."""
    with Lab(lab_of("nat", "autostart = false\n")) as lab:
        lab.host.sh("ip link set ext0 down; ip link set ext0 name later0")
        a = lab.start("a", "lab", 9, 5)
        lab.host.sh(f"""
            ip link set later0 name ext0; ip link set ext0 up; ip -6 addr add {OUT6}/64 dev ext0 nodad
            ip route replace default via {WORLD4}; ip -6 route replace default via {WORLD6}
        """)
        lab.vmnet("repair", status=1)
        with Capture(lab.world, "eth0", "icmp or icmp6[0] == 128") as seen:
            assert len(reach([(a, to) for to in WORLDS], 1)) == 2
        assert not seen.lines, str(seen)
        assert "needs nat lab, which is not up" in lab.vmnet("check", status=1)
        lab.vmnet("up", "lab")
        assert reach([(a, to) for to in WORLDS]) == [] and lab.vmnet("check") == "ok\n"


def test_the_gate_of_ipv6_knows_no_way_of_ipv4():
    """A host that did not forward IPv6 forwards it between no links that only have ways of IPv4."""
    side = SIDE.replace('ipv4 = { subnet = "10.8.0.0/24" }\n', "")
    with Lab(WIDE.format(role="router").replace("table = 222", 'external = "ext0"\ntable = 222') + side) as lab:
        lab.vmnet("up")
        local = next(word for word in lab.host.run("ip -6 -br addr show dev in0").stdout.split() if word.startswith("fe80"))
        lab.desk.run(f"ip -6 route add default via {local.partition('/')[0]} dev eth0")
        with Capture(lab.world, "eth0", "icmp6[0] == 128") as seen:
            assert len(reach([(lab.desk, WORLD6)], 1)) == 1
        assert not seen.lines, str(seen)


def test_open_alone():
    """Nothing else switches on forwarding."""
    with Lab(lab_of("open", 'out = "ext0"\n')) as lab:
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        assert reach([(a, to) for to in WORLDS] + [(lab.world, to) for to in AS]) == [] and lab.vmnet("check") == "ok\n"


def test_out_by_another_network():
    """One network's way out is another's bridge: its guests, and further."""
    with Lab(
        lab_of("nat")
        + SIDE.replace('"routed"', '"nat"').replace('"ext0"', '"lab"').replace('fd00:8::/64" }', 'fd00:8::/64", nat = true }')
    ) as lab:
        lab.vmnet("up")
        _, _, c = lab.guests()
        assert eventually(lambda: reach([(c, to) for to in AS], 1) == [])


# --- what is in the way of some of it --------------------------------------------------------------------------------


def test_one_collision_keeps_no_other_down():
    with Lab(lab_of("nat") + SIDE) as lab:
        lab.host.run("ip addr add 10.9.0.200/24 dev in0")
        done = lab.vmnet.tried("up")
        assert done.returncode != 0 and "ipv4.subnet: 10.9.0.0/24 is the host's way to 10.9.0.0/24 dev in0" in done.output
        c = lab.start("c", "side", 8, 5)
        assert reach([(c, WORLD4)]) == []
        lab.host.run("ip addr del 10.9.0.200/24 dev in0")
        lab.vmnet("up")
        assert lab.vmnet("check") == "ok\n"


def test_another_bridge():
    """Without guests, an edit of the bridge's name is done by `up`; with some it is refused, and the remedy helps."""
    with Lab(lab_of("nat")) as lab:
        lab.vmnet("up")
        lab.host.config(lab_of("nat", 'bridge = "virbr7"\n'))
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        assert reach([(a, WORLD4)]) == [] and lab.vmnet("check") == "ok\n"
        lab.host.config(lab_of("nat"))
        refusal(
            lab.vmnet.tried("up", "lab"),
            "networks.lab.ipv4.subnet",
            "stop the guests on virbr7 and run vmnet-hook down bridge:virbr7",
        )
        lab.stop("a")
        lab.vmnet("down", "bridge:virbr7")
        lab.vmnet("up")
        a = lab.start("a", "lab", 9, 5)
        assert reach([(a, WORLD4)]) == [] and lab.vmnet("check") == "ok\n"
