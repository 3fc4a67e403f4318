"""A bridge takes over the interface that the host lives on: nothing is lost, and when it does not work out, everything is
put back by itself, whoever is left to do it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time

import pytest
from lab.agent import Agent
from lab.forkserver import Result
from lab.frames import router_advertisement
from lab.hostnet import (
    Command,
    LifeLine,
    Pinging,
    Transfer,
    Uplinks,
    attribute,
    commands,
    exists,
    ports,
    refusal,
)
from lab.nodes import changes
from lab.routed import GATEWAY4, GATEWAY6, WORLD4, WORLD6, eventually, ping, reach, send
from lab.single import same

XENBR0 = '[bridges.xenbr0]\nports = ["eth0"]\nadopt = "eth0"\n'
WINDOW = 10
"""Seconds that the gateways have to answer again."""

SLOW = 15
"""Seconds for what comes after the window: the way back, and a machine with two busy cores."""

# What cuts the gateway off once a bridge carries the host, as (commands in the host beforehand, more configuration, the gateway).
CUTS = {
    # A firewall for guests' bridges that somebody loaded at boot; nothing is in a bridge as long as there is none.
    "firewall": (
        "nft add table bridge filter; nft add chain bridge filter input '{ type filter hook input priority -200; policy drop; }'",
        "",
        GATEWAY4,
    ),
    # The same, but it has only forgotten neighbour discovery.
    "firewall without ND": (
        "nft add table bridge filter; nft add chain bridge filter input '{ type filter hook input priority -200; }'\n"
        "nft add rule bridge filter input icmpv6 type '{ nd-neighbor-solicit, nd-neighbor-advert }' drop",
        "",
        GATEWAY6,
    ),
    # A spanning tree that nobody needs: the port listens and learns for half a minute before it forwards.
    "spanning tree": ("", "stp = true\nforward_delay = 15\n", GATEWAY4),
}


@pytest.fixture
def uplinks():
    with Uplinks() as running:
        yield running


@pytest.fixture
def host(uplinks) -> LifeLine:
    return uplinks.host(config=XENBR0)


def cut(host: LifeLine, cause: str) -> str:
    """Arrange for a takeover to fail; returns the state before it."""
    script, more, _ = CUTS[cause]
    host.node.config(XENBR0 + more)
    if script:
        host.node.sh(script)
    return host.state()


def reachable(host: LifeLine) -> list[str]:
    node, router = host.node, host.router
    return reach(
        [(node, target) for target in (GATEWAY4, GATEWAY6, WORLD4, WORLD6)]
        + [(router, target) for target in (host.ip4, host.second4, host.ip6)]
    )


# --- what works -----------------------------------------------------------------------------------------------------


def clean(host: LifeLine) -> bool:
    """Whether `check` finds nothing, but for a bridge that was put back: it is declared, and not up."""
    lines = host.vmnet.tried("check").output.splitlines()
    return lines == ["ok"] or all("is declared, and not up" in line for line in lines[1:])


def test_takeover_and_back(host):
    node, router = host.node, host.router
    before = host.state()
    carried, own, usual = host.carries("eth0"), host.sysctls("eth0"), host.sysctls("default")
    deviating = {key: value for key, value in own.items() if usual.get(key) != value}
    assert {"rp_filter", "arp_ignore"} <= {key.rpartition("/")[2] for key in deviating}
    with Transfer(node, router, WORLD4) as tcp4, Transfer(router, node, host.ip6) as tcp6:
        with Pinging(router, host.ip4) as pings4, Pinging(router, host.ip6) as pings6, Pinging(node, WORLD4) as out:
            said = host.vmnet("up").splitlines()
            assert said[0] == "up bridge xenbr0" and {line.split()[1] for line in said[1:]} == {GATEWAY4, GATEWAY6}, said
        for pings in (pings4, pings6, out):
            assert pings.lost < 100, f"{pings.lost} of {pings.target} lost, {pings.gap} in a row"
        tcp4.goes_on()
        tcp6.goes_on()
        # All of it is there, and nothing of it is left where it was.
        assert attribute(node, "xenbr0", "address") == host.mac == attribute(node, "eth0", "address")
        assert ports(node, "xenbr0") == ["eth0"]
        assert attribute(node, "xenbr0", "bridge/stp_state") == attribute(node, "xenbr0", "bridge/forward_delay") == "0"
        assert attribute(node, "eth0", "brport/state") == "3", "eth0 does not forward"
        assert eventually(lambda: host.carries("xenbr0") == carried), differing(carried, host.carries("xenbr0"))
        assert not any(host.carries("eth0").values()), host.carries("eth0")
        moved = host.sysctls("xenbr0")
        assert {key: moved[key] for key in deviating if "disable_ipv6" not in key} == deviating
        assert node.sysctl("ipv6/conf/eth0/disable_ipv6") == "1"
        assert reachable(host) == []
        assert host.vmnet("check") == "ok\n"
        # A second time: nothing to do, and nothing happens.
        up = host.state()
        with Pinging(router, host.ip4) as pings:
            assert host.vmnet("up") == "up: nothing to do\n"
            assert commands(host.vmnet("plan", "up")) == []
            host.vmnet("repair")
        assert pings.lost == 0
        same(up, host.state())
        with Pinging(router, host.ip4) as pings4, Pinging(router, host.ip6) as pings6:
            host.vmnet("down")
        for pings in (pings4, pings6):
            assert pings.lost < 100, f"{pings.lost} of {pings.target} lost, {pings.gap} in a row"
        same(before, host.state())
    assert reachable(host) == []


# What is on eth0 besides, in the words of `ip`.
MORE = {
    # The newest IPv6 address is the first that the kernel offers as a source: the order says who the host is.
    "order of IPv6 addresses": [f"-6 addr add 2001:db8::50{n}/64 dev eth0 nodad" for n in (1, 2, 3)],
    "order of IPv4 addresses": [f"addr add {a} dev eth0" for a in ("192.0.2.241/24", "192.0.2.242/24", "10.99.1.1/24")],
    "route to a link-local address": ["-6 route add fe80::99/128 dev eth0 table 100"],
    "link-local subnet elsewhere": [f"-6 route add fe80::/64 via {GATEWAY6} dev eth0 table 200"],
    "gateway that is link-local": ["-6 route add 2001:db8:79::/48 via fe80::1 dev eth0 metric 5"],
    "deprecated address": ["-6 addr add 2001:db8::dead/64 dev eth0 nodad preferred_lft 0 valid_lft forever"],
    "addresses without routes": [
        "addr add 198.18.90.1/24 dev eth0 noprefixroute",
        "-6 addr add fd90::1/64 dev eth0 nodad noprefixroute",
    ],
    "multicast and local routes": [
        "route add multicast 224.9.0.0/16 dev eth0 table 100",
        "route add local 198.18.92.1 dev eth0",
        "route add broadcast 198.18.92.255 dev eth0 table 100",
    ],
    "routes with attributes": [
        f"route add 198.18.93.0/24 via {GATEWAY4} dev eth0 tos 0x10",
        f"route add 198.18.94.0/24 via {GATEWAY4} dev eth0 realm 7",
        f"route add 198.18.95.0/24 via {GATEWAY4} dev eth0 initcwnd 20 quickack 1",
    ],
    # iproute2 prints it as `rto_min lock 50ms`, and takes no `lock`.
    "route with rto_min": [f"route add 198.18.96.0/24 via {GATEWAY4} dev eth0 rto_min 50ms"],
    "two default routes": [
        "route add default via 192.0.2.2 dev eth0 metric 200",
        "-6 route add default via 2001:db8::2 dev eth0 metric 2000",
    ],
    "proxy neighbours": ["neigh add proxy 192.0.2.99 dev eth0", "-6 neigh add proxy 2001:db8::99 dev eth0"],
}
# The mark of who made an address. Debian 12's `ip` can neither set nor show it.
if "proto ADDRPROTO" in subprocess.run(["ip", "addr", "help"], capture_output=True, text=True).stderr:
    MORE["marked addresses"] = ["addr add 198.18.91.1/24 dev eth0 proto 18", "-6 addr add fd91::1/64 dev eth0 nodad proto 18"]


@pytest.mark.parametrize("what", ["all the others", "route with rto_min", "proxy neighbours"])
def test_carried_along(host, what):
    """What else an interface can have, there and back."""
    alone = ("route with rto_min", "proxy neighbours")
    lines = MORE[what] if what in alone else [line for name, more in MORE.items() if name not in alone for line in more]
    host.node.sh("\n".join(f"ip {words}" for words in lines))
    before, carried = host.state(), host.carries("eth0")
    order = host.node.run("ip -o addr show dev eth0 scope global").stdout
    host.vmnet("up")
    assert eventually(lambda: host.carries("xenbr0") == carried), differing(carried, host.carries("xenbr0"))
    after = host.node.run("ip -o addr show dev xenbr0 scope global").stdout
    assert re.findall(r"inet6? (\S+)", after) == re.findall(r"inet6? (\S+)", order)
    assert reachable(host) == []
    host.vmnet("down")
    same(before, host.state())


def differing(one: dict[str, list[str]], other: dict[str, list[str]]) -> str:
    return "\n".join(changes("\n".join(one[what]), "\n".join(other[what])) for what in one)


def test_sysctls_of_neighbours(host):
    """They are an interface's sysctls like the others."""
    values = {"ipv4/neigh/-/gc_stale_time": "5000", "ipv6/neigh/-/mcast_solicit": "7"}
    for key, value in values.items():
        host.node.sysctl(key.replace("-", "eth0"), value)
    before = host.state()
    host.vmnet("up")
    assert {key: host.sysctls("xenbr0")[key] for key in values} == values
    host.vmnet("down")
    same(before, host.state())


