"""The services are told apart by the frame."""

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from lab import dhcp

from vmnet_hooks.services import dhcp4, dhcp6, responder, router_advertisement
from vmnet_hooks.services.terms import Terms

GUEST, MAC = bytes.fromhex("525400000001"), bytes.fromhex("feffffffffff")
TERMS = Terms(
    mac=GUEST,
    lease=3600,
    mtu=1500,
    address4=IPv4Address("192.0.2.10"),
    server4=IPv4Address("192.0.2.1"),
    addresses6=(IPv6Address("2001:db8::10"),),
    router6=IPv6Address("fe80::1"),
)
DHCP4 = dhcp.udp4(dhcp.bootp(GUEST, 1), GUEST)
DHCP6 = dhcp.udp6(dhcp.message6(1, dhcp.option6(1, b"\0\3\0\1" + GUEST), dhcp.ia_na(7)), GUEST)
SOLICITATION = dhcp.icmp6(dhcp.solicitation(), GUEST)


def test_each_gets_its_own_answer():
    for service, frame in ((dhcp4, DHCP4), (dhcp6, DHCP6), (router_advertisement, SOLICITATION)):
        sent = responder.answer(frame, TERMS, MAC)
        assert sent and sent == service.answer(frame, TERMS, MAC)


def test_other_frames_have_none():
    bare = replace(TERMS, address4=None, router6=None)
    assert responder.answer(DHCP4, bare, MAC) is None and responder.answer(SOLICITATION, bare, MAC) is None
    for frame in (DHCP4, DHCP6, SOLICITATION):
        assert responder.answer(frame[:12] + b"\x08\x06" + frame[14:], TERMS, MAC) is None, "ARP"
        assert responder.answer(frame[:12] + b"\x81\0\0\1" + frame[12:], TERMS, MAC) is None, "tagged"
        for length in range(len(frame)):
            assert responder.answer(frame[:length], TERMS, MAC) is None
    for header in (0, 6, 43, 44, 60):
        assert responder.answer(DHCP6[:20] + bytes([header]) + DHCP6[21:], TERMS, MAC) is None


def test_random_frames_are_survived():
    rng = random.Random(1)
    for _ in range(10_000):
        frame = rng.randbytes(12) + rng.choice((b"\x08\0", b"\x86\xdd", b"")) + rng.randbytes(rng.randrange(120))
        assert responder.answer(frame, TERMS, MAC) is None
