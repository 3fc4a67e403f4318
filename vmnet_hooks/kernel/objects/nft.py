"""Our nft tables and their elements: by netlink where that suffices, else by libnftables."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from ...errors import KernelError, one_line
from ...model.objects import NftElement, NftTable, table_of
from ...model.plan import Change, Plan
from ...model.resource import NAT_SETS, TABLE, Resource
from ...model.ruleset import TABLES
from .. import nft_tables
from ..framing import NETLINK_NETFILTER, Socket
from . import Edge, View

if TYPE_CHECKING:
    from ..monitor.table_cache import TableCache

_STATELESS, _JSON = 1 << 1, 1 << 4
_LISTING_PAYS = 24
"""Elements of one set from which one listing is faster than a look-up each, whose cost does not depend on the set's size."""
_BATCH = 200
"""Elements that fit into one message to the kernel."""


class Nft:
    """nftables in this network namespace. It keeps its sockets: one per thread."""

    def __init__(self, memory: "TableCache | None" = None) -> None:
        self._memory = memory
        self._socket: Socket | None = None
        self._context: Any = None

    def run(self, statements: str, flags: int = 0) -> tuple[str, str]:
        """Run statements as one transaction. Return the output, and the error ("" if there is none). Raises KernelError without
        libnftables."""
        if self._context is None:
            # Guests need it only for sets of intervals; it loads ctypes.
            from ..libnftables import Context

            self._context = Context()
        return self._context.run(statements, flags)

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
        if self._socket is not None:
            self._socket.close()
        self._context = self._socket = None

    def table(self, want: NftTable) -> NftTable | None:
        """A table of ours, with its rules counted: another program's flush empties the chains. None if there is none."""
        if self._memory and (known := self._memory.known(want)):
            return known
        have = nft_tables.read(self._asking(), want)
        if self._memory and have:
            self._memory.learned(want, have)
        return have

    def _asking(self) -> Socket:
        if self._socket is None:
            self._socket = Socket(NETLINK_NETFILTER)
        return self._socket

    def elements(self, wanted: Iterable[NftElement]) -> dict[str, NftElement]:
        """The wanted elements that exist, with the values that they have."""
        by_set: dict[tuple[str, str], list[NftElement]] = {}
        for element in wanted:
            by_set.setdefault((element.family, element.set), []).append(element)
        found: dict[str, NftElement] = {}
        for (family, name), group in by_set.items():
            if len(group) > _LISTING_PAYS:
                listed = self.listing(family, name)
                found.update((e.key, listed[e.key]) for e in group if e.key in listed)
            else:
                found.update((e.key, have) for e in group if (have := self._element(e)))
        return found

    def _element(self, element: NftElement) -> NftElement | None:
        if not element.set.startswith(nft_tables.INTERVALS):
            return nft_tables.element(self._asking(), element)
        output, error = self.run(element.get_statement())
        if error:
            if "No such file" in error:
                return None
            raise KernelError(f"nft {element.get_statement().strip()}: {_reason(error)}")
        found = re.search(r"elements = \{ (.*?)(?: : (\S+))? \}", output)
        # A set of intervals answers with the interval that holds the wanted one.
        if not found or [_spelled(part) for part in found[1].split(" . ")] != [_spelled(part) for part in element.parts]:
            return None
        return NftElement(element.family, element.set, element.parts, found[2] or "")

    def listing(self, family: str, name: str = "") -> dict[str, NftElement]:
        """All elements of our tables of a family, or of one set by its name."""
        names = [table_of(family, name)] if name else [table.name for table in TABLES if table.family == family]
        result: dict[str, NftElement] = {}
        for table in names:
            result.update(self._listed(family, table, name))
        return result

    def _listed(self, family: str, table: str, name: str) -> dict[str, NftElement]:
        output, error = self.run(f"list table {family} {table}", _JSON | _STATELESS)
        if error:
            return {}
        result = {}
        for item in json.loads(output)["nftables"]:
            body = item.get("set") or item.get("map")
            # In a table of another version, a set may be one that is now in another table.
            if not body or (name and body["name"] != name) or table_of(family, body["name"]) != table:
                continue
            for raw in body.get("elem", ()):
                element = _from_json(family, body["name"], raw, "map" in item)
                result[element.key] = element
        return result

    def apply(self, plan: Plan) -> None:
        """Make all changes as one transaction, or none. Raises KernelError."""
        steps = _elements(plan)
        if steps and nft_tables.change(self._asking(), steps):
            return
        statements = "".join(_statement(change) for change in plan)
        _, error = self.run(statements)
        if error:
            raise KernelError(_reason(error))


