"""Names of guests at DNS servers: the agent registers those of guests that run here, and removes them afterwards.

What is to be registered follows from the records and the configuration, and what is there from the names that were written down
(records/registered.py). The difference is what is owed: nothing else has to be remembered, and an agent that is restarted goes on
from there. No hook waits for a server.
"""

import os
import syslog
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from .. import STATE
from ..errors import ConfigError, VmnetError
from ..kernel import nsupdate as program
from ..model.declaration import Config
from ..records.registered import FILE, Name, Names
from ..services import nsupdate
from ..services.ddns import IN_USE, Place, Registration
from ..services.ddns import wanted as wanted_of
from ..services.nsupdate import Key

if TYPE_CHECKING:
    from .main import Agent

CONFIG_SECONDS = 2.0
"""Between looks at the configuration."""

WHOLE_SECONDS = 60.0
"""Between comparisons of all that is owed, where nothing has changed."""

CONFIRM_SECONDS = 6 * 3600.0
"""After that long, a name is registered again: another program, or a zone that was restored, may have removed it."""

FIRST_SECONDS, LAST_SECONDS = 5.0, 300.0
"""Until the next attempt after the first failure; it doubles with each, up to the last."""

REMEDIES = {
    "BADTIME": "set the clocks of this host and {server}",
    "BADKEY": "give {server} the same key",
    "BADSIG": "give {server} the same key",
    "NOTAUTH": "make {server} the primary server of {zone}, or correct the table",
    "REFUSED": "let the key update A, AAAA, PTR and TXT in {zone} there",
}
"""What is to be done, by what a server says (RFC 2136, 2.2; RFC 8945, 5.2)."""

Owed = Mapping[Place, Registration | None]
"""What a name is to have; None: it is to be removed."""


class Outcome(Enum):
    DONE = "done"
    REFUSED = "refused"
    """This name alone could not be registered."""
    FAILED = "failed"
    """The server, or the key, may fail with others, too."""


