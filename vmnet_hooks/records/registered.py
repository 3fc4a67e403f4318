"""Names that we have at DNS servers, or may have: a database beside the records that outlasts a boot. Only the agent writes it.

A name is written down before a server is told of it, and forgotten once the server has confirmed that it is removed: an agent
that is killed in between goes on from there.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .. import STATE
from ..errors import StoreError
from ..services.ddns import Place, Registration

FILE = "ddns.db"
VERSION = 1

_TABLES = """
BEGIN;
CREATE TABLE IF NOT EXISTS mark (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS name (place TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO mark VALUES (1, lower(hex(randomblob(8))));
PRAGMA user_version = 1;
COMMIT;
"""


@dataclass(frozen=True)
class Name:
    """A name at a server. `wanted` is what it was last asked to have. `there` are the records of ours that it may have. `since`
    is when the server confirmed `wanted`, in seconds since the epoch; 0.0 if it has not. `problem` is why the last attempt
    failed, with the remedy; "" if it did not."""

    wanted: Registration
    there: tuple[tuple[str, str], ...] = ()
    since: float = 0.0
    problem: str = ""

    @property
    def place(self) -> Place:
        return self.wanted.place

    def has(self, wanted: Registration) -> bool:
        """Return whether the server has confirmed just that."""
        return bool(self.since) and self.wanted == wanted


class Names:
    """The database in a folder; by default the host's. All methods raise StoreError. With `read_only` nothing is made, and a
    folder without a database has no names."""

    def __init__(self, directory: str | None = None, read_only: bool = False) -> None:
        self._path = f"{directory or STATE}/{FILE}"
        self._db: sqlite3.Connection | None = None
        if read_only and not os.path.exists(self._path):
            return
        try:
            if not read_only:
                # dnsmasq, which is not root, has its leases in a folder below.
                os.makedirs(os.path.dirname(self._path), mode=0o711, exist_ok=True)
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            mode = "ro" if read_only else "rwc"
            # The lock of its owner (agent/registrar.py) keeps its threads apart.
            self._db = sqlite3.connect(
                f"file:{self._path}?mode={mode}", uri=True, timeout=5, isolation_level=None, check_same_thread=False
            )
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise StoreError(f"{self._path}: of a newer vmnet-hooks; install that version")
            if version < VERSION and not read_only:
                self._db.executescript(_TABLES)
            elif version < VERSION:
                # The agent is about to make the tables.
                self.close()
                self._db = None
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}; it must be writable, run as root") from None
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def close(self) -> None:
        if self._db:
            self._db.close()

    @property
    def mark(self) -> str:
        """The mark of what this host has registered, made with the database."""
        return str(self._query("SELECT value FROM mark")[0][0])

    def all(self) -> dict[Place, Name]:
        """Return every name, by its place."""
        try:
            return {name.place: name for (value,) in self._query("SELECT value FROM name") for name in [_name(json.loads(value))]}
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{self._path}: holds what we do not write; {self._remedy}") from None

    def put(self, name: Name) -> None:
        """Write a name down."""
        self._query("INSERT OR REPLACE INTO name VALUES (?, ?)", (json.dumps(name.place), json.dumps(asdict(name))))

    def forget(self, places: Iterable[Place]) -> None:
        """Forget names."""
        for place in places:
            self._query("DELETE FROM name WHERE place = ?", (json.dumps(place),))

    def _query(self, sql: str, values: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        if self._db is None:
            return []
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._broken(error) from None

    @property
    def _remedy(self) -> str:
        return "stop vmnet-hookd, move the file away, and start it: names of guests that run are registered anew"

    def _broken(self, error: Exception) -> StoreError:
        if isinstance(error, sqlite3.OperationalError):
            return StoreError(f"{self._path}: {error}; check free space and permissions")
        return StoreError(f"{self._path}: {error}; {self._remedy}")


def _name(value: Mapping[str, Any]) -> Name:
    wanted = value["wanted"]
    asked = {**wanted, "place": Place(*wanted["place"]), "records": _records(wanted["records"])}
    return Name(Registration(**asked), _records(value["there"]), float(value["since"]), str(value["problem"]))


def _records(value: Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((kind, text) for kind, text in value)
