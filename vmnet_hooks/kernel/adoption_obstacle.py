"""Why a bridge must not take over an interface: another program manages its addresses, or the host depends on it as it is."""

import configparser
import os
import socket
from collections.abc import Sequence

from . import iproute2

_DHCP_CLIENTS = ("dhclient", "dhcpcd", "udhcpc", "dhcpcd5")


def obstacle(port: str, bridge: str) -> str:
    """One line with the remedy; "" if there is none. Raises KernelError."""
    manager = _dhcp(port, bridge) or _networkd(port, bridge) or _network_manager(port, bridge)
    return manager or _nfs_root(port) or _rules(port) or _nexthops(port) or _uppers(port)


def _dhcp(port: str, bridge: str) -> str:
    pid = _process(_DHCP_CLIENTS, port)
    found = [
        entry["local"]
        for link in iproute2.rows("ip", "addr", "show", "dev", port, check=False)
        for entry in link.get("addr_info", ())
        if entry["family"] == "inet" and entry.get("dynamic")
    ]
    if not (pid or found):
        return ""
    what = f"its address {found[0]} is from DHCP" if found else f"a DHCP client (process {pid}) runs on it"
    if _is_ifupdowns(port):
        edit = " ".join(f"`{line}`" for line in ifupdowns_bridge(port, bridge))
        old = "/etc/network/interfaces.old"
        # In one command: over SSH, what comes after the first would not be run.
        steps = f"copy /etc/network/interfaces to {old}, write in the former, in place of what it has of {port}, {edit}"
        run = f"run, as one command, `ifdown -i {old} {port}; ifup {bridge}`"
        return f"{what}; let ifupdown make the bridge (package bridge-utils): {steps}, {run}, and {_drop(bridge)}"
    return f"{what}, and would be renewed on a port; give {port} a static address, or run the DHCP client on a bridge of your own"


def ifupdowns_bridge(port: str, bridge: str) -> tuple[str, ...]:
    """Return the lines of interfaces(5) for a bridge over an interface, by DHCP."""
    stanzas = (f"iface {port} inet manual", f"auto {bridge}", f"iface {bridge} inet dhcp")
    return (*stanzas, f"bridge_ports {port}", f"bridge_hw {port}")


def _drop(bridge: str) -> str:
    """What becomes of our declaration if another program makes the bridge."""
    return f"remove [bridges.{bridge}] (networks may name {bridge} as their bridge all the same)"


def _is_ifupdowns(port: str) -> bool:
    """Whether ifupdown has brought an interface up."""
    try:
        with open("/run/network/ifstate") as file:
            return any(line.partition("=")[0] == port for line in file.read().splitlines())
    except OSError:
        return False


def is_underway(port: str) -> bool:
    """Whether ifup still configures an interface: it may have set the addresses of one family only."""
    return bool(_process(("ifup",), port))


