"""Router advertisements, read by tests/lab/dhcp.py: RFC 4861, RFC 4862, RFC 4191, RFC 8106."""

import random
import struct
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from lab import dhcp

from vmnet_hooks.services import router_advertisement
from vmnet_hooks.services.terms import Terms

GUEST, OTHER, MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002"), bytes.fromhex("feffffffffff")
IP, Net = IPv6Address, IPv6Network
SOURCE_LLADDR, PREFIX, MTU, ROUTE, RDNSS, DNSSL = 1, 3, 5, 24, 25, 31
MANAGED, OTHER_CONFIGURATION = 0x80, 0x40
LLADDR = b"\1\1" + GUEST
ALL_NODES = (b"\x33\x33\0\0\0\1", IP("ff02::1"))
TERMS = Terms(
    mac=GUEST,
    lease=3600,
    mtu=1450,
    domain="example.org",
    search=("example.org", "lab.example.org"),
    addresses6=(IP("2001:db8::10"),),
    router6=IP("fe80::1"),
    prefixes6=(Net("2001:db8::/64"), Net("2001:db8:0:1::/64")),
    dns6=(IP("2001:db8::53"), IP("2001:db8::54")),
    routes6=(Net("2001:db8:ff::/48"), Net("::/0"), Net("2001:db8:1::1/128"), Net("2001:db8:2::/65")),
)
BARE = Terms(mac=GUEST, lease=3600, mtu=1500, router6=IP("fe80::1"))


def read(sent: bytes | None) -> tuple[tuple[bytes, IPv6Address], dhcp.Advertisement] | None:
    """(where an advertisement goes, what it tells); what all have in common is checked."""
    if sent is None:
        return None
    answer = dhcp.read(sent)
    assert (answer.from_mac, answer.source, answer.hops, answer.ports) == (MAC, IP("fe80::1"), 255, None)
    told = dhcp.read_ra(answer.content)
    assert told.hop_limit == 64 and told.all(SOURCE_LLADDR) == [MAC]
    return (answer.to_mac, answer.destination), told


def ask(*options: bytes, terms: Terms = TERMS, mac: bytes = GUEST, code: int = 0, **fields):
    return read(router_advertisement.answer(dhcp.icmp6(dhcp.solicitation(*options, code=code), mac, **fields), terms, MAC))


def tell(terms: Terms, lifetime: int | None = None) -> dhcp.Advertisement:
    to, told = read(router_advertisement.unsolicited(terms, MAC, lifetime))
    assert to == ALL_NODES
    return told


def test_an_advertisement_byte_by_byte():
    terms = replace(BARE, prefixes6=(Net("2001:db8::/64"),), dns6=(IP("2001:db8::53"),), slaac=True, on_link6=True)
    sent = router_advertisement.unsolicited(terms, MAC)
    message = bytes.fromhex(
        "40400708 00000000 00000000"  # hop limit, O, 1800 s
        "0101feffffffffff 05010000 000005dc"
        "030440c0 00015180 00003840 00000000 20010db8000000000000000000000000"
        "19030000 00000708 20010db8000000000000000000000053"
    )
    head = bytes.fromhex("333300000001feffffffffff86dd6c000000") + (len(message) + 4).to_bytes(2, "big") + b"\x3a\xff"
    assert sent[:22] == head and sent[22:54] == IP("fe80::1").packed + IP("ff02::1").packed
    assert sent[54:56] == b"\x86\0" and sent[58:] == message
    dhcp.read(sent)


def test_where_answers_go():
    assert ask(LLADDR)[0] == (GUEST, IP("fe80::5054:ff:fe00:1"))
    assert ask(source="2001:db8::10")[0] == (GUEST, IP("2001:db8::10"))
    assert ask(source="::")[0] == ALL_NODES
    assert ask(b"\1\1" + OTHER)[0][0] == GUEST, "an option proves nothing"
    assert ask(LLADDR)[1] == ask(source="::")[1] == tell(TERMS)


