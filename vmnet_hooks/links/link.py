"""Options and resources that all links that we make have in common (MTU, MAC, addresses, gateway), and those of ports."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface

from .. import values
from ..errors import MissingLink, NotYet
from ..model.declaration import Config, Declared, Option
from ..model.facts import Host
from ..model.kind import Kind
from ..model.objects import Address, Device, LinkAttribute, Route, Sysctl
from ..model.objects.bridge import Adoption
from ..model.resource import MAIN_TABLE, Resource

MIN_IPV6_MTU = 1280
MAX_DEPTH = 8
"""Links on top of one another, at most: the kernel's MAX_NEST_DEV."""


def interfaces(value: object) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """Parse a list of addresses with prefix lengths."""
    if not isinstance(value, list):
        raise ValueError('must be a list of addresses, ["192.0.2.1/24"]')
    found = tuple(values.interface(item) for item in value)
    for item in found:
        if item.ip.is_multicast or item.ip.is_unspecified or item.ip.is_loopback:
            raise ValueError(f"holds {item}, which is no address for a link")
        if found.count(item) > 1:
            raise ValueError(f"holds {item} twice; remove one")
    return found


def gateways(value: object) -> tuple[values.IPAddress, ...]:
    """Parse one gateway, or a list of one per family."""
    found = tuple(values.address(item) for item in (value if isinstance(value, list) else [value]))
    if len({gateway.version for gateway in found}) != len(found):
        raise ValueError("has two gateways of one family; name one, add other routes by hand")
    return found


def ports(value: object) -> tuple[str, ...]:
    """Parse a list of links."""
    if not isinstance(value, list):
        raise ValueError('must be a list of interfaces, ["eth1"]')
    found = tuple(values.ifname(item) for item in value)
    if len(set(found)) != len(found):
        raise ValueError("names an interface twice; remove one")
    return found


OPTIONS = (
    Option(
        "mtu", values.integer(68, 65535), None, "bytes; default: that of the link below, or the smallest one of the ports", "9000"
    ),
    Option("mac", values.mac, "", "the link's MAC address; default: that of the link below, or of a port", '"02:00:00:00:00:10"'),
    Option(
        "addresses",
        interfaces,
        (),
        "the host's own addresses on the link, with prefix lengths",
        '["192.0.2.2/24", "2001:db8::2/64"]',
    ),
    Option(
        "gateway", gateways, (), "the host's default gateway, reached through this link; a list for both families", '"192.0.2.1"'
    ),
)


