"""The first frame of a guest. On the destination of a live migration the tap exists, and is up, long before the guest runs.

A frame from the guest's MAC proves that it does. QEMU sends RARP requests in the guest's name when it takes the guest over, so
that this works for silent guests too. A packet socket receives frames before any filter drops them.
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
"""Bytes of a frame that the kernel copies to us. We read none of them."""


def program(mac: bytes) -> list[tuple[int, int, int, int]]:
    """Return a filter as statements (code, jump if true, jump if false, value). It accepts frames from `mac`, except those that
    the host itself sends."""
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
    """A packet socket on one tap. Raises OSError: ENODEV if there is no tap of that name and index."""

    def __init__(self, ifname: str, ifindex: int, mac: str) -> None:
        # Without a protocol, the socket receives nothing before the filter is attached.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._ifname = ifname
        try:
            statements = program(bytes.fromhex(mac.replace(":", "")))
            code = array.array("B", b"".join(struct.pack("=HBBI", *statement) for statement in statements))
            filter_ = struct.pack("@HP", len(statements), code.buffer_info()[0])
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
            self._socket.bind((ifname, _ETH_P_ALL))
            # bind(2) takes a name, which another link may have got meanwhile.
            if socket.if_nametoindex(ifname) != ifindex or self.is_gone():
                raise OSError(errno.ENODEV, "is another link by now")
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket. This takes about 12 ms: the kernel waits for an RCU grace period."""
        self._socket.close()

    def heard(self) -> bool:
        """Whether the guest runs here. Call it once at the start, as the guest may have sent before the socket was bound; then
        whenever the socket is readable or has an error. Raises OSError."""
        try:
            self._socket.recv(_KEPT)
        except BlockingIOError:
            return sysfs.has_sent(self._ifname)
        except OSError as error:
            # The link went down, or has gone. After it has come up again, the socket receives as before.
            if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
                raise
            return False
        return True

    def is_gone(self) -> bool:
        """Whether the tap has gone. A tap that is down has not."""
        return self._socket.getsockname()[0] != self._ifname
