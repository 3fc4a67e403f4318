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

from .. import engine, values
from ..errors import ConflictError, KernelError, one_line
from ..model.declaration import Config
from ..model.facts import DefaultRoute
from ..model.objects import KINDS, Address, Device, LinkAttribute
from ..model.objects.bridge import Adoption
from ..model.owner import Owner
from ..model.plan import Plan
from ..model.resource import Resource
from ..records.pending import Pending
from ..records.store import Store
from ..values import bare
from . import Session, apply, parts
from .transaction import Transaction, build, foreign_ports

TAKEOVER = "up"
"""What the journal of a takeover says is under way."""

UNASKED = "run `vmnet-hook up --confirm-within 60`, then `vmnet-hook confirm`"
"""How an admin gets a change through that loses a default route."""

PUT_BACK = "a takeover was not confirmed: everything was put back"
"""What the log says then."""

GATEWAY_SECONDS = 10.0
"""How long the gateway may stay silent after a takeover."""

DUPLICATE_SECONDS = 0.3
"""How long another machine has to answer for an address that the host gets."""

POLL_SECONDS = 0.2
LONGEST_PAUSE = 30.0
"""Seconds between tries to put a takeover back; the first pause is 1 s, and each is twice the one before."""


class Watch:
    """The watch over a takeover; tests bring their own."""

    def answering(self, gateways: Iterable["Gateway"], seconds: float) -> Mapping["Gateway", float]:
        """Return those of the gateways that answer ARP or ND within `seconds`, each with the seconds that it took."""
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


Gateway = tuple[str, str]
"""A link, and the address of a gateway on it: `fe80::1` may be on several."""


@dataclass(frozen=True)
class Attempt:
    """A change of the host's way out that is applied, and not confirmed yet. `answered` are the gateways that answered before,
    with the IP version of their routes, `versions` those of all default routes before, `silent` are the gateways that did not
    answer; `moved` has where those of a takeover are now; `new` are the addresses that the host did not have; `owners` are the
    ids of what it brought up, `gone` of what it took down."""

    deadline: float
    answered: Mapping[Gateway, int]
    versions: frozenset[int]
    silent: Sequence[str]
    moved: Mapping[Gateway, Gateway]
    new: Sequence[Gateway]
    owners: Sequence[str]
    gone: Sequence[str]


def concerns(session: Session, changes: Plan, routes: Iterable[DefaultRoute]) -> bool:
    """Whether a plan takes something over, puts it back, or changes a link that the host's default `routes` depend on."""
    if any(isinstance(change.subject, Adoption) for change in changes):
        return True
    ways = {route.link for route in routes}
    ways |= {name for way in ways for name in session.kernel.below(way)}
    # A port that joins may close a loop.
    joined = {change.want.value for change in changes if isinstance(change.want, LinkAttribute) and change.want.name == "master"}
    return bool(joined & ways) or any(change.subject.link in ways for change in changes)


def begin(
    session: Session, transaction: Transaction, routes: Iterable[DefaultRoute], watch: Watch, confirm_within: float
) -> Attempt:
    """Apply a change that the host's way out depends on, its default `routes`, under guard; the lock must be held. Raises
    VmnetError, with nothing changed."""
    moves = [change for change in transaction.plan if isinstance(change.subject, Adoption)]
    gone = [change.have for change in moves if isinstance(change.have, Adoption)]
    come = [change.want for change in moves if isinstance(change.want, Adoption)]
    for adoption in come:
        if not session.records.recorded(adoption.key) and (reason := session.kernel.obstacle(adoption.ifname, adoption.bridge)):
            raise ConflictError(f"{adoption.bridge} can't take over {adoption.ifname}: {reason}")
    was, now = ({adoption.ifname: adoption.bridge for adoption in side} for side in (gone, come))
    taken = [(adoption.ifname, gateway) for adoption in (*gone, *come) for gateway in adoption.gateways]
    moved = {(was.get(port, port), gateway): (now.get(port, port), gateway) for port, gateway in taken}
    before = {way: values.version(way[1]) for way in moved}
    before |= {(route.link, route.gateway): route.version for route in routes if route.gateway}
    answers = watch.answering(list(before), 1.0) if before and not confirm_within else {}
    deadline = _hold(session, transaction, confirm_within)
    watch.guard(deadline)
    try:
        apply.run(session, transaction, TAKEOVER)
    except BaseException:
        session.records.set_pending(None)
        raise
    answered = {way: before[way] for way in answers}
    silent = [] if confirm_within else sorted({address for _, address in before.keys() - answers.keys()})
    new = _new_addresses(transaction.plan)
    versions = frozenset(route.version for route in routes)
    return Attempt(deadline, answered, versions, silent, moved, new, [owner.id for owner in transaction.add], transaction.drop)


