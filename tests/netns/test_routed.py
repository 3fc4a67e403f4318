"""The routed mode as seen on the wires: router, two hypervisors, two guests each, IPv4 and IPv6. See lab/routed.py."""

from __future__ import annotations

import re
import statistics
from itertools import permutations

import pytest
from lab import frames
from lab.capture import Capture
from lab.nodes import HOOK
from lab.routed import (
    ARP_SOURCE,
    GATEWAY4,
    GATEWAY6,
    PUBLIC,
    ROUTER_MAC,
    TAP_MAC,
    WORLD4,
    WORLD6,
    RoutedLab,
    call,
    eventually,
    ping,
    reach,
    send,
)

DYNAMIC = PUBLIC + "permanent_neighbours = false\n"


@pytest.fixture(scope="module")
def plain():
    """The lab before any guest has started."""
    with RoutedLab() as lab:
        yield lab


@pytest.fixture(scope="module")
def lab(plain):
    """The lab with all four guests running."""
    plain.start()
    yield plain


@pytest.fixture
def dynamic(lab):
    """The same lab without permanent neighbour entries, so that the hosts have to ask."""
    lab.stop()
    lab.reconfigure(DYNAMIC)
    lab.start()
    yield lab
    lab.stop()
    lab.reconfigure(PUBLIC)
    lab.start()


def everybody(lab: RoutedLab, ipv4: bool = True, ipv6: bool = True, hosts: bool = True):
    """All pairs that the routed mode promises."""

    def both(v4: str, v6: str):
        return ([v4] if ipv4 else []) + ([v6] if ipv6 else [])

    guests = list(lab.guests.values())
    pairs = [(guest.node, target) for guest in guests for target in both(GATEWAY4, GATEWAY6) + both(WORLD4, WORLD6)]
    pairs += [(one.node, target) for one, other in permutations(guests, 2) for target in both(other.ip4, other.ip6)]
    if hosts:
        pairs += [(host, target) for host in lab.hosts for guest in guests for target in both(guest.ip4, guest.ip6)]
    return pairs


# --- who reaches whom -----------------------------------------------------------------------------------------------


def test_first_ping(lab):
    """No random proxy delay (up to 0.8 s by default) before a first packet: under 50 ms, in both families."""
    guest = lab.guests["a1"].node
    for target in (
        GATEWAY4,
        GATEWAY6,
        lab.guests["b1"].ip4,
        lab.guests["b1"].ip6,
        lab.guests["a2"].ip4,
        lab.guests["a2"].ip6,
    ):
        times = []
        # The median of three first pings: one alone also measures who else wanted this machine's processors.
        for _ in range(3):
            lab.forget_neighbours()
            times.append(ping(guest, target))
        assert None not in times, f"{target}: no answer in {times}"
        assert statistics.median(times) < 50, f"{target}: {times} ms"


@pytest.mark.parametrize("family", [4, 6])
def test_everybody_reaches_everybody(lab, family):
    """Guest to gateway and beyond, to guests of the same and the other host; hosts to guests here and there."""
    assert reach(everybody(lab, ipv4=family == 4, ipv6=family == 6)) == []


@pytest.mark.parametrize("family", [4, 6])
def test_everybody_without_permanent_neighbours(dynamic, family):
    dynamic.forget_neighbours()
    assert reach(everybody(dynamic, ipv4=family == 4, ipv6=family == 6)) == []


def test_the_world_reaches_guests(lab):
    lab.forget_neighbours()
    assert reach((lab.router, ip) for guest in lab.guests.values() for ip in guest.nic.ips) == []


# --- ARP and ND -----------------------------------------------------------------------------------------------------


def test_guest_asks_for_gateway_and_gets_the_taps_mac(lab):
    a1 = lab.guests["a1"]
    lab.forget_neighbours()
    with Capture(a1.node, "eth0", "arp or icmp6") as seen:
        assert ping(a1.node, GATEWAY4) and ping(a1.node, GATEWAY6)
    replies = seen.having(rf"Reply {GATEWAY4} is-at")
    assert replies and all(f"is-at {TAP_MAC}" in line and line.startswith(TAP_MAC) for line in replies), str(seen)
    replies = seen.having(rf"neighbor advertisement.* tgt is {GATEWAY6},")
    assert replies and all(line.startswith(TAP_MAC) for line in replies), str(seen)
    assert TAP_MAC in a1.node.run(f"ip neigh show {GATEWAY4}").stdout
    assert TAP_MAC in a1.node.run(f"ip neigh show {GATEWAY6}").stdout