def test_the_command_returns_at_once(host):
    """A gateway that answers needs no window, and the guard holds neither the terminal nor a pipe."""
    began = time.monotonic()
    done = host.node.cli("up")
    assert done.returncode == 0 and time.monotonic() - began < WINDOW - 3, done
    assert eventually(lambda: not host.vmnet.running(), 3), host.vmnet.running()
    host.vmnet("down")


def test_plan_is_what_up_does(host):
    """The printed plan, run by a shell, makes the state that `up` makes."""
    before = host.state()
    script = host.vmnet("plan", "up")
    assert "xenbr0" in script
    same(before, host.state())
    host.vmnet("up")
    host.state()
    up = host.carries("xenbr0")
    host.vmnet("down")
    same(before, host.state())
    host.node.sh(script)
    assert eventually(lambda: host.carries("xenbr0") == up), differing(up, host.carries("xenbr0"))
    assert reachable(host) == []


def test_a_gateway_that_was_silent_before(host):
    """No word from it afterwards proves nothing: the takeover stays."""
    for family, gateway in (("-4", GATEWAY4), ("-6", GATEWAY6)):
        host.router.sh(f"ip {family} addr flush dev eth0")
        host.node.sh(f"ip {family} neigh flush to {gateway}")
    host.vmnet("up")
    assert host.is_taken_over()


