"""The rtnetlink socket of a process or thread, with what is behind it: links' names and indexes, kept dumps, pyroute2.

A look-up asks the kernel for one object, or for a dump that the kernel filters: the cost is the same for ten guests and for four
thousand.
"""

import errno
from _socket import if_indextoname, if_nametoindex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .framing import NetlinkError
from .wire import RouteMessage, Rtnetlink


class Netlink(Rtnetlink):
    """With `stays`, what was read of routes is kept for as long as it holds."""

    def __init__(self, stays: bool = False) -> None:
        super().__init__()
        self._pyroute2: Any = None
        self._cache: Any = None
        if stays:
            # Only the agent stays.
            from .routes import RouteCache

            self._cache = RouteCache(self.routes)

    def close(self) -> None:
        super().close()
        for opened in (self._cache, self._pyroute2):
            if opened is not None:
                opened.close()

    def dump_routes(self, family: int, table: int, oif: int, proto: int) -> list[RouteMessage]:
        """The same as `routes`, from what was kept if there is anything. Raises NetlinkError."""
        found: list[RouteMessage] = (self._cache.read if self._cache else self.routes)(family, table, oif, proto)
        return found

    @contextmanager
    def pyroute2(self) -> Iterator[Any]:
        """An IPRoute, for rare requests. Raises NetlinkError in place of pyroute2's."""
        # It takes longer to load than a guest takes to plug in.
        from . import rtnl

        if self._pyroute2 is None:
            self._pyroute2 = rtnl.connect()
        try:
            yield self._pyroute2
        except rtnl.NetlinkError as error:
            raise NetlinkError(error.code) from None

    @staticmethod
    def index(ifname: str) -> int:
        """The index of a link. Raises OSError if there is none of that name."""
        try:
            return if_nametoindex(ifname)
        except OSError:
            raise OSError(errno.ENODEV, f"{ifname} does not exist (any more)") from None

    @staticmethod
    def name(index: int) -> str:
        """The name of a link; "" for 0, and for one that is gone."""
        try:
            return if_indextoname(index) if index else ""
        except OSError:
            return ""

    def master(self, ifname: str) -> str:
        """The name of a link's master; "" if it has none, or there is no such link."""
        link = self.link(ifname)
        return self.name(link.master) if link else ""
