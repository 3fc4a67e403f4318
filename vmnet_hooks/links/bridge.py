"""Bridges: of NICs, VLAN devices, bonds, or of guests alone; with STP, VLAN filtering, and with a gateway address that is the
same on every node of a cluster.

The addresses of the shared gateway are on a macvlan of the bridge, whose MAC is the same on every node, too. The bridge keeps its
own MAC: STP identifies bridges by it, and the host uses it towards guests of other nodes. The bridge's ports to the outside pass
no frame from or to the shared MAC, and no ARP or ND about the shared addresses.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_interface as interface

from .. import values
from ..model.declaration import Config, Declared, Option
from ..model.facts import Host, Link
from ..model.objects import Address, Device, LinkAttribute, NftElement, Route, Sysctl
from ..model.objects.bridge import FdbEntry, PortVlans, address_of
from ..model.resource import MAIN_TABLE, Resource
from ..model.ruleset import ARP, forwarding, guarded_port, port_table
from . import link

OPTIONS = (
    Option("ports", link.ports, (), "the NICs, VLAN devices and bonds in it; guests' taps come and go by themselves", '["eth1"]'),
    link.ADOPT,
    Option("stp", values.boolean, False, "run the spanning tree protocol", "true"),
    Option(
        "forward_delay",
        values.integer(0, 30),
        None,
        "seconds that a port listens, and that it learns; default: 15 with stp, else 0",
        "4",
    ),
    Option("hello_time", values.integer(1, 10), None, "seconds between STP's hellos; default: 2", "1"),
    Option("max_age", values.integer(6, 40), None, "seconds after which STP's last hello is no longer valid; default: 20", "6"),
    Option("priority", values.integer(0, 65535), None, "STP: the lowest becomes the root; default: 32768", "4096"),
    Option("ageing", values.integer(0, 1000000), None, "seconds that a learnt MAC is remembered; default: 300", "60"),
    Option(
        "fdb_max_learned",
        values.integer(1, 2**32 - 1),
        None,
        "MACs that the bridge learns, of all ports together (Linux 6.7 or newer); default: no limit",
        "4096",
    ),
    Option(
        "group_fwd_mask", values.integer(0, 65528), None, "link-local groups to forward, one bit each: 0x4000 is LLDP", "0x4000"
    ),
    Option("mcast_snooping", values.boolean, True, "forward multicast only to ports that joined the group", "false"),
    Option(
        "vlan_filtering", values.boolean, False, "filter by VLAN: a port carries only the VLANs that are assigned to it", "true"
    ),
    Option(
        "vlans", values.vids, None, 'VLAN-aware: what the ports carry, tagged, as [10, "20-30"]; default: 2-4094', '[10, "20-30"]'
    ),
    Option(
        "pvid",
        values.integer(1, 4094),
        None,
        "VLAN-aware: the untagged VLAN of the ports, of the host itself, and of guests without a vlan; default: none",
        "1",
    ),
    Option("hw_port", values.ifname, "", "the port whose MAC is the bridge's; default: the first one", '"eth1"'),
    Option(
        "tx_checksum",
        values.boolean,
        True,
        "false: the host computes the checksums of packets that it sends into the bridge",
        "false",
    ),
    Option(
        "forwarding",
        values.boolean,
        None,
        "route packets that arrive on the bridge; default: only with anycast_gateway or [nat]",
        "true",
    ),
    Option("anycast_gateway", values.boolean, False, "`addresses` are the guests' gateway, the same on every node", "true"),
    Option(
        "gateway_mac",
        values.mac_or_none,
        "",
        "the shared gateway's MAC, the same on every node; default: made from `addresses`",
        '"02:00:00:00:00:fe"',
    ),
    Option(
        "arp_source",
        values.address_of(4),
        None,
        "anycast_gateway: sender of the host's ARP requests, an unused address of the subnet; default: 0.0.0.0, as in a probe",
        '"192.0.2.254"',
    ),
    *link.OPTIONS,
)


class Bridge(link.LinkKind):
    takes_guests = True

    options = OPTIONS

    def check(self, part: Declared) -> None:
        super().check(part)
        if part["hw_port"] and part["hw_port"] not in part["ports"]:
            raise part.error("hw_port", f"{part['hw_port']} is not one of its ports; add it to `ports`")
        delay = part["forward_delay"]
        if part["stp"] and delay is not None and delay < 2:
            raise part.error("forward_delay", f"{delay} is too short for STP; use 2 to 30")
        if part["stp"] and part["max_age"] is not None and part["max_age"] > 2 * ((delay if delay is not None else 15) - 1):
            raise part.error(
                "max_age", f"{part['max_age']} is more than 2 × (forward_delay - 1); IEEE 802.1D, 8.5.2.2: loops may come up"
            )
        for option in ("forward_delay", "hello_time", "max_age", "priority"):
            if part[option] is not None and not part["stp"] and not (option == "forward_delay" and not delay):
                raise part.error(option, "is of no use without STP; set stp = true, or remove it")
        if part["vlans"] is not None and not part["vlan_filtering"]:
            raise part.error("vlans", "is of no use without vlan_filtering = true")
        if part["pvid"] is not None and not part["vlan_filtering"]:
            raise part.error("pvid", "is of no use without vlan_filtering = true")
        if (part["group_fwd_mask"] or 0) & 7:
            raise part.error(
                "group_fwd_mask", "the kernel never forwards groups 0, 1 and 2 (STP, pause, LACP); clear bits 0 to 2"
            )
        for option in ("gateway_mac", "arp_source"):
            if part[option] and not part["anycast_gateway"]:
                raise part.error(option, "is of no use without anycast_gateway = true")
        if part["anycast_gateway"]:
            _check_gateway(part)
        if part["vlan_filtering"] and part["pvid"] is None:
            # The host's own frames would be in no VLAN, so that no port would carry them.
            if option := next((key for key in ("addresses", "gateway", "routes", "adopt") if part[key]), ""):
                remedy = f"set pvid = 1, or give the address to a VLAN device on {part.name}, in [vlans]"
                raise part.error(option, f"the bridge is VLAN-aware, and the host is in none of its VLANs; {remedy}")

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError if the link of a gateway has the name of another link, or if a network leads through a bridge
        that the host is in no VLAN of."""
        super().check_together(parts, declared)
        for part in (part for part in parts if part["vlan_filtering"] and part["pvid"] is None):
            for network in declared.networks.values():
                if part.name in network.links() and network not in declared.with_bridge(part.name):
                    problem = f"networks.{network.name} leads through the bridge, and the host is in none of its VLANs"
                    raise part.error("pvid", f"{problem}; set pvid = 1, or name a VLAN device on {part.name} there")
        taken = dict(declared.links)
        for part in parts:
            if part["anycast_gateway"]:
                other = taken.setdefault(gateway_link(part), part)
                if other is not part:
                    problem = f"its gateway's link {gateway_link(part)} is declared in {other.kind.section}; rename the bridge"
                    raise part.error("", problem)

    def resources(self, part: Declared, host: Host) -> Iterator[Resource]:
        name = part.name
        existing = host.links.get(name)
        if existing and not existing.ours and part.implied_by:
            if existing.kind != "bridge":
                raise part.error("", f"{name} is not a bridge but {existing.kind or 'a plain interface'}; name a bridge")
            # The admin made the bridge: its settings are not changed, and it is not removed with the last guest.
            for port in part["ports"]:
                yield from link.port(part, port, host)
            return
        yield link.device(part, "bridge", host, options=tuple(_settings(part)))
        for port in part["ports"]:
            yield from link.port(part, port, host)
            if part["vlan_filtering"]:
                yield from _trunk(part, port, host)
        yield from link.adoption(part, host)
        if part["pvid"]:
            yield link.own_vlans(part, host)
        if part["fdb_max_learned"] and host.fdb_limit:
            yield LinkAttribute(name, "fdb_max_learned", str(part["fdb_max_learned"]))
        if not part["tx_checksum"]:
            yield LinkAttribute(name, "tx", "off")
        # A bridge without a MAC of its own takes the lowest of its ports' MACs, and changes it as guests come and go.
        mac = link.mac_of(name, host) or link.made_up_mac(name, host)
        if part["anycast_gateway"]:
            yield from link.attributes(part, host, mac, addresses=False)
            yield from _gateway(part, host)
        else:
            yield from link.attributes(part, host, mac, host.adoptions.get(part.adopts))
        if forwards(part, host.nats):
            subnets = [a.network for a in part["addresses"]]
            inside = gateway_link(part) if part["anycast_gateway"] else name
            for version in sorted({subnet.version for subnet in subnets} or {4}):
                yield from forwarding(version, (name, inside) if inside != name else (name,), host)

    def makes(self, part: Declared) -> tuple[str, ...]:
        return (part.name, gateway_link(part)) if part["anycast_gateway"] else (part.name,)

    def tables(self, part: Declared) -> tuple[str, ...]:
        return tuple(map(port_table, part.ports)) if part["anycast_gateway"] else ()