def test_one_gateway_dies_meanwhile(host):
    """A real cause: what sees the bridge appear shuts the gateway down, and opens it again when the bridge is gone."""
    before = host.state()
    watch = (
        "ip -o monitor link | while read -r line; do case $line in *Deleted*xenbr0*) echo up;; *xenbr0*) echo down;; esac; done"
    )
    monitor = host.node.popen(["sh", "-c", watch], stdout=-1)
    obey = f"while read -r to; do ip link set eth0 $to; [ $to = down ] || ip -6 addr replace {GATEWAY6}/64 dev eth0 nodad; done"
    host.router.popen(["sh", "-c", obey], stdin=monitor.stdout)
    refusal(host.vmnet.tried("up"), "does not answer any more: everything was put back")
    same(before, host.state())


def test_guests_in_the_bridge_keep_it(host):
    """A tap that was plugged in goes on; `down` gives the host its interface back only when that hurts nobody, or says why."""
    node, router = host.node, host.router
    before = host.state()
    host.vmnet("up")
    with Pinging(router, host.ip4) as pings:
        node.sh("ip tuntap add tap0 mode tap; ip link set tap0 master xenbr0 up")
        host.vmnet("up")
        node.sh("ip link del tap0")
    assert pings.lost < 100
    host.vmnet("down")
    same(before, host.state())


