"""network-bridge over dom0's only NIC to the outside, under traffic."""

from __future__ import annotations

import subprocess

import pytest
from lab.xen import FAR4, FAR6, SCRIPTS, World, reaches

pytestmark = pytest.mark.usefixtures("restored")
SCRIPT = SCRIPTS / "vmnet-network-bridge"


def lost(process: subprocess.Popen[str]) -> float:
    """Ends a ping; seconds without an answer, at ten packets a second."""
    process.send_signal(2)
    summary = process.communicate(timeout=20)[0]
    print(summary.splitlines()[-2])
    sent, received = (int(word) for word in summary.splitlines()[-2].split() if word.isdecimal())
    return (sent - received) / 10


def test_network_bridge(world: World):
    dom0, outside = world.dom0, world.outside
    argv = ["ping", "-q", "-i", "0.1"]
    pings = [outside.popen([*argv, address], stdout=subprocess.PIPE) for address in ("192.0.2.1", "2001:db8::1")]
    dom0.run([SCRIPT, "start"])
    addresses = dom0.run("ip -o addr show dev xenbr0").stdout
    assert "192.0.2.1/24" in addresses and "2001:db8::1/64" in addresses
    assert "master xenbr0" in dom0.run("ip link show eth0").stdout
    assert "default via 192.0.2.254 dev xenbr0" in dom0.run("ip route").stdout
    assert reaches(dom0, FAR4) and reaches(dom0, FAR6)
    shown = dom0.run([SCRIPT, "status"]).stdout
    print(shown)
    assert "xenbr0" in shown and "eth0" in shown
    state = dom0.state()
    dom0.run([SCRIPT, "start"])
    assert dom0.state() == state
    dom0.run([SCRIPT, "stop"])
    assert "192.0.2.1/24" in dom0.run("ip -o addr show dev eth0").stdout
    assert reaches(dom0, FAR4) and reaches(dom0, FAR6)
    assert all(lost(ping) < 3 for ping in pings)
