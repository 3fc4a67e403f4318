"""The pipeline: compose → diff → apply → verify → record. Every front end and the CLI come through here; what is here is
about guests, and about what `check` and `repair` do for all.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..declared import compose
from ..declared.configuration import claims
from ..errors import ConfigError, ConflictError, InputError, KernelError, VmnetError
from ..model import plan
from ..model.declaration import Config, Network
from ..model.guest import Domain, Vif
from ..model.objects import Address, Adoption, FdbEntry, LinkAttribute, Neighbour, NftElement, NftTable, Route, Rule, Sysctl
from ..model.owner import NEEDED, Owner
from ..model.plan import Change, Plan
from ..model.resource import MAIN_TABLE, Resource
from ..model.ruleset import CLOSED6, TABLES, with_nat
from ..records.store import Store
from .host import Parts
from .transaction import Transaction

PREPARE_SECONDS = 120.0
"""How long a domain may take from `prepare` to `start`; then its hypervisor's daemon was killed in between."""


@dataclass(frozen=True)
class Drift:
    """A difference that `check` found: where, what it is, and what `repair` will do about it."""

    owner: str
    what: str
    remedy: str


class Engine(Parts):
    """One engine per process. `kernel` and `store` are the edges; tests bring their own."""

    # --- plug ------------------------------------------------------------------------------------------------------

    def bind(self, domain: Domain) -> list[compose.Bound]:
        """The domain's NICs that somebody claims. Raises InputError or ConfigError."""
        return bind(domain, self.config)

    def plug(
        self, domain: Domain, frontend: str, incoming: bool = False, bound: Sequence[compose.Bound] | None = None
    ) -> list[Owner]:
        """Sets up every claimed NIC of a domain whose taps exist. Returns the vifs. Raises VmnetError, with nothing changed.

        A domain that is `incoming` still runs elsewhere: what attracts its traffic waits for `arrive`. `bound` is what `bind`
        gives, where that is known already."""
        bound = self.bind(domain) if bound is None else bound
        if not bound:
            # Something may have been claimed before.
            self.unplug(domain)
            return []
        with self.store.lock():
            self._recover()
            transaction = self._plug(domain, bound, frontend, incoming=incoming)
            self._run(transaction, f"plug {domain.name}")
        return [owner for owner in transaction.add if owner.domain_id == domain.id and owner.domain]

    def plan_plug(self, domain: Domain, frontend: str) -> Plan:
        """What `plug` would do now. Taps that do not exist yet are taken to be fresh."""
        return self._plug(domain, self.bind(domain), frontend, imagine=True).plan

    def _plug(
        self, domain: Domain, bound: Sequence[compose.Bound], frontend: str, imagine: bool = False, incoming: bool = False
    ) -> Transaction:
        compose.check_domain(domain, bound)
        host = self._host(name for vif, network in bound for name in compose.links_of(vif, network))
        wanted, needs = self._needed((network for _, network in bound), host)
        drop: list[str] = []
        owners: dict[str, compose.Bound] = {}
        for vif, network in bound:
            if not vif.ifname:
                raise InputError(f"{domain.name}: NIC {vif.mac} has no tap (no target dev in the XML); start the domain first")
            if vif.ifname not in host.links and not imagine:
                raise KernelError(f"{domain.name}: tap {vif.ifname} of NIC {vif.mac} does not exist; was the domain stopped?")
            owners[f"{domain.id}/{vif.id or vif.mac}"] = (vif, network)
        for vif, _ in owners.values():
            # A record of the same tap's name: its tap was another one, or another front end knows this one too.
            drop += [owner.id for owner in self._others_on(vif, domain) if owner.id not in owners]
        shared = {network.name: compose.compose_part(network, host) for _, network in bound}
        for identity, (vif, network) in owners.items():
            twin = [f"{domain.id}/{vif.twin}"] if vif.twin else []
            drop += self._check_holders(domain, vif, network, [*owners, *drop, *twin])
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
                vif.vlan,
                vif.tagged,
                vif.mtu,
                vif.metric,
            )
            wants = {**shared[network.name], **compose.compose_vif(vif, network, host)}
            if known and known[0].phase in ("plugged", "active"):
                owner = replace(owner, phase=known[0].phase, since=known[0].since)
            elif incoming and compose.withheld(vif, network, wants):
                before = [o for o in known if o.phase == "incoming"]
                owner = replace(owner, phase="incoming", since=before[0].since if before else owner.since)
            # Also of what is withheld: a guest that can't arrive is not let in.
            drop += self._check_paths(owner, wants, [*owners, *drop, *twin])
            wanted[owner] = _for_phase(owner.phase, vif, network, wants)
            needs[identity] = list(compose.needs(network, self.config))
            self._check_shared(network, shared[network.name], [*owners, *drop])
        if not domain.partial:
            # NICs that the domain had and that nothing claims any more.
            drop += [
                owner.id for owner in self.store.owners(domain_id=domain.id) if owner.id not in owners and owner.id not in drop
            ]
        return self._transaction(wanted, drop, needs)

    def _others_on(self, vif: Vif, domain: Domain) -> list[Owner]:
        """Return the records of the same tap. Raises ConflictError if the tap is another living guest's, and its name is one that
        an admin chose for both: any other name comes back when its first guest is gone, or two front ends know one guest."""
        found = self.store.owners(ifname=vif.ifname)
        for owner in found:
            if vif.is_named and owner.domain_id != domain.id and self._lives(owner):
                raise ConflictError(f"{domain.name}: {vif.ifname} is {owner.domain}'s; give NIC {vif.mac} another name (vifname)")
        return found

    def _check_paths(self, owner: Owner, wants: Mapping[str, Resource], but: Sequence[str]) -> list[str]:
        """Raises ConflictError if a route to this NIC, or its gateway's address, is in the way of another guest's that lives.
        Returns the dead ones' ids. Networks may share a table; what they are called does not tell."""
        routes = [r for r in wants.values() if isinstance(r, Route) and r.dev == owner.ifname]
        gateways = [r for r in wants.values() if isinstance(r, Address) and r.ifname == owner.ifname]
        found = [(r.dst, *other) for r in routes for other in self.store.claimants(f"route {r.table} {r.dst}")]
        found += [(r.dst, *other) for r in routes for other in self.store.claimants_of_address(r.dst)]
        found += [(r.address, *other) for r in gateways for other in self.store.claimants(f"route {MAIN_TABLE} {r.address}")]
        # What a guest shares with its network is in nobody's way.
        others = [f for f in found if f[2].id not in (owner.id, *but) and f[2].domain and f[1].link == f[2].ifname]
        return self._dead_ones(
            (
                other,
                f"{owner.domain}: {address.partition('/')[0]} is in use by {other.domain} ({other.ifname}); "
                f"give NIC {owner.mac} another address, or stop {other.domain}",
            )
            for address, _, other in others
        )

    def _dead_ones(self, holders: Iterable[tuple[Owner, str]]) -> list[str]:
        """The ids of those that live no more. Raises ConflictError, with what is said of it, for one that does."""
        dead = []
        for holder, conflict in holders:
            if self._lives(holder):
                raise ConflictError(conflict)
            dead.append(holder.id)
        return dead

    def _check_shared(self, network: Network, shared: Mapping[str, Resource], but: Sequence[str]) -> None:
        """An edit that moves the network as a whole would leave its running guests where nobody looks for them."""
        frame = {key for key, r in shared.items() if isinstance(r, Rule | LinkAttribute | Address)}
        other = self.store.neighbour(network.name, but) if frame else None
        if other is None:
            return
        if not frame <= self.store.claimed(other.id):
            raise ConflictError(
                f"network {network.name}: its uplink, table, subnet, role or rule_priority was edited while "
                f"{other.domain or 'the node'} uses it; move its guests with `vmnet-hook repair`, then try again"
            )

    def _check_holders(self, domain: Domain, vif: Vif, network: Network, but: Sequence[str]) -> list[str]:
        """Raises ConflictError if another guest that lives holds an address or the MAC. Returns the dead ones' ids."""
        return self._dead_ones(
            (
                holder,
                f"{domain.name}: {what} of network {network.name} is held by {holder.domain} ({holder.ifname}); "
                f"give NIC {vif.mac} another, or stop {holder.domain}",
            )
            for what, holder in self._holders(vif, network, but)
        )

    def _holders(self, vif: Vif, network: Network, but: Sequence[str]) -> Iterator[tuple[str, Owner]]:
        for address in compose.held(vif, network):
            if holder := self.store.holder(network.name, address, but):
                yield f"address {address}", holder
        if holder := self.store.holder_of_mac(network.name, vif.mac, but):
            yield f"MAC {vif.mac}", holder

    # --- live migration ---------------------------------------------------------------------------------------------

    def arrive(self, domain_id: str, ifname: str = "") -> list[Owner]:
        """The cut-over of a live migration: the guest runs here from now on, and its NICs get what attracts their traffic.
        Returns those that were waiting for it: none if it has arrived already, or was unplugged. Raises VmnetError, with
        nothing changed."""
        match = {"domain_id": domain_id, "phase": "incoming"} | ({"ifname": ifname} if ifname else {})
        with self.store.lock():
            self._recover()
            owners = [owner for owner in self.store.owners(**match) if self._lives(owner)]
            if not owners:
                return []
            transaction = self._arrival([replace(owner, phase="active") for owner in owners])
            self._run(transaction, f"arrive {owners[0].domain}")
        return list(transaction.add)

    def _arrival(self, owners: Sequence[Owner]) -> Transaction:
        """Nothing but what was withheld: every packet for the guest is lost until it is there."""
        missing: dict[str, Resource] = {}
        add: dict[Owner, list[str]] = {}
        for owner in owners:
            wants, problem = self._wants(owner)
            if problem:
                raise ConfigError(f"{owner.domain} has arrived, but {problem}")
            claims = self.store.claims(owner.id)
            there = with_nat(claims)
            withheld = {key: resource for key, resource in wants.items() if key not in there}
            missing.update(withheld)
            add[owner] = [*claims, *withheld, *(f"needs {other}" for other in self.store.needs(owner.id))]
        current = self.kernel.read(missing.values())
        originals = {key: None if (have := current.get(key)) is None or have.ours else have for key in missing}
        return Transaction(plan.diff(missing, {}, current), add, (), missing, originals, current)

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

    def plan_unplug(self, domain: Domain) -> Plan:
        """What `unplug` would do now."""
        owners = self.store.of_domain(domain.name, domain.uuid)
        return self._transaction({}, [owner.id for owner in owners]).plan

    # --- check and repair ------------------------------------------------------------------------------------------

    def check(self, domain: str = "", gone: Iterable[str] = ()) -> list[Drift]:
        """Every difference between records, configuration and kernel. `gone` are ids of domains that run no more."""
        drifts: list[Drift] = []
        with self.store.lock():
            if self.store.pending():
                drifts.append(Drift("", "a takeover waits to be confirmed", "vmnet-hook confirm"))
            what, changes = self.store.journal()
            if what:
                drifts.append(Drift("", f"interrupted: {what}, {len(changes)} changes", "take them back"))
            owners = self.store.owners(domain=domain) if domain else self.store.owners()
            claimed = self.store.resources()
            current = self.kernel.read(claimed.values())
            dead = self._dead(owners, set(gone))
            reported: set[str] = set()
            for owner in owners:
                label = label_of(owner)
                if owner in dead:
                    reason = "could not be cleaned up" if owner.phase == "leftover" else f"{owner.ifname} is gone"
                    drifts.append(Drift(label, f"{owner.network}: {reason}", "remove its state"))
                    continue
                if owner.phase == "incoming" and self.kernel.has_sent(owner.ifname):
                    what = f"{owner.ifname}: the guest has arrived, and nobody saw it"
                    drifts.append(Drift(label, what, f"vmnet-hook start {owner.domain}"))
                wants, problem = self._wants(owner)
                if problem:
                    drifts.append(Drift(label, problem, "keep what was set up"))
                for key in sorted({*wants, *self.store.claims(owner.id)} - reported):
                    drift = _drift(label, key, current.get(key), wants.get(key), claimed.get(key))
                    if drift is None:
                        continue
                    drifts.append(drift)
                    reported.add(key)
                for other in self.store.needs(owner.id):
                    if not self.store.owners(id=other):
                        drifts.append(
                            Drift(label, f"needs {other.replace(':', ' ', 1)}, which is not up", f"vmnet-hook up {other}")
                        )
            if not domain:
                orphans = {key: r for key, r in self.kernel.ours().items() if key not in claimed}
                drifts += [
                    Drift("", f"{key}: ours, but in no record", "vmnet-hook up" if self._is_declared(r) else r.unset_command())
                    for key, r in orphans.items()
                ]
        return drifts

    def hazards(self) -> list[str]:
        """What of other programs breaks what is set up here, and which of the kernel's ceilings are near: nothing of it is ours
        to mend."""
        resources = self.store.resources().values()
        bridged = any(isinstance(r, LinkAttribute) and r.name == "master" and r.value for r in resources)
        translated = any(isinstance(r, NftElement) and r.set.startswith(("snat", "masquerade")) for r in resources)
        anycast = translated and any(isinstance(r, FdbEntry) for r in resources)
        single = [r.address for r in resources if isinstance(r, Neighbour)]
        permanent = (sum(":" not in address for address in single), sum(":" in address for address in single))
        return self.kernel.hazards(bridged, anycast, permanent) if resources else []

    def repair(self, domain: str = "", gone: Iterable[str] = ()) -> list[Drift]:
        """Makes `check` clean. Returns what it mended. Raises KernelError for what it could not mend."""
        drifts = self.check(domain, gone)
        failed: list[str] = []
        with self.store.lock():
            self._recover()
            owners = self.store.owners(domain=domain) if domain else self.store.owners()
            dead = self._dead(owners, set(gone))
            steps: list[Callable[[], None]] = [partial(self._unplug, [owner]) for owner in dead]
            # Each on its own: a guest that can't be mended (its uplink is gone) must not keep the others open. Links before
            # what stands on them.
            living = [owner for owner in owners if owner not in dead]
            steps += [partial(self._reapply, [owner]) for owner in sorted(living, key=self._depth)]
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
                needs = {owner.id: self.store.needs(owner.id) for owner in owners}
                wanted = {owner: with_nat(self.store.claims(owner.id)) for owner in owners}
                for owner in [owner for owner in owners if owner.phase == "incoming"]:
                    # A domain that is called running has arrived, unseen.
                    arrived = replace(owner, phase="plugged")
                    wants, problem = self._wants(arrived)
                    if not problem:
                        del wanted[owner]
                        wanted[arrived] = wants
                owners = list(wanted)
                self._run(self._transaction(wanted, (), needs), f"reassert {domain.name}")
        return owners

    def _dead(self, owners: Sequence[Owner], gone: set[str]) -> list[Owner]:
        # Between `prepare` and `start` a domain has no tap, and its hypervisor may not call it running.
        fresh = time.time() - PREPARE_SECONDS
        return [
            owner
            for owner in owners
            if not (owner.phase == "preparing" and owner.since > fresh)
            and (self._left_over(owner) or owner.domain_id in gone or (owner.domain and not self._lives(owner)))
        ]

    def _left_over(self, owner: Owner) -> bool:
        """A part that somebody needs again is not one that could not be taken away."""
        return owner.phase == "leftover" and not self.store.claimed_elsewhere(f"needs {owner.id}", [owner.id])

    def _wants(self, owner: Owner) -> tuple[dict[str, Resource], str]:
        """What an owner shall have by today's configuration; by its record where the configuration has lost it."""
        if not self._is_from_files(owner):
            return with_nat(self.store.claims(owner.id)), ""
        try:
            if not owner.domain:
                part = self._part(owner.id)
                wants = compose.compose_part(part, self._host(part.links()))
            else:
                network = self.config.network(owner.network, owner.domain)
                vif = network.mode.bind(self._as_plugged(owner), network, owner.domain)
                found = compose.compose(vif, network, self._host(compose.links_of(vif, network)))
                wants = _for_phase(owner.phase, vif, network, found)
        except (ConfigError, InputError) as error:
            return with_nat(self.store.claims(owner.id)), str(error)
        # A link that lives on router advertisements shows up, and goes, by itself: not the admin's doing.
        claims = self.store.claims(owner.id)
        kept = {key: r for key, r in claims.items() if isinstance(r, Sysctl) and r.path.endswith("/accept_ra")}
        return {**wants, **kept}, ""

    def _as_plugged(self, owner: Owner) -> Vif:
        """The NIC of a record, its port's MAC as it was given."""
        found = self.store.recorded(f"link {owner.ifname} address")
        return replace(_vif(owner), port_mac=found[0].value if found and isinstance(found[0], LinkAttribute) else "")

    def _is_from_files(self, owner: Owner) -> bool:
        """Whether the configuration has a say in what an owner shall have: not where a front end described the network (whose
        name has a colon then) or where guests of such a network brought the part up."""
        if owner.is_described or owner.phase == "preparing" or (owner.domain and ":" in owner.network):
            return False
        if owner.domain or owner.frontend != NEEDED or self._declared(owner.id):
            return True
        return any(self._is_from_files(other) for other in self.store.needing(owner.id))

    def _reapply(self, owners: Sequence[Owner]) -> None:
        if owners:
            needs = {owner.id: self._needs(owner) for owner in owners}
            self._run(self._transaction({owner: self._wants(owner)[0] for owner in owners}, (), needs), "repair")

    def _needs(self, owner: Owner) -> list[str]:
        network = self.config.networks.get(owner.network) if owner.domain else None
        return list(compose.needs(network, self.config)) if network else self.store.needs(owner.id)

    def _is_declared(self, resource: Resource) -> bool:
        """Whether a thing of ours is on a declared link: after the records were lost, what guests use is not torn down."""
        declared = self.config.parts.values()
        links = {name for part in declared for name in part.kind.makes(part)}
        if isinstance(resource, NftTable):
            return any(resource.name in part.kind.tables(part) for part in declared)
        parts = [part.strip('"') for part in resource.parts] if isinstance(resource, NftElement) else []
        return resource == CLOSED6 or bool(links & {resource.link, *parts})

    def _remove_orphans(self) -> None:
        claimed = self.store.resources()
        found = {key: r for key, r in self.kernel.ours().items() if key not in claimed}
        kept = [r for r in found.values() if self._is_declared(r) and r != CLOSED6]
        orphans = [Change(r, None) for r in found.values() if not (self._is_declared(r) and kept)]
        orphans.sort(key=lambda change: -change.subject.order)
        for table in TABLES:
            if table.key not in claimed and not kept and self.kernel.read([table]):
                orphans = [c for c in orphans if not (isinstance(c.subject, NftElement) and c.subject.table == table.key)]
                orphans.append(Change(table, None))
        failed: dict[str, str] = {}
        for change in orphans:
            failed.update(self._take_away(change))
        if failed:
            raise KernelError("; ".join(failed.values()))


