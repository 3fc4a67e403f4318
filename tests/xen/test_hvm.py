"""A fully virtual guest: QEMU's tap beside the paravirtual vif. It talks through one, then through the other."""

from __future__ import annotations

import pytest
from lab.xen import FAR4, MAC, Guest, World, reaches

pytestmark = pytest.mark.usefixtures("restored")
HVM = {
    "type": "hvm",
    "serial": "pty",
    "memory": 160,
    "device_model_version": "qemu-xen",
}


def links(world: World, guest: Guest) -> str:
    return world.dom0.run("ip -o link show").stdout


@pytest.mark.parametrize("kind", ["bridge", "route"])
def test_hvm(world: World, kind: str):
    dom0 = world.dom0
    address, peer = ("10.0.0.41", "10.0.0.254") if kind == "bridge" else ("192.0.2.41", FAR4)
    vif = f"type=ioemu,model=rtl8139,mac={MAC.format(0x41)},script=vmnet-vif-{kind},ip={address}"
    vif += ",bridge=lan" if kind == "bridge" else ""
    # Else the kernel asks QEMU to take the emulated NIC away.
    with Guest(dom0, "full", vif, extra="xen_emul_unplug=never", **HVM) as guest:
        shown = links(world, guest)
        for name in (guest.vif(), f"{guest.vif()}-emu"):
            assert f" {name}: " in shown, shown
        if kind == "bridge":
            assert shown.count("master lan") == 3, shown
        else:
            routes = dom0.run("ip -4 route show table all").stdout
            assert f"{address} dev {guest.vif()}" in routes and f"{address} dev {guest.vif()}-emu" in routes, routes
        print(guest.sh("ip addr"))
        guest.address(f"{address}/{24 if kind == 'bridge' else 32}")
        if kind == "route":
            guest.sh("ip route add 192.0.2.1 dev eth0; ip route add default via 192.0.2.1")
        assert guest.pings(peer) and reaches(world.outside, address)