def test_guest_asks_for_its_peers_and_gets_the_taps_mac(lab):
    a1 = lab.guests["a1"]
    for peer in ("a2", "b1"):
        lab.forget_neighbours()
        with Capture(a1.node, "eth0", "arp") as seen:
            assert ping(a1.node, lab.guests[peer].ip4)
        assert seen.having(rf"Reply {lab.guests[peer].ip4} is-at {TAP_MAC}"), str(seen)


def who_has(seen: Capture, target: str) -> list[str]:
    """The senders of the ARP requests for `target` that were seen."""
    return [
        found[1]
        for line in seen.lines
        if (found := re.search(rf"Request who-has {re.escape(target)}(?: \([0-9a-f:]+\))? tell ([0-9.]+)", line))
    ]


def test_host_asks_for_guest_as_the_gateway(dynamic):
    a1 = dynamic.guests["a1"]
    dynamic.forget_neighbours()
    with Capture(a1.node, "eth0", "arp") as seen:
        assert ping(a1.host, a1.ip4)
    assert set(who_has(seen, a1.ip4)) == {GATEWAY4}, str(seen)


def test_host_asks_for_guest_as_the_gateway_when_its_entry_was_deleted(lab):
    """Permanent entries are there, but the ARP sender must be right without them too."""
    a1 = lab.guests["a1"]
    a1.host.run(f"ip neigh del {a1.ip4} dev {a1.nic.tap}")
    try:
        with Capture(a1.node, "eth0", "arp") as seen:
            assert ping(a1.host, a1.ip4)
        assert set(who_has(seen, a1.ip4)) == {GATEWAY4}, str(seen)
    finally:
        a1.host.run(f"ip neigh replace {a1.ip4} lladdr {a1.nic.mac} dev {a1.nic.tap} nud permanent")


def test_host_does_not_ask_for_guests_it_knows(lab):
    """A permanent neighbour entry per address: not one ARP request, not one solicitation."""
    a1 = lab.guests["a1"]
    lab.forget_neighbours()
    with Capture(a1.node, "eth0", "arp or icmp6") as seen:
        assert ping(a1.host, a1.ip4) and ping(a1.host, a1.ip6)
    assert not who_has(seen, a1.ip4), str(seen)
    assert not seen.having("neighbor solicitation", rf"who has {a1.ip6}\b"), str(seen)


def test_host_asks_for_gateway_as_arp_source(lab):
    a1 = lab.guests["a1"]
    lab.forget_neighbours()
    with Capture(lab.router, "eth0", "arp") as seen:
        assert ping(a1.node, GATEWAY4)
    asked = seen.having(rf"who-has {GATEWAY4} ")
    assert asked and all(line.startswith(lab.mac_of(lab.a)) for line in asked), str(seen)
    assert set(who_has(seen, GATEWAY4)) == {ARP_SOURCE}, str(seen)


def test_host_asks_for_guests_elsewhere_as_arp_source(lab):
    lab.forget_neighbours()
    with Capture(lab.a, "up0", "arp") as seen:
        assert ping(lab.a, lab.guests["b1"].ip4)
    assert ARP_SOURCE in who_has(seen, lab.guests["b1"].ip4), str(seen)
    own = [line for line in seen.having("Request who-has") if line.startswith(lab.mac_of(lab.a))]
    # But for guests that were started a moment ago, and are announced once more.
    own = [line for line in own if not re.search(r"who-has (\S+) tell \1,", line)]
    assert own and all(f"tell {ARP_SOURCE}" in line for line in own), str(seen)


