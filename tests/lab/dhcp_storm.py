"""A boot storm: many DHCPv4 clients in one process, which all ask at once; how long each waits for its lease.

`dhcp_storm.py link IFNAME COUNT`: COUNT clients on one interface (the guest's end of a veth), MACs 52:54:00:00:00:01 and on.
`dhcp_storm.py links NAME…`: one client on each interface, with its MAC.
`dhcp_storm.py taps NAME=MAC…`: opens the taps (in this network namespace) as QEMU does, and is the guest of each: those that
were not there before go with the process. Prints the JSON of `Result`, and ends with status 1 if a client has no lease.

The clients are those of RFC 2131 without a state on disk: DISCOVER, REQUEST, and both again after 4, 8, … seconds (section 4.1).
`storm` does the same with descriptors that a test has opened itself.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

try:
    from .tap import open_tap
except ImportError:  # run as a program: the folder is in no path with -I
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from tap import open_tap

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
COOKIE = b"\x63\x82\x53\x63"
ASKED = bytes([55, 9, 1, 3, 6, 12, 15, 26, 42, 119, 121])
FIRST_WAIT, GIVE_UP, TICK = 4.0, 60.0, 0.1  # seconds
ETH_P_IP, SO_RCVBUFFORCE, SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 0x0800, 33, 263, 1, 1


@dataclass
class Client:
    """One client: the descriptor that carries its frames, and how far it is."""

    mac: bytes
    end: int
    xid: int
    asks: bytes = b""
    """The frame that it waits for an answer of."""
    began: float = 0.0
    offered: float = 0.0
    """Seconds from its first DISCOVER to the first OFFER."""
    leased: float = 0.0
    """Seconds from its first DISCOVER to the ACK."""
    again: float = 0.0
    wait: float = FIRST_WAIT
    address: str = ""
    server: str = ""


@dataclass
class Result:
    """What became of a storm. Times are in milliseconds, but `seconds`."""

    clients: int
    leases: int = 0
    seconds: float = 0.0
    """From the first DISCOVER of all to the last ACK."""
    offer_median: float = 0.0
    median: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    naks: int = 0
    sent_again: int = 0
    bad_checksums: int = 0
    """Answers whose UDP checksum is neither right nor left out: a kernel leaves it to the device, and a veth does not do it."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Of each MAC."""
    latencies: list[float] = field(default_factory=list)
    """Of each lease, in order of length."""


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 over data that holds a right one."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def message(mac: bytes, xid: int, seconds: int, options: bytes) -> bytes:
    """A frame to all, from a client without an address, which asks for a broadcast answer."""
    dhcp = struct.pack("!BBBBIHH16x", 1, 1, 6, 0, xid, seconds, 0x8000) + mac + bytes(10 + 192) + COOKIE + options + b"\xff"
    dhcp = dhcp.ljust(300, b"\0")  # the least that a BOOTP relay takes (RFC 1542, section 2.1)
    udp = struct.pack("!HHHH", 68, 67, 8 + len(dhcp), 0) + dhcp
    pseudo = bytes(4) + b"\xff" * 4 + struct.pack("!BBH", 0, 17, len(udp))
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp) or 0xFFFF) + udp[8:]
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + ip + udp


def parsed(frame: bytes) -> tuple[int, bytes, dict[int, bytes], bytes, bool] | None:
    """Transaction, hardware address, options and offered address of a server's answer, and whether its checksum is right; None
    for any other frame."""
    if frame[12:14] != b"\x08\x00" or frame[23:24] != b"\x11":
        return None
    at = 14 + (frame[14] & 15) * 4
    if frame[at : at + 4] != b"\x00\x43\x00\x44" or len(frame) < at + 8 + 240:
        return None
    udp = frame[at : at + struct.unpack_from("!H", frame, at + 4)[0]]
    dhcp = udp[8:]
    if dhcp[0] != 2 or dhcp[236:240] != COOKIE:
        return None
    right = udp[6:8] == b"\0\0" or checksum(frame[26:34] + struct.pack("!BBH", 0, 17, len(udp)) + udp) == 0
    options, place = {}, 240
    while place < len(dhcp) and dhcp[place] != 255:
        if dhcp[place] == 0:
            place += 1
            continue
        length = dhcp[place + 1]
        options[dhcp[place]] = dhcp[place + 2 : place + 2 + length]
        place += 2 + length
    return struct.unpack_from("!I", dhcp, 4)[0], dhcp[28:34], options, dhcp[16:20], right


