"""A fully virtual guest: QEMU's tap beside the paravirtual vif, until the guest has a driver for that. There is no operating
system in it: its firmware asks for one over the emulated NIC.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab.xen import MAC, Guest, World

pytestmark = pytest.mark.usefixtures("restored")
MAC_HVM = MAC.format(0x41)


@contextmanager
def paused(world: World, vif: str) -> Iterator[Guest]:
    guest = Guest(world.dom0, "full", f"type=ioemu,model=rtl8139,mac={MAC_HVM},{vif}", type="hvm", memory=64, boot="n")
    try:
        done = guest.create("-p")
        assert done.returncode == 0, done.stderr
        assert guest.backend("hotplug-status") == "connected"
        yield guest
    finally:
        guest.destroy()


def test_bridge(world: World):
    with paused(world, "bridge=lan,script=vmnet-vif-bridge,vifname=full0") as guest:
        shown = world.dom0.run("ip -o link show master lan").stdout
        assert " full0: " in shown and " full0-emu: " in shown, shown
        status = world.dom0.run("vmnet-hook status").stdout
        assert "full0" in status and "full0-emu" in status, status
        world.dom0.run(["xl", "unpause", guest.name])
        argv = ["timeout", 150, "tcpdump", "-nne", "-c", 1, "-i", "lan1", "ether", "src", MAC_HVM, "and", "udp", "port", "67"]
        assert MAC_HVM in world.outside.run(argv, timeout=200).stdout


def test_route(world: World):
    with paused(world, "script=vmnet-vif-route,ip=192.0.2.41 2001:db8::41") as guest:
        for family, address in (("-4", "192.0.2.41"), ("-6", "2001:db8::41")):
            routes = world.dom0.run(["ip", family, "route", "show", address]).stdout.splitlines()
            found = {line.split("dev ")[1].split()[0]: line.split("metric ")[1].split()[0] for line in routes}
            assert found == {guest.vif(): "2", f"{guest.vif()}-emu": "1"}, routes
        assert world.dom0.run("ip -4 neigh show proxy").stdout.split()[:3] == ["192.0.2.41", "dev", "eth0"]
