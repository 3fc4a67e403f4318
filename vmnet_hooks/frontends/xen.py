"""Xen's vif scripts: events of the calls that libxl makes (xen_call.py), and the answer to libxl.

The NIC is described in xenstore, below XENBUS_PATH. libxl waits until `hotplug-status` is written there.
https://xenbits.xen.org/docs/unstable/man/xl-network-configuration.5.html
"""

import glob
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from functools import partial
from typing import NoReturn

from .. import values
from ..declared.configuration import claims
from ..errors import InputError, VmnetError, one_line, shortened
from ..kernel import sysfs
from ..model.declaration import Config
from ..model.guest import Action, Claim, Domain, Vif
from ..records import store
from .front_end import FrontEnd, Request
from .xen_call import COMMANDS, Call, VifEvent, parsed, read_call
from .xen_claim import CLAIMS, backend_of, claim_of, lines, network_of
from .xenstore import XenStore

SECONDS = 37.0
"""Time limit of a call. libxl kills a script after 40 s and then reports no reason."""

LAST_WORD = 0.8
"""Time limit in seconds of each request to xenstored that reports a failure."""

SCRIPTS = "/etc/xen/scripts"
LOG = "/var/log/xen/xen-hotplug.log"
PORT_MAC = "fe:ff:ff:ff:ff:ff"
INCOMING = "--incoming"
"""What libxl appends to the name of a guest that migrates to this host, until it runs here. No script is called when it does."""

METRIC, METRIC_EMULATED = 2, 1
"""Metrics of routes, those of Xen's vif-route: while the emulated NIC exists, the guest uses it."""

_HANDED_OVER = "VMNET_VIF_SETUP"
"""The environment variable that vif-setup sets for the script that it runs. A script that is vif-setup again, under another name,
would otherwise loop for ever."""


# --- calls ------------------------------------------------------------------------------------------------------------------


