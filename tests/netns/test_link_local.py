"""Frames to link-local groups, which bridges and switches take for their own, end at the port of a guest, whatever its filter.

guest eth0 == lan-tap16 -- br0 -- lan0 == lan0 peer
"""

from __future__ import annotations

import re
import struct

import pytest
from lab.domains import Interface
from lab.frames import ethernet, mac_bytes, tagged, udp4
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.offload import Listener
from lab.routed import eventually, ping, send
from lab.single import LAN, Single

MAC, PEER, OWN4 = "52:54:00:bb:00:10", "02:00:00:00:06:01", "10.7.0.16"
TAP = "lan-tap16"
SENTINEL = udp4(PEER, MAC, OWN4, "10.7.0.99", 7777)
STP = """
[bridges.br5]
ports = ["lan0"]
stp = true
forward_delay = 4
max_age = 6
hello_time = 1
[networks.lan]
mode = "bridged"
bridge = "br5"
"""


def llc(dst: str, payload: bytes) -> bytes:
    """An IEEE 802.3 frame: a length, and no EtherType."""
    return (mac_bytes(dst) + mac_bytes(MAC) + struct.pack("!H", len(payload)) + payload).ljust(60, b"\0")


def bpdu(dst: str = "01:80:c2:00:00:00", head: bytes = b"\x42\x42\x03") -> bytes:
    """The configuration message of a root bridge of priority 0: IEEE 802.1D, 9.3.1."""
    me = b"\0\0" + mac_bytes(MAC)
    times = struct.pack("!HHHH", 0, 6 * 256, 256, 4 * 256)
    return llc(dst, head + bytes(5) + me + bytes(4) + me + b"\x80\x01" + times)


FRAMES = {
    "BPDU": bpdu(),
    "BPDU, tagged": tagged(bpdu(), 0),
    "PVST+": bpdu("01:00:0c:cc:cc:cd", b"\xaa\xaa\x03\0\0\x0c\x01\x0b"),
    "CDP": llc("01:00:0c:cc:cc:cc", b"\xaa\xaa\x03\0\0\x0c\x20\0" + bytes(30)),
    "MVRP": ethernet("01:80:c2:00:00:21", MAC, 0x88F5, bytes(46)),
    "PAUSE": ethernet("01:80:c2:00:00:01", MAC, 0x8808, bytes(46)),
    "LACP": ethernet("01:80:c2:00:00:02", MAC, 0x8809, bytes(110)),
    "EAPOL": ethernet("01:80:c2:00:00:03", MAC, 0x888E, bytes(46)),
    "LLDP": ethernet("01:80:c2:00:00:0e", MAC, 0x88CC, bytes(46)),
    "LLDP to the nearest customer bridge": ethernet("01:80:c2:00:00:00", MAC, 0x88CC, bytes(46)),
}
SWITCH = 'roles = ["switch"]\n'
FLOODED = {"BPDU", "PVST+", "CDP", "MVRP", "LLDP to the nearest customer bridge"}
"""What a bridge without STP floods; a tag of VLAN 0 does not matter to it."""


@pytest.mark.parametrize(
    ("network", "ips", "passes"),
    [
        ("", (OWN4,), set()),
        ("antispoof = true\n", (), set()),
        ("", (), set()),
        ('checksums = "trusted"\n', (OWN4,), set()),
        (SWITCH, (), FLOODED),
        ("antispoof = true\n" + SWITCH, (), FLOODED),
    ],
    ids=["addressed", "MAC alone", "unfiltered", "trusted", "switch", "switch with a filter"],
)
def test_groups(network, ips, passes):
    with Single(LAN + network, foreign=False) as one, wired(one.host, TAP, "guest", Nic(MAC)) as guest:
        one.start("dom1", Interface(MAC, TAP, "lan", list(ips), "br0"))
        with Listener(one.peer, "lan0") as listener:
            send(guest, "eth0", *FRAMES.values(), SENTINEL)
            assert listener.has(SENTINEL)
            came = {name for name, frame in FRAMES.items() if listener.has(frame, 0)}
        assert came - {"BPDU, tagged"} == passes
        assert one.host.cli("check").returncode == 0
        one.stop("dom1", Interface(MAC, TAP, "lan", list(ips), "br0"))


def root_of(host: Node) -> str:
    return re.search(r"designated_root (\S+)", host.run("ip -d link show br5").stdout)[1]


@pytest.mark.parametrize("ips", [(OWN4,), ()], ids=["addressed", "unfiltered"])
def test_no_guest_becomes_the_root(ips):
    """And where the chain of its port is gone, its port is shut by the first BPDU."""
    nic = Interface(MAC, TAP, "lan", list(ips), "br5")
    with Single(STP, foreign=False) as one, wired(one.host, TAP, "guest", Nic(MAC, OWN4)) as guest:
        one.host.sh("ip link set lan0 nomaster; ip link del br0")
        assert one.host.cli("up").returncode == 0
        one.peer.sh("ip addr add 10.7.0.99/24 dev lan0")
        one.start("dom1", nic)
        before = root_of(one.host)
        assert eventually(lambda: ping(guest, "10.7.0.99", wait=1) is not None, 20), "its port forwards"
        for _ in range(3):
            send(guest, "eth0", bpdu())
        assert ping(guest, "10.7.0.99", wait=2) is not None
        assert root_of(one.host) == before
        one.host.run(f"nft delete chain netdev vmnet port-{TAP}")
        send(guest, "eth0", bpdu())
        state = f"cat /sys/class/net/{TAP}/brport/state"
        assert eventually(lambda: one.host.sh(state).strip() == "0")
        assert root_of(one.host) == before
        assert one.host.cli("check").returncode == 1
        assert one.host.cli("repair").returncode == 0
        one.host.sh(f"ip link set {TAP} down; ip link set {TAP} up")
        assert eventually(lambda: ping(guest, "10.7.0.99", wait=1) is not None, 20)
        one.stop("dom1", nic)
