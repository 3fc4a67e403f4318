"""What of the host's own takes packets for a port: sockets that listen, and the links that have an address.

A dump of sockets in one state (linux/sock_diag.h, linux/inet_diag.h) has no connections in it.
"""

from _socket import AF_INET, AF_INET6, inet_ntop
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from struct import Struct

from ..model.facts import Listener
from . import wire
from .netlink import Netlink, NetlinkError, Socket
from .objects import sysctl

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_REQUEST = Struct("=BBBxI48x")
"""Family, protocol, extensions, states; then the ID of a socket, empty."""
_SIZE, _V6ONLY = 72, 11
"""Bytes before the attributes; the one that tells whether a socket takes no IPv4."""
_PROTOCOLS = {"tcp": (6, 10), "udp": (17, 7), "sctp": (132, 10)}
"""Number, and the state of a socket that anyone may send to: TCP_LISTEN, TCP_CLOSE (UDP has no other but connected)."""

_LOCAL = 2
"""RTN_LOCAL."""


def listeners() -> frozenset[Listener]:
    """Return the host's sockets that listen. UDP ports that the kernel gives programs by itself are left out: such a socket waits
    for the answer to what it sent. Raise OSError."""
    found: set[Listener] = set()
    with closing(Socket(_NETLINK_SOCK_DIAG)) as netlink:
        for protocol, (number, state) in _PROTOCOLS.items():
            for family in (AF_INET, AF_INET6):
                # A kernel without SCTP, or without IPv6, has no such sockets.
                with suppress(NetlinkError):
                    request = _REQUEST.pack(family, number, 0, 1 << state)
                    for data in netlink.dump(_SOCK_DIAG_BY_FAMILY, request):
                        found.update(_told(protocol, data))
    low, high = _ephemeral()
    return frozenset(each for each in found if each.protocol != "udp" or not low <= each.port <= high)


def _told(protocol: str, data: bytes) -> Iterator[Listener]:
    """Yield what a socket listens on, from the body of an answer: struct inet_diag_msg."""
    family = data[0]
    port = int.from_bytes(data[4:6], "big")
    packed = data[8 : 8 + (4 if family == AF_INET else 16)]
    version = 4 if family == AF_INET else 6
    if any(packed):
        yield Listener(protocol, version, inet_ntop(family, packed), port)
        return
    yield Listener(protocol, version, "", port)
    if version == 6 and not any(wire.attributes(data, _SIZE).get(_V6ONLY, b"\1")):
        yield Listener(protocol, 4, "", port)


def _ephemeral() -> tuple[int, int]:
    words = (sysctl.read("net/ipv4/ip_local_port_range") or "").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else (0, 0)


def holders(netlink: Netlink, addresses: Iterable[str]) -> dict[str, str]:
    """Return the link that has each of the addresses, the first that got it; none for what is no address of the host. A dump
    would cost more with each guest. Raise OSError."""
    asked = list(addresses)
    answers = netlink.ask([(wire.GETROUTE, wire.lookup_body(address), 0) for address in asked])
    found = {}
    for address, answer in zip(asked, answers, strict=True):
        if not isinstance(answer, NetlinkError):
            kind, _, _, index = wire.way_of(answer)
            if kind == _LOCAL:
                found[address] = netlink.name(index)
    return found
