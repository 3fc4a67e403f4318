"""Brings up and takes down parts of the host: declared links, NATs and networks without guests, and networks that a front end
describes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..declared import compose
from ..errors import ConfigError, ConflictError, InputError
from ..model.declaration import Declared, Network
from ..model.guest import Domain
from ..model.objects import Device, LinkAttribute
from ..model.objects.bridge import Adoption
from ..model.owner import NEEDED, DescribedNetwork, HostOwner, Nic, Owner, Part, Preparation
from ..model.plan import Plan
from ..records import taken_down
from . import Session, apply, gather, parts, takeover
from .transaction import Transaction, build


@dataclass(frozen=True)
class Brought:
    """What `up` did. `up` are the parts that it brought up or changed, `down` those that are declared no more and went down,
    `failed` tells why others could not be brought up, `answers` has the gateways that were asked, with seconds, `silent` those
    that did not answer before either."""

    up: Sequence[Owner] = ()
    down: Sequence[Owner] = ()
    failed: Sequence[ConfigError] = ()
    answers: Mapping[str, float] = field(default_factory=dict)
    silent: Sequence[str] = ()


def up(session: Session, names: Sequence[str] = (), watch: takeover.Watch | None = None, confirm_within: float = 0) -> Brought:
    """Bring parts up, with all that they need; without names, everything that is declared: then a part that can't be brought up
    fails alone, with those that stand on it. If the host's way out depends on a change, it is put back unless the gateways
    answer as before, or, with `confirm_within` (seconds), unless takeover.confirm is called in time. Raises VmnetError, with
    nothing changed."""
    with session.records.lock():
        apply.recover(session)
        takeover.check_pending(session)
        transaction, failed = _up(session, names)
        known = parts.standing(session)
        done = Brought(_changed(session, transaction), [known[name] for name in transaction.drop if name in known], failed)
        if not (done.up or done.down):
            return done
        if down := taken_down.read(session.records):
            taken_down.write(session.records, down - {owner.id for owner in transaction.add})
        routes = session.kernel.default_routes() if watch else []
        if watch is None or not (confirm_within or takeover.concerns(session, transaction.plan, routes)):
            apply.run(session, transaction, takeover.TAKEOVER)
            return done
        attempt = takeover.begin(session, transaction, routes, watch, confirm_within)
    return done if confirm_within else replace(done, answers=takeover.conclude(session, attempt, watch), silent=attempt.silent)


def plan_up(session: Session, names: Sequence[str] = (), failed: list[ConfigError] | None = None) -> Plan:
    """What `up` would do now. If there is a list `failed`, why a part could not be brought up is added to it; else it is
    raised."""
    transaction, why = _up(session, names)
    if why and failed is None:
        raise why[0]
    if failed is not None:
        failed += why
    return transaction.plan


class TakenDown(NamedTuple):
    """What `down` did: the parts that it took down, those that stay, each with the labels of the owners that need it, and the
    gateways that did not answer before either."""

    down: list[HostOwner]
    stays: Sequence[tuple[HostOwner, list[str]]]
    silent: Sequence[str] = ()


def down(session: Session, names: Sequence[str] = (), watch: takeover.Watch | None = None) -> TakenDown:
    """The inverse of `up`; without names, of all that it brought up. What others need stays until they are gone. With `watch`,
    everything is put back, and KernelError raised, if the host's gateways do not answer afterwards as before; and a part that
    the host's way out depends on does not go with the last guest that needs it, but by another `down`."""
    records = session.records
    attempt = None
    with records.lock():
        apply.recover(session)
        takeover.check_pending(session)
        going, staying = _going(session, names)
        transaction = build(session, {}, [owner.id for owner in going])
        _check_leaving(session, transaction.plan)
        before = records.of_host()
        routes = session.kernel.default_routes() if watch and (transaction.plan or staying) else []
        needed = [
            owner for owner in staying if not (watch and takeover.concerns(session, build(session, {}, [owner.id]).plan, routes))
        ]
        if watch and transaction.plan and takeover.concerns(session, transaction.plan, routes):
            attempt = takeover.begin(session, transaction, routes, watch, 0)
        else:
            apply.remove(session, going)
    if attempt and watch:
        takeover.conclude(session, attempt, watch, "run `vmnet-hook down --force`")
    with records.lock():
        # Their last guest may have stopped meanwhile.
        apply.remove(session, [owner for owner in needed if not records.needing(owner.id)])
        for owner in needed:
            records.set_frontend(owner.id, NEEDED)
        taken_down.write(records, taken_down.read(records) | {owner.id for owner in (*going, *needed)})
    after = {owner.id for owner in records.of_host()}
    stays = [(owner, sorted(map(_named, records.needing(owner.id)))) for owner in staying]
    return TakenDown([owner for owner in before if owner.id not in after], stays, attempt.silent if attempt else ())


