"""What a packet, and an ARP question, cost on a host with thousands of routed guests.

Every host has real taps, each of them open in one program, which writes and reads as guests; another is the wire. Packets from
guests go to the outside, packets from the outside to guests, each to or from a guest chosen at random. The hosts differ in
what is between; their turns alternate. Each proves that it forwarded: what was sent is counted where it comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from bench.hosts import (
    GATEWAY4,
    ONLY4,
    TAP_MAC,
    WIRE_MAC,
    CommandFailed,
    Host,
    Product,
    guest4,
    guest_mac,
    routed,
)
from bench.report import Effort, Row, middle, ratio

MANY, FEW = 4000, 10


class Traffic:
    """A host's guests and the wire, and what they measured: nanoseconds a packet."""

    def __init__(self, on: Host, count: int):
        self.on = on
        self.out: list[float] = []
        self.into: list[float] = []
        # The router is known: the host need not ask for it, and drops nothing meanwhile.
        on.node.run(["ip", "neigh", "replace", GATEWAY4, "lladdr", WIRE_MAC, "dev", "up0", "nud", "permanent"])
        self.guests = on.tool("frames", "guests", count)
        self.wire = on.tool("frames", "wire", "eth0", count, node=on.wire)

    def round(self, packets: int) -> None:
        """Some packets each way. Raises CommandFailed if any was lost."""
        self.guests.ask("drain")
        before = self.on.received()
        self.out.append(self.guests.ask(f"send {packets}")[0] / 1000)
        came = self.on.received() - before
        self.into.append(self.wire.ask(f"send {packets}")[0] / 1000)
        went = self.guests.ask("drain")[0]
        # The host says a thing or two of its own on the uplink.
        if not packets <= came <= packets + 200 or went != packets:
            raise CommandFailed(f"of {packets} packets each way, {came} came out and {went} went in")


def handmade(on: Host, count: int) -> None:
    """Routes in the main table, and what a host needs to forward: no rule, no filter but that of strict reverse paths, which
    the product's taps have too. What others' layouts begin with."""
    on.node.sh("""
        echo 1 > /proc/sys/net/ipv4/ip_forward
        for f in /proc/sys/net/ipv4/conf/t*/rp_filter; do echo 1 > $f; done
    """)
    on.batch(
        [
            f"route add {GATEWAY4} dev up0",
            f"route add default via {GATEWAY4} dev up0",
            *(f"link set t{n} address {TAP_MAC}" for n in range(count)),
            *(f"route add {guest4(n)} dev t{n}" for n in range(count)),
            *(f"neigh add {guest4(n)} lladdr {guest_mac(n)} dev t{n} nud permanent" for n in range(count)),
        ]
    )


def any_rule(on: Host, count: int) -> None:
    """The same, and one rule that no packet of a guest's matches."""
    handmade(on, count)
    on.batch(["rule add from 203.0.113.0/24 lookup 100"])


def rules_per_tap(on: Host, count: int) -> None:
    """As snf-network: a table for the guests, and a rule for each tap that leads there."""
    handmade(on, count)
    on.batch(
        [
            f"route add default via {GATEWAY4} dev up0 table 222",
            *(f"route add {guest4(n)} dev t{n} table 222" for n in range(count)),
            "rule add iif up0 lookup 222",
            *(f"rule add iif t{n} lookup 222" for n in range(count)),
        ]
    )


def filter_per_guest(on: Host, count: int) -> None:
    """As libvirt's nwfilter or older scripts: a rule for each guest."""
    handmade(on, count)
    lines = ["add table ip f", "add chain ip f c { type filter hook forward priority 0; policy accept; }"]
    lines += [f'add rule ip f c iifname "t{n}" ip saddr != {guest4(n)} drop' for n in range(count)]
    on.node.run(["nft", "-f", "-"], input="\n".join(lines) + "\n", timeout=300)


def ours(on: Host, count: int) -> None:
    """As the product sets it up. Nobody watches over it meanwhile."""
    on.start_agent()
    on.crowd([routed(n, dual=False) for n in range(count)])
    on.stop_agent()
    # Thousands of guests in a few seconds: what was asked before each start, for whether its address is in use, would still fill
    # the kernel's table of neighbours, which all namespaces share.
    on.node.sh("ip -4 neigh flush dev up0")


def ours_unfiltered(on: Host, count: int) -> None:
    """The same without its tables of nftables."""
    ours(on, count)
    on.node.sh("nft delete table inet vmnet; nft delete table arp vmnet; nft delete table netdev vmnet")


