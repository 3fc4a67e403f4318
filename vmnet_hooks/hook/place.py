"""Where an event is carried out: the configuration, the kernel and the records of one place. `Here` is the process of one call;
the agent has a place of its own, which stays."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from ..declared import SECTIONS, configuration
from ..model import declaration

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..model.owner import Owner
    from ..records.store import Store


class Place(Protocol):
    """What events.py needs of a place. `session` without a configuration has the declared one."""

    def declared(self) -> declaration.Config: ...
    def session(self, declared: declaration.Config | None = None) -> AbstractContextManager["Session"]: ...
    def records(self) -> AbstractContextManager["Store"]: ...
    def announce(self, calls: Sequence[tuple[str, str, str]]) -> None: ...
    def await_arrival(self, owners: Sequence["Owner"]) -> None: ...


class Here:
    """This process, for one call."""

    def __init__(self) -> None:
        self._declared: declaration.Config | None = None

    def declared(self) -> declaration.Config:
        """Return the configuration, read once: a call sees one state of it. Raises ConfigError."""
        if self._declared is None:
            self._declared = configuration.load(SECTIONS)
        return self._declared

    def session(self, declared: declaration.Config | None = None) -> AbstractContextManager["Session"]:
        """Give a session for as long as the context lasts. Raises VmnetError."""
        # Calls that do not matter do without the engine.
        from ..engine import session

        return session.open(declared or self.declared())

    @contextmanager
    def records(self) -> Iterator["Store"]:
        """Give the records alone. Raises StoreError."""
        # A call that is refused needs no records.
        from ..records.store import Store

        records = Store()
        try:
            yield records
        finally:
            records.close()

    def announce(self, calls: Sequence[tuple[str, str, str]]) -> None:
        """See kernel.announcement.announce."""
        # Only a guest that begins to run is announced.
        from ..kernel import announcement

        announcement.announce(calls)

    def await_arrival(self, owners: Sequence["Owner"]) -> None:
        """See engine.migration.detach."""
        if owners:
            # Few guests come by live migration.
            from ..engine import migration

            migration.detach(owners, self.declared())
