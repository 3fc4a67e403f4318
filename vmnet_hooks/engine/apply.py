"""Carries transactions out: journal, apply, verify, record. All or nothing: a failed step puts everything back; a killed process
leaves a journal, and the next process that takes the lock puts everything back. Removal does all it can, then reports.

Every function must be called with the lock of the records held.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from ..errors import InTheWay, KernelError, StoreError, VmnetError
from ..model import plan
from ..model.objects import Device, NftChain, NftElement, Route
from ..model.owner import Nic, Owner, nics
from ..model.plan import Change, Plan
from ..model.resource import Resource
from . import Kernel, Session, lives
from .transaction import Transaction, build


def run(session: Session, transaction: Transaction, what: str) -> None:
    """Carry out the transaction; `what` names it in the journal. Raises VmnetError, with everything put back. What could not be
    put back stays in the journal: the next process that takes the lock tries again."""
    kernel, records, restore = session.kernel, session.records, transaction.restore
    with kernel.reserve() as release:
        serial = records.open_journal(what, [*transaction.plan, *restore])
        _run(session, transaction, serial, release)


def _run(session: Session, transaction: Transaction, serial: int, release: Callable[[], None]) -> None:
    kernel, records, restore = session.kernel, session.records, transaction.restore
    done: list[Change] = []
    try:
        originals = dict(transaction.originals)
        made = _made(transaction.plan)
        for step in plan.batches(transaction.plan):
            if made:
                found = _as_made(kernel, step, made)
                originals |= {key: have for key, have in found.items() if originals.get(key) is None}
            # Before the call: a step that fails half-way is put back too.
            done += step
            kernel.apply(step)
        _verify(kernel, transaction.plan)
        records.commit(transaction.drop, transaction.add, transaction.news, originals)
    except BaseException as error:
        release()
        if _is_committed(session, serial):
            # The signal came too late to take it back.
            raise
        if isinstance(error, InTheWay):
            done.pop()
        left = _undo(kernel, done, restore if done else ())
        if not left:
            # What is put back may be put back again.
            with suppress(StoreError):
                records.close_journal()
        elif isinstance(error, VmnetError):
            raise type(error)(f"{error} (and putting back failed: {'; '.join(left)})") from None
        raise


def _is_committed(session: Session, serial: int) -> bool:
    try:
        return session.records.is_committed(serial)
    except StoreError:
        return False


def recover(session: Session) -> None:
    """Take back what a killed process left half-done."""
    what, changes = session.records.journal()
    if what:
        session.kernel.finish()
        _undo(session.kernel, [c for c in changes if c.have != c.want], [c for c in changes if c.have == c.want])
        session.records.close_journal()


def remove(session: Session, owners: Sequence[Owner]) -> None:
    """Remove what only these owners claim, and forget them. Does all it can; then raises KernelError with what it could not
    remove, which stays in the records."""
    if not owners:
        return
    heirs = _heirs(session, owners)
    transaction = removal(session, owners)
    # No journal: an interrupted removal is not taken back, and a full disk must not prevent it.
    failed: dict[str, str] = {}
    for step in plan.batches(transaction.plan):
        try:
            session.kernel.apply(step)
        except VmnetError:
            # Half of it may be gone already: one by one, and only what is still there.
            for change in step:
                failed.update(take_away(session, change))
    for owner in transaction.drop:
        session.records.forget(owner, [key for key in failed if key in session.records.claims(owner)])
    if transaction.add:
        kept = {other: [key for key in failed if key in session.records.claimed(other.id)] for other in transaction.add}
        add = {other: [*keys, *kept[other]] for other, keys in transaction.add.items()}
        session.records.commit((), add, transaction.news, transaction.originals)
    for heir, routes in heirs.items():
        wanted = {**session.records.claims(heir.id), **routes}
        try:
            run(session, build(session, {heir: wanted}, (), {heir.id: session.records.needs(heir.id)}), f"remove {owners[0].id}")
        except VmnetError as error:
            failed.update(dict.fromkeys(routes, str(error)))
    if failed:
        raise KernelError(f"not everything could be removed: {'; '.join(failed.values())}; then run `vmnet-hook repair`")


def removal(session: Session, owners: Sequence[Owner]) -> Transaction:
    """What takes these owners away, and the way to them from the other ends of the wires that they are at."""
    changed: dict[Owner, dict[str, Resource]] = {}
    if any(NftChain.at_wire(nic.ifname, "").key in session.records.claimed(nic.id) for nic in nics(owners)):
        from . import wires  # Few guests are at any.

        changed = wires.left(session, owners)
    needs = {owner.id: session.records.needs(owner.id) for owner in changed}
    return build(session, changed, [owner.id for owner in owners], needs)


def _heirs(session: Session, owners: Sequence[Owner]) -> dict[Nic, dict[str, Resource]]:
    """The NICs that get routes of owners, which they had before, on their own taps again when these are gone: those of a guest
    that migrated within this host, in vain."""
    found: dict[Nic, dict[str, Resource]] = {}
    gone = [owner.id for owner in owners]
    for owner in nics(owners):
        # Elsewhere there is one route to an address.
        claims = session.records.claims(owner.id).values() if owner.metric else ()
        for route in [r for r in claims if isinstance(r, Route) and r.dev == owner.ifname]:
            for resource, other in session.records.claimants(route.key):
                if resource == route and isinstance(other, Nic) and other.id not in gone and lives(session, other):
                    found.setdefault(other, {})[route.key] = replace(route, dev=other.ifname)
    return found


def take_away(session: Session, change: Change) -> dict[str, str]:
    """Make one change that removes, if what it removes is still there. Returns the error by key; {} if it is gone."""
    subject = change.subject
    try:
        if session.kernel.read([subject]):
            session.kernel.apply([change])
    except VmnetError as error:
        return {subject.key: str(error)}
    return {}


def _made(changes: Sequence[Change]) -> set[str]:
    """The links that these changes make."""
    return {c.want.ifname for c in changes if c.have is None and isinstance(c.want, Device)}


def _as_made(kernel: Kernel, step: Plan, made: set[str]) -> dict[str, Resource]:
    """The settings of links that we have made, as they were before the step: their originals."""
    wants = [change.want for change in step if change.have is None and change.want]
    fresh = [want for want in wants if want.setting and want.link in made]
    return kernel.read(fresh) if fresh else {}


def _verify(kernel: Kernel, changes: Plan) -> None:
    """Raise KernelError if the kernel does not hold what was set."""
    last = {change.subject.key: change.want for change in changes}
    lost = {c.have.ifname for c in changes if isinstance(c.have, Device) and last[c.have.key] is None}
    # Elements are in the kernel if their transaction was accepted.
    changed = [w for w in last.values() if w is not None and not isinstance(w, NftElement) and not (lost and w.link in lost)]
    current = kernel.read(changed)
    moved = {change.subject.link for change in changes if change.subject.takes_along}
    for resource in changed:
        have = current.get(resource.key)
        if have is None and resource.goes_with_master and resource.link in moved:
            # What it was before was put back while the link was still a port.
            continue
        if have is None or not resource.covers(have):
            found = f" ({resource.difference(have)})" if have else ""
            raise KernelError(
                f"{resource.key}: was set, but the kernel does not hold it{found}; is another program at work here?"
            )


def _has_gone(kernel: Kernel, ifname: str) -> bool:
    try:
        return kernel.link(ifname) is None
    except Exception:
        return False


def _undo(kernel: Kernel, done: Sequence[Change], restore: Sequence[Change]) -> list[str]:
    """Take back what holds, newest first; then set what `restore` says must hold. Returns what could not be taken back."""
    left = []
    made = _made(done)
    for change in reversed(done):
        subject = change.subject
        if subject.link in made and subject.goes_with_link:
            continue
        try:
            have = kernel.read([subject]).get(subject.key)
            if not change.is_undone(have):
                kernel.apply([Change(have, change.have) if subject.composite else change.inverse])
        except Exception as error:
            # Whatever it is, the rest must be put back. What was on a link that has gone meanwhile went with it.
            if not (subject.link and _has_gone(kernel, subject.link)):
                left.append(str(error))
    for change in sorted(restore, key=lambda change: change.subject.order):
        subject = change.subject
        try:
            have = kernel.read([subject]).get(subject.key)
            if have != subject and not (subject.link and kernel.link(subject.link) is None and not subject.composite):
                kernel.apply([Change(have, subject)])
        except Exception as error:
            left.append(str(error))
    return left
