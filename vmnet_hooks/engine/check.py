"""Compares three things: the configuration, the records and the kernel. Changes nothing."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from types import MappingProxyType

from ..model.declaration import Config
from ..model.objects import LinkAttribute, Neighbour, NftChain, NftElement, NftTable, TableName
from ..model.objects.bridge import FdbEntry
from ..model.owner import Nic, Owner, part_label
from ..model.resource import WIRE_ENDS, Resource
from ..model.ruleset import CLOSED6
from ..records import look
from . import Session, claims, name_now, world
from .drift import Drift, Kind
from .owners import dead, wants
from .parts import changes_by_up, spared
from .parts import is_declared as is_declared_part

NOBODY: claims.Running = MappingProxyType({})

REPAIR = "vmnet-hook repair"

PAUSES = (0.05, 0.1, 0.2, 0.4)
"""Seconds between two looks while hooks are at work."""


def check(session: Session, domain: str = "", gone: Collection[str] = (), running: claims.Running = NOBODY) -> list[Drift]:
    """Every difference between records, configuration and kernel; of one domain, if it is given. `gone` are ids of domains
    that do not run any more, `running` describes those that do.

    No lock is held meanwhile. While hooks change things, differences are what they leave half-done: those count that stay."""
    records = session.records
    found: list[Drift] | None = None
    for pause in PAUSES:
        busy, before = look.is_locked(records), look.stamp(records)
        with closing(look.copied(records)) as copy:
            now = _differences(session._replace(records=copy), domain, gone, running, busy)
        if not now or not (busy or look.is_locked(records) or look.stamp(records) != before):
            return now
        found = now if found is None else [drift for drift in now if drift in found]
        if not found:
            break
        time.sleep(pause)
    return found or []


def _differences(session: Session, domain: str, gone: Collection[str], running: claims.Running, busy: bool) -> list[Drift]:
    records = session.records
    drifts = list(_interrupted(session, busy))
    owners = records.owners(domain=domain) if domain else records.owners()
    claimed = records.resources()
    current = session.kernel.read(claimed.values())
    departed = dead(session, owners, gone)
    living = [owner for owner in owners if owner not in departed]
    drifts += map(_departed, departed)
    reported: set[str] = set()
    for owner in living:
        drifts += _of_owner(session, owner, claimed, current, reported)
        drifts += claims.unannounced(session, owner, running)
    drifts += claims.differences(session, living, running, domain)
    drifts += world.differences(session, living, claimed, tuple(drifts), domain)
    if session.config.forwards:
        from . import forwards  # Few hosts have any.

        drifts += forwards.differences(session, living, domain)
    if not domain:
        found = orphans(session, claimed)
        taps, stays = left_to_guests(session, found)
        drifts += [_unrecorded(tap) for tap in taps]
        drifts += [_orphan(session.config, key, resource) for key, resource in found.items() if key not in stays]
    # The command prints the configuration's own mistakes, once.
    told = {str(error) for error in session.config.errors}
    return [drift for drift in drifts if drift.kind != "refused" or drift.what not in told]


def _interrupted(session: Session, busy: bool) -> Iterator[Drift]:
    if session.records.pending():
        yield Drift("unconfirmed", "a takeover waits to be confirmed", "vmnet-hook confirm")
    what, changes = session.records.journal()
    # Of a process that holds the lock, it is what that one does now.
    if what and not busy:
        yield Drift("interrupted", f"interrupted: {what}, {len(changes)} changes", REPAIR)


def _departed(owner: Owner) -> Drift:
    reason = "could not be cleaned up" if owner.is_left_over else owner.loss
    return Drift("gone", f"{owner.where}: {reason}", REPAIR, owner.label, owner.id)


def _of_owner(
    session: Session, owner: Owner, claimed: Mapping[str, Resource], current: Mapping[str, Resource], reported: set[str]
) -> list[Drift]:
    """What is wrong with one owner; `reported` are the keys of which another owner's differences tell, and grows."""
    found: list[Drift] = []
    if isinstance(owner, Nic) and (now := name_now(session, owner)):
        # All that is missing is missing for this.
        what = f"{owner.ifname}: is called {now} now, a name without filter and network"
        return [Drift("different", what, REPAIR, owner.label, owner.id)]
    if isinstance(owner, Nic) and owner.phase == "incoming" and session.kernel.has_sent(owner.ifname):
        what = f"{owner.ifname}: the guest has arrived and was not activated"
        found.append(Drift("arrived", what, f"vmnet-hook start {owner.domain}", owner.label, owner.id))
    wanted, problem = wants(session, owner)
    if problem:
        lost = not (owner.is_on_top or is_declared_part(session.config, owner.id))
        remedy = f"vmnet-hook down {owner.id}" if lost else "correct it; until then what was set up stays"
        found.append(Drift("refused", problem, remedy, owner.label, owner.id))
    part, network = session.config.part(owner.id), owner.network_in(session.config)
    leases = isinstance(owner, Nic) and network is not None and network.mode.follows_leases(network)
    changed = "the configuration, or what the guest has leased, has changed" if leases else "the configuration has changed"
    edit = f"vmnet-hook up {owner.id}" if part and changes_by_up(part) else REPAIR
    for key in sorted({*wanted, *session.records.claims(owner.id)} - reported):
        if drift := _difference(owner, key, current.get(key), wanted.get(key), claimed.get(key), edit, changed):
            found.append(drift)
            reported.add(key)
    for error in spared(part, lambda name: session.kernel.link(name) or name in session.config.links) if part else ():
        found.append(Drift("missing", str(error), f"vmnet-hook up {owner.id}, once it is there", owner.label, owner.id))
    for other in session.records.needs(owner.id):
        if not session.records.owners(id=other):
            what = f"needs {part_label(other)}, which is not up"
            found.append(Drift("not-up", what, f"vmnet-hook up {other}", owner.label, owner.id))
    return found


