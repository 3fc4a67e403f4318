"""Links that we make, and attributes of links, of ours and of others."""

import shlex
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from ..resource import ALIAS, IFB, Keys, OnLink, Resource, cached, dev

IFB_INDEX = 7761262
"""The ifindex, always the same: rules of nft name a link by its index, and must not need another one when it is made again. The
kernel gives such numbers to no link by itself."""

IFB_MAC = "02:00:00:00:00:86"
"""No frame has it. One that the kernel made up would be another each time, and udev would replace it."""

IFB_QUEUES = 8
"""Queues to send by. Flows are spread over them."""

IFB_QUEUE_LENGTH = 1000
"""Packets. The kernel's default for an ifb is 32, which a burst of one guest fills."""

SHUT = "shut"
"""The state of a port that is up, and that `guard` has disabled."""

KERNEL_LINK_LOCAL = 3
"""The mark (IFA_PROTO) of a link-local address that the kernel generates."""


@dataclass(frozen=True)
class Device(Resource):
    """A link that we make. `fixed` are settings that only a new link can have, `options` those that can be changed; both are
    (iproute2 word, value). `level` is the number of declared links below it."""

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
    marked = True

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname)

    @staticmethod
    def key_of(ifname: str) -> str:
        return f"device {ifname}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(exact=(cls.key_of(ifname),))

    @property
    def order(self) -> float:
        return self.rank + self.level / 100

    @property
    def link(self) -> str:
        return self.ifname

    @property
    def ours(self) -> bool:
        return self.alias == ALIAS

    @property
    def has_ports(self) -> bool:
        """Whether other links can be its ports."""
        return self.type in ("bridge", "bond")

    @property
    def takes_guests(self) -> bool:
        """Whether guests' taps can be its ports."""
        return self.type == "bridge"

    def covers(self, have: Resource) -> bool:
        return isinstance(have, Device) and have.ours and self.same_device(have) and set(self.options) <= set(have.options)

    @property
    def goes_with_link(self) -> bool:
        return False

    @property
    def takes_along(self) -> bool:
        return True

    def conflict(self, have: Self) -> str:
        what = have.type or "plain interface"
        text = f"link {have.ifname} exists already and is not ours ({what}); remove it, or choose another name"
        return "" if have.ours else text

    def vacated(self, want: Self, gone: Container[str]) -> Self | None:
        return None if self.ifname in gone else self

    def released_by(self, have: Self, keys: Container[str] = ()) -> bool:
        return have.ours

    def same_device(self, have: "Device") -> bool:
        """Whether `have` can become this by changing options."""
        return (self.type, self.parent, self.fixed) == (have.type, have.parent, have.fixed)

    def difference(self, have: Self) -> str:
        if not have.ours:
            return "is not ours: another program made it"
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
class Ifb(Resource):
    """The one ifb of the host, on which the kernel finishes the checksums of what guests send. What is sent to it comes back to
    where it was received. A device that computes no checksums (`tx` off) makes the kernel compute them before it gets a frame."""

    index: int = IFB_INDEX
    type: str = "ifb"
    alias: str = ALIAS
    tx: str = "off"
    state: str = "up"

    kind = "ifb"
    rank = 5
    composite = True
    marked = True

    @cached
    def key(self) -> str:
        return f"ifb {IFB}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(exact=(f"ifb {ifname}",))

    @property
    def ours(self) -> bool:
        return self.alias == ALIAS

    @property
    def is_made(self) -> bool:
        """Whether the link is the one that is wanted, apart from settings that can be changed."""
        return (self.index, self.type, self.alias) == (IFB_INDEX, "ifb", ALIAS)

    def conflict(self, have: Self) -> str:
        return "" if have.ours else f"link {IFB} exists already and is not ours; remove it: ip link del {IFB}"

    def released_by(self, have: Self, keys: object = ()) -> bool:
        return have.ours

    def difference(self, have: Self) -> str:
        mine, theirs = vars(self), vars(have)
        return ", ".join(f"{name} is {theirs[name]}" for name in ("index", "type", "tx", "state") if mine[name] != theirs[name])

    def remedy(self, have: Self | None) -> str:
        return "vmnet-hook repair"

    def set_command(self, have: Self | None) -> str:
        lines = []
        if have and not have.is_made:
            lines.append(self.unset_command())
        if not (have and have.is_made):
            made = f"index {IFB_INDEX} address {IFB_MAC} txqueuelen {IFB_QUEUE_LENGTH} numtxqueues {IFB_QUEUES}"
            lines.append(f"ip link add name {IFB} {made} type ifb")
            lines.append(f"ip link set {dev(IFB)} alias {ALIAS}")
            # It has nothing to say itself. The kernel may have no IPv6.
            lines.append(f"sysctl -qwe net/ipv6/conf/{IFB}/addr_gen_mode=1")
        if not (have and have.is_made) or have.tx != self.tx:
            lines.append(f"ethtool -K {IFB} tx {self.tx}")
        return "\n".join([*lines, f"ip link set {dev(IFB)} {self.state}"])

    def unset_command(self) -> str:
        return f"ip link del {dev(IFB)}"


