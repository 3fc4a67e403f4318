"""The forwarding database of a bridge: where a filtered guest's MAC is stays so, whatever others send from it.

guest  eth0 == lan-tap16 -- br0 -- lan0 == lan0 peer
guest2 eth0 == lan-tap17 --/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab.agent import Agent
from lab.domains import Interface
from lab.frames import rarp, udp4
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.offload import Listener
from lab.routed import call, eventually, send
from lab.single import LAN, Single

MAC, OTHER, PEER, OWN4 = "52:54:00:bb:00:10", "52:54:00:bb:00:11", "02:00:00:00:06:01", "10.7.0.16"
TAP, TAP2 = "lan-tap16", "lan-tap17"
NIC = Interface(MAC, TAP, "lan", [OWN4], "br0")
UNFILTERED = Interface(OTHER, TAP2, "lan", [], "br0")
STOLEN = udp4("02:00:00:00:77:77", MAC, OWN4, "10.7.0.99", 7777)
"""What another sends from the guest's MAC: to a MAC that is not there, so that every port gets it."""


def to_the_guest(port: int) -> bytes:
    return udp4(MAC, PEER, "10.7.0.99", OWN4, port)


@contextmanager
def guests(config: str = LAN, nic: Interface = NIC) -> Iterator[tuple[Single, Node, Node]]:
    with Single(config, foreign=False) as one, wired(one.host, TAP, "guest", Nic(MAC)) as guest:
        with wired(one.host, TAP2, "guest2", Nic(OTHER)) as other:
            one.start("dom1", nic)
            one.start("dom2", UNFILTERED)
            yield one, guest, other
            one.stop("dom2", UNFILTERED)
            one.stop("dom1", nic)


@pytest.fixture(scope="module")
def bridged():
    with guests() as found:
        yield found


def entries(one: Single, mac: str = MAC) -> list[str]:
    return sorted(line.strip() for line in one.host.sh("bridge fdb show br br0").splitlines() if line.startswith(mac))


def learning(one: Single, tap: str = TAP) -> bool:
    return " learning on " in one.host.sh(f"bridge -d link show dev {tap}")


def is_pinned(one: Single) -> bool:
    return not learning(one) and f"{MAC} dev {TAP} sticky master br0 static" in entries(one)


def who_gets(one: Single, guest: Node, other: Node, thief: tuple[Node, str]) -> list[str]:
    """Who gets what the peer sends to the guest, once the thief has sent from the guest's MAC."""
    send(guest, "eth0", udp4(PEER, MAC, OWN4, "10.7.0.99", 7))
    with Listener(guest, "eth0") as own, Listener(other, "eth0") as others:
        send(*thief, STOLEN)
        assert own.has(STOLEN) or others.has(STOLEN)
        send(one.peer, "lan0", to_the_guest(9))
        return [name for name, at in (("guest", own), ("other", others)) if at.has(to_the_guest(9), 0.3)]


@pytest.mark.parametrize("where", ["a guest's port", "the LAN"])
def test_nobody_takes_a_mac_over(bridged, where):
    one, guest, other = bridged
    assert is_pinned(one)
    thief = (other, "eth0") if where == "a guest's port" else (one.peer, "lan0")
    assert who_gets(one, guest, other, thief) == ["guest"]
    assert is_pinned(one) and one.host.cli("check").returncode == 0


def test_a_port_learns_nothing_from_a_filtered_guest(bridged):
    one, guest, _ = bridged
    mine = udp4(PEER, MAC, OWN4, "10.7.0.99", 7779)
    with Listener(one.peer, "lan0") as listener:
        send(guest, "eth0", udp4(PEER, "52:54:00:00:99:99", OWN4, "10.7.0.99", 9), mine)
        assert listener.has(mine)
    assert entries(one, "52:54:00:00:99:99") == []


def test_without_it_a_mac_is_taken_over():
    """As a bridge has it: of a guest that has no filter, until the guest's own kernel sends again."""
    with guests(LAN + "antispoof = false\n") as (one, guest, other):
        assert learning(one)
        assert eventually(lambda: who_gets(one, guest, other, (other, "eth0")) == ["other"])


def test_a_switch_goes_on_learning():
    """Behind it are MACs of others."""
    with guests(LAN + 'roles = ["switch"]\n') as (one, guest, _):
        send(guest, "eth0", udp4(PEER, MAC, OWN4, "10.7.0.99", 7))
        assert learning(one) and eventually(lambda: f"{MAC} dev {TAP} master br0" in entries(one))


