"""What becomes of the agent's answers when guests migrate, make their own address, flood; and when a bridge is made anew."""

from __future__ import annotations

import random
import re
import time

import pytest
from lab.agent import Agent
from lab.capture import Capture
from lab.dhcp import bootp, udp4
from lab.dhcp_clients import Dhclient, KernelRa, Udhcpc, addressed
from lab.dhcp_places import BESIDE, HOSTROUTE, PLACES, ROUTED, bare
from lab.domains import Interface
from lab.frames import icmp6, ip4, mac_bytes
from lab.guest import Nic, wired
from lab.routed import call, eventually, send
from lab.single import Single
from lab.xenhost import XenHost, offline, online

MAC, EUI = "52:54:00:cc:00:10", "2001:db8::5054:ff:fecc:10"
NIC = Interface(MAC, "tap-one", "public", ["192.0.2.16"])
DISCOVER = udp4(bootp(mac_bytes(MAC), 1), mac_bytes(MAC))


@pytest.fixture
def one():
    """A routed network without guests, and a guest's link."""
    with Single(ROUTED, foreign=False) as single, Agent(single.host) as agent:
        with wired(single.host, NIC.tap, "guest", Nic(MAC)) as guest:
            single.agent, single.guest = agent, guest
            yield single
        assert not agent.errors


def replies(one: Single, times: int = 1) -> list[str]:
    with Capture(one.guest, "eth0", "udp port 68") as seen:
        send(one.guest, "eth0", *[DISCOVER] * times)
        Capture.pause(0.4)
    return seen.having("BOOTP/DHCP, Reply")


def test_a_guest_that_migrates(one):
    """It is told nothing before it runs here; then what it was told elsewhere, by the same server."""
    for operation in ("migrate", "prepare", "start", "started"):
        call(one.host, "web", operation, NIC)
    # What it sends shows that it runs here.
    replies(one)
    assert eventually(lambda: "active" in one.host.cli("status").stdout, 10)
    assert eventually(lambda: len(replies(one)) == 1)
    with Dhclient(bare(one.guest), "eth0", families=(4,)) as running:
        lease = running.lease(4)
        assert (lease.address, lease.server) == ("192.0.2.16/24", "192.0.2.1")


def test_nothing_before_the_start_and_after_the_stop(one):
    assert replies(one) == []
    one.start("web", NIC)
    assert eventually(lambda: len(replies(one)) == 1)
    one.stop("web", NIC)
    assert eventually(lambda: replies(one) == [], 10)


def test_a_guest_that_makes_its_own_address(one):
    """By SLAAC, if its network lets it: the address that it is declared with has its MAC in it."""
    one.host.config(ROUTED + "slaac = true\n")
    one.start("web", NIC)
    with KernelRa(bare(one.guest), "eth0") as running:
        lease = running.lease(6)
        assert (lease.address, lease.gateway) == (f"{EUI}/64", "fe80::fcff:ffff:feff:ffff")


def test_without_slaac_there_is_a_router_and_no_address(one):
    one.start("web", NIC)
    with KernelRa(bare(one.guest), "eth0") as running, pytest.raises(TimeoutError):
        running.lease(6, timeout=3, where=addressed)
    # The router's word, for which it need not ask.
    with Capture(one.guest, "eth0", "icmp6 and ip6[40] == 134") as seen:
        one.host.config(ROUTED.replace("2001:db8::53", "2001:db8::54"))
        time.sleep(4)
    assert seen.having("2001:db8::54"), str(seen)


def test_a_guest_that_floods(one):
    """It gets some answers a second; another guest, and the agent's memory, do not feel it."""
    other = Interface("52:54:00:cc:00:11", "tap-two", "public", ["192.0.2.17"])
    chance = random.Random(2131)
    frames = []
    for _ in range(1000):
        frame = bytearray(DISCOVER)
        for _ in range(chance.choice((0, 1, 2, 8))):
            frame[chance.randrange(12, len(frame))] = chance.randrange(256)
        frames.append(bytes(frame[: chance.choice((len(frame), len(frame), chance.randrange(14, len(frame))))]))
    with wired(one.host, other.tap, "other", Nic(other.mac)) as node:
        one.start("web", NIC)
        one.start("mail", other)
        assert eventually(lambda: len(replies(one)) == 1)
        before = memory(one.agent)
        for _ in range(10):
            send(one.guest, "eth0", *frames)
            with Udhcpc(bare(node), "eth0") as running:
                lease = running.lease(4)
                assert lease.address == "192.0.2.17/24" and lease.seconds < 0.5
        assert memory(one.agent) - before < 2048
        assert eventually(lambda: len(replies(one)) == 1)


