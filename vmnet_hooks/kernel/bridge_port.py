"""The VLANs of a bridge's port, and what a bridge learns."""

from importlib import import_module

from ..model.objects import LinkAttribute, PortVlans
from ..values import ranges
from . import sysfs
from .wire import Rtnetlink

_NO_LINKLOCAL_LEARN = "bridge/no_linklocal_learn"


def read_vlans(want: PortVlans) -> PortVlans | None:
    """The VLANs of a port; None if it has none, or is no port. Through bridge(8): what the kernel answers to a dump depends on
    which other links there are. Raises KernelError."""
    iproute2 = import_module("vmnet_hooks.kernel.iproute2")
    ports = iproute2.rows("bridge", "-compressvlans", "vlan", "show", "dev", want.ifname, check=False)
    untagged = 0
    tagged: set[int] = set()
    for item in (item for port in ports if port.get("ifname") == want.ifname for item in port.get("vlans", ())):
        if item.get("flags"):
            untagged = item["vlan"]
        else:
            tagged.update(range(item["vlan"], item.get("vlanEnd", item["vlan"]) + 1))
    return PortVlans(want.ifname, untagged, ranges(tagged), want.own) if untagged or tagged else None


def set_vlans(socket: Rtnetlink, want: PortVlans, have: PortVlans | None, index: int) -> None:
    """Brings a port from `have` to `want`. Raises NetlinkError."""
    for verb, text, untagged in want.commands(have):
        first, _, last = text.partition("-")
        socket.change_vlans(verb, index, want.own, int(first), int(last or first), untagged)


def read_no_linklocal_learn(ifname: str) -> LinkAttribute | None:
    value = sysfs.read(ifname, _NO_LINKLOCAL_LEARN)
    return None if value is None else LinkAttribute(ifname, "no_linklocal_learn", value)


def set_no_linklocal_learn(want: LinkAttribute) -> None:
    with open(f"{sysfs.ROOT}/{want.ifname}/{_NO_LINKLOCAL_LEARN}", "w") as file:
        file.write(want.value)
