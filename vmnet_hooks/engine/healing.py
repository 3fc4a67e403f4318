"""Puts back what other programs removed or changed, by the records alone: for the agent, which the kernel notifies. What `repair`
does beyond that (configuration that was edited, orphans) is the admin's decision, and so is what is left alone here: a link that
was set down stays down, and what a bridge took over from its port (addresses from DHCP may be newer than the record) is not
forced back.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import ConflictError, VmnetError
from ..model import plan
from ..model.objects import KINDS, Device, NftChain, NftElement, NftTable, Route
from ..model.owner import Nic, Owner
from ..model.plan import Change, Plan
from ..model.resource import MAIN_TABLE, WIRE_MAPS, Resource
from ..model.ruleset import NAT
from ..records.store import Store
from . import Session, apply, lives, names, takeover
from .owners import dead


@dataclass(frozen=True)
class Mended:
    """What was done. The `changes` hold; `failed` has by key why it can't be put back now; the keys in `waits` are on a link that
    is down or gone; the taps of `departed` are gone, and so is what was set up for them."""

    changes: Plan = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    waits: Collection[str] = ()
    departed: Sequence[Owner] = ()


class Departed(NamedTuple):
    """The owners whose taps were gone, the NICs whose taps had got another name, and by owner's id what could not be done."""

    owners: Sequence[Owner] = ()
    renamed: Sequence[Nic] = ()
    failed: Mapping[str, str] = {}


def suspected(store: Store, keys: Iterable[str], starts: Iterable[str], links: Iterable[str]) -> dict[str, Resource]:
    """The resources in the records under these keys, under keys that start so, and on these links."""
    links = list(links)
    kinds = [row.resource for row in KINDS.values()]
    on_links = [kind.keys_on(name) for name in links for kind in kinds]
    exact = [*keys, *(key for found in on_links for key in found.exact)]
    known = {key: found[0] for key, found in store.records(exact).items()} if exact else {}
    for start in (*starts, *(start for found in on_links for start in found.starts)):
        known.update(store.under(start))
    for name in links:
        known.update(store.routes_through(name))
        if NftChain.at_wire(name, "").key in known:
            # A link of the host at a wire, made anew, has another number.
            joints = (store.under(NftElement.key_of("netdev", maps)) for maps in WIRE_MAPS)
            known.update((key, r) for there in joints for key, r in there.items() if getattr(r, "value", "") == f'"{name}"')
    return known


def amiss(session: Session, recorded: Mapping[str, Resource]) -> set[str]:
    """The keys of those that are not as recorded, and that could be put back now. Needs no lock: a call that changes them may be
    half-way through, so `mend` looks again."""
    wants, _ = _mendable(session, recorded)
    current = session.kernel.read(wants.values())
    return {key for key, want in wants.items() if (have := current.get(key)) is None or not want.covers(have)}


def mend(session: Session, keys: Collection[str] | None, anew: Collection[str] = ()) -> Mended:
    """Bring what is recorded under `keys` (None: everything, and the guests whose taps are gone) to what the records have.
    Tables in `anew` are made anew even if they look right. Raises VmnetError only if there is no telling what is wrong."""
    records, kernel = session.records, session.kernel
    with records.lock():
        apply.recover(session)
        departed, failed = _remove(session, dead(session, records.owners())) if keys is None else ([], {})
        if keys is None:
            failed |= names.put_back(session, records.nics())[1]
            recorded = records.resources()
        else:
            recorded = {key: known[0] for key in keys if (known := records.recorded(key))}
        wants, waits = _mendable(session, _claimed(records, recorded))
        current = {key: have for key, have in kernel.read(wants.values()).items() if key not in anew}
        wants = {key: want for key, want in wants.items() if not (key in current and want.covers(current[key]))}
        wants, current = _with_tables(session, wants, current)
        changes, refused = _plan(wants, current)
        done, rejected = _apply(session, changes)
        failed = {**failed, **refused, **rejected}
        return Mended([change for change in done if change.subject.key not in failed], failed, waits, departed)


def reconcile(session: Session, asked: Sequence[Owner], gone: Callable[[], Collection[str]]) -> Mended:
    """What happened while no agent ran: what is not as recorded is put back; then guests that died are removed, one by one.
    `asked` are the owners as they were before hypervisors were asked, `gone` asks for the ids of domains that do not run any
    more, which may take long. The lock is not held while everything is read, so hooks do not wait."""
    records = session.records
    with records.lock():
        unnamed = names.put_back(session, records.nics())[1]
    found = mend(session, amiss(session, records.resources()))
    departed: list[Owner] = []
    failed: dict[str, str] = {}
    for owner in dead(session, asked, gone()):
        with records.lock():
            apply.recover(session)
            # Its hook may have come meanwhile, or the guest again.
            if records.owners(id=owner.id) == [owner]:
                done, left = _remove(session, [owner])
                departed += done
                failed.update(left)
    return Mended(found.changes, {**unnamed, **failed, **found.failed}, found.waits, departed)


