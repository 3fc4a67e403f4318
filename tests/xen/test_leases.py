"""Guests on a virtual network: one NIC gets a lease from the network's server, another its declared address from the agent."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.xen import FAR4, MAC, Guest, World, eventually

pytestmark = pytest.mark.usefixtures("restored")
CONFIG = Path("/etc/vmnet-hooks/vmnet.toml")
NETWORK = """
[networks.lab]
mode = "virtual"
out = "eth0"
autostart = false
ipv4 = { subnet = "10.66.0.0/24", pool = ["10.66.0.100-10.66.0.199"] }
"""
SCRIPT = "[ $1 = bound ] && ip addr add $ip/$mask dev $interface && ip route add default via $router dev $interface"
CLIENT = "udhcpc -i {0} -f -q -n -t 8 -T 2 -s /tmp/script"


@pytest.fixture
def declared():
    before = CONFIG.read_text() if CONFIG.exists() else None
    CONFIG.parent.mkdir(parents=True, exist_ok=True)
    CONFIG.write_text(NETWORK)
    yield
    if before is None:
        CONFIG.unlink()
    else:
        CONFIG.write_text(before)


def test_leases(world: World, declared: None):
    vifs = [f"mac={MAC.format(0x71)},bridge=lab", f"mac={MAC.format(0x72)},bridge=lab,ip=10.66.0.10"]
    with world.dom0.agent(), Guest(world.dom0, "leased", *(f"{vif},script=vmnet-vif-bridge" for vif in vifs)) as guest:
        guest.sh(f"printf '%s\\n' '#!/bin/sh' '{SCRIPT}' >/tmp/script; chmod +x /tmp/script")
        for ifname, address in (("eth0", "10.66.0.1"), ("eth1", "10.66.0.10/24")):
            guest.sh(f"ip link set {ifname} up; {CLIENT.format(ifname)}")
            assert address in guest.sh(f"ip -4 -o addr show dev {ifname}")
            assert guest.pings(FAR4)
            guest.sh(f"ip addr flush dev {ifname}")
        shown = world.dom0.run("vmnet-hook leases").stdout
        assert MAC.format(0x71) in shown and "10.66.0.10" in shown, shown
        assert world.dom0.run("vmnet-hook check").stdout == "ok\n"
    assert eventually(lambda: "lab" not in world.dom0.run("ip -br link show type bridge").stdout.split())
