"""Dumps of routes that a process which stays keeps.

The kernel walks a whole table for a dump, and a network's table has a route for each guest. A dump (of one device, or one
protocol) is kept until the kernel reports a change of a route that could be in it, or of its device. The kernel does not
report IPv4 routes that it removes with a link or an address; so changes of links and addresses count too.
"""

from collections.abc import Callable, Iterable, Iterator

from . import wire
from .netlink import REPLACE, Socket, messages
from .wire import INT, RouteMessage, attributes

_GROUPS = (
    *(wire.GROUP_LINK, wire.GROUP_IPV4_ADDRESS, wire.GROUP_IPV4_ROUTE),
    *(wire.GROUP_IPV6_ADDRESS, wire.GROUP_IPV6_ROUTE),
)
_DEVICES = frozenset((wire.NEWLINK, wire.DELLINK, wire.NEWADDR, wire.DELADDR))
"""All have the index of the link in the same place."""

Key = tuple[int, int, int, int]
"""Family, table, index of the device, protocol; 0 is any, of the last three."""


class RouteCache:
    """Kept dumps of routes. One per thread."""

    def __init__(self, ask: Callable[[int, int, int, int], list[RouteMessage]]) -> None:
        self._ask = ask
        self._told = Socket(groups=_GROUPS)
        self._kept: dict[Key, list[RouteMessage]] = {}

    def close(self) -> None:
        self._told.close()

    def read(self, dumps: Iterable[Key]) -> Iterator[RouteMessage]:
        """Yield what netlink.Netlink.routes returns for each. Raises NetlinkError."""
        # A change during the dump is noticed at the next call, which then dumps again.
        self._listen()
        for key in dumps:
            if key not in self._kept:
                self._kept[key] = self._ask(*key)
            yield from self._kept[key]

    def _listen(self) -> None:
        for data in self._told.waiting():
            if data is None:
                self._kept.clear()
                continue
            for kind, flags, _, _, body in messages(data) if self._kept else ():
                if kind in (wire.NEWROUTE, wire.DELROUTE):
                    self._route(body, kind == wire.NEWROUTE and bool(flags & REPLACE))
                elif kind in _DEVICES:
                    self._device(INT.unpack_from(body, 4)[0])

    def _route(self, body: bytes, replaces: bool) -> None:
        items = attributes(body, 12)
        # A multipath route names no device.
        oif = INT.unpack(items[wire.RTA_OIF])[0] if wire.RTA_OIF in items else 0
        table = INT.unpack(items[wire.RTA_TABLE])[0] if wire.RTA_TABLE in items else body[4]
        family, proto = body[0], body[5]
        changed = wire.route_of(body) if replaces else None
        for key, found in list(self._kept.items()):
            if key[0] != family or key[1] not in (0, table):
                continue
            # The kernel does not report the route that was replaced. A routing daemon replaces many, and none of those kept.
            was_replaced = replaces and (not changed or any(r.dst == changed.dst and r.table == table for r in found))
            if was_replaced or (key[2] in (0, oif or key[2]) and key[3] in (0, proto)):
                del self._kept[key]

    def _device(self, index: int) -> None:
        for key, found in list(self._kept.items()):
            if key[2] == index or any(route.oif == index for route in found):
                del self._kept[key]
