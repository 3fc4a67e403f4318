"""Netlink as bytes: attributes, and the bodies of rtnetlink's messages, which links, addresses, neighbours, routes and rules are
written in. Pure; netlink.py has the sockets.

Sources: netlink(7), rtnetlink(7), linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_bridge.h, linux/neighbour.h,
linux/fib_rules.h.
"""

import os
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

NESTED, _NUMBER = 0x8000, 0x3FFF
_ATTRIBUTE = Struct("=HH")
NFGENMSG = Struct("!BBH")
"""Family, version, resource ID: the header of every nfnetlink message (linux/netfilter/nfnetlink.h)."""
INT, SIGNED = Struct("=I"), Struct("=i")

Items = Mapping[int, "bytes | Items"]
"""Attributes by number."""

_LINK = Struct("=BxHiII")
_VLAN, _VLAN_FLAGS, _VID = Struct("=HH"), Struct("=H"), Struct("=H")
ADDRESS = Struct("=BBBBI")
NEIGHBOUR = Struct("=BxxxiHBB")
ROUTE = Struct("=BBBBBBBBI")
"""struct rtmsg, and struct fib_rule_hdr, which has the same form."""

NEWLINK, GETLINK, SETLINK, DELLINK = 16, 18, 19, 17
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWRULE, DELRULE, GETRULE = 32, 33, 34

# Multicast groups, RTNLGRP_*.
GROUP_LINK, GROUP_NEIGH = 1, 3
GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV4_RULE, GROUP_IPV4_NETCONF = 5, 7, 8, 24
GROUP_IPV6_ADDRESS, GROUP_IPV6_ROUTE, GROUP_IPV6_RULE, GROUP_IPV6_NETCONF = 9, 11, 19, 25

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO = 1, 3, 4, 10, 12
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_EXT_MASK, _IFLA_NUM_TX_QUEUES = 18, 20, 26, 27, 29, 31
_BRIDGE_FLAGS, _BRIDGE_VLAN_INFO, _SELF = 0, 2, 2
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 2, 4, 8, 16
_INFO_KIND, _INFO_DATA, _INFO_PORT_KIND, _INFO_PORT_DATA = 1, 2, 4, 5
_BR_VLAN_FILTERING, _BR_FDB_MAX_LEARNED, _BOND_PRIMARY = 7, 49, 11
_BRPORT_STATE = 1
_BRPORT_FLAGS = {"hairpin": 4, "guard": 5, "learning": 8, "isolated": 33}
# For statistics, which we do not read, the kernel adds up counters of all processors.
_SKIP_STATS = INT.pack(1 << 3)
# Indices into the arrays of values: linux/ip.h (which counts from 1) and linux/ipv6.h.
_SETTINGS = (
    ("ipv4", AF_INET, 1, ((0, "forwarding"), (2, "proxy_arp"), (5, "send_redirects"), (7, "rp_filter"))),
    ("ipv6", AF_INET6, 2, ((0, "forwarding"), (3, "accept_ra"), (22, "proxy_ndp"), (26, "disable_ipv6"))),
)
_INET6_ADDR_GEN_MODE = 8
AF_BRIDGE = 7
UP, _RUNNING, PROMISC, LOWER_UP = 1, 0x40, 0x100, 0x10000

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_PROTO = 1, 2, 4, 11
NDA_DST, NDA_LLADDR, _NDA_VLAN, _NDA_IFINDEX, _NDA_PROTOCOL = 1, 2, 5, 8, 12
USE, _MASTER, PROXY, EXT_LEARNED, STICKY = 1, 4, 8, 0x10, 0x40
INCOMPLETE, NOARP, PERMANENT = 1, 0x40, 0x80
RTA_DST, _RTA_SRC, _RTA_IIF, RTA_OIF, _RTA_GATEWAY, RTA_PRIORITY, _RTA_PREFSRC, RTA_TABLE = 1, 2, 3, 4, 5, 6, 7, 15
_RTA_METRICS, _RTAX_MTU, _RTA_MULTIPATH, _RTA_VIA = 8, 2, 9, 18
_FAMILY = Struct("=H")
"""The start of struct rtvia: a gateway of another family than the route's."""
_NEXT_HOP = Struct("=HBBi")
"""struct rtnexthop: length, flags, weight - 1, index of the link."""
_UNICAST, _UNIVERSE, _ON_LINK = 1, 0, 253
KEPT = {2: "local", 3: "broadcast", 4: "anycast"}
"""RTN_*: types of routes by which a packet is sent to no single neighbour, by the name that iproute2 has for them."""
ONLINK = 4
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000
FRA_DST, FRA_SRC, FRA_PRIORITY, FRA_TABLE, _FRA_PROTOCOL = 1, 2, 6, 15, 21
FRA_MARK, _FRA_MASK = 10, 16
# Selectors other than a subnet: marks, interfaces, l3mdev, users, protocols, ports, tunnels; in newer kernels DSCP, flow labels.
_FRA_OTHERS = frozenset((3, 12, 17, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29))
_TO_TABLE, _UNREACHABLE = 1, 7
_ACTIONS = (_TO_TABLE, _UNREACHABLE)


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
    group: int = 0

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

    def port_flag(self, name: str) -> bool | None:
        """A flag of a bridge port, `isolated`, `guard`, `hairpin` or `learning`; None for other links."""
        return any(attributes(self.port).get(_BRPORT_FLAGS[name], b"")) if self.port else None

    @property
    def is_shut(self) -> bool:
        """Whether a bridge has disabled a port with `guard` that it could use: a BPDU came from it. One that is not up, or has no
        carrier, is disabled too; the bridge has noticed when the link is no longer RUNNING."""
        able = UP | LOWER_UP | _RUNNING
        state = attributes(self.port).get(_BRPORT_STATE, b"") if self.port and self.flags & able == able else b""
        return state[:1] == b"\0" and bool(self.port_flag("guard"))

    @property
    def vlan_filtering(self) -> bool:
        return self.kind == "bridge" and any(attributes(self.data).get(_BR_VLAN_FILTERING, b""))

    @property
    def learned_limit(self) -> int | None:
        """How many MACs a bridge learns, 0 without a limit; None for other links, and before Linux 6.7."""
        found = attributes(self.data).get(_BR_FDB_MAX_LEARNED) if self.kind == "bridge" else None
        return None if found is None else INT.unpack(found)[0]

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
    mtu: int = 0


