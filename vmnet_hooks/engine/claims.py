"""Compares what claims say now with what running guests were given: an edit of domains.d, or of a running domain's metadata,
changes no guest until `repair`, `start` or its next start.
"""

import shlex
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..declared import compose, configuration
from ..declared.compose import Bound
from ..declared.configuration import claims
from ..errors import InputError, one_line
from ..model.declaration import Config, Network
from ..model.guest import Claim, Domain, Vif, id_by_name
from ..model.objects import LinkAttribute, NftChain, NftElement
from ..model.owner import ASKED_FOR, PREPARE_SECONDS, Nic, Owner, nics
from ..model.resource import Resource
from . import Session, apply, guests, index_of, lives
from .drift import Drift

Running = Mapping[str, Domain | InputError]
"""The running domains by id, as their hypervisors describe them, or why a description can't be used. Those of a hypervisor that
can't be asked, or that describes none, are not in it. A partial one tells of some NICs that have no record, and of no claims."""

KEPT = "correct it; until then the NIC keeps what it was given"


STARTED_SECONDS = 10.0
"""How long the hypervisor may take, at most, from the guest's first frame to the hook that says that it runs."""


@dataclass(frozen=True)
class Edit:
    """A running guest whose claims were edited. `bound` are the NICs that are to be set up, as they are to be: with all of its
    NICs unless `domain` is partial."""

    domain: Domain
    frontend: str = ""
    bound: Sequence[Bound] = ()
    found: Sequence[Drift] = ()
    gone: Sequence[str] = ()
    """The ids of the owners of NICs that nothing claims any more."""
    known: Sequence[Nic] = ()
    """The NICs that were set up when this was worked out."""


def differences(session: Session, owners: Sequence[Owner], running: Running, domain: str = "") -> list[Drift]:
    """What claims say otherwise than was set up, of the guests whose owners these are and of those that run."""
    return [found for edit in edits(session, owners, running, domain) for found in edit.found]


def edits(session: Session, owners: Sequence[Owner], running: Running, domain: str = "") -> list[Edit]:
    """The guests of which `differences` tells; of one domain only, if it is given."""
    known: dict[str, list[Nic]] = {}
    for nic in nics(owners):
        if not nic.is_left_over and lives(session, nic):
            known.setdefault(nic.domain_id, []).append(nic)
    for domain_id, there in running.items():
        if isinstance(there, Domain) and not there.partial and (not domain or there.name == domain):
            known.setdefault(domain_id, [])
    edited = [_edit(session, there, _whole(running.get(domain_id))) for domain_id, there in known.items()]
    names = {nic.domain for there in known.values() for nic in there}
    names |= {there.name for there in running.values() if isinstance(there, Domain)}
    edited += [_edit(session, (), there) for there in _unrecorded(session, names, domain)]
    return [edit for edit in edited if edit and edit.found]


def _unrecorded(session: Session, known: Container[str], domain: str) -> Iterator[Domain]:
    """The guests that run and that no hook has set up, but for the `known` ones, by domains.d: it claims their taps."""
    for name in configuration.claimants(session.config):
        if name in known or (domain and name != domain):
            continue
        found = _claims(session.config, name)
        if isinstance(found, InputError):
            # `validate` tells.
            continue
        vifs = [Vif(claim.mac, claim.ifname) for claim in found if claim.mac and claim.ifname]
        # One that has not sent may be about to be set up.
        if there := tuple(vif for vif in vifs if _is_waiting(session, vif) and _runs(session, vif.ifname)):
            yield Domain(name, "", there, changing=True)


def _runs(session: Session, tap: str) -> bool:
    """Whether a tap's guest has sent, or is guarded still and its record was lost."""
    guards: list[Resource] = [NftElement(family, "guarded", (f'"{tap}"',)) for family in ("inet", "bridge")]
    return session.kernel.has_sent(tap) or bool(session.kernel.read([*guards, NftChain.of(tap, "")]))