class Registrar:
    """A part of the agent: one thread finds out what is owed, and one for each server tells it."""

    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self._names: Names | None = None
        self._known: dict[Place, Name] = {}
        self._lock = threading.Lock()
        self._lanes: dict[str, Lane] = {}
        self._news = threading.Event()
        self._changed = True
        self._declared: Config | None = None
        self._compared = 0.0
        self._told: dict[str, str] = {}

    def start(self) -> None:
        self.agent.index.subscribe(lambda *_: self.look())
        threading.Thread(target=self._run, name="registrar", daemon=True).start()

    def close(self) -> None:
        self._news.set()
        for lane in list(self._lanes.values()):
            lane.retry()

    def retry(self) -> str:
        """Attempt at once what failed. Return at once."""
        for lane in list(self._lanes.values()):
            lane.retry()
        self.look()
        return ""

    def look(self) -> None:
        """Compare again what is owed."""
        self._changed = True
        self._news.set()

    # --- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.agent.stopping.is_set():
            begin = time.monotonic()
            try:
                self._turn()
            except Exception as error:
                self._tell("", f"names of guests: {error or type(error).__name__}")
                self._changed = True
                self.agent.stopping.wait(1.0)
            # Reading thousands of records takes a while: spend at most an eleventh of the time on it.
            self.agent.stopping.wait(10 * (time.monotonic() - begin))
            self._news.wait(CONFIG_SECONDS)
            self._news.clear()

    def _turn(self) -> None:
        """Compare what is to be registered with what is there, if one of them may have changed."""
        try:
            declared = self.agent.place.declared()
        except ConfigError:
            # It tells no name. It is logged, and `status` has it.
            return
        if not declared.ddns and self._names is None and not os.path.exists(f"{STATE}/{FILE}"):
            return
        now = time.monotonic()
        if declared is self._declared and not self._changed and now - self._compared < WHOLE_SECONDS:
            return
        self._declared, self._changed, self._compared = declared, False, now
        if self._names is None:
            self._names = Names()
            self._known = self._names.all()
        # Read here and not from the index, which has none before its first look: all names would be removed.
        with self.agent.place.records() as records:
            nics = records.nics()
        owed = self._owed(declared, wanted_of(declared.ddns.values(), nics).names)
        for server in {*owed, *self._lanes}:
            if server not in self._lanes:
                self._lanes[server] = Lane(self, server)
            self._lanes[server].give(owed.get(server, {}))

    def _owed(self, declared: Config, asked: Mapping[Place, Registration]) -> dict[str, dict[Place, Registration | None]]:
        """Return what is owed, by server."""
        found: dict[str, dict[Place, Registration | None]] = {}
        with self._lock:
            known = dict(self._known)
        now = time.time()
        for place, name in known.items():
            # Of a table that can't be used it is not known what it asks for.
            if place not in asked and not {name.wanted.part, ""} & declared.broken.keys():
                found.setdefault(place.server, {})[place] = None
        for place, registration in asked.items():
            there = known.get(place)
            if not (there and there.has(registration) and 0 <= now - there.since < CONFIRM_SECONDS):
                found.setdefault(place.server, {})[place] = registration
        return found

    # --- the threads of the servers ----------------------------------------------------------------------------------------

    def settle(self, place: Place, asked: Registration | None) -> Outcome:
        """Tell a server what is owed of one name. It takes as long as the server does."""
        before = self._known.get(place)
        wanted = asked or (before.wanted if before else None)
        if wanted is None:
            return Outcome.DONE
        outcome = Outcome.REFUSED
        try:
            key = program.key(wanted.key)
            outcome = Outcome.FAILED
            if asked:
                return self._register(asked, before, key)
            return self._remove(before, key) if before else Outcome.DONE
        except VmnetError as error:
            # As it is by now: it may be there.
            now = self._known.get(place, Name(wanted))
            if now.wanted != wanted or not asked:
                now = Name(wanted, now.there)
            self._fail(now, str(error))
            return outcome

    def _register(self, asked: Registration, before: Name | None, key: Key) -> Outcome:
        place, there = asked.place, before.there if before else ()
        mark, is_there = self._mark(), before is not None and before.has(asked)
        now = Name(asked, tuple(dict.fromkeys((*there, *asked.records))), problem=before.problem if before else "")
        if before != now and not is_there:
            self._put(now)
        for update in nsupdate.additions(asked, there, mark, key):
            output = program.send(update)
            if (status := nsupdate.status(output)) == "NOERROR":
                self._put(Name(asked, asked.records, time.time()))
                self._told.pop(place.server, None)
                if not is_there:
                    self.agent.note("ddns", f"{place.server}: registered {asked}")
                return Outcome.DONE
            if status not in nsupdate.PREREQUISITES:
                # What a server refuses, it has not done; without an answer it is not known.
                undone = Name(asked, there) if status else now
                self._fail(before if is_there and before else undone, _problem(place, nsupdate.words(output), status))
                return Outcome.FAILED
        self._fail(Name(asked, there), IN_USE)
        return Outcome.REFUSED

    def _remove(self, before: Name, key: Key) -> Outcome:
        place = before.place
        if before.there:
            # If this process is killed now, it is not known any more whether the name is there.
            before = replace(before, since=0.0)
            self._put(before)
            output = program.send(nsupdate.removal(place, before.there, self._mark(), key))
            status = nsupdate.status(output)
            # If it has not our mark any more, another host has the guest, and the name.
            if status not in ("NOERROR", *nsupdate.PREREQUISITES):
                self._fail(before, _problem(place, nsupdate.words(output), status))
                return Outcome.FAILED
            what = "removed" if status == "NOERROR" else "is not ours any more:"
            self.agent.note("ddns", f"{place.server}: {what} {place.name}")
        with self._lock:
            if self._names:
                self._names.forget([place])
            self._known.pop(place, None)
        self._told.pop(place.server, None)
        return Outcome.DONE

    def _mark(self) -> str:
        with self._lock:
            assert self._names
            return self._names.mark

    def _put(self, name: Name) -> None:
        with self._lock:
            if self._names and self._known.get(name.place) != name:
                self._names.put(name)
                self._known[name.place] = name

    def _fail(self, name: Name, problem: str) -> None:
        """Write down why something was not done. Of a name that is there and could not be confirmed, only the log tells."""
        if not name.since:
            self._put(replace(name, problem=problem))
        self.agent.count("names_failed")
        self._tell(name.place.server, f"{name.place.server}: {name.place.name}: {problem}", problem)

    def _tell(self, server: str, text: str, problem: str = "") -> None:
        """Log a problem, but not the same one of a server again and again."""
        if self._told.get(server) != (problem or text):
            self._told[server] = problem or text
            self.agent.note("ddns", text, syslog.LOG_WARNING)


