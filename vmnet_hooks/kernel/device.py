"""Links that we make (VLAN devices, bonds, bridges, macvlans, dummies), and what only a bridge has: fdb entries, VLANs."""

import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

from ..hostnet import bond
from ..state import ALIAS, Device, FdbEntry, LinkAttribute, PortVlans
from ..values import ranges
from . import iproute2, sysfs
from .rtnl import IoctlEthtool, IPRoute, NetlinkError

_PROTOCOLS = {"802.1Q": 0x8100, "802.1ad": 0x88A8}
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END, _SELF = 2, 4, 8, 16, 2
_NTF_SELF = 2
# Where iproute2's word is not the netlink attribute's name.
_ATTRIBUTES = {("bond", "lacp_rate"): "IFLA_BOND_AD_LACP_RATE"}
_PREFIX = {"bridge": "IFLA_BR_", "bond": "IFLA_BOND_", "vlan": "IFLA_VLAN_", "macvlan": "IFLA_MACVLAN_"}
_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("bond", "mode"): bond.MODES,
    ("bond", "xmit_hash_policy"): bond.HASHES,
    ("bond", "lacp_rate"): bond.RATES,
}


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
    """The kind of a link ("" for a NIC), and what only links of its kind have; None if there is no such thing, or pyroute2
    does not know it."""
    found = message.get_attr("IFLA_LINKINFO")
    kind, data = (found.get_attr(f"IFLA_INFO_{name}") if found else None for name in ("KIND", "DATA"))
    # Of a kind that pyroute2 does not know it is a string.
    return kind or "", data if hasattr(data, "get_attr") else None


def setting(data: Any, kind: str, word: str) -> str:
    """One setting of a link, of what `info` found, as iproute2 writes it; "" if it has none."""
    value = None if data is None else data.get_attr(_attribute(kind, word))
    return "" if value is None else _decoded(kind, word, value)


def _encoded_settings(kind: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Settings as pyroute2's requests take them."""
    return {_attribute(kind, word).removeprefix("IFLA_").lower(): _encoded(kind, word, value) for word, value in pairs}


def read(want: Device, message: Any, name_of: Callable[[int], str]) -> Device:
    """The link under a wanted device's name, with the settings that `want` names."""
    kind, data = info(message)
    lower = message.get_attr("IFLA_LINK") if want.parent else None

    def settings(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        if kind != want.type or data is None:
            return ()
        # While the topology changes, STP itself shortens it, and puts it back.
        passing = ("ageing_time",) if kind == "bridge" and data.get_attr("IFLA_BR_TOPOLOGY_CHANGE") else ()
        found = ((word, value if word in passing else setting(data, kind, word)) for word, value in pairs)
        # A kernel without VLAN filtering has none of it, and says nothing of it.
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


def create(ip: IPRoute, want: Device, parent: int) -> None:
    """Makes a link, and marks it as ours. Raises NetlinkError."""
    data = _encoded_settings(want.type, (*want.fixed, *want.options))
    if parent:
        data["link"] = parent
    ip.link("add", ifname=want.ifname, kind=want.type, **data)
    # The kernel takes no alias with the creation.
    index = next(iter(ip.link("get", ifname=want.ifname)))["index"]
    ip.link("set", index=index, ifalias=ALIAS)


def change(ip: IPRoute, index: int, want: Device, have: Device) -> None:
    """Brings the options of a link to `want`. Raises NetlinkError."""
    changed = dict(option for option in want.options if option not in have.options)
    steps = [changed]
    if changed.get("stp_state") == "0":
        # While it runs, STP's limits hold: forward_delay can't go to 0 before it is off.
        steps = [{"stp_state": changed.pop("stp_state")}, changed]
    for step in filter(None, steps):
        ip.link("set", index=index, kind=want.type, **_encoded_settings(want.type, step.items()))


# --- the forwarding database -----------------------------------------------------------------------------------------


def read_fdb(ip: IPRoute, want: FdbEntry, index: int) -> FdbEntry | None:
    try:
        found = list(ip.neigh("get", family=socket.AF_BRIDGE, ifindex=index, lladdr=want.lladdr, flags=_NTF_SELF))
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise
    permanent = [m for m in found if m["state"] & 0x80]
    return want if permanent else None


def set_fdb(ip: IPRoute, verb: str, entry: FdbEntry, index: int) -> None:
    ip.fdb(verb, ifindex=index, lladdr=entry.lladdr, flags=_NTF_SELF)


# --- VLANs of a bridge's port -------------------------------------------------------------------------------------------


def read_vlans(want: PortVlans) -> PortVlans | None:
    """The VLANs of a port; None if it has none, or is no port. Through bridge(8): what the kernel answers to pyroute2's dump
    depends on which other links there are. Raises KernelError."""
    ports = iproute2.rows("bridge", "-compressvlans", "vlan", "show", "dev", want.ifname, check=False)
    untagged = 0
    tagged: set[int] = set()
    for item in (item for port in ports if port.get("ifname") == want.ifname for item in port.get("vlans", ())):
        if item.get("flags"):
            untagged = item["vlan"]
        else:
            tagged.update(range(item["vlan"], item.get("vlanEnd", item["vlan"]) + 1))
    return PortVlans(want.ifname, untagged, ranges(tagged), want.own) if untagged or tagged else None


def set_vlans(ip: IPRoute, want: PortVlans, have: PortVlans | None, index: int) -> None:
    """Raises NetlinkError."""
    flags = [("IFLA_BRIDGE_FLAGS", _SELF)] if want.own else []
    for verb, text, untagged in want.commands(have):
        low, _, high = text.partition("-")
        if high:
            rows = [{"vid": int(low), "flags": _RANGE_BEGIN}, {"vid": int(high), "flags": _RANGE_END}]
        else:
            rows = [{"vid": int(low), "flags": _PVID | _UNTAGGED if untagged else 0}]
        spec = {"attrs": [*flags, *(("IFLA_BRIDGE_VLAN_INFO", row) for row in rows)]}
        ip.vlan_filter(verb, index=index, af_spec=spec)


# --- checksums ----------------------------------------------------------------------------------------------------------


def read_tx(ifname: str) -> LinkAttribute:
    """Whether any checksum is left to the device."""
    ethtool = IoctlEthtool(ifname)
    try:
        is_on = any(value for name, value, *_ in ethtool.get_features() if name.startswith("tx-checksum-"))
    finally:
        ethtool.sock.close()
    return LinkAttribute(ifname, "tx", "on" if is_on else "off")


def set_tx(want: LinkAttribute) -> None:
    ethtool = IoctlEthtool(want.ifname)
    try:
        features = ethtool.get_features()
        for name, _, available, *_ in list(features):
            if name.startswith("tx-checksum-") and available:
                features[name] = want.value == "on"
        ethtool.set_features(features)
    finally:
        ethtool.sock.close()


# --- what a bridge learns ------------------------------------------------------------------------------------------------

_NO_LINKLOCAL_LEARN = "bridge/no_linklocal_learn"
"""Through sysfs: pyroute2 knows nothing of IFLA_BR_MULTI_BOOLOPT."""


def read_no_linklocal_learn(ifname: str) -> LinkAttribute | None:
    value = sysfs.read(ifname, _NO_LINKLOCAL_LEARN)
    return None if value is None else LinkAttribute(ifname, "no_linklocal_learn", value)


def set_no_linklocal_learn(want: LinkAttribute) -> None:
    with open(f"{sysfs.ROOT}/{want.ifname}/{_NO_LINKLOCAL_LEARN}", "w") as file:
        file.write(want.value)
