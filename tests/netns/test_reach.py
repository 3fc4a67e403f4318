"""What guests reach besides their own network: the host itself, other networks' guests, what else is at the host.

guest (of each kind of network) -- host -- eth9 -- router      the way out
v (bridged: other) --------- br2 ----+ +-- up0 ----+           the uplink of routed networks
w (hostroute: second) ---- tap-w ----+ +-- eth8 -- store       storage
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest
from lab.agent import Agent
from lab.asker import __file__ as ASKER
from lab.capture import Capture
from lab.domains import Interface
from lab.frames import ip4
from lab.guest import Nic, wired
from lab.nodes import Node, settled, wire
from lab.roles import ALERT4, summed
from lab.routed import call, eventually, send
from lab.single import same

MAC, V_MAC, W_MAC = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "52:54:00:aa:00:03"
PORTS = (22, 53, 9000)
HOST4, HOST6 = "10.0.1.1", "fd00:1::1"
V4, V6, W4, W6 = "10.6.0.2", "fd06::2", "10.0.1.60", "fd00:1::60"
STORE4, STORE6 = "10.8.0.2", "fd08::2"
WORLD4, WORLD6 = "198.51.100.1", "2001:db8:ffff::1"
OTHERS = """
[bridges.br2]
addresses = ["10.6.0.1/24", "fd06::1/64"]
forwarding = true
mcast_snooping = false

[networks.other]
mode = "bridged"
bridge = "br2"

[networks.second]
mode = "hostroute"
netdev = "eth9"
"""
ROUTED = """
[networks.lan]
mode = "routed"
uplink = "up0"
table = 222
role = "{role}"
ipv4 = {{ subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }}
ipv6 = {{ subnet = "2001:db8::/64", gateway = "2001:db8::1" }}
"""
BRIDGE = """
[bridges.br1]
addresses = ["10.5.0.1/24", "fd05::1/64"]
mcast_snooping = false
{more}
[networks.lan]
mode = "bridged"
bridge = "br1"
"""
NAT = """
[nat.lan4]
subnet = "10.5.0.0/24"
out = "eth9"
masquerade = true

