"""Makes `check` clean: sets up again what is missing, removes what no owner claims any more."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from ..errors import KernelError, VmnetError
from ..model.guest import Domain, id_by_name
from ..model.objects import NftElement
from ..model.owner import GuestOwner, Owner, nics
from ..model.plan import Change
from ..model.ruleset import CLOSED6, TABLES, with_tables
from . import Session, apply, claims, guests, names, owners
from .check import NOBODY, check, is_declared, left_to_guests, orphans
from .drift import Drift
from .parts import changes_by_up
from .transaction import build


class Repaired(NamedTuple):
    """What was repaired, and what is left: to the admin, or because it came meanwhile."""

    done: list[Drift]
    left: list[Drift]


def set_up(session: Session, owner: Owner) -> None:
    """Set up again what an owner shall have by now, if it is still there. Raise VmnetError."""
    with session.records.lock():
        apply.recover(session)
        if session.records.owners(id=owner.id):
            _reapply(session, [owner])


def _silently(_announcements: guests.Announcements) -> None:
    """Announce nothing."""


def repair(
    session: Session,
    domain: str = "",
    gone: Collection[str] = (),
    running: claims.Running = NOBODY,
    announce: Callable[[guests.Announcements], None] = _silently,
    asked: Collection[Owner] | None = None,
) -> Repaired:
    """Make `check` clean, as far as that is not left to the admin. Raises KernelError for what could not be repaired. `announce`
    announces guests that got other addresses, or were not announced when they began to run. `asked` are the owners as they were
    before hypervisors were asked for `gone` and `running`, which tell nothing of what has come since; None: those of now."""
    records = session.records
    asked = records.owners() if asked is None else asked
    drifts = check(session, domain, gone, running)
    with records.lock():
        unnamed = names.put_back(session, nics(records.owners(domain=domain) if domain else records.owners()))[1]
    # Then what is set up again is as it is claimed. Each guest takes the lock for itself, as its hook does.
    failed = _set_up([partial(claims.set_up, session, edit, announce) for edit in _edits(session, domain, gone, running, asked)])
    with records.lock():
        apply.recover(session)
        known = records.owners(domain=domain) if domain else records.owners()
        dead = owners.dead(session, known, gone, asked)
        steps: list[Callable[[], None]] = [partial(apply.remove, session, [owner]) for owner in dead]
        # Each on its own: a guest that can't be repaired (its uplink is gone) must not keep the others open. Links before
        # what stands on them.
        living = sorted(
            (owner for owner in known if owner not in dead and owner.id not in unnamed), key=partial(owners.depth, session)
        )
        failed += _failed(steps)
        failed += _reapply_each(session, living)
        steps = []
        if not (domain or session.config.errors):
            # What no record has may be of a table with a mistake.
            steps.append(partial(_remove_orphans, session))
        failed += [*_failed(steps), *unnamed.values()]
    late = {drift.owner_id for drift in drifts if drift.kind == "unannounced"}
    for nic in nics(owner for owner in known if owner.id in late):
        uuid = "" if nic.domain_id == id_by_name(nic.domain) else nic.domain_id
        guests.activate(session.config, records, announce, Domain(nic.domain, uuid), nic.ifname)
    if failed:
        raise KernelError("; ".join(failed))
    left = check(session, domain, gone, running) if drifts else []
    return Repaired([drift for drift in drifts if drift not in left], left)


def _set_up(steps: Sequence[Callable[[], None]]) -> list[str]:
    """Take the steps, in an order in which they succeed: a guest may get an address that another one has to give up first.
    Returns why those failed that are left."""
    while steps:
        failed = [(step, reason) for step in steps for reason in _failed([step])]
        if len(failed) == len(steps):
            return [reason for _, reason in failed]
        steps = [step for step, _ in failed]
    return []


def _failed(steps: Iterable[Callable[[], None]]) -> list[str]:
    """Take the steps. Returns why some of them failed."""
    failed = []
    for step in steps:
        try:
            step()
        except VmnetError as error:
            failed.append(str(error))
    return failed


def _edits(
    session: Session, domain: str, gone: Collection[str], running: claims.Running, asked: Collection[Owner]
) -> list[claims.Edit]:
    """The edits of guests that are as they were before their hypervisors described them."""
    known = [owner for owner in asked if not domain or (isinstance(owner, GuestOwner) and owner.domain == domain)]
    dead = owners.dead(session, known, gone)
    return claims.edits(session, [owner for owner in known if owner not in dead], running, domain)


def _reapply_each(session: Session, living: Sequence[Owner]) -> list[str]:
    """Set up again what each owner shall have. Returns why that failed.

    What one guest shall have may be impossible while another of its network has what it had: the gateway of the whole network is
    an address of the host's, say, and is elsewhere by now. So those of one network that fail are set up at once.
    """
    failed: dict[str, dict[Owner, str]] = {}
    for owner in living:
        for reason in _failed([partial(_reapply, session, [owner])]):
            network = owner.network_in(session.config)
            failed.setdefault(network.id if network else owner.id, {})[owner] = reason
    left: list[str] = []
    for together in failed.values():
        if len(together) == 1 or _failed([partial(_reapply, session, list(together))]):
            left += together.values()
    return left


def _reapply(session: Session, living: Sequence[Owner]) -> None:
    """Set up again what these owners shall have, by one transaction."""
    wanted, needs = {}, {}
    for owner in living:
        if not session.records.owners(id=owner.id):
            # A part that only a dead guest needed has gone with it.
            continue
        part = session.config.part(owner.id)
        if part and changes_by_up(part):
            wanted[owner], needs[owner.id] = with_tables(session.records.claims(owner.id)), session.records.needs(owner.id)
        else:
            wanted[owner], needs[owner.id] = owners.wants(session, owner)[0], owners.needs(session, owner)
    if wanted:
        apply.run(session, build(session, wanted, (), needs), "repair")


def _remove_orphans(session: Session) -> None:
    claimed = session.records.resources()
    orphaned = orphans(session, claimed)
    _, stays = left_to_guests(session, orphaned)
    found = [r for key, r in orphaned.items() if key not in stays]
    kept = [r for key, r in orphaned.items() if key in stays or (is_declared(session.config, r) and r != CLOSED6)]
    changes = [Change(r, None) for r in found if not (kept and is_declared(session.config, r))]
    changes.sort(key=lambda change: -change.subject.order)
    for table in TABLES:
        if table.key not in claimed and not kept and session.kernel.read([table]):
            # The elements go with their table.
            changes = [c for c in changes if not (isinstance(c.subject, NftElement) and c.subject.table == table.key)]
            changes.append(Change(table, None))
    failed: dict[str, str] = {}
    for change in changes:
        failed.update(apply.take_away(session, change))
    if failed:
        raise KernelError("; ".join(failed.values()))
