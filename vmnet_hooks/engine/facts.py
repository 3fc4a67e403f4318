"""What the kernel, the configuration and the records tell about the host, for a composition."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from ..declared import compose
from ..model import facts
from ..model.objects import FORWARDING_GATE, Adoption, Sysctl
from ..model.owner import GuestOwner
from ..model.ruleset import CLOSED6
from .session import Session


def gather(session: Session, links: Iterable[str], adopt: bool = False) -> facts.Host:
    """The kernel's facts about `links` and all links below them, and what is declared. What we changed ourselves is no fact: the
    records have the value from before. With `adopt`, what declared bridges take over from their ports is read."""
    config, kernel = session.config, session.kernel
    names = compose.links_below(links, config)
    parts = {part.name: part for name in names if (part := config.links.get(name))}
    ports = [port for part in parts.values() for port in part.ports if port not in parts]
    # A network whose gateway is another link's address.
    networks = config.networks.values()
    ports += [name for network in networks for name in network.mode.addressed(network) if name in names]
    host = kernel.host(names, ports)
    masters = [link.master for name in dict.fromkeys(ports) if (link := host.links.get(name))]
    if outer := [master for master in masters if master and master not in host.links]:
        host = replace(host, links={**kernel.host(outer).links, **host.links})
    adoptions: dict[str, Adoption] = {}
    for part in parts.values():
        port = part.adopts
        if port and port in host.links and (adopt or session.records.recorded(Adoption.key_of(port))):
            adoptions[port] = _adoption(session, port, part.name, host)
    return replace(
        host,
        router6=_forwards6(session, host),
        parts=parts,
        nats=tuple(part for part in config.parts.values() if part.kind.translates),
        adoptions=adoptions,
        uplinks6=frozenset(name for network in networks for name in network.mode.links6(network)),
    )


def _forwards6(session: Session, host: facts.Host) -> bool:
    """Whether the host forwarded IPv6 before us."""
    gate = session.records.recorded(Sysctl.key_of(FORWARDING_GATE))
    if gate and isinstance(gate[1], Sysctl):
        return gate[1].value == "1"
    # If the records are lost, the filter for a host that did not forward is still there.
    return host.router6 and not session.kernel.read([CLOSED6])


def _adoption(session: Session, port: str, bridge: str, host: facts.Host) -> Adoption:
    """What a bridge takes over from a port. Once moved it is not on the port any more: the record has it."""
    found = session.records.recorded(Adoption.key_of(port))
    if found and isinstance(found[0], Adoption):
        return replace(found[0], bridge=bridge)
    if bridge in host.links and host.links[bridge].ours and host.links[port].master == bridge:
        # The records are lost: the bridge has it.
        there = session.kernel.survey(bridge, bridge)
        routes, neighbours = (
            tuple(item for item in items if not Adoption.is_ours(item)) for items in (there.routes, there.neighbours)
        )
        return replace(there, ifname=port, routes=routes, neighbours=neighbours, sysctls=())
    return session.kernel.survey(port, bridge)


def lives(session: Session, owner: GuestOwner) -> bool:
    """Whether the tap of a record is still that tap."""
    return owner.is_here(partial(index_of, session))


def index_of(session: Session, ifname: str) -> int | None:
    """The number of a link; None if there is none."""
    link = session.kernel.link(ifname)
    return link.index if link else None
