"""Addresses of links."""

from collections.abc import Iterable, Mapping, Sequence

from ...model.objects import Address
from ...model.resource import ALIAS
from ..netlink import View
from . import Edge, adoption

_NODAD = 2
"""IFA_F_NODAD: no duplicate address detection. The address must work when the hook returns."""


class Addresses(Edge[Address]):
    def read(self, wanted: Sequence[Address], view: View) -> Iterable[Address]:
        return [want for want in wanted if want.address in view.addresses(want.ifname)]

    def set(self, want: Address, have: Address | None, view: View) -> None:
        add(view, view.netlink.index(want.ifname), want.address, want.broadcast)

    def unset(self, have: Address, view: View) -> None:
        index = view.netlink.index(have.ifname)
        routes: list[str] = []
        ipv4 = [address for address in view.netlink.addresses(index) if ":" not in address]
        link = view.link(have.ifname)
        # A guest's tap, which has the gateway as a /32, has no routes but those to the guest.
        if ipv4 == [have.address] and not (have.address.endswith("/32") and (link is None or link.alias != ALIAS)):
            # With the last IPv4 address of a link the kernel drops every route through it, also those of others.
            routes = adoption.routes(have.ifname, "-4")
        view.netlink.delete_address(index, have.address)
        adoption.add_routes(routes, have.ifname)


def add(view: View, index: int, address: str, broadcast: str = "") -> None:
    """Put an address on a link. Raises NetlinkError."""
    view.netlink.add_address(index, address, broadcast, _NODAD if ":" in address else 0)


EDGES: Mapping[str, Edge] = {Address.kind: Addresses()}