@dataclass(frozen=True)
class LinkAttribute(OnLink):
    """One attribute of a link: `mtu`, `address`, `group` (a number), `master` ("" is none), `isolated`, `guard`, `hairpin` and
    `learning` (of a port: on|off; with learning off, the bridge takes no MAC from what comes from it), `lladdr` (the link-local
    addresses, comma-separated, each with /64, followed by ` proto MARK` unless the kernel generates it),
    `primary` (of a bond; "" is none), `tx` (checksums by the device: on|off), `promisc` (on|off),
    `fdb_max_learned` (of a bridge; 0: no limit),
    `no_linklocal_learn` (of a bridge; 1: it learns no MAC from frames to 01:80:c2:00:00:0x, which bypass its filters),
    `state` (up|down; as read, also SHUT).

    With `stays`, clean-up leaves the attribute as it is."""

    name: str
    value: str
    stays: bool = field(default=False, compare=False)

    kind = "link"
    word = "link"
    rank = 20
    setting = True
    ORDER: ClassVar[Mapping[str, int]] = {
        "mtu": 20,
        "no_linklocal_learn": 20,
        "group": 20,
        "fdb_max_learned": 20,
        "address": 21,
        "master": 22,
        "isolated": 23,
        "guard": 23,
        "hairpin": 23,
        "learning": 23,
        "lladdr": 24,
        "primary": 25,
        "tx": 28,
        "promisc": 28,
        "state": 30,
    }

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname, self.name)

    @property
    def order(self) -> float:
        return self.ORDER[self.name]

    @property
    def addresses(self) -> dict[str, int]:
        """The addresses of `lladdr`, each with the mark of its maker."""
        items = (item.partition(" proto ") for item in self.value.split(",") if item)
        return {address: int(mark or KERNEL_LINK_LOCAL) for address, _, mark in items}

    @staticmethod
    def spelled(addresses: Mapping[str, int]) -> str:
        """The inverse of `addresses`."""
        return ",".join(a if mark == KERNEL_LINK_LOCAL else f"{a} proto {mark}" for a, mark in sorted(addresses.items()))

    @property
    def goes_with_link(self) -> bool:
        # A bridge is removed only after its ports have left it.
        return self.name != "master"

    @property
    def goes_down_with_link(self) -> bool:
        return self.name == "lladdr"

    @property
    def takes_along(self) -> bool:
        return self.name == "master"

    @property
    def goes_with_master(self) -> bool:
        return self.name in ("isolated", "guard", "hairpin", "learning")

    def vacated(self, want: Self, gone: Container[str]) -> Self | None:
        leaves = self.name == "master" and self.value in gone and self.ifname not in gone
        return replace(self, value="") if leaves else self

    def released_by(self, have: Self, keys: Container[str] = ()) -> bool:
        # The kernel sets a port down that leaves a bond: that is no change of an admin's.
        return self.covers(have) or have.value == SHUT or (self.name == "state" and self.key_of(self.ifname, "master") in keys)

    def restorable(self, made: Container[str]) -> bool:
        # A link that an admin has set down stays down, unless it is made again.
        return not self.stays and (self.name != "state" or self.ifname in made)

    def covers(self, have: Resource) -> bool:
        if self.name == "lladdr" and self.value and isinstance(have, LinkAttribute):
            # During a change the link has old and new addresses; a process killed there leaves both.
            return self.addresses.keys() <= have.addresses.keys()
        return self == have

    def difference(self, have: Self) -> str:
        return "its bridge has shut the port, as a BPDU came from it" if have.value == SHUT else super().difference(have)

    def set_command(self, have: Self | None) -> str:
        match self.name:
            case "state":
                again = f"ip link set {dev(self.ifname)} down && " if have and have.value == SHUT else ""
                return f"{again}ip link set {dev(self.ifname)} {'up' if self.value == SHUT else self.value}"
            case "master":
                return f"ip link set {dev(self.ifname)} " + (f"master {self.value}" if self.value else "nomaster")
            case "isolated" | "guard" | "hairpin" | "learning":
                return f"bridge link set {dev(self.ifname)} {self.name} {self.value}"
            case "primary":
                return f"ip link set {dev(self.ifname)} type bond primary {self.value or shlex.quote('')}"
            case "no_linklocal_learn" | "fdb_max_learned":
                return f"ip link set {dev(self.ifname)} type bridge {self.name} {self.value}"
            case "tx":
                return f"ethtool -K {self.ifname} tx {self.value}"
            case "lladdr":
                # Without the mark: the `ip` of Debian 12 cannot set it.
                new, old = set(self.addresses), set(have.addresses if have else ())
                lines = [f"ip -6 addr add {a} {dev(self.ifname)} nodad" for a in sorted(new - old)]
                lines += [f"ip -6 addr del {a} {dev(self.ifname)}" for a in sorted(old - new)]
                return "\n".join(lines)
        return f"ip link set {dev(self.ifname)} {self.name} {self.value}"

    @property
    def without(self) -> str | None:
        """The value of what had none before: of the master and the limit of a link that we made, and of the flags that only ports
        have, those that a port begins with. None for all others."""
        begins = {"master": "", "isolated": "off", "guard": "off", "hairpin": "off", "learning": "on", "fdb_max_learned": "0"}
        return begins.get(self.name)

    def unset_command(self) -> str:
        if self.name == "master":
            return f"ip link set {dev(self.ifname)} nomaster"
        if self.name == "fdb_max_learned":
            return f"ip link set {dev(self.ifname)} type bridge fdb_max_learned 0"
        return f"bridge link set {dev(self.ifname)} {self.name} {self.without}"
