"""Routed guests: the host has no address in the guests' subnet, and answers for it by proxy ARP and proxy ND.

Each network has its own routing table, selected by policy rules for its subnet and for each of its `prefixes`, with a host route
for each guest address. The sender of ARP requests is the gateway's address on a tap, and `arp_source` on the uplink.
Packets and ARP from a tap are checked against nft sets of `ifname . mac . ip`. The cost per packet does not depend on the number
of guests: they are elements, never rules.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import values
from ..errors import InputError, MissingLink
from ..model.declaration import ROLES, Config, Declared, Network, Option, Required
from ..model.facts import Host
from ..model.guest import Vif
from ..model.mode import Around, Lan, Mode, Own, Prefixes6, Side
from ..model.objects import Address, LinkAttribute, Neighbour, NftElement, ProxyNeighbour, Route, Rule, Sysctl, TableName
from ..model.objects.route import UNREACHABLE
from ..model.resource import ANSWER_MARK, MAIN_TABLE, Resource
from ..model.ruleset import ARP, INET, NAT, SENDERS, forwarding, shares
from . import reach, tap


def _subnet(version: int) -> Callable[[object], Any]:
    def parse(value: object) -> Any:
        found = values.subnet(value)
        if found.version != version:
            raise ValueError(f"is not an IPv{version} subnet")
        return found

    return parse


def _subnets(version: int) -> Callable[[object], tuple[Any, ...]]:
    def parse(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list of prefixes")
        found = values.each(_subnet(version), value)
        if any(not net.prefixlen for net in found):
            raise ValueError("holds every address there is; write the guests' own prefixes")
        return found

    return parse


def _prefixes(version: int, example: str) -> Option:
    return Option(
        "prefixes",
        _subnets(version),
        (),
        "more prefixes that guests have addresses of: a second block, single failover addresses",
        example,
    )


def _as_is(value: object) -> Any:
    return value


_ELSEWHERE = 1 << 30
"""The metric of a route to a single address that may be a guest's of another node."""

OPTIONS = (
    Option("uplink", values.ifname, Required, "the interface that leads to the gateway and to the other nodes", '"eth1"'),
    Option(
        "table",
        values.integer(1, 2**31 - 1),
        Required,
        "the routing table of this network: a number not in use by another",
        "222",
    ),
    Option(
        "table_name", values.name, "", "the table's name for iproute2, registered under rt_tables.d while guests run", '"guests"'
    ),
    Option(
        "role",
        values.one_of("host", "router", "router+host"),
        "host",
        "host: the gateway is elsewhere; router: this node is the gateway; router+host: it is, and runs guests too",
        '"router+host"',
    ),
    Option(
        "ipv4",
        _as_is,
        None,
        "the network's IPv4 side",
        '{ subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }',
        (
            Option("subnet", _subnet(4), Required, "the guests' subnet, as 192.0.2.0/24", '"192.0.2.0/24"'),
            Option("gateway", values.address_of(4), Required, "the gateway's address", '"192.0.2.1"'),
            Option(
                "arp_source",
                values.address_of(4),
                None,
                "sender of ARP requests on the uplink: an unused address of the subnet; required with role host",
                '"192.0.2.254"',
            ),
            _prefixes(4, '["203.0.113.77/32", "198.51.100.0/28"]'),
        ),
    ),
    Option(
        "ipv6",
        _as_is,
        None,
        "the network's IPv6 side",
        '{ subnet = "2001:db8::/64", gateway = "2001:db8::1" }',
        (
            Option("subnet", _subnet(6), Required, "the guests' subnet, as 2001:db8::/64", '"2001:db8::/64"'),
            Option("gateway", values.address_of(6), Required, "the gateway's address", '"2001:db8::1"'),
            _prefixes(6, '["2001:db8:9::/64"]'),
            tap.LINK_LOCAL,
        ),
    ),
    Option(
        "masquerade", values.ifname, "", "router roles: translate guests' addresses on the way out of this interface", '"eth0"'
    ),
    tap.CONNECTIONS,
    Option(
        "external", values.ifname, "", "router roles: the interface to the outside, where forwarding is switched on too", '"eth0"'
    ),
    Option(
        "permanent_neighbours",
        values.boolean,
        True,
        "a permanent neighbour entry per guest address: no ARP or ND from the host",
        "false",
    ),
    Option(
        "tap_mac",
        values.mac_or_none,
        "fe:ff:ff:ff:ff:ff",
        "the MAC of every tap, on every node, so that a guest's neighbour entry survives migration; \"\" keeps the tap's",
        '"fe:00:00:00:00:01"',
    ),
    ROLES,
    tap.PROBE,
    tap.CHECKSUMS,
    tap.LIMIT,
    reach.HOST,
    reach.NETWORKS,
    Option("mtu", values.integer(1280, 65535), None, "bytes, of the tap; default: the tap's own", "1400"),
    Option("rule_priority", values.integer(1, 32763), 22000, "first of three priorities of the network's policy rules", "21000"),
)


