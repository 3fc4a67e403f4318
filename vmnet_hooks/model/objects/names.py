"""Names in files of our own: of routing tables, for iproute2; of guests, for dnsmasq."""

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from ..resource import Resource


@dataclass(frozen=True)
class TableName(Resource):
    """A routing table's name for iproute2, in a file of its own under rt_tables.d."""

    table: int
    name: str

    kind = "table-name"
    rank = 45
    marked = True
    DIRECTORY: ClassVar[str] = "/etc/iproute2/rt_tables.d"
    PREFIX: ClassVar[str] = "vmnet-"
    SUFFIX: ClassVar[str] = ".conf"

    @property
    def path(self) -> str:
        return f"{self.DIRECTORY}/{self.PREFIX}{self.name}{self.SUFFIX}"

    @property
    def text(self) -> str:
        return f"{self.table} {self.name}\n"

    @cached_property
    def key(self) -> str:
        return self.key_of(self.table, self.name)

    @staticmethod
    def key_of(table: int, name: str) -> str:
        return f"table-name {table} {name}"

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.table,)

    def set_command(self, have: Self | None) -> str:
        return f"mkdir -p {self.DIRECTORY}; echo '{self.table} {self.name}' > {self.path}"

    def unset_command(self) -> str:
        return f"rm -f {self.path}"


@dataclass(frozen=True)
class HostName(Resource):
    """A guest's name in a file of its own, hosts(5). dnsmasq reads the folder with --hostsdir, and notices files that come and
    go."""

    ifname: str
    name: str
    addresses: tuple[str, ...]

    kind = "host-name"
    rank = 46
    marked = True
    DIRECTORY: ClassVar[str] = "/run/vmnet-hosts"

    @property
    def path(self) -> str:
        return f"{self.DIRECTORY}/{self.ifname}"

    @property
    def text(self) -> str:
        return "".join(f"{address} {self.name}\n" for address in self.addresses)

    @cached_property
    def key(self) -> str:
        return self.key_of(self.ifname)

    @staticmethod
    def key_of(ifname: str) -> str:
        return f"host-name {ifname}"

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.ifname,)

    def set_command(self, have: Self | None) -> str:
        return f"mkdir -p {self.DIRECTORY}; printf %s {shlex.quote(self.text)} > {self.path}"

    def unset_command(self) -> str:
        return f"rm -f {self.path}"
