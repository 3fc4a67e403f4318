"""Guests' NICs: plugged before the guest runs, announced when it does, unplugged after it. Every front end and the command line
come through here.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from .. import values
from ..declared import compose
from ..declared.configuration import claims
from ..errors import ConflictError, InputError, KernelError, VmnetError
from ..model import facts
from ..model.declaration import Config, Network
from ..model.guest import Domain, Vif, id_by_name, is_another
from ..model.objects import Address, LinkAttribute, Route, Rule
from ..model.objects.route import UNREACHABLE
from ..model.owner import GuestOwner, Nic, Owner, nic_id, nics
from ..model.plan import Plan
from ..model.resource import MAIN_TABLE, Resource
from ..model.ruleset import with_tables
from ..records.store import Store
from . import Session, apply, gather, lives
from .transaction import Transaction, build

Announcements = list[tuple[str, str, str]]
"""(link, address, tap) each."""

IsSame = Callable[[str], bool]
"""Whether the domain with an id is the guest in question."""


def bind(domain: Domain, declared: Config) -> list[compose.Bound]:
    """The domain's NICs that are claimed for a network. Raises InputError or ConfigError."""
    return compose.bind(domain, declared, claims(declared, domain.name))


def _all(bound: Sequence[compose.Bound]) -> Sequence[compose.Bound]:
    return bound


def plug(
    session: Session,
    domain: Domain,
    frontend: str,
    incoming: bool = False,
    bound: Sequence[compose.Bound] | None = None,
    is_running: bool = False,
    is_same: IsSame = is_another,
    settle: Callable[[Sequence[compose.Bound]], Sequence[compose.Bound]] = _all,
) -> list[Nic]:
    """Set up every claimed NIC of a domain whose taps exist. Returns the NICs. Raises VmnetError, with nothing changed.

    An `incoming` domain still runs elsewhere: what attracts its traffic waits for migration.arrive. `bound` is what `bind`
    returns, if that is known already. The addresses of a domain that is not running are asked for first: one that another
    machine answers for is refused. `is_same` returns whether the domain with an id is the same guest: its other half while it
    migrates within this host, or its device model. `settle` is given `bound` once the lock is held, and returns what is to be set
    up: another call may have changed what there is. If that is nothing, nothing is done."""
    bound = bind(domain, session.config) if bound is None else bound
    if not bound:
        # Something may have been claimed before.
        unplug(session, domain)
        return []
    with session.records.lock():
        apply.recover(session)
        if not (bound := settle(bound)):
            return []
        compose.check_domain(domain, bound)
        known = _known(session, domain)
        # Asked first, so that the answers come in meanwhile.
        asked = {} if is_running else _ask(session, known, bound, incoming)
        try:
            transaction = _plug(session, domain, bound, frontend, known, incoming=incoming, is_same=is_same, asked=asked)
            _check_unused(session, domain, asked)
            apply.run(session, transaction, f"plug {domain.name}")
        except VmnetError:
            if asked:
                session.kernel.forget(asked)
            raise
    return [nic for nic in nics(transaction.add) if nic.domain_id == domain.id]


def plan_plug(session: Session, domain: Domain, frontend: str) -> Plan:
    """What `plug` would do now. Taps that do not exist yet are taken to be fresh."""
    bound = bind(domain, session.config)
    compose.check_domain(domain, bound)
    return _plug(session, domain, bound, frontend, _known(session, domain), imagine=True).plan


def unplug(session: Session, domain: Domain, ifname: str = "") -> list[GuestOwner]:
    """Remove everything that was set up for a domain (or for one tap of it), from the records alone. Returns its owners. Does all
    it can; then raises KernelError with what it could not remove."""
    records = session.records
    with records.lock():
        apply.recover(session)
        owners = records.of_domain(domain.name, domain.uuid, ifname)
        if domain.uuid and not ifname:
            # Plugged while the domain ran, by <script>, which knows no UUID; without <downscript> no other call comes.
            owners += [owner for owner in records.of_domain("", id_by_name(domain.name)) if not lives(session, owner)]
        apply.remove(session, owners)
    return owners