class Routed(Mode):
    options = OPTIONS

    def check(self, network: Network) -> None:
        sides = _sides(network)
        router = network["role"] != "host"
        if not sides:
            raise network.error("", "has neither ipv4 nor ipv6; add ipv4 = { subnet = …, gateway = … }")
        if network["table"] in (253, 254, 255):
            raise network.error("table", f"{network['table']} is one of the kernel's own (default, main, local); choose another")
        if network["table_name"] in ("main", "local", "default", "unspec"):
            raise network.error("table_name", f"{network['table_name']} is one of the kernel's own tables; choose another name")
        for key, side in sides:
            if side["subnet"].prefixlen == 0:
                raise network.error(f"{key}.subnet", f"{side['subnet']} is every address there is; write the guests' own subnet")
            nets = _all(side)
            for number, net in enumerate(nets):
                if other := next((other for other in nets[:number] if net.overlaps(other)), None):
                    raise network.error(f"{key}.prefixes", f"{net} overlaps {other}; name each address once")
            if problem := _unusable(side["gateway"], side["subnet"]):
                raise network.error(f"{key}.gateway", f"{side['gateway']} {problem}; choose a host address of the subnet")
        ipv4 = network["ipv4"]
        if ipv4 and ipv4["arp_source"] == ipv4["gateway"]:
            raise network.error("ipv4.arp_source", f"{ipv4['arp_source']} is the gateway; choose an unused address of the subnet")
        if ipv4 and not router and ipv4["arp_source"] is None:
            raise network.error(
                "ipv4.arp_source", "missing; role host needs an unused address of the subnet as the uplink's ARP sender"
            )
        if not router and (names := reach.links(network)):
            raise network.error(
                "reach", f"link:{names[0]} is of no use with role host: the table of the network leads to its gateway"
            )
        if network["connections"] and not network["masquerade"]:
            raise network.error("connections", "is of no use without masquerade: nothing tracks connections")
        for name in ("masquerade", "external"):
            if network[name] and not router:
                raise network.error(name, f"{network[name]} is of no use with role host; set role to router or router+host")
            if network[name] == network["uplink"]:
                raise network.error(name, f"{network[name]} is the uplink itself; name the interface to the outside")

    def check_together(self, networks: Sequence[Network], declared: Config) -> None:
        reach.check(networks, declared)
        for number, network in enumerate(networks):
            _check_sender(network, networks)
            if master := declared.masters.get(network["uplink"]):
                raise network.error("uplink", f"{network['uplink']} is a port of {master.label}; name {master.name} instead")
            for other in networks[:number]:
                if network["table"] == other["table"]:
                    raise network.error("table", f"{network['table']} is already the table of {other.label}; choose another")
                if network["table_name"] and network["table_name"] == other["table_name"]:
                    raise network.error("table_name", f"{network['table_name']} is already that of {other.label}; choose another")
                for key, side in _sides(network):
                    theirs = _all(other[key]) if other[key] else ()
                    if both := next(((net, taken) for net in _all(side) for taken in theirs if net.overlaps(taken)), None):
                        option = "subnet" if both[0] == side["subnet"] else "prefixes"
                        raise network.error(f"{key}.{option}", f"{both[0]} overlaps {both[1]} of {other.label}; separate them")

    def bind(self, vif: Vif, network: Network, where: str) -> Vif:
        """Check the guest's addresses, and give it subnet + EUI-64 if it has no IPv6 address of its own."""
        if network["role"] == "router":
            raise InputError(
                f"{where}: network {network.name} has role router on this node, which runs no guests; use router+host"
            )
        addresses: list[values.IPAddress] = []
        for text in vif.addresses:
            try:
                address = values.address(text)
            except ValueError as error:
                raise InputError(f"{where}: {text!r} {error}") from None
            side = network[f"ipv{address.version}"]
            if side is None:
                raise InputError(
                    f"{where}: {address}: network {network.name} has no ipv{address.version}; declare it, or drop the address"
                )
            problem = _unplaced(address, side)
            problem = problem or ("is the gateway's" if address == side["gateway"] else "")
            problem = problem or ("is the network's arp_source" if address == side.get("arp_source") else "")
            problem = problem or ("is given twice" if address in addresses else "")
            if problem:
                is_outside = not any(address in net for net in _all(side))
                remedy = f", or add its prefix to ipv{address.version}.prefixes" if is_outside else ""
                own = ", ".join(map(str, _all(side)))
                raise InputError(f"{where}: {address} {problem}; choose another address of {own}{remedy}")
            addresses.append(address)
        ipv6 = network["ipv6"]
        if ipv6 and not any(address.version == 6 for address in addresses) and ipv6["subnet"].prefixlen == 64:
            addresses.append(values.eui64(ipv6["subnet"], vif.mac))
        if not addresses:
            raise InputError(
                f"{where}: NIC {vif.mac} has no address on routed network {network.name}; give it one (ips; `set --ip`)"
            )
        if vif.vlan or vif.tagged:
            raise InputError(f"{where}: network {network.name} is routed and has no VLANs; drop vlan and tagged")
        return replace(vif, addresses=tuple(map(str, addresses)))

    def links(self, network: Network) -> tuple[str, ...]:
        return tuple(filter(None, (network["uplink"], network["masquerade"], network["external"])))

    def links6(self, network: Network) -> tuple[str, ...]:
        return (network["uplink"],) if network["ipv6"] else ()

    def addressed(self, network: Network) -> tuple[str, ...]:
        return self.senders(network)

    def senders(self, network: Network) -> tuple[str, ...]:
        return (network["uplink"],) if network["ipv4"] and network["role"] == "host" else ()

    def serves_others(self, network: Network) -> bool:
        # The gateway of other nodes' guests. With router+host it comes up with a guest of this node, too.
        return bool(network["role"] == "router")

    def way_in(self, network: Network) -> str:
        return str(network["uplink"])

    def beyond(self, network: Network) -> Sequence[values.IPAddress]:
        return [side["gateway"] for _, side in _sides(network)] if network["role"] == "host" else []

    def subnets(self, network: Network, links: Mapping[str, Declared]) -> Sequence[values.Subnet]:
        return [net for _, side in _sides(network) for net in _all(side)]

    def side(self, network: Network, host: Host) -> Side:
        uplink = (network["uplink"],)
        if network["role"] == "host":
            return Side((), True, uplink)
        return Side(uplink, True, tuple(filter(None, (network["masquerade"], network["external"]))) or None)

    def network_resources(self, network: Network, host: Host) -> Iterator[Resource]:
        yield from _network(network, host)
        yield from reach.ways(network, host, [side["subnet"].version for _, side in _sides(network)])

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> list[Resource]:
        tap.check_master(vif, network, host)
        ipv4, ipv6 = bool(network["ipv4"]), bool(network["ipv6"])
        link_local = network["ipv6"].get("link_local") if ipv6 else None
        return [
            *_arp_source(vif, network),
            *tap.source_filter(vif, ipv4, ipv6),
            *tap.checked(vif, network, host, ("inet", "arp")),
            *tap.limited(vif, network),
            *reach.host("inet", vif, network),
            *reach.tap(vif, network, host),
            *tap.settings(vif, ipv4, ipv6, network["tap_mac"], vif.mtu or network["mtu"], host, link_local),
            *_paths(vif, network),
        ]

    def announcements(self, vif: Vif, network: Network) -> list[tuple[str, str]]:
        return [(network["uplink"], address) for address in vif.addresses]

    def attracts(self, resource: Resource, vif: Vif, network: Network) -> bool:
        return tap.attracts(resource, vif, network["uplink"])

    def untracked(self, vif: Vif, network: Network) -> list[str]:
        """Return none on the network's gateway: it forwarded the guest's connections before, and their NAT entries remain
        valid."""
        return list(vif.addresses) if network["role"] == "host" else []

    def answers(self, address: str, network: Network) -> Iterator[Resource]:
        if network["role"] == "host":
            ip = values.address(address)
            net = next(net for net in _all(network[f"ipv{ip.version}"]) if ip in net)
            # Behind the rule for what is to other guests, which is there first.
            yield Rule(network["rule_priority"], "from", str(net), MAIN_TABLE, mark=ANSWER_MARK)

    def proxied6(self, network: Network, on_link: Callable[[str], Prefixes6]) -> Prefixes6:
        return _all(network["ipv6"]) if network["ipv6"] else []

    def lan(self, vif: Vif, address: values.IPAddress, network: Network, around: Around, own: Own) -> Lan | None:
        side = network[f"ipv{address.version}"]
        if side is None:
            return None
        prefix = side["subnet"].prefixlen if address in side["subnet"] else address.max_prefixlen
        return Lan(prefix, side["gateway"]) if address.version == 4 else Lan(prefix, router=vif.ifname)

    def serves(self, network: Network, addresses: values.Subnet) -> bool:
        subnets = self.subnets(network, {})
        return any(addresses.version == subnet.version and addresses.subnet_of(subnet) for subnet in subnets)  # type: ignore

    def table_of(self, network: Network) -> int:
        return int(network["table"])

    def kept_over_boots(self, network: Network) -> Iterator[Resource]:
        if network["table_name"]:
            yield TableName(network["table"], network["table_name"])

    def home(self, network: Network) -> str:
        return f"table {network['table']}"

    def label(self, network: Network) -> tuple[str, ...]:
        return (*super().label(network), f"role {network['role']}")


