"""The cut-over of a live migration, on its destination: hears the guest when it begins to run here, and gives it what attracts
its traffic. The agent does it in a thread of its own (agent/migration.py); without the agent a detached child of the hook does.
"""

import os
import syslog
import time
from collections.abc import Callable, Iterable, Sequence
from select import POLLIN, poll
from typing import Any

from ..errors import VmnetError
from ..kernel import announcement, conntrack
from ..kernel.first_frame import FirstFrameSocket
from ..model.declaration import Config
from ..model.owner import Owner
from .engine import announcements, untracked

RETRY_SECONDS = 1.0
"""Between tries of a cut-over that fails: the guest runs, and nothing reaches it."""

Tap = tuple[str, int, str]
"""A tap's name and number, and its guest's MAC."""

Calls = Sequence[tuple[str, str, str]]


def cut_over(engine: Any, domain_id: str, announce: Callable[[Calls, Callable[[], object]], object]) -> list[Owner]:
    """The guest runs here. Returns its NICs that were waiting for that: none, and nothing is announced, if somebody else was
    first or the domain is gone. `announce` calls its second argument once the first announcements are sent. Raises
    VmnetError, with nothing changed."""
    owners = engine.arrive(domain_id)
    if owners:
        addresses = untracked(engine.config, owners)
        announce(announcements(engine.config, owners), lambda: forget(addresses))
    return owners


def forget(addresses: Iterable[str]) -> None:
    """Forgets tracked connections. Never raises: what fails goes to the log."""
    try:
        conntrack.forget(addresses)
    except OSError as error:
        syslog.syslog(syslog.LOG_WARNING, f"tracked connections were not forgotten: {error}")


def listeners(taps: Iterable[Tap]) -> list[FirstFrameSocket]:
    """An ear at every tap that is there still."""
    found = []
    for tap in taps:
        try:
            found.append(FirstFrameSocket(*tap))
        except OSError:
            continue
    return found


def wait(ears: Sequence[FirstFrameSocket]) -> bool:
    """Whether the guest came: returns when it is heard on any of its taps, or when they are all gone."""
    there = {ear.fileno(): ear for ear in ears}
    events = poll()
    for fd in there:
        events.register(fd, POLLIN)
    ready = list(there)
    while there:
        for fd in ready:
            if there[fd].heard():
                return True
            if there[fd].is_gone():
                events.unregister(fd)
                del there[fd]
        ready = [fd for fd, _ in events.poll()] if there else []
    return False


def detach(owners: Sequence[Owner], declared: Config) -> None:
    """Leaves a child behind that waits for the guest of these NICs and does the cut-over, by the configuration as it is now. It
    ends with the taps. Never raises: what fails goes to the log."""
    try:
        if not owners or os.fork():
            return
    except OSError as error:
        reason = f"nobody waits for its arrival: {error.strerror}; `vmnet-hook start` it"
        syslog.syslog(syslog.LOG_ERR, f"{owners[0].domain}: {reason}")
        return
    try:
        announcement.detach()
        _await(owners, declared)
    except BaseException as error:
        syslog.syslog(syslog.LOG_ERR, f"{owners[0].domain}: the wait for its arrival failed: {error!r}")
    finally:
        os._exit(0)


def _await(owners: Sequence[Owner], declared: Config) -> None:
    ears = listeners((owner.ifname, owner.ifindex, owner.mac) for owner in owners)
    # It loads the kernel edge, which costs: only now, after the ears are open.
    from . import session

    if not wait(ears):
        return
    reason = ""
    while not all(ear.is_gone() for ear in ears):
        try:
            with session.open(declared) as engine:
                if arrived := cut_over(engine, owners[0].domain_id, announcement.rounds):
                    syslog.syslog(syslog.LOG_INFO, f"arrived {arrived[0].domain}: {', '.join(o.ifname for o in arrived)}")
            return
        except VmnetError as error:
            if str(error) != reason:
                reason = str(error)
                syslog.syslog(syslog.LOG_ERR, f"{owners[0].domain} has arrived, but: {reason}")
            time.sleep(RETRY_SECONDS)