def test_router_asks_for_guest_and_gets_the_uplinks_mac(lab):
    for name in ("a1", "b1"):
        guest = lab.guests[name]
        mac = lab.mac_of(guest.host)
        lab.forget_neighbours()
        with Capture(lab.router, "eth0", "arp or icmp6") as seen:
            assert ping(lab.router, guest.ip4) and ping(lab.router, guest.ip6)
        replies = seen.having(rf"Reply {guest.ip4} is-at")
        assert replies and all(f"is-at {mac}" in line for line in replies), str(seen)
        replies = seen.having(rf"neighbor advertisement.* tgt is {guest.ip6},")
        assert replies and all(line.startswith(mac) for line in replies), str(seen)
        for ip in guest.nic.ips:
            assert f"lladdr {mac}" in lab.router.run(f"ip neigh show {ip}").stdout


def test_nobody_answers_for_an_address_that_nobody_has(lab):
    """The segment is not proxied: the question of the router for an unused address stays open."""
    lab.forget_neighbours()
    with Capture(lab.router, "eth0", "arp or icmp6") as seen:
        assert ping(lab.router, "192.0.2.77", wait=1) is None
        assert ping(lab.router, "2001:db8::77", wait=1) is None
    assert who_has(seen, "192.0.2.77") and not seen.having("Reply 192.0.2.77"), str(seen)
    assert not seen.having("neighbor advertisement", "2001:db8::77"), str(seen)


# --- announcements --------------------------------------------------------------------------------------------------


def announced(seen: Capture, mac: str, ip4: str, ip6: str) -> dict[str, bool]:
    """Which of the announcements were seen. tcpdump prints a gratuitous request as "Announcement" or as "who-has X tell
    X"."""
    return {
        "request": bool(seen.having(rf"^{mac} > ff:ff:ff:ff:ff:ff", rf"Announcement {ip4}\b|who-has {ip4} .*tell {ip4}\b")),
        "reply": bool(seen.having(rf"^{mac} > ff:ff:ff:ff:ff:ff", rf"Reply {ip4} is-at {mac}")),
        "NA": bool(
            seen.having(
                rf"^{mac} > 33:33:00:00:00:01",
                rf"neighbor advertisement.* tgt is {ip6}, Flags \[.*override.*\]",
                rf"destination link-address option.*{mac}",
            )
        ),
    }


def test_announcements(lab):
    """`started` announces each address on the uplink: ARP in request and in reply form, NA with Override; `start` does
    not."""
    a1 = lab.guests["a1"]
    announced_all(a1.host)
    lab.stop(a1)
    with Capture(lab.router, "eth0", "arp or icmp6") as early:
        call(a1.host, a1.domain, "start", a1.nic)
    assert not any(announced(early, lab.mac_of(a1.host), a1.ip4, a1.ip6).values()), str(early)
    with Capture(lab.router, "eth0", "arp or icmp6") as seen:
        call(a1.host, a1.domain, "started", a1.nic)
        announced_all(a1.host)
    assert announced(seen, lab.mac_of(a1.host), a1.ip4, a1.ip6) == {"request": True, "reply": True, "NA": True}, str(seen)


def announced_all(host) -> None:
    """Wait for the hooks' detached children, which announce (twice) after the hook itself has returned."""

    def announcing() -> bool:
        return any(str(HOOK) in host.command(pid) for pid in host.processes())

    assert eventually(lambda: not announcing()), "a hook's child never ends"


def test_announcements_move_a_stale_entry(lab):
    """The router's entry moves at once when the guest appears on another host: the announcement is heard."""
    a1 = lab.guests["a1"]
    with Capture(lab.router, "eth0", "arp") as seen:
        call(a1.host, a1.domain, "started", a1.nic)
        announced_all(a1.host)
    assert seen.having(rf"Reply {a1.ip4} is-at"), str(seen)
    # A stale entry as a guest's old host leaves it.
    other = lab.mac_of(lab.b)
    lab.router.run(f"ip neigh replace {a1.ip4} lladdr {other} dev eth0 nud reachable")
    lab.router.run(f"ip neigh replace {a1.ip6} lladdr {other} dev eth0 nud reachable")
    call(a1.host, a1.domain, "started", a1.nic)
    for ip in a1.nic.ips:
        assert eventually(lambda ip=ip: lab.mac_of(lab.a) in lab.router.run(f"ip neigh show {ip}").stdout), lab.router.run(
            "ip neigh"
        ).stdout


# --- duplicate address detection ------------------------------------------------------------------------------------


