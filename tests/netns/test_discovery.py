"""Neighbour discovery for whole prefixes: guests that take the network's /64 for on-link, with and without the agent."""

from __future__ import annotations

import re
import statistics
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import permutations

import pytest
from lab import frames
from lab.agent import Agent
from lab.guest import Nic, configure
from lab.nodes import Node, wire
from lab.routed import GATEWAY6, PUBLIC, ROUTER_MAC, TAP_MAC, Interface, Plugged, RoutedLab, call, eventually, ping, reach
from lab.solicit import __file__ as SOLICIT

PEER = "2001:db8::4444"
"""Nobody's address, of the guests' subnet."""

HOSTROUTE = '\n[networks.direct]\nmode = "hostroute"\nnetdev = "eth9"\n'


def on_link(guest: Plugged) -> None:
    """The guest's own idea of its network: a /64, as after SLAAC with an on-link prefix."""
    guest.node.sh(f"ip -6 addr del {guest.ip6}/128 dev eth0; ip -6 addr add {guest.ip6}/64 dev eth0 nodad")


@pytest.fixture(scope="module")
def plain():
    """Four guests that run, without an agent."""
    with RoutedLab(PUBLIC + HOSTROUTE) as lab:
        for guest in lab.guests.values():
            on_link(guest)
        lab.start()
        yield lab


@pytest.fixture(scope="module")
def lab(plain):
    """The same with an agent on each host."""
    with Agent(plain.a) as one, Agent(plain.b) as other:
        plain.agents = (one, other)
        # A guest that talks is one that the agents know.
        for guest in plain.guests.values():
            assert eventually(lambda guest=guest: asked(guest.node, question(guest))[0].ms is not None, 10), one.log + other.log
        yield plain
        for agent in plain.agents:
            assert agent.process.poll() is None, agent.log
            assert not agent.errors


@dataclass
class Reply:
    """How long the first advertisement took (None: there was none), and all of them."""

    ms: float | None
    frames: list[bytes]


def asked(node: Node, *questions: bytes, seconds: float = 0.5) -> list[Reply]:
    """Send frames from a guest, one after the other; what came back for each."""
    output = node.run(["/usr/bin/python3", "-IS", SOLICIT, "eth0", seconds, *(frame.hex() for frame in questions)]).stdout
    replies = []
    for line in output.splitlines():
        first, *answers = line.split()
        replies.append(Reply(None if first == "-" else float(first), [bytes.fromhex(answer) for answer in answers]))
    return replies


def question(guest: Plugged, target: str = PEER, source: str = "") -> bytes:
    """What the guest's own stack would send."""
    return frames.solicitation(guest.nic.mac, source or guest.ip6, target)


def others(lab: RoutedLab):
    return [(one.node, other.ip6) for one, other in permutations(lab.guests.values(), 2)]


# --- what guests can reach ----------------------------------------------------------------------------------------------


def test_without_the_agent_no_peer_is_found(plain):
    """The control: each guest reaches the gateway, and none of its peers."""
    pairs = others(plain)
    assert [len(reply.frames) for reply in asked(plain.guests["a1"].node, question(plain.guests["a1"], GATEWAY6))] == [1]
    assert reach((guest.node, GATEWAY6) for guest in plain.guests.values()) == []
    plain.forget_neighbours()
    assert len(reach(pairs, wait=1)) == len(pairs) == 12


def test_every_peer_is_found(lab):
    """On the same node and on the other one, at the first ping; as before: the gateway."""
    lab.forget_neighbours()
    assert reach(others(lab)) == []
    assert reach((guest.node, GATEWAY6) for guest in lab.guests.values()) == []
    lab.forget_neighbours()
    assert ping(lab.guests["a1"].node, lab.guests["b2"].ip6, wait=1) is not None


