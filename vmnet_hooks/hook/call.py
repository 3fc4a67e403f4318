"""Serves a call that matters: front end → event → engine → exit status and log. `handle` serves it in the hook's own process, if
there is no agent. The agent calls `serve`.

A call is served at a place, which has its configuration, kernel edge and records. `Here` is the process of one call; the agent
has a resident place (agent/place.py)."""

import io
import os
import signal
import site
import sys
import syslog
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from ..declared import configuration
from ..errors import Abandoned, VmnetError, exhausted, one_line, shortened
from ..frontends import hooks
from ..frontends.front_end import Late, Request, load
from ..model import declaration

if TYPE_CHECKING:
    from ..engine import Session
    from ..model.owner import Nic
    from ..records.store import Store

if sys.flags.no_site:
    # Hooks start without `site`, which takes as long as the rest of the interpreter. Libraries are needed only from here on.
    site.main()


class Place(Protocol):
    """The interface of a place that events.py uses. `session` uses the declared configuration by default."""

    def declared(self) -> declaration.Config: ...
    def session(self, declared: declaration.Config | None = None) -> AbstractContextManager["Session"]: ...
    def records(self) -> AbstractContextManager["Store"]: ...
    def announce(self, calls: Sequence[tuple[str, str, str]]) -> None: ...
    def await_arrival(self, owners: Sequence["Nic"]) -> None: ...
    def explained(self, error: VmnetError) -> str:
        """Return the text of an error, with the configuration that it is about where that is not the one on disk."""
        ...


class Here:
    """The place of one call in its own process."""

    def __init__(self) -> None:
        self._declared: declaration.Config | None = None

    def declared(self) -> declaration.Config:
        """Return the configuration. It is read once, so that a call sees one state of it. Raise ConfigError."""
        if self._declared is None:
            self._declared = configuration.usable()
        return self._declared

    def session(self, declared: declaration.Config | None = None) -> AbstractContextManager["Session"]:
        """Open a session for the duration of the context. Raise VmnetError."""
        # Calls that do not matter do not need the engine.
        from .. import engine

        return engine.open(declared or self.declared())

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

    def explained(self, error: VmnetError) -> str:
        return str(error)

    def await_arrival(self, owners: Sequence["Nic"]) -> None:
        """See engine.migration.detach."""
        if owners:
            # Few guests arrive by live migration.
            from ..engine import migration
            from ..frontends import running

            migration.detach(owners, running.with_networks(self.declared(), owners), running.asks(owners))


def handle(hook: str, argv: list[str], stdin: bytes | None = None) -> int:
    """Serve one call of a hook in this process. Return the exit status. The reason of a failure is one line on stderr and in the
    log. `stdin` is the standard input if it has been read already."""
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    there = sys.stdin.buffer if sys.stdin else io.BytesIO()
    place = Here()
    request = Request(
        argv, os.environ, there if stdin is None else io.BytesIO(stdin), os.getppid(), place.declared, _interrupted_after
    )
    status, reason = serve(hook, request, place)
    if reason:
        print(f"vmnet-hook: {shortened(reason)}", file=sys.stderr, flush=True)
    return status


def serve(hook: str, request: Request, place: Place) -> tuple[int, str]:
    """Serve one call of a hook at a place. Return the exit status and the reason of a failure, which has been logged."""
    row = hooks()[hook]
    front_end = load(row)
    try:
        event = front_end.parse(request)
        if event is not None:
            # A call that is refused does not need the records and the engine.
            from .events import act

            done = act(event, front_end.conclude, place)
            if done:
                log(syslog.LOG_INFO, f"{event.action.value} {event.subject}: {done}")
            if event.warning:
                raise VmnetError(event.warning)
        return 0, ""
    except Abandoned:
        return 1, ""
    except VmnetError as error:
        status, reason = error.exit_code, place.explained(error)
    except Exception as error:
        lacking = exhausted(error) if isinstance(error, OSError) else ""
        status, reason = 1, lacking or f"internal error: {type(error).__name__}: {error}; please report it"
    log(syslog.LOG_ERR, f"{' '.join(request.argv[1:3])}: {reason}")
    front_end.failed(request, reason)
    return (0 if row.operation(request.argv) in row.lenient else status), reason


def log(priority: int, text: str) -> None:
    """Write `text` to the system log as one line of at most 2000 characters."""
    syslog.syslog(priority, one_line(text)[:2000])


def _interrupted_after(seconds: float, late: Late) -> None:
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
