"""Hooks as whole processes, beside an empty interpreter and Xen's own scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping

from lab.nodes import ENV
from lab.xenstore import fetched

from bench.hosts import BRIDGED, DUAL, FLOOR, PYTHON, CommandFailed, Commands, Host, Product, Series, bridged, routed
from bench.report import Effort, Row, ratio, unknown

OTHERS, ROUTED, TAP, BRIDGE = (routed(0), bridged(4)), routed(1), routed(2), bridged(3)
"""The guests: one that runs all the time, with two NICs; of libvirt's hook, of QEMU's, on a bridge. Xen's scripts take their taps
in turn."""

XEN = "/run/xen/scripts"
COUNT_RECORDS = """
import sqlite3
records = sqlite3.connect("/run/vmnet-hooks/state.db")
print(records.execute("SELECT count(*) FROM owner WHERE domain != ''").fetchone()[0])
"""
EMPTY = {"argv": FLOOR, "env": ENV}
CALLS = {
    "start": ("PLUG of libvirt, routed", 0.95),
    "started": ("announcing, of libvirt", 0.45),
    "stopped": ("UNPLUG of libvirt, routed", 0.7),
    "ifup": ("PLUG and announcing of QEMU, routed", 0.95),
    "ifdown": ("UNPLUG of QEMU, routed", 0.7),
    "bridge start": ("PLUG of libvirt, bridged", 0.65),
    "bridge stopped": ("UNPLUG of libvirt, bridged", 0.55),
}
"""What a call does, and its limit with the agent, in empty interpreters."""


def host(product: Product) -> Host:
    """Three guests' taps, held open."""
    made = Host(product, DUAL + BRIDGED, bridges=1)
    made.taps(5)
    for number in range(1, 4):
        made.hold(number)
    made.declare("tap-guest", TAP)
    return made


def ours(on: Host) -> Commands:
    """The calls, in an order in which they follow each other."""
    return {
        "ignored": on.hook("guest", "restore", ROUTED),
        "start": on.hook("guest", "start", ROUTED),
        "started": on.hook("guest", "started", ROUTED),
        "stopped": on.hook("guest", "stopped", ROUTED),
        "ifup": {"argv": [on.product.hook("qemu/ifup"), TAP.tap], "env": ENV},
        "ifdown": {"argv": [on.product.hook("qemu/ifdown"), TAP.tap], "env": ENV},
        "bridge start": on.hook("bridge-guest", "start", BRIDGE),
        "bridge stopped": on.hook("bridge-guest", "stopped", BRIDGE),
    }


def xens(on: Host) -> Commands:
    """Xen's own scripts, as a package has them but for the folder of the xenstore programs. Raises CommandFailed."""
    scripts, programs = on.node.path(XEN), on.node.path("/run/xen/bin")
    shutil.copytree(fetched() / "etc/xen/scripts", scripts)
    paths = (scripts / "hotplugpath.sh").read_text()
    (scripts / "hotplugpath.sh").write_text(paths.replace('bindir="/usr/bin"', 'bindir="/run/xen/bin"'))
    programs.mkdir()
    for name in ("read", "write", "rm"):
        shutil.copy(on.product.path / "xenstore", programs / f"xenstore-{name}")
    on.node.sh("mount -t tmpfs tmpfs /var/log; mkdir /var/log/xen")

    def script(name: str, command: str, tap: str, **keys: str) -> Mapping[str, object]:
        told = {"vif": tap, "dev": tap, "XENBUS_PATH": "backend/vif/1/0", "netdev": "up0"}
        stored = {f"XENSTORE_{key}": value for key, value in keys.items()}
        return {"argv": [f"{XEN}/{name}", command, "type_if=vif"], "env": {**ENV, **told, **stored}}

    address = ROUTED.ips[0]
    return {
        "vif-route online": script("vif-route", "online", ROUTED.tap, ip=address),
        "vif-route offline": script("vif-route", "offline", ROUTED.tap, ip=address),
        "vif-bridge online": script("vif-bridge", "online", BRIDGE.tap, bridge="br0"),
        "vif-bridge offline": script("vif-bridge", "offline", BRIDGE.tap, bridge="br0"),
    }


