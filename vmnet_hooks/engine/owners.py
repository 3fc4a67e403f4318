"""What owners in the records shall have: by today's configuration, or by their record where the configuration has lost them."""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from ..declared import compose
from ..errors import ConfigError, InputError
from ..model.objects import LinkAttribute
from ..model.owner import NEEDED, Owner
from ..model.resource import Resource
from ..model.ruleset import with_nat
from . import Session, gather, lives, parts

PREPARE_SECONDS = 120.0
"""How long a domain may take from `prepare` to `start`; after that, its hypervisor's daemon was killed in between."""


def wants(session: Session, owner: Owner) -> tuple[dict[str, Resource], str]:
    """What the owner shall have, and why it is not what the configuration has for it; "" if it is."""
    claims = session.records.claims(owner.id)
    if not _is_from_files(session, owner):
        return with_nat(claims), ""
    try:
        found = _composed(session, owner)
    except (ConfigError, InputError) as error:
        return with_nat(claims), str(error)
    # A link that lives on router advertisements comes and goes by itself: not the admin's doing.
    return {**found, **{key: r for key, r in claims.items() if r.stands}}, ""


def _composed(session: Session, owner: Owner) -> dict[str, Resource]:
    if not owner.domain:
        part = parts.find(session.config, owner.id)
        return compose.compose_part(part, gather(session, part.links()))
    network = session.config.network(owner.network, owner.domain)
    # The port's MAC as it was given: it is no part of the record of the NIC.
    found = session.records.recorded(LinkAttribute.key_of(owner.ifname, "address"))
    port_mac = found[0].value if found and isinstance(found[0], LinkAttribute) else ""
    vif = network.mode.bind(replace(owner.vif, port_mac=port_mac), network, owner.domain)
    host = gather(session, compose.links_of(vif, network))
    return compose.in_phase(owner.phase, vif, network, compose.compose(vif, network, host))


def _is_from_files(session: Session, owner: Owner) -> bool:
    """Whether the configuration has a say in what an owner shall have: not where a front end described the network (whose
    name has a colon then) or where guests of such a network brought the part up."""
    if owner.is_described or owner.phase == "preparing" or (owner.domain and ":" in owner.network):
        return False
    if owner.domain or owner.frontend != NEEDED or parts.is_declared(session.config, owner.id):
        return True
    return any(_is_from_files(session, other) for other in session.records.needing(owner.id))


def needs(session: Session, owner: Owner) -> list[str]:
    """Ids of the owners that must be up for the owner."""
    network = session.config.networks.get(owner.network) if owner.domain else None
    return list(compose.needs(network, session.config)) if network else session.records.needs(owner.id)


def depth(session: Session, owner: Owner) -> int:
    """How many parts an owner stands on; guests come last."""
    if owner.domain:
        return len(session.config.parts) + 1
    below = [other for name in session.records.needs(owner.id) for other in session.records.owners(id=name)]
    return 1 + max((depth(session, other) for other in below), default=0)


def dead(session: Session, owners: Sequence[Owner], gone: Collection[str] = ()) -> list[Owner]:
    """Those of the owners whose tap is gone, whose domain is among `gone` (ids), or whose clean-up was not complete."""
    # Between `prepare` and `start` a domain has no tap, and its hypervisor may not call it running.
    fresh = time.time() - PREPARE_SECONDS
    return [
        owner
        for owner in owners
        if not (owner.phase == "preparing" and owner.since > fresh)
        and (_left_over(session, owner) or owner.domain_id in gone or (owner.domain and not lives(session, owner)))
    ]


def _left_over(session: Session, owner: Owner) -> bool:
    """A part that is needed again is not one that could not be removed."""
    return owner.phase == "leftover" and not session.records.claimed_elsewhere(f"needs {owner.id}", [owner.id])
