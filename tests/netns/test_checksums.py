"""What a guest leaves to the host to compute is computed before its filter judges the frame. A virtio-net header may name any
place of the frame for a checksum, and two bytes of the frame make that sum what the guest wants: so what the filter has approved
could leave the host as another frame.

    liar eth0 == lan-tap16 -- br0 -- lan0 == lan0 peer        bridged
    liar eth0 == tap10 ------ host - up0  == eth0 outside     routed

The liar is a namespace with a veth pair (PACKET_VNET_HDR), or a program with a real tap (IFF_VNET_HDR), as QEMU has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address

import pytest
from lab import offload
from lab.agent import Agent
from lab.domains import Interface
from lab.frames import checksum, ethernet, extended, udp4, udp6
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.offload import Liar, Listener
from lab.routed import eventually
from lab.single import LAN, PUBLIC, Single, routed

MAC, PEER, LL = "52:54:00:bb:00:10", "02:00:00:00:06:01", "fe80::5054:ff:febb:10"
OWN4, OWN6, GATEWAY4, GATEWAY6 = "10.7.0.16", "2001:db8:7::16", "10.7.0.1", "2001:db8:7::1"
TAP = "lan-tap16"
NIC = Interface(MAC, TAP, "lan", [OWN4, OWN6], "br0")
TAG = bytes.fromhex("81000000")
"""Of priority 0, and no VLAN."""


LIES = offload.lies(MAC, PEER, (OWN4, OWN6), (GATEWAY4, GATEWAY6))
SENTINEL = udp4(PEER, MAC, OWN4, "10.7.0.99", 7777)
"""A frame that passes: what was sent before it would have come by then."""


def like_a_cheap_host(host: Node, uplink: str) -> None:
    """A NIC that computes no checksums itself, and a bridge whose frames iptables does not see, which drops broken IPv4."""
    offload.tx_checksum(host, uplink, False)
    for family in ("ip", "ip6", "arp"):
        path = f"/proc/sys/net/bridge/bridge-nf-call-{family}tables"
        host.sh(f"[ ! -e {path} ] || echo 0 > {path}")


@contextmanager
def liar(host: Node, tap: str, how: str, mac: str = MAC) -> Iterator[Liar]:
    if how == "tap":
        found = Liar(host, tap, "tap")
        try:
            yield found
        finally:
            found.close()
        return
    with wired(host, tap, "liar", Nic(mac)) as node:
        found = Liar(node, "eth0")
        try:
            yield found
        finally:
            found.close()


def came(sender: Liar, listener: Listener, lie: offload.Lie, sentinel: bytes = SENTINEL) -> tuple[bool, bool]:
    """Whether the frame that is to leave does, sent as it is, and made by a checksum."""
    sent, wanted = offload.forged(*lie)
    found = []
    for argv in ((wanted,), (sent, lie.start, lie.at - lie.start)):
        del listener.frames[:]
        sender.send(*argv)
        sender.send(sentinel)
        assert listener.has(sentinel), "the host passes on what it should"
        found.append(listener.has(wanted, 0.1))
    return found[0], found[1]


@pytest.fixture(scope="module", params=["veth", "tap"])
def how(request):
    return request.param


@pytest.fixture(scope="module")
def bridged(how):
    with Single(LAN, foreign=False) as one, liar(one.host, TAP, how) as sender, Listener(one.peer, "lan0") as listener:
        like_a_cheap_host(one.host, "lan0")
        one.start("dom1", NIC)
        yield one, sender, listener
        one.stop("dom1", NIC)


@pytest.mark.parametrize("tag", [b"", TAG], ids=["plain", "tagged"])
@pytest.mark.parametrize("what", LIES)
def test_no_lie_leaves_a_bridge(bridged, what, tag):
    _, sender, listener = bridged
    assert came(sender, listener, LIES[what].behind(tag)) == (False, False)


def test_without_it_they_leave(how):
    """`trusted` leaves all of it as it was: the lies above are such."""
    with Single(LAN + 'checksums = "trusted"\n', foreign=False) as one, liar(one.host, TAP, how) as sender:
        like_a_cheap_host(one.host, "lan0")
        one.start("dom1", NIC)
        with Listener(one.peer, "lan0") as listener:
            assert {what: came(sender, listener, lie) for what, lie in LIES.items()} == {what: (False, True) for what in LIES}
        assert "vmnet-ifb" not in one.host.run("ip -br link").stdout
        one.stop("dom1", NIC)


def segments(source: str, size: int, proto: int = 17, flags: int = 0x4000) -> bytes:
    """A frame with an IPv4 payload of `size` bytes, as a guest's driver gives it."""
    head = bytes.fromhex("4500") + (size + 20).to_bytes(2, "big") + b"\0\1" + flags.to_bytes(2, "big") + bytes([64, proto])
    head += b"\0\0" + IPv4Address(source).packed + IPv4Address("10.7.0.77").packed
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    ports = (4444).to_bytes(2, "big") + (9).to_bytes(2, "big")
    body = ports + (size.to_bytes(2, "big") + b"\0\0" if proto == 17 else bytes(8) + b"\x50\x10" + bytes(6))
    return ethernet(PEER, MAC, 0x0800, head + body.ljust(size, b"x"))


