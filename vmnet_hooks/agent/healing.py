"""Self-healing: if another program changes or removes an object that is set up, the agent restores it from the records as soon as
the kernel reports the change.

If an object keeps disappearing, the agent logs it once and pauses, longer each time.
"""

import os
import queue
import select
import syslog
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from ..engine import Session, takeover
from ..engine.healing import Mended, amiss, depart, mend, suspected
from ..errors import VmnetError
from ..hook.events import RECORDS_ALONE
from ..kernel.monitor.nftables import NftMonitor
from ..kernel.monitor.proxies import ProxyMonitor
from ..kernel.monitor.rtnetlink import RtnetlinkMonitor
from ..kernel.monitor.suspects import Suspects
from ..model.objects import LinkAttribute, NftElement, NftTable, is_nft_key
from ..model.objects.bridge import Adoption
from ..model.owner import Owner, nics
from .fail_closed import Keeper

if TYPE_CHECKING:
    from .main import Agent

GATHER_SECONDS = 0.02
"""Time to wait for more notifications after the first one: one command causes many."""

POLL_SECONDS = 0.25
"""Interval at which proxy neighbours are read: the kernel sends no notifications about them."""

WALK_SECONDS = 2.0
"""Interval at which the objects of the next owner are read: the kernel sends no notifications about some sysctls."""

FIGHT_TIMES, FIGHT_SECONDS = 5, 10.0
"""Restores of one object allowed per FIGHT_SECONDS; beyond that we back off."""

PAUSE_SECONDS, LONGEST_PAUSE, FILTER_PAUSE = 5.0, 60.0, 2.0
"""The first pause, the longest pause, and the longest one for nftables objects, which keep guests from spoofing."""

RETRY_SECONDS = 2.0
"""The first pause after an object could not be restored. It doubles with each failure."""

ALL_PAUSE = 10
"""A check of everything is followed by a pause of that many times its duration."""

NAMED = 3
"""Objects that one line of the log names, at most."""


