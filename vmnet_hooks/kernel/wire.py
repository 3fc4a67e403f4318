"""rtnetlink: links, addresses, neighbours, routes and rules, in as few messages as a guest needs.

Sources: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/if_bridge.h, linux/neighbour.h, linux/fib_rules.h. framing.py
has the headers, the attributes and the socket.
"""

import errno
import os
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from .framing import CREATE, EXCLUSIVE, INT, NESTED, REPLACE, SIGNED, NetlinkError, Socket, attribute, attributes, text

_LINK = Struct("=BxHiII")
_VLAN, _VLAN_FLAGS = Struct("=HH"), Struct("=H")
_ADDRESS = Struct("=BBBBI")
NEIGHBOUR = Struct("=BxxxiHBB")
ROUTE = Struct("=BBBBBBBBI")
"""struct rtmsg, and struct fib_rule_hdr, which has the same form."""

NEWLINK, _GETLINK, _SETLINK, DELLINK = 16, 18, 19, 17
NEWADDR, DELADDR, _GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, _GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
_NEWRULE, DELRULE, _GETRULE = 32, 33, 34

# Multicast groups, RTNLGRP_*.
GROUP_LINK, GROUP_NEIGH = 1, 3
GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV4_RULE, GROUP_IPV4_NETCONF = 5, 7, 8, 24
GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE, GROUP_IPV6_RULE, GROUP_IPV6_NETCONF = 9, 11, 19, 25

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 10, 12
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_EXT_MASK = 18, 20, 26, 29
_BRIDGE_FLAGS, _BRIDGE_VLAN_INFO, _SELF = 0, 2, 2
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 2, 4, 8, 16
_INFO_KIND, _INFO_DATA, _INFO_PORT_KIND, _INFO_PORT_DATA = 1, 2, 4, 5
_BR_VLAN_FILTERING, _BOND_PRIMARY, _BRPORT_ISOLATED = 7, 11, 33
# For statistics, which we do not read, the kernel adds up counters of all processors.
_SKIP_STATS = INT.pack(1 << 3)
# Indices into the arrays of values: linux/ip.h (which counts from 1) and linux/ipv6.h.
_SETTINGS = (
    ("ipv4", AF_INET, 1, ((0, "forwarding"), (2, "proxy_arp"), (5, "send_redirects"), (7, "rp_filter"))),
    ("ipv6", AF_INET6, 2, ((0, "forwarding"), (3, "accept_ra"), (22, "proxy_ndp"), (26, "disable_ipv6"))),
)
_INET6_ADDR_GEN_MODE = 8
AF_BRIDGE = 7
UP, LOWER_UP = 1, 0x10000

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_PROTO = 1, 2, 4, 11
NDA_DST, NDA_LLADDR = 1, 2
PROXY, PERMANENT = 8, 0x80
RTA_DST, _RTA_SRC, RTA_OIF, _RTA_GATEWAY, RTA_PRIORITY, _RTA_PREFSRC, RTA_TABLE = 1, 2, 4, 5, 6, 7, 15
_UNICAST, _UNIVERSE, _ON_LINK = 1, 0, 253
_ONLINK = 4
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_TABLE, _FRA_PROTOCOL = 1, 2, 6, 15, 21
# Selectors other than a subnet: marks, interfaces, l3mdev, users, protocols, ports, tunnels; in newer kernels DSCP, flow labels.
_FRA_OTHERS = frozenset((3, 10, 12, 17, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29))
_TO_TABLE = 1


