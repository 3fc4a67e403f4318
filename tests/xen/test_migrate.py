"""A guest that moves by `xl migrate`: this dom0 is both ends, and xl talks to a command in place of ssh."""

from __future__ import annotations

import time

import pytest
from lab.xen import FAR4, FAR6, MAC, SCRIPTS, Guest, World, eventually, reaches
from test_guests import routed

pytestmark = pytest.mark.usefixtures("restored")
GUEST, GUEST6 = "192.0.2.70", "2001:db8::70"
ELSEWHERE = "02:00:00:00:00:77"
SECONDS = 2.0
HOOK = 'case $command in online) xenstore_read "/local/domain/$domid/name" >>/run/names ;; esac\n'


@pytest.fixture
def names(world: World):
    """What guests are called when their script runs, by a hook of the admin's."""
    world.dom0.sh(f"mkdir -p {SCRIPTS}/vif-post.d; rm -f /run/names")
    path = SCRIPTS / "vif-post.d/10-names.hook"
    path.write_text(HOOK)
    path.chmod(0o755)
    yield lambda: world.dom0.run("cat /run/names").stdout.split()
    path.unlink()


def test_route(world: World, names):
    """It is reached within two seconds by one who had the MAC of where it was, and is announced."""
    dom0, outside = world.dom0, world.outside
    vif = f"mac={MAC.format(0x70)},script=vmnet-vif-route,ip={GUEST} {GUEST6}"
    with Guest(dom0, "moving", vif) as guest:
        routed(guest, GUEST, GUEST6)
        assert reaches(outside, GUEST) and reaches(outside, GUEST6)
        old = guest.domid
        with world.heard("eth0", "arp or icmp6") as heard:
            # Trusted for longer than a migration takes.
            outside.sh("echo 600000 >/proc/sys/net/ipv4/neigh/eth0/base_reachable_time_ms")
            outside.run(f"ip neigh replace {GUEST} lladdr {ELSEWHERE} dev eth0 nud reachable")
            done = dom0.run(["xl", "migrate", "-s", "", guest.name, "xl migrate-receive"], check=False, timeout=600)
            arrived = time.monotonic()
            assert done.returncode == 0, done.stdout + done.stderr
            assert eventually(lambda: reaches(outside, GUEST), SECONDS), dom0.run("vmnet-hook status").stdout
            took = time.monotonic() - arrived
            assert reaches(outside, GUEST6)
        print(f"reached {took:.1f} s after `xl migrate` returned")
        told = [line for line in heard if f"who-has {GUEST} tell {GUEST}" in line or f"tgt is {GUEST6}" in line]
        assert len(told) >= 2, heard
        assert guest.domid != old and names() == ["moving", "moving--incoming"]
        status = [line.split() for line in dom0.run("vmnet-hook status").stdout.splitlines() if line.startswith("moving ")]
        assert [(row[1], row[-2]) for row in status] == [(guest.vif(), "active")], status
        assert dom0.run("vmnet-hook check", check=False).returncode == 0
        guest.attach()
        assert guest.pings(FAR4) and guest.pings(FAR6)
