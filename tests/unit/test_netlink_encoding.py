"""Our netlink messages beside pyroute2's: what we send is read by its decoder, what it encodes, or the kernel sends, by ours."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg
from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg, nft_rule_msg, nft_set_elem_list_msg, nft_table_msg
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from vmnet_hooks.kernel import conntrack, netlink, wire
from vmnet_hooks.kernel.monitor import rtnetlink
from vmnet_hooks.kernel.objects import nft
from vmnet_hooks.kernel.wire import RouteMessage, RuleMessage
from vmnet_hooks.model.objects import NftElement
from vmnet_hooks.model.resource import ANSWER_MARK
from vmnet_hooks.model.ruleset import INET

REQUEST, MULTI, ACK, DUMP, EXCL, CREATE, REPLACE = 1, 2, 4, 0x300, 0x200, 0x400, 0x100
ERROR, DONE, NESTED = 2, 3, 0x8000
each_seed = pytest.mark.parametrize("seed", range(25))


def encoded(cls: type, kind: int, flags: int, sequence: int, fields: dict[str, int], attrs: list, port: int = 0) -> bytes:
    """A message as pyroute2 writes it."""
    message = cls()
    message.update(fields)
    # A nested one is changed as it is encoded.
    message["attrs"] = copy.deepcopy(attrs)
    message["header"].update({"type": kind, "flags": flags, "sequence_number": sequence, "pid": port})
    message.encode()
    return bytes(message.data)


def plain(value: Any) -> Any:
    """A decoded attribute without pyroute2's wrapping: nested ones as a list of (name, value)."""
    if isinstance(value, dict):
        return [(one[0], plain(one[1])) for one in value["attrs"]] if value.get("attrs") else dict(value)
    return [plain(one) for one in value] if isinstance(value, list) else value


def decoded(cls: type, data: bytes) -> tuple[dict, dict, list]:
    """A message as pyroute2 reads it: header, fields, attributes."""
    message = cls(data)
    message.decode()
    names = [field[0] for field in cls.fields if not field[0].startswith("__")]
    header = {name: message["header"][name] for name in ("type", "flags", "sequence_number")}
    return header, {name: message[name] for name in names}, [(one[0], plain(one[1])) for one in message["attrs"]]


class Kernel:
    """Takes the place of a socket's C part: keeps what is sent, and answers with what pyroute2 has encoded, or with an ACK."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.answers: list[tuple[type, int, dict[str, int], list]] = []

    def send(self, data: bytes) -> None:
        told = split(data)
        self.sent += told
        # Of a batch, the last change is answered, not the end.
        self.asked = told[-2:][0]

    def recv_into(self, buffer: bytearray, _size: int, _flags: int) -> int:
        assert self.asked, "answered already: who waits for more?"
        _, _, flags, sequence, _ = struct.unpack_from("=IHHII", self.asked)
        self.asked = b""
        multi = MULTI if flags & DUMP == DUMP else 0
        answer = b"".join(encoded(cls, kind, multi, sequence, fields, attrs) for cls, kind, fields, attrs in self.answers)
        if multi or not self.answers:
            answer += struct.pack("=IHHIIi", 20, DONE if multi else ERROR, multi, sequence, 0, 0)
        self.answers = []
        buffer[: len(answer)] = answer
        return len(answer)

    def close(self) -> None: ...


def split(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = struct.unpack_from("=I", data)[0]
        found.append(data[:length])
        data = data[length + -length % 4 :]
    return found


@pytest.fixture
def kernel(monkeypatch):
    """A kernel behind every socket that is opened."""
    made = Kernel()

    def opened(self, *_words, **_options) -> None:
        self._socket, self._sequence, self._buffer = made, 0, bytearray(netlink._BUFFER)
        self._view = memoryview(self._buffer)

    monkeypatch.setattr(netlink.Socket, "__init__", opened)
    return made


@pytest.fixture
def socket(kernel):
    return netlink.Netlink()


def said(kernel: Kernel, cls: type, kind: int, flags: int, fields: dict[str, int], attrs: list) -> None:
    """The last message was this: in pyroute2's bytes, but for the flag that marks a nest, and by its decoder."""
    data = kernel.sent[-1]
    sequence = struct.unpack_from("=I", data, 8)[0]
    wanted = encoded(cls, kind, flags | REQUEST, sequence, fields, attrs)
    assert decoded(cls, data) == decoded(cls, wanted)
    if not any(isinstance(value, dict | list) for _, value in attrs):
        assert data == wanted