def test_an_edit_while_it_carries_the_host(host):
    """The difference alone: the bridge is not made again."""
    before = host.state()
    host.vmnet("up")
    index = attribute(host.node, "xenbr0", "ifindex")
    host.node.config(XENBR0 + "ageing = 60\ngroup_fwd_mask = 16384\n")
    with Pinging(host.router, host.ip4) as pings:
        host.vmnet("up")
    assert pings.lost == 0 and attribute(host.node, "xenbr0", "ifindex") == index
    assert attribute(host.node, "xenbr0", "bridge/ageing_time") == "6000"
    host.vmnet("down")
    same(before, host.state())


def test_what_came_later_goes_back_too(host):
    """While the bridge carries the host the admin adds an address and a route there, and removes another: `down` does not
    lose what is new, and does not bring back what was removed."""
    node = host.node
    host.vmnet("up")
    node.sh(f"""
        ip addr add 198.18.77.5/24 dev xenbr0; ip -6 addr add fd77::5/64 dev xenbr0 nodad
        ip route add 198.18.78.0/24 via {GATEWAY4} dev xenbr0; ip route del 203.0.113.128/25
        ip addr del 198.18.{host.last}.5/28 dev xenbr0
    """)
    host.vmnet("down")
    carried = host.carries("eth0")
    text = "\n".join(line for lines in carried.values() for line in lines)
    assert "198.18.77.5/24" in text and "fd77::5/64" in text and "198.18.78.0/24" in text, text
    assert f"198.18.{host.last}.5" not in text and "203.0.113.128/25" not in text, text
    assert reachable(host) == []


def test_damage(host):
    """Somebody else undoes a part of it: `check` names it, `repair` mends it, and `down` is still the inverse."""
    before = host.state()
    host.vmnet("up")
    up, carried = host.state(), host.carries("xenbr0")
    for script, word in {
        "ip link set eth0 nomaster": "eth0",
        f"ip addr del {host.second4}/24 dev xenbr0": host.second4,
        "ip route del default table 100": "table 100",
        "ip link del xenbr0": "xenbr0",
    }.items():
        host.node.sh(script)
        assert word in host.vmnet("check", status=1)
        host.vmnet("repair")
        assert host.vmnet("check") == "ok\n"
        if "link del" in script:
            assert eventually(lambda: host.carries("xenbr0") == carried), differing(carried, host.carries("xenbr0"))
        else:
            same(up, host.state())
        assert reachable(host) == []
    host.vmnet("down")
    same(before, host.state())


# --- what does not ---------------------------------------------------------------------------------------------------


def test_gateway_cut_off(uplinks):
    """Three hosts, three causes: each says what it lost, and has everything back within the window."""
    hosts = {cause: uplinks.host(10 + number) for number, cause in enumerate(CUTS)}
    befores = {cause: cut(host, cause) for cause, host in hosts.items()}
    first = hosts["firewall"]
    with Transfer(first.node, first.router, WORLD4) as tcp, Pinging(first.router, first.ip4, back_within=SLOW):
        began = time.monotonic()
        running = {cause: Command(host.node, "up") for cause, host in hosts.items()}
        for cause, command in running.items():
            line = command.wait(1)
            refusal(Result(1, line), "gateway", CUTS[cause][2], "does not answer any more: everything was put back")
        assert time.monotonic() - began < WINDOW + SLOW
        for cause, host in hosts.items():
            same(befores[cause], host.state())
        tcp.goes_on(40)
    for host in hosts.values():
        assert reachable(host) == []
        assert clean(host)
        assert "not up" in host.vmnet("status")


