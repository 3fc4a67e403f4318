"""DHCP messages and router solicitations as a guest sends them, and an independent, strict reader of the answers.

Nothing here is taken from vmnet_hooks/services: lengths, offsets, checksums and name compression are written again from the RFCs.
A reader raises AssertionError for anything that is not well-formed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

BROADCAST = b"\xff" * 6
COOKIE = bytes([99, 130, 83, 99])


def ones_sum(data: bytes) -> int:
    """RFC 1071, word by word: 0xffff for data that include their right checksum."""
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        total = (total & 0xFFFF) + (total >> 16)
    return total


# --- frames -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """An IP packet in a frame; `content` is the UDP payload, or the ICMPv6 message."""

    to_mac: bytes
    from_mac: bytes
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    hops: int
    ports: tuple[int, int] | None
    content: bytes


def udp4(
    payload: bytes,
    mac: bytes,
    *,
    source: str = "0.0.0.0",
    to: str = "255.255.255.255",
    to_mac: bytes = BROADCAST,
    ports: tuple[int, int] = (68, 67),
    fragment: int = 0,
    options: bytes = b"",
    checksum: int = 0,
) -> bytes:
    """A datagram in a frame; its UDP checksum is left as a virtio guest leaves it, unfinished."""
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), checksum) + payload
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBB", 0x40 | words, 0x10, 4 * words + len(udp), 7, fragment, 64, 17)
    ends = IPv4Address(source).packed + IPv4Address(to).packed + options
    total = 0xFFFF - ones_sum(head + b"\0\0" + ends)
    return (to_mac + mac + b"\x08\x00" + head + struct.pack("!H", total) + ends + udp).ljust(60, b"\0")


def udp6(
    payload: bytes,
    mac: bytes,
    *,
    source: str = "fe80::5054:ff:fe00:1",
    to: str = "ff02::1:2",
    ports: tuple[int, int] = (546, 547),
) -> bytes:
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0x1234) + payload
    ends = IPv6Address(source).packed + IPv6Address(to).packed
    return b"\x33\x33\0\1\0\2" + mac + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(udp), 17, 1) + ends + udp


def icmp6(
    message: bytes, mac: bytes, *, source: str = "fe80::5054:ff:fe00:1", to: str = "ff02::2", hops: int = 255, damage: int = 0
) -> bytes:
    """A message in a frame, with its checksum, off by `damage`."""
    ends = IPv6Address(source).packed + IPv6Address(to).packed
    total = 0xFFFF - ones_sum(ends + struct.pack("!II", len(message), 58) + message)
    message = message[:2] + struct.pack("!H", total ^ damage) + message[4:]
    return b"\x33\x33\0\0\0\2" + mac + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(message), 58, hops) + ends + message


def read(frame: bytes) -> Answer:
    """Read an answer's frame: every length fits exactly, all checksums are right."""
    kind, ip = frame[12:14], frame[14:]
    if kind == b"\x08\x00":
        assert ip[0] == 0x45 and ip[9] == 17 and ip[6:8] == b"\0\0", "no IPv4 options, UDP, whole"
        assert int.from_bytes(ip[2:4], "big") == len(ip), "IPv4 length"
        assert ones_sum(ip[:20]) == 0xFFFF, "IPv4 checksum"
        ends, hops, protocol, rest = ip[12:20], ip[8], 17, ip[20:]
        pseudo = ends + struct.pack("!HH", 17, len(rest))
        source, destination = IPv4Address(ends[:4]), IPv4Address(ends[4:])
    else:
        assert kind == b"\x86\xdd" and ip[0] >> 4 == 6, "IPv6"
        assert int.from_bytes(ip[4:6], "big") == len(ip) - 40, "IPv6 length"
        ends, hops, protocol, rest = ip[8:40], ip[7], ip[6], ip[40:]
        assert protocol in (17, 58), "no extension headers"
        pseudo = ends + struct.pack("!II", len(rest), protocol)
        source, destination = IPv6Address(ends[:16]), IPv6Address(ends[16:])
    assert ones_sum(pseudo + rest) == 0xFFFF, "checksum"
    ports = None
    if protocol == 17:
        sport, dport, length, total = struct.unpack("!HHHH", rest[:8])
        assert length == len(rest) and total, "UDP length, and a complete checksum"
        ports, rest = (sport, dport), rest[8:]
    return Answer(frame[:6], frame[6:12], source, destination, hops, ports, rest)


