"""Our nft tables and their elements: over nfnetlink (linux/netfilter/nf_tables.h) where that suffices, else by libnftables.

`nft list table` loads all set elements even when it does not print them. Dumping the table, its chains and its rules does not
depend on the number of guests.
"""

import errno
import json
import os
import re
from _socket import AF_INET, AF_INET6, if_nametoindex, inet_ntop, inet_pton
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from struct import pack
from typing import TYPE_CHECKING, Any

from ...errors import KernelError, one_line
from ...model.objects import NftChain, NftElement, NftTable, table_of
from ...model.plan import Change, Plan
from ...model.resource import FORWARD_MAPS, NAT_SETS, SHARES_TABLE, TABLE, WIRE_MAPS, WIRES_TABLE
from ...model.ruleset import TABLES
from ..netlink import CREATE, NETLINK_NETFILTER, NetlinkError, Socket, View
from ..wire import INT, NFGENMSG, Items, attributes, body, family_of, text, values
from . import Edge

if TYPE_CHECKING:
    from ..monitor.table_cache import TableCache
    from ..verdicts import Rule

_SUBSYSTEM = 10
_GETTABLE, _GETCHAIN, GETRULE, _NEWSETELEM, _GETSETELEM = ((_SUBSYSTEM << 8) | n for n in (1, 4, 7, 12, 13))
_NEWCHAIN, _DELCHAIN, _NEWRULE = ((_SUBSYSTEM << 8) | n for n in (3, 5, 6))
NEWTABLE, DELSETELEM, DESTROYSETELEM = ((_SUBSYSTEM << 8) | n for n in (0, 14, 30))
TABLE_CHANGES = frozenset((_SUBSYSTEM << 8) | n for n in (0, 2, 3, 5, 6, 8, 9, 11, 26, 27, 28, 29))
"""A new, deleted or destroyed table, chain, rule or set."""

GROUP_NFTABLES = 7
_BATCH_BEGIN, _BATCH_END = 16, 17
FAMILIES = {"inet": 1, "arp": 3, "netdev": 5, "bridge": 7}
TABLE_NAME, _TABLE_USERDATA = 1, 6
"""The first attribute of every message, of whatever object, is the name of its table."""

CHAIN_NAME, RULE_CHAIN = 3, 2
_CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE = 1, 2, 3
_INGRESS, _BEFORE = 0, -10
_POLICIES = {"drop": pack(">I", 0), "accept": pack(">I", 1)}
"""The hook of the chain of a port, its priority and policies, as NftChain spells them."""
_RULE_EXPRESSIONS, _EXPRESSION, _EXPRESSION_NAME, _EXPRESSION_DATA = 4, 1, 1, 2
_IMMEDIATE_REGISTER, _IMMEDIATE_DATA, _VERDICT_REGISTER, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 0, 2, 1, 2
_GOTO, _APPEND = -4, 0x800
LIST_SET, LIST_ELEMENTS = 2, 3
_LIST_ELEM, ELEM_KEY, _ELEM_DATA, _ELEM_KEY_END, DATA_VALUE = 1, 1, 2, 10, 1
_PROTOCOLS = {"ipv6": 10}
_TRANSPORTS = {"tcp": 6, "udp": 17, "sctp": 132}
_SIZES = {"vrrp4": 4, "lladdrs": 6, "chaddrs": 6, "lessees": 6, "granted": 4}
"""Bytes of the numbers in the keys of sets; 16 in all others."""
_EXITS = ("exits4", "exits6")
_LINKS = ("passages", "bridged", "hairpins", "translated4", "translated6", "admitted")
"""The sets of pairs of links."""
_GROUPED = ("ways", "reached", "entries", "fenced", "admitted_groups", *_EXITS)
"""Sets with groups of links in their keys: decimal numbers."""
INTERVALS = ("masquerade", "prefixes", "snat", "target_prefixes")
"""Sets of intervals that libnftables is asked about: few guests need one. Each network with role host has an element of
`senders`, which is a map of intervals too."""

