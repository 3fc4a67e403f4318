"""Handles a call that matters, in this process: front end → event → engine → exit status and log."""

import io
import site
import sys
import syslog
from collections.abc import Sequence
from importlib import import_module

from .errors import VmnetError, one_line, shortened
from .frontends import FRONTENDS

if sys.flags.no_site:
    # Hooks run without `site`, which costs as much as the rest of the interpreter; from here on we need the libraries.
    site.main()

SAFE = frozenset({"started", "reconnect"})
"""Operations whose failure makes libvirt kill a guest that runs."""


def handle(frontend: str, argv: Sequence[str]) -> int:
    """One call of a hook. Returns the exit status; the one-line reason of a failure is on stderr and in the log."""
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    module, position, _ = FRONTENDS[frontend]
    operation = argv[position] if 0 < position < len(argv) else ""
    stdin = sys.stdin.buffer if sys.stdin else io.BytesIO()
    script = import_module(f"vmnet_hooks.frontends.{module}")
    try:
        event = script.parse(argv, stdin)
        if event is not None:
            done = import_module("vmnet_hooks.actions").act(event, getattr(script, "conclude", None))
            if done:
                log(syslog.LOG_INFO, f"{event.action.value} {event.domain.name or event.owner}: {done}")
            if event.warning:
                raise VmnetError(event.warning)
        return 0
    except VmnetError as error:
        status, reason = error.exit_code, str(error)
    except Exception as error:
        status, reason = 1, f"internal error: {type(error).__name__}: {error}; please report it"
    log(syslog.LOG_ERR, f"{' '.join(argv[1:3])}: {reason}")
    print(f"vmnet-hook: {shortened(reason)}", file=sys.stderr, flush=True)
    if hasattr(script, "failed"):
        script.failed(argv, reason)
    return 0 if operation in SAFE else status


def log(priority: int, text: str) -> None:
    """One line to the journal, whatever is in it."""
    syslog.syslog(priority, one_line(text)[:2000])
