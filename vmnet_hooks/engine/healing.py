"""Puts back what others took away or changed, by the records alone: for the agent, which hears of it. What `repair` does beyond
that (configuration that was edited, orphans) is an admin's decision, and so is what is left alone here: a link that was taken
down stays down, and what a bridge took over from its port (addresses from DHCP may be newer than the record) is not forced
back.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import ConflictError, VmnetError
from ..model import plan
from ..model.objects import Address, Adoption, Device, LinkAttribute, Neighbour, NftElement, NftTable, ProxyNeighbour, Route
from ..model.owner import Owner
from ..model.plan import Change, Plan
from ..model.resource import MAIN_TABLE, Resource
from ..model.ruleset import NAT, port_table
from ..records.store import Store
from .engine import Engine


@dataclass(frozen=True)
class Mended:
    """What was done: `changes` hold; `failed` says by key why it can't be mended now; what is on a link that is down or gone
    `waits` for it; the taps of `departed` are gone, and so is what was set up for them."""

    changes: Plan = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    waits: Collection[str] = ()
    departed: Sequence[Owner] = ()


def suspected(store: Store, keys: Iterable[str], starts: Iterable[str], links: Iterable[str]) -> dict[str, Resource]:
    """What is recorded under these keys, under keys that start so, and on these links."""
    links = list(links)
    alone = [*keys, *(f"{kind} {name}" for name in links for kind in ("device", "vlans"))]
    alone += [f"nft netdev {port_table(name)}" for name in links]
    found = {key: known[0] for key, known in store.records(alone).items()} if alone else {}
    for start in starts:
        found.update(store.under(start))
    for name in links:
        for start in (
            *(f"{kind} {name} " for kind in ("link", "addr", "neigh", "proxy", "fdb")),
            *(f"sysctl net/ipv{version}/{kind}/{name}/" for version in (4, 6) for kind in ("conf", "neigh")),
        ):
            found.update(store.under(start))
        found.update(store.routes_through(name))
    return found


def amiss(engine: Engine, recorded: Mapping[str, Resource]) -> set[str]:
    """The keys of those that are not as recorded, and that could be mended now. Needs no lock: who changes them lawfully
    may be half-way through, so `mend` looks again."""
    wants, _ = _mendable(engine, recorded)
    current = engine.kernel.read(wants.values())
    return {key for key, want in wants.items() if (have := current.get(key)) is None or not want.covers(have)}


def mend(engine: Engine, keys: Collection[str] | None, anew: Collection[str] = ()) -> Mended:
    """Brings what is recorded under `keys` (None: everything, and the guests whose taps are gone) to what the records say.
    Tables in `anew` are made anew even if they look right. Raises VmnetError only if there is no telling what is wrong."""
    store = engine.store
    with store.lock():
        engine._recover()
        departed, failed = _unplug(engine, engine._dead(store.owners(), set())) if keys is None else ([], {})
        if keys is None:
            recorded = store.resources()
        else:
            recorded = {key: known[0] for key in keys if (known := store.recorded(key))}
        wants, waits = _mendable(engine, _claimed(store, recorded))
        current = {key: have for key, have in engine.kernel.read(wants.values()).items() if key not in anew}
        wants = {key: want for key, want in wants.items() if not (key in current and want.covers(current[key]))}
        wants, current = _with_tables(engine, wants, current)
        changes = [_replacing(change) for change in _plan(wants, current, failed)]
        done: list[Change] = []
        for step in plan.batches(changes):
            try:
                engine.kernel.apply(step)
            except VmnetError as error:
                failed.update((change.subject.key, str(error)) for change in step)
            else:
                done += step
        checked = [c.want for c in done if c.want is not None and not isinstance(c.want, NftElement | NftTable)]
        holds = engine.kernel.read(checked)
        for want in checked:
            if want.key not in holds or not want.covers(holds[want.key]):
                failed[want.key] = f"{want.key}: was set, but the kernel does not hold it; is another program at work here?"
        return Mended([c for c in done if c.subject.key not in failed], failed, waits, departed)


def reconcile(engine: Engine, gone: Collection[str]) -> Mended:
    """What happened while nobody looked: guests that died (`gone` are ids of domains that run no more) are cleaned up after, one
    by one; then what is not as recorded is put back. The lock is not held while everything is read, so hooks do not wait."""
    store = engine.store
    departed: list[Owner] = []
    failed: dict[str, str] = {}
    for owner in engine._dead(store.owners(), set(gone)):
        with store.lock():
            engine._recover()
            # Its hook may have come meanwhile, or the guest again.
            if store.owners(id=owner.id) == [owner]:
                done, left = _unplug(engine, [owner])
                departed += done
                failed.update(left)
    found = mend(engine, amiss(engine, store.resources()))
    return Mended(found.changes, {**failed, **found.failed}, found.waits, departed)


def depart(engine: Engine, taps: Collection[tuple[int, str]]) -> tuple[list[Owner], dict[str, str]]:
    """Unplugs the guests' NICs whose taps, as (ifindex, ifname), are gone. Returns whose they were, and what could not be
    taken away."""
    if not any(_of_tap(engine, tap) for tap in taps):
        return [], {}
    with engine.store.lock():
        engine._recover()
        return _unplug(engine, [owner for tap in taps for owner in _of_tap(engine, tap) if not engine._lives(owner)])


def _of_tap(engine: Engine, tap: tuple[int, str]) -> list[Owner]:
    index, ifname = tap
    return [owner for owner in engine.store.owners(ifname=ifname) if owner.domain and owner.ifindex == index]


def _unplug(engine: Engine, owners: Sequence[Owner]) -> tuple[list[Owner], dict[str, str]]:
    try:
        engine._unplug(owners)
    except VmnetError as error:
        return list(owners), {owner.id: str(error) for owner in owners}
    return list(owners), {}


def _claimed(store: Store, recorded: Mapping[str, Resource]) -> dict[str, Resource]:
    """Without what is only waiting to be taken away."""
    leaving = [owner.id for owner in store.owners(phase="leftover")]
    return {key: r for key, r in recorded.items() if not leaving or store.claimed_elsewhere(key, leaving)}


def _mendable(engine: Engine, recorded: Mapping[str, Resource]) -> tuple[dict[str, Resource], list[str]]:
    """What can be mended now, and the keys of what has to wait for its link."""
    links = {name: engine.kernel.link(name) for name in {r.link for r in recorded.values()} if name}
    made = {r.ifname for r in recorded.values() if isinstance(r, Device) and links[r.ifname] is None}
    wants, waits = {}, []
    # Recorded by a version that had it in a table with other things: there it is until that one is made anew.
    elsewhere = engine.store.recorded(NAT.key) is None
    for key, resource in recorded.items():
        if elsewhere and isinstance(resource, NftElement) and resource.table == NAT.key:
            continue
        link = links.get(resource.link)
        if isinstance(resource, Adoption) or (isinstance(resource, LinkAttribute) and not _restored(resource, made)):
            continue
        if not resource.link or resource.link in made or (link and (link.up or not _goes_down_with_link(resource))):
            wants[key] = resource
        else:
            waits.append(key)
    return wants, waits


def _restored(attribute: LinkAttribute, made: Collection[str]) -> bool:
    """Whether an attribute is ours to set: the state only of a link that we make."""
    return not attribute.stays and (attribute.name != "state" or attribute.ifname in made)


def _goes_down_with_link(resource: Resource) -> bool:
    lladdr = isinstance(resource, LinkAttribute) and resource.name == "lladdr"
    return lladdr or isinstance(resource, Address | Neighbour | ProxyNeighbour | Route)


def _with_tables(
    engine: Engine, wants: dict[str, Resource], current: dict[str, Resource]
) -> tuple[dict[str, Resource], dict[str, Resource]]:
    """An element needs its table, and a table that is made anew needs all of its elements, whoever's they are."""
    store = engine.store
    tables = {r.table for r in wants.values() if isinstance(r, NftElement)} - wants.keys()
    known = {key: found[0] for key in tables if (found := store.recorded(key))}
    there = engine.kernel.read(known.values())
    wants = {**{key: r for key, r in known.items() if there.get(key) != r}, **wants}
    current = {**current, **there}
    for table in [r for r in wants.values() if isinstance(r, NftTable) and not table_of_link(r)]:
        wants = {**wants, **_claimed(store, store.elements(table.key))}
        current = {k: r for k, r in current.items() if not (isinstance(r, NftElement) and r.table == table.key)}
    return wants, current


def _replacing(change: Change) -> Change:
    """In a network's own table somebody may have put another route in the place of ours."""
    route = change.want
    if change.have is None and isinstance(route, Route) and route.table != MAIN_TABLE:
        return Change(route, route)
    return change


def table_of_link(table: NftTable) -> bool:
    """Whether a table is for one link alone: it has no elements."""
    return table.family == "netdev"


def _plan(wants: dict[str, Resource], current: dict[str, Resource], failed: dict[str, str]) -> Plan:
    """The changes that can be made; why the others can't is added to `failed`."""
    for name in plan.remade(wants, current):
        for key in [key for key, r in wants.items() if r.link == name]:
            failed[key] = f"{key}: {name} is not what was made; see `vmnet-hook check`"
            del wants[key]
    for key, want in list(wants.items()):
        try:
            plan.diff({key: want}, {}, current)
        except ConflictError as error:
            failed[key] = f"{key}: {error}"
            del wants[key]
    return plan.diff(wants, {}, current)
