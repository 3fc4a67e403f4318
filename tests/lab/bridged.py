"""Two guests on a bridge: one that sends, and one that nothing filters, which listens.

liar eth0 == tap1 -- br0 or br9 -- tap2 == eth0 victim
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .domains import Interface
from .guest import Nic, wired
from .nodes import Node
from .roles import GW4, GW6, MAC, OWN4, OWN6, VICTIM
from .single import LAN, Single

BR9 = f'[bridges.br9]\nports = ["lan0"]\nmcast_snooping = false\naddresses = ["{GW4}/24", "{GW6}/64"]\n'
STRICT = "antispoof = true\n"
BESIDE = BR9 + LAN.replace("br0", "br9")
ANYCAST = BR9 + "anycast_gateway = true\n" + LAN.replace("br0", "br9")


@contextmanager
def guests(one: Single, nic: Interface) -> Iterator[tuple[Node, Node]]:
    """The guest, and the one that listens: nothing filters that one."""
    other = Interface(VICTIM, "tap2", "lan", (), nic.bridge, filter=False)
    with wired(one.host, "tap1", "liar", Nic(MAC)) as liar, wired(one.host, "tap2", "victim", Nic(VICTIM)) as victim:
        one.start("dom1", nic)
        one.start("dom2", other)
        yield liar, victim
        one.stop("dom2", other)
        one.stop("dom1", nic)


def of_kind(kind: str, bridge: str = "br0", roles: Sequence[str] | None = None) -> Interface:
    return Interface(MAC, "tap1", "lan", () if kind != "addressed" else (OWN4, OWN6), bridge, kind != "unfiltered", roles)


def takes_over(one: Single) -> None:
    """The declared bridge is made, with the port of br0, which goes."""
    one.host.sh("ip link set lan0 nomaster; ip link del br0")
    done = one.host.cli("up")
    assert done.returncode == 0, done.stderr