def parse(request: Request) -> VifEvent | None:
    """Return the event of a call; None if there is nothing to do. Raise VmnetError."""
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
    """Return the seconds since libxl started this process. Imports take long when many guests start at the same time."""
    started = int(lines("/proc/self/stat")[0].rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    age = float(lines("/proc/uptime")[0].split()[0]) - started
    # libxl would have killed an older process, so another program started this one.
    return age if age < SECONDS else 0.0


def _late(*_: object) -> NoReturn:
    raise VmnetError(f"not done within {SECONDS:.0f} s, and libxl kills scripts after 40 s; see `journalctl -t vmnet-hook`")


def _set_up(request: Request) -> str:
    """Run the script that the environment names in place of vif-setup; does not return. Return "vif-bridge" if it names none."""
    environ = request.environ
    named = environ.get("script", "")
    if not named or _HANDED_OVER in environ or os.path.basename(named).removeprefix("vmnet-") == "vif-setup":
        return "vif-bridge"
    try:
        os.execve(named, [named, *request.argv[1:]], {**environ, _HANDED_OVER: "1"})
    except (OSError, ValueError) as error:
        raise InputError(f"vif-setup: script {one_line(named)} can't be run: {one_line(error)}") from None


# --- events -----------------------------------------------------------------------------------------------------------------


def event(call: Call, xenstore: XenStore, declared: Config) -> VifEvent:
    """Return the event that sets a NIC up. Raise VmnetError."""
    backend = xenstore.tree(call.path)
    if not backend:
        raise InputError(f"{call.script}: xenstore has no {call.path}; is the domain gone?")
    # A driver domain may not read the names of others.
    known = xenstore.read(f"/local/domain/{call.domid}/name")
    full = known or f"xen-{call.domid}"
    name = full.removesuffix(INCOMING)
    where = f"{one_line(name)}: vif {call.devid}"
    ifname = _ifname(call, backend.get("vifname", ""), where)
    vif = Vif(
        parsed(values.mac, backend.get("mac", ""), f"{where}: mac"),
        ifname,
        call.devid,
        id=call.vif,
        twin=_twin(call, backend),
        # A stub domain has all NICs of its guest.
        shares_mac=call.script == "vif-bridge" and bool(xenstore.read(f"/local/domain/{call.domid}/target")),
        mtu=parsed(_mtu, backend["mtu"], f"{where}: mtu") if backend.get("mtu") else None,
        metric=METRIC_EMULATED if call.emulated else METRIC,
        port_mac=PORT_MAC,
        is_named=True,
    )
    own: tuple[Claim, ...] = ()
    network = None
    is_claimed = any(claim.mac == vif.mac or claim.ifname == ifname for claim in claims(declared, name))
    if not is_claimed and declared.wire_at(name, vif) is None:
        claim, network = claim_of(call, backend, declared, where)
        own = (replace(claim, mac=vif.mac),)
    domain = Domain(name, f"xen:{call.domid}", (vif,), own, partial=True)
    rename = "" if ifname == call.ifname or _is_renamed(call, ifname) else call.ifname
    return VifEvent(
        Action.PLUG,
        "xen",
        domain,
        ifname,
        announce=True,
        incoming=name != full,
        owner=call.owner,
        is_same=partial(_is_same, xenstore, call.domid, full) if known else partial(_has_mac, xenstore, call.domid, vif.mac),
        network=network,
        rename=rename,
        call=call,
        backend=backend,
    )


def _is_same(xenstore: XenStore, domid: int, name: str, domain_id: str) -> bool:
    """Return whether the domain with this ID is the guest `domid`: its other half, while it migrates within this host, or its
    stub domain, which gets all its NICs. Raise XenStoreError."""
    kind, _, other = domain_id.partition(":")
    if kind != "xen" or other == str(domid):
        return False
    if xenstore.read(f"/local/domain/{other}/target") == str(domid) or xenstore.read(f"/local/domain/{domid}/target") == other:
        return True
    theirs = xenstore.read(f"/local/domain/{other}/name") or ""
    return name == theirs + INCOMING or theirs == name + INCOMING


def _has_mac(xenstore: XenStore, domid: int, mac: str, domain_id: str) -> bool:
    """Return whether the domain with this ID, whose name can't be read either, has a NIC with the MAC of one of the guest's: a
    driver domain knows no more of the halves of a guest. Raise XenStoreError."""
    kind, _, other = domain_id.partition(":")
    if kind != "xen" or other == str(domid) or xenstore.read(f"/local/domain/{other}/name"):
        return False
    vifs = xenstore.list(f"backend/vif/{other}")
    return any((xenstore.read(f"backend/vif/{other}/{devid}/mac") or "").lower() == mac for devid in vifs)


def events(name: str, xenstore: XenStore, declared: Config) -> Iterator[VifEvent]:
    """Yield the events that set up all NICs of a running domain. Raise VmnetError."""
    for domid in sorted(filter(str.isdecimal, xenstore.list("backend/vif")), key=int):
        if xenstore.read(f"/local/domain/{domid}/name") != name:
            continue
        for devid in sorted(filter(str.isdecimal, xenstore.list(f"backend/vif/{domid}")), key=int):
            backend = xenstore.tree(f"backend/vif/{domid}/{devid}")
            script = os.path.basename(backend.get("script", "")).removeprefix("vmnet-") or "vif-bridge"
            if script not in CLAIMS:
                raise InputError(f"{name}: vif {devid}: script={one_line(script)} is none of {', '.join(CLAIMS)}")
            for command, suffix in (("online", ""), ("add", "-emu")):
                plain, named = f"vif{domid}.{devid}{suffix}", backend.get("vifname", "") + suffix
                call = Call(script, command, {}, int(domid), int(devid), plain, backend.get("gatewaydev", ""))
                if sysfs.exists(plain) or (named != suffix and _is_renamed(call, named)):
                    yield event(call, xenstore, declared)


def nics(name: str, declared: Config) -> list[VifEvent]:
    """Return the events that set up all NICs of a running domain. Raise InputError if it has none, or another VmnetError."""
    found = list(events(name, XenStore(), declared))
    if not found:
        raise InputError(f"{name}: xenstore has no vif of it whose interface is there; see `xl list`, `xl network-list {name}`")
    return found


def _ifname(call: Call, vifname: str, where: str) -> str:
    if not vifname:
        return call.ifname
    return parsed(values.ifname, vifname + ("-emu" if call.emulated else ""), f"{where}: vifname")


def _is_renamed(call: Call, ifname: str) -> bool:
    """Return whether a link of that name is this NIC, renamed by an earlier call."""
    if sysfs.exists(call.ifname) or not sysfs.exists(ifname):
        return False
    # The tap of QEMU does not show its guest. If another guest has a tap of that name, the records show it.
    return call.emulated or backend_of(ifname) == f"vif-{call.domid}-{call.devid}" or _recorded(call) == ifname


def _recorded(call: Call) -> str:
    """Return the name of the NIC's link in the records; "" if it has no record."""
    if not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return ""
    records = store.Store()
    try:
        return next((nic.ifname for nic in records.nics(id=call.owner)), "")
    finally:
        records.close()


def _twin(call: Call, backend: Mapping[str, str]) -> str:
    if call.emulated:
        return str(call.devid)
    return f"{call.devid}-emu" if backend.get("type") == "vif_ioemu" else ""


def _mtu(text: str) -> int:
    return values.integer(68, 65535)(int(text) if text.isascii() and text.isdecimal() else text)


# --- the answer -------------------------------------------------------------------------------------------------------------


def conclude(event: VifEvent) -> None:
    """Run the admin's hooks; after `online`, write the guest's MTU and the success to xenstore. Raise VmnetError."""
    call, backend = event.call, event.backend
    _run_hooks(call, event.ifname or call.ifname)
    if call.command != "online" or backend is None:
        return
    news = {}
    if call.script == "vif-bridge" and backend.get("frontend"):
        news[f"{backend['frontend']}/mtu"] = sysfs.read(event.ifname, "mtu") or "1500"
    XenStore().write({**news, f"{call.path}/hotplug-status": "connected"})
    signal.setitimer(signal.ITIMER_REAL, 0)


def admins_hooks() -> list[str]:
    """Return the admin's scripts, which run after ours."""
    return [path for path in sorted(glob.glob(f"{SCRIPTS}/vif-post.d/*.hook")) if os.access(path, os.X_OK)]


def _run_hooks(call: Call, ifname: str) -> None:
    """Run vif-post.d/*.hook in one shell, with the functions and variables that a script has that sources ours, see hooks/run.
    Raise VmnetError."""
    hooks = admins_hooks()
    if not hooks:
        return
    # Few hosts have such hooks.
    from .xen_diversion import hook

    environ = {
        **os.environ,
        **{name: call.variables[name] for name in ("ip", "bridge", "netdev") if name in call.variables},
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "VMNET_DONE": ifname,
        "dev": ifname,
        "vif": f"vif{call.domid}.{call.devid}",
        "type_if": COMMANDS[call.command],
        "XENBUS_PATH": call.path,
        **({"INTERFACE": call.ifname} if call.emulated else {}),
    }
    shell = '. "$1" "$2" "type_if=$type_if"; shift 2; for f; do . "$f"; done'
    words = ["bash", "-e", "-c", shell, f"{SCRIPTS}/{call.script}", hook(call.script), call.command, *hooks]
    running = subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environ, start_new_session=True)
    try:
        running.wait()
    except BaseException:
        os.killpg(running.pid, signal.SIGKILL)
        raise
    if running.returncode:
        names = ", ".join(os.path.basename(path) for path in hooks)
        raise VmnetError(f"{SCRIPTS}/vif-post.d ({names}) ended with status {running.returncode}; see {LOG}")


