"""The labels of boxes: of links, guests and routes. Pure."""

import re
from collections.abc import Iterable
from ipaddress import ip_interface, ip_network

from ..errors import one_line
from ..model.declaration import Config
from ..model.owner import Nic
from ..model.topology import LinkDetails
from .model import NBSP

LONGEST = 39
"""Characters of a name that is drawn, at most: the length of the longest IPv6 address."""


def cleaned(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines with control characters escaped, but no-break spaces kept."""
    return tuple(NBSP.join(map(one_line, line.split(NBSP))) for line in lines)


def link_words(link: LinkDetails, kind: str) -> str:
    """Return a short description of a link."""
    match kind:
        case "nic":
            return "NIC"
        case "vlan":
            return f"VLAN{NBSP}{link.vid}" + (f" {link.protocol}" if link.protocol not in ("", "802.1Q") else "")
        case "bridge":
            return "bridge" + (" STP" if link.stp else "") + (" VLAN-aware" if link.vlan_aware else "")
        case "bond" | "macvlan":
            return f"{kind} {link.mode}".strip()
    return kind


def guest_words(owner: Nic, declared: Config) -> list[str]:
    network = declared.networks.get(owner.network)
    word = network.kind.word if network else "network"
    told = filter(None, (owner.domain, owner.mac, *owner.addresses))
    return [*map(short, told), f"{word}{NBSP}{short(owner.network)}"]


def natural(name: str) -> list[str | int]:
    """Return a key that sorts eth2 before eth10."""
    return [int(part) if position % 2 else part for position, part in enumerate(re.split("([0-9]+)", name))]


def short(text: str) -> str:
    """Return a name as one word of at most LONGEST characters."""
    line = one_line(text)
    return (line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…").replace(" ", NBSP)


def home(owner: Nic, declared: Config) -> str:
    """Return the node of a guest's network: for a network that no file declares (KIND:LINK), the link; "" if unknown."""
    network = declared.networks.get(owner.network)
    return network.node() if network else owner.described[1]


def to_guest(dst: str) -> bool:
    return dst.endswith("/128" if ":" in dst else "/32")


def destination(dst: str) -> str:
    return {"0.0.0.0/0": "default", "::/0": f"default{NBSP}(IPv6)"}.get(dst, dst)


def inside(link: LinkDetails, subnet: str) -> bool:
    try:
        inner = ip_network(subnet)
        return any(ip_interface(address).ip in inner for address in link.addresses)
    except ValueError:
        return False