class Tables(Edge[NftTable]):
    def read_one(self, want: NftTable, view: View) -> NftTable | None:
        return view.nft.table(want)

    def apply(self, step: Plan, view: View) -> None:
        view.nft.apply(step)

    def ours(self, view: View) -> Iterator[NftTable]:
        """Those for one link. The others are known by name: see ruleset.TABLES."""
        output, error = view.nft.run("list tables netdev")
        if not error:
            names = [line.split()[2] for line in output.splitlines() if line.startswith(f"table netdev {TABLE}-")]
            yield from (NftTable("netdev", "", (), name) for name in names)


class Elements(Edge[NftElement]):
    def read(self, wanted: Sequence[NftElement], view: View) -> Iterable[NftElement]:
        return view.nft.elements(wanted).values()

    def apply(self, step: Plan, view: View) -> None:
        view.nft.apply(step)

    def ours(self, view: View) -> Iterator[NftElement]:
        for family in dict.fromkeys(table.family for table in TABLES):
            yield from view.nft.listing(family).values()


def _elements(plan: Plan) -> list[tuple[NftElement, bool]]:
    """The plan as elements to add (True) or to delete; empty if it needs libnftables."""
    steps = []
    for item in plan:
        for resource, adds in ((item.have, False), (item.want, True)):
            if resource is None:
                continue
            if not isinstance(resource, NftElement) or resource.set.startswith(nft_tables.INTERVALS):
                return []
            steps.append((resource, adds))
    return steps if len(steps) <= _BATCH else []


def _statement(change: Change) -> str:
    if isinstance(change.want, NftElement):
        return change.want.statement(change.have)  # type: ignore[arg-type]
    if isinstance(change.want, NftTable):
        return change.want.statement()
    assert isinstance(change.have, NftElement | NftTable)
    return change.have.unset_statement()


def _reason(error: str) -> str:
    return one_line(error.splitlines()[0]) if error else "failed"


def _spelled(part: str, subnet: bool = True) -> str:
    """An address as we write it, as a subnet or alone. nft omits /32 and /128, and writes ::ffff:192.0.2.1."""
    try:
        found = ip_network(part)
    except ValueError:
        return part
    return str(found) if subnet else str(found.network_address)


def _text(item: Any) -> str:
    """A part of a key in nft's syntax: a prefix, a range, or one value. Numbers are hexadecimal."""
    if isinstance(item, dict) and "range" in item:
        return "-".join(map(_text, item["range"]))
    if isinstance(item, dict):
        return f"{item['prefix']['addr']}/{item['prefix']['len']}"
    return f"{item:#x}" if isinstance(item, int) else str(item)


def _from_json(family: str, name: str, raw: Any, is_map: bool) -> NftElement:
    key, value = raw if is_map else (raw, "")
    if isinstance(key, dict) and "elem" in key:
        key = key["elem"]["val"]
    items = key["concat"] if isinstance(key, dict) and "concat" in key else [key]
    parts = [_text(item) for item in items]
    if name == "closed":
        return NftElement(family, name, tuple(parts), str(value))
    # The interface comes first, except in the sets of NAT: subnet . interface.
    position = 1 if name.startswith(NAT_SETS) else 0
    subnets = name.startswith(("masquerade", "prefixes", "snat"))
    parts = [f'"{part}"' if at == position else _spelled(part, subnets) for at, part in enumerate(parts)]
    return NftElement(family, name, tuple(parts), str(value))


EDGES: Mapping[type[Resource], Edge] = {NftTable: Tables(), NftElement: Elements()}