_COMMENT = 0
_MARK = "vmnet-hooks "
_STATELESS, _JSON = 1 << 2, 1 << 4  # The library is loaded where it is needed.
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
        have = read_table(self._asking(), want)
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
                found.update((e.key, _as_asked(e, listed[e.key])) for e in group if e.key in listed)
            else:
                found.update((e.key, have) for e in group if (have := self._element(e)))
        return found

    def _element(self, element: NftElement) -> NftElement | None:
        if not element.set.startswith(INTERVALS):
            return _read_element(self._asking(), element)
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
            found = item.get("set") or item.get("map")
            # In a table of another version, a set may be one that is now in another table.
            if not found or (name and found["name"] != name) or table_of(family, found["name"]) != table:
                continue
            for raw in found.get("elem", ()):
                if _is_passing(raw):
                    continue
                element = _from_json(family, found["name"], raw, "map" in item)
                result[element.key] = element
        return result

    def granted(self) -> Iterator[NftElement]:
        """What guests may send from by the server's last word, see model/port_rules.py. `listing` leaves it out."""
        names = {TABLE_NAME: TABLE.encode() + b"\0", LIST_SET: b"granted\0"}
        try:
            dumped = self._asking().dump(_GETSETELEM, body(NFGENMSG.pack(FAMILIES["bridge"], 0, 0), names))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return
            raise
        for data in dumped:
            for item in values(attributes(data, 4).get(LIST_ELEMENTS, b"")):
                key = attributes(attributes(item)[ELEM_KEY])[DATA_VALUE]
                mac = (f"{int.from_bytes(key[at : at + 4], 'big'):#x}" for at in (16, 20))
                yield NftElement("bridge", "granted", (f'"{text(key[:16])}"', *mac, inet_ntop(AF_INET, key[24:28])))

    def chain(self, want: NftChain) -> NftChain | None:
        """The chain of a port or of an end of a wire, with where it goes to; None if there is none. Raises KernelError."""
        return _read_chain(self._asking(), want)

    def chains(self) -> Iterator[NftChain]:
        """The chains of all ports and all ends of wires."""
        for data in self._asking().dump(_GETCHAIN, NFGENMSG.pack(FAMILIES["netdev"], 0, 0)):
            found = attributes(data, 4)
            if want := port_chain(text(found[TABLE_NAME]), text(found[CHAIN_NAME])):
                yield self.chain(want) or want

    def rules(self, family: str, table: str, chain: str) -> "list[Rule]":
        """The rules of a chain of any program, in their order. A rule that matches by more than links and states of connections
        is left out. Raises KernelError."""
        # Only `check` asks.
        from ..verdicts import rules

        return rules(self._asking(), family, table, chain)

    def apply(self, plan: Plan) -> None:
        """Make all changes as one transaction, or none; and end connections to forwarded ports that lead elsewhere now. Raises
        KernelError."""
        self._apply(plan)
        if moved := [change for change in plan if getattr(change.subject, "set", "") in FORWARD_MAPS]:
            # Few hosts forward ports.
            from ..conntrack import forget_moved

            forget_moved([(change.subject, change.want) for change in moved])  # type: ignore[misc]

    def _apply(self, plan: Plan) -> None:
        steps = _elements(plan)
        if steps and _change_elements(self._asking(), steps):
            return
        statements = "".join(_statement(change) for change in plan)
        _, error = self.run(statements)
        if error:
            raise KernelError(_reason(error))


class Tables(Edge[NftTable]):
    def read(self, wanted: Sequence[NftTable], view: View) -> Iterator[NftTable]:
        yield from filter(None, map(view.nft.table, wanted))

    def apply(self, step: Plan, view: View) -> None:
        view.nft.apply(step)

    def ours(self, view: View) -> Iterator[NftTable]:
        """Those for one link or one NAT. The others are known by name: see ruleset.TABLES."""
        output, error = view.nft.run("list tables")
        found = [line.split()[1:3] for line in output.splitlines()] if not error else []
        starts = {"netdev": f"{TABLE}-", "inet": f"{SHARES_TABLE}-"}
        yield from (
            NftTable(family, "", (), name)
            for family, name in found
            if name.startswith(starts.get(family, " ")) and name != WIRES_TABLE
        )


