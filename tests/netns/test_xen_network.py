"""network-bridge, network-route and network-nat: what Xen's guests are plugged into, set up by one command, and taken away."""

from __future__ import annotations

import re
import subprocess

import pytest
from lab.capture import Capture
from lab.nodes import dump
from lab.routed import eventually, ping, reach
from lab.single import same
from lab.xenhost import LAN_PEER, OWN, OWN6, UPSTREAM, UPSTREAM6, WORLD, XenHost, nothing_stays, offline, online, plugged

ADDRESSES = rf"inet {OWN}/24 (.|\n)*inet6 {OWN6}/64 "


@pytest.fixture
def one():
    with XenHost() as host:
        yield host


def run(one: XenHost, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """As an admin, or a unit, does at boot. The exit status is the caller's to judge."""
    return one.host.script(f"vmnet-{script}", *words)


def ran(one: XenHost, script: str, *words: str) -> str:
    done = run(one, script, *words)
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout


def refused(one: XenHost, script: str, *words: str) -> str:
    """One line, a status, and nothing has changed."""
    before = one.state()
    done = run(one, script, *words)
    lines = done.stderr.splitlines()
    assert done.returncode in (1, 2) and len(lines) == 1 and lines[0].startswith("vmnet-hook: "), done
    same(before, one.state())
    assert not one.host.path("/run/pwned").exists()
    return lines[0]


def bridge_of(one: XenHost, ifname: str) -> str:
    found = re.search(r" master (\S+) ", one.shown(ifname))
    return found[1] if found else ""


# --- network-bridge --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, bridge",
    [
        ([], "xenbr9"),
        (["netdev=eth9"], "xenbr9"),
        (["bridge=virbr9", "netdev=eth9"], "virbr9"),
        (["vifnum=9"], "xenbr9"),
    ],
    ids=["defaults", "netdev", "bridge", "vifnum"],
)
def test_bridge(one, words, bridge):
    """The bridge has the addresses and the routes that eth9 had, and the host is on the network as before."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start", *words)
        assert bridge_of(one, "eth9") == bridge
        assert "stp_state 0" in one.shown(bridge)
        assert re.search(ADDRESSES, one.host.run(f"ip addr show dev {bridge}").stdout)
        assert f"via {UPSTREAM} dev {bridge}" in one.host.run("ip route show default").stdout
        pairs = [(one.host, UPSTREAM), (one.host, UPSTREAM6), (one.host, WORLD), (one.peer, OWN), (one.peer, OWN6)]
        assert eventually(lambda: reach(pairs, wait=1) == []), reach(pairs, wait=1)
        assert bridge in ran(one, "network-bridge", "status", *words)
        ran(one, "network-bridge", "stop", *words)
        assert not list(one.host.path("/run/vmnet-hooks/conf.d").glob("*"))


def test_bridge_twice(one):
    """A second start, or stop, is no change."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start")
        first = one.state()
        ran(one, "network-bridge", "start")
        same(first, one.state())
        ran(one, "network-bridge", "stop")
        ran(one, "network-bridge", "stop")


def test_bridge_status(one):
    """It says whether it is there, and changes nothing."""
    before = one.state()
    down = run(one, "network-bridge", "status")
    ran(one, "network-bridge", "start")
    there = one.state()
    up = run(one, "network-bridge", "status")
    same(there, one.state())
    assert up.returncode == 0 and down.stdout != up.stdout
    ran(one, "network-bridge", "stop")
    same(before, one.state())


def test_bridge_survives_repair_and_check(one):
    """Every command knows what was declared by a script."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start")
        there = one.state()
        for word in ("check", "repair"):
            done = one.host.cli(word)
            assert done.returncode == 0, done
        same(there, one.state())
        ran(one, "network-bridge", "stop")


def test_a_guest_on_it(one):
    """xenbr9 is where a guest without `bridge` goes that names it; it talks to the host's network."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start")
        vif = one.vif(bridge="xenbr9")
        vif.configure("10.0.1.50", 24, UPSTREAM)
        online(vif)
        assert eventually(lambda: reach([(vif.guest, UPSTREAM), (vif.guest, WORLD), (vif.guest, OWN)], wait=1) == [])
        offline(vif)
        ran(one, "network-bridge", "stop")


