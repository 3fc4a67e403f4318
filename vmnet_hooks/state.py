"""The kernel objects that we set up, as data. Pure: nothing here reads or changes the kernel.

Every resource has a `key`, its identity in the kernel, and renders itself as the iproute2, nft or sysctl command that an
admin would type. `covers(have)` says whether what the kernel holds is good enough.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from ipaddress import ip_interface
from json.encoder import encode_basestring_ascii as _quoted
from typing import ClassVar, Self

from .links import Adoption, Device, FdbEntry, LinkAttribute, PortVlans
from .resource import ALIAS, MAIN_TABLE, NAT_SETS, NAT_TABLE, PROTO, TABLE, Resource, dev, ip

__all__ = ["ALIAS", "MAIN_TABLE", "NAT_SETS", "NAT_TABLE", "PROTO", "TABLE"]


def table_key(family: str, name: str) -> str:
    """The key of a nft table of ours."""
    return f"nft {family}" + ("" if name == TABLE else f" {name}")


def table_of(family: str, set_name: str) -> str:
    """The name of the table that a set or map of ours is in."""
    return NAT_TABLE if family == "inet" and set_name.startswith(NAT_SETS) else TABLE


@dataclass(frozen=True)
class NftTable(Resource):
    """A nft table of ours with its sets and chains; the elements are resources of their own."""

    family: str
    body: str = field(compare=False)
    rules: tuple[tuple[str, int], ...]
    """How many rules each chain holds: what a foreign flush of the table changes."""
    name: str = TABLE
    version: str = ""
    """Which body it is: stands in the table's comment."""

    kind = "nft-table"
    rank = 0

    @cached_property
    def key(self) -> str:
        return table_key(self.family, self.name)

    @property
    def order(self) -> float:
        # A chain at a link can't be made before the link.
        return Device.rank + 1 if self.family == "netdev" else self.rank

    @cached_property
    def link(self) -> str:
        """The link whose frames the chains see: they go with it, the table does not."""
        return self.body.partition('device "')[2].partition('"')[0]

    @property
    def ours(self) -> bool:
        return True

    def difference(self, have: Self) -> str:
        there = dict(have.rules)
        wrong = [f"chain {name} has {there.get(name, 0)} of {n} rules" for name, n in self.rules if there.get(name) != n]
        other = "is of another version" if self.version != have.version else "has chains that are not ours"
        return ", ".join(wrong) or other

    def statement(self) -> str:
        # Added first so that the deletion can't fail: a table left over from a lost record must not keep its elements.
        name = f"{self.family} {self.name}"
        comment = f'\tcomment "vmnet-hooks {self.version}"'
        return f"add table {name}\ndelete table {name}\ntable {name} {{\n{comment}\n{self.body}\n}}\n"

    def unset_statement(self) -> str:
        return f"delete table {self.family} {self.name}\n"

    def set_command(self, have: Self | None) -> str:
        return f"nft -f - <<'EOF'\n{self.statement()}EOF"

    def unset_command(self) -> str:
        return f"nft delete table {self.family} {self.name}"


@dataclass(frozen=True)
class NftElement(Resource):
    """An element of a set or map of ours. `parts` are joined with ` . `; interface names in them carry double quotes."""

    family: str
    set: str
    parts: tuple[str, ...]
    value: str = ""

    kind = "nft-element"
    rank = 1

    @cached_property
    def key(self) -> str:
        return f"nft {self.family} {self.set} {' . '.join(self.parts)}"

    @cached_property
    def table(self) -> str:
        """The key of the table that it is in."""
        return table_key(self.family, table_of(self.family, self.set))

    @property
    def ours(self) -> bool:
        return True

    def _statement(self, verb: str, with_value: bool = True) -> str:
        data = f" : {self.value}" if self.value and with_value else ""
        return f"{verb} element {self.family} {table_of(self.family, self.set)} {self.set} {{ {' . '.join(self.parts)}{data} }}\n"

    def statement(self, have: Self | None = None) -> str:
        return (have.unset_statement() if have else "") + self._statement("add")

    def get_statement(self) -> str:
        return self._statement("get", with_value=False)

    def unset_statement(self) -> str:
        return self._statement("delete", with_value=False)

    def set_command(self, have: Self | None) -> str:
        return "nft " + shlex.quote("; ".join(self.statement(have).splitlines())) + self._arptables()

    def unset_command(self) -> str:
        return "nft " + shlex.quote(self.unset_statement().strip())

    def _arptables(self) -> str:
        if self.set != "arp_source":
            return ""
        tap = self.parts[0].strip('"')
        return f"  # arptables -A OUTPUT -o {tap} --opcode Request -j mangle --mangle-ip-s {self.value}"


# Written to every device by a write to `all`, and by nothing else: see kernel/sysctl.py.
FORWARDING_GATE = "net/ipv6/conf/all/forwarding"


@dataclass(frozen=True)
class Sysctl(Resource):
    """A value under /proc/sys. `path` has slashes: an interface's name may hold dots."""

    path: str
    value: str

    kind = "sysctl"
    rank = 10

    @cached_property
    def key(self) -> str:
        return f"sysctl {self.path}"

    @cached_property
    def link(self) -> str:
        parts = self.path.split("/")
        return parts[3] if len(parts) == 5 and parts[2] in ("conf", "neigh") and parts[3] not in ("all", "default") else ""

    def set_command(self, have: Self | None) -> str:
        write = f"sysctl -qw {self.path}={self.value}"
        if self.path != FORWARDING_GATE:
            return write
        return (
            f"( cd /proc/sys/net/ipv6/conf; old=$(grep -H . */forwarding); {write}; for i in $old; do "
            "[ ${i%%:*} = all/forwarding ] || echo ${i##*:} >${i%%:*}; done )  # the gate alone: devices keep their values"
        )