[nat.lan6]
subnet = "fd05::/64"
out = "eth9"
masquerade = true
"""
# The section of the network under test comes last: the tests add keys to it.
KINDS = {
    "routed": ROUTED.format(role="host"),
    "router+host": ROUTED.format(role="router+host") + 'external = "eth9"\n',
    "hostroute": '[networks.lan]\nmode = "hostroute"\nnetdev = "eth9"\n',
    "bridged": NAT + BRIDGE.format(more=""),
    "anycast": NAT + BRIDGE.format(more="anycast_gateway = true\n"),
    "plain router": BRIDGE.format(more="forwarding = true\n"),
    "no router": BRIDGE.format(more=""),
}


class Crossroads:
    """The host, what is around it, and the guest of the network under test. Use as a context manager."""

    def __init__(self, kind: str):
        self.kind, self.stack = kind, ExitStack()
        self.forwards = kind not in ("hostroute", "bridged")
        """Whether the host is a router of its own, so that nothing but what is tested holds guests back."""
        try:
            self.build()
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Crossroads:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def node(self, name: str) -> Node:
        node = self.stack.enter_context(Node(name))
        node.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
        return node

    def build(self) -> None:
        self.host, self.router, self.store = host, router, store = [self.node(name) for name in ("host", "router", "store")]
        for link, node in (("eth9", router), ("up0", router), ("eth8", store)):
            wire(host, link, node, link)
        host.sh(f"""
            ip link set eth9 up; ip addr add {HOST4}/24 dev eth9; ip -6 addr add {HOST6}/64 dev eth9 nodad
            ip link set eth8 up; ip addr add 10.8.0.1/24 dev eth8; ip -6 addr add fd08::1/64 dev eth8 nodad
            ip link set up0 up
            ip route add default via 10.0.1.254; ip -6 route add default via fd00:1::254
        """)
        if self.forwards:
            host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        store.sh(f"""
            ip link set eth8 up; ip addr add {STORE4}/24 dev eth8; ip -6 addr add {STORE6}/64 dev eth8 nodad
            ip route add default via 10.8.0.1; ip -6 route add default via fd08::1
        """)
        behind4, behind6 = ("192.0.2.0/24", "10.6.0.0/24", "10.5.0.0/24"), ("2001:db8::/64", "fd06::/64", "fd05::/64")
        own = self.kind == "routed"
        router.sh(f"""
            echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            ip link set eth9 up; ip link set up0 up
            ip addr add 10.0.1.254/24 dev eth9; ip -6 addr add fd00:1::254/64 dev eth9 nodad
            ip addr add {WORLD4}/32 dev lo; ip -6 addr add {WORLD6}/128 dev lo nodad
            {"ip addr add 192.0.2.1/24 dev up0; ip -6 addr add 2001:db8::1/64 dev up0 nodad" if own else ""}
            {"; ".join(f"ip route add {net} via {HOST4}" for net in behind4[own:])}
            {"; ".join(f"ip -6 route add {net} via {HOST6}" for net in behind6[own:])}
        """)
        match self.kind:
            case "routed" | "router+host":
                ip4, gateway4, ip6, gateway6, bridge = "192.0.2.10", "192.0.2.1", "2001:db8::10", "2001:db8::1", ""
            case "hostroute":
                ip4, gateway4, ip6, gateway6, bridge = "10.0.1.50", HOST4, "fd00:1::50", HOST6, ""
            case _:
                ip4, gateway4, ip6, gateway6, bridge = "10.5.0.2", "10.5.0.1", "fd05::2", "fd05::1", "br1"
        self.ip4, self.ip6 = ip4, ip6
        self.nic = Interface(MAC, "tap-a", "lan", (ip4, ip6), bridge)
        self.v = Interface(V_MAC, "tap-v", "other", (V4, V6), "br2")
        self.w = Interface(W_MAC, "tap-w", "second", (W4, W6))
        add = self.stack.enter_context
        self.guest = add(wired(host, "tap-a", "guest", Nic(MAC, ip4, 24, gateway4, ip6, gateway6)))
        if bridge:
            # Another machine on the bridge, which is no guest.
            self.machine = self.node("machine")
            wire(host, "eth7", self.machine, "eth7")
            self.machine.sh("ip link set eth7 up; ip addr add 10.5.0.254/24 dev eth7; ip -6 addr add fd05::254/64 dev eth7 nodad")
        self.v_node = add(wired(host, "tap-v", "v", Nic(V_MAC, V4, 24, "10.6.0.1", V6, "fd06::1")))
        self.w_node = add(wired(host, "tap-w", "w", Nic(W_MAC, W4, 24, HOST4, W6, HOST6)))
        for node in (self.host, self.guest, self.v_node, self.w_node, self.store, self.router):
            node.popen(["/usr/bin/python3", "-IS", ASKER, "serve", *PORTS], stdout=-1).stdout.readline()
        host.config(OTHERS + KINDS[self.kind])
        done = host.cli("up")
        assert done.returncode == 0, done.stderr
        if bridge:
            host.sh("ip link set eth7 master br1 up")
        self.start("v", self.v)
        self.start("w", self.w)

    def start(self, domain: str, nic: Interface) -> None:
        for operation in ("start", "started"):
            call(self.host, domain, operation, nic)

    def stop(self, domain: str, nic: Interface) -> None:
        for operation in ("stopped", "release"):
            call(self.host, domain, operation, nic)

    def started(self, keys: str = "") -> None:
        """Start the guest, its network with more keys."""
        self.host.config(OTHERS + KINDS[self.kind] + keys)
        self.start("a", self.nic)
        # The guest takes no address of IPv6 but the gateway's for on-link.
        here = [f"ping/{ip}" for ip in ((WORLD4, WORLD6) if self.kind != "no router" else ("10.5.0.254",))]
        assert eventually(lambda: asked(self.guest, here) == set(here))

    def stopped(self) -> None:
        self.stop("a", self.nic)


def asked(node: Node, words: Sequence[str]) -> set[str]:
    """Those of PROTOCOL/ADDRESS[/PORT] that are answered."""
    return set(node.run(["/usr/bin/python3", "-IS", ASKER, "ask", *words]).stdout.split())


def both(*words: str) -> set[str]:
    """The words with addresses of both families in place of HOST, V, W, STORE, WORLD."""
    pairs = {"HOST": (HOST4, HOST6), "V": (V4, V6), "W": (W4, W6), "STORE": (STORE4, STORE6), "WORLD": (WORLD4, WORLD6)}
    return {word.replace(name, ip) for word in words for name, ips in pairs.items() if name in word.split("/") for ip in ips}


@pytest.fixture(scope="module", params=KINDS)
def roads(request: pytest.FixtureRequest) -> Iterator[Crossroads]:
    with Crossroads(request.param) as found:
        yield found


OF_HOST = [f"{protocol}/HOST/{port}" for protocol in ("tcp", "udp") for port in PORTS]
SERVICES = ("ping/HOST", "tcp/HOST/53", "udp/HOST/53")
LEVELS = {
    "": SERVICES,
    'reach_host = "replies"\n': (),
    'reach_host = "none"\n': (),
    'reach_host = "all"\n': ("ping/HOST", *OF_HOST),
}


@pytest.mark.parametrize("keys", LEVELS)
def test_the_host(roads, keys):
    """What the guest may open to the host, and what the host may ask the guest: the same answers by TCP, UDP and ICMP."""
    roads.started(keys)
    try:
        assert asked(roads.guest, sorted(both("ping/HOST", *OF_HOST))) == both(*LEVELS[keys])
        mine = {f"{what}" for ip in (roads.ip4, roads.ip6) for what in (f"ping/{ip}", f"tcp/{ip}/9000", f"udp/{ip}/9000")}
        assert asked(roads.host, sorted(mine)) == (set() if "none" in keys else mine)
        # Others are as before.
        assert asked(roads.store, sorted(both("ping/STORE"))) == both("ping/STORE")
    finally:
        roads.stopped()


STORES = ("ping/STORE", "tcp/STORE/22")
ELSEWHERE = ("ping/V", "tcp/V/22", "ping/W", "udp/W/9000", *STORES)


def test_nothing_but_the_way_out(roads):
    roads.started()
    try:
        # A network that names no way out leaves by any link that is no network's.
        out = ["ping/WORLD", "tcp/WORLD/22", *(STORES if roads.kind == "plain router" else ())]
        out = out if roads.kind != "no router" else []
        assert asked(roads.guest, sorted(both(*ELSEWHERE, "ping/WORLD", "tcp/WORLD/22"))) == both(*out)
        mine = sorted(f"{what}" for ip in (roads.ip4, roads.ip6) for what in (f"ping/{ip}", f"tcp/{ip}/22"))
        for node in (roads.v_node, roads.w_node):
            assert asked(node, mine) == set()
        assert_checked(roads)
        assert dropped(roads, "netdev vmnet unrouted" if roads.kind == "no router" else "inet vmnet enclosed")
        assert asked(roads.guest, sorted(both("tcp/HOST/22"))) == set()
        assert dropped(roads, "netdev vmnet unrouted" if roads.kind == "no router" else "inet vmnet none")
    finally:
        roads.stopped()


def dropped(roads: Crossroads, chain: str) -> bool:
    """Whether a chain has counted what it drops."""
    return bool(re.search(r"counter packets [1-9]", roads.host.run(f"nft list chain {chain}").stdout))


def assert_checked(roads: Crossroads) -> None:
    done = roads.host.cli("check")
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout


REACHED = 'reach = ["other", "second", "link:eth8"]\n'


# The table of guests whose gateway is elsewhere leads there: see test_floor.py for several such networks.
@pytest.mark.parametrize("roads", [kind for kind in KINDS if kind not in ("routed", "no router")], indirect=True)
def test_what_is_declared(roads):
    """Both ways: the other networks need not name this one."""
    roads.started(REACHED)
    try:
        assert asked(roads.guest, sorted(both(*ELSEWHERE))) == both(*ELSEWHERE)
        mine = {f"{what}" for ip in (roads.ip4, roads.ip6) for what in (f"ping/{ip}", f"tcp/{ip}/22")}
        assert asked(roads.v_node, sorted(mine)) == mine
    finally:
        roads.stopped()


JOIN = """
import socket, struct, time
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("10.5.0.1"))
print("joined", flush=True)
time.sleep(60)
"""
QUERY = summed(struct.pack("!BBHI", 0x11, 10, 0, 0))
"""To be answered within a second."""
PUBLISHED = """
nft add table ip published
nft add chain ip published in '{ type nat hook prerouting priority dstnat; }'
nft add rule ip published in fib daddr type local tcp dport 8080 dnat to 10.8.0.2:22
"""


# What a network without a way out of its own reaches, it reaches by this as well.
@pytest.mark.parametrize("roads", [kind for kind in KINDS if kind != "plain router"], indirect=True)
def test_what_the_host_publishes(roads):
    """A port of the host that leads to a container, as Docker's: it is not open to guests, but to the outside."""
    roads.host.sh(PUBLISHED + "echo 1 > /proc/sys/net/ipv4/ip_forward")
    roads.router.sh("ip route replace 10.8.0.0/24 via 10.0.1.1")
    roads.started()
    try:
        gateways = {"hostroute": HOST4, "routed": HOST4, "router+host": "192.0.2.1"}
        words = {f"tcp/{HOST4}/8080", f"tcp/{gateways.get(roads.kind, '10.5.0.1')}/8080"}
        assert asked(roads.guest, sorted(words)) == set()
        assert asked(roads.router, [f"tcp/{HOST4}/8080"]) == {f"tcp/{HOST4}/8080"}
    finally:
        roads.stopped()
        # The next test begins with a host that forwards as it did.
        roads.host.sh("nft delete table ip published" + ("" if roads.forwards else "; echo 0 > /proc/sys/net/ipv4/ip_forward"))


