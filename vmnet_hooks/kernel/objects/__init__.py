"""How the kernel holds the objects that we set up: how each kind is read, set, removed and recognised as ours. One file a kind;
the rows of model.objects.KINDS name the files, and each is loaded when an object of its kind is met.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...errors import KernelError
from ...model.objects import KINDS
from ...model.plan import Plan
from ...model.resource import Resource
from ..framing import NetlinkError
from ..netlink import Netlink
from ..wire import LinkMessage, RuleMessage

if TYPE_CHECKING:
    from .nft import Nft

_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)

R = TypeVar("R", bound=Resource)


class View:
    """The kernel as one call sees it: its sockets, and what several kinds ask for, asked once."""

    __slots__ = ("_addresses", "_links", "_rules", "netlink", "nft")

    def __init__(self, netlink: Netlink, nft: Nft) -> None:
        self.netlink = netlink
        self.nft = nft
        self._links: dict[str, LinkMessage | None] = {}
        self._addresses: dict[str, dict[str, int]] = {}
        self._rules: dict[int, list[RuleMessage]] = {}

    def link(self, ifname: str) -> LinkMessage | None:
        """The link of a name; None if there is none."""
        if ifname not in self._links:
            self._links[ifname] = self.netlink.link(ifname)
        return self._links[ifname]

    def addresses(self, ifname: str) -> dict[str, int]:
        """The addresses of a link, with prefix lengths, in the kernel's order, IPv4 first; each with the mark of its maker."""
        if ifname not in self._addresses:
            link = self.link(ifname)
            self._addresses[ifname] = self.netlink.addresses(link.index) if link else {}
        return self._addresses[ifname]

    def rules(self, family: int) -> list[RuleMessage]:
        """The policy rules of a family (AF_INET or AF_INET6) that select by one subnet."""
        if family not in self._rules:
            self._rules[family] = self.netlink.rules(family)
        return self._rules[family]


class Edge(Generic[R]):
    """One kind of object in the kernel. Methods raise NetlinkError, OSError or KernelError."""

    in_the_way = "something is in the way there already; remove it, or see `vmnet-hook check`"
    """Why an object can't be made where the kernel has one that excludes it, and the remedy."""
    refused: type[KernelError] = KernelError
    """What is raised then."""

    def read(self, wanted: Sequence[R], view: View) -> Iterable[R]:
        """What the kernel holds under the keys of `wanted`."""
        return [have for want in wanted if (have := self.read_one(want, view)) is not None]

    def read_one(self, want: R, view: View) -> R | None:
        """What the kernel holds under one key; None if nothing."""
        raise NotImplementedError

    def apply(self, step: Plan, view: View) -> None:
        """Do one step of plan.batches. That an object to remove is gone already is no error."""
        change: Any = step[0]
        if change.want is not None:
            self.set(change.want, change.have, view)
            return
        try:
            self.unset(change.have, view)
        except NetlinkError as error:
            if error.code not in _ABSENT:
                raise
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def set(self, want: R, have: R | None, view: View) -> None:
        """Bring an object to `want`."""
        raise NotImplementedError

    def unset(self, have: R, view: View) -> None:
        """Remove an object."""
        raise NotImplementedError

    def ours(self, view: View) -> Iterable[R]:
        """All objects of this kind that carry a mark of ours. Asked of `marked` kinds alone."""
        raise NotImplementedError


@cache
def edge(kind: str) -> Edge[Any]:
    """The edge of a kind of resources. Its module has EDGES, by class."""
    row = KINDS[kind]
    edges: Mapping[type[Resource], Edge[Any]] = import_module(row.edge).EDGES
    return edges[row.resource]
