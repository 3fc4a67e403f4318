"""A look at the records that holds up no process, and whether anything changed meanwhile."""

import fcntl
import os
import sqlite3

from ..errors import StoreError
from . import lock
from .store import Store


def copied(records: Store) -> Store:
    """Return the records as they are now, in memory. Only the journal is the same file. Raises StoreError."""
    made = Store.__new__(Store)
    made.directory, made._journal = records.directory, records._journal
    made._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        records._db.backup(made._db)
    except sqlite3.Error as error:
        made.close()
        raise records._broken(error) from None
    return made


def is_locked(records: Store) -> bool:
    """Return whether a process holds the lock now. Raises StoreError."""
    fd = lock.opened(records.directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def stamp(records: Store) -> object:
    """Return what is another one once a process has opened a journal, or changed the records. Raises StoreError."""
    try:
        # The journal is renamed into place.
        return os.stat(records.directory).st_mtime_ns, records._query("PRAGMA data_version")
    except OSError as error:
        raise StoreError(f"{records.directory}: {error.strerror}; it must be writable, run as root") from None
