"""Kernel tables that all guests of a host share: no guest takes so much of one that the host or another guest is left without.

The limits of these tables are the machine's, not a namespace's: the tests fill none, they count what a guest puts in.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

import pytest
from lab.capture import Capture
from lab.domains import Interface
from lab.frames import BROADCAST, arp, ip4, solicitation
from lab.guest import Nic, wired
from lab.hostnet import Pinging
from lab.routed import PUBLIC, WORLD4, WORLD6, Plugged, RoutedLab, ping, reach, send
from lab.scan import SCAN, far
from lab.single import Single

BURST, RATE, TOTAL = 100, 20, 100
"""Neighbours that a guest may make the host look for at once, and a second; and all guests together, a second."""
SECONDS = 4
PEERS = 60
FIRST = {4: "192.0.2.100", 6: "2001:db8::1000"}
"""The first address of those that a guest scans."""


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
            far(guest.node)
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


def test_nothing_else_makes_them_known(lab):
    """A neighbour is known on its own link: what comes in by another one from its address does not count."""
    time.sleep(5)
    guest, other = lab.guests["a1"], lab.guests["a2"]
    targets = [f"192.0.2.{last}" for last in range(100, 140)]
    frames = [ip4("02:00:00:00:08:01", target, other.ip4, 17, bytes(8), dst_mac="02:00:00:00:09:01") for target in targets]
    scan(guest, version=4, count=40, seconds=1)
    assert any(target in lab.a.run("nft list set inet vmnet sought4").stdout for target in targets)
    lab.a.sysctl("ipv4/conf/eth9/forwarding", 1)
    try:
        with Capture(other.node, "eth0", "udp") as seen:
            send(lab.router, "mg1", *frames)
    finally:
        lab.a.sysctl("ipv4/conf/eth9/forwarding", 0)
    assert len(seen.lines) >= len(targets), str(seen.lines)
    known = lab.a.run("nft list set inet vmnet known4").stdout
    assert not [target for target in targets if f"{target} " in known], known


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


FILL = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, 501):
    sock.sendto(b"x", (sys.argv[1], port))
"""
BEHIND = '[networks.out]\nmode = "hostroute"\nnetdev = "eth9"\nnat = true\n'


def test_connections_of_a_guest_behind_the_host():
    """The limit is each guest's own, and that of the network goes with its last guest."""
    taken = [Interface(f"52:54:00:cc:00:{n}", f"nat-tap{n}", "out", [f"10.0.9.{n}"]) for n in (16, 17)]
    with Single(BEHIND + "connections = 50\n", foreign=False) as one, ExitStack() as stack:
        one.peer.sh("ip addr add 10.0.1.254/24 dev eth9")
        one.peer.sh("nft add table inet f; nft add chain inet f i '{ type filter hook prerouting priority -300; }'")
        one.peer.run("nft add rule inet f i udp dport 1-1000 drop")

        def tracked() -> int:
            return int(one.host.sysctl("netfilter/nf_conntrack_count"))

        for nic in taken:
            at = Nic(nic.mac, nic.ips[0], 24, f"10.0.9.{int(nic.ips[0][-2:]) + 127}")
            guest = stack.enter_context(wired(one.host, nic.tap, nic.tap, at))
            one.start(nic.tap, nic)
            assert reach([(guest, "10.0.1.254")]) == []
            was = tracked()
            guest.run(["/usr/bin/python3", "-IS", "-c", FILL, "10.0.1.254"])
            assert 40 <= tracked() - was <= 60
            assert ping(guest, "10.0.1.254", 1) is None
        assert one.host.cli("check").stdout == "ok\n"
        one.host.sh("nft flush ruleset")
        assert one.host.cli("repair").returncode == 0 and one.host.cli("check").returncode == 0
        assert "nat-tap16" in one.host.sh("nft list table inet vmnet-shares-out/")
        for nic in taken:
            one.stop(nic.tap, nic)
        assert "vmnet-shares" not in one.host.sh("nft list tables")


def test_switched_off():
    """The host looks for everything, as the kernel does."""
    with RoutedLab(PUBLIC + "limit_neighbours = false\n") as lab:
        lab.start()
        far(lab.guests["a1"].node)
        scan(lab.guests["a1"], version=4, count=150, seconds=1)
        assert looked_for(lab, 4) >= 150
        assert lab.a.cli("check").stdout == "ok\n"
