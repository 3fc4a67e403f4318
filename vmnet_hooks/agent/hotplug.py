"""Hot-plug of NICs. The agent watches hypervisors that call no hook for it (libvirt, for a NIC on a bridge): a NIC that is
attached to a running guest is set up as at a start, and a NIC that is detached is taken down.

Callbacks only queue the domain. Workers ask the hypervisor for the domain's description. They hold no lock meanwhile that a hook
may need: libvirt answers only after its hooks of that domain have ended. Then they do the same as a `reconnect`.
"""

import errno
import os
import queue
import socket
import syslog
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ..engine.claims import is_moved
from ..engine.guests import bind
from ..errors import VmnetError
from ..frontends.watch import Unreachable, Watch, Watcher
from ..hook import events
from ..kernel import sysfs
from ..model.declaration import Config, Network
from ..model.guest import Action, Domain, GuestEvent, Vif, id_by_name
from ..model.objects import LinkAttribute
from ..model.owner import Nic
from ..model.plan import Change
from ..records.store import DIRECTORY, identity

if TYPE_CHECKING:
    from .main import Agent

RETRY_SECONDS = 2.0
"""Pause between attempts to connect to a hypervisor."""

FAILED_SECONDS = 10.0
"""Pause before NICs that could not be set up are tried again, because the admin may have corrected the configuration."""

WORKERS = 3
"""Several, because libvirt can block a worker (while another program's hook runs), which must not delay other domains."""