class RuleMessage(NamedTuple):
    """A policy rule in RTM_NEWRULE and RTM_DELRULE that selects by one subnet: `selector` is from or to. With table 0 the packets
    are unreachable. With a `mark` that is not 0, it selects by that, too; the mask is the same."""

    priority: int
    selector: str
    subnet: str
    table: int
    proto: int
    mark: int = 0


# --- attributes ------------------------------------------------------------------------------------------------------------


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the values of the attributes that start at `offset`, by number. Of a number that occurs twice, the last counts."""
    found: dict[int, bytes] = {}
    end = len(data)
    unpack = _ATTRIBUTE.unpack_from
    while end - offset >= 4:
        length, number = unpack(data, offset)
        if length < 4:
            break
        found[number & _NUMBER] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def values(data: bytes) -> Iterator[bytes]:
    """Yield the values of a list, whose attributes all have the same number."""
    offset = 0
    while len(data) - offset >= 4:
        length, _ = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
"""By the remainder of the size."""


def body(header: bytes, items: Items) -> bytes:
    """Return a header and the attributes behind it, each padded to the start of the next. A mapping becomes a nested one."""
    pack = _ATTRIBUTE.pack
    for number, value in items.items():
        if not isinstance(value, bytes):
            number, value = number | NESTED, body(b"", value)
        size = len(value)
        header += pack(4 + size, number) + value + _PADDING[size & 3]
    return header


def text(data: bytes) -> str:
    """Decode a string of the kernel's. The name of a link can be any bytes but a blank, a slash and a colon."""
    return os.fsdecode(data.partition(b"\0")[0])


# --- links -----------------------------------------------------------------------------------------------------------------


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
        INT.unpack(items.get(_IFLA_GROUP, bytes(4)))[0],
    )


