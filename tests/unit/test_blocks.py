"""A prefix as blocks: an address matches the key of one if, and only if, it is in the prefix."""

from __future__ import annotations

import random
import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from vmnet_hooks.model import blocks

ADDRESS = {4: IPv4Address, 6: IPv6Address}
BITS = {4: 32, 6: 128}


def number(word: str) -> int:
    return int(word, 16) if word.startswith("0x") else int(ip_address(word))


def masks(what: str) -> list[tuple[int, int]]:
    """The masks and the ones of the rules."""
    found = re.findall(r"^\t\tiifname \. .* & (\S+) \| (\S+) @blocks\d goto approved$", blocks.rules(what, "goto approved"), re.M)
    return [(number(mask), number(one)) for mask, one in found]


def looked_up(version: int, address: int) -> set[int]:
    """The keys that the rules look up for an address."""
    return {address & mask | one for mask, one in masks(blocks.IPV4 if version == 4 else blocks.IPV6)}


@pytest.mark.parametrize(("version", "rules"), [(4, 8), (6, 32)])
def test_an_address_is_looked_up_a_bounded_number_of_times(version, rules):
    every = [blocks.IPV4, blocks.ARP] if version == 4 else [blocks.IPV6, blocks.TARGET]
    found = [masks(what) for what in every]
    assert found[0] == found[1] and len(found[0]) == len(set(found[0])) == rules


@pytest.mark.parametrize("version", [4, 6])
def test_of_every_length(version):
    bits, make = BITS[version], ADDRESS[version]
    chance = random.Random(version)
    for length in range(bits):
        first = chance.getrandbits(bits) >> bits - length << bits - length
        net = ip_network((make(first), length))
        keys = blocks.keys([str(net)])
        assert len(keys) <= (16 if not length else 8) and len(set(keys)) == len(keys)
        known, size = set(map(number, keys)), 1 << bits - length
        near = [first - 1, first, first + 1, first + size // 2, first + size - 1, first + size, *known]
        flipped = [first ^ 1 << bit for bit in range(bits)]
        for address in [*near, *flipped, *(chance.getrandbits(bits) for _ in range(20))]:
            if 0 <= address < 1 << bits:
                found = looked_up(version, address) & known
                assert len(found) == (make(address) in net), (net, make(address), found)


def test_keys_tell_the_length():
    """Prefixes of all lengths that begin at the same address, or hold it."""
    for version, address in ((4, "0.0.0.0"), (6, "::"), (4, "10.85.85.84"), (6, "2001:db8:5555:5555:5555:5555:5555:5554")):
        found: list[str] = []
        for length in blocks.LENGTHS[version]:
            found += blocks.keys([str(ip_network(f"{address}/{length}", strict=False))])
        assert len(set(found)) == len(found) == len(blocks.LENGTHS[version])


@pytest.mark.parametrize(
    ("prefixes", "keys"),
    [
        ([], []),
        (["198.51.100.16/28"], ["198.51.100.24"]),
        (["198.51.100.0/27"], ["198.51.100.8", "198.51.100.24"]),
        (["198.51.100.0/30"], ["198.51.100.1", "198.51.100.3"]),
        # They overlap, or become one.
        (["10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/31"], ["10.0.0.128"]),
        (["10.0.0.8/29", "10.0.0.0/29"], ["10.0.0.8"]),
        (["2001:db8::/64"], ["0x20010db8000000008000000000000000"]),
        (["::/4"], ["0x8000000000000000000000000000000"]),
    ],
)
def test_keys(prefixes, keys):
    assert blocks.keys(prefixes) == keys
