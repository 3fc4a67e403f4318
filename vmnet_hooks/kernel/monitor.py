"""What the kernel tells of changes, as keys of what may have suffered: rtnetlink and nftables notifications, read from raw
sockets and parsed no further than that. Whoever listens looks for himself whether anything is wrong.

Formats: linux/rtnetlink.h, linux/neighbour.h, linux/fib_rules.h, linux/netconf.h, linux/netfilter/nf_tables.h.
"""

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..model.objects import NftTable, table_key
from ..model.resource import NAT_SETS, PROTO, TABLE

_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 270, 1, 33
_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_BUFFER = 8 << 20
_PORTS_SECONDS = 5.0
_GROUP_LINK, _GROUP_NEIGH, _GROUP_NFTABLES = 1, 3, 7
_GROUPS = (_GROUP_LINK, _GROUP_NEIGH, 5, 7, 8, 9, 11, 19, 24, 25)
"""Links, neighbours, IPv4 addresses, routes and rules, IPv6 addresses, routes and rules, IPv4 and IPv6 netconf."""

_REQUEST, _DUMP, _DUMP_INTR, _REPLACE = 1, 0x300, 0x10, 0x100
_ERROR, _DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 18, 21, 24, 25
_NEWNEIGH, _DELNEIGH, _GETNEIGH, _DELRULE, _NEWNETCONF = 28, 29, 30, 33, 80
_AF_BRIDGE, _NTF_PROXY, _NUD_PERMANENT, _NUD_NOARP = 7, 8, 0x80, 0x40
_UP, _LOWER_UP = 1, 1 << 16
_LENGTH_AND_KIND = struct.Struct("=IH")

_VERSIONS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_FAMILIES = {1: "inet", 3: "arp", 5: "netdev", 7: "bridge"}
_SUBSYSTEM = 10
_NEWTABLE, _DELSETELEM, _DESTROYSETELEM = 0, 14, 30
_TABLE_PARTS = frozenset((0, 2, 3, 5, 6, 8, 9, 11, 26, 27, 28, 29))
"""New, gone and destroyed tables, chains, rules and sets."""


@dataclass
class Suspects:
    """What may have suffered: keys, starts of keys, links (with all that is on them), taps that are gone, as (ifindex,
    ifname), and tables of ours in which somebody was at work. `everything`: the kernel told more than we could take."""

    keys: set[str] = field(default_factory=set)
    starts: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    gone: set[tuple[int, str]] = field(default_factory=set)
    tampered: set[str] = field(default_factory=set)
    everything: bool = False

    def __bool__(self) -> bool:
        return self.everything or bool(self.keys or self.starts or self.links or self.gone or self.tampered)

    def add(self, other: "Suspects") -> None:
        self.keys |= other.keys
        self.starts |= other.starts
        self.links |= other.links
        self.gone |= other.gone
        self.tampered |= other.tampered
        self.everything |= other.everything


@dataclass(frozen=True)
class _Link:
    name: str
    up: bool
    carrier: bool
    address: bytes
    mtu: bytes
    master: bytes


def messages(data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, flags, port of the sender, payload) of every netlink message of a datagram."""
    view, offset = memoryview(data), 0
    while offset + 16 <= len(data):
        length, kind, flags, _, port = struct.unpack_from("=IHHII", data, offset)
        if length < 16:
            return
        yield kind, flags, port, view[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def attributes(payload: memoryview) -> dict[int, memoryview]:
    """The netlink attributes of a payload by type."""
    found, offset = {}, 0
    while offset + 4 <= len(payload):
        length, kind = struct.unpack_from("=HH", payload, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class _Socket:
    """A netlink socket that is joined to multicast groups and never blocks."""

    def __init__(self, protocol: int, groups: tuple[int, ...]) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def datagrams(self) -> Iterator[bytes | None]:
        """All that waits; None stands for what was lost because it was too much."""
        while True:
            try:
                yield self._socket.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None


def _dump(protocol: int, kind: int, body: bytes) -> bytes:
    """The whole answer to a dump request, as it came."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as asked:
        asked.bind((0, 0))
        return _ask(asked, kind, body)


def _ask(asked: socket.socket, kind: int, body: bytes) -> bytes:
    asked.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _DUMP, 1, 0) + body)
    parts: list[bytes] = []
    while True:
        part = asked.recv(1 << 16)
        parts.append(part)
        for answer, _, _, payload in messages(part):
            if answer == _ERROR:
                number = -struct.unpack_from("=i", payload)[0]
                raise OSError(number, os.strerror(number))
            if answer == _DONE:
                return b"".join(parts)


