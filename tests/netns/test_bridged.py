"""The bridged mode: what a tap in a bridge must be like, and guests that talk through it."""

from __future__ import annotations

import re

import pytest
from lab.domains import Interface, domain_xml
from lab.guest import Nic, wired
from lab.nodes import changes
from lab.routed import call, eventually, ping, reach
from lab.single import LAN, PUBLIC, Single, bridged, same

LAN_HOST = "10.7.0.1"


@pytest.fixture
def one():
    """A host with bridge br0, MTU 1400, and behind its port lan0 a machine with 10.7.0.1."""
    with Single(PUBLIC + LAN) as single:
        single.peer.run(f"ip addr add {LAN_HOST}/24 dev lan0")
        single.host.sh("ip link set lan0 mtu 1400; ip link set br0 mtu 1400")
        yield single


def link(one: Single, ifname: str) -> str:
    return one.host.run(["ip", "-d", "-o", "link", "show", ifname]).stdout


def guest(one: Single, last: int, mac: str = ""):
    nic = bridged(last)
    if mac:
        nic = Interface(mac, nic.tap, bridge="br0")
    return nic, one.stack.enter_context(wired(one.host, nic.tap, f"guest{last}", Nic(nic.mac, f"10.7.0.{last}")))


@pytest.mark.parametrize("joined", [False, True], ids=["joined by us", "joined by libvirt"])
def test_tap(one, joined):
    nic, node = guest(one, 10)
    if joined:
        one.host.run(f"ip link set {nic.tap} master br0")
    one.start("dom", nic)
    shown = link(one, nic.tap)
    assert " master br0 " in shown and " mtu 1400 " in shown and "UP" in shown.split(">")[0], shown
    assert re.search(r"link/ether fe:", shown), shown
    assert one.host.run(f"ip -6 addr show dev {nic.tap}").stdout == "", "the tap has an IPv6 address"
    assert eventually(lambda: ping(node, LAN_HOST) is not None)
    one.stop("dom", nic)


def test_bridge_mac_stays(one):
    """The lowest MAC of its ports is a bridge's own, unless every tap's is high: hence fe:…, whatever the tap came
    with."""
    one.host.sh("ip link set lan0 nomaster; ip link set lan0 address 52:54:00:07:07:07; ip link set lan0 master br0")
    before = re.search(r"link/ether (\S+)", link(one, "br0"))[1]
    assert before == "52:54:00:07:07:07"
    nic, node = guest(one, 10, "00:16:3e:00:00:01")
    one.host.run(f"ip link set {nic.tap} address 00:16:3e:00:00:01")
    node.run("ip link set eth0 address 00:16:3e:00:00:01")
    one.start("dom", nic)
    assert re.search(r"link/ether (\S+)", link(one, "br0"))[1] == before
    assert re.search(r"link/ether fe:", link(one, nic.tap)), link(one, nic.tap)
    one.stop("dom", nic)
    assert re.search(r"link/ether (\S+)", link(one, "br0"))[1] == before


def test_two_guests_talk(one):
    guests = [guest(one, 10), guest(one, 11)]
    for (nic, _), name in zip(guests, ("dom1", "dom2"), strict=True):
        one.start(name, nic)
    (_, first), _ = guests
    assert eventually(lambda: reach([(first, "10.7.0.11"), (first, LAN_HOST), (one.peer, "10.7.0.10")], wait=1) == [])


def test_isolated_guests_do_not_talk_to_each_other(one):
    one.host.config(LAN + "isolated = true\n")
    guests = [guest(one, 10), guest(one, 11)]
    for (nic, _), name in zip(guests, ("dom1", "dom2"), strict=True):
        one.start(name, nic)
        assert "isolated on" in link(one, nic.tap)
    (_, first), (_, second) = guests
    assert eventually(lambda: reach([(first, LAN_HOST), (second, LAN_HOST)], wait=1) == [])
    assert ping(first, "10.7.0.11", wait=1) is None and ping(second, "10.7.0.10", wait=1) is None


def test_mtu_option(one):
    one.host.config(LAN + "mtu = 1300\n")
    nic, _ = guest(one, 10)
    one.start("dom", nic)
    assert " mtu 1300 " in link(one, nic.tap)


def test_missing_bridge(one):
    """A clear error, and nothing changed."""
    one.host.config(LAN.replace("br0", "br7"))
    nic = Interface("52:54:00:bb:00:10", "lan-tap10", "lan")
    one.tap(nic.tap, nic.mac)
    before = one.state()
    done = one.host.hook("dom", "start", "begin", domain_xml("dom", nic, stage="start"))
    lines = done.stderr.strip().splitlines()
    assert done.returncode in (1, 2) and len(lines) == 1, (done.returncode, done.stderr)
    assert lines[0].startswith("vmnet-hook: ") and "br7" in lines[0], lines
    same(before, one.state())


def test_something_else_than_a_bridge(one):
    one.host.config(LAN.replace("br0", "eth9"))
    nic = Interface("52:54:00:bb:00:10", "lan-tap10", "lan")
    one.tap(nic.tap, nic.mac)
    before = one.state()
    done = one.host.hook("dom", "start", "begin", domain_xml("dom", nic, stage="start"))
    assert done.returncode in (1, 2) and "eth9" in done.stderr and "bridge" in done.stderr, (
        done.returncode,
        done.stderr,
    )
    same(before, one.state())


def test_joined_to_another_bridge(one):
    """Somebody put the tap elsewhere: it ends in the declared bridge, or the hook says why not; never half of it."""
    one.host.run("ip link add br5 type bridge")
    nic = Interface("52:54:00:bb:00:10", "lan-tap10", "lan")
    one.tap(nic.tap, nic.mac, bridge="br5")
    before = one.state()
    done = one.host.hook("dom", "start", "begin", domain_xml("dom", nic, stage="start"))
    if done.returncode:
        assert "br5" in done.stderr, done.stderr
        same(before, one.state())
    else:
        assert " master br0 " in link(one, nic.tap)
        one.stop("dom", nic)
        same(before, one.state())


def test_unclaimed_nic_is_left_alone(one):
    """A NIC in a bridge that no network declares, without metadata, is nobody's business."""
    one.host.run("ip link add br5 type bridge")
    nic = Interface("52:54:00:cc:00:10", "tap-x", bridge="br5")
    one.tap(nic.tap, nic.mac, bridge="br5")
    before = one.state()
    for op in ("prepare", "start", "started", "reconnect", "stopped", "release"):
        assert call(one.host, "dom", op, nic) == ""
    assert not changes(before, one.state())


def test_missing_tap(one):
    nic = bridged(10)
    before = one.state()
    done = one.host.hook("dom", "start", "begin", domain_xml("dom", nic, stage="start"))
    assert done.returncode in (1, 2) and nic.tap in done.stderr, (done.returncode, done.stderr)
    same(before, one.state())