def test_killed_while_the_gateway_is_cut_off(uplinks):
    """Six hosts, the command of each killed at another moment: the guard puts everything back, or nothing had happened."""
    hosts = [uplinks.host(10 + number) for number in range(6)]
    befores = [cut(host, "firewall") for host in hosts]
    timed = Command(hosts[0].node, "up")
    assert eventually(lambda: host_is_switched(hosts[0]) or not timed.running, 30, 0.01)
    switch = time.monotonic() - timed.began
    assert timed.running, timed.text
    # Before, while, and after it switches.
    delays = [switch * part for part in (0.5, 0.75, 0.9, 1.0, 1.1)]
    commands_ = []
    timed.kill()
    for host, delay in zip(hosts[1:], delays, strict=True):
        command = Command(host.node, "up")
        command.kill(delay)
        commands_.append(command)
    deadline = time.monotonic() + WINDOW + SLOW
    for host, before in zip(hosts, befores, strict=True):
        assert host.back(before, deadline - time.monotonic()), f"{host.node}:\n{changes(before, host.state())}"
        assert clean(host)
        assert reachable(host) == []


def host_is_switched(host: LifeLine) -> bool:
    return exists(host.node, "eth0/brport")


def test_killed_while_all_is_well(uplinks):
    """Nothing is cut off: whatever the moment, all of it or nothing of it stays, and the host is never lost."""
    hosts = [uplinks.host(10 + number, XENBR0) for number in range(6)]
    before = [host.state() for host in hosts]
    timed = Command(hosts[0].node, "up")
    assert eventually(lambda: host_is_switched(hosts[0]) or not timed.running, 30, 0.01)
    switch = time.monotonic() - timed.began
    timed.wait()
    for host, part in zip(hosts[1:], (0.6, 0.8, 0.95, 1.0, 1.05), strict=True):
        Command(host.node, "up").kill(switch * part)
    deadline = time.monotonic() + WINDOW + SLOW
    for host, was in zip(hosts[1:], before[1:], strict=True):

        def is_clean(host=host, was=was) -> bool:
            if host_is_switched(host):
                return host.vmnet.tried("check").output == "ok\n" and not host.vmnet.running()
            return host.state() == was and not host.vmnet.running()

        assert eventually(is_clean, max(1, deadline - time.monotonic()), 0.3), f"{host.node}:\n{changes(was, host.state())}"
        assert reachable(host) == []
        host.vmnet("up")
        assert host.is_taken_over() and host.vmnet("check") == "ok\n"
        host.vmnet("down")
        same(was, host.state())


def test_signals(uplinks):
    """The session dies with the connection, which the takeover may just have cut: the guard works on."""
    signals = {"hangup": signal.SIGHUP, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "zombie": signal.SIGKILL}
    hosts = {how: uplinks.host(10 + number) for number, how in enumerate(("terminal closed", *signals))}
    befores = {how: cut(host, "firewall") for how, host in hosts.items()}
    zombies = []
    for how, host in hosts.items():
        if how == "terminal closed":
            ours, theirs = pty.openpty()
            # `setsid --ctty` makes the terminal the controlling one, so that closing it hangs its session up.
            prefix = ("setsid", "--ctty")
            command = Command(host.node, "up", prefix=prefix, stdin=theirs, stdout=theirs, stderr=theirs)
            os.close(theirs)
        else:
            command = Command(host.node, "up")
        assert eventually(lambda host=host, command=command: host_is_switched(host) or not command.running, 30, 0.01)
        assert command.running, command.text
        if how == "terminal closed":
            os.close(ours)
        else:
            os.killpg(command.process.pid, signals[how])
        if how == "zombie":
            zombies.append(command)  # its parent does not wait for it, but it is as dead as any
        else:
            command.wait(None)
    deadline = time.monotonic() + WINDOW + SLOW
    for how, host in hosts.items():
        assert host.back(befores[how], deadline - time.monotonic()), f"{how}:\n{changes(befores[how], host.state())}"
        assert reachable(host) == []
        assert clean(host)
    for command in zombies:
        command.wait(None)


