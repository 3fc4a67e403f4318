"""Addresses of links."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_interface

from ...model.objects import Address
from ...model.objects.bridge import address_of
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
        others = {a for a in _ipv4(index, view) if a != have.address} if have.version == 4 else set()
        # With a primary address the kernel removes the others of its subnet (unless promote_secondaries is set), and with the
        # last IPv4 address of a link every route through it, also those of other programs.
        behind = {address for address in others if _subnet(address) == _subnet(have.address)}
        items = adoption.addresses(have.ifname) if behind else []
        link = view.link(have.ifname)
        # A guest's tap, which has the gateway as a /32, has no routes but those to the guest.
        bare = have.address.endswith("/32") and not behind and (link is None or link.alias != ALIAS)
        if have.version == 4 and others == behind and not bare:
            routes = adoption.routes(have.ifname, "-4")
        view.netlink.delete_address(index, have.address)
        lost = behind - _ipv4(index, view) if behind else set()
        adoption.add_addresses([item for item in items if address_of(item) in lost], have.ifname)
        adoption.add_routes(routes, have.ifname)


def _subnet(address: str) -> IPv4Network | IPv6Network:
    """The subnet by which the kernel tells primary addresses from secondary ones: with a peer, the peer's."""
    return ip_interface(address.rpartition(" ")[2]).network


def _ipv4(index: int, view: View) -> set[str]:
    return {address for address in view.netlink.addresses(index) if ":" not in address}


def add(view: View, index: int, address: str, broadcast: str = "") -> None:
    """Put an address on a link. Raises NetlinkError."""
    view.netlink.add_address(index, address, broadcast, _NODAD if ":" in address else 0)


EDGES: Mapping[str, Edge] = {Address.kind: Addresses()}
