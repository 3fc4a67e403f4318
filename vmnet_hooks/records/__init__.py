"""What we did. Here: kernel objects as lines of JSON, which is how the records and the journal have them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from ..model.objects import KINDS
from ..model.resource import Resource

_SPELLED: Mapping[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: str,
    bool: {False: "false", True: "true"}.__getitem__,
}
"""How a field's value is written, by its type: for these, json.dumps takes several times as long."""


@cache
def _names(kind: str) -> tuple[str, ...]:
    """The fields that are encoded, in the order of the class. The resource keeps its `line` beside them."""
    return tuple([item.name for item in fields(KINDS[kind].resource)])


def encode(resource: Resource | None) -> str | None:
    """A resource as one line of JSON."""
    if resource is None:
        return None
    there = vars(resource)
    line: str | None = there.get("line")
    if line is None:
        line = f'{{"kind": "{resource.kind}"'
        for name in _names(resource.kind):
            value = there[name]
            line += f', "{name}": {_SPELLED.get(type(value), json.dumps)(value)}'
        there["line"] = line = line + "}"
    return line


def encoded(resources: Iterable[Resource | None]) -> list[str | None]:
    """Each of them as `encode` returns it."""
    return [None if resource is None else vars(resource).get("line") or encode(resource) for resource in resources]


# Each guest's records repeat what all guests of a network share.
@lru_cache(maxsize=4096)
def decode(line: str) -> Resource:
    """The inverse of `encode`. Raises ValueError, KeyError or TypeError on what `encode` did not write."""
    values = json.loads(line)
    cls = KINDS[values.pop("kind")].resource
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = _tuples(value)
    resource = cls(**values)
    vars(resource)["line"] = line
    return resource


def _tuples(values: list[Any]) -> tuple[Any, ...]:
    return tuple([_tuples(value) if isinstance(value, list) else value for value in values])


def same(one: Resource, other: Resource) -> bool:
    """Whether their records are equal: every field counts, also those that == leaves out."""
    mine, theirs = vars(one), vars(other)
    return type(one) is type(other) and all([mine[name] == theirs[name] for name in _names(one.kind)])
