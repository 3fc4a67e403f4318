"""The process behind a real tap: `tap.py TAP` holds it open (a carrier, but nobody reads), `tap.py TAP PID` plays
QEMU for a guest: it carries frames between the tap and a new tap `eth0` in the network namespace of PID, for ever.
`tap.py TAP speaks` sends what it reads, a frame in hex on each line, as the guest. A tap that was not there before goes with the
process, as QEMU's does.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000


def open_tap(ifname: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", ifname.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def enter_network_of(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def pump(one: int, other: int) -> None:
    peer = {one: other, other: one}
    while True:
        for fd in select.select(list(peer), [], [])[0]:
            frame = os.read(fd, 65536)
            try:
                os.write(peer[fd], frame)
            except OSError:
                pass  # the other side is down: a cable that is not plugged in loses frames


def main(ifname: str, guest: str = "") -> None:
    tap = open_tap(ifname)
    print("ready", flush=True)
    if not guest:
        signal.pause()
    if guest == "speaks":
        for line in sys.stdin:
            os.write(tap, bytes.fromhex(line))
            print("sent", flush=True)
        return
    enter_network_of(int(guest))
    pump(tap, open_tap("eth0"))


if __name__ == "__main__":
    main(*sys.argv[1:])
