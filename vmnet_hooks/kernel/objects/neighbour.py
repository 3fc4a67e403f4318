"""Permanent neighbours, and addresses for which the kernel answers as a proxy."""

from collections.abc import Mapping

from ...model.objects import Neighbour, ProxyNeighbour
from ...model.resource import Resource
from ..wire import PERMANENT, PROXY
from . import Edge, View


class Neighbours(Edge[Neighbour]):
    def read_one(self, want: Neighbour, view: View) -> Neighbour | None:
        link = view.link(want.ifname)
        found = view.netlink.neighbour(link.index, want.address) if link else None
        return Neighbour(want.ifname, want.address, found[1]) if found and found[0] & PERMANENT else None

    def set(self, want: Neighbour, have: Neighbour | None, view: View) -> None:
        view.netlink.set_neighbour(view.netlink.index(want.ifname), want.address, want.lladdr)

    def unset(self, have: Neighbour, view: View) -> None:
        view.netlink.delete_neighbour(view.netlink.index(have.ifname), have.address)


class ProxyNeighbours(Edge[ProxyNeighbour]):
    def read_one(self, want: ProxyNeighbour, view: View) -> ProxyNeighbour | None:
        link = view.link(want.ifname)
        return want if link and view.netlink.neighbour(link.index, want.address, PROXY) else None

    def set(self, want: ProxyNeighbour, have: ProxyNeighbour | None, view: View) -> None:
        view.netlink.set_neighbour(view.netlink.index(want.ifname), want.address, flags=PROXY)

    def unset(self, have: ProxyNeighbour, view: View) -> None:
        view.netlink.delete_neighbour(view.netlink.index(have.ifname), have.address, PROXY)


EDGES: Mapping[type[Resource], Edge] = {Neighbour: Neighbours(), ProxyNeighbour: ProxyNeighbours()}
