"""What a bridge has beyond other links: entries of its forwarding database, VLANs of its ports, and what it takes over from a
port."""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace
from typing import Self

from ...values import host, numbers, ranges
from ..resource import MAIN_TABLE, PROTO, Keys, OnLink, Resource, cached, dev
from .address import Address
from .link import LinkAttribute
from .route import Route
from .sysctl import Sysctl


@dataclass(frozen=True)
class FdbEntry(OnLink):
    """A MAC address that a bridge takes for its own (`self permanent`): frames to it go to the host and to no port."""

    lladdr: str

    kind = "fdb"
    word = "fdb"
    rank = 26

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname, self.lladdr)

    def set_command(self, have: Self | None) -> str:
        return f"bridge fdb replace {self.lladdr} {dev(self.ifname)} self permanent"

    def unset_command(self) -> str:
        return f"bridge fdb del {self.lladdr} {dev(self.ifname)} self permanent"


@dataclass(frozen=True)
class PortMac(OnLink):
    """A guest's MAC at its port, in each of the port's `vlans` (ranges; "" on a bridge that is not VLAN-aware): `static sticky`,
    so that no frame of another port moves it there. What is merely `static` moves.

    As read, `state` may be `static` (another program's entry at the same port), and `elsewhere` the link that the bridge has an
    entry of the MAC at that it has not learnt: another's, or the link's own."""

    lladdr: str
    vlans: str = ""
    state: str = "sticky"
    elsewhere: str = ""

    kind = "port-mac"
    word = "port-mac"
    # A port has VLANs before it has entries in them, and loses the entries before.
    rank = 29
    composite = True

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname, self.lladdr)

    @property
    def vids(self) -> list[int]:
        """The VLANs by number; 0 is none."""
        return sorted(numbers(self.vlans)) or [0]

    def conflict(self, have: Self) -> str:
        text = f"MAC {self.lladdr} has an entry at {have.elsewhere} in the same bridge; give the NIC another MAC, or remove that"
        return f"{text}: bridge fdb del {self.lladdr} dev {have.elsewhere} master" if have.elsewhere else ""

    def vacated(self, want: Self, gone: Container[str]) -> Self | None:
        # The kernel deletes no entry in a VLAN that the port is not in any more.
        kept = numbers(self.vlans) & numbers(want.vlans)
        if self.elsewhere or len(kept) == len(numbers(self.vlans)):
            return self
        return replace(self, vlans=ranges(kept)) if kept else None

    def difference(self, have: Self) -> str:
        if have.elsewhere:
            return f"the bridge has it at {have.elsewhere}"
        return f"is {have.state}, in VLANs {have.vlans}" if have.vlans else f"is {have.state}: another port can take it over"

    def set_command(self, have: Self | None) -> str:
        # Without a VLAN: in each that the port has.
        state = "static sticky" if self.state == "sticky" else self.state
        lines = [f"bridge fdb replace {self.lladdr} {dev(self.ifname)} master {state}"]
        gone = sorted(numbers(have.vlans) - numbers(self.vlans)) if have else ()
        return "\n".join([*lines, *(f"bridge fdb del {self.lladdr} {dev(self.ifname)} master vlan {vid}" for vid in gone)])

    def unset_command(self) -> str:
        return f"bridge fdb del {self.lladdr} {dev(self.ifname)} master"