class Dice(random.Random):
    """Random values of the field's kinds."""

    def number(self) -> int:
        return self.choice([1, 255, 256, 65536, self.randrange(1, 1 << 31)])

    def mac(self) -> str:
        return self.randbytes(6).hex(":")

    def host(self, family: int) -> str:
        """Of IPv6 also one that some print in another way: ::ffff:192.0.2.1, and with zeros in several places."""
        if family == 2:
            return str(IPv4Address(self.randbytes(4)))
        return self.choice([str(IPv6Address(self.randbytes(16))), "2001:db8::1:0:0:1", "2001:db8:0:1::", "fe80::1"])

    def name(self) -> str:
        return "".join(self.choices("abcäz.-_@0123456789", k=self.randrange(1, 7)))

    def route(self, family: int) -> RouteMessage:
        length = 32 if family == 2 else 128
        dst, via = f"{self.host(family)}/{length}", self.choice(["", self.host(family), self.host(10)])
        if self.random() < 0.2:
            dst = "0.0.0.0/0" if family == 2 else "::/0"
        source = self.choice(["", self.host(family)])
        metric = self.choice([0, 1024, self.number()])
        mtu = self.choice([0, 1400])
        return RouteMessage(self.number(), dst, self.number(), via, self.randrange(1, 256), source, metric, mtu)

    def rule(self, family: int) -> RuleMessage:
        subnet = f"{self.host(family)}/{self.randrange(1, 33 if family == 2 else 129)}"
        return RuleMessage(
            self.number(), self.choice(["from", "to"]), subnet, self.choice([0, self.number()]), self.randrange(1, 256)
        )


@pytest.fixture
def dice(seed):
    return Dice(seed)


# --- links --------------------------------------------------------------------------------------------------------------