def _sides(network: Network) -> list[tuple[str, Any]]:
    return [(key, network[key]) for key in ("ipv4", "ipv6") if network[key]]


def _all(side: Mapping[str, Any]) -> list[Any]:
    """Return the subnet of one family, and the other prefixes of guests."""
    return [side["subnet"], *side.get("prefixes", ())]


def _unplaced(address: values.IPAddress, side: Mapping[str, Any]) -> str:
    """Return why no guest can have the address; "" if one can."""
    net = next((net for net in side.get("prefixes", ()) if address in net), None)
    if net is None:
        return _unusable(address, side["subnet"])
    return "" if _is_unicast(address) else "is not a unicast address that can be routed"


def _is_unicast(address: values.IPAddress) -> bool:
    return not (address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local)


def _check_sender(network: Network, networks: Sequence[Network]) -> None:
    """Raise ConfigError unless the sender of ARP requests on the uplink is an address of the network's subnet, or the sender of
    another network on that uplink, which has it in its subnet."""
    ipv4 = network["ipv4"]
    source = ipv4["arp_source"] if ipv4 else None
    if source is None or not (problem := _unusable(source, ipv4["subnet"])):
        return
    others = [n["ipv4"] for n in networks if n is not network and n["ipv4"] and n["uplink"] == network["uplink"]]
    if not any(other["arp_source"] == source and not _unusable(source, other["subnet"]) for other in others):
        raise network.error("ipv4.arp_source", f"{source} {problem}; choose a host address of the subnet")


