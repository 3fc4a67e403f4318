"""Whether a guest runs: on a live migration's destination its tap is there, and up, long before the guest is.

The first frame from the guest's MAC is the proof. QEMU sends RARP requests in the guest's name in the moment in which it takes
the guest over, so that even a silent guest is heard. A packet socket sees them before any filter.
"""

import array
import errno
import socket
import struct

from . import sysfs

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26

# Classic BPF, linux/filter.h; the packet type is "ancillary" data at SKF_AD_OFF + SKF_AD_PKTTYPE.
_LOAD, _LOAD_HALF, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_PKTTYPE, _OUTGOING = 0xFFFFF000 + 4, 4
_SOURCE = 6
_KEPT = 14
"""Bytes of a frame that are copied: nobody reads them."""


def program(mac: bytes) -> list[tuple[int, int, int, int]]:
    """Statements (code, jump if true, jump if false, value) that pass what comes from `mac`, not what the host sends to it."""
    head, tail = struct.unpack("!IH", mac)
    return [
        (_LOAD_BYTE, 0, 0, _PKTTYPE),
        (_JUMP_EQUAL, 4, 0, _OUTGOING),
        (_LOAD, 0, 0, _SOURCE),
        (_JUMP_EQUAL, 0, 2, head),
        (_LOAD_HALF, 0, 0, _SOURCE + 4),
        (_JUMP_EQUAL, 1, 0, tail),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, _KEPT),
    ]


class FirstFrameSocket:
    """Hears the guest behind one tap. Raises OSError if there is no such tap: ENODEV, also if it is another by now."""

    def __init__(self, ifname: str, ifindex: int, mac: str) -> None:
        # No protocol: nothing comes in before the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._ifname = ifname
        try:
            statements = program(bytes.fromhex(mac.replace(":", "")))
            code = array.array("B", b"".join(struct.pack("=HBBI", *statement) for statement in statements))
            filter_ = struct.pack("@HP", len(statements), code.buffer_info()[0])
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
            self._socket.bind((ifname, _ETH_P_ALL))
            # A name is bound to whatever has it at this moment.
            if socket.if_nametoindex(ifname) != ifindex or self.is_gone():
                raise OSError(errno.ENODEV, "is another link by now")
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Waits, in the kernel, for ~12 ms."""
        self._socket.close()

    def heard(self) -> bool:
        """Whether the guest runs here. To be asked at once, and then whenever the socket is readable, or has an error."""
        try:
            self._socket.recv(_KEPT)
        except BlockingIOError:
            return sysfs.has_sent(self._ifname)
        except OSError as error:
            # The link went down, or away. One that comes up again has the same socket.
            if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
                raise
            return False
        return True

    def is_gone(self) -> bool:
        """Whether there is no such tap any more. (One that is merely down is still there.)"""
        return self._socket.getsockname()[0] != self._ifname