def bind(domain: Domain, declared: Config) -> list[compose.Bound]:
    """The domain's NICs that somebody claims. Raises InputError or ConfigError."""
    return compose.bind(domain, declared, claims(declared, domain.name))


def activate(
    declared: Config, store: Store, announce: Callable[[list[tuple[str, str, str]]], None], domain: Domain, ifname: str = ""
) -> list[Owner]:
    """The guest runs here: announces its addresses. Needs no kernel but a raw socket, and so none of the engine.

    A guest that comes in by live migration does not run yet when its hypervisor says so: it is not announced, and its NICs in
    phase incoming stay so. Returns the NICs, as they are now.
    """
    migrates = any([store.expected(mark) for mark in domain.marks])
    with store.lock():
        found = store.of_domain(domain.name, domain.uuid, ifname)
        owners = [owner if owner.phase == "incoming" else replace(owner, phase="active") for owner in found]
        for owner in owners:
            store.set_phase(owner.id, owner.phase)
    if not migrates:
        announce(announcements(declared, [owner for owner in owners if owner.phase == "active"]))
    return owners


def announcements(declared: Config, owners: Iterable[Owner]) -> list[tuple[str, str, str]]:
    """(link, address, tap) of all that is to be announced for NICs that run here."""
    known = [(owner, network) for owner in owners if (network := declared.networks.get(owner.network))]
    return [(*pair, owner.ifname) for owner, network in known for pair in network.mode.announcements(_vif(owner), network)]


