"""The interface of front ends: functions that turn a call of a hook into an event, and that answer the hypervisor."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO, Generic, NamedTuple, NoReturn, TypeVar

from ..model.guest import Event
from . import Row

if TYPE_CHECKING:
    from ..errors import InputError
    from ..model.declaration import Config, Network
    from ..model.guest import Domain
    from .watch import Watcher

E = TypeVar("E", bound=Event)
Late = Callable[[object, object], NoReturn]
"""Raises VmnetError when the time limit has passed. Called as a signal handler."""


def _no_limit(seconds: float, late: Late) -> None:
    """No deadline here: the client enforces its own timeout."""


class Request(NamedTuple):
    """One call of a hook, served either in the hook's own process or in the agent. `parent` is the process ID of the caller of
    the hook; `declared` loads the configuration; `limit` sets a time limit (seconds) after which `late` is called."""

    argv: list[str]
    environ: Mapping[str, str]
    stdin: BinaryIO
    parent: int
    declared: Callable[[], "Config"]
    limit: Callable[[float, Late], None] = _no_limit


def _nothing(_event: Event) -> None:
    """Do nothing: the hypervisor waits for the exit status only."""


def _silent(_request: Request, _reason: str) -> None:
    """Do nothing: the hypervisor waits for the exit status only."""


def _all(ids: Set[str]) -> Set[str]:
    return ids


def _never() -> bool:
    return False


def _no_network(_name: str) -> None:
    """Return None: every network is declared in a file."""


def _undescribed(_name: str, _declared: "Config") -> tuple[()]:
    """Return no events: the guest is described by libvirt's XML, or only its hook knows the NICs."""
    return ()


class FrontEnd(Generic[E]):
    """The functions of a front end. Its module defines one as FRONT_END.

    `parse` returns the event of a call; None if there is nothing to do. It raises VmnetError.
    `conclude` is called after an event has been carried out. If it raises VmnetError, the NIC of a NicEvent is taken down again.
    `failed` is called with a call that failed and the reason.
    `alive` returns the running ones of a set of domain IDs. If the hypervisor can't be asked, it returns all of them: a guest
    must not be cleaned up because the hypervisor does not answer. It must not be called while the hypervisor waits for a hook.
    `keeps_calls` returns whether the agent must refuse calls for now, so that hooks serve them in their own process.
    `watch` makes a Watch for the agent: it reports changes for which no hook is called.
    `arrived` returns those of a set of domain IDs, which migrate here, that run here by the hypervisor's word; none if it can't
    be asked. Without it, a guest has arrived when it is heard.
    `network` returns the network that the front end described under a name; None if it is not one of these.
    `nics` returns the events that set up all NICs of a running domain, by its name. It raises VmnetError.
    `running` describes the running domains, by id, with all NICs and claims, or has the reason why a description can't be used.
    Starting ones and those that migrate are left out. A partial domain has only NICs without a record, and no claims.
    `names` are those of all domains that the hypervisor knows. Both are empty if it can't be asked. They must not be called
    while the hypervisor waits for a hook.
    `carrier` gives a NIC of a running guest, by the domain's ID and the MAC, a carrier or takes it away, and returns whether the
    domain runs; without it, the hypervisor has no such call. It raises VmnetError. It must not be called while the hypervisor
    waits for a hook.
    `is_here` returns whether this host has that hypervisor, for commands that ask another one unless told.
    """

    # A plain class: to build a NamedTuple of so many callables costs each hook more than a millisecond.
    def __init__(
        self,
        parse: "Callable[[Request], E | None]",
        conclude: "Callable[[E], None]" = _nothing,
        failed: "Callable[[Request, str], None]" = _silent,
        alive: "Callable[[Set[str]], Set[str]]" = _all,
        keeps_calls: "Callable[[], bool]" = _never,
        watch: "Watcher | None" = None,
        arrived: "Callable[[Set[str]], Set[str]] | None" = None,
        network: "Callable[[str], Network | None]" = _no_network,
        nics: "Callable[[str, Config], Sequence[E]]" = _undescribed,
        running: "Callable[[], Mapping[str, Domain | InputError]]" = dict,
        names: "Callable[[], Collection[str]]" = tuple,
        is_here: "Callable[[], bool]" = _never,
        carrier: "Callable[[str, str, bool], bool] | None" = None,
    ) -> None:
        self.parse, self.conclude, self.failed = parse, conclude, failed
        self.alive, self.keeps_calls, self.watch = alive, keeps_calls, watch
        self.arrived, self.network, self.nics = arrived, network, nics
        self.running, self.names, self.is_here, self.carrier = running, names, is_here, carrier


def load(row: Row) -> FrontEnd[Event]:
    """Import the module of a row and return its FRONT_END."""
    front_end: FrontEnd[Event] = import_module(row.module).FRONT_END
    return front_end
