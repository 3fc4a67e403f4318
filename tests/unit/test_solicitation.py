"""Neighbour solicitations: what is one, in Python and in the kernel's filter, which must lose none; answers; rates."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest
from lab import frames

from vmnet_hooks.agent.responder import Bucket, Prefixes
from vmnet_hooks.kernel import (
    announcement,
    neighbour_solicitation,
)
from vmnet_hooks.kernel.guest_socket import MAX_SOLICITATION as MAX_FRAME
from vmnet_hooks.kernel.guest_socket import program
from vmnet_hooks.kernel.neighbour_solicitation import Solicitation, parse

MAC, TAP = "52:54:00:aa:00:0b", "fe:ff:ff:ff:ff:ff"
SOURCE, TARGET = "2001:db8::b", "2001:db8::c"
GOOD = frames.solicitation(MAC, SOURCE, TARGET)
ASKED = Solicitation(frames.mac_bytes(MAC), ipaddress.IPv6Address(SOURCE).packed, ipaddress.IPv6Address(TARGET).packed)
HOST, OTHERHOST = 0, 3


def run(frame: bytes, pkttype: int = HOST, vlan: int = 0) -> int:
    """What the kernel's filter says: how many bytes to hand over, 0 for none. Classic BPF, as far as the program uses it."""
    ancillary = {0xFFFFF000 + 4: pkttype, 0xFFFFF000 + 48: vlan}
    accumulator = at = 0
    program_ = program(serves=False, proxies=True)
    while True:
        code, true, false, value = program_[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x80:
            accumulator = len(frame)
        elif code in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if value in ancillary:
                accumulator = ancillary[value]
            elif value + size > len(frame):
                return 0
            else:
                accumulator = int.from_bytes(frame[value : value + size], "big")
        elif code == 0x54:
            accumulator &= value
        else:
            assert code in (0x15, 0x25)
            at += true if (accumulator == value if code == 0x15 else accumulator > value) else false


def test_a_good_one():
    assert parse(GOOD) == ASKED
    assert run(GOOD) == MAX_FRAME


def test_without_its_option_and_with_a_nonce():
    assert parse(frames.solicitation(MAC, SOURCE, TARGET, lladdr=False)) == ASKED
    body = struct.pack("!BBHI", 135, 0, 0, 0) + ASKED.target + b"\x0e\x01\1\2\3\4\5\6" + b"\x01\x01" + ASKED.lladdr
    nonce = frames.ip6("33:33:ff:00:00:0c", MAC, SOURCE, "ff02::1:ff00:c", 58, body, 2, hops=255)
    assert parse(nonce) == ASKED and run(nonce)


def test_padding_does_no_harm():
    assert parse(GOOD + bytes(17)) == ASKED


@pytest.mark.parametrize(
    "frame",
    [
        frames.solicitation(MAC, "::", TARGET, lladdr=False),
        frames.solicitation(MAC, SOURCE, "fe80::1"),
        frames.solicitation(MAC, SOURCE, "febf::1"),
        frames.solicitation(MAC, SOURCE, "ff02::1"),
        frames.advertisement(MAC, SOURCE, TARGET),
        frames.udp6(TAP, MAC, SOURCE, TARGET, 53),
        GOOD[:21] + b"\xfe" + GOOD[22:],
        GOOD[:60],
        GOOD + bytes(MAX_FRAME),
    ],
    ids=["probe", "link-local", "link-local too", "multicast", "advertisement", "UDP", "hop limit", "cut off", "long"],
)
def test_what_nobody_is_woken_for(frame):
    """And what Python would not take either, but for what only the kernel sees."""
    assert run(frame) == 0
    assert len(frame) > MAX_FRAME or parse(frame) is None


def test_frames_for_others_and_tagged_ones():
    assert run(GOOD, pkttype=OTHERHOST) == 0
    assert run(GOOD, vlan=1) == 0


def test_garbage_never_raises_and_the_filter_loses_nothing():
    """Whatever Python takes for a solicitation the kernel lets through; most of the rest it does not."""
    chance = random.Random(4861)
    taken = passed = 0
    for _ in range(30_000):
        frame = bytearray(GOOD)
        for _ in range(chance.choice((0, 1, 1, 2, 4, 8))):
            frame[chance.randrange(len(frame))] = chance.choice((0, 1, 0x3A, 0x87, 0xFE, 0xFF, chance.randrange(256)))
        if chance.random() < 0.7:
            # With the right sum: or it would hide the rest.
            frame[56:58] = b"\0\0"
            pseudo = bytes(frame[22:54]) + struct.pack("!IHBB", len(frame) - 54, 0, 0, 58)
            frame[56:58] = struct.pack("!H", announcement.checksum(pseudo + bytes(frame[54:])))
        if chance.random() < 0.2:
            del frame[chance.randrange(len(frame)) :]
        if chance.random() < 0.1:
            frame += chance.randbytes(chance.randrange(600))
        found = parse(bytes(frame))
        taken += found is not None
        passed += bool(run(bytes(frame)))
        if found:
            assert run(bytes(frame)) or len(frame) > MAX_FRAME
            assert found == Solicitation(*(bytes(frame[a:b]) for a, b in ((6, 12), (22, 38), (62, 78))))
    for length in range(200):
        parse(chance.randbytes(length))
    assert 2_000 < taken <= passed < 28_000


def test_the_answer():
    frame = announcement.proxy_advertisement(frames.mac_bytes(TAP), ASKED.target, ASKED.lladdr, ASKED.source)
    link_local = str(ipaddress.IPv6Address(announcement.link_local(frames.mac_bytes(TAP))))
    body = struct.pack("!BBHI", 136, 0, 0, 0x40000000) + ASKED.target + b"\x02\x01" + frames.mac_bytes(TAP)
    assert frame == frames.ip6(MAC, TAP, link_local, SOURCE, 58, body, 2, hops=255)


def test_prefixes():
    some = Prefixes(map(ipaddress.IPv6Network, ("2001:db8::/64", "fe80::1/128")))
    inside = [a for a in ("2001:db8::5", "2001:db8:0:1::", "fe80::1", "fe80::2") if ipaddress.IPv6Address(a).packed in some]
    assert inside == ["2001:db8::5", "fe80::1"]
    assert bytes(16) not in Prefixes(())


def test_a_bucket():
    bucket = Bucket(rate=10, burst=3)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.2) for _ in range(3)] == [True, True, False]
    assert [bucket.take(200.0) for _ in range(4)] == [True, True, True, False]
    bucket.give_back()
    assert bucket.take(200.0) and not bucket.take(200.0)


def test_the_hosts_own_prefixes(fs):
    fs.create_file(
        "/proc/net/if_inet6",
        contents="20010db8000700000000000000000005 03 40 00 80     eth9\n"
        "20010db8000700000000000000000006 03 40 00 80     eth9\n"
        "20010db8000900000000000000000001 03 80 00 80     eth9\n"
        "fe800000000000000000000000000001 03 40 20 80     eth9\n"
        "20010db8000800000000000000000001 04 30 00 80     eth10\n",
    )
    assert list(map(str, neighbour_solicitation.on_link("eth9"))) == ["2001:db8:7::/64"]
    assert list(map(str, neighbour_solicitation.on_link("eth10"))) == ["2001:db8:8::/48"]
    assert neighbour_solicitation.on_link("lo") == ()


def test_a_kernel_without_ipv6(fs):
    assert neighbour_solicitation.on_link("eth9") == ()
