"""The journal: the changes under way, in a file beside the database. The next process that takes the lock undoes what a killed
process left half-done. It is written at every plug, where rows in the database would take three times as long.

A journal is valid only if its serial is the last committed serial + 1. Any other journal is already committed, or belongs to
another database.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress

from ..errors import StoreError
from ..model.plan import Change
from . import decode

NAME = "journal"


class Journal:
    """The journal of a directory. Every method raises StoreError."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/{NAME}"

    def read(self) -> tuple[int, str, list[Change]] | None:
        """Return (serial, what was under way, its changes); None if there is no journal."""
        try:
            with open(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC), encoding="ascii") as file:
                serial, what, *lines = file.read().splitlines()
            resources = [[decode(text) if text else None for text in line.split("\t")] for line in lines]
            return int(serial), json.loads(what), [Change(have, want) for have, want in resources]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from None
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{self._path}: damaged; remove it, then run `vmnet-hook repair`") from None

    def write(self, serial: int, what: str, changes: Iterable[tuple[str | None, str | None]]) -> None:
        """Write each change as a line: the resource before and after, as records.encode spells them, with a tab between. JSON
        contains neither tab nor line break."""
        lines = [str(serial), json.dumps(what), *[f"{have or ''}\t{want or ''}" for have, want in changes], ""]
        try:
            fd = os.open(f"{self._path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write("\n".join(lines).encode())
            os.rename(f"{self._path}.new", self._path)
        except OSError as error:
            raise self._failed(error) from None

    def remove(self) -> None:
        """Remove the file, if there is one."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path}: {error.strerror}; check free space and permissions")