def test_the_answer_is_the_taps(lab):
    """Unicast, Solicited, neither Override nor Router; from the tap's link-local address, with its MAC (RFC 4861, 7.2.8)."""
    a1 = lab.guests["a1"]
    (reply,) = asked(a1.node, question(a1))
    (answer,) = reply.frames
    tap = frames.mac_bytes(TAP_MAC)
    assert answer[:14] == frames.mac_bytes(a1.nic.mac) + tap + b"\x86\xdd"
    assert answer[14 + 7] == 255
    assert IPv6Address(answer[22:38]) == IPv6Address("fe80::fcff:ffff:feff:ffff")
    assert IPv6Address(answer[38:54]) == IPv6Address(a1.ip6)
    assert struct.unpack("!I", answer[58:62]) == (0x40000000,)
    assert answer[78:86] == b"\x02\x01" + tap
    assert len(answer) == 86
    # The guest's own stack, which checks the sum, believes it.
    a1.node.run("ip neigh flush all")
    ping(a1.node, PEER, wait=0.3)
    assert TAP_MAC in a1.node.run(f"ip neigh show {PEER}").stdout


def test_an_answer_takes_less_than_a_millisecond(lab, capsys):
    a1 = lab.guests["a1"]
    questions = [question(a1, f"2001:db8::5:{number:x}") for number in range(1, 151)]
    times = sorted(reply.ms for reply in asked(a1.node, *questions))
    kernel = sorted(reply.ms for reply in asked(a1.node, *[question(a1, GATEWAY6)] * 50))
    with capsys.disabled():
        print(
            f"\nneighbour discovery: agent {statistics.median(times):.3f} ms (p95 {times[int(0.95 * len(times))]:.3f}), "
            f"kernel's proxy {statistics.median(kernel):.3f} ms; the asker is Python too"
        )
    assert statistics.median(times) < 1


def test_unreachability_detection_gets_its_answer(lab):
    """A probe goes to the entry's own MAC, and to the target itself: RFC 4861, 7.3.3."""
    a1 = lab.guests["a1"]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + IPv6Address(PEER).packed + b"\x01\x01" + frames.mac_bytes(a1.nic.mac)
    probe = frames.ip6(TAP_MAC, a1.nic.mac, a1.ip6, PEER, 58, body, 2, hops=255)
    bare = frames.ip6(TAP_MAC, a1.nic.mac, a1.ip6, PEER, 58, body[:24], 2, hops=255)
    assert [len(reply.frames) for reply in asked(a1.node, probe, bare)] == [1, 1]


def test_a_link_local_source_is_answered(lab):
    """The asker's stack chooses: the address that it sends from, or its link-local one."""
    a1 = lab.guests["a1"]
    assert asked(a1.node, question(a1, source="fe80::5054:ff:feaa:b"))[0].ms is not None


# --- what is left alone -------------------------------------------------------------------------------------------------


def test_what_is_not_answered(lab):
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    left_alone = {
        "its own address": question(a1, a1.ip6),
        "a foreign prefix": question(a1, "2001:db8:1::1"),
        "a link-local address": question(a1, "fe80::4444"),
        "a duplicate-address probe for a peer's address": frames.solicitation(a1.nic.mac, "::", a2.ip6, lladdr=False),
        "a duplicate-address probe for its own": frames.solicitation(a1.nic.mac, "::", a1.ip6, lladdr=False),
    }
    replies = asked(a1.node, *left_alone.values(), question(a1))
    assert replies.pop().ms is not None
    answered = {what: reply.frames for what, reply in zip(left_alone, replies, strict=True) if reply.frames}
    assert not answered


def test_the_gateway_is_the_kernels(lab):
    """One answer, as without the agent."""
    a1 = lab.guests["a1"]
    assert [len(reply.frames) for reply in asked(a1.node, question(a1, GATEWAY6))] == [1]


