"""Xen's network scripts: `SCRIPT start|stop|status [VAR=VAL…]`. xend ran them when it started; today, scripts of admins do.

The declaration that `start` makes is stored in a file in configuration.RUNTIME, where every command reads it, until `stop` or the
next boot. It is brought up like by `vmnet-hook up`, including the safe takeover of addresses.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .. import values
from ..declared import configuration
from ..errors import ConfigError, InputError, one_line
from ..kernel import iproute2, sysfs
from ..model import declaration
from ..model.guest import Action
from ..model.host_event import PartsEvent
from ..networks.reach import OPEN
from .front_end import FrontEnd, Request
from .xen_call import VARIABLE
from .xen_claim import default_netdev, is_bridge, lines

_VARIABLES = {
    "network-bridge": ("bridge", "netdev", "vifnum", "antispoof"),
    "network-route": ("netdev",),
    "network-nat": ("netdev", "antispoof", "dhcp"),
}
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
"""RFC 1918."""

_VLAN = re.compile(r"(.+)\.([0-9]{1,4})", re.ASCII)
_RULER = "=" * 60
_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def parse(request: Request) -> PartsEvent | None:
    """Return the event of a call. For `status`, print the status and return None. Raise VmnetError."""
    script = os.path.basename(request.argv[0])
    command, variables = _read(script, request.argv[1:])
    return _SCRIPTS[script](command, variables)


def _read(script: str, words: Sequence[str]) -> tuple[str, dict[str, str]]:
    known = _VARIABLES[script]
    usage = f"usage: {script} start|stop|status {' '.join(f'[{name}=]' for name in known)}"
    command, variables = "", {}
    for word in words:
        found = VARIABLE.fullmatch(word)
        if found and found[1] in known:
            variables[found[1]] = found[2]
        elif not found and not command and word in ("start", "stop", "status"):
            command = word
        else:
            raise InputError(f"{script}: {one_line(repr(word))} is not understood; {usage}")
    if not command:
        raise InputError(f"{script}: start, stop or status? {usage}")
    for name in ("netdev", "bridge"):
        if variables.get(name):
            try:
                values.ifname(variables[name])
            except ValueError as error:
                raise InputError(f"{script}: {name}={one_line(variables[name])} {error}") from None
    for name in ("antispoof", "dhcp"):
        if variables.get(name, "no") not in ("yes", "no"):
            raise InputError(f"{script}: {name}={one_line(variables[name])} is neither yes nor no")
    if not variables.get("vifnum", "0").isdecimal():
        raise InputError(f"{script}: vifnum={one_line(variables['vifnum'])} is no number")
    return command, variables


def _event(command: str, stem: str, names: Sequence[str], tables: Mapping[str, Mapping[str, Any]]) -> PartsEvent:
    action = Action.UP if command == "start" else Action.DOWN
    text = "".join(f"[{name}]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in t.items()) for name, t in tables.items())
    return PartsEvent(action, "xen-network", owner=stem, names=tuple(names), declared=text)


# --- network-bridge ------------------------------------------------------------------------------------------------------


def _bridge(command: str, variables: Mapping[str, str]) -> PartsEvent | None:
    netdev, bridge = _port_and_bridge(variables)
    if command == "status":
        _print_bridge(netdev, bridge)
        return None
    stem = f"network-bridge-{bridge}"
    tables: dict[str, dict[str, Any]] = {}
    # An invalid configuration must not prevent `stop`.
    declared = configuration.load() if command == "start" else declaration.Config({})
    part = declared.parts.get(f"bridge:{bridge}")
    if command == "start" and part and not part.source.startswith(configuration.RUNTIME):
        if netdev not in part["ports"]:
            raise InputError(f"network-bridge: {bridge} is declared in {part.source} over other ports; add {netdev} there")
        if variables.get("antispoof") == "yes":
            raise InputError(
                f"network-bridge: antispoof: {bridge} is declared in {part.source}; set antispoof in a network there"
            )
    elif command == "start":
        link = sysfs.exists(netdev) and f"vlan:{netdev}" not in declared.parts
        there = link and f"dummy:{netdev}" not in declared.parts
        vlan = _VLAN.fullmatch(netdev)
        if not there and vlan:
            tables[f'vlans."{netdev}"'] = {"parent": vlan[1], "id": int(vlan[2])}
        elif not there and netdev.startswith("dummy"):
            tables[f'dummies."{netdev}"'] = {}
        adopts = there and (_has_address(netdev) or (part is not None and part.adopts == netdev))
        tables[f'bridges."{bridge}"'] = {"ports": [netdev], **({"adopt": netdev} if adopts else {})}
        if variables.get("antispoof") == "yes":
            tables[f'networks."{bridge}"'] = {"mode": "bridged", "bridge": bridge, "antispoof": True, **OPEN}
    return _event(command, stem, [f"bridge:{bridge}"], tables)


def _port_and_bridge(variables: Mapping[str, str]) -> tuple[str, str]:
    """Return the port and the bridge, determined like in Xen's script. Once the bridge is up, the default route is on the bridge,
    so the port is taken from the declaration of an earlier call."""
    vifnum = variables.get("vifnum", "")
    netdev = variables.get("netdev") or (f"eth{vifnum}" if vifnum else "")
    bridge = variables.get("bridge", "")
    if not netdev and bridge and (port := _port_of(bridge)):
        return port, bridge
    if not netdev:
        netdev = default_netdev("network-bridge")
        if port := _port_of(netdev):
            return port, bridge or netdev
    bridge = bridge or f"xenbr{vifnum or re.sub('^[^0-9]*', '', netdev) or '0'}"
    try:
        values.ifname(bridge)
    except ValueError as error:
        raise InputError(f"network-bridge: bridge={bridge} {error}") from None
    return netdev, bridge


def _port_of(bridge: str) -> str:
    """Return the port of a bridge that an earlier call declared; "" if none."""
    try:
        return configuration.read_toml(f"{configuration.RUNTIME}/network-bridge-{bridge}.toml")["bridges"][bridge]["ports"][0]
    except (ConfigError, LookupError):
        return ""


def _has_address(ifname: str) -> bool:
    """Return whether there is anything on a link that a bridge could take over."""
    found = iproute2.rows("ip", "addr", "show", "dev", ifname, "scope", "global", check=False)
    return any(link.get("addr_info") for link in found)


def _print_bridge(netdev: str, bridge: str) -> None:
    print(_RULER)
    for dev in (netdev, bridge):
        _print_output("ip", "addr", "show", "dev", dev)
    print(" ")
    print("bridge name\tbridge id\t\tSTP enabled\tinterfaces")
    if is_bridge(bridge):
        ports = sorted(sysfs.files(bridge, "brif"))
        stp = "no" if sysfs.read(bridge, "bridge/stp_state") == "0" else "yes"
        number = sysfs.read(bridge, "bridge/bridge_id") or ""
        print(f"{bridge}\t\t{number}\t{stp}\t\t{ports[0] if ports else ''}")
        for port in ports[1:]:
            print(f"\t\t\t\t\t\t\t{port}")
    print(" ")
    _print_output("ip", "route", "list")
    print(_RULER)


# --- network-route, network-nat ------------------------------------------------------------------------------------------


def _route(command: str, variables: Mapping[str, str]) -> PartsEvent | None:
    netdev = variables.get("netdev") or default_netdev("network-route")
    if command == "status":
        print(_RULER)
        for path in (f"conf/{netdev}/forwarding", "conf/default/forwarding", f"conf/{netdev}/proxy_arp"):
            print(f"net.ipv4.{path.replace('/', '.')} = {''.join(lines(f'/proc/sys/net/ipv4/{path}'))}")
        print(" ")
        _print_output("ip", "route", "list")
        print(_RULER)
        return None
    name = f"network-route-{netdev}"
    table = {"mode": "hostroute", "netdev": netdev, "proxy_arp": True, "forward_all": True, **OPEN}
    return _event(command, name, [f"network:{name}"], {f'networks."{name}"': table})


def _nat(command: str, variables: Mapping[str, str]) -> PartsEvent | None:
    netdev = variables.get("netdev") or default_netdev("network-nat")
    if variables.get("dhcp") == "yes":
        print(
            "network-nat: dhcp=yes: dhcpd.conf is not edited; give guests their addresses with ip=, see vmnet-hook(8)",
            file=sys.stderr,
        )
    if command == "status":
        print(_RULER)
        _print_output("ip", "addr", "show", "dev", netdev)
        print(" ")
        _print_output("nft", "list", "table", "inet", "vmnet-nat")
        print(" ")
        _print_output("ip", "route", "list")
        print(_RULER)
        return None
    tables = {
        f"network-nat-{netdev}-{subnet.partition('.')[0]}": {"subnet": subnet, "out": netdev, "masquerade": True}
        for subnet in _PRIVATE
    }
    name = f"network-nat-{netdev}"
    named: dict[str, Mapping[str, Any]] = {f'nat."{part}"': table for part, table in tables.items()}
    named[f'networks."{name}"'] = {"mode": "hostroute", "netdev": netdev, "nat": True, "forward_all": True, **OPEN}
    return _event(command, name, [*(f"nat:{part}" for part in tables), f"network:{name}"], named)


_SCRIPTS = {"network-bridge": _bridge, "network-route": _route, "network-nat": _nat}


def _print_output(*command: str) -> None:
    """Print the output and the errors of a program on our standard output."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_ENVIRON
    )
    print(done.stdout, end="")


FRONT_END = FrontEnd(parse)
