"""Tracked connections (nf_conntrack) of addresses that have moved to this host, and of ports that lead elsewhere now. What the
kernel still remembers of them, translations above all, is from when the guest was elsewhere, or was here with other networks.

Three messages of nfnetlink: linux/netfilter/nfnetlink_conntrack.h. pyroute2 has them too, but takes about 0.1 s to load, in which
the connections of a guest that runs already would stall.
"""

import errno
import os
from _socket import AF_INET6, inet_pton
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress

from ..model.objects import NftElement
from .netlink import NETLINK_NETFILTER, NetlinkError, Socket
from .wire import INT, NESTED, NFGENMSG, attributes, body, family_of

_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_GET, _DELETE = 0x101, 0x102

_TUPLES = (1, 2)
"""CTA_TUPLE_ORIG and CTA_TUPLE_REPLY. CTA_FILTER has flags for them under the same numbers."""
_ID, _ZONE, _FILTER = 12, 18, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_PORTS = 1, (2, 3)
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def forget(addresses: Iterable[str]) -> int:
    """Delete the entry of every connection from or to one of the addresses, in its original or in its reply direction. Return how
    many there were: 0 where the kernel tracks none. Raises OSError."""
    wanted = list(addresses)
    if not wanted or not _is_tracking():
        return 0
    count = 0
    try:
        with closing(Socket(NETLINK_NETFILTER)) as netlink:
            for address in wanted:
                family = family_of(address)
                packed = inet_pton(family, address)
                for which in _TUPLES:
                    for end in (0, 1):
                        # Deleted after the dump has ended, so that the kernel does not walk a table that changes.
                        found = [e for e in _dump(netlink, family, which, end, packed) if packed in _ends(e, which)]
                        count += sum(_delete(netlink, family, entry) for entry in found)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code), "nf_conntrack") from None
    return count


def forget_moved(moved: Iterable[tuple[NftElement, NftElement | None]]) -> None:
    """Delete the entries of connections to forwarded ports that do not go where these lead now: to nowhere if that is None. Each
    is an element of ruleset.FORWARD. What can't be deleted ends by itself."""
    if not _is_tracking():
        return
    with suppress(OSError, NetlinkError), closing(Socket(NETLINK_NETFILTER)) as netlink:
        for element, now in moved:
            address, protocol, ports = element.parts
            low, _, high = ports.partition("-")
            there = (inet_pton(family_of(address), address), _PROTOCOLS[protocol], range(int(low), int(high or low) + 1))
            for entry in _dump(netlink, family_of(address), _TUPLES[0], 1, there[0]):
                if _is_for(entry, *there) and not _leads_to(entry, now):
                    _delete(netlink, family_of(address), entry)


def _is_for(entry: dict[int, bytes], address: bytes, protocol: int, ports: range) -> bool:
    """Whether an entry is of a connection to one of these ports."""
    number, port = _transport(entry, _TUPLES[0], 1)
    return _ends(entry, _TUPLES[0])[1:] == (address,) and number == protocol and port in ports


def _leads_to(entry: dict[int, bytes], element: NftElement | None) -> bool:
    """Whether it is the guest of an element that answers."""
    if element is None:
        return False
    address, _, port = element.value.partition(" . ")
    is_same = _ends(entry, _TUPLES[1])[:1] == (inet_pton(family_of(address), address),)
    return is_same and (not port or _transport(entry, _TUPLES[1], 0)[1] == int(port))


def _transport(entry: dict[int, bytes], which: int, end: int) -> tuple[int, int]:
    """Protocol, and port of one end (0: source, 1: destination), of one tuple; 0 where there is none."""
    found = attributes(attributes(entry.get(which, b"")).get(_TUPLE_PROTO, b""))
    return int.from_bytes(found.get(_PROTO_NUM, b""), "big"), int.from_bytes(found.get(_PROTO_PORTS[end], b""), "big")


def _is_tracking() -> bool:
    """Whether there is any entry. A netlink request would load the kernel module."""
    try:
        with open(_COUNT) as file:
            return int(file.read()) > 0
    except FileNotFoundError:
        return False


def _dump(netlink: Socket, family: int, which: int, end: int, packed: bytes) -> Iterator[dict[int, bytes]]:
    """Yield the entries with an address at one end (0: source, 1: destination) of one tuple. Kernels before 5.8 do not filter,
    and return every entry."""
    # CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST.
    ip = {1 + end + 2 * (family == AF_INET6): packed}
    flags = {each: INT.pack((1 << end) * (each == which)) for each in _TUPLES}
    asked = body(NFGENMSG.pack(family, 0, 0), {which: {_TUPLE_IP: ip}, _FILTER: flags})
    return (attributes(data, NFGENMSG.size) for data in netlink.dump(_GET, asked))


def _delete(netlink: Socket, family: int, entry: dict[int, bytes]) -> bool:
    """Delete an entry, by its ID too: another connection may have the same tuple by now. Return False if it has gone."""
    there = {kind: entry[kind] for kind in (_ID, _ZONE) if kind in entry}
    named = body(NFGENMSG.pack(family, 0, 0), {_TUPLES[0] | NESTED: entry[_TUPLES[0]], **there})
    try:
        netlink.change(_DELETE, named)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise
    return True


def _ends(entry: dict[int, bytes], which: int) -> tuple[bytes, ...]:
    """Source and destination of one tuple."""
    return tuple(attributes(attributes(entry.get(which, b"")).get(_TUPLE_IP, b"")).values())
