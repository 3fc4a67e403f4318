"""The kernel objects that we set up, as data. Pure: nothing here reads or changes the kernel.

Every resource has a `key`, its identity in the kernel, and renders itself as the iproute2, nft or sysctl command that an
admin would type. `covers(have)` says whether what the kernel holds is good enough.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Self

PROTO = 86
"""Our number in rt_protos: every route and rule of ours carries it, so that a process with no memory knows what is ours."""

MAIN_TABLE = 254
TABLE = "vmnet"
"""The name of our nft table in each family."""


def _dev(ifname: str) -> str:
    return f"dev {ifname}"


def _ip(address: str) -> str:
    return "ip -6" if ":" in address else "ip"


@dataclass(frozen=True)
class Resource:
    """A kernel object. `rank` orders set-up (ascending) and clean-up (descending)."""

    kind: ClassVar[str]
    rank: ClassVar[int]

    @property
    def key(self) -> str:
        raise NotImplementedError

    @property
    def order(self) -> int:
        return self.rank

    @property
    def ours(self) -> bool:
        """Whether the object itself shows that we made it."""
        return False

    def covers(self, have: "Resource") -> bool:
        return self == have

    def difference(self, have: Self) -> str:
        """What is wrong with `have`, in an admin's words."""
        return f"is {getattr(have, 'value', have)!s}"

    def set_command(self, have: Self | None) -> str:
        """The shell command that brings the kernel from `have` to this."""
        raise NotImplementedError

    def unset_command(self) -> str:
        """The shell command that removes this."""
        raise NotImplementedError


@dataclass(frozen=True)
class NftTable(Resource):
    """Our nft table of one family with its sets and chains; the elements are resources of their own."""

    family: str
    body: str = field(compare=False)
    rules: tuple[tuple[str, int], ...]
    """How many rules each chain holds: what a foreign flush of the table changes."""

    kind = "nft-table"
    rank = 0

    @property
    def key(self) -> str:
        return f"nft {self.family}"

    @property
    def ours(self) -> bool:
        return True

    def difference(self, have: Self) -> str:
        there = dict(have.rules)
        wrong = [f"chain {name} has {there.get(name, 0)} of {n} rules" for name, n in self.rules if there.get(name) != n]
        return ", ".join(wrong) or "has chains that are not ours"

    def statement(self) -> str:
        # Added first so that the deletion can't fail: a table left over from a lost record must not keep its elements.
        name = f"{self.family} {TABLE}"
        return f"add table {name}\ndelete table {name}\ntable {name} {{\n{self.body}\n}}\n"

    def unset_statement(self) -> str:
        return f"delete table {self.family} {TABLE}\n"

    def set_command(self, have: Self | None) -> str:
        return f"nft -f - <<'EOF'\n{self.statement()}EOF"

    def unset_command(self) -> str:
        return f"nft delete table {self.family} {TABLE}"


@dataclass(frozen=True)
class NftElement(Resource):
    """An element of a set or map of ours. `parts` are joined with ` . `; interface names in them carry double quotes."""

    family: str
    set: str
    parts: tuple[str, ...]
    value: str = ""

    kind = "nft-element"
    rank = 1

    @property
    def key(self) -> str:
        return f"nft {self.family} {self.set} {' . '.join(self.parts)}"

    @property
    def ours(self) -> bool:
        return True

    def _statement(self, verb: str, with_value: bool = True) -> str:
        data = f" : {self.value}" if self.value and with_value else ""
        return f"{verb} element {self.family} {TABLE} {self.set} {{ {' . '.join(self.parts)}{data} }}\n"

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
        dev = self.parts[0].strip('"')
        return f"  # arptables -A OUTPUT -o {dev} --opcode Request -j mangle --mangle-ip-s {self.value}"


# Written to every device by a write to `all`, and by nothing else: see kernel/sysctl.py.
FORWARDING_GATE = "net/ipv6/conf/all/forwarding"


@dataclass(frozen=True)
class Sysctl(Resource):
    """A value under /proc/sys. `path` has slashes: an interface's name may hold dots."""

    path: str
    value: str

    kind = "sysctl"
    rank = 10

    @property
    def key(self) -> str:
        return f"sysctl {self.path}"

    def set_command(self, have: Self | None) -> str:
        write = f"sysctl -qw {self.path}={self.value}"
        if self.path != FORWARDING_GATE:
            return write
        return (
            f"( cd /proc/sys/net/ipv6/conf; old=$(grep -H . */forwarding); {write}; for i in $old; do "
            "[ ${i%%:*} = all/forwarding ] || echo ${i##*:} >${i%%:*}; done )  # the gate alone: devices keep their values"
        )


@dataclass(frozen=True)
class LinkAttribute(Resource):
    """One attribute of a link: `mtu`, `address`, `master` ("" is none), `isolated` (on|off), `lladdr` (the link-local
    addresses, comma-separated, each with /64), `state` (up|down).

    With `stays` it is left as it is when nobody needs it any more."""

    ifname: str
    name: str
    value: str
    stays: bool = field(default=False, compare=False)

    kind = "link"
    rank = 20
    ORDER: ClassVar[Mapping[str, int]] = {
        "mtu": 20,
        "address": 21,
        "master": 22,
        "isolated": 23,
        "lladdr": 24,
        "state": 30,
    }

    @property
    def key(self) -> str:
        return f"link {self.ifname} {self.name}"

    @property
    def order(self) -> int:
        return self.ORDER[self.name]

    @property
    def addresses(self) -> set[str]:
        return set(filter(None, self.value.split(",")))

    def covers(self, have: Resource) -> bool:
        if self.name == "lladdr" and self.value and isinstance(have, LinkAttribute):
            # More than one for as long as the change takes: a process killed in between leaves them.
            return self.addresses <= have.addresses
        return self == have

    def set_command(self, have: Self | None) -> str:
        match self.name:
            case "state":
                return f"ip link set {_dev(self.ifname)} {self.value}"
            case "master":
                return f"ip link set {_dev(self.ifname)} " + (f"master {self.value}" if self.value else "nomaster")
            case "isolated":
                return f"bridge link set {_dev(self.ifname)} isolated {self.value}"
            case "lladdr":
                old = have.addresses if have else set()
                lines = [f"ip -6 addr add {a} {_dev(self.ifname)} nodad" for a in sorted(self.addresses - old)]
                lines += [f"ip -6 addr del {a} {_dev(self.ifname)}" for a in sorted(old - self.addresses)]
                return "\n".join(lines)
        return f"ip link set {_dev(self.ifname)} {self.name} {self.value}"

    def unset_command(self) -> str:
        # Only a port of a bridge has `isolated`: before it was one, there was nothing.
        return f"bridge link set {_dev(self.ifname)} isolated off"


