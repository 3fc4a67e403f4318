"""Netlink's sockets: requests, their answers, and notifications. See netlink(7), rtnetlink(7) and linux/netlink.h.

Everything that the program sends and receives itself passes through this file: rtnetlink, nfnetlink (objects/nft.py,
conntrack.py) and notifications (monitor/). pyroute2 (rtnl.py) is for what is rare: it spends more time on one request than
the kernel does on a whole guest. `_socket` is the part of `socket` that is written in C; it loads faster.
"""

import errno
import os
from _socket import (
    AF_NETLINK,
    MSG_DONTWAIT,
    MSG_TRUNC,
    NETLINK_ROUTE,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_RAW,
    SOL_SOCKET,
    inet_pton,
    socket,
)
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fcntl import ioctl
from struct import Struct
from typing import TYPE_CHECKING, Any

from . import wire
from .wire import INT, SIGNED, LinkMessage, NeighbourMessage, RouteMessage, RuleMessage

if TYPE_CHECKING:
    from .objects.nft import Nft

NETLINK_NETFILTER = 12
_SOL_NETLINK, _CAP_ACK, _STRICT_CHK = 270, 10, 12
_SO_RCVBUFFORCE = 33
_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933

REQUEST, ACK, _DUMP_INTR = 1, 4, 0x10
DUMP = 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
ERROR, DONE = 2, 3

_ATTEMPTS = 50
_BUFFER = 1 << 17
"""Bytes of one datagram. The kernel's dumps fill 32 KiB at most."""
_ASKED = 64
"""Requests that are sent at once: their answers must fit into a receive buffer of the default size."""

_HEADER = Struct("=IHHII")


