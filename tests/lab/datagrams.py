"""Datagrams, as programs send and receive them: `datagrams.py listen IFNAME ADDRESS PORT` joins ADDRESS if that is a group, and
prints what comes, `SENDER SIZE TEXT` a line, where TEXT are the first 16 bytes; `answer` answers what begins with a `?`, with an
`!` in its place, to the group. `datagrams.py send IFNAME ADDRESS PORT TEXT…` sends each text."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address


def opened(ifname: str, address: str) -> socket.socket:
    index = socket.if_nametoindex(ifname)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    return sock


def listen(ifname: str, address: str, port: int, answers: bool) -> None:
    sock = opened(ifname, address)
    index, group = socket.if_nametoindex(ifname), ip_address(address)
    sock.bind((address, port, 0, index) if group.version == 6 else (address, port))
    if group.is_multicast and group.version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group.packed + struct.pack("i", index))
    elif group.is_multicast:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group.packed + struct.pack("4si", bytes(4), index))
    print("ready", flush=True)
    while True:
        data, sender = sock.recvfrom(1 << 16)
        print(sender[0].partition("%")[0], len(data), data[:16].decode(errors="replace"), flush=True)
        if answers and data[:1] == b"?":
            sock.sendto(b"!" + data[1:], (address, port))


def main(what: str, ifname: str, address: str, port: str, *texts: str) -> None:
    if what in ("listen", "answer"):
        listen(ifname, address, int(port), what == "answer")
        return
    sock = opened(ifname, address)
    for text in texts:
        sock.sendto(text.encode(), (address, int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
