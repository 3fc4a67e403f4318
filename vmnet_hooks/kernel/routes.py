"""What a process that stays knows of routes without asking.

A dump goes through a whole table: one for each guest plugged in, and a table has a route for each. What was read of one device
(or of one protocol) stands until the kernel tells of a route that would be among it, or of the device. IPv4 routes that go with
a link, or with an address, go without a word: so a link and its addresses count too.
"""

import errno
from _socket import MSG_DONTWAIT
from collections.abc import Callable
from struct import Struct

from .wire import Route, Socket, attributes, messages

_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
_LINKS, _ADDRESSES, _ROUTES = frozenset((16, 17)), frozenset((20, 21)), frozenset((24, 25))
_INDEX = Struct("=I")
_RTA_OIF, _RTA_TABLE = 4, 15
_NEW, _REPLACE = 24, 0x100

Key = tuple[int, int, int, int]
"""Family, table, index of the device, protocol; 0 is any."""


class Routes:
    """Dumps of routes, kept. One per thread."""

    def __init__(self, ask: Callable[[int, int, int, int], list[Route]]) -> None:
        self._ask = ask
        self._told = Socket(groups=_LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV6_ADDRESS | _IPV6_ROUTE)
        self._kept: dict[Key, list[Route]] = {}

    def close(self) -> None:
        self._told.close()

    def read(self, family: int, table: int, oif: int, proto: int) -> list[Route]:
        """What wire.Rtnetlink.routes gives. Raises NetlinkError."""
        # What is told while we ask is for the next time: then it is asked again, maybe for nothing.
        self._listen()
        key = (family, table, oif, proto)
        if key not in self._kept:
            self._kept[key] = self._ask(*key)
        return self._kept[key]

    def _listen(self) -> None:
        while True:
            try:
                data = self._told.receive(MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # More than the kernel keeps for us.
                self._kept.clear()
                continue
            for kind, flags, _, body in messages(data) if self._kept else ():
                if kind in _ROUTES:
                    self._route(body, kind == _NEW and bool(flags & _REPLACE))
                elif kind in _LINKS | _ADDRESSES:
                    # Both have the index in the same place.
                    self._device(_INDEX.unpack_from(body, 4)[0])

    def _route(self, body: bytes, replaces: bool) -> None:
        items = attributes(body, 12)
        # A route of several hops names no device.
        oif = _INDEX.unpack(items[_RTA_OIF])[0] if _RTA_OIF in items else 0
        table = _INDEX.unpack(items[_RTA_TABLE])[0] if _RTA_TABLE in items else body[4]
        family, proto = body[0], body[5]
        for key in list(self._kept):
            # Nothing is said of the one that was replaced.
            if key[:2] == (family, table) and (replaces or (key[2] in (0, oif or key[2]) and key[3] in (0, proto))):
                del self._kept[key]

    def _device(self, index: int) -> None:
        for key, found in list(self._kept.items()):
            if key[2] == index or any(route.oif == index for route in found):
                del self._kept[key]
