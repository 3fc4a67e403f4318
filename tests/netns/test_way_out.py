"""Edits of a bridge that carries the host: with packets, and with the agent that heals beside them."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

import pytest
from lab.agent import Agent
from lab.domains import Interface
from lab.guest import Nic, wired
from lab.hostnet import Pinging, Uplinks, attribute, exists, ports
from lab.nodes import Node, dump
from lab.routed import GATEWAY4, GATEWAY6, WORLD4, call, eventually, ping, reach
from lab.single import same

OWN4, OWN6 = "192.0.2.13/24", "2001:db8::13/64"
ADOPT = '[bridges.br0]\nports = ["eth0"]\nadopt = "eth0"\n'
DROPPED = '[bridges.br0]\nports = ["eth0"]\n'
ADDRESSES = f'{DROPPED}addresses = ["{OWN4}", "{OWN6}"]\n'
DECLARED = f'{ADDRESSES}gateway = ["{GATEWAY4}", "{GATEWAY6}"]\n'


class Plain:
    """A host as a hoster delivers it: one address and one default route of each family on eth0."""

    def __init__(self, uplinks: Uplinks, stack: ExitStack) -> None:
        self.router, self.switch, self.stack = uplinks.router, uplinks.switch, stack
        self.node = node = stack.enter_context(Node("host"))
        uplinks.switch.plug(node, "eth0", "02:00:00:00:00:13")
        node.sh(f"""
            echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra; echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
            ip link set eth0 up; ip addr add {OWN4} brd + dev eth0; ip -6 addr add {OWN6} dev eth0 nodad
            ip route add default via {GATEWAY4}; ip -6 route add default via {GATEWAY6}
        """)
        node.config(ADOPT)
        assert eventually(lambda: not self.unreached())

    def unreached(self) -> list[str]:
        return reach([(self.node, GATEWAY4), (self.node, GATEWAY6), (self.router, "192.0.2.13"), (self.router, "2001:db8::13")])

    def up(self, config: str = "", *words: str, status: int = 0) -> str:
        if config:
            self.node.config(config)
        done = self.node.cli("up", *words)
        assert done.returncode == status, done
        return done.stdout + done.stderr


@pytest.fixture
def host():
    with Uplinks() as uplinks, ExitStack() as stack:
        yield Plain(uplinks, stack)


@pytest.fixture(params=[False, True], ids=["alone", "agent"])
def healed(request, host):
    """The host, without and with the agent."""
    if request.param:
        host.stack.enter_context(Agent(host.node))
    return host


@pytest.mark.parametrize("how", [(), ("--confirm-within", "3")], ids=["up", "confirm-within"])
def test_adopt_dropped(healed, how):
    """The most natural edit of a newcomer: it is refused, and both remedies that the message names work."""
    fresh = dump(healed.node)
    assert f"gateway {GATEWAY4} answers (" in healed.up()
    with Pinging(healed.router, "192.0.2.13") as pings:
        line = healed.up(DROPPED, *how, status=2)
        assert "br0 took over 192.0.2.13/24" in line and 'keep adopt = "eth0" there' in line
        time.sleep(4 if how else 1.5)
    assert pings.lost == 0 and healed.unreached() == []
    assert healed.up(ADOPT) == "up: nothing to do\n" and healed.node.cli("check").stdout == "ok\n"
    healed.up("[bridges.br0]\nports = []\n")
    time.sleep(1.5)
    assert healed.unreached() == [] and ports(healed.node, "br0") == []
    healed.node.cli("down")
    same(fresh, dump(healed.node))


def test_what_was_taken_over_is_declared(healed):
    """adopt gives way to the same addresses and gateways: nothing moves, not even one packet is lost."""
    healed.up()
    with Pinging(healed.router, "192.0.2.13") as pings4, Pinging(healed.router, "2001:db8::13") as pings6:
        assert "up bridge br0" in healed.up(DECLARED)
        time.sleep(2.5)
    assert pings4.lost == pings6.lost == 0
    assert healed.unreached() == [] and healed.node.cli("check").stdout == "ok\n"
    # It is the bridge's own from now on: edits are edits of the bridge.
    healed.up(DECLARED.replace("192.0.2.13", "192.0.2.14"))
    assert ping(healed.router, "192.0.2.14") and not ping(healed.router, "192.0.2.13", wait=1)
    assert healed.node.cli("down", "--force").returncode == 0 and attribute(healed.node, "eth0", "operstate") == "up"
    assert healed.node.sysctl("ipv6/conf/eth0/disable_ipv6") == "0"


def test_a_default_route_dropped(healed):
    healed.up()
    healed.up(DECLARED)
    line = healed.up(ADDRESSES, status=1)
    assert f"there is no IPv4 default route any more ({GATEWAY4} answered; if that is meant, run" in line
    time.sleep(1.5)
    assert healed.unreached() == [] and "default via" in healed.node.run("ip route").stdout
    # A gateway that does not exist is no better.
    line = healed.up(DECLARED.replace(f'"{GATEWAY4}"', '"192.0.2.99"'), status=1)
    assert "gateway 192.0.2.99 does not answer: everything was put back" in line and healed.unreached() == []


def test_an_address_and_a_gateway_change_places(host):
    """An edit that names the gateway's address as the host's own: what was there comes back."""
    host.up()
    host.up(DECLARED)
    line = host.up(f'{DROPPED}addresses = ["{GATEWAY4}/24", "{OWN6}"]\ngateway = "{GATEWAY6}"\n', status=1)
    assert f"{GATEWAY4} is in use: another machine answers for it on br0: everything was put back" in line
    assert host.unreached() == [] and host.node.cli("confirm").returncode == 2
    # The host that was the gateway gets one, of the same address.
    assert host.node.cli("down", "--force").returncode == 0
    host.up(f'{DROPPED}addresses = ["192.0.2.254/24"]\n')
    host.router.sh("ip addr add 192.0.2.254/24 dev eth0")
    host.up(f'{DROPPED}addresses = ["{OWN4}"]\ngateway = "192.0.2.254"\n')
    assert ping(host.node, WORLD4)


def test_an_address_of_another_machine(host):
    """A declaration that was copied from another host: the gateway answers to it, and its answers go to the other host."""
    host.up()
    host.up(DECLARED)
    host.router.sh("ip addr add 192.0.2.14/24 dev eth0; ip -6 addr add 2001:db8::14/64 dev eth0 nodad")
    for own, other in ((OWN4, "192.0.2.14"), (OWN6, "2001:db8::14")):
        line = host.up(DECLARED.replace(own.partition("/")[0], other), status=1)
        assert f"{other} is in use: another machine answers for it on br0: everything was put back" in line
        assert host.unreached() == []


def test_down_does_not_lose_the_host(healed):
    healed.up()
    assert healed.node.cli("down").returncode == 0 and healed.unreached() == [], "it is eth0's again"
    healed.up()
    healed.up(DECLARED)
    for names in ((), ("br0",)):
        done = healed.node.cli("down", *names)
        assert done.returncode == 1 and "if that is meant, run `vmnet-hook down --force`): everything was put back" in done.stderr
        time.sleep(1)
        assert healed.unreached() == [] and healed.node.cli("check").stdout == "ok\n"
    # The remedy. What the admin took down is as it shall be.
    assert healed.node.cli("down", "--force").returncode == 0 and len(healed.unreached()) == 4
    assert healed.node.cli("check").stdout == "ok\n"
    assert re.search(r"bridge:br0 .* down\n", healed.node.cli("status").stdout)
    healed.up()
    assert eventually(lambda: healed.unreached() == [])


def test_down_does_not_lose_the_host_later(host):
    """The way out does not go with the last guest that keeps it."""
    host.up()
    host.up(DECLARED + '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n')
    nic = Interface("52:54:00:00:00:05", "tap5", "lan")
    host.stack.enter_context(wired(host.node, nic.tap, "web", Nic(nic.mac, "192.0.2.50")))
    call(host.node, "web", "start", nic)
    done = host.node.cli("down")
    assert done.returncode == 0 and "bridge br0 stays: web (tap5) needs it" in done.stderr
    call(host.node, "web", "stopped", nic)
    assert host.unreached() == [] and host.node.cli("check").stdout == "ok\n"
    assert "if that is meant, run `vmnet-hook down --force`" in host.node.cli("down").stderr
    assert host.node.cli("down", "--force").returncode == 0 and not exists(host.node, "br0")


def test_down_where_no_gateway_answered_before(host):
    """Whether there is a default route is seen without an answer."""
    host.up()
    host.up(DECLARED)
    host.router.sh("ip link set eth0 down")
    done = host.node.cli("down")
    assert (
        done.returncode == 1 and "there is no IPv4 default route any more (if that is meant, run `vmnet-hook down" in done.stderr
    )
    assert "default via" in host.node.run("ip route").stdout and exists(host.node, "br0")
    host.router.sh("ip link set eth0 up")
    assert eventually(lambda: ping(host.node, GATEWAY4) is not None)


def test_a_new_address_that_another_nic_of_the_host_answers_for(host):
    """With arp_ignore 0, each NIC of a host on one segment answers for all of its addresses: that is no other machine."""
    host.switch.plug(host.node, "eth1", "02:00:00:00:00:14")
    host.node.sh("ip link set eth1 up")
    host.up()
    host.up(DECLARED)
    host.up(DECLARED.replace(f'"{OWN4}"', f'"{OWN4}", "192.0.2.77/24"'))
    assert eventually(lambda: ping(host.router, "192.0.2.77") is not None) and host.unreached() == []


def test_a_gateway_that_is_silent_before(host):
    """Then nothing can be learned from its silence afterwards. That is said."""
    host.router.sh("ip link set eth0 down")
    assert f"gateway {GATEWAY4} did not answer before; whether the host reaches it now was not asked\n" in host.up()


def test_a_port_joins_the_way_out(host):
    """It may close a loop: the gateway is asked."""
    host.node.sh("ip link add eth7 type veth peer name x7; ip link set eth7 up")
    host.up()
    assert f"gateway {GATEWAY4} answers (" in host.up(ADOPT.replace('["eth0"]', '["eth0", "eth7"]'))


def test_unconfirmed(healed):
    """An edit that waits to be confirmed is put back by `revert`, and nobody heals meanwhile what the admin tries."""
    healed.node.sh("ip link add eth7 type veth peer name x7; ip link set eth7 up")
    healed.up()
    before = dump(healed.node)
    more = ADOPT.replace('["eth0"]', '["eth0", "eth7"]')
    assert "`vmnet-hook revert`: at once" in healed.up(more, "--confirm-within", "60")
    healed.node.sh("ip link set eth7 nomaster")
    time.sleep(2.5)
    assert ports(healed.node, "br0") == ["eth0"] and healed.unreached() == []
    waits = healed.up(status=1)
    assert "vmnet-hook confirm" in waits and "vmnet-hook revert" in waits
    assert healed.node.cli("revert").stdout == "put back\n"
    assert "nothing waits to be confirmed" in healed.node.cli("revert").stderr
    same(before, dump(healed.node))
    assert healed.unreached() == []


def test_an_address_that_comes_too_late(host):
    """A host whose installer wrote allow-hotplug: the address comes when br0 is up already, or while `up` waits for it."""
    host.node.sh("ip addr flush dev eth0; ip -6 route del default; ip -6 addr add fe80::13/64 dev eth0 nodad")
    assert "eth0 has no address yet; configure it (ifup eth0), or remove adopt" in host.up("", "--wait", "1", status=1)
    assert not exists(host.node, "br0")
    came = host.node.popen(["sh", "-c", f"sleep 2; ip addr add {OWN4} brd + dev eth0; ip route add default via {GATEWAY4}"])
    assert f"gateway {GATEWAY4} answers" in host.up("", "--wait", "20")
    came.wait()
    host.node.sh("ip addr add 192.0.2.50/24 dev eth0")
    host.up()
    assert ping(host.router, "192.0.2.50") and host.node.cli("check").stdout == "ok\n"
    assert "192.0.2.50" not in host.node.run("ip addr show dev eth0").stdout


def test_the_agent_tells_of_an_address_on_a_port(host):
    host.node.sh("ip link add eth7 type veth peer name x7; ip link add br7 type bridge; ip link set eth7 master br7")
    with Agent(host.node) as agent:
        host.up()
        host.node.sh("ip addr add 192.0.2.50/24 dev eth0; ip addr add 10.9.9.9/24 dev eth7")
        line = "eth0 got address 192.0.2.50/24, which a port can't keep; `vmnet-hook up` moves it"
        assert eventually(lambda: line in agent.log), agent.log
        host.up()
        assert ping(host.router, "192.0.2.50") and host.node.cli("check").stdout == "ok\n"
        assert "eth7 got address" not in agent.log, "that is another program's bridge"
    host.node.sh("ip link set eth7 nomaster; ip addr flush dev eth7")
    host.up(ADOPT + '[bridges.br8]\nports = ["eth7"]\n')
    with Agent(host.node) as agent:
        # Answered by an agent that watches.
        assert "agent: runs since" in host.node.cli("status").stderr
        host.node.sh("ip addr add 10.9.9.9/24 dev eth7")
        assert eventually(lambda: "remove it: ip addr del 10.9.9.9/24 dev eth7" in agent.log), agent.log


def test_an_alternative_name(host):
    before = dump(host.node)
    host.node.sh("ip link property add dev eth0 altname eno1")
    line = host.up(ADOPT.replace("eth0", "eno1"), status=2)
    assert "bridges.br0.ports: eno1 is an alternative name of eth0; write eth0" in line and host.unreached() == []
    host.node.sh("ip link property del dev eth0 altname eno1")
    same(before, dump(host.node))
    host.up(ADOPT)
    assert host.unreached() == []


def test_a_nic_is_missing(host):
    """At boot, a dead NIC must not keep the host from its way out."""
    config = ADOPT + '[bridges.br9]\nports = ["usb0"]\n[vlans."br9.5"]\nparent = "br9"\nid = 5\n'
    output = host.up(config, "--wait", "1", status=1)
    assert "up bridge br0" in output and "bridges.br9.ports: usb0 does not exist" in output
    assert 'vlans."br9.5": stands on bridge br9, which is not up' in output
    assert host.unreached() == [] and exists(host.node, "br0") and not exists(host.node, "br9")


def test_a_mistake_elsewhere_at_boot(host):
    """By hand it is refused. At boot the host must be reached, and nothing that is up goes down for it."""
    broken = ADOPT + "[bridges.br9]\nportz = []\n"
    assert "unknown key 'portz'" in host.up(broken, status=2) and not exists(host.node, "br0")
    output = host.up(broken, "--wait", "1", status=2)
    assert "up bridge br0" in output and "unknown key 'portz'" in output and host.unreached() == []
    output = host.up(ADOPT.replace("ports", "portz"), "--wait", "1", status=2)
    assert "unknown key 'portz'" in output and exists(host.node, "br0") and host.unreached() == []


OBSTACLES = {
    "a nexthop object": (
        "ip nexthop add id 5 via 192.0.2.1 dev eth0; ip route add 10.2.0.0/16 nhid 5",
        "the route to 10.2.0.0/16 is by nexthop object 5, which would not follow; ",
    ),
    "an IPv6 nexthop object": (
        "ip -6 nexthop add id 6 via 2001:db8::1 dev eth0; ip -6 route add 2001:db8:2::/48 nhid 6",
        "the route to 2001:db8:2::/48 is by nexthop object 6, which would not follow; ",
    ),
    "a macvlan": (
        "ip link add mv0 link eth0 type macvlan mode bridge; ip link set mv0 up",
        "macvlan mv0 is on it, and a port of a bridge can have none; ",
    ),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_what_would_not_follow(host, case):
    """Refused with nothing touched; the remedy works."""
    script, says = OBSTACLES[case]
    host.node.sh(script)
    before = dump(host.node)
    line = host.up(status=1)
    assert f"br0 can't take over eth0: {says}" in line and len(line.splitlines()) == 1
    same(before, dump(host.node))
    host.node.run(line.rpartition(": ")[2].split())
    host.up()
    assert host.unreached() == [] and host.node.cli("check").stdout == "ok\n"


def test_what_stays_is_said(host):
    host.node.config('[bridges.br1]\n[networks.lan]\nmode = "bridged"\nbridge = "br1"\n')
    host.node.cli("up")
    host.node.sh("ip tuntap add tap3 mode tap")
    host.node.domain_toml("web3", '[[interfaces]]\nmac = "52:54:00:aa:00:03"\nifname = "tap3"\nnetwork = "lan"\n')
    assert host.node.ifup("tap3").returncode == 0
    done = host.node.cli("down")
    assert done.stderr == "bridge br1 stays: web3 (tap3) needs it\n" and exists(host.node, "br1")