def ignored_and_handled(product: Product, effort: Effort) -> Iterator[Row]:
    """A call that is ignored; calls that the agent serves, and Xen's scripts for the same."""
    with host(product) as on:
        commands, xen = ours(on), {}
        try:
            xen = xens(on)
        except (CommandFailed, OSError) as error:
            yield unknown("Xen's scripts", error)
        try:
            on.start_agent()
            # Another guest runs: what all share comes with the first and goes with the last.
            on.spawn({"other": on.hook("other", "start", *OTHERS)}, ["other"], 1)
        except CommandFailed as error:
            commands = {"ignored": commands["ignored"]}
            yield unknown("calls that the agent serves", error)
        # Xen's scripts leave an address and a sysctl behind, which are no part of what ours do.
        tidy = {"argv": ["/usr/sbin/ip", "addr", "flush", "dev", ROUTED.tap], "env": ENV}
        every = {"floor": EMPTY, **commands, "floor ": EMPTY, **xen, "tidy": tidy}
        repeat, served = effort(60, 15), len(commands) - 1
        if served:
            on.spawn(every, list(every), 2)
            with on.all_served(repeat * served):
                times = on.spawn(every, list(every), repeat)
        else:
            times = on.spawn(every, list(every), repeat)
    floor = times["floor"] + times["floor "]
    yield ratio("ignored call / empty interpreter", times["ignored"], floor, 0.25, 1.0)
    for name, (what, limit) in CALLS.items():
        if name in times:
            yield ratio(f"agent: {what} / empty interpreter", times[name], floor, limit, 4.0)
    if xen and served:
        yield from beside_xen(times)


def beside_xen(times: Series) -> Iterator[Row]:
    """Where no agent is, a hook can't be faster than an empty interpreter: that is shown too."""
    for peer in ("vif-route online", "vif-bridge online"):
        yield ratio(f"empty interpreter / {peer}", times["floor"], times[peer])
    for name, peer, *limits in (
        ("start", "vif-route online", 1 / 4, 1.0),
        ("ifup", "vif-route online", 1 / 4, 1.0),
        ("stopped", "vif-route offline"),
        ("bridge start", "vif-bridge online", 1 / 8, 1 / 2),
        ("bridge stopped", "vif-bridge offline"),
    ):
        yield ratio(f"agent: {CALLS[name][0]} / {peer}", times[name], times[peer], *limits)


def in_process(product: Product, effort: Effort) -> Iterator[Row]:
    """The same calls where no agent is."""
    with host(product) as on:
        commands = {"floor": EMPTY, **ours(on), "floor ": EMPTY}
        on.spawn(commands, list(commands), 1)
        times = on.spawn(commands, list(commands), effort(20, 5))
    floor = times["floor"] + times["floor "]
    for name, (what, _) in CALLS.items():
        yield ratio(f"no agent: {what} / empty interpreter", times[name], floor, 25, 60)


def at_once(product: Product, effort: Effort) -> Iterator[Row]:
    """Two hundred guests, a process each."""
    count = 200
    what = f"agent: PLUG of {count} guests at once / {count} empty interpreters"
    with Host(product, DUAL) as on:
        on.taps(count)
        guests = [routed(number) for number in range(count)]
        commands: dict[str, Mapping[str, object]] = {"floor": EMPTY}
        for number, guest in enumerate(guests):
            commands[f"start {number}"] = on.hook(f"guest{number}", "start", guest)
            commands[f"stopped {number}"] = on.hook(f"guest{number}", "stopped", guest)
        starts, stops = ([f"{which} {number}" for number in range(count)] for which in ("start", "stopped"))
        try:
            on.start_agent()
        except CommandFailed as error:
            yield unknown(what, error, 0.8, 4.0)
            return
        repeat = effort(5, 2)
        on.requests(commands, [starts[0], stops[0]])
        with on.all_served(2 * count * repeat):
            empty, plugged, unplugged = [], [], []
            for _ in range(repeat):
                empty += on.crowds(commands, [["floor"] * count], 1)[0]
                plugged += on.crowds(commands, [starts], 1)[0]
                lost = count - plugged_guests(on)
                if lost:
                    raise CommandFailed(f"{lost} of {count} guests were lost")
                unplugged += on.crowds(commands, [stops], 1)[0]
                if left := plugged_guests(on):
                    raise CommandFailed(f"{left} guests are still there")
    yield ratio(what, plugged, empty, 0.8, 4.0)
    yield ratio(what.replace("PLUG", "UNPLUG"), unplugged, empty, 0.6, 4.0)


def plugged_guests(on: Host) -> int:
    """How many guests have their routes in the kernel, in both families; as many must be in the records. Raises CommandFailed."""
    found = {
        len(set(on.node.sh(f"ip -{family} route show table 222 | grep -o 'dev t[0-9]*' || :").split("\n")) - {""})
        for family in (4, 6)
    }
    found.add(int(on.node.run([PYTHON, "-IS", "-c", COUNT_RECORDS]).stdout))
    if len(found) != 1:
        raise CommandFailed(f"routes of IPv4, of IPv6 and records differ: {found}")
    return found.pop()