def set_up(session: Session, edit: Edit, announce: Callable[[guests.Announcements], None]) -> None:
    """Set an edited guest up by its claims, and announce it; do nothing if a hook has changed its NICs meanwhile. Raises
    VmnetError, with nothing changed."""
    records = session.records
    with records.lock():
        apply.recover(session)
        if not _is_as_known(session, edit):
            return
        apply.remove(session, [owner for owner_id in edit.gone for owner in records.owners(id=owner_id)])
    rest = replace(edit, known=[nic for nic in edit.known if nic.id not in edit.gone])

    def settle(bound: Sequence[Bound]) -> Sequence[Bound]:
        return bound if _is_as_known(session, rest) else ()

    if edit.bound and guests.plug(session, edit.domain, edit.frontend, bound=edit.bound, settle=settle):
        guests.activate(session.config, records, announce, edit.domain)


def _is_as_known(session: Session, edit: Edit) -> bool:
    """Whether a guest's NICs are those of which an edit was worked out: it may have ended since, and started again."""
    there = [nic for nic in session.records.nics(domain_id=edit.domain.id) if not nic.is_left_over and lives(session, nic)]
    known = {nic.ifname for nic in edit.known}
    # A hook of libvirtd's own restart says of a guest that `start` set up that it is libvirt's.
    now, then = ({replace(nic, phase="", frontend="") for nic in each} for each in (there, edit.known))
    return now == then and all(vif.ifname in known or _is_waiting(session, vif) for vif, _ in edit.bound)


def by_name(session: Session, name: str) -> tuple[Domain, str] | None:
    """A running guest whose hypervisor can't be asked, or that has none (plain QEMU's), by the records and domains.d, and its
    front end. What may be claimed elsewhere is as it was given. None if there is no such guest. Raises ConfigError."""
    known = [nic for nic in session.records.nics(domain=name) if lives(session, nic)]
    found = claims(session.config, name)
    if told := [nic for nic in known if nic.domain_id != id_by_name(name)]:
        unclaimed = [nic for nic in told if not any(claim.mac == nic.mac or claim.ifname == nic.ifname for claim in found)]
        domain = replace(_described(session, told, found, name), claims=tuple(map(_given, unclaimed)))
        return domain, told[0].frontend
    domain = _described(session, known, found, name)
    return (domain, known[0].frontend if known else ASKED_FOR) if domain.vifs else None


def _given(nic: Nic) -> Claim:
    """What a NIC was given, as a claim."""
    where, more = f"{nic.domain}: records", (nic.vlan, nic.tagged, nic.roles)
    return Claim(nic.network, nic.mac, nic.ifname, nic.addresses, nic.filter, where, *more)


def unannounced(session: Session, owner: Owner, running: Running) -> Iterator[Drift]:
    """A NIC that was plugged, and whose guest runs without that its hook for that was called: libvirtd was killed in between."""
    if not isinstance(owner, Nic) or owner.phase != "plugged":
        return
    age = session.records.now() - owner.since
    if any(session.records.expects(mark) for mark in Domain(owner.domain, owner.domain_id).marks):
        # It migrates here. A bridged NIC waits for nothing, so that it is not `incoming`.
        return
    runs = _whole(running.get(owner.domain_id)) or (age > STARTED_SECONDS and session.kernel.has_sent(owner.ifname, surely=False))
    if runs or age > PREPARE_SECONDS:
        what = f"{owner.ifname}: the guest runs and was not announced"
        yield Drift("unannounced", what, _start(owner.domain), owner.label, owner.id)


def unclaimed(session: Session, running: Running, domain: str = "") -> list[tuple[Domain, Vif]]:
    """The NICs of running guests that nothing claims and that no record has."""
    found = []
    for there in running.values():
        if isinstance(there, InputError) or (domain and there.name != domain):
            continue
        file_claims = _claims(session.config, there.name)
        for vif in there.vifs:
            if not _is_waiting(session, vif):
                continue
            try:
                bound = not isinstance(file_claims, InputError) and _bind(there, vif, session.config, file_claims)
            except InputError:
                # `check` tells of a claim that is not valid.
                continue
            if not bound:
                found.append((there, vif))
    return found


