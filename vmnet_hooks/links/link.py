"""Options and resources that all links that we make have in common (MTU, MAC, addresses, gateway), and those of ports."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, NamedTuple

from .. import values
from ..errors import MissingLink, NotYet
from ..model.declaration import Config, Declared, Option, Required
from ..model.facts import Host
from ..model.kind import Kind
from ..model.objects import Address, Device, LinkAttribute, Route, Sysctl
from ..model.objects.bridge import Adoption, PortVlans
from ..model.resource import IFB, LOCAL_TABLE, MAIN_TABLE, Resource

MIN_IPV6_MTU = 1280
MAX_DEPTH = 8
"""Links on top of one another, at most: the kernel's MAX_NEST_DEV."""


class PointToPoint4(IPv4Interface):
    """An address with a peer: `network` is the peer's, and str() gives the words of `ip addr`."""

    def __init__(self, own: IPv4Address, peer: IPv4Network) -> None:
        super().__init__(f"{own}/{peer.prefixlen}")
        self.network = peer

    def __str__(self) -> str:
        return f"{self.ip} peer {self.network}"


class PointToPoint6(IPv6Interface):
    """The same for IPv6."""

    def __init__(self, own: IPv6Address, peer: IPv6Network) -> None:
        super().__init__(f"{own}/{peer.prefixlen}")
        self.network = peer

    def __str__(self) -> str:
        return f"{self.ip} peer {self.network}"


def interface(value: object) -> IPv4Interface | IPv6Interface:
    """Parse an address with its prefix length, or, as `ip addr` has it, ADDRESS peer PEER/LENGTH."""
    own, word, peer = value.partition(" peer ") if isinstance(value, str) else ("", "", "")
    if not word:
        return values.interface(value)
    try:
        address, network = values.address(own), values.subnet(peer)
    except ValueError:
        raise ValueError("is not ADDRESS peer PEER/LENGTH; write it as 192.0.2.2 peer 192.0.2.1/32") from None
    match address, network:
        case IPv4Address(), IPv4Network():
            return PointToPoint4(address, network)
        case IPv6Address(), IPv6Network():
            return PointToPoint6(address, network)
    raise ValueError(f"{address} and its peer {network} are of two families; write one of each, as 192.0.2.2 peer 192.0.2.1/32")


def interfaces(value: object) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """Parse a list of addresses with prefix lengths."""
    if not isinstance(value, list):
        raise ValueError('must be a list of addresses, ["192.0.2.1/24"]')
    found = values.each(interface, value)
    for item in found:
        if item.ip.is_multicast or item.ip.is_unspecified or item.ip.is_loopback:
            raise ValueError(f"holds {item}, which is no address for a link")
        if found.count(item) > 1:
            raise ValueError(f"holds {item} twice; remove one")
    return found


def gateways(value: object) -> tuple[values.IPAddress, ...]:
    """Parse one gateway, or a list of one per family."""
    found = values.each(values.address, value) if isinstance(value, list) else (values.address(value),)
    if len({gateway.version for gateway in found}) != len(found):
        raise ValueError("has two gateways of one family; name one, and list the other in `routes`, with a metric")
    return found


def ports(value: object) -> tuple[str, ...]:
    """Parse a list of links."""
    if not isinstance(value, list):
        raise ValueError('must be a list of interfaces, ["eth1"]')
    found = values.each(values.ifname, value)
    if len(set(found)) != len(found):
        raise ValueError("names an interface twice; remove one")
    return found


class StaticRoute(NamedTuple):
    """A declared route: the route without its device, and whether its gateway is declared to be on the link."""

    route: Route
    onlink: bool


def destination(value: object) -> str:
    """Parse a destination: "default", or a subnet or an address, which gets a prefix length."""
    return "default" if value == "default" else str(values.subnet(value))


def table(value: object) -> int:
    """Parse the number of a routing table that may have routes of ours: not the kernel's own."""
    found = values.integer(1, (1 << 32) - 1)(value)
    if found == LOCAL_TABLE:
        raise ValueError("is the kernel's table of local addresses; choose another")
    return found


