"""Links that we make."""

import shlex
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from ..resource import ALIAS, Keys, Resource, dev


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

    @cached_property
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
