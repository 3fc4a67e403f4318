"""Takeovers: a bridge takes over what the host has on a port. It is put back unless the gateway still answers, or unless the
admin confirms in time; a forked guard sees to that when the command is killed or the terminal is gone.
"""

import os
import select
import signal
import syslog
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from .. import engine
from ..errors import ConflictError, KernelError, one_line
from ..model.declaration import Config
from ..model.objects import KINDS, Device
from ..model.objects.bridge import Adoption
from ..model.owner import Owner
from ..model.resource import Resource
from ..records.pending import Pending
from ..records.store import Store
from . import Session, apply, parts
from .transaction import Transaction, build, foreign_ports

TAKEOVER = "up"
"""What the journal of a takeover says is under way."""

PUT_BACK = "a takeover was not confirmed: everything was put back"
"""What the log says then."""

GATEWAY_SECONDS = 10.0
"""How long the gateway may stay silent after a takeover."""

POLL_SECONDS = 0.2
LONGEST_PAUSE = 30.0
"""Seconds between tries to put a takeover back; the first pause is 1 s, and each is twice the one before."""


class Watch:
    """The watch over a takeover; tests bring their own."""

    def answering(self, gateways: Iterable[tuple[str, str]], seconds: float) -> set[str]:
        """Return those of the (link, address) that answer ARP or ND within `seconds`."""
        from ..kernel import announcement  # Few calls of `up` take anything over.

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
    # Now, not when it is needed: an upgrade of the package may replace the files meanwhile.
    engine.preload(KINDS)
    with closing(Store()) as records:
        while (pending := records.pending()) and pending.deadline == deadline:
            gone = bool(select.select([lifeline], [], [], 0)[0])
            # No second takeover starts while one waits. So the journal is a guest's, or that of this takeover, killed half-way.
            if time.monotonic() > pending.deadline or (gone and (not pending.needs_word or records.journal()[0] == TAKEOVER)):
                break
            time.sleep(POLL_SECONDS)
        else:
            return
    pause = 1.0
    while True:
        try:
            with engine.open(Config({})) as session:
                if revert(session, deadline):
                    syslog.syslog(syslog.LOG_WARNING, PUT_BACK)
            return
        except Exception as error:
            # Any error: if the guard ended, an admin who is locked out would stay locked out.
            syslog.syslog(syslog.LOG_ERR, f"putting a takeover back: {one_line(error)}")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(frozen=True)
class Attempt:
    """A takeover that is applied, and not confirmed yet. `gateways` are the (bridge, address) that answered before, `owners` the
    ids of what it brought up."""

    deadline: float
    gateways: Sequence[tuple[str, str]]
    owners: Sequence[str]


def begin(session: Session, transaction: Transaction, watch: Watch, confirm_within: float) -> Attempt:
    """Apply a takeover under guard; the lock must be held. Raises VmnetError, with nothing changed."""
    adopted = [change.want for change in transaction.plan if isinstance(change.want, Adoption)]
    for adoption in adopted:
        if not session.records.recorded(adoption.key) and (reason := session.kernel.obstacle(adoption.ifname)):
            raise ConflictError(f"{adoption.bridge} can't take over {adoption.ifname}: {reason}")
    gateways = [(adoption, address) for adoption in adopted for address in gateways_of(adoption)]
    asks = bool(gateways) and not confirm_within
    answered = watch.answering([(a.ifname, address) for a, address in gateways], 1.0) if asks else set()
    deadline = _hold(session, transaction, confirm_within)
    watch.guard(deadline)
    try:
        apply.run(session, transaction, TAKEOVER)
    except BaseException:
        session.records.set_pending(None)
        raise
    again = [(a.bridge, address) for a, address in gateways if address in answered]
    return Attempt(deadline, again, [owner.id for owner in transaction.add])


def conclude(session: Session, attempt: Attempt, watch: Watch) -> None:
    """Confirm a takeover if the gateways answer as before, else put it back; the lock must not be held. Raises KernelError."""
    answered = {address for _, address in attempt.gateways}
    silent = answered - watch.answering(attempt.gateways, GATEWAY_SECONDS) if answered else set()
    if silent:
        revert(session, attempt.deadline)
        gateway = ", ".join(sorted(silent))
        raise KernelError(f"gateway {gateway} does not answer any more: everything was put back")
    if not confirm(session) and not all(session.records.owners(id=owner) for owner in attempt.owners):
        raise KernelError("another process put the takeover back meanwhile; try again")


