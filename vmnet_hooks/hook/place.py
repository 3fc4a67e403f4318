"""The place where an event is carried out: its configuration, kernel edge and records. `Here` is the process of one call; the
agent has a resident place (agent/place.py)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from ..declared import configuration
from ..model import declaration

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..model.owner import Nic
    from ..records.store import Store


class Place(Protocol):
    """The interface of a place that events.py uses. `session` uses the declared configuration by default."""

    def declared(self) -> declaration.Config: ...
    def session(self, declared: declaration.Config | None = None) -> AbstractContextManager["Session"]: ...
    def records(self) -> AbstractContextManager["Store"]: ...
    def announce(self, calls: Sequence[tuple[str, str, str]]) -> None: ...
    def await_arrival(self, owners: Sequence["Nic"]) -> None: ...


class Here:
    """The place of one call in its own process."""

    def __init__(self) -> None:
        self._declared: declaration.Config | None = None

    def declared(self) -> declaration.Config:
        """Return the configuration. It is read once, so that a call sees one state of it. Raise ConfigError."""
        if self._declared is None:
            self._declared = configuration.load()
        return self._declared

    def session(self, declared: declaration.Config | None = None) -> AbstractContextManager["Session"]:
        """Open a session for the duration of the context. Raise VmnetError."""
        # Calls that do not matter do not need the engine.
        from ..engine import session

        return session.open(declared or self.declared())

    @contextmanager
    def records(self) -> Iterator["Store"]:
        """Open the records alone for the duration of the context. Raise StoreError."""
        # A call that is refused needs no records.
        from ..records.store import Store

        records = Store()
        try:
            yield records
        finally:
            records.close()

    def announce(self, calls: Sequence[tuple[str, str, str]]) -> None:
        """See kernel.announcement.announce."""
        # Only guests that start to run are announced.
        from ..kernel import announcement

        announcement.announce(calls)

    def await_arrival(self, owners: Sequence["Nic"]) -> None:
        """See engine.migration.detach."""
        if owners:
            # Few guests arrive by live migration.
            from ..engine import migration

            migration.detach(owners, self.declared())
