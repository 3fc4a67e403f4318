"""Routes, policy rules, and names of routing tables."""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import ClassVar, Self

from ..resource import PROTO, Resource, cached, dev, ip

KERNEL_PROTO = 2
"""The protocol of routes that the kernel makes for addresses, RTPROT_KERNEL."""


@dataclass(frozen=True)
class Route(Resource):
    """A unicast route. `dst` has a prefix length (0.0.0.0/0 and ::/0 are the defaults); `via` makes it `onlink`, and may be an
    IPv6 address for IPv4 too (RFC 5549)."""

    table: int
    dst: str
    dev: str
    via: str = ""
    proto: int = PROTO
    src: str = ""
    """The preferred source address; "" leaves it to the kernel."""
    metric: int = 0
    """0 is the kernel's default."""
    mtu: int = 0
    """Bytes; 0: that of the link."""

    kind = "route"
    rank = 50
    marked = True
    later = frozenset(("mtu",))

    @property
    def family(self) -> int:
        return 6 if ":" in self.dst else 4

    @property
    def priority(self) -> int:
        """The metric as the kernel shows it."""
        return self.metric or (1024 if self.family == 6 else 0)

    @cached
    def key(self) -> str:
        return self.key_of(self.table, self.dst, self.metric)

    @staticmethod
    def key_of(table: int, dst: str, metric: int = 0) -> str:
        return f"route {table} {dst}" + (f" metric {metric}" if metric else "")

    @staticmethod
    def declared_metric(shown: int, is_ipv6: bool) -> int:
        """The `metric` of a route that the kernel shows with metric `shown`: the inverse of `priority`."""
        return 0 if shown == (1024 if is_ipv6 else 0) else shown

    @property
    def link(self) -> str:
        return self.dev

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.table,)

    @property
    def ours(self) -> bool:
        return self.proto == PROTO

    @property
    def order(self) -> float:
        return 51 if self.via else 50

    @property
    def goes_down_with_link(self) -> bool:
        return True

    def leaves_with(self, links: Container[str]) -> bool:
        return self.proto == KERNEL_PROTO and self.dev in links

    def conflict(self, have: Self) -> str:
        if have.ours:
            return ""
        # Not a command that cuts the host off.
        remove = f"remove it ({have.unset_command()}), or " if not have.dst.endswith("/0") else ""
        remedy = f"{remove}declare another"
        return f"another program's route is in the way: {have}; {remedy}"

    def covers(self, have: Resource) -> bool:
        if not isinstance(have, Route) or (self.dev, self.via) != (have.dev, have.via):
            return False
        if self.mtu != have.mtu and (self.mtu or have.ours):
            return False
        return not self.src or self.src == have.src

    def _words(self) -> str:
        dst = "default" if self.dst.endswith("/0") else self.dst
        inet6 = "inet6 " if self.family == 4 and ":" in self.via else ""
        via = f" via {inet6}{self.via}" if self.via else ""
        onlink = " onlink" if self.via else ""
        src = f" src {self.src}" if self.src else ""
        metric = f" metric {self.metric}" if self.metric else ""
        mtu = f" mtu {self.mtu}" if self.mtu else ""
        return f"{dst}{via} {dev(self.dev)} table {self.table} proto {self.proto}{src}{metric}{mtu}{onlink}"

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.dst)} route {'replace' if have else 'add'} {self._words()}"

    def unset_command(self) -> str:
        return f"{ip(self.dst)} route del {self._words().removesuffix(' onlink')}"

    def __str__(self) -> str:
        return self._words()


UNREACHABLE = 0


@dataclass(frozen=True)
class Rule(Resource):
    """A policy rule: packets `from` or `to` a subnet look up `table`, or are unreachable (UNREACHABLE); with a `mark`, of one
    bit, only those whose mark has it."""

    priority: int
    selector: str
    subnet: str
    table: int
    """UNREACHABLE (0, which is no table's number): the kernel drops the packets and answers that it can't reach their
    destination."""
    proto: int = field(default=PROTO, compare=False)
    mark: int = 0

    kind = "rule"
    rank = 60
    marked = True
    later = frozenset(("mark",))

    @property
    def family(self) -> int:
        return 6 if ":" in self.subnet else 4

    @cached
    def key(self) -> str:
        return self.key_of(self.priority, self.selector, self.subnet, self.table, self.mark)

    @staticmethod
    def key_of(priority: int, selector: str, subnet: str, table: int, mark: int = 0) -> str:
        return f"rule {priority} {selector} {subnet} {table}" + _marked(mark)

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.table,) if self.table else ()

    @property
    def ours(self) -> bool:
        return self.proto == PROTO

    def _words(self) -> str:
        action = f"lookup {self.table}" if self.table else "unreachable"
        return f"{self.selector} {self.subnet}{_marked(self.mark)} {action} pref {self.priority} protocol {self.proto}"

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.subnet)} rule add {self._words()}"

    def unset_command(self) -> str:
        return f"{ip(self.subnet)} rule del {self._words()}"


def _marked(mark: int) -> str:
    return f" fwmark {mark:#x}/{mark:#x}" if mark else ""


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

    @cached
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