def link_body(index: int, ifname: str = "") -> bytes:
    """Encode the question for a link by its index, or with index 0 by its name; with neither, for all links."""
    name: Items = {_IFLA_IFNAME: os.fsencode(ifname) + b"\0"} if ifname else {}
    return body(_LINK.pack(0, 0, index, 0, 0), {**name, _IFLA_EXT_MASK: _SKIP_STATS})


def link_change(index: int, items: Items, up: bool | None = None, promiscuous: bool | None = None) -> bytes:
    """Encode a change of a link: attributes, which the functions below make, and its flags."""
    wanted = {flag: on for flag, on in ((UP, up), (PROMISC, promiscuous)) if on is not None}
    flags, change = sum(flag for flag, on in wanted.items() if on), sum(wanted)
    return body(_LINK.pack(0, 0, index, flags, change), items)


def mtu(value: int) -> Items:
    """Encode an MTU in bytes."""
    return {_IFLA_MTU: INT.pack(value)}


def address(mac: str) -> Items:
    """Encode a link's MAC."""
    return {_IFLA_ADDRESS: _mac(mac)}


def group(number: int) -> Items:
    """Encode a link's group."""
    return {_IFLA_GROUP: INT.pack(number)}


def master(index: int) -> Items:
    """Encode a master's index; 0 takes a port out of its master."""
    return {_IFLA_MASTER: INT.pack(index)}


def name(ifname: str) -> Items:
    """Encode a new name."""
    return {_IFLA_IFNAME: os.fsencode(ifname) + b"\0"}


def primary(index: int) -> Items:
    """Encode the index of a bond's primary port; 0 for none."""
    return {_IFLA_LINKINFO: {_INFO_KIND: b"bond", _INFO_DATA: {_BOND_PRIMARY: INT.pack(index)}}}


def learned_limit(most: int) -> Items:
    """Encode how many MACs a bridge learns; 0 for no limit."""
    return {_IFLA_LINKINFO: {_INFO_KIND: b"bridge", _INFO_DATA: {_BR_FDB_MAX_LEARNED: INT.pack(most)}}}


def impossible_link(kind: str) -> bytes:
    """Encode a new link with more queues to send by than the kernel allows (4,096)."""
    items: Items = {_IFLA_NUM_TX_QUEUES: INT.pack(0xFFFF), _IFLA_LINKINFO: {_INFO_KIND: kind.encode()}}
    return body(_LINK.pack(0, 0, 0, 0, 0), items)


def port_flag(index: int, name: str, on: bool) -> bytes:
    """Encode a flag of a bridge port, `isolated`, `guard`, `hairpin` or `learning`."""
    inner = {_BRPORT_FLAGS[name]: b"\1" if on else b"\0"}
    return body(_LINK.pack(AF_BRIDGE, 0, index, 0, 0), {_IFLA_PROTINFO: inner})


def vlans(index: int, own: bool, first: int, last: int, untagged: bool) -> bytes:
    """Encode the VIDs from `first` to `last` of a bridge port, or with `own` of the bridge itself."""
    flags = _PVID | _UNTAGGED if untagged else 0
    rows = [(flags, first)] if first == last else [(flags | _RANGE_BEGIN, first), (flags | _RANGE_END, last)]
    items = body(b"", {_BRIDGE_FLAGS: _VLAN_FLAGS.pack(_SELF)}) if own else b""
    items += b"".join(body(b"", {_BRIDGE_VLAN_INFO: _VLAN.pack(*row)}) for row in rows)
    return body(_LINK.pack(AF_BRIDGE, 0, index, 0, 0), {_IFLA_AF_SPEC | NESTED: items})


class NeighbourMessage(NamedTuple):
    """A neighbour entry in RTM_NEWNEIGH. `mac` is "" if it is not known."""

    state: int
    mac: str
    proto: int


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


# --- addresses and neighbours ----------------------------------------------------------------------------------------------


def family_of(address: str) -> int:
    """Return AF_INET or AF_INET6."""
    return AF_INET6 if ":" in address else AF_INET