def test_own_probe_is_not_answered(lab):
    """A guest that checks its own address must not hear from its own host, or it would give the address up."""
    a1 = lab.guests["a1"]
    lab.forget_neighbours()
    with Capture(a1.node, "eth0", "arp or icmp6") as seen:
        done = a1.node.run(["arping", "-D", "-c", "2", "-w", "2", "-I", "eth0", a1.ip4], check=False)
        send(
            a1.node,
            "eth0",
            frames.arp(1, a1.nic.mac, "0.0.0.0", a1.ip4),
            frames.arp(1, a1.nic.mac, a1.ip4, a1.ip4),
            frames.solicitation(a1.nic.mac, "::", a1.ip6, lladdr=False),
        )
        seen.pause(0.5)
    assert done.returncode == 0, done.stdout
    assert seen.having(rf"who-has {a1.ip4}"), str(seen)
    assert not seen.having(rf"Reply {a1.ip4}\b"), str(seen)
    assert seen.having(rf"who has {a1.ip6}\b"), str(seen)
    assert not seen.having(rf"neighbor advertisement.* tgt is {a1.ip6},"), str(seen)


# --- the source filter ----------------------------------------------------------------------------------------------

OTHER_MAC = "52:54:00:ee:ee:ee"


def spoofs(lab: RoutedLab) -> dict[str, bytes]:
    """Frames of guest a1 that lie about exactly one thing each. All UDP goes to the world's port 7."""
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    mac = a1.nic.mac
    return {
        "MAC, IPv4": frames.udp4(TAP_MAC, OTHER_MAC, a1.ip4, WORLD4, 7),
        "MAC, IPv6": frames.udp6(TAP_MAC, OTHER_MAC, a1.ip6, WORLD6, 7),
        "IPv4 of a peer": frames.udp4(TAP_MAC, mac, a2.ip4, WORLD4, 7),
        "IPv4 of the gateway": frames.udp4(TAP_MAC, mac, GATEWAY4, WORLD4, 7),
        "IPv4 unused": frames.udp4(TAP_MAC, mac, "192.0.2.99", WORLD4, 7),
        "IPv4 foreign": frames.udp4(TAP_MAC, mac, "203.0.113.9", WORLD4, 7),
        "IPv6 of a peer": frames.udp6(TAP_MAC, mac, a2.ip6, WORLD6, 7),
        "IPv6 unused": frames.udp6(TAP_MAC, mac, "2001:db8::99", WORLD6, 7),
        "IPv6 foreign": frames.udp6(TAP_MAC, mac, "2001:db8:bad::9", WORLD6, 7),
        "IPv4 from zero": frames.udp4(TAP_MAC, mac, "0.0.0.0", WORLD4, 7),
    }


def honest(lab: RoutedLab) -> list[bytes]:
    a1 = lab.guests["a1"]
    return [frames.udp4(TAP_MAC, a1.nic.mac, a1.ip4, WORLD4, 9), frames.udp6(TAP_MAC, a1.nic.mac, a1.ip6, WORLD6, 9)]


def test_spoofed_packets_do_not_get_out(lab):
    a1 = lab.guests["a1"]
    assert reach([(a1.node, WORLD4), (a1.node, WORLD6)]) == []
    with Capture(lab.router, "eth0", "udp") as seen:
        for frame in spoofs(lab).values():
            send(a1.node, "eth0", frame)
        send(a1.node, "eth0", *honest(lab))
        seen.pause(0.3)
    # The honest ones came after the others: had those passed, they would have been seen.
    assert seen.having(rf"{WORLD4}\.9:") and seen.having(rf"{WORLD6}\.9:"), str(seen)
    assert not seen.having(r"\.7:"), str(seen)


