"""A guest that scans its subnet: it sends to each address in turn."""

from __future__ import annotations

from .nodes import Node
from .routed import GATEWAY4, GATEWAY6

SCAN = """
import socket, sys, time
source, first, count, seconds, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
family = socket.AF_INET6 if ":" in source else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind((source, 0))
base, size = int.from_bytes(socket.inet_pton(family, first), "big"), 16 if family == socket.AF_INET6 else 4
start, sent = time.monotonic(), 0
while time.monotonic() < start + seconds:
    sock.sendto(b"x", (socket.inet_ntop(family, (base + sent % count).to_bytes(size, "big")), 9))
    sent += 1
    time.sleep(max(0, start + sent / rate - time.monotonic()))
"""
"""Words: the sender, the first address, how many of them, seconds, how many a second."""


def far(guest: Node) -> None:
    """Let a guest send to its subnet by way of the host without ARP and ND: it needs no answer to send."""
    guest.sh(f"""
        ip route replace 192.0.2.0/24 via {GATEWAY4} dev eth0 onlink
        ip -6 route replace 2001:db8::/64 via {GATEWAY6} dev eth0 onlink
    """)
