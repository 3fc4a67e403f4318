"""UDP and ICMPv6 in Ethernet frames, read and written, and what DHCP and router advertisements share with DNS: encoded names.

Readers return None for what is truncated or not meant, and never raise. All addresses and ports are those of the packet's own
headers: addresses as bytes in network order.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
"""EtherTypes."""
UDP, ICMPV6 = 17, 58
"""Protocol numbers."""

_ETHERNET, _IPV4, _IPV6, _UDP = 14, 20, 40, 8
"""Lengths of the headers, without options."""
_MORE_OR_OFFSET = 0x3FFF
"""Of the fragment field (RFC 791): "more fragments", and the offset."""
_NETWORK_CONTROL = 0xC0
"""Traffic class CS6 (RFC 4594, 3.2)."""
_MAX_LABEL, _MAX_NAME = 63, 255
"""Bytes (RFC 1035, 2.3.4); a name's includes the lengths of its labels and the root."""


class Packet(NamedTuple):
    """What a datagram or message carries, and between whom."""

    source: bytes
    destination: bytes
    payload: bytes


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071): 0 for data that include their own, right checksum.

    A sum of 16-bit words with end-around carry is the remainder by 0xffff.
    """
    number = int.from_bytes(data, "big")
    return -(number << 8 if len(data) & 1 else number) % 0xFFFF


def link_local(mac: bytes) -> bytes:
    """Return the link-local address that a MAC makes (RFC 4291, appendix A)."""
    return b"\xfe\x80\0\0\0\0\0\0" + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def is_link_local(address: bytes) -> bool:
    """Whether an IPv6 address is in fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def read_udp4(frame: bytes, port: int) -> Packet | None:
    """Return the datagram that an untagged frame carries to a UDP port over IPv4; None for anything else, fragments included.

    The UDP checksum is not verified: a guest whose NIC offloads it (virtio, netfront) leaves it unfinished.
    """
    if len(frame) < _ETHERNET + _IPV4 + _UDP or frame[12:14] != IPV4:
        return None
    first, _, total, _, fragment, _, protocol = struct.unpack_from("!BBHHHBB", frame, _ETHERNET)
    header = 4 * (first & 15)
    if first >> 4 != 4 or header < _IPV4 or protocol != UDP or fragment & _MORE_OR_OFFSET:
        return None
    # Ethernet pads short frames behind the packet.
    end = _ETHERNET + total
    if total < header + _UDP or end > len(frame) or checksum(frame[_ETHERNET : _ETHERNET + header]):
        return None
    payload = _udp_payload(frame[_ETHERNET + header : end], port)
    return None if payload is None else Packet(frame[26:30], frame[30:34], payload)


def write_udp4(macs: bytes, source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return a frame with a UDP datagram over IPv4. `macs` are those of the receiver and the sender, `ports` the sender's and the
    receiver's."""
    length = _UDP + len(payload)
    addresses = source + destination
    udp = _udp(addresses + struct.pack("!HH", UDP, length), ports, payload)
    head = struct.pack("!BBHHHBB", 0x45, _NETWORK_CONTROL, _IPV4 + length, 0, 0, 64, UDP)
    return macs + IPV4 + head + struct.pack("!H", checksum(head + addresses)) + addresses + udp


def read_udp6(frame: bytes, port: int) -> Packet | None:
    """Return the datagram that an untagged frame carries to a UDP port over IPv6, without extension headers; None for anything
    else. The UDP checksum is not verified, see `read_udp4`."""
    packet = _read_ipv6(frame, UDP)
    if packet is None or len(packet.payload) < _UDP:
        return None
    payload = _udp_payload(packet.payload, port)
    return None if payload is None else packet._replace(payload=payload)


def write_udp6(macs: bytes, source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """Return a frame with a UDP datagram over IPv6; arguments as in `write_udp4`."""
    length = _UDP + len(payload)
    udp = _udp(source + destination + struct.pack("!II", length, UDP), ports, payload)
    return _write_ipv6(macs, source, destination, UDP, 64, udp)


def read_icmp6(frame: bytes) -> Packet | None:
    """Return the ICMPv6 message that an untagged frame carries over IPv6 with a hop limit of 255, so from the link itself
    (RFC 4861, 6.1), without extension headers, and with a right checksum; None for anything else.

    This checksum is never left to a NIC.
    """
    packet = _read_ipv6(frame, ICMPV6)
    if packet is None or frame[21] != 255:
        return None
    pseudo = frame[22:54] + struct.pack("!II", len(packet.payload), ICMPV6)
    return None if checksum(pseudo + packet.payload) else packet


def write_icmp6(macs: bytes, source: bytes, destination: bytes, message: bytes) -> bytes:
    """Return a frame with an ICMPv6 message over IPv6, hop limit 255. The message's checksum is filled in: it comes with 0."""
    pseudo = source + destination + struct.pack("!II", len(message), ICMPV6)
    whole = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    return _write_ipv6(macs, source, destination, ICMPV6, 255, whole)


def name(text: str) -> bytes:
    """Return a domain name as a sequence of labels without compression (RFC 1035, 3.1; RFC 8415, 10): b"" if it is not one."""
    labels = text.removesuffix(".").split(".")
    if not text.isascii() or not all(0 < len(label) <= _MAX_LABEL for label in labels):
        return b""
    encoded = b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"
    return encoded if len(encoded) <= _MAX_NAME else b""


def names(texts: Iterable[str]) -> bytes:
    """Return domain names one after another, without those that are none."""
    return b"".join(map(name, texts))


def _read_ipv6(frame: bytes, protocol: int) -> Packet | None:
    if len(frame) < _ETHERNET + _IPV6 or frame[12:14] != IPV6 or frame[14] >> 4 != 6 or frame[20] != protocol:
        return None
    end = _ETHERNET + _IPV6 + (frame[18] << 8 | frame[19])
    return Packet(frame[22:38], frame[38:54], frame[_ETHERNET + _IPV6 : end]) if end <= len(frame) else None


def _write_ipv6(macs: bytes, source: bytes, destination: bytes, protocol: int, hops: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28 | _NETWORK_CONTROL << 20, len(payload), protocol, hops)
    return macs + IPV6 + head + source + destination + payload


def _udp_payload(udp: bytes, port: int) -> bytes | None:
    """Return what a datagram of at least 8 bytes carries to a port. Data behind its length are not its own."""
    _, to, length = struct.unpack_from("!HHH", udp)
    return udp[_UDP:length] if to == port and _UDP <= length <= len(udp) else None


def _udp(pseudo: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    head = struct.pack("!HHH", *ports, _UDP + len(payload))
    # 0 would mean that there is no checksum (RFC 768, RFC 8200 8.1).
    return head + struct.pack("!H", checksum(pseudo + head + b"\0\0" + payload) or 0xFFFF) + payload
