"""Serves a call that matters: front end → event → engine → exit status and log. `handle` serves it in the hook's own process, if
there is no agent. The agent calls `serve`."""

import io
import os
import signal
import site
import sys
import syslog

from ..errors import Abandoned, VmnetError, one_line, shortened
from ..frontends import hooks
from ..frontends.front_end import Late, Request, load
from .place import Here, Place

if sys.flags.no_site:
    # Hooks start without `site`, which takes as long as the rest of the interpreter. Libraries are needed only from here on.
    site.main()


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
        status, reason = error.exit_code, str(error)
    except Exception as error:
        status, reason = 1, f"internal error: {type(error).__name__}: {error}; please report it"
    log(syslog.LOG_ERR, f"{' '.join(request.argv[1:3])}: {reason}")
    front_end.failed(request, reason)
    return (0 if row.operation(request.argv) in row.lenient else status), reason


def log(priority: int, text: str) -> None:
    """Write `text` to the system log as one line of at most 2000 characters."""
    syslog.syslog(priority, one_line(text)[:2000])


def _interrupted_after(seconds: float, late: Late) -> None:
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
