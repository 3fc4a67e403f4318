"""Roles, and the gateway, on a VLAN-aware bridge: behind a tag and by VLAN.

guests liar victim -- ebr0 host eth3; the host has 10.7.0.1 in VLAN 10, untagged
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.domains import Interface
from lab.frames import arp, tagged
from lab.guest import Nic, wired
from lab.nodes import Switch
from lab.roles import EVERYTHING, GW4, MAC, OTHER4, OWN4, OWN6, VICTIM, expected, passed, plain
from lab.routed import call as libvirt
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


def through(host, path, nic, network, wanted, vid=0):
    """Which of the frames, with the tag `vid`, of a guest arrive at an unfiltered one on another network, untagged."""
    other = Interface(VICTIM, "tap2", network, (), filter=False)
    with wired(host, "tap1", "liar", Nic(MAC)) as liar, wired(host, "tap2", "victim", Nic(VICTIM)) as victim:
        for op in ("start", "started"):
            libvirt(host, "dom1", op, nic)
            libvirt(host, "dom2", op, other)
        found = passed(liar, victim, wanted, path, (lambda frame: tagged(frame, vid)) if vid else bytes)
        for op in ("stopped", "release"):
            libvirt(host, "dom2", op, other)
            libvirt(host, "dom1", op, nic)
    return found


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