def link(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> dict[str, int]:
    return {"family": family, "ifi_type": 0, "index": index, "flags": flags, "change": change}


@each_seed
def test_links_are_asked_for_and_set(socket, kernel, dice):
    index, number, name, mac = dice.number(), dice.number(), dice.name(), dice.mac()
    skip = ("IFLA_EXT_MASK", 8)
    told = (ifinfmsg, 16, link(index), [("IFLA_IFNAME", name)])
    for ask, fields, attrs, flags in (
        (lambda: socket.link(name), link(), [("IFLA_IFNAME", name), skip], 0),
        (lambda: socket.link_at(index), link(index), [skip], 0),
        (socket.links, link(), [skip], DUMP),
    ):
        kernel.answers = [told]
        ask()
        said(kernel, ifinfmsg, 18, flags, fields, attrs)
    for up, bits in ((None, (0, 0)), (True, (1, 1)), (False, (0, 1))):
        items = wire.mtu(number) | wire.address(mac) | wire.master(number) | wire.name(name)
        socket.set_link(index, items, up=up)
        attrs = [("IFLA_MTU", number), ("IFLA_ADDRESS", mac), ("IFLA_MASTER", number), ("IFLA_IFNAME", name)]
        said(kernel, ifinfmsg, 16, ACK, link(index, *bits), attrs)
    socket.set_link(index, wire.primary(number))
    data = {"attrs": [("IFLA_BOND_PRIMARY", number)]}
    said(kernel, ifinfmsg, 16, ACK, link(index), [info(("IFLA_INFO_KIND", "bond"), ("IFLA_INFO_DATA", data))])
    socket.delete_link(index)
    said(kernel, ifinfmsg, 17, ACK, link(index), [])


def info(*attrs: tuple[str, object]) -> tuple[str, object]:
    return "IFLA_LINKINFO", {"attrs": list(attrs)}


@each_seed
def test_bridge_ports_are_set(socket, kernel, dice):
    """VLANs as iproute2 and pyroute2 encode them: a range is two rows, its first and its last."""
    index, first = dice.number(), dice.randrange(1, 4000)
    last, own, untagged = dice.choice([first, first + 90]), dice.random() < 0.5, dice.random() < 0.5
    verb, kind = dice.choice([("add", 19), ("del", 17)])
    socket.change_vlans(verb, index, own, first, last, untagged)
    flags = 6 if untagged else 0
    rows = [(flags, first)] if first == last else [(flags | 8, first), (flags | 16, last)]
    spec = [("IFLA_BRIDGE_VLAN_FLAGS", 2)] if own else []
    spec += [("IFLA_BRIDGE_VLAN_INFO", {"flags": bits, "vid": vid}) for bits, vid in rows]
    said_of_bridge(kernel, kind, index, "IFLA_AF_SPEC", spec)
    for name in ("isolated", "guard", "learning"):
        on = dice.random() < 0.5
        socket.set_port_flag(index, name, on)
        said_of_bridge(kernel, 19, index, "IFLA_PROTINFO", [(f"IFLA_BRPORT_{name.upper()}", int(on))])


def said_of_bridge(kernel: Kernel, kind: int, index: int, nest: str, attrs: list) -> None:
    """pyroute2 chooses by the family how a nest is read, which it takes from a message that is decoded, not encoded."""
    header, fields, found = decoded(ifinfmsg, kernel.sent[-1])
    assert (header["type"], header["flags"]) == (kind, REQUEST | ACK)
    assert fields == link(index, family=7)
    assert found == [(nest, attrs)]


@each_seed
def test_links_are_read(socket, kernel, dice):
    index, master, number, name, alias, mac = dice.number(), dice.number(), dice.number(), dice.name(), dice.name(), dice.mac()
    flags = dice.choice([0, 1, 0x10000, 0x11043])
    attrs = [("IFLA_IFNAME", name), ("IFLA_MTU", number), ("IFLA_ADDRESS", mac), ("IFLA_IFALIAS", alias)]
    attrs += dice.choice([[], [("IFLA_MASTER", master)]])
    on = dice.randrange(2)
    kinds = {
        "": (),
        "bridge": (("IFLA_INFO_DATA", {"attrs": [("IFLA_BR_AGEING_TIME", 30000), ("IFLA_BR_VLAN_FILTERING", on)]}),),
        "bond": (("IFLA_INFO_DATA", {"attrs": [("IFLA_BOND_MODE", 1), ("IFLA_BOND_PRIMARY", number)]}),),
    }
    kind = dice.choice(list(kinds))
    if kind:
        attrs.append(info(("IFLA_INFO_KIND", kind), *kinds[kind]))
    kernel.answers = [(ifinfmsg, 16, link(index, flags), attrs)]
    found = socket.link(name)
    assert (found.index, found.name, found.flags, found.mtu, found.address) == (index, name, flags, number, mac)
    assert (found.alias, found.kind, found.master) == (alias, kind, dict(attrs).get("IFLA_MASTER", 0))
    assert found.vlan_filtering is (kind == "bridge" and bool(on))
    assert found.primary == (number if kind == "bond" else 0)
    assert found.port_flag("isolated") is None


def test_the_links_of_this_machine():
    """As the kernel tells of them: also the settings of IPv4 and IPv6, and what only ports have."""
    real = netlink.Netlink()
    try:
        bodies = real.dump(18, wire.link_body(0))
    finally:
        real.close()
    assert bodies
    for body in bodies:
        ours = wire.link_of(body)
        theirs = ifinfmsg(struct.pack("=IHHII", 16 + len(body), 16, MULTI, 1, 0) + body)
        theirs.decode()
        assert (ours.index, ours.flags) == (theirs["index"], theirs["flags"])
        for name, value in (("IFNAME", ours.name), ("MTU", ours.mtu), ("ADDRESS", ours.address), ("MASTER", ours.master)):
            assert (theirs.get_attr(f"IFLA_{name}") or type(value)()) == value
        spec = theirs.get_attr("IFLA_AF_SPEC")
        ipv4, ipv6 = spec.get_attr("AF_INET"), spec.get_attr("AF_INET6")
        settings = {("ipv4", word): ipv4[word] for word in ("forwarding", "proxy_arp", "send_redirects", "rp_filter") if ipv4}
        if ipv6:
            inner = ipv6.get_attr("IFLA_INET6_CONF")
            settings |= {("ipv6", word): inner[word] for word in ("forwarding", "accept_ra", "proxy_ndp", "disable_ipv6")}
            settings["ipv6", "addr_gen_mode"] = ipv6.get_attr("IFLA_INET6_ADDR_GEN_MODE")
        assert ours.settings == {key: str(value) for key, value in settings.items()}


# --- addresses and neighbours -------------------------------------------------------------------------------------------


@each_seed
@pytest.mark.parametrize("family", [2, 10])
def test_addresses(socket, kernel, dice, family):
    index, host, length, flags = dice.number(), dice.host(family), dice.randrange(1, 33), dice.choice([0, 2])
    broadcast = dice.choice(["", dice.host(2)]) if family == 2 else ""
    fields = {"family": family, "prefixlen": length, "flags": flags, "scope": 0, "index": index}
    attrs = [("IFA_ADDRESS", host)] + ([("IFA_LOCAL", host)] if family == 2 else [])
    socket.add_address(index, f"{host}/{length}", broadcast, flags)
    said(kernel, ifaddrmsg, 20, ACK | CREATE | EXCL, fields, attrs + ([("IFA_BROADCAST", broadcast)] if broadcast else []))
    socket.delete_address(index, f"{host}/{length}")
    said(kernel, ifaddrmsg, 21, ACK, fields | {"flags": 0}, attrs)
    peer, other = dice.host(family), dice.host(family)
    point = [("IFA_ADDRESS", peer), ("IFA_LOCAL", other)]
    there = [(fields, attrs), (fields, point), (fields | {"index": 0}, attrs)]
    kernel.answers = [(ifaddrmsg, 20, *one) for one in there]
    words = f"{other} peer {peer}/{length}" if other != peer else f"{other}/{length}"
    assert socket.addresses(index) == {f"{host}/{length}": 0, words: 0}, "and no other link's"
    said(kernel, ifaddrmsg, 22, DUMP, {"family": 0, "prefixlen": 0, "flags": 0, "scope": 0, "index": index}, [])
    socket.add_address(index, words)
    alone = point[:1] if other == peer and family == 10 else point
    said(kernel, ifaddrmsg, 20, ACK | CREATE | EXCL, fields | {"flags": 0}, alone)


@each_seed
@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize("flags", [0, 8])
def test_neighbours(socket, kernel, dice, family, flags):
    index, host, mac, state = dice.number(), dice.host(family), dice.mac(), dice.choice([2, 4, 0x80])
    fields = {"family": family, "ifindex": index, "state": 0, "flags": flags, "ndm_type": 0}
    socket.set_neighbour(index, host, "" if flags else mac, flags)
    attrs = [("NDA_DST", host)] + ([] if flags else [("NDA_LLADDR", mac)])
    said(kernel, ndmsg, 28, ACK | CREATE | REPLACE, fields | {"state": 0x80}, attrs)
    socket.delete_neighbour(index, host, flags)
    said(kernel, ndmsg, 29, ACK, fields, [("NDA_DST", host)])
    kernel.answers = [(ndmsg, 28, fields | {"state": state}, attrs)]
    assert socket.neighbour_entries([(index, host)], flags) == [(state, "" if flags else mac, 0)]
    said(kernel, ndmsg, 30, 0, fields, [("NDA_DST", host)])


# --- routes and rules ---------------------------------------------------------------------------------------------------


def route_fields(route: RouteMessage, family: int, scope: int, flags: int = 0) -> dict[str, int]:
    length = int(route.dst.partition("/")[2])
    table = route.table if route.table < 256 else 0
    fields = {"family": family, "dst_len": length, "src_len": 0, "tos": 0, "table": table}
    return fields | {"proto": route.proto, "scope": scope, "type": 1, "flags": flags}


def route_attrs(route: RouteMessage) -> list[tuple[str, object]]:
    dst, _, length = route.dst.partition("/")
    attrs = [("RTA_TABLE", route.table), ("RTA_OIF", route.oif)]
    other = ":" in route.via and ":" not in dst
    via = {"family": 10, "addr": route.via} if other else route.via
    for name, value in (("DST", dst if length != "0" else ""), ("VIA" if other else "GATEWAY", via), ("PREFSRC", route.src)):
        attrs += [(f"RTA_{name}", value)] if value else []
    attrs += [("RTA_PRIORITY", route.metric)] if route.metric else []
    return attrs + ([("RTA_METRICS", {"attrs": [("RTAX_MTU", route.mtu)]})] if route.mtu else [])


@each_seed
@pytest.mark.parametrize("family", [2, 10])
def test_routes(socket, kernel, dice, family):
    route, replace = dice.route(family), dice.random() < 0.5
    scope = 0 if route.via or family == 10 else 253
    socket.set_route(route, replace)
    mode = CREATE | (REPLACE if replace else EXCL)
    said(kernel, rtmsg, 24, ACK | mode, route_fields(route, family, scope, 4 if route.via else 0), route_attrs(route))
    socket.delete_route(route)
    said(kernel, rtmsg, 25, ACK, route_fields(route, family, scope), route_attrs(route))
    told = (rtmsg, 24, route_fields(route, family, scope), route_attrs(route))
    others = [(rtmsg, 24, told[2] | {"type": 6}, told[3]), (rtmsg, 24, told[2] | {"tos": 4}, told[3])]
    kernel.answers = [*others, told]
    assert socket.routes(family, route.table, route.oif, route.proto) == [route]
    asked = dict.fromkeys(told[2], 0) | {"family": family, "proto": route.proto}
    said(kernel, rtmsg, 26, DUMP, asked, [("RTA_TABLE", route.table), ("RTA_OIF", route.oif)])
    host, source = dice.host(family), dice.host(family)
    for origin in ("", source):
        kernel.answers = [told]
        assert socket.lookups([(host, origin)]) == [route]
        size = 32 if family == 2 else 128
        flags = 0x2000 if family == 10 else 0x3000
        fields = asked | {"proto": 0, "dst_len": size, "src_len": size if origin else 0, "flags": flags}
        said(kernel, rtmsg, 26, 0, fields, [("RTA_DST", host)] + ([("RTA_SRC", origin)] if origin else []))


@each_seed
@pytest.mark.parametrize("family", [2, 10])
def test_rules(socket, kernel, dice, family):
    rule = dice.rule(family)._replace(mark=dice.choice([0, ANSWER_MARK]))
    subnet, _, length = rule.subnet.partition("/")
    fields = {"family": family, "dst_len": 0, "src_len": 0, "tos": 0, "table": rule.table if rule.table < 256 else 0}
    fields |= {
        "res1": 0,
        "res2": 0,
        "action": 1 if rule.table else 7,
        "flags": 0,
        "src_len" if rule.selector == "from" else "dst_len": int(length),
    }
    attrs = [("FRA_SRC" if rule.selector == "from" else "FRA_DST", subnet), ("FRA_PRIORITY", rule.priority)]
    attrs += [("FRA_TABLE", rule.table)] * bool(rule.table)
    attrs += [("FRA_FWMARK", rule.mark), ("FRA_FWMASK", rule.mark)] * bool(rule.mark) + [("FRA_PROTOCOL", rule.proto)]
    socket.add_rule(rule)
    said(kernel, fibmsg, 32, ACK | CREATE | EXCL, fields, attrs)
    socket.delete_rule(rule)
    said(kernel, fibmsg, 33, ACK, fields, attrs)
    # With what else a rule may select by, it is none of these.
    others = [("FRA_IIFNAME", "eth0"), ("FRA_FWMARK", 1), ("FRA_OIFNAME", "eth0"), ("FRA_L3MDEV", 1), ("FRA_IP_PROTO", 6)]
    kernel.answers = [(fibmsg, 32, fields, [*attrs, other]) for other in others] + [(fibmsg, 32, fields, attrs)]
    assert socket.rules(family) == [rule]
    said(kernel, fibmsg, 34, DUMP, dict.fromkeys(fields, 0) | {"family": family}, [])


@each_seed
def test_notifications(kernel, dice, monkeypatch):
    """What the monitor makes of messages that pyroute2 encodes, all in one datagram."""
    index, name, family = dice.number(), dice.name(), dice.choice([2, 10])
    monkeypatch.setattr(rtnetlink, "_links", lambda: {})
    watched = rtnetlink.RtnetlinkMonitor()
    route, rule, host, mac = dice.route(family)._replace(proto=86), dice.rule(family), dice.host(family), dice.mac()
    entry = {"ifindex": index, "state": 0x80, "ndm_type": 0}
    subnet, _, length = rule.subnet.partition("/")
    side, size = ("FRA_SRC", "src_len") if rule.selector == "from" else ("FRA_DST", "dst_len")
    selects = [(side, subnet), ("FRA_PRIORITY", rule.priority), ("FRA_TABLE", rule.table)]
    told: Iterable[tuple[type, int, dict[str, int], list]] = (
        (ifinfmsg, 16, link(index, 1), [("IFLA_IFNAME", name)]),
        (rtmsg, 25, route_fields(route, family, 0), route_attrs(route)),
        (fibmsg, 33, {"family": family, size: int(length)}, selects),
        (ndmsg, 29, entry | {"family": family, "flags": 0}, [("NDA_DST", host)]),
        (ndmsg, 29, entry | {"family": 7, "flags": 0}, [("NDA_LLADDR", mac)]),
    )
    data = b"".join(encoded(cls, kind, 0, 0, fields, attrs) for cls, kind, fields, attrs in told)
    watched._socket.waiting = lambda: [data]
    metric = "" if route.metric in (0, 1024 if family == 10 else 0) else f" metric {route.metric}"
    found = watched.drain()
    assert found.links == {name} and found.keys == {
        f"route {route.table} {route.dst}{metric}",
        f"rule {rule.priority} {rule.selector} {rule.subnet} {rule.table}",
        f"neigh {name} {host}",
        f"fdb {name} {mac}",
    }


# --- nftables and connections -------------------------------------------------------------------------------------------


def nfgen(family: int) -> dict[str, int]:
    return {"nfgen_family": family, "version": 0, "res_id": 0}


def element_attrs(key: bytes, value: bytes = b"") -> list[tuple[str, object]]:
    inner = [("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", key)]})]
    if value:
        inner.append(("NFTA_SET_ELEM_DATA", {"attrs": [("NFTA_DATA_VALUE", value)]}))
    elements = [{"attrs": inner}]
    table = ("NFTA_SET_ELEM_LIST_TABLE", "vmnet")
    return [table, ("NFTA_SET_ELEM_LIST_SET", "sources4"), ("NFTA_SET_ELEM_LIST_ELEMENTS", elements)]


