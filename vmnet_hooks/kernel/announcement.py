"""Announcements: gratuitous ARP and unsolicited neighbour advertisements; and the question whether a gateway answers.

A hook leaves the sending to a detached child: the second round comes a second later, and closing a packet socket takes about
12 ms. libvirt waits not just for the end of a hook, but for the end of its output, so the child closes that.
"""

import gc
import os
import select
import socket
import struct
import syslog
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing

ROUNDS = (0.0, 1.1)
"""Seconds after the call. The second round comes after the `locktime` of 1 s within which receivers ignore a change (arp(7))."""

_BROADCAST = b"\xff" * 6


def announce(calls: Sequence[tuple[str, str, str]]) -> None:
    """Announce each (link, address, tap) from a child process, and return at once. If the tap goes, or another gets its name, the
    second round is not sent: the guest may run elsewhere by then. Never raises; errors are logged."""
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
    """Detach a child that has just been forked from its parent's session, and close all that it has inherited."""
    os.setsid()
    # hooks/run switches it off for one call; a child may wait for long.
    gc.enable()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # The C library keeps the number of the log's socket, and would write log lines to the file that gets it next.
    syslog.closelog()
    os.closerange(3, 1 << 20)
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)


def rounds(calls: Sequence[tuple[str, str, str]], begun: Callable[[], object] = lambda: None) -> None:
    """Send all rounds of announcements, except those of taps that go or are replaced meanwhile. Call `begun` after the first
    round. Raises OSError."""
    # The child's: a hook waits for no import of what only the child needs.
    from . import duplicates
    from .netlink import Netlink

    taps = {tap: _index(tap) for _, _, tap in calls}
    with closing(Netlink()) as netlink:
        for number, delay in enumerate(ROUNDS):
            time.sleep(delay)
            there = [(link, address) for link, address, tap in calls if taps[tap] and _index(tap) == taps[tap]]
            send(duplicates.unanswered(netlink, there))
            if number == 0:
                begun()
        duplicates.settle(netlink, [call[:2] for call in calls])


def _index(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        return 0


def send(pairs: Iterable[tuple[str, str]]) -> None:
    """Announce each (link, address) once. Raises OSError."""
    links: dict[str, socket.socket] = {}
    try:
        for link, address in pairs:
            if link not in links:
                links[link] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                links[link].bind((link, 0))
            for frame in announcement(links[link].getsockname()[4], address):
                links[link].send(frame)
    finally:
        # Last, because each close blocks for about 12 ms.
        for raw in links.values():
            raw.close()


def announcement(mac: bytes, address: str) -> list[bytes]:
    """Return the frames that announce that `address` is at `mac`; none for a link without MACs (a tunnel), which resolves no
    addresses."""
    if len(mac) != 6:
        return []
    return [neighbour_advertisement(mac, address)] if ":" in address else gratuitous_arp(mac, address)


def answering(pairs: Sequence[tuple[str, str]], seconds: float) -> dict[tuple[str, str], float]:
    """Ask for each (link, address) by ARP or neighbour discovery. Return those that another machine answers for within `seconds`,
    each with the seconds since the last question. Never raises; errors are logged."""
    # Rarely asked, and not in every process that announces.
    from .netlink import Netlink, NetlinkError

    waiting: dict[socket.socket, tuple[str, str]] = {}
    found: dict[tuple[str, str], float] = {}
    try:
        with closing(Netlink()) as netlink:
            # With arp_ignore 0, the host answers on each of its NICs for all its addresses.
            own = {link.address for link in netlink.links()}
        for link, address in pairs:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            waiting[raw] = (link, address)
            raw.bind((link, 0x0003))
            if len(raw.getsockname()[4]) != 6:
                # A tunnel resolves no addresses.
                del waiting[raw]
                raw.close()
                continue
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
            asked = time.monotonic()
            pause = min(end, asked + 0.25)
            while waiting and (left := pause - time.monotonic()) > 0:
                for raw in select.select(list(waiting), [], [], left)[0]:
                    frame = raw.recv(2048)
                    if is_answer(frame, waiting[raw][1]) and frame[6:12].hex(":") not in own:
                        found[waiting.pop(raw)] = time.monotonic() - asked
                        raw.close()
    except (OSError, NetlinkError) as error:
        syslog.syslog(syslog.LOG_WARNING, f"asking {', '.join(address for _, address in pairs)}: {error}")
    finally:
        for raw in waiting:
            raw.close()
    return found


def question(link: str, mac: bytes, address: str) -> bytes:
    """Return an ARP probe (sender 0.0.0.0, RFC 5227) or a neighbour solicitation (from the link-local address of the MAC)."""
    if ":" not in address:
        head = struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
        return _BROADCAST + mac + head + mac + bytes(4) + bytes(6) + socket.inet_aton(address)
    target = socket.inet_pton(socket.AF_INET6, address)
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:]
    body = bytes(4) + target + b"\x01\x01" + mac
    return b"\x33\x33" + group[12:] + mac + _icmpv6(135, body, link_local(mac), group)


