"""The facts that `vmnet-hook graph` draws: every link, and the routing tables with routes or rules of ours.

A drawing shows all guests, so everything is dumped; a plug never does that. States of ports come from sysfs, because some
versions of pyroute2 do not decode IFLA_INFO_SLAVE_DATA.
"""

import os
import socket
from collections.abc import Iterable
from contextlib import closing
from typing import Any

from ..errors import KernelError
from ..model.objects import Route, Rule
from ..model.topology import LinkDetails, Table
from ..values import ranges
from . import sysfs
from .netlink import Netlink, View
from .netlink import NetlinkError as Refused
from .objects import device, edge
from .objects.nft import Nft
from .objects.route import rules
from .rtnl import IPRoute, NetlinkError, dump

_UP, _LOWER_UP = 0x1, 0x10000
_PVID = 0x2
_PORT_STATES = {"0": "disabled", "1": "listening", "2": "learning", "3": "forwarding", "4": "blocking"}


def read() -> tuple[list[LinkDetails], list[Table]]:
    """Return the links of this network namespace and our routing tables. Raises KernelError."""
    try:
        with IPRoute() as ip, closing(Netlink()) as netlink:
            view = View(netlink, Nft())
            return links(ip), _tables(rules(view), edge(Route.kind).ours(view))
    except (NetlinkError, Refused, OSError) as error:
        raise KernelError(f"reading the kernel's links: {error}") from None


def links(ip: IPRoute) -> list[LinkDetails]:
    """Return the links of a network namespace. Raises NetlinkError or OSError."""
    messages = dump(ip.link, "dump")
    names = {message["index"]: _name(message) for message in messages}
    addresses = _addresses(ip)
    vlans = _vlans(ip) if any(_on(message, "vlan_filtering") for message in messages) else {}
    return [_link(m, names, addresses.get(m["index"], ()), vlans.get(m["index"], ({}, 0))) for m in messages]


def _name(message: Any) -> str:
    # A name can be any bytes but a blank, a slash and a colon.
    return os.fsdecode(message.get_attr("IFLA_IFNAME") or "")


def _on(message: Any, word: str) -> bool:
    """Whether a link is a bridge that has a setting, such as vlan_filtering, switched on."""
    kind, data = device.info(message)
    return kind == "bridge" and device.setting(data, kind, word) not in ("", "0")


def _link(message: Any, names: dict[int, str], addresses: Iterable[str], vlans: tuple[dict[int, int], int]) -> LinkDetails:
    name, (kind, data) = _name(message), device.info(message)
    # IFLA_LINK of a veth is its other end. With IFLA_LINK_NETNSID, the index is one of another namespace.
    elsewhere = kind == "veth" or message.get_attr("IFLA_LINK_NETNSID") is not None
    parent = "" if elsewhere else names.get(message.get_attr("IFLA_LINK") or 0, "")
    tags, pvid = vlans
    return LinkDetails(
        name,
        message["index"],
        kind,
        bool(message["flags"] & _UP),
        bool(message["flags"] & _LOWER_UP),
        message.get_attr("IFLA_MTU") or 0,
        message.get_attr("IFLA_ADDRESS") or "",
        names.get(message.get_attr("IFLA_MASTER") or 0, ""),
        parent,
        tuple(addresses),
        os.fsdecode(message.get_attr("IFLA_IFALIAS") or ""),
        _mode(kind, data),
        int(device.setting(data, kind, "id") or 0) if kind == "vlan" else 0,
        device.setting(data, kind, "protocol") if kind == "vlan" else "",
        _on(message, "stp_state"),
        _on(message, "vlan_filtering"),
        _PORT_STATES.get(sysfs.read(name, "brport/state") or "", "") or sysfs.read(name, "bonding_slave/state") or "",
        sysfs.read(name, "brport/isolated") == "1",
        pvid,
        ranges(set(tags) - {pvid}),
    )


def _mode(kind: str, data: Any) -> str:
    # The attributes of a macvtap are a macvlan's.
    word = "macvlan" if kind == "macvtap" else kind
    return device.setting(data, word, "mode") if word in ("bond", "macvlan") else ""


def _addresses(ip: IPRoute) -> dict[int, list[str]]:
    """Return the addresses that are not link-local, as ADDRESS/LENGTH by the index of the link; IPv4 first."""
    found: dict[int, list[str]] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in dump(ip.addr, "dump", family=family):
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if not address.startswith("fe80:"):
                found.setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
    return found


def _vlans(ip: IPRoute) -> dict[int, tuple[dict[int, int], int]]:
    """Return ({VID: flags}, PVID or 0) of every port of a VLAN-aware bridge, by index."""
    found = {}
    # Not link("dump", ext_mask=…): pyroute2 0.7 filters the answers by it.
    for message in dump(ip.get_vlans):
        spec = message.get_attr("IFLA_AF_SPEC")
        rows = spec.get_attrs("IFLA_BRIDGE_VLAN_INFO") if spec else []
        tags = {row["vid"]: row["flags"] for row in rows}
        found[message["index"]] = (tags, next((vid for vid, flags in tags.items() if flags & _PVID), 0))
    return found


def _tables(rules: Iterable[Rule], routes: Iterable[Route]) -> list[Table]:
    """Return the tables that rules of ours look up, with our routes in them, by number."""
    words: dict[int, dict[tuple[int, str], list[str]]] = {}
    for rule in rules:
        if rule.ours and rule.table and not rule.mark:
            words.setdefault(rule.table, {}).setdefault((rule.priority, rule.subnet), []).append(rule.selector)
    rows: dict[int, list[tuple[str, str, str]]] = {}
    for route in routes:
        rows.setdefault(route.table, []).append((route.dst, route.via, route.dev))
    return [
        Table(
            number,
            tuple(f"{priority}: {'/'.join(sorted(sides))} {subnet}" for (priority, subnet), sides in words[number].items()),
            tuple(sorted(rows.get(number, ()), key=lambda row: int(row[0].rpartition("/")[2]))),
        )
        for number in sorted(words)
    ]
