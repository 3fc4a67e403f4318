"""Frames by hand: `python3 frames.py IFNAME HEX…` sends each through a packet socket, past the sender's own stack.

Also the builders of the frames that the tests send: honest, spoofed, and duplicate-address probes.
"""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address

BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(dst: str, src: str, proto: int, payload: bytes) -> bytes:
    return (mac_bytes(dst) + mac_bytes(src) + struct.pack("!H", proto) + payload).ljust(60, b"\0")


def arp(
    op: int,
    sender_mac: str,
    sender_ip: str,
    target_ip: str,
    *,
    dst: str = BROADCAST,
    src: str | None = None,
    target_mac: str = "00:00:00:00:00:00",
) -> bytes:
    """An ARP packet; `src` is the Ethernet source when it is not the sender's MAC."""
    body = (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, op)
        + mac_bytes(sender_mac)
        + IPv4Address(sender_ip).packed
        + mac_bytes(target_mac)
        + IPv4Address(target_ip).packed
    )
    return ethernet(dst, src or sender_mac, 0x0806, body)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def rarp(src_mac: str, sender_ip: str = "0.0.0.0", op: int = 3) -> bytes:
    """What QEMU sends in its guest's name after a migration: a reverse request (RFC 903) of its own MAC."""
    ip = IPv4Address(sender_ip).packed
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, op) + mac_bytes(src_mac) + ip + mac_bytes(src_mac) + bytes(4)
    return ethernet(BROADCAST, src_mac, 0x8035, body)


def tagged(frame: bytes, vid: int, proto: int = 0x8100) -> bytes:
    """The frame with one more VLAN tag, the outermost."""
    return frame[:12] + struct.pack("!HH", proto, vid) + frame[12:]


def group4(group: str) -> str:
    """The MAC of an IPv4 multicast group (RFC 1112, 6.4)."""
    return (b"\x01\x00\x5e" + (int(IPv4Address(group)) & 0x7FFFFF).to_bytes(3, "big")).hex(":")


def ip4(
    src_mac: str, src: str, dst: str, proto: int, payload: bytes, *, dst_mac: str = "", part: int = 0, options: bytes = b""
) -> bytes:
    """An IPv4 packet; `part` is the fragment field, flags included. Without `dst_mac` it goes to the MAC of the group `dst`."""
    words = 5 + len(options) // 4
    addresses = IPv4Address(src).packed + IPv4Address(dst).packed
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(payload), 1, part, 64, proto, 0) + addresses + options
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return ethernet(dst_mac or group4(dst), src_mac, 0x0800, head + payload)


def udp4(dst_mac: str, src_mac: str, src: str, dst: str, port: int, sport: int = 4444) -> bytes:
    """An IPv4 UDP datagram (no UDP checksum: IPv4 allows that)."""
    payload = struct.pack("!HHHH", sport, port, 8 + 4, 0) + b"spoof"[:4]
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, 17, 0, IPv4Address(src).packed, IPv4Address(dst).packed
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return ethernet(dst_mac, src_mac, 0x0800, head + payload)


def ip6(dst_mac: str, src_mac: str, src: str, dst: str, proto: int, payload: bytes, at: int, hops: int = 64) -> bytes:
    """An IPv6 packet; the checksum of `payload` is filled in at offset `at`."""
    pseudo = IPv6Address(src).packed + IPv6Address(dst).packed + struct.pack("!I3xB", len(payload), proto)
    payload = payload[:at] + struct.pack("!H", checksum(pseudo + payload) or 0xFFFF) + payload[at + 2 :]
    head = struct.pack("!IHBB", 6 << 28, len(payload), proto, hops) + IPv6Address(src).packed + IPv6Address(dst).packed
    return ethernet(dst_mac, src_mac, 0x86DD, head + payload)


def udp6(dst_mac: str, src_mac: str, src: str, dst: str, port: int) -> bytes:
    return ip6(dst_mac, src_mac, src, dst, 17, struct.pack("!HHHH", 4444, port, 12, 0) + b"spoo", 6)


def solicitation(src_mac: str, src: str, target: str, *, lladdr: bool = True) -> bytes:
    """A neighbour solicitation; with source `::` and no option it is a duplicate-address probe (RFC 4862, 5.4.2)."""
    last = IPv6Address(target).packed[-3:]
    group = str(IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + last))
    body = struct.pack("!BBHI", 135, 0, 0, 0) + IPv6Address(target).packed
    if lladdr:
        body += b"\x01\x01" + mac_bytes(src_mac)
    return ip6("33:33:ff:" + ":".join(f"{octet:02x}" for octet in last), src_mac, src, group, 58, body, 2, hops=255)


def advertisement(src_mac: str, src: str, target: str, dst: str = "ff02::1", dst_mac: str = "33:33:00:00:00:01") -> bytes:
    """An unsolicited neighbour advertisement with Override set."""
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + IPv6Address(target).packed + b"\x02\x01" + mac_bytes(src_mac)
    return ip6(dst_mac, src_mac, src, dst, 58, body, 2, hops=255)


def icmp6(src_mac: str, src: str, kind: int, body: bytes = bytes(20), dst: str = "ff02::1") -> bytes:
    """Any ICMPv6 message."""
    return ip6("33:33:00:00:00:01", src_mac, src, dst, 58, struct.pack("!BBH", kind, 0, 0) + body, 2, hops=255)


def extended(frame: bytes, *headers: tuple[int, bytes]) -> bytes:
    """An IPv6 frame with extension headers, (number, the header without its first octet), before what it carries."""
    ethernet_head, head, rest = frame[:14], frame[14:54], frame[54:]
    number, chain = head[6], b""
    for kind, octets in reversed(headers):
        chain = bytes([number]) + octets + chain
        number = kind
    length = struct.unpack("!H", head[4:6])[0] + len(chain)
    return ethernet_head + head[:4] + struct.pack("!HB", length, number) + head[7:] + chain + rest


def fragment(offset: int, more: bool) -> tuple[int, bytes]:
    """The fragment header, for `extended`; the offset is in units of 8 octets (RFC 8200, 4.5)."""
    return 44, struct.pack("!BHI", 0, offset << 3 | more, 0x1234)


def router_advertisement(src_mac: str, src: str, prefix: str = "", lifetime: int = 1800) -> bytes:
    """A router advertisement, with an on-link autonomous /64 when `prefix` is given."""
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0) + b"\x01\x01" + mac_bytes(src_mac)
    if prefix:
        body += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + IPv6Address(prefix).packed
    return ip6("33:33:00:00:00:01", src_mac, src, "ff02::1", 58, body, 2, hops=255)


def main(ifname: str, *frames: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((ifname, 0))
        for frame in frames:
            sock.send(bytes.fromhex(frame))


if __name__ == "__main__":
    main(*sys.argv[1:])