def remove_owner(session: Session, owner_id: str) -> list[Owner]:
    """Remove what one owner claims, a NIC or a network that a front end described, by the records alone. Returns that owner, if
    there was one. Raises KernelError as `unplug` does."""
    with session.records.lock():
        apply.recover(session)
        owners = session.records.owners(id=owner_id)
        apply.remove(session, owners)
    return owners


def plan_unplug(session: Session, domain: Domain) -> Plan:
    """What `unplug` would do now."""
    return apply.removal(session, session.records.of_domain(domain.name, domain.uuid)).plan


def reassert(session: Session, domain: Domain) -> list[Nic]:
    """Set up again, from the records alone, what a running domain was given. Returns its NICs."""
    records = session.records
    with records.lock():
        apply.recover(session)
        owners = [nic for nic in nics(records.of_domain(domain.name, domain.uuid)) if lives(session, nic)]
        if not owners:
            return []
        needs = {owner.id: records.needs(owner.id) for owner in owners}
        wanted: dict[Owner, dict[str, Resource]] = {
            owner: with_tables(records.claims(owner.id)) for owner in owners if owner.phase != "incoming"
        }
        wanted.update(_arrived(session, owner) for owner in owners if owner.phase == "incoming")
        apply.run(session, build(session, wanted, (), needs), f"reassert {domain.name}")
    return nics(wanted)


def _arrived(session: Session, owner: Nic) -> tuple[Nic, dict[str, Resource]]:
    """A NIC that came in by live migration, and what it wants: its domain is called running, so it has arrived, unseen."""
    from .owners import wants  # Rare, and a plug does without it.

    arrived = replace(owner, phase="plugged")
    found, problem = wants(session, arrived)
    return (owner, with_tables(session.records.claims(owner.id))) if problem else (arrived, found)


def activate(
    declared: Config, records: Store, announce: Callable[[Announcements], None], domain: Domain, ifname: str = ""
) -> list[Nic]:
    """The guest runs here: announce its addresses. Needs no kernel but a raw socket, and so no session.

    A guest that comes in by live migration does not run yet when its hypervisor calls it running: it is not announced, and its
    NICs in phase incoming stay so. Returns the NICs, as they are now.
    """
    migrates = any([records.expected(mark) for mark in domain.marks])
    with records.lock():
        found = nics(records.of_domain(domain.name, domain.uuid, ifname))
        owners = [owner if owner.phase == "incoming" else replace(owner, phase="active") for owner in found]
        for owner in owners:
            records.set_phase(owner.id, owner.phase)
    if not migrates:
        announce(announcements(declared, [owner for owner in owners if owner.phase == "active"]))
    return owners


def announcements(declared: Config, owners: Iterable[Nic]) -> Announcements:
    """What is to be announced for NICs that run here."""
    known = [(owner, network) for owner in owners if (network := declared.networks.get(owner.network))]
    return [(*pair, owner.ifname) for owner, network in known for pair in network.mode.announcements(owner.vif, network)]


# --- the transaction of a plug -------------------------------------------------------------------------------------------


