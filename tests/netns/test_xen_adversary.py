"""Guests, admins and hooks that do what nobody expects: Xen's scripts and network scripts give no guest another's place, leave
nothing half-done, and end in time.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time

import pytest
from lab.capture import Capture
from lab.nodes import ENV, settled
from lab.routed import eventually, reach
from lab.single import same
from lab.xenhost import LAN_PEER, OWN, UPSTREAM, WORLD, XenHost, nothing_stays, offline, online, plugged, refused, succeeded
from lab.xenstore import MAC, Vif

LIMIT = 40
"""After so many seconds libxl kills a script."""

ROUTE, NAT = "vmnet-vif-route", "vmnet-vif-nat"
RUNTIME = "/run/vmnet-hooks/conf.d"
ADOPTS = '[bridges.xenbr9]\nports = ["eth9"]\nadopt = "eth9"\n'
ANTISPOOF = '[networks.xenbr9]\nmode = "bridged"\nbridge = "xenbr9"\nantispoof = true\n'


@pytest.fixture
def one():
    with XenHost() as host:
        yield host


def ran(one: XenHost, script: str, *words: str) -> str:
    """An admin's `SCRIPT start|stop …` that works. Returns what it complains about all the same."""
    done = one.host.script(f"vmnet-{script}", *words)
    assert done.returncode == 0, done
    return done.stderr


def checked(one: XenHost) -> None:
    """Records, files and the kernel agree."""
    done = one.host.cli("check")
    assert done.returncode == 0 and done.stdout.strip() == "ok" and not done.stderr, done


def hook(one: XenHost, text: str) -> None:
    one.host.write("/etc/xen/scripts/vif-post.d/10-a.hook", text)
    one.host.run("chmod 755 /etc/xen/scripts/vif-post.d/10-a.hook")


def gone(vif: Vif) -> None:
    """The end of a guest whose `online` was refused."""
    vif.leave()
    succeeded(vif.call("offline"))
    vif.forget()


def talks(vif: Vif, *targets: str) -> None:
    pairs = [(vif.guest, target) for target in targets]
    assert eventually(lambda: reach(pairs, wait=1) == []), reach(pairs, wait=1)


def declared_at_runtime(one: XenHost) -> list[str]:
    return [path.name for path in one.host.path(RUNTIME).glob("*")]


# --- what another guest has ------------------------------------------------------------------------------------------


def test_the_name_of_another_guests_interface(one):
    """A vifname is this guest's or nobody's, by the script and by the command, whether the guest's own vif is there or not."""
    with nothing_stays(one):
        first = one.vif(1, name="alpha", vifname="foo0", script=ROUTE, ip="10.0.1.10")
        first.configure("10.0.1.10", 24, OWN)
        online(first)
        second = one.vif(2, name="beta", vifname="foo0", bridge="br0", ip="10.7.0.12", device=False)
        for ifname in ("", second.ifname):
            if ifname:
                second.device()
            before, records = settled(one.host), one.records()
            refused(second, second.call("online"), "foo0")
            done = one.host.cli("start", "beta", "--xen")
            assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, done
            succeeded(second.call("offline"))
            same(before, settled(one.host))
            assert one.records() == records
        talks(first, UPSTREAM)
        one.host.run("ip link del vif2.0")
        one.store.rm("/local/domain/2")
        second.forget()
        offline(first)


# The first guest, what happens then, the second guest: script, keys.
TWICE = {
    "routed, then translated": ((ROUTE, {"gatewaydev": "eth9"}), "", (NAT, {"gatewaydev": "eth9"})),
    "by another interface": ((ROUTE, {"gatewaydev": "eth9"}), "", (ROUTE, {"gatewaydev": "up0"})),
    "after network-route": ((ROUTE, {}), "network-route", (ROUTE, {})),
}


