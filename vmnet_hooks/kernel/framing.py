"""Netlink as bytes: message headers, attributes, and the sockets that carry them. See netlink(7) and linux/netlink.h.

Everything that the program sends and receives itself passes through this file: rtnetlink (wire.py), nfnetlink (nft_tables.py,
conntrack.py) and notifications (monitor/). pyroute2 (rtnl.py) is for what is rare: it spends more time on one request than
the kernel does on a whole guest. `_socket` is the part of `socket` that is written in C; it loads faster.
"""

import errno
import os
from _socket import (
    AF_NETLINK,
    MSG_DONTWAIT,
    MSG_TRUNC,
    NETLINK_ROUTE,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_RAW,
    SOL_SOCKET,
    socket,
)
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct

NETLINK_NETFILTER = 12
_SOL_NETLINK, _CAP_ACK, _STRICT_CHK = 270, 10, 12
_SO_RCVBUFFORCE = 33

REQUEST, ACK, _DUMP_INTR = 1, 4, 0x10
DUMP = 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
ERROR, DONE = 2, 3
NESTED, _NUMBER = 0x8000, 0x3FFF

_ATTEMPTS = 50
_BUFFER = 1 << 17
"""Bytes of one datagram. The kernel's dumps fill 32 KiB at most."""

_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
NFGENMSG = Struct("!BBH")
"""Family, version, resource ID: the header of every nfnetlink message (linux/netfilter/nfnetlink.h)."""
INT, SIGNED = Struct("=I"), Struct("=i")


class NetlinkError(Exception):
    """The kernel refused a request. `code` is the errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code, os.strerror(code))
        self.code = code


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the values of the attributes that start at `offset`, by number. Of a number that occurs twice, the last counts."""
    found: dict[int, bytes] = {}
    end = len(data)
    unpack = _ATTRIBUTE.unpack_from
    while end - offset >= 4:
        length, number = unpack(data, offset)
        if length < 4:
            break
        found[number & _NUMBER] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def values(data: bytes) -> Iterator[bytes]:
    """Yield the values of a list, whose attributes all have the same number."""
    offset = 0
    while len(data) - offset >= 4:
        length, _ = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attribute(number: int, value: bytes) -> bytes:
    """Return one attribute, padded to the start of the next."""
    return _ATTRIBUTE.pack(4 + len(value), number) + value + bytes(-len(value) % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield (type, flags, sequence number, port of the sender, body behind the header) of each message of a datagram."""
    offset, end = 0, len(data)
    while end - offset >= 16:
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < 16:
            break
        yield kind, flags, sequence, port, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def text(data: bytes) -> str:
    """Decode a string of the kernel's. The name of a link can be any bytes but a blank, a slash and a colon."""
    return os.fsdecode(data.partition(b"\0")[0])


class Socket:
    """A netlink socket: for one request at a time, or for the notifications of multicast groups.

    `groups` are the numbers of the groups to join. `buffer` is the size of the receive buffer in bytes; 0 leaves the
    kernel's default. Raises OSError.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE, groups: Iterable[int] = (), buffer: int = 0) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            if buffer:
                self._enlarge(buffer)
            self._socket.bind((0, sum(1 << (group - 1) for group in groups)))
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)

    def _enlarge(self, size: int) -> None:
        try:
            # With CAP_NET_ADMIN, net.core.rmem_max is no limit.
            self._socket.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, size)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    # --- requests ----------------------------------------------------------------------------------------------------

    def get(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """Send a request and return the body of its one answer. Raises NetlinkError."""
        sequence = self._send(kind, flags, body)
        while True:
            for answer, _, number, _, data in messages(self.receive()):
                if number == sequence:
                    _check(answer, data)
                    return data

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a request that changes something. Raises NetlinkError if the kernel refuses it."""
        self.get(kind, body, flags | ACK)

    def batch(self, begin: int, end: int, header: bytes, changes: Sequence[tuple[int, bytes, int]]) -> None:
        """Send changes (type, body, flags) as one transaction of nfnetlink, between messages of the types `begin` and `end`.
        Raises NetlinkError with the errno of the first change that the kernel refuses; then none is made."""
        *others, (kind, body, flags) = changes
        steps = ((begin, header, 0), *others, (kind, body, flags | ACK), (end, header, 0))
        first = self._sequence + 1
        self._socket.send(b"".join([self._framed(*step) for step in steps]))
        # The kernel looks at all changes, then answers in their order. An error of the whole batch has the number of `begin`.
        while True:
            for answer, _, number, _, told in messages(self.receive()):
                place = (number - first) & 0xFFFFFFFF
                if place <= len(changes):
                    _check(answer, told)
                    if place == len(changes):
                        return

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Send a dump request and return the bodies of all answers. Ask again if the kernel reports that the dump was
        interrupted by a change (a routing daemon is at work). Raises NetlinkError; EAGAIN if that goes on."""
        for _ in range(_ATTEMPTS):
            whole, found = self._dump(self._send(kind, DUMP, body))
            if whole:
                return found
        raise NetlinkError(errno.EAGAIN)

    def _dump(self, sequence: int) -> tuple[bool, list[bytes]]:
        whole = True
        found: list[bytes] = []
        while True:
            for answer, flags, number, _, data in messages(self.receive()):
                if number != sequence:
                    continue
                if flags & _DUMP_INTR:
                    whole = False
                if answer == DONE:
                    # It carries the error that ended the dump, if there was one.
                    if len(data) >= 4 and (code := SIGNED.unpack_from(data)[0]):
                        raise NetlinkError(-code)
                    return whole, found
                _check(answer, data)
                found.append(data)

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._socket.send(self._framed(kind, body, flags))
        return self._sequence

    def _framed(self, kind: int, body: bytes, flags: int) -> bytes:
        """One request with the next sequence number."""
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        return _HEADER.pack(16 + len(body), kind, flags | REQUEST, sequence, 0) + body

    # --- answers and notifications -----------------------------------------------------------------------------------

    def receive(self, flags: int = 0) -> bytes:
        """Return the next datagram. Raises OSError (BlockingIOError with MSG_DONTWAIT if none waits, ENOBUFS if some were lost),
        or NetlinkError (EMSGSIZE)."""
        size = self._socket.recv_into(self._buffer, 0, MSG_TRUNC | flags)
        if size > _BUFFER:
            raise NetlinkError(errno.EMSGSIZE)
        return bytes(self._view[:size])

    def waiting(self) -> Iterator[bytes | None]:
        """Yield the datagrams that wait, without blocking; None where the kernel dropped some because the receive buffer was
        full. Raises OSError."""
        while True:
            try:
                yield self.receive(MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None


def _check(answer: int, data: bytes) -> None:
    if answer == ERROR and (code := SIGNED.unpack_from(data)[0]):
        raise NetlinkError(-code)