def _plug(
    session: Session,
    domain: Domain,
    bound: Sequence[compose.Bound],
    frontend: str,
    known: Mapping[str, Owner],
    imagine: bool = False,
    incoming: bool = False,
    is_same: IsSame = is_another,
    asked: Mapping[tuple[str, str], bool] | None = None,
) -> Transaction:
    """`imagine` that taps exist which do not. `known` is what `_known` returned, `asked` what `_ask` did."""
    host = gather(session, [name for vif, network in bound for name in compose.links_of(vif, network)])
    if session.config.forwards:
        from . import forwards  # Few hosts have any.

        host = forwards.seen(session, host, [vif for vif, _ in bound])
    networks = [network for _, network in bound]
    if session.config.ends:
        from . import wires  # Few hosts have any.

        going = known if not domain.partial else [nic_id(domain, vif.id or vif.mac) for vif, _ in bound]
        host = wires.seen(session, host, networks, bound, going)
    wanted, needs = _needed(session, networks, host)
    plugged: dict[str, compose.Bound] = {}
    for vif, network in bound:
        if not vif.ifname:
            raise InputError(f"{domain.name}: NIC {vif.mac} has no tap (no target dev in the XML); start the domain first")
        if vif.ifname not in host.links and not imagine:
            raise KernelError(f"{domain.name}: tap {vif.ifname} of NIC {vif.mac} does not exist; was the domain stopped?")
        plugged[nic_id(domain, vif.id or vif.mac)] = (vif, network)
    # A record of the same tap's name: its tap was another one, or another front end knows this one too.
    drop = [owner.id for vif, _ in plugged.values() for owner in _others_on(session, vif, domain) if owner.id not in plugged]
    shared = {network.name: compose.compose_part(network, host) for _, network in bound}
    now = session.records.now()
    for identity, (vif, network) in plugged.items():
        twin = [nic_id(domain, vif.twin)] if vif.twin else []
        drop += _check_holders(session, domain, vif, network, [*plugged, *drop, *twin], is_same, incoming)
        if not incoming and is_same is not is_another and _is_elsewhere(session, domain, vif, network, is_same):
            vif = replace(vif, shares_mac=True)
        wants = {**shared[network.name], **compose.compose_vif(vif, network, host)}
        waits = incoming and bool(compose.withheld(vif, network, wants))
        owner = _owner(known.get(identity), domain, vif, network, frontend, host, waits, now)
        # Also of what is withheld: a guest that can't arrive is not let in.
        drop += _check_paths(session, owner, wants, [*plugged, *drop, *twin], is_same if waits else is_another)
        claimed = session.records.claimed(identity) if identity in known else ()
        _check_usable(session, owner, claimed, wants, network, asked or {})
        wanted[owner] = compose.in_phase(owner.phase, vif, network, wants)
        needs[identity] = list(compose.needs(network, session.config))
        _check_shared(session, network, shared[network.name], [*plugged, *drop])
    if not domain.partial:
        # NICs that the domain had and that nothing claims any more.
        drop += [name for name in known if name not in plugged and name not in drop]
    moved = [nic for nic in nics(known.values()) if nic.id in plugged and plugged[nic.id][1].name != nic.network]
    if drop or moved or host.wired:
        from . import wires  # Few guests are at any.

        moved += nics(session.records.owners_among(drop))
        found = {owner: wants for owner, wants in wires.left(session, moved).items() if owner not in wanted}
        found |= wires.others(session, host, [network for network in networks if wires.at(network)], [*plugged, *drop])
        wanted |= found
        needs |= {owner.id: session.records.needs(owner.id) for owner in found}
    return build(session, wanted, drop, needs)


def _needed(
    session: Session, networks: Sequence[Network], host: facts.Host
) -> tuple[dict[Owner, dict[str, Resource]], dict[str, list[str]]]:
    """See parts.needed."""
    if not any(compose.needs(network, session.config) for network in networks):
        return {}, {}
    from .parts import needed  # Most networks stand on links that others declare.

    return needed(session, networks, host)


def _known(session: Session, domain: Domain) -> dict[str, Owner]:
    """What is recorded of a domain, by id."""
    return {owner.id: owner for owner in session.records.owners(domain_id=domain.id)}


def _owner(
    old: Owner | None, domain: Domain, vif: Vif, network: Network, frontend: str, host: facts.Host, waits: bool, now: float
) -> Nic:
    """The owner of a NIC: one that is plugged already stays in its phase, a new one may wait for its guest's arrival."""
    link = host.links.get(vif.ifname)
    owner = Nic.of(domain, vif, network.name, frontend, link.index if link else 0, now)
    is_same = isinstance(old, Nic) and link is not None and old.ifindex == link.index
    if old and is_same and old.phase in ("plugged", "active"):
        return replace(owner, phase=old.phase, since=old.since)
    if waits:
        return replace(owner, phase="incoming", since=old.since if old and is_same and old.phase == "incoming" else owner.since)
    return owner


# --- conflicts with other machines ---------------------------------------------------------------------------------------