def test_what_is_told():
    told = tell(TERMS)
    assert (told.flags, told.lifetime) == (MANAGED | OTHER_CONFIGURATION, 1800)
    assert told.all(MTU) == [struct.pack("!HI", 0, 1450)]
    assert told.all(RDNSS) == [struct.pack("!HI", 0, 1800) + IP("2001:db8::53").packed + IP("2001:db8::54").packed]
    (search,) = told.all(DNSSL)
    assert search[:6] == struct.pack("!HI", 0, 1800)
    assert dhcp.names(search[6:].rstrip(b"\0") + b"\0") == ["example.org", "lab.example.org"]
    assert told.all(ROUTE) == [
        bytes([48, 0]) + struct.pack("!I", 1800) + IP("2001:db8:ff::").packed[:8],
        bytes([0, 0]) + struct.pack("!I", 1800),
        bytes([128, 0]) + struct.pack("!I", 1800) + IP("2001:db8:1::1").packed,
        bytes([65, 0]) + struct.pack("!I", 1800) + IP("2001:db8:2::").packed,
    ]
    assert [value[14:] for value in told.all(PREFIX)] == [IP("2001:db8::").packed, IP("2001:db8:0:1::").packed]


@pytest.mark.parametrize("on_link", [False, True])
@pytest.mark.parametrize("slaac", [False, True])
def test_prefixes(on_link, slaac):
    prefixes = (Net("2001:db8::/64"), Net("2001:db8::/56"))
    values = tell(replace(TERMS, prefixes6=prefixes, on_link6=on_link, slaac=slaac)).all(PREFIX)
    fields = [struct.unpack("!BBIII16s", value) for value in values]
    link = 0x80 * on_link
    assert [(length, flags) for length, flags, *_ in fields] == [(64, link | 0x40 * slaac), (56, link)]
    for _, _, valid, preferred, reserved, _ in fields:
        assert valid >= preferred > 3 * 600 and reserved == 0


def test_flags():
    """M for addresses of DHCPv6, O for anything else that it tells."""
    assert tell(BARE).flags == 0
    assert tell(replace(BARE, addresses6=(IP("2001:db8::1"),))).flags == MANAGED
    for told in ({"dns6": (IP("::1"),)}, {"ntp6": (IP("::1"),)}, {"search": ("a",)}, {"domain": "a"}):
        assert tell(replace(BARE, **told)).flags == OTHER_CONFIGURATION


def test_what_there_is_not_is_not_told():
    assert {kind for kind, _ in tell(BARE).options} == {SOURCE_LLADDR, MTU}
    assert tell(replace(BARE, mtu=1200)).all(MTU) == [], "Linux refuses less than 1280"
    assert dhcp.names(tell(replace(BARE, domain="a.b")).all(DNSSL)[0][6:11]) == ["a.b"]
    assert tell(replace(BARE, domain="ü")).all(DNSSL) == []


def test_a_router_that_goes():
    gone = tell(TERMS, 0)
    assert gone.lifetime == 0
    assert all(value[2:6] == bytes(4) for kind in (RDNSS, DNSSL, ROUTE) for value in gone.all(kind))
    assert gone.all(PREFIX) == tell(TERMS).all(PREFIX), "the addresses stay the guest's"
    assert tell(TERMS, 9000).lifetime == 9000 and tell(TERMS, 1 << 20).lifetime == 0xFFFF


def test_a_router_elsewhere_has_its_own_mac():
    """The link-layer address is the router's, and so is the sender: the guest's neighbour entry comes from it."""
    frame = router_advertisement.unsolicited(replace(TERMS, router_mac=b"\2\0\0\0\7\7"), MAC)
    assert frame[6:12] == b"\2\0\0\0\7\7" and b"\1\1\2\0\0\0\7\7" in frame and MAC not in frame


def test_without_a_router_nothing_is_told():
    assert router_advertisement.unsolicited(replace(TERMS, router6=None), MAC) is None
    assert ask(LLADDR, terms=replace(TERMS, router6=None)) is None


def test_a_packet_is_not_longer_than_the_link_allows():
    many = tuple(Net(f"2001:db8:{number:x}::/48") for number in range(1, 200))
    for mtu in (1280, 1500):
        sizes = []
        for first in ((), (Net("::/0"),)):
            # Routes of 16 bytes each, or one of 8 before them.
            sent = router_advertisement.unsolicited(replace(TERMS, routes6=first + many, mtu=mtu), MAC)
            sizes.append(len(sent) - 14)
            told = read(sent)[1]
            assert told.all(RDNSS) and told.all(DNSSL) and told.all(MTU)
        assert max(sizes) == mtu // 8 * 8
    # No option is longer than 255 units of 8 bytes.
    for number in (127, 128):
        told = tell(replace(TERMS, mtu=9000, dns6=tuple(map(IP, range(number)))))
        assert [len(value) for value in told.all(RDNSS)] == ([2038] if number == 127 else []) and told.all(ROUTE)