class _Senders:
    """Which netlink ports are this process's: libnftables, for one, does not tell that of its socket."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._known: dict[int, bool] = {}
        self._until = 0.0

    def is_ours(self, port: int) -> bool:
        """Whether a message was sent, or caused, by this process; 0 is the kernel."""
        if not port:
            return False
        if port not in self._known:
            if (now := time.monotonic()) > self._until:
                # Ports are used again by others.
                self._known, self._until = {}, now + _PORTS_SECONDS
            self._known.update(dict.fromkeys(_ports(self._protocol), True))
            self._known.setdefault(port, False)
        return self._known[port]


class Rtnetlink:
    """What happens to links, addresses, routes, rules, neighbours and to the devices' settings, but for what this process does
    itself where the kernel tells who did it."""

    def __init__(self) -> None:
        self._socket = _Socket(_NETLINK_ROUTE, _GROUPS)
        self._senders = _Senders(_NETLINK_ROUTE)
        self._links: dict[int, _Link] = {}
        # After the groups were joined: nothing falls between.
        self._learn()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _learn(self) -> None:
        self._links.clear()
        for kind, _, _, payload in messages(_dump(_NETLINK_ROUTE, _GETLINK, bytes(16))):
            if kind == _NEWLINK:
                index, link = _link(payload)
                self._links[index] = link

    def drain(self) -> Suspects:
        """What all notifications that wait point at. Does not wait itself."""
        found = Suspects()
        for data in self._socket.datagrams():
            if data is None:
                found.everything = True
                continue
            for kind, flags, port, payload in messages(data):
                # A link is to be known by name, whoever changed it.
                if kind in (_NEWLINK, _DELLINK) or not self._senders.is_ours(port):
                    self._judge(kind, flags, payload, found)
        if found.everything:
            self._learn()
        return found

    def _judge(self, kind: int, flags: int, payload: memoryview, found: Suspects) -> None:
        # What is new is ours, or nobody's business: a plug makes a dozen such, and must not pay for it.
        if kind in (_NEWLINK, _DELLINK):
            self._judge_link(kind, payload, found)
        elif kind in (_NEWNEIGH, _DELNEIGH):
            self._judge_neighbour(kind, payload, found)
        elif kind == _DELROUTE or (kind == _NEWROUTE and flags & _REPLACE):
            _judge_route(kind, payload, found)
        elif kind == _DELRULE:
            _judge_rule(payload, found)
        elif kind == _DELADDR:
            # What stood on the address goes without a word: IPv4 routes, and with the last one all of IPv6.
            found.links |= self._named(struct.unpack_from("=I", payload, 4)[0])
        elif kind == _NEWNETCONF:
            self._judge_netconf(payload, found)

    def _named(self, index: int) -> set[str]:
        return {self._links[index].name} if index in self._links else set()

    def _judge_link(self, kind: int, payload: memoryview, found: Suspects) -> None:
        if payload[0] == _AF_BRIDGE:
            # A port's VLANs or flags, or it has left.
            found.links |= self._named(struct.unpack_from("=i", payload, 4)[0])
            return
        index, link = _link(payload)
        if kind == _DELLINK:
            self._links.pop(index, None)
            found.gone.add((index, link.name))
            found.links.add(link.name)
            return
        before = self._links.get(index)
        self._links[index] = link
        if before is None or before.name != link.name:
            found.links.add(link.name)
            if before:
                found.links.add(before.name)
                found.gone.add((index, before.name))
            return
        # What is on a link that goes down is gone, but can't be put back before it comes up.
        if (link.up, link.carrier) > (before.up, before.carrier) or link.master != before.master:
            found.links.add(link.name)
        if link.address != before.address:
            found.keys |= {f"link {link.name} address", f"link {link.name} lladdr"}
        if link.mtu != before.mtu:
            found.keys.add(f"link {link.name} mtu")

    def _judge_neighbour(self, kind: int, payload: memoryview, found: Suspects) -> None:
        family, index, state, flags = struct.unpack_from("=B3xiHB", payload)
        if kind == _NEWNEIGH and family == _AF_BRIDGE:
            return
        if family == _AF_BRIDGE and not state & (_NUD_PERMANENT | _NUD_NOARP):
            return
        there = attributes(payload[12:])
        for name in self._named(index):
            if family == _AF_BRIDGE and 2 in there:
                found.keys.add(f"fdb {name} {bytes(there[2]).hex(':')}")
            elif family in _VERSIONS and 1 in there:
                found.keys.add(f"{'proxy' if flags & _NTF_PROXY else 'neigh'} {name} {_address(there[1])}")

    def _judge_netconf(self, payload: memoryview, found: Suspects) -> None:
        there = attributes(payload[4:])
        version = _VERSIONS.get(payload[0])
        if 1 not in there or version is None:
            return
        index = struct.unpack("=i", there[1])[0]
        settings = {2: "forwarding", 3: "rp_filter", 5: "proxy_arp" if version == 4 else "proxy_ndp"}
        for name in {"all"} if index == -1 else self._named(index):
            found.keys |= {f"sysctl net/ipv{version}/conf/{name}/{word}" for number, word in settings.items() if number in there}
            if index == -1 and version == 4:
                found.keys.add("sysctl net/ipv4/ip_forward")


def _link(payload: memoryview) -> tuple[int, _Link]:
    index, flags = struct.unpack_from("=iI", payload, 4)
    there = attributes(payload[16:])
    name = bytes(there.get(3, b"")).rstrip(b"\0").decode(errors="replace")
    address, mtu, master = (bytes(there.get(kind, b"")) for kind in (1, 4, 10))
    return index, _Link(name, bool(flags & _UP), bool(flags & _LOWER_UP), address, mtu, master)


def _judge_route(kind: int, payload: memoryview, found: Suspects) -> None:
    family, length, _, _, table, proto = struct.unpack_from("=6B", payload)
    # One of ours that is gone, or another's that may have come in its place.
    if family in _VERSIONS and (kind == _DELROUTE) == (proto == PROTO):
        found.keys.add(_route_key(family, length, table, attributes(payload[12:])))


def _route_key(family: int, length: int, table: int, there: dict[int, memoryview]) -> str:
    metric = struct.unpack("=I", there[6])[0] if 6 in there else 0
    metric = 0 if metric == (1024 if family == socket.AF_INET6 else 0) else metric
    dst = _address(there[1]) if 1 in there else "::" if family == socket.AF_INET6 else "0.0.0.0"
    if 15 in there:
        table = struct.unpack("=I", there[15])[0]
    return f"route {table} {dst}/{length}" + (f" metric {metric}" if metric else "")


def _judge_rule(payload: memoryview, found: Suspects) -> None:
    _, dst_length, src_length, _, table = struct.unpack_from("=5B", payload)
    there = attributes(payload[12:])
    priority = struct.unpack("=I", there[6])[0] if 6 in there else 0
    if 15 in there:
        table = struct.unpack("=I", there[15])[0]
    for selector, attribute, length in (("from", 2, src_length), ("to", 1, dst_length)):
        if attribute in there:
            found.keys.add(f"rule {priority} {selector} {_address(there[attribute])}/{length} {table}")


def _address(value: memoryview) -> str:
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


class Proxies:
    """Proxy neighbours, of which the kernel tells nothing: asked for all, and compared with the last time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._last = b""
        self.changed()

    def close(self) -> None:
        self._socket.close()

    def changed(self) -> Suspects:
        """Those that were there the last time and are not now."""
        found = Suspects()
        answer = _ask(self._socket, _GETNEIGH, struct.pack("=BxxxiHBB", 0, 0, 0, _NTF_PROXY, 0))
        if answer != self._last:
            # Among thousands, with a guest coming or going every moment: only what is missing is parsed.
            missing = _entries(self._last) - _entries(answer)
            self._last = answer
            names = dict(socket.if_nameindex()) if missing else {}
            for entry in missing:
                index, there = struct.unpack_from("=i", entry, 4)[0], attributes(memoryview(entry)[12:])
                if 1 in there and index in names:
                    found.keys.add(f"proxy {names[index]} {_address(there[1])}")
        return found


