"""DHCPv4 answers, read by tests/lab/dhcp.py: RFC 2131, 2132, 3396, 3397, 3442, 4039, 6842."""

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from lab import dhcp

from vmnet_hooks.services import dhcp4
from vmnet_hooks.services.terms import Terms

GUEST, OTHER, MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002"), bytes.fromhex("feffffffffff")
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
IP = IPv4Address
TERMS = Terms(
    mac=GUEST,
    lease=3600,
    mtu=1450,
    hostname="web1",
    domain="example.org",
    search=("example.org", "lab.example.org", "example.net"),
    address4=IP("192.0.2.10"),
    prefix4=24,
    gateway4=IP("192.0.2.1"),
    server4=IP("192.0.2.1"),
    dns4=(IP("192.0.2.53"), IP("198.51.100.53")),
    ntp4=(IP("192.0.2.123"),),
    routes4=((IPv4Network("10.0.0.0/8"), IP("192.0.2.2")), (IPv4Network("172.16.4.0/22"), IP("192.0.2.3"))),
)
ALL = bytes([1, 3, 6, 12, 15, 26, 28, 42, 51, 54, 58, 59, 119, 121])
SERVER_IP = TERMS.server4
ADDRESS, SERVER = TERMS.address4.packed, TERMS.server4.packed


def asked(frame: bytes, terms: Terms = TERMS) -> dhcp.Message4 | None:
    """The answer to a frame; what every answer has in common is checked."""
    sent = dhcp4.answer(frame, terms, MAC)
    if sent is None:
        return None
    answer = dhcp.read(sent)
    assert (answer.from_mac, answer.source, answer.ports) == (MAC, terms.server4, (67, 68)) and answer.hops > 1
    assert answer.to_mac == (dhcp.BROADCAST if answer.destination == IP("255.255.255.255") else GUEST)
    message = dhcp.read4(answer.content)
    assert message.chaddr == GUEST and message.options[54] == terms.server4.packed
    assert list(message.options)[:2] == [53, 54]
    at = 14 + 4 * (frame[14] & 15) + 8
    assert (message.transaction, message.flags) == (frame[at + 4 : at + 8], int.from_bytes(frame[at + 10 : at + 12], "big"))
    return message


def ask(kind: int | None, *options: tuple[int, bytes], terms: Terms = TERMS, **fields) -> dhcp.Message4 | None:
    return asked(dhcp.udp4(dhcp.bootp(GUEST, kind, options, **fields), GUEST), terms)


def destination(kind: int, *options: tuple[int, bytes], source: str = "0.0.0.0", **fields) -> str | None:
    sent = dhcp4.answer(dhcp.udp4(dhcp.bootp(GUEST, kind, options, **fields), GUEST, source=source), TERMS, MAC)
    return sent and str(dhcp.read(sent).destination)


def test_a_discover_byte_by_byte():
    terms = replace(TERMS, lease=7200)
    sent = dhcp4.answer(dhcp.udp4(dhcp.bootp(GUEST, DISCOVER, [(55, b"\3\1\6")]), GUEST), terms, MAC)
    ethernet = GUEST + MAC + b"\x08\x00"
    # 20 + 8 + 300 bytes, CS6, TTL 64, UDP; 192.0.2.1 to 192.0.2.10
    ip = bytes.fromhex("45c00148 00000000 4011")
    message = bytes.fromhex("02010600 12345678 00000000 00000000 c000020a 00000000 00000000 525400000001")
    message += bytes(10 + 64 + 128) + bytes([99, 130, 83, 99])
    message += bytes([53, 1, 2, 54, 4, 192, 0, 2, 1, 51, 4, 0, 0, 0x1C, 0x20])
    message += bytes([1, 4, 255, 255, 255, 0, 3, 4, 192, 0, 2, 1, 6, 8, 192, 0, 2, 53, 198, 51, 100, 53, 255])
    assert sent[:14] == ethernet and sent[14:24] == ip
    assert sent[26:34] == bytes([192, 0, 2, 1, 192, 0, 2, 10]) and sent[34:40] == bytes([0, 67, 0, 68, 1, 0x34])
    assert sent[42:] == message.ljust(300, b"\0")
    dhcp.read(sent)


