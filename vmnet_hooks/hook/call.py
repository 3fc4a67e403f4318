"""Serves a call that matters: front end → event → engine → exit status and log. In the hook's own process (`handle`), where the
agent does not; the agent uses `serve` too."""

import io
import os
import signal
import site
import sys
import syslog
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from ..errors import Abandoned, VmnetError, one_line, shortened
from ..frontends import FRONTENDS
from ..model.request import Request
from .place import Here, Place

if sys.flags.no_site:
    # Hooks run without `site`, which costs as much as the rest of the interpreter; from here on we need the libraries.
    site.main()

SAFE = frozenset({"started", "reconnect"})
"""Operations whose failure makes libvirt kill a guest that runs."""


def handle(frontend: str, argv: Sequence[str], stdin: bytes | None = None) -> int:
    """One call of a hook, in this process. Returns the exit status; the one-line reason of a failure is on stderr and in the
    log. `stdin` is what was read of it already."""
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    there = sys.stdin.buffer if sys.stdin else io.BytesIO()
    place = Here()
    request = Request(
        argv, os.environ, there if stdin is None else io.BytesIO(stdin), os.getppid(), place.declared, _interrupted_after
    )
    status, reason = serve(frontend, request, place)
    if reason:
        print(f"vmnet-hook: {shortened(reason)}", file=sys.stderr, flush=True)
    return status


def serve(frontend: str, request: Request, place: Place) -> tuple[int, str]:
    """One call of a hook, at a place. Returns the exit status and the reason of a failure, which is in the log already."""
    module, position, _, _ = FRONTENDS[frontend]
    argv = request.argv
    operation = argv[position] if 0 < position < len(argv) else ""
    script = import_module(f"vmnet_hooks.frontends.{module}")
    try:
        event = script.parse(request)
        if event is not None:
            done = import_module("vmnet_hooks.hook.events").act(event, getattr(script, "conclude", None), place)
            if done:
                log(syslog.LOG_INFO, f"{event.action.value} {event.domain.name or event.owner}: {done}")
            if event.warning:
                raise VmnetError(event.warning)
        return 0, ""
    except Abandoned:
        return 1, ""
    except VmnetError as error:
        status, reason = error.exit_code, str(error)
    except Exception as error:
        status, reason = 1, f"internal error: {type(error).__name__}: {error}; please report it"
    log(syslog.LOG_ERR, f"{' '.join(argv[1:3])}: {reason}")
    if hasattr(script, "failed"):
        script.failed(request, reason)
    return (0 if operation in SAFE else status), reason


def log(priority: int, text: str) -> None:
    """One line to the journal, whatever is in it."""
    syslog.syslog(priority, one_line(text)[:2000])


def _interrupted_after(seconds: float, late: Callable[..., Any]) -> None:
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
