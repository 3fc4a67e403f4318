"""What the kernel tells of a nft table without telling of its elements: nf_tables as bytes, linux/netfilter/nf_tables.h.

`nft list table` loads every set of the table before it prints none of them, which takes longer with every guest. Asked for the
table and for its chains and rules, the kernel says the same in the same time among thousands.
"""

import errno
import os
from _socket import AF_INET, inet_ntop, inet_pton
from collections import Counter
from collections.abc import Sequence
from struct import Struct

from ..errors import KernelError
from ..model.objects import NftElement, NftTable, table_of
from .wire import CREATE, NetlinkError, Socket, attribute, attributes, family_of, text

NETLINK_NETFILTER = 12
_GETTABLE, _GETCHAIN, _GETRULE, _NEWSETELEM, _GETSETELEM, _DELSETELEM = ((10 << 8) | n for n in (1, 4, 7, 12, 13, 14))
_BATCH_BEGIN, _BATCH_END = 16, 17
_FAMILIES = {"inet": 1, "arp": 3, "netdev": 5, "bridge": 7}
_TABLE_NAME, _TABLE_USERDATA = 1, 6
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_RULE_TABLE, _RULE_CHAIN = 1, 2
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM, _ELEM_KEY, _ELEM_DATA, _DATA_VALUE = 1, 1, 2, 1
_NESTED = 0x8000
_PROTOCOLS = {"ipv6": 10}
# Sets of intervals: their elements are not looked up by a key alone.
INTERVALS = ("masquerade", "prefixes", "snat", "target_prefixes")
_COMMENT = 0
_MARK = "vmnet-hooks "
_HEADER = Struct("!BBH")
_SUBSYSTEM = 10


def read(socket: Socket, want: NftTable) -> NftTable | None:
    """The table of that name: its version, from its comment, and the rules of each chain counted. None if there is none. Raises
    KernelError."""
    header = _HEADER.pack(_FAMILIES[want.family], 0, 0)
    name = want.name.encode() + b"\0"
    try:
        table = attributes(socket.get(_GETTABLE, header + attribute(_TABLE_NAME, name)), 4)
        rules = [attributes(data, 4) for data in socket.dump(_GETRULE, header + attribute(_RULE_TABLE, name))]
        # The kernel gives those of every table.
        chains = [attributes(data, 4) for data in socket.dump(_GETCHAIN, header)]
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise KernelError(f"nft list table {want.family} {want.name}: {os.strerror(error.code)}") from None
    counted = Counter(rule[_RULE_CHAIN] for rule in rules if rule[_RULE_TABLE] == name)
    names = {chain[_CHAIN_NAME] for chain in chains if chain[_CHAIN_TABLE] == name}
    found = tuple(sorted((text(chain), counted[chain]) for chain in names))
    return NftTable(want.family, want.body, found, want.name, _version(table.get(_TABLE_USERDATA, b"")))


def _version(userdata: bytes) -> str:
    """What stands behind our mark in the table's comment. The data are libnftnl's: type, length, value."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            comment = text(userdata[offset + 2 : offset + 2 + length])
            return comment.removeprefix(_MARK) if comment.startswith(_MARK) else ""
        offset += 2 + length
    return ""


def element(socket: Socket, want: NftElement) -> NftElement | None:
    """The element with that key, of a set that is none of intervals, and the value that it has; None if it is not there, or if
    there is no such set. Raises KernelError."""
    try:
        answer = attributes(socket.get(_GETSETELEM, _element(want, with_value=False)), 4)
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return None
        raise KernelError(f"nft {want.get_statement().strip()}: {os.strerror(error.code)}") from None
    there = attributes(attributes(answer[_LIST_ELEMENTS])[_LIST_ELEM])
    value = attributes(there[_ELEM_DATA])[_DATA_VALUE] if _ELEM_DATA in there else b""
    return NftElement(want.family, want.set, want.parts, inet_ntop(AF_INET, value) if value else "")


def change(socket: Socket, steps: Sequence[tuple[NftElement, bool]]) -> bool:
    """Adds (True) or deletes elements of sets that are none of intervals, all or none, as `nft -f` does. Returns whether it was
    done; why not, libnftables says better."""
    messages = [(_NEWSETELEM, _element(e), CREATE) if add else (_DELSETELEM, _element(e, False), 0) for e, add in steps]
    try:
        socket.batch(_BATCH_BEGIN, _BATCH_END, _HEADER.pack(0, 0, _SUBSYSTEM), messages)
    except NetlinkError:
        return False
    return True


def _element(element: NftElement, with_value: bool = True) -> bytes:
    """One element, as the kernel is told of it."""
    key = b"".join([_packed(part) for part in element.parts])
    if len(element.parts) == 1:
        # A part among others fills whole words; one that is alone, what it is long.
        key = key[: _size(element.parts[0])]
    item = attribute(_ELEM_KEY | _NESTED, attribute(_DATA_VALUE, key))
    if element.value and with_value:
        item += attribute(_ELEM_DATA | _NESTED, attribute(_DATA_VALUE, inet_pton(AF_INET, element.value)))
    return (
        _HEADER.pack(_FAMILIES[element.family], 0, 0)
        + attribute(_LIST_TABLE, table_of(element.family, element.set).encode() + b"\0")
        + attribute(_LIST_SET, element.set.encode() + b"\0")
        + attribute(_LIST_ELEMENTS | _NESTED, attribute(_LIST_ELEM | _NESTED, item))
    )


def _packed(part: str) -> bytes:
    """A part of a key, filled up to whole words."""
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
