"""nftables: our tables, and the elements of their sets and maps."""

import re
import shlex
from dataclasses import dataclass, field
from typing import Self

from ..resource import (
    FORWARD_SETS,
    FORWARD_TABLE,
    NAT_LINKS,
    NAT_SETS,
    NAT_TABLE,
    SENDERS_TABLE,
    SHARES_TABLE,
    TABLE,
    WIRE_ENDS,
    WIRE_MAPS,
    WIRES_TABLE,
    Keys,
    Resource,
    cached,
)
from .link import Device

OF_TAPS = ("guarded", "own", "ports", WIRE_ENDS)
"""The sets of which each guest with a filter, each routed, each bridged one and each one at a wire has an element, and nothing
else has, but for the chains that go to NO_TAPS."""


def is_nft_key(key: str) -> bool:
    """Whether a key is that of a table or of an element."""
    return key.startswith("nft ")


def table_of(family: str, set_name: str) -> str:
    """The name of the table that a set or map of ours is in."""
    if family == "arp" and set_name == "senders":
        return SENDERS_TABLE
    if family == "inet" and set_name.startswith(SHARED):
        return shares_table(set_name.removeprefix(SHARED))
    if family == "inet" and set_name in FORWARD_SETS:
        return FORWARD_TABLE
    if family == "netdev" and set_name in (WIRE_ENDS, *WIRE_MAPS):
        return WIRES_TABLE
    is_nat = family == "inet" and (set_name.startswith(NAT_SETS) or set_name in NAT_LINKS)
    return NAT_TABLE if is_nat else TABLE


UNROUTED = "unrouted"
"""The chain that that of a bridge goes to."""
WIRED, WIRED_LINK = "wired", "wired_link"
"""The chains that those of the ends of wires go to: of a guest's tap, and of a link of the host."""
NO_TAPS = (UNROUTED, WIRED_LINK)
PORT_CHAIN = "port-"
"""What the name of the chain of a guest's port starts with."""


def port_table(ifname: str) -> str:
    """The name of the table for one link."""
    return f"{TABLE}-{_identifier(ifname)}"


SHARED = "shared-"
"""What the name of the set of the taps whose guests a table of shares limits starts with; the table's follows."""


def shares_table(name: str) -> str:
    """The name of the table for one declared NAT, or, with a slash at the end of its name, for one network."""
    return f"{SHARES_TABLE}-{_identifier(name)}"


def shared_set(name: str) -> str:
    """The name of the set of taps in that table."""
    return SHARED + _identifier(name)


def _identifier(name: str) -> str:
    """A name as nft takes it: its identifiers know no @ and no +, and names hold no slash."""
    return re.sub(r"[@+]", lambda match: f"/{ord(match[0]):x}", name)