class NetlinkError(Exception):
    """The kernel refused a request. `code` is the errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code, os.strerror(code))
        self.code = code


def messages(data: bytes) -> list[tuple[int, int, int, int, bytes]]:
    """Return (type, flags, sequence number, port of the sender, body behind the header) of each message of a datagram."""
    found = []
    offset, end = 0, len(data)
    while end - offset >= 16:
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < 16:
            break
        found.append((kind, flags, sequence, port, data[offset + 16 : offset + length]))
        offset += (length + 3) & ~3
    return found


class Socket:
    """A netlink socket: for one request at a time, or for the notifications of multicast groups.

    `groups` are the numbers of the groups to join. `buffer` is the size of the receive buffer in bytes; 0 leaves the
    kernel's default. Raises OSError.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE, groups: Iterable[int] = (), buffer: int = 0) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _STRICT_CHK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            if buffer:
                self._enlarge(buffer)
            self._socket.bind((0, sum(1 << (group - 1) for group in groups)))
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)

    def _enlarge(self, size: int) -> None:
        try:
            # With CAP_NET_ADMIN, net.core.rmem_max is no limit.
            self._socket.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:
            self._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, size)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    # --- requests ----------------------------------------------------------------------------------------------------

    def get(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """Send a request and return the body of its one answer. Raises NetlinkError."""
        sequence = self._send(kind, flags, body)
        while True:
            for answer, _, number, _, data in messages(self.receive()):
                if number == sequence:
                    if answer == ERROR:
                        _check(data)
                    return data

    def ask(self, requests: Sequence[tuple[int, bytes, int]]) -> list["bytes | NetlinkError"]:
        """Send requests (type, body, flags), none of which waits for the answer to another; return for each the body of its one
        answer, or the error. With the flag ACK, the answer to what succeeds is its acknowledgement."""
        found: list[bytes | NetlinkError] = []
        for start in range(0, len(requests), _ASKED):
            asked = requests[start : start + _ASKED]
            first = self._sequence + 1
            self._socket.send(b"".join([self._framed(*request) for request in asked]))
            answers: dict[int, bytes | NetlinkError] = {}
            while len(answers) < len(asked):
                for answer, _, number, _, data in messages(self.receive()):
                    place = (number - first) & 0xFFFFFFFF
                    if place < len(asked):
                        code = SIGNED.unpack_from(data)[0] if answer == ERROR else 0
                        answers[place] = NetlinkError(-code) if code else data
            found += [answers[place] for place in range(len(asked))]
        return found

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a request that changes something. Raises NetlinkError if the kernel refuses it."""
        self.get(kind, body, flags | ACK)

    def batch(self, begin: int, end: int, header: bytes, changes: Sequence[tuple[int, bytes, int]]) -> None:
        """Send changes (type, body, flags) as one transaction of nfnetlink, between messages of the types `begin` and `end`.
        Raises NetlinkError with the errno of the first change that the kernel refuses; then none is made."""
        *others, (kind, body, flags) = changes
        steps = ((begin, header, 0), *others, (kind, body, flags | ACK), (end, header, 0))
        first = self._sequence + 1
        self._socket.send(b"".join([self._framed(*step) for step in steps]))
        # The kernel looks at all changes, then answers in their order. An error of the whole batch has the number of `begin`.
        while True:
            for answer, _, number, _, told in messages(self.receive()):
                place = (number - first) & 0xFFFFFFFF
                if place <= len(changes):
                    if answer == ERROR:
                        _check(told)
                    if place == len(changes):
                        return

    def dump(self, kind: int, body: bytes, wanted: Callable[[bytes], bool] | None = None) -> list[bytes]:
        """Send a dump request and return the bodies of all answers, or of those `wanted`. Ask again if the kernel reports that
        the dump was interrupted by a change (a routing daemon is at work). Raises NetlinkError; EAGAIN if that goes on."""
        for _ in range(_ATTEMPTS):
            whole, found = self._dump(self._send(kind, DUMP, body), wanted)
            if whole:
                return found
        raise NetlinkError(errno.EAGAIN)

    def _dump(self, sequence: int, wanted: Callable[[bytes], bool] | None) -> tuple[bool, list[bytes]]:
        whole = True
        found: list[bytes] = []
        while True:
            for answer, flags, number, _, data in messages(self.receive()):
                if number != sequence:
                    continue
                if flags & _DUMP_INTR:
                    whole = False
                if answer == DONE:
                    # It carries the error that ended the dump, if there was one.
                    if len(data) >= 4 and (code := SIGNED.unpack_from(data)[0]):
                        raise NetlinkError(-code)
                    return whole, found
                if answer == ERROR:
                    _check(data)
                if wanted is None or wanted(data):
                    found.append(data)

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self._socket.send(self._framed(kind, body, flags))
        return self._sequence

    def _framed(self, kind: int, body: bytes, flags: int) -> bytes:
        """One request with the next sequence number."""
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        return _HEADER.pack(16 + len(body), kind, flags | REQUEST, sequence, 0) + body

    # --- answers and notifications -----------------------------------------------------------------------------------

    def receive(self, flags: int = 0) -> bytes:
        """Return the next datagram. Raises OSError (BlockingIOError with MSG_DONTWAIT if none waits, ENOBUFS if some were lost),
        or NetlinkError (EMSGSIZE)."""
        size = self._socket.recv_into(self._buffer, 0, MSG_TRUNC | flags)
        if size > _BUFFER:
            raise NetlinkError(errno.EMSGSIZE)
        return bytes(self._view[:size])

    def waiting(self) -> Iterator[bytes | None]:
        """Yield the datagrams that wait, without blocking; None where the kernel dropped some because the receive buffer was
        full. Raises OSError."""
        while True:
            try:
                yield self.receive(MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None


def _check(data: bytes) -> None:
    """Raise NetlinkError for an answer of type ERROR, which may also be an acknowledgement."""
    if code := SIGNED.unpack_from(data)[0]:
        raise NetlinkError(-code)


class Netlink(Socket):
    """The rtnetlink socket of a process or thread, with pyroute2 behind it; with `stays`, what was read of routes is kept for as
    long as it holds.

    The cost of a call does not depend on how many guests there are, except for dumps: `links`, `routes` and `rules`. Every method
    raises NetlinkError."""

    def __init__(self, stays: bool = False) -> None:
        super().__init__()
        self._pyroute2: Any = None
        self._makes: dict[str, bool] = {}
        self._cache: Any = None
        if stays:
            # Only the agent stays.
            from .routes import RouteCache

            self._cache = RouteCache(self.routes)

    def close(self) -> None:
        super().close()
        for opened in (self._cache, self._pyroute2):
            if opened is not None:
                opened.close()

    # --- links -------------------------------------------------------------------------------------------------------

    def link(self, ifname: str) -> LinkMessage | None:
        """Return the link of a name; None if there is none."""
        return self._link(wire.link_body(0, ifname))

    def link_at(self, index: int) -> LinkMessage | None:
        """Return the link of an index; None if there is none."""
        return self._link(wire.link_body(index))

    def _link(self, body: bytes) -> LinkMessage | None:
        try:
            return wire.link_of(self.get(wire.GETLINK, body))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise

    def links(self) -> list[LinkMessage]:
        """Return every link."""
        return [wire.link_of(data) for data in self.dump(wire.GETLINK, wire.link_body(0))]

    def set_link(
        self, index: int, items: wire.Items | None = None, up: bool | None = None, promiscuous: bool | None = None
    ) -> None:
        """Set attributes of a link, which wire.mtu, address, master, name and primary make, and set its flags: up or down, and
        whether it takes what is for other MACs."""
        self.change(wire.NEWLINK, wire.link_change(index, items or {}, up, promiscuous))

    def makes(self, kind: str) -> bool:
        """Whether the kernel can make links of a kind. It is asked for one with more queues than a link can have, which it
        refuses, but not before it has found the kind, and loaded its module. Raises NetlinkError."""
        if kind not in self._makes:
            try:
                self.change(wire.NEWLINK, wire.impossible_link(kind), CREATE)
            except NetlinkError as error:
                if error.code not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                self._makes[kind] = error.code == errno.EINVAL
        return self._makes[kind]

    def set_port_flag(self, index: int, name: str, on: bool) -> None:
        """Set or clear a flag of a bridge port, `isolated`, `guard`, `hairpin` or `learning`."""
        self.change(wire.SETLINK, wire.port_flag(index, name, on))

    def change_vlans(self, verb: str, index: int, own: bool, first: int, last: int, untagged: bool) -> None:
        """Add or delete (`verb` is add or del) the VIDs from `first` to `last` of a bridge port, or with `own` of the bridge
        itself. An `untagged` VID becomes the PVID too."""
        self.change(wire.SETLINK if verb == "add" else wire.DELLINK, wire.vlans(index, own, first, last, untagged))

    def delete_link(self, index: int) -> None:
        self.change(wire.DELLINK, wire.link_change(index, {}))

    # --- addresses and neighbours ------------------------------------------------------------------------------------

    def addresses(self, index: int) -> dict[str, int]:
        """Return the addresses of a link with their prefix lengths: IPv4 first, each family in the kernel's order; each with the
        mark of its maker, see wire.address_of."""
        found = [wire.address_of(data) for data in self.dump(wire.GETADDR, wire.addresses_body(index))]
        return {address: mark for at, address, mark in filter(None, found) if at == index}

    def add_address(self, index: int, address: str, broadcast: str = "", flags: int = 0, mark: int = 0) -> None:
        """Add an ADDRESS/LENGTH. `flags` are IFA_F_*; `mark` tells its maker."""
        self.change(wire.NEWADDR, wire.address_body(index, address, broadcast, flags, mark), CREATE | EXCLUSIVE)

    def delete_address(self, index: int, address: str) -> None:
        self.change(wire.DELADDR, wire.address_body(index, address))

    def neighbour_entries(self, places: Sequence[tuple[int, str]], flags: int = 0) -> list[NeighbourMessage | None]:
        """Return the neighbour entry at each (index of a link, address), or with the flag PROXY the proxy entry; None where there
        is none."""
        told = self.ask([(wire.GETNEIGH, wire.neighbour_body(*place, 0, flags), 0) for place in places])
        for answer in told:
            if isinstance(answer, NetlinkError) and answer.code not in (errno.ENOENT, errno.ENODEV):
                raise answer
        return [None if isinstance(answer, NetlinkError) else wire.neighbour_of(answer) for answer in told]

    def neighbours(self, family: int, index: int) -> list[str]:
        """Return the addresses of a family whose MAC on a link is known."""
        dumped = self.dump(wire.GETNEIGH, wire.neighbours_body(family, index))
        return [address for data in dumped if data[0] == family and (address := wire.neighbour_address(data))]

    def set_neighbour(self, index: int, address: str, lladdr: str = "", flags: int = 0) -> None:
        """Add or replace a permanent entry; with the flag PROXY, a proxy entry: an address that the kernel answers for."""
        self.change(wire.NEWNEIGH, wire.neighbour_body(index, address, wire.PERMANENT, flags, lladdr), CREATE | REPLACE)

    def resolve(self, places: Sequence[tuple[int, str]], proto: int) -> list[tuple[bool, NeighbourMessage | None]]:
        """Make the kernel ask for the MACs of addresses, each at (index of a link, address), that it has no entries for; they get
        the protocol `proto`. Returns for each whether there was an entry before, and the one that there is then; None where the
        kernel refuses it."""
        flags = CREATE | EXCLUSIVE | ACK
        made = [(wire.NEWNEIGH, wire.neighbour_body(*place, 0, wire.USE, proto=proto), flags) for place in places]
        told = self.ask([*made, *((wire.GETNEIGH, wire.neighbour_body(*place), 0) for place in places)])
        return [
            (
                isinstance(refused, NetlinkError) and refused.code == errno.EEXIST,
                None if isinstance(entry, NetlinkError) else wire.neighbour_of(entry),
            )
            for refused, entry in zip(told[: len(places)], told[len(places) :], strict=True)
        ]

    def delete_neighbour(self, index: int, address: str, flags: int = 0) -> None:
        self.change(wire.DELNEIGH, wire.neighbour_body(index, address, 0, flags))

    # --- routes and rules --------------------------------------------------------------------------------------------

    def routes(self, family: int, table: int = 0, oif: int = 0, proto: int = 0) -> list[RouteMessage]:
        """Return the unicast routes of a family with TOS 0, a multipath route as one for each next hop; with `table`, `oif` or
        `proto`, only those. The kernel filters them, but walks the whole table."""
        try:
            dumped = self.dump(wire.GETROUTE, wire.routes_body(family, table, oif, proto))
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                # There is no table of that number, or the device has gone.
                return []
            raise
        # A kernel without IPv6 answers its dump with those of all families.
        found = [route for data in dumped if data[0] == family for route in wire.routes_of(data)]
        return [route for route in found if proto in (0, route.proto) and oif in (0, route.oif)]

    def default_routes(self, family: int, table: int) -> list[RouteMessage]:
        """Return the default routes of a table. The kernel dumps all of it; only these are decoded."""
        try:
            # The second byte is the length of the destination's prefix.
            dumped = self.dump(wire.GETROUTE, wire.routes_body(family, table, 0, 0), lambda data: data[1] == 0)
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.ENODEV):
                return []
            raise
        return [route for data in dumped if data[0] == family for route in wire.routes_of(data)]

    def routes_by(self, family: int, hops: Iterable[str]) -> list[RouteMessage]:
        """Return every route of a family with one of these next hops. Takes about a second for each million of routes."""
        sought = [inet_pton(wire.family_of(hop), hop) for hop in hops]
        dumped = self.dump(wire.GETROUTE, wire.routes_body(family, 0, 0, 0), lambda data: any(hop in data for hop in sought))
        return [route for data in dumped if data[0] == family for route in wire.routes_of(data)]

    def dump_routes(self, *dumps: tuple[int, int, int, int]) -> Iterator[RouteMessage]:
        """Yield what `routes` returns for each (family, table, oif, proto), from what was kept if there is anything."""
        if self._cache:
            yield from self._cache.read(dumps)
            return
        for dump in dumps:
            yield from self.routes(*dump)

    def lookups(self, questions: Iterable[tuple[str, str]]) -> list[RouteMessage | None]:
        """Return for each (address, source) the route that the kernel takes to the address by all rules and tables (for packets
        from a source that is not "", IPv6 only); None if it finds none. Unlike a dump, this costs the same among thousands of
        routes."""
        told = self.ask([(wire.GETROUTE, wire.lookup_body(*question), 0) for question in questions])
        return [None if isinstance(answer, NetlinkError) else wire.route_of(answer) for answer in told]

    def set_route(self, route: RouteMessage, replace: bool) -> None:
        """Add a route; with `replace`, in place of one with the same key. Without it, such a route is an error (EEXIST)."""
        body = wire.route_body(route, wire.ONLINK if route.via else 0)
        self.change(wire.NEWROUTE, body, CREATE | (REPLACE if replace else EXCLUSIVE))

    def delete_route(self, route: RouteMessage) -> None:
        self.change(wire.DELROUTE, wire.route_body(route))

    def rules(self, family: int) -> list[RuleMessage]:
        """Return the rules of a family that select by one subnet alone."""
        dumped = self.dump(wire.GETRULE, wire.rules_body(family))
        return [rule for data in dumped for rule in wire.rules_of(data, family)]

    def add_rule(self, rule: RuleMessage) -> None:
        self.change(wire.NEWRULE, wire.rule_body(rule), CREATE | EXCLUSIVE)

    def delete_rule(self, rule: RuleMessage) -> None:
        self.change(wire.DELRULE, wire.rule_body(rule))

    # --- names, and pyroute2 -----------------------------------------------------------------------------------------

    @contextmanager
    def pyroute2(self) -> Iterator[Any]:
        """An IPRoute, for rare requests. Raises NetlinkError in place of pyroute2's."""
        # It takes longer to load than a guest takes to plug in.
        from . import rtnl

        if self._pyroute2 is None:
            self._pyroute2 = rtnl.connect()
        try:
            yield self._pyroute2
        except rtnl.NetlinkError as error:
            raise NetlinkError(error.code) from None

    def index(self, ifname: str) -> int:
        """The index of a link. Raises OSError if there is none of that name."""
        # if_nametoindex(3) opens a socket for each question.
        name = os.fsencode(ifname)
        try:
            if 0 < len(name) < 16:
                return INT.unpack_from(ioctl(self._socket, _SIOCGIFINDEX, name.ljust(40, b"\0")), 16)[0]
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        raise OSError(errno.ENODEV, f"{ifname} does not exist (any more)")

    def name(self, index: int) -> str:
        """The name of a link; "" for 0, and for one that is gone."""
        # if_indextoname(3) opens a socket for each question. A link must not seem to be gone when there are no descriptors.
        try:
            answer = ioctl(self._socket, _SIOCGIFNAME, bytes(16) + INT.pack(index) + bytes(20)) if index else b""
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENXIO):
                raise
            return ""
        return os.fsdecode(answer[:16].partition(b"\0")[0])

    def master(self, ifname: str) -> str:
        """The name of a link's master; "" if it has none, or there is no such link."""
        link = self.link(ifname)
        return self.name(link.master) if link else ""


