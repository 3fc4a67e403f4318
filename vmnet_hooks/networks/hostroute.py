"""Guests that are reached by host routes in the main table, as those of Xen's vif-route and vif-nat.

There is a route to the tap for each address of a guest and each prefix that is routed to it. On `netdev`, the host answers ARP
and ND for exactly these addresses. The tap has the host's own address, which is the guests' gateway. With `nat`, guests have
private addresses, each with its own gateway address, which are translated on the way out of `netdev`.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from .. import values
from ..errors import InputError, MissingLink
from ..model.declaration import ROLES, Config, Network, Option, Required
from ..model.facts import Host
from ..model.guest import Vif
from ..model.mode import Around, Lan, Mode, Own, Prefixes6, Side
from ..model.objects import Address, HostName, NftElement, ProxyNeighbour, Route, Sysctl, shared_set
from ..model.resource import MAIN_TABLE, Resource
from ..model.ruleset import ARP, INET, NAT, forwarding, shares
from . import reach, tap

ROUTER_OFFSET = 127
"""Added to the last octet of a guest's address to get its gateway, as in Xen's vif-nat."""


_PRIVATE = 24
"""The length of the prefix of a guest with a private address and its gateway, see `router_of`."""
_SHORTEST = {4: 8, 6: 12}
"""The shortest prefixes that IANA allocates. A route to a shorter one replaces a part of the default route."""
_IPV6_METRIC = 1024
"""The kernel's default metric of an IPv6 route."""
_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")

OPTIONS = (
    Option("netdev", values.ifname, Required, "the interface to the outside", '"eth0"'),
    Option(
        "address",
        values.address_of(4),
        None,
        "the guests' gateway, on every tap; default: the first address of `netdev`",
        '"192.0.2.2"',
    ),
    Option("nat", values.boolean, False, "guests have private addresses, and are masqueraded on the way out of `netdev`", "true"),
    Option(
        "proxy_arp",
        values.boolean,
        False,
        "answer ARP on `netdev` for every address that is routed through another interface",
        "true",
    ),
    Option(
        "forward_all", values.boolean, False, "let new interfaces forward IPv4, for guests that other programs set up", "true"
    ),
    tap.CONNECTIONS,
    tap.LINK_LOCAL,
    Option("tap_mac", values.mac, "fe:ff:ff:ff:ff:ff", "the MAC of every tap", '"fe:00:00:00:00:01"'),
    ROLES,
    tap.PROBE,
    tap.CHECKSUMS,
    tap.LIMIT,
    reach.HOST,
    reach.NETWORKS,
    Option("mtu", values.integer(68, 65535), None, "bytes, of the tap; default: the tap's own", "1400"),
)


