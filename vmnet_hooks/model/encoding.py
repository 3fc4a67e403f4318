"""Kernel objects as lines of JSON, for the records."""

import json
from dataclasses import fields
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted

from .objects import CLASSES, KINDS
from .resource import Resource

# What is encoded: the order is that of the class, and `line` is kept beside the fields once it is made.
_NAMES = {cls: tuple(item.name for item in fields(cls)) for cls in CLASSES}
_HEADS = {cls: f'{{"kind": "{cls.kind}", ' for cls in CLASSES}


def encode(resource: Resource | None) -> str | None:
    """A resource as one line of JSON, for the records."""
    if resource is None:
        return None
    there = vars(resource)
    line: str | None = there.get("line")
    if line is None:
        cls = type(resource)
        line = _HEADS[cls] + ", ".join([f'"{name}": {_json(there[name])}' for name in _NAMES[cls]]) + "}"
        there["line"] = line
    return line


def same(one: Resource, other: Resource) -> bool:
    """Whether they are equal in every field, those that == leaves out too: the records of one are the records of the other."""
    cls, mine, theirs = type(one), vars(one), vars(other)
    return cls is type(other) and all([mine[name] == theirs[name] for name in _NAMES[cls]])


def _json(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    return str(value) if isinstance(value, int) else json.dumps(value)


def decode(line: str | None) -> Resource | None:
    """The inverse of `encode`. Raises ValueError, KeyError or TypeError on what `encode` did not write."""
    return None if line is None else _decode(line)


# What guests share is read with each of them.
@lru_cache(maxsize=4096)
def _decode(line: str) -> Resource:
    values = json.loads(line)
    cls = KINDS[values.pop("kind")]
    resource = cls(**{name: _tuples(value) if isinstance(value, list) else value for name, value in values.items()})
    vars(resource)["line"] = line
    return resource


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
