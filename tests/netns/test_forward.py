"""Ports of the host's own addresses lead to guests: from outside, from the host, from guests of the same network, and back.

client -- eth9 -- host -- a, b       guests of the network under test (each kind); a is the one that ports lead to
            up0 --/    \\-- c        a guest of another network
The client is the gateway of the routed network too, by up0: it takes nothing from the wrong side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.capture import Capture
from lab.domains import Interface
from lab.echo import __file__ as ECHO
from lab.guest import Nic, wired
from lab.nodes import Node, settled, wire
from lab.routed import CommandFailed, call, eventually
from lab.single import same

OUR4, OUR6 = "198.51.100.2", "2001:db8:ff::2"
CLIENT4, CLIENT6 = "198.51.100.9", "2001:db8:ff::9"
FORWARD = """
[forward."198.51.100.2:8080/tcp"]
to = "a:80"
[forward."198.51.100.2:8080/udp"]
to = "a:80"
[forward."198.51.100.2:9000-9010/udp"]
to = "a"
[forward."198.51.100.2:9000-9010/tcp"]
to = "a"
[forward."[2001:db8:ff::2]:8080/tcp"]
to = "a:80"
[forward."[2001:db8:ff::2]:8080/udp"]
to = "a:80"
[forward."[2001:db8:ff::2]:9000-9010/udp"]
to = "a"
"""
SCTP = '[forward."198.51.100.2:8080/sctp"]\nto = "a:80"\n'
OTHER = """
[bridges.br2]
addresses = ["10.6.0.1/24", "fd06::1/64"]
forwarding = true
[networks.other]
mode = "bridged"
bridge = "br2"
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
ROUTED = """
[networks.lan]
mode = "routed"
uplink = "up0"
table = 222
role = "{role}"
{more}
ipv4 = {{ subnet = "10.5.0.0/24", gateway = "10.5.0.1", arp_source = "10.5.0.254" }}
ipv6 = {{ subnet = "fd05::/64", gateway = "fd05::1" }}
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
KINDS = {
    "routed": ROUTED.format(role="host", more=""),
    "router+host": ROUTED.format(role="router+host", more='external = "eth9"'),
    "hostroute": '[networks.lan]\nmode = "hostroute"\nnetdev = "eth9"\n',
    "bridged": NAT + BRIDGE.format(more=""),
    "anycast": NAT + BRIDGE.format(more="anycast_gateway = true"),
    "plain router": BRIDGE.format(more="forwarding = true"),
    # The way out of the network is not the one that ports are reached by.
    "elsewhere": NAT.replace("eth9", "up0") + BRIDGE.format(more=""),
    "flat": '[networks.lan]\nmode = "bridged"\nbridge = "flat"\n',
}
MACS = {"a": "52:54:00:aa:00:01", "b": "52:54:00:aa:00:02", "c": "52:54:00:aa:00:03"}
PORTS = (80, 443, 9000, 9005, 9010, 9011)


class Host:
    """The host, the client, and the guests. Use as a context manager."""

    def __init__(self, kind: str, forward: str = FORWARD, filtered: bool = False) -> None:
        self.kind, self.stack = kind, ExitStack()
        self.base = OTHER + KINDS[kind]
        self.forward, self.filtered = forward, filtered
        try:
            self.build()
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def node(self, name: str) -> Node:
        node = self.stack.enter_context(Node(name))
        node.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
        return node

    def build(self) -> None:
        self.host, self.client = host, client = self.node("host"), self.node("client")
        if host.path("/proc/sys/net/bridge").exists():
            for name in ("iptables", "ip6tables"):
                host.sysctl(f"bridge/bridge-nf-call-{name}", int(self.filtered))
        elif self.filtered:
            pytest.skip("no br_netfilter in this kernel")
        wire(host, "eth9", client, "eth9")
        wire(host, "up0", client, "up0")
        here = "eth9"
        if self.kind == "flat":
            # As distributions set up a bridge: it has the host's address, and the gateway is elsewhere.
            host.sh("ip link add flat type bridge mcast_snooping 0; ip link set eth9 master flat; ip link set flat up")
            here = "flat"
        host.sh(f"""
            ip link set eth9 up; ip link set up0 up
            ip addr add {OUR4}/24 dev {here}; ip -6 addr add {OUR6}/64 dev {here} nodad
            ip route add default via {CLIENT4}; ip -6 route add default via {CLIENT6}
        """)
        if self.kind == "elsewhere":
            host.sh("ip route replace default dev up0; ip -6 route replace default dev up0")
        routed = self.kind == "routed"
        client.sh(f"""
            for f in all default eth9 up0; do echo 1 > /proc/sys/net/ipv4/conf/$f/rp_filter; done
            ip link set eth9 up; ip link set up0 up
            ip addr add {CLIENT4}/24 dev eth9; ip -6 addr add {CLIENT6}/64 dev eth9 nodad
            {"ip addr add 10.5.0.1/24 dev up0; ip -6 addr add fd05::1/64 dev up0 nodad" if routed else ""}
            {"echo 1 > /proc/sys/net/ipv4/ip_forward" if routed else ""}
        """)
        if self.kind in ("flat", "hostroute"):
            ips, gateways = (
                {name: (f"198.51.100.{n}", f"2001:db8:ff::{n}") for name, n in (("a", 51), ("b", 52))},
                (CLIENT4, CLIENT6),
            )
        else:
            ips, gateways = {name: (f"10.5.0.{n}", f"fd05::{n}") for name, n in (("a", 11), ("b", 12))}, ("10.5.0.1", "fd05::1")
        if self.kind == "hostroute":
            gateways = (OUR4, OUR6)
        ips["c"] = ("10.6.0.13", "fd06::13")
        self.ips = ips
        bridges = {"routed": "", "router+host": "", "hostroute": "", "flat": "flat"}
        self.nics, self.guests = {}, {}
        for name, (ip4, ip6) in ips.items():
            bridge = "br2" if name == "c" else bridges.get(self.kind, "br1")
            via = ("10.6.0.1", "fd06::1") if name == "c" else gateways
            self.nics[name] = Interface(MACS[name], f"tap-{name}", "other" if name == "c" else "lan", (ip4, ip6), bridge)
            self.guests[name] = self.stack.enter_context(
                wired(host, f"tap-{name}", name, Nic(MACS[name], ip4, 24, via[0], ip6, via[1]))
            )
            if self.kind == "flat" and name != "c":
                self.guests[name].sh("ip -6 route add 2001:db8:ff::/64 dev eth0")
        for name, node in self.guests.items():
            serve(node, name, *PORTS)
        host.config(self.base + self.forward)
        self.vmnet("up")
        self.start("b")
        self.start("c")

    def vmnet(self, *argv: str, status: int = 0) -> str:
        done = self.host.cli(*argv)
        assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return str(done.stdout + done.stderr)

    def checked(self) -> None:
        """What we set up is there; other programs' settings are told of."""
        assert self.vmnet("check").startswith("ok\n")

    def start(self, name: str) -> None:
        for operation in ("start", "started"):
            call(self.host, name, operation, self.nics[name])

    def stop(self, name: str) -> None:
        for operation in ("stopped", "release"):
            call(self.host, name, operation, self.nics[name])

    def ready(self) -> None:
        """Wait until links and neighbours are there."""
        assert eventually(lambda: all(asked(self.host, f"tcp/{ip}/443") for ip in self.ips["a"])), self.kind


