"""Proxy neighbours: the kernel sends no notifications for them, so they are dumped and compared."""

from _socket import if_indextoname, inet_ntop

from ...model.objects import ProxyNeighbour
from ..netlink import Socket
from ..wire import GETNEIGH, NDA_DST, NEIGHBOUR, PROXY, attributes
from .suspects import Suspects


class ProxyMonitor:
    """Compares the proxy neighbours of both families with those of the last time."""

    def __init__(self) -> None:
        self._socket = Socket()
        self._last: list[bytes] = []
        self.changed()

    def close(self) -> None:
        self._socket.close()

    def changed(self) -> Suspects:
        """Return the entries that have gone since the last call. Raises NetlinkError or OSError."""
        found = Suspects()
        there = self._socket.dump(GETNEIGH, NEIGHBOUR.pack(0, 0, 0, PROXY, 0))
        if there != self._last:
            # With thousands of guests, some entry comes or goes all the time: only what is missing is parsed.
            missing = set(self._last).difference(there)
            self._last = there
            for body in missing:
                family, index, _, _, _ = NEIGHBOUR.unpack_from(body)
                items = attributes(body, NEIGHBOUR.size)
                try:
                    name = if_indextoname(index)
                except OSError:
                    # It went with its link.
                    continue
                if NDA_DST in items:
                    found.keys.add(ProxyNeighbour.key_of(name, inet_ntop(family, items[NDA_DST])))
        return found