@dataclass(frozen=True)
class NftTable(Resource):
    """A nft table of ours with its sets and chains; the elements are resources of their own."""

    family: str
    body: str = field(compare=False)
    rules: tuple[tuple[str, int], ...]
    """The number of rules of each chain, which another program's flush of the table changes."""
    name: str = TABLE
    version: str = ""
    """Identifies the body. The table's comment holds it."""

    kind = "nft-table"
    rank = 0
    batched = True
    marked = True

    @cached
    def key(self) -> str:
        return self.key_of(self.family, self.name)

    @staticmethod
    def key_of(family: str, name: str = TABLE) -> str:
        return f"nft {family}" + ("" if name == TABLE else f" {name}")

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(exact=(cls.key_of("netdev", port_table(ifname)),))

    @property
    def order(self) -> float:
        # A chain on a link needs the link.
        return Device.rank + 1 if self.of_link else self.rank

    @cached
    def link(self) -> str:
        """The link whose frames the chains see. They go with it; the table does not."""
        return self.body.partition('device "')[2].partition('"')[0]

    @property
    def of_link(self) -> bool:
        """Whether the table is for one link alone: it has no elements."""
        return self.family == "netdev" and self.name not in (TABLE, WIRES_TABLE)

    @property
    def goes_with_link(self) -> bool:
        return False

    def difference(self, have: Self) -> str:
        there = dict(have.rules)
        wrong = [f"chain {name} has {there.get(name, 0)} of {n} rules" for name, n in self.rules if there.get(name) != n]
        other = "is of another version" if self.version != have.version else "has chains that are not ours"
        return ", ".join(wrong) or other

    def remedy(self, have: Self | None) -> str:
        return "vmnet-hook repair"

    def statement(self) -> str:
        # Added first so that the deletion can't fail. Deleted because a table whose record was lost must not keep elements.
        name = f"{self.family} {self.name}"
        comment = f'\tcomment "vmnet-hooks {self.version}"'
        return f"add table {name}\ndelete table {name}\ntable {name} {{\n{comment}\n{self.body}\n}}\n"

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
    batched = True
    marked = True

    @cached
    def key(self) -> str:
        return self.key_of(self.family, self.set, *self.parts)

    @staticmethod
    def key_of(family: str, set_name: str, *parts: str) -> str:
        """The key of an element; with only the first of its parts (or none), the start of the keys of all such elements."""
        return f"nft {family} {set_name} {' . '.join(parts)}"

    @cached
    def table(self) -> str:
        """The key of its table."""
        return NftTable.key_of(self.family, table_of(self.family, self.set))

    @property
    def order(self) -> float:
        # The link that it leads to may be made in the same plan.
        return Device.rank + 1 if self.value.startswith('"') else self.rank

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return tuple(part.strip('"') for part in self.parts)

    @property
    def links(self) -> tuple[str, ...]:
        """The links that its key names."""
        return tuple(part.strip('"') for part in self.parts if part.startswith('"'))

    @property
    def guest_tap(self) -> str:
        """The tap that only a guest's filter has this element for; "" for any other element."""
        return self.links[0] if self.set in OF_TAPS and self.value not in NO_TAPS else ""

    @staticmethod
    def table_of_key(key: str) -> str:
        """The key of the table of the element with that key; "" if it is no element's."""
        kind, *words = key.split(" ", 3)
        return NftTable.key_of(words[0], table_of(words[0], words[1])) if kind == "nft" and len(words) == 3 else ""

    def _statement(self, verb: str, with_value: bool = True) -> str:
        data = f" : {self.value}" if self.value and with_value else ""
        return f"{verb} element {self.family} {table_of(self.family, self.set)} {self.set} {{ {' . '.join(self.parts)}{data} }}\n"

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
        if self.set not in ("arp_source", "senders"):
            return ""
        dev, *subnet = (part.strip('"') for part in self.parts)
        target = "".join(f" -d {net}" for net in subnet)
        return f"  # arptables -A OUTPUT -o {dev}{target} --opcode Request -j mangle --mangle-ip-s {self.value}"


@dataclass(frozen=True)
class NftChain(NftElement):
    """The base chain of a guest's port or of an end of a wire, which sees what comes from there before bridge and routing do, or
    of a bridge: an element of a netdev table, whose `value` is the chain that it goes to. Before Linux 6.16 it goes with its
    link; since then it stays, and is there for a new link of that name."""

    kind = "nft-chain"

    @classmethod
    def of(cls, ifname: str, chain: str) -> Self:
        """The chain of a port."""
        return cls("netdev", "ports", (f'"{ifname}"',), chain)

    @classmethod
    def at_wire(cls, ifname: str, chain: str) -> Self:
        """The chain of an end of a wire."""
        return cls("netdev", WIRE_ENDS, (f'"{ifname}"',), chain)

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(exact=(cls.of(ifname, "").key, cls.at_wire(ifname, "").key))

    @cached
    def in_table(self) -> str:
        """The name of its table."""
        return table_of(self.family, self.set)

    @cached
    def link(self) -> str:
        return self.links[0]

    @cached
    def name(self) -> str:
        return PORT_CHAIN + _identifier(self.link)

    @property
    def policy(self) -> str:
        """What becomes of frames while its rules are flushed: none of a wire are for the host."""
        return "drop" if self.set == WIRE_ENDS else "accept"

    @property
    def order(self) -> float:
        # The link may be made with its first guest.
        return Device.rank + 1 if self.value in NO_TAPS else self.rank

    @property
    def goes_with_link(self) -> bool:
        return False

    @staticmethod
    def link_of(name: str) -> str:
        """The link of the chain with that name; "" if it is no port's."""
        if not name.startswith(PORT_CHAIN):
            return ""
        return re.sub(r"/(..)", lambda match: chr(int(match[1], 16)), name.removeprefix(PORT_CHAIN))

    def remedy(self, have: NftElement | None) -> str:
        return "vmnet-hook repair"

    def statement(self, have: NftElement | None = None) -> str:
        chain = f"netdev {self.in_table} {self.name}"
        hook = f'{{ type filter hook ingress device "{self.link}" priority filter - 10; policy {self.policy}; }}'
        return (self.unset_statement() if have else "") + f"add chain {chain} {hook}\nadd rule {chain} goto {self.value}\n"

    def unset_statement(self) -> str:
        return f"delete chain netdev {self.in_table} {self.name}\n"

    def set_command(self, have: NftElement | None) -> str:
        return f"nft -f - <<'EOF'\n{self.statement(have)}EOF"
