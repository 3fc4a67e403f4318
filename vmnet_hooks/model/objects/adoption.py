"""A bridge that takes over what the host has on one of its ports."""

from collections.abc import Container
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from ..resource import PROTO, Resource


@dataclass(frozen=True)
class Adoption(Resource):
    """A bridge that stands in for one of its ports: the port joins it, and what the host had on the port moves to the bridge
    in one step. An item is the words of `ip addr`, `ip route` or `ip neigh`, with {dev} for the link and the object's identity
    first; a sysctl, as `net/ipv4/conf/{dev}/rp_filter=1`, is listed where the port's value is not the default."""

    ifname: str
    bridge: str
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    sysctls: tuple[str, ...] = ()
    ipv6: bool = False
    """Whether the port had IPv6 enabled; a port must not."""
    master: str = field(default="", compare=False)
    """The bridge that the port is in now."""

    kind = "adoption"
    rank = 34
    composite = True
    hides = True

    @cached_property
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

    def covers(self, have: Resource) -> bool:
        return isinstance(have, Adoption) and have.master == self.bridge and not self._lacking(have)

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

    def _lacking(self, have: "Adoption") -> list[str]:
        """What the bridge does not have."""
        mine, theirs = ((*r.addresses, *r.routes, *r.neighbours) for r in (self, have))
        return [item for item in mine if item not in theirs]

    def difference(self, have: Self) -> str:
        if have.master != self.bridge:
            return f"is in {have.master or 'no bridge'}, not in {self.bridge}"
        return f"{self.bridge} lacks {', '.join(self._lacking(have)).format(dev=self.bridge)}"

    def remedy(self, have: Self | None) -> str:
        return f"move it to {self.bridge}"

    def commands(self, to_bridge: bool) -> tuple[list[str], list[str]]:
        """The switch as words for `ip`: those that must succeed, and those that the kernel may have done already. The new link
        gets the addresses before the old one loses them, so that the host always has them."""
        old, new = (self.ifname, self.bridge) if to_bridge else (self.bridge, self.ifname)
        must = [f"addr replace {item} dev {new}" for item in self.addresses]
        must.insert(
            0 if not to_bridge else len(must), f"link set dev {self.ifname} " + (f"master {new}" if to_bridge else "nomaster")
        )
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
