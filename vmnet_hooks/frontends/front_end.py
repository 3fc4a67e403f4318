"""What a front end is: functions from a call of a hook to an event, and back to the hypervisor."""

from collections.abc import Callable, Mapping, Sequence, Set
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, Generic, NamedTuple, NoReturn, TypeVar

from ..model.guest import Event
from . import Row

if TYPE_CHECKING:
    from ..model.declaration import Config
    from .watch import Watcher

E = TypeVar("E", bound=Event)
Late = Callable[[object, object], NoReturn]
"""Raises when the time is over. Called as a signal's handler."""


def _no_limit(seconds: float, late: Late) -> None:
    """No deadline here: the client enforces its own timeout."""


class Request(NamedTuple):
    """One call of a hook, wherever it is served: in the hook's own process, or in the agent. `parent` is the ID of the process
    that ran the hook; `declared` loads the configuration; `limit` has `late` called once so many seconds have passed."""

    argv: list[str]
    environ: Mapping[str, str]
    stdin: BinaryIO
    parent: int
    declared: Callable[[], "Config"]
    limit: Callable[[float, Late], None] = _no_limit


def _nothing(_event: Event) -> None:
    """The exit status is all that the hypervisor waits for."""


def _silent(_request: Request, _reason: str) -> None:
    """The exit status is all that the hypervisor waits for."""


def _all(ids: Set[str]) -> Set[str]:
    return ids


def _never() -> bool:
    return False


def _undescribed(_name: str, _declared: "Config") -> tuple[()]:
    """libvirt's XML describes the guest, or its hook alone knows its NICs."""
    return ()


class FrontEnd(NamedTuple, Generic[E]):
    """What the module of a front end defines as FRONT_END.

    `parse` returns the event of a call, None if there is nothing to do. It raises VmnetError.
    `conclude` is called when an event was carried out. If it raises VmnetError, what a NicEvent brought is taken away again.
    `failed` gets a call that failed, and the reason.
    `alive` returns those of the domains, by id, that run; all of them where the hypervisor can't be asked, because silence is no
    proof of death. It must not be called where the hypervisor waits for us.
    `keeps_calls` returns whether the agent must leave calls to the hook's own process, for now.
    `watch` lets the agent follow what no hook is called for.
    `nics` returns the events that set up every NIC of a domain that runs, by its name. It raises VmnetError.
    """

    parse: Callable[[Request], E | None]
    conclude: Callable[[E], None] = _nothing
    failed: Callable[[Request, str], None] = _silent
    alive: Callable[[Set[str]], Set[str]] = _all
    keeps_calls: Callable[[], bool] = _never
    watch: "Watcher | None" = None
    nics: "Callable[[str, Config], Sequence[E]]" = _undescribed


def load(row: Row) -> FrontEnd[Event]:
    """Import the module of a row; return its FRONT_END."""
    front_end: FrontEnd[Event] = import_module(row.module).FRONT_END
    return front_end
