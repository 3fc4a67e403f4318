"""What guests run, with their filters on: DHCP and SLAAC clients, keepalived, multicast between guests, large frames.

guests eth0 == tap1, tap2 … -- br9, which snoops multicast -- lan0 == lan0 peer
"""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv6Address

import pytest
from lab import frames
from lab.capture import Capture
from lab.datagrams import __file__ as DATAGRAMS
from lab.domains import Interface
from lab.flood import __file__ as FLOOD
from lab.frames import ip4, ip6
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.offload import eui64
from lab.roles import ALERT4, ALERT6, ALL6, LL, MAC, plain, summed
from lab.routed import GATEWAY4, GATEWAY6, PUBLIC, eventually, ping, reach, send
from lab.single import LAN, Single
from lab.transfer import __file__ as TRANSFER

BR9 = '[bridges.br9]\nports = ["lan0"]\naddresses = ["10.7.0.254/24", "2001:db8:7::fe/64"]\n'
SNOOPS = BR9 + LAN.replace("br0", "br9") + "antispoof = true\n"
PYTHON = ["/usr/bin/python3", "-IS"]


def address_of(mac: str, prefix: str = "fe80::") -> str:
    """The address that a MAC makes."""
    return str(IPv6Address(IPv6Address(prefix).packed[:8] + bytes.fromhex(eui64(mac).replace(":", ""))))


@dataclass
class Guests:
    """A bridge, and guests on it: the first has MAC, and 10.7.0.1 and 2001:db8:7::1."""

    one: Single
    stack: ExitStack
    nics: list[Interface] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def add(self, *more: str, roles: Sequence[str] | None = None, configured: bool = True) -> Node:
        """A guest with two addresses and `more`. It has the two itself if it is `configured`."""
        last = len(self.nics) + 1
        ips = (f"10.7.0.{last}", f"2001:db8:7::{last}", *more)
        nic = Interface(f"{MAC[:-2]}{15 + last:02x}", f"tap{last}", "lan", ips, "br9", roles=roles)
        told = Nic(nic.mac, nic.ips[0], ip6=nic.ips[1]) if configured else Nic(nic.mac)
        node = self.stack.enter_context(wired(self.one.host, nic.tap, f"guest{last}", told))
        self.one.start(f"dom{last}", nic)
        self.nics.append(nic)
        self.nodes.append(node)
        return node

    def hosts_bridge(self, **options: object) -> None:
        for name, value in options.items():
            self.one.host.run(f"ip link set br9 type bridge {name} {value}")


@pytest.fixture
def lan() -> Iterator[Guests]:
    with Single(SNOOPS, foreign=False) as one, ExitStack() as stack:
        plain(one.host)
        one.host.sh("ip link set lan0 nomaster; ip link del br0")
        assert one.host.cli("up").returncode == 0
        guests = Guests(one, stack)
        yield guests
        assert one.host.cli("check").stdout == "ok\n"
        for number, nic in enumerate(guests.nics, 1):
            one.stop(f"dom{number}", nic)


# --- addresses -----------------------------------------------------------------------------------------------------------