class View:
    """The kernel as one call sees it: its sockets, and what several kinds ask for, asked once."""

    __slots__ = ("_addresses", "_links", "_rules", "netlink", "nft")

    def __init__(self, netlink: Netlink, nft: "Nft") -> None:
        self.netlink = netlink
        self.nft = nft
        self._links: dict[str, LinkMessage | None] = {}
        self._addresses: dict[str, dict[str, int]] = {}
        self._rules: dict[int, list[RuleMessage]] = {}

    def link(self, ifname: str) -> LinkMessage | None:
        """The link of a name; None if there is none."""
        if ifname not in self._links:
            self._links[ifname] = self.netlink.link(ifname)
        return self._links[ifname]

    def addresses(self, ifname: str) -> dict[str, int]:
        """The addresses of a link, with prefix lengths, in the kernel's order, IPv4 first; each with the mark of its maker."""
        if ifname not in self._addresses:
            link = self.link(ifname)
            self._addresses[ifname] = self.netlink.addresses(link.index) if link else {}
        return self._addresses[ifname]

    def rules(self, family: int) -> list[RuleMessage]:
        """The policy rules of a family (AF_INET or AF_INET6) that select by one subnet."""
        if family not in self._rules:
            self._rules[family] = self.netlink.rules(family)
        return self._rules[family]
