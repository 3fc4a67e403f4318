"""The facts that `vmnet-hook import --live` reads: links with their settings, addresses, routes and rules."""

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import KernelError
from ..model.resource import PROTO
from ..model.topology import LinkDetails
from . import graph_facts, sysfs
from .rtnl import IPRoute, NetlinkError, dump

_IFA_F_PERMANENT = 0x80
_RTN_UNICAST = 1
_RTPROT_KERNEL, _RT_TABLE_LOCAL = 2, 255
_STATIC = (0, 3, 4)
"""Protocols of routes that an admin or a program of the host's network made: RTPROT_UNSPEC, _BOOT, _STATIC."""
_PROTOCOLS = {9: "ra", 11: "zebra", 12: "bird", 16: "dhcp", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp"}
_LIBVIRT = ("/run/libvirt/network", "/etc/libvirt/qemu/networks")
_LXD = {"/var/lib/lxd/networks": "LXD", "/var/snap/lxd/common/lxd/networks": "LXD", "/var/lib/incus/networks": "Incus"}
_BRIDGE = re.compile(r"<bridge\b[^>]*\bname=['\"]([^'\"]+)['\"]")
_FORWARD = re.compile(r"<forward\b[^>]*\bmode=['\"](bridge|passthrough|private|vepa|hostdev)['\"]")
_NAME = re.compile(r"<name>([^<]*)</name>")
_DEFAULT_RULES = (0, 32766, 32767)
_SETTINGS = {"bridge": "bridge", "bond": "bonding"}


@dataclass(frozen=True)
class LiveAddress:
    """An address of a link that is not link-local. `peer` is the other end of a point-to-point address, else empty."""

    ifname: str
    address: str
    permanent: bool
    peer: str = ""


@dataclass(frozen=True)
class LiveRoute:
    """A unicast route that neither the kernel nor this program added. `protocol` is the name, as ra or dhcp, or the number of
    the protocol that it was learned by; "" if it was not."""

    table: int
    destination: str
    dev: str
    via: str = ""
    metric: int = 0
    protocol: str = ""
    src: str = ""
    mtu: int = 0
    multipath: bool = False


@dataclass(frozen=True)
class LiveHost:
    """This host's network. `settings` are the files bridge/* or bonding/* of a link in sysfs, by link. `rules` are the policy
    rules that neither the kernel nor this program added, as `ip rule` commands. `makers` are the programs whose files say that
    they made a link, by link."""

    links: list[LinkDetails]
    addresses: list[LiveAddress]
    routes: list[LiveRoute]
    rules: list[str]
    settings: dict[str, dict[str, str]]
    makers: dict[str, str] = field(default_factory=dict)


def read() -> LiveHost:
    """Read this network namespace. Raises KernelError."""
    try:
        with IPRoute() as ip:
            links = graph_facts.links(ip)
            names = {link.index: link.name for link in links}
            addresses = [a for family in (socket.AF_INET, socket.AF_INET6) for a in _addresses(ip, family, names)]
            routes = [r for family in (socket.AF_INET, socket.AF_INET6) for r in _routes(ip, family, names)]
            rules = [r for family in (socket.AF_INET, socket.AF_INET6) for r in _rules(ip, family)]
    except (NetlinkError, OSError) as error:
        raise KernelError(f"reading the kernel's links, addresses and routes: {error}") from None
    settings = {link.name: _settings(link.name, _SETTINGS[link.kind]) for link in links if link.kind in _SETTINGS}
    return LiveHost(links, addresses, routes, rules, settings, _makers())


def _makers() -> dict[str, str]:
    """Return the programs that made bridges, by the bridge, as far as their own files say so."""
    found: dict[str, str] = {}
    for folder in _LIBVIRT:
        for name in _listed(folder):
            if name.endswith(".xml"):
                try:
                    with open(f"{folder}/{name}", errors="replace") as file:
                        text = file.read(1 << 20)
                except OSError:
                    continue
                # With these modes the network uses a bridge that the admin made.
                bridge = _BRIDGE.search(text)
                if bridge and not _FORWARD.search(text):
                    network = _NAME.search(text)
                    found.setdefault(bridge[1], f"libvirtd (network {network[1] if network else name})")
    for folder, program in _LXD.items():
        found.update({name: program for name in _listed(folder)})
    return found


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _addresses(ip: IPRoute, family: int, names: dict[int, str]) -> Iterator[LiveAddress]:
    for message in dump(ip.addr, "dump", family=family):
        local, peer = message.get_attr("IFA_LOCAL"), message.get_attr("IFA_ADDRESS")
        address = local or peer
        if not address.startswith("fe80:"):
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            other = peer if local and local != peer else ""
            name = names.get(message["index"], "")
            yield LiveAddress(name, f"{address}/{message['prefixlen']}", bool(flags & _IFA_F_PERMANENT), other)


def _routes(ip: IPRoute, family: int, names: dict[int, str]) -> Iterator[LiveRoute]:
    zero = "0.0.0.0" if family == socket.AF_INET else "::"
    for message in dump(ip.route, "dump", family=family):
        table = message.get_attr("RTA_TABLE") or message["table"]
        if message["proto"] in (_RTPROT_KERNEL, PROTO) or message["type"] != _RTN_UNICAST or table == _RT_TABLE_LOCAL:
            continue
        yield LiveRoute(
            table,
            f"{message.get_attr('RTA_DST') or zero}/{message['dst_len']}",
            names.get(message.get_attr("RTA_OIF") or 0, ""),
            message.get_attr("RTA_GATEWAY") or (message.get_attr("RTA_VIA") or {}).get("addr", ""),
            message.get_attr("RTA_PRIORITY") or 0,
            "" if message["proto"] in _STATIC else _PROTOCOLS.get(message["proto"], f"protocol {message['proto']}"),
            message.get_attr("RTA_PREFSRC") or "",
            _mtu(message),
            message.get_attr("RTA_MULTIPATH") is not None,
        )


def _mtu(message: Any) -> int:
    metrics = message.get_attr("RTA_METRICS")
    return (metrics.get_attr("RTAX_MTU") or 0) if metrics else 0


def _rules(ip: IPRoute, family: int) -> Iterator[str]:
    for message in dump(ip.rule, "dump", family=family):
        priority = message.get_attr("FRA_PRIORITY") or 0
        if priority in _DEFAULT_RULES or message.get_attr("FRA_PROTOCOL") == PROTO:
            continue
        words = ["ip", "-6" if family == socket.AF_INET6 else "-4", "rule", "add", "pref", str(priority)]
        for word, attribute, length in (("from", "FRA_SRC", "src_len"), ("to", "FRA_DST", "dst_len")):
            if address := message.get_attr(attribute):
                words += [word, f"{address}/{message[length]}"]
        for word, attribute in (("iif", "FRA_IIFNAME"), ("oif", "FRA_OIFNAME"), ("fwmark", "FRA_FWMARK")):
            if (value := message.get_attr(attribute)) is not None:
                words += [word, str(value)]
        yield " ".join([*words, "lookup", str(message.get_attr("FRA_TABLE") or message["table"])])


def _settings(name: str, folder: str) -> dict[str, str]:
    values = {file: sysfs.read(name, f"{folder}/{file}") for file in sysfs.files(name, folder)}
    return {file: value for file, value in values.items() if value is not None}
