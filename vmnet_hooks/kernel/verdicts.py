"""What chains of other programs do with packets, as far as it depends on the links and on the connection's state. Asked of the
kernel: to print one chain, nft reads all sets of the host."""

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from ..errors import KernelError
from . import wire
from .netlink import NetlinkError, Socket
from .objects.nft import GETRULE, RULE_CHAIN, TABLE_NAME

NEW, ESTABLISHED = 8, 2
"""Bits of the state of a connection, as `ct state` has them."""
DEPTH = 16
"""Jumps from chain to chain that are followed: the kernel's NFT_JUMP_STACK_SIZE."""

_FAMILIES = {"inet": 1, "ip": 2, "netdev": 5, "bridge": 7, "ip6": 10}
_EXPRESSIONS, _EXPR_NAME, _EXPR_DATA = 4, 1, 2
_IMMEDIATE_DATA, _DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 2, 1, 2, 1, 2
_TARGET_NAME = 1
_DREG, _KEY = 1, 2
"""Of `meta` and of `ct`."""
_SREG, _CMP_OP, _CMP_DATA = 1, 2, 3
_BITWISE_DREG, _BITWISE_MASK = 2, 4
_LOADED = {("meta", 4): "iif", ("meta", 5): "oif", ("meta", 6): "iifname", ("meta", 7): "oifname", ("ct", 0): "state"}
"""What a register holds, by expression and key (linux/netfilter/nf_tables.h): iif and oif are indices."""
_EQUAL, _UNEQUAL = 0, 1
_CODE, _NUMBER = Struct("!i"), Struct("=I")
_CODES = {0: "drop", 1: "accept", -3: "jump", -4: "goto", -5: "return"}
_PASSING = frozenset(("counter", "log"))
"""Expressions that every packet passes; any other may match some packets only."""


class Rule(NamedTuple):
    """A rule with a verdict, and what it matches: the names of links ("": any; a * at the end: any characters), and states of
    connections (0: any)."""

    verdict: str
    target: str = ""
    iif: str = ""
    oif: str = ""
    states: int = 0

    def matches(self, packet: "Packet") -> bool:
        """Whether it surely matches."""
        return all(not want or _is_called(have, want) for want, have in ((self.iif, packet.iif), (self.oif, packet.oif))) and (
            not self.states or bool(self.states & packet.state)
        )


class Packet(NamedTuple):
    """Packets that arrive on a link, or leave through one; "" and 0 are not known."""

    iif: str = ""
    oif: str = ""
    state: int = 0


ANY = Packet()


def fate(rules_of: Callable[[str], Sequence[Rule]], chain: str, packet: Packet, depth: int = 0) -> str:
    """Return the verdict of a chain on packets: accept, drop, reject; "" if none of the rules that surely match has one."""
    for rule in rules_of(chain):
        if not rule.matches(packet):
            continue
        if rule.verdict in ("jump", "goto"):
            found = fate(rules_of, rule.target, packet, depth + 1) if depth < DEPTH else ""
            if found or rule.verdict == "goto":
                return found
        elif rule.verdict == "return":
            return ""
        else:
            return rule.verdict
    return ""


def _is_called(have: str, want: str) -> bool:
    return have.startswith(want[:-1]) if want.endswith("*") and have else have == want


def rules(asking: Socket, family: str, table: str, chain: str) -> list[Rule]:
    """See Nft.rules."""
    names = {TABLE_NAME: table.encode() + b"\0", RULE_CHAIN: chain.encode() + b"\0"}
    try:
        found = asking.dump(GETRULE, wire.body(wire.NFGENMSG.pack(_FAMILIES[family], 0, 0), names))
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return []
        raise KernelError(f"nft list chain {family} {table} {chain}: {os.strerror(error.code)}") from None
    return [rule for data in found if (rule := _rule(wire.attributes(data, 4).get(_EXPRESSIONS, b"")))]


def _rule(expressions: bytes) -> Rule | None:
    """Return a rule; None if it has no verdict, or if more than Rule tells decides whether it matches."""
    registers: dict[bytes, str] = {}
    matched = Rule("")
    for name, data in _named(expressions):
        if name in ("meta", "ct"):
            registers[data.get(_DREG, b"")] = _LOADED.get((name, int.from_bytes(data.get(_KEY, b""))), "")
        elif name == "bitwise" and registers.get(data.get(_SREG, b"")) == "state":
            mask = wire.attributes(data.get(_BITWISE_MASK, b"")).get(_DATA_VALUE, bytes(4))
            matched = matched._replace(states=_NUMBER.unpack(mask)[0])
            registers[data.get(_BITWISE_DREG, b"")] = "states"
        elif name == "cmp":
            value = wire.attributes(data.get(_CMP_DATA, b"")).get(_DATA_VALUE, b"")
            compared, operation = registers.get(data.get(_SREG, b"")), int.from_bytes(data.get(_CMP_OP, b""))
            if compared in ("iif", "oif", "iifname", "oifname") and operation == _EQUAL:
                name_of = _name(value) if compared.endswith("name") else _link(value)
                matched = matched._replace(iif=name_of) if compared.startswith("iif") else matched._replace(oif=name_of)
            elif not (compared == "states" and operation == _UNEQUAL and not any(value)):
                return None
        elif name == "reject":
            return matched._replace(verdict="reject")
        elif name == "immediate":
            verdict = wire.attributes(wire.attributes(data.get(_IMMEDIATE_DATA, b"")).get(_DATA_VERDICT, b""))
            code = _CODES.get(_CODE.unpack(verdict[_VERDICT_CODE])[0]) if _VERDICT_CODE in verdict else None
            return matched._replace(verdict=code, target=wire.text(verdict.get(_VERDICT_CHAIN, b""))) if code else None
        elif name == "target":
            # A target of iptables that has no equal in nftables.
            target = wire.text(data.get(_TARGET_NAME, b""))
            if target == "REJECT":
                return matched._replace(verdict="reject")
            if target not in ("LOG", "NFLOG"):
                return None
        elif name not in _PASSING:
            return None
    return None


def _link(value: bytes) -> str:
    """The name of the link whose index a rule compares with."""
    try:
        return socket.if_indextoname(_NUMBER.unpack(value)[0])
    except OSError:
        return "?"


def _name(value: bytes) -> str:
    """The name that a rule compares with, or its beginning: all of a name ends with a NUL."""
    return wire.text(value) if value.endswith(b"\0") else f"{value.decode(errors='replace')}*"


def _named(expressions: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    for item in wire.values(expressions):
        there = wire.attributes(item)
        yield wire.text(there.get(_EXPR_NAME, b"")), wire.attributes(there.get(_EXPR_DATA, b""))