def storm(ends: Iterable[tuple[int, bytes]], window: int = 0, give_up: float = GIVE_UP) -> Result:
    """Run a client on each pair of a descriptor (a tap's, or a bound packet socket's; one can carry many) and a MAC. With
    `window`, so many ask at a time; else all at once. `give_up` in seconds."""
    clients = {number: Client(mac, end, number) for number, (end, mac) in enumerate(ends, 1)}
    result = Result(len(clients))
    coming, waiting = list(reversed(clients.values())), {}
    poll = select.epoll()
    for end in {client.end for client in clients.values()}:
        os.set_blocking(end, False)
        poll.register(end, select.EPOLLIN)
    began = looked = time.monotonic()
    while (coming or waiting) and time.monotonic() - began < give_up:
        while coming and (not window or len(waiting) < window):
            client = coming.pop()
            waiting[client.xid] = client
            client.began = time.monotonic()
            _ask(client, bytes([53, 1, DISCOVER]) + ASKED)
        for end, _ in poll.poll(TICK):
            # A few at a time: each of many ends has its turn.
            for _ in range(64):
                try:
                    frame = os.read(end, 4096)
                except BlockingIOError:
                    break
                _answered(frame, end, waiting, result)
        if (now := time.monotonic()) < looked + TICK:
            continue
        looked = now
        for client in waiting.values():
            if now >= client.again:
                client.wait *= 2
                client.again = now + client.wait
                result.sent_again += 1
                _send(client)
    poll.close()
    leased = [client for client in clients.values() if client.leased]
    result.seconds = round(max((client.began + client.leased for client in leased), default=time.monotonic()) - began, 4)
    result.leases = len(leased)
    result.addresses = {client.mac.hex(":"): client.address for client in leased}
    result.latencies = sorted(round(client.leased * 1000, 3) for client in leased)
    if leased:
        offers = sorted(client.offered for client in leased)
        result.offer_median = round(offers[len(offers) // 2] * 1000, 3)
        result.median = result.latencies[len(leased) // 2]
        result.p99, result.longest = result.latencies[int(len(leased) * 0.99)], result.latencies[-1]
    return result


def _ask(client: Client, options: bytes) -> None:
    now = time.monotonic()
    client.asks = message(client.mac, client.xid, int(now - client.began), options)
    client.again = now + client.wait
    _send(client)


def _send(client: Client) -> None:
    try:
        os.write(client.end, client.asks)
    except OSError:
        pass  # a full queue, or a link that is down, loses frames; it is sent again


def _answered(frame: bytes, end: int, waiting: dict[int, Client], result: Result) -> None:
    answer = parsed(frame)
    if answer is None:
        return
    xid, mac, options, address, right = answer
    client = waiting.get(xid)
    # On a bridge each end sees the broadcasts to all.
    if client is None or client.mac != mac or client.end != end:
        return
    result.bad_checksums += not right
    kind, now = options[53][0], time.monotonic()
    discovering = client.asks[284] == DISCOVER
    if kind == OFFER and discovering:
        client.offered = now - client.began
        client.wait = FIRST_WAIT
        _ask(client, bytes([53, 1, REQUEST, 54, 4]) + options[54] + bytes([50, 4]) + address + ASKED)
    elif kind == ACK and not discovering:
        client.leased = now - client.began
        client.address, client.server = socket.inet_ntoa(address), socket.inet_ntoa(options[54])
        del waiting[xid]
    elif kind == NAK:
        # Section 3.1, 4: it starts again.
        result.naks += 1
        _ask(client, bytes([53, 1, DISCOVER]) + ASKED)


def packet_socket(ifname: str) -> int:
    """A descriptor that sends and receives the frames of an interface, also those to other MACs."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    made.bind((ifname, ETH_P_IP))
    promiscuous = struct.pack("iHH8s", socket.if_nametoindex(ifname), PACKET_MR_PROMISC, 0, b"")
    made.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
    return made.detach()


def mac_of(ifname: str) -> bytes:
    with open(f"/sys/class/net/{ifname}/address") as file:
        return bytes.fromhex(file.read().strip().replace(":", ""))


def opened(kind: str, names: Sequence[str]) -> list[tuple[int, bytes]]:
    """The ends that the words of the command line name."""
    if kind == "link":
        end = packet_socket(names[0])
        return [(end, bytes.fromhex(f"525400{number:06x}")) for number in range(1, int(names[1]) + 1)]
    if kind == "links":
        return [(packet_socket(name), mac_of(name)) for name in names]
    pairs = [name.partition("=") for name in names]
    ends = [(open_tap(name), bytes.fromhex(mac.replace(":", ""))) for name, _, mac in pairs]
    # The kernel notices the carriers late (linkwatch); before that, a bridge forwards nothing from its port.
    late = time.monotonic() + 5
    while not all(carries(name) for name, _, _ in pairs) and time.monotonic() < late:
        time.sleep(0.02)
    return ends


def carries(ifname: str) -> bool:
    """Whether an interface has its carrier and, if it is a bridge's port, forwards."""

    def attribute(name: str) -> str:
        try:
            with open(f"/sys/class/net/{ifname}/{name}") as file:
                return file.read().strip()
        except OSError:
            return ""

    return attribute("operstate") in ("up", "unknown") and attribute("brport/state") in ("", "3")


def main(*words: str) -> int:
    told = words[0] == "--told"
    kind, *names = words[told:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ends = opened(kind, names)
    if told:
        print("ready", flush=True)
        sys.stdin.readline()
    result = storm(ends)
    print(json.dumps(asdict(result)))
    return result.leases != result.clients


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
