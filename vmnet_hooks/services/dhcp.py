"""Addresses by DHCP and router advertisements, for guests whose addresses are declared.

The agent answers each guest at its own link, see agent/responder.py, from the record: a lease has no state, and is the same on
every node. What it answers, no other server sees.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from .. import values
from ..errors import InputError
from ..model.declaration import Config, Network, Option, Required
from ..model.facts import Host
from ..model.guest import Vif
from ..model.mode import Around, Own
from ..model.objects import NftElement
from ..model.resource import Resource
from ..model.ruleset import BRIDGE, INET
from ..model.service import Service
from . import dns, pool

if TYPE_CHECKING:
    from .terms import Terms

DAY = 86400
"""Seconds."""
ROOM = 800
"""Bytes for servers and domains in an answer by DHCPv6: a frame of the least MTU has them besides the addresses."""
SETS = {"served4": "address4", "served6": "addresses6", "routed6": "router"}
"""The sets of the ruleset that have the guests to whom is told what `told` has by that name."""


def _list_of(parse: Callable[[object], Any], what: str) -> Callable[[object], tuple[Any, ...]]:
    def parsed(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list of {what}")
        return values.each(parse, value)

    return parsed


def _as_is(value: object) -> Any:
    return value


def _route(value: Any) -> Any:
    if value["to"].version == 4 and value["via"] is None:
        raise ValueError("has no via, which a route of DHCPv4 needs; give it a next hop")
    if value["to"].version == 6 and value["via"] is not None:
        raise ValueError("has a via: an IPv6 route leads to the router that advertises it; remove via")
    return value


_ROUTE = (
    Option("to", values.subnet, Required, "the destination", '"10.0.0.0/8"'),
    Option("via", values.address_of(4), None, "the next hop; IPv4 only", '"192.0.2.7"'),
)

OPTION = Option(
    "dhcp",
    _as_is,
    None,
    "the agent gives guests their declared addresses by DHCPv4, DHCPv6 and router advertisements",
    '{ dns = ["192.0.2.53"], domain = "lan.example" }',
    (
        Option("dns", _list_of(values.address, "addresses"), (), "name servers", '["192.0.2.53", "2001:db8::53"]'),
        Option("domain", values.domain, "", "the guests' domain", '"lan.example"'),
        Option("search", _list_of(values.domain, "domains"), (), "domains that names are searched in", '["lan.example"]'),
        Option("ntp", _list_of(values.address, "addresses"), (), "time servers", '["192.0.2.123"]'),
        Option(
            "routes",
            _route,
            (),
            "more routes: by DHCPv4 with their next hop, by router advertisements to the router itself",
            '[{ to = "10.0.0.0/8", via = "192.0.2.7" }]',
            _ROUTE,
            listed=True,
        ),
        Option("lease", values.integer(120, 2**31 - 1), DAY, "seconds for which a guest keeps its addresses unasked", "3600"),
        Option(
            "subnets",
            _list_of(values.subnet, "subnets"),
            (),
            "bridged: the guests' subnets, where no declared bridge has an address in them",
            '["10.7.0.0/24"]',
        ),
        Option("gateway", values.address_of(4), None, "bridged: the guests' IPv4 gateway, if it is not the host", '"10.7.0.254"'),
        Option("ra", values.boolean, True, "advertise the host as IPv6 router, where it is the guests' gateway", "false"),
        Option(
            "slaac",
            values.boolean,
            False,
            "let guests form their IPv6 address from their MAC: for those whose declared address is that one",
            "true",
        ),
        *pool.OPTIONS,
    ),
)


class Dhcp(Service):
    option = OPTION

    def check(self, network: Network, declared: Config) -> None:
        offer = network.options[self.name]
        pool.check(network, declared)
        bridge = network.mode.bridge_of(network)
        for key in ("subnets", "gateway"):
            if offer[key] and not bridge:
                raise network.error(f"dhcp.{key}", "is for bridged networks: this one has a gateway of its own; remove it")
        subnets = (*offer["subnets"], *network.mode.subnets(network, declared.links))
        if bridge and not subnets:
            raise network.error(
                "dhcp", "tells no subnet; give subnets, or declare the bridge with an address in the guests' subnet"
            )
        if not offer["ra"]:
            for key, given in (("slaac", offer["slaac"]), ("routes", any(route["to"].version == 6 for route in offer["routes"]))):
                if given:
                    raise network.error(f"dhcp.{key}", "is told by router advertisements alone; set ra = true, or remove it")
        names = (*offer["search"], *filter(None, [offer["domain"]]))
        length = sum(16 for server in (*offer["dns"], *offer["ntp"]) if server.version == 6) + sum(
            len(name) + 2 for name in names
        )
        if length > ROOM:
            raise network.error("dhcp", f"tells more than fits into one reply ({ROOM} bytes); name fewer servers and domains")
        gateway = offer["gateway"]
        if gateway and not any(gateway in subnet for subnet in subnets):
            raise network.error("dhcp.gateway", f"{gateway} is in no subnet of the guests; correct it, or give subnets")

    def bind(self, vif: Vif, network: Network, where: str) -> None:
        """Raise InputError if an address of the guest is one that dnsmasq may lease to another."""
        for address in vif.addresses if pool.is_leased(network) else ():
            if "/" not in address and (whose := pool.whose(network, address, vif.mac)):
                raise InputError(f"{where}: {address} is {whose} of network {network.name}; choose another address")

    def has_server(self, network: Network) -> bool:
        return pool.is_leased(network)

    def network_resources(self, network: Network, host: Host) -> Iterator[Resource]:
        if pool.is_leased(network):
            from .dnsmasq import server  # Only what is set up needs it.

            yield server(network, host, "dhcp.pool" if network.options[self.name]["pool"] else "dhcp.hosts")

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
        """Yield the elements that keep what the agent answers from other servers and routers."""

        def own(link: str) -> list[values.Interface]:
            return [ipaddress.ip_interface(text) for text in host.addresses.get(link, ())]

        found = told(vif, network, Around(host.parts, host.nats), own)
        family, table = ("bridge", BRIDGE) if network.mode.bridge_of(network) else ("inet", INET)
        if found:
            yield table
        for name, key in SETS.items():
            if found.get(key):
                # What is behind the guest asks for itself, with its own MAC.
                yield NftElement(family, name, (f'"{vif.ifname}"', vif.mac))
        if pool.is_leased(network) and network.mode.is_filtered(vif, network):
            yield BRIDGE
            yield from _leasing(vif)


def _leasing(vif: Vif) -> Iterator[Resource]:
    """Yield the elements that hold a guest's requests for leases to its MAC. One with declared addresses gets no lease."""
    tap = f'"{vif.ifname}"'
    yield NftElement("bridge", "leasing", (tap,))
    if not vif.addresses:
        yield NftElement("bridge", "chaddrs", (tap, vif.mac, values.mac_number(vif.mac)))
        yield NftElement("bridge", "holders", (tap, vif.mac))