def _ask(
    session: Session, recorded: Mapping[str, Owner], bound: Sequence[compose.Bound], incoming: bool
) -> dict[tuple[str, str], bool]:
    """Ask for the domain's new addresses on the links that they will be announced on. Returns for each (link, address) that was
    asked for whether the kernel knew a MAC before. Those of an `incoming` domain are in use, by itself."""
    known = {address for nic in nics(recorded.values()) for address in nic.addresses}
    pairs = [
        (link, address)
        for vif, network in bound
        if network.options.get("probe")
        for link, address in network.mode.announcements(vif, network)
    ]
    if known and not incoming:
        # `probe` may be off since: no answer counts any more.
        off = [
            pair
            for vif, network in bound
            if not network.options.get("probe")
            for pair in network.mode.announcements(vif, network)
        ]
        session.kernel.forget(off)
    given = [pair for pair in pairs if pair[1] in known]
    if given and not incoming and (in_use := session.kernel.answers(given)):
        # The guest has them, and is not refused for them any more. The answer may be old: `check` and announcements ask.
        session.kernel.ask([(link, address) for link, address, _ in in_use])
    pairs = [pair for pair in pairs if pair not in given]
    if incoming:
        # What answered earlier may have been this guest, on the host that it comes from.
        session.kernel.forget(pairs)
        return {}
    return session.kernel.ask(pairs) if pairs else {}


def _check_unused(session: Session, domain: Domain, asked: Iterable[tuple[str, str]]) -> None:
    """Raise ConflictError if a machine has answered for an address."""
    for link, address, mac in session.kernel.answers(asked) if asked else ():
        raise ConflictError(
            f"{domain.name}: {address} is in use: {mac} answers for it on {link}; "
            f"give the guest another, stop that machine, or set probe = false"
        )


# --- conflicts with other guests -----------------------------------------------------------------------------------------


def _others_on(session: Session, vif: Vif, domain: Domain) -> list[Nic]:
    """Records of the same tap. Raises ConflictError if the tap is another living guest's, and its name is one that an admin chose
    for both: any other name comes back when its first guest is gone, or two front ends know one guest."""
    found = session.records.nics(ifname=vif.ifname)
    for owner in found:
        if vif.is_named and owner.domain_id != domain.id and lives(session, owner):
            raise ConflictError(f"{domain.name}: {vif.ifname} is {owner.domain}'s; give NIC {vif.mac} another name (vifname)")
    return found


def _check_holders(
    session: Session, domain: Domain, vif: Vif, network: Network, but: Sequence[str], is_same: IsSame, incoming: bool
) -> list[str]:
    """Raise ConflictError if another guest that lives holds an address or the MAC, or the same guest, where only one of its taps
    can be reached. Returns the ids of those that do not live."""

    shares = incoming or network.mode.shares_addresses

    def conflict(what: str, holder: Nic) -> str:
        text = f"{domain.name}: {what} of network {network.name} is held by {holder.domain} ({holder.ifname})"
        if not is_same(holder.domain_id):
            return f"{text}; give NIC {vif.mac} another, or stop {holder.domain}"
        return "" if shares else f"{text}, which is the same guest: a route leads to one of the two; put both on a bridge"

    return _dead(session, ((holder, conflict(what, holder)) for what, holder in _holders(session.records, vif, network, but)))


def _is_elsewhere(session: Session, domain: Domain, vif: Vif, network: Network, is_same: IsSame) -> bool:
    """Whether the same guest has a NIC with the same MAC under another id: its device model's."""
    others = session.records.nics(network=network.name, mac=vif.mac)
    return any(nic.domain_id != domain.id and is_same(nic.domain_id) for nic in others)


def _holders(records: Store, vif: Vif, network: Network, but: Sequence[str]) -> Iterator[tuple[str, Nic]]:
    for address in compose.held(vif, network):
        if holder := records.holder(network.name, address, but):
            yield f"address {address}", holder
    if vif.mac and (holder := records.holder_of_mac(network.name, vif.mac, but)):
        yield f"MAC {vif.mac}", holder


def _check_paths(session: Session, owner: Nic, wants: Mapping[str, Resource], but: Sequence[str], is_same: IsSame) -> list[str]:
    """Raise ConflictError if a route to this NIC, or its gateway's address, is in the way of another guest's that lives.
    Returns the ids of those that do not. Networks may share a table: their names do not tell."""
    records = session.records
    routes = [r for r in wants.values() if isinstance(r, Route) and r.dev == owner.ifname]
    gateways = [r for r in wants.values() if isinstance(r, Address) and r.ifname == owner.ifname]
    found = [(r.dst, *other) for r in routes for other in records.claimants(Route.key_of(r.table, r.dst))]
    found += [(r.dst, *other) for r in routes for other in records.claimants_of_address(r.dst)]
    found += [(r.address, *other) for r in gateways for other in records.claimants(Route.key_of(MAIN_TABLE, r.address))]
    # What a guest shares with its network is in no other guest's way.
    others = [
        (address, other)
        for address, resource, other in found
        if isinstance(other, Nic) and other.id not in (owner.id, *but) and resource.link == other.ifname
    ]
    return _dead(
        session,
        (
            (
                other,
                f"{owner.domain}: {address.partition('/')[0]} is in use by {other.domain} ({other.ifname}); "
                f"give NIC {owner.mac} another address, or stop {other.domain}",
            )
            for address, other in others
            if not is_same(other.domain_id)
        ),
    )


