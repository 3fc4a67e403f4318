"""The same gateway on every node: a guest's own node answers, alone, and nothing about it is said on the wires between.

ring                                          line
guest1 - node1 eth1 == eth2 node2 - guest2    guest1 - node1 eth1 == eth1 node2 - guest2
           eth2 == eth1 node3 eth2 == eth1                                eth2 == eth0 rogue
                         |
                       guest3                 and every node has eth0 in a management network, 10.0.1.N
"""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from lab import frames
from lab.capture import Capture
from lab.domains import Interface, domain_xml
from lab.guest import Nic, wired
from lab.hostnet import Pinging, Product, attribute, commands, exists
from lab.nodes import Node, Switch, settled, wire
from lab.routed import SUBOPERATION, eventually, ping, reach, send
from lab.single import same

GATEWAY4, GATEWAY6 = "10.5.5.254", "fd05::fe"
GUESTS = '\n[networks.guests]\nmode = "bridged"\nbridge = "guestbr0"\n'


def bridge(ports: list[str], more: str = "") -> str:
    names = ", ".join(f'"{port}"' for port in ports)
    return (
        f'[bridges.guestbr0]\nports = [{names}]\naddresses = ["{GATEWAY4}/24", "{GATEWAY6}/64"]\nanycast_gateway = true\n'
        f"{more}{GUESTS}"
    )


class Cluster:
    """Nodes that are wired to each other, each with one guest. Use as a context manager."""

    def __init__(self, names: list[str], cables: list[tuple[int, str, int, str]], more: str = ""):
        self.stack = ExitStack()
        self.cables = cables
        try:
            self.build(len(names), cables, more)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def build(self, count: int, cables: list[tuple[int, str, int, str]], more: str) -> None:
        management = self.stack.enter_context(Switch("management"))
        self.nodes = [self.stack.enter_context(Node(f"node{number}")) for number in range(1, count + 1)]
        self.vmnet = [Product(node) for node in self.nodes]
        used: list[list[str]] = [[] for _ in self.nodes]
        for one, ifone, other, ifother in cables:
            mac = f"02:00:00:0{one}:0{other}"
            wire(self.nodes[one], ifone, self.nodes[other], ifother, f"{mac}:01", f"{mac}:02")
            used[one].append(ifone)
            used[other].append(ifother)
        for number, node in enumerate(self.nodes, 1):
            management.plug(node, "eth0", f"02:00:00:00:00:0{number}")
            node.sh(
                f"ip addr add 10.0.1.{number}/24 dev eth0; ip -6 addr add fd00:1::{number}/64 dev eth0 nodad\n"
                # Having been up once is something that the kernel does not forget.
                + "".join(f"ip link set {port} up; " for port in used[number - 1])
                # It says no word of its own on the wires; the guests and the product are what is heard there.
                + "".join(f"echo 1 > /proc/sys/net/ipv6/conf/{port}/disable_ipv6; " for port in used[number - 1])
            )
            node.config(bridge(used[number - 1], more))
        for node, ports in zip(self.nodes, used, strict=True):
            # The kernel notices carriers late (linkwatch).
            assert eventually(lambda node=node, ports=ports: {attribute(node, port, "operstate") for port in ports} == {"up"})
        self.before = [settled(node) for node in self.nodes]
        self.guests: list[Node] = []
        self.nics: list[Interface] = []

    def up(self) -> None:
        for vmnet in self.vmnet:
            vmnet("up")
        for number, node in enumerate(self.nodes, 1):
            self.nics.append(Interface(f"52:54:00:05:05:0{number}", f"tap{number}", "guests"))
            nic = Nic(self.nics[-1].mac, f"10.5.5.{number}", 24, GATEWAY4, f"fd05::{number}")
            self.guests.append(self.stack.enter_context(wired(node, f"tap{number}", f"guest{number}", nic)))
            self.guests[-1].run(f"ip -6 route add default via {GATEWAY6}")
            self.hooks(number, "start", "started")
        self.mac = attribute(self.nodes[0], "guestbr0-gw", "address")
        pairs = [(guest, f"10.5.5.{number}") for guest in self.guests for number in range(1, len(self.guests) + 1)]
        assert eventually(lambda: reach(pairs, 1) == [], 30), reach(pairs, 1)

    def hooks(self, number: int, *operations: str, node: int = 0, nic: Interface | None = None) -> None:
        """Call the libvirt hook for guest `number`, on its own node or on another."""
        nic = nic or self.nics[number - 1]
        for operation in operations:
            xml = domain_xml(f"dom{number}", nic, stage=operation)
            result = self.vmnet[(node or number) - 1].server.hook(f"dom{number}", operation, SUBOPERATION[operation], xml)
            assert result.returncode == 0, result

    def wires(self) -> Wires:
        return Wires(self)

    def forget(self) -> None:
        """Drop what every stack has learnt, so that the next packet needs ARP and ND again."""
        for node in (*self.nodes, *self.guests):
            node.run("ip neigh flush all", check=False)