def test_a_lease():
    offer = ask(DISCOVER, (55, ALL), (61, b"\1" + GUEST))
    assert (offer.kind, offer.yiaddr, offer.ciaddr) == (OFFER, TERMS.address4, IP(0))
    ack = ask(REQUEST, (50, ADDRESS), (54, SERVER), (55, ALL), (61, b"\1" + GUEST))
    assert (ack.kind, ack.yiaddr, ack.ciaddr) == (ACK, TERMS.address4, IP(0))
    assert {**ack.options, 53: offer.options[53]} == offer.options
    options = ack.options
    assert options[1] == bytes([255, 255, 255, 0]) and options[28] == bytes([192, 0, 2, 255])
    assert options[6] == IP("192.0.2.53").packed + IP("198.51.100.53").packed and options[42] == IP("192.0.2.123").packed
    assert (options[12], options[15], options[26]) == (b"web1", b"example.org", b"\x05\xaa")
    assert [int.from_bytes(options[code], "big") for code in (51, 58, 59)] == [3600, 1800, 3150]
    assert options[61] == b"\1" + GUEST
    assert dhcp.names(options[119]) == ["example.org", "lab.example.org", "example.net"]
    assert options[119] == b"\x07example\x03org\0\x03lab\xc0\x00\x07example\x03net\0"
    assert dhcp.routes(options[121]) == [
        ("0.0.0.0/0", "192.0.2.1"),
        ("10.0.0.0/8", "192.0.2.2"),
        ("172.16.4.0/22", "192.0.2.3"),
    ]
    # RFC 3442: no router beside routes.
    assert set(options) == {53, 54, 61} | set(ALL) - {3}


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (b"", []),
        (b"\x06\x0f\x0c", [6, 15, 12]),
        (b"\x03\x06\x01", [1, 3, 6]),
        (b"\x01\x06\x03\x06\xf9\x03", [1, 6, 3]),
        (b"\x06\x01\x03", [6, 1, 3]),
        (b"\x06\x01", [6, 1]),
        (b"\x03\x06\x01\x79", [6, 1, 121]),
        (b"\x03\x79", [121]),
        (b"\x79\x03", [121]),
    ],
)
def test_what_is_asked_for_is_given_in_the_clients_order(wanted, given):
    options = ask(DISCOVER, (55, wanted)).options
    assert [code for code in options if code not in (51, 53, 54)] == given


def test_a_client_that_names_no_options_gets_all():
    assert set(ask(DISCOVER).options) == set(ALL) | {53}


def test_options_without_a_value_are_left_out():
    bare = Terms(mac=GUEST, lease=60, mtu=1500, address4=IP("192.0.2.10"), server4=IP("192.0.2.1"))
    options = ask(DISCOVER, (55, ALL), terms=bare).options
    assert set(options) == {1, 26, 51, 53, 54, 58, 59} and options[1] == b"\xff" * 4


def test_a_gateway_outside_the_prefix_is_reached_by_a_route_of_its_own():
    far = replace(TERMS, prefix4=32, routes4=((IPv4Network("10.0.0.0/8"), IP("192.0.2.1")),))
    options = ask(DISCOVER, (55, ALL), terms=far).options
    assert dhcp.routes(options[121]) == [("192.0.2.1/32", "0.0.0.0"), ("0.0.0.0/0", "192.0.2.1"), ("10.0.0.0/8", "192.0.2.1")]
    assert options[1] == b"\xff" * 4 and 28 not in options and 3 not in options
    # The prefix itself may be on the link, by a route of the declaration.
    near = replace(far, routes4=((IPv4Network("192.0.2.0/24"), IP("0.0.0.0")),))
    routes = dhcp.routes(ask(DISCOVER, (55, ALL), terms=near).options[121])
    assert routes == [("192.0.2.1/32", "0.0.0.0"), ("0.0.0.0/0", "192.0.2.1"), ("192.0.2.0/24", "0.0.0.0")]
    assert ask(DISCOVER, (55, b"\3"), terms=far).options[3] == SERVER


@pytest.mark.parametrize(("prefix", "mask", "broadcast"), [(0, 0, 2**32 - 1), (30, 2**32 - 4, 0xC000020B), (31, 2**32 - 2, None)])
def test_masks(prefix, mask, broadcast):
    options = ask(DISCOVER, (55, ALL), terms=replace(TERMS, prefix4=prefix)).options
    assert int.from_bytes(options[1], "big") == mask
    assert (int.from_bytes(options[28], "big") if 28 in options else None) == broadcast


def test_a_lease_without_end_is_not_renewed():
    for lease in (2**32 - 1, 2**33):
        options = ask(DISCOVER, (55, ALL), terms=replace(TERMS, lease=lease)).options
        assert options[51] == b"\xff" * 4 and 58 not in options and 59 not in options


