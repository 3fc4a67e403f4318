"""Registries: tables of what the program knows by name, each thing in a file of its own that is loaded when it is needed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Row(Generic[T]):
    """A thing of a registry before its file is loaded: its name there, and the module and the class that define it. `word` is
    what one part of a section is called."""

    name: str
    module: str
    cls: str
    word: str = ""

    def load(self) -> T:
        """Import the module and return an object of the class, which is called with this row."""
        made: T = getattr(import_module(self.module), self.cls)(self)
        return made


class Registry(Mapping[str, T]):
    """The things of `rows` by name, in the order of the rows. Looking one up loads its file; asking for names does not."""

    def __init__(self, *rows: Row[T]) -> None:
        self.rows = {row.name: row for row in rows}
        self._made: dict[Row[T], T] = {}

    def __getitem__(self, name: str) -> T:
        row = self.rows[name]
        if row not in self._made:
            # Of two threads that load it at once, both get what the first has stored.
            self._made.setdefault(row, row.load())
        return self._made[row]

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