class Elements(Edge[NftElement]):
    def read(self, wanted: Sequence[NftElement], view: View) -> Iterable[NftElement]:
        return view.nft.elements(wanted).values()

    def apply(self, step: Plan, view: View) -> None:
        view.nft.apply(step)

    def ours(self, view: View) -> Iterator[NftElement]:
        for family in dict.fromkeys(table.family for table in TABLES):
            yield from view.nft.listing(family).values()


class Chains(Elements):
    def read(self, wanted: Sequence[NftElement], view: View) -> Iterable[NftElement]:
        return [have for want in wanted if isinstance(want, NftChain) and (have := view.nft.chain(want))]

    def ours(self, view: View) -> Iterator[NftElement]:
        yield from view.nft.chains()


def _elements(plan: Plan) -> list[tuple[NftElement, bool]]:
    """The plan as elements to add (True) or to delete; empty if it needs libnftables."""
    steps = []
    for item in plan:
        for resource, adds in ((item.have, False), (item.want, True)):
            if resource is None:
                continue
            if not isinstance(resource, NftElement) or resource.set.startswith(INTERVALS):
                return []
            steps.append((resource, adds))
    return steps if len(steps) <= _BATCH else []


def port_chain(table: str, name: str) -> NftChain | None:
    """The chain of a port, or of an end of a wire, with these names of its table and of itself; None if it is neither."""
    ifname = NftChain.link_of(name)
    made = {TABLE: NftChain.of, WIRES_TABLE: NftChain.at_wire}.get(table)
    return made(ifname, "") if made and ifname else None


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


def _is_passing(raw: Any) -> bool:
    """Whether a rule added the element, for a time."""
    return isinstance(raw, dict) and "timeout" in raw.get("elem", ())


def _from_json(family: str, name: str, raw: Any, is_map: bool) -> NftElement:
    key, value = raw if is_map else (raw, "")
    if isinstance(key, dict) and "elem" in key:
        key = key["elem"]["val"]
    items = key["concat"] if isinstance(key, dict) and "concat" in key else [key]
    if name in _GROUPED:
        parts = [str(item) if isinstance(item, int) else f'"{item}"' for item in items]
        if name in _EXITS:
            parts[-1] = items[-1]
        return NftElement(family, name, tuple(parts))
    if name in FORWARD_MAPS:
        return _forward_from_json(family, name, items, value)
    if name in WIRE_MAPS:
        # nft prints the name of a link that is there.
        return NftElement(family, name, (f'"{items[0]}"',), str(value if isinstance(value, int) else _index(value)))
    parts = [_text(item) for item in items]
    if name in _LINKS:
        return NftElement(family, name, tuple(f'"{part}"' for part in parts))
    if name == "closed":
        return NftElement(family, name, tuple(parts), str(value))
    # The interface comes first, except in the sets of NAT: subnet . interface.
    position = 1 if name.startswith(NAT_SETS) else 0
    subnets = name.startswith(("masquerade", "prefixes", "senders", "snat"))
    parts = [f'"{part}"' if at == position else _spelled(part, subnets) for at, part in enumerate(parts)]
    return NftElement(family, name, tuple(parts), str(value))


def _index(ifname: str) -> int:
    try:
        return if_nametoindex(ifname)
    except OSError:
        return 0


def _forward_from_json(family: str, name: str, items: Sequence[Any], value: Any) -> NftElement:
    """Where there is no /etc/protocols, nft prints their numbers."""
    address, protocol, port = items
    names = {number: each for each, number in _TRANSPORTS.items()}
    ports = "-".join(map(str, port["range"])) if isinstance(port, dict) else str(port)
    to = [_spelled(str(item), False) for item in (value["concat"] if isinstance(value, dict) else [value])]
    return NftElement(family, name, (_spelled(address, False), names.get(protocol, protocol), ports), " . ".join(to))


