"""Netlink as bytes: what every plug asks and tells the kernel, in as few of them as it takes.

A general library spends more time on one request than the kernel does on a whole guest. Here are the messages that a guest
needs, and no others: rtnetlink(7), netlink(7), linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h, linux/fib_rules.h.
_socket is what `socket` is made of, which takes longer to load.
"""

import errno
import os
from _socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    MSG_TRUNC,
    NETLINK_ROUTE,
    SOCK_CLOEXEC,
    SOCK_RAW,
    inet_ntop,
    inet_pton,
    socket,
)
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

_SOL_NETLINK, _CAP_ACK, _STRICT_CHK = 270, 10, 12
REQUEST, _MULTI, ACK, _DUMP_INTR = 1, 2, 4, 0x10
DUMP = 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_ATTEMPTS = 50
_BUFFER = 1 << 17

_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_INT, _SIGNED = Struct("=I"), Struct("=i")
_LINK = Struct("=BxHiII")
_VLAN, _VLAN_FLAGS = Struct("=HH"), Struct("=H")
_ADDRESS = Struct("=BBBBI")
_NEIGHBOUR = Struct("=BxxxiHBB")
_ROUTE = Struct("=BBBBBBBBI")

_NEWLINK, _GETLINK, _SETLINK, _DELLINK = 16, 18, 19, 17
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 10, 12
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_EXT_MASK = 18, 20, 26, 29
_BRIDGE_FLAGS, _BRIDGE_VLAN_INFO, _SELF = 0, 2, 2
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 2, 4, 8, 16
_INFO_KIND, _INFO_DATA, _INFO_PORT_KIND, _INFO_PORT_DATA = 1, 2, 4, 5
_BR_VLAN_FILTERING, _BOND_PRIMARY, _BRPORT_ISOLATED = 7, 11, 33
# Statistics are summed up over all processors, and nobody here reads them.
_SKIP_STATS = _INT.pack(1 << 3)
# Places of the values, linux/ip.h (which counts from 1) and linux/ipv6.h.
_SETTINGS = (
    ("ipv4", AF_INET, 1, ((0, "forwarding"), (2, "proxy_arp"), (5, "send_redirects"), (7, "rp_filter"))),
    ("ipv6", AF_INET6, 2, ((0, "forwarding"), (3, "accept_ra"), (22, "proxy_ndp"), (26, "disable_ipv6"))),
)
_INET6_ADDR_GEN_MODE = 8
_NESTED = 0x8000
_AF_BRIDGE = 7
UP, LOWER_UP = 1, 0x10000

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_NDA_DST, _NDA_LLADDR = 1, 2
PROXY, PERMANENT = 8, 0x80
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 2, 4, 5, 6, 7, 15
_UNICAST, _UNIVERSE, _ON_LINK = 1, 0, 253
_ONLINK = 4
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000
_FRA_DST, _FRA_SRC, _FRA_PRIORITY, _FRA_TABLE, _FRA_PROTOCOL = 1, 2, 6, 15, 21
# Marks, interfaces, l3mdev, users, protocols and ports, tunnels; DSCP and flow labels of newer kernels.
_FRA_OTHERS = frozenset((3, 10, 12, 17, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29))
_TO_TABLE = 1


class NetlinkError(Exception):
    """The kernel refused a request. `code` is the errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code, os.strerror(code))
        self.code = code


@dataclass(slots=True)
class Link:
    """A link as the kernel tells of it. `master` is an index, 0 for none; `data` is what only links of its kind have, `port` what
    only a bridge's port has, `families` what IPv4 and IPv6 have for it, all as they came."""

    index: int
    name: str
    flags: int
    mtu: int
    address: str
    master: int
    alias: str
    kind: str
    data: bytes
    port: bytes
    families: bytes

    @property
    def settings(self) -> dict[tuple[str, str], str]:
        """Those values of /proc/sys/net/FAMILY/conf/LINK that guests need, by (family, name), as the files have them."""
        found: dict[tuple[str, str], str] = {}
        there = attributes(self.families)
        for name, family, kind, places in _SETTINGS:
            inner = attributes(there[family]) if family in there else {}
            values = inner.get(kind, b"")
            for place, word in places:
                if len(values) >= 4 * place + 4:
                    found[name, word] = str(_SIGNED.unpack_from(values, 4 * place)[0])
            if family == AF_INET6 and _INET6_ADDR_GEN_MODE in inner:
                found[name, "addr_gen_mode"] = str(inner[_INET6_ADDR_GEN_MODE][0])
        return found

    @property
    def isolated(self) -> bool | None:
        """Of a bridge's port; None for every other link."""
        return any(attributes(self.port).get(_BRPORT_ISOLATED, b"")) if self.port else None

    @property
    def vlan_filtering(self) -> bool:
        return self.kind == "bridge" and any(attributes(self.data).get(_BR_VLAN_FILTERING, b""))

    @property
    def primary(self) -> int:
        """Of a bond: the index of its primary port; 0 for none."""
        return _INT.unpack(attributes(self.data).get(_BOND_PRIMARY, bytes(4)))[0] if self.kind == "bond" else 0


