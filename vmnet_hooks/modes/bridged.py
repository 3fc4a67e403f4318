"""Bridged guests: the tap is a port of a bridge of the host's."""

from .. import values
from ..config import Network, Option, Required
from ..domain import Vif
from ..errors import InputError
from ..state import LinkAttribute, Resource, Sysctl

OPTIONS = (
    Option("bridge", values.ifname, Required, "name the bridge that guests join"),
    Option("mtu", values.integer(68, 65535), None, "bytes; default: the bridge's own, so that a guest never lowers it"),
    Option("isolated", values.boolean, False, "guests reach the bridge's other ports, but not one another"),
)


def check(network: Network) -> None:
    """Nothing to check across keys."""


def check_together(networks: list[Network]) -> None:
    seen: dict[str, Network] = {}
    for network in networks:
        first = seen.setdefault(network["bridge"], network)
        if first is not network:
            raise network.error("bridge", f"{network['bridge']} is already the bridge of networks.{first.name}; use one of them")


def bridge_of(network: Network) -> str:
    return network["bridge"]


def links(network: Network) -> tuple[str, ...]:
    return (network["bridge"],)


def bind(vif: Vif, network: Network, where: str) -> Vif:
    for address in vif.addresses:
        try:
            values.address(address)
        except ValueError as error:
            raise InputError(f"{where}: {address!r} {error}") from None
    return vif


def network_resources(network: Network, host) -> list[Resource]:
    """None: the bridge is the admin's."""
    return []


def vif_resources(vif: Vif, network: Network, host) -> list[Resource]:
    """MTU before the tap joins, so that the bridge never shrinks to the tap's; the link goes up last.

    A tap's MAC starts with fe: a bridge takes the lowest MAC of its ports, and must not change its own for a guest.
    """
    bridge, tap = network["bridge"], vif.ifname
    link = host.links.get(bridge)
    if link is None:
        raise network.error("bridge", f"{bridge} does not exist; create it (ip link add {bridge} type bridge)")
    if link.kind != "bridge":
        raise network.error("bridge", f"{bridge} is not a bridge but {link.kind or 'a plain interface'}; name a bridge")
    return [
        LinkAttribute(tap, "mtu", str(network["mtu"] or link.mtu)),
        LinkAttribute(tap, "address", _tap_mac(vif, host)),
        *([Sysctl(f"net/ipv6/conf/{tap}/disable_ipv6", "1")] if host.ipv6 else []),
        LinkAttribute(tap, "master", bridge),
        *([LinkAttribute(tap, "isolated", "on")] if network["isolated"] else []),
        LinkAttribute(tap, "state", "up"),
    ]


def _tap_mac(vif: Vif, host) -> str:
    link = host.links.get(vif.ifname)
    if link and link.address.startswith("fe:") and link.address != vif.mac:
        return link.address
    # libvirt does the same: fe, or fa for a guest whose own MAC starts with fe.
    return ("fa" if vif.mac.startswith("fe:") else "fe") + vif.mac[2:]


def announcements(vif: Vif, network: Network) -> list[tuple[str, str]]:
    """None: the guest itself is on the wire."""
    return []
