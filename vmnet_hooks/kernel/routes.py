"""What a process that stays knows of routes without asking.

A dump goes through a whole table: one for each guest plugged in, and a table has a route for each. What was read of one device
(or of one protocol) stands until the kernel tells of a route that would be among it, or of the device. IPv4 routes that go with
a link, or with an address, go without a word: so a link and its addresses count too.
"""

from collections.abc import Callable

from . import wire
from .framing import INT, REPLACE, Socket, attributes, messages
from .wire import RouteMessage

_GROUPS = (
    *(wire.GROUP_LINK, wire.GROUP_IPV4_ADDRESS, wire.GROUP_IPV4_ROUTE),
    *(wire.GROUP_IPV6_ADDRESS, wire.GROUP_IPV6_ROUTE),
)
_DEVICES = frozenset((wire.NEWLINK, wire.DELLINK, wire.NEWADDR, wire.DELADDR))
"""All have the index of the link in the same place."""

Key = tuple[int, int, int, int]
"""Family, table, index of the device, protocol; 0 is any."""


class Routes:
    """Dumps of routes, kept. One per thread."""

    def __init__(self, ask: Callable[[int, int, int, int], list[RouteMessage]]) -> None:
        self._ask = ask
        self._told = Socket(groups=_GROUPS)
        self._kept: dict[Key, list[RouteMessage]] = {}

    def close(self) -> None:
        self._told.close()

    def read(self, family: int, table: int, oif: int, proto: int) -> list[RouteMessage]:
        """What wire.Rtnetlink.routes gives. Raises NetlinkError."""
        # What is told while we ask is for the next time: then it is asked again, maybe for nothing.
        self._listen()
        key = (family, table, oif, proto)
        if key not in self._kept:
            self._kept[key] = self._ask(*key)
        return self._kept[key]

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
        # A route of several hops names no device.
        oif = INT.unpack(items[wire.RTA_OIF])[0] if wire.RTA_OIF in items else 0
        table = INT.unpack(items[wire.RTA_TABLE])[0] if wire.RTA_TABLE in items else body[4]
        family, proto = body[0], body[5]
        for key in list(self._kept):
            # Nothing is said of the one that was replaced.
            if key[:2] == (family, table) and (replaces or (key[2] in (0, oif or key[2]) and key[3] in (0, proto))):
                del self._kept[key]

    def _device(self, index: int) -> None:
        for key, found in list(self._kept.items()):
            if key[2] == index or any(route.oif == index for route in found):
                del self._kept[key]