class Wires:
    """Everything but IPv4 that crosses the cables between the nodes while the block runs, and what names the gateway's MAC.
    Nothing of it may be about the gateway."""

    def __init__(self, cluster: Cluster):
        self.mac = getattr(cluster, "mac", "")
        self.captures = [
            Capture(cluster.nodes[one], port, "arp or ip6 or stp" + (f" or ether host {self.mac}" if self.mac else ""))
            for one, port, *_ in cluster.cables
        ]
        self.stack = ExitStack()

    def __enter__(self) -> Wires:
        for capture in self.captures:
            self.stack.enter_context(capture)
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        self.stack.close()
        if kind is None:
            assert not self.about_the_gateway(), "\n".join(self.about_the_gateway())

    @property
    def lines(self) -> list[str]:
        return [line for capture in self.captures for line in capture.lines]

    def about_the_gateway(self) -> list[str]:
        words = [GATEWAY4, rf"{GATEWAY6}\b", "ff00:fe"]
        if self.mac:
            first, *rest = (int(octet, 16) for octet in self.mac.split(":"))
            octets = bytes([first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]]).hex()
            link_local = ":".join(f"{int(octets[at : at + 4], 16):x}" for at in range(0, 16, 4))
            words += [self.mac, rf"fe80::{link_local}\b", rf"ff{self.mac[9:11]}:{int(self.mac[12:].replace(':', ''), 16):x}\b"]
        return [line for line in self.lines if re.search("|".join(words), line)]

    def having(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.search(pattern, line)]


@pytest.fixture(scope="module")
def ring():
    cables = [(0, "eth1", 1, "eth2"), (1, "eth1", 2, "eth2"), (2, "eth1", 0, "eth2")]
    with Cluster(["node1", "node2", "node3"], cables, "stp = true\nforward_delay = 2\nhello_time = 1\n") as running:
        with running.wires():  # also while it comes up
            running.up()
        yield running


@pytest.fixture(scope="module")
def line():
    with Cluster(["node1", "node2"], [(0, "eth1", 1, "eth1")], 'arp_source = "10.5.5.250"\n') as running:
        rogue = running.rogue = running.stack.enter_context(Node("rogue"))
        wire(running.nodes[1], "eth2", rogue, "eth0", "02:00:00:00:99:01", "02:00:00:00:99:02")
        running.nodes[1].config(bridge(["eth1", "eth2"], 'arp_source = "10.5.5.250"\n'))
        rogue.sh(
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up\n"
            "ip addr add 10.5.5.66/24 dev eth0; ip -6 addr add fd05::66/64 dev eth0 nodad"
        )
        running.up()
        yield running


def answers(guest: Node, *options: str) -> list[str]:
    """The MACs that answer three ARP requests for the gateway."""
    text = guest.run(["arping", "-b", "-c", "3", "-w", "4", *options, "-I", "eth0", GATEWAY4], check=False).stdout
    return re.findall(r"reply from \S+ \[([0-9A-F:]+)\]", text)


