"""Our nft tables over nfnetlink: a table without its elements, and elements one by one. See linux/netfilter/nf_tables.h.

`nft list table` loads all set elements even when it does not print them. Dumping the table, its chains and its rules does not
depend on the number of guests.
"""

import errno
import os
from _socket import AF_INET, inet_ntop, inet_pton
from collections import Counter
from collections.abc import Sequence

from ..errors import KernelError
from ..model.objects import NftElement, NftTable, table_of
from .framing import CREATE, NESTED, NFGENMSG, NetlinkError, Socket, attribute, attributes, text
from .wire import family_of

_SUBSYSTEM = 10
_GETTABLE, _GETCHAIN, _GETRULE, _NEWSETELEM, _GETSETELEM = ((_SUBSYSTEM << 8) | n for n in (1, 4, 7, 12, 13))
NEWTABLE, DELSETELEM, DESTROYSETELEM = ((_SUBSYSTEM << 8) | n for n in (0, 14, 30))
TABLE_CHANGES = frozenset((_SUBSYSTEM << 8) | n for n in (0, 2, 3, 5, 6, 8, 9, 11, 26, 27, 28, 29))
"""A new, deleted or destroyed table, chain, rule or set."""

GROUP_NFTABLES = 7
_BATCH_BEGIN, _BATCH_END = 16, 17
FAMILIES = {"inet": 1, "arp": 3, "netdev": 5, "bridge": 7}
TABLE_NAME, _TABLE_USERDATA = 1, 6
"""The first attribute of every message, of whatever object, is the name of its table."""

_CHAIN_NAME, _RULE_CHAIN = 3, 2
LIST_SET, LIST_ELEMENTS = 2, 3
_LIST_ELEM, ELEM_KEY, _ELEM_DATA, DATA_VALUE = 1, 1, 2, 1
_PROTOCOLS = {"ipv6": 10}
INTERVALS = ("masquerade", "prefixes", "snat", "target_prefixes")
"""Sets of intervals: a key alone does not find an element of theirs."""

_COMMENT = 0
_MARK = "vmnet-hooks "


def read(socket: Socket, want: NftTable) -> NftTable | None:
    """Return the table with the name of `want`: its version, from its comment, and the number of rules in each chain; None if
    there is none. Raises KernelError."""
    header = NFGENMSG.pack(FAMILIES[want.family], 0, 0)
    name = want.name.encode() + b"\0"
    try:
        table = attributes(socket.get(_GETTABLE, header + attribute(TABLE_NAME, name)), 4)
        rules = [attributes(data, 4) for data in socket.dump(_GETRULE, header + attribute(TABLE_NAME, name))]
        # The kernel filters rules by table, but not chains.
        chains = [attributes(data, 4) for data in socket.dump(_GETCHAIN, header)]
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise KernelError(f"nft list table {want.family} {want.name}: {os.strerror(error.code)}") from None
    counted = Counter(rule[_RULE_CHAIN] for rule in rules if rule[TABLE_NAME] == name)
    names = {chain[_CHAIN_NAME] for chain in chains if chain[TABLE_NAME] == name}
    found = tuple(sorted((text(chain), counted[chain]) for chain in names))
    return NftTable(want.family, want.body, found, want.name, _version(table.get(_TABLE_USERDATA, b"")))


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


def element(socket: Socket, want: NftElement) -> NftElement | None:
    """Return the element with the key of `want` and the value that it has; None if there is no such element or set. The set must
    not be one of INTERVALS. Raises KernelError."""
    try:
        answer = attributes(socket.get(_GETSETELEM, _element(want, with_value=False)), 4)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise KernelError(f"nft {want.get_statement().strip()}: {os.strerror(error.code)}") from None
    there = attributes(attributes(answer[LIST_ELEMENTS])[_LIST_ELEM])
    value = attributes(there[_ELEM_DATA])[DATA_VALUE] if _ELEM_DATA in there else b""
    return NftElement(want.family, want.set, want.parts, inet_ntop(AF_INET, value) if value else "")


def change(socket: Socket, steps: Sequence[tuple[NftElement, bool]]) -> bool:
    """Add (True) or delete elements in one transaction; their sets must not be among INTERVALS. Return False if the kernel
    refuses it, with nothing changed: the caller tries again with libnftables, whose errors are better."""
    messages = [(_NEWSETELEM, _element(e), CREATE) if add else (DELSETELEM, _element(e, False), 0) for e, add in steps]
    try:
        socket.batch(_BATCH_BEGIN, _BATCH_END, NFGENMSG.pack(0, 0, _SUBSYSTEM), messages)
    except NetlinkError:
        return False
    return True


def _element(element: NftElement, with_value: bool = True) -> bytes:
    """Encode one element."""
    key = b"".join([_packed(part) for part in element.parts])
    if len(element.parts) == 1:
        # Parts of a concatenation are padded to whole words; a key of one part is not.
        key = key[: _size(element.parts[0])]
    item = attribute(ELEM_KEY | NESTED, attribute(DATA_VALUE, key))
    if element.value and with_value:
        item += attribute(_ELEM_DATA | NESTED, attribute(DATA_VALUE, inet_pton(AF_INET, element.value)))
    return (
        NFGENMSG.pack(FAMILIES[element.family], 0, 0)
        + attribute(TABLE_NAME, table_of(element.family, element.set).encode() + b"\0")
        + attribute(LIST_SET, element.set.encode() + b"\0")
        + attribute(LIST_ELEMENTS | NESTED, attribute(_LIST_ELEM | NESTED, item))
    )


def _packed(part: str) -> bytes:
    """Encode a part of a key, padded to whole words."""
    if part.startswith('"'):
        return part[1:-1].encode().ljust(16, b"\0")
    if part in _PROTOCOLS:
        return bytes((_PROTOCOLS[part], 0, 0, 0))
    if part.startswith("0x"):
        return int(part, 16).to_bytes(16, "big")
    if part.count(":") == 5 and len(part) == 17:
        return bytes.fromhex(part.replace(":", "")) + bytes(2)
    return inet_pton(family_of(part), part)


def _size(part: str) -> int:
    return 1 if part in _PROTOCOLS else len(_packed(part))
