"""What the ends of wires depend on: which guests are at the other ends, by the records and the kernel. No hypervisor is asked."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ..declared.compose import Bound
from ..errors import one_line
from ..model.declaration import Declared, Network
from ..model.facts import Host, Tap
from ..model.objects import NftChain, NftElement
from ..model.owner import Nic, Owner, nics
from ..model.resource import WIRE_MAPS, Resource
from ..model.ruleset import with_tables
from ..networks.wire import joints, sides
from . import Session, lives

MAIN, COPY = WIRE_MAPS


def at(part: Declared) -> bool:
    """Whether a part is a wire."""
    return isinstance(part, Network) and bool(part.mode.ends(part))


def seen(
    session: Session, host: Host, parts: Iterable[Declared], plugged: Sequence[Bound] = (), gone: Collection[str] = ()
) -> Host:
    """The facts with the guests that are at those of the parts that are wires: by the records, but for the owners with the ids
    `gone`, and the NICs that are `plugged`."""
    wired: dict[str, list[Tap]] = {}
    for wire in parts:
        if at(wire):
            there = [nic for nic in session.records.nics(network=wire.name) if nic.id not in gone and not nic.is_left_over]
            found = [nic.at_wire for nic in there if lives(session, nic)]
            found += [
                Tap(vif.domain, vif.mac, vif.ifname, host.links[vif.ifname].index)
                for vif, network in plugged
                if network is wire and vif.ifname in host.links
            ]
            wired[wire.name] = list(dict.fromkeys(found))
    return replace(host, wired=wired) if wired else host


def others(session: Session, host: Host, wires: Iterable[Network], but: Collection[str]) -> dict[Owner, dict[str, Resource]]:
    """What the owners of the other ends of wires shall have, with what is known of these now, but for the owners with the ids
    `but`."""
    found: dict[Owner, dict[str, Resource]] = {}
    for wire in wires:
        there: list[Owner] = [nic for nic in session.records.nics(network=wire.name) if lives(session, nic)]
        for owner in (*there, *session.records.owners(id=wire.id)):
            if owner.id in but or owner.is_left_over:
                continue
            vif = owner.vif if isinstance(owner, Nic) else None
            wanted = [*joints(wire, host), *(joints(wire, host, vif) if vif else ())]
            claims = session.records.claims(owner.id)
            kept = {key: r for key, r in claims.items() if not is_joint(r)}
            found[owner] = with_tables({**kept, **{joint.key: joint for joint in wanted}})
    return found


def left(session: Session, owners: Sequence[Owner]) -> dict[Owner, dict[str, Resource]]:
    """What the owners of the other ends shall have once `owners` are gone, by the records alone."""
    records = session.records
    gone = {owner.id for owner in owners}
    found: dict[str, tuple[Owner, dict[str, Resource]]] = {}
    for nic in nics(owners):
        if not records.claimed_among(nic.id, [NftChain.at_wire(nic.ifname, "").key]):
            continue
        there: list[Owner] = [*records.nics(network=nic.network)]
        for key, resource in records.claims(nic.id).items():
            # That of a link of the host, which the wire has by itself, too.
            if is_joint(resource) and f'"{nic.ifname}"' not in key:
                there += [owner for _, owner in records.claimants(key)]
        for other in there:
            if other.id not in gone:
                claims = found[other.id][1] if other.id in found else records.claims(other.id)
                then = _without(claims, str(nic.ifindex))
                if then != claims:
                    found[other.id] = (other, then)
    return dict(found.values())


def other_end(session: Session, nic: Nic) -> str:
    """What is at the other end of the wire that a NIC is at, for the admin; "" if it is at none."""
    wire = session.config.networks.get(nic.network)
    if wire is None or not at(wire):
        return ""
    taps = seen(session, Host(), [wire]).wired[wire.name]
    first, second = sides(wire, taps)
    for (_, here), (end, there) in ((first, second), (second, first)):
        if any(tap.ifname == nic.ifname for tap in here):
            if end.link:
                return f"to {end.link}" + ("" if session.kernel.link(end.link) else ", which is gone")
            return f"to {one_line(there[0].domain)} ({there[0].ifname})" if there else f"waits for {one_line(str(end))}"
    return ""


def is_joint(resource: Resource) -> bool:
    """Whether a resource tells where frames of an end go."""
    return isinstance(resource, NftElement) and resource.set in WIRE_MAPS


def _without(claims: Mapping[str, Resource], index: str) -> dict[str, Resource]:
    """These claims without the ways to the link of that number. What had a copy of the frames then has them alone."""
    kept = {key: r for key, r in claims.items() if not (is_joint(r) and getattr(r, "value", "") == index)}
    for key, copy in list(kept.items()):
        if isinstance(copy, NftElement) and copy.set == COPY:
            alone = replace(copy, set=MAIN)
            if alone.key not in kept:
                del kept[key]
                kept[alone.key] = alone
    return kept