@each_seed
def test_nft_elements(kernel, dice):
    socket = netlink.Socket(netlink.NETLINK_NETFILTER)
    tap, mac, host, value = dice.name().strip("ä")[:7] or "t", dice.mac(), dice.host(2), dice.host(2)
    element = NftElement("inet", "sources4", (f'"{tap}"', mac, host), dice.choice(["", value]))
    key = tap.encode().ljust(16, b"\0") + bytes.fromhex(mac.replace(":", "")) + bytes(2) + IPv4Address(host).packed
    packed = IPv4Address(value).packed if element.value else b""
    assert nft._change_elements(socket, [(element, False), (element, True)])
    begin, delete, add, end = kernel.sent
    for data, kind in ((begin, 16), (end, 17)):
        assert data[4:6] == struct.pack("=H", kind) and data[16:] == struct.pack("!BBH", 0, 0, 10)
    for data, kind, flags, attrs in (
        (delete, 0x0A0E, REQUEST, element_attrs(key)),
        (add, 0x0A0C, REQUEST | CREATE | ACK, element_attrs(key, packed)),
    ):
        header, fields, found = decoded(nft_set_elem_list_msg, data)
        assert (header["type"], header["flags"]) == (kind, flags)
        assert fields == nfgen(1) and comparable(found) == comparable(attrs)
    kernel.answers = [(nft_set_elem_list_msg, 0x0A0C, nfgen(1), element_attrs(key, packed))]
    assert nft._read_element(socket, element) == element