def ipv4(listener: Listener) -> list[bytes]:
    return [frame for frame in list(listener.frames) if frame[12:14] == b"\x08\0"]


def test_segments(bridged):
    """Segments whose checksum is another than that of their protocol leave as nothing that the filter has not judged; those of
    an honest guest do, cut to size."""
    _, sender, listener = bridged
    for gso, proto in ((offload.UDP_L4, 17), (offload.TCPV4, 6)):
        head = 42 if proto == 17 else 54
        for size in (3000, 12000):
            frame = segments(OWN4, size, proto)
            for start, at in ((26, 28), (14, 28), (20, 28)):
                sender.send(frame, start, at - start, gso, 1000, head)
            del listener.frames[:]
            said = sender.send(frame, 34, 6 if proto == 17 else 16, gso, 1000, head)
            if gso == offload.UDP_L4 and said.startswith("refused"):
                # Before Linux 6.2, a tap takes none.
                continue
            assert said == "sent"
            assert eventually(lambda size=size: sum(map(len, ipv4(listener))) >= size), (gso, size)
            assert {str(IPv4Address(f[26:30])) for f in ipv4(listener)} == {OWN4}


def test_frames_longer_than_the_mtu(bridged):
    """A guest may make a frame of any length, which is no segment: it leaves nowhere."""
    _, sender, listener = bridged
    for size in (3000, 12000):
        for flags in (0x4000, 0):
            del listener.frames[:]
            sender.send(segments(OWN4, size, 6, flags), 26, 2)
            sender.send(SENTINEL)
            assert listener.has(SENTINEL)
            assert not [f for f in listener.frames if f[26:28] == IPv4Address(OWN4).packed[:2] and len(f) > 100]


def test_an_honest_checksum_is_finished(bridged):
    _, sender, listener = bridged
    frame = udp4(PEER, MAC, OWN4, GATEWAY4, 9)
    pseudo = IPv4Address(OWN4).packed + IPv4Address(GATEWAY4).packed + b"\0\x11" + frame[38:40]
    left, finished = offload.unfinished(frame, 34, 40, pseudo)
    assert sender.send(left, 34, 6) == "sent"
    assert listener.has(finished)


def test_a_port_without_its_chain_is_closed(bridged):
    """An unfinished frame is dropped by the filter, and `repair` opens the port again."""
    one, sender, listener = bridged
    one.host.run(f"nft delete chain netdev vmnet port-{TAP}")
    del listener.frames[:]
    sender.send(SENTINEL)
    assert not listener.has(SENTINEL, 0.3)
    found = one.host.cli("check")
    assert found.returncode == 1 and f'nft netdev ports "{TAP}"' in found.stdout
    assert one.host.cli("repair").returncode == 0
    sender.send(SENTINEL)
    assert listener.has(SENTINEL)
    assert one.host.cli("check").returncode == 0


