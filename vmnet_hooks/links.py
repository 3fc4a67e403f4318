"""Links as data: those that we make, the attributes of all, and what a bridge has beyond other links. Pure."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

from .resource import ALIAS, PROTO, Resource, dev
from .values import numbers, ranges


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

    @cached_property
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
            return f"ip link set {dev(self.ifname)} type {self.type}{self._words(changed)}"
        parent = f"link {self.parent} " if self.parent else ""
        settings = self._words((*self.fixed, *self.options))
        return (
            f"ip link add {parent}name {self.ifname} type {self.type}{settings}\n"
            f"ip link set {dev(self.ifname)} alias {shlex.quote(self.alias)}"
        )

    def unset_command(self) -> str:
        return f"ip link del {dev(self.ifname)}"


@dataclass(frozen=True)
class LinkAttribute(Resource):
    """One attribute of a link: `mtu`, `address`, `master` ("" is none), `isolated` (on|off), `lladdr` (the link-local
    addresses, comma-separated, each with /64), `primary` (of a bond; "" is none), `tx` (checksums by the device: on|off),
    `no_linklocal_learn` (of a bridge: 1 is that it learns no MAC from frames to 01:80:c2:00:00:0x, which no filter of it sees),
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
        "no_linklocal_learn": 20,
        "address": 21,
        "master": 22,
        "isolated": 23,
        "lladdr": 24,
        "primary": 25,
        "tx": 28,
        "state": 30,
    }

    @cached_property
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
                return f"ip link set {dev(self.ifname)} {self.value}"
            case "master":
                return f"ip link set {dev(self.ifname)} " + (f"master {self.value}" if self.value else "nomaster")
            case "isolated":
                return f"bridge link set {dev(self.ifname)} isolated {self.value}"
            case "primary":
                return f"ip link set {dev(self.ifname)} type bond primary {self.value or shlex.quote('')}"
            case "no_linklocal_learn":
                return f"ip link set {dev(self.ifname)} type bridge no_linklocal_learn {self.value}"
            case "tx":
                return f"ethtool -K {self.ifname} tx {self.value}"
            case "lladdr":
                old = have.addresses if have else set()
                lines = [f"ip -6 addr add {a} {dev(self.ifname)} nodad" for a in sorted(self.addresses - old)]
                lines += [f"ip -6 addr del {a} {dev(self.ifname)}" for a in sorted(old - self.addresses)]
                return "\n".join(lines)
        return f"ip link set {dev(self.ifname)} {self.name} {self.value}"

    def unset_command(self) -> str:
        # Of a link that we made, or `isolated`, which only a port of a bridge has: before, there was nothing.
        if self.name == "master":
            return f"ip link set {dev(self.ifname)} nomaster"
        return f"bridge link set {dev(self.ifname)} isolated off"


@dataclass(frozen=True)
class FdbEntry(Resource):
    """A MAC address that a bridge takes for its own (`self permanent`): frames to it go to the host, and to no port."""

    ifname: str
    lladdr: str

    kind = "fdb"
    rank = 26

    @cached_property
    def key(self) -> str:
        return f"fdb {self.ifname} {self.lladdr}"

    @property
    def link(self) -> str:
        return self.ifname

    def set_command(self, have: Self | None) -> str:
        return f"bridge fdb replace {self.lladdr} {dev(self.ifname)} self permanent"

    def unset_command(self) -> str:
        return f"bridge fdb del {self.lladdr} {dev(self.ifname)} self permanent"


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

    @cached_property
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
        lines = [f"bridge vlan {v} {dev(self.ifname)} vid {t}{' pvid untagged' if u else ''}{own}" for v, t, u in steps]
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

    @cached_property
    def key(self) -> str:
        return f"adoption {self.ifname}"

    def covers(self, have: Resource) -> bool:
        return isinstance(have, Adoption) and have.master == self.bridge and not self._lacking(have)

    def released_by(self, have: Resource) -> bool:
        return True

    @staticmethod
    def is_ours(item: str) -> bool:
        """Whether an item is there for guests, put there by us: a route with our number, or an entry of proxy ARP or ND."""
        return f" proto {PROTO} " in f"{item} " or item.startswith("proxy ")

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
