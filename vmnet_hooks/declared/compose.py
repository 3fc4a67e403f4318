"""From a domain and the declared networks to the resources that it needs. Pure: no I/O, no clock.

`bind` decides which NIC is on which network; `compose` turns one bound NIC into kernel objects.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache, lru_cache

from .. import values
from ..errors import ConflictError, InputError
from ..model.declaration import Config, Declared, Network
from ..model.facts import Host
from ..model.guest import Claim, Domain, Vif
from ..model.objects import NftElement
from ..model.resource import FORWARD_MAPS, Resource
from ..model.service import Service
from ..networks import reach
from ..services import SERVICES

Bound = tuple[Vif, Network]


def bind(domain: Domain, config: Config, file_claims: Sequence[Claim]) -> list[Bound]:
    """Return the claimed NICs, each with its network, its addresses checked and completed. A NIC is claimed, in this order, by
    the domain's metadata, by domains.d/DOMAIN.toml, or by a bridged network whose bridge is the NIC's.

    Raise InputError or ConfigError for a claim that can't be met.
    """
    # A NIC that is passed through may have the MAC of the one that stands in for it during a migration (<teaming>).
    vifs = [vif for vif in domain.vifs if not vif.without_tap]
    macs = Counter(vif.mac for vif in vifs)
    taken: set[int] = set()
    result = []
    for vif in vifs:
        claim = _claim(vif, domain.claims, taken) or _claim(vif, file_claims, taken)
        claim = by_wire(domain.name, vif, config, claim) if config.ends else claim
        claim = claim or _by_bridge(vif, config)
        if claim is None:
            continue
        network = config.network(claim.network, claim.source)
        at_wire = bool(network.mode.ends(network))
        if vif.mac and macs[vif.mac] > 1:
            raise InputError(f"{claim.source}: {domain.name} has {macs[vif.mac]} NICs with MAC {vif.mac}; give each its own")
        try:
            # Plain QEMU tells no MAC, and a wire needs none.
            if vif.mac or not at_wire:
                values.mac(vif.mac)
        except ValueError as error:
            raise InputError(f"{claim.source}: MAC {vif.mac!r} {error}") from None
        try:
            if vif.ifname:
                values.ifname(vif.ifname)
        except ValueError as error:
            raise InputError(f"{claim.source}: tap {vif.ifname!r} {error}") from None
        if vif.ifname and vif.ifname in network.links():
            raise InputError(f"{claim.source}: tap {vif.ifname} has the name of a link of network {network.name}; rename it")
        result.append((bind_nic(replace(vif.claimed(claim), domain=domain.name), network, config, claim.source), network))
    if not (domain.partial or domain.changing):
        _check_ends(domain, config)
    for claim in (*domain.claims, *file_claims):
        if id(claim) not in taken and not (domain.partial or domain.changing) and not _overruled(claim, vifs):
            other = next(
                (vif for vif in domain.vifs if _matches(vif, claim) or (claim.ifname and claim.ifname == vif.device)), None
            )
            if other:
                raise InputError(
                    f"{claim.source}: NIC {other.mac or other.device} of {domain.name} is "
                    f"<interface type='{other.without_tap}'>, which has no tap; unset the claim, or make it "
                    f"<interface type='ethernet'> or 'bridge'"
                )
            have = ", ".join(vif.mac for vif in vifs) or "none"
            what = f"MAC {claim.mac}" if claim.mac else f"ifname {claim.ifname}"
            raise InputError(f"{claim.source}: {domain.name} has no NIC with {what} (it has: {have}); correct or unset it")
    return result


def bind_nic(vif: Vif, network: Network, config: Config, where: str) -> Vif:
    """Return a claimed NIC as it is on the network, its addresses checked and completed. Raise InputError, for the claim at
    `where`, if the network can't have it."""
    roles = vif.roles if vif.roles is not None else network.options.get("roles", ())
    # Without a filter nothing drops what servers and queriers send.
    roles = tuple(role for role in roles if vif.filter or role in ("switch", "router"))
    vif = network.mode.bind(replace(vif, roles=roles), network, where)
    reserved = network.mode.reserved(vif, network, config.links)
    if taken := next((address for address in vif.addresses if address in reserved), ""):
        raise InputError(f"{where}: {taken} is {reserved[taken]}; choose another address")
    for service in offered(network):
        service.bind(vif, network, where)
    return vif


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