class LinkKind(Kind):
    """A kind of part that is a link, which we make."""

    options: tuple[Option, ...] = OPTIONS
    is_link = True

    def parse_name(self, name: str) -> str:
        return values.ifname(name)

    def check(self, part: Declared) -> None:
        """Raise ConfigError if addresses, gateway and MTU contradict each other."""
        if part.adopts and (part["addresses"] or part["gateway"]):
            raise part.error(
                "adopt", f"the {part.kind.word} takes the addresses of {part.adopts}; remove `addresses` and `gateway`, or adopt"
            )
        for gateway in part["gateway"]:
            on_link = [a for a in part["addresses"] if a.version == gateway.version]
            if gateway.version == 4 or not gateway.is_link_local:
                if not any(gateway in a.network and gateway != a.ip for a in on_link):
                    raise part.error("gateway", f"{gateway} is in no subnet of `addresses`; correct one of them")
        if part["mtu"] and part["mtu"] < MIN_IPV6_MTU and any(a.version == 6 for a in part["addresses"]):
            raise part.error("mtu", f"{part['mtu']} is too small for IPv6, which needs {MIN_IPV6_MTU}")

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError for a name that two kinds have, for a port that two masters have, and for loops of links."""
        for part in parts:
            if (first := declared.links[part.name]) is not part:
                raise part.error("", f"{part.name} is also declared in {first.kind.section}; rename one")
            for name in part.ports:
                if name == part.name:
                    raise part.error("ports", f"{name} can't be a port of itself; remove it")
                if (first := declared.masters[name]) is not part:
                    raise part.error("ports", f"{name} is also a port of {first.label}; remove it from one")
            _check_circle(part, declared.links, (part.name,))
            bonds = [found for name in part.ports if (found := declared.links.get(name)) and found.kind.spares_ports]
            if part.adopts and part.adopts not in (*part.ports, *(name for bond in bonds for name in bond.ports)):
                raise part.error("adopt", f"{part.adopts} is not one of its ports; add it to `ports`")

    def links(self, part: Declared) -> tuple[str, ...]:
        return (part.name,)

    def stands_on(self, part: Declared) -> tuple[str, ...]:
        return (*part.ports, *filter(None, (part.options.get("parent"),)))


def level(name: str, host: Host) -> int:
    """Return the number of declared links below a link; 0 if the link itself is not declared."""
    part = host.parts.get(name)
    return 0 if part is None else 1 + max((level(lower, host) for lower in part.stands_on()), default=0)


def device(
    part: Declared,
    type: str,
    host: Host,
    parent: str = "",
    fixed: tuple[tuple[str, str], ...] = (),
    options: tuple[tuple[str, str], ...] = (),
) -> Device:
    """Return the link of a part. `type` is that of `ip link add`; `fixed` are attributes that only a new link can get."""
    return Device(part.name, type, parent, fixed, options, level=level(part.name, host))


def mac_of(name: str, host: Host) -> str:
    """Return the MAC that a link has or will have; "" if it is not known."""
    part = host.parts.get(name)
    if part is None:
        link = host.links.get(name)
        return link.address if link else ""
    if part["mac"]:
        return part["mac"]
    # A host that is taken over keeps its MAC, also in a bond.
    lower = (part.options.get("hw_port") or "", *(name for name in part.ports if name in host.adopters), *part.stands_on())
    if found := next((mac for low in lower if low and (mac := mac_of(low, host))), ""):
        return found
    if part.kind.makes_up_mac:
        return made_up_mac(name, host)
    link = host.links.get(name)
    return link.address if link and link.ours else ""


def made_up_mac(name: str, host: Host) -> str:
    """Return a locally administered MAC, derived from the link's name and the machine ID."""
    return local_mac(f"{host.machine} {name}")


def local_mac(seed: str) -> str:
    """Return a locally administered MAC that is derived from `seed`."""
    return f"02:{hashlib.sha256(seed.encode()).digest()[:5].hex(':')}"


def mtu_of(name: str, host: Host) -> int:
    """Return the MTU in bytes that a link has, or will have."""
    part = host.parts.get(name)
    if part is None:
        link = host.links.get(name)
        return link.mtu if link else 1500
    return part["mtu"] or min((mtu_of(low, host) for low in part.stands_on()), default=1500)


def attributes(
    part: Declared, host: Host, mac: str = "", adoption: Adoption | None = None, addresses: bool = True
) -> Iterator[Resource]:
    """Yield MTU, MAC, IPv6 sysctls, state, addresses and gateway of a link that we make. An adoption has its own IPv6 sysctls."""
    name, mtu = part.name, mtu_of(part.name, host)
    for low in part.stands_on():
        if part["mtu"] and mtu > mtu_of(low, host):
            raise part.error("mtu", f"{mtu} does not fit {low} (MTU {mtu_of(low, host)}); lower it, or raise that of {low}")
    yield LinkAttribute(name, "mtu", str(mtu))
    if mac:
        yield LinkAttribute(name, "address", mac)
    if adoption and adoption.ipv6:
        yield Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0")
    else:
        yield from ipv6(name, on=name in host.uplinks6 or any(a.version == 6 for a in part["addresses"]), host=host)
    yield LinkAttribute(name, "state", "up")
    if addresses:
        for address in part["addresses"]:
            yield Address(name, str(address))
    for gateway in part["gateway"]:
        yield Route(MAIN_TABLE, "0.0.0.0/0" if gateway.version == 4 else "::/0", name, str(gateway))


