"""The next hops of the host's routes, looked for among the addresses and prefixes of a guest.

The kernel has no index of next hops, and a dump of a routing daemon's million routes takes seconds. So the routes that admins,
DHCP and router advertisements add are dumped by their protocol, which leaves the others out in the kernel. Those of daemons are
read only if the kernel knows the MAC of one of the addresses: a next hop that is in use has a neighbour entry.
"""

from _socket import AF_INET, AF_INET6
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain

from .. import values
from ..model.resource import PROTO
from .netlink import Netlink
from .wire import GETROUTE, KEPT, RouteMessage, lookup_body, route_of, way_of

_BOOT, _STATIC, _RA, _DHCP = 3, 4, 9, 16
"""RTPROT_*. Those of `ip route add` and of network programs."""
_PROTOCOLS = {AF_INET: (_BOOT, _STATIC, _DHCP), AF_INET6: (_BOOT, _STATIC, _RA)}


def unusable(
    netlink: Netlink, destinations: Sequence[str], links: Iterable[str], tap: str, asked: Mapping[tuple[str, str], bool]
) -> tuple[str, RouteMessage | str] | None:
    """Return the first of the destinations (ADDRESS/LENGTH) that no guest can have, and why; None if there is none: the type of
    the kernel's route, if the kernel keeps what is for an address (see wire.KEPT), or a route whose next hop it contains.

    `links` are those on which we may have made routes with next hops. Routes by `tap` do not count: the guest itself is their
    next hop. `asked` are the (link, address) that were just asked for, and whether the kernel knew a MAC before."""
    sought = _Sought(destinations)
    told = netlink.ask([(GETROUTE, lookup_body(address), 0) for address in sought.addresses])
    ways = {address: data for address, data in zip(sought.addresses, told, strict=True) if isinstance(data, bytes)}
    if kept := [(sought.addresses[address], KEPT[kind]) for address, data in ways.items() if (kind := way_of(data)[0]) in KEPT]:
        return kept[0]
    own = _index(netlink, tap)
    indexes = {link: index for link in dict.fromkeys(links) if (index := _index(netlink, link))}
    met = {(indexes[link], address): knew for (link, address), knew in asked.items() if link in indexes}
    # The next hop of an IPv4 route may be an IPv6 address.
    families = (AF_INET, AF_INET6) if any(":" in dst for dst in destinations) else (AF_INET,)
    there = list(indexes.values())
    suspects = _suspects(netlink, {address: route_of(data) for address, data in ways.items()}, met)
    for route in chain(_of_hand(netlink, families, there), _of_daemons(netlink, families, there, sought, suspects)):
        if route.via and route.oif != own and (found := sought.holder(route.via)):
            return found, route
    return None


def all_of_hand(netlink: Netlink, links: Iterable[str]) -> list[RouteMessage]:
    """Return the routes with a next hop that no daemon made. `links` are those on which we may have made some."""
    indexes = list(filter(None, (_index(netlink, link) for link in dict.fromkeys(links))))
    return [route for route in _of_hand(netlink, (AF_INET, AF_INET6), indexes) if route.via]


class _Sought:
    """The destinations, each as an address or a prefix."""

    def __init__(self, destinations: Sequence[str]) -> None:
        self.addresses: dict[str, str] = {}
        self.prefixes: dict[str, IPv4Network | IPv6Network] = {}
        for dst in destinations:
            if address := values.single(dst):
                self.addresses[address] = dst
            else:
                self.prefixes[dst] = ip_network(dst)

    def holder(self, hop: str) -> str:
        """Return the destination that is or contains a next hop; "" if none."""
        if hop in self.addresses:
            return self.addresses[hop]
        address = ip_address(hop) if self.prefixes else None
        return next((dst for dst, prefix in self.prefixes.items() if address in prefix), "")


def _of_hand(netlink: Netlink, families: Sequence[int], links: Sequence[int]) -> Iterator[RouteMessage]:
    """The routes that no daemon made."""
    made = [(family, 0, 0, proto) for family in families for proto in _PROTOCOLS[family]]
    # Without the device, these are the routes of all guests.
    return netlink.dump_routes(*made, *((family, 0, index, PROTO) for family in families for index in links))


def _suspects(netlink: Netlink, ways: Mapping[str, RouteMessage | None], met: Mapping[tuple[int, str], bool]) -> list[str]:
    """Return the addresses that the host has neighbour entries for, or that are their own next hop (onlink)."""
    on_link = [(way.oif, address) for address, way in ways.items() if way and way.oif and not way.via]
    unknown = [place for place in on_link if place not in met]
    known = zip(unknown, netlink.neighbour_entries(unknown), strict=True)
    hops = [address for address, way in ways.items() if way and way.via == address]
    return hops + [place[1] for place in on_link if met.get(place)] + [place[1] for place, entry in known if entry and entry.mac]


def _of_daemons(
    netlink: Netlink, families: Sequence[int], links: Sequence[int], sought: _Sought, hops: list[str]
) -> Iterator[RouteMessage]:
    """Yield all routes by these addresses, and by those of the prefixes that the host has neighbour entries for."""
    if sought.prefixes:
        there = [address for family in families for index in links for address in netlink.neighbours(family, index)]
        hops = hops + [address for address in there if sought.holder(address)]
    for family in families if hops else ():
        yield from netlink.routes_by(family, hops)


def _index(netlink: Netlink, link: str) -> int:
    try:
        return netlink.index(link)
    except OSError:
        return 0