def neighbour(guest: Node, target: str) -> str:
    found = re.search(r"lladdr (\S+)", guest.run(["ip", "neigh", "show", target]).stdout)
    return found[1] if found else ""


# --- the ring ---------------------------------------------------------------------------------------------------------


def test_each_guest_is_answered_once_and_the_same(ring):
    ring.forget()
    with ring.wires():
        for guest in ring.guests:
            assert answers(guest) == [ring.mac.upper()] * 3, guest
            assert ping(guest, GATEWAY4) is not None and ping(guest, GATEWAY6) is not None, guest
            assert neighbour(guest, GATEWAY4) == neighbour(guest, GATEWAY6) == ring.mac, guest
    for node in ring.nodes:
        assert attribute(node, "guestbr0-gw", "address") == ring.mac
        assert attribute(node, "guestbr0", "address") != ring.mac, "STP tells bridges apart by their MACs"


def test_exactly_one_port_blocks(ring):
    def blocking() -> int:
        return sum(attribute(node, port, "brport/state") == "4" for node in ring.nodes for port in ("eth1", "eth2"))

    assert eventually(lambda: blocking() == 1, 15), blocking()


def test_nobody_else_answers(ring):
    """A node that has lost its gateway leaves its guests without: the others do not help, and so do not interfere."""
    node, guest = ring.nodes[0], ring.guests[0]
    with ring.wires():
        node.run("ip link set guestbr0-gw down")
        ring.forget()
        assert answers(guest) == []
        assert ping(guest, GATEWAY6, 1) is None and ping(guest, "10.5.5.2") is not None
        assert "guestbr0-gw" in ring.vmnet[0]("check", status=1)
        ring.vmnet[0]("repair")
        assert answers(guest) == [ring.mac.upper()] * 3
        assert eventually(lambda: ping(guest, GATEWAY6, 1) is not None)
    assert ring.vmnet[0]("check") == "ok\n"


def test_guests_reach_each_other(ring):
    ring.forget()
    with ring.wires():
        pairs = [(guest, target) for guest in ring.guests for n in (1, 2, 3) for target in (f"10.5.5.{n}", f"fd05::{n}")]
        assert reach(pairs) == []


