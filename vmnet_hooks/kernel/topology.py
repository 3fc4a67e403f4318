"""What `vmnet-hook graph` draws: every link, and the routing tables that hold routes or rules of ours.

Whole dumps, unlike netlink.py: a drawing shows all guests. Ports' states come from sysfs: pyroute2 leaves IFLA_INFO_SLAVE_DATA
undecoded in some versions.
"""

import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from ..errors import KernelError
from ..graph.model import Link, Table
from ..state import PROTO
from ..values import ranges

SYSFS = "/sys/class/net"
_ATTEMPTS = 50
_UP, _LOWER_UP = 0x1, 0x10000
_PVID = 0x2
_PORT_STATES = {"0": "disabled", "1": "listening", "2": "learning", "3": "forwarding", "4": "blocking"}
_PROTOCOLS = {0x8100: "802.1Q", 0x88A8: "802.1ad"}
_BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_ZERO = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


def read() -> tuple[list[Link], list[Table]]:
    """The links of this network namespace, and our routing tables. Raises KernelError."""
    try:
        with IPRoute() as ip:
            names: dict[int, str] = {}
            messages = _dump(ip.link, "dump")
            for message in messages:
                names[message["index"]] = _name(message)
            addresses = _addresses(ip)
            aware = any(_data(message, "IFLA_BR_VLAN_FILTERING") for message in messages)
            vlans = _vlans(ip) if aware else {}
            links = [_link(m, names, addresses.get(m["index"], ()), vlans.get(m["index"], ({}, 0))) for m in messages]
            return links, _tables(ip, names)
    except (NetlinkError, OSError) as error:
        raise KernelError(f"reading the kernel's links: {error}") from None


def _dump(ask: Callable[..., Any], *command: str, **match: Any) -> list[Any]:
    """A whole dump. The kernel says so when something changed under it: asked again."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(ask(*command, **match))
        except NetlinkDumpInterrupted:
            continue
    return list(ask(*command, **match))


def _name(message: Any) -> str:
    # The kernel lets a name be any bytes but a blank, a slash or a colon.
    return os.fsdecode(message.get_attr("IFLA_IFNAME") or "")


def _data(message: Any, attribute: str) -> Any:
    info = message.get_attr("IFLA_LINKINFO")
    data: Any = info.get_attr("IFLA_INFO_DATA") if info else None
    # Of a kind that pyroute2 does not know it is a string.
    return data.get_attr(attribute) if hasattr(data, "get_attr") else None


def _link(message: Any, names: dict[int, str], addresses: Iterable[str], vlans: tuple[dict[int, int], int]) -> Link:
    name, info = _name(message), message.get_attr("IFLA_LINKINFO")
    kind = os.fsdecode(info.get_attr("IFLA_INFO_KIND") or "") if info else ""
    # A veth's IFLA_LINK is its other end, maybe in another namespace; that of a VLAN may be elsewhere too.
    elsewhere = kind == "veth" or message.get_attr("IFLA_LINK_NETNSID") is not None
    parent = "" if elsewhere else names.get(message.get_attr("IFLA_LINK") or 0, "")
    tags, pvid = vlans
    return Link(
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
        _mode(message, kind),
        _data(message, "IFLA_VLAN_ID") or 0 if kind == "vlan" else 0,
        _PROTOCOLS.get(_protocol(_data(message, "IFLA_VLAN_PROTOCOL")), "") if kind == "vlan" else "",
        bool(_data(message, "IFLA_BR_STP_STATE")) if kind == "bridge" else False,
        bool(_data(message, "IFLA_BR_VLAN_FILTERING")) if kind == "bridge" else False,
        _PORT_STATES.get(_sysfs(name, "brport/state"), "") or _sysfs(name, "bonding_slave/state"),
        _sysfs(name, "brport/isolated") == "1",
        pvid,
        ranges(set(tags) - {pvid}),
    )


def _mode(message: Any, kind: str) -> str:
    if kind == "bond":
        mode = _data(message, "IFLA_BOND_MODE")
        return _BOND_MODES[mode] if isinstance(mode, int) and mode < len(_BOND_MODES) else str(mode or "")
    if kind in ("macvlan", "macvtap"):
        return str(_data(message, "IFLA_MACVLAN_MODE") or _data(message, "IFLA_MACVTAP_MODE") or "")
    return ""


def _protocol(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _sysfs(name: str, file: str) -> str:
    try:
        with open(f"{SYSFS}/{name}/{file}") as opened:
            return opened.read().strip()
    except OSError:
        return ""


def _addresses(ip: IPRoute) -> dict[int, list[str]]:
    """Every address but link-local ones, by the link's index; IPv4 first."""
    found: dict[int, list[str]] = {}
    for family in _ZERO:
        for message in _dump(ip.addr, "dump", family=family):
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if not address.startswith("fe80:"):
                found.setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
    return found


def _vlans(ip: IPRoute) -> dict[int, tuple[dict[int, int], int]]:
    """VIDs (with their flags) and PVID of every port of a VLAN-aware bridge."""
    found = {}
    # Not link("dump", ext_mask=…): pyroute2 0.7 takes that for something to look for in the answers.
    for message in _dump(ip.get_vlans):
        spec = message.get_attr("IFLA_AF_SPEC")
        rows = spec.get_attrs("IFLA_BRIDGE_VLAN_INFO") if spec else []
        tags = {row["vid"]: row["flags"] for row in rows}
        found[message["index"]] = (tags, next((vid for vid, flags in tags.items() if flags & _PVID), 0))
    return found


def _tables(ip: IPRoute, names: dict[int, str]) -> list[Table]:
    """The tables that rules of ours look up, with the routes of ours in them."""
    rules: dict[int, dict[tuple[int, str], list[str]]] = {}
    routes: dict[int, list[tuple[str, str, str]]] = {}
    for family, zero in _ZERO.items():
        for message in _dump(ip.rule, "dump", family=family):
            if message.get_attr("FRA_PROTOCOL") != PROTO:
                continue
            table = rules.setdefault(message.get_attr("FRA_TABLE") or message["table"], {})
            for word, attribute, length in (("from", "FRA_SRC", "src_len"), ("to", "FRA_DST", "dst_len")):
                if address := message.get_attr(attribute):
                    subnet = f"{address}/{message[length]}"
                    table.setdefault((message.get_attr("FRA_PRIORITY") or 0, subnet), []).append(word)
        for message in _dump(ip.route, "dump", family=family, proto=PROTO):
            if message["proto"] == PROTO and message["type"] == 1:
                destination = f"{message.get_attr('RTA_DST') or zero}/{message['dst_len']}"
                device = names.get(message.get_attr("RTA_OIF") or 0, "")
                row = (destination, message.get_attr("RTA_GATEWAY") or "", device)
                routes.setdefault(message.get_attr("RTA_TABLE"), []).append(row)
    return [
        Table(
            number,
            tuple(f"{priority}: {'/'.join(sorted(words))} {subnet}" for (priority, subnet), words in rules[number].items()),
            tuple(sorted(routes.get(number, ()), key=lambda row: int(row[0].rpartition("/")[2]))),
        )
        for number in sorted(rules)
    ]
