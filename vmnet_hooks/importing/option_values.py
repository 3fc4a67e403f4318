"""Converts values of options in interfaces(5) to TOML. Each parser raises ValueError with the reason if there is no
equivalent."""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from ..links.bond import HASHES, POLICIES, RATES

WHITE = " \t\r\v\f"
"""The white space of isspace(3), without the newline."""

_WORD = re.compile(f"[^{WHITE}]+")
_FRACTION = re.compile(r"([0-9]{1,9})(\.0*)?", re.ASCII)


def split(text: str) -> list[str]:
    return _WORD.findall(text)


def brctl(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser for what bridge-utils hands to brctl word by word: brctl reads the first one, and ignores the others, such
    as a # with what is behind it."""
    return lambda text: parse(first(text))


def seconds(text: str) -> int:
    """Parse a time in seconds. brctl also takes fractions of a second, which vmnet.toml does not."""
    found = _FRACTION.fullmatch(text)
    if not found:
        raise ValueError("only whole seconds can be declared")
    return int(found[1])


def number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text, re.ASCII):
        raise ValueError("it is not a whole number")
    return int(text)


def switch(text: str) -> bool:
    """Parse a word of brctl's, which ignores the option if it is another one."""
    if text in ("on", "yes", "1"):
        return True
    if text in ("off", "no", "0"):
        return False
    raise ValueError("it is neither on nor off")


def aware(text: str) -> bool:
    """Parse bridge-vlan-aware. bridge-utils compares the whole value with `yes`; ifupdown2 also takes others for true."""
    if text == "yes":
        return True
    if text in ("no", "off", "0"):
        return False
    raise ValueError("bridge-utils takes any value but yes for no, ifupdown2 does not; write yes or no")


def mac(text: str) -> str:
    """Parse `hwaddress ether 02:…` or `hwaddress 02:…`."""
    word = text.removeprefix("ether").strip()
    if word == "random":
        raise ValueError("a declared link's MAC is always the same; write one")
    return word.lower()


def names(text: str) -> list[str]:
    """Parse a list of interfaces; "none" is the empty list. There is no interface of the name # or of the words behind it."""
    return [] if text == "none" else split(text.partition("#")[0])


def vids(text: str) -> list[int | str]:
    return [int(word) if word.isdecimal() and len(word) < 9 else word for word in split(text.replace(",", " "))]


def first(text: str) -> str:
    return split(text)[0]


def bond_mode(text: str) -> str:
    """Parse a bonding mode, given by name or by number."""
    return _chosen(text, POLICIES)


def bond_hash(text: str) -> str:
    return _chosen(text, HASHES)


def bond_rate(text: str) -> str:
    return _chosen(text, RATES)


def _chosen(text: str, words: tuple[str, ...]) -> str:
    if text.isdecimal() and len(text) < 3 and int(text) < len(words):
        return words[int(text)]
    return text


def address(text: str, netmask: str, family: str) -> IPv4Interface | IPv6Interface:
    """Return the interface's address as ifup understands it: a netmask takes precedence over a prefix length, and without
    either an IPv4 address has the prefix length of its class."""
    host, _, length = text.partition("/")
    try:
        length = netmask or length or ("128" if family == "inet6" else str(_class(host)))
        found = ip_interface(f"{host}/{length}")
    except ValueError:
        raise ValueError("it is not an address with a netmask") from None
    if found.version != (6 if family == "inet6" else 4):
        raise ValueError(f"it is not an address of {family}")
    return found


def peer(own: IPv4Interface | IPv6Interface, text: str) -> str:
    """Return an address with a peer, as `ip addr add ADDRESS/LENGTH peer PEER` understands it. Raise ValueError."""
    try:
        other = ip_interface(text)
    except ValueError:
        raise ValueError("it is not an address") from None
    return f"{own.ip} peer {other.network}"


def _class(host: str) -> int:
    first_octet = int(IPv4Address(host)) >> 24
    return 8 if first_octet < 128 else 16 if first_octet < 192 else 24
