"""Guests send from any address of their prefixes, whatever the prefixes' lengths, and from no address beside them.

bridged: guest eth0 == lan-tap16 -- br0 -- lan0 == lan0 peer       hostroute: guest eth0 == tap16 -- eth9 == eth9 peer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from lab.domains import Interface
from lab.frames import advertisement, arp, solicitation, udp4, udp6
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.routed import eventually, send
from lab.single import LAN, Single, same
from test_antispoof import packets, passed

from vmnet_hooks.values import LINK_LOCAL, eui64

MAC, OTHER, PEER, TAP_MAC = "52:54:00:bb:00:10", "52:54:00:bb:00:99", "02:00:00:00:06:01", "fe:ff:ff:ff:ff:ff"
OUT4, OUT6 = "10.7.0.1", "2001:db8:7::1"
HOSTING = '\n[networks.hosting]\nmode = "hostroute"\nnetdev = "eth9"\nprobe = false\nlimit_neighbours = false\n'
OWN, HOST, UPSTREAM, UPSTREAM6 = "10.0.1.16", "10.0.1.1", "10.0.1.254", "fd00:1::254"

Net = IPv4Network | IPv6Network


def of_length(length: int, bits: int) -> Net:
    """A prefix that has nothing to do with those of other lengths: the addresses beside it are in none of them."""
    slot, alternating = (20 + 2 * length, 8) if bits == 32 else (0x100 + 2 * length, 12), int("01" * 64, 2)
    number, width = slot
    rest = bits - width
    address = number << rest | alternating & (1 << rest) - 1
    return ip_network((address >> bits - length << bits - length, length))


EVERY4 = [of_length(length, 32) for length in range(8, 32)]
EVERY6 = [of_length(length, 128) for length in range(12, 128)]
MANY = [
    # One holds another, and one goes on where another ends.
    *("10.50.0.0/24", "10.50.0.128/25", "10.50.1.0/24", "2001:db8:50::/64", "2001:db8:50::/80", "2001:db8:50:1::/64"),
    # The same, down to an address alone.
    *("10.60.0.0/30", "10.60.0.4/31", "10.60.0.6", "2001:db8:60::/126", "2001:db8:60::4/127", "2001:db8:60::6"),
    # Their addresses begin alike.
    *("10.70.0.0/28", "10.70.0.128/25", "2001:db8:70::/124", "2001:db8:70:0:8000::/65"),
    *("64.0.0.0/2", "4000::/3"),
]


def edges(prefixes: Iterable[Net]) -> list[str]:
    """The first and the last address of each, and those right beside it."""
    found = []
    for net in prefixes:
        first, last = int(net[0]), int(net[-1])
        found += [
            str(type(net[0])(number)) for number in (first - 1, first, last, last + 1) if 0 < number < 1 << net.max_prefixlen
        ]
    return list(dict.fromkeys(found))


def within(addresses: Iterable[str], ips: Sequence[str]) -> set[str]:
    nets = [ip_network(ip) for ip in ips]
    return {address for address in addresses if any(ip_address(address) in net for net in nets)}


def link_local(mac: str) -> str:
    return str(eui64(LINK_LOCAL, mac))


def from_bridged(mac: str, addresses: Iterable[str]) -> dict[str, bytes]:
    """All that a guest sends with an address in it that the filter looks at."""
    found = {}
    for address in addresses:
        if "." in address:
            found[f"IPv4 {address}"] = udp4(PEER, mac, address, OUT4, 9)
            found[f"ARP {address}"] = arp(1, mac, address, OUT4)
        else:
            found[f"IPv6 {address}"] = udp6(PEER, mac, address, OUT6, 9)
            found[f"solicitation {address}"] = solicitation(mac, address, OUT6)
            found[f"advertisement {address}"] = advertisement(mac, link_local(mac), address)
            found[f"probe {address}"] = solicitation(mac, "::", address, lladdr=False)
    return found


@pytest.fixture(scope="module")
def one():
    with Single(LAN + HOSTING) as single:
        knows_upstream(single.host, "eth9")
        yield single


@contextmanager
def guests(one: Single, *nics: Interface) -> Iterator[list[Node]]:
    before = one.state()
    with ExitStack() as stack:
        nodes = [stack.enter_context(wired(one.host, nic.tap, f"guest{n}", Nic(nic.mac))) for n, nic in enumerate(nics)]
        for nic in nics:
            one.start(f"dom-{nic.tap}", nic)
        yield nodes
        assert one.host.cli("check").returncode == 0
        for nic in nics:
            one.stop(f"dom-{nic.tap}", nic)
    assert eventually(lambda: one.state() == before) or same(before, one.state())


def bridged(*ips: object, mac: str = MAC) -> Interface:
    return Interface(mac, f"lan-tap{int(mac[-2:], 16)}", "lan", tuple(map(str, ips)), "br0")


@pytest.mark.parametrize("every", [EVERY4, EVERY6], ids=["IPv4", "IPv6"])
def test_every_length(one, tmp_path, every):
    addresses = edges(every)
    wanted = from_bridged(MAC, addresses)
    assert len(addresses) == 4 * len(every) and len(wanted) == len(addresses) * (2 if every is EVERY4 else 4)
    with guests(one, bridged(*every)) as (node,):
        assert passed(one, node, wanted, tmp_path) == set(from_bridged(MAC, within(addresses, list(map(str, every)))))


def test_many_of_one_guest(one, tmp_path):
    near = [f"10.60.0.{last}" for last in range(9)] + [f"2001:db8:60::{last:x}" for last in range(9)]
    addresses = list(dict.fromkeys([*edges(map(ip_network, MANY)), *near]))
    inside = within(addresses, MANY)
    assert 20 < len(inside) < len(addresses) - 20
    with guests(one, bridged(*MANY)) as (node,):
        assert passed(one, node, from_bridged(MAC, addresses), tmp_path) == set(from_bridged(MAC, inside))


def test_two_guests(one, tmp_path):
    """None may send from the other's prefix, or from its own with the other's MAC."""
    mine, others = ("10.50.0.0/25", "2001:db8:50::/64"), ("10.50.0.128/26", "2001:db8:50:1::/66")
    addresses = edges(map(ip_network, (*mine, *others)))
    with guests(one, bridged(*mine), bridged(*others, mac=OTHER)) as nodes:
        for node, mac, other, ips in zip(nodes, (MAC, OTHER), (OTHER, MAC), (mine, others), strict=True):
            forged = {f"forged {name}": frame for name, frame in from_bridged(other, addresses).items()}
            wanted = from_bridged(mac, addresses) | forged
            assert passed(one, node, wanted, tmp_path) == set(from_bridged(mac, within(addresses, ips)))
            (tmp_path / "seen.pcap").unlink()


def test_a_prefix_alone_opens_nothing_else(one, tmp_path):
    """The other family stays shut, and so do the addresses of a guest without prefixes."""
    with guests(one, bridged("10.50.0.0/24"), bridged("10.50.1.1", "2001:db8:50::1", mac=OTHER)) as nodes:
        addresses = ["10.50.0.1", "10.50.1.1", "10.50.1.0", "2001:db8:50::1", "2001:db8:50::"]
        for node, mac, inside in zip(nodes, (MAC, OTHER), (["10.50.0.1"], ["10.50.1.1", "2001:db8:50::1"]), strict=True):
            assert passed(one, node, from_bridged(mac, addresses), tmp_path) == set(from_bridged(mac, inside))
            (tmp_path / "seen.pcap").unlink()


# --- by host routes -----------------------------------------------------------------------------------------------------


def seen(node: Node, ifname: str, expression: str, path: Path, act: Callable[[], None], last: bytes) -> set[bytes]:
    """The frames that match, from `act` until one with `last` in it."""
    path.unlink(missing_ok=True)
    argv = ["tcpdump", "-Z", "root", "-U", "-s", "2048", "-i", ifname, "--immediate-mode", "-w", str(path), expression]
    sniffer = node.popen(argv, stderr=-1)
    for line in sniffer.stderr:
        if "listening on" in line:
            break
    act()
    assert eventually(lambda: any(last in frame for frame in packets(path.read_bytes())), 20)
    sniffer.terminate()
    sniffer.wait()
    return {frame.ljust(60, b"\0") for frame in packets(path.read_bytes())}


def knows_upstream(host: Node, dev: str) -> None:
    for address in (UPSTREAM, UPSTREAM6):
        host.run(f"ip neigh replace {address} lladdr 02:00:00:00:08:01 dev {dev} nud permanent")


def routed_on(
    one: Single, node: Node, mac: str, addresses: Sequence[str], path: Path, last: tuple[str, str] = (MAC, OWN)
) -> set[str]:
    """The addresses from which packets of the guest's come out of the host; `last` is the guest's MAC and address."""
    found = [
        udp4(TAP_MAC, mac, address, UPSTREAM, 9) if "." in address else udp6(TAP_MAC, mac, address, UPSTREAM6, 9)
        for address in addresses
    ]
    found.append(udp4(TAP_MAC, *last, UPSTREAM, 9))
    came = seen(one.peer, "eth9", "udp port 9", path, lambda: send(node, "eth0", *found), ip_address(last[1]).packed)
    sources = {frame[26:30] if frame[12:14] == b"\x08\0" else frame[22:38] for frame in came}
    return {str(ip_address(source)) for source in sources} - {last[1]}


def answered(node: Node, mac: str, addresses: Sequence[str], path: Path) -> set[str]:
    """The addresses that the host answers when the guest asks for its gateway by ARP."""
    asked = [arp(1, sender, address, HOST) for sender, address in [*((mac, address) for address in addresses), (MAC, OWN)]]
    came = seen(node, "eth0", "arp[6:2] == 2", path, lambda: send(node, "eth0", *asked), ip_address(OWN).packed)
    return {str(ip_address(frame[38:42])) for frame in came} - {OWN}


@pytest.mark.parametrize("which", ["every length", "many of one guest", "forged MAC"])
def test_by_host_routes(one, tmp_path, which):
    ips = (
        [ip for ip in MANY if not ip.endswith(("/2", "/3"))]
        if which == "many of one guest"
        else [*map(str, EVERY4), *map(str, EVERY6)]
    )
    addresses = edges(map(ip_network, ips))
    mac, inside = (OTHER, set()) if which == "forged MAC" else (MAC, within(addresses, ips))
    with guests(one, Interface(MAC, "tap16", "hosting", (OWN, *ips))) as (node,):
        # That of the filter alone is to be seen.
        one.host.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
        assert routed_on(one, node, mac, addresses, tmp_path / "seen.pcap") == inside
        four = [address for address in addresses if "." in address]
        assert answered(node, mac, four, tmp_path / "asked.pcap") == inside & set(four)
        one.host.sh("echo 1 > /proc/sys/net/ipv4/conf/tap16/rp_filter")