def _new_addresses(changes: Plan) -> list[Gateway]:
    """The addresses that a plan gives a link, and the host does not have before."""
    had = {bare(change.have.address) for change in changes if isinstance(change.have, Address)}
    had |= {address for change in changes if isinstance(change.have, Adoption) for address in map(bare, change.have.addresses)}
    came = [change.want for change in changes if change.have is None and isinstance(change.want, Address)]
    return [(want.ifname, bare(want.address)) for want in came if bare(want.address) not in had]


def conclude(session: Session, attempt: Attempt, watch: Watch, remedy: str = UNASKED) -> Mapping[str, float]:
    """Confirm a change if the gateways answer as before, else put it back; the lock must not be held. Returns the gateways that
    answer, with the time in seconds. Raises KernelError; `remedy` is for an admin who means to lose a default route."""
    answers, problem = _asked_again(session, attempt, watch, remedy)
    if problem:
        revert(session, attempt.deadline)
        raise KernelError(f"{problem}: everything was put back")
    if not confirm(session):
        there = session.records.owners
        if not all(there(id=owner) for owner in attempt.owners) or any(there(id=owner) for owner in attempt.gone):
            raise KernelError("another process put the change back meanwhile; try again")
    return {address: seconds for (_, address), seconds in answers.items()}


def _asked_again(session: Session, attempt: Attempt, watch: Watch, remedy: str) -> tuple[Mapping[Gateway, float], str]:
    """Ask the gateways that answered before, and where a family has other gateways now, those. Returns the answers, and what is
    wrong; "" if nothing is."""
    if attempt.new and (used := watch.answering(attempt.new, DUPLICATE_SECONDS)):
        link, address = next(iter(used))
        return {}, f"{address} is in use: another machine answers for it on {link}"
    routes = session.kernel.default_routes()
    for version in sorted(attempt.versions - {route.version for route in routes} - set(attempt.answered.values())):
        return {}, f"there is no IPv{version} default route any more (if that is meant, {remedy})"
    if not attempt.answered:
        return {}, ""
    there = [(route.link, route.gateway) for route in routes]
    by_address = {address: (link, address) for link, address in there if address}
    ways = {way: attempt.moved.get(way) or (way if way in there else by_address.get(way[1])) for way in attempt.answered}
    same = [way for way in ways.values() if way]
    changed = set(attempt.answered.values()) - {attempt.answered[old] for old, way in ways.items() if way}
    for version in changed - {route.version for route in routes}:
        lost = next(address for (_, address), of in attempt.answered.items() if of == version)
        return {}, f"there is no IPv{version} default route any more ({lost} answered; if that is meant, {remedy})"
    others = [(route.link, route.gateway) for route in routes if route.version in changed and route.gateway]
    answers = watch.answering([*same, *others], GATEWAY_SECONDS)
    silent = [address for link, address in same if (link, address) not in answers]
    if silent:
        return answers, f"gateway {', '.join(sorted(silent))} does not answer any more"
    if others and not any(way in answers for way in others):
        return answers, f"gateway {', '.join(sorted(address for _, address in others))} does not answer"
    return answers, ""


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


def _depth(owner_id: str, needs: Mapping[str, Sequence[str]]) -> int:
    """How many owners an owner stands on: a VLAN device can't have a larger MTU than the link below."""
    return 1 + max((_depth(other, needs) for other in needs.get(owner_id, ())), default=0)


def links_that_wait(records: Store) -> set[str]:
    """The links that a change which waits to be confirmed is about: only its guard may put anything back there."""
    waiting = records.pending()
    if waiting is None:
        return set()
    claims = [*(r for resources, _ in waiting.before.values() for r in resources)]
    claims += [r for name in (*waiting.added, *(owner.id for owner in waiting.before)) for r in records.claims(name).values()]
    ports = {r.ifname for r in claims if isinstance(r, Adoption)}
    return {r.link for r in claims if r.link} | ports


def check_pending(session: Session) -> None:
    """Raise ConflictError if a takeover waits. One whose guard was killed is put back."""
    waiting = session.records.pending()
    if waiting and _is_overdue(waiting):
        _put_back(session, waiting)
    elif waiting:
        if not waiting.needs_word:
            raise ConflictError("another `up` or `down` is asking the host's gateways: try again in a minute")
        raise ConflictError("an `up` waits to be confirmed: run `vmnet-hook confirm`, or `vmnet-hook revert` to put it back")


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
    needs = {owner.id: others for owner, (_, others) in waiting.before.items()}
    wanted: dict[Owner, Mapping[str, Resource]] = {
        owner: {r.key: r for r in waiting.before[owner][0]}
        for owner in sorted(waiting.before, key=lambda owner: _depth(owner.id, needs))
    }
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
