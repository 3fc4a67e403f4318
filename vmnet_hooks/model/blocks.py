"""Prefixes of guests in hash sets: one more costs the same among ten and among thousands, unlike in an interval set of nft.

A prefix is split into blocks of few lengths, so that there are few to look up. The key of a block is the address in its middle:
the bits that its addresses share, a one, and zeros. That tells the length as well, so one set holds the blocks of all lengths.
A rule for each length makes the key of the block of that length which an address is in: `address & mask | one`.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, collapse_addresses, ip_network

LENGTHS = {
    4: (28, 24, 31, 20, 16, 12, 8, 4),
    6: (64, 56, 48, 60, 52, 44, 40, 36, 32, 127, *range(124, 64, -4), *range(28, 0, -4)),
}
"""The lengths of blocks by IP version, those that are looked up first at the front. With steps of four bits, a prefix is at
most eight blocks, unless it is shorter than /4. Single addresses are no blocks: they are in sets of their own."""
_BITS = {4: 32, 6: 128}
ARP, IPV4, IPV6, TARGET = "arp saddr ip", "ip saddr", "@nh,64,128", "@th,64,128"
"""What is looked up: the sender of ARP, the source of a packet, the target of neighbour discovery. nft can't read its own
listing of `ip6 saddr & mask | one`."""


def keys(prefixes: Iterable[str]) -> list[str]:
    """Return the parts of keys of a set's elements for prefixes of one family: IPv4 addresses, or hexadecimal numbers."""
    found = []
    for net in collapse_addresses([ip_network(prefix) for prefix in prefixes]):  # type: ignore[type-var]
        bits = _BITS[net.version]
        length = min(length for length in LENGTHS[net.version] if length >= net.prefixlen)
        first, size = int(net.network_address), 1 << bits - length
        middles = range(first + size // 2, first + net.num_addresses, size)
        found += [str(IPv4Address(key)) if net.version == 4 else f"{key:#x}" for key in middles]
    return found


def rules(what: str, verdict: str, match: str = "") -> str:
    """Return the rules of a chain: `verdict` for a packet that has an address of a block of the tap's there. `match` is what
    else it must match."""
    version = 4 if what in (ARP, IPV4) else 6
    return "".join(f"\t\t{match}iifname . {what} & {_masked(version, length)} {verdict}\n" for length in LENGTHS[version])


def _masked(version: int, length: int) -> str:
    bits = _BITS[version]
    mask, one = (1 << bits) - (1 << bits - length), 1 << bits - length - 1
    if version == 4:
        return f"{IPv4Address(mask)} | {IPv4Address(one)} @blocks4"
    return f"{mask:#x} | {one:#x} @blocks6"
