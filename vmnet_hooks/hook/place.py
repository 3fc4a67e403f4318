"""Where an event is carried out: the configuration, the kernel and the records of one place. `Here` is the process of one call;
the agent has a place of its own, which stays."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ..declared import configuration
from ..declared.sections import SECTIONS
from ..model import declaration

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..model.owner import Owner
    from ..records.store import Store


class Place(Protocol):
    """What actions.py needs of a place. `engine` without a configuration has the declared one."""

    def declared(self) -> declaration.Config: ...
    def engine(self, declared: declaration.Config | None = None) -> AbstractContextManager["Engine"]: ...
    def records(self) -> AbstractContextManager["Store"]: ...
    def announce(self, calls: Sequence[tuple[str, str, str]]) -> None: ...
    def await_arrival(self, owners: Sequence["Owner"]) -> None: ...


class Here:
    """This process, for one call. The kernel edge (pyroute2) is imported only for whoever asks for an engine."""

    def __init__(self) -> None:
        self._declared: declaration.Config | None = None

    def declared(self) -> declaration.Config:
        """The configuration, read once: a call sees one state of it. Raises ConfigError."""
        if self._declared is None:
            self._declared = configuration.load(SECTIONS)
        return self._declared

    @contextmanager
    def engine(self, declared: declaration.Config | None = None) -> Iterator[Any]:
        """An engine for as long as the context lasts. Raises VmnetError."""
        engine = import_module("vmnet_hooks.engine.session").engine(declared or self.declared())
        try:
            yield engine
        finally:
            engine.close()

    @contextmanager
    def records(self) -> Iterator[Any]:
        """The records alone. Raises StoreError."""
        records = import_module("vmnet_hooks.records.store").Store()
        try:
            yield records
        finally:
            records.close()

    def announce(self, calls: Sequence[tuple[str, str, str]]) -> None:
        """See packet.announce."""
        import_module("vmnet_hooks.kernel.packet").announce(calls)

    def await_arrival(self, owners: Sequence["Owner"]) -> None:
        """See arrival.detach."""
        if owners:
            import_module("vmnet_hooks.engine.migration").detach(owners, self.declared())
