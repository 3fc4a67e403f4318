"""The difference between what shall be and what is, as an ordered list of invertible changes. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from ..errors import ConflictError
from .objects import Address, Adoption, Device, LinkAttribute, NftElement, NftTable, Route
from .resource import Resource, State

_KERNEL = 2
"""The protocol of routes that the kernel makes, RTPROT_KERNEL."""


@dataclass(frozen=True)
class Change:
    """From `have` to `want`; None is absence. Prints as the command that does it."""

    have: Resource | None
    want: Resource | None

    @property
    def subject(self) -> Resource:
        resource = self.want or self.have
        assert resource is not None
        return resource

    @property
    def inverse(self) -> "Change":
        return Change(self.want, self.have)

    def __str__(self) -> str:
        return self.want.set_command(self.have) if self.want else self.subject.unset_command()


Plan = Sequence[Change]


@dataclass(frozen=True)
class Release:
    """A key that nobody claims any more: `ours` is what we put there, `original` what we found before (None: nothing)."""

    ours: Resource
    original: Resource | None


def diff(want: State, release: Mapping[str, Release], current: State) -> Plan:
    """The changes that bring `current` to `want`, clean-up first. A released key goes back to its original, but only if
    it still holds what we put there: what somebody changed since is theirs. A link of ours that can't become what is wanted
    is made anew, with all that is on it.

    Raises ConflictError where a route or a link of somebody else's stands in the way.
    """
    clean_up, set_up = [], []
    gone = {item.ours.link for item in release.values() if isinstance(item.ours, Device) and _deleted(item, current)}
    gone |= remade(want, current)
    for resource in want.values():
        have = current.get(resource.key)
        if isinstance(have, Device) and not have.ours:
            what = have.type or "plain interface"
            raise ConflictError(f"link {have.ifname} exists already and is not ours ({what}); remove it, or choose another name")
        if isinstance(have, Device) and have.ifname in gone:
            clean_up.append(Change(have, None))
        if isinstance(have, Adoption) and isinstance(resource, Adoption) and have.bridge != resource.bridge:
            clean_up.append(Change(have, None))
            current = {key: r for key, r in current.items() if key != have.key}
        if isinstance(have, LinkAttribute) and have.name == "master" and have.value in gone and have.link not in gone:
            # The port of a link that goes leaves it before.
            left = replace(have, value="")
            clean_up.append(Change(have, left))
            current = {**current, have.key: left}
    for key, item in release.items():
        have = current.get(key)
        if have is None or getattr(item.ours, "stays", False):
            continue
        # A bond takes a port that leaves it down: that was nobody's wish.
        was_port = isinstance(have, LinkAttribute) and have.name == "state" and f"link {have.ifname} master" in release
        if not item.ours.released_by(have) and not was_port:
            continue
        if have.link in gone and goes_with_link(have):
            continue
        if item.original is None or item.original != have:
            clean_up.append(Change(have, item.original))
    leaving = {change.have.ifname for change in clean_up if isinstance(change.have, Address)}
    for key, resource in want.items():
        have = current.get(key)
        if have is not None and have.link in gone:
            have = None
        # The kernel's own route to a subnet goes with the address: it does not stand in for ours.
        goes = isinstance(have, Route) and have.proto == _KERNEL and have.dev in leaving
        if have is not None and resource.covers(have) and not goes:
            continue
        if isinstance(have, Route) and not have.ours and not goes:
            raise ConflictError(f"somebody else's route is in the way: {have}; remove it, or correct the network's settings")
        set_up.append(Change(have, resource))
    clean_up.reverse()
    clean_up.sort(key=lambda change: -change.subject.order)
    set_up.sort(key=lambda change: change.subject.order)
    return [*clean_up, *set_up]


def remade(want: State, current: State) -> set[str]:
    """Links of ours that can't become what is wanted, and those that go with them."""
    found: set[str] = set()
    devices = [(r, have) for r in want.values() if isinstance(r, Device) and isinstance(have := current.get(r.key), Device)]
    while new := [
        r.ifname
        for r, have in devices
        if have.ours and r.ifname not in found and (not r.same_device(have) or (have.parent and have.parent in found))
    ]:
        found.update(new)
    return found


def goes_with_link(resource: Resource) -> bool:
    """Whether there is nothing to take away once the link is. A bridge goes only after its ports have left it."""
    is_master = isinstance(resource, LinkAttribute) and resource.name == "master"
    return not isinstance(resource, Device | NftTable) and not is_master


def _deleted(item: Release, current: State) -> bool:
    have = current.get(item.ours.key)
    return have is not None and item.original is None and item.ours.released_by(have)


def batches(plan: Plan) -> Iterator[Plan]:
    """The steps of a plan: neighbouring nft changes go in one transaction, every other change is a step of its own."""
    for is_nft, group in groupby(plan, lambda change: isinstance(change.subject, NftTable | NftElement)):
        if is_nft:
            yield list(group)
        else:
            yield from ([change] for change in group)
