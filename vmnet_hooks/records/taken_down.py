"""Which parts of the host the admin took down with `vmnet-hook down`, and has not brought up again: a file beside the database,
which a boot removes. That they are not up is no difference."""

import os
from collections.abc import Iterable
from contextlib import suppress

from .store import Store


def read(records: Store) -> set[str]:
    """Return the ids of these parts."""
    try:
        with open(f"{records.directory}/down") as file:
            return set(file.read().split())
    except OSError:
        return set()


def write(records: Store, parts: Iterable[str]) -> None:
    """Record which parts these are; the lock must be held. Errors are ignored: what is up or down does not depend on it."""
    with suppress(OSError):
        with open(f"{records.directory}/down.new", "w") as file:
            file.writelines(f"{part}\n" for part in sorted(parts))
        os.replace(f"{records.directory}/down.new", f"{records.directory}/down")
