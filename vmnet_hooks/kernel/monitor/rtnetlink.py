"""Changes of links, addresses, routes, rules, neighbours and of the settings of links.

Settings: RTM_NEWNETCONF, linux/netconf.h. The rest: see wire.py.
"""

from _socket import AF_INET, AF_INET6, NETLINK_ROUTE, inet_ntop
from contextlib import closing

from ...model.objects import LinkAttribute, Neighbour, ProxyNeighbour, Route, Rule, Sysctl
from ...model.objects.bridge import FdbEntry, PortMac
from ...model.resource import PROTO
from .. import wire
from ..netlink import REPLACE, Netlink, Socket, messages
from ..wire import (
    AF_BRIDGE,
    DELADDR,
    DELLINK,
    DELNEIGH,
    DELROUTE,
    DELRULE,
    FRA_DST,
    FRA_MARK,
    FRA_PRIORITY,
    FRA_SRC,
    FRA_TABLE,
    INT,
    LOWER_UP,
    NDA_DST,
    NDA_LLADDR,
    NEIGHBOUR,
    NEWADDR,
    NEWLINK,
    NEWNEIGH,
    NEWROUTE,
    NOARP,
    PERMANENT,
    PROMISC,
    PROXY,
    ROUTE,
    RTA_DST,
    RTA_PRIORITY,
    RTA_TABLE,
    SIGNED,
    UP,
    LinkMessage,
    address_of,
    attributes,
    link_of,
)
from .senders import Senders
from .suspects import Suspects

BUFFER = 8 << 20
"""Bytes of notifications that may wait: a bridge with a thousand ports that goes down."""

_GROUPS = (
    *(wire.GROUP_LINK, wire.GROUP_NEIGH),
    *(wire.GROUP_IPV4_ADDRESS, wire.GROUP_IPV4_ROUTE, wire.GROUP_IPV4_RULE, wire.GROUP_IPV4_NETCONF),
    *(wire.GROUP_IPV6_ADDRESS, wire.GROUP_IPV6_ROUTE, wire.GROUP_IPV6_RULE, wire.GROUP_IPV6_NETCONF),
)
_NEWNETCONF = 80
_NETCONFA_IFINDEX, _NETCONFA_FORWARDING, _NETCONFA_RP_FILTER, _NETCONFA_PROXY_NEIGH = 1, 2, 3, 5
_IFINDEX_ALL = -1
_VERSIONS = {AF_INET: 4, AF_INET6: 6}


