"""The process behind a tap at a wire, as QEMU holds it: `cable.py TAP LETTER` makes the tap, which goes with the process.

Lines on standard input: `send` sends every kind of frame there is, marked with LETTER, and answers `sent`; `frame HEX` sends one;
`hear` answers with what has come in since, in JSON: how often each kind came as it was sent by another letter, what came
otherwise, echoes of its own, and how many frames were none of these. It waits for all kinds, but not longer than a quiet third
of a second.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import sys
from typing import NamedTuple

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
QUIET_SECONDS = 0.3
HERE, FOREIGN, TWIN = "02:00:00:00:00:99", "02:00:00:00:00:77", "02:00:00:00:00:66"
MAGIC = b"wire"
LLC = {"stp": "4242 03", "isis": "fefe 03", "cdp": "aaaa 03"}


class Kind(NamedTuple):
    """A kind of frame: its destination, its type (0: a length, before LLC), the bytes behind that, its tags and its source."""

    dst: str
    type: int
    size: int
    tags: tuple[tuple[int, int], ...] = ()
    src: str = ""


def group(last: str) -> str:
    return f"01:80:c2:00:00:{last}"


Q, AD = 0x8100, 0x88A8
KINDS = {
    "ARP to all": Kind("ff:ff:ff:ff:ff:ff", 0x0806, 46),
    "IPv4, malformed": Kind(HERE, 0x0800, 200),
    "unicast": Kind(HERE, 0x88B5, 200),
    "IPv6 to a group, malformed": Kind("33:33:00:00:00:01", 0x86DD, 100),
    "STP": Kind(group("00"), 0, 52),
    "PAUSE": Kind(group("01"), 0x8808, 46),
    "LACP": Kind(group("02"), 0x8809, 110),
    "EAPOL": Kind(group("03"), 0x888E, 46),
    **{f"group {last}": Kind(group(last), 0x88B5, 46) for last in ("04", "05", "06")},
    "E-LMI": Kind(group("07"), 0x88EE, 46),
    "STP of a provider": Kind(group("08"), 0, 52),
    **{f"group {last}": Kind(group(last), 0x88B5, 46) for last in ("09", "0a", "0b", "0c")},
    "MVRP of a provider": Kind(group("0d"), 0x88F5, 46),
    "LLDP": Kind(group("0e"), 0x88CC, 80),
    "PTP, delay of peers": Kind(group("0e"), 0x88F7, 54),
    "group 0f": Kind(group("0f"), 0x88B5, 46),
    "LLDP of customers": Kind(group("00"), 0x88CC, 80),
    "LLDP, not by a relay of two ports": Kind(group("03"), 0x88CC, 80),
    "IS-IS": Kind(group("14"), 0, 100),
    "MVRP": Kind(group("21"), 0x88F5, 46),
    "CFM": Kind(group("30"), 0x8902, 80),
    "CDP": Kind("01:00:0c:cc:cc:cc", 0, 100),
    "PVST+": Kind("01:00:0c:cc:cc:cd", 0, 52, ((Q, 100),)),
    "PTP": Kind("01:1b:19:00:00:00", 0x88F7, 54),
    "STP in a VLAN": Kind(group("00"), 0, 52, ((Q, 7),)),
    "VLAN 100": Kind(HERE, 0x0800, 200, ((Q, 100),)),
    "priority 5": Kind(HERE, 0x0800, 200, ((Q, 5 << 13),)),
    "VLAN 4094": Kind("ff:ff:ff:ff:ff:ff", 0x88B5, 200, ((Q, 4094),)),
    "QinQ": Kind(HERE, 0x0800, 200, ((AD, 10), (Q, 20))),
    "QinQ of old": Kind(HERE, 0x0800, 200, ((Q, 10), (Q, 20))),
    "three tags": Kind(HERE, 0x88B5, 200, ((AD, 10), (Q, 20), (Q, 30))),
    "MPLS": Kind(HERE, 0x8847, 200),
    "PPPoE": Kind(HERE, 0x8864, 200),
    "source of another": Kind(HERE, 0x88B5, 100, src=FOREIGN),
    "to that other": Kind(FOREIGN, 0x88B5, 100),
    "source and destination the same": Kind(TWIN, 0x88B5, 100, src=TWIN),
    "31 bytes": Kind(HERE, 0x88B5, 17),
    "1500": Kind(HERE, 0x88B5, 1500),
    "1500 in a VLAN": Kind(HERE, 0x88B5, 1500, ((Q, 100),)),
    "1500 in QinQ": Kind(HERE, 0x88B5, 1500, ((AD, 10), (Q, 20))),
    "2000": Kind(HERE, 0x88B5, 2000),
    "9000": Kind(HERE, 0x88B5, 9000),
}


def frame(name: str, letter: str) -> bytes:
    """The frame of a kind, with the letter of its sender."""
    kind, number = KINDS[name], list(KINDS).index(name)
    src = kind.src or f"02:00:00:00:{ord(letter):02x}:01"
    head = bytes.fromhex((kind.dst + src).replace(":", ""))
    head += b"".join(struct.pack("!HH", *tag) for tag in kind.tags) + struct.pack("!H", kind.type or kind.size)
    body = bytes((7 * at + number) % 256 for at in range(kind.size))
    llc = b"" if kind.type else bytes.fromhex(LLC["isis" if name == "IS-IS" else "cdp" if "0c:cc" in kind.dst else "stp"])
    body = llc + body[len(llc) :]
    mark = MAGIC + bytes([number]) + letter.encode()
    return head + body[:4] + mark + body[4 + len(mark) :]


def main(tap: str, letter: str) -> None:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", tap.encode(), IFF_TAP | IFF_NO_PI))
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "send\n":
            for name in KINDS:
                os.write(fd, frame(name, letter))
            print("sent", flush=True)
        elif line.startswith("frame "):
            os.write(fd, bytes.fromhex(line.split()[1]))
            print("sent", flush=True)
        else:
            print(json.dumps(heard(fd, letter)), flush=True)


def heard(fd: int, letter: str) -> dict[str, object]:
    came: dict[str, int] = dict.fromkeys(KINDS, 0)
    wrong: list[str] = []
    echoes = strange = 0
    while not all(came.values()) and select.select([fd], [], [], QUIET_SECONDS)[0]:
        data = os.read(fd, 70000)
        at = data.find(MAGIC, 12, 60)
        if at < 0:
            strange += 1
            continue
        name, other = list(KINDS)[data[at + 4]], chr(data[at + 5])
        if other == letter:
            echoes += 1
        elif data == frame(name, other):
            came[name] += 1
        else:
            wrong.append(name)
    return {"came": came, "wrong": wrong, "echoes": echoes, "strange": strange}


if __name__ == "__main__":
    main(*sys.argv[1:])