FORWARDED = (
    (
        NftElement("inet", "forward4", ("198.51.100.2", "tcp", "8080"), "10.9.0.5 . 80"),
        "c6336402 06000000 1f900000",
        "",
        "0a090005 00500000",
    ),
    (
        NftElement("inet", "forward6", ("2001:db8::2", "sctp", "1"), "fd00::5 . 65535"),
        "20010db8000000000000000000000002 84000000 00010000",
        "",
        "fd000000000000000000000000000005 ffff0000",
    ),
    (
        NftElement("inet", "ranges4", ("198.51.100.2", "udp", "9000-9010"), "10.9.0.5"),
        "c6336402 11000000 23280000",
        "c6336402 11000000 23320000",
        "0a090005",
    ),
    (
        NftElement("inet", "ranges6", ("2001:db8::2", "udp", "1-65535"), "fd00::5"),
        "20010db8000000000000000000000002 11000000 00010000",
        "20010db8000000000000000000000002 11000000 ffff0000",
        "fd000000000000000000000000000005",
    ),
)


@pytest.mark.parametrize("element, key, end, value", FORWARDED)
def test_forwarded_ports(kernel, element, key, end, value):
    """The bytes are those of libnftables; tests/netns/test_forward.py has the kernel compare them."""
    socket = netlink.Socket(netlink.NETLINK_NETFILTER)
    items: list[tuple[str, object]] = [("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", bytes.fromhex(key))]})]
    items += [("NFTA_SET_ELEM_DATA", {"attrs": [("NFTA_DATA_VALUE", bytes.fromhex(value))]})]
    there = wire.attributes(nft._encoded(element), 4)
    inner = wire.attributes(wire.attributes(there[nft.LIST_ELEMENTS])[1])
    data = {number: wire.attributes(inner[number])[1] for number in inner}
    assert data == {1: bytes.fromhex(key), 2: bytes.fromhex(value)} | ({10: bytes.fromhex(end)} if end else {})
    assert (there[1], there[2]) == (b"vmnet-forward\0", element.set.encode() + b"\0")
    if not end:
        # pyroute2 does not know the end of an interval.
        kernel.answers = [(nft_set_elem_list_msg, 0x0A0C, nfgen(1), answer_of(element, items))]
        assert nft._read_element(socket, element) == element
    assert nft._value_of(element.set, bytes.fromhex(value)) == element.value


