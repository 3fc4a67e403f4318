#!/usr/bin/python3
"""Two libvirt hosts and the router between them, and what is seen on their wires while a guest moves from one to the other.

public0 of the router == eth1 of host a, of host b     the routed network; `asker` sits there too, and asks who has the guest
lan0 of the router    == br0 of host a, of host b      a plain bridge of libvirt's; the migration itself goes here
"""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from lab.frames import arp, solicitation  # noqa: E402
from lab.nodes import Node, wire  # noqa: E402
from lvhost import CONFIG, Host, Router  # noqa: E402

ROUTED = CONFIG.partition("[networks.lan]")[0]
ASKER_MAC, ASKER4, ASKER6 = "02:00:00:00:0a:01", "192.0.2.200", "fe80::a:1"
ARP_REPLY, SOLICITATION, ADVERTISEMENT = 2, 135, 136


class Peer(Host):
    """One of the two; `lan` is its address on the bridge, by which the other one reaches it."""

    daemon = "libvirtd -d --listen"

    def __init__(self, name: str, router: Router, lan: str):
        self.lan = lan
        super().__init__(name, router)
        self.config(ROUTED)
        self.sh(f"ip addr add {lan}/24 dev br0")

    @property
    def mac(self) -> str:
        """Of the uplink."""
        return self.sh("cat /sys/class/net/eth1/address").strip()


@dataclass(frozen=True)
class Frame:
    """What one host saw: `way` is in, past (in, for another host: a bridge floods), or out. `what` is arp, rarp, ip, nd, or ""
    for the rest; `src` and `dst` are addresses of what is inside; `kind` is ARP's operation or ICMPv6's type, `target` what it
    is about."""

    at: float
    link: str
    way: str
    mac: str
    what: str
    src: str = ""
    dst: str = ""
    kind: int = 0
    target: str = ""


class Wiretap:
    """Everything but TCP (the migration itself) that crosses any link of a host while the block runs."""

    def __init__(self, host: Node, file: Path):
        self.host, self.file = host, file
        self.frames: list[Frame] = []

    def __enter__(self) -> Wiretap:
        words = ["tcpdump", "-Z", "root", "-U", "--immediate-mode", "-n", "-i", "any", "-y", "LINUX_SLL2", "-w", "-", "not tcp"]
        self.sink = open(self.file, "wb")
        self.process = self.host.popen(words, stdout=self.sink, stderr=-1)
        for line in self.process.stderr:
            if "listening on" in line:
                return self
        raise AssertionError(f"tcpdump on {self.host.name} did not start")

    def __exit__(self, *_exc: object) -> None:
        time.sleep(0.2)
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=10)
        self.sink.close()
        links = dict(re.findall(r"(?m)^(\d+): ([^:@]+)", self.host.sh("ip -o link")))
        self.frames = list(decoded(self.file.read_bytes(), {int(index): name for index, name in links.items()}))


def decoded(capture: bytes, links: dict[int, str]) -> Iterable[Frame]:
    """The frames of a pcap file of link type LINUX_SLL2 (see pcap-linktype(7))."""
    (magic,) = struct.unpack_from("=I", capture)
    unit = {0xA1B2C3D4: 1e6, 0xA1B23C4D: 1e9}[magic]
    at = 24
    while at + 16 <= len(capture):
        seconds, fraction, length, _ = struct.unpack_from("=IIII", capture, at)
        packet = capture[at + 16 : at + 16 + length]
        at += 16 + length
        proto, _, index, _, way, size = struct.unpack_from("!HHIHBB", packet)
        mac = packet[12 : 12 + size].hex(":")
        link, ways = links.get(index, f"#{index}"), {3: "past", 4: "out"}
        yield Frame(seconds + fraction / unit, link, ways.get(way, "in"), mac, *(inside(proto, packet[20:]) or ("",)))


def inside(proto: int, body: bytes) -> tuple | None:
    if proto in (0x0806, 0x8035):
        kind, src, target = struct.unpack_from("!6xH6x4s6x4s", body)
        return ("arp" if proto == 0x0806 else "rarp"), text(src), "", kind, text(target)
    if proto == 0x0800:
        return "ip", text(body[12:16]), text(body[16:20])
    if proto == 0x86DD:
        src, dst = text(body[8:24]), text(body[24:40])
        if body[6] == 58 and body[40] in (SOLICITATION, ADVERTISEMENT):
            return "nd", src, dst, body[40], text(body[48:64])
        return "ip", src, dst
    return None


def text(packed: bytes) -> str:
    return str(ip_address(packed))


class Pings:
    """`ping` every 10 ms from the router, to several addresses at once, while the block runs."""

    def __init__(self, node: Node, addresses: Sequence[str], folder: Path):
        self.node, self.addresses, self.folder = node, addresses, folder

    def __enter__(self) -> Pings:
        self.running = {}
        for number, address in enumerate(self.addresses):
            sink = open(self.folder / f"ping{number}", "w")
            words = ["ping", "-D", "-n", "-i", "0.01", "-W", "1", address]
            self.running[address] = sink, self.node.popen(words, stdout=sink, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.replies: dict[str, list[float]] = {}
        for number, (address, (sink, process)) in enumerate(self.running.items()):
            process.send_signal(signal.SIGINT)
            process.wait(10)
            sink.close()
            out = (self.folder / f"ping{number}").read_text()
            self.replies[address] = [float(at) for at in re.findall(r"(?m)^\[([\d.]+)\] \d+ bytes from", out)]

    def gap(self, address: str) -> tuple[float, float]:
        """(milliseconds, when it began) of the longest time without a reply."""
        replies = self.replies[address]
        assert len(replies) > 10, f"{address} hardly ever answered"
        return max((1000 * (later - earlier), earlier) for earlier, later in pairwise(replies))


class Pair:
    """The lab."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        try:
            self.router = self.stack.enter_context(Router())
            self.asker = self.stack.enter_context(Node("asker"))
            wire(self.router, "ask", self.asker, "eth0", mac_b=ASKER_MAC)
            self.router.sh("ip link set ask master public0 up; ip addr add 10.9.0.250/24 dev lan0")
            self.asker.sh("ip link set eth0 up")
            self.a = Peer("lva", self.router, "10.9.0.251")
            self.stack.callback(self.a.close)
            self.b = Peer("lvb", self.router, "10.9.0.252")
            self.stack.callback(self.b.close)
        except BaseException:
            self.stack.close()
            raise

    def close(self) -> None:
        self.stack.close()

    def ask(self, *addresses: str) -> subprocess.Popen:
        """Asks who has these addresses, 50 times a second, until it is killed. The router must not be who asks: it would
        learn from the answers."""
        return self.asker.popen(["/usr/bin/python3", "-I", __file__, "ask", "eth0", *addresses])

    def migrate(self, domain: str, source: Peer, target: Peer, *options: str) -> subprocess.Popen:
        """A live migration, under way."""
        words = ["virsh", "-q", "-c", "qemu:///system", "migrate", "--live", "--p2p", *options, domain]
        words += [f"qemu+tcp://{target.lan}/system", "--migrateuri", f"tcp://{target.lan}"]
        return source.popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def ask(ifname: str, *addresses: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, 0))
        frames = [
            solicitation(ASKER_MAC, ASKER6, address) if ":" in address else arp(1, ASKER_MAC, ASKER4, address)
            for address in addresses
        ]
        while True:
            for frame in frames:
                raw.send(frame)
            time.sleep(0.02)


if __name__ == "__main__" and sys.argv[1:2] == ["ask"]:
    ask(*sys.argv[2:])
