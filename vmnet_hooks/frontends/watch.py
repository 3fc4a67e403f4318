"""What the agent hears from a hypervisor, and asks of it: what happens to a guest's NICs while no hook is called."""

import threading
from collections.abc import Callable, Collection
from typing import Protocol

from ..errors import VmnetError
from ..model.guest import Domain


class Unreachable(VmnetError):
    """The hypervisor can't be asked now. When it can be again, everything it knows may have changed."""


class Watch(Protocol):
    """A hypervisor that the agent listens to. `loop`, `connect`, `domains`, `running` and `is_active` raise Unreachable."""

    def loop(self, ended: threading.Event) -> None:
        """Call back until `ended` is set."""

    def wake(self) -> None:
        """Have `loop` look at `ended`."""

    def connect(self) -> None:
        """Connect, and listen from then on."""

    def close(self) -> None:
        """Drop the connection."""

    def domains(self) -> list[str]:
        """Return the UUIDs of the domains that run."""
        ...

    def running(self, uuid: str, attached: Collection[str]) -> tuple[Domain, set[str]] | None:
        """Return a domain as it runs here, and the MACs of its NICs with the aliases `attached`; None if it does not run: off,
        still starting, or about to come or go by live migration. Raises InputError if its description can't be read."""
        ...

    def is_active(self, uuid: str) -> bool:
        """Return whether a domain runs here in any way."""
        ...


Watcher = Callable[[Callable[[str, str], None], Callable[[str], None], Callable[[], None]], Watch]
"""Makes a Watch from three callbacks, which return at once. `changed` gets the UUID of a domain whose NICs or claims changed, and
the alias of a device that was attached ("" if none was); `arrived` the UUID of a domain that came in by live migration and runs
now; `lost` is called when the connection is lost. Raises VmnetError where there is nothing to listen with."""