def answer_of(element: NftElement, items: list[tuple[str, object]]) -> list[tuple[str, object]]:
    names = [("NFTA_SET_ELEM_LIST_TABLE", "vmnet-forward"), ("NFTA_SET_ELEM_LIST_SET", element.set)]
    return [*names, ("NFTA_SET_ELEM_LIST_ELEMENTS", [{"attrs": items}])]


def comparable(attrs: Any) -> Any:
    """Attributes whose bytes may have been decoded as text in hexadecimal, by some versions."""
    if isinstance(attrs, dict):
        return comparable(attrs["attrs"])
    if isinstance(attrs, list | tuple):
        return [comparable(one) for one in attrs]
    return attrs.hex(":") if isinstance(attrs, bytes) else attrs


def test_an_nft_table(kernel):
    socket = netlink.Socket(netlink.NETLINK_NETFILTER)
    told = []
    socket.dump = lambda kind, body: (
        told.append((kind, body))
        or {
            0x0A07: [rule("vmnet", "guard"), rule("vmnet", "guard"), rule("other", "guard")],
            0x0A04: [chain("vmnet", "guard"), chain("vmnet", "ways"), chain("other", "more")],
        }[kind]
    )

    def rule(table: str, name: str) -> bytes:
        return encoded(nft_rule_msg, 0x0A06, 0, 1, nfgen(1), [("NFTA_RULE_TABLE", table), ("NFTA_RULE_CHAIN", name)])[16:]

    def chain(table: str, name: str) -> bytes:
        return encoded(nft_chain_msg, 0x0A03, 0, 1, nfgen(1), [("NFTA_CHAIN_TABLE", table), ("NFTA_CHAIN_NAME", name)])[16:]

    kernel.answers = [(nft_table_msg, 0x0A00, nfgen(1), [("NFTA_TABLE_NAME", "vmnet")])]
    found = nft.read_table(socket, INET)
    said(kernel, nft_table_msg, 0x0A01, 0, nfgen(1), [("NFTA_TABLE_NAME", "vmnet")])
    assert found.rules == (("guard", 2), ("ways", 0)) and found.version == ""
    rules, chains = told
    assert rules == (0x0A07, encoded(nft_rule_msg, 0, 0, 0, nfgen(1), [("NFTA_RULE_TABLE", "vmnet")])[16:])
    assert chains == (0x0A04, struct.pack("!BBH", 1, 0, 0))


