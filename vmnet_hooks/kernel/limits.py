"""Warnings before a limit of the kernel is reached: ports of a bridge, neighbours, tracked connections. Beyond these limits
packets are lost, and no call fails."""

import os

from . import sysfs
from .objects import sysctl

MAX_PORTS = 1023
"""Ports of one bridge: BR_MAX_PORTS is 1 << 10, and port 0 is not used (net/bridge/br_private.h)."""

NEAR = 0.8
"""The part of a limit from which on we warn."""

STATISTICS = "/proc/net/stat"


def ceilings(permanent: tuple[int, int]) -> list[str]:
    """Return one line for each limit that is near: what is nearly full, and the remedy. `permanent` are the numbers of our
    permanent neighbour entries, (IPv4, IPv6), which the kernel does not count against its limit."""
    return [*_ports(), *_neighbours(4, "arp_cache", permanent[0]), *_neighbours(6, "ndisc_cache", permanent[1]), *_connections()]


def _ports() -> list[str]:
    try:
        names = sorted(os.listdir(sysfs.ROOT))
    except OSError:
        return []
    found = {name: len(sysfs.files(name, "brif")) for name in names if sysfs.exists(f"{name}/brif")}
    return [
        f"bridge {name} has {count} ports, and the kernel takes {MAX_PORTS}: plug further guests into another bridge"
        for name, count in found.items()
        if count >= NEAR * MAX_PORTS
    ]


def _neighbours(version: int, table: str, permanent: int) -> list[str]:
    key = f"net/ipv{version}/neigh/default/gc_thresh3"
    # The limit is the machine's. Other network namespaces than the initial one do not have this key.
    most = int(sysctl.read(key) or 0)
    count = _entries(f"{STATISTICS}/{table}") - permanent
    if not most or count < NEAR * most:
        return []
    return [
        f"the IPv{version} neighbour table has {count} entries, and takes {most}: beyond that new peers are not reached; "
        f"run `sysctl -w {key.replace('/', '.')}={8 * most}` (and put it into /etc/sysctl.d)"
    ]


def _entries(path: str) -> int:
    """Return the number of entries of a neighbour table: the first column, hexadecimal, and the same in the row of every CPU."""
    try:
        with open(path) as file:
            return int(file.readlines()[1].split()[0], 16)
    except (OSError, IndexError, ValueError):
        return 0


def _connections() -> list[str]:
    most, count = (int(sysctl.read(f"net/netfilter/nf_conntrack_{word}") or 0) for word in ("max", "count"))
    if not most or count < NEAR * most:
        return []
    return [
        f"{count} connections are tracked, and {most} can be: beyond that packets of new ones are dropped; "
        f"run `sysctl -w net.netfilter.nf_conntrack_max={4 * most}` (and put it into /etc/sysctl.d)"
    ]
