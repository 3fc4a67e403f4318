"""Frames with a virtio-net header, as the driver of a guest writes it: checksums and segments that are left to the host.

`offload.py IFNAME` sends as root in a guest whose NIC is IFNAME (PACKET_VNET_HDR); `offload.py IFNAME tap` holds a tap open as
QEMU does. Both read lines: flags, GSO type, header length, GSO size, csum_start, csum_offset, the frame in hex; and answer each.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

SOL_PACKET, PACKET_VNET_HDR = 263, 15
TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
TUNSETOFFLOAD, ALL_OFFLOADS = 0x400454D0, 0x1F | 0x60
NEEDS_CSUM = 1
TCPV4, TCPV6, UDP_L4 = 1, 4, 5
"""GSO types, linux/virtio_net.h."""
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17


OPTIONS = 60, bytes([0, 0x1E, 4, 0, 0, 0, 0])
"""Destination options: an unknown one, to be skipped, with four bytes for the guest to choose."""


class Lie(NamedTuple):
    """A frame as it shall leave the host; where the sum starts, and where it is written; what the filter sees there; the two
    bytes that make the sum what is wanted."""

    frame: bytes
    start: int
    at: int
    before: bytes
    filler: int

    def behind(self, tag: bytes) -> Lie:
        """The same behind a VLAN tag."""
        size = len(tag)
        frame = self.frame[:12] + tag + self.frame[12:]
        return Lie(frame, self.start + size, self.at + size, self.before, self.filler + size)


def lies(mac: str, peer: str, own: tuple[str, str], other: tuple[str, str]) -> dict[str, Lie]:
    """What a guest with a MAC and two addresses, IPv4 and IPv6, has its host send in another's name. The filter sees its own
    addresses, which differ from the other's in the last two bytes."""
    from .frames import advertisement, arp, extended, icmp6, router_advertisement, udp4, udp6

    in4, in6, echo = IPv4Address(own[0]).packed[2:], IPv6Address(own[1]).packed[-2:], bytes([128, 0])
    own_ll = f"fe80::{eui64(mac)}"
    return {
        "ARP reply": Lie(arp(2, mac, other[0], other[0]), 22, 30, in4, 42),
        "ARP request": Lie(arp(1, mac, other[0], own[0]), 22, 30, in4, 42),
        "IPv4": Lie(udp4(peer, mac, other[0], own[0], 9), 26, 28, in4, 44),
        "IPv6": Lie(extended(udp6(peer, mac, other[1], own[1], 9), OPTIONS), 22, 36, in6, 58),
        "advertisement": Lie(extended(advertisement(mac, own_ll, other[1]), OPTIONS), 22, 84, in6, 58),
        "router advertisement": Lie(extended(router_advertisement(mac, own_ll, "2001:db8:bad::"), OPTIONS), 22, 62, echo, 58),
        "redirect": Lie(extended(icmp6(mac, own_ll, 137, bytes(36)), OPTIONS), 22, 62, echo, 58),
    }


def eui64(mac: str) -> str:
    """The interface identifier that a MAC makes, as the last half of an address."""
    data = bytes.fromhex(mac.replace(":", ""))
    return (bytes([data[0] ^ 2]) + data[1:3] + b"\xff\xfe" + data[3:]).hex(":", 2)


