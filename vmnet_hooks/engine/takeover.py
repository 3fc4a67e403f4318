"""The watch over a takeover: ask the gateways before and after, and fork a guard that puts everything back when the command is
killed, the terminal is gone, or the takeover is not confirmed in time.
"""

import os
import select
import signal
import syslog
import time
from collections.abc import Iterable
from contextlib import closing

from ..errors import VmnetError
from ..kernel import announcement
from ..model.declaration import Config
from ..records.store import Store
from . import session
from .host import TAKEOVER

POLL_SECONDS = 0.2
LONGEST_PAUSE = 30.0
"""Seconds between tries to put a takeover back; the first pause is 1 s, and each is twice the one before."""


class Watch:
    """See host.Watch."""

    def answering(self, gateways: Iterable[tuple[str, str]], seconds: float) -> set[str]:
        """Return those of the (link, address) that answer ARP or ND within `seconds`."""
        return announcement.answering(list(gateways), seconds)

    def guard(self, deadline: float) -> None:
        """Fork the guard of the takeover with that deadline, in a session of its own. It ignores a terminal's signals."""
        # The other end of the pipe is open as long as the command lives. Its PID would not do: that of a zombie still exists.
        lifeline, self.alive = os.pipe()
        if child := os.fork():
            os.close(lifeline)
            os.waitpid(child, 0)
            return
        try:
            os.setsid()
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            # The guard must not hold the command's lock, netlink sockets and database.
            os.closerange(3, lifeline)
            os.closerange(lifeline + 1, 1024)
            if os.fork() == 0:
                watch_over(lifeline, deadline)
        finally:
            os._exit(0)


def watch_over(lifeline: int, deadline: float) -> None:
    """Wait until the takeover with `deadline` is confirmed, and put it back if the deadline passes or its command ends without
    an answer. Another takeover has a guard of its own."""
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    with closing(Store()) as store:
        while (pending := store.pending()) and pending.deadline == deadline:
            gone = bool(select.select([lifeline], [], [], 0)[0])
            # No second takeover starts while one waits. So the journal is a guest's, or that of this takeover, killed half-way.
            if time.monotonic() > pending.deadline or (gone and (not pending.needs_word or store.journal()[0] == TAKEOVER)):
                break
            time.sleep(POLL_SECONDS)
        else:
            return
    pause = 1.0
    while True:
        try:
            with session.open(Config({})) as engine:
                if engine.revert(deadline):
                    syslog.syslog(syslog.LOG_WARNING, "a takeover was not confirmed: everything was put back")
            return
        except VmnetError as error:
            syslog.syslog(syslog.LOG_ERR, f"putting a takeover back: {error}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