@pytest.mark.parametrize(
    "damage",
    [
        f"bridge fdb del {MAC} dev {TAP} master",
        f"bridge fdb replace {MAC} dev {TAP} master static",
        f"bridge link set dev {TAP} learning on",
        "bridge fdb flush dev br0",
        f"ip link set {TAP} nomaster",
    ],
)
def test_damage(bridged, damage):
    one, _, _ = bridged
    one.host.run(damage)
    assert one.host.cli("check").returncode == 1 and not is_pinned(one)
    assert one.host.cli("repair").returncode == 0
    assert is_pinned(one) and one.host.cli("check").returncode == 0
    with Agent(one.host):
        one.host.run(damage)
        assert eventually(lambda: is_pinned(one), 5)
        assert eventually(lambda: one.host.cli("check").returncode == 0, 5)


BEFORE = {
    "nothing": "",
    "libvirt's (macTableManager)": f"bridge fdb add {MAC} dev {TAP} master static; bridge link set dev {TAP} learning off",
    "learning off": f"bridge link set dev {TAP} learning off",
}


@pytest.mark.parametrize("before", BEFORE)
def test_what_was_there_is_there_again(before):
    with Single(LAN, foreign=False) as one:
        one.tap(TAP, MAC, bridge="br0")
        one.host.sh(BEFORE[before])
        there = one.state(), entries(one), learning(one)
        one.start("dom1", NIC)
        assert is_pinned(one) and one.host.cli("check").returncode == 0
        one.stop("dom1", NIC)
        assert (one.state(), entries(one), learning(one)) == there


@pytest.mark.parametrize("where", ["lan0", "br0"])
def test_an_entry_of_the_admins_is_not_touched(where):
    """Of the same MAC, at another port or of the bridge itself: the guest would not be reached, and is refused."""
    with Single(LAN, foreign=False) as one:
        one.tap(TAP, MAC, bridge="br0")
        one.host.sh(f"bridge fdb add {MAC} dev {where} " + ("master static" if where == "lan0" else "self permanent"))
        there = one.state()
        assert f"MAC {MAC} has an entry at {where} in the same bridge" in call(one.host, "dom1", "start", NIC, check=False)
        assert one.state() == there
        one.host.sh(f"bridge fdb del {MAC} dev {where} " + ("master" if where == "lan0" else "self"))
        one.start("dom1", NIC)
        assert is_pinned(one)


@pytest.mark.parametrize("how", ["child", "agent"])
def test_it_waits_for_a_guest_that_migrates_here(how):
    """Until then, it is where the bridge has learnt it: on the host that it comes from."""
    with Single(LAN, foreign=False) as one, wired(one.host, TAP, "guest", Nic(MAC)) as guest:

        def arrives() -> None:
            # It says nothing by itself.
            guest.sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
            send(one.peer, "lan0", STOLEN)
            for operation in ("migrate", "prepare", "start", "started"):
                call(one.host, "dom1", operation, NIC)
            assert learning(one) and entries(one) == [f"{MAC} dev lan0 master br0"]
            assert "incoming" in one.host.cli("status").stdout
            send(guest, "eth0", rarp(MAC))
            assert eventually(lambda: is_pinned(one), 10)
            assert eventually(lambda: one.host.cli("check").returncode == 0, 5), one.host.cli("check").stdout

        if how == "agent":
            with Agent(one.host):
                arrives()
        else:
            arrives()
        one.stop("dom1", NIC)
        assert not is_pinned(one) and not any("static" in entry for entry in entries(one))


FLOOD = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth0", 0))
for number in range(int(sys.argv[1])):
    sock.send(b"\\xff" * 6 + bytes([2, 0, 0x77]) + number.to_bytes(3, "big") + b"\\x88\\xb5" + bytes(46))
"""


def test_a_bridge_learns_so_many_and_no_more():
    """Of a guest without a filter; one with a filter is reached all the same."""
    declared = '[bridges.br0]\nports = ["lan0"]\n'
    with Single(LAN, foreign=False) as one, wired(one.host, TAP, "guest", Nic(MAC)) as guest:
        with wired(one.host, TAP2, "guest2", Nic(OTHER)) as other:
            one.host.sh("ip link set lan0 nomaster; ip link del br0")

            def learnt(limit: str) -> int:
                one.host.config(declared + limit + LAN)
                assert one.host.cli("up").returncode == 0
                one.start("dom1", NIC)
                one.start("dom2", UNFILTERED)
                other.run(["/usr/bin/python3", "-IS", "-c", FLOOD, "500"])
                found = len([line for line in one.host.sh("bridge fdb show br br0").splitlines() if line.startswith("02:00:77")])
                assert is_pinned(one) and one.host.cli("check").returncode == 0
                with Listener(guest, "eth0") as listener:
                    send(one.peer, "lan0", to_the_guest(9))
                    assert listener.has(to_the_guest(9))
                return found

            assert learnt("fdb_max_learned = 50\n") <= 50
            # The option is taken away from the bridge, which stays.
            assert learnt("") == 500
            one.stop("dom2", UNFILTERED)
            one.stop("dom1", NIC)