@pytest.mark.parametrize("roads", ["no router"], indirect=True)
def test_machines_that_are_no_guests_are_the_admins(roads):
    """On a bridge that the host does not route for by its declaration, the admin may route for others."""
    roads.machine.sh("ip route add default via 10.5.0.1; ip -6 route add default via fd05::1")
    roads.started()
    try:
        assert asked(roads.machine, sorted(both(*STORES, "tcp/HOST/22"))) == both(*STORES, "tcp/HOST/22")
        assert asked(roads.guest, sorted(both(*STORES, "tcp/HOST/22"))) == set()
    finally:
        roads.stopped()


@pytest.mark.parametrize("roads", ["bridged", "hostroute"], indirect=True)
def test_a_link_that_comes_and_goes(roads):
    """A tunnel: guests start without it, `check` tells, and `repair` mends what there is and opens it once it is there."""
    keys = 'reach = ["link:tun9"]\n'
    roads.started(keys)
    try:
        assert "tun9 does not exist, so that guests do not reach it" in roads.host.cli("check").stdout
        for _ in range(2):
            roads.host.sh("ip tuntap add tun9 mode tun; ip link set tun9 up; ip route add 203.0.113.0/24 dev tun9")
            assert roads.host.cli("check").returncode == 1
            assert roads.host.cli("repair").returncode == 0
            assert_checked(roads)
            assert roads.host.sysctl("ipv4/conf/tun9/forwarding") == "1"
            roads.host.sh("ip link del tun9; nft flush set inet vmnet enclosed")
            done = roads.host.cli("repair")
            assert "tun9 does not exist" in done.stdout, done.stdout + done.stderr
            assert "tap-w" in roads.host.run("nft list set inet vmnet enclosed").stdout
            assert asked(roads.guest, sorted(both(*ELSEWHERE))) == set()
    finally:
        roads.host.config(OTHERS + KINDS[roads.kind])
        roads.host.cli("repair")
        roads.stopped()


