"""Links that we make: VLAN devices, bonds, bridges, macvlans, dummies. By pyroute2, which knows their settings."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import InTheWay
from ...links import bond
from ...model.objects import Device
from ...model.resource import ALIAS
from .. import sysfs
from ..netlink import NetlinkError, View
from . import Edge

_PROTOCOLS = {"802.1Q": 0x8100, "802.1ad": 0x88A8}
# Where iproute2's word is not the netlink attribute's name.
_ATTRIBUTES = {("bond", "lacp_rate"): "IFLA_BOND_AD_LACP_RATE"}
_PREFIX = {"bridge": "IFLA_BR_", "bond": "IFLA_BOND_", "vlan": "IFLA_VLAN_", "macvlan": "IFLA_MACVLAN_"}
_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("bond", "mode"): bond.POLICIES,
    ("bond", "xmit_hash_policy"): bond.HASHES,
    ("bond", "lacp_rate"): bond.RATES,
}
_ADDRESSED = ("bridge", "dummy", "macvlan")
"""The types that get an address from us. A bond takes one of its ports', a VLAN device its parent's."""


class Devices(Edge[Device]):
    refused = InTheWay

    def read(self, wanted: Sequence[Device], view: View) -> Iterable[Device]:
        return [have for want in wanted if (have := _found(want, view))]

    def set(self, want: Device, have: Device | None, view: View) -> None:
        index_of = view.netlink.index
        with view.netlink.pyroute2() as ip:
            if have:
                change(ip, index_of(want.ifname), want, have)
            else:
                create(ip, want, index_of(want.parent) if want.parent else 0)

    def unset(self, have: Device, view: View) -> None:
        if have.type == "bridge" and (left := sysfs.ports(have.ifname)):
            raise OSError(errno.EBUSY, f"{have.ifname} still has ports: {', '.join(left)}; stop those guests first")
        view.netlink.delete_link(view.netlink.index(have.ifname))

    def ours(self, view: View) -> Iterator[Device]:
        for link in view.netlink.links():
            # The ifb is a kind of its own.
            if link.alias == ALIAS and link.kind != "ifb" and (found := _found(Device(link.name, ""), view)):
                yield found


def _found(want: Device, view: View) -> Device | None:
    """The link with the name of `want`; None if there is none."""
    try:
        with view.netlink.pyroute2() as ip:
            message = next(iter(ip.link("get", ifname=want.ifname)), None)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
        return None
    return read(want, message, view.netlink.name) if message else None


def _attribute(kind: str, word: str) -> str:
    return _ATTRIBUTES.get((kind, word), _PREFIX[kind] + word.upper())


def _encoded(kind: str, word: str, value: str) -> Any:
    if (kind, word) in _WORDS:
        return _WORDS[kind, word].index(value)
    if (kind, word) == ("vlan", "protocol"):
        return _PROTOCOLS[value]
    return value if (kind, word) == ("macvlan", "mode") else int(value)


def _decoded(kind: str, word: str, value: Any) -> str:
    if (kind, word) in _WORDS and isinstance(value, int):
        words = _WORDS[kind, word]
        return words[value] if value < len(words) else str(value)
    if (kind, word) == ("vlan", "protocol"):
        return next((name for name, number in _PROTOCOLS.items() if number == value), str(value))
    return str(value)


def info(message: Any) -> tuple[str, Any]:
    """The kind of a link ("" for a NIC) and the attributes of that kind; None if it has none, or pyroute2 does not know it."""
    found = message.get_attr("IFLA_LINKINFO")
    kind, data = (found.get_attr(f"IFLA_INFO_{name}") if found else None for name in ("KIND", "DATA"))
    # Where pyroute2 does not know the kind, `data` is a string.
    return kind or "", data if hasattr(data, "get_attr") else None


def setting(data: Any, kind: str, word: str) -> str:
    """One setting out of what `info` returned, as iproute2 writes it; "" if the link has none."""
    value = None if data is None else data.get_attr(_attribute(kind, word))
    return "" if value is None else _decoded(kind, word, value)


def _encoded_settings(kind: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Settings as pyroute2's requests take them."""
    return {_attribute(kind, word).removeprefix("IFLA_").lower(): _encoded(kind, word, value) for word, value in pairs}


def read(want: Device, message: Any, name_of: Callable[[int], str]) -> Device:
    """The link with the name of `want`, with the settings that `want` names."""
    kind, data = info(message)
    lower = message.get_attr("IFLA_LINK") if want.parent else None

    def settings(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        if kind != want.type or data is None:
            return ()
        # While the topology changes, STP shortens it, and restores it afterwards.
        passing = ("ageing_time",) if kind == "bridge" and data.get_attr("IFLA_BR_TOPOLOGY_CHANGE") else ()
        found = ((word, value if word in passing else setting(data, kind, word)) for word, value in pairs)
        # A kernel without VLAN filtering does not report its settings.
        return tuple((word, value) for word, value in found if value)

    return Device(
        want.ifname,
        kind,
        name_of(lower) if lower else "",
        settings(want.fixed),
        settings(want.options),
        message.get_attr("IFLA_IFALIAS") or "",
        want.level,
    )


def create(ip: Any, want: Device, parent: int) -> None:
    """Make a link, and mark it as ours. `parent` is an index. Raises NetlinkError."""
    data = _encoded_settings(want.type, (*want.fixed, *want.options))
    if parent:
        data["link"] = parent
    if want.type in _ADDRESSED:
        # The wanted address is set in a later step. Without this one, udev would set one of its own at any moment: its default
        # policy replaces addresses that the kernel made up.
        data["address"] = f"02:{os.urandom(5).hex(':')}"
    ip.link("add", ifname=want.ifname, kind=want.type, **data)
    # The kernel takes no alias at creation.
    index = next(iter(ip.link("get", ifname=want.ifname)))["index"]
    ip.link("set", index=index, ifalias=ALIAS)


def change(ip: Any, index: int, want: Device, have: Device) -> None:
    """Bring the options of a link to `want`. Raises NetlinkError."""
    changed = dict(option for option in want.options if option not in have.options)
    steps = [changed]
    if changed.get("stp_state") == "0":
        # With STP on, its limits hold: forward_delay can't become 0 before it is off.
        steps = [{"stp_state": changed.pop("stp_state")}, changed]
    for step in filter(None, steps):
        ip.link("set", index=index, kind=want.type, **_encoded_settings(want.type, step.items()))


EDGES: Mapping[str, Edge] = {Device.kind: Devices()}
