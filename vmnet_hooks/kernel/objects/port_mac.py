"""The MACs of guests at their ports: static, sticky entries of a bridge's forwarding database."""

import errno
from collections.abc import Iterable, Mapping, Sequence

from ...model.objects.bridge import PortMac
from ...values import numbers, ranges
from .. import wire
from ..netlink import CREATE, REPLACE, NetlinkError, View
from . import Edge

_ABSENT = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
"""EINVAL: the link is no port."""


class PortMacs(Edge[PortMac]):
    def read(self, wanted: Sequence[PortMac], view: View) -> Iterable[PortMac]:
        # The recorded VLANs of a port, and those that it shall have, are asked for together.
        vids: dict[str, set[int]] = {}
        for want in wanted:
            vids.setdefault(want.key, set()).update(want.vids)
        found = {want.key: want for want in wanted}
        return [have for key, want in found.items() if (have := _read(want, sorted(vids[key]), view))]

    def set(self, want: PortMac, have: PortMac | None, view: View) -> None:
        index = view.netlink.index(want.ifname)
        # Without a VLAN: in each that the port has.
        view.netlink.change(wire.NEWNEIGH, wire.port_mac(index, want.lladdr, 0, wire.NOARP, _flags(want)), CREATE | REPLACE)
        for vid in sorted(numbers(have.vlans) - numbers(want.vlans)) if have else ():
            view.netlink.change(wire.DELNEIGH, wire.port_mac(index, want.lladdr, vid))

    def unset(self, have: PortMac, view: View) -> None:
        link = view.link(have.ifname)
        if link and link.port:
            # A bridge that lets a port go forgets its entries.
            view.netlink.change(wire.DELNEIGH, wire.port_mac(link.index, have.lladdr))


def _flags(entry: PortMac) -> int:
    return wire.STICKY if entry.state == "sticky" else 0


def _read(want: PortMac, vids: Sequence[int], view: View) -> PortMac | None:
    link = view.link(want.ifname)
    if link is None or not link.port:
        return None
    there: dict[int, bool] = {}
    questions = [(wire.GETNEIGH, wire.port_mac(link.index, want.lladdr, vid), 0) for vid in vids]
    for vid, told in zip(vids, view.netlink.ask(questions), strict=True):
        if isinstance(told, NetlinkError):
            if told.code not in _ABSENT:
                raise told
            continue
        index, state, flags = wire.port_of_mac(told)
        if flags & wire.EXT_LEARNED or not state & (wire.NOARP | wire.PERMANENT):
            # Learnt, by the bridge or for it by a routing daemon.
            continue
        if index == link.index and not state & wire.PERMANENT:
            there[vid] = bool(flags & wire.STICKY)
        elif state & wire.PERMANENT or not flags & wire.STICKY:
            # A sticky one is of another link of the same guest, which migrates within this host.
            return PortMac(want.ifname, want.lladdr, want.vlans, "", view.netlink.name(index))
    if not there:
        return None
    return PortMac(want.ifname, want.lladdr, ranges(vid for vid in there if vid), "sticky" if all(there.values()) else "static")


EDGES: Mapping[str, Edge] = {PortMac.kind: PortMacs()}