def _entries(answer: bytes) -> set[bytes]:
    """The neighbours of a dump, as they came: `messages` would take ten times as long."""
    found, offset, end, unpack = set(), 0, len(answer), _LENGTH_AND_KIND.unpack_from
    while offset < end:
        length, kind = unpack(answer, offset)
        if kind == _NEWNEIGH:
            found.add(answer[offset + 16 : offset + length])
        offset += (length + 3) & ~3
    return found


class Nftables:
    """What others do to our tables."""

    def __init__(self) -> None:
        self._socket = _Socket(_NETLINK_NETFILTER, (_GROUP_NFTABLES,))
        self._senders = _Senders(_NETLINK_NETFILTER)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> Suspects:
        """What the notifications that wait point at, but for what this process did itself. Does not wait."""
        found = Suspects()
        made: set[str] = set()
        for data in self._socket.datagrams():
            if data is None:
                found.everything = True
                continue
            for kind, _, port, payload in messages(data):
                # A datagram is of one transaction, and so of one sender.
                if self._senders.is_ours(port):
                    break
                if kind >> 8 == _SUBSYSTEM and (table := _table(payload)):
                    kind &= 0xFF
                    if kind in _TABLE_PARTS:
                        found.keys.add(table)
                        (made if kind == _NEWTABLE else found.tampered).add(table)
                    elif kind in (_DELSETELEM, _DESTROYSETELEM):
                        found.starts |= _elements(table, payload)
        # Whoever makes one anew is one of us, in another process.
        found.tampered -= made
        return found