def kept(session: Session, domain: Domain, bound: Sequence[Bound]) -> list[Bound]:
    """What a running guest's NICs are to be: a NIC that is set up stays as it was given, whatever claims it by now, unless its
    hypervisor has moved it to another bridge; the others are as in `bound`."""
    config = session.config
    known = {
        (nic.mac, nic.ifname): nic
        for nic in session.records.nics(domain_id=domain.id)
        if not nic.is_left_over and nic.network in config.networks and lives(session, nic)
    }
    claimed = {(vif.mac, vif.ifname): (vif, network) for vif, network in bound}
    result = []
    for vif in domain.vifs:
        found, nic = claimed.get((vif.mac, vif.ifname)), known.get((vif.mac, vif.ifname))
        if nic and not (found and is_moved(vif, config.networks[nic.network], found[1])):
            network = config.networks[nic.network]
            result.append((network.mode.bind(_as_given(vif, nic), network, domain.name), network))
        elif found:
            result.append(found)
    return result


def is_moved(vif: Vif, old: Network, new: Network) -> bool:
    """Whether the hypervisor has moved a tap from its old network's bridge to that of the new one (`virsh update-device`)."""
    before, after = old.mode.bridge_of(old), new.mode.bridge_of(new)
    return bool(vif.bridge) and vif.bridge == after and vif.bridge != before


def _whole(there: Domain | InputError | None) -> Domain | InputError | None:
    """A description that tells of all NICs and claims; None if it does not."""
    return None if isinstance(there, Domain) and there.partial else there


def _edit(session: Session, known: Sequence[Nic], there: Domain | InputError | None) -> Edit | None:
    """The edit of one guest, with the NICs that are recorded; None if it is not to be touched now."""
    if any(nic.phase == "incoming" for nic in known):
        return None
    name = known[0].domain if known else there.name if isinstance(there, Domain) else ""
    if isinstance(there, InputError):
        return Edit(Domain(name), found=[Drift("refused", str(there), KEPT, name)]) if known else None
    file_claims = _claims(session.config, name)
    if isinstance(file_claims, InputError):
        return Edit(Domain(name), found=[Drift("refused", str(file_claims), KEPT, name)])
    # Who describes the guest tells of every NIC and every claim. Elsewhere (libvirt can't be asked, Xen) metadata, or a setting
    # of the vif, may claim a NIC that domains.d does not.
    is_whole = there is not None or known[0].domain_id == id_by_name(name)
    if not (is_whole or file_claims):
        return None
    domain = replace(there, changing=True) if there else _described(session, known, file_claims, name)
    return _compared(session, domain, known, file_claims, is_whole)


def _compared(session: Session, domain: Domain, known: Sequence[Nic], file_claims: Sequence[Claim], is_whole: bool) -> Edit:
    given = {nic.ifname: nic for nic in known}
    bound: list[Bound] = []
    found: list[Drift] = []
    gone: list[str] = []

    def tell(kind: Literal["edited", "refused"], what: str, remedy: str, nic: Nic | None) -> None:
        found.append(Drift(kind, what, remedy, domain.name, nic.id if nic else ""))

    for vif in domain.vifs:
        nic = given.get(vif.ifname)
        try:
            claimed = _bind(domain, vif, session.config, file_claims)
        except InputError as error:
            tell("refused", str(error), KEPT, nic)
            continue
        if claimed and (nic or _is_waiting(session, vif)):
            bound.append(claimed)
        if nic is None and claimed and _is_waiting(session, vif):
            tell("edited", f"{vif.ifname}: network {claimed[1].name} claims it, and it is not set up", _start(domain.name), nic)
        elif nic and claimed and (changes := _changes(nic, *claimed)):
            tell("edited", f"{nic.ifname}: {'; '.join(changes)}", _start(domain.name), nic)
        elif nic and claimed is None and is_whole:
            what = f"{nic.ifname}: nothing claims it for network {nic.network} any more"
            tell("edited", what, f"vmnet-hook repair {_word(domain.name)}", nic)
            gone.append(nic.id)
    # Each NIC by itself: one whose claim is not valid, or is not known, stays.
    return Edit(replace(domain, partial=True), known[0].frontend if known else ASKED_FOR, bound, found, gone, known)


