"""Permanent neighbours, and addresses for which the kernel answers as a proxy."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ...model.objects import Neighbour, ProxyNeighbour
from ..netlink import View
from ..wire import PERMANENT, PROXY, NeighbourMessage
from . import Edge

Entry = TypeVar("Entry", Neighbour, ProxyNeighbour)


class Neighbours(Edge[Neighbour]):
    def read(self, wanted: Sequence[Neighbour], view: View) -> Iterable[Neighbour]:
        found = _entries(wanted, view)
        return [Neighbour(want.ifname, want.address, have.mac) for want, have in found if have.state & PERMANENT]

    def set(self, want: Neighbour, have: Neighbour | None, view: View) -> None:
        view.netlink.set_neighbour(view.netlink.index(want.ifname), want.address, want.lladdr)

    def unset(self, have: Neighbour, view: View) -> None:
        view.netlink.delete_neighbour(view.netlink.index(have.ifname), have.address)


class ProxyNeighbours(Edge[ProxyNeighbour]):
    def read(self, wanted: Sequence[ProxyNeighbour], view: View) -> Iterable[ProxyNeighbour]:
        return [want for want, _ in _entries(wanted, view, PROXY)]

    def set(self, want: ProxyNeighbour, have: ProxyNeighbour | None, view: View) -> None:
        view.netlink.set_neighbour(view.netlink.index(want.ifname), want.address, flags=PROXY)

    def unset(self, have: ProxyNeighbour, view: View) -> None:
        view.netlink.delete_neighbour(view.netlink.index(have.ifname), have.address, PROXY)


def _entries(wanted: Sequence[Entry], view: View, flags: int = 0) -> list[tuple[Entry, NeighbourMessage]]:
    """Those of which the kernel has an entry, and that entry."""
    places = [(want, (link.index, want.address)) for want in wanted if (link := view.link(want.ifname))]
    told = view.netlink.neighbour_entries([place for _, place in places], flags)
    return [(want, have) for (want, _), have in zip(places, told, strict=True) if have]


EDGES: Mapping[str, Edge] = {Neighbour.kind: Neighbours(), ProxyNeighbour.kind: ProxyNeighbours()}
