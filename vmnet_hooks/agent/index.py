"""The owners in the records, in memory. Subscribers (neighbour discovery, migration, healing) are told of changes.

Other processes write records too. SQLite counts the writes in the header of the database
(https://sqlite.org/fileformat2.html#file_change_counter). If the count grew by announced writes of this process alone, only the
owners that they concern are read, whatever the number of guests. Otherwise all owners are read again.
"""

import os
import syslog
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import TYPE_CHECKING

from ..model.owner import Owner
from ..records.store import DIRECTORY, Store, identity, identity_of

if TYPE_CHECKING:
    from .main import Agent

Subscriber = Callable[[Sequence[Owner], Sequence[Owner]], None]
LOOK_SECONDS = 0.5
"""Interval at which the change counter is read, to notice writes of other processes."""
_COUNT, _COUNT_AT = Struct(">I"), 24


class Index:
    """A part of the agent. `owners` are all owners in the records, by ID. The dict is replaced and never changed, so that any
    thread can read it."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self.owners: dict[str, Owner] = {}
        self._subscribers: list[Subscriber] = []
        self._news = threading.Event()
        self._file = -1
        self._seen = -1
        self._told: list[tuple[int, int, Collection[str]]] = []
        self._lock = threading.Lock()

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` with (added, removed), in the thread of the index: first with all owners, then for each change. An
        owner that has changed is in both."""
        self._subscribers.append(callback)

    def start(self) -> None:
        threading.Thread(target=self._run, name="index", daemon=True).start()

    def close(self) -> None:
        self._news.set()

    def look(self) -> None:
        """Read the change counter now, instead of at the end of LOOK_SECONDS."""
        self._news.set()

    @contextmanager
    def noting(self, ids: Collection[str]) -> Iterator[None]:
        """Announce a write of this process: in the context it writes records of these owners and nothing else, and holds the lock
        of the records."""
        before = self._count()
        yield
        after = self._count()
        with self._lock:
            if before >= 0:
                self._told.append((before, after, ids))

    def _count(self) -> int:
        """Return SQLite's change counter; -1 if no file is open."""
        with self._lock:
            # A file that was emptied has none.
            return _COUNT.unpack(os.pread(self._file, 4, _COUNT_AT) or bytes(4))[0] if self._file >= 0 else -1

    def _run(self) -> None:
        while not self._agent.stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                self._agent.note("error", f"records: {error or type(error).__name__}", syslog.LOG_WARNING)
                self._agent.stopping.wait(1.0)

    def _follow(self) -> None:
        """Follow the records until another file takes their place, or the agent stops."""
        before = identity()
        records = Store()
        try:
            file = self._open()
            if before not in (None, file):
                # The file was replaced meanwhile.
                return
            while not self._agent.stopping.is_set() and identity() == file:
                self._look(records)
                self._news.wait(LOOK_SECONDS)
                self._news.clear()
        finally:
            records.close()

    def _open(self) -> object:
        """Open the database to read its header, and return its identity. The file is never closed, even if another takes its
        place: close(2) would release the POSIX locks of every connection of this process to it (fcntl(2))."""
        with self._lock:
            self._seen, self._told = -1, []
            if self._file < 0 or identity_of(os.fstat(self._file)) != identity():
                self._file = os.open(f"{DIRECTORY}/state.db", os.O_RDONLY | os.O_CLOEXEC)
            return identity_of(os.fstat(self._file))

    def _look(self, records: Store) -> None:
        found = self._count()
        changed, seen = self._by_us()
        # `seen` can be ahead of `found`: this process may have written after the counter was read.
        if seen < found or (seen > found and not changed):
            begin = time.monotonic()
            with records.reading():
                there = records.owners()
                # No process writes now, and SQLite has rolled back transactions of killed processes.
                self._seen = self._count()
            self._update(there)
            # Reading thousands of owners takes a while: spend at most an eleventh of the time on it.
            self._agent.stopping.wait(10 * (time.monotonic() - begin))
        else:
            if changed:
                self._update(records.owners_among(changed), changed)
            self._seen = seen

    def _by_us(self) -> tuple[set[str], int]:
        """Return the owners that this process wrote since the last look, and the counter up to which no other process wrote."""
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
        """Replace `owners` and call the subscribers. `there` are the recorded owners among those `asked` for (None: all)."""
        known = self.owners
        now = {owner.id: owner for owner in there}
        names = {*known, *now} if asked is None else asked
        added = [now[name] for name in names if name in now and known.get(name) != now[name]]
        removed = [known[name] for name in names if name in known and now.get(name) != known[name]]
        if not (added or removed):
            return
        if asked is not None:
            # Copying the dict of all owners is quick; comparing each of them is not.
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