def addresses_body(index: int) -> bytes:
    """Encode the question for the addresses of a link."""
    return ADDRESS.pack(0, 0, 0, 0, index)


def address_of(data: bytes) -> tuple[int, str, int] | None:
    """Decode the body of an RTM_NEWADDR: the index of the link, ADDRESS/LENGTH or ADDRESS peer PEER/LENGTH, and the mark of its
    maker (IFA_PROTO), which is 0 before Linux 5.18. None for other families than IPv4 and IPv6."""
    family, length, _, _, index = ADDRESS.unpack_from(data)
    if family not in (AF_INET, AF_INET6):
        return None
    items = attributes(data, 8)
    there = items[_IFA_ADDRESS] if _IFA_ADDRESS in items else items[_IFA_LOCAL]
    words = f"{inet_ntop(family, there)}/{length}"
    if items.get(_IFA_LOCAL, there) != there:
        words = f"{inet_ntop(family, items[_IFA_LOCAL])} peer {words}"
    return index, words, items.get(_IFA_PROTO, b"\0")[0]


def address_body(index: int, address: str, broadcast: str = "", flags: int = 0, mark: int = 0) -> bytes:
    """Encode an ADDRESS/LENGTH, or ADDRESS peer PEER/LENGTH, of a link."""
    host, _, length = address.partition("/")
    own, _, peer = host.partition(" peer ")
    family = family_of(host)
    items: dict[int, bytes] = {_IFA_ADDRESS: inet_pton(family, peer or own)}
    if family == AF_INET or peer:
        items[_IFA_LOCAL] = inet_pton(family, own)
    if broadcast:
        items[_IFA_BROADCAST] = inet_pton(family, broadcast)
    if mark:
        items[_IFA_PROTO] = bytes([mark])
    return body(ADDRESS.pack(family, int(length), flags, _UNIVERSE, index), items)


def neighbour_body(index: int, address: str, state: int = 0, flags: int = 0, lladdr: str = "", proto: int = 0) -> bytes:
    """Encode a neighbour entry of a link, or with the flag PROXY a proxy entry."""
    family = family_of(address)
    items = {NDA_DST: inet_pton(family, address)}
    if lladdr:
        items[NDA_LLADDR] = _mac(lladdr)
    if proto:
        items[_NDA_PROTOCOL] = bytes([proto])
    return body(NEIGHBOUR.pack(family, index, state, flags, 0), items)


def neighbour_of(data: bytes) -> NeighbourMessage:
    """Decode the body of an RTM_NEWNEIGH."""
    items = attributes(data, 12)
    proto = items.get(_NDA_PROTOCOL, b"\0")[0]
    return NeighbourMessage(NEIGHBOUR.unpack_from(data)[2], items.get(NDA_LLADDR, b"").hex(":"), proto)


def neighbours_body(family: int, index: int) -> bytes:
    """Encode the question for the neighbour entries of a link."""
    return body(NEIGHBOUR.pack(family, 0, 0, 0, 0), {_NDA_IFINDEX: INT.pack(index)})


def neighbour_address(data: bytes) -> str:
    """Return the address of an RTM_NEWNEIGH that has a MAC; "" if it has none."""
    items = attributes(data, 12)
    return inet_ntop(data[0], items[NDA_DST]) if NDA_LLADDR in items and NDA_DST in items else ""


def port_mac(index: int, mac: str, vid: int = 0, state: int = 0, flags: int = 0) -> bytes:
    """Encode the entry of a MAC that a bridge has at a port; with `vid`, in that VLAN."""
    items = {NDA_LLADDR: _mac(mac)}
    if vid:
        items[_NDA_VLAN] = _VID.pack(vid)
    return body(NEIGHBOUR.pack(AF_BRIDGE, index, state, flags | _MASTER, 0), items)


def port_of_mac(data: bytes) -> tuple[int, int, int]:
    """Decode the body of an RTM_NEWNEIGH of a bridge: the index of the link that the MAC is at, the entry's state and flags."""
    _, index, state, flags, _ = NEIGHBOUR.unpack_from(data)
    return index, state, flags


# --- routes and rules ------------------------------------------------------------------------------------------------------


