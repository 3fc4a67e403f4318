"""The journal: the changes under way, in a file beside the records. Whoever takes the lock next undoes what a killed process left
half-done. Written at every plug: as rows of the records it takes three times as long.

Its number is the one that follows the last that the records call done. With any other it says nothing: its changes are recorded,
or it belongs to records that are no more.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress

from ..errors import StoreError
from ..model.encoding import decode
from ..model.plan import Change

NAME = "journal"


class Journal:
    """In a directory."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/{NAME}"

    def read(self) -> tuple[int, str, list[Change]] | None:
        """(number, what was under way, its changes); None if there is none. Raises StoreError."""
        try:
            with open(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC), encoding="ascii") as file:
                number, what, *lines = file.read().splitlines()
            changes = [line.split("\t") for line in lines]
            return int(number), json.loads(what), [Change(decode(have or None), decode(want or None)) for have, want in changes]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from None
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{self._path}: not as it was written; remove it, then run `vmnet-hook repair`") from None

    def write(self, number: int, what: str, changes: Iterable[tuple[str | None, str | None]]) -> None:
        """Each change as what there is and what shall be, both as state.encode has them: a line, with a tab between. JSON has
        neither. Raises StoreError."""
        lines = [str(number), json.dumps(what), *(f"{have or ''}\t{want or ''}" for have, want in changes), ""]
        try:
            fd = os.open(f"{self._path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write("\n".join(lines).encode())
            os.rename(f"{self._path}.new", self._path)
        except OSError as error:
            raise self._failed(error) from None

    def remove(self) -> None:
        """Raises StoreError."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(f"{self._path}: {error.strerror}; is there room, and may we write?")