def _process(programs: Sequence[str], port: str) -> str:
    """The PID of a process of this network namespace that runs one of the programs on an interface; "" if none."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
            same = os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
        except OSError:
            continue
        if same and port in words and {os.path.basename(word) for word in words[:2]} & set(programs):
            return pid
    return ""


def _networkd(port: str, bridge: str) -> str:
    try:
        with open(f"/run/systemd/netif/links/{socket.if_nametoindex(port)}") as file:
            state = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except OSError:
        return ""
    if state.get("ADMIN_STATE", "unmanaged") == "unmanaged":
        return ""
    file_name = state.get("NETWORK_FILE") or f"/etc/systemd/network/{port}.network"
    mac = _mac(port)
    if os.path.basename(file_name).startswith("10-netplan-"):
        edit = f"`bridges: {{{bridge}: {{interfaces: [{port}], macaddress: {mac}}}}}`"
        moved = f"what {port} has under `ethernets` goes into {bridge}, all but `match` and `set-name`"
        remedy = f"let it make the bridge: add {edit} beside `ethernets` in /etc/netplan; {moved}; run `netplan apply`"
        return f"systemd-networkd is in charge of it (by netplan); {remedy}, and {_drop(bridge)}"
    netdev = f"/etc/systemd/network/{bridge}.netdev with `[NetDev] Name={bridge} Kind=bridge MACAddress={mac}`"
    moved = f"what {file_name} has after [Match] and [Link] goes into {bridge}.network, with `[Match] Name={bridge}`"
    left = f"leave `[Network] Bridge={bridge}` in its place"
    remedy = f"let it make the bridge: write {netdev}; {moved}; {left}; run `networkctl reload`"
    return f"systemd-networkd is in charge of it ({file_name}); {remedy}, and {_drop(bridge)}"


def _mac(port: str) -> str:
    with open(f"/sys/class/net/{port}/address") as file:
        return file.read().strip()


def _network_manager(port: str, bridge: str) -> str:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(f"/run/NetworkManager/devices/{socket.if_nametoindex(port)}")
    except (OSError, configparser.Error):
        return ""
    if parser.get("device", "managed", fallback="") not in ("1", "true"):
        return ""
    made = f"add type bridge con-name {bridge} ifname {bridge} bridge.stp no bridge.mac-address {_mac(port)}"
    joins = f"add type ethernet con-name {bridge}-{port} ifname {port} master {bridge}"
    profile = parser.get("device", "connection-uuid", fallback=port)
    commands = "; ".join(
        f"nmcli connection {words}" for words in (made, joins, f"modify {profile} autoconnect no", f"up {bridge}-{port}")
    )
    settings = f"with the ipv4 and ipv6 settings of connection {profile} in the first command, unless they are automatic"
    remedy = f"let it make the bridge: `{commands}`, {settings}"
    return f"NetworkManager is in charge of it; {remedy}, and {_drop(bridge)}"


def _nfs_root(port: str) -> str:
    try:
        with open("/proc/self/mounts") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return ""
    for _, where, kind, options, *_ in mounts:
        if where == "/" and kind in ("nfs", "nfs4"):
            server = next((option[5:] for option in options.split(",") if option.startswith("addr=")), "")
            found = iproute2.rows("ip", "route", "get", server, check=False) if server else []
            if not found or found[0].get("dev") == port:
                return "the root file system comes over it by NFS; make the bridge in the initramfs"
    return ""


def _rules(port: str) -> str:
    for family in ("-4", "-6"):
        for rule in iproute2.rows("ip", family, "rule", "show", check=False):
            for key in ("iif", "oif"):
                if rule.get(key) == port:
                    table = rule.get("table", "?")
                    return f"the rule `{key} {port} lookup {table}` would not follow; make it name the bridge first"
    return ""


def _nexthops(port: str) -> str:
    """Routes by nexthop objects: ip(8) does not take what it prints of them, and the objects are another program's."""
    for family in ("-4", "-6"):
        for line in iproute2.run("ip", "-o", family, "route", "show", "table", "all").splitlines():
            words = line.replace("\\", " ").split()
            pairs = list(zip(words, words[1:], strict=False))
            if ("dev", port) in pairs and "nhid" in words:
                object_id = words[words.index("nhid") + 1]
                table = f" table {words[words.index('table') + 1]}" if "table" in words else ""
                remedy = f"make it a route with `via` and `dev`, or remove it: ip {family} route del {words[0]}{table}"
                return f"the route to {words[0]} is by nexthop object {object_id}, which would not follow; {remedy}"
    return ""


def _uppers(port: str) -> str:
    """Links that take the frames of the port, so that no bridge can."""
    for link in iproute2.rows("ip", "-d", "link", "show"):
        kind = link.get("linkinfo", {}).get("info_kind", "")
        if link.get("link") == port and kind in ("macvlan", "macvtap", "ipvlan", "ipvtap"):
            name = link["ifname"]
            remedy = f"make {name} on the bridge afterwards, and remove it first: ip link del {name}"
            return f"{kind} {name} is on it, and a port of a bridge can have none; {remedy}"
    return ""