@pytest.mark.parametrize("first, between, second", TWICE.values(), ids=TWICE.keys())
def test_the_address_of_another_guest(one, first, between, second):
    """Networks of other names share the main table: an address has one guest."""
    one.host.run("ip addr add 10.5.0.1/24 dev up0")
    with nothing_stays(one):
        a, b = (
            one.vif(number, script=script, ip="10.0.1.10", **keys) for number, (script, keys) in enumerate((first, second), 1)
        )
        online(a)
        if between:
            ran(one, between, "start")
        route = one.host.run("ip route show 10.0.1.10").stdout
        assert "dev vif1.0" in route
        refused(b, b.call("online"), "10.0.1.10", "in use by dom1")
        assert one.host.run("ip route show 10.0.1.10").stdout == route
        checked(one)
        gone(b)
        offline(a)
        if between:
            ran(one, between, "stop")


def test_the_address_of_another_guests_gateway(one):
    """vif-nat's gateway of 10.0.0.1 is 10.0.0.128."""
    with nothing_stays(one):
        for domid, addresses in ((1, ("10.0.0.1", "10.0.0.128")), (3, ("10.0.0.128", "10.0.0.1"))):
            a, b = (one.vif(domid + number, script=NAT, ip=address) for number, address in enumerate(addresses))
            online(a)
            refused(b, b.call("online"), addresses[1], f"in use by dom{domid}")
            checked(one)
            gone(b)
            offline(a)


# --- what is declared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "declared", ["", '[networks.out]\nmode = "hostroute"\nnetdev = "eth9"\nnat = true\n'], ids=["nat", "toml"]
)
def test_nat_without_an_address(one, declared):
    """It is made of the domain's number, whoever declared the network."""
    one.host.config(declared)
    with nothing_stays(one):
        if not declared:
            ran(one, "network-nat", "start")
        vif = one.vif(7, script=NAT)
        vif.configure("10.0.7.1", 16, "10.0.7.128")
        online(vif)
        assert ("out" if declared else "network-nat-eth9") in one.host.cli("status", "dom7").stdout
        assert "10.0.7.1 dev vif7.0" in one.host.run("ip route show").stdout
        talks(vif, WORLD)
        offline(vif)
        if not declared:
            ran(one, "network-nat", "stop")


def test_nat_of_an_address_and_a_prefix(one):
    """Also where a declaration translates them already."""
    with nothing_stays(one):
        ran(one, "network-nat", "start")
        vif = one.vif(script=NAT, ip="10.9.0.1 10.8.0.0/24")
        vif.configure("10.9.0.1", 16, "10.9.0.128")
        vif.guest.run("ip addr add 10.8.0.5/32 dev eth0")
        online(vif)
        talks(vif, WORLD)
        with Capture(one.peer, "eth9", "icmp") as seen:
            vif.guest.run(["ping", "-c", "1", "-W", "2", "-I", "10.8.0.5", WORLD])
        assert seen.having(f"{OWN} > {WORLD}: ICMP echo request") and not seen.having("10.8.0.5 >"), str(seen)
        checked(one)
        offline(vif)
        ran(one, "network-nat", "stop")


def test_no_guest_repeats_a_takeover(one):
    """A takeover is an admin's, who watches it. A file that is left behind is none."""
    vif = one.vif(bridge="xenbr9")
    before = settled(one.host)
    for network in ("", ANTISPOOF):
        one.host.write(f"{RUNTIME}/network-bridge-xenbr9.toml", ADOPTS + network)
        refused(vif, vif.call("online"), "xenbr9", "vmnet-hook up")
    same(before, settled(one.host))


def test_antispoof_of_a_bridge_of_the_admins(one):
    """What vmnet.toml declares is edited there."""
    one.host.config(ADOPTS)
    before = settled(one.host)
    done = one.host.script("vmnet-network-bridge", "start", "netdev=eth9", "antispoof=yes")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done
    assert done.stderr.startswith("vmnet-hook: ") and "/etc/vmnet-hooks/vmnet.toml" in done.stderr, done
    same(before, settled(one.host))
    assert declared_at_runtime(one) == []