# --- by netlink ---------------------------------------------------------------------------------------------------------


def read_table(socket: Socket, want: NftTable) -> NftTable | None:
    """Return the table with the name of `want`: its version, from its comment, and the number of rules in each chain; None if
    there is none. Raises KernelError."""
    header = NFGENMSG.pack(FAMILIES[want.family], 0, 0)
    name = want.name.encode() + b"\0"
    try:
        named = body(header, {TABLE_NAME: name})
        table = attributes(socket.get(_GETTABLE, named), 4)
        found = (_rules_of_chains if want.family == "netdev" else _all_rules)(socket, want, header, name)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise KernelError(f"nft list table {want.family} {want.name}: {os.strerror(error.code)}") from None
    return NftTable(want.family, want.body, tuple(found), want.name, _version(table.get(_TABLE_USERDATA, b"")))


def _all_rules(socket: Socket, want: NftTable, header: bytes, name: bytes) -> list[tuple[str, int]]:
    """Return the chains of a table, each with the number of its rules."""
    rules = [attributes(data, 4) for data in socket.dump(GETRULE, body(header, {TABLE_NAME: name}))]
    # The kernel filters rules by table, but not chains.
    chains = [attributes(data, 4) for data in socket.dump(_GETCHAIN, header)]
    counted = Counter([rule[RULE_CHAIN] for rule in rules if rule[TABLE_NAME] == name])
    return sorted([(text(c[CHAIN_NAME]), counted[c[CHAIN_NAME]]) for c in chains if c[TABLE_NAME] == name])


def _rules_of_chains(socket: Socket, want: NftTable, header: bytes, name: bytes) -> list[tuple[str, int]]:
    """Return those chains of a table that are wanted: of this family, each guest has one."""
    found = []
    for chain, _ in want.rules:
        try:
            socket.get(_GETCHAIN, body(header, {TABLE_NAME: name, CHAIN_NAME: chain.encode() + b"\0"}))
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            continue
        there = socket.dump(GETRULE, body(header, {TABLE_NAME: name, RULE_CHAIN: chain.encode() + b"\0"}))
        found.append((chain, len(list(there))))
    return found


def _version(userdata: bytes) -> str:
    """Return what follows our mark in the comment of a table. libnftnl encodes user data as type, length, value."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            comment = text(userdata[offset + 2 : offset + 2 + length])
            return comment.removeprefix(_MARK) if comment.startswith(_MARK) else ""
        offset += 2 + length
    return ""


def _read_element(socket: Socket, want: NftElement) -> NftElement | None:
    """Return the element with the key of `want` and the value that it has; None if there is no such element or set. The set must
    not be one of INTERVALS. Raises KernelError."""
    try:
        answer = attributes(socket.get(_GETSETELEM, _encoded(want, with_value=False)), 4)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise KernelError(f"nft {want.get_statement().strip()}: {os.strerror(error.code)}") from None
    there = attributes(attributes(answer[LIST_ELEMENTS])[_LIST_ELEM])
    if end := _interval_end(want):
        # The kernel answers with the interval that the first address is in.
        bounds = [attributes(there[number])[DATA_VALUE] for number in (ELEM_KEY, _ELEM_KEY_END) if number in there]
        if bounds != [_interval_start(want), end]:
            return None
    value = attributes(there[_ELEM_DATA])[DATA_VALUE] if _ELEM_DATA in there else b""
    return _as_asked(want, NftElement(want.family, want.set, want.parts, _value_of(want.set, value) if value else ""))


def _as_asked(want: NftElement, have: NftElement) -> NftElement:
    """An element, which tells a link by its number, with the link's name if `want` has that."""
    is_named = want.set in WIRE_MAPS and want.value.startswith('"')
    return want if is_named and have.value == str(_index(want.value.strip('"'))) else have