def test_antispoof(one):
    """Every guest on the bridge sends from its own MAC, and those with `ip` from these addresses, or not at all."""
    with nothing_stays(one):
        ran(one, "network-bridge", "start", "antispoof=yes")
        bound = one.vif(1, bridge="xenbr9", ip="10.0.1.50")
        free = one.vif(2, bridge="xenbr9")
        bound.configure("10.0.1.50")
        free.configure("10.0.1.51")
        with plugged(one, bound, free):
            assert eventually(lambda: reach([(vif.guest, UPSTREAM) for vif in (bound, free)], wait=1) == [])
            free.guest.run("ip addr add 10.0.1.52/24 dev eth0")
            assert eventually(lambda: reach([(free.guest, UPSTREAM)], wait=1) == [])
            bound.guest.run("ip addr add 10.0.1.66/24 dev eth0")
            with Capture(one.peer, "eth9", "") as seen:
                bound.guest.run(["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", "10.0.1.66", UPSTREAM], check=False)
                free.guest.sh("ip link set eth0 address 02:00:00:00:00:66")
                assert ping(free.guest, UPSTREAM, 1) is None
            assert not seen.having(r"\b10\.0\.1\.66\b") and not seen.having("02:00:00:00:00:66"), str(seen)
        ran(one, "network-bridge", "stop", "antispoof=yes")


BAD_BRIDGES = {
    "no such netdev": ["netdev=eth7"],
    "a bridge that is something else": ["bridge=up0"],
    "hostile netdev": ["netdev=$(touch /run/pwned)"],
    "hostile bridge": ["bridge=`touch /run/pwned`"],
    "hostile word": ["x=$(touch /run/pwned)", "netdev=eth7"],
    "antispoof": ["antispoof=perhaps"],
    "vifnum": ["vifnum=-1"],
    "a bridge's port": ["netdev=lan0"],
    "itself": ["netdev=eth9", "bridge=eth9"],
}


@pytest.mark.parametrize("words", BAD_BRIDGES.values(), ids=BAD_BRIDGES.keys())
def test_bridge_refused(one, words):
    refused(one, "network-bridge", "start", *words)
    assert not list(one.host.path("/run/vmnet-hooks/conf.d").glob("*"))


@pytest.mark.parametrize("words", [[], ["restart"], ["$(touch /run/pwned)"]], ids=["none", "unknown", "hostile"])
@pytest.mark.parametrize("script", ["network-bridge", "network-route", "network-nat"])
def test_commands_refused(one, script, words):
    refused(one, script, *words)


# --- network-route ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["netdev=eth9"]], ids=["defaults", "netdev"])
def test_route(one, words):
    """Forwarding, and proxy ARP on netdev: what Xen's own vif-route relies on."""
    with nothing_stays(one):
        ran(one, "network-route", "start", *words)
        assert one.host.sysctl("ipv4/conf/eth9/proxy_arp") == one.host.sysctl("ipv4/conf/eth9/forwarding") == "1"
        started = dump(one.host)
        ran(one, "network-route", "start", *words)
        same(started, dump(one.host))
        ran(one, "network-route", "status", *words)
        vif = one.vif(script="vif-route", ip="10.0.1.10", gatewaydev="eth9")
        assert vif.call("online").returncode == 0
        vif.configure("10.0.1.10", 24, OWN)
        assert eventually(lambda: reach([(vif.guest, UPSTREAM), (vif.guest, WORLD), (one.peer, "10.0.1.10")], wait=1) == [])
        vif.leave()
        vif.call("offline")
        vif.forget()
        ran(one, "network-route", "stop", *words)


def test_route_refused(one):
    assert "eth7" in refused(one, "network-route", "start", "netdev=eth7")


# --- network-nat -----------------------------------------------------------------------------------------------------


def test_nat(one):
    """Private sources are the host's outside, whoever set up the guest; what goes elsewhere is left alone."""
    with nothing_stays(one):
        ran(one, "network-nat", "start")
        ran(one, "network-nat", "start")
        ran(one, "network-nat", "status")
        vif = one.vif(7, script="vif-nat")
        assert vif.call("online").returncode == 0, vif.error
        vif.configure("10.0.7.1", 16, "10.0.7.128")
        with Capture(one.peer, "eth9", "icmp") as seen:
            assert eventually(lambda: reach([(vif.guest, WORLD)], wait=1) == [])
        assert seen.having(f"{OWN} > {WORLD}: ICMP echo request") and not seen.having("10.0.7.1 > "), str(seen)
        one.host.sh("echo 1 > /proc/sys/net/ipv4/conf/br0/forwarding; ip addr add 10.7.0.254/24 dev br0")
        one.peer.run("ip route add 10.0.7.0/24 via 10.7.0.254")
        with Capture(one.peer, "lan0", "icmp") as seen:
            assert eventually(lambda: reach([(vif.guest, LAN_PEER)], wait=1) == [])
        assert seen.having(f"10.0.7.1 > {LAN_PEER}"), str(seen)
        one.peer.run("ip route del 10.0.7.0/24 via 10.7.0.254")
        one.host.sh("ip addr del 10.7.0.254/24 dev br0; echo 0 > /proc/sys/net/ipv4/conf/br0/forwarding")
        vif.leave()
        vif.call("offline")
        vif.forget()
        ran(one, "network-nat", "stop")


def test_nat_refused(one):
    assert "eth7" in refused(one, "network-nat", "start", "netdev=eth7")
