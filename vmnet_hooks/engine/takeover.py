"""Watches over a takeover: asks the gateway before and after, and forks a guard that puts everything back when the command is
killed, the terminal is gone, or nobody confirms in time.
"""

import os
import select
import signal
import syslog
import time
from collections.abc import Iterable

from ..errors import VmnetError
from ..kernel import packet
from ..model.declaration import Config
from ..records.store import Store
from . import session
from .host import TAKEOVER

POLL_SECONDS = 0.2
LONGEST_PAUSE = 30.0


class Watch:
    """What an engine needs of a watch: see host.Watch."""

    def answering(self, gateways: Iterable[tuple[str, str]], seconds: float) -> set[str]:
        """Those of the (link, address) that answer ARP or ND within `seconds`."""
        return packet.answering(list(gateways), seconds)

    def guard(self, deadline: float) -> None:
        """Forks the guard of the takeover with that deadline. It has a session of its own and ignores a terminal's signals."""
        # Its other end is open for as long as the command lives: a process that is dead but not waited for has a number still.
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
            # The command's lock, netlink sockets and database are its own.
            os.closerange(3, lifeline)
            os.closerange(lifeline + 1, 1024)
            if os.fork() == 0:
                watch_over(lifeline, deadline)
        finally:
            os._exit(0)


def watch_over(lifeline: int, deadline: float) -> None:
    """Until the takeover is confirmed: puts it back if its time is over, or if its command has gone without a word. The next one
    has a guard of its own."""
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
    store = Store()
    while (pending := store.pending()) and pending.deadline == deadline:
        gone = bool(select.select([lifeline], [], [], 0)[0])
        # While one waits there is no other: what is under way is a guest's, if it is not the takeover itself, killed half-way.
        if time.monotonic() > pending.deadline or (gone and (not pending.needs_word or store.journal()[0] == TAKEOVER)):
            break
        time.sleep(POLL_SECONDS)
    else:
        return
    pause = 1.0
    while True:
        try:
            if session.engine(Config({})).revert(deadline):
                syslog.syslog(syslog.LOG_WARNING, "a takeover was not confirmed: everything was put back")
            return
        except VmnetError as error:
            syslog.syslog(syslog.LOG_ERR, f"putting a takeover back: {error}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
