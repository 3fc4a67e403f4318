"""The interface between the agent and a hypervisor: events for which no hook is called, and requests."""

import threading
from collections.abc import Callable, Collection
from typing import Protocol

from ..errors import VmnetError
from ..model.guest import Domain


class Unreachable(VmnetError):
    """The hypervisor can't be reached. Until it can be reached again, all domains may change unnoticed."""


class Watch(Protocol):
    """A source of a hypervisor's events. `loop`, `connect`, `domains`, `running` and `is_active` raise Unreachable."""

    def loop(self, ended: threading.Event) -> None:
        """Run callbacks until `ended` is set."""

    def wake(self) -> None:
        """Make `loop` check `ended`."""

    def connect(self) -> None:
        """Connect and register for events."""

    def close(self) -> None:
        """Close the connection."""

    def domains(self) -> list[str]:
        """Return the UUIDs of the running domains."""
        ...

    def running(self, uuid: str, attached: Collection[str]) -> tuple[Domain, set[str]] | None:
        """Return a domain that runs here, and the MACs of its NICs with the aliases `attached`. Return None if it does not run:
        it is off, still starting, or migrating from or to this host. Raise InputError if its description can't be read."""
        ...

    def is_active(self, uuid: str) -> bool:
        """Return whether a domain is active here: running, paused or starting."""
        ...


Watcher = Callable[[Callable[[str, str], None], Callable[[str], None], Callable[[], None]], Watch]
"""Makes a Watch from three callbacks, which return at once. `changed` gets the UUID of a domain whose NICs or claims changed, and
the alias of the device that was attached ("" if none was). `arrived` gets the UUID of a domain that arrived by live migration and
runs now. `lost` is called when the connection is lost. Raises VmnetError if the library of the hypervisor is not installed."""
