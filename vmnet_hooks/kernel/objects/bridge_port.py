"""What only bridges have: permanent entries of the forwarding database, and VLANs of ports."""

import errno
from collections.abc import Iterable, Mapping, Sequence
from socket import AF_BRIDGE

from ...model.objects.bridge import FdbEntry, PortVlans
from ...values import ranges
from .. import iproute2
from ..netlink import NetlinkError, View
from . import Edge

_NTF_SELF, _NUD_PERMANENT = 0x02, 0x80


class FdbEntries(Edge[FdbEntry]):
    def read(self, wanted: Sequence[FdbEntry], view: View) -> Iterable[FdbEntry]:
        return [want for want in wanted if _is_there(want, view)]

    def set(self, want: FdbEntry, have: FdbEntry | None, view: View) -> None:
        _change("add", want, view)

    def unset(self, have: FdbEntry, view: View) -> None:
        _change("del", have, view)


def _is_there(entry: FdbEntry, view: View) -> bool:
    link = view.link(entry.ifname)
    if link is None:
        return False
    asked = {"family": AF_BRIDGE, "ifindex": link.index, "lladdr": entry.lladdr, "flags": _NTF_SELF}
    try:
        with view.netlink.pyroute2() as ip:
            return any([message["state"] & _NUD_PERMANENT for message in ip.neigh("get", **asked)])
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise


def _change(verb: str, entry: FdbEntry, view: View) -> None:
    index = view.netlink.index(entry.ifname)
    with view.netlink.pyroute2() as ip:
        ip.fdb(verb, ifindex=index, lladdr=entry.lladdr, flags=_NTF_SELF)


class Vlans(Edge[PortVlans]):
    def read(self, wanted: Sequence[PortVlans], view: View) -> Iterable[PortVlans]:
        return [have for want in wanted if view.link(want.ifname) and (have := _read(want))]

    def set(self, want: PortVlans, have: PortVlans | None, view: View) -> None:
        # From what the port has now: one that has just joined has the default PVID of its bridge.
        _bring(want, _read(want), view)

    def unset(self, have: PortVlans, view: View) -> None:
        _bring(PortVlans(have.ifname, 0, "", have.own), have, view)


def _read(want: PortVlans) -> PortVlans | None:
    """The VLANs of a port; None if it has none, or is no port. By bridge(8): the kernel's answer to a dump depends on the other
    links of the host. Raises KernelError."""
    ports = iproute2.rows("bridge", "-compressvlans", "vlan", "show", "dev", want.ifname, check=False)
    untagged = 0
    tagged: set[int] = set()
    for item in (item for port in ports if port.get("ifname") == want.ifname for item in port.get("vlans", ())):
        if item.get("flags"):
            untagged = item["vlan"]
        else:
            tagged.update(range(item["vlan"], item.get("vlanEnd", item["vlan"]) + 1))
    return PortVlans(want.ifname, untagged, ranges(tagged), want.own, want.adopted) if untagged or tagged else None


def _bring(want: PortVlans, have: PortVlans | None, view: View) -> None:
    index = view.netlink.index(want.ifname)
    for verb, text, untagged in want.commands(have):
        first, _, last = text.partition("-")
        view.netlink.change_vlans(verb, index, want.own, int(first), int(last or first), untagged)


EDGES: Mapping[str, Edge] = {FdbEntry.kind: FdbEntries(), PortVlans.kind: Vlans()}
