"""A TCP connection that is busy in both directions until it is told to stop, every byte checked.

`transfer.py listen ADDRESS PORT` waits for one connection; `transfer.py connect ADDRESS PORT` makes it. Each end sends
numbered random blocks, ~1 MB/s, and checks what comes against the digest that follows the last block. For each line on
its stdin the connecting end prints how many bytes it has received so far; when its stdin ends, both ends stop, and
exit 0 if everything arrived intact.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import sys
import threading
import time

BLOCK, PAUSE = 16384, 0.016
received = 0
failures: list[str] = []


def send(sock: socket.socket, stop: threading.Event) -> None:
    """Blocks until `stop`; then an empty block and the digest of them all."""
    stream, digest = random.Random(time.time_ns()), hashlib.sha256()
    while not stop.wait(PAUSE):
        block = stream.randbytes(BLOCK)
        digest.update(block)
        sock.sendall(struct.pack("!I", len(block)) + block)
    sock.sendall(struct.pack("!I", 0) + digest.digest())


def receive(sock: socket.socket, ended: threading.Event) -> None:
    """Blocks until the empty one."""
    global received
    digest = hashlib.sha256()
    with sock.makefile("rb") as file:
        while length := struct.unpack("!I", file.read(4))[0]:
            block = file.read(length)
            digest.update(block)
            received += len(block)
        if file.read(32) != digest.digest():
            failures.append("what arrived is not what was sent")
    ended.set()


def guarded(function: object, *arguments: object) -> threading.Thread:
    def run() -> None:
        try:
            function(*arguments)
        except (OSError, struct.error) as error:
            failures.append(f"{function.__name__}: {error}")
            arguments[-1].set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def main(role: str, address: str, port: str) -> int:
    ended = threading.Event()
    if role == "listen":
        with socket.create_server((address, int(port)), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
            print("ready", flush=True)
            sock = server.accept()[0]
        stop = ended  # when the other end has said all, so do we
    else:
        sock = socket.create_connection((address, int(port)), timeout=10)
        sock.settimeout(None)
        print("ready", flush=True)
        stop = threading.Event()
    threads = [guarded(send, sock, stop), guarded(receive, sock, ended)]
    if role == "connect":
        for _ in sys.stdin:
            print(failures[0] if failures else received, flush=True)
        stop.set()
    for thread in threads:
        thread.join()
    print(failures[0] if failures else f"intact {received}", flush=True)
    return len(failures)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