def _ports(protocol: int) -> Iterator[int]:
    """The netlink ports of this process's sockets."""
    mine = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            mine.add(str(os.stat(f"/proc/self/fd/{name}").st_ino))
        except OSError:
            # Closed by now; the folder itself.
            continue
    with open("/proc/net/netlink") as file:
        for line in file:
            # sk, protocol, port, …, inode
            words = line.split()
            if words[1] == str(protocol) and words[-1] in mine:
                yield int(words[2])


def _table(payload: memoryview) -> str:
    """The key of the table of ours that a message is about; "" if it is about another's."""
    family = _FAMILIES.get(payload[0], "")
    name = _text(attributes(payload[4:]).get(1))
    if not family or not (name == TABLE or name.startswith(f"{TABLE}-")):
        return ""
    return table_key(family, name)


def _text(value: memoryview | None) -> str:
    return bytes(value).rstrip(b"\0").decode(errors="replace") if value is not None else ""


def _elements(table: str, payload: memoryview) -> set[str]:
    """Starts of the keys of the elements that a message is about."""
    there = attributes(payload[4:])
    name = _text(there.get(2))
    start = f"nft {table.split()[1]} {name} "
    if name.startswith(NAT_SETS) or name == "closed":
        # The interface is not what comes first; few, one a network.
        return {start}
    found = set()
    body, offset = there.get(3, memoryview(b"")), 0
    while offset + 4 <= len(body):
        length = struct.unpack_from("=H", body, offset)[0]
        if length < 4:
            break
        key = attributes(body[offset + 4 : offset + length]).get(1)
        value = attributes(key).get(1) if key is not None else None
        if value is not None:
            found.add(f'{start}"{bytes(value[:16]).partition(bytes(1))[0].decode(errors="replace")}"')
        offset += (length + 3) & ~3
    return found


class Memory:
    """What was last read of our tables: it stands until anybody has touched the table itself. The kernel queues its word of a
    change to us before the one who made it goes on, so what is answered here is as good as read anew."""

    def __init__(self) -> None:
        self._socket = _Socket(_NETLINK_NETFILTER, (_GROUP_NFTABLES,))
        self._lock = threading.Lock()
        self._known: dict[str, NftTable] = {}
        self._touched: dict[str, int] = {}
        self._asked: dict[tuple[int, str], int] = {}
        self._epoch = 0

    def close(self) -> None:
        self._socket.close()

    def known(self, want: NftTable) -> NftTable | None:
        """The table as it was last read, if that still holds."""
        with self._lock:
            self._drain()
            found = self._known.get(want.key)
            if found is None:
                # Somebody is about to read it: what is told from here on may have come before or after that.
                self._asked[threading.get_ident(), want.key] = self._epoch
            return found

    def learned(self, want: NftTable, have: NftTable) -> None:
        """What was read since this thread asked `known`."""
        with self._lock:
            self._drain()
            asked = self._asked.pop((threading.get_ident(), want.key), None)
            if asked is not None and self._touched.get(want.key, 0) <= asked and self._touched.get("", 0) <= asked:
                self._known[want.key] = have

    def _drain(self) -> None:
        for data in self._socket.datagrams():
            self._epoch += 1
            if data is None:
                self._known.clear()
                self._touched = {"": self._epoch}
                continue
            for kind, _, _, payload in messages(data):
                if kind >> 8 == _SUBSYSTEM and kind & 0xFF in _TABLE_PARTS and (key := _table(payload)):
                    self._known.pop(key, None)
                    self._touched[key] = self._epoch