def static_route(given: Any) -> StaticRoute:
    """Return the route of a table of `routes`. Raise ValueError if its keys contradict each other."""
    dst, via, src = given["to"], given["via"], given["src"]
    if dst == "default":
        if via is None:
            raise ValueError('to = "default" needs via; without a gateway, write to = "0.0.0.0/0" or "::/0"')
        dst = "::/0" if via.version == 6 else "0.0.0.0/0"
    version = values.version(dst)
    if via and via.version == 4 and version == 6:
        raise ValueError(f"an IPv6 route can't have the IPv4 gateway {via}; name an IPv6 one")
    if src and src.version != version:
        raise ValueError(f"src {src} is not of the family of {dst}; correct one of them")
    if given["onlink"] and via is None:
        raise ValueError("onlink is about the gateway; name one with via, or remove it")
    if version == 6 and 0 < given["mtu"] < MIN_IPV6_MTU:
        raise ValueError(f"mtu {given['mtu']} is too small for IPv6, which needs {MIN_IPV6_MTU}")
    metric = Route.declared_metric(given["metric"], version == 6)
    words = (str(via) if via else "", str(src) if src else "")
    return StaticRoute(Route(given["table"], dst, "", words[0], src=words[1], metric=metric, mtu=given["mtu"]), given["onlink"])


ROUTE = (
    Option("to", destination, Required, 'where the route leads: a subnet, an address, or "default"', '"10.0.0.0/8"'),
    Option("via", values.address, None, "the gateway; default: none, what it leads to is on the link", '"192.0.2.254"'),
    Option("src", values.address, None, "the address of its own that the host sends from", '"192.0.2.2"'),
    Option("metric", values.integer(0, (1 << 32) - 1), 0, "of several routes, the one with the lowest is used", "100"),
    Option("table", table, MAIN_TABLE, "the number of the routing table; default: the main one", "100"),
    Option("mtu", values.integer(0, 65535), 0, "bytes; default: that of the link", "1400"),
    Option("onlink", values.boolean, False, "the gateway is on the link, though in no subnet of `addresses`", "true"),
)
OPTIONS = (
    Option(
        "mtu", values.integer(68, 65535), None, "bytes; default: that of the link below, or the smallest one of the ports", "9000"
    ),
    Option("mac", values.mac, "", "the link's MAC address; default: that of the link below, or of a port", '"02:00:00:00:00:10"'),
    Option(
        "addresses",
        interfaces,
        (),
        "the host's own addresses on the link, with prefix lengths; with a peer as ADDRESS peer PEER/32",
        '["192.0.2.2/24", "2001:db8::2/64"]',
    ),
    Option(
        "gateway", gateways, (), "the host's default gateway, reached through this link; a list for both families", '"192.0.2.1"'
    ),
    Option("metric", values.integer(0, (1 << 32) - 1), 0, "that of the default routes through `gateway`", "100"),
    Option(
        "routes",
        static_route,
        (),
        "other routes through the link, a list of tables",
        '[{ to = "10.0.0.0/8", via = "192.0.2.254" }]',
        ROUTE,
        listed=True,
    ),
)


class LinkKind(Kind):
    """A kind of part that is a link, which we make."""

    options: tuple[Option, ...] = OPTIONS
    is_link = True

    def parse_name(self, name: str) -> str:
        if name == IFB:
            raise ValueError("is the link on which checksums are finished; choose another name")
        return values.ifname(name)

    def check(self, part: Declared) -> None:
        """Raise ConfigError if addresses, gateway, routes and MTU contradict each other."""
        if part.adopts and (part["addresses"] or part["gateway"]):
            raise part.error(
                "adopt", f"the {part.kind.word} takes the addresses of {part.adopts}; remove `addresses` and `gateway`, or adopt"
            )
        for gateway in part["gateway"]:
            if problem := _unreached(part, gateway):
                raise part.error("gateway", f'{problem}, or give it a route of its own: routes = [{{ to = "{gateway}" }}]')
        for number, (route, onlink) in enumerate(part["routes"], 1):
            if route.via and not onlink and (problem := _unreached(part, values.address(route.via))):
                raise part.error(f"routes[{number}].via", f"{problem}, or set onlink = true")
        if part["metric"] and not part["gateway"]:
            raise part.error("metric", "is that of the default routes; name the gateway, or remove it")
        seen: set[str] = set()
        for option, route in declared_routes(part):
            if route.key in seen:
                raise part.error(option, f"{route.dst} has another route with the same metric; give one another metric")
            seen.add(route.key)
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
        taken: dict[str, Declared] = {}
        for other in declared.links.values():
            for option, route in declared_routes(other):
                first = taken.setdefault(route.key, other)
                if first is not other and other in parts:
                    raise other.error(option, f"{first.label} has a route to {route.dst} too; give one another metric")

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
    for _, route in declared_routes(part):
        yield route


