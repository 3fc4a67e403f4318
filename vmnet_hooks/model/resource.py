"""The base class of kernel objects, and the marks by which we recognise our own."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

PROTO = 86
"""Our routing protocol number (rt_protos). Every route and rule of ours has it, so that we recognise them without records."""

MAIN_TABLE, LOCAL_TABLE = 254, 255
TABLE = "vmnet"
"""The name of our nft table in each family. For a table of a single link (family netdev), `-` and the link's name follow."""

NAT_TABLE = f"{TABLE}-nat"
"""The table with the NAT chain, of family inet. While such a chain exists, the kernel tracks every connection of the host."""
FORWARD_TABLE = f"{TABLE}-forward"
"""The table that forwards ports of the host's addresses to guests, of family inet. It makes the kernel track connections, too."""
FORWARD_MAPS = ("forward4", "forward6", "ranges4", "ranges6")
FORWARD_SETS = (*FORWARD_MAPS, "hairpins", "bridges", "elsewhere")
"""The names of its maps, and of all its sets."""
ANSWER_MARK = 0x08000000
"""The bit of a packet's mark (fwmark) by which a guest's answers on forwarded ports leave by the host's own routes."""
SENDERS_TABLE = f"{TABLE}-senders"
"""The table with the senders of ARP requests by subnet, of family arp."""
SHARES_TABLE = f"{TABLE}-shares"
"""What the names of tables begin with that limit the connections of guests, of family inet: `-` and the name of a NAT follow."""
WIRES_TABLE = f"{TABLE}-wires-between-guests"
"""The table with the ends of wires, of family netdev. No table of a link has that name: a link's has at most 15 characters."""
WIRE_ENDS, WIRE_MAPS = "ends", ("wires", "copies")
"""The name by which the chains of its ends are known, and the names of its maps."""
NAT_SETS = ("masquerade", "private", "snat")
"""The prefixes of the names of its sets of addresses."""
NAT_LINKS = ("natted", "translated4", "translated6", "admitted", "admitted_groups")
"""Its other sets."""

IFB = f"{TABLE}-ifb"
"""The link on which checksums are finished."""

ALIAS = "vmnet-hooks"
"""The ifalias of every link that we made."""


Value = TypeVar("Value")


class cached(Generic[Value]):  # noqa: N801
    """The same as functools.cached_property, without the lock that it takes before Python 3.12. A plug computes some 150."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type) -> Value:
        # Later look-ups find the value in the instance and do not come here.
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


def dev(ifname: str) -> str:
    return f"dev {ifname}"


def ip(words: str) -> str:
    return "ip -6" if ":" in words else "ip"


class Keys(NamedTuple):
    """Keys of records, and prefixes of keys."""

    exact: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resource:
    """A kernel object. Objects are set in ascending and removed in descending order of `rank`. Each class builds its keys in
    one place, `key_of`."""

    kind: ClassVar[str]
    rank: ClassVar[int]
    composite: ClassVar[bool] = False
    """Whether a step takes several requests to the kernel, so that it can be half done. It counts as undone only if the object
    equals the one before."""
    hides: ClassVar[bool] = False
    """Whether its removal can be half done without being visible when the object is read."""
    moves: ClassVar[bool] = False
    """Whether it moves objects of others: its removal moves them back, and there is no original to restore."""
    setting: ClassVar[bool] = False
    """Whether it is an attribute: it exists as long as its link does, and only its value changes."""
    batched: ClassVar[bool] = False
    """Whether adjacent changes are applied in one transaction of the kernel."""
    marked: ClassVar[bool] = False
    """Whether our objects carry a mark, by which the kernel edge finds them without records."""

    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that the first release did not have: while they are empty, a record leaves them out, so that a process of that
    release can read it."""

    @cached
    def key(self) -> str:
        """The object's identity in the kernel, a line of text. Also its key in the records."""
        raise NotImplementedError

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        """Return the keys of all objects of this kind on a link, if keys contain the link's name."""
        return Keys()

    @property
    def order(self) -> float:
        return self.rank

    @property
    def link(self) -> str:
        """The link whose removal removes this object too; "" if none."""
        return ""

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        """The nodes beside its link that may show it in a drawing of the host: names of links, subnets, numbers of routing
        tables."""
        return ()

    @property
    def ours(self) -> bool:
        """Whether the object carries our mark."""
        return self.marked

    @property
    def stays(self) -> bool:
        """Whether the object is left unchanged when no owner claims it any more."""
        return False

    @property
    def stands(self) -> bool:
        """Whether the recorded value stays in force as long as the key is claimed, even if a new composition differs."""
        return False

    @property
    def goes_with_link(self) -> bool:
        """Whether it needs no step of its own when the plan removes its link."""
        return True

    @property
    def goes_down_with_link(self) -> bool:
        """Whether the kernel removes it when its link is set down."""
        return False

    @property
    def takes_along(self) -> bool:
        """Whether its removal removes or resets objects that are not in the plan."""
        return False

    @property
    def goes_with_master(self) -> bool:
        """Whether the kernel forgets the object when the link leaves its master."""
        return False

    def covers(self, have: "Resource") -> bool:
        return self == have

    def conflict(self, have: Self) -> str:
        """Return why `have`, found at this key, must not be replaced, with the remedy; "" if it may be replaced."""
        return ""

    def vacated(self, want: Self, gone: Container[str]) -> "Self | None":
        """Return what remains of this object after it has made room for `want`; the object itself if it is not in the way.
        `gone` are the links that the plan removes."""
        return self

    def leaves_with(self, links: Container[str]) -> bool:
        """Return whether the kernel removes it with the addresses of these links."""
        return False

    def released_by(self, have: Self, keys: Container[str] = ()) -> bool:
        """Return whether `have` is still the value that we set, so that we may remove it. `keys` are released together with
        it."""
        return self.covers(have)

    def restorable(self, made: Container[str]) -> bool:
        """Return whether the agent may restore it. `made` are the links that the agent makes again in the same run."""
        return True

    def difference(self, have: Self) -> str:
        """Return what is wrong with `have`, for the admin."""
        return f"is {getattr(have, 'value', have) or 'none'!s}"

    def remedy(self, have: Self | None) -> str:
        """Return the command that gets from `have` to this, for the admin."""
        return self.set_command(have)

    def set_command(self, have: Self | None) -> str:
        """Return the shell command that changes the kernel from `have` to this."""
        raise NotImplementedError

    def unset_command(self) -> str:
        """Return the shell command that removes this."""
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
"""Resources by key: a present or a desired state."""