def _overruled(claim: Claim, vifs: Iterable[Vif]) -> bool:
    return any(_matches(vif, claim) for vif in vifs)


def by_wire(domain: str, vif: Vif, config: Config, claim: Claim | None) -> Claim | None:
    """Return the claim of the wire that a NIC is an end of, else `claim`. Raise InputError if `claim` is for something else."""
    wire = config.wire_at(domain, vif)
    if claim and claim.network in config.networks:
        network = config.networks[claim.network]
        # Of a NIC without a number, the records may tell.
        if network is not wire and network.mode.ends(network) and vif.index >= 0:
            ends = ", ".join(map(str, network.mode.ends(network)))
            raise InputError(
                f"{claim.source}: {network.label} is a wire, and this NIC is none of its ends ({ends}); unset the claim"
            )
        if wire and network is not wire:
            nic = vif.mac or vif.ifname
            raise InputError(
                f"{claim.source}: NIC {nic} of {domain} is an end of {wire.label}; unset the claim, or correct the ends"
            )
    if wire and vif.bridge:
        nic = vif.mac or vif.ifname
        raise InputError(
            f"{wire.source}: {wire.label}.ends: NIC {nic} of {domain} is on bridge {vif.bridge}; "
            f"make it <interface type='ethernet'>"
        )
    return Claim(wire.name, vif.mac, vif.ifname, filter=False, source=f"{wire.source}: {wire.label}") if wire else claim


def _check_ends(domain: Domain, config: Config) -> None:
    """Raise ConfigError for an end of a wire that a domain does not have, all of whose NICs are known."""
    for wire, end in config.ends.get(domain.name, ()):
        found = next((vif for vif in domain.vifs if end.is_of(vif) or (end.ifname and end.ifname == vif.device)), None)
        if found is None:
            have = ", ".join(f"{vif.index} ({vif.mac})" for vif in domain.vifs) or "none"
            raise wire.error("ends", f"{domain.name} has no NIC {end.nic} (it has: {have}); correct it")
        if found.without_tap:
            raise wire.error(
                "ends",
                f"NIC {end.nic} of {domain.name} is <interface type='{found.without_tap}'>, which has no tap; name another",
            )


def _by_bridge(vif: Vif, config: Config) -> Claim | None:
    if not vif.bridge:
        return None
    found = config.on_bridge(vif.bridge)
    # Several networks can be on one VLAN-aware bridge: its name alone does not tell which is meant.
    if len(found) != 1:
        return None
    return Claim(found[0].name, vif.mac, source=f"{found[0].source}: networks.{found[0].name}.bridge")


def check_domain(domain: Domain, bound: Sequence[Bound]) -> None:
    """Raise ConflictError if two NICs of one domain hold one address of a network, or one tap."""
    seen: dict[tuple[str, str], Vif] = {}
    for vif, network in bound:
        for what in (*((network.name, address) for address in held(vif, network)), ("tap", vif.ifname)):
            if what[1] and what in seen:
                raise ConflictError(f"{domain.name}: NICs {seen[what].mac} and {vif.mac} both hold {what[1]}; change one")
            seen[what] = vif


def held(vif: Vif, network: Network) -> list[str]:
    """Return those of a NIC's addresses that no other NIC on its network may have."""
    return [] if network.mode.shares_addresses else list(vif.addresses)


def links_of(vif: Vif, network: Network) -> tuple[str, ...]:
    """Return the links whose state `compose` depends on."""
    return (vif.ifname, *network.links())


