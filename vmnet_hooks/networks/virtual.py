"""Virtual networks: a bridge of the host's own, which routes, translates or keeps in what its guests send.

A virtual network is a bridged one whose bridge and NAT it declares itself; its guests are as closed towards the outside as
`forward` says, in both directions.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, NamedTuple

from .. import values
from ..errors import InputError
from ..links.link import ROUTE, ports, require, static_route
from ..links.nat import OPTIONS as NAT_OPTIONS
from ..model.declaration import Config, Network, Option, Refusal, Required, parse_options
from ..model.facts import Host
from ..model.guest import Vif
from ..model.mode import Implied, Side
from ..model.objects import NftElement
from ..model.resource import Resource
from ..model.ruleset import INET, NAT, forwarding
from ..services.dhcp import OPTION as DHCP
from ..services.dns import OPTION as DNS
from ..services.pool import POOL
from . import bridged, reach

NATTED, ROUTED, OPEN, ISOLATED, NONE = "nat", "routed", "open", "isolated", "none"
_TRANSLATION = {option.name: option for option in NAT_OPTIONS}
_UNNEEDED = ("bridge", "uplink", "vlan", "tagged", "mtu")
"""Options of a bridged network that a virtual one has in another way, or not at all."""


class Family(NamedTuple):
    """What a network has of one IP version. `pool` are ranges of addresses that are leased."""

    subnet: values.Subnet
    gateway: values.IPAddress
    nat: bool = False
    pool: tuple[Any, ...] = ()


def _family(version: int) -> Callable[[Any], Family]:
    def parsed(table: Any) -> Family:
        net, gateway = table["subnet"], table["gateway"]
        if net.version != version:
            raise ValueError(f"subnet {net} is not of IPv{version}")
        if net.num_addresses < 4:
            raise ValueError(f"subnet {net} has no room for a gateway and guests; choose a larger one")
        if gateway is None:
            gateway = net.network_address + 1
        if gateway not in net or gateway == net.network_address or (version == 4 and gateway == net.broadcast_address):
            raise ValueError(f"gateway {gateway} is no address of a host in {net}; choose another")
        if wrong := next((found for found in table["pool"] if found.first.version != version), None):
            raise ValueError(f"pool {wrong} is not of IPv{version}")
        return Family(net, gateway, table.get("nat", False), table["pool"])

    return parsed


def _table(version: int, subnet: str, gateway: str, pool: str, *more: Option) -> Option:
    return Option(
        f"ipv{version}",
        _family(version),
        None,
        f"the guests' subnet of IPv{version}, and the host's address in it",
        f'{{ subnet = "{subnet}", gateway = "{gateway}" }}',
        (
            Option("subnet", values.subnet, Required, "the guests' subnet", f'"{subnet}"'),
            Option(
                "gateway",
                values.address_of(version),
                None,
                "the host's address, which is the guests' gateway; default: the first of the subnet",
                f'"{gateway}"',
            ),
            replace(POOL, doc="addresses for guests that have no declared ones, leased by dnsmasq", example=f'["{pool}"]'),
            *more,
        ),
    )


def _route(given: Any) -> dict[str, Any]:
    """Return a route of the bridge as TOML has it. Raise ValueError if its keys contradict each other."""
    static_route(given)
    return {key: value if isinstance(value, int) else str(value) for key, value in given.items() if value}


OPTIONS = (
    _table(4, "10.9.0.0/24", "10.9.0.1", "10.9.0.100-10.9.0.200"),
    _table(
        6,
        "fd00:9::/64",
        "fd00:9::1",
        "fd00:9::1000-fd00:9::1fff",
        Option("nat", values.boolean, False, 'forward = "nat": translate IPv6 too, instead of routing it', "true"),
    ),
    Option(
        "forward",
        values.one_of(NATTED, ROUTED, OPEN, ISOLATED, NONE),
        NATTED,
        "where packets go: nat: out by `out`, from the host's address, and in for nothing but answers and forwarded ports; "
        "routed: out by `out`, and in; open: out wherever the host has a route to, and in; isolated: to the host alone; none: to "
        "other guests of the network alone, and the host has no address there",
        '"routed"',
    ),
    Option(
        "out", values.ifname, "", "nat, routed: the interface to the outside; open: one by which answers may come in", '"eth0"'
    ),
    replace(_TRANSLATION["snat"], doc="nat: the IPv4 address to translate to, one of the host's own; default: that of `out`"),
    replace(_TRANSLATION["connections"], doc="nat: tracked connections that one guest may have; default: no limit"),
    Option("domain", values.domain, "", "the domain of the guests' names, see dhcp and dns", '"lab.example"'),
    Option("bridge", values.ifname, "", "the bridge's name; default: the network's", '"virbr7"'),
    Option("ports", ports, (), "interfaces of the host whose other side is on the network too", '["eth1"]'),
    Option(
        "routes",
        _route,
        (),
        "the host's routes to what is behind guests, a list of tables",
        '[{ to = "10.99.0.0/16", via = "10.9.0.7" }]',
        ROUTE,
        listed=True,
    ),
    Option("mac", values.mac, "", "the bridge's MAC address; default: made from its name", '"02:00:00:00:00:10"'),
    Option("mtu", values.integer(68, 65535), None, "bytes, of the bridge and of guests' taps; default: 1500", "1400"),
    Option(
        "autostart",
        values.boolean,
        True,
        "bring the network up with the host; false: with its first guest, until its last has gone",
        "false",
    ),
    *(option for option in bridged.OPTIONS if option.name not in _UNNEEDED),
)


class Virtual(bridged.Bridged):
    options = OPTIONS

    brings_up_alone = True

    # --- reading -----------------------------------------------------------------------------------------------------

    def completed(self, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options with those that a bridged network has, for what that shares with this one; and those of the services
        that a pool and a domain stand for."""
        is_open = options["forward"] == OPEN
        return {
            **options,
            **_services(options),
            "bridge": options["bridge"] or name,
            "reach": reach.ALL if is_open and not options["reach"] else options["reach"],
            **{"uplink": "", "vlan": None, "tagged": None},
        }

    def starts_with_host(self, network: Network) -> bool:
        return bool(network["autostart"])

    def check(self, network: Network) -> None:
        forward = network["forward"]
        try:
            values.ifname(network["bridge"])
        except ValueError as error:
            raise network.error("bridge", f"the network's name, {network['bridge']!r}, {error}; name the bridge") from None
        if forward == NONE:
            if option := next((key for key in ("ipv4", "ipv6", "dhcp", "dns") if network.options.get(key) is not None), ""):
                raise network.error(option, 'is of no use with forward = "none": the host has no address there; remove it')
        elif not _families(network):
            raise network.error("ipv4", 'missing, and ipv6 too; give the guests\' subnet, as ipv4 = { subnet = "10.9.0.0/24" }')
        if forward in (NATTED, ROUTED) and not network["out"]:
            raise network.error("out", f'missing; name the interface to the outside, or set forward = "{OPEN}" or "{ISOLATED}"')
        if network["out"] and self.is_isolated(network):
            raise network.error("out", f'is of no use with forward = "{forward}"; remove it')
        if network["domain"] and not (network.options.get("dhcp") or network.options.get("dns")):
            raise network.error("domain", "is of no use without a pool, dhcp or dns: nothing tells it; add one, as dhcp = {}")
        if network["out"] == network["bridge"] or network["out"] in network["ports"]:
            raise network.error("out", f"{network['out']} is the network's own; name the interface to the outside")
        if network["bridge"] in network["ports"]:
            raise network.error("ports", f"{network['bridge']} is the bridge itself; remove it")
        for option in ("snat", "connections"):
            if network[option] and forward != NATTED:
                raise network.error(option, f'is of no use with forward = "{forward}"; remove it')
        if network["snat"] and not (network["ipv4"] and network["snat"].version == 4):
            raise network.error("snat", f"{network['snat']} translates nothing: it is the IPv4 address for the guests of `ipv4`")
        if (six := network["ipv6"]) and six.nat and forward != NATTED:
            raise network.error("ipv6.nat", f'is of no use with forward = "{forward}"; remove it')
        if self.is_isolated(network) and network["reach"]:
            raise network.error("reach", f'is of no use with forward = "{forward}": the host forwards nothing; remove it')
        if six and network["mtu"] and network["mtu"] < 1280:
            raise network.error("mtu", f"{network['mtu']} is too small for IPv6, which needs 1280")

    def check_together(self, networks: Sequence[Network], declared: Config) -> None:
        """Raise ConfigError if a bridge, a NAT or a subnet of the networks is that of another part."""
        seen: list[tuple[values.Subnet, Network]] = []
        for network in networks:
            for section, name, _ in self.implied(network):
                part = next(part for part in declared.parts.values() if (part.kind.section, part.name) == (section, name))
                if part.implied_by != network.name:
                    remedy = "give this one another `bridge`" if part.kind.is_link else "rename one of them"
                    where = part.source if not part.implied_by else f"networks.{part.implied_by}"
                    raise network.error("bridge", f"{part.label} is declared already, in {where}; {remedy}")
                try:
                    part.check()
                except Refusal as refusal:
                    raise network.error(refusal.option, refusal.problem) from None
            for family in _families(network):
                for net, other in seen:
                    if values.overlap(net, family.subnet):
                        raise network.error(
                            f"ipv{net.version}", f"{family.subnet} overlaps {net} of {other.label}; separate them"
                        )
                seen.append((family.subnet, network))
        super().check_together(networks, declared)

    def implied(self, network: Network) -> tuple[Implied, ...]:
        families, forward = _families(network), network["forward"]
        bridge = {
            "ports": list(network["ports"]),
            "addresses": [f"{family.gateway}/{family.subnet.prefixlen}" for family in families],
            "forwarding": not self.is_isolated(network),
            **{key: network[key] for key in ("mac", "mtu") if network[key]},
            "routes": list(network["routes"]),
        }
        found: list[Implied] = [("bridges", network["bridge"], bridge)]
        for family in families:
            four = family.subnet.version == 4
            if forward == NATTED and _translated(family):
                to = {"snat": str(network["snat"])} if four and network["snat"] else {"masquerade": True}
                limit = {"connections": network["connections"]} if network["connections"] else {}
                name = network.name if four else f"{network.name}-6"
                found.append(("nat", name, {"subnet": str(family.subnet), "out": network["out"], **to, **limit}))
        return tuple(found)

    def bind(self, vif: Vif, network: Network, where: str) -> Vif:
        """Check the guest's addresses: they are in the network's subnets."""
        if vif.vlan or vif.tagged:
            raise InputError(f"{where}: network {network.name} is virtual, and has no VLANs; drop vlan and tagged")
        vif = super().bind(vif, network, where)
        subnets = [family.subnet for family in _families(network)]
        for address in vif.addresses:
            if not any(_is_in(address, subnet) for subnet in subnets):
                have = ", ".join(map(str, subnets)) or "it has none"
                raise InputError(f"{where}: {address} is in no subnet of network {network.name} ({have}); correct it")
        return vif

    # --- composing ---------------------------------------------------------------------------------------------------

    def is_isolated(self, network: Network) -> bool:
        return network["forward"] in (ISOLATED, NONE)

    def exclusive(self, network: Network) -> Sequence[values.Subnet]:
        return [family.subnet for family in _families(network)]

    def links(self, network: Network) -> tuple[str, ...]:
        return (network["bridge"], *filter(None, [network["out"]]))

    def side(self, network: Network, host: Host) -> Side:
        found = super().side(network, host)
        is_named = found.links and network["out"] and network["reach"] != reach.ALL
        return found._replace(out=(network["out"],)) if is_named else found

    def network_resources(self, network: Network, host: Host) -> Iterator[Resource]:
        name, forward = network["bridge"], network["forward"]
        link = host.links.get(name)
        if link and not link.ours:
            gone = f"ip link del {name}; if it is libvirt's, virsh net-destroy NETWORK"
            remedy = f"remove it ({gone}), or give the network another `bridge`"
            raise network.error("bridge", f"{name} exists already, and is not the network's own; {remedy}")
        yield from super().network_resources(network, host)
        bridge = f'"{name}"'
        if self.is_isolated(network):
            yield INET
            yield NftElement("inet", "isolated", (bridge,))
        if forward == NATTED:
            yield NAT
            yield NftElement("inet", "natted", (bridge,))
            for family in _families(network):
                if version := _translated(family):
                    yield NftElement("inet", f"translated{version}", (bridge, f'"{network["out"]}"'))
            yield from self.admits(network, reach.admitted(network, host))
        if forward == ROUTED:
            require(network, "out", network["out"], host)
        if network["out"] in host.links or network["out"] in host.parts:
            # Replies arrive there.
            for version in sorted({family.subnet.version for family in _families(network)}):
                yield from forwarding(version, (network["out"],), host)

    def admits(self, network: Network, ends: Iterable[str]) -> Iterator[Resource]:
        if network["forward"] == NATTED:
            yield NAT
            for end in ends:
                kind = "admitted" if end.startswith('"') else "admitted_groups"
                yield NftElement("inet", kind, (end, f'"{network["bridge"]}"'))

    def serves_others(self, network: Network) -> bool:
        return True


def _families(network: Network) -> list[Family]:
    return [family for key in ("ipv4", "ipv6") if (family := network[key])]


def _translated(family: Family) -> int:
    """Return the IP version of what a natted network has there if it is translated; 0 if not."""
    return family.subnet.version if family.subnet.version == 4 or family.nat else 0


def _services(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `dhcp` and `dns`: with a pool, the network has both."""
    ranges = tuple(found for key in ("ipv4", "ipv6") if options[key] for found in options[key].pool)
    found = {}
    for option in (DHCP, DNS):
        offer = options.get(option.name)
        if offer is None and ranges:
            offer = parse_options(option.keys, {}, option.name)
        if offer is not None:
            found[option.name] = {**offer, "domain": offer["domain"] or options["domain"]}
    if ranges:
        found[DHCP.name]["pool"] = (*found[DHCP.name]["pool"], *ranges)
    return found


def _is_in(address: str, subnet: values.Subnet) -> bool:
    net = ip_network(address)
    # Every link has the link-local one.
    return net.is_link_local or (net.version == subnet.version and net.subnet_of(subnet))  # type: ignore[arg-type]
