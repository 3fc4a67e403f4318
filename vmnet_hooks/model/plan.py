"""The difference between the desired and the present state, as an ordered list of invertible changes. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ..errors import ConflictError
from ..values import bare
from .objects import Address, Device, Route
from .resource import Resource, State, cached


@dataclass(frozen=True)
class Change:
    """A change of one object from `have` to `want`; None means absent. str() gives the shell command with the same effect."""

    have: Resource | None
    want: Resource | None

    @cached
    def subject(self) -> Resource:
        resource = self.want or self.have
        assert resource is not None
        return resource

    @property
    def inverse(self) -> "Change":
        return Change(self.want, self.have)

    def is_undone(self, have: Resource | None) -> bool:
        """Return whether the kernel, which holds `have`, shows no trace of the change. If it can't tell, return False."""
        subject, want = self.subject, self.want
        if want is None and subject.hides:
            return False
        if subject.composite or (want is None and subject.setting):
            return have == self.have
        if want is None:
            return have is not None
        return have is None or not want.covers(have) or have == self.have

    def __str__(self) -> str:
        return self.want.set_command(self.have) if self.want else self.subject.unset_command()


Plan = Sequence[Change]


class Release(NamedTuple):
    """A key that no owner claims any more. `ours` is the value that we set, `original` the one found before it (None:
    absent)."""

    ours: Resource
    original: Resource | None


def diff(want: State, release: Mapping[str, Release], current: State) -> Plan:
    """Return the changes that bring `current` to `want`, removals first.

    A released key goes back to its original value only if it still holds ours: a value that another program has set since then
    belongs to that program. A link of ours that can't be changed into the desired one is removed and made again, with
    everything on it. Raises ConflictError where a route or a link that is not ours is in the way.
    """
    gone = remade(want, current) | _removed(release, current)
    room, current = _vacated(want, gone, current)
    removals = [*room, *_restored(release, gone, current)]
    additions = _set(want, gone, removals, current)
    removals.reverse()
    removals.sort(key=lambda change: -change.subject.order)
    additions.sort(key=attrgetter("want.order"))
    stay = {(r.ifname, r.version): r.address for r in want.values() if isinstance(r, Address)} if removals else {}
    last = [change for change in removals if _gives_way(change, stay)] if stay else []
    removals = [change for change in removals if change not in last]
    return [*removals, *_with_addresses_removed(additions, last)]


def _with_addresses_removed(additions: Sequence[Change], last: Sequence[Change]) -> Iterator[Change]:
    """Yield `additions`, then the removal of addresses; but before a route whose gateway one of these addresses is, since the
    kernel takes no gateway that is the host's own."""
    left = list(last)
    for change in additions:
        if left and isinstance(route := change.want, Route) and route.via:
            early = [c for c in left if isinstance(c.have, Address) and bare(c.have.address) == route.via]
            yield from early
            left = [c for c in left if c not in early]
        yield change
    yield from left


def _gives_way(change: Change, stay: Mapping[tuple[str, int], str]) -> bool:
    """Return whether a change removes an address of a link that gets another one. With its last IPv4 address a link loses all
    routes, so the new address comes first; IPv6 does not allow two prefix lengths of one address."""
    have = change.have
    if change.want is not None or not isinstance(have, Address):
        return False
    new = stay.get((have.ifname, have.version), "")
    return bool(new) and (have.version == 4 or bare(new) != bare(have.address))


def remade(want: State, current: State) -> set[str]:
    """Return our links that can't be changed into the desired ones, and the links that the kernel removes with them."""
    found: set[str] = set()
    devices = [(r, have) for r in want.values() if isinstance(r, Device) and isinstance(have := current.get(r.key), Device)]
    while new := [
        r.ifname
        for r, have in devices
        if have.ours and r.ifname not in found and (not r.same_device(have) or (have.parent and have.parent in found))
    ]:
        found.update(new)
    return found


def _removed(release: Mapping[str, Release], current: State) -> set[str]:
    """Return the released links that exist and that we made: they are removed."""
    devices = [item for item in release.values() if isinstance(item.ours, Device) and item.original is None]
    return {item.ours.link for item in devices if (have := current.get(item.ours.key)) and item.ours.released_by(have)}


def _vacated(want: State, gone: Collection[str], current: State) -> tuple[list[Change], State]:
    """Return the changes that make room for the desired objects, and the state after them."""
    changes: list[Change] = []
    then = dict(current)
    for key, resource in want.items():
        have = current.get(key)
        if have is None:
            continue
        left = have.vacated(resource, gone)
        if left is have:
            continue
        changes.append(Change(have, left))
        if left is None:
            del then[key]
        else:
            then[key] = left
    return changes, then


def _restored(release: Mapping[str, Release], gone: Collection[str], current: State) -> Iterator[Change]:
    """Yield the changes of released keys to their original values, without those that the removal of a link implies."""
    for key, item in release.items():
        have = current.get(key)
        if have is None or have == item.original or item.ours.stays or not item.ours.released_by(have, release):
            continue
        if not (have.link in gone and have.goes_with_link):
            yield Change(have, item.original)


def _set(want: State, gone: Collection[str], removals: Plan, current: State) -> list[Change]:
    """Return the changes that set the desired objects that are absent now, or will be absent after the removals."""
    # The kernel's own route to a subnet is removed with the address, so it can't replace a route of ours.
    leaving = {change.have.ifname for change in removals if isinstance(change.have, Address)}
    changes = []
    for key, resource in want.items():
        have = current.get(key)
        if gone and have is not None and have.link in gone:
            have = None
        if have is not None and not (leaving and have.leaves_with(leaving)):
            if resource.covers(have):
                continue
            if conflict := resource.conflict(have):
                raise ConflictError(conflict)
        changes.append(Change(have, resource))
    return changes


def batches(plan: Plan) -> Iterator[Plan]:
    """Yield the steps of a plan. Adjacent nft changes are one step (one transaction), every other change is its own step."""
    batch: list[Change] = []
    for change in plan:
        if change.subject.batched:
            batch.append(change)
            continue
        if batch:
            yield batch
            batch = []
        yield [change]
    if batch:
        yield batch
