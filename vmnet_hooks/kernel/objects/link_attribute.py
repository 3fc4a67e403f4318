"""Attributes of links."""

from collections.abc import Iterable, Mapping, Sequence

from ...model.objects import LinkAttribute
from ...model.objects.link import SHUT
from .. import wire
from ..netlink import View
from . import Edge

_NO_LINKLOCAL_LEARN = "bridge/no_linklocal_learn"
_NODAD = 2
"""IFA_F_NODAD: no duplicate address detection."""


class LinkAttributes(Edge[LinkAttribute]):
    def read(self, wanted: Sequence[LinkAttribute], view: View) -> Iterable[LinkAttribute]:
        found = []
        for want in wanted:
            link = view.link(want.ifname)
            if link and (value := _value(want, link, view)) is not None:
                found.append(LinkAttribute(want.ifname, want.name, value))
        return found

    def set(self, want: LinkAttribute, have: LinkAttribute | None, view: View) -> None:
        netlink = view.netlink
        index = netlink.index(want.ifname)
        match want.name:
            case "mtu":
                netlink.set_link(index, wire.mtu(int(want.value)))
            case "group":
                netlink.set_link(index, wire.group(int(want.value)))
            case "address":
                netlink.set_link(index, wire.address(want.value))
            case "master":
                _set_master(want, index, view)
            case "primary":
                netlink.set_link(index, wire.primary(netlink.index(want.value) if want.value else 0))
            case "tx":
                # Few links need it, and it needs pyroute2.
                from .. import checksums

                checksums.switch(want.ifname, want.value == "on")
            case "promisc":
                netlink.set_link(index, promiscuous=want.value == "on")
            case "fdb_max_learned":
                netlink.set_link(index, wire.learned_limit(int(want.value)))
            case "no_linklocal_learn":
                # Of bridges alone.
                from .. import sysfs

                sysfs.write(want.ifname, _NO_LINKLOCAL_LEARN, want.value)
            case "isolated" | "guard" | "hairpin" | "learning":
                netlink.set_port_flag(index, want.name, want.value == "on")
            case "state":
                if want.value == "up" and have and have.value == SHUT:
                    # The bridge looks at the port anew.
                    netlink.set_link(index, up=False)
                netlink.set_link(index, up=want.value != "down")
            case "lladdr":
                wanted, have_now = want.addresses, {a for a in netlink.addresses(index) if a.startswith("fe80:")}
                # New before old: a process killed in between leaves both, which `covers` accepts and `released_by` finds.
                for address in sorted(wanted.keys() - have_now):
                    netlink.add_address(index, address, flags=_NODAD, mark=wanted[address])
                for address in sorted(have_now - wanted.keys()):
                    netlink.delete_address(index, address)

    def unset(self, have: LinkAttribute, view: View) -> None:
        if (value := have.without) is not None:
            self.set(LinkAttribute(have.ifname, have.name, value), have, view)


def _value(want: LinkAttribute, link: wire.LinkMessage, view: View) -> str | None:
    match want.name:
        case "mtu":
            return str(link.mtu)
        case "address":
            return link.address
        case "group":
            return str(link.group)
        case "state":
            if link.is_shut and (bridge := view.netlink.link_at(link.master)) and bridge.flags & wire.UP:
                # One that is down itself has disabled all of its ports.
                return SHUT
            return "up" if link.flags & wire.UP else "down"
        case "master":
            return view.netlink.name(link.master)
        case "isolated" | "guard" | "hairpin" | "learning":
            flag = link.port_flag(want.name)
            return None if flag is None else "on" if flag else "off"
        case "primary":
            return view.netlink.name(link.primary)
        case "tx":
            # Few links need it, and it needs pyroute2.
            from .. import checksums

            return "on" if checksums.are_left_to(want.ifname) else "off"
        case "promisc":
            return "on" if link.flags & wire.PROMISC else "off"
        case "fdb_max_learned":
            return None if (limit := link.learned_limit) is None else str(limit)
        case "no_linklocal_learn":
            # Of bridges alone.
            from .. import sysfs

            return sysfs.read(want.ifname, _NO_LINKLOCAL_LEARN)
        case "lladdr":
            return LinkAttribute.spelled({a: mark for a, mark in view.addresses(want.ifname).items() if a.startswith("fe80:")})
    raise TypeError(f"not a link attribute: {want}")


def _set_master(want: LinkAttribute, index: int, view: View) -> None:
    netlink = view.netlink
    link = netlink.link_at(index)
    masters = [name for name in (netlink.name(link.master) if link else "", want.value) if name]
    has_bond = any((master := netlink.link(name)) and master.kind == "bond" for name in masters)
    if has_bond and want.value:
        # A bond takes no port that is up.
        netlink.set_link(index, up=False)
    netlink.set_link(index, wire.master(netlink.index(want.value) if want.value else 0))
    if has_bond and link and link.flags & wire.UP:
        # A bond that lets a port go sets it down. Not in one message: kernels differ in the order of its parts.
        netlink.set_link(index, up=True)


EDGES: Mapping[str, Edge] = {LinkAttribute.kind: LinkAttributes()}
