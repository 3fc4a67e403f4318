"""From a domain and the declared networks to the resources that it needs. Pure: no I/O, no clock.

`bind` decides which NIC is on which network; `compose` turns one bound NIC into kernel objects.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .. import values
from ..errors import ConflictError, InputError
from ..links import link as hostlink
from ..model.declaration import LINKS, Config, Declared, Network
from ..model.facts import Host
from ..model.guest import Claim, Domain, Vif
from ..model.resource import Resource
from ..networks import MODES
from .sections import SECTIONS

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
        result.append((MODES[network.mode].bind(replace(vif.claimed(claim), domain=domain.name), network, claim.source), network))
    for claim in (*domain.claims, *file_claims):
        if id(claim) not in taken and not (domain.partial or domain.changing) and not _overruled(claim, domain):
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
    if not vif.bridge:
        return None
    found = [n for n in config.networks.values() if MODES[n.mode].bridge_of(n) == vif.bridge]
    # Of several networks on one VLAN-aware bridge, the bridge's name does not say which.
    if len(found) != 1:
        return None
    return Claim(found[0].name, vif.mac, source=f"{found[0].source}: networks.{found[0].name}.bridge")


def check_domain(domain: Domain, bound: Sequence[Bound]) -> None:
    """Raises ConflictError if two NICs of one domain hold one address of a network, or one tap."""
    seen: dict[tuple[str, str], Vif] = {}
    for vif, network in bound:
        for what in (*((network.name, address) for address in held(vif, network)), ("tap", vif.ifname)):
            if what[1] and what in seen:
                raise ConflictError(f"{domain.name}: NICs {seen[what].mac} and {vif.mac} both hold {what[1]}; change one")
            seen[what] = vif


def held(vif: Vif, network: Network) -> list[str]:
    """Those of a NIC's addresses that no other NIC on its network may have. A bridged guest's only say what it may send from:
    guests that share one by VRRP are both given it."""
    return [] if network.mode == "bridged" else list(vif.addresses)


def links_of(vif: Vif, network: Network) -> tuple[str, ...]:
    """The links whose state `compose` needs to know."""
    return (vif.ifname, *MODES[network.mode].links(network))


def links_below(names: Iterable[str], config: Config) -> tuple[str, ...]:
    """`names` and every link that declared ones among them stand on."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found[name] = None
            part = config.link(name)
            waiting += hostlink.lower_links(part) if part else ()
    return tuple(found)


def links_of_part(part: Declared) -> tuple[str, ...]:
    """The links whose state `compose_part` needs to know, but for those below."""
    if isinstance(part, Network):
        return MODES[part.mode].links(part)
    return (part.name,) if part.id.partition(":")[0] in LINKS else (part["out"],)


def needs(part: Declared, config: Config) -> tuple[str, ...]:
    """Ids of the parts that must be up for this one."""
    below = links_of_part(part) if isinstance(part, Network) or part.section == "nat" else hostlink.lower_links(part)
    return tuple(found.id for name in below if (found := config.link(name)))


def compose(vif: Vif, network: Network, host: Host) -> dict[str, Resource]:
    """Every resource that one NIC needs, those that it shares with its network included."""
    return {**compose_part(network, host), **compose_vif(vif, network, host)}


def compose_vif(vif: Vif, network: Network, host: Host) -> dict[str, Resource]:
    """What one NIC needs besides what `compose_part` has for its network."""
    return {resource.key: resource for resource in MODES[network.mode].vif_resources(vif, network, host)}


def withheld(vif: Vif, network: Network, resources: Mapping[str, Resource]) -> dict[str, Resource]:
    """Those of a NIC's resources that attract its traffic: a guest that still runs elsewhere must not have them yet."""
    attracts = MODES[network.mode].attracts
    return {key: resource for key, resource in resources.items() if attracts(resource, vif, network)}


def compose_part(part: Declared, host: Host) -> dict[str, Resource]:
    """The resources of a part of the host alone: of a network without any guest (a router node), of a link, of a NAT."""
    if isinstance(part, Network):
        found = MODES[part.mode].network_resources(part, host)
    else:
        found = SECTIONS[part.section].resources(part, host)
    return {resource.key: resource for resource in found}


def untracked(vif: Vif, network: Network) -> list[str]:
    """The addresses whose tracked connections are out of date when the guest comes in by live migration."""
    return MODES[network.mode].untracked(vif, network)


def announcements(vif: Vif, network: Network) -> list[tuple[str, str]]:
    """(link, address) pairs to announce when the guest runs here."""
    return MODES[network.mode].announcements(vif, network)