@pytest.mark.parametrize("level", ["none", "services"])
@pytest.mark.parametrize("roads", ["bridged"], indirect=True)
def test_multicast_queries_reach_the_host(roads, level):
    """The host's own groups stay known where a guest is the querier."""
    roads.nic = replace(roads.nic, roles=("querier",))
    roads.started(f'reach_host = "{level}"\n')
    try:
        roads.host.popen(["/usr/bin/python3", "-c", JOIN], stdout=-1).stdout.readline()
        with Capture(roads.guest, "eth0", "igmp") as seen:
            send(roads.guest, "eth0", ip4(MAC, roads.ip4, "224.0.0.1", 2, QUERY, options=ALERT4))
            Capture.pause(1.5)
        assert seen.having("239.1.2.3", "report"), str(seen.lines)
    finally:
        roads.nic = replace(roads.nic, roles=None)
        roads.stopped()


@pytest.mark.parametrize("roads", ["hostroute", "bridged"], indirect=True)
def test_an_edit_while_the_guest_runs(roads):
    """`check` tells of it, `repair` applies it: what was closed opens, and closes again."""
    roads.started()
    try:
        for keys, found in ((REACHED + 'reach_host = "all"\n', both(*ELSEWHERE, "tcp/HOST/22")), ("", set())):
            roads.host.config(OTHERS + KINDS[roads.kind] + keys)
            assert roads.host.cli("check").returncode == 1
            done = roads.host.cli("repair")
            assert done.returncode == 0, done.stderr
            assert asked(roads.guest, sorted(both(*ELSEWHERE, "tcp/HOST/22"))) == found
            assert_checked(roads)
    finally:
        roads.host.config(OTHERS + KINDS[roads.kind])
        roads.stopped()