class Hotplug:
    """A part of the agent, for one front end. It has a thread for the hypervisor's event loop, one for the connection, and
    WORKERS workers."""

    def __init__(self, agent: "Agent", frontend: str, watch: Watcher) -> None:
        self.agent = agent
        self._frontend, self._watch = frontend, watch
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._lock = threading.Lock()
        self._waiting: dict[str, set[str]] = {}
        self._busy: set[str] = set()
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._failed: dict[str, str] = {}
        self._unseen: dict[str, set[str]] = {}
        self._events: Watch
        self._looping = threading.Thread(target=self._loop, name=f"{frontend}-loop", daemon=True)

    def start(self) -> None:
        try:
            self._events = self._watch(self._changed, self._arrived, self._lost.set)
        except VmnetError as error:
            self.agent.note("hotplug", str(error), syslog.LOG_NOTICE)
            return
        self._looping.start()
        threading.Thread(target=self._connect, name=self._frontend, daemon=True).start()
        for number in range(WORKERS):
            threading.Thread(target=self._work, name=f"hotplug-{number}", daemon=True).start()

    def close(self) -> None:
        """Stop to follow events. Do not wait for requests in progress, because libvirt may take long to answer."""
        self._ended.set()
        self._lost.set()
        for _ in range(WORKERS):
            self._queue.put(None)
        if self._looping.is_alive():
            self._events.wake()
            self._looping.join(2)

    # --- called from the hypervisor's event loop: return at once ------------------------------------------------------------

    def _changed(self, uuid: str, alias: str = "") -> None:
        """Queue a domain whose NICs or claims may have changed. A burst of calls queues it once."""
        with self._lock:
            is_known = uuid in self._waiting
            self._waiting.setdefault(uuid, set()).update({alias} - {""})
            # A worker that handles the domain now will queue it again.
            if is_known or uuid in self._busy:
                return
        self._queue.put(uuid)

    def _arrived(self, uuid: str) -> None:
        self.agent.arrivals.arrived(uuid)

    # --- the connection ---------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        self._forever(lambda: self._events.loop(self._ended))

    def _connect(self) -> None:
        self._forever(self._stay_connected)

    def _stay_connected(self) -> None:
        """Connect and queue every running domain, as any may have changed before. Return when the connection is lost, or if it
        can't be made."""
        self._lost.clear()
        if self._ended.is_set():
            return
        try:
            self._events.connect()
        except VmnetError:
            # libvirtd has not started yet, or there is none on this host.
            self._ended.wait(RETRY_SECONDS)
            return
        self.agent.note("hotplug", f"connected to {self._frontend}", syslog.LOG_DEBUG)
        file, recorded = identity(), self._recorded()
        for uuid in recorded:
            self._changed(uuid)
        try:
            # Returns after every hook that runs now, and another program's may be slow.
            for uuid in self._events.domains():
                if uuid not in recorded:
                    self._changed(uuid)
        except VmnetError:
            self._lost.set()
        while not self._lost.wait(FAILED_SECONDS):
            if file not in (None, identity()):
                # The records were lost: those of running guests are made again from their descriptions.
                break
            file = identity()
            for uuid in list(self._failed):
                self._changed(uuid)
        self._events.close()
        if not self._ended.is_set():
            self.agent.note("hotplug", f"{self._frontend} is gone; it is looked for", syslog.LOG_DEBUG)

    def _recorded(self) -> set[str]:
        """Return the UUIDs of the domains that have records, but for those whose start is not over: libvirt answers nothing about
        them until it is."""
        try:
            with self.agent.place.records() as records:
                owners = records.nics(frontend=self._frontend, phase="active")
        except VmnetError:
            # The look at each domain reports it.
            return set()
        return {owner.domain_id for owner in owners if owner.domain_id != id_by_name(owner.domain)}

    def _forever(self, work: Callable[[], None]) -> None:
        while not (self._ended.is_set() or self.agent.stopping.is_set()):
            try:
                work()
            except Exception as error:
                if not self._ended.is_set():
                    self.agent.note("error", f"hotplug: {error!r}", syslog.LOG_ERR)
                    self._ended.wait(1)

    # --- the workers ------------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._forever(self._next)

    def _next(self) -> None:
        uuid = self._queue.get()
        if uuid is None:
            return
        with self._lock:
            attached = self._waiting.pop(uuid, set()) | self._unseen.pop(uuid, set())
            self._busy.add(uuid)
        try:
            self._look(uuid, attached)
        finally:
            with self._lock:
                self._busy.discard(uuid)
                again = uuid in self._waiting
            if again:
                self._queue.put(uuid)

    def _look(self, uuid: str, attached: set[str]) -> None:
        """Make a domain's records agree with its NICs. `attached` are the aliases of attached NICs. A VmnetError is logged and
        not raised."""
        domain: Domain | None = None
        try:
            found = self._events.running(uuid, attached)
            if found is not None:
                domain = replace(found[0], changing=True)
                changed = self._drop(domain) + self._plug(domain, found[1])
                if changed and not self._events.is_active(uuid) and not self._starts(domain):
                    # The domain has ended, and its clean-up may have run before this set-up.
                    self._act(Action.UNPLUG, domain)
            self._failed.pop(uuid, None)
        except Unreachable as error:
            # The connection is lost, or about to be lost. Once it is made again, every domain is queued.
            self._failed[uuid] = ""
            with self._lock:
                self._unseen.setdefault(uuid, set()).update(attached)
            self.agent.note("hotplug", f"{uuid}: {error}", syslog.LOG_DEBUG)
        except VmnetError as error:
            self._complain(uuid, domain, self.agent.place.explained(error))

    def _drop(self, domain: Domain) -> int:
        """Take down the NICs that the domain does not have any more. Return their number."""
        with self.agent.place.records() as records:
            known = records.nics(domain_id=domain.id)
            # NICs that libvirt's <script> set up have no UUID. It runs before the description has the NIC, so those whose link
            # exists are left alone.
            named = records.nics(domain_id=id_by_name(domain.name))
            # One that got another name gets its own again.
            known += [nic for nic in named if _index(nic.ifname) != nic.ifindex and not _is_link(nic.ifindex)]
        there = {(vif.mac, vif.ifname) for vif in domain.vifs}
        gone = [nic for nic in known if (nic.mac, nic.ifname) not in there]
        for nic in gone:
            whose = Domain(domain.name, domain.uuid if nic.domain_id == domain.id else "")
            self._act(Action.UNPLUG, whose, nic.ifname)
            self._tell(domain, nic.ifname, "taken down")
        if any(nic.phase == "incoming" for nic in known):
            # The domain runs, so its arrival was missed.
            self._arrived(domain.uuid)
        return len(gone)

    def _plug(self, domain: Domain, attached: Collection[str]) -> int:
        """Set up the claimed NICs that have no record. `attached` are the MACs of the attached NICs. Return the number of
        NICs."""
        new = self._new(domain)
        if new:
            try:
                self._act(Action.RECONNECT, domain)
            except VmnetError:
                self._close([vif for vif in new if vif.mac in attached])
                raise
            for vif in new:
                self._tell(domain, vif.ifname, "set up")
        for vif in domain.vifs:
            if _was_shut(vif.ifname):
                self._set_link(vif.ifname, "up")
        return len(new)

    def _new(self, domain: Domain) -> list[Vif]:
        """Return the claimed NICs that are not set up, including those whose claim is not valid."""
        declared = self.agent.place.declared()
        found = []
        with self.agent.place.records() as records:
            for vif in domain.vifs:
                index = _index(vif.ifname) if vif.ifname else 0
                if index and (network := _network(domain, vif, declared)) is not None:
                    known = records.nics(domain_id=domain.id, ifname=vif.ifname, mac=vif.mac)
                    if not any(o.ifindex == index and not o.is_left_over and _stays(o, vif, network, declared) for o in known):
                        found.append(vif)
        return found

    def _close(self, vifs: Iterable[Vif]) -> None:
        """Set the taps down, so that they have no carrier until they can be set up: with such a NIC, the guest could not have
        been started either."""
        for vif in vifs:
            self._set_link(vif.ifname, "down")
            with open(_mark(vif.ifname), "w") as mark:
                mark.write(str(_index(vif.ifname)))

    def _set_link(self, ifname: str, state: str) -> None:
        with self.agent.place.session() as session:
            session.kernel.apply([Change(None, LinkAttribute(ifname, "state", state))])

    def _starts(self, domain: Domain) -> bool:
        """Return whether the domain is being started again. Then its records are those of the new start."""
        with self.agent.place.records() as records:
            return any(owner.phase != "active" for owner in records.owners(domain_id=domain.id))

    def _act(self, action: Action, domain: Domain, ifname: str = "") -> None:
        events.act(GuestEvent(action, self._frontend, domain, ifname), None, self.agent.place)

    def _tell(self, domain: Domain, ifname: str, what: str) -> None:
        self.agent.count("hotplugs", what=what)
        self.agent.note("hotplug", f"{domain.name}: {ifname} was {what}")

    def _complain(self, uuid: str, domain: Domain | None, reason: str) -> None:
        """Log a failure, unless the last one of that domain had the same reason."""
        if self._failed.get(uuid) == reason or self._ended.is_set():
            return
        self._failed[uuid] = reason
        self.agent.count("hotplugs", what="failed")
        shut = [vif.ifname for vif in domain.vifs if vif.ifname and os.path.exists(_mark(vif.ifname))] if domain else []
        tail = f"; without a carrier until then: {', '.join(shut)}" if shut else ""
        self.agent.note("error", f"hotplug: {domain.name if domain else uuid}: {reason}{tail}", syslog.LOG_ERR)


