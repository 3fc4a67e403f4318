"""Debian's ifupdown and ifupdown2: hooks in /etc/network/if-up.d and if-down.d. ifup passes the stanza of interfaces(5) in the
environment. ifupdown calls them once for each family. ifupdown2 calls them once for each interface, with both families or none in
ADDRFAM, and passes the first value of each option.

A stanza with `ip-routing-table` is a routed network whose uplink is the stanza's interface. Its options are those of
gnt-networking's vmrouter.ifup; each is converted to the equivalent option of vmnet.toml(5).
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .. import values
from ..declared import SECTIONS
from ..errors import ConfigError, InputError, one_line
from ..model.declaration import Config, Network, Option
from ..model.guest import Action
from ..model.host_event import NetworkEvent
from ..networks import MODES, reach
from .front_end import FrontEnd, Request

INTERFACES = "/etc/network/interfaces"
RT_TABLES = ("/usr/share/iproute2", "/etc/iproute2")
"""The folders with iproute2's rt_tables and rt_tables.d. The last entry of a name takes precedence."""

OPTIONS = {
    "uplink": "",
    "table": "ip-routing-table",
    "subnet": "ip-routes",
    "gateway": "ip-gateway",
    "arp_source": "arp-ip",
}
"""Options of a routed network, and their names in a stanza."""

_ROWS: Mapping[str, Option] = {row.name: row for row in MODES["routed"].options}


@dataclass(frozen=True)
class Stanza(Network):
    """A routed network that a stanza declares. Error messages have the names of the stanza's options."""

    def error(self, option: str, problem: str) -> ConfigError:
        word = option.rpartition(".")[2]
        return _error(self.source, OPTIONS.get(word, word), problem)


def parse(request: Request) -> NetworkEvent | None:
    """Return the event of a call; None if the stanza is not ours. Raise InputError."""
    return event(request.environ)


def event(environ: Mapping[str, str]) -> NetworkEvent | None:
    """Return the event of the environment that ifup or ifdown set; None if the stanza is not ours. Raise InputError."""
    if "IFACE" not in environ or environ.get("MODE") not in ("start", "stop"):
        raise InputError("IFACE or MODE is not set; ifup and ifdown call this, see vmnet-hook(8)")
    families = environ.get("ADDRFAM", "")
    if not {"inet", "inet6"}.issuperset(families.split(",") if families else ()):
        return None
    family = families
    if family not in ("inet", "inet6"):
        family = "inet6" if ":" in environ.get("IF_IP_ROUTES", "") else "inet"
    ifname = environ["IFACE"]
    where = f"{INTERFACES}: iface {one_line(environ.get('LOGICAL') or ifname)} {family}"
    try:
        values.ifname(ifname)
    except ValueError as error:
        raise _error(where, "", f"{one_line(repr(ifname))} {error}") from None
    owner = f"ifupdown:{ifname}/{families}"
    if environ["MODE"] == "stop" or not environ.get("IF_IP_ROUTING_TABLE"):
        # Clean-up uses the record alone: the stanza may have been edited since `up`, and not be ours any more.
        return NetworkEvent(Action.DOWN, "ifupdown", owner=owner)
    return NetworkEvent(Action.UP, "ifupdown", owner=owner, network=network(environ, ifname, family, where))


