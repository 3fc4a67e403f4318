"""Run in a node: `serve PORT…` answers on TCP and UDP; `ask WORD…` asks each PROTOCOL/ADDRESS[/PORT], all at once, and prints
those that were answered."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 0.7  # seconds


def serve(ports: list[int]) -> None:
    sockets = {}
    for port in ports:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            made = socket.socket(socket.AF_INET6, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            if kind == socket.SOCK_DGRAM:
                # An answer has the sender that was asked.
                made.setsockopt(socket.IPPROTO_IP, 8, 1)
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            made.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                made.listen(64)
            sockets[made.fileno()] = made
    print("ready", flush=True)
    while True:
        for number in select.select(list(sockets), [], [])[0]:
            if sockets[number].type == socket.SOCK_STREAM:
                sockets[number].accept()[0].close()
            else:
                data, told, _, sender = sockets[number].recvmsg(2000, 200)
                told = [row for row in told if row[:2] == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
                sockets[number].sendmsg([data], told, 0, sender)


def ask(word: str) -> bool:
    protocol, address, *port = word.split("/")
    if protocol == "ping":
        argv = ["ping", "-c", "1", "-W", str(PATIENCE), address]
        return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as made:
        made.settimeout(PATIENCE)
        try:
            made.connect((address, int(port[0])))
            if protocol == "udp":
                made.send(b"?")
                made.recv(10)
        except OSError:
            return False
    return True


def main(argv: list[str]) -> None:
    if argv[0] == "serve":
        serve(list(map(int, argv[1:])))
    with ThreadPoolExecutor(64) as pool:
        print(*(word for word, answered in zip(argv[1:], pool.map(ask, argv[1:]), strict=True) if answered))


if __name__ == "__main__":
    main(sys.argv[1:])