def hostile(a1: Plugged, a2: Plugged) -> dict[str, bytes]:
    good = question(a1)

    def summed(body: bytes, hops: int = 255, src: str = a1.ip6, mac: str = a1.nic.mac, dst: str = "ff02::1:ff00:4444") -> bytes:
        return frames.ip6("33:33:ff:00:44:44", mac, src, dst, 58, body, 2, hops)

    body = good[54:]
    big = body[:24] + b"\x0e\x3c" + bytes(8 * 60 - 2)
    return {
        "hop limit 254": summed(body, hops=254),
        "wrong checksum": good[:56] + bytes([good[56] ^ 1]) + good[57:],
        "code 1": summed(b"\x87\x01" + body[2:]),
        "too short": summed(body[:20]),
        "an option of length 0": summed(body[:24] + b"\x01\x00" + body[26:]),
        "an option that is cut off": summed(body[:24] + b"\x01\x02" + body[26:]),
        "octets behind the last option": summed(body + b"\x01"),
        "a multicast target": summed(body[:8] + IPv6Address("ff02::1:ff00:4444").packed + body[24:]),
        "a multicast source": summed(body, src="ff02::1"),
        "a foreign source": summed(body, src=a2.ip6),
        "a foreign link-local source": summed(body, src="fe80::5054:ff:feaa:c"),
        "a foreign MAC": summed(body, mac=a2.nic.mac),
        "a length beyond the frame": good[:18] + struct.pack("!H", 64) + good[20:],
        "a length of nothing": good[:18] + struct.pack("!H", 0) + good[20:],
        "larger than any": summed(big),
        "a VLAN tag": frames.tagged(good, 5),
        "priority-tagged": frames.tagged(good, 0),
        "for another MAC": frames.mac_bytes("02:00:00:00:99:99") + good[6:],
        "an extension header": frames.extended(good, (60, b"\x00" + bytes(6))),
        "a fragment": frames.extended(good, frames.fragment(0, False)),
        "IPv4 by its type": good[:12] + b"\x08\x00" + good[14:],
        "version 4": good[:14] + b"\x45" + good[15:],
        "cut off in the target": good[:70],
        "cut off in the header": good[:30],
    }


def test_hostile_frames(lab):
    """None is answered; whoever behaves is, right after each."""
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    bad = hostile(a1, a2)
    replies = asked(a1.node, *(frame for one in bad.values() for frame in (one, question(a1))), seconds=0.2)
    assert {what: reply.frames for what, reply in zip(bad, replies[::2], strict=True) if reply.frames} == {}
    assert [what for what, reply in zip(bad, replies[1::2], strict=True) if reply.ms is None] == []


def test_open_guests_may_ask_in_any_name(lab):
    """filter = "no": what the filter lets through is answered too."""
    a1 = lab.guests["a1"]
    call(a1.host, a1.domain, "start", a1.opened().nic)
    try:
        assert eventually(lambda: asked(a1.node, question(a1, source="2001:db8::77"))[0].ms is not None)
        assert asked(a1.node, question(a1, a1.ip6))[0].ms is None
    finally:
        call(a1.host, a1.domain, "start", a1.nic)
    assert eventually(lambda: asked(a1.node, question(a1, source="2001:db8::77"))[0].ms is None)


# --- duplicate addresses ------------------------------------------------------------------------------------------------


def after_dad(guest: Plugged) -> str:
    """Give a guest its address once more, with detection on; what became of it."""
    guest.node.sh(f"""
        echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad; echo 1 > /proc/sys/net/ipv6/conf/eth0/dad_transmits
        ip -6 addr del {guest.ip6}/64 dev eth0; ip -6 addr add {guest.ip6}/64 dev eth0
    """)
    assert "tentative" in guest.node.run("ip -6 addr show dev eth0 scope global").stdout
    eventually(lambda: not re.search(r"tentative(?! dadfailed)(?!.*dadfailed)", shown(guest)), 5)
    return shown(guest)


def shown(guest: Plugged) -> str:
    return guest.node.run("ip -6 -o addr show dev eth0 scope global").stdout


def test_duplicate_address_detection_passes(lab):
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    try:
        assert "dadfailed" not in after_dad(a1) and "tentative" not in shown(a1)
        # The control: somebody who answers for the address makes it fail.
        a2.host.popen(
            ["sh", "-c", f"while sleep 0.1; do /usr/bin/python3 -IS {frames.__file__} {a2.nic.tap} "
             f"{frames.advertisement(TAP_MAC, 'fe80::1', a2.ip6).hex()}; done"]
        )  # fmt: skip
        assert "dadfailed" in after_dad(a2)
    finally:
        a2.host.children.pop().kill()
        for guest in (a1, a2):
            guest.node.sh(f"""
                echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
                ip -6 addr del {guest.ip6}/64 dev eth0; ip -6 addr add {guest.ip6}/64 dev eth0 nodad
                ip -6 route replace default via {GATEWAY6} dev eth0
            """)
    assert reach([(a1.node, a2.ip6), (a2.node, a1.ip6)]) == []