def links_below(names: Iterable[str], config: Config) -> tuple[str, ...]:
    """Return `names` and every link that the declared ones among them stand on."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found[name] = None
            part = config.links.get(name)
            waiting += part.stands_on() if part else ()
    return tuple(found)


def needs(part: Declared, config: Config) -> tuple[str, ...]:
    """Return the ids of the parts that must be up for this one: the links that it stands on, and for guests their NAT."""
    links = (found.id for name in part.stands_on() if (found := config.links.get(name)))
    return (*links, *(nat.id for nat in _translating(part, config)))


def _translating(part: Declared, config: Config) -> Iterator[Declared]:
    """Yield the NAT that is declared for the guests of a network."""
    if config.nats and isinstance(part, Network):
        subnets = part.mode.subnets(part, config.links)
        yield from (nat for nat in config.nats if any(values.overlap(nat["subnet"], subnet) for subnet in subnets))


def offered(network: Network) -> list[Service]:
    """Return the services that a network offers. The files of others are not loaded."""
    return [SERVICES[name] for name in SERVICES if network.options.get(name) is not None]


def has_server(network: Network) -> bool:
    """Return whether a network has a server, which is up even without a guest."""
    return any(service.has_server(network) for service in offered(network))


def comes_up_alone(network: Network) -> bool:
    """Return whether `vmnet-hook up NETWORK` brings up a network that has no guest."""
    return network.mode.brings_up_alone or has_server(network)


def starts_with_host(network: Network) -> bool:
    """Return whether `vmnet-hook up` without names does."""
    return comes_up_alone(network) and network.mode.starts_with_host(network)


def compose(vif: Vif, network: Network, host: Host) -> dict[str, Resource]:
    """Return every resource that one NIC needs, by key, those that it shares with its network included."""
    return {**compose_part(network, host), **compose_vif(vif, network, host)}


def compose_vif(vif: Vif, network: Network, host: Host) -> dict[str, Resource]:
    """Return what one NIC needs besides what `compose_part` has for its network."""
    found = {resource.key: resource for resource in network.mode.vif_resources(vif, network, host)}
    for service in offered(network):
        found.update((resource.key, resource) for resource in service.vif_resources(vif, network, host))
    if host.forwards.parts:
        from ..links import forward  # Few guests have one.

        found.update((resource.key, resource) for resource in forward.vif_resources(vif, network, host))
    return found


def withheld(vif: Vif, network: Network, resources: Mapping[str, Resource]) -> dict[str, Resource]:
    """Return those of a NIC's resources that attract its traffic: a guest that still runs elsewhere must not have them yet."""
    attracts = network.mode.attracts
    return {key: r for key, r in resources.items() if attracts(r, vif, network) or _is_forwarded(r)}


def _is_forwarded(resource: Resource) -> bool:
    return isinstance(resource, NftElement) and resource.set in FORWARD_MAPS


def in_phase(phase: str, vif: Vif, network: Network, resources: Mapping[str, Resource]) -> dict[str, Resource]:
    """Return those of a NIC's resources that exist in a phase of its owner."""
    kept = withheld(vif, network, resources) if phase == "incoming" else {}
    return {key: resource for key, resource in resources.items() if key not in kept}


def compose_part(part: Declared, host: Host) -> dict[str, Resource]:
    """Return the resources of a part of the host alone: of a network without any guest (a router node), of a link, of a NAT."""
    _check_names(part, host)
    found = {resource.key: resource for resource in map(_once, part.resources(host))}
    if isinstance(part, Network):
        for service in offered(part):
            found.update((resource.key, resource) for resource in map(_once, service.network_resources(part, host)))
    return found


def _once(resource: Resource) -> Resource:
    """Return the first resource that was the same as this one: in a process that stays, it has its key and its record's line
    already when the next guest of the network comes."""
    return _first(resource, *[getattr(resource, name) for name in _uncompared(type(resource))])  # type: ignore[arg-type]


@lru_cache(1024)
def _first(resource: Resource, *_uncompared: object) -> Resource:
    return resource


@cache
def _uncompared(kind: type[Resource]) -> list[str]:
    """Return the fields by which == does not tell resources apart."""
    return [field.name for field in fields(kind) if not field.compare]


def _check_names(part: Declared, host: Host) -> None:
    """Raise ConfigError for an alternative name: an interface that had two names would be two interfaces to us."""
    reached = reach.links(part) if isinstance(part, Network) else ()
    for name in (*part.links(), *part.stands_on(), *reached):
        link = host.links.get(name)
        if link and link.name not in ("", name):
            option = next((key for key, value in part.options.items() if name == value or name in _items(value)), "")
            option = option or ("reach" if name in reached else "")
            raise part.error(option, f"{name} is an alternative name of {link.name}; write {link.name}")


def _items(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else ()
