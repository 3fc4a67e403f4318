"""DHCPv6 answers, read by tests/lab/dhcp.py: RFC 8415, RFC 3646, RFC 4075, RFC 5908."""

import random
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network

import pytest
from lab import dhcp

from vmnet_hooks.services import dhcp6
from vmnet_hooks.services.terms import Terms

GUEST, OTHER, MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002"), bytes.fromhex("feffffffffff")
SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE, RECONFIGURE, INFORMATION, RELAY = range(1, 13)
NO_ADDRESSES, NOT_ON_LINK, NO_PREFIXES = 2, 4, 6
IP = IPv6Address
TERMS = Terms(
    mac=GUEST,
    lease=3600,
    mtu=1450,
    domain="example.org",
    search=("example.org", "lab.example.org"),
    addresses6=(IP("2001:db8::10"), IP("2001:db8:0:1::10")),
    router6=IP("fe80::1"),
    prefixes6=(IPv6Network("2001:db8::/64"),),
    dns6=(IP("2001:db8::53"), IP("2001:db8::54")),
    ntp6=(IP("2001:db8::123"), IP("2001:db8::124")),
)
BARE = Terms(mac=GUEST, lease=3600, mtu=1500)
OURS, TIMES = {"2001:db8::10": (3600, 3600), "2001:db8:0:1::10": (3600, 3600)}, (1800, 2880)
CLIENT = dhcp.option6(1, b"\0\1\0\1\x2a\x2a\x2a\x2a" + GUEST)
SERVER = dhcp.option6(2, b"\0\3\0\1\xfe" + GUEST[1:])
STRANGER = dhcp.option6(2, b"\0\3\0\1" + OTHER)
RAPID = dhcp.option6(14)
NEEDED = {REQUEST: SERVER, RENEW: SERVER, RELEASE: SERVER, DECLINE: SERVER}
"""The identifier of a server, in the messages that need it."""


def oro(*codes: int) -> bytes:
    return dhcp.option6(6, b"".join(code.to_bytes(2, "big") for code in codes))


def asked(frame: bytes, terms: Terms = TERMS, mac: bytes = MAC) -> dhcp.Message6 | None:
    """The answer to a frame; what every answer has in common is checked."""
    sent = dhcp6.answer(frame, terms, mac)
    if sent is None:
        return None
    answer = dhcp.read(sent)
    assert (answer.to_mac, answer.from_mac, answer.ports) == (GUEST, mac, (547, 546)) and answer.hops > 0
    assert answer.destination == IP(frame[22:38]) and answer.destination.is_link_local
    assert answer.source == (terms.router6 or IP("fe80::fcff:ffff:feff:ffff"))
    assert len(sent) <= 14 + max(1280, terms.mtu)
    message = dhcp.read6(answer.content)
    assert message.transaction == frame[63:66] and message.kind in (ADVERTISE, REPLY)
    assert dhcp.option6(2, message.one(2)) == SERVER
    return message


def ask(kind: int, *options: bytes, terms: Terms = TERMS, client: bytes = CLIENT, **fields) -> dhcp.Message6 | None:
    """The answer to a message with the identifiers that it needs."""
    message = asked(dhcp.udp6(dhcp.message6(kind, client, NEEDED.get(kind, b""), *options), GUEST, **fields), terms)
    if message:
        assert message.one(1) == (client[4:] or None)
    return message


def test_a_solicit_byte_by_byte():
    terms = Terms(mac=GUEST, lease=7200, mtu=1500, addresses6=(IP("2001:db8::10"),), dns6=(IP("2001:db8::53"),))
    sent = dhcp6.answer(dhcp.udp6(dhcp.message6(SOLICIT, CLIENT, dhcp.ia_na(7), oro(23)), GUEST), terms, MAC)
    message = bytes.fromhex("02abcdef 0001000e 000100012a2a2a2a525400000001 0002000a 00030001fe5400000001 00070001ff")
    message += bytes.fromhex("00030028 00000007 00000e10 00001680")
    message += bytes.fromhex("00050018 20010db8000000000000000000000010 00001c20 00001c20")
    message += bytes.fromhex("00170010 20010db8000000000000000000000053")
    assert sent[:22] == GUEST + MAC + bytes.fromhex("86dd6c000000") + (len(message) + 8).to_bytes(2, "big") + b"\x11\x40"
    assert sent[22:38] == IP("fe80::fcff:ffff:feff:ffff").packed and sent[38:54] == IP("fe80::5054:ff:fe00:1").packed
    assert sent[54:58] == b"\x02\x23\x02\x22" and sent[62:] == message
    dhcp.read(sent)


