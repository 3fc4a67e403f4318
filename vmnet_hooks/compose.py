"""From a domain and the declared networks to the resources that it needs. Pure: no I/O, no clock.

`bind` decides which NIC is on which network; `compose` turns one bound NIC into kernel objects.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from . import values
from .config import Config, Network
from .domain import Claim, Domain, Vif
from .errors import ConflictError, InputError
from .modes import MODES
from .state import Resource


@dataclass(frozen=True)
class Link:
    """What the kernel says of a link of interest."""

    index: int
    mtu: int
    address: str
    kind: str
    up: bool = True
    master: str = ""


@dataclass(frozen=True)
class Host:
    """What a composition may depend on besides its own input. `ra_links` are links whose default route was learned from a
    router advertisement; `rp_filter` is net.ipv4.conf.all.rp_filter; `router6` says that the host forwarded IPv6 before us."""

    links: Mapping[str, Link] = field(default_factory=dict)
    ipv6: bool = True
    ra_links: tuple[str, ...] = ()
    rp_filter: int = 0
    router6: bool = False


Bound = tuple[Vif, Network]


def bind(domain: Domain, config: Config, file_claims: Sequence[Claim]) -> list[Bound]:
    """The NICs that somebody claims, each with its network, its addresses checked and completed. In this order: the
    domain's metadata, domains.d/DOMAIN.toml, a bridged network whose bridge is the NIC's. What nothing claims is left alone.

    Raises InputError or ConfigError for a claim that can't be met.
    """
    macs = Counter(vif.mac for vif in domain.vifs)
    taken: set[int] = set()
    result = []
    for vif in domain.vifs:
        claim = _claim(vif, domain.claims, taken) or _claim(vif, file_claims, taken) or _by_bridge(vif, config)
        if claim is None:
            continue
        network = config.network(claim.network, claim.source)
        if macs[vif.mac] > 1:
            raise InputError(f"{claim.source}: {domain.name} has {macs[vif.mac]} NICs with MAC {vif.mac}; give each its own")
        try:
            values.mac(vif.mac)
        except ValueError as error:
            raise InputError(f"{claim.source}: MAC {vif.mac!r} {error}") from None
        try:
            if vif.ifname:
                values.ifname(vif.ifname)
        except ValueError as error:
            raise InputError(f"{claim.source}: tap {vif.ifname!r} {error}") from None
        if vif.ifname and vif.ifname in MODES[network.mode].links(network):
            raise InputError(f"{claim.source}: tap {vif.ifname} has the name of a link of network {network.name}; rename it")
        result.append((MODES[network.mode].bind(vif.claimed(claim), network, claim.source), network))
    for claim in (*domain.claims, *file_claims):
        if id(claim) not in taken and not domain.partial and not _overruled(claim, domain):
            have = ", ".join(vif.mac for vif in domain.vifs) or "none"
            what = f"MAC {claim.mac}" if claim.mac else f"ifname {claim.ifname}"
            raise InputError(f"{claim.source}: {domain.name} has no NIC with {what} (it has: {have}); correct or unset it")
    return result


def _matches(vif: Vif, claim: Claim) -> bool:
    if claim.mac and vif.mac:
        return claim.mac == vif.mac
    return bool(claim.ifname) and claim.ifname == vif.ifname


def _claim(vif: Vif, claims: Iterable[Claim], taken: set[int]) -> Claim | None:
    found = [claim for claim in claims if _matches(vif, claim)]
    if len(found) > 1:
        raise InputError(f"{found[1].source}: NIC {vif.mac} is already claimed by {found[0].source}; remove one")
    taken.update(map(id, found))
    return found[0] if found else None


def _overruled(claim: Claim, domain: Domain) -> bool:
    return any(_matches(vif, claim) for vif in domain.vifs)


def _by_bridge(vif: Vif, config: Config) -> Claim | None:
    for network in config.networks.values():
        if vif.bridge and MODES[network.mode].bridge_of(network) == vif.bridge:
            return Claim(network.name, vif.mac, source=f"{network.source}: networks.{network.name}.bridge")
    return None


def check_domain(domain: Domain, bound: Sequence[Bound]) -> None:
    """Raises ConflictError if two NICs of one domain hold one address of a network, or one tap."""
    seen: dict[tuple[str, str], Vif] = {}
    for vif, network in bound:
        for what in (*((network.name, address) for address in vif.addresses), ("tap", vif.ifname)):
            if what[1] and what in seen:
                raise ConflictError(f"{domain.name}: NICs {seen[what].mac} and {vif.mac} both hold {what[1]}; change one")
            seen[what] = vif


def links_of(vif: Vif, network: Network) -> tuple[str, ...]:
    """The links whose state `compose` needs to know."""
    return (vif.ifname, *MODES[network.mode].links(network))


def compose(vif: Vif, network: Network, host: Host) -> dict[str, Resource]:
    """Every resource that one NIC needs, those that it shares with its network included."""
    return {resource.key: resource for resource in MODES[network.mode].vif_resources(vif, network, host)}


def compose_network(network: Network, host: Host) -> dict[str, Resource]:
    """The resources of a network alone, without any guest (a router node)."""
    return {resource.key: resource for resource in MODES[network.mode].network_resources(network, host)}


def announcements(vif: Vif, network: Network) -> list[tuple[str, str]]:
    """(link, address) pairs to announce when the guest runs here."""
    return MODES[network.mode].announcements(vif, network)
