"""The cut-over of a live migration, on its destination: hear the guest when it begins to run here, or be told by a hypervisor
that can tell, and give it what attracts its traffic. The agent does that in threads of its own (agent/migration.py); without
the agent a detached child of the hook does.
"""

import os
import syslog
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from select import POLLIN, poll

from .. import engine
from ..errors import ConfigError, VmnetError
from ..kernel import announcement, conntrack
from ..kernel.first_frame import FirstFrameSocket
from ..model import plan
from ..model.declaration import Config
from ..model.owner import Nic, Owner
from ..model.resource import Resource
from ..model.ruleset import with_tables
from . import Session, apply, lives
from .guests import Announcements, announcements
from .owners import wants
from .transaction import Transaction

RETRY_SECONDS = 1.0
"""Between tries of a cut-over that fails: the guest runs, and nothing reaches it."""

ASK_SECONDS = 0.5
"""Between questions to a hypervisor that can tell whether the guest runs here. Most guests are heard first."""

Tap = tuple[str, int, str]
"""A tap's name and number, and its guest's MAC."""


def cut_over(session: Session, domain_id: str, announce: Callable[[Announcements, Callable[[], object]], object]) -> list[Nic]:
    """Cut the guest over, which runs here, and announce it. Returns its NICs that were waiting for that: none, and nothing is
    announced, if another process was first or the domain is gone. `announce` calls its second argument once the first
    announcements are sent. Raises VmnetError, with nothing changed."""
    owners = arrive(session, domain_id)
    if owners:
        addresses = untracked(session.config, owners)
        announce(announcements(session.config, owners), lambda: forget(addresses))
    return owners


def arrive(session: Session, domain_id: str, ifname: str = "") -> list[Nic]:
    """The guest runs here from now on: its NICs get what attracts their traffic. Returns those that were waiting for it: none
    if it has arrived already, or was unplugged. Raises VmnetError, with nothing changed."""
    match = {"domain_id": domain_id, "phase": "incoming"} | ({"ifname": ifname} if ifname else {})
    with session.records.lock():
        apply.recover(session)
        owners = [nic for nic in session.records.nics(**match) if lives(session, nic)]
        if not owners:
            return []
        arrived = [replace(nic, phase="active") for nic in owners]
        apply.run(session, _arrival(session, arrived), f"arrive {owners[0].domain}")
    return arrived


def _arrival(session: Session, owners: Sequence[Nic]) -> Transaction:
    """Only what was withheld: until it is set up, every packet for the guest is lost."""
    missing: dict[str, Resource] = {}
    add: dict[Owner, list[str]] = {}
    for owner in owners:
        wanted, problem = wants(session, owner)
        if problem:
            raise ConfigError(f"{owner.domain} has arrived, but {problem}")
        claims = session.records.claims(owner.id)
        there = with_tables(claims)
        withheld = {key: resource for key, resource in wanted.items() if key not in there}
        missing.update(withheld)
        add[owner] = [*claims, *withheld, *(f"needs {other}" for other in session.records.needs(owner.id))]
    recorded = {key: found[0] for key, found in session.records.records(missing).items()}
    # The other half of a guest that migrates within this host has them on its own tap.
    current = session.kernel.read([*(r for key, r in recorded.items() if r != missing[key]), *missing.values()])
    originals = {key: None if (have := current.get(key)) is None or have.ours else have for key in missing}
    return Transaction(plan.diff(missing, {}, current), add, (), missing, originals, current, recorded)


def untracked(declared: Config, owners: Iterable[Nic]) -> list[str]:
    """The addresses of NICs that have just arrived of whose connections this host has known nothing, or nothing valid."""
    known = [(owner, network) for owner in owners if (network := declared.networks.get(owner.network))]
    return [address for owner, network in known for address in network.mode.untracked(owner.vif, network)]


def forget(addresses: Iterable[str]) -> None:
    """Forget tracked connections. Never raises: errors go to the log."""
    try:
        conntrack.forget(addresses)
    except OSError as error:
        syslog.syslog(syslog.LOG_WARNING, f"tracked connections were not forgotten: {error}")


def listeners(taps: Iterable[Tap]) -> list[FirstFrameSocket]:
    """A listener at every tap that still exists."""
    found = []
    for tap in taps:
        try:
            found.append(FirstFrameSocket(*tap))
        except OSError:
            continue
    return found


def wait(ears: Sequence[FirstFrameSocket], asks: Callable[[], object] | None = None) -> bool:
    """Whether the guest came: return when it is heard on any of its taps, when `asks` says that it runs here, or when its taps
    are all gone."""
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
        ready = [fd for fd, _ in events.poll(asks and 1000 * ASK_SECONDS)] if there else []
        if there and not ready and asks and asks():
            return True
    return False


def detach(owners: Sequence[Nic], declared: Config, asks: Callable[[], object] | None = None) -> None:
    """Leave a child behind that waits for the guest of these NICs, see `wait`, and cuts it over, by the configuration as it is
    now. It ends with the taps. Never raises: errors go to the log."""
    try:
        if not owners or os.fork():
            return
    except OSError as error:
        reason = f"no process waits for its arrival: {error.strerror}; `vmnet-hook start` it"
        syslog.syslog(syslog.LOG_ERR, f"{owners[0].domain}: {reason}")
        return
    try:
        announcement.detach()
        _await(owners, declared, asks)
    except BaseException as error:
        syslog.syslog(syslog.LOG_ERR, f"{owners[0].domain}: the wait for its arrival failed: {error!r}")
    finally:
        os._exit(0)


def _await(owners: Sequence[Nic], declared: Config, asks: Callable[[], object] | None) -> None:
    ears = listeners((owner.ifname, owner.ifindex, owner.mac) for owner in owners)
    # While there is time for it: once the guest is heard, every millisecond counts.
    engine.preload(("link", "port-mac", "proxy", "route"))
    if not wait(ears, asks):
        return
    reason = ""
    while not all(ear.is_gone() for ear in ears):
        try:
            with engine.open(declared) as session:
                if arrived := cut_over(session, owners[0].domain_id, announcement.rounds):
                    syslog.syslog(syslog.LOG_INFO, f"arrived {arrived[0].domain}: {', '.join(o.ifname for o in arrived)}")
            return
        except VmnetError as error:
            if str(error) != reason:
                reason = str(error)
                syslog.syslog(syslog.LOG_ERR, f"{owners[0].domain} has arrived, but: {reason}")
            time.sleep(RETRY_SECONDS)
