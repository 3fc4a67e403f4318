"""What all kernel objects that we set up have in common, and the marks by which we recognise our own."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

PROTO = 86
"""Our number in rt_protos. Every route and rule of ours carries it, so that they are recognised without records."""

MAIN_TABLE = 254
TABLE = "vmnet"
"""The name of our nft table in each family. A table for a single link (family netdev) has `-` and the link's name after it."""

NAT_TABLE = f"{TABLE}-nat"
"""Of family inet, with the chain of NAT. Where such a chain exists the kernel tracks every connection of the host."""
NAT_SETS = ("masquerade", "private", "snat")
"""The starts of the names of its sets."""

ALIAS = "vmnet-hooks"
"""The ifalias of every link that we made."""


def dev(ifname: str) -> str:
    return f"dev {ifname}"


def ip(words: str) -> str:
    return "ip -6" if ":" in words else "ip"


class Keys(NamedTuple):
    """Keys of the records, and starts of keys."""

    exact: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resource:
    """A kernel object. `rank` orders set-up (ascending) and clean-up (descending). A class writes the formula of its key once,
    as `key_of`."""

    kind: ClassVar[str]
    rank: ClassVar[int]
    composite: ClassVar[bool] = False
    """Whether a step of it can be half done: then undo restores it whatever it finds."""
    hides: ClassVar[bool] = False
    """Whether half of its removal may be done and reading does not show it."""
    moves: ClassVar[bool] = False
    """Whether it moves what others made: its removal moves that back, and there is no original to restore."""
    setting: ClassVar[bool] = False
    """Whether it exists as long as its link does, with one value or another."""
    batched: ClassVar[bool] = False
    """Whether neighbouring changes are applied in one transaction of the kernel's."""
    marked: ClassVar[bool] = False
    """Whether an object of ours carries a mark, by which the kernel edge finds it without records."""

    @cached_property
    def key(self) -> str:
        """The object's identity in the kernel: the records' key, a line of text."""
        raise NotImplementedError

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        """The keys of all objects of this kind on a link, where keys name the link."""
        return Keys()

    @property
    def order(self) -> float:
        return self.rank

    @property
    def link(self) -> str:
        """The link whose removal removes this too; "" if there is none."""
        return ""

    @property
    def ours(self) -> bool:
        """Whether the object carries a mark of ours."""
        return self.marked

    @property
    def stays(self) -> bool:
        """Whether it is left as it is when nothing needs it any more."""
        return False

    @property
    def stands(self) -> bool:
        """Whether the recorded value holds for as long as it is claimed, whatever is wanted by now."""
        return False

    @property
    def goes_with_link(self) -> bool:
        """Whether there is nothing to remove once its link is gone."""
        return True

    @property
    def goes_down_with_link(self) -> bool:
        """Whether the kernel removes it when its link is set down."""
        return False

    @property
    def takes_along(self) -> bool:
        """Whether its removal removes, or resets, objects that no change of the plan names."""
        return False

    def covers(self, have: "Resource") -> bool:
        return self == have

    def conflict(self, have: Self) -> str:
        """Why `have`, found at this key, must not be replaced, and the remedy; "" if it may be."""
        return ""

    def vacated(self, want: Self, gone: Container[str]) -> "Self | None":
        """What remains of this after it has made room for `want`; this itself if it is not in the way. `gone` are the links that
        the plan removes."""
        return self

    def leaves_with(self, links: Container[str]) -> bool:
        """Whether the kernel removes it along with addresses of these links."""
        return False

    def released_by(self, have: Self, keys: Container[str] = ()) -> bool:
        """Whether `have` is still what we put there, and so ours to remove; `keys` are those that are released with it."""
        return self.covers(have)

    def restorable(self, made: Container[str]) -> bool:
        """Whether the agent may set it again; `made` are links that it makes again in the same go."""
        return True

    def difference(self, have: Self) -> str:
        """What is wrong with `have`, in an admin's words."""
        return f"is {getattr(have, 'value', have) or 'none'!s}"

    def remedy(self, have: Self | None) -> str:
        """What `repair` does to get from `have` to this, for the admin."""
        return self.set_command(have)

    def set_command(self, have: Self | None) -> str:
        """The shell command that brings the kernel from `have` to this."""
        raise NotImplementedError

    def unset_command(self) -> str:
        """The shell command that removes this."""
        raise NotImplementedError


@dataclass(frozen=True)
class OnLink(Resource):
    """An object of which a link may have several. `word` begins the keys of its kind."""

    word: ClassVar[str]
    ifname: str

    @classmethod
    def key_of(cls, ifname: str, what: str) -> str:
        return f"{cls.word} {ifname} {what}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(starts=(cls.key_of(ifname, ""),))

    @property
    def link(self) -> str:
        return self.ifname


State = Mapping[str, Resource]
"""Resources by key: those that exist, or those that are wanted."""
