"""Shared by modes: checksums; filter, sysctls and MAC of a tap that is not a bridge's port; the link to the outside; a guest's
addresses and prefixes, checked and sorted."""

from collections.abc import Callable, Iterator, Sequence

from .. import values
from ..errors import InputError
from ..model import blocks
from ..model.declaration import Network, Option
from ..model.facts import Host
from ..model.guest import Vif
from ..model.objects import Address, Ifb, LinkAttribute, NftChain, NftElement, ProxyNeighbour, Route, Sysctl
from ..model.objects.link import KERNEL_LINK_LOCAL
from ..model.resource import Resource
from ..model.ruleset import GUESTS

PROBE = Option(
    "probe",
    values.boolean,
    True,
    "ask for a guest's new addresses by ARP and ND before it starts, and refuse one that another machine has",
    "false",
)

CHECKED = "checked"
CHECKSUMS = Option(
    "checksums",
    values.one_of(CHECKED, "trusted"),
    CHECKED,
    "checked: the host finishes the checksums that guests leave to it before their filter judges a frame; trusted: the link by "
    "which it is sent does, and a guest can forge what the filter has judged",
    '"trusted"',
)

LIMIT = Option(
    "limit_neighbours",
    values.boolean,
    True,
    "limit how many neighbours a guest makes the host look for: 100 at once, then 20 a second",
    "false",
)

CONNECTIONS = Option(
    "connections",
    values.integer(16, 2**20),
    None,
    "where addresses are translated: tracked connections that one guest may have; default: no limit",
    "4096",
)

LINK_LOCAL = Option(
    "link_local",
    values.link_local,
    None,
    "a link-local address of every tap, which guests may use as their gateway, besides the one that the tap's MAC makes",
    '"fe80::1"',
)


def roles(family: str, vif: Vif) -> Iterator[Resource]:
    """Yield the nft elements that make the guest at a filtered tap a client, but for its roles."""
    for name in ("clients", *(role.replace("-", "_") + "s" for role in vif.roles or () if role != "switch")):
        yield NftElement(family, name, (f'"{vif.ifname}"',))


def is_switch(vif: Vif) -> bool:
    """Whether frames to link-local groups pass the guest's port."""
    return "switch" in (vif.roles or ())


def check_master(vif: Vif, network: Network, host: Host) -> None:
    """Raise InputError if the tap is a port of a bridge: packets that enter through a bridge bypass the filter."""
    link = host.links.get(vif.ifname)
    if link and link.master:
        raise InputError(
            f"tap {vif.ifname} is a port of {link.master}, and network {network.name} is routed; "
            f"make the NIC <interface type='ethernet'>, or put it on a bridged network"
        )


def proxy_arp(dev: str) -> Iterator[Resource]:
    """Yield the sysctls that make the host answer ARP on `dev` for every address that it routes to another link."""
    yield Sysctl(f"net/ipv4/conf/{dev}/proxy_arp", "1")
    yield proxy_delay(4, dev)


def proxy_ndp(dev: str) -> Iterator[Resource]:
    """Yield the sysctls that make the host answer ND on `dev` for its proxy entries."""
    yield Sysctl(f"net/ipv6/conf/{dev}/proxy_ndp", "1")
    yield proxy_delay(6, dev)


def link_local(dev: str, host: Host) -> Iterator[Resource]:
    """Yield a link-local address for a link that has none of its own: without one, the kernel solicits no neighbour there, so
    that guests reach no gateway."""
    if dev in host.bare6 and host.links[dev].address:
        yield Address(dev, f"{values.eui64(values.LINK_LOCAL, host.links[dev].address)}/64")


def proxy_delay(version: int, dev: str) -> Sysctl:
    """Return the sysctl that makes the kernel send proxied answers at once. By default it waits a random time of up to 0.8 s."""
    return Sysctl(f"net/ipv{version}/neigh/{dev}/proxy_delay", "0")


def source_filter(vif: Vif, ipv4: bool, ipv6: bool) -> Iterator[Resource]:
    """Yield the nft elements of one tap: the guest's own addresses and, unless its filter is off, the sources that the guest may
    send from. `ipv4` and `ipv6` are whether the network has that family."""
    tap, mac = f'"{vif.ifname}"', vif.mac
    if ipv6:
        yield NftElement("inet", "forwarding", (tap,))
    single4, single6, prefixes4, prefixes6 = by_kind(vif.addresses)
    for address in single4:
        # Otherwise the kernel, as a proxy, may answer the guest's own duplicate address probe.
        yield NftElement("arp", "own", (tap, address))
    if not vif.filter:
        return
    for family in ("inet", "arp"):
        yield NftElement(family, "guarded", (tap,))
        yield NftElement(family, "macs", (tap, mac))
    yield from roles("inet", vif)
    # The sender of a probe (RFC 5227) is 0.0.0.0.
    for address in (*single4, "0.0.0.0"):
        yield NftElement("arp", "sources", (tap, mac, address))
    yield from prefixed("arp", tap, prefixes4, ())
    yield from prefixed("inet", tap, prefixes4 if ipv4 else (), prefixes6 if ipv6 else ())
    if ipv4:
        for address in single4:
            yield NftElement("inet", "sources4", (tap, mac, address))
    if ipv6:
        for address in (*single6, str(values.eui64(values.LINK_LOCAL, mac))):
            yield NftElement("inet", "sources6", (tap, mac, address))


