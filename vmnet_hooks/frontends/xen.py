"""Xen's vif scripts, as libxl runs them: `SCRIPT online|offline|add|remove [type_if=vif|tap] [VAR=VAL…]`.

`online` and `offline` are about a paravirtual vif (vifDOMID.DEVID), `add` and `remove` about the tap that QEMU made for the
same NIC of an HVM guest (vifDOMID.DEVID-emu). xenstore describes the NIC, below XENBUS_PATH; libxl waits for `hotplug-status`
there. https://xenbits.xen.org/docs/unstable/man/xl-network-configuration.5.html
"""

import glob
import ipaddress
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from .. import values
from ..declared import SECTIONS
from ..declared.configuration import claims
from ..errors import ConfigError, InputError, VmnetError, one_line, shortened
from ..kernel import sysfs
from ..model.declaration import Config, Network, parse_options
from ..model.guest import Action, Claim, Domain, NicEvent, Vif
from ..networks import MODES
from ..records import store
from .front_end import FrontEnd, Request
from .xenstore import XenStore

SECONDS = 37.0
"""libxl kills a script after 40 s, and reports no reason."""

LAST_WORD = 0.8
"""How long xenstored has for each question and answer when it is told the reason of a failure."""

SCRIPTS = "/etc/xen/scripts"
LOG = "/var/log/xen/xen-hotplug.log"
PORT_MAC = "fe:ff:ff:ff:ff:ff"
COMMANDS = {"online": "vif", "offline": "vif", "add": "tap", "remove": "tap"}
METRIC, METRIC_EMULATED = 2, 1
"""As in Xen's vif-route: while the emulated NIC is there, the guest uses it."""

_PATH = re.compile(r"(?:/?local/domain/\d+/)?backend/vif/(\d{1,5})/(\d{1,5})", re.ASCII)
_INTERFACE = re.compile(r"vif(\d{1,5})\.(\d{1,5})(?:-emu)?", re.ASCII)
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.S)
_VLAN = re.compile(r"(\d{1,4})(?:(p)|-(\d{1,4})|\+(\d{1,4})x(\d{1,4}))?", re.ASCII)
_HANDED_OVER = "VMNET_VIF_SETUP"
"""Set where vif-setup ran the script: one that leads to vif-setup again, under any name, must not run for ever."""


@dataclass(frozen=True)
class Described(Network):
    """A network that a vif's own settings describe: errors name the setting."""

    def error(self, option: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.source}: {option or self.name}: {problem}")


@dataclass(frozen=True)
class Call:
    """One call of a script. `path` is the backend's, in xenstore; `ifname` the link's name as its driver gave it."""

    script: str
    command: str
    variables: Mapping[str, str]
    domid: int
    devid: int
    ifname: str
    netdev: str = ""

    @property
    def path(self) -> str:
        # Relative to this domain's own path: backends may live in a driver domain.
        return f"backend/vif/{self.domid}/{self.devid}"

    @property
    def emulated(self) -> bool:
        return COMMANDS[self.command] == "tap"

    @property
    def arrives(self) -> bool:
        return self.command in ("online", "add")

    @property
    def vif(self) -> str:
        return f"{self.devid}-emu" if self.emulated else str(self.devid)

    @property
    def owner(self) -> str:
        """The id of our records."""
        return f"xen:{self.domid}/{self.vif}"


@dataclass(frozen=True, kw_only=True)
class VifEvent(NicEvent):
    """With the call, and the backend's settings in xenstore: None where the vif leaves."""

    call: Call
    backend: Mapping[str, str] | None = None


# --- calls ---------------------------------------------------------------------------------------------------------------