def _named(owner: Owner) -> str:
    return f"{owner.label} ({owner.ifname})" if isinstance(owner, Nic) else owner.label


def plan_down(session: Session, names: Sequence[str] = ()) -> Plan:
    """What `down` would do now."""
    going, _ = _going(session, names)
    return build(session, {}, [owner.id for owner in going]).plan


def prepare(session: Session, domain: Domain, networks: Sequence[Network], frontend: str) -> list[Owner]:
    """Bring up what guests on these networks need and is not up, before any tap exists. Returns what was brought up."""
    names = [name for network in networks for name in compose.needs(network, session.config)]
    with session.records.lock():
        apply.recover(session)
        host = gather(session, (name for network in networks for name in network.links()))
        wanted, needs = parts.needed(session, networks, host)
        if not wanted:
            return []
        # Until the guest's NICs are plugged, or it is clear that they never will be.
        start = Preparation.of(domain, frontend, session.records.now())
        transaction = build(session, {**wanted, start: {}}, (), {**needs, start.id: names})
        apply.run(session, transaction, f"prepare {domain.name}")
    return list(wanted)


def up_network(session: Session, network: Network, owner_id: str, frontend: str) -> bool:
    """Bring up a network that a front end describes, and no file declares. Returns whether that changed anything."""
    with session.records.lock():
        apply.recover(session)
        known = session.records.owners(id=owner_id)
        since = known[0].since if known else session.records.now()
        owner = DescribedNetwork(id=owner_id, name=network.name, frontend=frontend, since=since)
        host = gather(session, network.links())
        transaction = build(session, {owner: compose.compose_part(network, host)})
        _check_taken(session, network, owner_id, transaction)
        changed = _changed(session, transaction)
        if changed:
            apply.run(session, transaction, f"up {owner_id}")
    return bool(changed)


# --- what goes up ----------------------------------------------------------------------------------------------------------


def _up(session: Session, names: Sequence[str]) -> tuple[Transaction, list[ConfigError]]:
    """The transaction, and why parts are left out of it."""
    chosen = _chosen(session, names)
    failed: list[ConfigError] = []
    wanted, needs = parts.composed(session, chosen, [part.id for part in chosen], None if names else failed)
    # A part of a broken table is not one that is declared no more.
    drop = [] if names or session.config.errors else _undeclared(session, needs)
    transaction = build(session, wanted, drop, needs)
    _check_masters(session, transaction.plan)
    _check_leaving(session, transaction.plan)
    _check_left_behind(session, transaction)
    return transaction, failed


def _chosen(session: Session, names: Sequence[str]) -> list[Declared]:
    """The parts of these names; without any, all that stand on their own."""
    config = session.config
    if not names:
        alone = [network for network in config.networks.values() if compose.starts_with_host(network)]
        return [*(part for part in config.parts.values() if not part.implied_by), *alone]
    chosen: list[Declared] = []
    for part in (part for name in names for part in config.find(name)):
        if isinstance(part, Network) and not compose.comes_up_alone(part):
            below = [parts.find(config, other) for other in compose.needs(part, config)]
            if not below:
                raise part.mode.nothing_below(part)
            chosen += below
        else:
            chosen.append(part)
    return list({part.id: part for part in chosen}.values())


def _changed(session: Session, transaction: Transaction) -> list[Owner]:
    """The owners that a transaction changes anything for."""
    records, known = session.records, parts.standing(session)
    keys = {change.subject.key for change in transaction.plan}
    return [
        owner
        for owner, claims in transaction.add.items()
        if keys & set(claims) or known.get(owner.id) != owner or records.claimed(owner.id) != set(claims)
    ]


