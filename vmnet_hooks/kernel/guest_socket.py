"""A packet socket on a guest's link, for what the agent answers there: neighbour solicitations, DHCP, router solicitations.

There is one per link, with a BPF filter: the kernel copies only frames that may be answered, and only they wake the agent.
"""

import ctypes
import errno
import fcntl
import socket
import struct
from functools import cache

from .file_descriptors import moved_up

MAX_SOLICITATION = 512
"""Bytes. A neighbour solicitation has 86, and a few more with a nonce (RFC 3971)."""
MAX_FRAME = 2048
"""Bytes. A client's DHCP message is in one packet of at most the link's MTU; 576 bytes are usual."""

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_ATTACH_FILTER = 26
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_SIOCGIFMTU, _MTU = 0x8921, struct.Struct("16si20x")
_RECEIVE_BUFFER = 1 << 16
"""Bytes of kernel memory that one guest's flood can occupy until we read it."""

_ETHERNET, _IPV6 = 14, 40
AT_ICMP = _ETHERNET + _IPV6
AT_TARGET = AT_ICMP + 8
ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION = 133, 135

# Classic BPF, linux/filter.h. Offsets of "ancillary" data are negative: SKF_AD_OFF + SKF_AD_PKTTYPE or + SKF_AD_VLAN_TAG_PRESENT.
_CODES = {"word": 0x20, "half": 0x28, "byte": 0x30, "length": 0x80, "header": 0xB1, "behind": 0x48, "and": 0x54, "return": 0x06}
_JUMPS = {"is": 0x15, "above": 0x25, "has": 0x45}
_PKTTYPE, _VLAN = 0xFFFFF000 + 4, 0xFFFFF000 + 48
_OTHERHOST = 3

_Line = tuple[str, int] | tuple[str, int, str, str] | str
"""A statement and its operand, a jump with the labels that it goes to ("" is the next line), or a label."""
_TAGGED: tuple[_Line, ...] = (("byte", _VLAN), ("is", 0, "", "drop"))
# For IPv4, `header` loads the length of its header, and `behind` from behind the header.
_DHCP: tuple[_Line, ...] = (
    ("half", 12),
    ("is", _ETH_P_IPV6, "ipv6", ""),
    ("is", _ETH_P_IP, "", "drop"),
    ("byte", _ETHERNET + 9),
    ("is", socket.IPPROTO_UDP, "", "drop"),
    ("half", _ETHERNET + 6),
    ("has", 0x1FFF, "drop", ""),
    ("header", _ETHERNET),
    ("behind", _ETHERNET + 2),
    ("is", 67, "all", "drop"),
    "ipv6",
    ("byte", _ETHERNET + 6),
    ("is", socket.IPPROTO_UDP, "", "icmp"),
    ("half", AT_ICMP + 2),
    ("is", 547, "all", "drop"),
    "icmp",
    ("byte", _ETHERNET + 6),
    ("is", socket.IPPROTO_ICMPV6, "", "drop"),
    ("half", AT_ICMP),
    ("is", ROUTER_SOLICITATION << 8, "all", ""),
)
_NEIGHBOURS: tuple[_Line, ...] = (
    ("byte", _PKTTYPE),
    ("is", _OTHERHOST, "drop", ""),
    ("length", 0),
    ("above", MAX_SOLICITATION, "drop", ""),
    ("byte", _ETHERNET + 6),
    ("is", socket.IPPROTO_ICMPV6, "", "drop"),
    ("byte", _ETHERNET + 7),
    ("is", 255, "", "drop"),
    ("half", AT_ICMP),
    ("is", NEIGHBOUR_SOLICITATION << 8, "", "drop"),
    ("byte", AT_TARGET),
    ("is", 0xFF, "drop", ""),
    ("half", AT_TARGET),
    ("and", 0xFFC0),
    ("is", 0xFE80, "drop", ""),
    # The unspecified source belongs to duplicate address detection: some word must differ from zero.
    *(line for word in range(4) for line in (("word", _ETHERNET + 8 + 4 * word), ("is", 0, "", "short"))),
)
_ENDS: tuple[_Line, ...] = (
    "drop",
    ("return", 0),
    "short",
    ("return", MAX_SOLICITATION),
    "all",
    ("return", MAX_FRAME),
)


@cache
def program(serves: bool, proxies: bool) -> tuple[tuple[int, int, int, int], ...]:
    """Return a filter as statements (code, jump if true, jump if false, value): for what clients of DHCP and of routers ask if
    `serves`, and for neighbour solicitations if `proxies`. The kernel drops a frame that is shorter than what a statement
    loads."""
    lines = (*_TAGGED, *(_DHCP if serves else ()), *(_NEIGHBOURS if proxies else ()), *_ENDS)
    labels: dict[str, int] = {}
    for line in lines:
        if isinstance(line, str):
            labels[line] = len([other for other in lines[: lines.index(line)] if not isinstance(other, str)])
    found: list[tuple[int, int, int, int]] = []
    for line in lines:
        if isinstance(line, str):
            continue
        # Jumps are relative to the next statement.
        here = len(found) + 1
        true, false = (labels.get(label, here) - here for label in line[2:]) if len(line) == 4 else (0, 0)
        found.append(((_JUMPS | _CODES)[line[0]], true, false, line[1]))
    return tuple(found)


class GuestSocket:
    """A packet socket on one link. `serves` and `proxies` are as in `program`. Raises OSError: ENODEV if there is no link of that
    name and index."""

    def __init__(self, ifname: str, ifindex: int, serves: bool, proxies: bool) -> None:
        # Without a protocol, the socket receives nothing before the filter is attached.
        self._socket = moved_up(socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0))
        self.hears = (serves, proxies)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            _attach(self._socket, program(serves, proxies))
            if serves:
                self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            # A bridge takes the frames of its ports before any protocol but ETH_P_ALL sees them. That costs each frame of the
            # link a little, both ways.
            self._socket.bind((ifname, _ETH_P_ALL if serves else _ETH_P_IPV6))
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

    def mtu(self) -> int:
        """Return the MTU of the link, in bytes. Raises OSError if the link has gone."""
        name = self._socket.getsockname()[0].encode()
        return int(_MTU.unpack(fcntl.ioctl(self._socket, _SIOCGIFMTU, _MTU.pack(name, 0)))[1])

    def send(self, frame: bytes) -> None:
        """Send a frame to the guest. Raises OSError if the link is down, or its queue is full."""
        self._socket.send(frame)


def _attach(sock: socket.socket, statements: tuple[tuple[int, int, int, int], ...]) -> None:
    code = b"".join(struct.pack("=HBBI", *statement) for statement in statements)
    memory = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(statements), ctypes.addressof(memory)))
