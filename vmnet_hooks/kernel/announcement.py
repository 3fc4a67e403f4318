"""Announcements: gratuitous ARP and unsolicited neighbour advertisements, sent by a detached child of the hook.

libvirt waits for the end of a hook's output, not just of the hook: the child closes it. A raw socket's close alone makes
its process wait ~12 ms.
"""

import os
import select
import socket
import struct
import syslog
import time
from collections.abc import Callable, Iterable, Sequence

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
        detach()
        rounds(calls)
    except Exception as error:
        syslog.syslog(syslog.LOG_WARNING, f"announcements not sent: {error}")
    finally:
        os._exit(0)


def detach() -> None:
    """Lets nobody wait for this process, a child that has just been forked: neither for its end nor for that of its output."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # Else a line of the log would be written to whatever gets the number of the log's socket next.
    syslog.closelog()
    os.closerange(3, 1 << 20)
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)


def rounds(calls: Sequence[tuple[str, str, str]], begun: Callable[[], object] = lambda: None) -> None:
    """Sends all rounds of announcements, for as long as the taps are the same, and calls `begun` after the first. Raises
    OSError."""
    taps = {tap: _index(tap) for _, _, tap in calls}
    for number, delay in enumerate(ROUNDS):
        time.sleep(delay)
        send((link, address) for link, address, tap in calls if taps[tap] and _index(tap) == taps[tap])
        if number == 0:
            begun()


def _index(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        return 0


def send(pairs: Iterable[tuple[str, str]]) -> None:
    """Sends one announcement per pair: IPv4 in request form and in reply form, IPv6 as an NA. Raises OSError."""
    links: dict[str, socket.socket] = {}
    try:
        for link, address in pairs:
            if link not in links:
                links[link] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                links[link].bind((link, 0))
            for frame in announcement(links[link].getsockname()[4], address):
                links[link].send(frame)
    finally:
        # At the end: each waits.
        for raw in links.values():
            raw.close()


def announcement(mac: bytes, address: str) -> list[bytes]:
    """The frames that tell a link that `address` is at `mac` now: none on a link without MACs (a tunnel), which asks nobody."""
    if len(mac) != 6:
        return []
    return [neighbour_advertisement(mac, address)] if ":" in address else gratuitous_arp(mac, address)


def answering(pairs: Sequence[tuple[str, str]], seconds: float) -> set[str]:
    """The addresses of (link, address) pairs that answer an ARP request or a neighbour solicitation within `seconds`."""
    waiting = {}
    found: set[str] = set()
    try:
        for link, address in pairs:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            waiting[raw] = (link, address)
            raw.bind((link, 0x0003))
            raw.setblocking(False)
        end = time.monotonic() + seconds
        while waiting and time.monotonic() < end:
            for raw, (link, address) in waiting.items():
                mac = raw.getsockname()[4]
                try:
                    raw.send(question(link, mac, address))
                except OSError:
                    # Down for a moment: asked again.
                    continue
            pause = min(end, time.monotonic() + 0.25)
            while waiting and (left := pause - time.monotonic()) > 0:
                for raw in select.select(list(waiting), [], [], left)[0]:
                    if is_answer(raw.recv(2048), waiting[raw][1]):
                        found.add(waiting.pop(raw)[1])
                        raw.close()
    except OSError as error:
        syslog.syslog(syslog.LOG_WARNING, f"asking {', '.join(address for _, address in pairs)}: {error.strerror}")
    finally:
        for raw in waiting:
            raw.close()
    return found


def question(link: str, mac: bytes, address: str) -> bytes:
    """An ARP probe (sender 0.0.0.0, RFC 5227), or a neighbour solicitation from the link-local address that the MAC makes."""
    if ":" not in address:
        head = struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
        return _BROADCAST + mac + head + mac + bytes(4) + bytes(6) + socket.inet_aton(address)
    target = socket.inet_pton(socket.AF_INET6, address)
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:]
    body = bytes(4) + target + b"\x01\x01" + mac
    return b"\x33\x33" + group[12:] + mac + _icmpv6(135, body, link_local(mac), group)


def is_answer(frame: bytes, address: str) -> bool:
    """Whether a frame is an ARP reply or a neighbour advertisement of `address`."""
    if ":" not in address:
        return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02" and frame[28:32] == socket.inet_aton(address)
    target = socket.inet_pton(socket.AF_INET6, address)
    return frame[12:14] == b"\x86\xdd" and frame[20:21] == b"\x3a" and frame[54:55] == b"\x88" and frame[62:78] == target


def gratuitous_arp(mac: bytes, address: str) -> list[bytes]:
    """Request form, and reply form whose target MAC is the sender's: both beat the receivers' locktime (arp(7), RFC 5944 4.6)."""
    ip = socket.inet_aton(address)

    def frame(operation: int, target: bytes) -> bytes:
        return _BROADCAST + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation) + mac + ip + target + ip

    return [frame(1, bytes(6)), frame(2, mac)]


def neighbour_advertisement(mac: bytes, address: str) -> bytes:
    """Unsolicited, to all nodes, Override set (RFC 4861 7.2.6): without Override nobody would change a known entry."""
    target = socket.inet_pton(socket.AF_INET6, address)
    group = socket.inet_pton(socket.AF_INET6, "ff02::1")
    body = struct.pack("!I", 0x20000000) + target + b"\x02\x01" + mac
    return b"\x33\x33\x00\x00\x00\x01" + mac + _icmpv6(136, body, link_local(mac), group)


def proxy_advertisement(mac: bytes, target: bytes, asker: bytes, destination: bytes) -> bytes:
    """The answer to a solicitation for a target that somebody else has: from the link-local address that the MAC makes, to
    `destination` at the MAC `asker`. Solicited; without Override, so that an answer of the target's own wins (RFC 4861, 7.2.8).
    Not a router's, though we are one: the flag is about the target, and nobody shall take every peer for a gateway."""
    body = struct.pack("!I", 0x40000000) + target + b"\x02\x01" + mac
    return asker + mac + _icmpv6(136, body, link_local(mac), destination)


def _icmpv6(kind: int, body: bytes, source: bytes, group: bytes) -> bytes:
    """EtherType, IPv6 header and message, with hop limit 255 and the checksum."""
    pseudo = source + group + struct.pack("!IHBB", len(body) + 4, 0, 0, 58)
    total = checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)
    header = struct.pack("!HIHBB", 0x86DD, 0x60000000, len(body) + 4, 58, 255) + source + group
    return header + struct.pack("!BBH", kind, 0, total) + body


def link_local(mac: bytes) -> bytes:
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes; 0 if the right one is among them."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