def serve(node: Node, name: str, *ports: int) -> None:
    node.popen(["/usr/bin/python3", "-IS", ECHO, "serve", name, *ports], stdout=-1).stdout.readline()


def asked(node: Node, *words: str) -> dict[str, str]:
    """What is answered to each PROTOCOL/ADDRESS/PORT: the server's name, its port, and whom it sees."""
    lines = node.run(["/usr/bin/python3", "-IS", ECHO, "ask", *words]).stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines)


PLACES = [
    *(f"{protocol}/{ip}/8080" for protocol in ("tcp", "udp") for ip in (OUR4, OUR6)),
    *(f"udp/{ip}/{port}" for ip in (OUR4, OUR6) for port in (9000, 9005, 9010)),
    f"tcp/{OUR4}/9005",
]
NOWHERE = [f"udp/{OUR4}/8999", f"udp/{OUR4}/9011", f"tcp/{OUR6}/9005", f"tcp/{OUR4}/443", "tcp/127.0.0.1/8080"]


def led(answers: dict[str, str]) -> set[str]:
    """The words that were answered by the guest, at the port that is meant."""
    return {w for w, told in answers.items() if told.startswith(f"a {'80' if w.endswith('/8080') else w.rpartition('/')[2]} ")}


NETFILTERED = ("routed", "bridged", "anycast", "flat")
"""Those that are tested with br_netfilter, too."""


@pytest.fixture(scope="module", params=[*KINDS, *(f"{kind}, br_netfilter" for kind in NETFILTERED)])
def lab(request: pytest.FixtureRequest) -> Iterator[Host]:
    kind, _, filtered = request.param.partition(", ")
    with Host(kind, filtered=bool(filtered)) as found:
        yield found