def test_stop_beside_a_file_that_says_something_else(one):
    """What a command declared, it takes back, whatever was declared since."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start", "netdev=eth9")
        one.host.config('[bridges.xenbr9]\nports = ["up0"]\n')
        assert ran(one, "network-bridge", "stop", "netdev=eth9") == ""
        assert declared_at_runtime(one) == []
        one.host.config("")


# --- stop, with guests -----------------------------------------------------------------------------------------------


def stopped(one: XenHost, script: str) -> None:
    """Its guests keep what they use: it says so."""
    assert "stays until" in ran(one, script, "stop")
    assert declared_at_runtime(one) != []
    checked(one)


def test_stop_of_a_bridge_with_guests(one):
    """They work on; the next one is filtered as before. The last one takes the bridge with it."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start", "antispoof=yes")
        vifs = [one.vif(last, bridge="xenbr9", ip=f"10.0.1.5{last}") for last in (1, 2)]
        for vif in vifs:
            vif.configure(f"10.0.1.5{vif.domid}", 24, UPSTREAM)
        online(vifs[0])
        stopped(one, "network-bridge")
        talks(vifs[0], UPSTREAM)
        online(vifs[1])
        checked(one)
        talks(vifs[1], UPSTREAM)
        vifs[1].guest.run("ip addr add 10.0.1.66/24 dev eth0")
        with Capture(one.peer, "eth9", "") as seen:
            vifs[1].guest.run(["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", "10.0.1.66", UPSTREAM], check=False)
        assert not seen.having(r"\b10\.0\.1\.66\b"), str(seen)
        offline(vifs[0])
        assert one.shown("xenbr9") and declared_at_runtime(one)
        talks(vifs[1], UPSTREAM)
        offline(vifs[1])
        assert not one.shown("xenbr9") and not declared_at_runtime(one)


def test_stop_of_a_bridge_and_then_of_its_guest(one):
    """An admin's `vmnet-hook stop` may be what makes it the last one."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start")
        vif = one.vif(bridge="xenbr9")
        online(vif)
        stopped(one, "network-bridge")
        assert one.host.cli("stop", "dom1").returncode == 0
        assert not one.shown("xenbr9") and not declared_at_runtime(one)
        offline(vif)


@pytest.mark.parametrize("kind", ["route", "nat"])
def test_stop_with_guests(one, kind):
    """The same for what is no bridge."""
    with nothing_stays(one):
        ran(one, f"network-{kind}", "start")
        vifs = [one.vif(last, script=f"vmnet-vif-{kind}", ip=f"10.0.1.5{last}") for last in (1, 2)]
        for vif in vifs:
            vif.configure(f"10.0.1.5{vif.domid}", 24, OWN if kind == "route" else f"10.0.1.{177 + vif.domid}")
        online(vifs[0])
        stopped(one, f"network-{kind}")
        talks(vifs[0], WORLD)
        online(vifs[1])
        checked(one)
        assert one.host.cli("status", "dom2").stdout.count(f"network-{kind}-eth9") == 1
        offline(vifs[0])
        talks(vifs[1], WORLD)
        offline(vifs[1])
        assert not declared_at_runtime(one)


def test_start_after_a_stop_with_guests(one):
    """It is declared again: the last guest takes nothing with it."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start")
        vif = one.vif(bridge="xenbr9")
        with plugged(one, vif):
            stopped(one, "network-bridge")
            assert ran(one, "network-bridge", "start") == ""
        assert one.shown("xenbr9") and declared_at_runtime(one)
        checked(one)
        assert ran(one, "network-bridge", "stop") == ""


