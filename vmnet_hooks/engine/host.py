"""Bringing up and taking down the declared parts of the host: links, NATs, networks without guests.

A part's owner claims what the part itself is made of, and *needs* the parts below. One that was asked for by name (or with
all) has frontend `cli`; one that is there because another part or a guest needs it has `auto`, and goes with the last of them.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ..declared import compose
from ..declared.configuration import RUNTIME
from ..declared.sections import is_part
from ..errors import ConfigError, ConflictError, InputError, KernelError
from ..model import facts
from ..model.declaration import Declared, Network
from ..model.guest import Domain
from ..model.objects import Adoption, Device, LinkAttribute
from ..model.owner import ASKED_FOR, NEEDED, Owner
from ..model.plan import Change, Plan
from ..model.resource import Resource
from ..records.pending import Pending
from .transaction import Transaction, Transactions

TAKEOVER = "up"
"""What is under way, in the journal's words."""

GATEWAY_SECONDS = 10.0
"""How long after a takeover the gateway may stay silent."""


class Watch(Protocol):
    """What watches over a takeover: see takeover.Watch."""

    def answering(self, gateways: Iterable[tuple[str, str]], seconds: float) -> set[str]: ...
    def guard(self, deadline: float) -> None: ...


class Parts(Transactions):
    """What an engine does about the host itself."""

    def up(self, names: Sequence[str] = (), watch: Watch | None = None, confirm_within: float = 0) -> list[Owner]:
        """Brings parts up, with all that they need; without names, everything that is declared. Returns what was changed.
        A bridge that adopts a port is put back unless the gateway answers as before, or, with `confirm_within` (seconds),
        unless `confirm` is called in time. Raises VmnetError, with nothing changed."""
        with self.store.lock():
            self._recover()
            self._check_pending()
            transaction = self._up(names)
            changed = self._changed(transaction)
            if not changed:
                return []
            adopted = [c.want for c in transaction.plan if isinstance(c.want, Adoption)]
            if watch is None or not (adopted or confirm_within):
                self._run(transaction, TAKEOVER)
                return changed
            self._check_adoptions(adopted)
            gateways = [(a.ifname, address) for a in adopted for address in gateways_of(a)]
            answered = watch.answering(gateways, 1.0) if gateways and not confirm_within else set()
            deadline = self._hold(transaction, confirm_within)
            watch.guard(deadline)
            try:
                self._run(transaction, TAKEOVER)
            except BaseException:
                self.store.set_pending(None)
                raise
        if not confirm_within:
            bridges = {a.ifname: a.bridge for a in adopted}
            again = [(bridges[dev], address) for dev, address in gateways if address in answered]
            silent = answered - watch.answering(again, GATEWAY_SECONDS) if again else set()
            if silent:
                self.revert(deadline)
                gateway = ", ".join(sorted(silent))
                raise KernelError(f"gateway {gateway} does not answer any more: everything was put back")
            if not self.confirm() and not all(self.store.owners(id=owner.id) for owner in transaction.add):
                raise KernelError("another process put the takeover back meanwhile; try again")
        return changed

    def plan_up(self, names: Sequence[str] = ()) -> Plan:
        """What `up` would do now."""
        return self._up(names).plan

    def _up(self, names: Sequence[str]) -> Transaction:
        chosen = self._chosen(names)
        wanted, needs = self._compose(chosen, {part.id for part in chosen})
        drop = [] if names else self._undeclared(needs)
        transaction = self._transaction(wanted, drop, needs)
        for change in transaction.plan:
            self._check_master(change)
        self._check_leaving(transaction.plan)
        self._check_left_behind(transaction)
        return transaction

    def _chosen(self, names: Sequence[str]) -> list[Declared]:
        """The parts of these names; without any, all that stand on their own."""
        if not names:
            alone = [network for network in self.config.networks.values() if network.mode.brings_up_alone]
            return [*(part for part in self.config.parts.values() if not part.implied_by), *alone]
        chosen: list[Declared] = []
        for name in names:
            for part in self.config.find(name):
                if isinstance(part, Network) and not part.mode.brings_up_alone:
                    below = [self._part(other) for other in compose.needs(part, self.config)]
                    if not below:
                        raise part.mode.nothing_below(part)
                    chosen += below
                else:
                    chosen.append(part)
        return list({part.id: part for part in chosen}.values())

    def _part(self, name: str) -> Declared:
        """The part of an id. Raises ConfigError if it is no longer declared."""
        part = self.config.part(name)
        if part is None:
            label = name.replace(":", " ", 1)
            raise ConfigError(f"{label} is no longer declared in {self.config.directory}; see `vmnet-hook down {name}`")
        return part

    def _closure(self, parts: Iterable[Declared]) -> dict[str, Declared]:
        """`parts` and all that they need, what stands on nothing first."""
        found: dict[str, Declared] = {}

        def visit(part: Declared) -> None:
            if part.id not in found:
                for other in compose.needs(part, self.config):
                    visit(self._part(other))
                found[part.id] = part

        for part in parts:
            visit(part)
        return found

    def _compose(
        self, parts: Iterable[Declared], explicit: set[str]
    ) -> tuple[dict[Owner, dict[str, Resource]], dict[str, list[str]]]:
        """What these parts, and all that they need, want; and by owner what it needs."""
        closure = self._closure(parts)
        host = self._host((name for part in closure.values() for name in part.links()), adopt=True)
        wanted: dict[Owner, dict[str, Resource]] = {}
        needs: dict[str, list[str]] = {}
        known = self._standing()
        for part in closure.values():
            had = known.get(part.id)
            asked = part.id in explicit or (had is not None and had.frontend == ASKED_FOR)
            owner = Owner(part.id, "", "", "", 0, "", part.name, ASKED_FOR if asked else NEEDED, "active", since=time.time())
            wanted[replace(owner, since=had.since) if had else owner] = compose.compose_part(part, host)
            needs[part.id] = list(compose.needs(part, self.config))
        return wanted, needs

    def _needed(
        self, networks: Iterable[Network], host: facts.Host
    ) -> tuple[dict[Owner, dict[str, Resource]], dict[str, list[str]]]:
        """The parts that guests of these networks need and that are not up, or whose link is gone."""
        parts = [self._part(other) for network in networks for other in compose.needs(network, self.config)]
        missing = [
            part for part in self._closure(parts).values() if part.name not in host.links or not self.store.owners(id=part.id)
        ]
        for part in missing:
            if part.adopts and part.source.startswith(RUNTIME):
                # What a command declared, and a guard put back, or a command took down: no guest's start does it again.
                raise part.error("", f"is not up, and takes over {part.adopts}; bring it up first: vmnet-hook up {part.name}")
        return self._compose(missing, set()) if missing else ({}, {})

    def _standing(self) -> dict[str, Owner]:
        """Whoever has records and is no guest, by id."""
        return {owner.id: owner for owner in self.store.owners(domain="")}

    def _parts_up(self) -> list[Owner]:
        """Those of them that are parts, whether they are declared still or not."""
        return [owner for owner in self._standing().values() if is_part(owner.id)]

    def _undeclared(self, wanted: Mapping[str, Sequence[str]]) -> list[str]:
        """Parts that are up, that nobody declares any more, and that no guest needs."""
        undeclared = [owner.id for owner in self._parts_up() if owner.id not in wanted and not self._declared(owner.id)]
        return [name for name in undeclared if not self.store.claimed_elsewhere(f"needs {name}", undeclared)]

    def _check_left_behind(self, transaction: Transaction) -> None:
        """A bridge that guests are on does not lose its ports by being declared no more, or under another name."""
        masters = [c.have for c in transaction.plan if isinstance(c.have, LinkAttribute) and c.have.name == "master"]
        moved = {have.value: have.ifname for have in masters}
        for bridge, port in moved.items():
            name = f"bridge:{bridge}"
            if self.store.owners(id=name) and name not in transaction.drop and not self._declared(name):
                raise ConflictError(
                    f"bridge {bridge} is no longer declared, but guests are on it, and {port} would leave it; "
                    f"stop them first, or declare {bridge} again"
                )

    def _declared(self, name: str) -> bool:
        try:
            return bool(self._part(name))
        except ConfigError:
            return False

    def _check_master(self, change: Change) -> None:
        """A link that is somebody else's port is not taken away from them."""
        have = change.have
        if isinstance(change.want, LinkAttribute) and isinstance(have, LinkAttribute) and have.name == "master" and have.value:
            if change.want.value and self.store.recorded(have.key) is None:
                raise ConflictError(
                    f"{have.ifname} is a port of {have.value} already; take it out (ip link set dev {have.ifname} nomaster) "
                    f"or leave it out of {change.want.value}"
                )

    def _changed(self, transaction: Transaction) -> list[Owner]:
        """The owners that a transaction changes anything for."""
        keys = {change.subject.key for change in transaction.plan}
        known = self._standing()
        return [
            owner
            for owner, claims in transaction.add.items()
            if keys & set(claims) or known.get(owner.id) != owner or not self._claims(owner.id, claims)
        ] + [known[name] for name in transaction.drop if name in known]

    def _claims(self, owner: str, keys: Sequence[str]) -> bool:
        return {*self.store.claims(owner), *(f"needs {other}" for other in self.store.needs(owner))} == set(keys)

    def _depth(self, owner: Owner) -> int:
        """How many parts an owner stands on; guests come last."""
        if owner.domain:
            return len(self.config.parts) + 1
        below = [other for name in self.store.needs(owner.id) for other in self.store.owners(id=name)]
        return 1 + max(map(self._depth, below), default=0)

    # --- before the taps exist --------------------------------------------------------------------------------------------

    def prepare(self, domain: Domain, networks: Sequence[Network], frontend: str) -> list[Owner]:
        """Brings up what guests of these networks need and is not up, before any tap exists. Returns what was brought up."""
        names = [name for network in networks for name in compose.needs(network, self.config)]
        with self.store.lock():
            self._recover()
            host = self._host(name for network in networks for name in network.links())
            wanted, needs = self._needed(networks, host)
            if not wanted:
                return []
            # Until the guest's NICs are plugged in, or it is clear that they never will be.
            guest = Owner(f"{domain.id}/prepare", domain.name, domain.id, "", 0, "", "", frontend, "preparing", since=time.time())
            brought = list(wanted)
            self._run(self._transaction({**wanted, guest: {}}, (), {**needs, guest.id: names}), f"prepare {domain.name}")
        return brought

    # --- parts that no file declares --------------------------------------------------------------------------------------

    def up_network(self, network: Network, owner_id: str, frontend: str) -> bool:
        """Brings up a network that a front end describes. Returns whether that changed anything."""
        with self.store.lock():
            self._recover()
            host = self._host(network.links())
            owner = Owner(owner_id, "", "", "", 0, "", network.name, frontend, "active", since=time.time())
            if known := self.store.owners(id=owner_id):
                owner = replace(owner, since=known[0].since)
            transaction = self._transaction({owner: compose.compose_part(network, host)})
            self._check_taken(network, owner_id, transaction)
            changed = self._changed(transaction)
            if changed:
                self._run(transaction, f"up {owner_id}")
        return bool(changed)

    def _check_taken(self, network: Network, owner_id: str, transaction: Transaction) -> None:
        """Raises ConfigError if somebody else has another wish for one and the same object: no file is there to tell."""
        for key, want in transaction.wants.items():
            found = self.store.recorded(key)
            if found and found[0] != want and self.store.claimed_elsewhere(key, [owner_id]):
                raise network.error("", f"{key} is somebody else's already, with another value; see `vmnet-hook status`")

    def down_owner(self, owner_id: str) -> list[Owner]:
        """Takes away what one owner claims, by the records alone. Returns that owner, if there was one."""
        with self.store.lock():
            self._recover()
            owners = self.store.owners(id=owner_id)
            self._unplug(owners)
        return owners

    # --- down -----------------------------------------------------------------------------------------------------------

    def down(self, names: Sequence[str] = ()) -> list[Owner]:
        """The inverse of `up`; without names, of all that it brought up. What others need stays until they are gone. Returns
        what was taken down."""
        with self.store.lock():
            self._recover()
            self._check_pending()
            going, staying = self._going(names)
            self._check_ports([owner.id for owner in going])
            for owner in staying:
                self.store.set_frontend(owner.id, NEEDED)
            before = self.store.owners(domain="")
            self._unplug(going)
            after = {owner.id for owner in self.store.owners(domain="")}
        return [owner for owner in before if owner.id not in after]

    def plan_down(self, names: Sequence[str] = ()) -> Plan:
        """What `down` would do now."""
        going, _ = self._going(names)
        return self._transaction({}, [owner.id for owner in going]).plan

    def _going(self, names: Sequence[str]) -> tuple[list[Owner], list[Owner]]:
        """Who goes, and who stays because somebody needs it."""
        owners = self._parts_up()
        chosen = [owner for owner in owners if owner.frontend == ASKED_FOR]
        for name in names:
            if not any(name in (owner.id, owner.network) for owner in owners):
                raise InputError(f"{name} is not up; see `vmnet-hook status`")
        if names:
            chosen = [owner for owner in owners if owner.id in names or owner.network in names]
        staying: list[Owner] = []
        while kept := [
            owner
            for owner in chosen
            if self.store.claimed_elsewhere(f"needs {owner.id}", [o.id for o in chosen if o is not owner])
        ]:
            staying += kept
            chosen = [owner for owner in chosen if owner not in kept]
        return chosen, staying

    def _check_ports(self, going: Sequence[str]) -> None:
        """A bridge does not go while somebody else's guests are on it."""
        self._check_leaving(self._transaction({}, going).plan)

    def _check_leaving(self, changes: Plan) -> None:
        befores = [change.have for change in changes]
        leaving = {have.ifname for have in befores if isinstance(have, Adoption | LinkAttribute | Device)}
        for change in changes:
            device = change.have
            if isinstance(device, Device) and change.want is None and device.has_ports:
                if others := [port for port in self.kernel.ports(device.ifname) if port not in leaving]:
                    raise ConflictError(
                        f"{device.type} {device.ifname} still has ports: {', '.join(others)}; stop those guests first"
                    )

    # --- takeovers ------------------------------------------------------------------------------------------------------

    def _check_pending(self) -> None:
        waiting = self.store.pending()
        if waiting and time.monotonic() > waiting.deadline + GATEWAY_SECONDS:
            # Its guard was killed.
            self._put_back(waiting)
        elif waiting:
            raise ConflictError("a takeover waits to be confirmed: run `vmnet-hook confirm`, or wait until it is put back")

    def _check_adoptions(self, adoptions: Sequence[Adoption]) -> None:
        for adoption in adoptions:
            if not self.store.recorded(adoption.key) and (reason := self.kernel.obstacle(adoption.ifname)):
                raise ConflictError(f"{adoption.bridge} can't take over {adoption.ifname}: {reason}")

    def _hold(self, transaction: Transaction, confirm_within: float) -> float:
        """Writes down what the records say now, for `revert`. Returns the deadline, which tells one takeover from another."""
        known = self._standing()
        touched = [*transaction.drop, *(owner.id for owner in transaction.add)]
        before = {
            known[name]: (list(self.store.claims(name).values()), self.store.needs(name)) for name in touched if name in known
        }
        added = [owner.id for owner in transaction.add if owner.id not in known]
        seconds = confirm_within or 6 * GATEWAY_SECONDS
        keys = [r.key for resources, _ in before.values() for r in resources]
        originals = {key: found[1] for key in keys if (found := self.store.recorded(key))}
        pending = Pending(time.monotonic() + seconds, bool(confirm_within), before, added, originals)
        self.store.set_pending(pending)
        return pending.deadline

    def confirm(self) -> bool:
        """Keeps a takeover. Returns whether one was waiting; one whose command was killed half-way is taken back instead."""
        with self.store.lock():
            waiting = self.store.pending() is not None and not self.store.journal()[0]
            self._recover()
            self.store.set_pending(None)
        return waiting

    def revert(self, deadline: float | None = None) -> bool:
        """Puts back everything that an unconfirmed `up` changed, if it is that with the `deadline`. Returns whether it was."""
        with self.store.lock():
            self._recover()
            waiting = self.store.pending()
            if waiting is None or deadline not in (None, waiting.deadline):
                return False
            self._put_back(waiting)
        return True

    def _put_back(self, waiting: Pending) -> None:
        wanted = {owner: {r.key: r for r in resources} for owner, (resources, _) in waiting.before.items()}
        needs = {owner.id: others for owner, (_, others) in waiting.before.items()}
        added = [owner for name in waiting.added for owner in self.store.owners(id=name)]
        for owner in added:
            if self._strangers(owner.id, [other.id for other in added]):
                # Guests came meanwhile: their bridge stays, without what it took over.
                claims = self.store.claims(owner.id).values()
                bridges = {r.ifname for r in claims if isinstance(r, Device)}
                wanted[replace(owner, frontend=NEEDED)] = {r.key: r for r in claims if r.link in bridges}
        kept = {owner.id for owner in wanted}
        transaction = self._transaction(wanted, [owner.id for owner in added if owner.id not in kept], needs)
        originals = {key: waiting.originals.get(key, found) for key, found in transaction.originals.items()}
        self._run(replace(transaction, originals=originals), "put back")
        self.store.set_pending(None)


def gateways_of(adoption: Adoption) -> list[str]:
    """The default gateways of what a bridge takes over."""
    found = []
    for route in adoption.routes:
        words = route.split()
        if words[0] in ("0.0.0.0/0", "::/0") and "via" in words:
            found.append(words[words.index("via") + 1])
    return list(dict.fromkeys(address for address in found if address not in ("inet", "inet6")))