def test_nodes_reach_guests_everywhere(ring):
    """A node has no address of its own in the guests' subnet: it asks with a sender that nobody takes for an address."""
    ring.forget()
    with ring.wires() as seen:
        pairs = [(guest, f"10.0.1.{n}") for guest in ring.guests for n in (1, 2, 3)]
        pairs += [(guest, f"fd00:1::{n}") for guest in ring.guests for n in (1, 2, 3)]
        assert reach(pairs) == []
        ring.forget()
        for node in (1, 2, 3):
            for guest in (1, 2, 3):
                for source, target in ((f"10.0.1.{node}", f"10.5.5.{guest}"), (f"fd00:1::{node}", f"fd05::{guest}")):
                    ring.nodes[node - 1].run(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", "-I", source, target])
    asked = seen.having(r"who-has 10\.5\.5\.\d .*tell 0\.0\.0\.0")
    assert asked, "no node asked for a remote guest"


def test_a_guest_cannot_speak_for_the_gateway_elsewhere(ring):
    """Its claims do not leave its node; nor does anything with the gateway's MAC."""
    guest, mac = ring.guests[0], ring.nics[0].mac
    link_local = re.search(r"inet6 (fe80::\S+)/", guest.run("ip -6 addr show dev eth0").stdout)[1]
    ring.forget()
    for other in ring.guests[1:]:
        assert ping(other, GATEWAY4) is not None and ping(other, GATEWAY6) is not None
    with ring.wires():
        send(
            guest,
            "eth0",
            frames.arp(1, mac, GATEWAY4, GATEWAY4),
            frames.arp(2, mac, GATEWAY4, GATEWAY4),
            frames.arp(1, mac, GATEWAY4, "10.5.5.2"),
            frames.arp(2, mac, GATEWAY4, "10.5.5.2", dst=ring.nics[1].mac, target_mac=ring.nics[1].mac),
            frames.advertisement(mac, link_local, GATEWAY6),
            frames.solicitation(mac, "::", GATEWAY6, lladdr=False),
            frames.advertisement(ring.mac, link_local, "fd05::1"),
            frames.udp4(ring.nics[1].mac, ring.mac, "10.5.5.1", "10.5.5.2", 9),
        )
        Capture.pause(0.3)
    for other in ring.guests[1:]:
        assert neighbour(other, GATEWAY4) == neighbour(other, GATEWAY6) == ring.mac
        assert ping(other, GATEWAY4) is not None and ping(other, GATEWAY6) is not None


def test_up_again_and_repair_are_silent(ring):
    """And not a packet to the gateway is lost. Also while a change of the topology lasts, when the kernel itself lets a bridge
    with STP forget sooner (ageing_time is twice the forward delay then)."""
    with ring.wires(), Pinging(ring.guests[0], GATEWAY4) as pings, Pinging(ring.guests[0], GATEWAY6) as pings6:
        for vmnet in ring.vmnet:
            assert commands(vmnet("plan", "up")) == []
            assert vmnet("up") == "up: nothing to do\n"
            vmnet("repair")
            assert vmnet("check") == "ok\n"
    assert pings.lost == pings6.lost == 0


def test_filter_removed_by_somebody_else(ring):
    """The filter of the ports is what keeps the nodes apart: `check` names it, `repair` brings it back."""
    node = ring.nodes[1]
    tables = re.findall(r"table netdev \S+", node.run("nft list tables").stdout)
    assert tables, node.run("nft list ruleset").stdout
    for table in tables:
        node.run(f"nft delete {table}")
    with pytest.raises(AssertionError, match=re.escape(GATEWAY4)), ring.wires():
        answers(ring.guests[1])
    assert "netdev" in ring.vmnet[1]("check", status=1)
    ring.vmnet[1]("repair")
    assert ring.vmnet[1]("check") == "ok\n"
    with ring.wires():
        assert answers(ring.guests[1]) == [ring.mac.upper()] * 3


def test_down_and_up_of_a_node(ring):
    """It leaves without a word, with nothing left, and comes back without one."""
    ring.hooks(3, "stopped", "release")
    tap = re.compile(r".*\btap3\b.*\n?")
    with ring.wires():
        ring.vmnet[2]("down")
        ring.nodes[2].run("ip link set tap3 down")
        same(ring.before[2].rstrip("\n"), without_tap(settled(ring.nodes[2]), ring.before[2], tap))
        ring.vmnet[2]("up")
        ring.nodes[2].run("ip link set tap3 up")
        ring.hooks(3, "start", "started")
        pairs = [(ring.guests[2], target) for target in (GATEWAY4, GATEWAY6, "10.5.5.1", "fd05::2")]
        assert eventually(lambda: reach(pairs, 1) == [], 20)


def without_tap(state: str, before: str, tap: re.Pattern[str]) -> str:
    """A dump without the lines about a tap that was not there before, and its sysctls."""
    known = set(before.splitlines())
    return "\n".join(line for line in state.splitlines() if line in known or not tap.search(line + "\n"))


def test_a_cable_is_cut(ring):
    """Where one port blocks, the other is cut off: the first takes over within twice the forward delay."""
    ends = [(node, port) for node in ring.nodes for port in ("eth1", "eth2")]
    assert eventually(lambda: any(attribute(node, port, "brport/state") == "4" for node, port in ends), 15)
    node, blocked = next((node, port) for node, port in ends if attribute(node, port, "brport/state") == "4")
    other = "eth2" if blocked == "eth1" else "eth1"
    pairs = [(guest, f"10.5.5.{n}") for guest in ring.guests for n in (1, 2, 3)]
    with ring.wires():
        node.run(f"ip link set {other} down")
        try:
            assert eventually(lambda: reach(pairs, 1) == [], 20), reach(pairs, 1)
            for guest in ring.guests:
                assert ping(guest, GATEWAY4) is not None
        finally:
            node.run(f"ip link set {other} up")


# --- the line ---------------------------------------------------------------------------------------------------------


def test_nobody_on_the_wire_is_answered(line):
    """Nor can anybody there reach the gateway, or make a guest believe that he is it."""
    rogue, mac = line.rogue, "02:00:00:00:99:02"
    guest = line.guests[1]
    assert eventually(lambda: ping(rogue, "10.5.5.2", 1) is not None and ping(rogue, "fd05::2", 1) is not None)
    assert answers(rogue) == []
    assert ping(rogue, GATEWAY6, 1) is None
    assert rogue.run(["arping", "-D", "-c", "2", "-w", "3", "-I", "eth0", GATEWAY4], check=False).returncode == 0
    # Knowing the MAC does not help.
    rogue.sh(f"ip neigh replace {GATEWAY4} lladdr {line.mac} dev eth0 nud permanent")
    try:
        assert ping(rogue, GATEWAY4, 1) is None
    finally:
        rogue.run(f"ip neigh del {GATEWAY4} dev eth0")
    assert ping(guest, GATEWAY4) is not None and ping(guest, GATEWAY6) is not None
    link_local = re.search(r"inet6 (fe80::\S+)/", rogue.run("ip -6 addr show dev eth0").stdout)[1]
    with Capture(guest, "eth0", "arp or icmp6") as seen:
        send(
            rogue,
            "eth0",
            frames.arp(2, mac, GATEWAY4, GATEWAY4),
            frames.arp(1, mac, GATEWAY4, "10.5.5.2"),
            frames.advertisement(mac, link_local, GATEWAY6),
            frames.solicitation(mac, "::", GATEWAY6, lladdr=False),
        )
        Capture.pause(0.3)
    assert not seen.having("99:02"), str(seen)
    assert neighbour(guest, GATEWAY4) == neighbour(guest, GATEWAY6) == line.mac
    # A machine with the gateway's MAC does not draw the traffic of guests to itself.
    send(rogue, "eth0", frames.arp(1, line.mac, "10.5.5.99", "10.5.5.2"))
    assert ping(guest, GATEWAY4) is not None


def test_a_guest_cannot_take_the_gateways_address(line):
    """Its own node defends it, by ARP and by ND."""
    guest = line.guests[0]
    assert guest.run(["arping", "-D", "-c", "2", "-w", "3", "-I", "eth0", GATEWAY4], check=False).returncode == 1
    with Capture(guest, "eth0", "icmp6") as seen:
        send(guest, "eth0", frames.solicitation(line.nics[0].mac, "::", GATEWAY6, lladdr=False))
        Capture.pause(0.3)
    assert seen.having("advertisement", re.escape(GATEWAY6)), str(seen)


def test_arp_source(line):
    line.forget()
    with line.wires() as seen:
        line.nodes[0].run(["ping", "-n", "-c", "1", "-W", "3", "-I", "10.0.1.1", "10.5.5.2"])
    assert seen.having(r"who-has 10\.5\.5\.2 .*tell 10\.5\.5\.250"), "\n".join(seen.lines)


def test_migration(line):
    """The guest keeps its cable, as a virtual NIC does: its carrier stays, and so does what it knows of its gateway."""
    number, mac = 7, "52:54:00:05:05:07"
    cable = line.stack.enter_context(Switch("cable"))
    guest = line.stack.enter_context(Node("guest7"))
    cable.plug(guest, "eth0", mac)
    guest.sh(
        "ip addr add 10.5.5.7/24 dev eth0; ip -6 addr add fd05::7/64 dev eth0 nodad\n"
        f"ip route add default via {GATEWAY4}; ip -6 route add default via {GATEWAY6}"
    )
    nics = []
    for node in line.nodes:
        nics.append(Interface(mac, "tap7", "guests"))
        wire(node, "tap7", cable, f"to-{node.name}", f"fe{mac[2:]}")
        cable.run(f"ip link set to-{node.name} master br0 up")
    source, destination = line.nodes
    source.run("ip link set tap7 up")
    line.hooks(number, "start", "started", node=1, nic=nics[0])
    assert eventually(lambda: reach([(guest, target) for target in (GATEWAY4, GATEWAY6, "10.5.5.2")], 1) == [])
    monitor = guest.popen("ip monitor neigh dev eth0", stdout=-1)
    with line.wires():
        with Pinging(guest, GATEWAY4) as pings, Pinging(guest, GATEWAY6) as pings6:
            # Paused here, running there.
            source.run("ip link set tap7 down")
            destination.run("ip link set tap7 up")
            line.hooks(number, "start", "started", node=2, nic=nics[1])
            line.hooks(number, "stopped", "release", node=1, nic=nics[0])
    assert pings.gap < 300 and pings6.gap < 300, (pings.gap, pings6.gap)
    monitor.terminate()
    heard = [text for text in monitor.communicate()[0].splitlines() if GATEWAY4 in text or GATEWAY6 in text]
    assert not [text for text in heard if re.search("FAILED|INCOMPLETE|Deleted", text) or line.mac not in text], heard
    assert neighbour(guest, GATEWAY4) == neighbour(guest, GATEWAY6) == line.mac
    assert reach([(line.guests[0], "10.5.5.7"), (line.guests[1], "10.5.5.7"), (guest, "10.0.1.2"), (guest, "10.0.1.1")]) == []
    line.hooks(number, "stopped", "release", node=2, nic=nics[1])
    assert line.vmnet[0]("check") == line.vmnet[1]("check") == "ok\n"


# --- alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["both families", "IPv4 alone", "IPv6 alone", "long name", "own MAC", "no port", "taken name"])
def test_down_after_up(case):
    name = "guest-bridge-01" if case == "long name" else "guestbr0"
    inner = f"{name[:12]}-gw"
    config = bridge([] if case == "no port" else ["eth1"]).replace("guestbr0", name)
    if case == "IPv4 alone":
        config = config.replace(f', "{GATEWAY6}/64"', "")
    if case == "IPv6 alone":
        config = config.replace(f'"{GATEWAY4}/24", ', "")
    if case == "own MAC":
        config = config.replace("anycast_gateway", 'gateway_mac = "02:00:5e:00:01:05"\nanycast_gateway')
    with Node("node") as node, Node("other") as other:
        vmnet = Product(node)
        wire(node, "eth1", other, "eth1", "02:00:00:00:01:01", "02:00:00:00:01:02")
        other.run("ip link set eth1 up")
        node.sh("for f in all default eth1; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done; ip link set eth1 up")
        assert eventually(lambda: "fe80::" in node.run("ip -6 addr show dev eth1 -tentative").stdout)
        node.config(config)
        if case == "taken name":
            node.run(f"ip link add {inner} type bridge")
            before = settled(node)
            assert inner in vmnet.tried("up").output and vmnet.tried("up").returncode
            same(before, settled(node))
            return
        before = settled(node)
        vmnet("up")
        assert len(inner) <= 15 and exists(node, inner)
        shown = node.run(f"ip -o addr show dev {inner}").stdout
        assert (f"inet {GATEWAY4}/32" in shown) == (case != "IPv6 alone"), shown
        assert (f"inet6 {GATEWAY6}/128" in shown) == (case != "IPv4 alone"), shown
        if case == "own MAC":
            assert attribute(node, inner, "address") == "02:00:5e:00:01:05"
        assert vmnet("check") == "ok\n" and vmnet("up") == "up: nothing to do\n"
        vmnet("down")
        same(before, settled(node))