def test_the_last_guest_is_one_that_fails(one):
    """What was stopped goes with it."""
    hook(one, "[ $command$vif != onlinevif2.0 ] || { touch /run/here; until [ -e /run/go ]; do sleep 0.05; done; false; }\n")
    with nothing_stays(one):
        ran(one, "network-bridge", "start")
        first, last = one.vif(1, bridge="xenbr9"), one.vif(2, bridge="xenbr9")
        online(first)
        stopped(one, "network-bridge")
        process = last.started("online")
        assert eventually(one.host.path("/run/here").exists)
        offline(first)
        one.host.run("touch /run/go")
        out, err = process.communicate(timeout=LIMIT)
        refused(last, subprocess.CompletedProcess((), process.returncode, out, err), "10-a.hook")
        assert not one.shown("xenbr9") and not declared_at_runtime(one)
        gone(last)


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_a_failure_while_another_holds_the_lock(one):
    """All is undone all the same: the name, the link, the record."""
    hook(one, "[ $command = offline ] && return\nflock /run/vmnet-hooks/lock sleep 2 >/dev/null 2>&1 &\nsleep 0.3\nfalse\n")
    with nothing_stays(one):
        vif = one.vif(vifname="foo0", script=ROUTE, ip="10.0.1.10")
        before = settled(one.host)
        refused(vif, vif.call("online"), "10-a.hook")
        same(before, settled(one.host))
        assert " state DOWN " in one.shown("vif1.0") and not one.shown("foo0")
        assert one.host.cli("status").stdout.strip() == "nothing is set up"
        gone(vif)


def test_a_failure_leaves_a_guest_that_works(one):
    """A second `online` that fails is no reason to unplug it."""
    with nothing_stays(one):
        vif = one.vif(vifname="foo0", bridge="br0", ip="10.7.0.11")
        vif.configure("10.7.0.11")
        online(vif)
        before, records = settled(one.host), len(one.records())
        hook(one, "false\n")
        refused(vif, vif.call("online"), "10-a.hook")
        same(before, settled(one.host))
        assert len(one.records()) == records
        talks(vif, LAN_PEER)
        hook(one, "true\n")
        offline(vif)


def orphans(one: XenHost) -> list[str]:
    return [command for pid in one.host.processes() if (command := one.host.command(pid)).startswith("sleep 1234")]


HANGS = {
    "alone": "sleep 1234 &\nsleep 1234\n",
    "xenstored too": "sleep 1234 &\nsleep 1234\n",
    # Undoing takes longer than what is left of the script's time.
    "then fails": "flock /run/vmnet-hooks/lock sleep 35 >/dev/null 2>&1 &\nsleep 32\nfalse\n",
}


@pytest.mark.slow
def test_a_hook_that_hangs(one):
    """It is ended in time, with all that it began, and what was done is undone. All at once: each takes its time."""
    with XenHost() as second, XenHost() as third:
        hosts = dict(zip(HANGS, (one, second, third), strict=True))
        began, running = time.monotonic(), {}
        for name, host in hosts.items():
            hook(host, HANGS[name])
            vif = host.vif(vifname="foo0", bridge="br0")
            before = settled(host.host)
            running[name] = (vif, before, vif.started("online"))
        assert eventually(lambda: len(orphans(one)) == len(orphans(second)) == 2)
        second.host.daemon.send_signal(signal.SIGSTOP)
        results = {}
        for name, (_, _, process) in running.items():
            out, err = process.communicate(timeout=LIMIT + 20)
            results[name] = subprocess.CompletedProcess((), process.returncode, out, err)
        assert time.monotonic() - began < LIMIT
        second.host.daemon.send_signal(signal.SIGCONT)
        refused(running["alone"][0], results["alone"], "not done within")
        refused(running["then fails"][0], results["then fails"], "10-a.hook")
        vif, done = running["xenstored too"][0], results["xenstored too"]
        assert done.returncode == 1 and done.stderr.startswith("vmnet-hook: ") and done.stderr.count("\n") == 1, done
        assert vif.status == "" and vif.error is None
        for name, host in hosts.items():
            assert orphans(host) == [] and not [row for row in host.records() if row[0] == "owner"]
            same(running[name][1], settled(host.host))


