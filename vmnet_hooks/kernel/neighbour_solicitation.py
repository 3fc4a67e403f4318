"""Neighbour solicitations (RFC 4861) that a guest sends to a proxy, and the host's own prefixes on a link."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import NamedTuple

from . import announcement
from .guest_socket import AT_ICMP, AT_TARGET, NEIGHBOUR_SOLICITATION

_ETH_P_IPV6 = 0x86DD
_AT_OPTIONS = AT_TARGET + 16


class Solicitation(NamedTuple):
    """A valid solicitation: the sender's MAC from the Ethernet header (an option proves nothing), its address, and the target."""

    lladdr: bytes
    source: bytes
    target: bytes


def parse(frame: bytes) -> Solicitation | None:
    """Parse a frame. Return None if it is not a solicitation that RFC 4861, 7.1.1 accepts, or one that is not to be answered: of
    duplicate address detection, with extension headers, or for a link-local or multicast target. Never raises."""
    if len(frame) < _AT_OPTIONS:
        return None
    kind, first, length, proto, hops = struct.unpack_from("!HIHBB", frame, 12)
    if (kind, first >> 28, proto, hops) != (_ETH_P_IPV6, 6, socket.IPPROTO_ICMPV6, 255):
        return None
    end = AT_ICMP + length
    # Ethernet pads short frames behind the packet. Options come in units of 8 bytes.
    if length < 24 or length % 8 or end > len(frame) or frame[AT_ICMP] != NEIGHBOUR_SOLICITATION or frame[AT_ICMP + 1]:
        return None
    source, target = frame[22:38], frame[AT_TARGET:_AT_OPTIONS]
    if source[0] == 0xFF or not any(source) or frame[6] & 1:
        return None
    if target[0] == 0xFF or (target[0] == 0xFE and target[1] & 0xC0 == 0x80) or not any(target):
        return None
    if announcement.checksum(frame[22:54] + struct.pack("!IHBB", length, 0, 0, proto) + frame[AT_ICMP:end]):
        return None
    at = _AT_OPTIONS
    while at < end:
        if not frame[at + 1]:
            return None
        at += 8 * frame[at + 1]
    return Solicitation(frame[6:12], source, target) if at == end else None


def on_link(ifname: str) -> tuple[IPv6Network, ...]:
    """Return the IPv6 prefixes that are on-link for this host on an interface, from its addresses there; without link-local
    prefixes and single addresses."""
    return tuple(dict.fromkeys(_prefixes(ifname)))


def _prefixes(ifname: str) -> Iterator[IPv6Network]:
    try:
        with open("/proc/net/if_inet6") as file:
            lines = file.read().splitlines()
    except OSError:
        # The kernel has no IPv6.
        return
    for line in lines:
        address, _, length, _, _, name = line.split(None, 5)
        prefix = IPv6Network((bytes.fromhex(address), int(length, 16)), strict=False)
        if name == ifname and prefix.prefixlen < 128 and not prefix.is_link_local and not prefix.is_loopback:
            yield prefix