def _check_gateway(part: Declared) -> None:
    if not part["addresses"]:
        raise part.error("anycast_gateway", "needs `addresses`: the guests' gateway")
    if part["vlan_filtering"]:
        raise part.error("anycast_gateway", "can't be on a VLAN-aware bridge; declare a bridge per VLAN")
    if part["gateway"]:
        raise part.error("gateway", "the bridge's addresses are the guests' gateway; the host's own leads through another link")
    if part["arp_source"]:
        mine = [a for a in part["addresses"] if part["arp_source"] in a.network]
        if not mine or any(part["arp_source"] == a.ip for a in part["addresses"]):
            raise part.error("arp_source", f"{part['arp_source']} is no unused address of the bridge's subnets; choose another")


def gateway_link(part: Declared) -> str:
    """Return the name of the macvlan that holds the shared gateway."""
    return f"{part.name[:12]}-gw"


def gateway_mac(part: Declared) -> str:
    """Return the shared gateway's MAC: by default a locally administered one, the same on all nodes with the same `addresses`."""
    return part["gateway_mac"] or link.local_mac(",".join(sorted(str(a) for a in part["addresses"])))


def translated(part: Declared, nats: Iterable[Declared]) -> list[Declared]:
    """Return which of the declared NAT is of the subnets of a bridge."""
    subnets = [address.network for address in part["addresses"]]
    return [nat for nat in nats if any(values.overlap(nat["subnet"], subnet) for subnet in subnets)]


