"""Our nft tables and their elements: told to the kernel by libnftables, read by it where a table's own face does not do."""

import json
import re
from collections.abc import Iterable
from importlib import import_module
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from ..errors import KernelError, one_line
from ..model.objects import NftElement, NftTable, table_of
from ..model.plan import Change, Plan
from ..model.resource import NAT_SETS, TABLE
from ..model.ruleset import TABLES
from . import nft_tables
from .framing import NETLINK_NETFILTER, Socket

if TYPE_CHECKING:
    from .monitor.table_cache import TableCache

_STATELESS, _JSON = 1 << 1, 1 << 4
# Few elements are looked up one by one, which does not depend on the set's size; many by one listing.
_LISTING_PAYS = 24
# So many elements fit into one message to the kernel with room to spare.
_BATCH = 200


class Nft:
    """nftables in this network namespace. One per thread: it keeps its sockets."""

    def __init__(self, memory: "TableCache | None" = None) -> None:
        self._memory = memory
        self._socket: Socket | None = None
        self._context: Any = None

    def run(self, statements: str, flags: int = 0) -> tuple[str, str]:
        """Runs statements as one transaction. Returns what was printed, and the error ("" if it went well). Raises KernelError if
        there is no libnftables."""
        if self._context is None:
            self._context = import_module("vmnet_hooks.kernel.libnftables").Context()
        return self._context.run(statements, flags)

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
        if self._socket is not None:
            self._socket.close()
        self._context = self._socket = None

    def table(self, want: NftTable) -> NftTable | None:
        """Our table of that family as it is. Its rules are counted: another program's flush empties the chains."""
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

    def port_tables(self) -> list[NftTable]:
        """Our tables for one link alone."""
        output, error = self.run("list tables netdev")
        names = [line.split()[2] for line in output.splitlines() if line.startswith(f"table netdev {TABLE}-")]
        return [] if error else [NftTable("netdev", "", (), name) for name in names]

    def elements(self, wanted: Iterable[NftElement]) -> dict[str, NftElement]:
        """Those of the wanted elements that are there, with the value that they have."""
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
        # Asked for a prefix, a set of intervals answers with the wider one that holds it.
        if not found or [_spelled(part) for part in found[1].split(" . ")] != [_spelled(part) for part in element.parts]:
            return None
        return NftElement(element.family, element.set, element.parts, found[2] or "")

    def listing(self, family: str, name: str = "") -> dict[str, NftElement]:
        """Every element of our tables of that family (of one set, if named); nothing if there is no table."""
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
            # A table of another version may have sets that are elsewhere by now.
            if not body or (name and body["name"] != name) or table_of(family, body["name"]) != table:
                continue
            for raw in body.get("elem", ()):
                element = _from_json(family, body["name"], raw, "map" in item)
                result[element.key] = element
        return result

    def apply(self, plan: Plan) -> None:
        """One transaction: all of the changes or none. Raises KernelError."""
        steps = _elements(plan)
        if steps and nft_tables.change(self._asking(), steps):
            return
        statements = "".join(_statement(change) for change in plan)
        _, error = self.run(statements)
        if error:
            raise KernelError(_reason(error))


def _elements(plan: Plan) -> list[tuple[NftElement, bool]]:
    """The plan as elements to add (True) or to delete; empty where it is more than that."""
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
    """An address as we write it, as a subnet or alone: nft leaves out /32 and /128, and writes ::ffff:192.0.2.1."""
    try:
        found = ip_network(part)
    except ValueError:
        return part
    return str(found) if subnet else str(found.network_address)


def _text(item: Any) -> str:
    """A part of a key as nft's own syntax has it: a prefix, a range, or one value. Numbers are hexadecimal there."""
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
    # The interface comes first, but in the sets of NAT: subnet . interface.
    position = 1 if name.startswith(NAT_SETS) else 0
    subnets = name.startswith(("masquerade", "prefixes", "snat"))
    parts = [f'"{part}"' if at == position else _spelled(part, subnets) for at, part in enumerate(parts)]
    return NftElement(family, name, tuple(parts), str(value))