class Liar:
    """Sends frames as a guest. `node` has the interface; `how` is "" for a NIC, "tap" for a tap, which it makes."""

    def __init__(self, node, ifname: str, how: str = "") -> None:
        argv = ["/usr/bin/python3", "-IS", __file__, ifname, *([how] if how else [])]
        self.process = node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline().strip() == "ready"

    def send(self, frame: bytes, start: int = 0, offset: int = 0, gso: int = 0, size: int = 0, head: int = 0) -> str:
        """Send a frame; with `start`, its checksum is left to the host. Returns "sent", or why it was refused."""
        flags = NEEDS_CSUM if start else 0
        self.process.stdin.write(f"{flags} {gso} {head} {size} {start} {offset} {frame.hex()}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Listener:
    """All frames that come in at an interface of a node. Use as a context manager."""

    def __init__(self, node, ifname: str) -> None:
        self.process = node.popen(["/usr/bin/python3", "-IS", __file__, ifname, "listen"], stdout=subprocess.PIPE)
        assert self.process.stdout.readline().strip() == "ready"
        self.frames: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.frames.append(bytes.fromhex(line))

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self._thread.join()
        self.process.communicate()

    def has(self, frame: bytes, seconds: float = 5) -> bool:
        """Wait for a frame. Short ones are padded on their way."""
        end = time.monotonic() + seconds
        while not any(found.rstrip(b"\0") == frame.rstrip(b"\0") for found in list(self.frames)):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


def ones(data: bytes) -> int:
    """The ones' complement sum of 16-bit words."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def forged(final: bytes, start: int, at: int, before: bytes, filler: int) -> tuple[bytes, bytes]:
    """A frame that becomes another one when the checksum from `start` on is written at `at`, where `before` is until then. The
    two bytes at `filler` are chosen for it. Returns the frame, and what it becomes."""
    want = int.from_bytes(final[at : at + 2], "big")
    frame = bytearray(final)
    frame[at : at + 2], frame[filler : filler + 2] = before, b"\0\0"
    chosen = ((~want & 0xFFFF) - ones(bytes(frame[start:]))) % 0xFFFF
    frame[filler : filler + 2] = chosen.to_bytes(2, "big")
    assert ~ones(bytes(frame[start:])) & 0xFFFF == want
    return bytes(frame), final[:filler] + frame[filler : filler + 2] + final[filler + 2 :]


def unfinished(frame: bytes, start: int, at: int, pseudo: bytes) -> tuple[bytes, bytes]:
    """A frame whose checksum at `at` is left to the host, as an honest driver does; and how it is when it is finished. `pseudo`
    is the pseudo-header."""
    empty = frame[:at] + b"\0\0" + frame[at + 2 :]
    left = empty[:at] + ones(pseudo).to_bytes(2, "big") + empty[at + 2 :]
    value = ~ones(left[start:]) & 0xFFFF
    return left, empty[:at] + value.to_bytes(2, "big") + empty[at + 2 :]


def tx_checksum(node, ifname: str, on: bool) -> None:
    """Whether a link computes checksums, as a NIC with or without that offload."""
    node.run(["/usr/bin/python3", "-IS", __file__, ifname, "tx", str(int(on))])


def main(ifname: str, how: str = "", on: str = "") -> None:
    if how == "tx":
        value = array.array("I", [ETHTOOL_STXCSUM, int(on)])
        with socket.socket() as asked:
            fcntl.ioctl(asked, SIOCETHTOOL, struct.pack("16sP16x", ifname.encode(), value.buffer_info()[0]))
        return
    if how == "tap":
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", ifname.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    else:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3) if how == "listen" else 0)
        if how == "listen":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            # The tag of a frame comes apart from it.
            opened.setsockopt(SOL_PACKET, 8, 1)
        else:
            opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        opened.bind((ifname, 3 if how == "listen" else 0))
        fd = opened.fileno()
    print("ready", flush=True)
    while how == "listen":
        frame, extra, _, source = opened.recvmsg(1 << 17, 64)
        if source[2] == socket.PACKET_OUTGOING:
            continue
        for _, kind, data in extra:
            status, *_, tci, proto = struct.unpack_from("IIIHHHH", data) if kind == 8 else (0, 0, 0)
            if status & 0x10:
                frame = frame[:12] + struct.pack("!HH", proto, tci) + frame[12:]
        print(frame.hex(), flush=True)
    for line in sys.stdin:
        *numbers, frame = line.split()
        flags, gso, head, size, start, offset = map(int, numbers)
        try:
            os.write(fd, struct.pack("=BBHHHH", flags, gso, head, size, start, offset) + bytes.fromhex(frame))
        except OSError as error:
            print(f"refused: {error.strerror}", flush=True)
        else:
            print("sent", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
