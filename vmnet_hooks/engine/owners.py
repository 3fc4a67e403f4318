"""What owners in the records shall have: by today's configuration, or by their record where the configuration has lost them."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from ..declared import compose
from ..errors import ConfigError, InputError
from ..model.declaration import Declared
from ..model.facts import Host
from ..model.objects import LinkAttribute
from ..model.owner import Nic, Owner
from ..model.resource import Resource
from ..model.ruleset import with_tables
from . import Session, gather, index_of, name_now, parts


def wants(session: Session, owner: Owner) -> tuple[dict[str, Resource], str]:
    """What the owner shall have, and why it is not what the configuration has for it; "" if it is."""
    claims = session.records.claims(owner.id)
    # What no file declares can be composed if its network was added to the configuration.
    if not (owner.follows_files(session.config, session.records.needing) or owner.network_in(session.config)):
        return with_tables(claims), ""
    try:
        found = _composed(session, owner)
    except (ConfigError, InputError) as error:
        return with_tables(claims), str(error)
    # A link that lives on router advertisements comes and goes by itself: not the admin's doing.
    return {**found, **{key: r for key, r in claims.items() if r.stands}}, ""


def _composed(session: Session, owner: Owner) -> dict[str, Resource]:
    if isinstance(owner, Nic):
        return _composed_nic(session, owner)
    part = parts.find(session.config, owner.id)
    return compose.compose_part(part, _at_wires(session, part, gather(session, part.links())))


def _composed_nic(session: Session, nic: Nic) -> dict[str, Resource]:
    network = session.config.network(nic.network, nic.domain)
    # The port's MAC as it was given: it is no part of the record of the NIC.
    found = session.records.recorded(LinkAttribute.key_of(nic.ifname, "address"))
    port_mac = found[0].value if found and isinstance(found[0], LinkAttribute) else ""
    # Older versions did not record it.
    twins = session.records.nics(domain_id=nic.domain_id, mac=nic.mac)
    shares_mac = nic.shares_mac or any(twin.id != nic.id for twin in twins)
    vif = network.mode.bind(replace(nic.vif, port_mac=port_mac, shares_mac=shares_mac), network, nic.domain)
    host = gather(session, compose.links_of(vif, network))
    if session.config.forwards:
        from . import forwards  # Few hosts have any.

        host = forwards.seen(session, host, [vif])
    host = _at_wires(session, network, host)
    return compose.in_phase(nic.phase, vif, network, compose.compose(vif, network, host))


def _at_wires(session: Session, part: Declared, host: Host) -> Host:
    """The facts with the guests at the part, if that is a wire."""
    if not session.config.ends:
        return host
    from . import wires  # Few hosts have any.

    return wires.seen(session, host, [part])


def needs(session: Session, owner: Owner) -> list[str]:
    """Ids of the owners that must be up for the owner."""
    network = owner.network_in(session.config)
    return list(compose.needs(network, session.config)) if network else session.records.needs(owner.id)


def depth(session: Session, owner: Owner) -> int:
    """How many parts an owner stands on; guests come last."""
    if owner.is_on_top:
        return len(session.config.parts) + 1
    below = [other for name in session.records.needs(owner.id) for other in session.records.owners(id=name)]
    return 1 + max((depth(session, other) for other in below), default=0)


def dead(
    session: Session, owners: Sequence[Owner], gone: Collection[str] = (), asked: Collection[Owner] | None = None
) -> list[Owner]:
    """Those of the owners whose tap is gone, whose domain is among `gone` (ids) or was prepared and never started, or whose
    clean-up was not complete. `asked` are the owners as they were before hypervisors were asked which domains are gone: another
    one is of a guest that has started again since. None: these."""
    index, name, now = partial(index_of, session), partial(name_now, session), session.records.now()
    then = {owner.id: owner for owner in (owners if asked is None else asked)}
    return [
        owner
        for owner in owners
        if _left_over(session, owner) or owner.has_ended(gone if then.get(owner.id) == owner else (), index, name, now)
    ]


def _left_over(session: Session, owner: Owner) -> bool:
    """A part that is needed again is not one that could not be removed."""
    return owner.is_left_over and not session.records.claimed_elsewhere(f"needs {owner.id}", [owner.id])
