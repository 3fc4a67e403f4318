"""Makes what guests have leased their sources, on networks with antispoof = "leased".

The kernel lets a guest send from an address for a minute after the server has acknowledged it (see model/port_rules.py). By the
server's file, the agent makes it one of the guest's sources meanwhile, and takes away what the guest has leased no more, of the
minute too.
"""

import os
import syslog
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from ..engine import repair
from ..errors import ConfigError, KernelError, VmnetError
from ..model.declaration import Config
from ..model.objects.dnsmasq import Dnsmasq
from ..model.plan import Change

if TYPE_CHECKING:
    from .main import Agent

SECONDS, IDLE_SECONDS = 0.5, 2.0
"""Between looks at the files of leases, and at the configuration where no network holds its guests to them."""
AGAIN_SECONDS = 30.0
"""Until what failed is tried again. A lease ends without a change of the file, which has its end."""

Stamp = tuple[int, int, int]


class Lessees:
    """A part of the agent: one thread."""

    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self._declared: Config | None = None
        self._networks: tuple[str, ...] = ()
        self._seen: dict[str, Stamp | None] = {}
        self._held: dict[str, Mapping[str, tuple[str, ...] | None]] = {}
        """What guests were held to last, by network and MAC: None if that failed."""
        self._all_from = 0.0

    def start(self) -> None:
        threading.Thread(target=self._run, name="lessees", daemon=True).start()

    def close(self) -> None:
        """Nothing is to be ended: the thread follows `stopping`."""

    def _run(self) -> None:
        while not self.agent.stopping.wait(SECONDS if self._networks else IDLE_SECONDS):
            try:
                self._turn()
            except Exception as error:
                self.agent.note("error", f"leases of guests: {error or type(error).__name__}", syslog.LOG_ERR)
                self._seen.clear()
                self.agent.stopping.wait(AGAIN_SECONDS)

    def _turn(self) -> None:
        try:
            declared = self.agent.place.declared()
        except ConfigError:
            # Reported where the configuration is loaded.
            return
        if declared is not self._declared:
            self._declared, self._seen = declared, {}
            self._networks = tuple(n.name for n in declared.networks.values() if n.mode.follows_leases(n))
        if (now := time.monotonic()) >= self._all_from:
            self._all_from = now + AGAIN_SECONDS
            self._seen.clear()
        for name in self._networks:
            stamp = _stamp(name)
            if name not in self._seen or self._seen[name] != stamp:
                self._seen[name] = stamp
                self._follow(name)

    def _follow(self, network: str) -> None:
        """Set up again the NICs of a network whose leases have changed."""
        with self.agent.place.session() as session:
            # Before the file is read: what is granted meanwhile stays.
            granted = session.kernel.granted()
            leased = session.kernel.leased(network)
            before = self._held.get(network)
            there = session.records.nics(network=network)
            held = {f'"{nic.ifname}"': leased.get(nic.mac, ()) for nic in there}
            for element in granted:
                # Given back within the minute; another guest may have leased it by now.
                if element.parts[-1] not in held.get(element.parts[0], element.parts):
                    with suppress(KernelError):
                        # It may have ended.
                        session.kernel.apply([Change(element, None)])
            now: dict[str, tuple[str, ...] | None] = dict(leased)
            for nic in there:
                if nic.addresses or (before is not None and before.get(nic.mac, ()) == leased.get(nic.mac, ())):
                    continue
                try:
                    repair.set_up(session, nic)
                except VmnetError as error:
                    self.agent.note("error", f"{nic.ifname} ({nic.domain}): its lease: {error}", syslog.LOG_ERR)
                    now[nic.mac] = None
            self._held[network] = now


def _stamp(network: str) -> Stamp | None:
    """Return what changes whenever the file of a network's leases does; None if there is none."""
    with suppress(OSError):
        found = os.stat(Dnsmasq.leases_of(network))
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None
