"""Builds transactions: from what owners want, what the records have and what the kernel holds to a plan, and to what it means for
the records. Changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from ..model import plan
from ..model.objects import FORWARDING_GATE, Device, LinkAttribute, NftChain, NftElement, NftTable, Sysctl
from ..model.owner import NEEDED, Owner
from ..model.plan import Change, Plan, Release
from ..model.resource import Resource
from ..model.ruleset import CLOSED6, INET, NAT
from ..records import same
from . import Session

Wanted = Mapping[Owner, Mapping[str, Resource]]
"""What owners want, by key."""

Needs = Mapping[str, Sequence[str]]
"""By an owner's id, the ids of the owners that must be up for it."""


@dataclass(frozen=True)
class Transaction:
    """A plan together with what it means for the records: the owners that `add` records with the keys they claim, those that it
    drops, the resources that are wanted, and what was found at keys that no owner claimed."""

    plan: Plan
    add: Mapping[Owner, Sequence[str]] = field(default_factory=dict)
    drop: Sequence[str] = ()
    wants: Mapping[str, Resource] = field(default_factory=dict)
    originals: Mapping[str, Resource | None] = field(default_factory=dict)
    before: Mapping[str, Resource] = field(default_factory=dict)
    """What the kernel held at every key that the plan looks at."""
    recorded: Mapping[str, Resource] = field(default_factory=dict)
    """Those of `wants` that the records have, as they have them."""

    @property
    def news(self) -> dict[str, Resource]:
        """Those of `wants` that the records do not have as they are."""
        known = self.recorded
        return {key: want for key, want in self.wants.items() if key not in known or not same(known[key], want)}

    @property
    def restore(self) -> list[Change]:
        """What must hold again if the plan is taken back: a link that is removed takes along what no change of the plan names."""
        subjects = [change.subject for change in self.plan]
        deep = any(map(attrgetter("takes_along"), subjects))
        return [Change(resource, resource) for resource in self.before.values()] if deep else []


def build(session: Session, wanted: Wanted, drop: Sequence[str] = (), needs: Needs | None = None) -> Transaction:
    """Work out the transaction that gives the owners what they want, drops the owners with the ids `drop`, and removes what is
    claimed no more. Raises ConflictError if something that is not ours is in the way."""
    needs = needs or {}
    staying = [owner.id for owner in wanted]
    drop = [*drop, *_idle(session, [*drop, *staying], needs)]
    gone = [*drop, *staying]
    draft = _Draft(session, wanted)
    draft.keep_what_stands()
    heirs = draft.move_nat(gone)
    draft.release_claims(gone)
    draft.read()
    draft.follow_remade_links()
    draft.read_settings()
    draft.find_originals()
    draft.ignore_leftovers()
    draft.settle_adoptions()
    draft.refill_remade_tables()
    add = {owner: [*resources, *(f"needs {other}" for other in needs.get(owner.id, ()))] for owner, resources in wanted.items()}
    add |= {owner: [*session.records.claimed(owner.id), NAT.key] for owner in heirs}
    changes = plan.diff(draft.wants, draft.release, draft.current)
    return Transaction(changes, add, drop, draft.wants, draft.originals, draft.current, draft.recorded)