SCRIPT = """#!/bin/sh
case "$1$reason" in
bound | renew) ip addr replace $ip/24 dev $interface ;;
BOUND | RENEW) ip addr replace $new_ip_address/24 dev $interface ;;
esac
"""
CLIENTS = {
    "udhcpc": "busybox udhcpc -f -n -q -t 5 -T 1 -i eth0 -s /run/script",
    "dhclient": "dhclient -4 -1 -d -i eth0 -sf /run/script -lf /run/client -pf /run/client.pid -cf /dev/null",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_dhcp_client_and_a_guest_that_serves(lan, client):
    server, node = lan.add(roles=["dhcp-server"]), lan.add(configured=False)
    address, mac = lan.nics[1].ips[0], lan.nics[1].mac
    server.write("/run/leases", "")
    server.write(
        "/run/udhcpd.conf",
        f"start 10.7.0.100\nend 10.7.0.120\ninterface eth0\nlease_file /run/leases\nstatic_lease {mac} {address}\n"
        "option subnet 255.255.255.0\n",
    )
    server.popen(["busybox", "udhcpd", "-f", "/run/udhcpd.conf"], stdout=-3, stderr=-3)
    node.write("/run/script", SCRIPT)
    node.sh("chmod 755 /run/script; : > /run/client")
    running = node.popen(CLIENTS[client].split(), stdout=-3, stderr=-3)
    assert eventually(lambda: f"inet {address}/24" in node.run("ip addr show dev eth0").stdout, 15), running.poll()
    assert ping(node, "10.7.0.1") is not None


def test_a_slaac_guest_and_one_that_routes(lan):
    """The address is the one that its MAC makes, duplicate address detection included; a guest without the role offers none."""
    router, rogue = lan.add(roles=["router"]), lan.add()
    own = address_of(f"{MAC[:-2]}12", "2001:db8:7::")
    node = lan.add(own, configured=False)
    node.sh("cd /proc/sys/net/ipv6/conf/eth0; echo 1 > accept_ra; echo 1 > accept_dad")

    def offered(source: Node, mac: str, prefix: str) -> None:
        send(source, "eth0", frames.router_advertisement(mac, address_of(mac), prefix))

    offered(rogue, lan.nics[1].mac, "2001:db8:bad::")
    offered(router, lan.nics[0].mac, "2001:db8:7::")
    shown = "ip -6 addr show dev eth0 scope global"
    assert eventually(lambda: own in node.run(f"{shown} -tentative").stdout, 10), node.run(shown).stdout
    assert "2001:db8:bad" not in node.run(shown).stdout and "dadfailed" not in node.run(shown).stdout
    assert ping(node, "2001:db8:7::1") is not None
    assert f"via {address_of(lan.nics[0].mac)}" in node.run("ip -6 route show default").stdout


# --- keepalived ----------------------------------------------------------------------------------------------------------

SHARED4, SHARED6, SHARED_LL = "10.7.0.66", "2001:db8:7::66", "fe80::66"
KEEPALIVED = """
global_defs {{
    vrrp_version 3
}}
vrrp_instance V {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.3
    {more}
    virtual_ipaddress {{
        {addresses}
    }}
}}
"""
VIRTUAL_MAC = "00:00:5e:00:0[12]:33"


def keepalived(node: Node, priority: int, addresses: Sequence[str], more: str = "") -> subprocess.Popen:
    listed = "\n        ".join(addresses)
    node.write("/run/ka.conf", KEEPALIVED.format(priority=priority, addresses=listed, more=more))
    words = "keepalived --dont-fork --vrrp --log-console -f /run/ka.conf -p /run/ka.pid -r /run/vrrp.pid"
    return node.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def has(node: Node, address: str) -> bool:
    return f" {address}/" in node.run("ip addr show").stdout


@pytest.mark.parametrize("addresses", [(SHARED4,), (SHARED_LL, SHARED6)], ids=["IPv4", "IPv6"])
def test_keepalived(lan, addresses):
    """Two guests that declare the address, and one that uses it: the master goes, the other takes over, the first comes back."""
    service = addresses[-1]
    first, second, user = lan.add(*addresses), lan.add(*addresses), lan.add()
    written = [f"{address}/{64 if ':' in address else 24}" for address in addresses]
    with Capture(user, "eth0", "vrrp or ip6 proto 112") as seen:
        keepalived(first, 150, written)
        assert eventually(lambda: has(first, service), 15)
        keepalived(second, 100, written)
        assert eventually(lambda: ping(user, service, 1) is not None, 10)
        assert not has(second, service), "it hears the master"
        before = user.run(f"ip neigh show {service}").stdout
        # As if the machine had lost its power, but for what it has answered for since.
        first.sh("kill -9 $(cat /run/ka.pid) $(cat /run/vrrp.pid); rm /run/ka.pid /run/vrrp.pid")
        for address in written:
            first.run(["ip", "addr", "del", address, "dev", "eth0"], check=False)
        assert eventually(lambda: has(second, service), 10) and not has(first, service)
        assert eventually(lambda: ping(user, service, 1) is not None, 5)
        after = user.run(f"ip neigh show {service}").stdout
        assert lan.nics[0].mac in before and lan.nics[1].mac in after, "its neighbour was told"
        keepalived(first, 150, written)
        assert eventually(lambda: has(first, service) and not has(second, service), 15)
        assert eventually(lambda: ping(user, service, 1) is not None, 5)
    assert seen.having(re.escape(lan.nics[0].mac)) and seen.having(re.escape(lan.nics[1].mac)), seen


def test_keepalived_with_an_address_that_is_not_declared(lan):
    """The guest takes the address for its own, and the others hear nothing of it."""
    first, user = lan.add(), lan.add()
    with Capture(user, "eth0", "vrrp or arp") as seen:
        keepalived(first, 150, [f"{SHARED4}/24"])
        assert eventually(lambda: has(first, SHARED4), 15)
        assert ping(user, SHARED4, 1) is None
    assert not [line for line in seen.having(re.escape(lan.nics[0].mac)) if SHARED4 in line or "vrrp" in line], seen


def test_keepalived_with_a_virtual_mac(lan):
    """It is not the NIC's: nothing leaves from it, so that the address is not reached. What the guest sends besides does."""
    first, user = lan.add(SHARED4), lan.add()
    with Capture(user, "eth0", "") as seen:
        keepalived(first, 150, [f"{SHARED4}/24"], "use_vmac")
        assert eventually(lambda: has(first, SHARED4), 15)
        assert re.search(VIRTUAL_MAC, first.run("ip link").stdout)
        assert ping(user, SHARED4, 1) is None
        assert ping(user, "10.7.0.1") is not None
    assert not seen.having(VIRTUAL_MAC + " > "), seen


# --- multicast -----------------------------------------------------------------------------------------------------------


class Listening:
    """A program of a guest that has joined a group, or waits at an address."""

    def __init__(self, node: Node, address: str, port: int, ifname: str = "eth0", answers: bool = False):
        self.output = tempfile.TemporaryFile("w+")
        self.process = node.popen(
            [*PYTHON, DATAGRAMS, "answer" if answers else "listen", ifname, address, port], stdout=self.output
        )
        assert eventually(lambda: "ready\n" in self.text)

    @property
    def text(self) -> str:
        return os.pread(self.output.fileno(), 1 << 16, 0).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def say(node: Node, address: str, port: int, *texts: str) -> None:
    node.run([*PYTHON, DATAGRAMS, "send", "eth0", address, port, *texts])


def query(version: str) -> bytes:
    """A query of the first guest's, to be answered within half a second."""
    # Of the newer versions: the robustness, the interval, no sources.
    more = struct.pack("!BBH", 2, 1, 0) if version in ("IGMPv3", "MLDv2") else b""
    if "IGMP" in version:
        return ip4(MAC, "10.7.0.1", "224.0.0.1", 2, summed(struct.pack("!BBHI", 0x11, 5, 0, 0) + more), options=ALERT4)
    body = struct.pack("!BBHHH16x", 130, 0, 0, 500, 0) + more
    return frames.extended(ip6(ALL6, MAC, LL, "ff02::1", 58, body, 2, hops=1), ALERT6)


GROUP = {4: "239.1.2.3", 6: "ff0e::123"}


@pytest.mark.parametrize("querier", ["the bridge", "a guest"])
@pytest.mark.parametrize("version", ["IGMPv2", "IGMPv3", "MLDv1", "MLDv2"])
def test_television(lan, version, querier):
    """A guest sends to a group; who has joined gets it for longer than a membership lasts, and no other guest does."""
    family, group = (4, GROUP[4]) if "IGMP" in version else (6, GROUP[6])
    roles = ["querier"] if querier == "a guest" else None
    sender, joined, other = lan.add(roles=roles), lan.add(), lan.add()
    protocol = version[:-2].lower()
    joined.sysctl(f"ipv{family}/conf/eth0/force_{protocol}_version", version[-1])
    lan.hosts_bridge(mcast_membership_interval=300, mcast_query_interval=100, mcast_query_response_interval=50)
    if querier == "the bridge":
        lan.hosts_bridge(**{f"mcast_{protocol}_version": version[-1]}, mcast_startup_query_interval=50, mcast_querier=1)
    else:
        words = [*PYTHON, FLOOD, "eth0", "1000", query(version).hex()]
        sender.popen(words, stdout=-1).stdout.readline()
    member = Listening(joined, group, 5000)
    entry = f"port tap2 grp {group}"
    assert eventually(lambda: entry in lan.one.host.run("bridge mdb show dev br9").stdout, 10)
    with Capture(other, "eth0", "udp port 5000") as unasked, Capture(joined, "eth0", "igmp or ip6[6] == 0") as reports:
        Capture.pause(5)
        say(sender, group, 5000, *(f"frame {number}" for number in range(20)))
        assert eventually(lambda: "frame 19" in member.text), member.text
    assert [f"frame {number}" in member.text for number in range(20)] == [True] * 20
    assert unasked.lines == [], unasked
    assert len(reports.having(re.escape(lan.nics[1].mac) + " > ", group)) > 2, f"it reports when it is asked\n{reports}"
    member.close()
    assert eventually(lambda: entry not in lan.one.host.run("bridge mdb show dev br9").stdout, 10)


@pytest.mark.parametrize("group", ["224.0.0.251", "ff02::fb"])
def test_mdns(lan, group):
    """Guests ask and answer one another, with a querier on the bridge."""
    asks, answers, third = lan.add(), lan.add(), lan.add()
    lan.hosts_bridge(mcast_startup_query_interval=50, mcast_querier=1)
    waiting, heard = [Listening(node, group, 5353) for node in (asks, third)]
    Listening(answers, group, 5353, answers=True)
    Capture.pause(3)
    say(asks, group, 5353, "?printer.local")
    own = lan.nics[1].ips[0] if "." in group else address_of(lan.nics[1].mac)
    for each in (waiting, heard):
        assert eventually(lambda each=each: f"{own} 14 !printer.local" in each.text), each.text


# --- large frames --------------------------------------------------------------------------------------------------------

LARGE = 9000


@pytest.fixture(params=["bridged", "routed"])
def large(request) -> Iterator[tuple[Node, Node, tuple[str, str], str]]:
    """A guest and a machine beyond the host's link, all of whose links have an MTU of 9,000; and the addresses of both."""
    mac = "52:54:00:aa:00:0a"
    with Single(PUBLIC + LAN, foreign=False) as one, ExitStack() as stack:
        plain(one.host)
        if request.param == "bridged":
            own, peers, far = ("10.7.0.10", "2001:db8:7::10"), ("10.7.0.1", "2001:db8:7::1"), "lan0"
            one.host.sh(f"ip link set lan0 mtu {LARGE}; ip link set br0 mtu {LARGE}")
            nic, told = Interface(mac, "tap1", "lan", own, "br0"), Nic(mac, own[0], ip6=own[1])
        else:
            own, peers, far = ("192.0.2.10", "2001:db8::10"), (GATEWAY4, GATEWAY6), "wire0"
            one.host.config(PUBLIC + f"mtu = {LARGE}\n")
            one.segment.plug(one.peer, far, "02:00:00:00:00:01")
            one.segment.sh(f"for p in $(ls /sys/class/net/br0/brif) br0; do ip link set $p mtu {LARGE}; done")
            one.host.run(f"ip link set up0 mtu {LARGE}")
            nic, told = Interface(mac, "tap1", "public", own), Nic(mac, own[0], 24, GATEWAY4, own[1], GATEWAY6)
        one.peer.sh(f"""
            ip link set {far} mtu {LARGE}
            ip addr add {peers[0]}/24 dev {far}; ip -6 addr add {peers[1]}/64 dev {far} nodad
        """)
        guest = stack.enter_context(wired(one.host, "tap1", "guest", told))
        guest.run(f"ip link set eth0 mtu {LARGE}")
        one.host.run(f"ip link set tap1 mtu {LARGE}")
        one.start("dom1", nic)
        table = {"bridged": "bridge", "routed": "inet"}[request.param]
        assert '"tap1"' in one.host.run(f"nft list set {table} vmnet checked").stdout
        assert eventually(lambda: reach([(guest, peer) for peer in peers], 1) == [])
        yield guest, one.peer, peers, far
        one.stop("dom1", nic)


@pytest.mark.parametrize("offloads", ["on", "off"])
@pytest.mark.parametrize("version", [4, 6])
def test_large_frames(large, version, offloads):
    """Pings, datagrams and TCP of full size, whole and in parts, whether the guest sums up what it sends or the host does."""
    guest, peer, peers, far = large
    address, head = peers[version == 6], 20 + 20 * (version == 6)
    guest.run(f"ethtool -K eth0 tx {offloads} tso {offloads} gso {offloads}")
    pings = [(LARGE - head - 8, "do"), (40000, "dont")]
    for size, mode in pings:
        guest.run(["ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", mode, "-s", size, address])
    listener = Listening(peer, address, 5001, far)
    for size in (LARGE - head - 8, 30000):
        say(guest, address, 5001, "x" * size)
        assert eventually(lambda size=size: f" {size} xxx" in listener.text), (size, listener.text)
    listener.close()
    port = random.randrange(20000, 30000)
    serving = peer.popen([*PYTHON, TRANSFER, "listen", address, port], stdout=-1)
    assert serving.stdout.readline() == "ready\n"
    busy = guest.popen([*PYTHON, TRANSFER, "connect", address, port], stdin=-1, stdout=-1)
    assert busy.stdout.readline() == "ready\n"
    Capture.pause(1)
    said = busy.communicate("\n", timeout=20)[0].splitlines()
    assert said[-1].startswith("intact ") and int(said[-1].split()[1]) > 100_000, said
    assert serving.communicate(timeout=20)[0].startswith("intact ")
    for node, process in ((guest, busy), (peer, serving)):
        node.children.remove(process)