def _change_elements(socket: Socket, steps: Sequence[tuple[NftElement, bool]]) -> bool:
    """Add (True) or delete elements in one transaction; their sets must not be among INTERVALS. Return False if the kernel
    refuses it, with nothing changed: the caller tries again with libnftables, whose errors are better."""
    messages = [message for element, add in steps for message in _messages(element, add)]
    try:
        socket.batch(_BATCH_BEGIN, _BATCH_END, NFGENMSG.pack(0, 0, _SUBSYSTEM), messages)
    except NetlinkError:
        return False
    return True


def _messages(element: NftElement, add: bool) -> list[tuple[int, bytes, int]]:
    """The messages that add or delete an element."""
    if not isinstance(element, NftChain):
        return [(_NEWSETELEM, _encoded(element), CREATE) if add else (DELSETELEM, _encoded(element, False), 0)]
    header, table, name = _of_chain(element)
    if not add:
        return [(_DELCHAIN, body(header, {TABLE_NAME: table, CHAIN_NAME: name}), 0)]
    hook: Items = {
        _HOOK_NUMBER: pack(">I", _INGRESS),
        _HOOK_PRIORITY: pack(">i", _BEFORE),
        _HOOK_DEVICE: os.fsencode(element.link) + b"\0",
    }
    made: Items = {
        TABLE_NAME: table,
        CHAIN_NAME: name,
        _CHAIN_HOOK: hook,
        _CHAIN_POLICY: _POLICIES[element.policy],
        _CHAIN_TYPE: b"filter\0",
    }
    verdict: Items = {_VERDICT_CODE: pack(">i", _GOTO), _VERDICT_CHAIN: element.value.encode() + b"\0"}
    data: Items = {_IMMEDIATE_REGISTER: pack(">I", _VERDICT_REGISTER), _IMMEDIATE_DATA: {_VERDICT: verdict}}
    rule: Items = {_EXPRESSION: {_EXPRESSION_NAME: b"immediate\0", _EXPRESSION_DATA: data}}
    return [
        (_NEWCHAIN, body(header, made), CREATE),
        (_NEWRULE, body(header, {TABLE_NAME: table, RULE_CHAIN: name, _RULE_EXPRESSIONS: rule}), CREATE | _APPEND),
    ]


def _of_chain(chain: NftChain) -> tuple[bytes, bytes, bytes]:
    """The header of a message about a chain, and the names of its table and of itself."""
    return NFGENMSG.pack(FAMILIES[chain.family], 0, 0), chain.in_table.encode() + b"\0", chain.name.encode() + b"\0"


def _read_chain(socket: Socket, want: NftChain) -> NftChain | None:
    header, table, name = _of_chain(want)
    try:
        found = attributes(socket.get(_GETCHAIN, body(header, {TABLE_NAME: table, CHAIN_NAME: name})), 4)
        rules = list(socket.dump(GETRULE, body(header, {TABLE_NAME: table, RULE_CHAIN: name})))
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise KernelError(f"nft list chain netdev {want.in_table} {want.name}: {os.strerror(error.code)}") from None
    hook = attributes(found[_CHAIN_HOOK]) if _CHAIN_HOOK in found else {}
    is_hooked = hook.get(_HOOK_DEVICE) == os.fsencode(want.link) + b"\0" and hook.get(_HOOK_PRIORITY) == pack(">i", _BEFORE)
    return replace(want, value=_target(rules) if is_hooked and found.get(_CHAIN_POLICY) == _POLICIES[want.policy] else "")


