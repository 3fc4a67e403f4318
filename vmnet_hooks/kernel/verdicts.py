"""What chains of other programs do with a packet that none of their matches is for. Asked of the kernel: to print one chain, nft
reads all sets of the host."""

import errno
import os
from collections.abc import Iterator
from struct import Struct

from ..errors import KernelError
from . import wire
from .netlink import NetlinkError, Socket
from .objects.nft import GETRULE, RULE_CHAIN, TABLE_NAME

_FAMILIES = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}
_EXPRESSIONS, _EXPR_NAME, _EXPR_DATA = 4, 1, 2
_IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 2, 2, 1, 2
_TARGET_NAME = 1
_CODE = Struct("!i")
_CODES = {0: "drop", 1: "accept", -3: "jump", -4: "goto", -5: "return"}
_PASSING = frozenset(("counter", "log"))
"""Expressions that every packet passes; any other may match some packets only."""


def verdicts(socket: Socket, family: str, table: str, chain: str) -> list[tuple[str, str]]:
    """See Nft.verdicts."""
    names = {TABLE_NAME: table.encode() + b"\0", RULE_CHAIN: chain.encode() + b"\0"}
    try:
        rules = socket.dump(GETRULE, wire.body(wire.NFGENMSG.pack(_FAMILIES[family], 0, 0), names))
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return []
        raise KernelError(f"nft list chain {family} {table} {chain}: {os.strerror(error.code)}") from None
    return [found for data in rules if (found := _verdict(wire.attributes(data, 4).get(_EXPRESSIONS, b"")))]


def _verdict(expressions: bytes) -> tuple[str, str] | None:
    """Return the verdict of a rule on every packet; None if it has none, or not for every packet."""
    for name, data in _named(expressions):
        if name == "reject":
            return "reject", ""
        if name == "immediate":
            verdict = wire.attributes(wire.attributes(data.get(_IMMEDIATE_DATA, b"")).get(_DATA_VERDICT, b""))
            code = _CODES.get(_CODE.unpack(verdict[_VERDICT_CODE])[0]) if _VERDICT_CODE in verdict else None
            return (code, wire.text(verdict.get(_VERDICT_CHAIN, b""))) if code else None
        if name == "target":
            # A target of iptables that has no equal in nftables.
            target = wire.text(data.get(_TARGET_NAME, b""))
            if target == "REJECT":
                return "reject", ""
            if target not in ("LOG", "NFLOG"):
                return None
        elif name not in _PASSING:
            return None
    return None


def _named(expressions: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    for item in wire.values(expressions):
        there = wire.attributes(item)
        yield wire.text(there.get(_EXPR_NAME, b"")), wire.attributes(there.get(_EXPR_DATA, b""))
