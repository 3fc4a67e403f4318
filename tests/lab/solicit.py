"""Neighbour solicitations by hand: `solicit.py IFNAME SECONDS HEX…` sends each frame, and prints for each the milliseconds until
the first advertisement of its target came in (`-` for none within SECONDS) and the hex of all that came.
`solicit.py flood IFNAME SECONDS HEX` sends one as fast as it can, and prints how often."""

from __future__ import annotations

import select
import socket
import sys
import time


def open_socket(ifname: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((ifname, 0x86DD))
    return raw


def ask(raw: socket.socket, frame: bytes, seconds: float) -> tuple[float | None, list[bytes]]:
    """When the first advertisement for the frame's target came (seconds), and all of them."""
    began = time.perf_counter()
    raw.send(frame)
    first, found = None, []
    # After the first one, only as long as another answer may take.
    while (left := began + (seconds if first is None else first + 0.02) - time.perf_counter()) > 0:
        if not select.select([raw], [], [], left)[0]:
            continue
        answer, (_, _, kind, *_) = raw.recvfrom(2048)
        advertises = answer[20:21] == b"\x3a" and answer[54:55] == b"\x88" and answer[62:78] == frame[62:78]
        if advertises and kind != socket.PACKET_OUTGOING:
            first = first or time.perf_counter() - began
            found.append(answer)
    return first, found


def main(ifname: str, seconds: str, *frames: str) -> None:
    raw = open_socket(ifname)
    for frame in frames:
        first, found = ask(raw, bytes.fromhex(frame), float(seconds))
        print("-" if first is None else f"{first * 1000:.3f}", *(answer.hex() for answer in found))


def flood(ifname: str, seconds: str, frame: str) -> None:
    raw = open_socket(ifname)
    data, end, sent = bytes.fromhex(frame), time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        raw.send(data)
        sent += 1
    print(sent)


if __name__ == "__main__":
    flood(*sys.argv[2:]) if sys.argv[1] == "flood" else main(*sys.argv[1:])
