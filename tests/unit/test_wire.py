"""Netlink's bytes: attributes, answers, refusals, dumps that are interrupted; routes that are kept."""

import errno
import struct

import pytest

from vmnet_hooks.kernel import netlink, routes, wire
from vmnet_hooks.kernel.netlink import Netlink, NetlinkError, messages
from vmnet_hooks.kernel.objects import nft
from vmnet_hooks.kernel.wire import attributes, body

ERROR, DONE, NEWLINK, INTERRUPTED = 2, 3, 16, 0x10


def message(kind: int, sequence: int, body: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


class Scripted(Netlink):
    """A socket whose answers are made from the number of the request."""

    def __init__(self, *answers) -> None:
        self.answers, self.sent = list(answers), []

    def _send(self, kind: int, flags: int, body: bytes) -> int:
        self.sent.append((kind, flags, body))
        return len(self.sent)

    def receive(self, flags: int = 0) -> bytes:
        return self.answers.pop(0)(len(self.sent))


def attribute(number: int, value: bytes) -> bytes:
    return body(b"", {number: value})


def code(number: int) -> bytes:
    return struct.pack("=i", -number)


@pytest.mark.parametrize("value", [b"", b"a", b"abcd", b"abcde"])
def test_an_attribute_is_read_as_it_was_written(value):
    data = attribute(5 | 0x8000, value) + attribute(7, b"xy")
    assert len(data) % 4 == 0 and attributes(data) == {5: value, 7: b"xy"}
    assert attributes(b"head" + data, 4) == {5: value, 7: b"xy"}


@pytest.mark.parametrize("data", [b"", b"\1", b"\3\0\1\0", b"\0\0\0\0\0\0\0\0", struct.pack("=HH", 400, 1) + b"ab"])
def test_what_is_cut_off_is_read_as_far_as_it_goes(data):
    assert attributes(data) in ({}, {1: b"ab"})
    assert list(messages(data)) == []


def test_an_answer_to_an_earlier_request_is_passed_over():
    late = Scripted(lambda n: message(NEWLINK, n - 1, b"old.") + message(NEWLINK, n, b"new."))
    assert late.get(18, b"") == b"new."


def test_a_refusal_is_an_error_with_its_number():
    refused = Scripted(lambda n: message(ERROR, n, code(errno.EEXIST) + bytes(16)))
    with pytest.raises(NetlinkError) as caught:
        refused.change(24, b"")
    assert caught.value.code == errno.EEXIST and refused.sent[0][1] & netlink.ACK
    Scripted(lambda n: message(ERROR, n, code(0) + bytes(16))).change(24, b"")


def test_a_dump_that_was_interrupted_is_asked_for_again():
    def first(n: int) -> bytes:
        return message(NEWLINK, n, b"half", INTERRUPTED) + message(DONE, n, code(0))

    again = Scripted(
        first, lambda n: message(NEWLINK, n, b"all1"), lambda n: message(NEWLINK, n, b"all2") + message(DONE, n, code(0))
    )
    assert again.dump(18, b"") == [b"all1", b"all2"] and len(again.sent) == 2
    with pytest.raises(NetlinkError) as caught:
        Scripted(*[first] * 50).dump(18, b"")
    assert caught.value.code == errno.EAGAIN


def test_what_stops_a_dump_is_an_error():
    with pytest.raises(NetlinkError) as caught:
        Scripted(lambda n: message(DONE, n, code(errno.EPERM))).dump(18, b"")
    assert caught.value.code == errno.EPERM


def test_a_socket_reads_all_and_names_what_it_lost():
    one = netlink.Socket(groups=(wire.GROUP_LINK,), buffer=1 << 20)
    answers = [b"a", OSError(errno.ENOBUFS, ""), b"b", BlockingIOError(errno.EAGAIN, "")]

    class Socket:
        def recv_into(self, buffer, _size, _flags):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            # With MSG_TRUNC the kernel returns the whole length of what it cuts off.
            buffer[: len(answer)] = answer[: len(buffer)]
            return len(answer)

    real, one._socket = one._socket, Socket()
    assert list(one.waiting()) == [b"a", None, b"b"]
    answers += [OSError(errno.EBADF, "")]
    with pytest.raises(OSError):
        list(one.waiting())
    answers += [bytes(netlink._BUFFER), bytes(netlink._BUFFER + 1)]
    assert len(one.receive()) == netlink._BUFFER
    with pytest.raises(NetlinkError) as caught:
        one.receive()
    assert caught.value.code == errno.EMSGSIZE
    real.close()


@pytest.mark.parametrize("before", [0, 0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_batch_ends_with_the_answer_to_its_last_change(before):
    """Whatever the numbers of its messages: they start again after 2³² - 1."""

    class Kernel:
        sent: list[tuple] = []

        def send(self, data: bytes) -> None:
            self.sent = list(messages(data))

        def recv_into(self, buffer, _size, _flags):
            # Of an earlier request, of a change that went well unasked, and of the last one.
            old, *_, (_, _, last, _, _), _ = self.sent
            answer = message(ERROR, (old[2] - 1) & 0xFFFFFFFF, code(errno.EPERM) + bytes(16))
            answer += message(ERROR, last, code(self.refused) + bytes(16))
            buffer[: len(answer)] = answer
            return len(answer)

    one = netlink.Socket()
    real, one._socket, one._sequence = one._socket, Kernel(), before
    changes = [(2572, b"abcd", netlink.CREATE), (2574, b"", 0)]
    one._socket.refused = 0
    one.batch(16, 17, b"head", changes)
    numbers = [(before + step) & 0xFFFFFFFF for step in (1, 2, 3, 4)]
    assert one._socket.sent == [
        (16, 1, numbers[0], 0, b"head"),
        (2572, 1 | 0x400, numbers[1], 0, b"abcd"),
        (2574, 1 | 4, numbers[2], 0, b""),
        (17, 1, numbers[3], 0, b"head"),
    ]
    one._socket.refused = errno.EEXIST
    with pytest.raises(NetlinkError) as caught:
        one.batch(16, 17, b"head", changes)
    assert caught.value.code == errno.EEXIST
    real.close()


def test_a_table_that_is_not_there_has_no_routes():
    assert Scripted(lambda n: message(DONE, n, code(errno.ENOENT))).routes(2, 222) == []
    with pytest.raises(NetlinkError):
        Scripted(lambda n: message(DONE, n, code(errno.EINVAL))).routes(2, 222)


def test_a_link_that_is_not_there():
    assert Scripted(lambda n: message(ERROR, n, code(errno.ENODEV) + bytes(16))).link("tap0") is None


def link(*items: bytes) -> wire.LinkMessage:
    return wire.link_of(struct.pack("=BxHiII", 0, 1, 7, 0x1043, 0) + b"".join([attribute(3, b"tap0\0"), *items]))


def test_a_link():
    plain = link(
        attribute(4, struct.pack("=I", 1500)), attribute(1, bytes.fromhex("fe5400aa0010")), attribute(20, b"vmnet-hooks\0")
    )
    assert (plain.index, plain.name, plain.mtu, plain.address) == (7, "tap0", 1500, "fe:54:00:aa:00:10")
    assert (plain.alias, plain.kind, plain.master, plain.vlan_filtering) == ("vmnet-hooks", "", 0, False)
    assert plain.port_flag("isolated") is None
    bridge = attribute(18, attribute(1, b"bridge\0") + attribute(2, attribute(7, b"\1")))
    assert link(bridge).vlan_filtering and link(bridge).primary == 0
    bond = attribute(18, attribute(1, b"bond\0") + attribute(2, attribute(11, struct.pack("=I", 9))))
    assert link(bond).primary == 9 and not link(bond).vlan_filtering
    for value, isolated in ((b"\1", True), (b"\0", False)):
        port = attribute(18, attribute(1, b"tun\0") + attribute(4, b"bridge\0") + attribute(5, attribute(33, value)))
        assert link(port).port_flag("isolated") is isolated and link(port).port_flag("guard") is False
    slave = attribute(18, attribute(4, b"bond\0") + attribute(5, attribute(33, b"\1")))
    assert link(slave).port_flag("isolated") is None


@pytest.mark.parametrize(
    ("route", "has_dst"),
    [
        (wire.RouteMessage(222, "192.0.2.10/32", 7, "", 86, "", 0), True),
        (wire.RouteMessage(70000, "0.0.0.0/0", 7, "192.0.2.1", 86, "192.0.2.9", 5), False),
        (wire.RouteMessage(254, "2001:db8::/64", 7, "", 86, "", 1024), True),
    ],
)
def test_a_route_is_read_as_it_was_written(route, has_dst):
    data = wire.route_body(route)
    assert wire.route_of(data) == route and (1 in attributes(data, 12)) is has_dst


@pytest.mark.parametrize(
    ("part", "packed"),
    [
        ('"tap0"', b"tap0" + bytes(12)),
        ("52:54:00:aa:00:10", bytes.fromhex("525400aa00100000")),
        ("192.0.2.10", bytes((192, 0, 2, 10))),
        ("2001:db8::1", bytes.fromhex("20010db8" + 22 * "0" + "01")),
        ("::ffff:192.0.2.1", bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 1))),
        ("0x20010db8000000000000000000000001", bytes.fromhex("20010db8" + 22 * "0" + "01")),
        ("ipv6", b"\x0a\0\0\0"),
    ],
)
def test_a_part_of_an_element(part, packed):
    assert nft._packed(part) == packed


@pytest.mark.parametrize(
    ("userdata", "version"),
    [
        (b"", ""),
        (b"\0\x19vmnet-hooks 0123456789ab\0", "0123456789ab"),
        (b"\1\2xy\0\x19vmnet-hooks 0123456789ab\0", "0123456789ab"),
        (b"\0\6other\0", ""),
        (b"\0", ""),
    ],
)
def test_the_version_of_a_table(userdata, version):
    assert nft._version(userdata) == version


# --- routes that are kept ----------------------------------------------------------------------------------------------


class Told:
    """A socket whose datagrams wait in a list, None for some that were lost; an exception among them is raised."""

    def __init__(self) -> None:
        self.queue: list = []

    def waiting(self):
        while self.queue:
            found = self.queue.pop(0)
            if isinstance(found, Exception):
                raise found
            yield found


@pytest.fixture
def kept():
    asked: list = []

    def ask(*key: int) -> list[wire.RouteMessage]:
        asked.append(key)
        return [wire.RouteMessage(key[1], "::/0", 3, "", 9, "", 1024)]

    made = object.__new__(routes.RouteCache)
    made._ask, made._told, made._kept = ask, Told(), {}
    made.asked = asked
    return made


UPLINK, LEARNED = (2, 222, 3, 0), (10, 254, 0, 9)


def told_of(table: int, oif: int, family: int = 2, proto: int = 86, several: bool = False) -> bytes:
    route = wire.RouteMessage(table, "2001:db8::/64" if family == 10 else "192.0.2.0/24", oif, "", proto, "", 0)
    data = wire.route_body(route)
    return message(24, 0, data.replace(attribute(4, struct.pack("=I", oif)), b"") if several else data)


@pytest.mark.parametrize(
    ("datagram", "asked_again"),
    [
        (told_of(222, 3), {UPLINK}),
        (told_of(222, 3, several=True), {UPLINK}),
        (told_of(222, 7), set()),
        (told_of(223, 3), set()),
        (told_of(222, 3, family=10), set()),
        (told_of(254, 3, family=10, proto=9), {LEARNED}),
        (told_of(254, 7, family=10, proto=9), {LEARNED}),
        (told_of(254, 7, family=10, proto=2), set()),
        (message(17, 0, struct.pack("=BxHiII", 0, 1, 3, 0, 0)), {UPLINK, LEARNED}),
        (message(16, 0, struct.pack("=BxHiII", 0, 1, 7, 0, 0)), set()),
        (message(21, 0, struct.pack("=BBBBI", 2, 24, 0, 0, 3)), {UPLINK, LEARNED}),
        (None, {UPLINK, LEARNED}),
    ],
)
def test_routes_are_kept_until_something_is_told_of_them(datagram, asked_again, kept):
    for key in (UPLINK, LEARNED, UPLINK, LEARNED):
        assert next(kept.read([key])).table == key[1]
    assert kept.asked == [UPLINK, LEARNED]
    kept._told.queue.append(datagram)
    for key in (UPLINK, LEARNED):
        list(kept.read([key]))
    assert set(kept.asked[2:]) == asked_again and len(kept.asked) == 2 + len(asked_again)


def test_a_socket_that_can_not_listen_says_so(kept):
    kept._told.queue.append(OSError(errno.EBADF, "closed"))
    with pytest.raises(OSError):
        list(kept.read([UPLINK]))