def test_rapid_commit():
    ack = ask(DISCOVER, (80, b""), (55, ALL))
    assert (ack.kind, ack.yiaddr, ack.options[80]) == (ACK, TERMS.address4, b"") and ack.options[51] == b"\0\0\x0e\x10"
    assert 80 not in ask(REQUEST, (50, ADDRESS), (80, b"")).options, "RFC 4039, 3.1: only in answer to a discover"


WRONG = IP("192.0.2.11")


@pytest.mark.parametrize(
    ("state", "options", "ciaddr", "kind"),
    [
        ("SELECTING", [(54, SERVER), (50, ADDRESS)], "0.0.0.0", ACK),
        ("SELECTING, of another server", [(54, WRONG.packed), (50, ADDRESS)], "0.0.0.0", None),
        ("SELECTING, wrong address", [(54, SERVER), (50, WRONG.packed)], "0.0.0.0", NAK),
        ("SELECTING, no address", [(54, SERVER)], "0.0.0.0", None),
        ("INIT-REBOOT", [(50, ADDRESS)], "0.0.0.0", ACK),
        ("INIT-REBOOT, wrong address", [(50, WRONG.packed)], "0.0.0.0", NAK),
        ("RENEWING or REBINDING", [], "192.0.2.10", ACK),
        ("RENEWING or REBINDING, wrong address", [], "192.0.2.11", NAK),
        ("no state", [], "0.0.0.0", None),
        ("an address of three bytes", [(50, b"\xc0\0\2")], "0.0.0.0", None),
        ("a server of no bytes", [(54, b""), (50, ADDRESS)], "0.0.0.0", None),
    ],
)
def test_requests_by_state(state, options, ciaddr, kind):
    message = ask(REQUEST, *options, (61, b"\0id"), (55, ALL), ciaddr=ciaddr)
    assert (message and message.kind) == kind, state
    if kind == NAK:
        # RFC 2131, table 3
        assert set(message.options) == {53, 54, 56, 61} and (message.yiaddr, message.ciaddr) == (IP(0), IP(0))
    if kind == ACK:
        assert message.ciaddr == IP(ciaddr) and message.yiaddr == TERMS.address4


def test_where_answers_go():
    """RFC 2131, 4.1."""
    everyone = "255.255.255.255"
    assert destination(DISCOVER) == "192.0.2.10"
    assert destination(DISCOVER, flags=0x8000) == everyone
    assert destination(DISCOVER, flags=0x7FFF) == "192.0.2.10", "only the first bit counts"
    assert destination(REQUEST, (50, ADDRESS), flags=0x8000) == everyone
    assert destination(REQUEST, ciaddr="192.0.2.10", flags=0x8000) == "192.0.2.10", "it has the address, so it hears it"
    assert destination(REQUEST, ciaddr="192.0.2.77") == everyone, "a refusal"
    assert destination(REQUEST, (50, WRONG.packed)) == everyone
    assert destination(REQUEST, (50, ADDRESS), ciaddr="192.0.2.77") == "192.0.2.10"
    assert ask(DISCOVER, ciaddr="192.0.2.10").ciaddr == IP(0), "RFC 2131, table 3"


def test_inform():
    message = ask(INFORM, (55, ALL), (61, b"\0id"), ciaddr="192.0.2.99")
    assert (message.kind, message.yiaddr, message.ciaddr) == (ACK, IP(0), IP("192.0.2.99"))
    assert set(message.options) == {53, 54, 61} | set(ALL) - {3, 51, 58, 59}
    assert not {51, 58, 59} & set(ask(INFORM, ciaddr="192.0.2.99").options)
    assert destination(INFORM, ciaddr="192.0.2.99", flags=0x8000) == "192.0.2.99"
    assert destination(INFORM, source="192.0.2.98") == "192.0.2.98"
    assert destination(INFORM, ciaddr="1.0.0.1") and destination(INFORM, ciaddr="223.0.0.1")
    for nowhere in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"):
        assert destination(INFORM, ciaddr=nowhere) is None


@pytest.mark.parametrize("kind", [0, OFFER, DECLINE, ACK, NAK, RELEASE, 9, 255, None])
def test_what_has_no_answer(kind):
    assert ask(kind, (54, SERVER), (50, ADDRESS), ciaddr="192.0.2.10") is None