@dataclass(frozen=True)
class PortVlans(Resource):
    """All VLANs of a port of a VLAN-aware bridge: `untagged` is its PVID (0: none), `tagged` are ranges, as `10,20-30`.
    With `own` they are those of the bridge itself, as the host's port."""

    ifname: str
    untagged: int
    tagged: str
    own: bool = False
    adopted: bool = field(default=False, compare=False)
    """Whether the port joins the bridge by an adoption."""

    kind = "vlans"
    rank = 27
    composite = True
    later = frozenset(("adopted",))

    @property
    def order(self) -> float:
        # A port has VLANs only in a bridge.
        return Adoption.rank + 0.5 if self.adopted else self.rank

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname)

    @staticmethod
    def key_of(ifname: str) -> str:
        return f"vlans {ifname}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(exact=(cls.key_of(ifname),))

    @property
    def link(self) -> str:
        return self.ifname

    def difference(self, have: Self) -> str:
        return f"has untagged {have.untagged or 'none'}, tagged {have.tagged or 'none'}"

    def commands(self, have: Self | None) -> list[tuple[str, str, bool]]:
        """The steps from `have` to this, as (add|del, VID or range, untagged)."""
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
    """A bridge or bond that stands in for one of its ports: the port joins it (or a bond that is its port), and what the host
    had on the port moves to `bridge` in one step. An item is the words of `ip addr`, `ip route` or `ip neigh`, with {dev}
    for the link and the object's identity first; a sysctl, as `net/ipv4/conf/{dev}/rp_filter=1`, is listed where the
    port's value is not the default."""

    ifname: str
    bridge: str
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    ipv6: bool = False
    """Whether the port had IPv6 enabled; a port must not."""
    master: str = field(default="", compare=False)
    """The link whose port it is now."""
    bond: str = ""
    """The bond that the port joins, which takes only ports that are down; "" if it joins `bridge`, a bridge, itself."""

    kind = "adoption"
    rank = 34
    composite = True
    hides = True
    moves = True
    later = frozenset(("bond",))

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname)

    @staticmethod
    def key_of(ifname: str) -> str:
        return f"adoption {ifname}"

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.ifname,)

    @property
    def takes_along(self) -> bool:
        return True

    @property
    def joins(self) -> str:
        """The link whose port the port becomes."""
        return self.bond or self.bridge

    def covers(self, have: Resource) -> bool:
        return isinstance(have, Adoption) and have.master == self.joins and not self._lacking(have)

    def vacated(self, want: Self, gone: Container[str]) -> Self | None:
        return self if self.bridge == want.bridge else None

    def released_by(self, have: Self, keys: Container[str] = ()) -> bool:
        return True

    def restorable(self, made: Container[str]) -> bool:
        # The port's addresses may be newer than the record: DHCP.
        return False

    @staticmethod
    def is_ours(item: str) -> bool:
        """Whether we put an item there for guests: a route with our protocol number, or an entry of proxy ARP or ND."""
        return f" proto {PROTO} " in f"{item} " or item.startswith("proxy ")

    def plus(self, late: "Adoption") -> "Adoption":
        """Return this, extended by what has appeared on the port since."""
        return replace(
            self,
            addresses=tuple(dict.fromkeys((*self.addresses, *late.addresses))),
            routes=tuple(dict.fromkeys((*self.routes, *late.routes))),
            neighbours=tuple(dict.fromkeys((*self.neighbours, *late.neighbours))),
        )

    @property
    def gateways(self) -> list[str]:
        """The gateways of its default routes, in any table."""
        return list(dict.fromkeys(filter(None, map(_gateway, self.routes))))

    def is_joined_by(self, resource: Resource) -> bool:
        """Whether a resource makes the port, without an adoption, a port of the same link."""
        return resource == LinkAttribute(self.ifname, "master", self.joins)

    @property
    def port_before(self) -> list[Resource]:
        """The port's settings before this that a port without an adoption has as resources of their own."""
        ipv6 = Sysctl(f"net/ipv6/conf/{self.ifname}/disable_ipv6", "0")
        return [LinkAttribute(self.ifname, "master", ""), *([ipv6] if self.ipv6 else [])]

    def has(self, resource: Resource) -> bool:
        """Whether a resource of a bridge that does not adopt its port is a part of this."""
        match resource:
            case Address():
                return resource.ifname == self.bridge and resource.address in map(address_of, self.addresses)
            case Route():
                return resource.dev == self.bridge and _way_of(resource) in map(_way, self.routes)
        return self.is_joined_by(resource) or resource.key in {before.key for before in self.port_before}

    def beyond(self, addresses: Container[str], routes: Iterable[Route]) -> list[str]:
        """Return what of this a link with these addresses and routes would not have."""
        ways = set(map(_way_of, routes))
        return [
            *(address for address in map(address_of, self.addresses) if address not in addresses),
            *(f"route {item.partition(' dev ')[0]}" for item in self.routes if _way(item) not in ways),
        ]

    def _lacking(self, have: "Adoption") -> list[str]:
        """What the bridge does not have."""
        mine, theirs = ((*r.addresses, *r.routes, *r.neighbours) for r in (self, have))
        return [item for item in mine if item not in theirs]

    def difference(self, have: Self) -> str:
        if have.master != self.joins:
            return f"is in {have.master or 'no bridge'}, not in {self.joins}"
        return f"{self.bridge} lacks {', '.join(self._lacking(have)).format(dev=self.bridge)}"

    def remedy(self, have: Self | None) -> str:
        return "vmnet-hook repair"

    def commands(self, to_bridge: bool) -> tuple[list[str], list[str]]:
        """The switch as words for `ip`: those that must succeed, and those that the kernel may have done already. The new link
        gets the addresses before the old one loses them, so that the host always has them."""
        old, new = (self.ifname, self.bridge) if to_bridge else (self.bridge, self.ifname)
        must = [f"addr replace {item} dev {new}" for item in self.addresses]
        port = f"link set dev {self.ifname}"
        if not to_bridge:
            # A bond sets a port down that it lets go.
            must = [f"{port} nomaster", f"{port} up", *must]
        elif self.bond:
            must += [f"{port} down", f"{port} master {self.bond}", f"{port} up"]
        else:
            # It may leave a bond.
            must += [f"{port} master {new}", f"{port} up"]
        must += [f"route replace {item}" for item in self.routes]
        must += [f"neigh replace {item} dev {new}" for item in self.neighbours]
        may = [f"neigh del {item.partition(' lladdr')[0]} dev {old}" for item in self.neighbours]
        # Last: while the old link has an address, the switch is not complete.
        may += [f"addr del {item.split()[0]} dev {old}" for item in self.addresses]
        return [line.format(dev=new) for line in must], may

    def sysctl_writes(self, to_bridge: bool) -> list[tuple[str, str]]:
        """What is written before the switch, as (path, value). IPv6 on the port is disabled after it, as that removes its
        addresses."""
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


def address_of(item: str) -> str:
    """The address of an item, as Address has it."""
    words = item.split()
    return " ".join(words[:3]) if words[1:2] == ["peer"] else words[0]


def _way(item: str) -> tuple[int, str, str]:
    """The table, destination and gateway of a route."""
    words = item.split()
    values = dict(zip(words, words[1:], strict=False))
    dst = words[0] if "/" in words[0] or ":" not in words[0] and "." not in words[0] else host(words[0])
    return int(values.get("table", MAIN_TABLE)), dst, values.get("via", "")


def _way_of(route: Route) -> tuple[int, str, str]:
    return route.table, route.dst, route.via


def _gateway(route: str) -> str:
    """The gateway of a default route; "" if the route is none, or has none."""
    _, dst, via = _way(route)
    # `via inet6 fe80::1` is an IPv4 route through an IPv6 neighbour.
    return via if dst in ("0.0.0.0/0", "::/0") and via not in ("inet", "inet6") else ""
