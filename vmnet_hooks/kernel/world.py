"""The world around our objects, as `check` asks for it: two dumps, and one batch of look-ups for all guests.

The settings of links are in the dump of links: a file for each would take longer than all the rest.
"""

import os
from collections.abc import Iterator, Sequence

from ..model.resource import PROTO
from ..model.world import Question, Seen, Way
from . import wire
from .netlink import Netlink, NetlinkError
from .objects import sysctl

# Indices of linux/ip.h (which counts from 1) into the array of a link's values.
_PLACES = {"medium_id": 13, "arp_ignore": 18, "proxy_arp_pvlan": 24}
_AF_INET_CONF = 1
_DUPLICATE = 8
"""IFA_F_DADFAILED: another node has the address; the kernel does not use it."""

_TYPES = ("unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw")
"""RTN_*, in their order."""


def links(netlink: Netlink) -> dict[str, Seen]:
    """Return every link by name, and as `all` the settings of all links together. Raises NetlinkError."""
    addresses, link_local = _addresses(netlink)
    found = netlink.links()
    names = {link.index: link.name for link in found}
    together = Seen(settings={name: int(sysctl.read(f"net/ipv4/conf/all/{name}") or 0) for name in _PLACES})
    return {"all": together} | {
        link.name: Seen(
            link.kind,
            link.address,
            bool(link.flags & wire.UP),
            bool(link.flags & wire.LOWER_UP),
            names.get(link.master, ""),
            tuple(addresses.get(link.index, ())),
            link.index in link_local,
            _settings(link),
        )
        for link in found
    }


def _addresses(netlink: Netlink) -> tuple[dict[int, list[str]], set[int]]:
    """Return the addresses that are not link-local by the index of their link, and the links with link-local ones."""
    found: dict[int, list[str]] = {}
    link_local: set[int] = set()
    for data in netlink.dump(wire.GETADDR, wire.addresses_body(0)):
        if (told := wire.address_of(data)) is None:
            continue
        index, address, _ = told
        if not address.startswith("fe80:"):
            found.setdefault(index, []).append(address)
        elif not wire.ADDRESS.unpack_from(data)[2] & _DUPLICATE:
            link_local.add(index)
    return found, link_local


def _settings(link: wire.LinkMessage) -> dict[str, int]:
    families = wire.attributes(link.families)
    values = wire.attributes(families[wire.AF_INET]).get(_AF_INET_CONF, b"") if wire.AF_INET in families else b""
    return {name: wire.SIGNED.unpack_from(values, 4 * at)[0] for name, at in _PLACES.items() if len(values) >= 4 * at + 4}


def ways(netlink: Netlink, questions: Sequence[Question]) -> list[Way]:
    """Answer every question, in their order. Raises OSError for a link that is gone."""
    indices = {link: netlink.index(link) for link in dict.fromkeys(q.link for q in questions)}
    asked = [(wire.GETROUTE, wire.lookup_body(q.address, q.source, indices[q.link]), 0) for q in questions]
    names: dict[int, str] = {}
    return list(_told(netlink, netlink.ask(asked), names))


def policy(netlink: Netlink, version: int, table: int) -> list[int]:
    """Return the priorities of all rules of an IP version that lead to a table, whatever they select by."""
    family = wire.AF_INET6 if version == 6 else wire.AF_INET
    found = []
    for data in netlink.dump(wire.GETRULE, wire.rules_body(family)):
        priority, target = wire.target_of(data)
        # Those of ours by a mark are for answers on forwarded ports.
        if target == table and not any(rule.mark and rule.proto == PROTO for rule in wire.rules_of(data, family)):
            found.append(priority)
    return sorted(found)


def _told(netlink: Netlink, answers: Sequence[bytes | NetlinkError], names: dict[int, str]) -> Iterator[Way]:
    for answer in answers:
        if isinstance(answer, NetlinkError):
            yield Way("", reason=os.strerror(answer.code))
            continue
        type, table, dst, oif = wire.way_of(answer)
        dev = names[oif] if oif in names else names.setdefault(oif, netlink.name(oif))
        yield Way(_TYPES[type] if type < len(_TYPES) else str(type), dev, table, dst)