def depart(session: Session, taps: Collection[tuple[int, str]]) -> Departed:
    """Remove the guests' NICs whose taps, as (ifindex, ifname), are gone, and give those their names again that were renamed."""
    if not any(_of_tap(session.records, tap) for tap in taps):
        return Departed()
    with session.records.lock():
        apply.recover(session)
        found = [owner for tap in taps for owner in _of_tap(session.records, tap)]
        departed, failed = _remove(session, [owner for owner in found if not lives(session, owner)])
        renamed, unnamed = names.put_back(session, [nic for nic in found if nic not in departed])
        return Departed(departed, renamed, failed | unnamed)


def _of_tap(records: Store, tap: tuple[int, str]) -> list[Nic]:
    index, ifname = tap
    return [nic for nic in records.nics(ifname=ifname) if nic.ifindex == index]


def _remove(session: Session, owners: Sequence[Owner]) -> tuple[list[Owner], dict[str, str]]:
    try:
        apply.remove(session, owners)
    except VmnetError as error:
        return list(owners), {owner.id: str(error) for owner in owners}
    return list(owners), {}


def _claimed(records: Store, recorded: Mapping[str, Resource]) -> dict[str, Resource]:
    """Without what is only waiting to be removed."""
    leaving = [owner.id for owner in records.owners(phase="leftover")]
    return {key: r for key, r in recorded.items() if not leaving or records.claimed_elsewhere(key, leaving)}


def _mendable(session: Session, recorded: Mapping[str, Resource]) -> tuple[dict[str, Resource], list[str]]:
    """What can be put back now, and the keys of what has to wait for its link."""
    if still := takeover.links_that_wait(session.records):
        recorded = {key: r for key, r in recorded.items() if r.link not in still}
    links = {name: session.kernel.link(name) for name in {r.link for r in recorded.values()} if name}
    made = {r.ifname for r in recorded.values() if isinstance(r, Device) and links[r.ifname] is None}
    wants, waits = {}, []
    # Recorded by a version that had NAT in the inet table: it stays there until that table is made anew.
    elsewhere = session.records.recorded(NAT.key) is None
    for key, resource in recorded.items():
        if elsewhere and isinstance(resource, NftElement) and resource.table == NAT.key:
            continue
        if not resource.restorable(made):
            continue
        link = links.get(resource.link)
        if not resource.link or resource.link in made or (link and (link.up or not resource.goes_down_with_link)):
            wants[key] = resource
        else:
            waits.append(key)
    return wants, waits


def _with_tables(
    session: Session, wants: dict[str, Resource], current: dict[str, Resource]
) -> tuple[dict[str, Resource], dict[str, Resource]]:
    """An element needs its table, and a table that is made anew needs the elements of all owners."""
    records = session.records
    tables = {r.table for r in wants.values() if isinstance(r, NftElement)} - wants.keys()
    known = {key: found[0] for key in tables if (found := records.recorded(key))}
    there = session.kernel.read(known.values())
    wants = {**{key: r for key, r in known.items() if there.get(key) != r}, **wants}
    current = {**current, **there}
    for table in [r for r in wants.values() if isinstance(r, NftTable) and not r.of_link]:
        wants = {**wants, **_claimed(records, records.elements(table.key))}
        current = {k: r for k, r in current.items() if not (isinstance(r, NftElement) and r.table == table.key)}
    return wants, current


def _plan(wants: Mapping[str, Resource], current: Mapping[str, Resource]) -> tuple[list[Change], dict[str, str]]:
    """The changes that can be made, and by key why the others can't."""
    remade = plan.remade(wants, current)
    failed = {
        key: f"{key}: {r.link} is not what was made; see `vmnet-hook check`" for key, r in wants.items() if r.link in remade
    }
    possible = {key: want for key, want in wants.items() if key not in failed}
    for key, want in possible.items():
        try:
            plan.diff({key: want}, {}, current)
        except ConflictError as error:
            failed[key] = f"{key}: {error}"
    possible = {key: want for key, want in possible.items() if key not in failed}
    return [_replacing(change) for change in plan.diff(possible, {}, current)], failed


def _replacing(change: Change) -> Change:
    """In a network's own table another program may have put a route in the place of ours."""
    route = change.want
    if change.have is None and isinstance(route, Route) and route.table != MAIN_TABLE:
        return Change(route, route)
    return change


def _apply(session: Session, changes: Plan) -> tuple[list[Change], dict[str, str]]:
    """Make the changes, as many as can be made. Returns those that were, and by key why a change was not, or does not hold."""
    done: list[Change] = []
    failed: dict[str, str] = {}
    for step in plan.batches(changes):
        try:
            session.kernel.apply(step)
        except VmnetError as error:
            failed.update((change.subject.key, str(error)) for change in step)
        else:
            done += step
    # What goes in batches is in the kernel if its transaction was accepted.
    checked = [change.want for change in done if change.want is not None and not change.want.batched]
    holds = session.kernel.read(checked)
    for want in checked:
        if want.key not in holds or not want.covers(holds[want.key]):
            failed[want.key] = f"{want.key}: was set, but the kernel does not hold it; is another program at work here?"
    return done, failed