# --- confirmation ----------------------------------------------------------------------------------------------------


def test_not_confirmed(host):
    before = host.state()
    command = Command(host.node, "up", "--confirm-within", "5")
    assert eventually(host.is_taken_over, 20, 0.05)
    switched = time.monotonic()
    assert reachable(host) == []
    assert host.back(before, 5 + SLOW), changes(before, host.state())
    assert time.monotonic() - switched > 3.5, "put back before the time was over"
    assert "vmnet-hook confirm" in command.wait(None)
    assert reachable(host) == []
    assert clean(host)
    refusal(host.vmnet.tried("confirm"), "confirm")


def test_not_confirmed_and_killed(host):
    before = host.state()
    command = Command(host.node, "up", "--confirm-within", "4")
    assert eventually(host.is_taken_over, 20, 0.05)
    command.kill()
    assert host.back(before, 4 + SLOW), changes(before, host.state())
    assert reachable(host) == []


def test_confirmed(host):
    before = host.state()
    command = Command(host.node, "up", "--confirm-within", "30")
    assert eventually(host.is_taken_over, 20, 0.05)
    assert eventually(lambda: host.vmnet.tried("confirm").returncode == 0, 10, 0.2)
    command.wait(0, timeout=10)
    assert host.is_taken_over() and host.vmnet("check") == "ok\n"
    assert eventually(lambda: not host.vmnet.running(), 3), host.vmnet.running()
    refusal(host.vmnet.tried("confirm"), "confirm")
    host.vmnet("down")
    same(before, host.state())


def test_confirmed_although_killed(host):
    """The command died in the middle. `confirm` keeps what there is to keep, all of it, or says that there is nothing."""
    before = host.state()
    command = Command(host.node, "up", "--confirm-within", "8")
    assert eventually(host.is_taken_over, 20, 0.02)
    command.kill()
    confirmed = host.vmnet.tried("confirm")
    assert eventually(lambda: not host.vmnet.running(), 10), host.vmnet.running()
    assert clean(host)
    if confirmed.returncode == 0:
        assert host.is_taken_over()
    else:
        refusal(confirmed)
        same(before, host.state())
    assert reachable(host) == []


def test_confirmed_by_another_session(host):
    """The admin's connection broke off; he logs in again and confirms: it stays."""
    before = host.state()
    Command(host.node, "up", "--confirm-within", "5").wait(0)
    host.vmnet("confirm")
    assert eventually(lambda: not host.vmnet.running(), 8), host.vmnet.running()
    assert host.is_taken_over() and host.vmnet("check") == "ok\n"
    host.vmnet("down")
    same(before, host.state())


def test_not_confirmed_and_the_guard_is_killed(host):
    """Out of memory, or an upgrade that replaces its files: the agent puts back what no guard watches over."""
    before = host.state()
    Command(host.node, "up", "--confirm-within", "3").wait(0)
    assert eventually(host.is_taken_over, 20, 0.05)
    for pid in [pid for pid in host.node.processes() if "vmnet_hooks" in host.node.command(pid)]:
        os.kill(pid, signal.SIGKILL)
    with Agent(host.node) as agent:
        assert host.back(before, 3 + WINDOW + SLOW), changes(before, host.state())
        assert "a takeover was not confirmed: everything was put back" in agent.log
    assert reachable(host) == [] and clean(host)