def test_only_the_guest_itself_is_answered():
    assert ask(DISCOVER)
    assert asked(dhcp.udp4(dhcp.bootp(OTHER, DISCOVER), GUEST)) is None, "chaddr of another"
    assert asked(dhcp.udp4(dhcp.bootp(GUEST, DISCOVER), OTHER)) is None, "frame of another"
    assert asked(dhcp.udp4(dhcp.bootp(OTHER, DISCOVER), OTHER)) is None
    assert ask(DISCOVER, giaddr="192.0.2.5") is None, "relayed"
    assert ask(DISCOVER, op=2) is None
    assert ask(DISCOVER, htype=6) is None
    assert ask(DISCOVER, hlen=16) is None
    assert ask(DISCOVER, cookie=b"BOOT") is None


@pytest.mark.parametrize("missing", ["address4", "server4"])
def test_without_an_address_there_is_no_answer(missing):
    terms = replace(TERMS, **{missing: None})
    assert dhcp4.answer(dhcp.udp4(dhcp.bootp(GUEST, DISCOVER), GUEST), terms, MAC) is None


def test_a_renewal_comes_from_whatever_server_it_was():
    """No other server hears the guest; its gateway may have another address by now."""
    message = dhcp.bootp(GUEST, REQUEST, ciaddr="192.0.2.10")
    for to in ("192.0.2.1", "192.0.2.99", "255.255.255.255"):
        assert asked(dhcp.udp4(message, GUEST, to=to, source="192.0.2.10", to_mac=MAC)), to


def test_headers_are_honoured():
    message = dhcp.bootp(GUEST, DISCOVER)
    assert asked(dhcp.udp4(message, GUEST, options=b"\x94\4\0\0")), "router alert"
    assert asked(dhcp.udp4(message, GUEST, fragment=0x4000)), "don't fragment"
    assert asked(dhcp.udp4(message, GUEST, fragment=0x2000)) is None, "more to come"
    assert asked(dhcp.udp4(message, GUEST, fragment=1)) is None
    assert asked(dhcp.udp4(message, GUEST, ports=(68, 68))) is None
    assert asked(dhcp.udp4(message, GUEST, ports=(1024, 67)))
    assert asked(dhcp.udp4(message, GUEST, checksum=0xBAD))
    assert asked(dhcp.udp4(message, GUEST, to="192.0.2.1", source="192.0.2.10", to_mac=MAC))
    assert asked(dhcp.udp4(message, GUEST, to="192.0.2.2")) is None, "another server's"
    frame = dhcp.udp4(message, GUEST)
    assert asked(frame + b"trailer"), "Ethernet pads"
    assert asked(frame[:12] + b"\x81\0\0\7" + frame[12:]) is None, "tagged"
    assert asked(frame[:24] + bytes([frame[24] ^ 1]) + frame[25:]) is None, "header checksum"
    lengths = ((14, 0x44), (14, 0x4F), (17, frame[17] - 1), (38, 0xFF), (39, 7))
    for at, value in ((12, 0x86), (14, 0x65), (23, 6), *lengths):
        assert asked(whole(frame[:at] + bytes([value]) + frame[at + 1 :])) is None, (at, value)
    assert asked(whole(frame[:17] + bytes([frame[17] + 1]) + frame[18:])) is None, "longer than the frame"


def test_a_header_is_not_shorter_than_its_addresses():
    """The server's address would be the ports of a datagram that begins within the header."""
    terms = replace(TERMS, server4=IP("192.0.0.67"))
    frame = dhcp.udp4(dhcp.bootp(GUEST, DISCOVER), GUEST, to="192.0.0.67")
    assert asked(frame, terms)
    total = (len(frame) - 18).to_bytes(2, "big")
    assert asked(whole(frame[:14] + b"\x44\0" + total + frame[18:34] + frame[38:]), terms) is None


def test_options_go_on_in_the_other_fields():
    """RFC 2131, 4.1: file before sname; RFC 3396: the parts of an option are joined."""
    request, wrong = (53, b"\3"), (50, WRONG.packed)
    assert ask(None, (52, b"\1"), file=dhcp.options4([request, (50, ADDRESS)]) + b"\xff").kind == ACK
    assert ask(None, (52, b"\2"), sname=dhcp.options4([request, wrong]) + b"\xff").kind == NAK
    halves = {"file": dhcp.options4([request, (50, ADDRESS[:3])]), "sname": dhcp.options4([(50, ADDRESS[3:])])}
    assert ask(None, (52, b"\3"), **halves).kind == ACK
    assert ask(None, **halves) is None, "not overloaded: a name and a file"
    assert ask(None, (52, b"\1"), file=b"\x35\x80" + bytes(126)) is None, "beyond the field"
    assert ask(DISCOVER, (52, b"\7"), file=b"\x35\x80").kind == OFFER


