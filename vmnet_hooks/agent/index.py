"""What the records say, in memory: whoever works on what is set up (neighbour discovery, arrivals) hears what comes and goes.

Other processes write records too. SQLite's data_version(*) tells a connection that another one has written, for next to nothing.
(*) https://sqlite.org/pragma.html#pragma_data_version
"""

import syslog
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..domain import Owner
from ..store import Store, identity

Subscriber = Callable[[Sequence[Owner], Sequence[Owner]], None]
LOOK_SECONDS = 0.5


class Index:
    """`owners` are the vifs and parts that have records, by id: the dict is replaced, never changed."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.owners: dict[str, Owner] = {}
        self._rows: dict[tuple, Owner] = {}
        self._subscribers: list[Subscriber] = []
        self._news = threading.Event()

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

    def _run(self) -> None:
        while not self._agent.stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                self._agent.note("error", f"records: {error or type(error).__name__}", syslog.LOG_WARNING)
                self._agent.stopping.wait(1.0)

    def _follow(self) -> None:
        """As long as the file of the records is the same."""
        # A connection of its own: another one would have other numbers.
        version, file = None, identity()
        records = Store()
        try:
            while not self._agent.stopping.is_set() and identity() in (file, None):
                file, found = identity(), records.version()
                if found != version:
                    begin = time.monotonic()
                    self._update(records.owners_by_row(self._rows))
                    version = found
                    # With thousands of guests reading them all takes a while: at most a tenth of the time.
                    self._agent.stopping.wait(10 * (time.monotonic() - begin))
                self._news.wait(LOOK_SECONDS)
                self._news.clear()
        finally:
            records.close()

    def _update(self, rows: dict[tuple, Owner]) -> None:
        added = [rows[row] for row in rows.keys() - self._rows.keys()]
        removed = [self._rows[row] for row in self._rows.keys() - rows.keys()]
        self.owners, self._rows = {owner.id: owner for owner in rows.values()}, rows
        if added or removed:
            for subscriber in self._subscribers:
                try:
                    subscriber(added, removed)
                except Exception as error:
                    self._agent.note("error", f"internal error: {type(error).__name__}: {error}", syslog.LOG_ERR)