# --- refusals ---------------------------------------------------------------------------------------------------------

# A DHCP client as ISC's: its name, its arguments, a packet socket on the interface and port 68.
DHCLIENT = """
import signal, socket, sys
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
packet.bind((sys.argv[-1], 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
udp.bind(("0.0.0.0", 68))
print("ready", flush=True)
signal.pause()
"""


def dhclient(node, ifname: str) -> None:
    """Named dhclient for `ps` and for the kernel, as its own copy of the interpreter."""
    node.sh("mkdir -p /run/sbin; cp -L /usr/bin/python3 /run/sbin/dhclient")
    node.write("/run/sbin/client", DHCLIENT)
    argv = ["/run/sbin/dhclient", "-IS", "/run/sbin/client", "-4", "-pf", f"/run/dhclient.{ifname}.pid", ifname]
    process = node.popen(argv, stdout=-1)
    assert process.stdout.readline() == "ready\n"
    node.write(f"/run/dhclient.{ifname}.pid", f"{process.pid}\n")


def leased(host: LifeLine) -> None:
    """A real client and a real server: udhcpc holds a lease on eth0."""
    host.router.write(
        "/run/udhcpd.conf",
        "start 192.0.2.200\nend 192.0.2.209\ninterface eth0\nlease_file /run/leases\noption subnet 255.255.255.0\n",
    )
    host.router.write("/run/leases", "")
    host.router.popen(["busybox", "udhcpd", "-f", "/run/udhcpd.conf"], stdout=-3, stderr=-3)
    script = (
        '#!/bin/sh\n[ "$1" = bound ] && ip addr add "$ip/24" dev "$interface" valid_lft "$lease" preferred_lft "$lease"\nexit 0\n'
    )
    host.node.write("/run/udhcpc.script", script)
    host.node.sh("chmod 755 /run/udhcpc.script")
    host.node.popen(["busybox", "udhcpc", "-f", "-i", "eth0", "-s", "/run/udhcpc.script"], stdout=-3, stderr=-3)
    assert eventually(lambda: "192.0.2.20" in host.node.run("ip addr show dev eth0").stdout, 20)


def managed_by_networkd(host: LifeLine, state: str = "configured") -> None:
    index = attribute(host.node, "eth0", "ifindex")
    text = f"# This is private data. Do not parse.\nADMIN_STATE={state}\nOPER_STATE=routable\n"
    host.node.write(f"/run/systemd/netif/links/{index}", text)


def managed_by_network_manager(host: LifeLine, managed: str = "true") -> None:
    index = attribute(host.node, "eth0", "ifindex")
    host.node.write(f"/run/NetworkManager/devices/{index}", f"[device]\nmanaged={managed}\nconnection-uuid=5f8fd5e4\n")


