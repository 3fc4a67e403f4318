"""The facts that `vmnet-hook import --live` reads: links with their settings, addresses, routes and rules."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import KernelError
from ..model.resource import PROTO
from ..model.topology import LinkDetails
from . import graph_facts, sysfs
from .rtnl import IPRoute, NetlinkError, dump

_IFA_F_PERMANENT = 0x80
_RTN_UNICAST = 1
_RTPROT_KERNEL, _RT_TABLE_LOCAL = 2, 255
_PROTOCOLS = {9: "ra", 16: "dhcp"}
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
    """A unicast route that neither the kernel nor this program added. `protocol` is ra or dhcp if it was learned."""

    table: int
    destination: str
    dev: str
    via: str = ""
    metric: int = 0
    protocol: str = ""


@dataclass(frozen=True)
class LiveHost:
    """This host's network. `settings` are the files bridge/* or bonding/* of a link in sysfs, by link. `rules` are the policy
    rules that neither the kernel nor this program added, as `ip rule` commands."""

    links: list[LinkDetails]
    addresses: list[LiveAddress]
    routes: list[LiveRoute]
    rules: list[str]
    settings: dict[str, dict[str, str]]


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
    return LiveHost(links, addresses, routes, rules, settings)


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
            message.get_attr("RTA_GATEWAY") or "",
            message.get_attr("RTA_PRIORITY") or 0,
            _PROTOCOLS.get(message["proto"], ""),
        )


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
