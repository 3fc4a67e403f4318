"""Incoming live migrations: the agent listens on the guests' taps, asks the hypervisors that can tell, and cuts each guest over
when it starts to run here.

Which guests are awaited is in the records (phase incoming), so an agent that is restarted during a migration goes on. A detached
child of the hook, or a command, may do the cut-over at the same time: the records make sure that only one of them does it.
"""

import os
import select
import syslog
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..engine.guests import announcements
from ..engine.migration import ASK_SECONDS, RETRY_SECONDS, cut_over, listeners
from ..errors import VmnetError
from ..frontends import running
from ..kernel.first_frame import FirstFrameSocket
from ..model.owner import Nic, Owner, nics

if TYPE_CHECKING:
    from .main import Agent

ANNOUNCED_SECONDS = 5.0
"""A guest that was cut over is not announced again when its hypervisor reports, within this time, that it runs."""


class IncomingMigrations:
    """A part of the agent with one thread, which `_wake` wakes for orders from other threads. Another one asks hypervisors, which
    may take long to answer, while there are guests to ask for."""

    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self._ears: dict[int, tuple[FirstFrameSocket, Nic]] = {}
        self._due: dict[str, float] = {}
        self._failed: dict[str, str] = {}
        self._announced: dict[str, float] = {}
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._events = select.poll()
        self._events.register(self._wake, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)
        self._waiting = threading.Event()
        self._asker = threading.Thread(target=self._ask, name="asks", daemon=True)

    def start(self) -> None:
        self.agent.index.subscribe(self._changed)
        self._changed(tuple(self.agent.index.owners.values()), ())
        self._thread.start()
        self._asker.start()

    def close(self) -> None:
        self._order(lambda: None)

    # --- called from any thread; all return at once -------------------------------------------------------------------------

    def watch(self, owners: Iterable[Nic]) -> None:
        """Await the guest of these NICs, which comes in by live migration."""
        self._changed(tuple(owners), ())

    def arrived(self, domain_id: str) -> None:
        """Note that a hypervisor reports the guest as running here, for the first time or again."""
        self._order(lambda: self._resumed(domain_id))

    def _changed(self, added: Sequence[Owner], removed: Sequence[Owner]) -> None:
        self._order(lambda: self._follow(added, removed))

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        os.eventfd_write(self._wake, 1)

    # --- the thread that asks -----------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        while self._waiting.wait() and not self.agent.stopping.wait(ASK_SECONDS):
            self._waiting.clear()
            awaited = [owner for _, owner in list(self._ears.values()) if owner.domain_id not in self._due]
            try:
                if asks := running.asks(awaited):
                    for domain_id in asks():
                        self.arrived(domain_id)
                    self._waiting.set()
            except Exception as error:
                self.agent.note("error", f"arrivals: {error!r}", syslog.LOG_ERR)
                self._waiting.set()

    # --- the thread ---------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.agent.stopping.is_set():
            try:
                self._turn()
            except Exception as error:
                self.agent.note("error", f"arrivals: {error!r}", syslog.LOG_ERR)
                self.agent.stopping.wait(1)

    def _turn(self) -> None:
        """Wait for a frame, an order or the time of a retry, and handle it."""
        until = min(self._due.values(), default=None)
        pause = None if until is None else max(0, 1000 * (until - time.monotonic()))
        for fd, _ in self._events.poll(pause):
            if fd == self._wake:
                os.eventfd_read(fd)
            elif fd in self._ears:
                # If not, the guest was cut over by a frame on another of its NICs a moment ago.
                self._listen(fd)
        while self._orders:
            self._orders.popleft()()
        now = time.monotonic()
        for domain_id in [domain_id for domain_id, due in self._due.items() if due <= now]:
            self._cut_over(domain_id)

    def _follow(self, added: Sequence[Owner], removed: Sequence[Owner]) -> None:
        gone = {owner.id for owner in (*removed, *added)}
        for fd in [fd for fd, (_, owner) in self._ears.items() if owner.id in gone]:
            self._drop(fd)
        for nic in nics(added):
            if nic.phase == "incoming":
                for ear in listeners([(nic.ifname, nic.ifindex, nic.mac)]):
                    self._ears[ear.fileno()] = ear, nic
                    self._events.register(ear.fileno(), select.POLLIN)
                    self._listen(ear.fileno())
                    self._waiting.set()

    def _listen(self, fd: int) -> None:
        ear, owner = self._ears[fd]
        if ear.heard():
            # After a failure the cut-over waits for its retry, however many frames the guest sends.
            if owner.domain_id not in self._due:
                self._cut_over(owner.domain_id)
        elif ear.is_gone():
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        ear, _ = self._ears.pop(fd)
        self._events.unregister(fd)
        ear.close()

    def _resumed(self, domain_id: str) -> None:
        if self._cut_over(domain_id) or time.monotonic() - self._announced.get(domain_id, 0) < ANNOUNCED_SECONDS:
            return
        # The guest has not been away: an outgoing migration failed late. The destination may have announced the guest already.
        known = nics(self.agent.index.owners.values())
        active = [nic for nic in known if nic.domain_id == domain_id and nic.phase == "active"]
        self.agent.place.announce(announcements(running.with_networks(self.agent.place.declared(), active), active))

    def _cut_over(self, domain_id: str) -> bool:
        """Cut the guest over, or set the time of a retry. Return whether the guest was awaited."""
        self._due.pop(domain_id, None)
        try:
            with self.agent.place.session() as session:
                declared = running.with_networks(session.config, session.records.nics(domain_id=domain_id))
                owners = cut_over(session._replace(config=declared), domain_id, self._announce)
        except VmnetError as error:
            if self._failed.get(domain_id) != str(error):
                self._failed[domain_id] = str(error)
                self.agent.note("error", f"a guest has arrived, but: {error}", syslog.LOG_ERR)
            self._due[domain_id] = time.monotonic() + RETRY_SECONDS
            return True
        self._failed.pop(domain_id, None)
        for fd in [fd for fd, (_, owner) in self._ears.items() if owner.domain_id == domain_id]:
            self._drop(fd)
        if owners:
            now = time.monotonic()
            fresh = {other: then for other, then in self._announced.items() if now - then < ANNOUNCED_SECONDS}
            self._announced = {**fresh, domain_id: now}
            self.agent.count("arrivals")
            self.agent.note("arrival", f"{owners[0].domain}: {', '.join(owner.ifname for owner in owners)}")
            self.agent.index.look()
        return bool(owners)

    def _announce(self, calls: Sequence[tuple[str, str, str]], begun: Callable[[], object]) -> None:
        self.agent.place.announce(calls)
        begun()