# --- what goes down --------------------------------------------------------------------------------------------------------


def _undeclared(session: Session, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Ids of parts that are up, no longer declared or no longer up without guests, and needed by no guest and by none of the
    parts that are `wanted`."""
    names = [part.id for part in session.records.parts() if part.id not in wanted]
    undeclared = [name for name in names if not (parts.is_declared(session.config, name) and _comes_up(session, name))]
    needed = {other for others in wanted.values() for other in others}
    but = [*undeclared, *wanted]
    return [name for name in undeclared if name not in needed and not session.records.claimed_elsewhere(f"needs {name}", but)]


def _comes_up(session: Session, name: str) -> bool:
    """Whether a part that is up would come up now: a network may have had a server."""
    part = session.config.part(name)
    return not isinstance(part, Network) or compose.comes_up_alone(part)


def _going(session: Session, names: Sequence[str]) -> tuple[list[Part], list[Part]]:
    """Which parts go, and which stay because another owner needs them."""
    owners = session.records.parts()
    for name in names:
        if not any(name in (owner.id, owner.name) for owner in owners):
            raise InputError(f"{name} is not up; see `vmnet-hook status`")
    if names:
        chosen = [owner for owner in owners if owner.id in names or owner.name in names]
    else:
        chosen = [owner for owner in owners if owner.is_asked_for]
    staying: list[Part] = []
    while kept := [
        owner
        for owner in chosen
        if session.records.claimed_elsewhere(f"needs {owner.id}", [o.id for o in chosen if o is not owner])
    ]:
        staying += kept
        chosen = [owner for owner in chosen if owner not in kept]
    return chosen, staying


# --- refusals --------------------------------------------------------------------------------------------------------------


def _check_masters(session: Session, changes: Plan) -> None:
    """Raise ConflictError if a link would be taken away from the bridge or bond of another program."""
    for have, want in ((change.have, change.want) for change in changes):
        if not (isinstance(want, LinkAttribute) and isinstance(have, LinkAttribute) and have.name == "master"):
            continue
        if have.value and want.value and session.records.recorded(have.key) is None:
            raise ConflictError(
                f"{have.ifname} is a port of {have.value} already; take it out (ip link set dev {have.ifname} nomaster) "
                f"or leave it out of {want.value}"
            )


def _check_leaving(session: Session, changes: Plan) -> None:
    """Raise ConflictError if a bridge or bond would be removed that has ports of other programs."""
    befores = [change.have for change in changes]
    leaving = {have.ifname for have in befores if isinstance(have, Adoption | LinkAttribute | Device)}
    for change in changes:
        device = change.have
        if isinstance(device, Device) and change.want is None and device.has_ports:
            if others := [port for port in session.kernel.ports(device.ifname) if port not in leaving]:
                remedy = f"stop the guests there, or take it out: ip link set dev {others[0]} nomaster"
                raise ConflictError(f"{device.type} {device.ifname} still has ports: {', '.join(others)}; {remedy}")


def _check_left_behind(session: Session, transaction: Transaction) -> None:
    """Raise ConflictError if a bridge that guests are on would lose a port because it is no longer declared, or declared under
    another name."""
    masters = [c.have for c in transaction.plan if isinstance(c.have, LinkAttribute) and c.have.name == "master"]
    for bridge, port in {have.value: have.ifname for have in masters}.items():
        name = f"bridge:{bridge}"
        stays = session.records.owners(id=name) and name not in transaction.drop
        if stays and not parts.is_declared(session.config, name):
            raise ConflictError(
                f"bridge {bridge} is no longer declared, but guests are on it, and {port} would leave it; "
                f"stop them first, or declare {bridge} again"
            )


def _check_taken(session: Session, network: Network, owner_id: str, transaction: Transaction) -> None:
    """Raise ConfigError if another owner wants one of the objects in another shape. No file declares the network, so `validate`
    does not find out."""
    for key, want in transaction.wants.items():
        found = session.records.recorded(key)
        if found and found[0] != want and session.records.claimed_elsewhere(key, [owner_id]):
            raise network.error("", f"{key} is set up already, with another value; see `vmnet-hook status`")