def test_spoofed_arp_is_not_answered_nor_learnt(lab):
    """Neither the host nor anybody behind it hears a guest that claims another's address or MAC in ARP."""
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    with Capture(a1.node, "eth0", "arp") as seen, Capture(lab.router, "eth0", "arp") as outside:
        send(
            a1.node,
            "eth0",
            frames.arp(1, a1.nic.mac, a2.ip4, "192.0.2.50"),
            frames.arp(1, a1.nic.mac, a2.ip4, GATEWAY4),
            frames.arp(1, OTHER_MAC, a1.ip4, GATEWAY4),
            frames.arp(1, OTHER_MAC, a1.ip4, GATEWAY4, src=a1.nic.mac),
            frames.arp(2, a1.nic.mac, GATEWAY4, a2.ip4, target_mac=TAP_MAC, dst=TAP_MAC),
            frames.arp(2, a1.nic.mac, a2.ip4, a2.ip4, target_mac=a1.nic.mac),
        )
        seen.pause(0.5)
    assert not seen.having("Reply", rf"^{TAP_MAC}"), str(seen)
    assert not outside.having(rf"tell {a2.ip4}\b") and not outside.having(OTHER_MAC), str(outside)
    neighbours = a1.host.run("ip neigh show dev up0").stdout + a1.host.run(f"ip neigh show dev {a1.nic.tap}").stdout
    assert OTHER_MAC not in neighbours and f"{GATEWAY4} dev {a1.nic.tap}" not in neighbours, neighbours
    assert f"{a2.ip4} " not in a1.host.run(f"ip neigh show dev {a1.nic.tap}").stdout
    assert reach([(a1.node, a2.ip4), (a2.node, GATEWAY4), (a1.node, GATEWAY4)]) == []


def test_spoofed_neighbour_discovery_is_not_heard(lab):
    """A solicitation or advertisement from an address or a MAC that is not the guest's changes nothing on the host."""
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    with Capture(a1.node, "eth0", "icmp6") as seen:
        send(
            a1.node,
            "eth0",
            frames.solicitation(a1.nic.mac, a2.ip6, GATEWAY6),
            frames.solicitation(OTHER_MAC, a1.ip6, GATEWAY6),
            frames.advertisement(a1.nic.mac, a2.ip6, a2.ip6),
            frames.advertisement(OTHER_MAC, a1.ip6, a1.ip6),
            frames.advertisement(a1.nic.mac, "fe80::bad", GATEWAY6),
        )
        seen.pause(0.5)
    assert not seen.having("neighbor advertisement", rf"^{TAP_MAC}"), str(seen)
    neighbours = a1.host.run("ip -6 neigh").stdout
    assert OTHER_MAC not in neighbours and "fe80::bad" not in neighbours, neighbours
    assert reach([(a1.node, a2.ip6), (a2.node, GATEWAY6)]) == []


def test_an_open_nic_may_lie(lab):
    """filter = false lets all of it out: where the network does not say otherwise, by the host's own default route."""
    a1 = lab.guests["a1"]
    lab.stop(a1)
    lab.reconfigure(PUBLIC + 'reach = "all"\n')
    lab.start(a1.opened())
    try:
        assert reach([(a1.node, WORLD4), (a1.node, WORLD6)]) == []
        for name, frame in spoofs(lab).items():
            if name in ("IPv4 from zero", "IPv4 of the gateway"):
                continue  # no router forwards those, with or without a filter
            # A foreign source matches no policy rule: it leaves by the host's own default route.
            where = "mg1" if "foreign" in name else "eth0"
            with Capture(lab.router, where, "udp port 7") as seen:
                send(a1.node, "eth0", frame)
                seen.pause(0.1)
            assert seen.lines, f"{name}: nothing got out"
    finally:
        lab.stop(a1.opened())
        lab.reconfigure(PUBLIC)
        lab.start(a1)


def test_an_open_nic_leaves_by_its_networks_links(lab):
    """A packet from a foreign address matches no policy rule: it does not leave by the host's own default route either."""
    a1 = lab.guests["a1"]
    lab.stop(a1)
    lab.start(a1.opened())
    try:
        with Capture(lab.router, "mg1", "udp port 7") as seen:
            send(a1.node, "eth0", *(frame for name, frame in spoofs(lab).items() if "foreign" in name))
            seen.pause(0.1)
        assert seen.lines == []
    finally:
        lab.stop(a1.opened())
        lab.start(a1)