def test_the_name_at_offline(one):
    """A hook knows the name that the vif had, although the backend's settings are gone."""
    hook(one, 'echo "$command $dev" >>/run/hooks\n')
    with nothing_stays(one):
        vif = one.vif(vifname="foo0", bridge="br0")
        online(vif)
        vif.leave()
        vif.forget()
        succeeded(vif.call("offline"))
    assert one.host.path("/run/hooks").read_text().splitlines() == ["online foo0", "offline foo0"]


# --- surroundings ----------------------------------------------------------------------------------------------------


def test_repair_gives_the_mac_back(one):
    """That of a port on a declared network is the one that netback gave it."""
    one.host.config('[networks.lan]\nmode = "bridged"\nbridge = "br0"\n')
    with nothing_stays(one):
        vif = one.vif(bridge="br0")
        online(vif)
        checked(one)
        one.host.run("ip link set vif1.0 address fe:ff:ff:ff:ff:01")
        assert one.host.cli("check").returncode != 0
        assert one.host.cli("repair").returncode == 0
        assert f"link/ether {MAC} " in one.shown("vif1.0")
        checked(one)
        offline(vif)


def test_dnsmasq_reads_the_hosts_files(one):
    """It is another user than xl's, whose umask may be narrow."""
    vif = one.vif(7, name="web", script=NAT)
    before = os.umask(0o077)
    try:
        online(vif)
    finally:
        os.umask(before)
    folder = one.host.path("/run/vmnet-hosts")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"vmnet-hosts": 0o755, "vif7.0": 0o644}
    offline(vif)


@pytest.mark.parametrize("how", ["link", "wrapper"])
def test_vif_setup_that_leads_to_itself(one, how):
    """By another name than its own; it is vif-bridge then."""
    path = "/etc/xen/scripts/of-mine"
    if how == "link":
        one.host.run(["ln", "-s", "vmnet-vif-setup", path])
    else:
        one.host.sh(f"printf '#!/bin/sh\\nexec /etc/xen/scripts/vmnet-vif-setup \"$@\"\\n' >{path}; chmod 755 {path}")
    with nothing_stays(one):
        vif = one.vif(script="vmnet-vif-setup", bridge="br0")
        succeeded(vif.call("online", env={"script": path}))
        assert vif.status == "connected" and " master br0 " in one.shown("vif1.0")
        offline(vif)


def test_a_domain_whose_name_is_hostile(one):
    """A table has one line for each guest, and a terminal shows what is there."""
    vif = one.vif(name="a\nb\x1b[31m\tc", bridge="br0")
    with plugged(one, vif):
        lines = one.host.cli("status").stdout.splitlines()
        assert len(lines) == 2 and "vif1.0" in lines[1] and all(line.isprintable() for line in lines), lines


def test_no_default_route(one):
    """A route that leads nowhere is none."""
    one.host.sh("ip route del default; ip -6 route del default")
    one.host.sh("ip route add unreachable default metric 5; ip -6 route add unreachable default metric 5")
    vif = one.vif(script=NAT)
    before = settled(one.host)
    refused(vif, vif.call("online"), "no default route")
    for script in ("network-bridge", "network-route", "network-nat"):
        done = one.host.script(f"vmnet-{script}", "start")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no default route" in done.stderr, done
    same(before, settled(one.host))


def test_status_without_a_path(one):
    """An admin's wrapper may have none."""
    env = [f"{key}={value}" for key, value in ENV.items() if key != "PATH"]
    for script in ("network-bridge", "network-route", "network-nat"):
        expected = one.host.script(f"vmnet-{script}", "status")
        done = one.host.run(["env", "-i", "PATH=", *env, f"/etc/xen/scripts/vmnet-{script}", "status"])
        assert (done.returncode, done.stderr) == (expected.returncode, expected.stderr) == (0, "")
        assert re.sub(r"\d+sec", "", done.stdout) == re.sub(r"\d+sec", "", expected.stdout) and UPSTREAM in done.stdout