def _unusable(address: values.IPAddress, subnet: Any) -> str:
    if address not in subnet:
        return f"is not in subnet {subnet}"
    small = subnet.prefixlen >= subnet.max_prefixlen - 1
    if not small and address == subnet.network_address:
        return f"is the network address of {subnet}"
    if not small and subnet.version == 4 and address == subnet.broadcast_address:
        return f"is the broadcast address of {subnet}"
    return "" if _is_unicast(address) else "is not a unicast address that can be routed"


def _network(network: Network, host: Host) -> Iterator[Resource]:
    uplink, router, table = network["uplink"], network["role"] != "host", network["table"]
    outside = [dev for dev in dict.fromkeys((network["masquerade"], network["external"])) if dev]
    for option, dev in (("uplink", uplink), ("masquerade", network["masquerade"]), ("external", network["external"])):
        if dev and dev not in host.links and dev not in host.parts:
            raise MissingLink(str(network.error(option, f"{dev} does not exist; create it, or name another interface")))
    if network["ipv6"] and not host.ipv6:
        raise network.error("ipv6", "this kernel runs with IPv6 off (ipv6.disable=1); turn it on, or remove ipv6")
    yield INET
    yield ARP
    if network["masquerade"]:
        yield NAT
    if network["connections"]:
        subnets = [net for _, side in _sides(network) for net in _all(side)]
        yield shares(f"{network.name}/", network["connections"], subnets, network["masquerade"])
    if network["ipv4"]:
        if not router:
            yield from _senders(network["ipv4"], uplink, host)
        yield from forwarding(4, (uplink, *outside), host)
        if network["role"] != "router":
            yield from tap.proxy_arp(uplink)
        # The kernel sends redirects if they are enabled in `all` or for the device.
        yield Sysctl("net/ipv4/conf/all/send_redirects", "0")
        yield Sysctl(f"net/ipv4/conf/{uplink}/send_redirects", "0")
    if network["ipv6"]:
        yield Sysctl(f"net/ipv6/conf/{uplink}/disable_ipv6", "0")
        yield from tap.link_local(uplink, host)
        if uplink not in host.ra_links:
            yield Sysctl(f"net/ipv6/conf/{uplink}/accept_ra", "0")
        yield from forwarding(6, (uplink, *outside), host)
        if network["role"] != "router":
            yield from tap.proxy_ndp(uplink)
    # The uplink stays up after the last guest: other programs may use it by then.
    yield LinkAttribute(uplink, "state", "up", stays=True)
    yield from network.mode.kept_over_boots(network)
    for key, side in _sides(network):
        subnet = str(side["subnet"])
        if router:
            yield Address(uplink, f"{side['gateway']}/{side['subnet'].prefixlen}")
        else:
            yield Route(MAIN_TABLE, subnet, uplink)
            yield Route(table, "0.0.0.0/0" if key == "ipv4" else "::/0", uplink, str(side["gateway"]))
            yield NftElement("inet", f"known{key[-1]}", (f'"{uplink}"', str(side["gateway"])))
        for net in map(str, _all(side)):
            if network["masquerade"]:
                yield NftElement("inet", f"masquerade{key[-1]}", (net, f'"{network["masquerade"]}"'))
            if not net.endswith(("/32", "/128")):
                # The route to a single address is the guest's.
                yield Route(table, net, uplink)
            elif router:
                # On another node. The route of a guest of this one has a lower metric.
                yield Route(table, net, uplink, metric=_ELSEWHERE)
            yield from _rules(network["rule_priority"], net, table, router)