# --- floods -------------------------------------------------------------------------------------------------------------


def test_a_flood_costs_little_and_starves_nobody(lab, capsys):
    a1, a2, agent = lab.guests["a1"], lab.guests["a2"], lab.agents[0]
    before = agent.cpu()
    flood = a1.node.popen(["/usr/bin/python3", "-IS", SOLICIT, "flood", "eth0", 4, question(a1).hex()], stdout=-1)
    time.sleep(0.5)
    replies = asked(a2.node, *[question(a2, f"2001:db8::6:{number:x}") for number in range(60)])
    sent = int(flood.communicate(timeout=20)[0])
    spent = agent.cpu() - before
    times = sorted(reply.ms for reply in replies if reply.ms is not None)
    with capsys.disabled():
        print(
            f"\nflood: {sent / 4:.0f} solicitations/s from one guest cost the agent {100 * spent / 4:.1f} % of a processor; "
            f"its neighbour's are answered in {statistics.median(times):.3f} ms"
        )
    assert len(times) == len(replies)
    assert sent > 20_000, "no flood"
    assert spent < 0.8, "more than a fifth of a processor"
    assert "solicitations and requests a second" in agent.log
    # It gets its tokens back.
    assert eventually(lambda: (asked(a1.node, question(a1))[0].ms or 1000) < 50)


def test_other_packets_wake_nobody(lab, capsys):
    """The kernel's filter is in front: what the guest sends otherwise, to peers that are not there, costs the agent nothing."""
    a1, agent = lab.guests["a1"], lab.agents[0]
    idle = agent.cpu()
    time.sleep(3)
    idle = agent.cpu() - idle
    before = agent.cpu()
    datagram = frames.udp6(TAP_MAC, a1.nic.mac, a1.ip6, "2001:db8:ffff::1", 9)
    sent = int(a1.node.run(["/usr/bin/python3", "-IS", SOLICIT, "flood", "eth0", 3, datagram.hex()]).stdout)
    spent = agent.cpu() - before
    with capsys.disabled():
        print(f"\nIPv6 datagrams, {sent / 3:.0f}/s: {spent / 3:.1%} of a processor in the agent (idle: {idle / 3:.1%})")
    assert sent > 20_000 and spent < idle + 0.1


# --- taps that change, come and go --------------------------------------------------------------------------------------


def test_the_taps_mac_is_the_one_of_now(lab):
    """Not the one that it had when the agent began to listen. By a new declaration: what somebody else changes is put back."""
    a1 = lab.guests["a1"]
    lab.a.config(PUBLIC + 'tap_mac = "fe:00:00:00:12:34"\n' + HOSTROUTE)
    try:
        call(a1.host, a1.domain, "start", a1.nic)
        (reply,) = asked(a1.node, question(a1))
        assert reply.frames and reply.frames[0][80:86] == frames.mac_bytes("fe:00:00:00:12:34")
    finally:
        lab.a.config(PUBLIC + HOSTROUTE)
        call(a1.host, a1.domain, "start", a1.nic)


def test_a_tap_that_goes_down_and_up(lab):
    a1 = lab.guests["a1"]
    for _ in range(3):
        lab.a.run(f"ip link set {a1.nic.tap} down")
        time.sleep(0.1)
        lab.a.run(f"ip link set {a1.nic.tap} up")
    assert eventually(lambda: asked(a1.node, question(a1))[0].ms is not None)