def untracked(declared: Config, owners: Iterable[Owner]) -> list[str]:
    """The addresses of NICs that have just arrived of whose connections this host has known nothing, or what is no more."""
    known = [(owner, network) for owner in owners if (network := declared.networks.get(owner.network))]
    return [address for owner, network in known for address in network.mode.untracked(_vif(owner), network)]


def _for_phase(phase: str, vif: Vif, network: Network, wants: dict[str, Resource]) -> dict[str, Resource]:
    """What a NIC has in a phase of all that it wants."""
    withheld = compose.withheld(vif, network, wants) if phase == "incoming" else {}
    return {key: resource for key, resource in wants.items() if key not in withheld}


def _vif(owner: Owner) -> Vif:
    return Vif(
        owner.mac,
        owner.ifname,
        domain=owner.domain,
        network=owner.network,
        addresses=owner.addresses,
        filter=owner.filter,
        vlan=owner.vlan,
        tagged=owner.tagged,
        mtu=owner.mtu,
        metric=owner.metric,
    )


def label_of(owner: Owner) -> str:
    """What an owner is called: the domain's name, or `bridge br0`."""
    return owner.domain or owner.id.replace(":", " ", 1)


def _drift(label: str, key: str, have: Resource | None, want: Resource | None, recorded: Resource | None) -> Drift | None:
    if want is None:
        return Drift(label, f"{key}: no longer wanted by the configuration", "remove it")
    remedy = f"make table {want.family} {want.name} anew" if isinstance(want, NftTable) else str(Change(have, want))
    if isinstance(want, Adoption):
        remedy = f"move it to {want.bridge}"
    if recorded != want:
        return Drift(label, f"{key}: the configuration has changed", remedy)
    if have is None:
        return Drift(label, f"{key}: missing", remedy)
    return None if want.covers(have) else Drift(label, f"{key}: {want.difference(have)}", remedy)
