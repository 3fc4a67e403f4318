"""Frames without end: `python3 flood.py IFNAME MILLISECONDS HEX…` sends all of them through a packet socket again and again, past
the sender's own stack, with a pause in between, until it is killed.
"""

from __future__ import annotations

import socket
import sys
import time


def main(ifname: str, milliseconds: str, *frames: str) -> None:
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((ifname, 0))
    data = [bytes.fromhex(frame) for frame in frames]
    print("ready", flush=True)
    while True:
        for frame in data:
            try:
                sender.send(frame)
            except OSError:
                pass  # the other end is down
        time.sleep(float(milliseconds) / 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
