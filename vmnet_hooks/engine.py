"""The pipeline: compose → diff → apply → verify → record, with undo. Every front end and the CLI come through here.

All or nothing for a whole domain. A failed step puts everything back; a killed process leaves a journal, and the next one to
take the lock puts everything back. Clean-up does all it can, then reports.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from . import compose, plan
from .config import Config, Network
from .domain import Domain, Owner, Vif
from .errors import ConfigError, ConflictError, InputError, KernelError, VmnetError
from .modes import MODES
from .plan import Change, Plan, Release
from .state import FORWARDING_GATE, Address, LinkAttribute, NftElement, NftTable, Resource, Rule, Sysctl


class Kernel(Protocol):
    """What the engine needs of a kernel: kernel.linux.Kernel, or a fake one."""

    def close(self) -> None: ...
    def link(self, ifname: str) -> compose.Link | None: ...
    def host(self, links: Iterable[str]) -> compose.Host: ...
    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]: ...
    def apply(self, step: Plan) -> None: ...
    def ours(self) -> dict[str, Resource]: ...
    def finish(self) -> None: ...


class Store(Protocol):
    """What the engine needs of the records: see store.Store."""

    def close(self) -> None: ...
    def lock(self) -> AbstractContextManager[None]: ...
    def owners(self, **match: str) -> list[Owner]: ...
    def of_domain(self, name: str, uuid: str, ifname: str = "") -> list[Owner]: ...
    def neighbour(self, network: str, but: Iterable[str]) -> Owner | None: ...
    def holder(self, network: str, address: str, but: Iterable[str]) -> Owner | None: ...
    def holder_of_mac(self, network: str, mac: str, but: Iterable[str]) -> Owner | None: ...
    def claims(self, owner: str) -> dict[str, Resource]: ...
    def claimed_elsewhere(self, key: str, owners: Sequence[str]) -> bool: ...
    def recorded(self, key: str) -> tuple[Resource, Resource | None] | None: ...
    def resources(self) -> dict[str, Resource]: ...
    def elements(self, family: str) -> dict[str, Resource]: ...
    def journal(self) -> tuple[str, list[Change]]: ...
    def open_journal(self, what: str, plan: Plan) -> None: ...
    def close_journal(self) -> None: ...
    def commit(
        self,
        drop: Iterable[str],
        add: Mapping[Owner, Iterable[str]],
        wants: Mapping[str, Resource],
        originals: Mapping[str, Resource | None],
    ) -> None: ...
    def forget(self, owner: str, keep: Iterable[str] = ()) -> None: ...
    def set_phase(self, owner: str, phase: str) -> None: ...
    def expect(self, uuid: str) -> None: ...
    def expected(self, uuid: str) -> bool: ...


@dataclass(frozen=True)
class Transaction:
    """A plan together with what it means for the records."""

    plan: Plan
    add: Mapping[Owner, Sequence[str]] = field(default_factory=dict)
    drop: Sequence[str] = ()
    wants: Mapping[str, Resource] = field(default_factory=dict)
    originals: Mapping[str, Resource | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Drift:
    """A difference that `check` found: where, what it is, and what `repair` will do about it."""

    owner: str
    what: str
    remedy: str


class Engine:
    """One engine per process. `kernel` and `store` are the edges; tests bring their own."""

    def __init__(self, declared: Config, kernel: Kernel, store: Store) -> None:
        self.config = declared
        self.kernel = kernel
        self.store = store

    def close(self) -> None:
        self.kernel.close()
        self.store.close()

    # --- plug ------------------------------------------------------------------------------------------------------

    def bind(self, domain: Domain) -> list[compose.Bound]:
        """The domain's NICs that somebody claims. Raises InputError or ConfigError."""
        bound = compose.bind(domain, self.config, self.config.claims(domain.name))
        compose.check_domain(domain, bound)
        return bound

    def plug(self, domain: Domain, frontend: str) -> list[Owner]:
        """Sets up every claimed NIC of a domain whose taps exist. Returns the vifs. Raises VmnetError, with nothing changed."""
        bound = self.bind(domain)
        if not bound:
            # Something may have been claimed before.
            self.unplug(domain)
            return []
        with self.store.lock():
            self._recover()
            transaction = self._plug(domain, bound, frontend)
            self._run(transaction, f"plug {domain.name}")
        return list(transaction.add)

    def plan_plug(self, domain: Domain, frontend: str) -> Plan:
        """What `plug` would do now. Taps that do not exist yet are taken to be fresh."""
        return self._plug(domain, self.bind(domain), frontend, imagine=True).plan

    def up(self, name: str) -> Owner:
        """Brings a network up on its own, as a router node without guests needs it."""
        network = self.config.network(name, "vmnet-hook up")
        owner = Owner(f"network:{name}", "", "", "", 0, "", name, "cli", "active", since=time.time())
        with self.store.lock():
            self._recover()
            host = self._host(MODES[network.mode].links(network))
            wants = compose.compose_network(network, host)
            if not wants:
                raise network.error("mode", f"a {network.mode} network has nothing to bring up without a guest")
            self._run(self._transaction({owner: wants}), f"up {name}")
        return owner

    def _host(self, links: Iterable[str]) -> compose.Host:
        """The kernel's facts. What we changed ourselves is no fact: the records know what was there before."""
        host = self.kernel.host(links)
        gate = self.store.recorded(f"sysctl {FORWARDING_GATE}")
        if gate and isinstance(gate[1], Sysctl):
            host = replace(host, router6=gate[1].value == "1")
        return host

    def _plug(self, domain: Domain, bound: Sequence[compose.Bound], frontend: str, imagine: bool = False) -> Transaction:
        host = self._host(name for vif, network in bound for name in compose.links_of(vif, network))
        wanted: dict[Owner, dict[str, Resource]] = {}
        drop: list[str] = []
        owners: dict[str, compose.Bound] = {}
        for vif, network in bound:
            if not vif.ifname:
                raise InputError(f"{domain.name}: NIC {vif.mac} has no tap (no target dev in the XML); start the domain first")
            if vif.ifname not in host.links and not imagine:
                raise KernelError(f"{domain.name}: tap {vif.ifname} of NIC {vif.mac} does not exist; was the domain stopped?")
            owners[f"{domain.id}/{vif.mac}"] = (vif, network)
        for vif, _ in owners.values():
            # A record of the same tap's name: its tap was another one, or another front end knows this one too.
            drop += [owner.id for owner in self.store.owners(ifname=vif.ifname) if owner.id not in owners]
        for identity, (vif, network) in owners.items():
            drop += self._check_holders(domain, vif, network.name, [*owners, *drop])
            link = host.links.get(vif.ifname)
            known = [o for o in self.store.owners(id=identity) if link and o.ifindex == link.index]
            owner = Owner(
                identity,
                domain.name,
                domain.id,
                vif.ifname,
                link.index if link else 0,
                vif.mac,
                network.name,
                frontend,
                "plugged",
                vif.addresses,
                vif.filter,
                time.time(),
            )
            if known and known[0].phase != "leftover":
                owner = replace(owner, phase=known[0].phase, since=known[0].since)
            wanted[owner] = compose.compose(vif, network, host)
            self._check_shared(network, host, [*owners, *drop])
        if not domain.partial:
            # NICs that the domain had and that nothing claims any more.
            drop += [
                owner.id for owner in self.store.owners(domain_id=domain.id) if owner.id not in owners and owner.id not in drop
            ]
        return self._transaction(wanted, drop)

    def _check_shared(self, network: Network, host: compose.Host, but: Sequence[str]) -> None:
        """An edit that moves the network as a whole would leave its running guests where nobody looks for them."""
        other = self.store.neighbour(network.name, but)
        if other is None:
            return
        shared = compose.compose_network(network, host)
        frame = {key for key, r in shared.items() if isinstance(r, Rule | LinkAttribute | Address)}
        if not frame <= self.store.claims(other.id).keys():
            raise ConflictError(
                f"network {network.name}: its uplink, table, subnet, role or rule_priority was edited while "
                f"{other.domain or 'the node'} uses it; move its guests with `vmnet-hook repair`, then try again"
            )

    def _check_holders(self, domain: Domain, vif: Vif, network: str, but: Sequence[str]) -> list[str]:
        """Raises ConflictError if another guest that lives holds an address or the MAC. Returns the dead ones' ids."""
        dead = []
        for what, holder in self._holders(vif, network, but):
            if self._lives(holder):
                raise ConflictError(
                    f"{domain.name}: {what} of network {network} is held by {holder.domain} ({holder.ifname}); "
                    f"give NIC {vif.mac} another, or stop {holder.domain}"
                )
            dead.append(holder.id)
        return dead

    def _holders(self, vif: Vif, network: str, but: Sequence[str]) -> Iterator[tuple[str, Owner]]:
        for address in vif.addresses:
            if holder := self.store.holder(network, address, but):
                yield f"address {address}", holder
        if holder := self.store.holder_of_mac(network, vif.mac, but):
            yield f"MAC {vif.mac}", holder

    def _lives(self, owner: Owner) -> bool:
        """Whether the tap of a record is still that tap. A name can come back as another domain's."""
        link = self.kernel.link(owner.ifname)
        return link is not None and link.index == owner.ifindex

    def _transaction(self, wanted: Mapping[Owner, Mapping[str, Resource]], drop: Sequence[str] = ()) -> Transaction:
        """Works out the plan: what the owners want, what nobody claims any more, what is there."""
        wants: dict[str, Resource] = {}
        for resources in wanted.values():
            wants.update(resources)
        for key, resource in wants.items():
            # A default route learned from advertisements comes and goes: a value once chosen stands while anybody needs it.
            if isinstance(resource, Sysctl) and resource.path.endswith("/accept_ra") and (found := self.store.recorded(key)):
                wants[key] = found[0]
        gone = [*drop, *(owner.id for owner in wanted)]
        release = self._release(gone, wants)
        recorded = {key: found[0] for key in wants if (found := self.store.recorded(key))}
        # The recorded shape too: a route is looked for on its device, and the configuration may name another one now.
        moved = [resource for key, resource in recorded.items() if resource != wants[key]]
        # An element that is in no record is added, not looked for: libnftables loads every set of the host to find that one
        # element is missing, and does so again for the next.
        known = [r for r in wants.values() if not isinstance(r, NftElement) or r.key in recorded]
        current = self.kernel.read([*moved, *known, *(item.ours for item in release.values())])
        originals: dict[str, Resource | None] = {}
        for key in wants:
            if key in recorded:
                continue
            have = current.get(key)
            originals[key] = None if have is None or have.ours else have
            # A table without a record of it is kept, with its elements: they may guard guests that still run. What belongs
            # to nobody is for `repair` to remove.
        for table in [r for r in wants.values() if isinstance(r, NftTable) and current.get(r.key) != r]:
            # The table is made anew: so is every guest's element in it.
            lost = self.store.elements(table.family)
            wants = {**{k: r for k, r in lost.items() if k not in release}, **wants}
            current = {k: r for k, r in current.items() if not (isinstance(r, NftElement) and r.family == table.family)}
        add = {owner: list(resources) for owner, resources in wanted.items()}
        return Transaction(plan.diff(wants, release, current), add, list(drop), wants, originals)

    def _release(self, owners: Sequence[str], wants: Mapping[str, Resource]) -> dict[str, Release]:
        release = {}
        for owner in owners:
            for key in self.store.claims(owner):
                if key not in wants and not self.store.claimed_elsewhere(key, owners):
                    recorded = self.store.recorded(key)
                    assert recorded is not None
                    release[key] = Release(*recorded)
        return release

    def _run(self, transaction: Transaction, what: str) -> None:
        """Journal, apply, verify, record; on any failure everything is put back."""
        self.store.open_journal(what, transaction.plan)
        done: list[Change] = []
        try:
            for step in plan.batches(transaction.plan):
                # Before the call: a step that fails half-way is put back too.
                done += step
                self.kernel.apply(step)
            self._verify(transaction)
            self.store.commit(transaction.drop, transaction.add, transaction.wants, transaction.originals)
        except BaseException as error:
            left = self._undo(done)
            self.store.close_journal()
            if left and isinstance(error, VmnetError):
                raise type(error)(f"{error} (and putting back failed: {'; '.join(left)})") from None
            raise

    def _verify(self, transaction: Transaction) -> None:
        # nft transactions hold as a whole or not at all.
        changed = [c.want for c in transaction.plan if c.want is not None and not isinstance(c.want, NftElement)]
        current = self.kernel.read(changed)
        for resource in changed:
            have = current.get(resource.key)
            if have is None or not resource.covers(have):
                raise KernelError(f"{resource.key}: was set, but the kernel does not hold it; is another program at work here?")

    def _undo(self, done: Sequence[Change]) -> list[str]:
        """Takes back what holds, newest first. Returns what could not be taken back."""
        left = []
        for change in reversed(done):
            subject = change.subject
            try:
                have = self.kernel.read([subject]).get(subject.key)
                if change.want is None:
                    undone = have is not None
                else:
                    undone = have is None or not change.want.covers(have)
                if not undone and change.have != have:
                    self.kernel.apply([change.inverse])
            except VmnetError as error:
                left.append(str(error))
        return left

    def _recover(self) -> None:
        """Takes back what a killed process left half-done."""
        what, changes = self.store.journal()
        if not what:
            return
        self.kernel.finish()
        self._undo(changes)
        self.store.close_journal()

    # --- unplug ----------------------------------------------------------------------------------------------------

    def unplug(self, domain: Domain, ifname: str = "") -> list[Owner]:
        """Removes everything that was set up for a domain (or for one tap of it), from the records alone. Does all it can;
        then raises KernelError with what it could not do."""
        with self.store.lock():
            self._recover()
            owners = self.store.of_domain(domain.name, domain.uuid, ifname)
            if domain.uuid and not ifname:
                # Plugged in while the domain ran, by <script>, which knows no UUID; without <downscript> nobody else comes.
                hot = self.store.owners(domain_id=f"name:{domain.name}")
                owners += [owner for owner in hot if not self._lives(owner)]
            self._unplug(owners)
        return owners

    def down(self, name: str) -> None:
        """The inverse of `up`. Guests that run keep what they need."""
        with self.store.lock():
            self._recover()
            owners = self.store.owners(id=f"network:{name}")
            if not owners:
                raise InputError(f"network {name} is not up; see `vmnet-hook status`")
            self._unplug(owners)

    def plan_unplug(self, domain: Domain) -> Plan:
        """What `unplug` would do now."""
        owners = self.store.of_domain(domain.name, domain.uuid)
        return self._transaction({}, [owner.id for owner in owners]).plan

    def _unplug(self, owners: Sequence[Owner]) -> None:
        if not owners:
            return
        ids = [owner.id for owner in owners]
        transaction = self._transaction({}, ids)
        # No journal: an interrupted clean-up is not taken back, and a full disk must not keep it from happening.
        failed: dict[str, str] = {}
        for step in plan.batches(transaction.plan):
            try:
                self.kernel.apply(step)
            except VmnetError:
                # Half of it may be gone already: one by one, and only what is still there.
                for change in step:
                    failed.update(self._take_away(change))
        for owner in owners:
            self.store.forget(owner.id, [key for key in failed if key in self.store.claims(owner.id)])
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

    # --- check and repair ------------------------------------------------------------------------------------------

    def check(self, domain: str = "", gone: Iterable[str] = ()) -> list[Drift]:
        """Every difference between records, configuration and kernel. `gone` are ids of domains that run no more."""
        drifts: list[Drift] = []
        with self.store.lock():
            what, changes = self.store.journal()
            if what:
                drifts.append(Drift("", f"interrupted: {what}, {len(changes)} changes", "take them back"))
            owners = self.store.owners(domain=domain) if domain else self.store.owners()
            claimed = self.store.resources()
            current = self.kernel.read(claimed.values())
            dead = self._dead(owners, set(gone))
            reported: set[str] = set()
            for owner in owners:
                label = owner.domain or f"network {owner.network}"
                if owner in dead:
                    reason = "could not be cleaned up" if owner.phase == "leftover" else f"{owner.ifname} is gone"
                    drifts.append(Drift(label, f"{owner.network}: {reason}", "remove its state"))
                    continue
                wants, problem = self._wants(owner)
                if problem:
                    drifts.append(Drift(label, problem, "keep what was set up"))
                for key in sorted({*wants, *self.store.claims(owner.id)} - reported):
                    drift = _drift(label, key, current.get(key), wants.get(key), claimed.get(key))
                    if drift is None:
                        continue
                    drifts.append(drift)
                    reported.add(key)
            if not domain:
                orphans = {key: r for key, r in self.kernel.ours().items() if key not in claimed}
                drifts += [Drift("", f"{key}: ours, but in no record", r.unset_command()) for key, r in orphans.items()]
        return drifts

    def repair(self, domain: str = "", gone: Iterable[str] = ()) -> list[Drift]:
        """Makes `check` clean. Returns what it mended. Raises KernelError for what it could not mend."""
        drifts = self.check(domain, gone)
        failed: list[str] = []
        with self.store.lock():
            self._recover()
            owners = self.store.owners(domain=domain) if domain else self.store.owners()
            dead = self._dead(owners, set(gone))
            steps: list[Callable[[], None]] = [partial(self._unplug, [owner]) for owner in dead]
            # Each on its own: a guest that can't be mended (its uplink is gone) must not keep the others open.
            steps += [partial(self._reapply, [owner]) for owner in owners if owner not in dead]
            if not domain:
                steps.append(self._remove_orphans)
            for step in steps:
                try:
                    step()
                except VmnetError as error:
                    failed.append(str(error))
        if failed:
            raise KernelError("; ".join(failed))
        return drifts

    def reassert(self, domain: Domain) -> list[Owner]:
        """Sets up again, from the records alone, what a domain that runs was given."""
        with self.store.lock():
            self._recover()
            owners = [owner for owner in self.store.of_domain(domain.name, domain.uuid) if self._lives(owner)]
            if owners:
                self._run(self._transaction({owner: self.store.claims(owner.id) for owner in owners}), f"reassert {domain.name}")
        return owners

    def _dead(self, owners: Sequence[Owner], gone: set[str]) -> list[Owner]:
        return [
            owner
            for owner in owners
            if owner.phase == "leftover" or owner.domain_id in gone or (owner.domain and not self._lives(owner))
        ]

    def _wants(self, owner: Owner) -> tuple[dict[str, Resource], str]:
        """What a vif shall have by today's configuration; by its record where the configuration has lost it."""
        try:
            network = self.config.network(owner.network, owner.domain or "up")
            if not owner.domain:
                return compose.compose_network(network, self._host(MODES[network.mode].links(network))), ""
            vif = MODES[network.mode].bind(_vif(owner), network, owner.domain)
            host = self._host(compose.links_of(vif, network))
            wants = compose.compose(vif, network, host)
        except (ConfigError, InputError) as error:
            return self.store.claims(owner.id), str(error)
        # A link that lives on router advertisements shows up, and goes, by itself: not the admin's doing.
        claims = self.store.claims(owner.id)
        kept = {key: r for key, r in claims.items() if isinstance(r, Sysctl) and r.path.endswith("/accept_ra")}
        return {**wants, **kept}, ""

    def _reapply(self, owners: Sequence[Owner]) -> None:
        if owners:
            self._run(self._transaction({owner: self._wants(owner)[0] for owner in owners}), "repair")

    def _remove_orphans(self) -> None:
        claimed = self.store.resources()
        orphans = [Change(r, None) for key, r in self.kernel.ours().items() if key not in claimed]
        orphans.sort(key=lambda change: -change.subject.order)
        for family in ("inet", "arp"):
            table = NftTable(family, "", ())
            if table.key not in claimed and self.kernel.read([table]):
                orphans = [c for c in orphans if not (isinstance(c.subject, NftElement) and c.subject.family == family)]
                orphans.append(Change(table, None))
        failed: dict[str, str] = {}
        for change in orphans:
            failed.update(self._take_away(change))
        if failed:
            raise KernelError("; ".join(failed.values()))