TRUSTED = ONLY4 + 'checksums = "trusted"\n'
LAYOUTS = {
    "main table": (handmade, ""),
    "policy table": (ours_unfiltered, ONLY4),
    "source filter": (ours, TRUSTED),
    "checksums": (ours, ONLY4),
}
OLDER = {
    "main table and any rule": (any_rule, ""),
    "a rule per tap": (rules_per_tap, ""),
    "a filter rule per guest": (filter_per_guest, ""),
}


def forwarding(product: Product, effort: Effort) -> Iterator[Row]:
    count = effort(MANY, 2000)
    layouts = LAYOUTS if effort.quick else LAYOUTS | OLDER
    with ExitStack() as stack:
        traffic = {}
        for name, (build, config) in layouts.items():
            on = stack.enter_context(Host(product, config))
            on.taps(count)
            build(on, count)
            traffic[name] = Traffic(on, count)
        measure(traffic, effort)
    plain, table, guard, checked = (traffic[name] for name in LAYOUTS)
    yield shown(f"{count} guests: packet to a guest, policy table / main table", table.into, plain.into, 1.3, 4.0)
    yield shown(f"{count} guests: packet from a guest, policy table / main table", table.out, plain.out, 1.3, 4.0)
    yield shown(f"{count} guests: packet to a guest, source filter / without", guard.into, table.into, 1.3, 4.0)
    yield shown(f"{count} guests: packet from a guest, source filter / without", guard.out, table.out, 1.3, 4.0)
    # These packets are small and few, so that each takes its way through the ifb alone.
    yield shown(f"{count} guests: packet to a guest, checksums checked / trusted", checked.into, guard.into, 1.05, 2.0)
    yield shown(f"{count} guests: packet from a guest, checksums checked / trusted", checked.out, guard.out, 1 / 0.75, 4.0)
    for name, other in traffic.items():
        if name in OLDER:
            yield shown(f"{count} guests: packet from a guest, {name} / main table", other.out, plain.out)


def measure(traffic: Mapping[str, Traffic], effort: Effort) -> None:
    """Turns. The slow layouts get fewer packets, but take part in every turn."""
    packets = effort(20000, 10000)
    share = {name: packets // 20 if name.startswith("a ") else packets for name in traffic}
    for turn in range(effort(40, 12) + 1):
        for name, one in traffic.items():
            one.round(share[name])
            if not turn:
                del one.out[:], one.into[:]


def shown(what: str, one: Sequence[float], other: Sequence[float], limit: float | None = None, ci: float | None = None) -> Row:
    return ratio(what, one, other, limit, ci, 1, "ns")


def arp(product: Product, effort: Effort) -> Iterator[Row]:
    """Guests ask for the gateway; the host asks for an address behind a tap, in the gateway's name."""
    count = effort(MANY, 2000)
    with Host(product, ONLY4) as few, Host(product, ONLY4) as many:
        times = []
        for on, guests in ((few, FEW), (many, count)):
            on.taps(guests)
            ours(on, guests)
            times.append(Asked(on, guests))
        for _ in range(effort(40, 12)):
            for one in times:
                one.round(50)
    small, large = times
    yield middle(f"{count} guests: ARP answer to who-has gateway", large.answers, 1e-6, "ms", 1.0, 3.0)
    yield ratio(f"ARP answer, {count} guests / {FEW}", large.answers, small.answers, None, None, 1e-3, "µs")
    yield ratio(f"ARP request of the host, {count} guests / {FEW}", large.asked, small.asked, 1.3, 4.0, 1e-3, "µs")
    name = f"ARP request of the host, to any of {count} guests / {FEW}"
    yield ratio(name, large.asked_any, small.asked_any, None, None, 1e-3, "µs")


class Asked:
    """ARP on one host: nanoseconds. The same number of guests takes part wherever hosts are compared: else it would be seen how
    many network devices fit into the processor's cache. `asked_any` shows that."""

    def __init__(self, on: Host, count: int):
        self.guests = on.tool("frames", "guests", count)
        self.answers: list[float] = []
        self.asked: list[float] = []
        self.asked_any: list[float] = []
        # The host has an address to ask from; that it asks in the gateway's name is the product's doing.
        on.node.run(["ip", "neigh", "replace", GATEWAY4, "lladdr", WIRE_MAC, "dev", "up0", "nud", "permanent"])
        self.guests.ask("drain")
        self.round(5)
        del self.answers[:], self.asked[:], self.asked_any[:]

    def round(self, times: int) -> None:
        self.answers += self.guests.ask(f"answer {times} {FEW}")
        self.asked += self.guests.ask(f"ask {times} {FEW}")
        self.asked_any += self.guests.ask(f"ask {times}")