def test_there_with_the_guest(lab):
    """From outside, from the host itself, from guests of the same network, the guest itself among them."""
    before = settled(lab.host)
    assert asked(lab.client, *PLACES) == {} and "vmnet-forward" not in lab.host.run("nft list tables").stdout
    lab.start("a")
    try:
        lab.ready()
        lab.checked()
        with Capture(lab.guests["b"], "eth0", "icmp[icmptype] == icmp-redirect") as redirects:
            for node in (lab.client, lab.host, lab.guests["b"], lab.guests["a"]):
                assert led(asked(node, *PLACES)) == set(PLACES), node
                assert asked(node, *NOWHERE) == {}, node
        assert redirects.lines == []
        # Whom the guest sees: the client itself, unless its answers would not come back this way.
        seen = {told.split()[2] for told in asked(lab.client, f"tcp/{OUR4}/8080", f"tcp/{OUR6}/8080").values()}
        assert (seen == {CLIENT4, CLIENT6}) == (lab.kind != "flat"), seen
        lab.checked()
        assert "vmnet-forward" in lab.host.run("nft list tables").stdout
    finally:
        lab.stop("a")
    same(before, settled(lab.host))
    assert asked(lab.client, *PLACES) == {}


def test_not_to_other_networks(lab):
    """A guest of another network has no way there that its own network does not name."""
    lab.start("a")
    try:
        lab.ready()
        assert led(asked(lab.guests["c"], *PLACES)) == set()
    finally:
        lab.stop("a")


@pytest.mark.parametrize("lab", ["bridged", "routed"], indirect=True)
def test_what_is_tracked_follows(lab):
    """A flow of UDP that was there before the guest, and one that outlives it; with a bridge, and with taps."""
    flow = lab.client.popen(["/usr/bin/python3", "-IS", "-c", FLOW, OUR4, "8080"], stdout=-1)
    assert flow.stdout.readline().strip() == "silence"
    lab.start("a")
    try:
        lab.ready()
        assert eventually(lambda: flow.stdout.readline().startswith("a 80 "), 20, 0)
    finally:
        lab.stop("a")
    assert f"dport=8080 src={lab.ips['a'][0]}" not in lab.host.run("cat /proc/net/nf_conntrack", check=False).stdout
    assert eventually(lambda: flow.stdout.readline().strip() == "silence", 20, 0)
    flow.kill()


FLOW = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 5555)); sock.settimeout(0.2)
while True:
    sock.sendto(b"?", (sys.argv[1], int(sys.argv[2])))
    try:
        print(sock.recv(100).decode(), flush=True)
    except OSError:
        print("silence", flush=True)
    time.sleep(0.05)
"""


NATIVE = """
import sys
sys.path.insert(0, sys.argv[1])
from vmnet_hooks.kernel.objects.nft import Nft
from vmnet_hooks.model.objects import NftElement
from vmnet_hooks.model.plan import Change
from vmnet_hooks.model.ruleset import FORWARD
elements = [
    NftElement("inet", "forward4", ("198.51.100.2", "tcp", "8080"), "10.9.0.5 . 80"),
    NftElement("inet", "forward4", ("198.51.100.2", "sctp", "65535"), "10.9.0.5 . 1"),
    NftElement("inet", "forward6", ("2001:db8::2", "udp", "53"), "fd00::5 . 5353"),
    NftElement("inet", "ranges4", ("198.51.100.2", "udp", "9000-9010"), "10.9.0.5"),
    NftElement("inet", "ranges4", ("198.51.100.2", "tcp", "1-65535"), "10.9.0.5"),
    NftElement("inet", "ranges6", ("2001:db8::2", "udp", "9000-9010"), "fd00::5"),
    NftElement("inet", "hairpins", ('"tap0"', '"tap0"')),
    NftElement("inet", "bridges", ('"br0"',)),
    NftElement("inet", "elsewhere", ('"tap0"',)),
]
nft = Nft()
wanted = {element.key: element for element in elements}
def there():
    assert nft.elements(elements) == nft.listing("inet"), (nft.elements(elements), nft.listing("inet"))
    return nft.listing("inet")