# --- DHCPv4 -------------------------------------------------------------------------------------------------------------


def options4(options: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([code, len(value)]) + value for code, value in options)


def bootp(
    mac: bytes,
    kind: int | None,
    options: Iterable[tuple[int, bytes]] = (),
    *,
    op: int = 1,
    htype: int = 1,
    hlen: int = 6,
    flags: int = 0,
    ciaddr: str = "0.0.0.0",
    yiaddr: str = "0.0.0.0",
    giaddr: str = "0.0.0.0",
    chaddr: bytes | None = None,
    sname: bytes = b"",
    file: bytes = b"",
    cookie: bytes = COOKIE,
    end: bytes = b"\xff",
) -> bytes:
    """A DHCPv4 message of a client."""
    head = struct.pack("!BBBBIHH", op, htype, hlen, 0, 0x12345678, 3, flags)
    head += IPv4Address(ciaddr).packed + IPv4Address(yiaddr).packed + bytes(4) + IPv4Address(giaddr).packed
    head += (mac if chaddr is None else chaddr).ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + cookie
    kinds = [] if kind is None else [(53, bytes([kind]))]
    return head + options4([*kinds, *options]) + end


@dataclass(frozen=True)
class Message4:
    """`options` are in the order of the wire, the parts of a long one joined (RFC 3396). `size` is that of the IP datagram."""

    kind: int
    transaction: bytes
    flags: int
    ciaddr: IPv4Address
    yiaddr: IPv4Address
    chaddr: bytes
    options: dict[int, bytes]
    size: int


def read4(message: bytes) -> Message4:
    assert len(message) >= 300, "shorter than BOOTP"
    assert message[:4] == bytes([2, 1, 6, 0])
    assert message[8:10] == bytes(2) and message[20:28] == bytes(8), "secs, siaddr, giaddr"
    assert message[34:44] == bytes(10) and message[44:236] == bytes(192), "chaddr's rest, sname, file"
    assert message[236:240] == COOKIE
    options: dict[int, bytes] = {}
    at, last = 240, 0
    while message[at] != 255:
        code, length = message[at], message[at + 1]
        assert code, "padding between options"
        value = message[at + 2 : at + 2 + length]
        assert len(value) == length
        assert code not in options or code == last, f"option {code} twice"
        options[code] = options.get(code, b"") + value
        at, last = at + 2 + length, code
    assert not any(message[at + 1 :]), "data behind the end"
    flags = int.from_bytes(message[10:12], "big")
    return Message4(
        options[53][0],
        message[4:8],
        flags,
        IPv4Address(message[12:16]),
        IPv4Address(message[16:20]),
        message[28:34],
        options,
        len(message) + 28,
    )


def names(data: bytes) -> list[str]:
    """Domain names, with compression (RFC 1035, 4.1.4)."""
    found, at = [], 0
    while at < len(data):
        labels, here, jumped = [], at, False
        while data[here]:
            if data[here] >= 0xC0:
                target = int.from_bytes(data[here : here + 2], "big") & 0x3FFF
                assert target < here, "a pointer points back"
                if not jumped:
                    at, jumped = here + 2, True
                here = target
                continue
            assert data[here] < 64
            labels.append(data[here + 1 : here + 1 + data[here]].decode())
            here += 1 + data[here]
        if not jumped:
            at = here + 1
        found.append(".".join(labels))
    return found


def routes(data: bytes) -> list[tuple[str, str]]:
    """Classless static routes (RFC 3442)."""
    found = []
    while data:
        octets = (data[0] + 7) // 8
        net = IPv4Address(data[1 : 1 + octets].ljust(4, b"\0"))
        found.append((f"{net}/{data[0]}", str(IPv4Address(data[1 + octets : 5 + octets]))))
        data = data[5 + octets :]
    return found


