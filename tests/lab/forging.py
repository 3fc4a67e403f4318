"""A host with a bridged and a routed guest that send forged frames without end, and the count of those that get out.

liar eth0 == lan-tap16 -- br0 -- lan0 == lan0 peer        bridged
other eth0 == tap11 ----- host - up0  == segment          routed
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from . import frames
from .domains import Interface
from .flood import __file__ as FLOOD
from .guest import Nic, wired
from .nodes import Node
from .routed import TAP_MAC
from .single import LAN, PUBLIC, Single, routed

PORT = 6666
BRIDGED = Interface("52:54:00:bb:00:10", "lan-tap16", "lan", ("10.7.0.16",), "br0")
ROUTED = routed(11, "tap11")
FORGED = frames.udp4("02:00:00:00:06:01", BRIDGED.mac, "10.7.0.1", "10.7.0.99", PORT)
ROUTED_FORGED = frames.udp4(TAP_MAC, "02:00:00:00:06:02", "192.0.2.11", "10.0.1.254", PORT)


@contextmanager
def flooding(guest: Node, *forged: bytes) -> Iterator[None]:
    """A guest sends forged frames, some of them each millisecond."""
    words = [frame.hex() for frame in forged or (FORGED,)]
    flood = guest.popen(["/usr/bin/python3", "-IS", FLOOD, "eth0", "1", *(words * 4)], stdout=-1)
    flood.stdout.readline()
    try:
        yield
        assert flood.poll() is None
    finally:
        flood.kill()


class Counter:
    """Counts the forged frames that get to a node through an interface."""

    def __init__(self, node: Node, ifname: str = "lan0"):
        chain = f'type filter hook ingress device "{ifname}" priority 0; udp dport {PORT} counter;'
        node.sh(f"nft 'table netdev seen-{ifname} {{ chain seen {{ {chain} }}; }}'")
        self.node, self.ifname = node, ifname

    @property
    def seen(self) -> int:
        return int(re.search(r"packets (\d+)", self.node.sh(f"nft list table netdev seen-{self.ifname}"))[1])


def keeps(node: Node, nic: Interface) -> bool:
    """Whether the agent's own table guards a guest."""
    family = "bridge" if nic.bridge else "inet"
    return nic.tap in node.sh(f"nft list set {family} vmnet_keeper guarded 2>/dev/null || :")


@contextmanager
def forging() -> Iterator[tuple[Single, Node, Node]]:
    """A host with a bridged and a routed guest that run."""
    with Single(PUBLIC + LAN, foreign=False) as one:
        one.host.sh("for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done")
        with (
            wired(one.host, BRIDGED.tap, "liar", Nic(BRIDGED.mac)) as guest,
            wired(one.host, ROUTED.tap, "other", Nic(ROUTED.mac, "192.0.2.11")) as other,
        ):
            yield one, guest, other
