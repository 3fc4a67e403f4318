"""Bridged guests: the tap is a port of a bridge, which the admin made, or which is declared and made with the first guest."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from .. import values
from ..errors import ConfigError, InputError
from ..model.declaration import ROLES, Config, Declared, Network, Option, Required
from ..model.facts import Host
from ..model.guest import Vif
from ..model.mode import Around, Implied, Lan, Mode, Own, Side
from ..model.objects import LinkAttribute, NftChain, NftElement, Sysctl
from ..model.objects.bridge import PortMac, PortVlans
from ..model.objects.nft import UNROUTED
from ..model.resource import Resource
from ..model.ruleset import BRIDGE, GUESTS, INET
from . import reach
from .tap import CHECKSUMS, by_kind, checked, is_checked, is_switch, prefixed, roles, sources

_LEASED = "leased"


def _antispoofing(value: object) -> bool | str:
    if value == _LEASED:
        return _LEASED
    if not isinstance(value, bool):
        raise ValueError(f'must be true, false or "{_LEASED}"')
    return value


OPTIONS = (
    Option("bridge", values.ifname, Required, "the bridge that guests join", '"br0"'),
    Option(
        "uplink",
        values.ifname,
        "",
        "make the bridge over this interface with the first guest, and remove it after the last",
        '"eth1"',
    ),
    Option(
        "vlan",
        values.integer(1, 4094),
        None,
        "with uplink: the VLAN of the uplink that is the bridge's port; on a VLAN-aware bridge: the guests' untagged VLAN; "
        "default: the bridge's pvid",
        "100",
    ),
    Option("tagged", values.vids, None, "VLAN-aware bridge: the VLANs that guests get tagged", '[10, "20-30"]'),
    Option(
        "mtu", values.integer(68, 65535), None, "bytes, of the tap; default: the bridge's, which therefore never shrinks", "1400"
    ),
    Option("isolated", values.boolean, False, "guests reach the bridge's other ports, but not one another", "true"),
    Option(
        "antispoof",
        _antispoofing,
        None,
        "guests send only from their own MAC and, if they are given addresses, from these; "
        '"leased": others only from what they lease; default: true if they are given any, or lease one',
        "true",
    ),
    CHECKSUMS,
    ROLES,
    reach.HOST,
    reach.NETWORKS,
)


class Bridged(Mode):
    options: tuple[Option, ...] = OPTIONS

    brings_up_alone = False
    shares_addresses = True

    def check(self, network: Network) -> None:
        if network["uplink"] and network["tagged"]:
            raise network.error("tagged", "is for VLAN-aware bridges; remove it, or uplink")
        if network["uplink"] == network["bridge"]:
            raise network.error("uplink", f"{network['uplink']} is the bridge itself; name the interface below")
        if network["vlan"] in (network["tagged"] or ()):
            raise network.error("tagged", f"{network['vlan']} is the untagged VLAN already; name it once")
        if network["uplink"] and network["vlan"]:
            name = _vlan_name(network)
            try:
                values.ifname(name)
            except ValueError:
                raise network.error(
                    "uplink", f"{name} is too long for a link's name; declare it in [vlans], and the bridge"
                ) from None

    def check_together(self, networks: Sequence[Network], declared: Config) -> None:
        """Raise ConfigError if networks share a bridge without different VLANs, or if a declared link is not suitable."""
        reach.check(networks, declared)
        if wrong := next((network for network in networks if network["antispoof"] == _LEASED and not _is_leased(network)), None):
            raise wrong.error("antispoof", f'"{_LEASED}" is for guests with leases; give the network a pool, or write true')
        seen: dict[str, Network] = {}
        for network in networks:
            name = network["bridge"]
            first = seen.setdefault(name, network)
            part = declared.links.get(name)
            own = part.options.get("pvid") if part else None
            vlans = [(n["vlan"] or own, n["tagged"]) for n in (first, network)]
            if first is not network and (vlans[0] == vlans[1] or first["uplink"] or network["uplink"]):
                raise network.error("bridge", f"{name} is already the bridge of {first.label}; use one of them")
            if part and not part.kind.takes_guests:
                raise network.error("bridge", f"{part.label} is a {part.kind.word}, not a bridge; name a bridge")
            if part and part.implied_by and not network["uplink"] and part.implied_by != network.name:
                raise network.error(
                    "bridge", f"{name} is that of networks.{part.implied_by}; claim that network for guests on it"
                )
            if network["uplink"] and part and part.implied_by != network.name:
                raise network.error("uplink", f"bridge {name} is declared in {part.source}: list the uplink in its ports instead")
            device = declared.parts.get(f"vlan:{_vlan_name(network)}") if network["uplink"] and network["vlan"] else None
            if device and (device["parent"], device["id"]) != (network["uplink"], network["vlan"]):
                raise network.error("vlan", f"{device.label} is VLAN {device['id']} of {device['parent']}; rename it, or use it")
            if part and _tags(network) and not network["uplink"] and not part.options.get("vlan_filtering"):
                raise network.error("vlan", f"{part.label} is not VLAN-aware; set vlan_filtering = true there, or remove vlan")

    def implied(self, network: Network) -> tuple[Implied, ...]:
        """Return the bridge over `uplink`, and the VLAN device between them. A declared VLAN device is used instead."""
        uplink = network["uplink"]
        if not uplink:
            return ()
        if not network["vlan"]:
            return (("bridges", network["bridge"], {"ports": [uplink]}),)
        name = _vlan_name(network)
        device = ("vlans", name, {"parent": uplink, "id": network["vlan"]})
        return (device, ("bridges", network["bridge"], {"ports": [name]}))

    def bind(self, vif: Vif, network: Network, where: str) -> Vif:
        """Check the guest's addresses and the prefixes that it may also send from. The VLANs of the NIC take precedence over
        those of the network."""
        vif = replace(vif, addresses=sources(vif, where, lambda _: ""))
        if network["uplink"]:
            if vif.vlan or vif.tagged:
                raise InputError(
                    f"{where}: the bridge of network {network.name} is over an uplink of one VLAN; drop vlan and tagged"
                )
            return vif
        # The NIC's own VLANs come before the network's.
        untagged = network["vlan"] if vif.vlan is None else vif.vlan
        tagged = network["tagged"] if vif.tagged is None else vif.tagged
        if untagged in (tagged or ()):
            raise InputError(f"{where}: VLAN {untagged} is both untagged and tagged; name it once")
        return replace(vif, vlan=untagged, tagged=tuple(tagged or ()))

    def reserved(self, vif: Vif, network: Network, links: Mapping[str, Declared]) -> Mapping[str, str]:
        part = links.get(network["bridge"])
        if not (part and _is_beside(vif, part)):
            return {}
        own = {str(address.ip): f"{part.label}'s own" for address in part["addresses"]}
        return {**own, str(part["arp_source"]): f"the arp_source of {part.label}"} if part["arp_source"] else own

    def links(self, network: Network) -> tuple[str, ...]:
        return (network["bridge"],)

    def subnets(self, network: Network, links: Mapping[str, Declared]) -> Sequence[values.Subnet]:
        bridge = links.get(network["bridge"])
        return [address.network for address in bridge["addresses"]] if bridge else []

    def lan(self, vif: Vif, address: values.IPAddress, network: Network, around: Around, own: Own) -> Lan | None:
        part = around.links.get(network["bridge"])
        found = next((other for other in part["addresses"] if address in other.network), None) if part else None
        if not (part and found and _is_beside(vif, part)):
            return None
        from ..links import bridge  # Most bridges have no addresses.

        is_router = bridge.forwards(part, around.nats)
        if found.version == 6:
            link = bridge.gateway_link(part) if part["anycast_gateway"] else part.name
            return Lan(found.network.prefixlen, router=link if is_router else "")
        return Lan(found.network.prefixlen, found.ip if is_router else None)

    def nothing_below(self, network: Network) -> ConfigError:
        problem = f"{network['bridge']} is not declared: there is nothing to bring up without a guest"
        return network.error("bridge", problem)

    def is_filtered(self, vif: Vif, network: Network) -> bool:
        wanted = network["antispoof"]
        if wanted is None:
            wanted = vif.addresses or _is_leased(network)
        return bool(wanted and vif.filter)

    def follows_leases(self, network: Network) -> bool:
        return bool(network["antispoof"] == _LEASED)

    def side(self, network: Network, host: Host) -> Side:
        """Return the bridge, and its shared gateway's link, if the host is the router of the guests on it."""
        part = host.parts.get(network["bridge"])
        if not part:
            return Side()
        from ..links import bridge  # Most bridges are not declared, or a guest is there that loaded it.

        if not bridge.forwards(part, host.nats):
            return Side()
        nats = bridge.translated(part, host.nats)
        return Side(part.kind.makes(part), False, tuple(dict.fromkeys(nat["out"] for nat in nats)) or None)

    def network_resources(self, network: Network, host: Host) -> Iterator[Resource]:
        yield from reach.asking(network, network["bridge"])
        yield from reach.within(network, network["bridge"])
        if _is_unrouted(network, host):
            yield GUESTS
            yield NftChain.of(network["bridge"], UNROUTED)
        part = host.parts.get(network["bridge"])
        yield from reach.ways(network, host, {address.version for address in part["addresses"]} if part else ())

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> list[Resource]:
        """Return the filter first, the MTU before the port (or the bridge would get the smaller MTU of the tap), the state last.

        A tap's MAC starts with fe: a bridge takes the lowest MAC of its ports, and its MAC must not change with a guest.
        """
        name, tap = network["bridge"], vif.ifname
        part, link = host.parts.get(name), host.links.get(name)
        if link is None and part is None:
            made = f"ip link add {name} type bridge; if it is libvirt's, virsh net-start NETWORK"
            raise network.error("bridge", f"{name} does not exist; declare it in [bridges], or create it ({made})")
        if link and not link.takes_guests:
            raise network.error("bridge", f"{name} is not a bridge but {link.kind or 'a plain interface'}; name a bridge")
        mtu = link.mtu if link else _mtu(name, host)
        return [
            *_beside_gateway(vif, network, host),
            *_ingress(vif, network, host),
            *_to_host(vif, network, host),
            LinkAttribute(tap, "mtu", str(vif.mtu or network["mtu"] or mtu)),
            LinkAttribute(tap, "address", _tap_mac(vif, host)),
            *([Sysctl(f"net/ipv6/conf/{tap}/disable_ipv6", "1")] if host.ipv6 else []),
            LinkAttribute(tap, "master", name),
            *([LinkAttribute(tap, "isolated", "on")] if network["isolated"] else []),
            *([] if is_switch(vif) else [LinkAttribute(tap, "guard", "on")]),
            *_vlans(vif, network, host),
            *_pinned(vif, network, host),
            LinkAttribute(tap, "state", "up"),
        ]

    def attracts(self, resource: Resource, vif: Vif, network: Network) -> bool:
        """Return whether a resource pins the guest's MAC to its port. A port that learns gets it with the guest's first frame."""
        return isinstance(resource, PortMac) or (isinstance(resource, LinkAttribute) and resource.name == "learning")

    def bridge_of(self, network: Network) -> str:
        return str(network["bridge"])


