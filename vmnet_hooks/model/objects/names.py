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
    DIRECTORY: ClassVar[str] = "/etc/iproute2/rt_tables.d"

    @property
    def path(self) -> str:
        return f"{self.DIRECTORY}/vmnet-{self.name}.conf"

    @cached_property
    def key(self) -> str:
        return f"table-name {self.table} {self.name}"

    @property
    def ours(self) -> bool:
        return True

    def set_command(self, have: Self | None) -> str:
        return f"mkdir -p {self.DIRECTORY}; echo '{self.table} {self.name}' > {self.path}"

    def unset_command(self) -> str:
        return f"rm -f {self.path}"


@dataclass(frozen=True)
class HostName(Resource):
    """A guest's name in a file of its own, hosts(5): dnsmasq reads the folder with --hostsdir, and sees by itself what comes
    and goes."""

    ifname: str
    name: str
    addresses: tuple[str, ...]

    kind = "host-name"
    rank = 46
    DIRECTORY: ClassVar[str] = "/run/vmnet-hosts"

    @property
    def path(self) -> str:
        return f"{self.DIRECTORY}/{self.ifname}"

    @property
    def text(self) -> str:
        return "".join(f"{address} {self.name}\n" for address in self.addresses)

    @cached_property
    def key(self) -> str:
        return f"host-name {self.ifname}"

    @property
    def ours(self) -> bool:
        return True

    def set_command(self, have: Self | None) -> str:
        return f"mkdir -p {self.DIRECTORY}; printf %s {shlex.quote(self.text)} > {self.path}"

    def unset_command(self) -> str:
        return f"rm -f {self.path}"