@pytest.mark.parametrize("roads", ["hostroute", "bridged"], indirect=True)
@pytest.mark.parametrize(
    "damage", ["nft delete table inet vmnet", "nft flush ruleset", "nft flush chain inet vmnet input", "group"]
)
def test_what_another_program_opens_the_agent_closes(roads, damage):
    if damage == "group":
        damage = f"ip link set {'tap-w' if roads.kind == 'bridged' else 'tap-a'} group default"
    roads.started()
    try:
        with Agent(roads.host):
            roads.host.sh(damage)
            assert eventually(lambda: roads.host.cli("check").returncode == 0)
            assert asked(roads.guest, sorted(both(*ELSEWHERE, "tcp/HOST/22", "tcp/HOST/53"))) == both("tcp/HOST/53")
    finally:
        roads.stopped()


@pytest.mark.parametrize("roads", ["hostroute"], indirect=True)
def test_the_way_out_is_another(roads):
    """`check` tells, and its remedy works."""
    moved = f"ip route replace default via {STORE4}; ip -6 route replace default via {STORE6}"
    roads.store.sh(f"ip addr add {WORLD4}/32 dev lo; ip -6 addr add {WORLD6}/128 dev lo nodad")
    roads.started()
    try:
        roads.host.sh(moved)
        assert asked(roads.guest, sorted(both("ping/WORLD"))) == set()
        told = roads.host.cli("check")
        assert told.returncode == 1
        assert "what networks.lan sends to the outside leaves by eth8, which it does not name, and is dropped" in told.stdout
        assert 'add "link:eth8" to reach of networks.lan, then vmnet-hook repair' in told.stdout
        # The other network at eth9 has the same way out.
        named = 'reach = ["link:eth8"]\n'
        roads.host.config(OTHERS + named + KINDS[roads.kind] + named)
        assert roads.host.cli("repair").returncode == 0
        assert asked(roads.guest, sorted(both("ping/WORLD"))) == both("ping/WORLD")
    finally:
        roads.host.sh("ip route replace default via 10.0.1.254; ip -6 route replace default via fd00:1::254")
        roads.store.sh(f"ip addr del {WORLD4}/32 dev lo; ip -6 addr del {WORLD6}/128 dev lo")
        roads.host.config(OTHERS + KINDS[roads.kind])
        roads.host.cli("repair")
        roads.stopped()


@pytest.mark.parametrize("roads", ["hostroute", "bridged"], indirect=True)
def test_nothing_is_left(roads):
    # The kernel gives a bridge its link-local address with its first carrier.
    roads.started()
    roads.stopped()
    before = settled(roads.host)
    roads.started(REACHED)
    assert settled(roads.host) != before
    roads.stopped()
    same(before, settled(roads.host))