def test_a_lease():
    advertised = ask(SOLICIT, dhcp.ia_na(7))
    assert (advertised.kind, advertised.one(7), advertised.status) == (ADVERTISE, b"\xff", None)
    assert advertised.leases == [dhcp.Lease6(3, 7, TIMES, OURS, None)]
    for kind in (REQUEST, RENEW, REBIND):
        reply = ask(kind, dhcp.ia_na(7, *OURS))
        assert (reply.kind, reply.one(7), reply.one(14), reply.leases) == (REPLY, None, None, advertised.leases)


def test_rapid_commit():
    reply = ask(SOLICIT, dhcp.ia_na(7), RAPID)
    assert (reply.kind, reply.one(14), reply.one(7)) == (REPLY, b"", None)
    assert reply.leases == [dhcp.Lease6(3, 7, TIMES, OURS, None)]
    assert ask(REQUEST, dhcp.ia_na(7), RAPID).one(14) is None
    assert ask(SOLICIT, dhcp.ia_pd(7), RAPID).kind == ADVERTISE, "nothing to commit"
    assert ask(SOLICIT, dhcp.ia_na(7), RAPID, terms=BARE).kind == ADVERTISE


def test_a_lease_without_end():
    lease = ask(SOLICIT, dhcp.ia_na(7), terms=replace(TERMS, lease=2**33)).leases[0]
    assert lease.times == (2**32 - 1,) * 2 and set(lease.addresses.values()) == {(2**32 - 1,) * 2}


def test_one_association_gets_all_addresses():
    for kind in (SOLICIT, REQUEST, RENEW, REBIND):
        leases = ask(kind, dhcp.ia_pd(1), dhcp.ia_ta(2), dhcp.ia_na(3), dhcp.ia_na(4), dhcp.ia_ta(5)).leases
        assert [(lease.kind, lease.iaid, lease.status) for lease in leases] == [
            (25, 1, NO_PREFIXES),
            (4, 2, NO_ADDRESSES),
            (3, 3, None),
            (3, 4, NO_ADDRESSES),
            (4, 5, NO_ADDRESSES),
        ]
        assert [lease.addresses for lease in leases] == [{}, {}, OURS, {}, {}]


def test_addresses_that_are_no_longer_the_guests():
    old = "2001:db8:9::9"
    for kind in (RENEW, REBIND):
        assert ask(kind, dhcp.ia_na(7, old, "2001:db8::10")).leases[0].addresses == {**OURS, old: (0, 0)}
        # What the first association keeps, the second must not end.
        second = ask(kind, dhcp.ia_na(7), dhcp.ia_na(8, old, old, "2001:db8::10")).leases[1]
        assert (second.addresses, second.status) == ({old: (0, 0)}, NO_ADDRESSES)
    assert ask(SOLICIT, dhcp.ia_na(7, old)).leases[0].addresses == OURS, "a wish"
    # RFC 8415, 18.3.2
    refused = ask(REQUEST, dhcp.ia_na(7, old)).leases[0]
    assert (refused.addresses, refused.status, refused.times) == ({}, NOT_ON_LINK, (0, 0))
    assert ask(REQUEST, dhcp.ia_na(7, "2001:db8::99")).leases[0].addresses == OURS, "another of the prefix"


def test_confirm():
    assert ask(CONFIRM, dhcp.ia_na(7, *OURS)).status == 0
    assert ask(CONFIRM, dhcp.ia_na(7, "2001:db8::10"), dhcp.ia_ta(8, "2001:db8:0:1::10")).status == 0
    assert ask(CONFIRM, dhcp.ia_na(7, *OURS, "2001:db8::11")).status == NOT_ON_LINK
    assert ask(CONFIRM, dhcp.ia_na(7, *OURS), dhcp.ia_na(8, "2001:db8:9::9")).status == NOT_ON_LINK
    assert ask(CONFIRM, dhcp.ia_na(7)) is None
    assert ask(CONFIRM) is None
    assert ask(CONFIRM, dhcp.ia_na(7, *OURS), oro(23)).leases == []


def test_release_and_decline():
    for kind in (RELEASE, DECLINE):
        reply = ask(kind, dhcp.ia_na(7, *OURS), oro(23))
        assert (reply.kind, reply.status, [code for code, _ in reply.options]) == (REPLY, 0, [1, 2, 13])


def test_without_addresses_only_options_are_told():
    stateless = replace(TERMS, addresses6=())
    advertised = ask(SOLICIT, dhcp.ia_na(7), oro(23), terms=stateless)
    assert (advertised.kind, advertised.one(7), advertised.status) == (ADVERTISE, None, None)
    assert [(lease.addresses, lease.status) for lease in advertised.leases] == [({}, NO_ADDRESSES)]
    assert ask(REQUEST, dhcp.ia_na(7), terms=stateless).leases[0].status == NO_ADDRESSES
    assert ask(RENEW, dhcp.ia_na(7, "2001:db8::1"), terms=stateless).leases[0].addresses == {"2001:db8::1": (0, 0)}
    # Another server may know better.
    assert ask(REBIND, dhcp.ia_na(7, "2001:db8::1"), terms=stateless) is None
    assert ask(CONFIRM, dhcp.ia_na(7, "2001:db8::1"), terms=stateless) is None
    assert ask(INFORMATION, oro(23), terms=stateless).one(23)


