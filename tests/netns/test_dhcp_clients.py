"""The drivers of DHCP clients tell the truth: against dnsmasq, which knows what it gave. And the storm, on veths and on taps."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.capture import Capture
from lab.dhcp_clients import Client, Dhclient, Dhcpcd, KernelRa, Lease, Networkd, Udhcpc, Unsupported, complete, leased6
from lab.dhcp_storm import __file__ as STORM
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.routed import eventually

CONFIG = """
interface=br0
except-interface=lo
bind-dynamic
user=root
no-resolv
no-hosts
no-ping
dhcp-authoritative
dhcp-rapid-commit
domain=lab.example
dhcp-range=10.9.0.100,10.9.0.200,255.255.255.0,1h
dhcp-range=fd00:9::100,fd00:9::1ff,slaac,64,1h
enable-ra
dhcp-option=option:dns-server,10.9.0.53,10.9.0.54
dhcp-option=option:ntp-server,10.9.0.123
dhcp-option=option:mtu,1450
dhcp-option=option:domain-search,lab.example,example.net
dhcp-option=option:classless-static-route,10.20.0.0/16,10.9.0.2,0.0.0.0/0,10.9.0.1
dhcp-option=option6:dns-server,[fd00:9::53]
dhcp-option=option6:domain-search,lab.example
dhcp-leasefile=/run/leases
log-dhcp
log-facility=/run/dnsmasq.log
"""


class Server:
    """A bridge with dnsmasq on it. The guest of number N gets 10.9.0.N and fd00:9::N, and is called webN."""

    NUMBERS = range(10, 20)

    def __init__(self, node: Node) -> None:
        self.node = node
        node.sh("""
            ip link add br0 type bridge mcast_snooping 0; ip link add stub0 master br0 type veth peer name stub1
            ip link set stub0 up; ip link set stub1 arp off up
            echo 0 > /proc/sys/net/ipv6/conf/br0/accept_dad; ip link set br0 up
            ip addr add 10.9.0.1/24 dev br0; ip -6 addr add fd00:9::1/64 dev br0 nodad
        """)
        hosts = "".join(f"dhcp-host=52:54:00:aa:00:{n:02x},10.9.0.{n},[fd00:9::{n}],web{n}\n" for n in self.NUMBERS)
        node.write("/run/dnsmasq.conf", CONFIG + hosts)
        self.start()

    def start(self) -> None:
        command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/run/dnsmasq.conf", "--pid-file="]
        self.process = self.node.popen(command, stdout=-3, stderr=-3)
        # In the groups of both kinds of servers, and of routers: what comes before that is lost, and asked again after seconds.
        groups = Path(f"/proc/{self.node.pid}/net/igmp6")
        names = ("ff020000000000000000000000010002", "ff050000000000000000000000010003", "ff020000000000000000000000000002")

        def listens() -> bool:
            joined = re.findall(r" br0 +(\w+) ", groups.read_text())
            return set(names) <= set(joined)

        assert eventually(listens, every=0.01), self.process.poll()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def guest(self, number: int) -> Node:
        guest = wired(self.node, f"tap{number}", f"guest{number}", Nic(f"52:54:00:aa:00:{number:02x}"))
        self.node.run(f"ip link set tap{number} master br0")
        # 3: it forwards. The kernel notices a new carrier after up to a second, and a client asks again after seconds.
        state = self.node.path(f"/sys/class/net/tap{number}/brport/state")
        assert eventually(lambda: state.read_text() == "3\n", every=0.01)
        return guest

    def messages(self, since: int = 0) -> list[str]:
        """The DHCP messages that it logged, by name."""
        path = self.node.path("/run/dnsmasq.log")
        words = path.read_text().split() if path.exists() else []
        return [word.partition("(")[0] for word in words if word.startswith("DHCP") and "(br0)" in word][since:]


# What each client makes of the same answers: of IPv4 all tell the same, of IPv6 not.
ROUTES = frozenset({("10.20.0.0/16", "10.9.0.2")})
TOLD4 = {
    "gateway": "10.9.0.1",
    "dns": ("10.9.0.53", "10.9.0.54"),
    "domain": "lab.example",
    "search": ("lab.example", "example.net"),
    "ntp": ("10.9.0.123",),
    "mtu": 1450,
    "server": "10.9.0.1",
    "lifetime": 3600,
}
TOLD6 = {"dns": ("fd00:9::53",), "search": ("lab.example",), "lifetime": 3600}
# Driver, number of the guest, whether it boots without asking who is there (DISCOVER), and what it tells of IPv6.
CASES = {
    "udhcpc": (Udhcpc, 10, False, {}),
    "dhclient": (Dhclient, 11, True, TOLD6 | {"hostname": "web11.lab.example"}),
    "dhcpcd": (Dhcpcd, 12, True, TOLD6 | {"hostname": "web12.lab.example"}),
    # Of a search list it does not say which family it is of.
    "networkd": (Networkd, 13, False, TOLD6 | {"search": ("lab.example", "example.net")}),
    "kernel": (KernelRa, 14, True, {"lifetime": 3600}),
}


def where(kind: type[Client], family: int) -> Callable[[Lease], bool]:
    """What to wait for: dnsmasq advertises a prefix for autoconfiguration too."""
    return complete if family == 4 or kind is KernelRa else leased6


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Node("server") as node:
        yield Server(node)


def assert_told(lease: Lease, family: int, number: int, told6: dict[str, object]) -> None:
    expected = TOLD4 | {"address": f"10.9.0.{number}/24", "hostname": f"web{number}"} if family == 4 else dict(told6)
    assert {name: getattr(lease, name) for name in expected} == expected
    if family == 4:
        assert ROUTES <= lease.routes
    else:
        own = "fd00:9::5054:ff:feaa:e/64" if number == CASES["kernel"][1] else f"fd00:9::{number}/128"
        assert lease.address == own and lease.gateway.startswith("fe80:")


@pytest.mark.parametrize("name", CASES)
def test_client(server, name):
    kind, number, remembers, told6 = CASES[name]
    # Its probes take 5 s a boot, and are proven below.
    options = {"settings": "noarp"} if kind is Dhcpcd else {}
    files = {path: path.read_bytes() for path in map(Path, ("/etc/resolv.conf", "/etc/hostname")) if path.exists()}
    with server.guest(number) as node:
        began = time.time()
        with kind(node, "eth0", **options) as client:
            for family in client.families:
                lease = client.lease(family, where=where(kind, family))
                assert_told(lease, family, number, told6)
                assert 0 < lease.seconds <= time.time() - began
                assert lease.address in client.addresses(family)
            since, began = len(server.messages()), time.time()
            client.reboot()
            for family in client.families:
                lease = client.lease(family, where=where(kind, family))
                assert_told(lease, family, number, told6)
                assert 0 < lease.seconds <= time.time() - began
            asked = set(server.messages(since))
            assert ("DHCPDISCOVER" in asked) == (not remembers) and bool(asked) == (kind is not KernelRa)
            assert_renews(server, client, number, told6)
            assert_releases(server, client)
        assert node.processes() == [node.pid]
    assert os.uname().nodename not in ("localhost", f"web{number}")
    assert {path: path.read_bytes() for path in files} == files


def assert_renews(server: Server, client: Client, number: int, told6: dict[str, object]) -> None:
    """With a server that answers, and not with one that does not."""
    for family in client.families:
        if family == 6 and isinstance(client, Networkd):
            with pytest.raises(Unsupported):
                client.renew(6)
            continue
        since = len(server.messages())
        assert_told(client.renew(family), family, number, told6)
        if not isinstance(client, KernelRa):
            renewal = "DHCPREQUEST" if family == 4 else "DHCPRENEW"
            assert eventually(lambda since=since, renewal=renewal: renewal in server.messages(since))
    server.stop()
    try:
        with pytest.raises(TimeoutError, match="not renewed"):
            client.renew(client.families[0], timeout=1.5)
    finally:
        server.start()


def assert_releases(server: Server, client: Client) -> None:
    if isinstance(client, KernelRa):
        with pytest.raises(Unsupported):
            client.release()
        return
    # It may be waiting for the answer to its renewal.
    client.reboot()
    for family in client.families:
        client.lease(family)
    # Not by the server's word: it ignores those of systemd 252, which have no server identifier.
    with Capture(client.node, client.ifname, "udp dst port 67") as seen:
        client.release()
    assert seen.having(r"DHCP-Message \(53\), length 1: Release"), seen
    assert client.ended() and client.addresses(4) == []


def test_no_server(server):
    """No lease is an error that names the client, and time is counted from the boot."""
    with server.guest(15) as node:
        server.stop()
        began = time.time()
        with Udhcpc(node) as client:
            try:
                with pytest.raises(TimeoutError, match="udhcpc on guest15, IPv4: no lease"):
                    client.lease(timeout=0.5)
            finally:
                server.start()
            lease = client.lease()
            assert 0.5 < lease.seconds <= time.time() - began and lease.address == "10.9.0.15/24"


def test_probes(server):
    """dhcpcd as Debian has it: it asks by ARP whether its address is free (RFC 5227)."""
    with server.guest(16) as node, Dhcpcd(node, families=[4]) as client:
        lease = client.lease()
        assert lease.address == "10.9.0.16/24" and lease.seconds > 3


@pytest.mark.parametrize("kind", ["link", "links", "taps"])
def test_storm(server, kind):
    count = 50
    macs = [f"52:54:00:00:00:{number:02x}" for number in range(1, count + 1)]
    with Node("storm") as node:
        if kind == "link":
            server.node.sh(f"ip link add s0 master br0 type veth peer name s0 netns {node.pid}; ip link set s0 up")
            node.run("ip link set s0 up")
            words = ["s0", str(count)]
        elif kind == "links":
            for number, mac in enumerate(macs, 1):
                server.node.sh(f"ip link add s{number} master br0 type veth peer name s{number} address {mac} netns {node.pid}")
                server.node.run(f"ip link set s{number} up")
                node.run(f"ip link set s{number} up")
            words = [f"s{number}" for number in range(1, count + 1)]
        else:
            for number in range(1, count + 1):
                server.node.sh(f"ip tuntap add t{number} mode tap; ip link set t{number} master br0 up")
            words = [f"t{number}={mac}" for number, mac in enumerate(macs, 1)]
        where = server.node if kind == "taps" else node
        done = where.run(["/usr/bin/python3", "-IS", STORM, kind, *words])
        if kind == "taps":
            for number in range(1, count + 1):
                server.node.run(f"ip link del t{number}")
    result = json.loads(done.stdout)
    print({key: value for key, value in result.items() if key not in ("addresses", "latencies")})
    leases = [line.split() for line in server.node.path("/run/leases").read_text().splitlines()]
    given = {row[1]: row[2] for row in leases if row[1] in macs}
    assert result["addresses"] == given and sorted(given) == macs and len(set(given.values())) == count
    assert result["leases"] == len(result["latencies"]) == count and result["naks"] == result["sent_again"] == 0
    assert 0 < result["offer_median"] < result["median"] <= result["longest"] <= result["seconds"] * 1000
