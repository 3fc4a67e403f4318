"""What we did, as text: kernel objects as lines of JSON, which the database and the journal consist of, and the journal."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from .. import RUN
from ..errors import Damaged, StoreError, exhausted, one_line, shortened
from ..model.objects import KINDS
from ..model.plan import Change
from ..model.resource import Resource

_SPELLED: Mapping[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: str,
    bool: {False: "false", True: "true"}.__getitem__,
}
"""How a field's value is written, by its type: for these, json.dumps takes several times as long."""


@cache
def _class(kind: str) -> type[Resource]:
    return KINDS[kind].resource


@cache
def _names(kind: str) -> tuple[str, ...]:
    """Return the fields that are encoded, in the order of the class. The attribute `line` caches the result and is not one of
    them."""
    return tuple([item.name for item in fields(_class(kind))])


def encode(resource: Resource | None) -> str | None:
    """A resource as one line of JSON."""
    if resource is None:
        return None
    there = vars(resource)
    line: str | None = there.get("line")
    if line is None:
        line = f'{{"kind": "{resource.kind}"'
        later = resource.later
        for name in _names(resource.kind):
            value = there[name]
            if name in later and not value:
                continue
            line += f', "{name}": {_SPELLED.get(type(value), json.dumps)(value)}'
        there["line"] = line = line + "}"
    return line


ANEW = "`vmnet-hook repair` moves it away; filters stay"
"""The remedy for records that can't be read."""


def unreadable(what: str) -> StoreError:
    """Return the error for a part of the records that does not hold what we write."""
    return Damaged(f"{RUN}/state.db: {one_line(what)} can't be read; {ANEW}")


def encoded(resources: Iterable[Resource | None]) -> list[str | None]:
    """Each of them as `encode` returns it."""
    return [None if resource is None else vars(resource).get("line") or encode(resource) for resource in resources]


# The records of each guest repeat the resources that all guests of a network share.
@lru_cache(maxsize=4096)
def decode(line: str) -> Resource:
    """Return the resource of a line that `encode` returned. Raise StoreError for any other line."""
    try:
        values = json.loads(line)
        cls = _class(values.pop("kind"))
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = _tuples(value)
        resource = cls(**values)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise unreadable(f"a record ({shortened(line)})") from None
    vars(resource)["line"] = line
    return resource


def decode_both(want: str, original: str | None) -> tuple[Resource, Resource | None]:
    """What was set at a key, and what was found there before; None if nothing was."""
    return decode(want), decode(original) if original else None


def _tuples(values: list[Any]) -> tuple[Any, ...]:
    return tuple([_tuples(value) if isinstance(value, list) else value for value in values])


def same(one: Resource, other: Resource) -> bool:
    """Return whether two resources have equal records. Every field counts, also those that `==` does not compare."""
    mine, theirs = vars(one), vars(other)
    return type(one) is type(other) and all([mine[name] == theirs[name] for name in _names(one.kind)])


class Journal:
    """The changes under way, in a file beside the database. The next process that takes the lock undoes what a killed process
    left half-done. It is written at every plug, where rows in the database would take three times as long.

    A journal is valid only if its serial is the last committed serial + 1. Any other journal is already committed, or belongs to
    another database. Every method raises StoreError."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/journal"

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
        except (ValueError, StoreError):
            raise Damaged(f"{self._path}: damaged; {ANEW}") from None

    def write(self, serial: int, what: str, changes: Iterable[tuple[str | None, str | None]]) -> None:
        """Write each change as a line: the resource before and after, as `encode` spells them, with a tab between. JSON
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
        if isinstance(error, IsADirectoryError):
            return Damaged(f"{self._path}: {error.strerror}; {ANEW}")
        return StoreError(f"{self._path}: {exhausted(error) or f'{error.strerror}; check free space and permissions'}")