def is_answer(frame: bytes, address: str) -> bool:
    """Whether a frame is an ARP reply or a neighbour advertisement for `address`."""
    if ":" not in address:
        return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02" and frame[28:32] == socket.inet_aton(address)
    target = socket.inet_pton(socket.AF_INET6, address)
    return frame[12:14] == b"\x86\xdd" and frame[20:21] == b"\x3a" and frame[54:55] == b"\x88" and frame[62:78] == target


def gratuitous_arp(mac: bytes, address: str) -> list[bytes]:
    """Return a gratuitous ARP in request form, and one in reply form with the sender's MAC as its target (RFC 5944, 4.6). Linux
    accepts both even within its `locktime`."""
    ip = socket.inet_aton(address)

    def frame(operation: int, target: bytes) -> bytes:
        return _BROADCAST + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation) + mac + ip + target + ip

    return [frame(1, bytes(6)), frame(2, mac)]


def neighbour_advertisement(mac: bytes, address: str) -> bytes:
    """Return an unsolicited advertisement to all nodes (RFC 4861, 7.2.6), with Override: else receivers keep a known entry."""
    target = socket.inet_pton(socket.AF_INET6, address)
    group = socket.inet_pton(socket.AF_INET6, "ff02::1")
    body = struct.pack("!I", 0x20000000) + target + b"\x02\x01" + mac
    return b"\x33\x33\x00\x00\x00\x01" + mac + _icmpv6(136, body, link_local(mac), group)


def proxy_advertisement(mac: bytes, target: bytes, asker: bytes, destination: bytes) -> bytes:
    """Return a proxy's answer to a solicitation for `target`, from the link-local address of `mac` to `destination` at the MAC
    `asker`. It has no Override flag, so that an answer of the target itself wins (RFC 4861, 7.2.8). It has no Router flag, which
    describes the target: the asker would take every peer for a router."""
    body = struct.pack("!I", 0x40000000) + target + b"\x02\x01" + mac
    return asker + mac + _icmpv6(136, body, link_local(mac), destination)


def _icmpv6(kind: int, body: bytes, source: bytes, group: bytes) -> bytes:
    """Return EtherType, IPv6 header (hop limit 255) and an ICMPv6 message with its checksum."""
    pseudo = source + group + struct.pack("!IHBB", len(body) + 4, 0, 0, 58)
    total = checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)
    header = struct.pack("!HIHBB", 0x86DD, 0x60000000, len(body) + 4, 58, 255) + source + group
    return header + struct.pack("!BBH", kind, 0, total) + body


def link_local(mac: bytes) -> bytes:
    """Return the link-local address of a MAC, from its modified EUI-64 (RFC 4291, appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def checksum(data: bytes) -> int:
    """Return the checksum (RFC 1071) of an even number of bytes: 0 if they contain their own, correct one."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
