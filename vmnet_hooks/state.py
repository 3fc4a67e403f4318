"""The kernel objects that we set up, as data. Pure: nothing here reads or changes the kernel.

Every resource has a `key`, its identity in the kernel, and renders itself as the iproute2, nft or sysctl command that an
admin would type. `covers(have)` says whether what the kernel holds is good enough.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_interface
from typing import ClassVar, Self

from .values import numbers, ranges

PROTO = 86
"""Our number in rt_protos: every route and rule of ours carries it, so that a process with no memory knows what is ours."""

MAIN_TABLE = 254
TABLE = "vmnet"
"""The name of our nft table in each family. A table for one link alone has `-` and the link's name after it."""

ALIAS = "vmnet-hooks"
"""The ifalias of every link that we made."""


def _dev(ifname: str) -> str:
    return f"dev {ifname}"


def _ip(words: str) -> str:
    return "ip -6" if ":" in words else "ip"


@dataclass(frozen=True)
class Resource:
    """A kernel object. `rank` orders set-up (ascending) and clean-up (descending)."""

    kind: ClassVar[str]
    rank: ClassVar[int]
    composite: ClassVar[bool] = False
    """Whether a step of it can be done by half: then it is taken back whatever is found of it."""

    @property
    def key(self) -> str:
        raise NotImplementedError

    @property
    def order(self) -> float:
        return self.rank

    @property
    def link(self) -> str:
        """The link that takes this along when it goes; "" if none does."""
        return ""

    @property
    def ours(self) -> bool:
        """Whether the object itself shows that we made it."""
        return False

    def covers(self, have: "Resource") -> bool:
        return self == have

    def released_by(self, have: "Resource") -> bool:
        """Whether what is there now is still what we put there, and so ours to take away."""
        return self.covers(have)

    def difference(self, have: Self) -> str:
        """What is wrong with `have`, in an admin's words."""
        return f"is {getattr(have, 'value', have) or 'none'!s}"

    def set_command(self, have: Self | None) -> str:
        """The shell command that brings the kernel from `have` to this."""
        raise NotImplementedError

    def unset_command(self) -> str:
        """The shell command that removes this."""
        raise NotImplementedError


@dataclass(frozen=True)
class NftTable(Resource):
    """A nft table of ours with its sets and chains; the elements are resources of their own."""

    family: str
    body: str = field(compare=False)
    rules: tuple[tuple[str, int], ...]
    """How many rules each chain holds: what a foreign flush of the table changes."""
    name: str = TABLE

    kind = "nft-table"
    rank = 0

    @property
    def key(self) -> str:
        return f"nft {self.family}" + ("" if self.name == TABLE else f" {self.name}")

    @property
    def order(self) -> float:
        # A chain at a link can't be made before the link.
        return Device.rank + 1 if self.family == "netdev" else self.rank

    @property
    def link(self) -> str:
        """The link whose frames the chains see: they go with it, the table does not."""
        return self.body.partition('device "')[2].partition('"')[0]

    @property
    def ours(self) -> bool:
        return True

    def difference(self, have: Self) -> str:
        there = dict(have.rules)
        wrong = [f"chain {name} has {there.get(name, 0)} of {n} rules" for name, n in self.rules if there.get(name) != n]
        return ", ".join(wrong) or "has chains that are not ours"

    def statement(self) -> str:
        # Added first so that the deletion can't fail: a table left over from a lost record must not keep its elements.
        name = f"{self.family} {self.name}"
        return f"add table {name}\ndelete table {name}\ntable {name} {{\n{self.body}\n}}\n"

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

    @property
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
class Device(Resource):
    """A link that we make. `fixed` are settings that it must be made anew for, `options` those that can be changed; both
    are (iproute2 word, value). `level` is how many declared links it stands on."""

    ifname: str
    type: str
    parent: str = ""
    fixed: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    alias: str = ALIAS
    level: int = field(default=0, compare=False)

    kind = "device"
    rank = 5
    composite = True

    @property
    def key(self) -> str:
        return f"device {self.ifname}"

    @property
    def order(self) -> float:
        return self.rank + self.level / 100

    @property
    def link(self) -> str:
        return self.ifname

    @property
    def ours(self) -> bool:
        return self.alias == ALIAS

    def covers(self, have: Resource) -> bool:
        return isinstance(have, Device) and have.ours and self.same_device(have) and set(self.options) <= set(have.options)

    def released_by(self, have: Resource) -> bool:
        return isinstance(have, Device) and have.ours

    def same_device(self, have: "Device") -> bool:
        """Whether `have` can become this by changing options."""
        return (self.type, self.parent, self.fixed) == (have.type, have.parent, have.fixed)

    def difference(self, have: Self) -> str:
        if not have.ours:
            return "is not ours: somebody else made it"
        mine, theirs = ({**dict(d.fixed), **dict(d.options), "link": d.parent} for d in (self, have))
        wrong = [f"{word} is {theirs.get(word, 'none')}" for word, value in mine.items() if theirs.get(word) != value]
        return ", ".join(wrong) or f"is a {have.type or 'plain interface'}"

    def _words(self, options: Iterable[tuple[str, str]]) -> str:
        return "".join(f" {word} {value}" for word, value in options)

    def set_command(self, have: Self | None) -> str:
        if have:
            changed = [option for option in self.options if option not in have.options]
            return f"ip link set {_dev(self.ifname)} type {self.type}{self._words(changed)}"
        parent = f"link {self.parent} " if self.parent else ""
        settings = self._words((*self.fixed, *self.options))
        return (
            f"ip link add {parent}name {self.ifname} type {self.type}{settings}\n"
            f"ip link set {_dev(self.ifname)} alias {shlex.quote(self.alias)}"
        )

    def unset_command(self) -> str:
        return f"ip link del {_dev(self.ifname)}"