@dataclass(slots=True)
class LinkMessage:
    """A decoded RTM_NEWLINK or RTM_DELLINK. `master` is an index, 0 for none. Not decoded: `data`, the attributes of the link's
    kind; `port`, those of a bridge port; `families`, those of IPv4 and IPv6."""

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
        """The values of /proc/sys/net/FAMILY/conf/LINK that guests need, by (family, name), in the files' own format."""
        found: dict[tuple[str, str], str] = {}
        there = attributes(self.families)
        for name, family, kind, places in _SETTINGS:
            inner = attributes(there[family]) if family in there else {}
            values = inner.get(kind, b"")
            for place, word in places:
                if len(values) >= 4 * place + 4:
                    found[name, word] = str(SIGNED.unpack_from(values, 4 * place)[0])
            if family == AF_INET6 and _INET6_ADDR_GEN_MODE in inner:
                found[name, "addr_gen_mode"] = str(inner[_INET6_ADDR_GEN_MODE][0])
        return found

    @property
    def isolated(self) -> bool | None:
        """Whether a bridge port is isolated; None for other links."""
        return any(attributes(self.port).get(_BRPORT_ISOLATED, b"")) if self.port else None

    @property
    def vlan_filtering(self) -> bool:
        return self.kind == "bridge" and any(attributes(self.data).get(_BR_VLAN_FILTERING, b""))

    @property
    def primary(self) -> int:
        """The index of a bond's primary port; 0 for none."""
        return INT.unpack(attributes(self.data).get(_BOND_PRIMARY, bytes(4)))[0] if self.kind == "bond" else 0


class RouteMessage(NamedTuple):
    """A unicast route with TOS 0 in RTM_NEWROUTE and RTM_DELROUTE. `oif` is the index of a link."""

    table: int
    dst: str
    oif: int
    via: str
    proto: int
    src: str
    metric: int


class RuleMessage(NamedTuple):
    """A policy rule in RTM_NEWRULE and RTM_DELRULE that selects by one subnet alone: `selector` is from or to."""

    priority: int
    selector: str
    subnet: str
    table: int
    proto: int


# --- links -----------------------------------------------------------------------------------------------------------