def _sources(vif: Vif, network: Network, host: Host) -> tuple[str, ...]:
    """Return the addresses and prefixes that a filtered guest may send from; none if it may send from any. One that is held to
    its leases forms its addresses of IPv6 by itself: it has those of the network."""
    if vif.addresses or network["antispoof"] != _LEASED:
        return vif.addresses
    from ..services import pool  # Loaded with the network's options.

    part, server = host.parts.get(network["bridge"]), host.servers.get(network.name)
    leased = server.leased.get(vif.mac, ()) if server else ()
    subnets = [str(own.network) for own in part["addresses"] if own.version == 6] if part else []
    return (*(ip for ip in leased if pool.may_lease(network, ip, vif.mac)), *subnets, str(values.LINK_LOCAL))


def _is_leased(network: Network) -> bool:
    if network.options.get("dhcp") is None:
        return False
    from ..services import pool  # Loaded with the network's options.

    return pool.is_leased(network)


def _vlan_name(network: Network) -> str:
    return f"{network['uplink']}.{network['vlan']}"


def _mtu(name: str, host: Host) -> int:
    """Return the MTU in bytes that the bridge will have."""
    # Most bridges exist already.
    from ..links.link import mtu_of

    return mtu_of(name, host)


def _tags(network: Network) -> bool:
    return bool(network["vlan"] or network["tagged"])


