"""What every kernel object that we set up has in common, and the marks by which we know our own."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

PROTO = 86
"""Our number in rt_protos: every route and rule of ours carries it, so that a process with no memory knows what is ours."""

MAIN_TABLE = 254
TABLE = "vmnet"
"""The name of our nft table in each family. A table for one link alone (family netdev) has `-` and the link's name after it."""

NAT_TABLE = f"{TABLE}-nat"
"""Of family inet, with the chain of NAT: wherever there is one, the kernel tracks every connection of the host."""
NAT_SETS = ("masquerade", "private", "snat")
"""How the names of its sets start."""

ALIAS = "vmnet-hooks"
"""The ifalias of every link that we made."""


def dev(ifname: str) -> str:
    return f"dev {ifname}"


def ip(words: str) -> str:
    return "ip -6" if ":" in words else "ip"


@dataclass(frozen=True)
class Resource:
    """A kernel object. `rank` orders set-up (ascending) and clean-up (descending)."""

    kind: ClassVar[str]
    rank: ClassVar[int]
    composite: ClassVar[bool] = False
    """Whether a step of it can be done by half: then it is taken back whatever is found of it."""

    @cached_property
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


State = Mapping[str, Resource]
"""What is, or shall be, there: resources by key."""
