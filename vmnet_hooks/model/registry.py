"""Registries: tables of classes by name, each in its own file, which is imported when it is needed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Row(Generic[T]):
    """An entry of a registry: its name, and the module and the class that define it. Sections also have a `word`, KIND in the
    KIND:NAME of their parts."""

    name: str
    module: str
    cls: str
    word: str = ""

    def load(self) -> T:
        """Import the module; return an instance of the class, made with this row."""
        made: T = getattr(import_module(self.module), self.cls)(self)
        return made


class Registry(Mapping[str, T]):
    """The objects of `rows` by name, in the order of the rows. A look-up imports the file of the entry; listing names does
    not."""

    def __init__(self, *rows: Row[T]) -> None:
        self.rows = {row.name: row for row in rows}
        self._made: dict[Row[T], T] = {}

    def __getitem__(self, name: str) -> T:
        row = self.rows[name]
        if row not in self._made:
            # If two threads load a row at the same time, both get the object that was stored first.
            self._made.setdefault(row, row.load())
        return self._made[row]

    def __contains__(self, name: object) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
