"""Frames to link-local groups, which bridges and switches take for their own, end at the port of a guest, whatever its filter.

guest eth0 == lan-tap16 -- br0 -- lan0 == lan0 peer
"""

from __future__ import annotations

import re

import pytest
from lab.domains import Interface
from lab.frames import tagged, udp4
from lab.groups import FLOODED, TAKEN, bpdu
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


FRAMES = {**FLOODED, **TAKEN, "BPDU, tagged": tagged(FLOODED["BPDU"], 0)}
SWITCH = 'roles = ["switch"]\n'


@pytest.mark.parametrize(
    ("network", "ips", "passes"),
    [
        ("", (OWN4,), set()),
        ("antispoof = true\n", (), set()),
        ("", (), set()),
        ('checksums = "trusted"\n', (OWN4,), set()),
        (SWITCH, (), set(FLOODED)),
        ("antispoof = true\n" + SWITCH, (), set(FLOODED)),
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
        # A tag of VLAN 0 does not matter to a bridge.
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
        # What `check` says of it opens it, and so does `repair`, with its chain.
        shut = f"link {TAP} state: its bridge has shut the port, as a BPDU came from it"
        remedy = f"ip link set dev {TAP} down && ip link set dev {TAP} up"
        said = one.host.cli("check").stdout
        assert shut in said and remedy in said
        one.host.sh(remedy)
        assert eventually(lambda: one.host.sh(state).strip() != "0")
        assert shut not in one.host.cli("check").stdout
        send(guest, "eth0", bpdu())
        assert eventually(lambda: one.host.sh(state).strip() == "0")
        assert one.host.cli("repair").returncode == 0
        assert one.host.cli("check").returncode == 0
        assert eventually(lambda: ping(guest, "10.7.0.99", wait=1) is not None, 20)
        send(guest, "eth0", bpdu())
        assert ping(guest, "10.7.0.99", wait=2) is not None
        one.stop("dom1", nic)


@pytest.mark.parametrize("more", ["", "antispoof = true\n"], ids=["unfiltered", "filtered"])
def test_no_ip_in_frames_to_groups(more):
    """The bridge hands them up as the port's own: what a switch sends by IP there would get past the limits of its network."""
    config = LAN + SWITCH + 'reach_host = "none"\n' + more
    with Single(config, foreign=False) as one, wired(one.host, TAP, "guest", Nic(MAC)) as guest:
        one.start("dom1", Interface(MAC, TAP, "lan", (), "br0"))
        one.host.sh(
            "ip addr add 10.7.0.1/24 dev br0; nft add table ip seen; nft add chain ip seen in "
            "'{ type filter hook prerouting priority raw; }'; nft add rule ip seen in udp dport 7777 counter"
        )
        sent = [udp4(f"01:80:c2:00:00:{last:02x}", MAC, OWN4, "10.7.0.1", 7777) for last in (0x03, 0x0E)]
        send(guest, "eth0", *sent, *(tagged(frame, 0) for frame in sent))
        assert "packets 0 " in one.host.run("nft list table ip seen").stdout
        send(guest, "eth0", udp4(one.host.run("cat /sys/class/net/br0/address").stdout.strip(), MAC, OWN4, "10.7.0.1", 7777))
        assert eventually(lambda: "packets 1 " in one.host.run("nft list table ip seen").stdout)