def test_the_filter_is_there_before_the_link_is_up(lab):
    """Fail closed: a tap that is still down when the hook runs lets nothing bad out in the moment it comes up."""
    a1 = lab.guests["a1"]
    lab.stop(a1)
    a1.host.run(f"ip link set {a1.nic.tap} down")
    frame = spoofs(lab)["IPv4 of a peer"]
    flood = a1.node.popen(
        [
            "/usr/bin/python3",
            "-IS",
            "-c",
            (
                "import socket, sys, time\n"
                "sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); sock.bind(('eth0', 0))\n"
                "frame = bytes.fromhex(sys.argv[1]); end = time.monotonic() + 20\n"
                "while time.monotonic() < end:\n"
                "    try: sock.send(frame)\n"
                "    except OSError: pass\n"
                "    time.sleep(0.0002)\n"
            ),
            frame.hex(),
        ]
    )
    try:
        with Capture(lab.router, "eth0", "udp port 7") as seen:
            lab.start(a1)
            seen.pause(0.2)
        assert "UP" in a1.host.run(f"ip link show {a1.nic.tap}").stdout.split(">")[0]
        assert not seen.lines, str(seen)
    finally:
        flood.kill()
    # The guest's end lost its carrier for a moment and with it, maybe, its routes' use.
    assert eventually(lambda: ping(a1.node, GATEWAY4) is not None)
    assert eventually(lambda: ping(a1.node, GATEWAY6) is not None)


# --- whatever the host's own settings are ---------------------------------------------------------------------------

ALL = (
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/all/send_redirects",
    "ipv4/conf/all/arp_ignore",
    "ipv6/conf/all/disable_ipv6",
    "ipv4/conf/default/forwarding",
    "ipv6/conf/default/forwarding",
)
MATRIX = [
    *(
        {"ipv4/conf/all/rp_filter": strict, "ipv4/conf/all/send_redirects": redirects}
        for strict in (0, 1, 2)
        for redirects in (0, 1)
    ),
    {"ipv4/conf/default/forwarding": 1, "ipv6/conf/default/forwarding": 1},
    {"ipv6/conf/all/disable_ipv6": 1},
]


@pytest.fixture
def stopped(lab):
    """The lab with no guest running, the hosts' settings put back afterwards."""
    lab.stop()
    found = {host: {key: host.sysctl(key) for key in ALL} for host in lab.hosts}
    yield lab
    lab.stop()
    for host in lab.hosts:
        host.sh("\n".join(f"echo {value} > /proc/sys/net/{key}" for key, value in found[host].items()))
        # disable_ipv6 took the addresses along.
        number = lab.hosts.index(host) + 1
        host.sh(f"ip -6 addr replace fd00:{number}::1/64 dev eth9 nodad; ip -6 route replace default via fd00:{number}::254")
    lab.start()


@pytest.mark.parametrize(
    "settings",
    MATRIX,
    ids=lambda settings: ",".join(f"{key.split('/', 2)[2].replace('/', '.')}={value}" for key, value in settings.items()),
)
def test_any_host_settings(stopped, settings):
    lab = stopped
    for host in lab.hosts:
        for key, value in settings.items():
            host.sysctl(key, value)
    lab.start()
    lab.forget_neighbours()
    off = settings.get("ipv6/conf/all/disable_ipv6")
    # A host with IPv6 off has no IPv6 address to speak from; its guests must not notice.
    pairs = everybody(lab, ipv6=not off) + (everybody(lab, ipv4=False, hosts=False) if off else [])
    with Capture(lab.guests["a1"].node, "eth0", "icmp or icmp6") as seen:
        assert reach(pairs) == []
    # The host sends what came from a tap out of another tap, or out of the uplink to a peer on the same subnet.
    assert not seen.having("redirect"), str(seen)


def test_arp_ignore_of_the_host_is_documented(stopped):
    """net.ipv4.conf.all.arp_ignore=1 (common on LVS hosts) concerns local addresses only: proxy ARP goes on."""
    lab = stopped
    for host in lab.hosts:
        host.sysctl("ipv4/conf/all/arp_ignore", 1)
    lab.start()
    lab.forget_neighbours()
    assert reach(everybody(lab, ipv6=False)) == []


def test_the_router_was_never_told_a_guests_mac(lab):
    """What the segment sees are uplinks: no guest's and no tap's MAC leaves a host."""
    lab.forget_neighbours()
    macs = {guest.nic.mac for guest in lab.guests.values()} | {TAP_MAC}
    with Capture(lab.router, "eth0") as seen:
        assert reach(everybody(lab, hosts=False)) == []
    sources = {line.split()[0] for line in seen.lines}
    assert ROUTER_MAC in sources and not sources & macs, sources