def _difference(
    owner: Owner, key: str, have: Resource | None, want: Resource | None, recorded: Resource | None, edit: str, changed: str
) -> Drift | None:
    """Return what is wrong with one object of an owner; `edit` is the remedy if it is the configuration that differs, and
    `changed` tells that."""

    def drift(kind: Kind, what: str, remedy: str) -> Drift:
        return Drift(kind, f"{key}: {what}", remedy, owner.label, owner.id, want or have or recorded)

    if want is None:
        return drift("unwanted", "no longer wanted by the configuration", edit)
    if recorded != want:
        return drift("edited", changed, edit)
    if have is None:
        return drift("missing", "missing", want.remedy(have))
    return None if want.covers(have) else drift("different", want.difference(have), want.remedy(have))


def _orphan(config: Config, key: str, resource: Resource) -> Drift:
    remedy = "vmnet-hook up" if is_declared(config, resource) else resource.unset_command()
    return Drift("unrecorded", f"{key}: ours, but in no record", remedy, resource=resource)


def orphans(session: Session, claimed: Mapping[str, Resource]) -> dict[str, Resource]:
    """What carries our mark in the kernel, but is not among what is claimed."""
    networks = session.config.networks.values()
    kept = {resource.key for network in networks for resource in network.mode.kept_over_boots(network)}
    found = {key: r for key, r in session.kernel.ours().items() if key not in claimed and key not in kept}
    # A broken network may keep the name of its table.
    return {key: r for key, r in found.items() if not (session.config.broken and isinstance(r, TableName))}


def left_to_guests(session: Session, found: Mapping[str, Resource]) -> tuple[list[str], set[str]]:
    """The taps of guests that run and that no record has, of those that orphans are on, and the keys of the orphans that stay
    for as long: the records were lost, and what is guarded by the kernel's own marks must not be opened. What is on a link
    that is gone, or on the tap of a guest that has records, does not stay."""
    recorded = {nic.ifname for nic in session.records.nics()}
    links = {name for r in found.values() for name in _links(r)}
    there = {name for name in links if session.kernel.link(name)}
    guests = {r.guest_tap for r in found.values() if isinstance(r, NftElement)} & there - recorded
    if not guests:
        return [], set()
    return sorted(guests), {key for key, r in found.items() if all(name in there - recorded for name in _links(r))}


def _links(resource: Resource) -> tuple[str, ...]:
    return resource.links if isinstance(resource, NftElement) else (resource.link,) if resource.link else ()


def _unrecorded(tap: str) -> Drift:
    what = f"{tap}: a guest runs on it, and is in no record; its filter stays"
    return Drift("unrecorded", what, f"`vmnet-hook start` the guest, or restart libvirtd; if there is none: ip link del {tap}")


def is_declared(config: Config, resource: Resource) -> bool:
    """Whether an object of ours is on a declared link: after the records were lost, what guests use is not torn down."""
    declared = config.parts.values()
    links = {name for part in declared for name in part.kind.makes(part)}
    if isinstance(resource, NftTable):
        return any(resource.name in part.kind.tables(part) for part in declared)
    # A server is on no link, but serves one.
    there = _links(resource) or resource.drawn_in
    return resource == CLOSED6 or not links.isdisjoint(there)


def hazards(session: Session) -> list[str]:
    """What other programs do that breaks what is set up here, and which of the kernel's limits are near. None of it is ours to
    repair."""
    resources = session.records.resources().values()
    bridged = any(isinstance(r, LinkAttribute) and r.name == "master" and r.value for r in resources)
    translated = any(isinstance(r, NftElement) and r.set.startswith(("snat", "masquerade")) for r in resources)
    anycast = translated and any(isinstance(r, FdbEntry) for r in resources)
    single = [r.address for r in resources if isinstance(r, Neighbour)]
    permanent = (sum(":" not in address for address in single), sum(":" in address for address in single))
    # What comes in at a wire is not for the host.
    at_wires = {r.link for r in resources if isinstance(r, NftChain) and r.set == WIRE_ENDS}
    taps = {nic.ifname for nic in session.records.nics()} - at_wires
    masters = {r.ifname: r.value for r in resources if isinstance(r, LinkAttribute) and r.name == "master" and r.value}
    ports = taps & masters.keys()
    routed = (taps - ports) | {masters[port] for port in ports}
    found = session.kernel.hazards(bridged, anycast, permanent, routed, ports) if resources else []
    networks = session.config.networks
    guarded = {r.links[0] for r in resources if isinstance(r, NftElement) and r.set == "guarded"}
    filtered = {nic.network for nic in session.records.nics() if nic.ifname in guarded}
    checked = [name for name in sorted(filtered & networks.keys()) if networks[name].options.get("checksums") == "checked"]
    if checked and not session.kernel.host(()).ifb:
        found.append(
            f"this kernel has no ifb: checksums are not finished before the filters of network {checked[0]} judge, and guests "
            "can forge what these have approved; use a kernel with ifb, or accept it: "
            f'networks.{checked[0]}.checksums = "trusted"'
        )
    limited = [part.name for part in session.config.links.values() if part.options.get("fdb_max_learned")]
    if limited and not session.kernel.host(()).fdb_limit:
        found.append(
            f"this kernel does not limit what a bridge learns: guests without a filter can fill the table of {limited[0]}; "
            f"use Linux 6.7 or newer, or remove bridges.{limited[0]}.fdb_max_learned"
        )
    return found
