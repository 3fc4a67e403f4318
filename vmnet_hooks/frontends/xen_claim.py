"""Finds the network of a vif of Xen's: a declared one, or one that the settings of the vif in xenstore describe."""

import glob
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from .. import values
from ..declared import SECTIONS
from ..errors import ConfigError, InputError, one_line
from ..kernel import sysfs
from ..model.declaration import Config, Network, parse_options
from ..model.guest import Claim
from ..model.resource import ALIAS
from ..networks import MODES, reach
from .xen_call import INTERFACE, Call, parsed

_NOTATION = re.compile(r"([^.:]+)(?:\.(\d{1,4}))?((?::\d{1,4})*)", re.ASCII)
_VLAN = re.compile(r"(\d{1,4})(?:(p)|-(\d{1,4})|\+(\d{1,4})x(\d{1,4}))?", re.ASCII)


@dataclass(frozen=True)
class Described(Network):
    """A network that the settings of a vif describe. Error messages have the name of the setting."""

    def error(self, option: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.source}: {option or self.name}: {problem}")


def claim_of(call: Call, backend: Mapping[str, str], declared: Config, where: str) -> tuple[Claim, Network | None]:
    """Return the claim that the settings of a NIC make, and the network if no file declares it. Raise InputError or
    ConfigError."""

    def setting(key: str) -> str:
        return noted.get(key) or backend.get(key) or call.variables.get(key, "")

    noted: dict[str, str] = {}
    if call.script == "vif-bridge":
        name, vlan = setting("bridge"), setting("vlan")
        noted = _noted(name, declared)
        if noted and vlan:
            raise InputError(f"{where}: vlan: {one_line(vlan)}, but bridge={one_line(name)} names VLANs, too; write one of them")
    words = setting("ip").split()
    addresses = tuple(dict.fromkeys(parsed(_source, word, f"{where}: ip") for word in words))
    untagged, tagged = parsed(vlans, setting("vlan"), f"{where}: vlan") if setting("vlan") else (None, None)
    claim = Claim("", addresses=addresses, source=where, vlan=untagged, tagged=tagged)
    if name := setting("network"):
        found = declared.network(name, f"{where}: network")
    else:
        found = CLAIMS[call.script](call, claim, setting, declared, where)
    if found.mode.is_private(found) and not addresses:
        claim = replace(claim, addresses=(private_address(call.domid, call.devid),))
    if isinstance(found, Described):
        found.check()
        # The implied bridge carries that VLAN only, so the NIC itself has none.
        if found.mode.implied(found):
            claim = replace(claim, vlan=None, tagged=None)
    return replace(claim, network=found.name), found if isinstance(found, Described) else None


def _source(text: str) -> str:
    """Return the source that one word of `ip` allows. An address with a prefix length allows that address alone; a subnet
    (without host bits) allows the whole subnet."""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError("is no address, with or without a prefix length") from None
    if "%" in text:
        raise ValueError("has a zone; write the address without %zone")
    return values.source(text if found.ip == found.network.network_address else str(found.ip))


def vlans(text: str) -> tuple[int | None, tuple[int, ...]]:
    """Parse `vlan` of xl-network-configuration(5); return the untagged VLAN (None if none) and the tagged VLANs. Terms, separated
    by `/`, are ID, IDp (untagged), ID-ID, and ID+STEPxCOUNT (COUNT more, STEP apart). A single ID is untagged. Raise
    ValueError."""
    untagged: list[int] = []
    tagged: list[int] = []
    terms = text.split("/")
    for term in terms:
        found = _VLAN.fullmatch(term)
        if found is None:
            raise ValueError('is no list of VLANs; write "10", "10p/20" or "10p/100-103/200+10x4"')
        first, last, step, count = (int(found[group] or 0) for group in (1, 3, 4, 5))
        if found[2] or not (len(terms) > 1 or found[3] or found[4]):
            untagged.append(first)
        elif found[4]:
            tagged += [first + number * step for number in range(count + 1)]
        else:
            tagged += range(first, (last or first) + 1)
            if last and last < first:
                raise ValueError(f"goes from {first} down to {last}; write {last}-{first}")
    for vid in (*untagged, *tagged):
        if not 1 <= vid <= 4094:
            raise ValueError(f"names VLAN {vid}; IDs go from 1 to 4094")
    if len(untagged) > 1:
        raise ValueError(f"has two untagged VLANs, {untagged[0]} and {untagged[1]}; mark one with p")
    if set(untagged) & set(tagged):
        raise ValueError(f"has VLAN {untagged[0]} both untagged and tagged; write it once")
    return (untagged[0] if untagged else None), tuple(sorted(set(tagged)))


