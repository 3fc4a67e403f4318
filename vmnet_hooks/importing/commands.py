"""Commands in stanzas of interfaces(5) that vmnet.toml has keys for: routes, and the translation of addresses.

ifup hands a command to sh. What is not a plain call of `ip route`, `route` or `iptables` is not read.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from ..values import Subnet

_SHELL = re.compile(r"[;&|<>`$()*?\[\]{}]")
_IGNORED = re.compile(r"\s*(2>\s*/dev/null|>\s*/dev/null(\s+2>&1)?)?\s*(\|\|\s*(true|:|exit 0))?\s*$")
_TABLES = {"main": 254, "default": 253}
_METRIC = ("metric", "preference", "priority")


@dataclass(frozen=True)
class RouteCommand:
    """A command that adds or deletes a route. `route` is a table of `routes`, `dev` the link; "" means that it names none."""

    adds: bool
    dev: str
    route: Mapping[str, Any]


@dataclass(frozen=True)
class NatCommand:
    """A command that adds or deletes a rule which translates source addresses. `nat` is a table of [nat]."""

    adds: bool
    nat: Mapping[str, Any]


Command = RouteCommand | NatCommand


def parse(text: str, ifname: str) -> Command | None:
    """Return what a command in the stanza of `ifname` does; None if it is none of these commands. Raise ValueError with the
    reason if vmnet.toml has no equivalent of it."""
    # `iptables -C RULE || iptables -A RULE`.
    text = re.sub(r"^\S+ (-\S+ )*(\S+ )*?(-C|--check) [^|;&]*\|\|", "", text).strip()
    text = re.sub(r"\$(IFACE\b|\{IFACE\})", lambda _: ifname, _IGNORED.sub("", text))
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None
    if not words or any(_SHELL.search(word) for word in words):
        return None
    program = words[0].rpartition("/")[2]
    known: Mapping[str, Callable[[Sequence[str]], Command | None]] = {
        "ip": lambda rest: _ip(rest, ifname),
        "route": _route,
        "iptables": lambda rest: _iptables(rest, 4),
        "ip6tables": lambda rest: _iptables(rest, 6),
    }
    program = program.removesuffix("-nft").removesuffix("-legacy")
    return known[program](words[1:]) if program in known else None


def _ip(words: Sequence[str], ifname: str) -> RouteCommand | None:
    """Read the words of `ip [-4|-6] route add|del …`."""
    rest = list(words)
    six = False
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word in ("-f", "-family", "--family"):
            word = {"inet": "-4", "inet6": "-6"}.get(rest.pop(0) if rest else "", "")
        if word not in ("-4", "-6"):
            return None
        six = word == "-6"
    if len(rest) < 3 or rest[0] not in ("route", "ro", "r") or rest[1] not in ("add", "a", "replace", "append", "del", "delete"):
        return None
    adds = rest[1] not in ("del", "delete")
    rest = rest[2:]
    if rest[0] == "unicast":
        rest.pop(0)
    if rest[:1] == ["to"]:
        rest.pop(0)
    if not rest:
        return None
    route: dict[str, Any] = {"to": rest.pop(0)}
    dev = ""
    while rest:
        word = rest.pop(0)
        if word == "onlink":
            route["onlink"] = True
            continue
        if not rest:
            raise ValueError(f"{word} has no value")
        value = rest.pop(0)
        if word == "via":
            route["via"] = rest.pop(0) if value in ("inet", "inet6") and rest else value
        elif word == "dev":
            dev = value
        elif word == "src":
            route["src"] = value
        elif word in _METRIC:
            route["metric"] = _number(value, word)
        elif word == "table":
            route["table"] = _TABLES[value] if value in _TABLES else _number(value, word)
        elif word == "mtu" and value != "lock":
            route["mtu"] = _number(value, word)
        elif word not in ("proto", "scope"):
            raise ValueError(f"`routes` has no {word}")
    if route["to"] == "default" and (six or "via" not in route):
        route["to"] = "::/0" if six else "0.0.0.0/0"
    return RouteCommand(adds, dev, {key: value for key, value in route.items() if (key, value) != ("table", 254)})


def _route(words: Sequence[str]) -> RouteCommand | None:
    """Read the words of route(8), which is of net-tools."""
    rest = list(words)
    six = rest[:2] == ["-A", "inet6"] or rest[:1] in (["-6"], ["--inet6"])
    rest = rest[2:] if rest[:2] == ["-A", "inet6"] else rest[1:] if six else rest
    if len(rest) < 2 or rest[0] not in ("add", "del"):
        return None
    adds = rest.pop(0) == "add"
    if rest[0] in ("-net", "-host"):
        rest.pop(0)
    if not rest:
        return None
    to, mask, dev = rest.pop(0), "", ""
    route: dict[str, Any] = {}
    while rest:
        word = rest.pop(0)
        if not rest:
            # The last word may be the link alone.
            dev = word
            break
        value = rest.pop(0)
        if word in ("gw", "gateway"):
            route["via"] = value
        elif word == "netmask":
            mask = value
        elif word == "dev":
            dev = value
        elif word == "metric":
            route["metric"] = _number(value, word)
        else:
            raise ValueError(f"`routes` has no {word}")
    if to == "default":
        to = "::/0" if six else "0.0.0.0/0"
    elif mask:
        to = str(_subnet(f"{to}/{mask}"))
    return RouteCommand(adds, dev, {"to": to, **route})


def _iptables(words: Sequence[str], version: int) -> NatCommand | None:
    """Read the words of a rule of POSTROUTING with the target MASQUERADE or SNAT."""
    rest = list(words)
    found: dict[str, str] = {}
    negated = ""
    while rest:
        word = rest.pop(0)
        if word in ("-w", "--wait"):
            continue
        if word == "!" and rest[:1] in (["-d"], ["--destination"]) and len(rest) > 1:
            negated = rest[1]
            rest = rest[2:]
            continue
        if not rest:
            return None
        value = rest.pop(0)
        key = _RULE.get(word, "")
        if not key:
            if found.get("table") == "nat":
                raise ValueError(f"[nat] has no {word}; it translates what a subnet sends out of one interface")
            return None
        if key == "chain" and rest and rest[0].isdecimal():
            rest.pop(0)
        found[key] = value
        if key == "chain":
            found["verb"] = word
    if (found.get("table"), found.get("chain")) != ("nat", "POSTROUTING") or found.get("match", "comment") != "comment":
        return None
    if found.get("target") not in ("MASQUERADE", "SNAT"):
        return None
    if "source" not in found:
        raise ValueError("[nat] needs the guests' subnet: declare it with subnet and out")
    if "out" not in found:
        raise ValueError("[nat] needs the interface to the outside: declare it with subnet and out")
    subnet = _subnet(found["source"])
    if subnet.version != version:
        raise ValueError(f"{subnet} is not of the family of the command")
    if negated and _subnet(negated) != subnet:
        raise ValueError(f"[nat] has no exception for {negated}")
    how: dict[str, Any] = {"masquerade": True} if found["target"] == "MASQUERADE" else {"snat": found.get("address", "")}
    return NatCommand(found["verb"] not in ("-D", "--delete"), {"subnet": str(subnet), "out": found["out"], **how})


_RULE = {
    **{"-t": "table", "--table": "table", "-m": "match", "--match": "match", "--comment": "comment"},
    **{"-A": "chain", "--append": "chain", "-I": "chain", "--insert": "chain", "-D": "chain", "--delete": "chain"},
    **{"-s": "source", "--source": "source", "-o": "out", "--out-interface": "out"},
    **{"-j": "target", "--jump": "target", "--to-source": "address", "--to": "address"},
}


def _number(text: str, word: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text, re.ASCII):
        raise ValueError(f"{word} {text[:20]} is not a number; write the number")
    return int(text)


def _subnet(text: str) -> Subnet:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:40]} is not a subnet") from None
