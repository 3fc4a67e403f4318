"""Neighbour solicitations (RFC 4861) that a guest sends, and the answers of a proxy.

One packet socket per tap, with a BPF filter: of all IPv6 frames the kernel copies only solicitations that may be answered, and
only they wake the agent.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import NamedTuple

from . import announcement
from .file_descriptors import moved_up

MAX_FRAME = 512
"""Bytes. A solicitation has 86, and a few more with a nonce (RFC 3971)."""

_ETH_P_IPV6 = 0x86DD
_SO_ATTACH_FILTER = 26
_RECEIVE_BUFFER = 1 << 16
"""Bytes of kernel memory that one guest's flood can occupy until we read it."""

_SOLICITATION = 135
_ETHERNET, _IPV6 = 14, 40
_AT_ICMP = _ETHERNET + _IPV6
_AT_TARGET, _AT_OPTIONS = _AT_ICMP + 8, _AT_ICMP + 24

# Classic BPF, linux/filter.h. Offsets of "ancillary" data are negative: SKF_AD_OFF + SKF_AD_PKTTYPE or + SKF_AD_VLAN_TAG_PRESENT.
_LOAD, _LOAD_HALF, _LOAD_BYTE, _LOAD_LENGTH = 0x20, 0x28, 0x30, 0x80
_JUMP_EQUAL, _JUMP_GREATER, _AND, _RETURN = 0x15, 0x25, 0x54, 0x06
_PKTTYPE, _VLAN = 0xFFFFF000 + 4, 0xFFFFF000 + 48
_OTHERHOST = 3
_TESTS = (
    # (load, offset, mask or 0, comparison, value, whether a frame for which it holds passes the test)
    (_LOAD_BYTE, _PKTTYPE, 0, _JUMP_EQUAL, _OTHERHOST, False),
    (_LOAD_BYTE, _VLAN, 0, _JUMP_EQUAL, 0, True),
    (_LOAD_LENGTH, 0, 0, _JUMP_GREATER, MAX_FRAME, False),
    (_LOAD_BYTE, _ETHERNET + 6, 0, _JUMP_EQUAL, socket.IPPROTO_ICMPV6, True),
    (_LOAD_BYTE, _ETHERNET + 7, 0, _JUMP_EQUAL, 255, True),
    (_LOAD_HALF, _AT_ICMP, 0, _JUMP_EQUAL, _SOLICITATION << 8, True),
    (_LOAD_BYTE, _AT_TARGET, 0, _JUMP_EQUAL, 0xFF, False),
    (_LOAD_HALF, _AT_TARGET, 0xFFC0, _JUMP_EQUAL, 0xFE80, False),
)
_SOURCE_WORDS = tuple(_ETHERNET + 8 + 4 * word for word in range(4))


class Solicitation(NamedTuple):
    """A valid solicitation: the sender's MAC from the Ethernet header (an option proves nothing), its address, and the target."""

    lladdr: bytes
    source: bytes
    target: bytes


def _program() -> list[tuple[int, int, int, int]]:
    """Return the filter as statements (code, jump if true, jump if false, value). The kernel drops a frame that is shorter than
    what a statement loads."""
    blocks = []
    for load, offset, mask, jump, value, passes in _TESTS:
        # Jumps are relative to the next statement; their distances are filled in below.
        blocks.append([(load, 0, 0, offset), *([(_AND, 0, 0, mask)] if mask else []), (jump, not passes, passes, value)])
    program: list[tuple[int, int, int, int]] = []
    # The unspecified source belongs to duplicate address detection: some word must differ from zero.
    words = [[(_LOAD, 0, 0, at), (_JUMP_EQUAL, False, True, 0)] for at in _SOURCE_WORDS]
    length = sum(map(len, blocks)) + sum(map(len, words))
    drop, accept = length, length + 1
    for block in blocks:
        for code, true, false, value in block:
            here = len(program) + 1
            if code in (_JUMP_EQUAL, _JUMP_GREATER):
                true, false = (drop - here) * bool(true), (drop - here) * bool(false)
            program.append((code, true, false, value))
    for block in words:
        for code, _, _, value in block:
            here = len(program) + 1
            program.append((code, 0, accept - here if code == _JUMP_EQUAL else 0, value))
    return [*program, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, MAX_FRAME)]