def confirm(session: Session) -> bool:
    """Keep a takeover. Returns whether one was waiting; one whose command was killed half-way is taken back instead."""
    records = session.records
    with records.lock():
        waiting = records.pending() is not None and not records.journal()[0]
        apply.recover(session)
        records.set_pending(None)
    return waiting


def revert(session: Session, deadline: float | None = None) -> bool:
    """Put back everything that an unconfirmed `up` changed, if it is that with the `deadline`. Returns whether it was."""
    with session.records.lock():
        apply.recover(session)
        waiting = session.records.pending()
        if waiting is None or deadline not in (None, waiting.deadline):
            return False
        _put_back(session, waiting)
    return True


def revert_unguarded(session: Session) -> bool:
    """Put back a takeover whose guard was killed. Returns whether there was one. Without one, the lock is not taken."""
    waiting = session.records.pending()
    return waiting is not None and _is_overdue(waiting) and revert(session, waiting.deadline)


def check_pending(session: Session) -> None:
    """Raise ConflictError if a takeover waits. One whose guard was killed is put back."""
    waiting = session.records.pending()
    if waiting and _is_overdue(waiting):
        _put_back(session, waiting)
    elif waiting:
        raise ConflictError("a takeover waits to be confirmed: run `vmnet-hook confirm`, or wait until it is put back")


def _is_overdue(waiting: Pending) -> bool:
    """Whether the guard of a takeover should have put it back before."""
    return time.monotonic() > waiting.deadline + GATEWAY_SECONDS


def _hold(session: Session, transaction: Transaction, confirm_within: float) -> float:
    """Write down what the records have now, for `revert`. Returns the deadline, which tells one takeover from another."""
    records, known = session.records, parts.standing(session)
    touched = [*transaction.drop, *(owner.id for owner in transaction.add)]
    before: dict[Owner, tuple[list[Resource], list[str]]] = {
        known[name]: (list(records.claims(name).values()), records.needs(name)) for name in touched if name in known
    }
    added = [owner.id for owner in transaction.add if owner.id not in known]
    keys = [resource.key for resources, _ in before.values() for resource in resources]
    originals = {key: found[1] for key in keys if (found := records.recorded(key))}
    seconds = confirm_within or 6 * GATEWAY_SECONDS
    pending = Pending(time.monotonic() + seconds, bool(confirm_within), before, added, originals)
    records.set_pending(pending)
    return pending.deadline


def _put_back(session: Session, waiting: Pending) -> None:
    records = session.records
    wanted: dict[Owner, Mapping[str, Resource]] = {
        owner: {r.key: r for r in resources} for owner, (resources, _) in waiting.before.items()
    }
    needs = {owner.id: others for owner, (_, others) in waiting.before.items()}
    added = [part for name in waiting.added for part in records.parts(id=name)]
    for part in added:
        if foreign_ports(session, part.id, [other.id for other in added]):
            # Guests came meanwhile: their bridge stays, without what it took over.
            claims = records.claims(part.id).values()
            bridges = {r.ifname for r in claims if isinstance(r, Device)}
            wanted[part.as_needed()] = {r.key: r for r in claims if r.link in bridges}
    kept = {owner.id for owner in wanted}
    transaction = build(session, wanted, [part.id for part in added if part.id not in kept], needs)
    originals = {key: waiting.originals.get(key, found) for key, found in transaction.originals.items()}
    apply.run(session, replace(transaction, originals=originals), "put back")
    records.set_pending(None)


def gateways_of(adoption: Adoption) -> list[str]:
    """The default gateways of what a bridge takes over."""
    found = []
    for route in adoption.routes:
        words = route.split()
        if words[0] in ("0.0.0.0/0", "::/0") and "via" in words:
            found.append(words[words.index("via") + 1])
    return list(dict.fromkeys(address for address in found if address not in ("inet", "inet6")))