def _index(ifname: str) -> int:
    """Return the ifindex of a link; 0 if it does not exist."""
    return int(sysfs.read(ifname, "ifindex") or 0)


def _is_link(index: int) -> bool:
    """Return whether there is a link of that number, whatever its name."""
    try:
        return bool(socket.if_indextoname(index))
    except OSError as error:
        return error.errno != errno.ENXIO


def _mark(ifname: str) -> str:
    """Return the path of the file which records that the agent set a tap down; it survives a restart of the agent."""
    return f"{DIRECTORY}/shut-{ifname}"


def _was_shut(ifname: str) -> bool:
    """Return whether the agent set this tap down (and not an earlier one of the same name). Remove the mark."""
    try:
        with open(_mark(ifname)) as mark:
            index = mark.read()
        os.unlink(_mark(ifname))
    except OSError:
        return False
    return index == str(_index(ifname))


def _network(domain: Domain, vif: Vif, declared: Config) -> Network | Literal[""] | None:
    """Return the network that a NIC is claimed for: "" if the claim is not valid, None if there is no claim."""
    try:
        bound = bind(replace(domain, vifs=(vif,)), declared)
    except VmnetError:
        return ""
    return bound[0][1] if bound else None


def _stays(owner: Nic, vif: Vif, network: Network | Literal[""], declared: Config) -> bool:
    """Return whether a NIC that is set up stays as it is: also if its claim is edited, or not valid any more."""
    old = declared.networks.get(owner.network)
    if network == "" or network.name == owner.network:
        return True
    return old is not None and not is_moved(vif, old, network)
