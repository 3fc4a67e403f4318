"""Notifications as a kernel (6.18, x86-64) sent them, byte for byte, and what they make suspect."""

import errno
import socket
import struct
import threading

import pytest

from vmnet_hooks.kernel import netlink, wire
from vmnet_hooks.kernel.monitor import nftables, proxies, rtnetlink, senders, table_cache
from vmnet_hooks.kernel.monitor.suspects import Suspects
from vmnet_hooks.model.ruleset import ARP, INET

UP0 = 3
ME, NFT = 4711, 0x2F7A


class Fed:
    """A socket that has been sent these datagrams; None is what did not fit."""

    def __init__(self, *_arguments, **_options):
        self.queue: list[bytes | None] = []

    def tell(self, *datagrams: str | bytes | None) -> None:
        self.queue += [bytes.fromhex(data) if isinstance(data, str) else data for data in datagrams]

    def waiting(self):
        waiting, self.queue = self.queue, []
        yield from waiting

    def close(self) -> None: ...


def message(kind: int, payload: bytes, flags: int = 0, port: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 0, port) + payload


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust(-(-len(value) // 4) * 4, b"\0")


def link(
    index: int,
    name: str,
    flags: int = 0x11043,
    mtu: int = 1500,
    master: int = 0,
    mac: bytes = b"\2\0\0\0\0\1",
    kind: int = 16,
    family: int = 0,
    port: int = 0,
) -> bytes:
    payload = struct.pack("=BxHiII", family, 1, index, flags, 0) + attribute(3, name.encode() + b"\0")
    payload += attribute(4, struct.pack("=I", mtu)) + attribute(1, mac)
    return message(kind, payload + (attribute(10, struct.pack("=I", master)) if master else b""), port=port)


def known(*links: bytes) -> dict:
    """What a dump of these links makes known."""
    return {found.index: found for found in (wire.link_of(data[16:]) for data in links)}


@pytest.fixture(autouse=True)
def ports(monkeypatch):
    """The port of this process, of whatever protocol; how often it was looked for."""
    looked: list[int] = []
    monkeypatch.setattr(senders, "_ports", lambda protocol: looked.append(protocol) or iter([ME]))
    return looked


@pytest.fixture
def links(monkeypatch):
    monkeypatch.setattr(rtnetlink, "Socket", Fed)
    monkeypatch.setattr(rtnetlink, "_links", lambda: known(link(UP0, "up0"), link(7, "tap1")))
    return rtnetlink.RtnetlinkMonitor()


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setattr(nftables, "Socket", Fed)
    return nftables.NftMonitor()


TOLD = {
    "route": (
        "3c000000190000004c9a016b4f2f000002200000de56fd010000000008000f00de00000008000100c000020b08000600070000000800040003000000",
        Suspects({"route 222 192.0.2.11/32 metric 7"}),
    ),
    "route of another": (
        "34000000190000004c9a016b572f000002200000de03fd010000000008000f00de00000008000100c000020c0800040001000000",
        Suspects(),
    ),
    "route added": (
        "3c000000180000064c9a016b4e2f000002200000de56fd010000000008000f00de00000008000100c000020b08000600070000000800040003000000",
        Suspects(),
    ),
    "route replaced by another's": (
        "34000000180000014c9a016b562f000002200000de03fd010000000008000f00de00000008000100c000020c0800040001000000",
        Suspects({"route 222 192.0.2.12/32"}),
    ),
    "IPv6 route": (
        "74000000190000004c9a016b512f00000a800000de5600010000000008000f00de0000001400010020010db8000000000000000000000011080006000"
        "0040000080004000300000024000c000000000000000000000000000000000000000000000000000000000000000000",
        Suspects({"route 222 2001:db8::11/128"}),
    ),
    "rule from": (
        "44000000210000004c9a016b5b2f000002001800de0000010000000008000f00de00000008000e00ffffffff050015005600000008000600f05500000800"
        "0200c0000200",
        Suspects({"rule 22000 from 192.0.2.0/24 222"}),
    ),
    "rule to": (
        "44000000210000004c9a016b5c2f000002180000de0000010000000008000f00de00000008000e00ffffffff050015005600000008000600f05500000800"
        "0100c0000200",
        Suspects({"rule 22000 to 192.0.2.0/24 222"}),
    ),
    "IPv6 rule": (
        "50000000210000004c9a016b5e2f00000a004000de0000010000000008000f00de00000008000e00ffffffff050015005600000008000600f05500001400"
        "020020010db8000000000000000000000000",
        Suspects({"rule 22000 from 2001:db8::/64 222"}),
    ),
    "rule added": (
        "44000000200000004c9a016b592f000002001800de0000010000000008000f00de00000008000e00ffffffff050015005600000008000600f05500000800"
        "0200c0000200",
        Suspects(),
    ),
    "neighbour": (
        "400000001d000000000000000000000002000000030000002000000108000100c000020b080004000000000014000300000000000000000000000000"
        "00000000",
        Suspects({"neigh up0 192.0.2.11"}),
    ),
    "neighbour added, or given another MAC": (
        "4c0000001c00000000000000602f000002000000030000008000000108000100c000020b0a000200525400aa000b00000800040000000000140003000"
        "0000000000000000000000001000000",
        Suspects({"neigh up0 192.0.2.11"}),
    ),
    "neighbour permanent no more": (
        "400000001c00000000000000612f000002000000030000002000000108000100c000020b080004000000000014000300000000000000000000000000"
        "01000000",
        Suspects({"neigh up0 192.0.2.11"}),
    ),
    "MAC of a guest at a port": (
        "4c0000001d00000000000000000000000700000003000000400000000a0002000200000000990000080009000400000008000f0000000000140003000"
        "0000000000000000000000000000000",
        Suspects({"port-mac up0 02:00:00:00:00:99"}),
    ),
    "MAC of a guest at a port, sticky no more": (
        "4c0000001c00000000000000000000000700000003000000400000000a0002000200000000990000080009000400000008000f0000000000140003000"
        "0000000000000000000000000000000",
        Suspects({"port-mac up0 02:00:00:00:00:99"}),
    ),
    "MAC learnt": (
        "4c0000001c00000000000000000000000700000003000000020000000a0002000200000000990000080009000400000008000f0000000000140003000"
        "0000000000000000000000000000000",
        Suspects(),
    ),
    "entry of a bridge": (
        "4c0000001d00000000000000000000000700000003000000800000000a0002000200000000990000080009000400000008000f0000000000140003000"
        "0000000000000000000000000000000",
        Suspects({"fdb up0 02:00:00:00:00:99"}),
    ),
    "address": (
        "4c000000150000004c9a016b6c2f00000218800003000000080001000a000001080002000a0000010800030075703000080008008000000014000600"
        "ffffffffffffffff7eef3f007eef3f00",
        Suspects(links={"up0"}),
    ),
    "setting of a device": (
        "240000005000000000000000000000000200000008000100030000000800020000000000",
        Suspects({"sysctl net/ipv4/conf/up0/forwarding"}),
    ),
    "setting of all": (
        "240000005000000000000000000000000a00000008000100ffffffff0800020001000000",
        Suspects({"sysctl net/ipv6/conf/all/forwarding"}),
    ),
    "setting of the default": ("240000005000000000000000000000000a00000008000100feffffff0800020001000000", Suspects()),
}


@pytest.mark.parametrize("told", TOLD)
def test_what_is_told(links, told):
    data, expected = TOLD[told]
    links._socket.tell(data)
    assert links.drain() == expected
    assert bool(expected) == (expected != Suspects())


def test_links_that_change(links):
    def told(*data: bytes) -> Suspects:
        links._socket.tell(*data)
        return links.drain()

    assert told(link(UP0, "up0")) == Suspects(), "as it was"
    assert told(link(UP0, "up0", flags=0x1002)) == Suspects(), "down: nothing can be done"
    assert told(link(UP0, "up0", flags=0x1003)) == Suspects(links={"up0"}), "up, without a carrier"
    assert told(link(UP0, "up0")) == Suspects(links={"up0"}), "the carrier"
    assert told(link(UP0, "up0", mtu=1400)) == Suspects({"link up0 mtu"})
    assert told(link(UP0, "up0", mtu=1400, master=9)) == Suspects(links={"up0"})
    assert told(link(UP0, "up0", mtu=1400, master=9, mac=b"\2\0\0\0\0\2")) == Suspects({"link up0 address", "link up0 lladdr"})
    assert told(link(9, "new")) == Suspects(links={"new"}, made={"new"})
    assert told(link(7, "", family=socket.AF_UNSPEC + 7)) == Suspects(links={"tap1"}), "of a bridge's port"
    assert told(link(7, "tap1", kind=17, family=7)) == Suspects(links={"tap1"}), "it left the bridge"
    assert told(link(9, "other")) == Suspects(links={"new", "other"}, gone={(9, "new")}, made={"other"}), "renamed"
    assert told(link(7, "tap1", kind=17)) == Suspects(links={"tap1"}, gone={(7, "tap1")})
    address = TOLD["address"][0].replace("1880000300", "1880000700", 1)
    assert told(bytes.fromhex(address)) == Suspects(), "of a link that nobody knows any more"


def test_many_at_once_are_one(links):
    links._socket.tell(TOLD["rule from"][0] + TOLD["rule to"][0], TOLD["neighbour"][0])
    found = links.drain()
    assert found.keys == {"rule 22000 from 192.0.2.0/24 222", "rule 22000 to 192.0.2.0/24 222", "neigh up0 192.0.2.11"}
    assert not links.drain(), "told once"


def test_what_did_not_fit_makes_everything_suspect(links, monkeypatch):
    monkeypatch.setattr(rtnetlink, "_links", lambda: known(link(UP0, "renamed")))
    links._socket.tell(TOLD["rule from"][0], None)
    assert links.drain().everything
    links._socket.tell(TOLD["neighbour"][0])
    assert links.drain() == Suspects({"neigh renamed 192.0.2.11"}), "the links were looked at again"


def test_cut_off_messages(links):
    """Nothing is read beyond the end."""
    whole = bytes.fromhex(TOLD["route"][0])
    for length in range(16, len(whole), 4):
        head = struct.pack("=I", length)
        try:
            list(netlink.messages(head + whole[4:length]))
            wire.attributes(whole[28:length])
        except struct.error:
            pytest.fail(f"{length} bytes")
    assert list(netlink.messages(struct.pack("=IHHII", 4, 16, 0, 0, 0))) == []


FLUSHED_SET = (
    "5c0000000e0a0000000000007a2f0000010000040a000100766d6e65740000000d000200736f757263657334000000002c00030028000100240001002000"
    "010074617031000000000000000000000000525400aa000b0000c000020b5c0000000e0a0000000000007a2f0000010000040a000100766d6e657400"
    "00000d000200736f757263657334000000002c00030028000100240001002000010074617032000000000000000000000000525400aa000c0000c000020c"
)
NEWGEN = "2c0000000f0a0000010000007a2f00000000000408000100000000040800020000002f7a080003006e667400"
SNAT = (
    "780000000e0a0000000000007c2f0000010000050a000100766d6e65740000000a000200736e6174340000004c000300480001001c000100180001000a00"
    "0000757030000000000000000000000000001c000a00180001000affffff757030000000000000000000000000000c00020008000100c0000201"
)
ADDED = (
    "4c0000000c0a0004000000007e2f0000010000060a000100766d6e65740000000c0002006775617264656400200003001c000100180001001400010074617031"
    "000000000000000000000000"
)
FLUSHED_CHAIN = (
    "c0000000080a000001000000802f0000010000070a000100766d6e65740000000a00020067756172640000000c00030000000000000000058800040024000100"
    "090001006d657461000000001400020008000200000000060800010000000001300001000b0001006c6f6f6b75700000200002000c000100677561726465640008"
    "000200000000010800050000000000300001000e000100696d6d6564696174650000001c0002000800010000000000100002000c0002000800010000000000"
)
OTHER_TABLE = (
    "3c000000000a000001000000842f0000010000080a0001006f7468657200000008000300000000000c00040000000000000000020800020000000000"
)
PORT_TABLE = (
    "40000000000a000001000000872f0000050000090e000100766d6e65742d75703000000008000300000000000c000400000000000000000308000200000"
    "00000"
)
FLUSHED = (
    "380000000b0a000001000000892f00000100000a0a000100766d6e65740000000c00020067756172646564000c00100000000000000000023c0000000b0a0000"
    "01000000892f00000100000a0a000100766d6e65740000000d000200736f757263657334000000000c0010000000000000000003380000000b0a00000100"
    "0000892f00000100000a0a000100766d6e65740000000a000200736e6174340000000c001000000000000000000438000000050a000001000000892f0000"
    "0100000a0a000100766d6e65740000000a00030067756172640000000c000200000000000000000134000000020a000001000000892f00000100000a0a00"
    "0100766d6e657400000008000300000000000c000400000000000000000134000000020a000001000000892f00000100000a0a0001006f746865720000000800"
    "0300000000000c000400000000000000000238000000020a000001000000892f00000500000a0e000100766d6e65742d7570300000000800030000000000"
    "0c0004000000000000000003"
)


def by(port: int, data: str) -> bytes:
    """The same, done through another socket."""
    whole, offset = bytearray.fromhex(data), 0
    while offset < len(whole):
        struct.pack_into("=I", whole, offset + 12, port)
        offset += struct.unpack_from("=I", whole, offset)[0]
    return bytes(whole)


def test_tables(tables):
    def told(*data: str | bytes) -> Suspects:
        tables._socket.tell(*data, NEWGEN)
        return tables.drain()

    assert told(FLUSHED_SET) == Suspects(starts={'nft inet sources4 "tap1"', 'nft inet sources4 "tap2"'})
    assert told(SNAT) == Suspects(starts={"nft inet snat4 "})
    moved = bytes.fromhex(SNAT).replace(b"\x0a\0\1\0vmnet\0\0\0", b"\x0e\0\1\0vmnet-nat\0\0\0")
    moved = struct.pack("=I", len(moved)) + moved[4:]
    assert told(moved) == Suspects(starts={"nft inet snat4 "})
    assert told(ADDED) == Suspects()
    assert told(FLUSHED_CHAIN) == Suspects({"nft inet"}, tampered={"nft inet"})
    assert told(OTHER_TABLE) == Suspects()
    assert told(PORT_TABLE) == Suspects({"nft netdev vmnet-up0"}), "made anew: by one of us"
    flushed = {"nft inet", "nft netdev vmnet-up0"}
    assert told(FLUSHED) == Suspects(flushed, tampered=flushed)
    for data in (FLUSHED_SET, FLUSHED_CHAIN, FLUSHED):
        assert told(by(ME, data)) == Suspects(), "our own doing"
    tables._socket.tell(None)
    assert tables.drain().everything


def test_names_of_tables(tables):
    """The agent's own tables, which no record knows, are nobody's damage."""
    for name, family, key in (
        ("vmnet", 3, "nft arp"),
        ("vmnet", 7, "nft bridge"),
        ("vmnet-nat", 1, "nft inet vmnet-nat"),
        ("vmnet", 2, ""),
        ("vmnet_keeper", 1, ""),
        ("vmnet-keeper", 5, "nft netdev vmnet-keeper"),
        ("vmnets", 1, ""),
    ):
        payload = struct.pack("=BBH", family, 0, 0) + attribute(1, name.encode() + b"\0")
        tables._socket.tell(message(0x0A02, payload, port=NFT))
        assert tables.drain().keys == ({key} if key else set()), name


def test_our_own_doing_is_no_damage(links):
    """But a link is known from then on, whoever made it."""
    for data in (data for data, expected in TOLD.values() if expected):
        links._socket.tell(by(ME, data))
        assert links.drain() == Suspects(), data
    links._socket.tell(link(9, "ours", port=ME), by(NFT, TOLD["address"][0].replace("1880000300", "1880000900", 1)))
    assert "ours" in links.drain().links


def test_senders_are_looked_for_once(links, ports):
    for _ in range(3):
        links._socket.tell(by(NFT, TOLD["rule from"][0]), by(ME, TOLD["rule to"][0]), TOLD["setting of a device"][0])
        assert links.drain().keys == {"rule 22000 from 192.0.2.0/24 222", "sysctl net/ipv4/conf/up0/forwarding"}
    assert len(ports) == 1


PORTS = senders._ports


def test_ports_are_those_of_this_process():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as mine:
        mine.bind((0, 0))
        port = mine.getsockname()[0]
        assert port in set(PORTS(12)) and port not in set(PORTS(0))
    assert port not in set(PORTS(12))


@pytest.fixture
def cache(monkeypatch):
    monkeypatch.setattr(table_cache, "Socket", Fed)
    return table_cache.TableCache()


def test_cache_holds_until_the_table_is_touched(cache):
    assert cache.known(INET) is None
    cache.learned(INET, INET)
    assert cache.known(INET) == INET
    assert cache.known(ARP) is None, "another table"
    cache._socket.tell(FLUSHED_SET, SNAT, ADDED, OTHER_TABLE, NEWGEN)
    assert cache.known(INET) == INET, "elements are not the table"
    cache._socket.tell(FLUSHED_CHAIN)
    assert cache.known(INET) is None
    assert cache.known(INET) is None
    cache.learned(INET, INET)
    cache._socket.tell(None)
    assert cache.known(INET) is None, "what was lost may have been anything"


@pytest.mark.parametrize("data", [FLUSHED_CHAIN, FLUSHED, None], ids=["chain", "all", "lost"])
def test_cache_does_not_learn_what_was_old_when_it_was_read(cache, data):
    assert cache.known(INET) is None
    cache._socket.tell(data)
    cache.learned(INET, INET)
    assert cache.known(INET) is None
    cache.learned(INET, INET)
    assert cache.known(INET) == INET, "read again since"


def test_cache_of_two_threads(cache):
    """One asks before a change and reads before it too, the other after: only the other one knows."""
    assert cache.known(INET) is None
    cache._socket.tell(FLUSHED_CHAIN)
    other = threading.Thread(target=lambda: (cache.known(INET), cache.known(ARP)))
    other.start()
    other.join()
    cache.learned(INET, INET)
    assert cache.known(INET) is None


def test_proxies(monkeypatch):
    def entry(address: str, index: int = 2, flags: int = 8) -> bytes:
        payload = struct.pack("=BxxxiHBB", 10, index, 0, flags, 0) + attribute(1, socket.inet_pton(socket.AF_INET6, address))
        return payload

    there = [entry("2001:db8::1"), entry("2001:db8::2"), entry("2001:db8::4", index=9)]
    asked = []
    monkeypatch.setattr(netlink.Socket, "dump", lambda *words: asked.append(words[1:]) or list(there))
    names = {2: "up0"}

    def named(index: int) -> str:
        if index not in names:
            raise OSError(errno.ENXIO, "no such interface")
        return names[index]

    monkeypatch.setattr(proxies, "if_indextoname", named)
    watched = proxies.ProxyMonitor()
    try:
        assert not watched.changed()
        there.append(entry("2001:db8::3"))
        assert not watched.changed(), "what is new is nobody's damage"
        del there[0]
        assert watched.changed() == Suspects({"proxy up0 2001:db8::1"})
        assert not watched.changed() and len(asked) == 5
        del there[1]
        assert not watched.changed(), "it went with its link"
        assert set(asked) == {(30, struct.pack("=BxxxiHBB", 0, 0, 0, 8, 0))}
    finally:
        watched.close()