class HostRoute(Mode):
    options = OPTIONS

    routes_plainly = True

    def check(self, network: Network) -> None:
        if network["nat"] and (network["address"] or network["proxy_arp"]):
            option = "address" if network["address"] else "proxy_arp"
            raise network.error(option, "is of no use with nat = true: every guest has a gateway of its own")
        if network["connections"] and not network["nat"]:
            raise network.error("connections", "is of no use without nat = true: nothing tracks connections")

    def check_together(self, networks: Sequence[Network], declared: Config) -> None:
        reach.check(networks, declared)

    def bind(self, vif: Vif, network: Network, where: str) -> Vif:
        """Check the guest's addresses and prefixes."""
        found = tap.sources(vif, where, _unusable)
        if not found:
            raise InputError(
                f"{where}: NIC {vif.mac} has no address, which a routed guest needs; give it one (ips; `set --ip`; Xen: ip=)"
            )
        if network["nat"] and not tap.by_kind(found)[0]:
            raise InputError(
                f"{where}: NIC {vif.mac} has no IPv4 address of its own, which its gateway's is made from; give it one"
            )
        if vif.vlan or vif.tagged:
            raise InputError(f"{where}: network {network.name} is routed and has no VLANs; drop vlan and tagged")
        return replace(vif, addresses=found)

    def links(self, network: Network) -> tuple[str, ...]:
        return (network["netdev"],)

    def addressed(self, network: Network) -> tuple[str, ...]:
        return (network["netdev"],)

    def serves_others(self, network: Network) -> bool:
        # Guests that other programs set up.
        return bool(network["proxy_arp"] or network["forward_all"])

    def way_in(self, network: Network) -> str:
        return str(network["netdev"])

    def side(self, network: Network, host: Host) -> Side:
        return Side((), True, (network["netdev"],))

    def network_resources(self, network: Network, host: Host) -> Iterator[Resource]:
        yield from _network(network, host)
        yield from reach.ways(network, host, (4,))

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> list[Resource]:
        tap.check_master(vif, network, host)
        ipv6 = any(values.version(address) == 6 for address in vif.addresses)
        if ipv6 and not host.ipv6:
            raise InputError(f"network {network.name}: this kernel runs with IPv6 off (ipv6.disable=1); drop the IPv6 addresses")
        return [
            INET,
            ARP,
            *((NAT,) if network["nat"] else ()),
            *(_network6(network, host) if ipv6 else ()),
            *tap.source_filter(vif, True, ipv6),
            *tap.checked(vif, network, host, ("inet", "arp")),
            *tap.limited(vif, network),
            *reach.host("inet", vif, network),
            *reach.tap(vif, network, host),
            *_shared(vif, network),
            *tap.settings(vif, True, ipv6, network["tap_mac"], vif.mtu or network["mtu"], host, network["link_local"]),
            *_paths(vif, network, host),
        ]

    def announcements(self, vif: Vif, network: Network) -> list[tuple[str, str]]:
        return [] if network["nat"] else [(network["netdev"], address) for address in vif.addresses if "/" not in address]

    def attracts(self, resource: Resource, vif: Vif, network: Network) -> bool:
        return tap.attracts(resource, vif, network["netdev"])

    def untracked(self, vif: Vif, network: Network) -> list[str]:
        return [address for address in vif.addresses if "/" not in address]

    def proxied6(self, network: Network, on_link: Callable[[str], Prefixes6]) -> Prefixes6:
        """Return the prefixes on `netdev`: a guest with an address of one takes it for on-link. For IPv4, proxy ARP has the same
        effect."""
        return [] if network["nat"] else on_link(network["netdev"])

    def lan(self, vif: Vif, address: values.IPAddress, network: Network, around: Around, own: Own) -> Lan | None:
        there = [found for found in own(network["netdev"]) if found.version == address.version and not found.ip.is_link_local]
        prefix = next((found.network.prefixlen for found in there if address in found.network), address.max_prefixlen)
        if address.version == 6:
            return Lan(prefix, router=vif.ifname)
        if network["nat"]:
            return Lan(_PRIVATE, ipaddress.IPv4Address(router_of(tap.by_kind(vif.addresses)[0][0])))
        gateway: ipaddress.IPv4Address | None = network["address"] or next((found.ip for found in there), None)  # type: ignore
        # A prefix without the gateway in it leaves the guest none that it finds.
        held = gateway and gateway in ipaddress.IPv4Interface(f"{address}/{prefix}").network
        return Lan(prefix if held else address.max_prefixlen, gateway) if gateway else None

    def netdev_of(self, network: Network) -> str:
        return str(network["netdev"])

    def is_private(self, network: Network) -> bool:
        return bool(network["nat"])


def _unusable(net: values.Subnet) -> str:
    if not net.prefixlen:
        return "is every address there is; name the guest's own"
    if net.prefixlen < _SHORTEST[net.version] and not (net.version == 6 and net.subnet_of(_UNIQUE_LOCAL)):
        return f"is so large that the host would lose its own way out; name a prefix of /{_SHORTEST[net.version]} or longer"
    return "can't be a guest's; choose another" if net.network_address.is_link_local else ""


def _network(network: Network, host: Host) -> Iterator[Resource]:
    netdev = network["netdev"]
    if netdev not in host.links and netdev not in host.parts:
        raise MissingLink(str(network.error("netdev", f"{netdev} does not exist; create it, or name another interface")))
    yield from forwarding(4, (netdev,), host)
    yield tap.proxy_delay(4, netdev)
    if network["proxy_arp"]:
        yield Sysctl(f"net/ipv4/conf/{netdev}/proxy_arp", "1")
    if network["forward_all"]:
        yield Sysctl("net/ipv4/conf/default/forwarding", "1")
    if network["connections"]:
        yield shares(f"{network.name}/", network["connections"])