class _Draft:
    """A transaction in the making. Every pass adds what those before it have made necessary."""

    def __init__(self, session: Session, wanted: Wanted) -> None:
        self.session = session
        self.wants = {key: resource for resources in wanted.values() for key, resource in resources.items()}
        self.recorded = {key: found[0] for key, found in session.records.records(self.wants).items()}
        self.release: dict[str, Release] = {}
        self.current: dict[str, Resource] = {}
        self.originals: dict[str, Resource | None] = {}

    def keep_what_stands(self) -> None:
        self.wants |= {key: known for key, known in self.recorded.items() if known.stands}

    def move_nat(self, gone: Sequence[str]) -> list[Owner]:
        """Where the inet table is made anew that an older version had NAT in, NAT gets its own. Returns the other owners that
        translate: the new table is theirs too."""
        known, want = self.recorded.get(INET.key), self.wants.get(INET.key)
        if known is None or known == want:
            return []
        records = self.session.records
        found = {owner.id: owner for key in records.elements(NAT.key) for _, owner in records.claimants(key)}
        heirs = [
            owner
            for owner in found.values()
            if owner.id not in gone and not owner.is_left_over and NAT.key not in records.claimed(owner.id)
        ]
        if heirs:
            self.wants = {NAT.key: NAT, **self.wants}
            self.recorded |= {key: found[0] for key, found in records.records([NAT.key]).items()}
        return heirs

    def release_claims(self, owners: Sequence[str]) -> None:
        if owners:
            found = self.session.records.released(owners, self.wants)
            self.release = {key: Release(ours, original) for key, (ours, original) in found.items()}

    def read(self) -> None:
        """Read what is there, also in its recorded shape: a route is looked up on its device, and the configuration may name
        another one by now."""
        wants, recorded = self.wants, self.recorded
        moved = [resource for key, resource in recorded.items() if resource != wants[key]]
        # An element without a record is added, not looked up: libnftables loads every set of the host to find that one element is
        # missing, and does so again for the next. A chain would get its rule twice.
        sought = [r for key, r in wants.items() if key in recorded or not isinstance(r, NftElement) or isinstance(r, NftChain)]
        self.current = self.session.kernel.read([*moved, *sought, *[item.ours for item in self.release.values()]])

    def follow_remade_links(self) -> None:
        """A link that is made anew loses what other owners have on it: that is wanted again, too."""
        remade = plan.remade(self.wants, self.current)
        if not remade:
            return
        others = {
            key: r
            for key, r in self.session.records.resources().items()
            if key not in self.wants and key not in self.release and (r.link in remade or getattr(r, "parent", "") in remade)
        }
        self.wants = {**others, **self.wants}
        self.recorded |= others
        self.current |= self.session.kernel.read(others.values())

    def read_settings(self) -> None:
        """Read every setting that we gave a link that changes: if it is made anew, it may have to be put back."""
        for key, ours in self.recorded.items():
            want = self.wants[key]
            if isinstance(ours, Device) and isinstance(want, Device) and ours != want and key in self.current:
                words = dict(want.options if ours.type == want.type else ()) | dict(ours.options)
                self.current |= self.session.kernel.read([replace(ours, options=tuple(words.items()))])

    def find_originals(self) -> None:
        """Remember what was there at keys that no owner claims. A table without a record is kept, with its elements: they may
        guard guests that run. What no owner claims is for `repair` to remove."""
        for key in self.wants:
            if key in self.recorded:
                continue
            have = self.current.get(key)
            self.originals[key] = None if have is None or have.ours or have.moves else have

    def ignore_leftovers(self) -> None:
        """What we left there ourselves is no original, though its record was lost."""
        for key, have in self.originals.items():
            if isinstance(have, LinkAttribute) and have.name == "master" and Device.key_of(have.value) in self.wants:
                self.originals[key] = replace(have, value="")
        gate = Sysctl(FORWARDING_GATE, "1")
        if self.originals.get(gate.key) == gate and self.session.kernel.read([CLOSED6]):
            self.originals[gate.key] = replace(gate, value="0")

    def settle_adoptions(self) -> None:
        """A bridge may declare what it took over as its own, and back (if that is not confirmed): nothing moves then."""
        released = {key: item.ours for key, item in self.release.items()}
        if True not in {resource.moves for resource in (*self.wants.values(), *released.values())}:
            return
        # Few bridges adopt a port.
        from ..model.objects.bridge import Adoption

        for key, ours in released.items():
            if isinstance(ours, Adoption) and any(map(ours.is_joined_by, self.wants.values())):
                del self.release[key]
                # Before the bridge, what it has now was on the port.
                self.originals |= {key: None for key, want in self.wants.items() if ours.has(want)}
                self.originals |= {r.key: r for r in ours.port_before if r.key in self.originals}
        for adoption in [r for r in self.wants.values() if isinstance(r, Adoption)]:
            kept = [key for key, ours in released.items() if adoption.has(ours)]
            self.release = {key: item for key, item in self.release.items() if key not in kept}

    def refill_remade_tables(self) -> None:
        """A table that is made anew loses the elements of every guest: they are wanted again, too."""
        for table in [r for r in self.wants.values() if isinstance(r, NftTable) and self.current.get(r.key) != r]:
            elements = self.session.records.elements(table.key)
            lost = {key: element for key, element in elements.items() if key not in self.release}
            self.wants = {**lost, **self.wants}
            self.recorded |= lost
            self.current = {key: r for key, r in self.current.items() if not (isinstance(r, NftElement) and r.table == table.key)}


def _idle(session: Session, gone: Sequence[str], needs: Needs) -> list[str]:
    """The ids of parts that were brought up because another owner needed them, which none needs once `gone` are gone; `needs` is
    what those of `gone` need that come back."""
    waiting = [owner.id for owner in session.records.parts(frontend=NEEDED)]
    idle: list[str] = []
    while found := [
        name
        for name in waiting
        if name not in needs
        and not any(name in others for others in needs.values())
        and not session.records.claimed_elsewhere(f"needs {name}", [*gone, *idle])
        and not foreign_ports(session, name, [*gone, *idle])
    ]:
        idle += found
        waiting = [name for name in waiting if name not in idle]
    return [name for name in idle if name not in gone]


def foreign_ports(session: Session, name: str, gone: Sequence[str]) -> list[str]:
    """The ports of a part's bridge that neither it nor `gone` brought: guests that we know nothing of, and that need the bridge
    with its uplink."""
    # Few calls get here: bridges that were brought up for a guest alone.
    from ..model.objects.bridge import Adoption

    claims = {owner: session.records.claims(owner).values() for owner in (name, *gone)}
    mine = {r.ifname for found in claims.values() for r in found if isinstance(r, Adoption | Device | LinkAttribute)}
    bridges = [r.ifname for r in claims[name] if isinstance(r, Device) and r.takes_guests]
    return [port for bridge in bridges for port in session.kernel.ports(bridge) if port not in mine]