def test_parts_of_an_option_are_joined():
    options = ask(DISCOVER, (55, b"\1"), (12, b"me"), (55, b"\6\3")).options
    assert list(options)[-3:] == [1, 6, 3]
    assert ask(DISCOVER, (53, b"\1")) is None, "a kind of two bytes"


def test_malformed_options():
    assert ask(DISCOVER, end=b"") is not None, "RFC 2131 wants an end; what there is can be read"
    assert ask(DISCOVER, end=b"\0\0\0\xffjunk\x35") is not None
    assert ask(DISCOVER, end=b"\x0c") is None, "no length"
    assert ask(DISCOVER, end=b"\x0c\2a") is None, "beyond the end"


def test_long_options_are_sent_in_parts():
    search = tuple(f"{'x' * 60}{number}.example" for number in range(9))
    hops = tuple((IPv4Network(f"10.{number}.0.0/16"), IP("192.0.2.2")) for number in range(60))
    long = replace(TERMS, search=search, routes4=hops)
    message = ask(DISCOVER, (55, ALL), (57, b"\x05\xdc"), terms=long)
    assert dhcp.names(message.options[119]) == list(search) and len(message.options[119]) > 510
    assert dhcp.routes(message.options[121])[1:] == [(str(net), str(hop)) for net, hop in hops]


def test_the_clients_maximum_is_honoured():
    search = tuple(f"{'x' * 60}{number}.example" for number in range(4))
    long = replace(TERMS, search=search, dns4=tuple(IP(f"192.0.2.{number}") for number in range(53)))
    full = ask(DISCOVER, (55, ALL), (57, b"\x05\xdc"), terms=long)
    assert full.size > 576 and {6, 119, 12, 42} <= set(full.options)
    # Without option 57, or with a size below the minimum, 576 bytes; what matters most is kept, and what still fits.
    for given in ([], [(57, b"\0\x80")], [(57, b"\x02\x40")], [(57, b"")]):
        message = ask(DISCOVER, (55, ALL), *given, terms=long)
        assert message.size <= 576 and 119 not in message.options and {1, 121, 6, 26, 15, 12, 42} <= set(message.options)
    assert ask(DISCOVER, (55, ALL), (57, b"\xff\xff"), terms=replace(long, mtu=600)).size <= 600
    exact = full.size.to_bytes(2, "big")
    assert ask(DISCOVER, (55, ALL), (57, exact), terms=long).options == full.options
    less = (full.size - 1).to_bytes(2, "big")
    assert set(full.options) - set(ask(DISCOVER, (55, ALL), (57, less), terms=long).options) == {28}


def test_the_last_byte_is_used():
    for option in (12, 61):
        sizes = []
        for length in range(200, 320):
            text = "x" * length
            message = ask(
                DISCOVER,
                (55, b"\x0c"),
                *([(61, b"x" * (length - 99)), (61, b"x" * 99)] if option == 61 else []),
                terms=replace(TERMS, hostname=text if option == 12 else ""),
            )
            sizes.append(message.size if option in message.options else 0)
        assert max(sizes) == 576 and not sizes[-1]


def test_routes_that_do_not_fit_leave_the_router():
    hops = tuple((IPv4Network(f"10.{number}.0.0/16"), IP("192.0.2.2")) for number in range(60))
    options = ask(DISCOVER, (55, ALL), terms=replace(TERMS, routes4=hops)).options
    assert 121 not in options and options[3] == SERVER


def test_long_identifiers():
    identity = bytes(range(255))
    assert ask(DISCOVER, (61, identity), (55, ALL)).options[61] == identity
    assert ask(DISCOVER, (61, identity), (61, identity), (57, b"\x05\xdc")).options[61] == identity * 2
    assert 61 not in ask(DISCOVER, (61, identity), (61, identity)).options
    assert 61 not in ask(DISCOVER, (61, b"")).options


def test_values_at_their_limits():
    assert ask(DISCOVER, (55, ALL), terms=replace(TERMS, mtu=70000)).options[26] == b"\xff\xff"
    nets = tuple(IPv4Network(f"10.128.0.0/{length}") for length in range(9, 33))
    message = ask(DISCOVER, (55, ALL), (57, b"\x05\xdc"), terms=replace(TERMS, routes4=tuple((net, SERVER_IP) for net in nets)))
    assert [net for net, _ in dhcp.routes(message.options[121])[1:]] == [str(net) for net in nets]


