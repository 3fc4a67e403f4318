"""An edit of a running guest's claim: what `check` says, and that the guest is reached at its new address after the remedy.
With a guest of plain QEMU, on a host that has no libvirtd.
"""

from __future__ import annotations

import pytest
from lab.capture import Capture
from lab.domains import Interface
from lab.nodes import Node, wire
from lab.routed import call, eventually, reach
from lab.single import Single

CONFIG = '[networks.hosting]\nmode = "hostroute"\nnetdev = "eth9"\n\n[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
MAC, OLD, NEW = "52:54:00:aa:00:10", "10.0.1.30", "10.0.1.40"
CLAIM = '[[interfaces]]\nmac = "{mac}"\nifname = "tap0"\nnetwork = "hosting"\nips = [{ips}]\n'


def claim(*addresses: str) -> str:
    return CLAIM.format(mac=MAC, ips=", ".join(f'"{address}"' for address in addresses))


@pytest.fixture
def one():
    with Single(CONFIG, foreign=False) as lab, Node("guest") as guest:
        lab.peer.sh("ip addr add 10.0.1.254/24 dev eth9")
        wire(lab.host, "tap0", guest, "eth0", f"fe{MAC[2:]}", MAC)
        lab.host.sh("ip link set tap0 up")
        guest.sh(f"ip link set eth0 up; ip addr add {OLD}/24 dev eth0; ip addr add {NEW}/24 dev eth0")
        lab.host.domain_toml("web1", claim(OLD))
        done = lab.host.ifup("tap0")
        assert done.returncode == 0, done.stderr
        lab.guest = guest
        yield lab


def answers(one: Single, address: str) -> bool:
    return reach([(one.peer, address)], wait=1) == []


def command(one: Single, *argv: str, status: int = 0) -> str:
    done = one.host.cli(*argv)
    assert done.returncode == status, done
    return done.stdout + done.stderr


@pytest.mark.parametrize("remedy", [("repair",), ("repair", "web1"), ("start", "web1")])
def test_an_address_more(remedy, one):
    assert eventually(lambda: answers(one, OLD)) and not answers(one, NEW)
    one.host.domain_toml("web1", claim(OLD, NEW))
    said = command(one, "check", status=1)
    assert "web1" in said and f"tap0: is to have {NEW} too" in said and "vmnet-hook start web1" in said, said
    assert not answers(one, NEW), "a running guest keeps what it was started with"
    command(one, *remedy)
    assert eventually(lambda: answers(one, NEW)) and answers(one, OLD)
    assert command(one, "check").startswith("ok")


def test_an_address_less(one):
    assert eventually(lambda: answers(one, OLD))
    one.host.domain_toml("web1", claim(NEW))
    assert f"is to have {NEW}, not {OLD}" in command(one, "check", status=1)
    command(one, "repair")
    assert eventually(lambda: answers(one, NEW)) and not answers(one, OLD)


def test_from_a_bridge_to_routes_and_back(one):
    """The hook made the tap a port, so that it is free to take it out again."""
    one.peer.sh("ip addr add 10.7.0.1/24 dev lan0")
    one.guest.sh("ip addr add 10.7.0.30/24 dev eth0")
    routed, bridged = claim(OLD), claim("10.7.0.30").replace("hosting", "lan")
    for text, gone, there in ((bridged, OLD, "10.7.0.30"), (routed, "10.7.0.30", OLD)):
        one.host.domain_toml("web1", text)
        assert "tap0: is to be on network " in command(one, "check", status=1)
        command(one, "start", "web1")
        assert eventually(lambda there=there: answers(one, there)) and not answers(one, gone)
        assert command(one, "check").startswith("ok")


def test_a_port_of_another_programs_bridge_is_left_there(one):
    one.host.sh("ip link set tap0 master br0")
    said = one.host.ifup("tap0").stderr
    assert "tap0 is a port of br0, and network hosting is routed" in said and "br0" in one.host.sh("ip link show tap0")


def test_a_guest_that_was_not_announced(one):
    """libvirtd was killed between `start` and `started`, and does not run. The guest has sent frames: it runs."""
    nic = Interface(MAC, "tap0", "hosting", [OLD])
    command(one, "stop", "web1")
    one.host.domain_toml("web1", None)
    call(one.host, "web1", "start", nic)
    assert eventually(lambda: answers(one, OLD))
    assert command(one, "check").startswith("ok"), "the hook for that may still come"
    said = "tap0: the guest runs and was not announced"
    assert eventually(lambda: said in one.host.cli("check").stdout, 20)
    assert "vmnet-hook start web1" in command(one, "check", status=1)
    with Capture(one.peer, "eth9", "arp") as seen:
        command(one, "start", "web1")
    assert seen.having(OLD), str(seen)
    assert command(one, "check").startswith("ok") and "active" in command(one, "status")


QEMU = """
import fcntl, os, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tap5", 0x1002))
print("made", flush=True)
sys.stdin.readline()
os.write(tap, bytes.fromhex("ffffffffffff525400aa00200806") + bytes(46))
print("sent", flush=True)
sys.stdin.readline()
"""


def test_a_guest_of_plain_qemu_that_calls_no_script(one):
    """Its tap ends with it, so that what was sent is sent by this guest."""
    text = claim("10.0.1.60").replace("tap0", "tap5").replace(MAC, "52:54:00:aa:00:20")
    one.host.domain_toml("web5", text)
    qemu = one.host.popen(["/usr/bin/python3", "-c", QEMU], stdin=-1, stdout=-1)
    assert qemu.stdout.readline() == "made\n"
    one.host.sh("ip link set tap5 up")
    assert command(one, "check").startswith("ok"), "its script may come"
    print("", file=qemu.stdin, flush=True)
    assert qemu.stdout.readline() == "sent\n"
    said = command(one, "check", status=1)
    assert "web5" in said and "tap5: network hosting claims it, and it is not set up" in said
    command(one, "start", "web5")
    assert command(one, "check").startswith("ok") and "10.0.1.60" in command(one, "status", "web5")


def test_another_guests_section_is_broken(one):
    """The guest, its check and its edit need networks.hosting alone."""
    one.host.config(CONFIG.replace("bridge =", "bridg ="))
    one.host.domain_toml("web2", "[[interfaces]\n")
    one.host.domain_toml("web1", claim(OLD, NEW))
    said = command(one, "check", status=2)
    assert "unknown key 'bridg'" in said and f"is to have {NEW} too" in said
    assert "tap0" in command(one, "status", status=2) and "tap0" in command(one, "graph", "--ascii", status=2)
    assert not answers(one, NEW)
    assert "unknown key 'bridg'" in command(one, "repair", status=2)
    assert eventually(lambda: answers(one, NEW))
    done = one.host.ifup("tap0")
    assert done.returncode == 0, done.stderr
    assert answers(one, NEW)
    assert "unknown key 'bridg'" in command(one, "up", status=2)
