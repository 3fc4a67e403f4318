"""Frames to groups that bridges and switches take for their own, of the guest with `roles.MAC`."""

from __future__ import annotations

import struct

from .frames import ethernet, mac_bytes
from .roles import MAC


def llc(dst: str, payload: bytes) -> bytes:
    """An IEEE 802.3 frame: a length, and no EtherType."""
    return (mac_bytes(dst) + mac_bytes(MAC) + struct.pack("!H", len(payload)) + payload).ljust(60, b"\0")


def bpdu(dst: str = "01:80:c2:00:00:00", head: bytes = b"\x42\x42\x03") -> bytes:
    """The configuration message of a root bridge of priority 0: IEEE 802.1D, 9.3.1."""
    me = b"\0\0" + mac_bytes(MAC)
    times = struct.pack("!HHHH", 0, 6 * 256, 256, 4 * 256)
    return llc(dst, head + bytes(5) + me + bytes(4) + me + b"\x80\x01" + times)


FLOODED = {
    "BPDU": bpdu(),
    "PVST+": bpdu("01:00:0c:cc:cc:cd", b"\xaa\xaa\x03\0\0\x0c\x01\x0b"),
    "CDP": llc("01:00:0c:cc:cc:cc", b"\xaa\xaa\x03\0\0\x0c\x20\0" + bytes(30)),
    "MVRP": ethernet("01:80:c2:00:00:21", MAC, 0x88F5, bytes(46)),
    "LLDP to the nearest customer bridge": ethernet("01:80:c2:00:00:00", MAC, 0x88CC, bytes(46)),
}
"""What a bridge without STP floods."""
TAKEN = {
    "PAUSE": ethernet("01:80:c2:00:00:01", MAC, 0x8808, bytes(46)),
    "LACP": ethernet("01:80:c2:00:00:02", MAC, 0x8809, bytes(110)),
    "EAPOL": ethernet("01:80:c2:00:00:03", MAC, 0x888E, bytes(46)),
    "LLDP": ethernet("01:80:c2:00:00:0e", MAC, 0x88CC, bytes(46)),
}
"""What no bridge passes on."""