def declared_routes(part: Declared) -> Iterator[tuple[str, Route]]:
    """Yield the routes through a link, each with the option that declares it."""
    for gateway in part["gateway"]:
        dst = "0.0.0.0/0" if gateway.version == 4 else "::/0"
        metric = Route.declared_metric(part["metric"], gateway.version == 6)
        yield "gateway", Route(MAIN_TABLE, dst, part.name, str(gateway), metric=metric)
    for route, _ in part["routes"]:
        yield "routes", replace(route, dev=part.name)


def _unreached(part: Declared, gateway: values.IPAddress) -> str:
    """Return what is wrong with a gateway that is not on the link, with the first half of the remedy; "" for any other. With an
    address without a subnet, as providers give it, every gateway is on the link."""
    if any(gateway == a.ip for a in part["addresses"]):
        return f"{gateway} is the link's own address; correct one of them"
    direct = [values.subnet(route.dst) for route, _ in part["routes"] if not route.via]
    # What an adopted port has is not known yet.
    if part.adopts or is_on_link(gateway, part["addresses"], direct):
        return ""
    return f"{gateway} is in no subnet of `addresses`; correct one of them"


def is_on_link(gateway: values.IPAddress, own: Iterable[IPv4Interface | IPv6Interface], direct: Iterable[values.Subnet]) -> bool:
    """Return whether a gateway is on a link with these addresses and with these routes that have no gateway."""
    if gateway.version == 6 and gateway.is_link_local:
        return True
    mine = [a.network for a in own if a.version == gateway.version]
    single = any(network.prefixlen == network.max_prefixlen for network in mine)
    return single or any(gateway in subnet for subnet in (*mine, *direct) if subnet.version == gateway.version)


def own_vlans(part: Declared, host: Host) -> PortVlans:
    """Return the VLANs of a VLAN-aware bridge itself: the host receives no others."""
    return PortVlans(part.name, part["pvid"] or 0, values.ranges(host.vids.get(part.name, ())), own=True)


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
        if declared:
            remedy = f"remove it from {declared.label}.addresses"
        else:
            instead = " in place of `addresses` and `gateway`" if part["addresses"] or part["gateway"] else ""
            remedy = f'set adopt = "{name}"{instead}, or remove it first: ip addr del {addresses[0]} dev {name}'
        raise part.error("ports", f"{name} has address {addresses[0]}, which a port can't keep; {remedy}")
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
        yield replace(found, bond=_bond_of(part, name, host))


def _bond_of(part: Declared, name: str, host: Host) -> str:
    """Return the bond that an adopted port joins; "" if it joins a bridge."""
    bonds = (other for other in (part.name, *part.ports) if other in host.parts and host.parts[other].kind.spares_ports)
    return next((bond for bond in bonds if name in host.parts[bond].ports), "")


def _check_left(part: Declared, name: str, host: Host) -> None:
    """Raise ConfigError if a link would lose what it, or another one, took over from a port that it does not adopt any more."""
    taken = host.adoptions.get(name)
    if taken is None or not (taken.addresses or taken.routes):
        return
    lost = taken.beyond([str(a) for a in part["addresses"]], (route for _, route in declared_routes(part)))
    if lost or taken.bridge != part.name:
        what = ", ".join(item.partition(" scope ")[0] for item in lost or taken.addresses[:1])
        remedy = f'keep adopt = "{name}" there (it says where the addresses come from, also after a boot)'
        if taken.bridge == part.name:
            remedy += ", declare all of it in `addresses`, `gateway` and `routes`"
        raise part.error("ports", f"{taken.bridge} took over {what} from {name}; {remedy}, or take {name} out of `ports`")


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
