"""Announcements: gratuitous ARP and unsolicited neighbour advertisements, sent by a detached child of the hook.

libvirt waits for the end of a hook's output, not just of the hook: the child closes it. A raw socket's close alone makes
its process wait ~12 ms.
"""

import os
import socket
import struct
import syslog
import time
from collections.abc import Iterable, Sequence

ROUNDS = (0.0, 1.1)
"""Seconds after the call. The second round comes after the 1 s `locktime` in which a receiver ignores a change."""

_BROADCAST = b"\xff" * 6


def announce(calls: Sequence[tuple[str, str, str]]) -> None:
    """Announces (link, address, tap) without making the caller wait, for as long as the tap is there: a guest that has left
    in the meantime may run elsewhere. Never raises: what fails goes to the log."""
    if not calls:
        return
    try:
        if os.fork():
            return
    except OSError as error:
        syslog.syslog(syslog.LOG_WARNING, f"announcements not sent: {error.strerror}")
        return
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, 256)
        taps = {tap: _index(tap) for _, _, tap in calls}
        for delay in ROUNDS:
            time.sleep(delay)
            send((link, address) for link, address, tap in calls if taps[tap] and _index(tap) == taps[tap])
    except Exception as error:
        syslog.syslog(syslog.LOG_WARNING, f"announcements not sent: {error}")
    finally:
        os._exit(0)


def _index(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        return 0


def send(pairs: Iterable[tuple[str, str]]) -> None:
    """Sends one announcement per pair: IPv4 in request form and in reply form, IPv6 as an NA. Raises OSError."""
    for link, address in pairs:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((link, 0))
            mac = raw.getsockname()[4]
            frames = [neighbour_advertisement(mac, address)] if ":" in address else gratuitous_arp(mac, address)
            for frame in frames:
                raw.send(frame)


def gratuitous_arp(mac: bytes, address: str) -> list[bytes]:
    """Request form, and reply form whose target MAC is the sender's: both beat the receivers' locktime (arp(7), RFC 5944 4.6)."""
    ip = socket.inet_aton(address)

    def frame(operation: int, target: bytes) -> bytes:
        return _BROADCAST + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation) + mac + ip + target + ip

    return [frame(1, bytes(6)), frame(2, mac)]


def neighbour_advertisement(mac: bytes, address: str) -> bytes:
    """Unsolicited, to all nodes, Override set (RFC 4861 7.2.6): without Override nobody would change a known entry."""
    target = socket.inet_pton(socket.AF_INET6, address)
    source = link_local(mac)
    group = socket.inet_pton(socket.AF_INET6, "ff02::1")
    body = struct.pack("!I", 0x20000000) + target + b"\x02\x01" + mac
    icmp = struct.pack("!BBH", 136, 0, 0) + body
    pseudo = source + group + struct.pack("!IHBB", len(icmp), 0, 0, 58)
    checksum = _checksum(pseudo + icmp)
    icmp = struct.pack("!BBH", 136, 0, checksum) + body
    header = struct.pack("!IHBB", 0x60000000, len(icmp), 58, 255) + source + group
    return b"\x33\x33\x00\x00\x00\x01" + mac + struct.pack("!H", 0x86DD) + header + icmp


def link_local(mac: bytes) -> bytes:
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
