"""Wires from a topology in the language of Graphviz, as Cumulus's PTM reads it: "leaf1":"swp1" -- "spine1":"swp3".

A node is a guest. Its NIC has the last number in the name of the port: the guest's own names do not tell the hypervisor's order.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import InputError, one_line
from ..networks.wire import LINK
from .draft import Block, Draft, Left

MAX_BYTES = 4 << 20

_TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)
    |(?P<quoted>"(?:[^"\\]|\\.)*")
    |(?P<word>[A-Za-z0-9_.\x80-\U0010ffff]+|-?\.?\d[\d.]*)
    |(?P<sign>--|->|[{}\[\];,:=])""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"\d+(?=\D*$)", re.ASCII)
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


class Token(NamedTuple):
    """A word or a sign, and its line. `kind` is quoted, word or sign."""

    kind: str
    text: str
    line: int


class Port(NamedTuple):
    """A node with a port; "" if the edge names none."""

    node: str
    port: str

    def __str__(self) -> str:
        return f"{self.node}:{self.port}" if self.port else self.node


class Cable(NamedTuple):
    """An edge between two nodes, and its line."""

    first: Port
    second: Port
    line: int


def read(path: str) -> list[Cable]:
    """Return the edges of a file. Raise InputError if it can't be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(f"{one_line(path)}: larger than {MAX_BYTES >> 20} MiB; is it the right file?")
        return list(cables(path, data.decode()))
    except OSError as error:
        raise InputError(f"{one_line(path)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{one_line(path)}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def cables(path: str, text: str) -> Iterator[Cable]:
    """Yield the edges of a graph; attributes and nodes without an edge are passed over. Raise InputError."""
    tokens = list(_tokens(path, text))
    at = next((number for number, token in enumerate(tokens, 1) if token[:2] == ("sign", "{")), 0)
    if not at:
        raise InputError(f"{one_line(path)}: no graph in DOT; it begins with `graph NAME {{`")
    before: Port | None = None
    joins = False
    while at < len(tokens):
        token = tokens[at]
        at += 1
        if token.kind == "sign":
            if token.text == "[":
                while at < len(tokens) and tokens[at][:2] != ("sign", "]"):
                    at += 1
                at += 1
            if token.text in ("--", "->"):
                joins = True
            else:
                before, joins = None, False
            continue
        port, at = _port(token, tokens, at)
        if before and joins:
            yield Cable(before, port, token.line)
        before, joins = port, False


def _port(token: Token, tokens: Sequence[Token], at: int) -> tuple[Port, int]:
    """Return the node that begins with a token, with its port, and the place behind it."""
    port = ""
    if at + 1 < len(tokens) and tokens[at][:2] == ("sign", ":") and tokens[at + 1].kind != "sign":
        port, at = tokens[at + 1].text, at + 2
    return Port(token.text, port), at


def _tokens(path: str, text: str) -> Iterator[Token]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            raise InputError(f"{one_line(path)}:{line}: {text[at : at + 20]!r} is not DOT; correct it, or remove it")
        kind = found.lastgroup or ""
        if kind == "quoted":
            yield Token(kind, re.sub(r"\\(.)", r"\1", found[0][1:-1], flags=re.DOTALL), line)
        elif kind != "blank":
            yield Token(kind, found[0], line)
        line += found[0].count("\n")
        at = found.end()


def convert(path: str, found: Sequence[Cable]) -> list[Block]:
    """Return a wire for each edge. What can't be one is told."""
    taken: dict[tuple[str, int], str] = {}
    names: set[str] = set()
    blocks = []
    for cable in found:
        where, text = f"{path}:{cable.line}", f"{cable.first} -- {cable.second}"
        ends, why = [], ""
        for port in cable[:2]:
            number = _NUMBER.search(port.port)
            if port.node == LINK:
                why = f"{LINK} stands for the host's own links in the ends of wires; rename the node"
                break
            if number is None or len(number[0]) > 3:
                why = f"{one_line(str(port))[:80]} does not tell the NIC's number; write {one_line(port.node)[:40]}:eth1"
                break
            nic = port.node, int(number[0])
            if (other := taken.get(nic)) and nic not in ends:
                why = f"NIC {nic[1]} of {one_line(port.node)[:40]} is an end of {one_line(other)[:80]} already"
                break
            ends.append(nic)
        if why:
            blocks.append(Block(left=[Left(where, text, why)]))
            continue
        taken |= dict.fromkeys(ends, text)
        name = base = _NO_NAME.sub("_", "-".join(f"{node}_{nic}" for node, nic in ends))[:56]
        while name in names:
            name = f"{base}-{len(names)}"
        names.add(name)
        draft = Draft("wires", name, headers=[(where, text)])
        draft.set("ends", [f"{node}:{nic}" for node, nic in ends], where, text)
        blocks.append(Block(draft))
    return blocks