def _changes(nic: Nic, vif: Vif, network: Network) -> list[str]:
    """How a NIC is to be that is set up as `nic`."""
    changes = [] if nic.mac == vif.mac else [f"its MAC is to be {vif.mac}"]
    more = [address for address in vif.addresses if address not in nic.addresses]
    less = [address for address in nic.addresses if address not in vif.addresses]
    if more:
        changes.append(f"is to have {', '.join(more)}" + (f", not {', '.join(less)}" if less else " too"))
    elif less:
        changes.append(f"is not to have {', '.join(less)} any more")
    if nic.filter != vif.filter:
        changes.append("its filter is to be " + ("on" if vif.filter else "off"))
    if nic.roles != (vif.roles or ()):
        changes.append(f"its roles are to be {', '.join(vif.roles or ('client',))}")
    if nic.shares_mac != (vif.filter and not vif.is_alone):
        changes.append("its MAC is " + ("no other link's any more" if vif.is_alone else "another link's of the guest, too"))
    if nic.network != network.name:
        changes.insert(0, f"is to be on network {network.name}, not {nic.network}")
    elif (nic.vlan, nic.tagged) != (vif.vlan, vif.tagged):
        changes.append("its VLANs are to be others")
    return changes


def _bind(domain: Domain, vif: Vif, config: Config, file_claims: Sequence[Claim]) -> Bound | None:
    """One NIC of a domain as it is claimed; None if nothing claims it. Raises InputError."""
    alone = replace(domain, vifs=(vif,), changing=True)
    return next(iter(compose.bind(alone, config, file_claims)), None)


def _claims(config: Config, name: str) -> list[Claim] | InputError:
    try:
        return claims(config, name)
    except InputError as error:
        return error


def _described(session: Session, known: Sequence[Nic], file_claims: Sequence[Claim], name: str) -> Domain:
    """A guest that no hypervisor describes: the NICs that are recorded and, of plain QEMU's, those that domains.d claims and
    whose tap is there."""
    domain_id = known[0].domain_id if known else id_by_name(name)
    if domain_id != id_by_name(name):
        return Domain(name, domain_id, tuple(_vif(session, nic, known) for nic in known), partial=True, changing=True)
    taps = {nic.ifname: Vif(nic.mac, nic.ifname, id="" if nic.mac else nic.ifname) for nic in known}
    for claim in file_claims:
        if claim.mac and claim.ifname and (claim.ifname in taps or index_of(session, claim.ifname) is not None):
            taps[claim.ifname] = Vif(claim.mac, claim.ifname)
    for _, end in session.config.ends.get(name, ()):
        if end.ifname and end.ifname not in taps and index_of(session, end.ifname) is not None:
            taps[end.ifname] = Vif("", end.ifname, id=end.ifname)
    return Domain(name, "", tuple(taps.values()), changing=True)


def _vif(session: Session, nic: Nic, known: Sequence[Nic]) -> Vif:
    """A NIC as its front end described it."""
    ids = {other.id: other.id.removeprefix(f"{other.domain_id}/") for other in known if other.mac == nic.mac}
    own = ids.pop(nic.id)
    found = session.records.recorded(LinkAttribute.key_of(nic.ifname, "address"))
    port_mac = found[0].value if found and isinstance(found[0], LinkAttribute) else ""
    return Vif(
        nic.mac,
        nic.ifname,
        id="" if own == nic.mac else own,
        twin=next(iter(ids.values()), ""),
        shares_mac=nic.shares_mac,
        mtu=nic.mtu,
        metric=nic.metric,
        port_mac=port_mac,
    )


def _as_given(vif: Vif, nic: Nic) -> Vif:
    return replace(
        vif,
        domain=nic.domain,
        network=nic.network,
        addresses=nic.addresses,
        filter=nic.filter,
        vlan=nic.vlan,
        tagged=nic.tagged,
        roles=nic.roles,
    )


def _is_waiting(session: Session, vif: Vif) -> bool:
    """Whether a NIC's tap is there and has no record, not even by another front end."""
    index = index_of(session, vif.ifname) if vif.ifname else None
    return index is not None and not any(nic.ifindex == index for nic in session.records.nics(ifname=vif.ifname))


def _start(name: str) -> str:
    return f"vmnet-hook start {_word(name)}"


def _word(name: str) -> str:
    return shlex.quote(one_line(name))