def _target(rules: Sequence[bytes]) -> str:
    """The chain that the only rule of a chain goes to; "" if there are others."""
    if len(rules) != 1:
        return ""
    expressions = [attributes(each) for each in values(attributes(rules[0], 4).get(_RULE_EXPRESSIONS, b""))]
    if [each.get(_EXPRESSION_NAME) for each in expressions] != [b"immediate\0"]:
        return ""
    data = attributes(expressions[0][_EXPRESSION_DATA]).get(_IMMEDIATE_DATA, b"")
    verdict = attributes(attributes(data).get(_VERDICT, b""))
    return text(verdict.get(_VERDICT_CHAIN, b"")) if verdict.get(_VERDICT_CODE) == pack(">i", _GOTO) else ""


def _encoded(element: NftElement, with_value: bool = True) -> bytes:
    """Encode one element."""
    key = _interval_start(element)
    if len(element.parts) == 1:
        # Parts of a concatenation are padded to whole words; a key of one part is not.
        key = key[: _size(element.parts[0])]
    item = {ELEM_KEY: {DATA_VALUE: key}}
    if end := _interval_end(element):
        item[_ELEM_KEY_END] = {DATA_VALUE: end}
    if element.value and with_value:
        item[_ELEM_DATA] = {DATA_VALUE: _packed_value(element)}
    names = {
        TABLE_NAME: table_of(element.family, element.set).encode() + b"\0",
        LIST_SET: element.set.encode() + b"\0",
    }
    return body(NFGENMSG.pack(FAMILIES[element.family], 0, 0), {**names, LIST_ELEMENTS: {_LIST_ELEM: item}})


def _packed_value(element: NftElement) -> bytes:
    if element.set in WIRE_MAPS and element.value.startswith('"'):
        return INT.pack(if_nametoindex(element.value.strip('"')))
    return b"".join([_packed(part, element.set) for part in element.value.split(" . ")])


def _value_of(name: str, data: bytes) -> str:
    """Return the value of an element of a map, an address, an address and a port, or the number of a link, from its bytes."""
    if name in WIRE_MAPS:
        return str(INT.unpack_from(data)[0])
    size = 16 if name in FORWARD_MAPS and name.endswith("6") else 4
    address = inet_ntop(AF_INET if size == 4 else AF_INET6, data[:size])
    return f"{address} . {int.from_bytes(data[size : size + 2], 'big')}" if len(data) > size else address


def _interval_start(element: NftElement) -> bytes:
    """Return the key of an element, the first one if it contains a prefix."""
    ends = "-" if element.set in FORWARD_MAPS else "/"
    return b"".join([_packed(part.partition(ends)[0], element.set) for part in element.parts])


def _interval_end(element: NftElement) -> bytes:
    """Return the last key of an element whose key contains a prefix; b"" for others."""
    last = element.parts[-1]
    if element.set in FORWARD_MAPS and "-" in last:
        return b"".join([_packed(part, element.set) for part in (*element.parts[:-1], last.partition("-")[2])])
    if "/" not in last:
        return b""
    return b"".join([*map(_packed, element.parts[:-1]), ip_network(last).broadcast_address.packed])


def _packed(part: str, name: str = "") -> bytes:
    """Encode a part of a key of the set `name`, padded to whole words."""
    if part.startswith('"'):
        return part[1:-1].encode().ljust(16, b"\0")
    if part in _PROTOCOLS:
        return bytes((_PROTOCOLS[part], 0, 0, 0))
    if part in _TRANSPORTS:
        return bytes((_TRANSPORTS[part], 0, 0, 0))
    if part.isdecimal():
        return pack(">H2x", int(part)) if name in FORWARD_MAPS else INT.pack(int(part))
    if part.startswith("0x"):
        size = _SIZES.get(name, 16)
        return int(part, 16).to_bytes(size, "big") + bytes(-size % 4)
    if part.count(":") == 5 and len(part) == 17:
        return bytes.fromhex(part.replace(":", "")) + bytes(2)
    return inet_pton(family_of(part), part)


def _size(part: str) -> int:
    return 1 if part in _PROTOCOLS else len(_packed(part))


EDGES: Mapping[str, Edge] = {NftTable.kind: Tables(), NftElement.kind: Elements(), NftChain.kind: Chains()}