def prefixed(family: str, tap: str, prefixes4: Sequence[str], prefixes6: Sequence[str]) -> Iterator[Resource]:
    """Yield the nft elements of the prefixes that a guest may send from. `tap` is a part of a key."""
    if prefixes4 or prefixes6:
        yield NftElement(family, "prefixed", (tap,))
    for name, prefixes in (("blocks4", prefixes4), ("blocks6", prefixes6)):
        for key in blocks.keys(prefixes):
            yield NftElement(family, name, (tap, key))


def checked(vif: Vif, network: Network, host: Host, families: Sequence[str]) -> Iterator[Resource]:
    """Yield what finishes the checksums of a guest, for its filters in these families of nft; nothing where it has none, where
    they are trusted, or where the kernel has no ifb (`check` tells)."""
    if not is_checked(vif, network, host):
        return
    yield Ifb()
    yield GUESTS
    yield NftChain.of(vif.ifname, "switches" if is_switch(vif) else "guests")
    for family in families:
        yield NftElement(family, "checked", (f'"{vif.ifname}"',))


def is_checked(vif: Vif, network: Network, host: Host) -> bool:
    """Whether the checksums of a guest are finished before its filter."""
    return bool(vif.filter and network["checksums"] == CHECKED and host.ifb)


def limited(vif: Vif, network: Network) -> Iterator[Resource]:
    """Yield the element that limits how many neighbours the guest makes the host look for, if the network has the limit."""
    if network["limit_neighbours"]:
        yield NftElement("inet", "limited", (f'"{vif.ifname}"',))


def attracts(resource: Resource, vif: Vif, uplink: str) -> bool:
    """Return whether a resource attracts the traffic of a routed guest. Routes to the guest do, because with them the host also
    answers ARP for it on other links, and so do the proxy entries on `uplink`."""
    if isinstance(resource, Route):
        return resource.dev == vif.ifname
    return isinstance(resource, ProxyNeighbour) and resource.ifname == uplink and resource.address in vif.addresses


def sources(vif: Vif, where: str, unusable: Callable[[values.Subnet], str]) -> tuple[str, ...]:
    """Return the checked addresses and prefixes of a NIC. `unusable` returns the reason why a mode refuses one, "" if it does
    not. Raise InputError, for the claim at `where`."""
    found: list[str] = []
    for text in vif.addresses:
        try:
            net = values.source_subnet(text)
        except ValueError as error:
            raise InputError(f"{where}: {text!r} {error}") from None
        address, ip = values.spelt(net), net.network_address
        problem = unusable(net)
        if not problem and net.prefixlen:
            no_guests = ip.is_multicast or ip.is_unspecified or ip.is_loopback or address == "255.255.255.255"
            problem = "can't be a guest's; choose another" if no_guests else ""
        if problem or address in found:
            raise InputError(f"{where}: {address} {problem or 'is given twice; remove one'}")
        found.append(address)
    return tuple(found)


def by_kind(addresses: tuple[str, ...]) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return IPv4 addresses, IPv6 addresses, IPv4 prefixes, IPv6 prefixes."""
    found: tuple[list[str], list[str], list[str], list[str]] = ([], [], [], [])
    for address in addresses:
        found[2 * ("/" in address) + (values.version(address) == 6)].append(address)
    return found


def settings(
    vif: Vif, ipv4: bool, ipv6: bool, mac: str, mtu: int | None, host: Host, link_local: values.IPv6 | None = None
) -> Iterator[Resource]:
    """Yield sysctls and attributes of one tap, its state last. `mac` "" and `mtu` (bytes) None leave those of the tap
    unchanged. The tap gets the address `link_local`, if there is one, besides that of its MAC."""
    tap = vif.ifname
    if ipv4:
        yield Sysctl(f"net/ipv4/conf/{tap}/forwarding", "1")
        yield from proxy_arp(tap)
        yield Sysctl(f"net/ipv4/conf/{tap}/send_redirects", "0")
        # The kernel uses the larger of `all` and the device, so a tap without a filter needs 2 on a host with strict rp_filter. A
        # NIC with a metric may have a twin with the better route, so it needs 2 as well.
        strict = "2" if vif.metric else "1"
        yield Sysctl(f"net/ipv4/conf/{tap}/rp_filter", strict if vif.filter else "2" if host.rp_filter else "0")
    link = host.links.get(tap)
    mac = mac or (link.address if link else "")
    if ipv6:
        # EUI-64: the kernel then makes the same link-local address as we do when the link comes up.
        yield Sysctl(f"net/ipv6/conf/{tap}/addr_gen_mode", "0")
        yield Sysctl(f"net/ipv6/conf/{tap}/disable_ipv6", "0")
        yield Sysctl(f"net/ipv6/conf/{tap}/accept_ra", "0")
        yield Sysctl(f"net/ipv6/conf/{tap}/forwarding", "1")
        yield from proxy_ndp(tap)
    elif host.ipv6:
        yield Sysctl(f"net/ipv6/conf/{tap}/disable_ipv6", "1")
    if mtu:
        yield LinkAttribute(tap, "mtu", str(mtu))
    # Packets from a bridge's port have the bridge as iifname, and would bypass the filter.
    yield LinkAttribute(tap, "master", "")
    if mac:
        yield LinkAttribute(tap, "address", mac)
        if ipv6:
            if link_local == values.eui64(values.LINK_LOCAL, vif.mac):
                raise InputError(
                    f"NIC {vif.mac}: its link-local address is {link_local}, the link_local of network {vif.network}; "
                    f"give one of the two another"
                )
            own = {f"{values.eui64(values.LINK_LOCAL, mac)}/64": KERNEL_LINK_LOCAL}
            yield LinkAttribute(tap, "lladdr", LinkAttribute.spelled({f"{link_local}/64": 0, **own} if link_local else own))
    yield LinkAttribute(tap, "state", "up")
