"""Policy rules."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from ..resource import PROTO, Resource, ip


@dataclass(frozen=True)
class Rule(Resource):
    """A policy rule: packets `from` or `to` a subnet look up `table`."""

    priority: int
    selector: str
    subnet: str
    table: int
    proto: int = field(default=PROTO, compare=False)

    kind = "rule"
    rank = 60
    marked = True

    @property
    def family(self) -> int:
        return 6 if ":" in self.subnet else 4

    @cached_property
    def key(self) -> str:
        return self.key_of(self.priority, self.selector, self.subnet, self.table)

    @staticmethod
    def key_of(priority: int, selector: str, subnet: str, table: int) -> str:
        return f"rule {priority} {selector} {subnet} {table}"

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.table,)

    @property
    def ours(self) -> bool:
        return self.proto == PROTO

    def _words(self) -> str:
        return f"{self.selector} {self.subnet} lookup {self.table} pref {self.priority} protocol {self.proto}"

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.subnet)} rule add {self._words()}"

    def unset_command(self) -> str:
        return f"{ip(self.subnet)} rule del {self._words()}"
