"""Kernel tables that all guests of a host share: no guest takes so much of one that the host or another guest is left without.

The limits of these tables are the machine's, not a namespace's: the tests fill none, they count what a guest puts in.
"""

from __future__ import annotations

import re
import time

import pytest
from lab.frames import BROADCAST, arp, solicitation
from lab.hostnet import Pinging
from lab.routed import GATEWAY4, GATEWAY6, PUBLIC, WORLD4, WORLD6, Plugged, RoutedLab, ping, reach, send

BURST, RATE, TOTAL = 100, 20, 100
"""Neighbours that a guest may make the host look for at once, and a second; and all guests together, a second."""
SECONDS = 4
PEERS = 60
FIRST = {4: "192.0.2.100", 6: "2001:db8::1000"}
"""The first address of those that a guest scans."""

SCAN = """
import socket, sys, time
source, first, count, seconds, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
family = socket.AF_INET6 if ":" in source else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind((source, 0))
base, size = int.from_bytes(socket.inet_pton(family, first), "big"), 16 if family == socket.AF_INET6 else 4
start, sent = time.monotonic(), 0
while time.monotonic() < start + seconds:
    sock.sendto(b"x", (socket.inet_ntop(family, (base + sent % count).to_bytes(size, "big")), 9))
    sent += 1
    time.sleep(max(0, start + sent / rate - time.monotonic()))
"""


def far(guest: Plugged) -> None:
    """Let a guest send to its subnet by way of the host without ARP and ND: it needs no answer to send."""
    guest.node.sh(f"""
        ip route replace 192.0.2.0/24 via {GATEWAY4} dev eth0 onlink
        ip -6 route replace 2001:db8::/64 via {GATEWAY6} dev eth0 onlink
    """)


def scan(*guests: Plugged, version: int, count: int, seconds: float = SECONDS, rate: int = 400) -> None:
    """Guests send to `count` addresses of their subnet, in turn, `rate` a second each."""
    running = []
    for guest in guests:
        words = guest.ip4 if version == 4 else guest.ip6, FIRST[version], count, seconds, rate
        running.append((guest, guest.node.popen(["/usr/bin/python3", "-IS", "-c", SCAN, *words])))
    for guest, process in running:
        assert process.wait(seconds + 20) == 0
        guest.node.children.remove(process)


def looked_for(lab: RoutedLab, version: int) -> int:
    """How many neighbours the host knows, or looks for, on its uplink."""
    return len(lab.a.run(f"ip -{version} neigh show dev up0").stdout.splitlines())


def counted(lab: RoutedLab) -> list[int]:
    """What the limits have dropped: of a guest, of IPv4, of IPv6."""
    shown = lab.a.run("nft list chain inet vmnet neighbours").stdout
    return list(map(int, re.findall(r"counter packets (\d+)", shown)))


@pytest.fixture(scope="module")
def lab():
    with RoutedLab() as running:
        running.start()
        for guest in running.guests.values():
            far(guest)
        # Real neighbours of the guests: the router has their addresses.
        running.router.sh(f"for n in $(seq {PEERS}); do ip addr add 192.0.2.$((30 + n))/32 dev eth0; done")
        yield running


@pytest.mark.parametrize("version", [4, 6])
def test_a_scan_is_limited(lab, version):
    """The other guest, the host and the guest's own known neighbours have what they had."""
    guest, other, peer = lab.guests["a1"], lab.guests["a2"], lab.guests["b1"]
    assert reach([(guest.node, peer.ip4), (guest.node, peer.ip6)]) == []
    lab.a.run("ip neigh flush dev up0")
    before = looked_for(lab, version)
    with Pinging(guest.node, peer.ip4 if version == 4 else peer.ip6) as known:
        began = time.monotonic()
        scan(guest, version=version, count=100 + 150 * (version == 6))
        found, took = looked_for(lab, version) - before, time.monotonic() - began
        new = lab.guests["b2"]
        assert reach([(other.node, new.ip4 if version == 4 else new.ip6), (guest.node, WORLD4), (guest.node, WORLD6)]) == []
    assert 0 < found <= BURST + RATE * took + 3, found
    assert known.lost == 0


def test_of_all_guests_together(lab):
    """What hostile guests take together is limited too, and who is known stays known."""
    lab.a.run("ip neigh flush dev up0")
    both = [lab.guests["a1"], lab.guests["a2"]]
    time.sleep(5)
    before, dropped = looked_for(lab, 6), counted(lab)
    began = time.monotonic()
    scan(*both, version=6, count=300, seconds=1, rate=5000)
    assert looked_for(lab, 6) - before <= TOTAL + TOTAL * (time.monotonic() - began) + 3
    assert [now > then for now, then in zip(counted(lab), dropped, strict=True)][::2] == [True, True]


def test_many_real_neighbours(lab):
    """A guest that talks to all of them at once meets no limit."""
    time.sleep(5)
    guest, dropped = lab.guests["a1"], counted(lab)
    lab.a.run("ip neigh flush dev up0")
    peers = [(guest.node, f"192.0.2.{30 + n}") for n in range(1, PEERS + 1)]
    assert reach(peers) == []
    assert counted(lab) == dropped
    known = lab.a.run("nft list set inet vmnet known4").stdout
    assert all(f"{address} timeout 5m" in known for _, address in peers)
    # They need nothing of what is limited any more.
    scan(guest, version=6, count=300, seconds=1)
    assert reach(peers) == []


def test_questions_to_the_host_as_a_proxy(lab):
    """The host answers for addresses that it does not look for."""
    guest = lab.guests["a1"]
    before = [looked_for(lab, version) for version in (4, 6)]
    own = guest.nic.mac
    asked = [arp(1, own, guest.ip4, f"192.0.2.{last}", dst=BROADCAST) for last in range(110, 250)]
    asked += [solicitation(own, guest.ip6, f"2001:db8::2:{last:x}") for last in range(140)]
    send(guest.node, "eth0", *asked)
    time.sleep(0.5)
    assert all(looked_for(lab, version) <= known for version, known in zip((4, 6), before, strict=True))


def test_the_records_know_only_what_is_ours(lab):
    """What the rules remember for a time is no difference."""
    assert ping(lab.guests["a1"].node, lab.guests["b1"].ip4) is not None
    assert lab.a.cli("check").stdout == "ok\n"


def test_switched_off():
    """The host looks for everything, as the kernel does."""
    with RoutedLab(PUBLIC + "limit_neighbours = false\n") as lab:
        lab.start()
        far(lab.guests["a1"])
        scan(lab.guests["a1"], version=4, count=150, seconds=1)
        assert looked_for(lab, 4) >= 150
        assert lab.a.cli("check").stdout == "ok\n"
