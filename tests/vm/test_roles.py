"""Roles, and the gateway, on a VLAN-aware bridge: behind a tag and by VLAN.

guests liar victim -- ebr0 host eth3; the host has 10.7.0.1 in VLAN 10, untagged
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import reduce

import pytest
from lab import offload
from lab.domains import Interface
from lab.frames import BROADCAST, arp, tagged, udp4
from lab.guest import Nic, wired
from lab.matrix import BRIDGED, content, listening, observed, table, undocumented, words, written
from lab.nodes import Node, Switch
from lab.roles import EVERYTHING, GW4, MAC, OTHER4, OWN4, OWN6, VICTIM, expected, passed, plain
from lab.routed import call as libvirt
from lab.routed import send
from lab.vm import Host

CONFIG = f"""
[bridges.ebr0]
ports = ["eth3"]
vlan_filtering = true
vlans = [10, 20]
pvid = 10
mcast_snooping = false
addresses = ["{GW4}/24"]

[networks.lan]
mode = "bridged"
bridge = "ebr0"
antispoof = true
vlan = 10

[networks.other]
mode = "bridged"
bridge = "ebr0"
vlan = 20

[networks.trunk]
mode = "bridged"
bridge = "ebr0"
tagged = [10, 20]
"""
GATEWAYS = {"ARP": arp(2, MAC, GW4, GW4), "request": arp(1, MAC, GW4, OTHER4)}


@pytest.fixture(scope="module")
def host(product):
    with ExitStack() as stack:
        segment = stack.enter_context(Switch("segment"))
        host = stack.enter_context(Host("host", product))
        segment.plug(host, "eth3", "02:00:00:00:00:01")
        plain(host)
        host.config(CONFIG)
        done = host.cli("up")
        assert done.returncode == 0, done
        yield host


@contextmanager
def guests(host: Host, nic: Interface, network: str) -> Iterator[tuple[Node, Node]]:
    """A guest, and an unfiltered one on another network, untagged."""
    other = Interface(VICTIM, "tap2", network, (), filter=False)
    with wired(host, "tap1", "liar", Nic(MAC)) as liar, wired(host, "tap2", "victim", Nic(VICTIM)) as victim:
        for op in ("start", "started"):
            libvirt(host, "dom1", op, nic)
            libvirt(host, "dom2", op, other)
        yield liar, victim
        for op in ("stopped", "release"):
            libvirt(host, "dom2", op, other)
            libvirt(host, "dom1", op, nic)


def through(host, path, nic, network, wanted, vid=0):
    """Which of the frames, with the tag `vid`, of the first guest arrive at the other."""
    with guests(host, nic, network) as (liar, victim):
        return passed(liar, victim, wanted, path, (lambda frame: tagged(frame, vid)) if vid else bytes)


@pytest.mark.parametrize("roles", [(), ("dhcp-server",), ("router", "querier")], ids=lambda roles: "+".join(roles) or "client")
@pytest.mark.parametrize("ips", [(OWN4, OWN6), ()], ids=["addressed", "MAC alone"])
def test_untagged(host, tmp_path, ips, roles):
    wanted = {name: frame for name, frame in EVERYTHING.items() if not name.startswith("open: ") or "0.0.0.0" in name}
    nic = Interface(MAC, "tap1", "lan", ips, roles=roles)
    assert through(host, tmp_path, nic, "lan", {**wanted, **GATEWAYS}) == expected(roles, bool(ips)) & wanted.keys()


@pytest.mark.parametrize("roles", [(), ("dhcp-server",), ("router", "querier")], ids=lambda roles: "+".join(roles) or "client")
def test_behind_a_tag(host, tmp_path, roles):
    wanted = {name: frame for name, frame in EVERYTHING.items() if not name.startswith("open: ")}
    nic = Interface(MAC, "tap1", "trunk", (OWN4, OWN6), roles=roles)
    assert through(host, tmp_path, nic, "lan", {**wanted, **GATEWAYS}, 10) == expected(roles, True)


def test_the_gateway_is_guarded_in_its_vlan(host, tmp_path):
    """Another VLAN has another gateway, of the same address: it may be a guest."""
    nic = Interface(MAC, "tap1", "other", (GW4,), filter=False)
    assert through(host, tmp_path, nic, "other", GATEWAYS) == set(GATEWAYS)
    nic = Interface(MAC, "tap1", "lan", (), filter=False)
    assert through(host, tmp_path, nic, "lan", GATEWAYS) == set()
    nic = Interface(MAC, "tap1", "trunk", (), filter=False)
    assert through(host, tmp_path, nic, "lan", GATEWAYS, 10) == set()


EXPECTED = table("""
                    access       trunk
own traffic         allowed own  allowed own
MAC                 dropped      dropped
IPv4                dropped      dropped
IPv6                dropped      dropped
ARP                 dropped      dropped
ND                  dropped      dropped
RA                  dropped      dropped
redirect            dropped      dropped
DHCPv4 server       dropped      dropped
DHCPv6 server       dropped      dropped
IGMP querier        dropped      dropped
MLD querier         dropped      dropped
BPDU                dropped      dropped
one tag             dropped      dropped
two tags            dropped      dropped
rewritten: MAC      dropped      dropped
rewritten: address  dropped      dropped
rewritten: role     dropped      dropped
""")
"""As in netns/test_matrix.py. A trunk's frames are sent behind a tag of the NIC: one tag is a second one."""


@pytest.mark.parametrize("kind", EXPECTED)
def test_matrix(host, kind):
    nic = Interface(MAC, "tap1", {"access": "lan", "trunk": "trunk"}[kind], (OWN4, OWN6))
    with guests(host, nic, "lan") as (liar, victim), listening(host, "tap1", liar, (victim, "eth0")) as bench:
        offload.tx_checksum(host, "tap2", False)
        found = observed(replace(bench, tag=tagged(bytes(12), 10)[12:] if kind == "trunk" else b""), BRIDGED)
    print(f"\n{written({kind: found})}")
    assert found == words(EXPECTED[kind]) and undocumented(EXPECTED) == []


@pytest.mark.parametrize("kind", ["MAC alone", "no filter"])
def test_no_guest_gets_into_another_vlan(host, kind):
    """With tags of its own making, whatever its filter. What a guest of that VLAN says gets there."""
    nic = Interface(MAC, "tap1", "lan", (), filter=kind == "MAC alone")
    third = Interface("52:54:00:bb:00:30", "tap3", "other", ("10.7.0.30",))
    wanted = [udp4(BROADCAST, MAC, OWN4, OTHER4, port) for port in range(1, 6)]
    canary = udp4(BROADCAST, third.mac, third.ips[0], OTHER4, 6)
    tags = [(20,), (10, 20), (0, 20), (20, 20)]
    sent = [reduce(tagged, reversed(vids), frame) for vids, frame in zip(tags, wanted, strict=False)]
    with guests(host, nic, "other") as (liar, victim), wired(host, "tap3", "third", Nic(third.mac)) as guest:
        for op in ("start", "started"):
            libvirt(host, "dom3", op, third)
        with offload.Listener(victim, "eth0") as listener:
            send(liar, "eth0", *sent, tagged(wanted[-1], 20, 0x88A8))
            send(guest, "eth0", canary)
            assert listener.has(canary)
            assert {content(frame) for frame in listener.frames} & set(map(content, wanted)) == set()
        for op in ("stopped", "release"):
            libvirt(host, "dom3", op, third)
