"""A VLAN-aware bridge: who is on which VID, trunks, and nothing on VID 1.

guests web1 db1 trunk1 -- ebr0 left -- eth3 == segment == eth3 -- ebr0 right -- guest web2
                                                  |
                                               outside eth0
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from lab.capture import Capture
from lab.domains import domain_xml
from lab.frames import arp
from lab.guest import Nic
from lab.nodes import Node, Switch
from lab.routed import eventually, ping, reach, send
from lab.vm import Guest, Host, assert_restored, everywhere, guest, snapshots

SLOW = 20
CONFIG = """
[bridges.ebr0]
ports = ["eth3"]
vlan_filtering = true
vlans = [10, 20]

[networks.web]
mode = "bridged"
bridge = "ebr0"
vlan = 10

[networks.db]
mode = "bridged"
bridge = "ebr0"
vlan = 20

[networks.trunk]
mode = "bridged"
bridge = "ebr0"
tagged = [10, 20]
"""
# (host, network): the addresses are all on one link as far as the guests know, so only VLANs keep them apart.
GUESTS = {
    "web1": (0, "web", "10.9.10.1"),
    "db1": (0, "db", "10.9.20.1"),
    "trunk1": (0, "trunk", ""),
    "web2": (1, "web", "10.9.10.2"),
}


@dataclass
class Trunk:
    stack: ExitStack
    segment: Switch
    outside: Node
    hosts: list[Host]
    before: list[str] = field(default_factory=list)
    guests: dict[str, Guest] = field(default_factory=dict)

    def guest(self, name: str) -> Node:
        return self.guests[name].node


@pytest.fixture(scope="module")
def wired_up(product):
    """Two hosts and a station on a segment that carries tagged frames."""
    with ExitStack() as stack:
        segment = stack.enter_context(Switch("segment"))
        outside = stack.enter_context(Node("outside"))
        segment.plug(outside, "eth0", "02:00:00:00:00:0f")
        hosts = [stack.enter_context(Host(name, product)) for name in ("left", "right")]
        for number, host in enumerate(hosts, 1):
            segment.plug(host, "eth3", f"02:00:00:00:00:0{number}")
            host.config(CONFIG)
        yield Trunk(stack, segment, outside, hosts, snapshots(hosts))


def test_a_legacy_vlan_device_is_named_and_nothing_is_touched(wired_up):
    """It would take the frames of its VID away from the bridge."""
    left = wired_up.hosts[0]
    left.sh("ip link add link eth3 name eth3.10 type vlan id 10; ip link set eth3.10 up")
    before = snapshots([left])
    done = left.cli("up")
    assert done.returncode != 0 and "eth3.10" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done
    assert_restored([left], before)
    left.run("ip link del eth3.10")


@pytest.fixture(scope="module")
def trunk(wired_up):
    """The same with the bridges up and the guests started."""
    for done in everywhere(wired_up.hosts, "up"):
        assert done.returncode == 0, done.stdout + done.stderr
    for last, (name, (host, network, ip4)) in enumerate(GUESTS.items(), 1):
        nic = Nic(f"52:54:00:09:00:0{last}", ip4, 16)
        wired_up.guests[name] = wired_up.stack.enter_context(guest(wired_up.hosts[host], name, network, nic))
    wired_up.guest("trunk1").sh("""
        for vid in 10 20; do
            ip link add link eth0 name eth0.$vid type vlan id $vid
            ip addr add 10.9.$vid.9/24 dev eth0.$vid; ip link set eth0.$vid up
        done
    """)
    yield wired_up


def test_guests_of_one_vid_reach_each_other_tagged_on_the_wire(trunk):
    with Capture(trunk.outside, "eth0", "") as flooded, Capture(trunk.hosts[0], "eth3", "") as wire:
        assert eventually(lambda: reach([(trunk.guest("web1"), "10.9.10.2"), (trunk.guest("web2"), "10.9.10.1")]) == [], SLOW)
    frames = wire.having("ICMP echo")
    assert frames and all("vlan 10," in frame for frame in frames), wire
    assert flooded.having("ARP", "10.9.10.2", "vlan 10,"), flooded


def test_guests_of_two_vids_do_not(trunk):
    """Not even ARP gets through."""
    with Capture(trunk.guest("db1"), "eth0", "") as seen:
        for name, target in (("web1", "10.9.20.1"), ("web2", "10.9.20.1"), ("db1", "10.9.10.1")):
            assert ping(trunk.guest(name), target, wait=2) is None
    assert not seen.having("10.9.10"[:4], "> 52:54:00:09:00:02|tell 10.9.10"), seen
    assert not [line for line in seen.lines if "tell 10.9.10." in line], seen


def test_a_trunk_guest_reaches_both(trunk):
    for vid in (10, 20):
        targets = [f"10.9.{vid}.1"] + (["10.9.10.2"] if vid == 10 else [])
        assert eventually(lambda targets=targets: reach([(trunk.guest("trunk1"), ip) for ip in targets]) == [], SLOW), vid


def vids(host: Host) -> dict[str, dict[int, set[str]]]:
    """`bridge vlan show`: {"tap-web1": {10: {"PVID", "Egress Untagged"}}, …}."""
    return {
        port["ifname"]: {entry["vlan"]: set(entry.get("flags", ())) for entry in port.get("vlans", ())}
        for port in json.loads(host.run("bridge -j vlan show").stdout)
    }


def test_vids_of_every_port(trunk):
    left, right = map(vids, trunk.hosts)
    access = {"PVID", "Egress Untagged"}
    assert left["tap-web1"] == {10: access} and left["tap-db1"] == {20: access} and right["tap-web2"] == {10: access}
    assert left["tap-trunk1"] == {10: set(), 20: set()}
    assert left["eth3"] == right["eth3"] == {10: set(), 20: set()}
    for shown in (left, right):
        assert all(1 not in entries for entries in shown.values()), shown
        assert not shown.get("ebr0"), "the host itself is on a VLAN of its guests"


def test_an_untagged_frame_reaches_no_guest(trunk):
    with ExitStack() as stack:
        taps = [stack.enter_context(Capture(each.host, each.tap)) for each in trunk.guests.values()]
        send(trunk.outside, "eth0", arp(1, "02:00:00:00:00:0f", "10.9.10.7", "10.9.10.1"))
        Capture.pause(1)
    for tap in taps:
        assert not tap.having("02:00:00:00:00:0f"), tap


def test_up_again_has_nothing_to_do_and_check_is_clean(trunk):
    for done in everywhere(trunk.hosts, "up"):
        assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
    for done in everywhere(trunk.hosts, "check"):
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_vid_that_the_trunk_got_lost_is_found_and_mended(trunk):
    left = trunk.hosts[0]
    left.sh("bridge vlan del dev tap-web1 vid 10; bridge vlan add dev tap-web1 vid 20 pvid untagged")
    done = left.cli("check")
    assert done.returncode == 1 and "tap-web1" in done.stdout + done.stderr, done
    done = left.cli("repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert vids(left)["tap-web1"] == {10: {"PVID", "Egress Untagged"}}
    assert reach([(trunk.guest("web1"), "10.9.10.2")]) == []


def test_a_nic_overrides_the_vid_of_its_network(trunk):
    """`vlan` in domains.d: a NIC on network web, but in the VLAN of db."""
    left = trunk.hosts[0]
    nic = Nic("52:54:00:09:00:09", "10.9.20.3", 16)
    with guest(left, "moved", "web", nic, start=False) as moved:
        left.domain_toml(moved.domain, f'[[interfaces]]\nmac = "{nic.mac}"\nifname = "{moved.tap}"\nnetwork = "web"\nvlan = 20\n')
        done = left.hook(moved.domain, "start", "begin", domain_xml(moved.domain, moved.interface, stage="start", metadata=False))
        assert done.returncode == 0, done.stderr
        assert vids(left)[moved.tap] == {20: {"PVID", "Egress Untagged"}}
        assert eventually(lambda: reach([(moved.node, "10.9.20.1")]) == [], SLOW)
        assert ping(moved.node, "10.9.10.1", wait=2) is None
        moved.unplug()
        left.domain_toml(moved.domain, None)
        left.run(f"ip link del {moved.tap}")


def test_down_leaves_nothing(trunk):
    for each in trunk.guests.values():
        each.unplug()
        each.host.run(f"ip link del {each.tap}")
    for done in everywhere(trunk.hosts, "down"):
        assert done.returncode == 0, done.stdout + done.stderr
    assert_restored(trunk.hosts, trunk.before)