def _noted(text: str, declared: Config) -> dict[str, str]:
    """Return `bridge` and `vlan` of a bridge in the notation of vif-openvswitch, NAME[.TAG][:TRUNK[:TRUNK]...]; none if it is a
    name as it stands."""
    found = _NOTATION.fullmatch(text)
    if found is None or not (found[2] or found[3]) or _is_name(text, declared):
        return {}
    name = found[1]
    if not (found[3] or sysfs.exists(name) or is_bridge(_old(name)) or name in declared.links or name in declared.networks):
        return {}
    terms = [f"{found[2]}p"] if found[2] else []
    # A single ID alone would be untagged.
    return {"bridge": name, "vlan": "/".join([*terms, *(f"{vid}-{vid}" for vid in found[3].split(":")[1:])])}


def _is_name(text: str, declared: Config) -> bool:
    """Return whether a bridge or a network has that name. The bridge for one VLAN of another bridge, which we make for its
    guests, does not count: a guest that is on it by its name would not keep it up."""
    part = declared.links.get(text)
    if text in declared.networks or declared.on_bridge(text) or (part and part.kind.takes_guests):
        return True
    return is_bridge(text) and sysfs.read(text, "ifalias") != ALIAS


def _old(name: str) -> str:
    """Return the name that old versions of network-bridge gave a bridge: that of its NIC. "" if there is none."""
    return f"eth{name.removeprefix('xenbr')}" if name.startswith("xenbr") else ""


def private_address(domid: int, devid: int) -> str:
    """Return the address of a NIC without addresses in its settings, the same as Xen's vif-nat assigns."""
    return f"10.{domid // 256 % 256}.{domid % 256}.{(devid + 1) % 256}"


def _bridged(call: Call, claim: Claim, setting: Callable[[str], str], declared: Config, where: str) -> Network:
    name = setting("bridge") or _only_bridge(where)
    if name in declared.networks and not sysfs.exists(name):
        return declared.networks[name]
    parsed(values.ifname, name, f"{where}: bridge")
    if not is_bridge(name) and is_bridge(_old(name)) and name not in declared.links:
        name = _old(name)
    _check_kind(name, where)
    found = declared.on_bridge(name)
    same = [n for n in found if (n["vlan"], n["tagged"] or ()) == (claim.vlan, claim.tagged or ())]
    is_plain = bool(claim.vlan or claim.tagged) and not _is_aware(name, declared)
    if same or (len(found) == 1 and not is_plain):
        return (same or found)[0]
    options: dict[str, Any] = {"bridge": name}
    if is_plain:
        if claim.tagged or not claim.vlan:
            only = "is not VLAN-aware, so a guest gets one VLAN, untagged"
            raise InputError(f"{where}: vlan: bridge {name} {only}; write bridge={name}.10, or vlan=10")
        options = {"bridge": f"{name}.{claim.vlan}", "uplink": _uplink(name, declared, where, claim.vlan), "vlan": claim.vlan}
        options |= {"antispoof": True} if any(network["antispoof"] for network in found) else {}
        parsed(values.ifname, options["bridge"], f"{where}: the bridge for VLAN {claim.vlan}")
    return described(f"bridge:{options['bridge']}", "bridged", options, where)


def _routed(call: Call, claim: Claim, setting: Callable[[str], str], declared: Config, where: str) -> Network:
    named = declared.networks.get(setting("bridge"))
    if named and not named.mode.bridge_of(named):
        return named
    first = next((ipaddress.ip_network(address) for address in claim.addresses), None)
    for network in declared.networks.values():
        if first and network.mode.serves(network, first):
            return network
    return _hostroute(call, declared, where, nat=False)


def _nat(call: Call, claim: Claim, setting: Callable[[str], str], declared: Config, where: str) -> Network:
    named = declared.networks.get(setting("bridge"))
    if named and named.mode.is_private(named):
        return named
    return _hostroute(call, declared, where, nat=True)


def _hostroute(call: Call, declared: Config, where: str, nat: bool) -> Network:
    netdev = call.netdev or call.variables.get("netdev", "") or default_netdev(where)
    parsed(values.ifname, netdev, f"{where}: gatewaydev")
    for network in declared.networks.values():
        if (netdev, nat) == (network.mode.netdev_of(network), network.mode.is_private(network)):
            return network
    declared.check_routed()
    return _plain_routes(netdev, nat, where)