class Patience:
    """Decides which keys may be restored at which time. `now` is from any monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}
        self._pause: dict[str, float] = {}
        self._until: dict[str, float] = {}
        self._failing: set[str] = set()
        self._waiting: set[str] = set()

    def allows(self, key: str, now: float) -> bool:
        """Return whether a key may be restored now; an nft element only if its table may, too."""
        return all(self._until.get(name, now) <= now for name in (key, NftElement.table_of_key(key)))

    def mended(self, keys: Iterable[str], now: float) -> dict[str, float]:
        """Note that keys were restored. Return the keys that another program keeps removing and that now pause, with the seconds
        of the pause. A key is returned once, and not again while that goes on."""
        fought = {}
        for key in keys:
            if key in self._failing:
                self._calm(key)
            if key in self._pause and now - self._until[key] > LONGEST_PAUSE:
                self._calm(key)
            times = [at for at in self._times.get(key, ()) if at > now - FIGHT_SECONDS] + [now]
            self._times[key] = times
            if key in self._pause:
                # A restore after a pause. If the object stays, the longer pause does no harm.
                self._rest(key, 2 * self._pause[key], now)
            elif len(times) > FIGHT_TIMES:
                fought[key] = self._rest(key, PAUSE_SECONDS, now)
        self._times = {key: times for key, times in self._times.items() if times[-1] > now - FIGHT_SECONDS}
        return fought

    def failed(self, keys: Iterable[str], now: float) -> list[str]:
        """Note that keys could not be restored. Return those that did not fail before."""
        new = []
        for key in keys:
            if key not in self._failing:
                self._calm(key)
                self._failing.add(key)
                new.append(key)
            self._rest(key, 2 * self._pause.get(key, RETRY_SECONDS / 2), now)
        return new

    def forget(self, keys: Iterable[str]) -> None:
        """Forget keys that no owner claims any more."""
        for key in keys:
            self._calm(key)

    def due(self, now: float) -> set[str]:
        """Return the keys whose pause is over, each once."""
        found = {key for key in self._waiting if self._until[key] <= now}
        self._waiting -= found
        return found

    def hurry(self, now: float) -> set[str]:
        """Return the keys that could not be restored, each once: what they lacked may be there now."""
        for key in self._failing:
            self._until[key] = now
        self._waiting -= self._failing
        return set(self._failing)

    def next_due(self) -> float | None:
        return min((self._until[key] for key in self._waiting), default=None)

    def _rest(self, key: str, pause: float, now: float) -> float:
        pause = min(pause, FILTER_PAUSE if is_nft_key(key) else LONGEST_PAUSE)
        self._pause[key], self._until[key] = pause, now + pause
        self._waiting.add(key)
        return pause

    def _calm(self, key: str) -> None:
        self._pause.pop(key, None)
        self._until.pop(key, None)
        self._failing.discard(key)
        self._waiting.discard(key)


class Healing:
    """A part of the agent (see agent/main.py)."""

    def __init__(self, agent: "Agent", keeper: Keeper | None = None) -> None:
        self._agent = agent
        self._keeper = keeper
        self._patience = Patience()
        self._walked = ""
        self._all_from = 0.0
        self._taps: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._unkept = ""
        self._told: set[tuple[str, str]] = set()
        agent.index.subscribe(self._changed)

    def start(self) -> None:
        """Start the thread. Return when it listens to notifications, after 5 s at most."""
        watching = threading.Event()
        threading.Thread(target=self._run, args=(watching,), name="healing", daemon=True).start()
        watching.wait(5.0)

    def close(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _changed(self, added: Sequence[Owner], removed: Sequence[Owner]) -> None:
        # The change from plugged to active does not change the filter.
        if changed := set(map(_settled, added)) ^ set(map(_settled, removed)):
            self._taps.put({nic.ifname for nic in nics(changed)})
            os.eventfd_write(self._wake, 1)

    def _run(self, watching: threading.Event) -> None:
        suspects, said = Suspects(), ""
        while not self._agent.stopping.is_set():
            try:
                self._watch(suspects, watching)
            except Exception as error:
                # The suspects, and notifications until the sockets are open again, are lost: check everything.
                suspects = Suspects(everything=True)
                if (text := f"self-healing: {error or type(error).__name__}") != said:
                    self._agent.note("error", text, syslog.LOG_ERR)
                    said = text
                self._agent.stopping.wait(1.0)

    def _watch(self, suspects: Suspects, watching: threading.Event) -> None:
        with ExitStack() as stack:
            links = stack.enter_context(closing(RtnetlinkMonitor()))
            tables = stack.enter_context(closing(NftMonitor()))
            proxies = stack.enter_context(closing(ProxyMonitor()))
            self._keep()
            watching.set()
            now = time.monotonic()
            poll, walk = now + POLL_SECONDS, now + WALK_SECONDS
            while not self._agent.stopping.is_set():
                lost = suspects.everything and time.monotonic() < self._all_from
                if suspects and not lost:
                    self._heal(suspects)
                now = time.monotonic()
                due = self._patience.next_due()
                until = min(poll, walk, walk if due is None else due)
                ready, _, _ = select.select([links.fileno(), tables.fileno(), self._wake], [], [], max(0.0, until - now))
                if ready and self._agent.stopping.wait(GATHER_SECONDS):
                    return
                if self._wake in ready:
                    # The index has changed: there may be other guests.
                    os.eventfd_read(self._wake)
                    self._keep(self._changed_taps())
                suspects = Suspects(everything=lost)
                suspects.add(links.drain())
                suspects.add(tables.drain())
                now = time.monotonic()
                suspects.keys |= self._patience.due(now)
                if suspects.made:
                    # The bridge of a tap, made anew, after a pause that has become long.
                    suspects.keys |= self._patience.hurry(now)
                if now >= poll:
                    suspects.add(proxies.changed())
                    poll = now + POLL_SECONDS
                if now >= walk:
                    self._keep(anew=True)
                    self._walk()
                    walk = time.monotonic() + WALK_SECONDS

    def _heal(self, suspects: Suspects) -> None:
        place = self._agent.place
        if suspects.addressed:
            self._tell_addressed(suspects.addressed)
        if suspects.everything:
            with place.session(RECORDS_ALONE) as session:
                begin = time.monotonic()
                self._report(mend(session, None))
                # A routing daemon with a million routes can overflow the notification socket again and again.
                self._all_from = time.monotonic() + ALL_PAUSE * (time.monotonic() - begin)
            return
        if suspects.gone:
            with place.session(RECORDS_ALONE) as session:
                found = depart(session, suspects.gone)
            for nic in found.renamed:
                self._agent.note("heal", f"{nic.domain}: tap {nic.ifname} had another name", syslog.LOG_WARNING)
            self._report(Mended(failed=found.failed, departed=found.owners))
        with place.records() as store, store.reading():
            recorded = suspected(store, suspects.keys | suspects.tampered, suspects.starts, suspects.links)
        self._patience.forget(suspects.keys - recorded.keys())
        if recorded:
            tampered = suspects.tampered & recorded.keys()
            with place.session(RECORDS_ALONE) as session:
                self._mend(session, amiss(session, recorded) | tampered, tampered)

    def _tell_addressed(self, addressed: Collection[tuple[str, str]]) -> None:
        """Say that a port of ours got an address: no packet for it reaches the host. Each address is named once."""
        with self._agent.place.records() as store:
            ports = {port: store.records([Adoption.key_of(port), LinkAttribute.key_of(port, "master")]) for port, _ in addressed}
        for port, address in sorted(set(addressed) - self._told):
            self._told.add((port, address))
            if Adoption.key_of(port) in ports[port]:
                remedy = "`vmnet-hook up` moves it to the link that took the port over"
            elif ports[port]:
                remedy = f"remove it: ip addr del {address} dev {port}"
            else:
                continue
            self._agent.note("heal", f"{port} got address {address}, which a port can't keep; {remedy}", syslog.LOG_WARNING)

    def _mend(self, session: Session, wrong: Collection[str], tampered: Collection[str] = ()) -> None:
        now = time.monotonic()
        if wrong := [key for key in wrong if self._patience.allows(key, now)]:
            self._report(mend(session, wrong, tampered))

    def _changed_taps(self) -> set[str]:
        taps: set[str] = set()
        while not self._taps.empty():
            taps |= self._taps.get()
        return taps

    def _keep(self, taps: Collection[str] | None = None, anew: bool = False) -> None:
        """Have the keeper guard what is guarded by the records; with `anew`, also if its tables have gone. It stays as it is
        while the records can't be read."""
        try:
            if self._keeper is None:
                self._keeper = Keeper()
            if anew:
                self._keeper.lost()
            with self._agent.place.records() as records:
                self._keeper.follow(records, taps)
        except VmnetError as error:
            if str(error) != self._unkept:
                self._agent.note("error", str(error), syslog.LOG_WARNING)
                self._unkept = str(error)

    def _walk(self) -> None:
        """Check the objects of the next owner, except nft objects, about which the kernel always sends notifications; and
        whether a takeover has lost its guard."""
        with self._agent.place.session(RECORDS_ALONE) as session:
            if takeover.revert_unguarded(session):
                self._agent.note("heal", takeover.PUT_BACK, syslog.LOG_WARNING)
        owners = sorted(self._agent.index.owners)
        if not owners:
            return
        self._walked = next((name for name in owners if name > self._walked), owners[0])
        with self._agent.place.session(RECORDS_ALONE) as session:
            claims = session.records.claims(self._walked)
            told = {key: r for key, r in claims.items() if not isinstance(r, NftElement | NftTable)}
            self._mend(session, amiss(session, told))

    def _report(self, mended: Mended) -> None:
        agent, now = self._agent, time.monotonic()
        for owner in mended.departed:
            agent.note("unplug", f"{owner.label}: {owner.loss}")
        # A table that was made again includes its elements: do not count or name them.
        anew = {c.subject.key for c in mended.changes if isinstance(c.subject, NftTable)}
        subjects = [c.subject for c in mended.changes]
        keys = sorted(r.key for r in subjects if not (isinstance(r, NftElement) and r.table in anew))
        if keys:
            agent.note("heal", f"put back {_named(keys)}", syslog.LOG_NOTICE)
            agent.count("healed", len(keys))
        fought = self._patience.mended(keys, now)
        if fought:
            pause = min(fought.values())
            agent.note(
                "heal",
                f"another program keeps removing {_named(list(fought))}: left alone for {pause:.0f} s, then longer each time",
                syslog.LOG_WARNING,
            )
        failed = self._patience.failed(mended.failed, now)
        if failed:
            agent.note("heal", f"can't be put back: {'; '.join(mended.failed[key] for key in failed[:NAMED])}", syslog.LOG_ERR)
        if mended.failed:
            agent.count("heal_failed", len(mended.failed))


def _settled(owner: Owner) -> Owner:
    return replace(owner, phase="active") if owner.phase == "plugged" else owner


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more