def forwards(part: Declared, nats: Iterable[Declared]) -> bool:
    """Return whether the host routes packets that arrive on a bridge; `nats` is all declared NAT."""
    if part["forwarding"] is None:
        return bool(part["anycast_gateway"] or translated(part, nats))
    return bool(part["forwarding"])


def not_routed(part: Declared) -> str:
    """Return that the host does not route packets that arrive on a bridge, with the remedy."""
    if part.implied_by:
        return f"the host forwards nothing of networks.{part.implied_by}; choose another `forward` there"
    return f"the host does not route for {part.label}; set forwarding = true there"


def own_addresses(part: Declared, host: Host) -> list[values.IPAddress]:
    """Return the host's own addresses on a bridge: declared, or taken over from a port."""
    adopted = host.adoptions.get(part.adopts)
    taken = [interface(address_of(item).split(" ")[0]) for item in adopted.addresses] if adopted else []
    return list(dict.fromkeys(address.ip for address in (*part["addresses"], *taken) if not address.ip.is_link_local))


def own_macs(part: Declared, existing: Link | None, host: Host) -> tuple[str, ...]:
    """Return the MACs that the host has on a bridge: the bridge's own and that of the shared gateway."""
    mac = existing.address if existing else link.mac_of(part.name, host) or link.made_up_mac(part.name, host)
    return (mac, gateway_mac(part)) if part["anycast_gateway"] else (mac,)