class RtnetlinkMonitor:
    """Listens to rtnetlink. Knows every link by its index, as most notifications have no name."""

    def __init__(self) -> None:
        self._socket = Socket(groups=_GROUPS, buffer=BUFFER)
        self._senders = Senders(NETLINK_ROUTE)
        # The groups are joined already: a link that comes or goes during the dump is notified too.
        self._links = _links()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> Suspects:
        """Read the notifications that wait, except for those of changes by this process where the kernel names the sender. Does
        not block. Raises OSError or NetlinkError."""
        found = Suspects()
        for data in self._socket.waiting():
            if data is None:
                found.everything = True
                continue
            for kind, flags, _, port, body in messages(data):
                # Links are followed in any case: later notifications have only their index.
                if kind in (NEWLINK, DELLINK) or not self._senders.is_ours(port):
                    self._judge(kind, flags, body, found)
        if found.everything:
            self._links = _links()
        return found

    def _judge(self, kind: int, flags: int, body: bytes, found: Suspects) -> None:
        # What is added can damage nothing of ours, but for an address on a port. A plug adds a dozen objects, and must not cost
        # more for being watched.
        if kind in (NEWLINK, DELLINK):
            self._judge_link(kind, body, found)
        elif kind in (NEWNEIGH, DELNEIGH):
            self._judge_neighbour(kind, body, found)
        elif kind == DELROUTE or (kind == NEWROUTE and flags & REPLACE):
            _judge_route(kind, body, found)
        elif kind == DELRULE:
            _judge_rule(body, found)
        elif kind == DELADDR:
            # With an address go IPv4 routes, and with the last IPv6 address all of IPv6; the kernel does not notify of these.
            found.links |= self._named(INT.unpack_from(body, 4)[0])
        elif kind == NEWADDR:
            self._judge_address(body, found)
        elif kind == _NEWNETCONF:
            self._judge_setting(body, found)

    def _judge_address(self, body: bytes, found: Suspects) -> None:
        link = self._links.get(INT.unpack_from(body, 4)[0])
        if link and link.master and (address := address_of(body)) and not address[1].startswith("fe80:"):
            found.addressed.add((link.name, address[1]))

    def _named(self, index: int) -> set[str]:
        return {self._links[index].name} if index in self._links else set()

    def _judge_link(self, kind: int, body: bytes, found: Suspects) -> None:
        if body[0] == AF_BRIDGE:
            # The VLANs or flags of a port changed, or it left its bridge.
            found.links |= self._named(SIGNED.unpack_from(body, 4)[0])
            return
        link = link_of(body)
        if kind == DELLINK:
            self._links.pop(link.index, None)
            found.gone.add((link.index, link.name))
            found.links.add(link.name)
            return
        before = self._links.get(link.index)
        self._links[link.index] = link
        if before is None or before.name != link.name:
            found.links.add(link.name)
            found.made.add(link.name)
            if before:
                found.links.add(before.name)
                found.gone.add((link.index, before.name))
            return
        # A link that goes down loses what is on it, but nothing can be restored before it comes up.
        if _state(link) > _state(before) or link.master != before.master:
            found.links.add(link.name)
        if link.address != before.address:
            found.keys |= {LinkAttribute.key_of(link.name, name) for name in ("address", "lladdr")}
        if link.mtu != before.mtu:
            found.keys.add(LinkAttribute.key_of(link.name, "mtu"))
        if (link.flags ^ before.flags) & PROMISC:
            found.keys.add(LinkAttribute.key_of(link.name, "promisc"))

    def _judge_neighbour(self, kind: int, body: bytes, found: Suspects) -> None:
        family, index, state, flags, _ = NEIGHBOUR.unpack_from(body)
        if family == AF_BRIDGE and not state & (NOARP if kind == NEWNEIGH else PERMANENT | NOARP):
            # Learned entries come and go by themselves. One that is added may be in the place of a static one of ours.
            return
        items = attributes(body, NEIGHBOUR.size)
        for name in self._named(index):
            if family == AF_BRIDGE and NDA_LLADDR in items:
                entry = PortMac if state & NOARP else FdbEntry
                found.keys.add(entry.key_of(name, items[NDA_LLADDR].hex(":")))
            elif family in _VERSIONS and NDA_DST in items:
                kept = ProxyNeighbour if flags & PROXY else Neighbour
                found.keys.add(kept.key_of(name, inet_ntop(family, items[NDA_DST])))

    def _judge_setting(self, body: bytes, found: Suspects) -> None:
        items = attributes(body, 4)
        version = _VERSIONS.get(body[0])
        if _NETCONFA_IFINDEX not in items or version is None:
            return
        index = SIGNED.unpack(items[_NETCONFA_IFINDEX])[0]
        words = {
            _NETCONFA_FORWARDING: "forwarding",
            _NETCONFA_RP_FILTER: "rp_filter",
            _NETCONFA_PROXY_NEIGH: "proxy_arp" if version == 4 else "proxy_ndp",
        }
        for name in {"all"} if index == _IFINDEX_ALL else self._named(index):
            paths = (f"net/ipv{version}/conf/{name}/{word}" for number, word in words.items() if number in items)
            found.keys.update(map(Sysctl.key_of, paths))
            if index == _IFINDEX_ALL and version == 4:
                found.keys.add(Sysctl.key_of("net/ipv4/ip_forward"))


def _links() -> dict[int, LinkMessage]:
    with closing(Netlink()) as asked:
        return {link.index: link for link in asked.links()}


def _state(link: LinkMessage) -> tuple[bool, bool]:
    """Whether a link is up, and whether it has a carrier."""
    return bool(link.flags & UP), bool(link.flags & LOWER_UP)


def _judge_route(kind: int, body: bytes, found: Suspects) -> None:
    family, length, _, _, table, proto, _, _, _ = ROUTE.unpack_from(body)
    # A route of ours has gone, or another's may have replaced one.
    if family in _VERSIONS and (kind == DELROUTE) == (proto == PROTO):
        found.keys.add(_route_key(family, length, table, attributes(body, ROUTE.size)))


def _route_key(family: int, length: int, table: int, items: dict[int, bytes]) -> str:
    metric = INT.unpack(items[RTA_PRIORITY])[0] if RTA_PRIORITY in items else 0
    dst = inet_ntop(family, items[RTA_DST]) if RTA_DST in items else "::" if family == AF_INET6 else "0.0.0.0"
    if RTA_TABLE in items:
        table = INT.unpack(items[RTA_TABLE])[0]
    return Route.key_of(table, f"{dst}/{length}", Route.declared_metric(metric, family == AF_INET6))


def _judge_rule(body: bytes, found: Suspects) -> None:
    family, dst_length, src_length, _, table, _, _, _, _ = ROUTE.unpack_from(body)
    if family not in _VERSIONS:
        # The rules of multicast routing have the same groups.
        return
    items = attributes(body, ROUTE.size)
    priority = INT.unpack(items[FRA_PRIORITY])[0] if FRA_PRIORITY in items else 0
    if FRA_TABLE in items:
        table = INT.unpack(items[FRA_TABLE])[0]
    mark = INT.unpack(items[FRA_MARK])[0] if FRA_MARK in items else 0
    for selector, number, length in (("from", FRA_SRC, src_length), ("to", FRA_DST, dst_length)):
        if number in items:
            found.keys.add(Rule.key_of(priority, selector, f"{inet_ntop(family, items[number])}/{length}", table, mark))