def _rules(priority: int, net: str, table: int, router: bool) -> Iterator[Rule]:
    """Yield the policy rules of one prefix of guests.

    Both look-ups are needed: with `from` alone, strict rp_filter drops what the uplink receives for guests. `to` comes first, in
    all networks alike: with `from` first, a guest's packets to another network of this host go to the gateway of its own, which
    may be this host. Behind them is a floor: what the table has no route for (its uplink is down, or it was flushed) must not
    leave by the host's own default route. On a router, that is the way out for what comes from guests.
    """
    yield Rule(priority, "to", net, table)
    yield Rule(priority + 1, "from", net, table)
    for selector in ("to",) if router else ("to", "from"):
        yield Rule(priority + 2, selector, net, UNREACHABLE)


def _senders(side: Mapping[str, Any], uplink: str, host: Host) -> Iterator[Resource]:
    """Yield the elements that set the sender of ARP requests on the uplink: by subnet, if other networks, or the host itself,
    have another one there."""
    sender = str(side["arp_source"])
    if uplink not in host.shared_uplinks:
        yield NftElement("arp", "arp_source", (f'"{uplink}"',), sender)
        return
    yield SENDERS
    for net in _all(side):
        yield NftElement("arp", "senders", (f'"{uplink}"', str(net)), sender)


def _arp_source(vif: Vif, network: Network) -> Iterator[Resource]:
    """Yield the elements that make the gateway the sender of ARP requests on the tap."""
    if network["ipv4"]:
        yield NftElement("arp", "arp_source", (f'"{vif.ifname}"',), str(network["ipv4"]["gateway"]))


def _paths(vif: Vif, network: Network) -> Iterator[Resource]:
    ifname = vif.ifname
    for address in vif.addresses:
        if network["permanent_neighbours"]:
            yield Neighbour(ifname, address, vif.mac)
        if values.version(address) == 6:
            yield ProxyNeighbour(network["uplink"], address)
        yield Route(network["table"], values.host(address), ifname, metric=vif.metric)
    if network["ipv6"]:
        yield ProxyNeighbour(ifname, str(network["ipv6"]["gateway"]))
    if network["ipv4"] and network["role"] == "router+host":
        # With arp_ignore=1 (used with load balancers), the kernel answers only for addresses of the receiving link.
        yield Address(ifname, f"{network['ipv4']['gateway']}/32")
