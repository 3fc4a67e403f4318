"""Links that we make (VLAN devices, bonds, bridges, macvlans, dummies), entries of a bridge's forwarding database, checksums:
what is rare, and what pyroute2 knows better than we. netlink.py loads this when it is needed.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..links import bond
from ..model.objects import Device, FdbEntry, LinkAttribute
from ..model.resource import ALIAS
from . import framing
from .rtnl import IoctlEthtool, IPRoute, NetlinkError

_PROTOCOLS = {"802.1Q": 0x8100, "802.1ad": 0x88A8}
_NTF_SELF = 2
# Where iproute2's word is not the netlink attribute's name.
_ATTRIBUTES = {("bond", "lacp_rate"): "IFLA_BOND_AD_LACP_RATE"}
_PREFIX = {"bridge": "IFLA_BR_", "bond": "IFLA_BOND_", "vlan": "IFLA_VLAN_", "macvlan": "IFLA_MACVLAN_"}
_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("bond", "mode"): bond.POLICIES,
    ("bond", "xmit_hash_policy"): bond.HASHES,
    ("bond", "lacp_rate"): bond.RATES,
}
_ADDRESSED = ("bridge", "dummy", "macvlan")
"""Those that always get an address from us. A bond takes one of its ports', a VLAN device its parent's."""


class Devices:
    """A socket of pyroute2's. Its refusals come out as framing.NetlinkError."""

    def __init__(self) -> None:
        self._ip = IPRoute(strict_check=True)
        if hasattr(self._ip, "asyncore"):
            # pyroute2 0.9's synchronous face does not set what its own nlm_request reads.
            self._ip.asyncore.status.setdefault("nlm_generator", False)

    def close(self) -> None:
        self._ip.close()

    def read(self, want: Device, name_of: Callable[[int], str]) -> Device | None:
        """The link under a wanted device's name, with the settings that `want` names."""
        with _refusals():
            try:
                message = next(iter(self._ip.link("get", ifname=want.ifname)), None)
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise
                return None
            return read(want, message, name_of) if message else None

    def set(self, want: Device, have: Device | None, index_of: Callable[[str], int]) -> None:
        with _refusals():
            if have:
                change(self._ip, index_of(want.ifname), want, have)
            else:
                create(self._ip, want, index_of(want.parent) if want.parent else 0)

    def read_fdb(self, want: FdbEntry, index: int) -> FdbEntry | None:
        with _refusals():
            return read_fdb(self._ip, want, index)

    def set_fdb(self, verb: str, entry: FdbEntry, index: int) -> None:
        with _refusals():
            self._ip.fdb(verb, ifindex=index, lladdr=entry.lladdr, flags=_NTF_SELF)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise framing.NetlinkError(error.code) from None


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
    if want.type in _ADDRESSED:
        # The address that is wanted comes next. Were there none until then, udev would give the link one of its own, at any
        # moment after it appears: its default policy is for addresses that the kernel made up.
        data["address"] = f"02:{os.urandom(5).hex(':')}"
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