for by_library in (False, True):
    nft.run(FORWARD.statement())
    assert there() == {}
    if by_library:
        assert nft.run("".join(element.statement() for element in elements))[1] == ""
    else:
        nft.run = None
        nft.apply([Change(None, element) for element in elements])
        del nft.run
    assert there() == wanted, there()
    # Another range that begins alike, and another value, are other elements.
    assert nft.elements([NftElement("inet", "ranges4", ("198.51.100.2", "udp", "9000-9009"))]) == {}
    other = NftElement("inet", "forward4", elements[0].parts, "10.9.0.6 . 81")
    nft.apply([Change(elements[0], other)])
    assert nft.elements(elements)[other.key] == other
    nft.apply([Change(there()[element.key], None) for element in elements])
    assert there() == {}
print("ok")
"""


def test_elements_as_the_library_has_them():
    with Node("host") as node:
        done = node.run(["/usr/bin/python3", "-c", NATIVE, str(Path(ECHO).parents[2])])
        assert done.stdout == "ok\n"


@pytest.fixture(scope="module")
def one() -> Iterator[Host]:
    with Host("bridged") as found:
        yield found


@pytest.fixture
def host(one):
    yield one
    one.host.config(one.base + one.forward)
    one.stop("a")


WEB = '[forward."198.51.100.2:8080/tcp"]\nto = "a:80"\n'
MORE = '[forward."198.51.100.2:8081/udp"]\nto = "a:443"\n'


def test_an_edit_while_the_guest_runs(host):
    host.host.config(host.base + WEB)
    host.start("a")
    host.ready()
    assert "a tap-a: forwards 198.51.100.2:8080/tcp -> 10.5.0.11:80\n" in host.vmnet("status")
    assert "198.51.100.2:8080/tcp" in host.vmnet("graph")
    host.host.config(host.base + WEB.replace("a:80", "a:443") + MORE)
    assert "the configuration has changed" in host.vmnet("check", status=1)
    assert set(asked(host.client, f"tcp/{OUR4}/8080", f"udp/{OUR4}/8081")) == {f"tcp/{OUR4}/8080"}
    host.vmnet("repair")
    assert asked(host.client, f"tcp/{OUR4}/8080", f"udp/{OUR4}/8081") == {
        f"tcp/{OUR4}/8080": f"a 443 {CLIENT4}",
        f"udp/{OUR4}/8081": f"a 443 {CLIENT4}",
    }
    host.checked()
    host.host.config(host.base + MORE)
    assert "no longer wanted" in host.vmnet("check", status=1)
    host.vmnet("repair")
    assert set(asked(host.client, f"tcp/{OUR4}/8080", f"udp/{OUR4}/8081")) == {f"udp/{OUR4}/8081"}
    host.checked()


def test_a_listener_of_the_host(host):
    """It would get nothing any more."""
    serving = host.host.popen(["/usr/bin/python3", "-IS", ECHO, "serve", "host", 8080], stdout=-1)
    serving.stdout.readline()
    try:
        with pytest.raises(CommandFailed, match="the host itself listens there"):
            host.start("a")
        assert asked(host.client, f"tcp/{OUR4}/8080") == {f"tcp/{OUR4}/8080": f"host 8080 {CLIENT4}"}
    finally:
        serving.kill()
        serving.wait()
    host.start("a")
    host.ready()
    assert led(asked(host.client, f"tcp/{OUR4}/8080")) == {f"tcp/{OUR4}/8080"}


def test_an_address_that_the_host_does_not_have(host):
    """What goes through the host to another machine is not for the guest; once the host has the address, it is."""
    other = "198.51.100.77"
    host.host.config(host.base + WEB.replace(OUR4, other))
    host.start("a")
    host.ready()
    assert f"{other} is no address of the host" in host.vmnet("check", status=1)
    host.client.run(f"ip addr add {other}/32 dev lo")
    serve(host.client, "machine", 8080)
    host.client.run(f"ip route add 10.6.0.0/24 via {OUR4}")
    assert asked(host.guests["b"], f"tcp/{other}/8080") == {f"tcp/{other}/8080": f"machine 8080 {OUR4}"}
    host.client.run(f"ip addr del {other}/32 dev lo")
    host.host.run(f"ip addr add {other}/32 dev eth9")
    try:
        assert led(asked(host.client, f"tcp/{other}/8080")) == {f"tcp/{other}/8080"}
        host.checked()
    finally:
        host.host.run(f"ip addr del {other}/32 dev eth9")


def test_what_others_flush_is_put_back(host):
    host.start("a")
    host.ready()
    for damage in ("nft flush ruleset", "nft delete table inet vmnet-forward", "nft flush map inet vmnet-forward ranges4"):
        host.host.run(damage)
        assert "nft inet" in host.vmnet("check", status=1)
        host.vmnet("repair")
        host.checked()
    assert led(asked(host.client, *PLACES)) == set(PLACES)
