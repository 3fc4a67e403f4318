"""What a guest of each kind gets out, as a table: a row for each sort of frames, a column for each kind of NIC.

A cell is `dropped` if none of its frames gets to anybody, `allowed` if all do, `-` if this kind has no such frames. Behind the
frames of each cell comes one that passes: what was sent before it would have come by then. What an `allowed` cell names is the
sentence of the man page that allows it, see DOCUMENTED.

A row is a name in `bridged` and `routed`, and a line in the tables of the tests.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import NamedTuple

from . import frames, offload
from .frames import (
    BROADCAST,
    advertisement,
    arp,
    ethernet,
    icmp6,
    ip4,
    ip6,
    mac_bytes,
    rarp,
    router_advertisement,
    solicitation,
    tagged,
    udp4,
    udp6,
)
from .groups import FLOODED, TAKEN
from .nodes import ROOT, Node
from .offload import Liar, Lie, Listener
from .roles import ALERT4, ALL6, FINE, GW4, GW6, LL, MAC, OF_ROLE, OPEN, OWN4, OWN6, summed, udp
from .routed import TAP_MAC, eventually

STRANGER = MAC[:-2] + "99"
"""A MAC that no NIC has."""
DOCUMENTED = {
    "own": "A guest is a client, unless its roles , or those of its network, say more.",
    "MAC": "frames from the NIC's own MAC, and ARP that names no other.",
    "off": "filter = false of a NIC switches it off.",
    "routed": "switches its source filter off;",
}
"""The sentences of vmnet.toml(5) that allow something."""


class Spoken(NamedTuple):
    """A frame, and what the filter sees of it if the guest leaves a checksum to the host."""

    frame: bytes
    lie: Lie | None = None


class Claim(NamedTuple):
    """A frame to the host, and the address that it claims: the host takes that for a neighbour's on the guest's tap, or does
    not."""

    frame: bytes
    address: str


Cell = Mapping[str, Spoken | Claim]
Rows = Mapping[str, Cell]


@dataclass(frozen=True)
class Bench:
    """A guest, and those who hear what it gets out."""

    host: Node
    guest: Liar
    tap: str
    listeners: Sequence[Listener]
    canaries: Callable[[int], Sequence[bytes]]
    """Frames with that number that pass, one for each of the listeners."""

    others: Sequence[Listener] = ()
    """Where nothing of the guest may get."""

    tag: bytes = b""
    """What each frame is sent behind."""


def broadcast(number: int) -> list[bytes]:
    """What arrives at every port of the bridge."""
    return [udp4(BROADCAST, MAC, OWN4, "10.7.0.66", 40000 + number)]


@contextmanager
def listening(host: Node, tap: str, liar: Node, *where: tuple[Node, str], canaries=broadcast, others=()) -> Iterator[Bench]:
    """The guest `liar` of a tap of the host, and who listens where."""
    with ExitStack() as stack:
        found = [[stack.enter_context(Listener(node, ifname)) for node, ifname in each] for each in (where, others)]
        sender = Liar(liar, "eth0")
        stack.callback(sender.close)
        yield Bench(host, sender, tap, found[0], canaries, found[1])


def content(frame: bytes) -> tuple[object, ...]:
    """What of a frame stays as it is on its way through bridges and routers."""
    at = 12
    while (proto := frame[at : at + 2]) in (b"\x81\x00", b"\x88\xa8", b"\x91\x00"):
        at += 4
    packet = frame[at + 2 :]
    if proto == b"\x08\x00":
        length = int.from_bytes(packet[2:4], "big")
        return proto, packet[6:8], packet[9], packet[12:length]
    if proto == b"\x86\xdd":
        return proto, packet[6], packet[8 : 40 + int.from_bytes(packet[4:6], "big")]
    return proto, frame[:6], packet.rstrip(b"\0")


def spoken(frames: Mapping[str, bytes]) -> dict[str, Spoken]:
    return {name: Spoken(frame) for name, frame in frames.items()}


def forged(name: str, lies: Mapping[str, Lie]) -> dict[str, Spoken]:
    return {f"{name} {what}": Spoken(lie.frame, lie) for what, lie in lies.items()}


# --- what is sent --------------------------------------------------------------------------------------------------------

_OTHER_LL = f"fe80::{offload.eui64(STRANGER)}"
_LIES = offload.lies(MAC, BROADCAST, (OWN4, OWN6), (GW4, GW6))
_ROLE_LIES = {
    "router advertisement": _LIES["router advertisement"],
    "redirect": _LIES["redirect"],
    "DHCP": Lie(ip4(MAC, OWN4, "255.255.255.255", 17, udp(67, 68), dst_mac=BROADCAST), 26, 34, b"\0\x44", 44),
    "IGMP": Lie(ip4(MAC, OWN4, "224.0.0.1", 2, b"\x11\x64" + bytes(6), options=ALERT4), 26, 38, b"\x16\x64", 42),
}


def _ieee802(frame: bytes) -> bytes:
    """ARP of the hardware type that stands for Ethernet too."""
    return frame[:14] + b"\0\6" + frame[16:]


def _redirects(name: str) -> bool:
    return "redirect" in name


def _discovery(kind: int, *options: bytes, target: str = OWN6) -> bytes:
    """ICMPv6 from the own address, with these options."""
    named = b"" if kind == 133 else IPv6Address(target).packed
    return icmp6(MAC, OWN6, kind, bytes(4) + named + b"".join(options))


_OWN, _ITS = b"\1\1" + mac_bytes(MAC), b"\2\1" + mac_bytes(MAC)
_SOURCE, _TARGET = b"\1\1" + mac_bytes(STRANGER), b"\2\1" + mac_bytes(STRANGER)
_NONCE, _MTU = b"\x0e\1" + b"\7" * 6, b"\5\1" + bytes(6)

BRIDGED: Rows = {
    "own traffic": spoken(FINE | {"solicitation with a nonce": _discovery(135, _OWN, _NONCE, target="2001:db8:7::78")}),
    "MAC": spoken(
        {
            "IPv4": udp4(BROADCAST, STRANGER, OWN4, "10.7.0.77", 1),
            "IPv6": udp6(ALL6, STRANGER, OWN6, "ff02::1", 1),
            "ARP": arp(1, STRANGER, OWN4, "10.7.0.71"),
            "ARP's sender": arp(2, STRANGER, OWN4, "10.7.0.72", src=MAC),
            "ARP's sender, IEEE 802": _ieee802(arp(2, STRANGER, OWN4, "10.7.0.75", src=MAC)),
            "ARP's sender, tagged": tagged(arp(2, STRANGER, OWN4, "10.7.0.73", src=MAC), 0),
            "DHCP": udp4(BROADCAST, STRANGER, "0.0.0.0", "255.255.255.255", 67, 68),
            "probe": solicitation(STRANGER, "::", OWN6, lladdr=False),
            "solicitation's source": _discovery(135, _SOURCE),
            "advertisement's target": _discovery(136, _TARGET),
            "router solicitation's source": _discovery(133, _SOURCE),
            "source behind a nonce": _discovery(135, _NONCE, _SOURCE),
            "source behind own target and nonce": _discovery(135, _ITS, _NONCE, _SOURCE),
            "source behind own target and MTU": _discovery(135, _ITS, _MTU, _SOURCE),
            "source behind own source": _discovery(135, _OWN, _SOURCE),
            "target behind own source and nonce": _discovery(136, _OWN, _NONCE, _TARGET),
            "router solicitation's behind a nonce": _discovery(133, _NONCE, _SOURCE),
            "router solicitation's behind own": _discovery(133, _OWN, _SOURCE),
            "RARP": rarp(STRANGER),
            "unknown": ethernet(BROADCAST, STRANGER, 0x88B5, b"\1" * 46),
        }
    ),
    "IPv4": spoken(
        {
            "another's": udp4(BROADCAST, MAC, GW4, "10.7.0.77", 2),
            "unassigned": udp4(BROADCAST, MAC, "198.51.100.7", "10.7.0.77", 2),
            "loopback": udp4(BROADCAST, MAC, "127.0.0.1", "10.7.0.77", 2),
            "none": udp4(BROADCAST, MAC, "0.0.0.0", "255.255.255.255", 69, 68),
            "behind a priority tag": tagged(udp4(BROADCAST, MAC, GW4, "10.7.0.77", 3), 0),
        }
    ),
    "IPv6": spoken(
        {
            "another's": udp6(ALL6, MAC, GW6, "ff02::1", 2),
            "unassigned": udp6(ALL6, MAC, "2001:db8:bad::1", "ff02::1", 2),
            "link-local": udp6(ALL6, MAC, _OTHER_LL, "ff02::1", 2),
            "none": udp6(ALL6, MAC, "::", "ff02::1", 2),
            "echo of none": icmp6(MAC, "::", 128),
            "behind a priority tag": tagged(udp6(ALL6, MAC, GW6, "ff02::1", 3), 0),
        }
    ),
    "ARP": spoken(
        {
            "request": arp(1, MAC, GW4, "10.7.0.77"),
            "reply": arp(2, MAC, GW4, "10.7.0.78"),
            "announcement": arp(2, MAC, GW4, GW4),
            "reply, IEEE 802": _ieee802(arp(2, MAC, GW4, "10.7.0.76")),
            "reply of none": arp(2, MAC, "0.0.0.0", "10.7.0.77"),
            "behind a priority tag": tagged(arp(2, MAC, GW4, "10.7.0.79"), 0),
            "RARP with an address": rarp(MAC, GW4),
        }
    ),
    "ND": spoken(
        {
            "solicitation": solicitation(MAC, GW6, "2001:db8:7::77"),
            "advertisement": advertisement(MAC, GW6, GW6),
            "from the own address": advertisement(MAC, OWN6, GW6),
            "from the own link-local": advertisement(MAC, LL, GW6),
            "of another's link-local": advertisement(MAC, LL, _OTHER_LL),
            "of the own address by another": advertisement(MAC, GW6, OWN6),
            "probe": solicitation(MAC, "::", GW6, lladdr=False),
        }
    ),
    "RA": spoken({name: frame for name, frame in OF_ROLE["router"].items() if not _redirects(name)}),
    "redirect": spoken({name: frame for name, frame in OF_ROLE["router"].items() if _redirects(name)}),
    "DHCPv4 server": spoken({name: frame for name, frame in OF_ROLE["dhcp-server"].items() if "v4" in name}),
    "DHCPv6 server": spoken({name: frame for name, frame in OF_ROLE["dhcp-server"].items() if "v6" in name}),
    "IGMP querier": spoken({"query": OF_ROLE["querier"]["IGMP query"], "query of none": OPEN["IGMP query of 0.0.0.0"]}),
    "MLD querier": spoken({name: frame for name, frame in OF_ROLE["querier"].items() if "MLD" in name}),
    "BPDU": spoken(FLOODED | TAKEN),
    "one tag": spoken(
        {
            "802.1Q": tagged(udp4(BROADCAST, MAC, OWN4, "10.7.0.77", 4), 5),
            "802.1ad": tagged(udp4(BROADCAST, MAC, OWN4, "10.7.0.77", 5), 5, 0x88A8),
            "ARP": tagged(arp(1, MAC, OWN4, "10.7.0.74"), 5),
            "IPv6": tagged(udp6(ALL6, MAC, OWN6, "ff02::1", 4), 5),
        }
    ),
    "two tags": spoken(
        {
            "QinQ": tagged(tagged(udp4(BROADCAST, MAC, OWN4, "10.7.0.77", 6), 6), 5),
            "priority tags": tagged(tagged(router_advertisement(MAC, LL, "2001:db8:1::"), 0), 0),
            "behind a priority tag": tagged(tagged(router_advertisement(MAC, LL, "2001:db8:2::"), 5), 0),
        }
    ),
    "rewritten: MAC": forged("by a sum:", {"ARP": Lie(arp(2, STRANGER, OWN4, GW4, src=MAC), 22, 26, mac_bytes(MAC)[-2:], 42)}),
    "rewritten: address": forged("by a sum:", {name: lie for name, lie in _LIES.items() if name not in _ROLE_LIES}),
    "rewritten: role": forged("by a sum:", _ROLE_LIES),
}
"""Of a guest with MAC, which is OWN4 and OWN6 if it has addresses, on a bridge: to everybody there."""


def routed(mac: str, own: tuple[str, str], other: tuple[str, str], gateway: tuple[str, str], to: Sequence[str]) -> Rows:
    """What a guest sends by way of the host to each address of `to`, and what it claims before the host. `other` are addresses
    that are not its own."""
    own4, own6 = own
    to4, to6 = ([address for address in to if (":" in address) == wanted] for wanted in (False, True))

    def four(proto: int, payload: bytes, source: str = own4, **more: object) -> dict[str, bytes]:
        return {f"to {dst}": ip4(mac, source, dst, proto, payload, dst_mac=TAP_MAC, **more) for dst in to4}

    def six(kind: int) -> dict[str, bytes]:
        body = struct.pack("!BBH", kind, 0, 0) + bytes(20)
        return {f"to {dst}, type {kind}": ip6(TAP_MAC, mac, own6, dst, 58, body, 2, hops=255) for dst in to6}

    def lies6(kind: int) -> dict[str, Lie]:
        return {name: Lie(frames.extended(frame, offload.OPTIONS), 22, 62, b"\x80\0", 58) for name, frame in six(kind).items()}

    def of(source: Sequence[str], port: int, src_mac: str = mac) -> dict[str, bytes]:
        found = {f"of {src} to {dst}": udp4(TAP_MAC, src_mac, src, dst, port) for src in source if "." in src for dst in to4}
        return found | {
            f"of {src} to {dst}": udp6(TAP_MAC, src_mac, src, dst, port) for src in source if ":" in src for dst in to6
        }

    def behind(found: dict[str, bytes], vid: int) -> dict[str, bytes]:
        return {f"{name}, behind {vid}": tagged(frame, vid) for name, frame in found.items()}

    unassigned4, unassigned6 = "203.0.113.7", "2001:db8:bad::1"
    dhcp = {name: Lie(frame, 26, 34, b"\0\x44", 44) for name, frame in four(17, udp(67, 68)).items()}
    igmp = {name: Lie(frame, 26, 34, b"\x16\x64", 38) for name, frame in four(2, b"\x11\x64" + bytes(6)).items()}
    # The header of IPv4 has a checksum of its own, which the host verifies: no other one can be right before and after.
    sixth = IPv6Address(own6).packed[-2:]
    another = {name: Lie(frames.extended(frame, offload.OPTIONS), 22, 36, sixth, 58) for name, frame in of(other[1:], 8).items()}
    return {
        "own traffic": spoken(of(own, 7)),
        "MAC": spoken(of(own, 1, STRANGER)),
        "IPv4": spoken(of((other[0], unassigned4), 2) | behind(of(other[:1], 3), 0)),
        "IPv6": spoken(of((other[1], unassigned6), 2) | behind(of(other[1:], 3), 0)),
        "ARP": {
            "request": Claim(arp(1, mac, other[0], gateway[0]), other[0]),
            "request, IEEE 802": Claim(_ieee802(arp(1, mac, to4[0], gateway[0])), to4[0]),
        },
        "ND": {"solicitation": Claim(solicitation(mac, other[1], gateway[1]), other[1])},
        "RA": spoken(six(134) | six(151) | four(103, b"\x21" + bytes(19))),
        "redirect": spoken(six(137) | four(1, summed(struct.pack("!BBHI", 5, 1, 0, 0) + bytes(28)))),
        "DHCPv4 server": spoken(four(17, udp(67, 68))),
        "DHCPv6 server": spoken({f"to {dst}": ip6(TAP_MAC, mac, own6, dst, 17, udp(547, 546), 6) for dst in to6}),
        "IGMP querier": spoken(four(2, summed(struct.pack("!BBHI", 0x11, 100, 0, 0)))),
        "MLD querier": spoken(six(130)),
        "BPDU": spoken({name: frame[:6] + mac_bytes(mac) + frame[12:] for name, frame in (FLOODED | TAKEN).items()}),
        "one tag": spoken(behind(of(own, 4), 5)),
        "two tags": spoken(behind(behind(of(own, 5), 6), 5)),
        "rewritten: MAC": {},
        "rewritten: address": forged("by a sum:", another),
        "rewritten: role": forged("by a sum:", lies6(134) | lies6(137) | dhcp | igmp),
    }


# --- what gets out -------------------------------------------------------------------------------------------------------


def observed(bench: Bench, rows: Rows) -> dict[str, str]:
    """Send all of it; return the word of each row."""
    return {name: _word(bench, number, cell) for number, (name, cell) in enumerate(rows.items())}


def _word(bench: Bench, number: int, cell: Cell) -> str:
    if not cell:
        return "-"
    wanted: dict[str, tuple[object, ...]] = {}
    claimed: dict[str, str] = {}
    for name, each in cell.items():
        if isinstance(each, Claim):
            claimed[name] = each.address
        wanted[name] = content(_speak(bench, Spoken(each.frame) if isinstance(each, Claim) else each))
    assert len(set(wanted.values())) == len(wanted), f"frames are alike: {sorted(wanted)}"
    canaries = bench.canaries(number)
    for canary in canaries:
        _speak(bench, Spoken(canary))
    for listener, canary in zip(bench.listeners, canaries, strict=True):
        assert eventually(lambda: content(canary) in _heard([listener]), 10, 0.01), "the path does not work"  # noqa: B023
    time.sleep(0.05)
    heard = _heard([*bench.listeners, *bench.others])
    through = {name for name, found in wanted.items() if name not in claimed and found in heard}
    if claimed:
        known = bench.host.run(f"ip neigh show dev {bench.tap}").stdout
        through |= {name for name, address in claimed.items() if re.search(rf"^{re.escape(address)} .*lladdr", known, re.M)}
    for listener in (*bench.listeners, *bench.others):
        del listener.frames[:]
    if through and through != set(cell):
        return f"only {', '.join(sorted(through))}"
    return "allowed" if through else "dropped"


def _speak(bench: Bench, said: Spoken) -> bytes:
    """Send it; return the frame as it is to leave."""
    if said.lie is None:
        assert bench.guest.send(said.frame[:12] + bench.tag + said.frame[12:]) == "sent"
        return said.frame
    lie = said.lie.behind(bench.tag)
    as_sent, as_left = offload.forged(*lie)
    assert bench.guest.send(as_sent, lie.start, lie.at - lie.start) == "sent"
    return as_left


def _heard(listeners: Sequence[Listener]) -> set[tuple[object, ...]]:
    return {content(frame) for listener in listeners for frame in list(listener.frames)}


# --- tables --------------------------------------------------------------------------------------------------------------


def table(text: str) -> dict[str, dict[str, str]]:
    """Read a table: {column: {row: cell}}. Columns stand two blanks or more apart."""
    head, *lines = [line for line in text.strip("\n").splitlines() if line.strip()]
    columns = re.split(r"\s{2,}", head.strip())
    found: dict[str, dict[str, str]] = {column: {} for column in columns}
    for line in lines:
        row, *cells = re.split(r"\s{2,}", line.strip())
        for column, cell in zip(columns, cells, strict=True):
            found[column][row] = cell
    return found


def written(columns: Mapping[str, Mapping[str, str]]) -> str:
    """The table as text."""
    rows = next(iter(columns.values()))
    sizes = {column: max(len(word) for word in (column, *cells.values())) for column, cells in columns.items()}
    first = max(map(len, rows))
    lines = [" " * first + "  " + "  ".join(column.ljust(size) for column, size in sizes.items())]
    lines += [
        f"{row:{first}}  " + "  ".join(cells[row].ljust(sizes[column]) for column, cells in columns.items()) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def words(column: Mapping[str, str]) -> dict[str, str]:
    """A column without the marks of sentences."""
    return {row: cell.partition(" ")[0] for row, cell in column.items()}


def undocumented(columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Cells that allow something without a sentence of the man page."""
    source = (ROOT / "man/vmnet.toml.5").read_text()
    lines = [line for line in source.splitlines() if not re.match(r"\.(Pp|El|Bl)", line)]
    page = " ".join(re.sub(r"^\.(?:Li|Ic|Sx|Pq|It|Ar|No|Xr) ?", "", line) for line in lines)
    page = re.sub(r"\s+", " ", page)
    found = []
    for column, cells in columns.items():
        for row, cell in cells.items():
            word, _, mark = cell.partition(" ")
            if word == "allowed" and (mark not in DOCUMENTED or DOCUMENTED[mark] not in page):
                found.append(f"{column}, {row}: {cell}")
    return found