@each_seed
@pytest.mark.parametrize("family", [2, 10])
def test_tracked_connections(kernel, dice, monkeypatch, family):
    """Each end of each tuple is asked for, and what has the address there is deleted by its tuple, ID and zone."""
    monkeypatch.setattr(conntrack, "_is_tracking", lambda: True)
    host, number, zone = dice.host(family), dice.number(), dice.choice([0, 7])
    peer = "2001:db8::99" if family == 10 else "192.0.2.99"
    version = "V4" if family == 2 else "V6"
    ip = {"attrs": [(f"CTA_IP_{version}_SRC", host), (f"CTA_IP_{version}_DST", peer)]}
    proto = {"attrs": [("CTA_PROTO_NUM", 17), ("CTA_PROTO_SRC_PORT", 53), ("CTA_PROTO_DST_PORT", 1024)]}
    original = ("CTA_TUPLE_ORIG", {"attrs": [("CTA_TUPLE_IP", ip), ("CTA_TUPLE_PROTO", proto)]})
    same = [("CTA_ID", number), *([("CTA_ZONE", zone)] if zone else [])]
    entry = (nfct_msg, 0x100, nfgen(family), [original, ("CTA_STATUS", 8), *same])
    # A kernel that does not filter answers with others' too.
    other = {"attrs": [(f"CTA_IP_{version}_SRC", peer), (f"CTA_IP_{version}_DST", peer)]}
    others = (nfct_msg, 0x100, nfgen(family), [("CTA_TUPLE_ORIG", {"attrs": [("CTA_TUPLE_IP", other)]}), ("CTA_ID", 1)])
    kernel.answers = [others, entry]
    assert conntrack.forget([host]) == 1
    first, delete, *rest = [decoded(nfct_msg, data) for data in kernel.sent]
    asked = [first, *rest]
    assert [header["type"] for header, _, _ in asked] == [0x101] * 4
    assert {header["flags"] for header, _, _ in asked} == {REQUEST | DUMP}
    expected = []
    for which, orig, reply in (("ORIG", 1, 0), ("ORIG", 2, 0), ("REPLY", 0, 1), ("REPLY", 0, 2)):
        end = "SRC" if 1 in (orig, reply) else "DST"
        match = (f"CTA_TUPLE_{which}", [("CTA_TUPLE_IP", [(f"CTA_IP_{version}_{end}", host)])])
        expected.append([match, ("CTA_FILTER", [("CTA_FILTER_ORIG_FLAGS", orig), ("CTA_FILTER_REPLY_FLAGS", reply)])])
    assert [attrs for _, _, attrs in asked] == expected
    header, fields, attrs = delete
    assert (header["type"], header["flags"], fields) == (0x102, REQUEST | ACK, nfgen(family))
    assert attrs == [(original[0], plain(original[1])), *same]