class Route(NamedTuple):
    """A unicast route of TOS 0. `oif` is an index; `metric` as the kernel has it."""

    table: int
    dst: str
    oif: int
    via: str
    proto: int
    src: str
    metric: int


class Rule(NamedTuple):
    """A policy rule that selects by one subnet and nothing else: by `from` or by `to`."""

    priority: int
    selector: str
    subnet: str
    table: int
    proto: int


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes of a message, behind its header, or those within one: their values by number, the last of each."""
    found: dict[int, bytes] = {}
    end = len(data)
    unpack = _ATTRIBUTE.unpack_from
    while end - offset >= 4:
        length, number = unpack(data, offset)
        if length < 4:
            break
        found[number & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(number: int, value: bytes) -> bytes:
    """One attribute, padded to the next one's place."""
    return _ATTRIBUTE.pack(4 + len(value), number) + value + bytes(-len(value) % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """What one datagram holds: (type, flags, sequence number, the message behind its header)."""
    offset, end = 0, len(data)
    while end - offset >= 16:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            break
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def text(data: bytes) -> str:
    """A string as the kernel sends it. A link's name can be any bytes but a blank, a slash and a colon."""
    return os.fsdecode(data.partition(b"\0")[0])


class Socket:
    """A netlink socket that asks and is answered, one request at a time; or, of multicast `groups`, one that is told."""

    def __init__(self, protocol: int = NETLINK_ROUTE, groups: int = 0) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)

    def close(self) -> None:
        self._socket.close()

    def get(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """The one answer to a request. Raises NetlinkError."""
        sequence = self._send(kind, flags, body)
        while True:
            for answer, _, number, data in messages(self.receive()):
                if number == sequence:
                    _check(answer, data)
                    return data

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """A request that changes something. Raises NetlinkError if it is refused."""
        self.get(kind, body, flags | ACK)

    def batch(self, begin: int, end: int, header: bytes, changes: Sequence[tuple[int, bytes, int]]) -> None:
        """Changes (type, message, flags) that nfnetlink makes all of, or none, between two messages that say so. Raises
        NetlinkError with what it has against the first that it refuses."""
        *others, (kind, body, flags) = changes
        data = []
        first = self._sequence + 1
        for one in ((begin, header, 0), *others, (kind, body, flags | ACK), (end, header, 0)):
            self._sequence += 1
            data.append(_HEADER.pack(16 + len(one[1]), one[0], one[2] | REQUEST, self._sequence & 0xFFFFFFFF, 0) + one[1])
        self._socket.send(b"".join(data))
        # What is refused is told in order, after all of them were looked at; what is wrong with the whole, of its beginning.
        last = self._sequence - 1
        while True:
            for answer, _, number, told in messages(self.receive()):
                if first <= number <= last:
                    _check(answer, told)
                    if number == last:
                        return

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Every answer to a request. The kernel says so when something changed under it (a routing daemon is at work): then it
        is asked again. Raises NetlinkError."""
        for _ in range(_ATTEMPTS):
            whole, found = self._dump(self._send(kind, DUMP, body))
            if whole:
                return found
        raise NetlinkError(errno.EAGAIN)

    def _dump(self, sequence: int) -> tuple[bool, list[bytes]]:
        whole = True
        found: list[bytes] = []
        while True:
            for answer, flags, number, data in messages(self.receive()):
                if number != sequence:
                    continue
                if flags & _DUMP_INTR:
                    whole = False
                if answer == _DONE:
                    # What stopped it, if anything did.
                    if len(data) >= 4 and (code := _SIGNED.unpack_from(data)[0]):
                        raise NetlinkError(-code)
                    return whole, found
                _check(answer, data)
                found.append(data)

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._socket.send(_HEADER.pack(16 + len(body), kind, flags | REQUEST, sequence, 0) + body)
        return sequence

    def receive(self, flags: int = 0) -> bytes:
        """The next datagram. Raises OSError: BlockingIOError if none waits and `flags` say so, ENOBUFS if some were lost."""
        size = self._socket.recv_into(self._buffer, 0, MSG_TRUNC | flags)
        if size > _BUFFER:
            raise NetlinkError(errno.EMSGSIZE)
        return bytes(self._view[:size])


def _check(answer: int, data: bytes) -> None:
    if answer == _ERROR and (code := _SIGNED.unpack_from(data)[0]):
        raise NetlinkError(-code)


# --- links -----------------------------------------------------------------------------------------------------------


class Rtnetlink(Socket):
    """Links, addresses, neighbours, routes and rules. Every method but the dumps costs the same, however many there are."""

    def link(self, ifname: str) -> Link | None:
        """The link of a name; None if there is none."""
        return self._link(0, attribute(_IFLA_IFNAME, os.fsencode(ifname) + b"\0"))

    def link_at(self, index: int) -> Link | None:
        return self._link(index, b"")

    def _link(self, index: int, name: bytes) -> Link | None:
        body = _LINK.pack(0, 0, index, 0, 0) + name + attribute(_IFLA_EXT_MASK, _SKIP_STATS)
        try:
            return link_of(self.get(_GETLINK, body))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise

    def links(self) -> list[Link]:
        """Every link."""
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _SKIP_STATS)
        return [link_of(data) for data in self.dump(_GETLINK, body)]

    def set_link(self, index: int, *items: bytes, up: bool | None = None) -> None:
        """Gives a link attributes: see `mtu`, `address`, `master`, `name`, `primary`."""
        flags, change = (0, 0) if up is None else (UP if up else 0, UP)
        self.change(_NEWLINK, _LINK.pack(0, 0, index, flags, change) + b"".join(items))

    def set_isolated(self, index: int, isolated: bool) -> None:
        """Of a bridge's port."""
        inner = attribute(_BRPORT_ISOLATED, b"\1" if isolated else b"\0")
        body = _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + attribute(_IFLA_PROTINFO | _NESTED, inner)
        self.change(_SETLINK, body)

    def change_vlans(self, verb: str, index: int, own: bool, first: int, last: int, untagged: bool) -> None:
        """add or del of the VLANs from `first` to `last` of a bridge's port, or with `own` of the bridge itself; one that is
        `untagged` is the PVID too."""
        flags = _PVID | _UNTAGGED if untagged else 0
        rows = [(flags, first)] if first == last else [(flags | _RANGE_BEGIN, first), (flags | _RANGE_END, last)]
        items = attribute(_BRIDGE_FLAGS, _VLAN_FLAGS.pack(_SELF)) if own else b""
        items += b"".join(attribute(_BRIDGE_VLAN_INFO, _VLAN.pack(*row)) for row in rows)
        body = _LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + attribute(_IFLA_AF_SPEC | _NESTED, items)
        self.change(_SETLINK if verb == "add" else _DELLINK, body)

    def delete_link(self, index: int) -> None:
        self.change(_DELLINK, _LINK.pack(0, 0, index, 0, 0))

    # --- addresses ---------------------------------------------------------------------------------------------------

    def addresses(self, index: int) -> list[str]:
        """Those of one link, each with its length; IPv4 first, and in each family the kernel's own order."""
        found = []
        for data in self.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, index)):
            family, length, _, _, at = _ADDRESS.unpack_from(data)
            if at == index and family in (AF_INET, AF_INET6):
                items = attributes(data, 8)
                found.append(f"{inet_ntop(family, items.get(_IFA_LOCAL) or items[_IFA_ADDRESS])}/{length}")
        return found

    def add_address(self, index: int, address: str, broadcast: str = "", flags: int = 0) -> None:
        self.change(_NEWADDR, _address(index, address, broadcast, flags), CREATE | EXCLUSIVE)

    def delete_address(self, index: int, address: str) -> None:
        self.change(_DELADDR, _address(index, address))

    # --- neighbours --------------------------------------------------------------------------------------------------

    def neighbour(self, index: int, address: str, flags: int = 0) -> tuple[int, str] | None:
        """(state, MAC) of an entry; with the flag PROXY of what the kernel answers for. None if there is none."""
        family = family_of(address)
        body = _NEIGHBOUR.pack(family, index, 0, flags, 0) + attribute(_NDA_DST, inet_pton(family, address))
        try:
            data = self.get(_GETNEIGH, body)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                return None
            raise
        return _NEIGHBOUR.unpack_from(data)[2], attributes(data, 12).get(_NDA_LLADDR, b"").hex(":")

    def set_neighbour(self, index: int, address: str, lladdr: str = "", flags: int = 0) -> None:
        """A permanent entry; with the flag PROXY, an address that the kernel answers for."""
        family = family_of(address)
        body = _NEIGHBOUR.pack(family, index, PERMANENT, flags, 0) + attribute(_NDA_DST, inet_pton(family, address))
        if lladdr:
            body += attribute(_NDA_LLADDR, _mac(lladdr))
        self.change(_NEWNEIGH, body, CREATE | REPLACE)

    def delete_neighbour(self, index: int, address: str, flags: int = 0) -> None:
        family = family_of(address)
        body = _NEIGHBOUR.pack(family, index, 0, flags, 0) + attribute(_NDA_DST, inet_pton(family, address))
        self.change(_DELNEIGH, body)

    # --- routes ------------------------------------------------------------------------------------------------------

    def routes(self, family: int, table: int = 0, oif: int = 0, proto: int = 0) -> list[Route]:
        """The unicast routes of TOS 0 of a family; of one table, through one device, by one protocol where these are given.
        The kernel filters them, but goes through the whole table."""
        body = _ROUTE.pack(family, 0, 0, 0, 0, proto, 0, 0, 0)
        if table:
            body += attribute(_RTA_TABLE, _INT.pack(table))
        if oif:
            body += attribute(_RTA_OIF, _INT.pack(oif))
        try:
            dumped = self.dump(_GETROUTE, body)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                # No table of that number, or no such device any more.
                return []
            raise
        # Without IPv6 in the kernel, its dump is one of all families.
        return [route for data in dumped if data[0] == family and (route := _route_of(data)) and proto in (0, route.proto)]

    def lookup(self, address: str, source: str = "") -> Route | None:
        """The route by which the kernel finds an address (for what comes from `source`, of IPv6 alone), of all the rules and
        tables; None if it finds none. It says nothing of what other routes there are, but costs the same among thousands."""
        family = family_of(address)
        packed, origin = inet_pton(family, address), inet_pton(family, source) if source else b""
        # IPv6 tells the table unasked, and takes the question for an error.
        flags = _FIB_MATCH if family == AF_INET6 else _FIB_MATCH | _LOOKUP_TABLE
        body = _ROUTE.pack(family, 8 * len(packed), 8 * len(origin), 0, 0, 0, 0, 0, flags) + attribute(_RTA_DST, packed)
        try:
            return _route_of(self.get(_GETROUTE, body + attribute(_RTA_SRC, origin) if source else body))
        except NetlinkError:
            return None

    def set_route(self, route: Route, replace: bool) -> None:
        """Adds a route, which must not be there; with `replace`, one that may be."""
        body = _route(route) if not route.via else _route(route, _ONLINK)
        self.change(_NEWROUTE, body, CREATE | (REPLACE if replace else EXCLUSIVE))

    def delete_route(self, route: Route) -> None:
        self.change(_DELROUTE, _route(route))

    # --- rules -------------------------------------------------------------------------------------------------------

    def rules(self, family: int) -> list[Rule]:
        """The rules of a family that select by one subnet and nothing else."""
        found = []
        for data in self.dump(_GETRULE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            here, to_length, from_length, _, table, _, _, _, _ = _ROUTE.unpack_from(data)
            items = attributes(data, 12)
            if here != family or _FRA_OTHERS & items.keys() or (to_length and from_length):
                continue
            for selector, key, length in (("from", _FRA_SRC, from_length), ("to", _FRA_DST, to_length)):
                if packed := items.get(key):
                    priority, target = (_INT.unpack(items[k])[0] if k in items else 0 for k in (_FRA_PRIORITY, _FRA_TABLE))
                    proto = items.get(_FRA_PROTOCOL, b"\0")[0]
                    found.append(Rule(priority, selector, f"{inet_ntop(family, packed)}/{length}", target or table, proto))
        return found

    def add_rule(self, rule: Rule) -> None:
        self.change(_NEWRULE, _rule(rule), CREATE | EXCLUSIVE)

    def delete_rule(self, rule: Rule) -> None:
        self.change(_DELRULE, _rule(rule))


def link_of(data: bytes) -> Link:
    """A link's message, without its header."""
    _, _, index, flags, _ = _LINK.unpack_from(data)
    items = attributes(data, 16)
    info = attributes(items[_IFLA_LINKINFO]) if _IFLA_LINKINFO in items else {}
    return Link(
        index,
        text(items[_IFLA_IFNAME]),
        flags,
        _INT.unpack(items.get(_IFLA_MTU, bytes(4)))[0],
        items.get(_IFLA_ADDRESS, b"").hex(":"),
        _INT.unpack(items.get(_IFLA_MASTER, bytes(4)))[0],
        text(items.get(_IFLA_IFALIAS, b"")),
        text(info.get(_INFO_KIND, b"")),
        info.get(_INFO_DATA, b""),
        info.get(_INFO_PORT_DATA, b"") if text(info.get(_INFO_PORT_KIND, b"")) == "bridge" else b"",
        items.get(_IFLA_AF_SPEC, b""),
    )


def mtu(value: int) -> bytes:
    return attribute(_IFLA_MTU, _INT.pack(value))


def address(mac: str) -> bytes:
    return attribute(_IFLA_ADDRESS, _mac(mac))


def master(index: int) -> bytes:
    """0 takes a port out of its master."""
    return attribute(_IFLA_MASTER, _INT.pack(index))


def name(ifname: str) -> bytes:
    return attribute(_IFLA_IFNAME, os.fsencode(ifname) + b"\0")


def primary(index: int) -> bytes:
    """Of a bond; 0 is none."""
    data = attribute(_INFO_DATA | _NESTED, attribute(_BOND_PRIMARY, _INT.pack(index)))
    return attribute(_IFLA_LINKINFO | _NESTED, attribute(_INFO_KIND, b"bond") + data)


def family_of(address: str) -> int:
    return AF_INET6 if ":" in address else AF_INET


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _address(index: int, address: str, broadcast: str = "", flags: int = 0) -> bytes:
    host, _, length = address.partition("/")
    family = family_of(host)
    packed = inet_pton(family, host)
    body = _ADDRESS.pack(family, int(length), flags, _UNIVERSE, index) + attribute(_IFA_ADDRESS, packed)
    if family == AF_INET:
        body += attribute(_IFA_LOCAL, packed)
    return body + attribute(_IFA_BROADCAST, inet_pton(family, broadcast)) if broadcast else body


def _route_of(data: bytes) -> Route | None:
    family, length, _, tos, table, proto, _, kind, _ = _ROUTE.unpack_from(data)
    if kind != _UNICAST or tos:
        return None
    items = attributes(data, 12)
    dst = inet_ntop(family, items[_RTA_DST]) if _RTA_DST in items else "::" if family == AF_INET6 else "0.0.0.0"
    oif, metric = (_INT.unpack(items[key])[0] if key in items else 0 for key in (_RTA_OIF, _RTA_PRIORITY))
    via, src = (inet_ntop(family, items[key]) if key in items else "" for key in (_RTA_GATEWAY, _RTA_PREFSRC))
    table = _INT.unpack(items[_RTA_TABLE])[0] if _RTA_TABLE in items else table
    return Route(table, f"{dst}/{length}", oif, via, proto, src, metric)


def _table(table: int) -> int:
    """As the header has it, whose field is a byte."""
    return table if table < 256 else 0


def _route(route: Route, flags: int = 0) -> bytes:
    host, _, length = route.dst.partition("/")
    family = family_of(host)
    scope = _UNIVERSE if route.via or family == AF_INET6 else _ON_LINK
    body = _ROUTE.pack(family, int(length), 0, 0, _table(route.table), route.proto, scope, _UNICAST, flags)
    items = [attribute(_RTA_TABLE, _INT.pack(route.table)), attribute(_RTA_OIF, _INT.pack(route.oif))]
    if length != "0":
        items.append(attribute(_RTA_DST, inet_pton(family, host)))
    for key, value in ((_RTA_GATEWAY, route.via), (_RTA_PREFSRC, route.src)):
        if value:
            items.append(attribute(key, inet_pton(family, value)))
    if route.metric:
        items.append(attribute(_RTA_PRIORITY, _INT.pack(route.metric)))
    return body + b"".join(items)


def _rule(rule: Rule) -> bytes:
    host, _, length = rule.subnet.partition("/")
    family, size = family_of(host), int(length)
    is_from = rule.selector == "from"
    lengths = (0, size) if is_from else (size, 0)
    body = _ROUTE.pack(family, *lengths, 0, _table(rule.table), 0, 0, _TO_TABLE, 0)
    return (
        body
        + attribute(_FRA_SRC if is_from else _FRA_DST, inet_pton(family, host))
        + attribute(_FRA_PRIORITY, _INT.pack(rule.priority))
        + attribute(_FRA_TABLE, _INT.pack(rule.table))
        + attribute(_FRA_PROTOCOL, bytes((rule.proto,)))
    )