REFUSED = {
    "dhclient": (lambda host: dhclient(host.node, "eth0"), ["eth0", "DHCP"]),
    "udhcpc": (leased, ["eth0", "DHCP"]),
    "networkd": (managed_by_networkd, ["eth0", "networkd"]),
    "NetworkManager": (managed_by_network_manager, ["eth0", "NetworkManager"]),
    "rule iif": (lambda host: host.node.sh("ip rule add iif eth0 lookup 100 pref 900"), ["eth0", "rule"]),
    "rule oif": (lambda host: host.node.sh("ip rule add oif eth0 lookup 100 pref 900"), ["eth0", "rule"]),
    "rule iif, IPv6": (lambda host: host.node.sh("ip -6 rule add iif eth0 lookup 100 pref 900"), ["eth0", "rule"]),
    "multipath route": (
        lambda host: host.node.sh(f"ip route add 198.18.99.0/24 nexthop via {GATEWAY4} dev eth0 nexthop via 192.0.2.2 dev eth0"),
        None,
    ),
    "foreign bridge": (lambda host: host.node.sh("ip link add xenbr0 type bridge"), ["xenbr0"]),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused(host, why):
    """A clear reason, and nothing touched."""
    arrange, words = REFUSED[why]
    arrange(host)
    before = host.state()
    with Pinging(host.router, host.ip6) as pings:
        done = host.vmnet.tried("up")
    if words is None and done.returncode == 0:
        # Not refused: then it was carried along.
        assert host.is_taken_over() and "dev eth0" not in host.node.run("ip route show 198.18.99.0/24").stdout
        host.vmnet("down")
    else:
        refusal(done, *(words or ["eth0", "198.18.99.0/24"]))
        assert pings.lost == 0
    same(before, host.state())


NOT_REFUSED = {
    "dhclient elsewhere": lambda host: dhclient(host.node, "eth9"),
    "dhclient in another namespace": lambda host: dhclient(host.router, "eth0"),
    "networkd leaves it alone": lambda host: managed_by_networkd(host, "unmanaged"),
    "NetworkManager leaves it alone": lambda host: managed_by_network_manager(host, "false"),
    "rule for another interface": lambda host: host.node.sh("ip rule add iif eth9 lookup 100 pref 900"),
}


def test_not_refused(uplinks):
    """What only looks like a reason is none."""
    for number, arrange in enumerate(NOT_REFUSED.values()):
        host = uplinks.host(10 + number, XENBR0)
        arrange(host)
        before = host.state()
        host.vmnet("up")
        assert host.is_taken_over()
        host.vmnet("down")
        same(before, host.state())


def test_port_of_a_foreign_bridge(host):
    host.node.sh("ip link add br9 type bridge; ip link set eth0 master br9")
    before = host.state()
    refusal(host.vmnet.tried("up"), "eth0", "br9")
    same(before, host.state())


def test_addresses_without_adopt(host):
    """A port with addresses is no accident to repeat: it says what to write."""
    host.node.config(re.sub("adopt.*", "", XENBR0))
    before = host.state()
    refusal(host.vmnet.tried("up"), "eth0", "adopt")
    same(before, host.state())


def test_router_advertisements(host):
    """The host lives on an autoconfigured address and a default route that a router advertises: both work at once on the
    bridge, and at once again on the interface."""
    node, router = host.node, host.router
    node.sh("ip -6 route del default dev eth0; echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
    link_local = re.search(r"inet6 (fe80::\S+)/", router.run("ip -6 addr show dev eth0").stdout)[1]
    advertisement = router_advertisement("02:00:00:00:00:01", link_local, "2001:db8:0:0::")
    send(router, "eth0", advertisement)
    own = "2001:db8::ff:fe00:a"
    assert eventually(lambda: own in node.run("ip -6 addr show dev eth0 -tentative").stdout)
    assert ping(node, WORLD6) is not None and ping(router, own) is not None
    with Pinging(router, own) as pings:
        host.vmnet("up")
    assert pings.lost < 100
    assert eventually(lambda: ping(node, WORLD6, 1) is not None, 3)
    assert node.sysctl("ipv6/conf/xenbr0/accept_ra") != "0"
    send(router, "eth0", advertisement)
    with Pinging(router, own) as pings:
        host.vmnet("down")
    assert pings.lost < 100
    assert eventually(lambda: ping(node, WORLD6, 1) is not None, 3)


def test_a_route_that_the_kernel_refuses_is_named(host):
    """A default route whose gateway is in no subnet any more stays where it is, and can't be moved."""
    host.node.sh(
        "ip -6 addr flush dev eth0 scope global; ip -6 route flush dev eth0 table 100\n"
        "for net in 2001:db8:77::/48 2001:db8:78::/48; do ip -6 route flush $net; done"
    )
    before = host.state()
    refusal(host.vmnet.tried("up"), f"ip route replace ::/0 via {GATEWAY6} dev xenbr0", "No route to host")
    same(before, host.state())
    host.node.sh("ip -6 route del default dev eth0")
    host.vmnet("up")
    assert host.is_taken_over() and host.vmnet("check") == "ok\n"
