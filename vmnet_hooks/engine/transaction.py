"""The core of the pipeline: diff → apply → verify → record, with undo. All or nothing: a failed step puts everything back; a
killed process leaves a journal, and the next one to take the lock puts everything back. Clean-up does all it can, then
reports.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..declared import compose
from ..errors import InTheWay, KernelError, VmnetError
from ..model import facts, plan
from ..model.declaration import Config
from ..model.encoding import same
from ..model.objects import FORWARDING_GATE, Adoption, Device, LinkAttribute, NftElement, NftTable, Sysctl
from ..model.owner import NEEDED, Owner
from ..model.plan import Change, Plan, Release, goes_with_link
from ..model.resource import Resource
from ..model.ruleset import CLOSED6, INET, NAT
from ..records.store import Store


class Kernel(Protocol):
    """What the engine needs of a kernel: kernel.linux.Kernel, or a fake one."""

    def close(self) -> None: ...
    def link(self, ifname: str) -> facts.Link | None: ...
    def rename(self, ifname: str, name: str) -> None: ...
    def has_sent(self, ifname: str) -> bool: ...
    def ports(self, ifname: str) -> list[str]: ...
    def host(self, links: Iterable[str], ports: Iterable[str] = ()) -> facts.Host: ...
    def survey(self, port: str, bridge: str) -> Adoption: ...
    def obstacle(self, port: str) -> str: ...
    def hazards(self, bridged: bool, anycast: bool, permanent: tuple[int, int]) -> list[str]: ...
    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]: ...
    def apply(self, step: Plan) -> None: ...
    def ours(self) -> dict[str, Resource]: ...
    def finish(self) -> None: ...


@dataclass(frozen=True)
class Transaction:
    """A plan together with what it means for the records."""

    plan: Plan
    add: Mapping[Owner, Sequence[str]] = field(default_factory=dict)
    drop: Sequence[str] = ()
    wants: Mapping[str, Resource] = field(default_factory=dict)
    originals: Mapping[str, Resource | None] = field(default_factory=dict)
    before: Mapping[str, Resource] = field(default_factory=dict)
    """What was there at every key that the plan looks at."""
    recorded: Mapping[str, Resource] = field(default_factory=dict)
    """What the records say already."""

    @property
    def news(self) -> dict[str, Resource]:
        """What of `wants` is not in the records as it is."""
        known = self.recorded
        return {key: want for key, want in self.wants.items() if key not in known or not same(known[key], want)}

    @property
    def restore(self) -> list[Change]:
        """What must hold again if the plan is taken back: a link that goes takes along what no change of the plan names."""
        deep = any(
            isinstance(c.subject, Device | Adoption)
            or (isinstance(c.subject, LinkAttribute) and c.subject.name == "master" and c.have)
            for c in self.plan
        )
        return [Change(resource, resource) for resource in self.before.values()] if deep else []


class Transactions:
    """One per process. `kernel` and `store` are the edges; tests bring their own."""

    def __init__(self, declared: Config, kernel: Kernel, store: Store) -> None:
        self.config = declared
        self.kernel = kernel
        self.store = store

    def close(self) -> None:
        self.kernel.close()
        self.store.close()

    def _host(self, links: Iterable[str], adopt: bool = False) -> facts.Host:
        """The kernel's facts of `links` and of all below them, and what is declared. What we changed ourselves is no fact:
        the records know what was there before. With `adopt`, what declared bridges have to take over is looked at."""
        names = compose.links_below(links, self.config)
        parts = {part.name: part for name in names if (part := self.config.links.get(name))}
        ports = [port for part in parts.values() for port in part.ports if port not in parts]
        # What a network's guests shall find as their gateway.
        networks = self.config.networks.values()
        ports += [name for network in networks for name in network.mode.addressed(network) if name in names]
        masters = dict.fromkeys(ports)
        host = self.kernel.host(names, ports)
        outer = [link.master for name in masters if (link := host.links.get(name)) and link.master not in host.links]
        if outer:
            host = replace(host, links={**self.kernel.host(outer).links, **host.links})
        gate = self.store.recorded(f"sysctl {FORWARDING_GATE}")
        if gate and isinstance(gate[1], Sysctl):
            host = replace(host, router6=gate[1].value == "1")
        elif host.router6 and self.kernel.read([CLOSED6]):
            # The records are lost; what shuts the host that did not forward is still there.
            host = replace(host, router6=False)
        adoptions: dict[str, Adoption] = {}
        for part in parts.values():
            port = part.adopts
            if port and port in host.links and (adopt or self.store.recorded(f"adoption {port}")):
                adoptions[port] = self._adoption(port, part.name, host)
        nats = tuple(part for part in self.config.parts.values() if part.kind.translates)
        uplinks6 = frozenset(name for network in networks for name in network.mode.links6(network))
        return replace(host, parts=parts, nats=nats, adoptions=adoptions, uplinks6=uplinks6)

    def _adoption(self, port: str, bridge: str, host: facts.Host) -> Adoption:
        # Once moved, it is not on the port any more: the record knows what was.
        found = self.store.recorded(f"adoption {port}")
        if found and isinstance(found[0], Adoption):
            return replace(found[0], bridge=bridge)
        if bridge in host.links and host.links[bridge].ours and host.links[port].master == bridge:
            # The records are lost: the bridge has it.
            there = self.kernel.survey(bridge, bridge)
            routes, neighbours = (
                tuple(item for item in items if not Adoption.is_ours(item)) for items in (there.routes, there.neighbours)
            )
            return replace(there, ifname=port, routes=routes, neighbours=neighbours, sysctls=())
        return self.kernel.survey(port, bridge)

    def _lives(self, owner: Owner) -> bool:
        """Whether the tap of a record is still that tap. A name can come back as another domain's."""
        link = self.kernel.link(owner.ifname)
        return link is not None and link.index == owner.ifindex

    def _transaction(
        self,
        wanted: Mapping[Owner, Mapping[str, Resource]],
        drop: Sequence[str] = (),
        needs: Mapping[str, Sequence[str]] | None = None,
    ) -> Transaction:
        """Works out the plan: what the owners want, what nobody claims any more, what is there. `needs` are, by owner, ids
        of the owners that must be there for it."""
        needs = needs or {}
        drop = [*drop, *self._idle([*drop, *(owner.id for owner in wanted)], needs)]
        wants: dict[str, Resource] = {}
        for resources in wanted.values():
            wants.update(resources)
        recorded = {key: found[0] for key, found in self.store.records(wants).items()}
        for key, known in recorded.items():
            # A default route learned from advertisements comes and goes: a value once chosen stands while anybody needs it.
            if isinstance(known, Sysctl) and known.path.endswith("/accept_ra"):
                wants[key] = known
        gone = [*drop, *(owner.id for owner in wanted)]
        heirs = self._heirs(recorded.get(INET.key), wants, gone)
        if heirs:
            wants = {NAT.key: NAT, **wants}
            recorded |= {key: found[0] for key, found in self.store.records([NAT.key]).items()}
        release = self._release(gone, wants)
        # The recorded shape too: a route is looked for on its device, and the configuration may name another one now.
        moved = [resource for key, resource in recorded.items() if resource != wants[key]]
        # An element that is in no record is added, not looked for: libnftables loads every set of the host to find that one
        # element is missing, and does so again for the next.
        sought = [r for r in wants.values() if not isinstance(r, NftElement) or r.key in recorded]
        current = self.kernel.read([*moved, *sought, *(item.ours for item in release.values())])
        if again := plan.remade(wants, current):
            # Made anew: so is what others have on them.
            others = {
                key: r
                for key, r in self.store.resources().items()
                if key not in wants and key not in release and (r.link in again or getattr(r, "parent", "") in again)
            }
            wants = {**others, **wants}
            current = {**current, **self.kernel.read(others.values())}
        for ours in moved:
            resource = wants[ours.key]
            if isinstance(ours, Device) and isinstance(resource, Device) and ours.key in current:
                # With every setting that we gave it: a link that is made anew may have to be put back.
                words = dict(resource.options if ours.type == resource.type else ()) | dict(ours.options)
                current = {**current, **self.kernel.read([replace(ours, options=tuple(words.items()))])}
        originals: dict[str, Resource | None] = {}
        for key in wants:
            if key in recorded:
                continue
            have = current.get(key)
            originals[key] = None if have is None or have.ours or isinstance(have, Adoption) else self._found(have, wants)
            # A table without a record of it is kept, with its elements: they may guard guests that still run. What belongs
            # to nobody is for `repair` to remove.
        for table in [r for r in wants.values() if isinstance(r, NftTable) and current.get(r.key) != r]:
            # The table is made anew: so is every guest's element in it.
            lost = self.store.elements(table.key)
            wants = {**{k: r for k, r in lost.items() if k not in release}, **wants}
            current = {k: r for k, r in current.items() if not (isinstance(r, NftElement) and r.table == table.key)}
        add = {
            owner: [*resources, *(f"needs {other}" for other in needs.get(owner.id, ()))] for owner, resources in wanted.items()
        }
        add |= {owner: [*self.store.claimed(owner.id), NAT.key] for owner in heirs}
        return Transaction(plan.diff(wants, release, current), add, drop, wants, originals, current, recorded)

    def _heirs(self, recorded: Resource | None, wants: Mapping[str, Resource], gone: Sequence[str]) -> list[Owner]:
        """Other owners whose NAT is in the table that is made anew, of a version that had it there: the table that it is in now
        is theirs too."""
        if recorded is None or recorded == wants[INET.key]:
            return []
        found = {owner.id: owner for key in self.store.elements(NAT.key) for _, owner in self.store.claimants(key)}
        return [
            owner
            for owner in found.values()
            if owner.id not in gone and owner.phase != "leftover" and NAT.key not in self.store.claimed(owner.id)
        ]

    def _found(self, have: Resource, wants: Mapping[str, Resource]) -> Resource:
        """What was found, but for what we left there ourselves and lost the record of."""
        if isinstance(have, LinkAttribute) and have.name == "master" and f"device {have.value}" in wants:
            return replace(have, value="")
        if isinstance(have, Sysctl) and have.path == FORWARDING_GATE and have.value == "1" and self.kernel.read([CLOSED6]):
            return replace(have, value="0")
        return have

    def _idle(self, gone: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
        """Parts that were brought up because somebody needed them, whom nobody needs once `gone` are gone; `needs` is what
        those of `gone` that come back need then."""
        idle: list[str] = []
        waiting = [owner.id for owner in self.store.owners(frontend=NEEDED)]
        while found := [
            name
            for name in waiting
            if name not in needs
            and not any(name in others for others in needs.values())
            and not self.store.claimed_elsewhere(f"needs {name}", [*gone, *idle])
            and not self._strangers(name, [*gone, *idle])
        ]:
            idle += found
            waiting = [name for name in waiting if name not in idle]
        return [name for name in idle if name not in gone]

    def _strangers(self, name: str, gone: Sequence[str]) -> list[str]:
        """Ports of a part's bridge that neither it nor `gone` brought: somebody else's guests, who keep it, uplink and all."""
        claims = [r for owner in (name, *gone) for r in self.store.claims(owner).values()]
        mine = {r.ifname for r in claims if isinstance(r, Adoption | Device | LinkAttribute)}
        bridges = [r.ifname for r in self.store.claims(name).values() if isinstance(r, Device) and r.takes_guests]
        return [port for bridge in bridges for port in self.kernel.ports(bridge) if port not in mine]

    def _release(self, owners: Sequence[str], wants: Mapping[str, Resource]) -> dict[str, Release]:
        return {key: Release(*found) for key, found in self.store.released(owners, wants).items()} if owners else {}

    def _run(self, transaction: Transaction, what: str) -> None:
        """Journal, apply, verify, record; on any failure everything is put back."""
        restore = transaction.restore
        self.store.open_journal(what, [*transaction.plan, *restore])
        done: list[Change] = []
        try:
            originals = dict(transaction.originals)
            for step in plan.batches(transaction.plan):
                found = self._as_made(step, done)
                originals.update({key: have for key, have in found.items() if originals.get(key) is None})
                # Before the call: a step that fails half-way is put back too.
                done += step
                self.kernel.apply(step)
            self._verify(transaction)
            self.store.commit(transaction.drop, transaction.add, transaction.news, originals)
        except BaseException as error:
            if not self.store.journal()[0]:
                # It is recorded: a signal came too late to take it back.
                raise
            if isinstance(error, InTheWay):
                done.pop()
            left = self._undo(done, restore if done else ())
            self.store.close_journal()
            if left and isinstance(error, VmnetError):
                raise type(error)(f"{error} (and putting back failed: {'; '.join(left)})") from None
            raise

    def _as_made(self, step: Plan, done: Sequence[Change]) -> dict[str, Resource]:
        """What a setting of a link that we have just made was: what it goes back to when it alone is not wanted any more."""
        made = {c.want.ifname for c in done if c.have is None and isinstance(c.want, Device)}
        fresh = [
            c.want
            for c in step
            if c.have is None and c.want and c.want.link in made and isinstance(c.want, Sysctl | LinkAttribute)
        ]
        return self.kernel.read(fresh) if fresh else {}

    def _verify(self, transaction: Transaction) -> None:
        # nft transactions hold as a whole or not at all.
        last = {c.subject.key: c.want for c in transaction.plan}
        lost = {c.have.ifname for c in transaction.plan if isinstance(c.have, Device) and last[c.have.key] is None}
        changed = [w for w in last.values() if w is not None and not isinstance(w, NftElement) and w.link not in lost]
        current = self.kernel.read(changed)
        for resource in changed:
            have = current.get(resource.key)
            if have is None or not resource.covers(have):
                found = f" ({resource.difference(have)})" if have else ""
                raise KernelError(
                    f"{resource.key}: was set, but the kernel does not hold it{found}; is another program at work here?"
                )

    def _undo(self, done: Sequence[Change], restore: Sequence[Change] = ()) -> list[str]:
        """Takes back what holds, newest first, then sees to it that what must hold does. Returns what could not be taken back."""
        left = []
        made = {c.want.ifname for c in done if c.have is None and isinstance(c.want, Device)}
        for change in reversed(done):
            subject = change.subject
            if subject.link in made and goes_with_link(subject):
                continue
            try:
                have = self.kernel.read([subject]).get(subject.key)
                if isinstance(subject, Adoption) and change.want is None:
                    # Half of it may have gone where nothing shows.
                    undone = False
                elif subject.composite or (isinstance(subject, LinkAttribute) and change.want is None):
                    undone = have == change.have
                elif change.want is None:
                    undone = have is not None
                else:
                    undone = have is None or not change.want.covers(have) or have == change.have
                if not undone:
                    self.kernel.apply([Change(have, change.have) if subject.composite else change.inverse])
            except Exception as error:
                # Whatever it is: the rest must be put back.
                left.append(str(error))
        for change in sorted(restore, key=lambda change: change.subject.order):
            subject = change.subject
            try:
                have = self.kernel.read([subject]).get(subject.key)
                if have != subject and not (subject.link and self.kernel.link(subject.link) is None and not subject.composite):
                    self.kernel.apply([Change(have, subject)])
            except Exception as error:
                left.append(str(error))
        return left

    def _recover(self) -> None:
        """Takes back what a killed process left half-done."""
        what, changes = self.store.journal()
        if not what:
            return
        self.kernel.finish()
        self._undo([c for c in changes if c.have != c.want], [c for c in changes if c.have == c.want])
        self.store.close_journal()

    def _unplug(self, owners: Sequence[Owner]) -> None:
        if not owners:
            return
        transaction = self._transaction({}, [owner.id for owner in owners])
        # No journal: an interrupted clean-up is not taken back, and a full disk must not keep it from happening.
        failed: dict[str, str] = {}
        for step in plan.batches(transaction.plan):
            try:
                self.kernel.apply(step)
            except VmnetError:
                # Half of it may be gone already: one by one, and only what is still there.
                for change in step:
                    failed.update(self._take_away(change))
        for owner in transaction.drop:
            self.store.forget(owner, [key for key in failed if key in self.store.claims(owner)])
        if failed:
            raise KernelError(f"not everything could be removed: {'; '.join(failed.values())}; then run `vmnet-hook repair`")

    def _take_away(self, change: Change) -> dict[str, str]:
        key = change.subject.key
        try:
            if self.kernel.read([change.subject]):
                self.kernel.apply([change])
        except VmnetError as error:
            return {key: str(error)}
        return {}