@dataclass(frozen=True)
class LinkAttribute(Resource):
    """One attribute of a link: `mtu`, `address`, `master` ("" is none), `isolated` (on|off), `lladdr` (the link-local
    addresses, comma-separated, each with /64), `primary` (of a bond; "" is none), `tx` (checksums by the device: on|off),
    `state` (up|down).

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
        "primary": 25,
        "tx": 28,
        "state": 30,
    }

    @property
    def key(self) -> str:
        return f"link {self.ifname} {self.name}"

    @property
    def order(self) -> float:
        return self.ORDER[self.name]

    @property
    def link(self) -> str:
        return self.ifname

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
            case "primary":
                return f"ip link set {_dev(self.ifname)} type bond primary {self.value or shlex.quote('')}"
            case "tx":
                return f"ethtool -K {self.ifname} tx {self.value}"
            case "lladdr":
                old = have.addresses if have else set()
                lines = [f"ip -6 addr add {a} {_dev(self.ifname)} nodad" for a in sorted(self.addresses - old)]
                lines += [f"ip -6 addr del {a} {_dev(self.ifname)}" for a in sorted(old - self.addresses)]
                return "\n".join(lines)
        return f"ip link set {_dev(self.ifname)} {self.name} {self.value}"

    def unset_command(self) -> str:
        # Of a link that we made, or `isolated`, which only a port of a bridge has: before, there was nothing.
        if self.name == "master":
            return f"ip link set {_dev(self.ifname)} nomaster"
        return f"bridge link set {_dev(self.ifname)} isolated off"


@dataclass(frozen=True)
class FdbEntry(Resource):
    """A MAC address that a bridge takes for its own (`self permanent`): frames to it go to the host, and to no port."""

    ifname: str
    lladdr: str

    kind = "fdb"
    rank = 26

    @property
    def key(self) -> str:
        return f"fdb {self.ifname} {self.lladdr}"

    @property
    def link(self) -> str:
        return self.ifname

    def set_command(self, have: Self | None) -> str:
        return f"bridge fdb replace {self.lladdr} {_dev(self.ifname)} self permanent"

    def unset_command(self) -> str:
        return f"bridge fdb del {self.lladdr} {_dev(self.ifname)} self permanent"


@dataclass(frozen=True)
class PortVlans(Resource):
    """The VLANs of a port of a VLAN-aware bridge, and no others: `untagged` is its PVID (0: none), `tagged` ranges as
    `10,20-30`. With `own` the bridge itself is meant, as the host's port."""

    ifname: str
    untagged: int
    tagged: str
    own: bool = False

    kind = "vlans"
    rank = 27
    composite = True

    @property
    def key(self) -> str:
        return f"vlans {self.ifname}"

    @property
    def link(self) -> str:
        return self.ifname

    def difference(self, have: Self) -> str:
        return f"has untagged {have.untagged or 'none'}, tagged {have.tagged or 'none'}"

    def commands(self, have: Self | None) -> list[tuple[str, str, bool]]:
        """(add|del, VID or range, untagged) from `have` to this."""
        steps = []
        if have and have.untagged and have.untagged != self.untagged:
            steps.append(("del", str(have.untagged), False))
        old = numbers(have.tagged) if have else set()
        new = numbers(self.tagged)
        steps += [("del", text, False) for text in ranges(old - new - {self.untagged}).split(",") if text]
        steps += [("add", text, False) for text in ranges(new - old).split(",") if text]
        if self.untagged and (have is None or have.untagged != self.untagged):
            steps.append(("add", str(self.untagged), True))
        return steps

    def _lines(self, steps: Iterable[tuple[str, str, bool]]) -> str:
        own = " self" if self.own else ""
        lines = [f"bridge vlan {v} {_dev(self.ifname)} vid {t}{' pvid untagged' if u else ''}{own}" for v, t, u in steps]
        return "\n".join(lines)

    def set_command(self, have: Self | None) -> str:
        return self._lines(self.commands(have))

    def unset_command(self) -> str:
        return self._lines(PortVlans(self.ifname, 0, "").commands(self))


