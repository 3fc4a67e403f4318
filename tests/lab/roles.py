"""Frames that it takes a role to send, of a guest with MAC; and which of them arrive at another guest."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from . import frames
from .frames import advertisement, arp, checksum, icmp6, ip4, ip6, router_advertisement, solicitation, tagged, udp6
from .nodes import Node
from .routed import eventually, send

MAC, VICTIM = "52:54:00:bb:00:10", "52:54:00:bb:00:20"
OWN4, OWN6, LL = "10.7.0.16", "2001:db8:7::16", "fe80::5054:ff:febb:10"
OTHER4 = "10.7.0.66"
GW4, GW6 = "10.7.0.1", "2001:db8:7::1"
ALL6 = "33:33:00:00:00:01"
ROLES = ("dhcp-server", "router", "querier")
MORE = 0x2000
"""More fragments follow."""
ALERT4, ALERT6 = b"\x94\x04\0\0", (0, bytes([0, 5, 2, 0, 0, 1, 0]))
DESTINATION_OPTIONS = 60, bytes([0, 1, 4, 0, 0, 0, 0])


def udp(sport: int, dport: int) -> bytes:
    return struct.pack("!HHHH", sport, dport, 24, 0) + bytes(16)


def dhcp4(src: str = OWN4, **more: object) -> bytes:
    return ip4(MAC, src, "255.255.255.255", 17, udp(67, 68), dst_mac=frames.BROADCAST, **more)


def dhcp6(sport: int = 547, dport: int = 546) -> bytes:
    return ip6(ALL6, MAC, LL, "ff02::1", 17, udp(sport, dport), 6)


def summed(message: bytes) -> bytes:
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def igmp(kind: int, src: str = OWN4, **more: object) -> bytes:
    return ip4(MAC, src, "224.0.0.1", 2, summed(struct.pack("!BBHI", kind, 100, 0, 0)), options=ALERT4, **more)


def icmp4(kind: int) -> bytes:
    return ip4(MAC, OWN4, "224.0.0.1", 1, summed(struct.pack("!BBHI", kind, 1, 0, 0) + bytes(28)))


def mld(kind: int = 130) -> bytes:
    return frames.extended(icmp6(MAC, LL, kind), ALERT6)


def vrrp4(address: str, version: int = 2, part: int = 0) -> bytes:
    message = struct.pack("!BBBBBBH", version << 4 | 1, 51, 255, 1, 0, 1, 0) + IPv4Address(address).packed + bytes(8)
    message = message[:6] + struct.pack("!H", checksum(message)) + message[8:]
    return ip4(MAC, OWN4, "224.0.0.18", 112, message, part=part)


def vrrp6(address: str) -> bytes:
    message = struct.pack("!BBBBHH", 0x31, 51, 255, 1, 100, 0) + IPv6Address(address).packed
    return ip6("33:33:00:00:00:12", MAC, LL, "ff02::12", 112, message, 6, 255)


def bare(frame: bytes) -> bytes:
    """An IPv6 packet of which nothing but the header is left."""
    return frame[:18] + b"\0\0" + frame[20:54]


OF_ROLE = {
    "dhcp-server": {
        "DHCPv4": dhcp4(),
        "DHCPv4, first fragment": dhcp4(part=MORE),
        "DHCPv4 behind IPv4 options": dhcp4(options=ALERT4),
        "DHCPv6": dhcp6(),
        "DHCPv6 behind options": frames.extended(dhcp6(), DESTINATION_OPTIONS),
        "DHCPv6 behind options, routing": frames.extended(dhcp6(), ALERT6, DESTINATION_OPTIONS, (43, bytes(7))),
        "DHCPv6, first fragment": frames.extended(dhcp6(), frames.fragment(0, True)),
        "DHCPv6, atomic fragment": frames.extended(dhcp6(), frames.fragment(0, False)),
    },
    "router": {
        "RA": router_advertisement(MAC, LL, "2001:db8:bad::"),
        "RA behind options": frames.extended(router_advertisement(MAC, LL), DESTINATION_OPTIONS),
        "RA, first fragment": frames.extended(router_advertisement(MAC, LL), frames.fragment(0, True)),
        "redirect": icmp6(MAC, LL, 137, bytes(36)),
        "multicast router": icmp6(MAC, LL, 151),
        "PIM": ip4(MAC, OWN4, "224.0.0.13", 103, b"\x20" + bytes(19)),
        "PIM, IPv6": ip6("33:33:00:00:00:0d", MAC, LL, "ff02::d", 103, b"\x20" + bytes(19), 2),
        "ICMP redirect": icmp4(5),
        "ICMP router advertisement": icmp4(9),
        "DVMRP": igmp(0x13),
        "PIM version 1": igmp(0x14),
        "multicast router, IGMP": igmp(0x30),
    },
    "querier": {
        "IGMP query": igmp(0x11),
        "MLD query": mld(),
        "MLD query without the alert": icmp6(MAC, LL, 130),
    },
}
"""What it takes a role to send."""
HIDDEN = {
    "later fragment of IGMP": igmp(0x11, part=1),
    "fragment of VRRP": vrrp4(OWN4, part=MORE),
    "fragment of VRRP, IPv6": frames.extended(vrrp6(LL), frames.fragment(0, True)),
    "first fragment without ICMPv6's type": frames.extended(
        bare(icmp6(MAC, LL, 0)), frames.fragment(0, True), DESTINATION_OPTIONS
    ),
    "first fragment without UDP's ports": frames.extended(bare(dhcp6()), frames.fragment(0, True), DESTINATION_OPTIONS),
    "later fragment that goes on with extensions": frames.extended(dhcp6(), frames.fragment(1, False), DESTINATION_OPTIONS),
    "IPv4 header that says IPv6": dhcp4()[:14] + b"\x65" + dhcp4()[15:],
}
"""Never from a filtered guest: it could hide what takes a role."""
VRRP = {
    "VRRP of the own address": vrrp4(OWN4),
    "VRRPv3 of the own address": vrrp4(OWN4, 3),
    "VRRPv3, IPv6, of the own address": vrrp6(LL),
}
FOREIGN_VRRP = {"VRRP": vrrp4(OTHER4), "VRRPv3": vrrp4(OTHER4, 3), "VRRPv3, IPv6": vrrp6("fe80::1"), "CARP": vrrp4("0.0.0.0")}
FINE = {
    "DHCP": ip4(MAC, "0.0.0.0", "255.255.255.255", 17, udp(68, 67), dst_mac=frames.BROADCAST),
    "DHCPv6": dhcp6(546, 547),
    "DNS": ip4(MAC, OWN4, "255.255.255.255", 17, udp(53, 67), dst_mac=frames.BROADCAST),
    "TCP": ip4(MAC, OWN4, "255.255.255.255", 6, udp(67, 68), dst_mac=frames.BROADCAST),
    "SCTP": ip4(MAC, OWN4, "255.255.255.255", 132, udp(67, 68), dst_mac=frames.BROADCAST),
    "later fragment": dhcp4(part=1),
    "later fragment, ICMP": ip4(MAC, OWN4, "224.0.0.1", 1, b"\5" + bytes(23), part=3),
    "later fragment, IPv6": frames.extended(udp6(ALL6, MAC, OWN6, "ff02::1", 9), frames.fragment(3, False)),
    "later fragment, IPv6, with 547": frames.extended(dhcp6(), frames.fragment(3, False)),
    **{
        f"later fragment, ICMPv6, with {octet}": frames.extended(icmp6(MAC, OWN6, octet), frames.fragment(3, False))
        for octet in (130, 134, 136)
    },
    "IGMP report": igmp(0x16),
    "IGMPv3 report": igmp(0x22),
    "IGMP leave": igmp(0x17),
    "MLD report": mld(143),
    "router solicitation": icmp6(MAC, LL, 133, bytes(4)),
    "echo request": icmp4(8),
    "echo request, IPv6": icmp6(MAC, OWN6, 128),
    "ARP": arp(1, MAC, OWN4, GW4),
    "solicitation": solicitation(MAC, OWN6, GW6),
    "advertisement": advertisement(MAC, OWN6, OWN6),
}
OPEN = {
    "QinQ": tagged(tagged(icmp6(MAC, LL, 133, bytes(4)), 6), 5),
    "RA behind two priority tags": tagged(tagged(router_advertisement(MAC, LL), 0), 0),
    "RA behind a tag in a priority tag": tagged(tagged(router_advertisement(MAC, LL), 5), 0),
    "IGMP query of 0.0.0.0": igmp(0x11, "0.0.0.0"),
}
"""What no guest with addresses sends, and one without them in a role."""
OPEN_TO = {name: "querier" if "IGMP" in name else "router" for name in OPEN}


MARK = b"the last frame"


def plain(host: Node) -> None:
    """Let the host's bridges drop no frame for reasons of their own: br_netfilter drops malformed ones; snooping, what no guest
    has joined."""
    for path in ("iptables", "ip6tables", "arptables"):
        host.sh(f"f=/proc/sys/net/bridge/bridge-nf-call-{path}; [ ! -e $f ] || echo 0 > $f")
    host.run("ip link set br0 type bridge mcast_snooping 0", check=False)


def passed(
    sender: Node, receiver: Node, wanted: dict[str, bytes], path: Path, sent: Callable[[bytes], bytes] = bytes
) -> set[str]:
    """Which of the frames arrive at the other guest; `sent` returns a frame as it is sent."""
    pcap = path / "seen.pcap"
    pcap.unlink(missing_ok=True)
    sniffer = receiver.popen(
        ["tcpdump", "-Z", "root", "-U", "-s", "2048", "-i", "eth0", "-Q", "in", "--immediate-mode", "-w", str(pcap)], stderr=-1
    )
    for line in sniffer.stderr:
        if "listening on" in line:
            break
    # It goes the same way as they do, so that nothing comes behind it.
    last = frames.ethernet(frames.BROADCAST, MAC, 0x0806, arp(1, MAC, OWN4, OTHER4)[14:42] + MARK)
    send(sender, "eth0", *map(sent, (*wanted.values(), last)))
    assert eventually(lambda: pcap.exists() and MARK in pcap.read_bytes())
    sniffer.terminate()
    sniffer.wait()
    data, found, at = pcap.read_bytes(), set(), 24
    while at + 16 <= len(data):
        (length,) = struct.unpack("<I", data[at + 8 : at + 12])
        found.add(data[at + 16 : at + 16 + length].rstrip(b"\0"))
        at += 16 + length
    return {name for name, frame in wanted.items() if frame.rstrip(b"\0") in found}


EVERYTHING = {
    **{f"{role}: {name}": frame for role, of in OF_ROLE.items() for name, frame in of.items()},
    **{f"hidden: {name}": frame for name, frame in HIDDEN.items()},
    **{f"own: {name}": frame for name, frame in VRRP.items()},
    **{f"foreign: {name}": frame for name, frame in FOREIGN_VRRP.items()},
    **{f"fine: {name}": frame for name, frame in FINE.items()},
    **{f"open: {name}": frame for name, frame in OPEN.items()},
}


def names(word: str) -> set[str]:
    return {name for name in EVERYTHING if name.startswith(f"{word}: ")}


def expected(roles: Sequence[str], addressed: bool) -> set[str]:
    """What a filtered guest with these roles gets out."""
    through = names("fine").union(*map(names, roles))
    if addressed:
        return through | names("own")
    if "router" in roles:
        through |= names("own") | names("foreign")
    return through | {f"open: {name}" for name, role in OPEN_TO.items() if role in roles}
