"""Announcements, byte by byte: RFC 826, RFC 5227, RFC 5944 4.6, RFC 4861 4.4 and 7.2.6, RFC 2464, RFC 8200."""

import ipaddress

import pytest

from vmnet_hooks.kernel import announcement

MAC = bytes.fromhex("02a1b2c3d4e5")


def test_gratuitous_arp():
    request, reply = announcement.gratuitous_arp(MAC, "192.0.2.10")
    for frame in (request, reply):
        assert len(frame) == 42
        assert frame[0:6] == b"\xff" * 6 and frame[6:12] == MAC and frame[12:14] == b"\x08\x06"
        # Ethernet, IPv4, 6 and 4 octets
        assert frame[14:20] == bytes([0, 1, 8, 0, 6, 4])
        assert frame[22:28] == MAC and frame[28:32] == bytes([192, 0, 2, 10])
        assert frame[38:42] == bytes([192, 0, 2, 10])
    assert request[20:22] == bytes([0, 1]) and request[32:38] == bytes(6)
    # RFC 5944 4.6: in the reply form the target hardware address is the sender's.
    assert reply[20:22] == bytes([0, 2]) and reply[32:38] == MAC


@pytest.mark.parametrize("address", ["2001:db8::10", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "::ffff:ffff:ffff:1"])
def test_neighbour_advertisement(address):
    frame = announcement.neighbour_advertisement(MAC, address)
    assert len(frame) == 14 + 40 + 32
    # RFC 2464 7: 33:33 and the last four octets of ff02::1.
    assert frame[0:6] == bytes.fromhex("333300000001") and frame[6:12] == MAC and frame[12:14] == b"\x86\xdd"
    header, body = frame[14:54], frame[54:]
    assert header[0:4] == bytes([0x60, 0, 0, 0])
    assert int.from_bytes(header[4:6]) == len(body)
    # RFC 4861 7.1.2: a hop limit of 255 or it is dropped.
    assert header[6] == 58 and header[7] == 255
    assert ipaddress.IPv6Address(header[8:24]) == ipaddress.IPv6Address("fe80::a1:b2ff:fec3:d4e5")
    assert ipaddress.IPv6Address(header[24:40]) == ipaddress.IPv6Address("ff02::1")
    assert body[0:2] == bytes([136, 0])
    # Flags: not a router, unsolicited (must be 0 on multicast), override.
    assert body[4:8] == bytes([0x20, 0, 0, 0])
    assert ipaddress.IPv6Address(body[8:24]) == ipaddress.IPv6Address(address)
    # Target link-layer address, one unit of 8 octets.
    assert body[24:26] == bytes([2, 1]) and body[26:32] == MAC
    assert internet_sum(header[8:40] + len(body).to_bytes(4) + bytes([0, 0, 0, 58]) + body) == 0xFFFF


def internet_sum(data: bytes) -> int:
    """RFC 1071, written again: a right checksum makes the whole sum all ones."""
    total = 0
    for i in range(0, len(data), 2):
        total += data[i] << 8 | data[i + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_nothing_to_announce_forks_nothing(monkeypatch):
    monkeypatch.setattr(announcement.os, "fork", lambda: pytest.fail("forked"))
    announcement.announce([])


def test_a_fork_that_fails_is_no_error(monkeypatch):
    def fork():
        raise OSError(11, "Resource temporarily unavailable")

    logged = []
    monkeypatch.setattr(announcement.os, "fork", fork)
    monkeypatch.setattr(announcement.syslog, "syslog", lambda *args: logged.append(args))
    announcement.announce([("eth1", "192.0.2.10", "tap0")])
    assert "announcements not sent: Resource temporarily unavailable" in logged[0][1]


def test_two_rounds_outlast_locktime():
    assert announcement.ROUNDS[0] == 0 and announcement.ROUNDS[-1] - announcement.ROUNDS[0] > 1


# --- questions and answers: RFC 5227 2.1.1, RFC 4861 4.3 and 4.4 -------------------------------------------------------


def test_arp_probe():
    frame = announcement.question("eth0", MAC, "192.0.2.1")
    assert len(frame) == 42 and frame[0:6] == b"\xff" * 6 and frame[6:12] == MAC and frame[12:14] == b"\x08\x06"
    assert frame[14:22] == bytes([0, 1, 8, 0, 6, 4, 0, 1])
    # RFC 5227: the sender's address is zero, so that nobody learns anything from it.
    assert frame[22:28] == MAC and frame[28:32] == bytes(4)
    assert frame[32:38] == bytes(6) and frame[38:42] == bytes([192, 0, 2, 1])


@pytest.mark.parametrize("address", ["2001:db8::1", "fe80::1234:5678", "2001:db8::ffff:ffff:ffff"])
def test_neighbour_solicitation(address):
    frame = announcement.question("eth0", MAC, address)
    target = ipaddress.IPv6Address(address).packed
    # RFC 4291 2.7.1, RFC 2464 7: the solicited-node group, and its MAC.
    assert frame[0:6] == b"\x33\x33\xff" + target[13:] and frame[6:12] == MAC and frame[12:14] == b"\x86\xdd"
    header, body = frame[14:54], frame[54:]
    assert header[6] == 58 and header[7] == 255 and int.from_bytes(header[4:6]) == len(body) == 32
    assert ipaddress.IPv6Address(header[8:24]) == ipaddress.IPv6Address("fe80::a1:b2ff:fec3:d4e5")
    assert header[24:40] == bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    assert body[0:2] == bytes([135, 0]) and body[4:8] == bytes(4) and body[8:24] == target
    # Source link-layer address, one unit of 8 octets.
    assert body[24:26] == bytes([1, 1]) and body[26:32] == MAC
    assert internet_sum(header[8:40] + len(body).to_bytes(4) + bytes([0, 0, 0, 58]) + body) == 0xFFFF


PEER = bytes.fromhex("020000000009")


def test_answers_of_ipv4():
    request, reply = announcement.gratuitous_arp(PEER, "192.0.2.1")
    assert announcement.is_answer(reply, "192.0.2.1")
    assert not announcement.is_answer(reply, "192.0.2.2") and not announcement.is_answer(reply, "2001:db8::1")
    assert not announcement.is_answer(request, "192.0.2.1"), "a request says nothing of who is there to answer"
    assert not announcement.is_answer(announcement.question("eth0", MAC, "192.0.2.1"), "192.0.2.1"), "our own"


def test_answers_of_ipv6():
    frame = announcement.neighbour_advertisement(PEER, "2001:db8::1")
    assert announcement.is_answer(frame, "2001:db8::1")
    assert not announcement.is_answer(frame, "2001:db8::2") and not announcement.is_answer(frame, "192.0.2.1")
    assert not announcement.is_answer(announcement.question("eth0", MAC, "2001:db8::1"), "2001:db8::1"), "our own"


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_what_is_cut_is_no_answer(address):
    whole = announcement.announcement(PEER, address)[-1]
    needed = 78 if ":" in address else 32
    for length in range(len(whole)):
        assert announcement.is_answer(whole[:length], address) == (length >= needed), length


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_nobody_is_told_on_a_link_without_macs(address):
    assert announcement.announcement(b"", address) == []