@dataclass(frozen=True)
class Adoption(Resource):
    """A bridge that stands in for one of its ports: the port joins it, and what the host had on the port moves to the bridge
    in one go. Every item is the words of `ip addr`, `ip route` or `ip neigh`, with {dev} for the link, the object's own
    identity first; a sysctl is `net/ipv4/conf/{dev}/rp_filter=1`, for what on the port is unlike the default."""

    ifname: str
    bridge: str
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    ipv6: bool = False
    """Whether the port had IPv6 on: as a port it must not."""
    master: str = field(default="", compare=False)
    """The bridge that the port is in now."""

    kind = "adoption"
    rank = 34
    composite = True

    @property
    def key(self) -> str:
        return f"adoption {self.ifname}"

    def covers(self, have: Resource) -> bool:
        return isinstance(have, Adoption) and have.master == self.bridge and not self._lacking(have)

    def released_by(self, have: Resource) -> bool:
        return True

    def _lacking(self, have: "Adoption") -> list[str]:
        """What the bridge does not have."""
        mine, theirs = ((*r.addresses, *r.routes, *r.neighbours) for r in (self, have))
        return [item for item in mine if item not in theirs]

    def difference(self, have: Self) -> str:
        if have.master != self.bridge:
            return f"is in {have.master or 'no bridge'}, not in {self.bridge}"
        return f"{self.bridge} lacks {', '.join(self._lacking(have)).format(dev=self.bridge)}"

    def commands(self, to_bridge: bool) -> tuple[list[str], list[str]]:
        """The switch as words for `ip`: what must succeed, and what may have happened by itself. The new link has the
        addresses before the old one loses them: a connection never sees a host without them."""
        old, new = (self.ifname, self.bridge) if to_bridge else (self.bridge, self.ifname)
        must = [f"addr replace {item} dev {new}" for item in self.addresses]
        must.insert(
            0 if not to_bridge else len(must), f"link set dev {self.ifname} " + (f"master {new}" if to_bridge else "nomaster")
        )
        must += [f"route replace {item}" for item in self.routes]
        must += [f"neigh replace {item} dev {new}" for item in self.neighbours]
        may = [f"neigh del {item.partition(' lladdr')[0]} dev {old}" for item in self.neighbours]
        # Last: as long as the old link has one, the switch is not over.
        may += [f"addr del {item.split()[0]} dev {old}" for item in self.addresses]
        return [line.format(dev=new) for line in must], may

    def sysctl_writes(self, to_bridge: bool) -> list[tuple[str, str]]:
        """(path, value) before the switch. The port's IPv6 goes off after it: that takes its addresses."""
        if not to_bridge:
            return [(f"net/ipv6/conf/{self.ifname}/disable_ipv6", "0")] if self.ipv6 else []
        pairs = (item.format(dev=self.bridge).partition("=") for item in self.sysctls)
        return [(path, value) for path, _, value in pairs]

    def _script(self, to_bridge: bool) -> str:
        must, may = self.commands(to_bridge)
        lines = [f"sysctl -qw {path}={value}" for path, value in self.sysctl_writes(to_bridge)]
        lines += [f"ip {line}" for line in must] + [f"ip {line} 2>/dev/null || :" for line in may]
        if to_bridge and self.ipv6:
            lines.append(f"sysctl -qw net/ipv6/conf/{self.ifname}/disable_ipv6=1")
        return "\n".join(lines)

    def set_command(self, have: Self | None) -> str:
        return self._script(to_bridge=True)

    def unset_command(self) -> str:
        return self._script(to_bridge=False)


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
        return f"{_ip(self.address)} addr add {self.address}{broadcast} {_dev(self.ifname)}" + (
            " nodad" if ":" in self.address else ""
        )

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

    @property
    def link(self) -> str:
        return self.ifname

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

    @property
    def link(self) -> str:
        return self.ifname

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
    src: str = ""
    """The preferred source address; "" leaves it to the kernel."""

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
        return f"{dst}{via} {_dev(self.dev)} table {self.table} proto {self.proto}{src}{onlink}"

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
