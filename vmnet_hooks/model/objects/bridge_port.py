"""What a bridge has beyond other links: entries of its forwarding database, VLANs of its ports."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from ...values import numbers, ranges
from ..resource import Keys, Resource, dev


@dataclass(frozen=True)
class FdbEntry(Resource):
    """A MAC address that a bridge takes for its own (`self permanent`): frames to it go to the host and to no port."""

    ifname: str
    lladdr: str

    kind = "fdb"
    rank = 26

    @cached_property
    def key(self) -> str:
        return self.key_of(self.ifname, self.lladdr)

    @staticmethod
    def key_of(ifname: str, lladdr: str) -> str:
        return f"fdb {ifname} {lladdr}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(starts=(cls.key_of(ifname, ""),))

    @property
    def link(self) -> str:
        return self.ifname

    def set_command(self, have: Self | None) -> str:
        return f"bridge fdb replace {self.lladdr} {dev(self.ifname)} self permanent"

    def unset_command(self) -> str:
        return f"bridge fdb del {self.lladdr} {dev(self.ifname)} self permanent"


@dataclass(frozen=True)
class PortVlans(Resource):
    """All VLANs of a port of a VLAN-aware bridge: `untagged` is its PVID (0: none), `tagged` are ranges, as `10,20-30`.
    With `own` they are those of the bridge itself, as the host's port."""

    ifname: str
    untagged: int
    tagged: str
    own: bool = False

    kind = "vlans"
    rank = 27
    composite = True

    @cached_property
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
