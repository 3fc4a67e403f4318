"""The kernel's own ceilings, told of before they are hit: beyond them nothing fails that anybody would notice at once."""

import os

from . import sysctl, sysfs

MAX_PORTS = 1023
"""Of one bridge: BR_MAX_PORTS is 1 << 10, and 0 is no port (net/bridge/br_private.h)."""

NEAR = 0.8
"""From which part of a ceiling on it is told."""

STATISTICS = "/proc/net/stat"


def ceilings(permanent: tuple[int, int]) -> list[str]:
    """One line each: what is nearly full, and what to do. `permanent` is how many neighbour entries are ours, IPv4 and IPv6: they
    do not count."""
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
    # Of the whole machine: a network namespace has no such key of its own.
    most = int(sysctl.read(key) or 0)
    count = _entries(f"{STATISTICS}/{table}") - permanent
    if not most or count < NEAR * most:
        return []
    return [
        f"the IPv{version} neighbour table has {count} entries, and takes {most}: beyond that new peers are not reached; "
        f"run `sysctl -w {key.replace('/', '.')}={8 * most}` (and put it into /etc/sysctl.d)"
    ]


def _entries(path: str) -> int:
    """The first column, `entries`, in hexadecimal: the same for every processor."""
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
