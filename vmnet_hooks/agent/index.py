"""What the records say, in memory: whoever works on what is set up (neighbour discovery, arrivals) hears what comes and goes.

Other processes write records too. SQLite counts in the file's header(*) how often it was written: what this process wrote, and
says so, is looked at alone, which takes as long with ten guests as with thousands; after anybody else all is read again.
(*) https://sqlite.org/fileformat2.html#file_change_counter
"""

import os
import syslog
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import Any

from ..model.owner import Owner
from ..records.store import DIRECTORY, Store, identity, identity_of

Subscriber = Callable[[Sequence[Owner], Sequence[Owner]], None]
LOOK_SECONDS = 0.5
_COUNT, _COUNT_AT = Struct(">I"), 24


class Index:
    """`owners` are the vifs and parts that have records, by id: the dict is replaced, never changed."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.owners: dict[str, Owner] = {}
        self._subscribers: list[Subscriber] = []
        self._news = threading.Event()
        self._file = -1
        self._seen = -1
        self._told: list[tuple[int, int, Collection[str]]] = []
        self._lock = threading.Lock()

    def subscribe(self, callback: Subscriber) -> None:
        """`callback` hears (added, removed), in the index's own thread, at once for all that is there. An owner that changed
        is in both."""
        self._subscribers.append(callback)

    def start(self) -> None:
        threading.Thread(target=self._run, name="index", daemon=True).start()

    def close(self) -> None:
        self._news.set()

    def look(self) -> None:
        """Something was done: look now, not only when the time has come."""
        self._news.set()

    @contextmanager
    def noting(self, ids: Collection[str]) -> Iterator[None]:
        """Somebody in this process writes what is recorded of these owners, and nothing else, with the records' lock held."""
        before = self._count()
        yield
        after = self._count()
        with self._lock:
            if before >= 0:
                self._told.append((before, after, ids))

    def _count(self) -> int:
        """How often the records were written; -1 if that is not known."""
        with self._lock:
            return _COUNT.unpack(os.pread(self._file, 4, _COUNT_AT))[0] if self._file >= 0 else -1

    def _run(self) -> None:
        while not self._agent.stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                self._agent.note("error", f"records: {error or type(error).__name__}", syslog.LOG_WARNING)
                self._agent.stopping.wait(1.0)

    def _follow(self) -> None:
        """As long as the file of the records is the same."""
        before = identity()
        records = Store()
        try:
            file = self._open()
            if before not in (None, file):
                # Others took its place meanwhile.
                return
            while not self._agent.stopping.is_set() and identity() == file:
                self._look(records)
                self._news.wait(LOOK_SECONDS)
                self._news.clear()
        finally:
            records.close()

    def _open(self) -> object:
        """Opens the file of the records to look at its header. It is never closed, even if others take its place: that would
        take away the locks of every connection of this process."""
        with self._lock:
            self._seen, self._told = -1, []
            if self._file < 0 or identity_of(os.fstat(self._file)) != identity():
                self._file = os.open(f"{DIRECTORY}/state.db", os.O_RDONLY | os.O_CLOEXEC)
            return identity_of(os.fstat(self._file))

    def _look(self, records: Store) -> None:
        found = self._count()
        changed, seen = self._by_us()
        # What this process wrote since the file was asked may be among it.
        if seen < found or (seen > found and not changed):
            begin = time.monotonic()
            with records.reading():
                there = records.owners()
                # Nobody writes now: what a killed process left in the file half-written is taken back.
                self._seen = self._count()
            self._update(there)
            # With thousands of guests reading them all takes a while: at most a tenth of the time.
            self._agent.stopping.wait(10 * (time.monotonic() - begin))
        else:
            if changed:
                self._update(records.owners_among(changed), changed)
            self._seen = seen

    def _by_us(self) -> tuple[set[str], int]:
        """The owners of whom this process wrote since the last look, and the count until which nobody else did."""
        with self._lock:
            told, self._told = self._told, []
        changed: set[str] = set()
        seen = self._seen
        for before, after, ids in told:
            if before == seen:
                seen = after
                changed.update(ids)
        return changed, seen

    def _update(self, there: Sequence[Owner], asked: Collection[str] | None = None) -> None:
        """`there` is what is recorded of those that were `asked` for (None: of all)."""
        known = self.owners
        now = {owner.id: owner for owner in there}
        names = {*known, *now} if asked is None else asked
        added = [now[name] for name in names if name in now and known.get(name) != now[name]]
        removed = [known[name] for name in names if name in known and now.get(name) != known[name]]
        if not (added or removed):
            return
        if asked is not None:
            # A copy of all is quick, looking at each is not.
            rest = dict(known)
            for name in asked:
                rest.pop(name, None)
            now = rest | now
        self.owners = now
        for subscriber in self._subscribers:
            try:
                subscriber(added, removed)
            except Exception as error:
                self._agent.note("error", f"internal error: {type(error).__name__}: {error}", syslog.LOG_ERR)