def _check_usable(
    session: Session,
    owner: Nic,
    claimed: Container[str],
    wants: Mapping[str, Resource],
    network: Network,
    asked: Mapping[tuple[str, str], bool],
) -> None:
    """Raise ConflictError if the kernel keeps what is for a new address of a guest, on whatever link the host has it, or if a
    new address or prefix is, or contains, the next hop of a route of the host: the host would lose its way to it, and its
    neighbours theirs. What the guest has `claimed` before was looked at then."""
    paths = {r.key: r.dst for r in wants.values() if isinstance(r, Route) and r.dev == owner.ifname}
    if all(key in claimed for key in paths):
        return
    links = (*network.links(), *with_next_hops(session.config))
    found = session.kernel.unusable(list(paths.values()), links, owner.ifname, asked)
    if found is not None:
        dst, why = found
        what = f"{values.single(dst)}, a guest's address, {KEPT[why]}" if isinstance(why, str) else is_next_hop(dst, why)
        raise ConflictError(f"{owner.domain}: {what}; give the guest another")


def with_next_hops(config: Config) -> list[str]:
    """The declared links on which we may have made a route with a next hop."""
    return [name for name, part in config.links.items() if part.options.get("gateway") or part.options.get("routes")]


def is_next_hop(dst: str, route: Route) -> str:
    """What is wrong with a guest's address or prefix (ADDRESS/LENGTH) that is, or contains, the next hop of a route."""
    address = values.single(dst)
    what = f"{address}, a guest's address, is" if address else f"{dst}, a guest's prefix, contains {route.via},"
    name = "default" if route.dst.endswith("/0") else route.dst
    table = "" if route.table == MAIN_TABLE else f" table {route.table}"
    return f"{what} the next hop of the host's route {name} dev {route.dev}{table}"


KEPT = {
    "local": "is an address of the host",
    "broadcast": "is a broadcast address of the host's subnets",
    "anycast": "is the anycast address of the routers of a subnet of the host's (RFC 4291, 2.6.1)",
}
"""What is wrong with a guest's address whose packets the kernel keeps, by the type of the kernel's route."""


def _dead(session: Session, holders: Iterable[tuple[Nic, str]]) -> list[str]:
    """The ids of those whose tap is gone. Raises ConflictError, with the text beside it (if any), for one that lives."""
    dead = []
    for holder, conflict in holders:
        if not lives(session, holder):
            dead.append(holder.id)
        elif conflict:
            raise ConflictError(conflict)
    return dead


def _check_shared(session: Session, network: Network, shared: Mapping[str, Resource], but: Sequence[str]) -> None:
    """Raise ConflictError for an edit that moves the network as a whole: its running guests would no longer be reached."""
    # But for the uplink's link-local address: another program may have taken its own away since. Older versions had no floor.
    frame = {
        r.key: r
        for r in shared.values()
        if isinstance(r, Rule | LinkAttribute | Address) and "fe80:" not in r.key and getattr(r, "table", None) != UNREACHABLE
    }
    other = session.records.user(network.name, network.id, but) if frame else None
    if other is None:
        return
    given = session.records.claimed_among(other.id, frame)
    lacks = [r for key, r in frame.items() if key not in given]
    # Their `from` had the priority of `to`.
    older = {
        Rule.key_of(r.priority - 1, "from", r.subnet, r.table) for r in lacks if isinstance(r, Rule) and r.selector == "from"
    }
    if len(older) < len(lacks) or (older and session.records.claimed_among(other.id, older) != older):
        raise ConflictError(
            f"network {network.name}: its uplink, table, subnet, role or rule_priority was edited while "
            f"{other.user} uses it; move its guests with `vmnet-hook repair`, then try again"
        )