def memory(agent: Agent) -> int:
    """The agent's resident memory, in KiB."""
    with open(f"/proc/{agent.process.pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1])


def test_a_link_of_the_host_that_is_missing():
    """Guests of other networks are told as before; its own are once it is there."""
    other = Interface("52:54:00:cc:00:11", "tap-two", "out", ["10.0.1.17"])
    asked = udp4(bootp(mac_bytes(other.mac), 1), mac_bytes(other.mac))
    with Single(HOSTROUTE + ROUTED, foreign=False) as one, wired(one.host, other.tap, "other", Nic(other.mac)) as node:
        with wired(one.host, NIC.tap, "guest", Nic(MAC)) as one.guest:
            one.start("a-first", other)
            one.start("web", NIC)
            one.host.sh("ip link set eth9 down; ip link set eth9 name eth9-away")
            with Agent(one.host):
                assert eventually(lambda: len(replies(one)) == 1, 10)
                one.host.sh("ip link set eth9-away name eth9; ip link set eth9 up")

                def answered() -> bool:
                    with Capture(node, "eth0", "udp port 68") as seen:
                        send(node, "eth0", asked)
                        Capture.pause(0.3)
                    return bool(seen.having("BOOTP/DHCP, Reply"))

                assert eventually(answered, 20)


def test_what_is_not_told_others_hear():
    """A router beside the guests is asked, and what merely looks like a request passes."""
    with PLACES["beside"]() as place, Agent(place.host):
        bare(place.guest)
        own = mac_bytes(MAC)
        frames = {
            "RS": icmp6(MAC, "fe80::5054:ff:fecc:10", 133, bytes(4), "ff02::2"),
            "fragment": ip4(
                MAC, "10.8.0.16", "10.8.0.254", 17, b"\0\x44\0\x43" + bytes(40), dst_mac="ff:ff:ff:ff:ff:ff", part=1480 // 8
            ),
        }
        with Capture(place.others["peer"], "lan0", "ip or icmp6") as seen:
            send(place.guest, "eth0", *frames.values(), udp4(bootp(own, 1), own))
            Capture.pause(0.5)
        assert seen.having("router solicitation", MAC), str(seen)
        assert seen.having("offset 1480"), str(seen)
        assert not seen.having(f"^{MAC} .*0.0.0.0.68 > 255.255.255.255.67"), str(seen)


def test_a_bridge_made_anew():
    with PLACES["bridged"]() as place, Agent(place.host) as agent:
        with Dhclient(bare(place.guest), "eth0") as running:
            assert running.lease(4).gateway == "10.7.0.1"
            place.host.run("ip link del br5")
            # The port lost its bridge; both come back.
            assert eventually(lambda: place.host.cli("repair").returncode == 0 and place.host.cli("check").stdout == "ok\n", 20)
            assert running.renew(4).gateway == "10.7.0.1"
            running.reboot()
            assert running.lease(6).address == "fd07::16/128"
        assert not agent.errors


@pytest.mark.parametrize("script", ["vmnet-vif-bridge", "vmnet-vif-route"])
def test_a_vif_of_xen(script):
    """On a declared network, as any guest."""
    is_bridged = script == "vmnet-vif-bridge"
    ip4, words = ("10.7.0.10", []) if is_bridged else ("10.0.1.16", ["network=out"])
    keys = {"bridge": "br0"} if is_bridged else {}
    with XenHost(BESIDE.replace("10.8.0", "10.7.0") if is_bridged else HOSTROUTE, foreign=False) as one, Agent(one.host) as agent:
        vif = one.vif(1, 0, script=script, ip=ip4, **keys)
        online(vif, *words)
        with Udhcpc(bare(vif.guest), "eth0") as running:
            lease = running.lease(4, timeout=20)
            assert (lease.address, lease.gateway) == (f"{ip4}/24", "10.7.0.254" if is_bridged else "10.0.1.1")
        assert one.host.cli("check").stdout == "ok\n"
        offline(vif)
        assert not agent.errors
