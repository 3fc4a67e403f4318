"""Guests that are reached by plain routes in the host's main table, as Xen's vif-route and vif-nat make them.

Every address of a guest, and every prefix that is routed to it, is a route to its tap; the host answers for exactly these
addresses on `netdev`. The tap has the host's own address, so that guests have a gateway that is there. With `nat`, guests
have private addresses, each a gateway of its own, and are translated on the way out of `netdev`.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from .. import values
from ..errors import InputError, MissingLink
from ..links.forwarding import forwarding
from ..model.declaration import Config, Declared, Network, Option, Required
from ..model.facts import Host
from ..model.guest import Vif
from ..model.objects import Address, HostName, NftElement, ProxyNeighbour, Route, Sysctl
from ..model.resource import MAIN_TABLE, Resource
from ..model.ruleset import ARP, INET, NAT
from . import tap

ROUTER_OFFSET = 127
"""From a guest's address to its gateway's, in the last octet: Xen's vif-nat."""


OPTIONS = (
    Option("netdev", values.ifname, Required, "name the interface that leads to the rest of the world"),
    Option("address", values.address_of(4), None, "the guests' gateway, on every tap; default: the first address of `netdev`"),
    Option("nat", values.boolean, False, "guests have private addresses, and go out of `netdev` by the host's"),
    Option("proxy_arp", values.boolean, False, "answer ARP on `netdev` for all that is routed elsewhere, not for guests alone"),
    Option("forward_all", values.boolean, False, "let new interfaces forward IPv4: for guests that others set up"),
    Option("tap_mac", values.mac, "fe:ff:ff:ff:ff:ff", "the MAC of every tap"),
    Option("mtu", values.integer(68, 65535), None, "bytes, of the tap; default: the tap's own"),
)


def check(network: Network) -> None:
    if network["nat"] and (network["address"] or network["proxy_arp"]):
        option = "address" if network["address"] else "proxy_arp"
        raise network.error(option, "is of no use with nat = true: every guest has a gateway of its own")


def check_together(networks: list[Network], declared: Config) -> None:
    """Nothing: they share what they have in common."""


def bridge_of(network: Network) -> str:
    return ""


def implied(network: Network) -> tuple[Declared, ...]:
    return ()


def links(network: Network) -> tuple[str, ...]:
    return (network["netdev"],)


def bind(vif: Vif, network: Network, where: str) -> Vif:
    """Checks the guest's addresses and prefixes."""
    found = tap.sources(vif, where, _unusable)
    if not found:
        raise InputError(f"{where}: NIC {vif.mac} has no address, which a routed guest needs; give it one (Xen: ip=)")
    if network["nat"] and not tap.by_kind(found)[0]:
        raise InputError(f"{where}: NIC {vif.mac} has no IPv4 address of its own, which its gateway's is made from; give it one")
    if vif.vlan or vif.tagged:
        raise InputError(f"{where}: network {network.name} is routed and has no VLANs; drop vlan and tagged")
    return replace(vif, addresses=found)


def _unusable(net: tap.Subnet) -> str:
    if not net.prefixlen:
        return "is every address there is; name the guest's own"
    return "can't be a guest's; choose another" if net.network_address.is_link_local else ""


def network_resources(network: Network, host: Host) -> list[Resource]:
    return list(_network(network, host))


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


def vif_resources(vif: Vif, network: Network, host: Host) -> list[Resource]:
    tap.check_master(vif, network, host)
    ipv6 = any(":" in address for address in vif.addresses)
    if ipv6 and not host.ipv6:
        raise InputError(f"network {network.name}: this kernel runs with IPv6 off (ipv6.disable=1); drop the IPv6 addresses")
    return [
        INET,
        ARP,
        *((NAT,) if network["nat"] else ()),
        *(_network6(network, host) if ipv6 else ()),
        *tap.source_filter(vif, True, ipv6),
        *tap.settings(vif, True, ipv6, network["tap_mac"], vif.mtu or network["mtu"], host),
        *_paths(vif, network, host),
    ]