def _plain_routes(netdev: str, nat: bool, where: str) -> Network:
    return described(f"{'nat' if nat else 'route'}:{netdev}", "hostroute", {"netdev": netdev, "nat": nat}, where)


def network_of(name: str) -> Network | None:
    """Return the network that was described under this name; None if it is another name. A bridge that was made for its guests is
    there by now."""
    kind, _, netdev = name.partition(":")
    if kind == "bridge" and netdev:
        return described(name, "bridged", {"bridge": netdev}, name)
    return _plain_routes(netdev, kind == "nat", name) if kind in ("route", "nat") and netdev else None


CLAIMS = {"vif-bridge": _bridged, "vif-route": _routed, "vif-nat": _nat}


def described(name: str, mode: str, options: dict[str, Any], where: str) -> Described:
    """Return a network that no file declares. Its name contains a colon, which names of declared networks can't contain."""
    options = {**reach.OPEN, **options}
    return Described(SECTIONS["networks"], name, parse_options(MODES[mode].options, options, where), where, MODES[mode])


def default_netdev(where: str) -> str:
    """Return the interface of the default route for IPv4, else for IPv6. Raise InputError if there is none."""
    rows = [line.split() for line in lines("/proc/net/route")[1:]]
    found = [(int(row[6]), row[0]) for row in rows if row[1] == row[7] == "0" * 8 and row[0] != "*"]
    rows = [line.split() for line in lines("/proc/net/ipv6_route")]
    found = found or [(int(row[5], 16), row[9]) for row in rows if row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo"]
    if not found:
        raise InputError(f"{where}: the host has no default route; name its interface to the outside with gatewaydev= (netdev=)")
    return min(found)[1]


def lines(path: str) -> list[str]:
    """Return the lines of a file in /proc or /sys; none if it does not exist."""
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def is_bridge(name: str) -> bool:
    """Return whether a bridge of that name exists."""
    return bool(name) and os.path.isdir(f"{sysfs.ROOT}/{name}/bridge")


def _only_bridge(where: str) -> str:
    found = sorted(path.split("/")[-2] for path in glob.glob(f"{sysfs.ROOT}/*/bridge"))
    if len(found) != 1:
        have = f"there are {', '.join(found)}" if found else "there is no bridge"
        raise InputError(f"{where}: bridge: not given, and {have}; write bridge=NAME")
    return found[0]


def _check_kind(name: str, where: str) -> None:
    """Raise InputError for a bridge of Open vSwitch."""
    if not sysfs.exists(name) or is_bridge(name):
        return
    # A guest that starts on a bridge does not get here.
    from ..kernel.linux import Kernel

    with closing(Kernel()) as kernel:
        link = kernel.link(name)
    if link and link.kind == "openvswitch":
        raise InputError(f"{where}: bridge: {name} is a bridge of Open vSwitch; write script=vif-openvswitch, which is Xen's own")


def _is_aware(bridge: str, declared: Config) -> bool:
    setting = sysfs.read(bridge, "bridge/vlan_filtering")
    part = declared.parts.get(f"bridge:{bridge}")
    return setting == "1" if setting else bool(part and part["vlan_filtering"])


def _uplink(bridge: str, declared: Config, where: str, vlan: int) -> str:
    """Return the only port of a bridge that is not a guest's. Raise InputError if there are none or several."""
    part = declared.parts.get(f"bridge:{bridge}")
    ports = list(part["ports"]) if part else []
    for port in [] if ports else sorted(sysfs.files(bridge, "brif")):
        is_guest = sysfs.exists(f"{port}/tun_flags") or INTERFACE.fullmatch(port) or bool(backend_of(port))
        ports += [] if is_guest else [port]
    if len(ports) != 1:
        have = f"{len(ports)} ports that lead outside ({', '.join(ports)})" if ports else "no port that leads outside"
        raise InputError(
            f"{where}: vlan: {bridge} is not VLAN-aware and has {have}; {bridge}.{vlan} is made over exactly one: add it, "
            f"or make {bridge} VLAN-aware (ip link set {bridge} type bridge vlan_filtering 1)"
        )
    return ports[0]


def backend_of(port: str) -> str:
    """Return vif-DOMID-DEVID if netback made the link, else ""."""
    try:
        found = os.path.basename(os.readlink(f"{sysfs.ROOT}/{port}/device"))
    except OSError:
        return ""
    return found if found.startswith("vif-") else ""