def routes_body(family: int, table: int, oif: int, proto: int) -> bytes:
    """Encode the question for the routes of a family; with `table`, `oif` or `proto`, for those only."""
    items: dict[int, bytes] = {}
    if table:
        items[RTA_TABLE] = INT.pack(table)
    if oif:
        items[RTA_OIF] = INT.pack(oif)
    return body(ROUTE.pack(family, 0, 0, 0, 0, proto, 0, 0, 0), items)


def lookup_body(address: str, source: str = "", iif: int = 0) -> bytes:
    """Encode the question for the route to an address, for packets from `source` (IPv4: one of the host's own addresses). With
    `iif`, for packets from others that arrive on the link with that index; IPv4 needs their source."""
    family = family_of(address)
    items = {RTA_DST: inet_pton(family, address)}
    if source:
        items[_RTA_SRC] = inet_pton(family, source)
    if iif:
        items[_RTA_IIF] = INT.pack(iif)
    # IPv6 gives the table in any case, and refuses the flag that asks for it.
    flags = _FIB_MATCH if family == AF_INET6 else _FIB_MATCH | _LOOKUP_TABLE
    lengths = 8 * len(items[RTA_DST]), 8 * len(items.get(_RTA_SRC, b""))
    return body(ROUTE.pack(family, *lengths, 0, 0, 0, 0, 0, flags), items)


def route_of(data: bytes) -> RouteMessage | None:
    """Decode the body of an RTM_NEWROUTE or RTM_DELROUTE; None if it is no unicast route with TOS 0."""
    family, length, _, tos, table, proto, _, kind, _ = ROUTE.unpack_from(data)
    if kind != _UNICAST or tos:
        return None
    items = attributes(data, 12)
    dst = inet_ntop(family, items[RTA_DST]) if RTA_DST in items else "::" if family == AF_INET6 else "0.0.0.0"
    oif, metric = (INT.unpack(items[key])[0] if key in items else 0 for key in (RTA_OIF, RTA_PRIORITY))
    src = inet_ntop(family, items[_RTA_PREFSRC]) if _RTA_PREFSRC in items else ""
    table = INT.unpack(items[RTA_TABLE])[0] if RTA_TABLE in items else table
    mtu = INT.unpack(attributes(items[_RTA_METRICS]).get(_RTAX_MTU, bytes(4)))[0] if _RTA_METRICS in items else 0
    return RouteMessage(table, f"{dst}/{length}", oif, _via(family, items), proto, src, metric, mtu)


def _via(family: int, items: Mapping[int, bytes]) -> str:
    """Return the next hop, which for a destination in IPv4 may be an IPv6 address; "" if there is none."""
    if _RTA_VIA in items:
        return inet_ntop(_FAMILY.unpack_from(items[_RTA_VIA])[0], items[_RTA_VIA][2:])
    return inet_ntop(family, items[_RTA_GATEWAY]) if _RTA_GATEWAY in items else ""


def routes_of(data: bytes) -> list[RouteMessage]:
    """Decode as `route_of` does; a multipath route as one for each of its next hops."""
    route = route_of(data)
    if route is None or route.oif:
        return [route] if route else []
    hops = attributes(data, 12).get(_RTA_MULTIPATH, b"")
    found, offset = [], 0
    while len(hops) - offset >= _NEXT_HOP.size:
        length, _, _, oif = _NEXT_HOP.unpack_from(hops, offset)
        items = attributes(hops[offset : offset + length], _NEXT_HOP.size)
        found.append(route._replace(oif=oif, via=_via(data[0], items)))
        offset += max((length + 3) & ~3, _NEXT_HOP.size)
    return found or [route]


def way_of(data: bytes) -> tuple[int, int, str, int]:
    """Decode the answer to a question of `lookup_body`, of whatever type: (RTN_*, table, destination, index of the device; 0 if
    it has several)."""
    family, length, _, _, table, _, _, kind, _ = ROUTE.unpack_from(data)
    items = attributes(data, 12)
    dst = inet_ntop(family, items[RTA_DST]) if RTA_DST in items else "::" if family == AF_INET6 else "0.0.0.0"
    oif, table = (INT.unpack(items[key])[0] if key in items else other for key, other in ((RTA_OIF, 0), (RTA_TABLE, table)))
    return kind, table, f"{dst}/{length}", oif