def test_the_longest_name():
    """RFC 1035, 2.3.4: 255 bytes with all lengths and the root."""
    fits, long = (".".join(["y" * 63] * 3 + ["z" * last]) for last in (61, 62))
    options = ask(DISCOVER, (55, b"\x77"), terms=replace(TERMS, search=(long, fits))).options
    assert dhcp.names(options[119]) == [fits] and len(options[119]) == 255


def test_names_that_are_none_are_left_out():
    odd = replace(TERMS, hostname="wéb", domain="ü.org", search=("a..b", "x" * 64, "", "ok.example.", ".".join(["y" * 60] * 5)))
    options = ask(DISCOVER, (55, ALL), terms=odd).options
    assert 12 not in options and 15 not in options and dhcp.names(options[119]) == ["ok.example"]


def seeds() -> list[bytes]:
    every = [(55, ALL), (61, b"\1" + GUEST), (57, b"\x05\xdc"), (12, b"guest"), (60, b"udhcp 1.35")]
    messages = [
        dhcp.bootp(GUEST, DISCOVER, every),
        dhcp.bootp(GUEST, DISCOVER, [*every, (80, b"")], flags=0x8000),
        dhcp.bootp(GUEST, REQUEST, [(50, ADDRESS), (54, SERVER), *every]),
        dhcp.bootp(GUEST, REQUEST, every, ciaddr="192.0.2.10"),
        dhcp.bootp(GUEST, REQUEST, [(50, WRONG.packed)]),
        dhcp.bootp(GUEST, INFORM, every, ciaddr="192.0.2.10"),
        dhcp.bootp(GUEST, None, [(52, b"\3")], file=dhcp.options4([(53, b"\3"), (50, ADDRESS)]), sname=dhcp.options4(every)),
    ]
    return [dhcp.udp4(message, GUEST, options=b"\1\1\1\1" if at % 2 else b"") for at, message in enumerate(messages)]


def whole(frame: bytes) -> bytes:
    """The frame with a right header checksum, if it has a header."""
    end = 14 + 4 * (frame[14] & 15) if len(frame) > 34 else 0
    if not 26 <= end <= len(frame):
        return frame
    total = 0xFFFF - dhcp.ones_sum(frame[14:24] + b"\0\0" + frame[26:end])
    return frame[:24] + total.to_bytes(2, "big") + frame[26:]


def test_every_part_of_a_message_is_survived():
    for frame in seeds():
        assert asked(frame) is not None
        payload = 14 + 4 * (frame[14] & 15) + 8
        for length in range(len(frame)):
            assert asked(frame[:length]) is None
            if length >= payload:
                # Also with headers that fit what is left.
                ip, udp = (length - 14).to_bytes(2, "big"), (length - payload + 8).to_bytes(2, "big")
                short = frame[:16] + ip + frame[18 : payload - 4] + udp + frame[payload - 2 : length]
                asked(whole(short))


def test_random_and_mutated_frames():
    """Whatever comes, an answer is well-formed and for the guest, who asked for it."""
    rng = random.Random(2131)
    frames, answered = seeds(), 0
    for _ in range(10_000):
        if rng.random() < 0.1:
            frame = rng.randbytes(12) + b"\x08\0" + rng.randbytes(rng.randrange(700))
        else:
            frame = bytearray(rng.choice(frames))
            for _ in range(rng.choice((1, 1, 2, 5, 20))):
                # Headers and options rather than the empty fields between them.
                at = rng.randrange(len(frame)) if rng.random() < 0.3 else rng.choice((*range(90), *range(280, len(frame))))
                frame[at % len(frame)] = rng.choice((0, 1, 255, rng.randrange(256)))
            frame = bytes(frame)
            if rng.random() < 0.2:
                cut = rng.randrange(len(frame))
                frame = frame[:cut] + frame[cut + rng.randrange(8) :]
        frame = whole(frame)
        message = asked(frame)
        if message is None:
            continue
        answered += 1
        at = 14 + 4 * (frame[14] & 15) + 8
        assert frame[6:12] == GUEST == frame[at + 28 : at + 34]
        assert message.kind in (OFFER, ACK, NAK) and message.size <= max(576, TERMS.mtu)
        if message.kind != NAK and 51 in message.options:
            assert message.yiaddr == TERMS.address4
    assert 1000 < answered < 9000, answered
