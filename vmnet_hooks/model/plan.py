"""The difference between what is wanted and what is there, as an ordered list of invertible changes. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import NamedTuple

from ..errors import ConflictError
from .objects import Address, Device
from .resource import Resource, State


@dataclass(frozen=True)
class Change:
    """From `have` to `want`; None is absence. Prints as the command that makes the change."""

    have: Resource | None
    want: Resource | None

    @cached_property
    def subject(self) -> Resource:
        resource = self.want or self.have
        assert resource is not None
        return resource

    @property
    def inverse(self) -> "Change":
        return Change(self.want, self.have)

    def is_undone(self, have: Resource | None) -> bool:
        """Whether nothing of the change is left in the kernel, which holds `have`."""
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
    """A key that no owner claims any more: `ours` is what we put there, `original` what we found before (None: nothing)."""

    ours: Resource
    original: Resource | None


def diff(want: State, release: Mapping[str, Release], current: State) -> Plan:
    """The changes that bring `current` to `want`, removals first. A released key goes back to its original, but only if it still
    holds what we put there: what another program has changed since is its own. A link of ours that can't become what is wanted
    is removed and made again, with everything on it.

    Raises ConflictError where a route or a link that is not ours is in the way.
    """
    gone = remade(want, current) | _removed(release, current)
    room, current = _vacated(want, gone, current)
    removals = [*room, *_restored(release, gone, current)]
    additions = _set(want, gone, removals, current)
    removals.reverse()
    removals.sort(key=lambda change: -change.subject.order)
    additions.sort(key=attrgetter("want.order"))
    return [*removals, *additions]


def remade(want: State, current: State) -> set[str]:
    """The links of ours that can't become what is wanted, and those that go with them."""
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
    """The released links that are removed: we made them, and they are there."""
    devices = [item for item in release.values() if isinstance(item.ours, Device) and item.original is None]
    return {item.ours.link for item in devices if (have := current.get(item.ours.key)) and item.ours.released_by(have)}


def _vacated(want: State, gone: Collection[str], current: State) -> tuple[list[Change], State]:
    """What must make room before anything that is wanted can be set, and what is there then."""
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
    """What is released goes back to its original, unless its link takes it along."""
    for key, item in release.items():
        have = current.get(key)
        if have is None or have == item.original or item.ours.stays or not item.ours.released_by(have, release):
            continue
        if not (have.link in gone and have.goes_with_link):
            yield Change(have, item.original)


def _set(want: State, gone: Collection[str], removals: Plan, current: State) -> list[Change]:
    """What is wanted and not there, or not there any more after the removals."""
    # The kernel's own route to a subnet goes with the address: it does not stand in for ours.
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
    """The steps of a plan: neighbouring nft changes go in one transaction, every other change is a step of its own."""
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
