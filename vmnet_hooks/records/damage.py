"""Records that can't be used any more are moved away, beside their old place. What was set up stays: filters are found in the
kernel by their taps."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from ..errors import Damaged, StoreError
from . import Journal, lock, store


def set_aside(directory: str | None = None) -> list[str]:
    """Move away those of the files that do not hold what we write. Returns their new paths. Raises StoreError."""
    directory = directory or store.DIRECTORY
    moved = []
    if os.path.isdir(f"{directory}/lock"):
        moved.append(_moved(f"{directory}/lock"))
    if not os.path.isdir(directory):
        return moved
    with lock.held(directory):
        if _is_damaged(lambda: Journal(directory).read()):
            moved.append(_moved(f"{directory}/journal"))
    # It takes the lock itself, where it has to make the tables.
    if _is_damaged(lambda: _read(directory)):
        with lock.held(directory):
            moved.append(_moved(f"{directory}/state.db"))
            # SQLite's own journal must not be taken for that of the next database.
            if os.path.exists(f"{directory}/state.db-journal"):
                _moved(f"{directory}/state.db-journal")
    return moved


def _is_damaged(read: Callable[[], object]) -> bool:
    try:
        read()
    except Damaged:
        return True
    return False


def _read(directory: str) -> None:
    """Read all that there is."""
    if not os.path.exists(f"{directory}/state.db"):
        return
    with closing(store.Store(directory)) as records:
        if (found := records._query("PRAGMA quick_check(1)")[0][0]) != "ok":
            raise records._broken(sqlite3.DatabaseError(found.splitlines()[-1]))
        for owner in records.owners():
            records.claimed(owner.id)
        records.records(records.resources())
        records.pending()


def _moved(path: str) -> str:
    """Move a file or a folder to the first free name that tells what it is, and return that."""
    number = 1
    while os.path.lexists(name := f"{path}.damaged-{number}"):
        number += 1
    try:
        os.rename(path, name)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; it must be writable, run as root") from None
    return name