def route_body(route: RouteMessage, flags: int = 0) -> bytes:
    """Encode a route. `flags` are RTNH_F_*."""
    host, _, length = route.dst.partition("/")
    family = family_of(host)
    scope = _UNIVERSE if route.via or family == AF_INET6 else _ON_LINK
    items: dict[int, bytes | Items] = {RTA_TABLE: INT.pack(route.table), RTA_OIF: INT.pack(route.oif)}
    if length != "0":
        items[RTA_DST] = inet_pton(family, host)
    if route.via:
        packed = inet_pton(family_of(route.via), route.via)
        if family_of(route.via) == family:
            items[_RTA_GATEWAY] = packed
        else:
            items[_RTA_VIA] = _FAMILY.pack(family_of(route.via)) + packed
    if route.src:
        items[_RTA_PREFSRC] = inet_pton(family, route.src)
    if route.metric:
        items[RTA_PRIORITY] = INT.pack(route.metric)
    if route.mtu:
        items[_RTA_METRICS] = {_RTAX_MTU: INT.pack(route.mtu)}
    return body(ROUTE.pack(family, int(length), 0, 0, _table(route.table), route.proto, scope, _UNICAST, flags), items)


def rules_body(family: int) -> bytes:
    """Encode the question for the rules of a family."""
    return ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)


def rules_of(data: bytes, family: int) -> list[RuleMessage]:
    """Decode the body of an RTM_NEWRULE of a family: one rule if it selects by one subnet, and by nothing but a mark
    besides, else none."""
    here, to_length, from_length, _, table, _, _, action, _ = ROUTE.unpack_from(data)
    items = attributes(data, 12)
    if here != family or _FRA_OTHERS & items.keys() or (to_length and from_length) or action not in _ACTIONS:
        return []
    found = []
    mark, mask = (INT.unpack(items[key])[0] if key in items else 0 for key in (FRA_MARK, _FRA_MASK))
    if mark != mask:
        return []
    for selector, key, length in (("from", FRA_SRC, from_length), ("to", FRA_DST, to_length)):
        if packed := items.get(key):
            priority, target = (INT.unpack(items[k])[0] if k in items else 0 for k in (FRA_PRIORITY, FRA_TABLE))
            proto = items.get(_FRA_PROTOCOL, b"\0")[0]
            target = 0 if action == _UNREACHABLE else target or table
            found.append(RuleMessage(priority, selector, f"{inet_ntop(family, packed)}/{length}", target, proto, mark))
    return found


def target_of(data: bytes) -> tuple[int, int]:
    """Decode the priority and the table of an RTM_NEWRULE, whatever it selects by."""
    table = ROUTE.unpack_from(data)[4]
    items = attributes(data, 12)
    priority, target = (INT.unpack(items[key])[0] if key in items else 0 for key in (FRA_PRIORITY, FRA_TABLE))
    return priority, target or table


def rule_body(rule: RuleMessage) -> bytes:
    """Encode a rule."""
    host, _, length = rule.subnet.partition("/")
    family, size = family_of(host), int(length)
    is_from = rule.selector == "from"
    lengths = (0, size) if is_from else (size, 0)
    items = {
        FRA_SRC if is_from else FRA_DST: inet_pton(family, host),
        FRA_PRIORITY: INT.pack(rule.priority),
        **({FRA_TABLE: INT.pack(rule.table)} if rule.table else {}),
        **({FRA_MARK: INT.pack(rule.mark), _FRA_MASK: INT.pack(rule.mark)} if rule.mark else {}),
        _FRA_PROTOCOL: bytes((rule.proto,)),
    }
    action = _TO_TABLE if rule.table else _UNREACHABLE
    return body(ROUTE.pack(family, *lengths, 0, _table(rule.table), 0, 0, action, 0), items)


def _table(table: int) -> int:
    """The table in a header, where it has one byte; a larger number is in an attribute alone."""
    return table if table < 256 else 0