def failed(request: Request, reason: str) -> None:
    """Log the reason of a failure; on set-up, also report it to libxl."""
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
        # libxl also learns of the failure from the exit status.
        pass


def alive(domains: Set[str]) -> Set[str]:
    """Return the running ones of the domains (`xen:DOMID`); all of them if xenstore can't be read."""
    if not domains:
        return domains
    try:
        return domains & {f"xen:{domid}" for domid in XenStore().list("/local/domain")}
    except VmnetError:
        return domains


def arrived(domains: Set[str]) -> Set[str]:
    """Return those of the domains (`xen:DOMID`), which migrate here, that libxl has given their own names."""
    try:
        xenstore = XenStore(LAST_WORD)
        names = {domain: xenstore.read(f"/local/domain/{domain.removeprefix('xen:')}/name") for domain in domains}
    except VmnetError:
        return frozenset()
    return {domain for domain, name in names.items() if name and not name.endswith(INCOMING)}


def is_here() -> bool:
    """Return whether this host has a xenstore."""
    return any(map(os.path.exists, ("/proc/xen/capabilities", "/dev/xen/xenbus", "/run/xenstored/socket")))


def keeps_calls() -> bool:
    """Return whether the admin has scripts: they must run with the privileges of the hook, not of the agent."""
    return bool(admins_hooks())


def running() -> dict[str, Domain | InputError]:
    """See FrontEnd.running."""
    # No hook calls this.
    from . import xen_running

    return xen_running.running()


def names() -> set[str]:
    """See FrontEnd.names."""
    # No hook calls this.
    from . import xen_running

    return xen_running.names()


FRONT_END = FrontEnd(
    parse,
    conclude,
    failed,
    alive,
    keeps_calls,
    arrived=arrived,
    network=network_of,
    nics=nics,
    running=running,
    names=names,
    is_here=is_here,
)
