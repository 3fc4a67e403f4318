"""Our scripts in the place of Xen's own: a domain that names `vif-bridge`, or no script at all, gets ours."""

from __future__ import annotations

from lab.xen import MAC, SCRIPTS, World, idle


def files(world: World) -> str:
    return world.dom0.sh(f"ls -l {SCRIPTS}; cat {SCRIPTS}/* | md5sum; dpkg-divert --list '{SCRIPTS}/*'")


def test_diverted(world: World):
    dom0 = world.dom0
    before, state = files(world), dom0.state()
    dom0.run("vmnet-hook xen-scripts --divert")
    vifs = (f"mac={MAC.format(0x51)},bridge=lan", f"mac={MAC.format(0x52)},bridge=lan,script=vif-bridge")
    guest = idle(dom0, "diverted", *vifs)
    try:
        done = guest.create("-p")
        assert done.returncode == 0, done.stderr
        assert [guest.backend("hotplug-status", number) for number in range(2)] == ["connected"] * 2
        status = dom0.run("vmnet-hook status").stdout
        assert guest.vif(0) in status and guest.vif(1) in status, status
    finally:
        guest.destroy()
        dom0.run("vmnet-hook xen-scripts --undivert")
    assert files(world) == before
    dom0.assert_restored(state)