def _ingress(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    """Yield what judges the frames of one port."""
    if network.mode.is_filtered(vif, network):
        yield from _antispoof(vif, network, _sources(vif, network, host))
        yield from checked(vif, network, host, ("bridge",))
        if is_checked(vif, network, host):
            return
    yield GUESTS
    yield NftChain.of(vif.ifname, "switch_ports" if is_switch(vif) else "ports")


def _to_host(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    """Yield what limits what the guest at a port may send to the host, and through it if the host does not route for its
    bridge."""
    found = list(reach.host("bridge", vif, network))
    if _is_unrouted(network, host):
        found.append(NftElement("bridge", "unrouted", (f'"{vif.ifname}"',)))
    if found:
        yield BRIDGE
        yield INET
    yield from found


def _is_unrouted(network: Network, host: Host) -> bool:
    """Whether the host, by its declaration, does not route for the bridge. Of a bridge that the admin made, it is not known."""
    part, link = host.parts.get(network["bridge"]), host.links.get(network["bridge"])
    is_ours = part and not (part.implied_by and link and not link.ours)
    return bool(is_ours and network["reach"] != reach.ALL and not network.mode.side(network, host).links)


def _pinned(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    """Yield what keeps the MAC of a filtered guest at its port, in whatever frames of others it is the source. Behind a switch
    are MACs of others; and of two links with one MAC, only the guest knows which one it uses."""
    if not network.mode.is_filtered(vif, network) or is_switch(vif) or not vif.is_alone:
        return
    yield LinkAttribute(vif.ifname, "learning", "off")
    vids = {vid for port in _vlans(vif, network, host) for vid in (port.untagged, *values.numbers(port.tagged)) if vid}
    yield PortMac(vif.ifname, vif.mac, values.ranges(vids))


def _is_beside(vif: Vif, bridge: Declared) -> bool:
    """Return whether a bound NIC is in the VLAN that the bridge's own addresses are in."""
    vids = (vif.vlan, *(vif.tagged or ()))
    is_there = bool(bridge["addresses"] or bridge.adopts)
    return is_there and (not any(vids) or not bridge["vlan_filtering"] or bridge["pvid"] in vids)


def _beside_gateway(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    """Yield the nft elements of one port, filtered or not, that keep its guest from sending as the bridge itself. Raise
    InputError if it has the bridge's MAC."""
    part, link = host.parts.get(network["bridge"]), host.links.get(network["bridge"])
    if not (part and _is_beside(vif, part)):
        return
    from ..links.bridge import own_addresses, own_macs  # Most bridges have no addresses.

    macs = own_macs(part, link, host)
    if vif.mac in macs:
        raise InputError(f"NIC {vif.mac}: its MAC is that of {part.label}; give the NIC another")
    tap = f'"{vif.ifname}"'
    own = own_addresses(part, host)
    if taken := next((ip for ip in own if str(ip) in vif.addresses), None):
        raise InputError(f"NIC {vif.mac}: {taken} is {part.label}'s own; choose another address")
    if any(ip.version == 6 for ip in own):
        own += [values.eui64(values.LINK_LOCAL, mac) for mac in macs]
    yield BRIDGE
    yield NftElement("bridge", "beside_gateway", (tap,))
    for mac in macs:
        yield NftElement("bridge", "gateway_macs", (tap, mac))
    for ip in own:
        yield NftElement("bridge", f"gateways{ip.version}", (tap, str(ip)))
        if ip.version == 6:
            yield NftElement("bridge", "gateway_targets", (tap, f"{int(ip):#x}"))
        # The shared gateway answers a probe for its address: it never probes for it.
        if ip.version == 6 and not part["anycast_gateway"]:
            yield NftElement("bridge", "gateway_probes", (tap, f"{int(ip):#x}"))


def _antispoof(vif: Vif, network: Network, addresses: tuple[str, ...]) -> Iterator[Resource]:
    """Yield the nft elements of one port: the sources that its guest may send from. See ruleset.BRIDGE."""
    tap, mac = f'"{vif.ifname}"', vif.mac
    # The bridge learns the source of a frame to a link-local group before any chain sees the frame. With the gateway's MAC as
    # source, a guest could attract the gateway's traffic to its port.
    yield LinkAttribute(network["bridge"], "no_linklocal_learn", "1")
    yield BRIDGE
    yield NftElement("bridge", "guarded", (tap,))
    yield NftElement("bridge", "macs", (tap, mac))
    yield NftElement("bridge", "lladdrs", (tap, values.mac_number(mac)))
    yield from roles("bridge", vif)
    if not addresses:
        return
    yield NftElement("bridge", "addressed", (tap,))
    if addresses != vif.addresses:
        yield NftElement("bridge", "lessees", (tap, values.mac_number(mac)))
    if vif.tagged:
        yield NftElement("bridge", "tagged", (tap,))
    single4, single6, prefixes4, prefixes6 = by_kind(addresses)
    single = [ipaddress.ip_address(address) for address in (*single4, *single6)]
    for ip in dict.fromkeys((*single, values.eui64(values.LINK_LOCAL, mac))):
        yield NftElement("bridge", f"sources{ip.version}", (tap, mac, str(ip)))
        if ip.version == 6:
            yield NftElement("bridge", "targets", (tap, mac, f"{int(ip):#x}"))
        else:
            yield NftElement("bridge", "vrrp4", (tap, mac, f"{int(ip):#x}"))
    yield from prefixed("bridge", tap, prefixes4, prefixes6)


def _vlans(vif: Vif, network: Network, host: Host) -> list[PortVlans]:
    """Return the VLANs of the tap. Raise ConfigError for a tap without VLANs on a VLAN-aware bridge, which would be cut off."""
    name = network["bridge"]
    part, link = host.parts.get(name), host.links.get(name)
    aware = link.vlan_filtering if link else bool(part and part.options.get("vlan_filtering"))
    mine = () if network["uplink"] else tuple(filter(None, (vif.vlan, *(vif.tagged or ()))))
    if not aware:
        if mine:
            raise network.error("vlan", f"bridge {name} is not VLAN-aware (ip link set {name} type bridge vlan_filtering 1)")
        return []
    pvid = part.options.get("pvid") if part else None
    if not mine and not pvid:
        raise network.error("vlan", f"bridge {name} is VLAN-aware: name the guests' vlan, or tagged, or the bridge's pvid")
    for port in part.ports if part else ():
        if taken := next((v for v in mine if (port, v) in host.vlans), 0):
            other = host.vlans[port, taken]
            raise network.error("vlan", f"VLAN {taken} of {port} is taken by {other}, so {name} gets none of it; remove {other}")
    # As on Proxmox, a guest that names no VLAN is in the bridge's own.
    untagged = vif.vlan or (0 if mine else pvid)
    return [PortVlans(vif.ifname, untagged or 0, values.ranges(vif.tagged or ()))]


def _tap_mac(vif: Vif, host: Host) -> str:
    link = host.links.get(vif.ifname)
    if vif.port_mac:
        return vif.port_mac
    if link and link.address.startswith("fe:") and link.address != vif.mac:
        return link.address
    # The same as libvirt's: fe, or fa for a guest whose MAC starts with fe.
    return ("fa" if vif.mac.startswith("fe:") else "fe") + vif.mac[2:]