def test_valid_solicitations():
    """RFC 4861, 6.1.1."""
    assert ask() and ask(LLADDR) and ask(LLADDR, b"\x0e\1" + bytes(6)) and ask(b"\xfd\2" + bytes(14)), (
        "unknown options are skipped"
    )
    assert ask(to="fe80::1"), "to the router itself"
    assert ask(LLADDR, mac=OTHER) is None
    assert ask(hops=254) is None
    assert ask(code=1) is None
    assert ask(damage=1) is None
    assert ask(LLADDR, source="::") is None, "a node without an address has no source link-layer option"
    assert ask(b"\x0e\1" + bytes(6), source="::")
    assert ask(b"\1\0" + bytes(6)) is None and ask(b"\1\2" + bytes(6)) is None
    assert ask(b"\1") is None and ask(b"\1\1" + bytes(5)) is None and ask(LLADDR, b"\1\1") is None
    assert ask(to="ff02::1") is None and ask(to="fe80::2") is None
    for source in ("ff02::1", "::1", "fe80::1"):
        assert ask(source=source) is None, source
    frame = dhcp.icmp6(dhcp.solicitation(LLADDR), GUEST)
    assert read(router_advertisement.answer(frame + b"trailer", TERMS, MAC))
    assert router_advertisement.answer(frame[:12] + b"\x81\0\0\7" + frame[12:], TERMS, MAC) is None
    for kind in (0, 128, 134, 135, 136, 137, 255):
        message = bytes([kind]) + dhcp.solicitation(LLADDR)[1:]
        assert router_advertisement.answer(dhcp.icmp6(message, GUEST), TERMS, MAC) is None
    for length in (0, 1, 3, 4, 7):
        short = dhcp.icmp6(dhcp.solicitation() + bytes(8), GUEST)[: 54 + length]
        assert router_advertisement.answer(fitting(short), TERMS, MAC) is None


def seeds() -> list[bytes]:
    nonce = b"\x0e\1" + bytes(range(6))
    return [
        dhcp.icmp6(dhcp.solicitation(LLADDR), GUEST),
        dhcp.icmp6(dhcp.solicitation(LLADDR, nonce), GUEST),
        dhcp.icmp6(dhcp.solicitation(nonce, nonce), GUEST, source="::"),
        dhcp.icmp6(dhcp.solicitation(), GUEST, source="2001:db8::10"),
    ]


def fitting(frame: bytes) -> bytes:
    """The frame with a length and a checksum that fit it."""
    length, message = len(frame) - 54, frame[54:56] + b"\0\0" + frame[58:]
    total = 0xFFFF - dhcp.ones_sum(frame[22:54] + struct.pack("!II", length, 58) + message)
    return frame[:18] + length.to_bytes(2, "big") + frame[20:56] + total.to_bytes(2, "big") + frame[58:]


def test_every_part_of_a_message_is_survived():
    for frame in seeds():
        assert read(router_advertisement.answer(frame, TERMS, MAC))
        for length in range(len(frame)):
            assert router_advertisement.answer(frame[:length], TERMS, MAC) is None
            if length >= 58:
                told = read(router_advertisement.answer(fitting(frame[:length]), TERMS, MAC))
                assert bool(told) == (length >= 62 and length % 8 == 6)


def test_random_and_mutated_frames():
    """Whatever comes, an answer is well-formed, and for the guest, who asked for it, or for all nodes."""
    rng = random.Random(4861)
    frames, answered = seeds(), 0
    for _ in range(10_000):
        if rng.random() < 0.1:
            frame = rng.randbytes(12) + b"\x86\xdd\x60" + rng.randbytes(rng.randrange(44, 200))
        else:
            changed = bytearray(rng.choice(frames))
            for _ in range(rng.choice((1, 1, 2, 5))):
                at = rng.randrange(len(changed)) if rng.random() < 0.3 else rng.randrange(54, len(changed))
                changed[at] = rng.choice((0, 1, 2, 255, rng.randrange(256)))
            frame = bytes(changed)
            if rng.random() < 0.2:
                cut = rng.randrange(58, len(frame) + 1)
                frame = frame[:cut] + frame[cut + rng.randrange(8) :]
        if rng.random() < 0.8:
            frame = fitting(frame)
        answer = read(router_advertisement.answer(frame, TERMS, MAC))
        if answer is None:
            continue
        answered += 1
        assert frame[6:12] == GUEST
        assert answer[0] == (ALL_NODES if not any(frame[22:38]) else (GUEST, IP(frame[22:38])))
    assert 1000 < answered < 9000, answered
