"""Permanent neighbours, and addresses for which the kernel answers as a proxy."""

from collections.abc import Iterable, Mapping, Sequence

from ...model.objects import Neighbour, ProxyNeighbour
from ..netlink import View
from ..wire import PERMANENT, PROXY
from . import Edge


class Neighbours(Edge[Neighbour]):
    def read(self, wanted: Sequence[Neighbour], view: View) -> Iterable[Neighbour]:
        found = []
        for want in wanted:
            link = view.link(want.ifname)
            have = view.netlink.neighbour(link.index, want.address) if link else None
            if have and have.state & PERMANENT:
                found.append(Neighbour(want.ifname, want.address, have.mac))
        return found

    def set(self, want: Neighbour, have: Neighbour | None, view: View) -> None:
        view.netlink.set_neighbour(view.netlink.index(want.ifname), want.address, want.lladdr)

    def unset(self, have: Neighbour, view: View) -> None:
        view.netlink.delete_neighbour(view.netlink.index(have.ifname), have.address)


class ProxyNeighbours(Edge[ProxyNeighbour]):
    def read(self, wanted: Sequence[ProxyNeighbour], view: View) -> Iterable[ProxyNeighbour]:
        found = []
        for want in wanted:
            link = view.link(want.ifname)
            if link and view.netlink.neighbour(link.index, want.address, PROXY):
                found.append(want)
        return found

    def set(self, want: ProxyNeighbour, have: ProxyNeighbour | None, view: View) -> None:
        view.netlink.set_neighbour(view.netlink.index(want.ifname), want.address, flags=PROXY)

    def unset(self, have: ProxyNeighbour, view: View) -> None:
        view.netlink.delete_neighbour(view.netlink.index(have.ifname), have.address, PROXY)


EDGES: Mapping[str, Edge] = {Neighbour.kind: Neighbours(), ProxyNeighbour.kind: ProxyNeighbours()}