def _network6(network: Network, host: Host) -> Iterator[Resource]:
    netdev = network["netdev"]
    yield from forwarding(6, (netdev,), host)
    if not network["nat"]:
        yield from tap.proxy_ndp(netdev)


def _paths(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    netdev, ifname = network["netdev"], vif.ifname
    single4, single6, prefixes4, prefixes6 = tap.by_kind(vif.addresses)
    if own := set(_addresses(network, host)) & {*single4, *single6}:
        raise network.error("netdev", f"{min(own)}, a guest's address, is the host's own on {netdev}; give the guest another")
    gateway = router_of(single4[0]) if network["nat"] and single4 else _own(network, host) if single4 or prefixes4 else ""
    if gateway:
        yield Address(ifname, f"{gateway}/32")
    if (single6 or prefixes6) and (gateway6 := next((a for a in _addresses(network, host) if ":" in a), "")):
        # The host's own address, on another link: the kernel answers for it only as a proxy.
        yield ProxyNeighbour(ifname, gateway6)
    for address in (*single4, *single6):
        length, version = (128, 6) if ":" in address else (32, 4)
        if network["nat"]:
            yield NftElement("inet", f"private{version}", (address, f'"{netdev}"'))
        else:
            yield ProxyNeighbour(netdev, address)
        yield Route(MAIN_TABLE, f"{address}/{length}", ifname, src=gateway if version == 4 else "", metric=vif.metric)
    for prefix in (*prefixes4, *prefixes6):
        version = 6 if ":" in prefix else 4
        if network["nat"] and not _is_translated(prefix, netdev, host):
            yield NftElement("inet", f"masquerade{version}", (prefix, f'"{netdev}"'))
        yield Route(MAIN_TABLE, prefix, ifname, src=gateway if version == 4 else "", metric=vif.metric)
    if network["nat"] and (name := _host_name(vif.domain)):
        yield HostName(ifname, name, (*single4, *single6))


def _is_translated(prefix: str, netdev: str, host: Host) -> bool:
    """Whether a declared NAT has a prefix already: a set of intervals takes none that overlap."""
    net = ipaddress.ip_network(prefix)
    subnets = [nat["subnet"] for nat in host.nats if nat["out"] == netdev]
    return any(net.version == subnet.version and net.subnet_of(subnet) for subnet in subnets)


def _own(network: Network, host: Host) -> str:
    """The host's address on the taps. Raises ConfigError if there is none."""
    found = [address for address in _addresses(network, host) if ":" not in address]
    if not (network["address"] or found):
        netdev = network["netdev"]
        raise network.error("netdev", f"{netdev} has no IPv4 address, which guests need as their gateway; give it one")
    return str(network["address"] or found[0])


def _addresses(network: Network, host: Host) -> list[str]:
    """The host's own on `netdev`, but for link-local ones."""
    part = host.parts.get(network["netdev"])
    there = [*host.addresses.get(network["netdev"], ()), *(map(str, part["addresses"]) if part else ())]
    found = [ipaddress.ip_interface(address).ip for address in there]
    return [str(ip) for ip in found if not ip.is_link_local]


def router_of(address: str) -> str:
    """A private guest's gateway: another address of the same 254."""
    head, _, last = address.rpartition(".")
    return f"{head}.{(int(last) + ROUTER_OFFSET - 1) % 254 + 1}"


def _host_name(domain: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", domain.lower()).strip("-")[:63]


def announcements(vif: Vif, network: Network) -> list[tuple[str, str]]:
    return [] if network["nat"] else [(network["netdev"], address) for address in vif.addresses if "/" not in address]


def proxied6(network: Network, on_link: Callable[[str], Sequence[ipaddress.IPv6Network]]) -> Sequence[ipaddress.IPv6Network]:
    """What proxy ARP does for IPv4: a guest with an address of the segment's takes the segment for its own."""
    return [] if network["nat"] else on_link(network["netdev"])


def attracts(resource: Resource, vif: Vif, network: Network) -> bool:
    return tap.attracts(resource, vif, network["netdev"])


def untracked(vif: Vif, network: Network) -> list[str]:
    return [address for address in vif.addresses if "/" not in address]
