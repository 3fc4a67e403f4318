"""The carrier of guests' NICs at wires with `carrier`: a guest whose other end is away has none, as with a cable that is pulled
out there. The agent asks the hypervisor for it; a hook must not, as the hypervisor waits for the hook.
"""

import queue
import syslog
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import VmnetError
from ..frontends import FRONT_ENDS
from ..frontends.front_end import load
from ..model.declaration import Network
from ..model.owner import Nic, Owner, nics
from ..networks.wire import sides

if TYPE_CHECKING:
    from .main import Agent

RETRY_SECONDS = 2.0
"""Until the next attempt, after the hypervisor could not be asked."""


class Carrier:
    """A part of the agent, with one thread: a hypervisor answers only after its hooks for the guest have ended."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self._wires: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self._told: dict[tuple[str, int], bool] = {}
        """What was set last, by NIC and number of its tap."""
        self._said = ""
        agent.index.subscribe(self._changed)

    def start(self) -> None:
        threading.Thread(target=self._run, name="carrier", daemon=True).start()

    def close(self) -> None:
        self._wires.put(set())

    def _changed(self, added: Sequence[Owner], removed: Sequence[Owner]) -> None:
        if names := {nic.network for nic in nics((*added, *removed))}:
            self._wires.put(names)

    def _run(self) -> None:
        left: set[str] = set()
        while not self._agent.stopping.is_set():
            try:
                left |= self._wires.get(timeout=RETRY_SECONDS if left else None)
            except queue.Empty:
                pass
            try:
                left = self._follow(left)
            except Exception as error:
                # One that has no end: the next change of the wire tries again.
                left = set()
                self._say(f"{error or type(error).__name__}")

    def _follow(self, names: set[str]) -> set[str]:
        """Set the carrier at the ends of these wires. Return the names of those at which that failed."""
        try:
            networks = self._agent.place.declared().networks
        except VmnetError:
            return names
        failed = set()
        for wire in [networks[name] for name in names if name in networks and networks[name].options.get("carrier")]:
            try:
                if not self._set(wire):
                    failed.add(wire.name)
            except VmnetError as error:
                failed.add(wire.name)
                self._say(f"{wire.label}: {error}")
        if not failed:
            self._said = ""
        return failed

    def _set(self, wire: Network) -> bool:
        """Set the carrier at both ends. Return whether all of their guests run: one that still starts is told later."""
        there = [nic for nic in nics(self._agent.index.owners.values()) if nic.network == wire.name and not nic.is_left_over]
        first, second = sides(wire, [nic.at_wire for nic in there])
        known = {}
        for (_, taps), (end, beyond) in ((first, second), (second, first)):
            for nic in [nic for nic in there if any(tap.ifname == nic.ifname for tap in taps)]:
                key, up = (nic.id, nic.ifindex), bool(end.link or beyond)
                if self._told.get(key) == up or self._tell(nic, up):
                    known[key] = up
        self._told = {key: up for key, up in self._told.items() if key[0] not in {nic.id for nic in there}} | known
        return len(known) == len(there)

    @staticmethod
    def _tell(nic: Nic, up: bool) -> bool:
        row = next((row for row in FRONT_ENDS if row.name == nic.frontend), None)
        carrier = load(row).carrier if row else None
        return carrier(nic.domain_id, nic.mac, up) if carrier else True

    def _say(self, text: str) -> None:
        if text != self._said:
            self._agent.note("error", f"carrier: {text}", syslog.LOG_WARNING)
            self._said = text