def network(environ: Mapping[str, str], ifname: str, family: str, where: str) -> Network:
    """Return the routed network that a stanza declares, in the same form as if declared in TOML. Raise ConfigError. `where` is
    the stanza, for error messages."""
    words = {key: environ.get(f"IF_{key.upper().replace('-', '_')}", "") for key in (*OPTIONS.values(), "address", "netmask")}
    if len(words["ip-routes"].split()) > 1:
        raise _error(
            where, "ip-routes", f"{_quoted(words['ip-routes'])} is more than one subnet; write one, in a stanza of its own"
        )
    _switch(environ, where, "ip-forwarding", False)
    proxy = _switch(environ, where, "ip-proxy-arp" if family == "inet" else "ip-proxy-ndp", None)
    key = "ipv4" if family == "inet" else "ipv6"
    rows = {row.name: row for row in _ROWS[key].keys}
    own = _own(words["address"], words["netmask"])
    if not words["ip-gateway"] and own is None:
        raise _error(where, "ip-gateway", "missing; write the gateway's address, or give the interface one in this stanza")
    gateway = words["ip-gateway"] or str(own.ip)
    side: dict[str, Any] = {row.name: row.default for row in rows.values() if row.name in OPTIONS}
    side["subnet"] = _parsed(rows["subnet"], words["ip-routes"], where)
    side["gateway"] = _parsed(rows["gateway"], gateway, where)
    if "arp_source" in rows and words["arp-ip"]:
        side["arp_source"] = _parsed(rows["arp_source"], words["arp-ip"], where)
    role = "host"
    if own is not None and own.ip == side["gateway"]:
        role = "router+host" if proxy else "router"
        if own.network.prefixlen != side["subnet"].prefixlen and own.ip in side["subnet"]:
            raise _error(
                where,
                "address",
                f"{own} is not in {side['subnet']} with its prefix length; write {own.ip}/{side['subnet'].prefixlen}",
            )
    elif proxy is False:
        raise _error(
            where,
            f"ip-proxy-{'arp' if family == 'inet' else 'ndp'}",
            "0, but a node that is not the gateway answers for its guests; write 1",
        )
    options = {row.name: row.default for row in _ROWS.values()}
    options |= {**reach.OPEN, "uplink": ifname, "table": _table(words["ip-routing-table"], where), "role": role, key: side}
    found = Stanza(SECTIONS["networks"], f"{ifname}-{family}", options, where, MODES["routed"])
    found.check()
    found.mode.check_together([found], Config({}))
    return found


def _error(where: str, option: str, problem: str) -> ConfigError:
    return ConfigError(f"{where}: {option}: {problem}" if option else f"{where}: {problem}")


def _quoted(text: str) -> str:
    return one_line(repr(text))[:80]


def _switch(environ: Mapping[str, str], where: str, option: str, refused: bool | None) -> bool | None:
    """Return the value of an option that is 0 or 1; None if it is not given. Raise ConfigError if the value is `refused`."""
    text = environ.get(f"IF_{option.upper().replace('-', '_')}", "")
    if text not in ("", "0", "1"):
        raise _error(where, option, f"{_quoted(text)} is neither 0 nor 1")
    value = None if not text else text == "1"
    if value is not None and value is refused:
        raise _error(where, option, f"{text}, but a routed network forwards; write 1, or remove ip-routing-table")
    return value


def _parsed(row: Option, text: str, where: str) -> Any:
    if not text:
        raise _error(where, OPTIONS[row.name], f"missing; {row.doc}")
    try:
        return row.parse(text)
    except ValueError as error:
        raise _error(where, OPTIONS[row.name], f"{_quoted(text)} {error}") from None


def _own(address: str, netmask: str) -> Any:
    """Return the interface's own address in the stanza; None if there is none. ifup has already refused malformed ones."""
    try:
        return ipaddress.ip_interface(address if "/" in address or not netmask else f"{address}/{netmask}")
    except ValueError:
        return None


def _table(word: str, where: str) -> int:
    """Return the number of a routing table. A name is looked up in iproute2's files."""
    if re.fullmatch(r"[0-9]{1,10}", word, re.ASCII):
        number = int(word)
    else:
        known = dict(_names())
        if word not in known:
            remedy = "write its number, or register the name in /etc/iproute2/rt_tables.d/*.conf"
            raise _error(where, "ip-routing-table", f"{_quoted(word)} is no routing table's name; {remedy}")
        number = known[word]
    try:
        return _ROWS["table"].parse(number)
    except ValueError as error:
        raise _error(where, "ip-routing-table", f"{_quoted(word)} {error}") from None


def _names() -> Iterator[tuple[str, int]]:
    for folder in RT_TABLES:
        paths = [f"{folder}/rt_tables"]
        try:
            paths += sorted(
                f"{folder}/rt_tables.d/{name}" for name in os.listdir(f"{folder}/rt_tables.d") if name.endswith(".conf")
            )
        except OSError:
            pass
        for path in paths:
            try:
                with open(path, errors="replace") as file:
                    found = re.findall(r"(?m)^\s*(0[xX][0-9a-fA-F]+|[0-9]+)\s+([^\s#]+)", file.read(1 << 20))
            except OSError:
                continue
            yield from ((name, int(number, 0 if number[:2].lower() == "0x" else 10)) for number, name in found)


FRONT_END = FrontEnd(parse)