# --- DHCPv6 -------------------------------------------------------------------------------------------------------------


def option6(code: int, value: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(value)) + value


def message6(kind: int, *options: bytes) -> bytes:
    return bytes([kind, 0xAB, 0xCD, 0xEF]) + b"".join(options)


def ia_na(iaid: int, *addresses: str) -> bytes:
    inside = b"".join(option6(5, IPv6Address(address).packed + struct.pack("!II", 300, 600)) for address in addresses)
    return option6(3, struct.pack("!III", iaid, 0, 0) + inside)


def ia_ta(iaid: int, *addresses: str) -> bytes:
    inside = b"".join(option6(5, IPv6Address(address).packed + struct.pack("!II", 300, 600)) for address in addresses)
    return option6(4, struct.pack("!I", iaid) + inside)


def ia_pd(iaid: int) -> bytes:
    return option6(25, struct.pack("!III", iaid, 0, 0))


@dataclass(frozen=True)
class Lease6:
    """An identity association: `addresses` to (preferred, valid) lifetimes in seconds."""

    kind: int
    iaid: int
    times: tuple[int, int]
    addresses: dict[str, tuple[int, int]]
    status: int | None


@dataclass(frozen=True)
class Message6:
    kind: int
    transaction: bytes
    options: list[tuple[int, bytes]]
    leases: list[Lease6]

    def one(self, code: int) -> bytes | None:
        found = [value for other, value in self.options if other == code]
        assert len(found) <= 1, f"option {code} twice"
        return found[0] if found else None

    @property
    def status(self) -> int | None:
        return status(self.options)


def split6(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        code, length = struct.unpack("!HH", data[:4])
        assert len(data) >= 4 + length, "an option beyond the end"
        found.append((code, data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def status(options: list[tuple[int, bytes]]) -> int | None:
    found = [int.from_bytes(value[:2], "big") for code, value in options if code == 13]
    return found[0] if found else None


def read6(message: bytes) -> Message6:
    options, leases = split6(message[4:]), []
    for code, value in options:
        if code in (3, 25):
            iaid, t1, t2 = struct.unpack("!III", value[:12])
            inside = split6(value[12:])
        elif code == 4:
            iaid, t1, t2, inside = int.from_bytes(value[:4], "big"), 0, 0, split6(value[4:])
        else:
            continue
        addresses = {}
        for inner, address in inside:
            assert inner in (5, 13)
            if inner == 5:
                assert len(address) == 24
                addresses[str(IPv6Address(address[:16]))] = struct.unpack("!II", address[16:])
        assert t1 <= t2
        leases.append(Lease6(code, iaid, (t1, t2), addresses, status(inside)))
    return Message6(message[0], message[1:4], options, leases)


def addresses6(data: bytes) -> list[str]:
    assert len(data) % 16 == 0
    return [str(IPv6Address(data[at : at + 16])) for at in range(0, len(data), 16)]


# --- router advertisements ----------------------------------------------------------------------------------------------


def solicitation(*options: bytes, code: int = 0) -> bytes:
    return bytes([133, code]) + bytes(6) + b"".join(options)


@dataclass(frozen=True)
class Advertisement:
    hop_limit: int
    flags: int
    lifetime: int
    options: list[tuple[int, bytes]]
    """Values without type and length."""

    def all(self, kind: int) -> list[bytes]:
        return [value for other, value in self.options if other == kind]


def read_ra(message: bytes) -> Advertisement:
    assert message[:2] == bytes([134, 0]) and message[8:16] == bytes(8), "reachable time and retransmission timer"
    options, rest = [], message[16:]
    while rest:
        length = 8 * rest[1]
        assert 0 < length <= len(rest), "an option beyond the end"
        options.append((rest[0], rest[2:length]))
        rest = rest[length:]
    return Advertisement(message[4], message[5], int.from_bytes(message[6:8], "big"), options)
