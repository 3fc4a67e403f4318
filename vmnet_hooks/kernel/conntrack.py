"""Tracked connections (nf_conntrack) of addresses that have moved here: what this host remembers of them, translations above
all, is from a time when the guest was elsewhere, or here under other circumstances.

nfnetlink without a library: three messages. See linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_TYPE = 0x3FFF

_TUPLES = (1, 2)
"""CTA_TUPLE_ORIG and CTA_TUPLE_REPLY. Within CTA_FILTER, the flags of what counts of them have the same numbers."""
_ID, _ZONE, _FILTER = 12, 18, 25
_TUPLE_IP = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def forget(addresses: Iterable[str]) -> int:
    """Forgets every connection from or to one of the addresses, as it was sent or as it is answered. Returns how many. Does
    nothing where the kernel tracks none. Raises OSError."""
    wanted = list(addresses)
    if not wanted or not _tracks():
        return 0
    count = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.bind((0, 0))
        for address in wanted:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            packed = socket.inet_pton(family, address)
            for which in _TUPLES:
                for end in (0, 1):
                    found = [entry for entry in _dump(netlink, family, which, end, packed) if packed in _ends(entry, which)]
                    count += sum(_delete(netlink, family, entry) for entry in found)
    return count


def _tracks() -> bool:
    """Whether there is anything. Asking by netlink would load the module."""
    try:
        with open(_COUNT) as file:
            return int(file.read()) > 0
    except FileNotFoundError:
        return False


def _dump(netlink: socket.socket, family: int, which: int, end: int, packed: bytes) -> Iterator[dict[int, bytes]]:
    """The entries of which one end of one tuple is an address: picked by the kernel since 5.8, all there are before."""
    # CTA_IP_V4_SRC, _DST, CTA_IP_V6_SRC, _DST.
    ip = _attribute(1 + end + 2 * (family == socket.AF_INET6), packed)
    match = _attribute(which | _NESTED, _attribute(_TUPLE_IP | _NESTED, ip))
    flags = b"".join(_attribute(each, struct.pack("=I", (1 << end) * (each == which))) for each in _TUPLES)
    yield from _ask(netlink, _GET, _REQUEST | _DUMP, family, match + _attribute(_FILTER | _NESTED, flags))


def _delete(netlink: socket.socket, family: int, entry: dict[int, bytes]) -> bool:
    """Whether it was still there. With its id: another connection may have the same tuple by now."""
    body = _attribute(_TUPLES[0] | _NESTED, entry[_TUPLES[0]])
    body += b"".join(_attribute(kind, entry[kind]) for kind in (_ID, _ZONE) if kind in entry)
    try:
        list(_ask(netlink, _DELETE, _REQUEST | _ACK, family, body))
    except FileNotFoundError:
        return False
    return True


def _ask(netlink: socket.socket, kind: int, flags: int, family: int, body: bytes) -> Iterator[dict[int, bytes]]:
    """The attributes of each answer, once all are there. Raises OSError with what the kernel says."""
    netlink.send(_HEADER.pack(_HEADER.size + 4 + len(body), kind, flags, 0, 0) + struct.pack("!BBH", family, 0, 0) + body)
    found: list[dict[int, bytes]] = []
    while True:
        data = netlink.recv(1 << 18)
        at = 0
        while at < len(data):
            length, answer, *_ = _HEADER.unpack_from(data, at)
            if answer in (_ERROR, _DONE):
                (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
                if code:
                    raise OSError(-code, os.strerror(-code), "nf_conntrack")
                return iter(found)
            found.append(_attributes(data[at + _HEADER.size + 4 : at + length]))
            at += length + -length % 4


def _ends(entry: dict[int, bytes], which: int) -> tuple[bytes, ...]:
    """Source and destination of one tuple."""
    return tuple(_attributes(_attributes(entry.get(which, b"")).get(_TUPLE_IP, b"")).values())


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            raise OSError(errno.EBADMSG, "an attribute without an end", "nf_conntrack")
        found[kind & _TYPE] = data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
    return found