def parse(request: Request) -> VifEvent | None:
    """Return the event of a call; None where there is nothing to do. Raises VmnetError."""
    script = os.path.basename(request.argv[0])
    if script == "vif-setup":
        script = _set_up(request)
    call = read_call(script, request.argv[1:], request.environ)
    if call is None:
        return None
    request.limit(max(1.0, SECONDS - _age()), _late)
    if call.arrives:
        return event(call, XenStore(), request.declared())
    return VifEvent(Action.UNPLUG, "xen", Domain("", f"xen:{call.domid}"), _recorded(call), owner=call.owner, call=call)


def _age() -> float:
    """How long ago libxl started this process, in seconds: imports take long where all guests start at once."""
    started = int(lines("/proc/self/stat")[0].rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    age = float(lines("/proc/uptime")[0].split()[0]) - started
    # libxl would have killed an older process: this one was started by something else.
    return age if age < SECONDS else 0.0


def _late(*_: object) -> NoReturn:
    raise VmnetError(f"not done within {SECONDS:.0f} s, and libxl kills scripts after 40 s; see `journalctl -t vmnet-hook`")


def _set_up(request: Request) -> str:
    """vif-setup: hand over to the script that the environment names."""
    environ = request.environ
    named = environ.get("script", "")
    if not named or _HANDED_OVER in environ or os.path.basename(named).removeprefix("vmnet-") == "vif-setup":
        return "vif-bridge"
    try:
        os.execve(named, [named, *request.argv[1:]], {**environ, _HANDED_OVER: "1"})
    except (OSError, ValueError) as error:
        raise InputError(f"vif-setup: script {one_line(named)} can't be run: {one_line(error)}") from None


def read_call(script: str, words: Sequence[str], environ: Mapping[str, str]) -> Call | None:
    """Return what a script was called with; None where Xen's own would do nothing. Raises InputError."""
    variables = {found[1]: found[2] for word in words if (found := VARIABLE.fullmatch(word))}
    command = next((word for word in words if "=" not in word), "")
    if command not in COMMANDS:
        raise InputError(f"{script}: {one_line(repr(command))} is no command; use one of {', '.join(COMMANDS)}")
    kind = variables.get("type_if", "vif")
    if kind not in ("vif", "tap"):
        raise InputError(f"{script}: type_if={one_line(kind)} is neither vif nor tap")
    if kind != COMMANDS[command]:
        return None
    word = "vif" if kind == "vif" else "INTERFACE"
    ifname, path = environ.get(word, ""), environ.get("XENBUS_PATH", "")
    where = _INTERFACE.fullmatch(ifname) if kind == "tap" else _PATH.fullmatch(path)
    if where is None:
        name, value = (word, ifname) if kind == "tap" else ("XENBUS_PATH", path)
        raise InputError(f"{script}: {name} is {one_line(repr(value))}; libxl sets it, see vmnet-hook(8)")
    domid, devid = int(where[1]), int(where[2])
    return Call(script, command, variables, domid, devid, ifname or f"vif{domid}.{devid}", environ.get("netdev", ""))


# --- events --------------------------------------------------------------------------------------------------------------


def event(call: Call, xenstore: XenStore, declared: Config) -> VifEvent:
    """Return the event that sets a NIC up. Raises VmnetError."""
    backend = xenstore.tree(call.path)
    if not backend:
        raise InputError(f"{call.script}: xenstore has no {call.path}; is the domain gone?")
    full = xenstore.read(f"/local/domain/{call.domid}/name") or f"xen-{call.domid}"
    # libxl adds this to the name of a guest that comes in by live migration, until it runs here.
    name = full.removesuffix("--incoming")
    where = f"{one_line(name)}: vif {call.devid}"
    ifname = _ifname(call, backend.get("vifname", ""), where)
    vif = Vif(
        _parsed(values.mac, backend.get("mac", ""), f"{where}: mac"),
        ifname,
        call.devid,
        id=call.vif,
        twin=_twin(call, backend),
        mtu=_parsed(_mtu, backend["mtu"], f"{where}: mtu") if backend.get("mtu") else None,
        metric=METRIC_EMULATED if call.emulated else METRIC,
        port_mac=PORT_MAC,
        is_named=True,
    )
    own: tuple[Claim, ...] = ()
    network = None
    if not any(claim.mac == vif.mac or claim.ifname == ifname for claim in claims(declared, name)):
        claim, network = _claim(call, backend, declared, where)
        own = (replace(claim, mac=vif.mac),)
    domain = Domain(name, f"xen:{call.domid}", (vif,), own, partial=True)
    rename = "" if ifname == call.ifname or _is_renamed(call, ifname) else call.ifname
    return VifEvent(
        Action.PLUG,
        "xen",
        domain,
        ifname,
        announce=name == full,
        owner=call.owner,
        network=network,
        rename=rename,
        call=call,
        backend=backend,
    )


def events(name: str, xenstore: XenStore, declared: Config) -> Iterator[VifEvent]:
    """Yield the events of every NIC of a domain that runs. Raises VmnetError."""
    for domid in sorted(filter(str.isdecimal, xenstore.list("backend/vif")), key=int):
        if xenstore.read(f"/local/domain/{domid}/name") != name:
            continue
        for devid in sorted(filter(str.isdecimal, xenstore.list(f"backend/vif/{domid}")), key=int):
            backend = xenstore.tree(f"backend/vif/{domid}/{devid}")
            script = os.path.basename(backend.get("script", "")).removeprefix("vmnet-") or "vif-bridge"
            if script not in _CLAIMS:
                raise InputError(f"{name}: vif {devid}: script={one_line(script)} is none of {', '.join(_CLAIMS)}")
            for command, suffix in (("online", ""), ("add", "-emu")):
                plain, named = f"vif{domid}.{devid}{suffix}", backend.get("vifname", "") + suffix
                call = Call(script, command, {}, int(domid), int(devid), plain, backend.get("gatewaydev", ""))
                if sysfs.exists(plain) or (named != suffix and _is_renamed(call, named)):
                    yield event(call, xenstore, declared)


def nics(name: str, declared: Config) -> list[VifEvent]:
    """Return the events of every NIC of a domain that runs. Raises InputError if it has none, or another VmnetError."""
    found = list(events(name, XenStore(), declared))
    if not found:
        raise InputError(f"{name}: xenstore has no vif of it whose interface is there; see `xl list`, `xl network-list {name}`")
    return found


def _ifname(call: Call, vifname: str, where: str) -> str:
    if not vifname:
        return call.ifname
    return _parsed(values.ifname, vifname + ("-emu" if call.emulated else ""), f"{where}: vifname")


def _is_renamed(call: Call, ifname: str) -> bool:
    """Whether a link of that name is this NIC, which was renamed before."""
    if sysfs.exists(call.ifname) or not sysfs.exists(ifname):
        return False
    # QEMU's tap does not tell its guest; the records know if another guest has one of that name.
    return call.emulated or _backend_of(ifname) == f"vif-{call.domid}-{call.devid}" or _recorded(call) == ifname


def _recorded(call: Call) -> str:
    """What our records call the NIC; "" if they do not know it."""
    if not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return ""
    records = store.Store()
    try:
        return next((owner.ifname for owner in records.owners(id=call.owner)), "")
    finally:
        records.close()


def _twin(call: Call, backend: Mapping[str, str]) -> str:
    if call.emulated:
        return str(call.devid)
    return f"{call.devid}-emu" if backend.get("type") == "vif_ioemu" else ""


def _parsed(parse: Any, value: str, where: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise InputError(f"{where}: {one_line(repr(value))[:80]} {error}") from None


def _mtu(text: str) -> int:
    return values.integer(68, 65535)(int(text) if text.isascii() and text.isdecimal() else text)


# --- which network -------------------------------------------------------------------------------------------------------


def _claim(call: Call, backend: Mapping[str, str], declared: Config, where: str) -> tuple[Claim, Network | None]:
    """The claim of a NIC by its own settings: on a declared network, or on one that these settings describe."""

    def setting(key: str) -> str:
        return backend.get(key) or call.variables.get(key, "")

    words = setting("ip").split()
    addresses = tuple(dict.fromkeys(_parsed(_source, word, f"{where}: ip") for word in words))
    untagged, tagged = _parsed(vlans, setting("vlan"), f"{where}: vlan") if setting("vlan") else (None, None)
    claim = Claim("", addresses=addresses, source=where, vlan=untagged, tagged=tagged)
    if name := setting("network"):
        found = declared.network(name, f"{where}: network")
    else:
        found = _CLAIMS[call.script](call, claim, setting, declared, where)
    if found.mode.is_private(found) and not addresses:
        claim = replace(claim, addresses=(private_address(call.domid, call.devid),))
    if isinstance(found, Described):
        found.check()
        # The bridge that it implies is over that VLAN alone.
        if found.mode.implied(found):
            claim = replace(claim, vlan=None, tagged=None)
    return replace(claim, network=found.name), found if isinstance(found, Described) else None


def _source(text: str) -> str:
    """The source that a word of `ip` allows. An address with a prefix length is that one address, unless it is the subnet's."""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError("is no address, with or without a prefix length") from None
    if "%" in text:
        raise ValueError("has a zone; write the address without %zone")
    return values.source(text if found.ip == found.network.network_address else str(found.ip))


def vlans(text: str) -> tuple[int | None, tuple[int, ...]]:
    """Return the untagged and the tagged VLANs of `vlan` in xl-network-configuration(5). Terms are ID, IDp
    (the untagged one), ID-ID, and ID+STEPxCOUNT (COUNT more, STEP apart); a single ID is untagged. Raises ValueError."""
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


def private_address(domid: int, devid: int) -> str:
    """Return the address of a NIC whose settings have none, as in Xen's vif-nat."""
    return f"10.{domid // 256 % 256}.{domid % 256}.{(devid + 1) % 256}"


def _bridged(call: Call, claim: Claim, setting: Any, declared: Config, where: str) -> Network:
    name = setting("bridge") or _only_bridge(where)
    if name in declared.networks and not sysfs.exists(name):
        return declared.networks[name]
    _parsed(values.ifname, name, f"{where}: bridge")
    old = f"eth{name.removeprefix('xenbr')}"
    if name.startswith("xenbr") and not is_bridge(name) and is_bridge(old) and name not in declared.links:
        # The bridge of an old network-bridge is called like the NIC below it.
        name = old
    found = declared.on_bridge(name)
    same = [n for n in found if (n["vlan"], n["tagged"] or ()) == (claim.vlan, claim.tagged or ())]
    is_plain = bool(claim.vlan or claim.tagged) and not _is_aware(name, declared)
    if same or (len(found) == 1 and not is_plain):
        return (same or found)[0]
    options: dict[str, Any] = {"bridge": name}
    if is_plain:
        if claim.tagged or not claim.vlan:
            raise InputError(f"{where}: vlan: bridge {name} is not VLAN-aware, so a guest gets one VLAN, untagged; write vlan=10")
        options = {"bridge": f"{name}.{claim.vlan}", "uplink": _uplink(name, declared, where), "vlan": claim.vlan}
        options |= {"antispoof": True} if any(network["antispoof"] for network in found) else {}
        _parsed(values.ifname, options["bridge"], f"{where}: the bridge for VLAN {claim.vlan}")
    return described(f"bridge:{options['bridge']}", "bridged", options, where)


def _routed(call: Call, claim: Claim, setting: Any, declared: Config, where: str) -> Network:
    named = declared.networks.get(setting("bridge"))
    if named and not named.mode.bridge_of(named):
        return named
    first = next((ipaddress.ip_network(address) for address in claim.addresses), None)
    for network in declared.networks.values():
        if first and network.mode.serves(network, first):
            return network
    return _hostroute(call, declared, where, nat=False)


def _nat(call: Call, claim: Claim, setting: Any, declared: Config, where: str) -> Network:
    named = declared.networks.get(setting("bridge"))
    if named and named.mode.is_private(named):
        return named
    return _hostroute(call, declared, where, nat=True)


def _hostroute(call: Call, declared: Config, where: str, nat: bool) -> Network:
    netdev = call.netdev or call.variables.get("netdev", "") or default_netdev(where)
    _parsed(values.ifname, netdev, f"{where}: gatewaydev")
    for network in declared.networks.values():
        if (netdev, nat) == (network.mode.netdev_of(network), network.mode.is_private(network)):
            return network
    return described(f"{'nat' if nat else 'route'}:{netdev}", "hostroute", {"netdev": netdev, "nat": nat}, where)


_CLAIMS = {"vif-bridge": _bridged, "vif-route": _routed, "vif-nat": _nat}


def described(name: str, mode: str, options: dict[str, Any], where: str) -> Described:
    """Return a network that no file declares. Its name has a colon, which no declared network's has."""
    return Described(SECTIONS["networks"], name, parse_options(MODES[mode].options, options, where), where, MODES[mode])


def default_netdev(where: str) -> str:
    """Return the interface of the default route, IPv4's or else IPv6's. Raises InputError if there is none."""
    rows = [line.split() for line in lines("/proc/net/route")[1:]]
    found = [(int(row[6]), row[0]) for row in rows if row[1] == row[7] == "0" * 8 and row[0] != "*"]
    rows = [line.split() for line in lines("/proc/net/ipv6_route")]
    found = found or [(int(row[5], 16), row[9]) for row in rows if row[0] == "0" * 32 and row[1] == "00" and row[9] != "lo"]
    if not found:
        raise InputError(f"{where}: the host has no default route; name its interface to the outside with gatewaydev= (netdev=)")
    return min(found)[1]


def lines(path: str) -> list[str]:
    """Return the lines of a file in /proc or /sys; none if there is no such file."""
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def is_bridge(name: str) -> bool:
    """Return whether there is a bridge of that name."""
    return os.path.isdir(f"{sysfs.ROOT}/{name}/bridge")


def _only_bridge(where: str) -> str:
    found = sorted(path.split("/")[-2] for path in glob.glob(f"{sysfs.ROOT}/*/bridge"))
    if len(found) != 1:
        have = f"there are {', '.join(found)}" if found else "there is no bridge"
        raise InputError(f"{where}: bridge: not given, and {have}; write bridge=NAME")
    return found[0]


def _is_aware(bridge: str, declared: Config) -> bool:
    setting = sysfs.read(bridge, "bridge/vlan_filtering")
    part = declared.parts.get(f"bridge:{bridge}")
    return setting == "1" if setting else bool(part and part["vlan_filtering"])


def _uplink(bridge: str, declared: Config, where: str) -> str:
    """The one port of a bridge that leads out of the host."""
    part = declared.parts.get(f"bridge:{bridge}")
    ports = list(part["ports"]) if part else []
    for port in [] if ports else sorted(sysfs.files(bridge, "brif")):
        is_guest = sysfs.exists(f"{port}/tun_flags") or _INTERFACE.fullmatch(port) or bool(_backend_of(port))
        ports += [] if is_guest else [port]
    if len(ports) != 1:
        have = ", ".join(ports) or "none"
        raise InputError(
            f"{where}: vlan: bridge {bridge} is not VLAN-aware, and has {have} as ports to the outside, not one; "
            f"make it aware (ip link set {bridge} type bridge vlan_filtering 1), or declare a network for the VLAN"
        )
    return ports[0]


def _backend_of(port: str) -> str:
    """vif-DOMID-DEVID if netback made the link, else ""."""
    try:
        found = os.path.basename(os.readlink(f"{sysfs.ROOT}/{port}/device"))
    except OSError:
        return ""
    return found if found.startswith("vif-") else ""


# --- the answer ----------------------------------------------------------------------------------------------------------


def conclude(event: VifEvent) -> None:
    """Tell the guest its MTU, run the admin's hooks, tell libxl. Raises VmnetError."""
    call, backend = event.call, event.backend
    _run_hooks(call, event.ifname, backend)
    if call.command != "online" or backend is None:
        return
    news = {}
    if call.script == "vif-bridge" and backend.get("frontend"):
        news[f"{backend['frontend']}/mtu"] = sysfs.read(event.ifname, "mtu") or "1500"
    XenStore().write({**news, f"{call.path}/hotplug-status": "connected"})
    signal.setitimer(signal.ITIMER_REAL, 0)


def admins_hooks() -> list[str]:
    """Return the admin's own scripts, which run after ours."""
    return [path for path in sorted(glob.glob(f"{SCRIPTS}/vif-post.d/*.hook")) if os.access(path, os.X_OK)]


def _run_hooks(call: Call, ifname: str, backend: Mapping[str, str] | None) -> None:
    """Run vif-post.d/*.hook in one shell with Xen's functions, as Xen's scripts do. Raises VmnetError."""
    hooks = admins_hooks()
    if not hooks:
        return
    if backend is None:
        # The vif leaves; xenstore may have lost its settings already.
        backend = _left_behind(call)
        ifname = ifname or call.ifname
    environ = {
        **os.environ,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "dev": ifname,
        "vif": call.ifname,
        "command": call.command,
        "type_if": COMMANDS[call.command],
        "ip": backend.get("ip", ""),
        "bridge": backend.get("bridge", ""),
        "XENBUS_PATH": call.path,
        "dir": SCRIPTS,
    }
    shell = 'if [ -r "$dir/xen-hotplug-common.sh" ]; then . "$dir/xen-hotplug-common.sh"; fi; for f; do . "$f"; done'
    words = ["bash", "-e", "-c", shell, f"{SCRIPTS}/{call.script}", *hooks]
    running = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environ, start_new_session=True)
    try:
        running.wait()
    except BaseException:
        os.killpg(running.pid, signal.SIGKILL)
        raise
    if running.returncode:
        names = ", ".join(os.path.basename(path) for path in hooks)
        raise VmnetError(f"{SCRIPTS}/vif-post.d ({names}) ended with status {running.returncode}; see {LOG}")


def _left_behind(call: Call) -> dict[str, str]:
    try:
        return XenStore().tree(call.path)
    except VmnetError:
        return {}


def failed(request: Request, reason: str) -> None:
    """Tell libxl the reason, where it waits for one."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    script = os.path.basename(request.argv[0])
    line = f"{script}: {shortened(reason)}"
    try:
        with open(LOG, "a") as file:
            file.write(f"vmnet-hook: {line}\n")
    except OSError:
        pass
    try:
        call = read_call(script, request.argv[1:], request.environ)
        if call and call.arrives and (told := XenStore(LAST_WORD)).list(call.path):
            told.write({f"{call.path}/hotplug-error": line, f"{call.path}/hotplug-status": "error"})
    except VmnetError:
        # The exit status tells libxl of the failure all the same.
        pass


def alive(domains: Set[str]) -> Set[str]:
    """Return those of the domains (`xen:DOMID`) that run; all of them if xenstore can't be asked."""
    if not domains:
        return domains
    try:
        return domains & {f"xen:{domid}" for domid in XenStore().list("/local/domain")}
    except VmnetError:
        return domains


def keeps_calls() -> bool:
    """Return whether there are scripts of the admin: they shall run with the hook's rights, not with the agent's."""
    return bool(admins_hooks())


FRONT_END = FrontEnd(parse, conclude, failed, alive, keeps_calls, nics=nics)
