"""`hooks/qemu/ifup` and `ifdown`: plain QEMU without any libvirt, and libvirt's <script> for type='ethernet'.

They are told the tap's name and nothing else: domains.d says whose it is.
"""

from __future__ import annotations

import subprocess

import guest_image
import pytest
from guest import Guest, Nic, domain_xml, ping_from, serial
from lab.nodes import IFDOWN, IFUP, settled

pytestmark = pytest.mark.libvirt

MAC, LAN_MAC = "52:54:00:aa:00:10", "52:54:00:aa:00:11"
TOML = f"""
[[interfaces]]
mac = "{MAC}"
ifname = "tap0"
network = "public"
ips = ["192.0.2.10", "2001:db8::10"]
"""
TOML_LAN = f"""
[[interfaces]]
mac = "{LAN_MAC}"
ifname = "tap1"
network = "lan"
"""
CMDLINE = "ip0=192.0.2.10/24 gw0=192.0.2.1 ip6_0=2001:db8::10/128 gw6_0=2001:db8::1 ip1=10.9.0.10/24"


def qemu(lab, name: str) -> subprocess.Popen:
    kernel, initrd = guest_image.build()
    scripts = f"script={IFUP},downscript={IFDOWN}"
    return lab.host.popen(
        [
            "qemu-system-x86_64",
            "-name",
            name,
            "-accel",
            "tcg",
            "-m",
            "96",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-kernel",
            kernel,
            "-initrd",
            initrd,
            "-append",
            f"console=ttyS0 quiet panic=-1 {CMDLINE}",
            "-serial",
            f"file:{serial(name, 'log')}",
            "-serial",
            f"unix:{serial(name, 'sock')},server=on,wait=off",
            "-netdev",
            f"tap,id=n0,ifname=tap0,{scripts}",
            "-device",
            f"virtio-net-pci,netdev=n0,mac={MAC}",
            "-netdev",
            f"tap,id=n1,ifname=tap1,{scripts}",
            "-device",
            f"virtio-net-pci,netdev=n1,mac={LAN_MAC}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def guest_pings(lab, guest: Guest) -> None:
    for address in ("192.0.2.1", "2001:db8::1", "10.9.0.1"):
        guest.ping(address)
    for address in ("192.0.2.10", "2001:db8::10", "10.9.0.10"):
        ping_from(lab.router, address)


def test_plain_qemu(lab):
    lab.host.domain_toml("plain", TOML + TOML_LAN)
    process = qemu(lab, "plain")
    guest = Guest(lab.host, "plain").ready()
    guest_pings(lab, guest)
    assert lab.host.cli("check").returncode == 0
    guest.run("(sleep 0.2; poweroff -f) >/dev/null 2>&1 &")
    assert process.wait(20) == 0, process.stdout.read()
    lab.assert_clean()


def test_plain_qemu_is_killed(lab):
    """Nobody calls ifdown then: `check` finds what is left, `repair` removes it."""
    lab.host.domain_toml("plain", TOML + TOML_LAN)
    process = qemu(lab, "plain")
    lab.host.wait_for(
        lambda: lab.host.path(serial("plain", "sock")).exists() and "tap1" in lab.host.cli("status").stdout,
        "both taps to be set up",
    )
    process.kill()
    process.wait(20)
    assert lab.host.cli("check").returncode == 1
    repaired = lab.host.cli("repair")
    assert repaired.returncode == 0, repaired.stderr
    lab.assert_clean()


def test_plain_qemu_is_refused(lab):
    lab.host.domain_toml("plain", (TOML + TOML_LAN).replace('"public"', '"nowhere"'))
    process = qemu(lab, "plain")
    assert process.wait(20) != 0
    output = process.stdout.read()
    assert "vmnet-hook: " in output and "nowhere" in output
    lab.assert_clean()


@pytest.mark.parametrize("hooked", [False, True], ids=["alone", "beside the qemu hook"])
def test_script_of_a_libvirt_nic(lab, hooked):
    """libvirt runs it with CAP_NET_ADMIN alone, before the `start` hook of the same domain, if there is one."""
    if not hooked:
        lab.host.remove_hook("vmnet-hooks")
    lab.host.domain_toml("dom1", TOML)
    nic = Nic(MAC, dev="tap0", script=str(IFUP), downscript=str(IFDOWN))
    lab.host.create(domain_xml("dom1", [nic], CMDLINE))
    guest = Guest(lab.host, "dom1").ready()
    for address in ("192.0.2.1", "2001:db8::1"):
        guest.ping(address)
    assert lab.host.cli("check").returncode == 0
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()


def test_script_refuses(lab):
    lab.host.remove_hook("vmnet-hooks")
    lab.host.domain_toml("dom1", TOML.replace('"public"', '"nowhere"'))
    nic = Nic(MAC, dev="tap0", script=str(IFUP), downscript=str(IFDOWN))
    done = lab.host.create(domain_xml("dom1", [nic]), "--paused", check=False)
    assert done.returncode
    lab.assert_clean()


def test_tap_that_nobody_described(lab):
    """A <script> for a tap that no domain file names: refused, or the guest would come up without its filter."""
    before = settled(lab.host)
    lab.host.remove_hook("vmnet-hooks")
    nic = Nic(MAC, dev="tap0", script=str(IFUP), downscript=str(IFDOWN))
    done = lab.host.create(domain_xml("dom1", [nic]), "--paused", check=False)
    assert done.returncode
    assert settled(lab.host) == before
