"""Declared parts of the host (links, NATs, networks without guests) as owners: which are needed, what they are made of.

A part's owner claims what the part itself is made of, and *needs* the parts below. One that was asked for by name (or with
all) has frontend ASKED_FOR; one that is up because another part or a guest needs it has NEEDED, and goes with the last of them.
"""

from collections.abc import Callable, Iterable

from ..declared import compose
from ..declared.configuration import RUNTIME
from ..errors import ConfigError, MissingLink, VmnetError
from ..model import facts
from ..model.declaration import Config, Declared, Network
from ..model.objects import Device
from ..model.owner import ASKED_FOR, NEEDED, HostOwner, Owner, Part, part_label
from ..model.resource import Resource
from . import Session, gather

Composed = tuple[dict[Owner, dict[str, Resource]], dict[str, list[str]]]
"""What owners want, and by their ids what they need."""


def find(config: Config, part_id: str) -> Declared:
    """The part with that id. Raises ConfigError if it is no longer declared."""
    part = config.part(part_id)
    if part is None:
        config.check_usable(part_id)
        raise ConfigError(f"{part_label(part_id)} is no longer declared in {config.directory}; see `vmnet-hook down {part_id}`")
    return part


def changes_by_up(part: Declared) -> bool:
    """Whether an edit of a part is for `up`, which asks the gateways, and not for `repair`."""
    return part.kind.is_link and not part.implied_by


def is_declared(config: Config, part_id: str) -> bool:
    """Whether the part is declared, or may be: its table, or that of the network that implies it, can't be used."""
    try:
        config.check_usable(part_id)
    except ConfigError:
        return True
    return config.part(part_id) is not None


def composed(
    session: Session, parts: Iterable[Declared], explicit: Iterable[str] = (), failed: list[ConfigError] | None = None
) -> Composed:
    """What these parts, and all parts that they need, want and need; those with the ids `explicit` were asked for. If there is a
    list `failed`, why a part can't be composed is added to it, and that part and those that stand on it are left out; else it
    is raised."""
    config = session.config
    closure = _closure(config, parts)
    host = gather(session, (name for part in closure for name in part.links()), adopt=True)
    if config.ends:
        from . import wires  # Few hosts have any.

        host = wires.seen(session, host, closure)
    wanted: dict[Owner, dict[str, Resource]] = {}
    needs: dict[str, list[str]] = {}
    known, asked = {part.id: part for part in session.records.parts()}, set(explicit)
    for part in closure:
        had = known.get(part.id)
        frontend = ASKED_FOR if part.id in asked or (had and had.is_asked_for) else NEEDED
        owner = Part(id=part.id, name=part.name, frontend=frontend, since=had.since if had else session.records.now())
        below = list(compose.needs(part, config))
        try:
            if lost := [other for other in below if other not in needs]:
                raise part.error("", f"stands on {part_label(lost[0])}, which is not up")
            check_subnet(session, part)
            wanted[owner] = compose.compose_part(part, host)
        except ConfigError as error:
            if failed is None:
                raise
            failed.append(error)
            continue
        needs[part.id] = below
        if failed is not None:
            failed += spared(part, lambda name: name in host.links or name in host.parts)
    return wanted, needs


def spared(part: Declared, exists: Callable[[str], object]) -> list[MissingLink]:
    """What a part lacks, and does its work without."""
    lacking = [name for name in part.ports if part.kind.spares_ports and not exists(name)]
    return [MissingLink(str(part.error("ports", f"{name} does not exist; {part.name} is up without it"))) for name in lacking]


def needed(session: Session, networks: Iterable[Network], host: facts.Host) -> Composed:
    """The parts that guests on these networks need and that are not up, or whose link is gone. NAT that can't be brought up now
    is left out: guests start without it, and `check` tells."""
    config = session.config
    parts = [find(config, other) for network in networks for other in compose.needs(network, config)]
    missing = [part for part in _closure(config, parts) if _is_missing(session, part, host)]
    links = [part for part in missing if part in _closure(config, [part for part in parts if not part.kind.translates])]
    for part in links:
        if part.adopts and part.source.startswith(RUNTIME):
            # A command declared it, and a guard put it back or a command took it down: no guest's start repeats that.
            raise part.error("", f"is not up, and takes over {part.adopts}; bring it up first: vmnet-hook up {part.name}")
    # A guest's start takes no interface over for the sake of its NAT.
    if missing != links and not any(part.adopts for part in missing if part not in links):
        try:
            return composed(session, missing)
        except VmnetError:
            pass
    return composed(session, links) if links else ({}, {})


def check_subnet(session: Session, part: Declared) -> None:
    """Raise ConfigError if the host has another way to a subnet that is to be a network's alone, whose bridge the part is."""
    network = session.config.networks.get(part.implied_by)
    if network is None or not part.kind.is_link:
        return
    for subnet in network.mode.exclusive(network):
        for way in session.kernel.ways_to(subnet, network.mode.bridge_of(network)):
            ours = _maker(session, way.link)
            guests = [owner for owner in session.records.needing(ours.id) if owner.is_on_top] if ours else []
            if ours and not is_declared(session.config, ours.id) and not guests:
                # It goes with this change, or with the next `up`.
                continue
            remedy = f"choose another subnet, or remove that (ip{' -6' if subnet.version == 6 else ''} route)"
            if ours:
                remedy = f"choose another subnet, or stop the guests on {way.link} and run vmnet-hook down {ours.id}"
            problem = f"{subnet} is the host's way to {way.destination} dev {way.link} already; {remedy}"
            raise network.error(f"ipv{subnet.version}.subnet", problem)


def _maker(session: Session, link: str) -> Owner | None:
    """Return the part that made a link; None if it is not ours."""
    key, records = Device.key_of(link), session.records
    return next((owner for owner in records.of_host() if key in records.claimed(owner.id)), None)


def _is_missing(session: Session, part: Declared, host: facts.Host) -> bool:
    if part.kind.is_link and part.name not in host.links and session.kernel.link(part.name) is None:
        return True
    return not session.records.owners(id=part.id)


def _closure(config: Config, parts: Iterable[Declared]) -> list[Declared]:
    """`parts` and all that they need, those that stand on nothing first."""
    found: dict[str, Declared] = {}

    def visit(part: Declared) -> None:
        if part.id not in found:
            for other in compose.needs(part, config):
                visit(find(config, other))
            found[part.id] = part

    for part in parts:
        visit(part)
    return list(found.values())


def standing(session: Session) -> dict[str, HostOwner]:
    """The owners that are the host's own, by id."""
    return {owner.id: owner for owner in session.records.of_host()}