def _problem(place: Place, said: str, status: str) -> str:
    """Return what a server said, with the remedy."""
    if not status:
        return f"{said}; make {place.server} answer"
    remedy = next((remedy for word, remedy in REMEDIES.items() if word in said), "see its log")
    return f"{said}; {remedy.format(server=place.server, zone=place.zone)}"


class Lane:
    """What is owed to one server, and the thread that tells it. A server that fails delays no other."""

    def __init__(self, registrar: Registrar, server: str) -> None:
        self._registrar = registrar
        self._owed: dict[Place, Registration | None] = {}
        self._later: dict[Place, tuple[Registration | None, float, float]] = {}
        """What has failed, with the time of the next attempt and the pause before it."""
        self._until = self._pause = 0.0
        self._news = threading.Condition()
        threading.Thread(target=self._run, name=f"ddns {server}", daemon=True).start()

    def give(self, owed: Owed) -> None:
        """Replace what is owed."""
        with self._news:
            self._owed = dict(owed)
            self._later = {place: found for place, found in self._later.items() if place in owed and owed[place] == found[0]}
            self._news.notify()

    def retry(self) -> None:
        """Attempt at once what has failed."""
        with self._news:
            self._later.clear()
            self._until = self._pause = 0.0
            self._news.notify()

    def _run(self) -> None:
        stopping = self._registrar.agent.stopping
        while not stopping.is_set():
            with self._news:
                place, wait = self._next()
                if place is None:
                    self._news.wait(wait)
                    continue
                asked = self._owed[place]
            try:
                outcome = self._registrar.settle(place, asked)
            except Exception as error:
                self._registrar.agent.note("error", f"{place.name}: {error!r}", syslog.LOG_ERR)
                outcome = Outcome.FAILED
            with self._news:
                is_owed = place in self._owed and self._owed[place] == asked
                self._conclude(place, asked, outcome)
            if not is_owed:
                # What was owed has changed meanwhile, by what was there before.
                self._registrar.look()

    def _next(self) -> tuple[Place | None, float | None]:
        """Return the name whose turn it is; or None, and how long to wait (None: for news)."""
        if not self._owed:
            return None, None
        due = {place: self._later[place][1] if place in self._later else 0.0 for place in self._owed}
        first = min(due, key=lambda place: due[place])
        wait = max(due[first], self._until) - time.monotonic()
        return (None, wait) if wait > 0 else (first, None)

    def _conclude(self, place: Place, asked: Registration | None, outcome: Outcome) -> None:
        if outcome is not Outcome.FAILED:
            self._until = self._pause = 0.0
        if outcome is Outcome.DONE:
            self._later.pop(place, None)
            if place in self._owed and self._owed[place] == asked:
                del self._owed[place]
            return
        now = time.monotonic()
        _, _, pause = self._later.get(place, (None, 0.0, 0.0))
        pause = _longer(pause)
        self._later[place] = (asked, now + pause, pause)
        if outcome is Outcome.FAILED:
            self._pause = _longer(self._pause)
            self._until = now + self._pause


def _longer(pause: float) -> float:
    return min(2 * pause, LAST_SECONDS) or FIRST_SECONDS