def test_guests_that_come_and_go(lab):
    """A new tap is answered on, one that is stopped is not, one that goes without a word does no harm, no socket stays."""
    agent = lab.agents[0]

    def sockets() -> int:
        return len(lab.a.sh("ss -0 -H -a || true").splitlines())

    def fresh(number: int) -> Plugged:
        nic = Interface(f"52:54:00:aa:01:{number:02x}", f"tap-n{number}", "public", (f"2001:db8::9:{number:x}",))
        node = Node(f"guest-n{number}")
        wire(lab.a, nic.tap, node, "eth0", mac_a=f"fe{nic.mac[2:]}", mac_b=nic.mac)
        lab.a.run(f"ip link set {nic.tap} up")
        configure(node, Nic(nic.mac, ip6=nic.ips[0]))
        return Plugged(f"n{number}", lab.a, nic, node)

    before = sockets()
    for number in range(1, 4):
        new = fresh(number)
        with new.node:
            assert asked(new.node, question(new), seconds=0.2)[0].ms is None
            lab.start(new, announce=False)
            assert eventually(lambda new=new: asked(new.node, question(new), seconds=0.2)[0].ms is not None)
            assert sockets() == before + 1
            if number == 1:
                lab.stop(new)
                assert eventually(lambda new=new: asked(new.node, question(new), seconds=0.2)[0].ms is None)
            elif number == 2:
                lab.a.run(f"ip link del {new.nic.tap}")
            else:
                # The same name, another link: the hook is called again for it.
                lab.a.run(f"ip link del {new.nic.tap}")
                wire(lab.a, new.nic.tap, new.node, "eth0", mac_a=f"fe{new.nic.mac[2:]}", mac_b=new.nic.mac)
                lab.a.run(f"ip link set {new.nic.tap} up")
                configure(new.node, Nic(new.nic.mac, ip6=new.ip6))
                lab.start(new, announce=False)
                assert eventually(lambda new=new: asked(new.node, question(new), seconds=0.2)[0].ms is not None)
            lab.stop(new)
        lab.a.run(f"ip link del {new.nic.tap}", check=False)
        assert eventually(lambda: sockets() == before), agent.log


def test_the_configuration_is_followed(lab):
    """The prefix is the declared one as it is now; a broken file changes nothing."""
    a1 = lab.guests["a1"]
    far = question(a1, "2001:db8::1:4444")
    assert asked(a1.node, far)[0].ms is not None
    try:
        lab.a.config((PUBLIC + HOSTROUTE).replace("2001:db8::/64", "2001:db8::/112"))
        assert eventually(lambda: asked(a1.node, far, seconds=0.2)[0].ms is None)
        assert asked(a1.node, question(a1))[0].ms is not None
        lab.a.config("networks = broken")
        time.sleep(3)
        assert asked(a1.node, question(a1))[0].ms is not None
    finally:
        lab.a.config(PUBLIC + HOSTROUTE)
    assert eventually(lambda: asked(a1.node, far, seconds=0.2)[0].ms is not None)


# --- guests in the host's own segment -----------------------------------------------------------------------------------


def test_a_hostrouted_guest_finds_the_hosts_segment(lab):
    """What proxy ARP does for IPv4: the segment's prefix is the host's own on netdev."""
    router, nic = "fd00:1::254", Interface("52:54:00:aa:02:01", "tap-h1", "direct", ("fd00:1::55", "2001:db8:7::/64"))
    with Node("guest-h1") as node:
        wire(lab.a, nic.tap, node, "eth0", mac_a="fe:54:00:aa:02:01", mac_b=nic.mac)
        lab.a.run(f"ip link set {nic.tap} up")
        configure(node, Nic(nic.mac, ip6=nic.ips[0]))
        guest = Plugged("h1", lab.a, nic, node)
        lab.start(guest, announce=False)
        try:
            assert eventually(lambda: ping(node, router, wait=1) is not None)
            replies = asked(node, question(guest, "fd00:1::66"), question(guest, "fd00:1::55"), question(guest, "2001:db8:7::5"))
            assert [len(reply.frames) for reply in replies] == [1, 0, 0]
            # The host's own address is its kernel's to answer for: once.
            assert len(asked(node, question(guest, "fd00:1::1"))[0].frames) == 1
        finally:
            lab.stop(guest)
            lab.a.run(f"ip link del {nic.tap}", check=False)


def test_no_frame_from_elsewhere_is_answered(lab):
    """From the uplink: what asks there is the routers' and the other hosts' business, and the kernel's."""
    (reply,) = asked(lab.router, frames.solicitation(ROUTER_MAC, GATEWAY6, PEER))
    assert not reply.frames
