"""Kernel objects as lines of JSON, for the records."""

import json
from dataclasses import fields
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii as _quoted

from .objects import KINDS
from .resource import Resource


@cache
def _names(kind: str) -> tuple[str, ...]:
    """The fields that are encoded, in the order of the class. The resource keeps its `line` beside them."""
    return tuple(item.name for item in fields(KINDS[kind].resource))


def encode(resource: Resource | None) -> str | None:
    """A resource as one line of JSON, for the records."""
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
    """Whether their records are equal: every field counts, also those that == leaves out."""
    mine, theirs = vars(one), vars(other)
    return type(one) is type(other) and all([mine[name] == theirs[name] for name in _names(one.kind)])


def _json(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    return str(value) if isinstance(value, int) else json.dumps(value)


def decode(line: str | None) -> Resource | None:
    """The inverse of `encode`. Raises ValueError, KeyError or TypeError on what `encode` did not write."""
    return None if line is None else _decode(line)


# Each guest's records repeat what all guests of a network share.
@lru_cache(maxsize=4096)
def _decode(line: str) -> Resource:
    values = json.loads(line)
    cls = KINDS[values.pop("kind")].resource
    resource = cls(**{name: _tuples(value) if isinstance(value, list) else value for name, value in values.items()})
    vars(resource)["line"] = line
    return resource


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