PROGRAM = tuple(_program())


class SolicitationSocket:
    """A packet socket on one tap. Raises OSError: ENODEV if there is no link of that name and index."""

    def __init__(self, ifname: str, ifindex: int) -> None:
        # Without a protocol, the socket receives nothing before the filter is attached.
        self._socket = moved_up(socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            _attach(self._socket)
            self._socket.bind((ifname, _ETH_P_IPV6))
            # bind(2) takes a name, which another link may have got meanwhile.
            if socket.if_nametoindex(ifname) != ifindex or self._socket.getsockname()[0] != ifname:
                raise OSError(errno.ENODEV, "is another link by now")
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket. This takes about 12 ms: the kernel waits for an RCU grace period."""
        self._socket.close()

    def receive(self) -> bytes | None:
        """Return the next frame; None if none waits. Raises OSError: ENETDOWN if the link went down or has gone."""
        try:
            return self._socket.recv(MAX_FRAME)
        except BlockingIOError:
            return None

    def error(self) -> int:
        """Return and clear the pending error of the socket (SO_ERROR): 0 if nothing has happened to the link."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def mac(self) -> bytes:
        """Return the current MAC of the link; b"" if the link has gone."""
        name, *_, mac = self._socket.getsockname()
        return mac if name else b""

    def answer(self, asked: Solicitation, mac: bytes) -> None:
        """Send the answer to a solicitation, from `mac`. Raises OSError if the link is down, or its queue is full."""
        self._socket.send(announcement.proxy_advertisement(mac, asked.target, asked.lladdr, asked.source))


def _attach(sock: socket.socket) -> None:
    code = b"".join(struct.pack("=HBBI", *statement) for statement in PROGRAM)
    memory = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(PROGRAM), ctypes.addressof(memory)))


def parse(frame: bytes) -> Solicitation | None:
    """Parse a frame. Return None if it is not a solicitation that RFC 4861, 7.1.1 accepts, or one that is not to be answered: of
    duplicate address detection, with extension headers, or for a link-local or multicast target. Never raises."""
    if len(frame) < _AT_OPTIONS:
        return None
    kind, first, length, proto, hops = struct.unpack_from("!HIHBB", frame, 12)
    if (kind, first >> 28, proto, hops) != (_ETH_P_IPV6, 6, socket.IPPROTO_ICMPV6, 255):
        return None
    end = _AT_ICMP + length
    # Ethernet pads short frames behind the packet. Options come in units of 8 bytes.
    if length < 24 or length % 8 or end > len(frame) or frame[_AT_ICMP] != _SOLICITATION or frame[_AT_ICMP + 1]:
        return None
    source, target = frame[22:38], frame[_AT_TARGET:_AT_OPTIONS]
    if source[0] == 0xFF or not any(source) or frame[6] & 1:
        return None
    if target[0] == 0xFF or (target[0] == 0xFE and target[1] & 0xC0 == 0x80) or not any(target):
        return None
    if announcement.checksum(frame[22:54] + struct.pack("!IHBB", length, 0, 0, proto) + frame[_AT_ICMP:end]):
        return None
    at = _AT_OPTIONS
    while at < end:
        if not frame[at + 1]:
            return None
        at += 8 * frame[at + 1]
    return Solicitation(frame[6:12], source, target) if at == end else None


def on_link(ifname: str) -> tuple[IPv6Network, ...]:
    """Return the IPv6 prefixes that are on-link for this host on an interface, from its addresses there; without link-local
    prefixes and single addresses."""
    return tuple(dict.fromkeys(_prefixes(ifname)))


def _prefixes(ifname: str) -> Iterator[IPv6Network]:
    try:
        with open("/proc/net/if_inet6") as file:
            lines = file.read().splitlines()
    except OSError:
        # The kernel has no IPv6.
        return
    for line in lines:
        address, _, length, _, _, name = line.split(None, 5)
        prefix = IPv6Network((bytes.fromhex(address), int(length, 16)), strict=False)
        if name == ifname and prefix.prefixlen < 128 and not prefix.is_link_local and not prefix.is_loopback:
            yield prefix