class Rtnetlink(Socket):
    """An rtnetlink socket. The cost of a call does not depend on how many guests there are, except for dumps: `links`, `routes`
    and `rules`. Every method raises NetlinkError."""

    def link(self, ifname: str) -> LinkMessage | None:
        """Return the link of a name; None if there is none."""
        return self._link(0, attribute(_IFLA_IFNAME, os.fsencode(ifname) + b"\0"))

    def link_at(self, index: int) -> LinkMessage | None:
        """Return the link of an index; None if there is none."""
        return self._link(index, b"")

    def _link(self, index: int, name: bytes) -> LinkMessage | None:
        body = _LINK.pack(0, 0, index, 0, 0) + name + attribute(_IFLA_EXT_MASK, _SKIP_STATS)
        try:
            return link_of(self.get(_GETLINK, body))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise

    def links(self) -> list[LinkMessage]:
        """Return every link."""
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, _SKIP_STATS)
        return [link_of(data) for data in self.dump(_GETLINK, body)]

    def set_link(self, index: int, *items: bytes, up: bool | None = None) -> None:
        """Set attributes of a link, which `mtu`, `address`, `master`, `name` and `primary` make, and set it up or down."""
        flags, change = (0, 0) if up is None else (UP if up else 0, UP)
        self.change(NEWLINK, _LINK.pack(0, 0, index, flags, change) + b"".join(items))

    def set_isolated(self, index: int, isolated: bool) -> None:
        """Set or clear the flag `isolated` of a bridge port."""
        inner = attribute(_BRPORT_ISOLATED, b"\1" if isolated else b"\0")
        body = _LINK.pack(AF_BRIDGE, 0, index, 0, 0) + attribute(_IFLA_PROTINFO | NESTED, inner)
        self.change(_SETLINK, body)

    def change_vlans(self, verb: str, index: int, own: bool, first: int, last: int, untagged: bool) -> None:
        """Add or delete (`verb` is add or del) the VIDs from `first` to `last` of a bridge port, or with `own` of the bridge
        itself. An `untagged` VID becomes the PVID too."""
        flags = _PVID | _UNTAGGED if untagged else 0
        rows = [(flags, first)] if first == last else [(flags | _RANGE_BEGIN, first), (flags | _RANGE_END, last)]
        items = attribute(_BRIDGE_FLAGS, _VLAN_FLAGS.pack(_SELF)) if own else b""
        items += b"".join(attribute(_BRIDGE_VLAN_INFO, _VLAN.pack(*row)) for row in rows)
        body = _LINK.pack(AF_BRIDGE, 0, index, 0, 0) + attribute(_IFLA_AF_SPEC | NESTED, items)
        self.change(_SETLINK if verb == "add" else DELLINK, body)

    def delete_link(self, index: int) -> None:
        self.change(DELLINK, _LINK.pack(0, 0, index, 0, 0))

    # --- addresses ---------------------------------------------------------------------------------------------------

    def addresses(self, index: int) -> dict[str, int]:
        """Return the addresses of a link with their prefix lengths: IPv4 first, each family in the kernel's order; each with the
        mark of its maker (IFA_PROTO), which is 0 before Linux 5.18."""
        found = {}
        for data in self.dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, index)):
            family, length, _, _, at = _ADDRESS.unpack_from(data)
            if at == index and family in (AF_INET, AF_INET6):
                items = attributes(data, 8)
                address = inet_ntop(family, items.get(_IFA_LOCAL) or items[_IFA_ADDRESS])
                found[f"{address}/{length}"] = items.get(_IFA_PROTO, b"\0")[0]
        return found

    def add_address(self, index: int, address: str, broadcast: str = "", flags: int = 0, mark: int = 0) -> None:
        """Add an ADDRESS/LENGTH. `flags` are IFA_F_*; `mark` tells its maker."""
        self.change(NEWADDR, _address(index, address, broadcast, flags, mark), CREATE | EXCLUSIVE)

    def delete_address(self, index: int, address: str) -> None:
        self.change(DELADDR, _address(index, address))

    # --- neighbours --------------------------------------------------------------------------------------------------

    def neighbour(self, index: int, address: str, flags: int = 0) -> tuple[int, str] | None:
        """Return (state, MAC) of a neighbour entry, or with the flag PROXY of a proxy entry; None if there is none."""
        family = family_of(address)
        body = NEIGHBOUR.pack(family, index, 0, flags, 0) + attribute(NDA_DST, inet_pton(family, address))
        try:
            data = self.get(GETNEIGH, body)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                return None
            raise
        return NEIGHBOUR.unpack_from(data)[2], attributes(data, 12).get(NDA_LLADDR, b"").hex(":")

    def set_neighbour(self, index: int, address: str, lladdr: str = "", flags: int = 0) -> None:
        """Add or replace a permanent entry; with the flag PROXY, a proxy entry: an address that the kernel answers for."""
        family = family_of(address)
        body = NEIGHBOUR.pack(family, index, PERMANENT, flags, 0) + attribute(NDA_DST, inet_pton(family, address))
        if lladdr:
            body += attribute(NDA_LLADDR, _mac(lladdr))
        self.change(NEWNEIGH, body, CREATE | REPLACE)

    def delete_neighbour(self, index: int, address: str, flags: int = 0) -> None:
        family = family_of(address)
        body = NEIGHBOUR.pack(family, index, 0, flags, 0) + attribute(NDA_DST, inet_pton(family, address))
        self.change(DELNEIGH, body)

    # --- routes ------------------------------------------------------------------------------------------------------

    def routes(self, family: int, table: int = 0, oif: int = 0, proto: int = 0) -> list[RouteMessage]:
        """Return the unicast routes of a family with TOS 0; with `table`, `oif` or `proto`, only those. The kernel filters them,
        but walks the whole table."""
        body = ROUTE.pack(family, 0, 0, 0, 0, proto, 0, 0, 0)
        if table:
            body += attribute(RTA_TABLE, INT.pack(table))
        if oif:
            body += attribute(RTA_OIF, INT.pack(oif))
        try:
            dumped = self.dump(_GETROUTE, body)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                # There is no table of that number, or the device has gone.
                return []
            raise
        # A kernel without IPv6 answers its dump with those of all families.
        return [route for data in dumped if data[0] == family and (route := _route_of(data)) and proto in (0, route.proto)]

    def lookup(self, address: str, source: str = "") -> RouteMessage | None:
        """Return the route that the kernel takes to an address by all rules and tables (for packets from `source`, IPv6 only);
        None if it finds none. Unlike a dump, this costs the same among thousands of routes."""
        family = family_of(address)
        packed, origin = inet_pton(family, address), inet_pton(family, source) if source else b""
        # IPv6 gives the table in any case, and refuses the flag that asks for it.
        flags = _FIB_MATCH if family == AF_INET6 else _FIB_MATCH | _LOOKUP_TABLE
        body = ROUTE.pack(family, 8 * len(packed), 8 * len(origin), 0, 0, 0, 0, 0, flags) + attribute(RTA_DST, packed)
        try:
            return _route_of(self.get(_GETROUTE, body + attribute(_RTA_SRC, origin) if source else body))
        except NetlinkError:
            return None

    def set_route(self, route: RouteMessage, replace: bool) -> None:
        """Add a route; with `replace`, in place of one with the same key. Without it, such a route is an error (EEXIST)."""
        body = _route(route) if not route.via else _route(route, _ONLINK)
        self.change(NEWROUTE, body, CREATE | (REPLACE if replace else EXCLUSIVE))

    def delete_route(self, route: RouteMessage) -> None:
        self.change(DELROUTE, _route(route))

    # --- rules -------------------------------------------------------------------------------------------------------

    def rules(self, family: int) -> list[RuleMessage]:
        """Return the rules of a family that select by one subnet alone."""
        found = []
        for data in self.dump(_GETRULE, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            here, to_length, from_length, _, table, _, _, _, _ = ROUTE.unpack_from(data)
            items = attributes(data, 12)
            if here != family or _FRA_OTHERS & items.keys() or (to_length and from_length):
                continue
            for selector, key, length in (("from", FRA_SRC, from_length), ("to", FRA_DST, to_length)):
                if packed := items.get(key):
                    priority, target = (INT.unpack(items[k])[0] if k in items else 0 for k in (FRA_PRIORITY, FRA_TABLE))
                    proto = items.get(_FRA_PROTOCOL, b"\0")[0]
                    found.append(RuleMessage(priority, selector, f"{inet_ntop(family, packed)}/{length}", target or table, proto))
        return found

    def add_rule(self, rule: RuleMessage) -> None:
        self.change(_NEWRULE, _rule(rule), CREATE | EXCLUSIVE)

    def delete_rule(self, rule: RuleMessage) -> None:
        self.change(DELRULE, _rule(rule))


def link_of(data: bytes) -> LinkMessage:
    """Decode the body of an RTM_NEWLINK or RTM_DELLINK."""
    _, _, index, flags, _ = _LINK.unpack_from(data)
    items = attributes(data, 16)
    info = attributes(items[_IFLA_LINKINFO]) if _IFLA_LINKINFO in items else {}
    return LinkMessage(
        index,
        text(items.get(_IFLA_IFNAME, b"")),
        flags,
        INT.unpack(items.get(_IFLA_MTU, bytes(4)))[0],
        items.get(_IFLA_ADDRESS, b"").hex(":"),
        INT.unpack(items.get(_IFLA_MASTER, bytes(4)))[0],
        text(items.get(_IFLA_IFALIAS, b"")),
        text(info.get(_INFO_KIND, b"")),
        info.get(_INFO_DATA, b""),
        info.get(_INFO_PORT_DATA, b"") if text(info.get(_INFO_PORT_KIND, b"")) == "bridge" else b"",
        items.get(_IFLA_AF_SPEC, b""),
    )


def mtu(value: int) -> bytes:
    """Encode an MTU in bytes."""
    return attribute(_IFLA_MTU, INT.pack(value))


def address(mac: str) -> bytes:
    """Encode a link's MAC."""
    return attribute(_IFLA_ADDRESS, _mac(mac))


def master(index: int) -> bytes:
    """Encode a master's index; 0 takes a port out of its master."""
    return attribute(_IFLA_MASTER, INT.pack(index))


def name(ifname: str) -> bytes:
    """Encode a new name."""
    return attribute(_IFLA_IFNAME, os.fsencode(ifname) + b"\0")


def primary(index: int) -> bytes:
    """Encode the index of a bond's primary port; 0 for none."""
    data = attribute(_INFO_DATA | NESTED, attribute(_BOND_PRIMARY, INT.pack(index)))
    return attribute(_IFLA_LINKINFO | NESTED, attribute(_INFO_KIND, b"bond") + data)


def family_of(address: str) -> int:
    """Return AF_INET or AF_INET6."""
    return AF_INET6 if ":" in address else AF_INET


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _address(index: int, address: str, broadcast: str = "", flags: int = 0, mark: int = 0) -> bytes:
    host, _, length = address.partition("/")
    family = family_of(host)
    packed = inet_pton(family, host)
    body = _ADDRESS.pack(family, int(length), flags, _UNIVERSE, index) + attribute(_IFA_ADDRESS, packed)
    if family == AF_INET:
        body += attribute(_IFA_LOCAL, packed)
    if broadcast:
        body += attribute(_IFA_BROADCAST, inet_pton(family, broadcast))
    return body + attribute(_IFA_PROTO, bytes([mark])) if mark else body


def _route_of(data: bytes) -> RouteMessage | None:
    family, length, _, tos, table, proto, _, kind, _ = ROUTE.unpack_from(data)
    if kind != _UNICAST or tos:
        return None
    items = attributes(data, 12)
    dst = inet_ntop(family, items[RTA_DST]) if RTA_DST in items else "::" if family == AF_INET6 else "0.0.0.0"
    oif, metric = (INT.unpack(items[key])[0] if key in items else 0 for key in (RTA_OIF, RTA_PRIORITY))
    via, src = (inet_ntop(family, items[key]) if key in items else "" for key in (_RTA_GATEWAY, _RTA_PREFSRC))
    table = INT.unpack(items[RTA_TABLE])[0] if RTA_TABLE in items else table
    return RouteMessage(table, f"{dst}/{length}", oif, via, proto, src, metric)


def _table(table: int) -> int:
    """The table in a header, where it has one byte; a larger number is in an attribute alone."""
    return table if table < 256 else 0


def _route(route: RouteMessage, flags: int = 0) -> bytes:
    host, _, length = route.dst.partition("/")
    family = family_of(host)
    scope = _UNIVERSE if route.via or family == AF_INET6 else _ON_LINK
    body = ROUTE.pack(family, int(length), 0, 0, _table(route.table), route.proto, scope, _UNICAST, flags)
    items = [attribute(RTA_TABLE, INT.pack(route.table)), attribute(RTA_OIF, INT.pack(route.oif))]
    if length != "0":
        items.append(attribute(RTA_DST, inet_pton(family, host)))
    for key, value in ((_RTA_GATEWAY, route.via), (_RTA_PREFSRC, route.src)):
        if value:
            items.append(attribute(key, inet_pton(family, value)))
    if route.metric:
        items.append(attribute(RTA_PRIORITY, INT.pack(route.metric)))
    return body + b"".join(items)


def _rule(rule: RuleMessage) -> bytes:
    host, _, length = rule.subnet.partition("/")
    family, size = family_of(host), int(length)
    is_from = rule.selector == "from"
    lengths = (0, size) if is_from else (size, 0)
    body = ROUTE.pack(family, *lengths, 0, _table(rule.table), 0, 0, _TO_TABLE, 0)
    return (
        body
        + attribute(FRA_SRC if is_from else FRA_DST, inet_pton(family, host))
        + attribute(FRA_PRIORITY, INT.pack(rule.priority))
        + attribute(FRA_TABLE, INT.pack(rule.table))
        + attribute(_FRA_PROTOCOL, bytes((rule.proto,)))
    )