def _settings(part: Declared) -> Iterator[tuple[str, str]]:
    """Yield the settings of the bridge as iproute2 writes them: times in hundredths of a second."""
    delay = part["forward_delay"] if part["forward_delay"] is not None else 15 if part["stp"] else 0
    yield "stp_state", str(int(part["stp"]))
    yield "forward_delay", str(100 * delay)
    # Defaults are written too, so that an option removed from the configuration is reset on the bridge.
    for option, word, scale, default in (
        ("hello_time", "hello_time", 100, 2),
        ("max_age", "max_age", 100, 20),
        ("ageing", "ageing_time", 100, 300),
        ("priority", "priority", 1, 32768),
        ("group_fwd_mask", "group_fwd_mask", 1, 0),
    ):
        yield word, str(scale * (default if part[option] is None else part[option]))
    yield "mcast_snooping", str(int(part["mcast_snooping"]))
    if part["vlan_filtering"]:
        yield "vlan_filtering", "1"
        # With the kernel's default, every new tap would be in VLAN 1.
        yield "vlan_default_pvid", "0"


def _trunk(part: Declared, port: str, host: Host) -> Iterator[Resource]:
    vlans = part["vlans"]
    if vlans is None:
        vlans = tuple(range(2, 4095))
    elif taken := next((v for v in vlans if (port, v) in host.vlans), 0):
        other = host.vlans[port, taken]
        raise part.error("vlans", f"VLAN {taken} of {port} is taken by {other}, so the bridge gets none of it; remove {other}")
    pvid = part["pvid"] or 0
    yield PortVlans(port, pvid, values.ranges(set(vlans) - {pvid}), adopted=port == part["adopt"])


def _gateway(part: Declared, host: Host) -> Iterator[Resource]:
    name, inner, mac = part.name, gateway_link(part), gateway_mac(part)
    yield Device(inner, "macvlan", name, (("mode", "private"),), level=link.level(name, host) + 1)
    yield LinkAttribute(inner, "address", mac)
    yield FdbEntry(name, mac)
    versions = {a.version for a in part["addresses"]}
    if 4 in versions:
        # Otherwise the kernel answers ARP for all of the host's addresses on both links, with two MACs.
        for dev in (name, inner):
            yield Sysctl(f"net/ipv4/conf/{dev}/arp_ignore", "1")
        # Traffic from guests comes in here, but leaves by the bridge. The kernel uses the larger of `all` and the device.
        yield Sysctl(f"net/ipv4/conf/{inner}/rp_filter", "2" if host.rp_filter else "0")
        yield ARP
        yield NftElement("arp", "arp_source", (f'"{name}"',), str(part["arp_source"] or "0.0.0.0"))
    if host.ipv6:
        yield Sysctl(f"net/ipv6/conf/{inner}/disable_ipv6", "0" if 6 in versions else "1")
        if 6 in versions:
            yield Sysctl(f"net/ipv6/conf/{inner}/accept_ra", "0")
            yield Sysctl(f"net/ipv6/conf/{inner}/addr_gen_mode", "0")
            # Every node has the same address: duplicate address detection would take it from all but one.
            yield Sysctl(f"net/ipv6/conf/{inner}/accept_dad", "0")
    shared = [str(a.ip) for a in part["addresses"]]
    if 6 in versions:
        shared.append(str(values.eui64(values.LINK_LOCAL, mac)))
    for port in part["ports"]:
        yield guarded_port(port, mac, shared)
    yield LinkAttribute(inner, "state", "up")
    for address in part["addresses"]:
        yield Address(inner, f"{address.ip}/{address.max_prefixlen}")
        # The kernel refuses an IPv6 route with a source address of another link; it selects the gateway's address anyway.
        yield Route(MAIN_TABLE, str(address.network), name, src=str(address.ip) if address.version == 4 else "")