@pytest.mark.parametrize(
    "damage",
    [
        "ip link del vmnet-ifb",
        "ip link set vmnet-ifb down",
        f"nft flush chain netdev vmnet port-{TAP}",
        "nft delete table netdev vmnet",
        "nft flush chain netdev vmnet checked",
        f"ip link set dev {TAP} type bridge_slave guard off",
    ],
)
def test_damage(bridged, damage):
    one, sender, listener = bridged
    one.host.run(damage)
    found = one.host.cli("check")
    assert found.returncode == 1, found.stdout
    lie = LIES["IPv4"]
    sent, wanted = offload.forged(*lie)
    del listener.frames[:]
    sender.send(sent, lie.start, lie.at - lie.start)
    assert not listener.has(wanted, 0.2)
    assert one.host.cli("repair").returncode == 0
    assert one.host.cli("check").returncode == 0
    assert came(sender, listener, lie) == (False, False)


def test_the_offload_of_the_ifb_switched_on(bridged):
    """The one damage that opens something: `check` tells."""
    one, sender, listener = bridged
    offload.tx_checksum(one.host, "vmnet-ifb", True)
    found = one.host.cli("check")
    assert found.returncode == 1 and "tx is on" in found.stdout
    assert one.host.cli("repair").returncode == 0
    assert came(sender, listener, LIES["redirect"]) == (False, False)


@pytest.fixture
def router(how):
    nic = routed(10, "tap10")
    with Single(PUBLIC, foreign=False) as one, liar(one.host, "tap10", how, nic.mac) as sender:
        one.segment.plug(one.peer, "wire0", "02:00:00:00:00:99")
        one.peer.sh("ip link set wire0 up promisc on")
        like_a_cheap_host(one.host, "up0")
        one.start("dom1", nic)
        yield one, sender, nic
        one.stop("dom1", nic)


def lies_of(nic: Interface, gateway: str) -> dict[str, offload.Lie]:
    """What a routed guest tells: from another's address, to the host's MAC."""
    own4, own6 = IPv4Address(nic.ips[0]).packed[2:], IPv6Address(nic.ips[1]).packed[-2:]
    return {
        "IPv4": offload.Lie(udp4(gateway, nic.mac, "192.0.2.99", "198.51.100.9", 9), 26, 28, own4, 44),
        "IPv6": offload.Lie(
            extended(udp6(gateway, nic.mac, "2001:db8::99", "2001:db8:1::9", 9), offload.OPTIONS), 22, 36, own6, 58
        ),
    }


def test_no_lie_leaves_a_router(router):
    one, sender, nic = router
    tap_mac = "fe:ff:ff:ff:ff:ff"
    for address, mac in (("192.0.2.1", PEER), ("2001:db8::1", PEER)):
        one.host.run(f"ip neigh replace {address} lladdr {mac} dev up0 nud permanent")
    sentinel = udp4(tap_mac, nic.mac, nic.ips[0], "198.51.100.9", 7777)
    with Listener(one.peer, "wire0") as listener:

        def from_(address: str) -> list[bytes]:
            packed = (IPv4Address if "." in address else IPv6Address)(address).packed
            return [f for f in list(listener.frames) if packed in (f[26:30], f[22:38])]

        for what, lie in lies_of(nic, tap_mac).items():
            sent, _ = offload.forged(*lie)
            for argv in ((sent, lie.start, lie.at - lie.start), (segments(nic.ips[0], 3000, 6, 0), 26, 2)):
                del listener.frames[:]
                sender.send(*argv)
                sender.send(sentinel)
                assert eventually(lambda: from_(nic.ips[0])), "the host forwards what it should"
                other = "192.0.2.99" if what == "IPv4" else "2001:db8::99"
                assert not from_(other), what


@pytest.mark.parametrize("damage", ["ip link del vmnet-ifb", f"nft delete chain netdev vmnet port-{TAP}", "nft flush ruleset"])
def test_the_agent_opens_the_port_again(damage):
    """Meanwhile the filter lets nothing pass."""
    with Single(LAN, foreign=False) as one, liar(one.host, TAP, "veth") as sender, Listener(one.peer, "lan0") as listener:
        like_a_cheap_host(one.host, "lan0")
        with Agent(one.host):
            one.start("dom1", NIC)
            one.host.run(damage)
            assert eventually(lambda: sender.send(SENTINEL) and listener.has(SENTINEL, 0.2), 10)
            assert eventually(lambda: one.host.cli("check").returncode == 0, 10)
            assert came(sender, listener, LIES["IPv4"]) == (False, False)
            one.stop("dom1", NIC)
