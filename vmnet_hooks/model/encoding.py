"""Kernel objects as lines of JSON, the format of the records."""

import json
from dataclasses import fields
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii as _quoted

from .objects import KINDS
from .resource import Resource


@cache
def _names(kind: str) -> tuple[str, ...]:
    """Return the fields that are encoded, in the order of the class. The attribute `line` caches the result and is not one of
    them."""
    return tuple(item.name for item in fields(KINDS[kind].resource))


def encode(resource: Resource | None) -> str | None:
    """Return a resource as one line of JSON; None for None."""
    if resource is None:
        return None
    there = vars(resource)
    line: str | None = there.get("line")
    if line is None:
        kind = resource.kind
        line = f'{{"kind": "{kind}", ' + ", ".join([f'"{name}": {_json(there[name])}' for name in _names(kind)]) + "}"
        there["line"] = line
    return line


def same(one: Resource, other: Resource) -> bool:
    """Return whether two resources have equal records. Every field counts, also those that `==` does not compare."""
    mine, theirs = vars(one), vars(other)
    return type(one) is type(other) and all([mine[name] == theirs[name] for name in _names(one.kind)])


def _json(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    return str(value) if isinstance(value, int) else json.dumps(value)


def decode(line: str | None) -> Resource | None:
    """Return the resource of a line that `encode` returned. Raise ValueError, KeyError or TypeError for any other line."""
    return None if line is None else _decode(line)


# The records of each guest repeat the resources that all guests of a network share.
@lru_cache(maxsize=4096)
def _decode(line: str) -> Resource:
    values = json.loads(line)
    cls = KINDS[values.pop("kind")].resource
    resource = cls(**{name: _tuples(value) if isinstance(value, list) else value for name, value in values.items()})
    vars(resource)["line"] = line
    return resource


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