def ipv6(name: str, on: bool, host: Host) -> Iterator[Resource]:
    """Yield the sysctls that switch IPv6 on or off for a link. A link with IPv6 off has not even a link-local address."""
    if host.ipv6:
        yield Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0" if on else "1")
        if on:
            yield Sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")


def port(part: Declared, name: str, host: Host) -> Iterator[Resource]:
    """Yield the resources that make a link a port; one that is adopted joins with its adoption. Raise ConfigError if it is
    missing, is a port already, or has addresses."""
    adopted = name in host.adopters
    require(part, "ports", name, host)
    link = host.links.get(name)
    if link and link.master and link.master != part.name:
        master = host.links.get(link.master)
        if master and not master.ours:
            raise part.error("ports", f"{name} is a port of {link.master} already; take it out: ip link set dev {name} nomaster")
    declared = host.parts.get(name)
    addresses = [str(a) for a in declared["addresses"]] if declared else host.addresses.get(name, ())
    if addresses and not adopted:
        raise part.error(
            "ports",
            f"{name} has address {addresses[0]}, which a port can't keep; "
            + (f'set adopt = "{name}", or ' if not declared else "")
            + "remove it first",
        )
    if not adopted:
        _check_left(part, name, host)
        if declared is None:
            yield from ipv6(name, on=False, host=host)
        yield LinkAttribute(name, "master", part.name)
    yield LinkAttribute(name, "state", "up")


ADOPT = Option("adopt", values.ifname, "", "the port whose addresses and routes the link takes over", '"eth1"')


def adoption(part: Declared, host: Host) -> Iterator[Adoption]:
    """Yield what a link takes over. Raise NotYet if there is nothing to take over yet."""
    name = part.adopts
    found = host.adoptions.get(name)
    if found is None and host.surveyed and name in host.links:
        raise NotYet(str(part.error("adopt", f"{name} has no address yet; configure it (ifup {name}), or remove adopt")))
    if found is not None:
        yield replace(found, master=_bond_of(part, name, host))


def _bond_of(part: Declared, name: str, host: Host) -> str:
    """Return the bond that an adopted port joins; "" if it joins a bridge."""
    bonds = (other for other in (part.name, *part.ports) if other in host.parts and host.parts[other].kind.spares_ports)
    return next((bond for bond in bonds if name in host.parts[bond].ports), "")


def _check_left(part: Declared, name: str, host: Host) -> None:
    """Raise ConfigError if a link would lose what it, or another one, took over from a port that it does not adopt any more."""
    taken = host.adoptions.get(name)
    if taken is None or not (taken.addresses or taken.routes):
        return
    lost = taken.beyond([str(a) for a in part["addresses"]], [str(g) for g in part["gateway"]])
    if lost or taken.bridge != part.name:
        what = ", ".join(lost[:3] or taken.addresses[:1]).partition(" scope ")[0]
        keep = f'keep adopt = "{name}" there (it says where the addresses come from, also after a boot)'
        raise part.error("ports", f"{taken.bridge} took over {what} from {name}; {keep}, or take {name} out of `ports`")


def present(part: Declared, host: Host) -> list[str]:
    """Return those of a link's ports that exist, or are declared."""
    return [name for name in part.ports if name in host.links or name in host.parts]


def require(part: Declared, option: str, name: str, host: Host) -> None:
    """Raise MissingLink if a link neither exists nor is declared."""
    link = host.links.get(name)
    # A link of ours that is not declared any more is about to be removed.
    if name not in host.parts and (link is None or link.ours):
        problem = f"{name} does not exist; is the NIC there, or shall it be declared? (`ip link` lists all)"
        raise MissingLink(str(part.error(option, problem)))


def _check_circle(part: Declared, links: Mapping[str, Declared], trail: tuple[str, ...]) -> None:
    if len(trail) > MAX_DEPTH:
        raise links[trail[0]].error("", f"stands on more than {MAX_DEPTH} links, one on the other; the kernel allows no more")
    for name in part.stands_on():
        if name in trail:
            raise part.error("", f"stands on itself: {' on '.join((*trail, name))}; break the circle")
        if name in links:
            _check_circle(links[name], links, (*trail, name))