def activate(
    declared: Config, store: Store, announce: Callable[[list[tuple[str, str, str]]], None], domain: Domain, ifname: str = ""
) -> list[Owner]:
    """The guest runs here: announces its addresses. Needs no kernel but a raw socket, and so none of the engine.

    A guest that came in by live migration does not run yet when its hypervisor says so: it is not announced.
    """
    if store.expected(domain.uuid):
        return []
    with store.lock():
        owners = store.of_domain(domain.name, domain.uuid, ifname)
        for owner in owners:
            store.set_phase(owner.id, "active")
    pairs = []
    for owner in owners:
        if network := declared.networks.get(owner.network):
            pairs += [(*pair, owner.ifname) for pair in compose.announcements(_vif(owner), network)]
    announce(pairs)
    return owners


def _vif(owner: Owner) -> Vif:
    return Vif(owner.mac, owner.ifname, network=owner.network, addresses=owner.addresses, filter=owner.filter)


def _drift(label: str, key: str, have: Resource | None, want: Resource | None, recorded: Resource | None) -> Drift | None:
    if want is None:
        return Drift(label, f"{key}: no longer wanted by the configuration", "remove it")
    remedy = f"make table {want.family} vmnet anew" if isinstance(want, NftTable) else str(Change(have, want))
    if recorded != want:
        return Drift(label, f"{key}: the configuration has changed", remedy)
    if have is None:
        return Drift(label, f"{key}: missing", remedy)
    return None if want.covers(have) else Drift(label, f"{key}: {want.difference(have)}", remedy)
