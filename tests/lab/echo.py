"""Run in a node: `serve NAME PORT…` answers on TCP and UDP (and SCTP, where the kernel has it) with NAME, its own port and whom
it sees; `ask PROTOCOL/ADDRESS/PORT…` asks all at once, and prints each answer, a line `PROTOCOL/ADDRESS/PORT NAME PORT PEER`."""

from __future__ import annotations

import select
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 0.8  # seconds
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
KINDS = {"tcp": (STREAM, 6), "udp": (DATAGRAM, 17), "sctp": (STREAM, 132)}


def listening(family: int, kind: int, protocol: int, port: int) -> socket.socket | None:
    try:
        made = socket.socket(family, kind, protocol)
    except OSError:
        return None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("" if family == socket.AF_INET else "::", port))
    if kind == STREAM:
        made.listen(64)
    return made


def serve(name: str, ports: list[int]) -> None:
    families = (socket.AF_INET, socket.AF_INET6)
    made = [listening(family, *kind, port) for port in ports for kind in KINDS.values() for family in families]
    sockets = {each.fileno(): each for each in made if each}
    print("ready", flush=True)
    while True:
        for number in select.select(list(sockets), [], [])[0]:
            found = sockets[number]
            port = found.getsockname()[1]
            if found.type == DATAGRAM:
                _, peer = found.recvfrom(2000)
                found.sendto(f"{name} {port} {peer[0]}".encode(), peer)
            else:
                connection, peer = found.accept()
                connection.sendall(f"{name} {port} {peer[0]}".encode())
                connection.close()


def ask(word: str) -> str:
    protocol, address, port = word.split("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, *KINDS[protocol]) as made:
            made.settimeout(PATIENCE)
            made.connect((address, int(port)))
            if protocol == "udp":
                made.send(b"?")
            return made.recv(100).decode()
    except OSError:
        return ""


def main(argv: list[str]) -> None:
    if argv[0] == "serve":
        serve(argv[1], list(map(int, argv[2:])))
    with ThreadPoolExecutor(len(argv)) as pool:
        for word, answer in zip(argv[1:], pool.map(ask, argv[1:]), strict=True):
            if answer:
                print(word, answer)


if __name__ == "__main__":
    main(sys.argv[1:])