def told(vif: Vif, network: Network, around: Around, own: Own) -> dict[str, Any]:
    """Return what the addresses of a guest tell of its Terms, by name; and as `router` the link on which the host is its router
    of IPv6. An address whose subnet is not known is not told."""
    offer = network.options.get(OPTION.name)
    addresses = [ipaddress.ip_address(text) for text in vif.addresses if "/" not in text]
    found: dict[str, Any] = {}
    if offer is None:
        return found
    six = tuple(address for address in addresses if address.version == 6)
    for address in addresses:
        if address.version == 4 and not found:
            found |= _lan4(vif, address, network, around, own)
    if not six:
        return found
    found["addresses6"] = six
    lans = [(address, lan) for address in six if (lan := network.mode.lan(vif, address, network, around, own)) and lan.router]
    if lans and offer["ra"]:
        found["router"] = lans[0][1].router
        nets = (ipaddress.IPv6Network(f"{address}/{lan.prefix}", strict=False) for address, lan in lans)
        found["prefixes6"] = tuple(dict.fromkeys(net for net in nets if net.prefixlen < 128))
        # At a tap of its own a guest has no neighbour but the host.
        found["on_link6"] = bool(network.mode.bridge_of(network))
    return found


def terms(
    vif: Vif,
    network: Network,
    around: Around,
    own: Own,
    mtu: int,
    router_on: Callable[[str], tuple[ipaddress.IPv6Address, bytes] | None],
) -> "Terms | None":
    """Return what a guest is told; None if its network offers nothing, or the guest has no address that can be told.

    `mtu` is that of the guest's link, in bytes. `router_on` returns the link-local address and the MAC that the host has on a
    link.
    """
    # The agent's alone: a hook does without it.
    from .terms import Terms

    found = told(vif, network, around, own)
    if not found:
        return None
    offer = network.options[OPTION.name]
    servers = offer["dns"]
    if not servers and dns.is_offered(network):
        servers = [address.ip for address in own(network.mode.bridge_of(network)) if not address.ip.is_link_local]
    router = router_on(found.pop("router")) if "router" in found else None
    if router:
        found["router6"], found["router_mac"] = router
    routes = offer["routes"]
    return Terms(
        mac=bytes.fromhex(vif.mac.replace(":", "")),
        lease=offer["lease"],
        mtu=mtu,
        hostname=host_name(vif.domain),
        domain=offer["domain"] or dns.domain_of(network),
        search=offer["search"],
        slaac=offer["slaac"],
        dns4=_of(4, servers),
        dns6=_of(6, servers),
        ntp4=_of(4, offer["ntp"]),
        ntp6=_of(6, offer["ntp"]),
        routes4=tuple((route["to"], route["via"]) for route in routes if route["to"].version == 4),
        routes6=tuple(route["to"] for route in routes if route["to"].version == 6),
        **found,
    )


def _lan4(vif: Vif, address: ipaddress.IPv4Address, network: Network, around: Around, own: Own) -> dict[str, Any]:
    """Return the terms of an IPv4 address; none if nothing tells its subnet."""
    offer = network.options[OPTION.name]
    lan = network.mode.lan(vif, address, network, around, own)
    subnet = next((net for net in offer["subnets"] if address in net), None)
    prefix = subnet.prefixlen if subnet else lan.prefix if lan else None
    if prefix is None:
        return {}
    gateway = offer["gateway"] or (lan.gateway if lan else None)
    if gateway == address:
        # The guest is the gateway.
        gateway = None
    # A server is told by an address of the guest's link: that of the gateway, if there is one.
    there = own(network.mode.bridge_of(network))
    server = gateway or next((found.ip for found in there if found.version == 4), None)
    return {"address4": address, "prefix4": prefix, "gateway4": gateway, "server4": server or _stand_in(address, prefix)}


def _stand_in(address: ipaddress.IPv4Address, prefix: int) -> ipaddress.IPv4Address:
    """Return an address of the guest's subnet that is not its own, to stand for a server that has none."""
    net = ipaddress.IPv4Network(f"{address}/{prefix}", strict=False)
    return next((host for host in islice(net.hosts(), 2) if host != address), address)


def _of(version: int, addresses: Sequence[values.IPAddress]) -> tuple[Any, ...]:
    return tuple(address for address in addresses if address.version == version)


def host_name(domain: str) -> str:
    """Return a guest's name as the host name that it is told (RFC 1123, 2.1); "" if there is nothing of it left."""
    return re.sub(r"[^a-z0-9-]+", "-", domain.lower())[:63].strip("-")