def test_options_are_told_when_asked_for():
    leased = replace(BARE, addresses6=TERMS.addresses6)
    for kind in (SOLICIT, REQUEST, RENEW, REBIND, INFORMATION):
        lease = b"" if kind == INFORMATION else dhcp.ia_na(7)
        told = ask(kind, lease, oro(56, 23, 24, 31, 82, 23, 999))
        assert dhcp.addresses6(told.one(23)) == ["2001:db8::53", "2001:db8::54"]
        assert dhcp.names(told.one(24)) == ["example.org", "lab.example.org"]
        assert told.one(24) == b"\7example\3org\0\3lab\7example\3org\0", "RFC 8415, 10: not compressed"
        assert dhcp.addresses6(told.one(31)) == ["2001:db8::123", "2001:db8::124"]
        ntp = [dhcp.split6(value) for code, value in told.options if code == 56]
        assert ntp == [[(1, IP("2001:db8::123").packed)], [(1, IP("2001:db8::124").packed)]]
        assert not {82, 999} & {code for code, _ in told.options}
        assert not {23, 24, 31, 32, 56} & {code for code, _ in ask(kind, lease).options}
        assert not {23, 24, 31, 56} & {code for code, _ in ask(kind, lease, oro(23, 24, 31, 56), terms=leased).options}
    assert dhcp.names(ask(INFORMATION, oro(24), terms=replace(TERMS, search=())).one(24)) == ["example.org"]


def test_information_request():
    told = ask(INFORMATION, oro(23, 32), client=b"")
    assert told.kind == REPLY and told.one(32) == (3600).to_bytes(4, "big")
    assert ask(INFORMATION, oro(32), terms=replace(BARE, lease=60)).one(32) == (600).to_bytes(4, "big")
    assert ask(SOLICIT, dhcp.ia_na(7), oro(32)).one(32) is None
    assert ask(INFORMATION, client=b""), "no option at all"
    assert ask(INFORMATION, dhcp.option6(16, bytes(300)), oro(23)).one(23), "a long option before"
    assert asked(dhcp.udp6(dhcp.message6(INFORMATION)[:3], GUEST)) is None
    assert ask(INFORMATION, SERVER) and ask(INFORMATION, STRANGER) is None
    assert ask(INFORMATION, dhcp.ia_na(7)) is None, "RFC 8415, 16.12"


def test_identifiers():
    """RFC 8415, 16.2 to 16.9."""
    for kind in (SOLICIT, CONFIRM, REBIND, REQUEST, RENEW, RELEASE, DECLINE):
        lease = dhcp.ia_na(7, *OURS)
        assert ask(kind, lease)
        assert ask(kind, lease, client=b"") is None, "needs the client's"
        assert ask(kind, lease, client=dhcp.option6(1)) is None
        assert ask(kind, lease, client=dhcp.option6(1, bytes(131))) is None
        assert ask(kind, lease, client=dhcp.option6(1, bytes(130))) and ask(kind, lease, client=dhcp.option6(1, b"x"))
        assert ask(kind, lease, CLIENT) is None, "twice"

        def with_server(server: bytes, kind: int = kind, lease: bytes = lease) -> dhcp.Message6 | None:
            return asked(dhcp.udp6(dhcp.message6(kind, CLIENT, server, lease), GUEST))

        assert bool(with_server(SERVER)) == (kind in NEEDED)
        assert bool(with_server(b"")) == (kind not in NEEDED)
        assert with_server(STRANGER) is None


@pytest.mark.parametrize("kind", [0, ADVERTISE, REPLY, RECONFIGURE, RELAY, 13, 255])
def test_what_has_no_answer(kind):
    assert ask(kind, dhcp.ia_na(7)) is None and ask(kind, SERVER, dhcp.ia_na(7)) is None


