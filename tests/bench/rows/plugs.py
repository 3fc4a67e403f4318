"""The agent's own time for a guest, and what of it is the kernel's, on a host with few guests and on one with thousands; and its
memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.domains import Interface

from bench.hosts import BRIDGED, BRIDGES, DUAL, ONLY4, TRUSTED, Commands, Host, Product, bridged, prefixed, routed
from bench.report import Effort, Row, middle, ratio

FEW, MANY, REMEMBERED, MANY_PREFIXES = 10, 3000, 1000, 4000
KINDS: dict[str, tuple[str, Callable[[int], Interface], float, float]] = {
    "routed IPv4+IPv6 (proxy ND)": (DUAL, routed, 1.6, 5.0),
    "routed IPv4": (ONLY4, lambda number: routed(number, dual=False), 1.1, 4.0),
    "bridged": (BRIDGED, bridged, 1.1, 4.0),
}
"""Configuration, NIC of a guest, limits for a guest among many."""

MIB = 1024


def plugs(product: Product, effort: Effort) -> Iterator[Row]:
    many = effort(MANY, 1000)
    for kind, (config, nic, limit, ci_limit) in KINDS.items():
        with Host(product, config, BRIDGES) as small, Host(product, config, BRIDGES) as large:
            first = kind.startswith("routed IPv4+IPv6")
            places = ((small, FEW), (large, many))
            for on, guests in places:
                on.taps(guests + 1)
                # As libvirt does when it calls: a tap without a carrier is looked at more closely.
                on.hold(guests)
                on.start_agent()
            small.crowd([nic(number) for number in range(FEW)])
            if first:
                large.crowd([nic(number) for number in range(REMEMBERED)], each=1)
                yield memory(large)
                large.crowd([nic(number) for number in range(REMEMBERED, many)])
            else:
                large.crowd([nic(number) for number in range(many)])
            for on, guests in places:
                turn(on, nic(guests), 2)
            times = turns(places, nic, effort(25, 8))
            bare = {on: on.bare(calls(on, nic(guests), "start", "stopped"), effort(50, 10), 0.02) for on, guests in places}
        few, lots = times[small], times[large]
        if first:
            yield middle("agent's own time: PLUG of libvirt, routed IPv4+IPv6", few["start"], 1e3, "ms", 5, 12)
            yield middle("agent's own time: UNPLUG of libvirt, routed IPv4+IPv6", few["stopped"], 1e3, "ms")
        yield ratio(f"agent's own time: PLUG of guest {many} / {FEW}, {kind}", lots["start"], few["start"], limit, ci_limit)
        yield ratio(f"agent's own time: UNPLUG of guest {many} / {FEW}, {kind}", lots["stopped"], few["stopped"])
        few, lots = bare[small], bare[large]
        yield ratio(f"the kernel alone: PLUG of guest {many} / {FEW}, {kind}", lots["start"], few["start"])
        yield ratio(f"the kernel alone: UNPLUG of guest {many} / {FEW}, {kind}", lots["stopped"], few["stopped"])


def prefixes(product: Product, effort: Effort) -> Iterator[Row]:
    """One more guest with prefixes. Checksums are trusted: it is the filter of addresses that is measured."""
    many = effort(MANY_PREFIXES, 1000)
    with Host(product, TRUSTED, BRIDGES) as small, Host(product, TRUSTED, BRIDGES) as large:
        places = ((small, FEW), (large, many))
        for on, guests in places:
            on.taps(guests + 1)
            on.hold(guests)
            on.start_agent()
            # So few at a time that no set is listed: their elements are asked for, one by one.
            on.crowd([prefixed(number) for number in range(guests)], each=10)
            turn(on, prefixed(guests), 2)
        times = turns(places, prefixed, effort(25, 8))
    few, lots = times[small], times[large]
    yield ratio(f"agent's own time: PLUG of guest {many} / {FEW}, with prefixes", lots["start"], few["start"], 1.1, 4.0)
    yield ratio(f"agent's own time: UNPLUG of guest {many} / {FEW}, with prefixes", lots["stopped"], few["stopped"], None, 4.0)


def calls(on: Host, nic: Interface, *operations: str) -> Commands:
    return {operation: on.hook("guest", operation, nic) for operation in operations}


def turn(on: Host, nic: Interface, repeat: int) -> dict[str, list[float]]:
    """One guest comes and goes, some times."""
    made = calls(on, nic, "start", "started", "stopped")
    return on.requests(made, list(made), repeat, 0.02)


Times = dict[str, list[float]]


def turns(places: Sequence[tuple[Host, int]], nic: Callable[[int], Interface], count: int) -> dict[Host, Times]:
    """The next guest of each host comes and goes, the hosts in turns."""
    times: dict[Host, Times] = {on: {"start": [], "started": [], "stopped": []} for on, _ in places}
    for _ in range(count):
        for on, guests in places:
            for name, series in turn(on, nic(guests), 4).items():
                times[on][name] += series
    return times


def memory(on: Host) -> Row:
    # What it reads at leisure after a plug belongs to it.
    time.sleep(2)
    status = Path(f"/proc/{on.agent.pid}/status").read_text()
    resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])
    return Row(f"agent's memory with {REMEMBERED} guests", resident / MIB, "MiB", 80, 120)