@dataclass(frozen=True)
class Address(Resource):
    """An address (with prefix length) on a link."""

    ifname: str
    address: str

    kind = "address"
    rank = 35

    @cached_property
    def key(self) -> str:
        return f"addr {self.ifname} {self.address}"

    @property
    def link(self) -> str:
        return self.ifname

    @property
    def broadcast(self) -> str:
        """The standard broadcast address, which everybody else sets too; "" for IPv6 and for /31 and /32."""
        network = ip_interface(self.address).network
        return str(network.broadcast_address) if network.version == 4 and network.prefixlen < 31 else ""

    def set_command(self, have: Self | None) -> str:
        broadcast = f" broadcast {self.broadcast}" if self.broadcast else ""
        return f"{ip(self.address)} addr add {self.address}{broadcast} {dev(self.ifname)}" + (
            " nodad" if ":" in self.address else ""
        )

    def unset_command(self) -> str:
        return f"{ip(self.address)} addr del {self.address} {dev(self.ifname)}"


@dataclass(frozen=True)
class Neighbour(Resource):
    """A permanent neighbour: no ARP or ND from the host, and no share of gc_thresh3."""

    ifname: str
    address: str
    lladdr: str

    kind = "neigh"
    rank = 40

    @cached_property
    def key(self) -> str:
        return f"neigh {self.ifname} {self.address}"

    @property
    def link(self) -> str:
        return self.ifname

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.address)} neigh replace {self.address} lladdr {self.lladdr} {dev(self.ifname)} nud permanent"

    def unset_command(self) -> str:
        return f"{ip(self.address)} neigh del {self.address} {dev(self.ifname)}"


@dataclass(frozen=True)
class ProxyNeighbour(Resource):
    """An address for which the kernel answers on a link: IPv6 where proxy_ndp is set, IPv4 where the link forwards."""

    ifname: str
    address: str

    kind = "proxy"
    rank = 41

    @cached_property
    def key(self) -> str:
        return f"proxy {self.ifname} {self.address}"

    @property
    def link(self) -> str:
        return self.ifname

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.address)} neigh add proxy {self.address} {dev(self.ifname)}"

    def unset_command(self) -> str:
        return f"{ip(self.address)} neigh del proxy {self.address} {dev(self.ifname)}"


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


@dataclass(frozen=True)
class Route(Resource):
    """A unicast route. `dst` has a prefix length (0.0.0.0/0 and ::/0 are the defaults); `via` makes it `onlink`."""

    table: int
    dst: str
    dev: str
    via: str = ""
    proto: int = PROTO
    src: str = ""
    """The preferred source address; "" leaves it to the kernel."""
    metric: int = 0
    """0 is the kernel's default."""

    kind = "route"
    rank = 50

    @property
    def family(self) -> int:
        return 6 if ":" in self.dst else 4

    @property
    def priority(self) -> int:
        """The metric as the kernel shows it."""
        return self.metric or (1024 if self.family == 6 else 0)

    @cached_property
    def key(self) -> str:
        return f"route {self.table} {self.dst}" + (f" metric {self.metric}" if self.metric else "")

    @property
    def link(self) -> str:
        return self.dev

    @property
    def ours(self) -> bool:
        return self.proto == PROTO

    @property
    def order(self) -> float:
        return 51 if self.via else 50

    def covers(self, have: Resource) -> bool:
        if not isinstance(have, Route) or (self.dev, self.via) != (have.dev, have.via):
            return False
        return not self.src or self.src == have.src

    def _words(self) -> str:
        dst = "default" if self.dst.endswith("/0") else self.dst
        via = f" via {self.via}" if self.via else ""
        onlink = " onlink" if self.via else ""
        src = f" src {self.src}" if self.src else ""
        metric = f" metric {self.metric}" if self.metric else ""
        return f"{dst}{via} {dev(self.dev)} table {self.table} proto {self.proto}{src}{metric}{onlink}"

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.dst)} route {'replace' if have else 'add'} {self._words()}"

    def unset_command(self) -> str:
        return f"{ip(self.dst)} route del {self._words().removesuffix(' onlink')}"

    def __str__(self) -> str:
        return self._words()


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

    @property
    def family(self) -> int:
        return 6 if ":" in self.subnet else 4

    @cached_property
    def key(self) -> str:
        return f"rule {self.priority} {self.selector} {self.subnet} {self.table}"

    @property
    def ours(self) -> bool:
        return self.proto == PROTO

    def _words(self) -> str:
        return f"{self.selector} {self.subnet} lookup {self.table} pref {self.priority} protocol {self.proto}"

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.subnet)} rule add {self._words()}"

    def unset_command(self) -> str:
        return f"{ip(self.subnet)} rule del {self._words()}"


State = Mapping[str, Resource]
"""What is, or shall be, there: resources by key."""

_CLASSES: tuple[type[Resource], ...] = (
    NftTable,
    NftElement,
    Device,
    Sysctl,
    LinkAttribute,
    FdbEntry,
    PortVlans,
    Adoption,
    Address,
    Neighbour,
    ProxyNeighbour,
    TableName,
    HostName,
    Route,
    Rule,
)
KINDS = {cls.kind: cls for cls in _CLASSES}


# What is encoded: the order is that of the class, and `line` is kept beside the fields once it is made.
_NAMES = {cls: tuple(item.name for item in fields(cls)) for cls in _CLASSES}
_HEADS = {cls: f'{{"kind": "{cls.kind}", ' for cls in _CLASSES}


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