def test_only_the_guest_itself_is_answered():
    message = dhcp.message6(SOLICIT, CLIENT, dhcp.ia_na(7))
    assert asked(dhcp.udp6(message, GUEST))
    assert asked(dhcp.udp6(message, OTHER)) is None
    assert asked(dhcp.udp6(message, GUEST, source="2001:db8::10")) is None
    assert asked(dhcp.udp6(message, GUEST, source="::")) is None
    assert asked(dhcp.udp6(message, GUEST, source="febf::1")) and asked(dhcp.udp6(message, GUEST, source="fec0::1")) is None
    assert asked(dhcp.udp6(message, GUEST, to="fe80::1")) is None, "RFC 8415, 18.4"
    assert asked(dhcp.udp6(message, GUEST, to="ff02::1")) is None
    assert asked(dhcp.udp6(message, GUEST, ports=(546, 546))) is None
    assert asked(dhcp.udp6(message, GUEST, ports=(1234, 547))), "the answer goes to port 546 all the same"
    frame = dhcp.udp6(message, GUEST)
    assert asked(frame + b"trailer")
    assert asked(frame[:12] + b"\x81\0\0\7" + frame[12:]) is None
    for at, value in ((12, 8), (14, 0x40), (20, 0), (20, 6), (19, frame[19] + 1), (59, frame[59] + 1), (59, 7)):
        assert asked(frame[:at] + bytes([value]) + frame[at + 1 :]) is None, (at, value)


@pytest.mark.parametrize(
    "option",
    [
        b"\0",
        b"\0\3\0",
        dhcp.option6(3, bytes(11)),
        dhcp.option6(4, bytes(3)),
        dhcp.option6(25, bytes(11)),
        dhcp.option6(3, bytes(12) + b"\0\5\0\x18" + bytes(23)),
        dhcp.option6(3, bytes(12) + dhcp.option6(5, bytes(23))),
        dhcp.option6(6, bytes(3)),
        b"\0\x10\xff\xff",
    ],
)
def test_malformed_options(option):
    assert ask(SOLICIT, dhcp.ia_na(7), option) is None


def test_more_than_fits_into_a_frame_is_not_answered():
    assert ask(SOLICIT, *(dhcp.ia_na(number) for number in range(50)))
    assert ask(SOLICIT, *(dhcp.ia_na(number) for number in range(500))) is None
    # The longest answer has the MTU; no link has less than 1280 bytes.
    for mtu in (1000, 1450):
        sizes = set()
        for number in range(45, 60):
            for length in range(100, 125):
                asking = dhcp.message6(SOLICIT, dhcp.option6(1, bytes(length)), *map(dhcp.ia_na, range(number)))
                sent = dhcp6.answer(dhcp.udp6(asking, GUEST), replace(TERMS, mtu=mtu), MAC)
                sizes.add(len(sent or b""))
        assert max(sizes) - 14 == max(mtu, 1280)


def seeds() -> list[bytes]:
    lease, every = dhcp.ia_na(7, *OURS), oro(23, 24, 31, 56, 32)
    elapsed, vendor = dhcp.option6(8, bytes(2)), dhcp.option6(16, bytes(20))
    kinds = (SOLICIT, REQUEST, CONFIRM, RENEW, REBIND, RELEASE, DECLINE)
    messages = [dhcp.message6(kind, CLIENT, NEEDED.get(kind, b""), elapsed, lease, every, vendor) for kind in kinds]
    messages.append(dhcp.message6(SOLICIT, CLIENT, RAPID, dhcp.ia_na(1), dhcp.ia_ta(2, *OURS), dhcp.ia_pd(3), every))
    messages.append(dhcp.message6(RENEW, CLIENT, SERVER, dhcp.ia_na(1, "2001:db8:9::9"), dhcp.ia_na(2, *OURS)))
    messages.append(dhcp.message6(INFORMATION, every))
    return [dhcp.udp6(message, GUEST) for message in messages]


def fitting(frame: bytes) -> bytes:
    """The frame with lengths that fit it."""
    length = max(len(frame) - 54, 0).to_bytes(2, "big")
    return frame[:18] + length + frame[20:58] + length + frame[60:]


def test_every_part_of_a_message_is_survived():
    for frame in seeds():
        assert asked(frame) is not None
        for length in range(len(frame)):
            assert asked(frame[:length]) is None
            if length >= 62:
                asked(fitting(frame[:length]))


def test_random_and_mutated_frames():
    """Whatever comes, an answer is well-formed and for the guest, who asked for it."""
    rng = random.Random(8415)
    frames, answered = seeds(), 0
    for _ in range(10_000):
        if rng.random() < 0.1:
            frame = rng.randbytes(12) + b"\x86\xdd\x60" + rng.randbytes(rng.randrange(400))
        else:
            changed = bytearray(rng.choice(frames))
            for _ in range(rng.choice((1, 1, 2, 5, 20))):
                at = rng.randrange(len(changed)) if rng.random() < 0.3 else rng.randrange(62, len(changed))
                changed[at] = rng.choice((0, 1, 255, rng.randrange(256)))
            frame = bytes(changed)
            if rng.random() < 0.2:
                cut = rng.randrange(62, len(frame))
                frame = frame[:cut] + frame[cut + rng.randrange(8) :]
        if rng.random() < 0.5:
            frame = fitting(frame)
        if asked(frame) is not None:
            answered += 1
            assert frame[6:12] == GUEST
    assert 1000 < answered < 9000, answered