def _shared(vif: Vif, network: Network) -> Iterator[Resource]:
    """Yield the element that limits the guest's tracked connections, if the network has a limit."""
    if network["connections"]:
        yield NftElement("inet", shared_set(f"{network.name}/"), (f'"{vif.ifname}"',))


def _network6(network: Network, host: Host) -> Iterator[Resource]:
    netdev = network["netdev"]
    yield from tap.link_local(netdev, host)
    yield from forwarding(6, (netdev,), host)
    yield from reach.forwards(6, network, host)
    if not network["nat"]:
        yield from tap.proxy_ndp(netdev)


def _paths(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    netdev, ifname = network["netdev"], vif.ifname
    single4, single6, prefixes4, prefixes6 = tap.by_kind(vif.addresses)
    own = _addresses(network, host)
    if taken := set(map(str, own)) & {*single4, *single6}:
        raise network.error("netdev", f"{min(taken)}, a guest's address, is the host's own on {netdev}; give the guest another")
    gateway = router_of(single4[0]) if network["nat"] and single4 else _gateway(network, own) if single4 or prefixes4 else ""
    if gateway:
        yield Address(ifname, values.host(gateway))
    if (single6 or prefixes6) and (gateway6 := next((address for address in own if address.version == 6), None)):
        # The address is on another link of the host, so that the kernel answers for it on the tap only as a proxy.
        yield ProxyNeighbour(ifname, str(gateway6))
    for address in (*single4, *single6):
        version = values.version(address)
        if network["nat"]:
            yield NftElement("inet", f"private{version}", (address, f'"{netdev}"'))
        else:
            yield ProxyNeighbour(netdev, address)
        yield Route(MAIN_TABLE, values.host(address), ifname, src=gateway if version == 4 else "", metric=vif.metric)
    for prefix in (*prefixes4, *prefixes6):
        version = values.version(prefix)
        if network["nat"] and not _is_translated(prefix, netdev, host):
            yield NftElement("inet", f"masquerade{version}", (prefix, f'"{netdev}"'))
        # Not before a connected route to the same prefix: that has the metric 256 (IPv4: 0).
        metric = vif.metric + _IPV6_METRIC if vif.metric and version == 6 else vif.metric
        yield Route(MAIN_TABLE, prefix, ifname, src=gateway if version == 4 else "", metric=metric)
    if network["nat"] and (name := _host_name(vif.domain)):
        yield HostName(ifname, name, (*single4, *single6))


def _is_translated(prefix: str, netdev: str, host: Host) -> bool:
    """Return whether a declared NAT translates a prefix already: an interval set refuses overlapping elements."""
    net = ipaddress.ip_network(prefix)
    subnets = [nat["subnet"] for nat in host.nats if nat["out"] == netdev]
    return any(net.version == subnet.version and net.subnet_of(subnet) for subnet in subnets)


def _gateway(network: Network, own: Sequence[values.IPAddress]) -> str:
    """Return the host's address on the taps. Raise ConfigError if there is none."""
    found = [address for address in own if address.version == 4]
    if not (network["address"] or found):
        netdev = network["netdev"]
        raise network.error("netdev", f"{netdev} has no IPv4 address, which guests need as their gateway; give it one")
    return str(network["address"] or found[0])


def _addresses(network: Network, host: Host) -> list[values.IPAddress]:
    """Return the host's own addresses on `netdev`, without link-local ones."""
    part = host.parts.get(network["netdev"])
    there = [*host.addresses.get(network["netdev"], ()), *([str(own.ip) for own in part["addresses"]] if part else ())]
    found = [ipaddress.ip_interface(address).ip for address in there]
    return [ip for ip in found if not ip.is_link_local]


def router_of(address: str) -> str:
    """Return the gateway of a guest with a private address: another address of the same /24."""
    head, _, last = address.rpartition(".")
    return f"{head}.{(int(last) + ROUTER_OFFSET - 1) % 254 + 1}"


def _host_name(domain: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", domain.lower()).strip("-")[:63]