@dataclass(frozen=True)
class Address(Resource):
    """An address (with prefix length) on a link."""

    ifname: str
    address: str

    kind = "address"
    rank = 35

    @property
    def key(self) -> str:
        return f"addr {self.ifname} {self.address}"

    def set_command(self, have: Self | None) -> str:
        return f"{_ip(self.address)} addr add {self.address} {_dev(self.ifname)}" + (" nodad" if ":" in self.address else "")

    def unset_command(self) -> str:
        return f"{_ip(self.address)} addr del {self.address} {_dev(self.ifname)}"


@dataclass(frozen=True)
class Neighbour(Resource):
    """A permanent neighbour: no ARP or ND from the host, and no share of gc_thresh3."""

    ifname: str
    address: str
    lladdr: str

    kind = "neigh"
    rank = 40

    @property
    def key(self) -> str:
        return f"neigh {self.ifname} {self.address}"

    def set_command(self, have: Self | None) -> str:
        return f"{_ip(self.address)} neigh replace {self.address} lladdr {self.lladdr} {_dev(self.ifname)} nud permanent"

    def unset_command(self) -> str:
        return f"{_ip(self.address)} neigh del {self.address} {_dev(self.ifname)}"


@dataclass(frozen=True)
class ProxyNeighbour(Resource):
    """An IPv6 address for which the kernel answers neighbour solicitations on a link (proxy_ndp)."""

    ifname: str
    address: str

    kind = "proxy"
    rank = 41

    @property
    def key(self) -> str:
        return f"proxy {self.ifname} {self.address}"

    def set_command(self, have: Self | None) -> str:
        return f"ip -6 neigh add proxy {self.address} {_dev(self.ifname)}"

    def unset_command(self) -> str:
        return f"ip -6 neigh del proxy {self.address} {_dev(self.ifname)}"


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

    @property
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
class Route(Resource):
    """A unicast route. `dst` has a prefix length (0.0.0.0/0 and ::/0 are the defaults); `via` makes it `onlink`."""

    table: int
    dst: str
    dev: str
    via: str = ""
    proto: int = PROTO

    kind = "route"
    rank = 50

    @property
    def family(self) -> int:
        return 6 if ":" in self.dst else 4

    @property
    def metric(self) -> int:
        return 1024 if self.family == 6 else 0

    @property
    def key(self) -> str:
        return f"route {self.table} {self.dst}"

    @property
    def ours(self) -> bool:
        return self.proto == PROTO

    @property
    def order(self) -> int:
        return 51 if self.via else 50

    def covers(self, have: Resource) -> bool:
        return isinstance(have, Route) and (self.dev, self.via) == (have.dev, have.via)

    def _words(self) -> str:
        dst = "default" if self.dst.endswith("/0") else self.dst
        via = f" via {self.via}" if self.via else ""
        onlink = " onlink" if self.via else ""
        return f"{dst}{via} {_dev(self.dev)} table {self.table} proto {self.proto}{onlink}"

    def set_command(self, have: Self | None) -> str:
        return f"{_ip(self.dst)} route {'replace' if have else 'add'} {self._words()}"

    def unset_command(self) -> str:
        return f"{_ip(self.dst)} route del {self._words().removesuffix(' onlink')}"

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

    @property
    def key(self) -> str:
        return f"rule {self.priority} {self.selector} {self.subnet} {self.table}"

    @property
    def ours(self) -> bool:
        return self.proto == PROTO

    def _words(self) -> str:
        return f"{self.selector} {self.subnet} lookup {self.table} pref {self.priority} protocol {self.proto}"

    def set_command(self, have: Self | None) -> str:
        return f"{_ip(self.subnet)} rule add {self._words()}"

    def unset_command(self) -> str:
        return f"{_ip(self.subnet)} rule del {self._words()}"


State = Mapping[str, Resource]
"""What is, or shall be, there: resources by key."""

_CLASSES: tuple[type[Resource], ...] = (
    NftTable,
    NftElement,
    Sysctl,
    LinkAttribute,
    Address,
    Neighbour,
    ProxyNeighbour,
    TableName,
    Route,
    Rule,
)
KINDS = {cls.kind: cls for cls in _CLASSES}


def encode(resource: Resource | None) -> str | None:
    """A resource as one line of JSON, for the records."""
    return None if resource is None else json.dumps({"kind": resource.kind, **asdict(resource)})


def decode(line: str | None) -> Resource | None:
    """The inverse of `encode`. Raises ValueError, KeyError or TypeError on what `encode` did not write."""
    if line is None:
        return None
    fields = json.loads(line)
    kind = KINDS[fields.pop("kind")]
    return kind(**{k: _tuples(v) for k, v in fields.items()})


def _tuples(value: object) -> object:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
