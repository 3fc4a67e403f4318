"""Bridged guests send from their own MAC and addresses, or not at all: real frames, seen (or not) behind the bridge.

liar eth0 == lan-tap16 -- br0 -- lan0 == lan0 peer
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import frames
from lab.domains import Interface, domain_xml
from lab.frames import advertisement, arp, ethernet, icmp6, rarp, router_advertisement, solicitation, tagged, udp4, udp6
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.routed import eventually, ping, send
from lab.single import LAN, Single, same

MAC, OTHER, PEER = "52:54:00:bb:00:10", "52:54:00:bb:00:99", "02:00:00:00:06:01"
TAP = "lan-tap16"
OWN4, IN4, OUT4 = "10.7.0.16", "10.99.0.77", "10.7.0.1"
OWN6, IN6, OUT6 = "2001:db8:7::16", "2001:db8:7:1::77", "2001:db8:7::1"
LL, OUT_LL = "fe80::5054:ff:febb:10", "fe80::5054:ff:febb:99"
IPS = (OWN4, "10.99.0.0/24", OWN6, "2001:db8:7:1::/64")
ALL = "33:33:00:00:00:01"
# Of a payload that is fragmented after 8 octets: the first fragment of a router advertisement ends within an extension.
DESTINATION_OPTIONS = 60, bytes([0, 1, 4, 0, 0, 0, 0])
MLD2 = struct.pack("!HH", 0, 1) + struct.pack("!BBH", 4, 0, 0) + bytes.fromhex("ff0200000000000000000001ffbb0010")
ROUTER_ALERT = 0, bytes([0, 5, 2, 0, 0, 1, 0])


def redirect(src: str) -> bytes:
    return icmp6(MAC, src, 137, bytes(36))


def nothing(src: str) -> bytes:
    """An IPv6 header that says ICMPv6, and nothing behind it."""
    frame = frames.ip6(ALL, MAC, src, "ff02::1", 58, b"", 0)[:54]
    return frame[:18] + b"\0\0" + frame[20:]


def mine(ip4: str = "", ip6: str = "") -> dict[str, bytes]:
    """What a guest sends of itself, from an IPv4 and an IPv6 address."""
    found = {}
    if ip4:
        found |= {
            f"IPv4 {ip4}": udp4(PEER, MAC, ip4, OUT4, 9),
            f"ARP request {ip4}": arp(1, MAC, ip4, OUT4),
            f"ARP reply {ip4}": arp(2, MAC, ip4, OUT4, dst=PEER, target_mac=PEER),
            f"ARP announcement {ip4}": arp(2, MAC, ip4, ip4),
        }
    if ip6:
        found |= {
            f"IPv6 {ip6}": udp6(PEER, MAC, ip6, OUT6, 9),
            f"solicitation {ip6}": solicitation(MAC, ip6, OUT6),
            f"advertisement {ip6}": advertisement(MAC, ip6, ip6),
            f"DAD probe {ip6}": solicitation(MAC, "::", ip6, lladdr=False),
        }
    return found


ADDRESSED = {
    # What any guest needs.
    "ARP probe": arp(1, MAC, "0.0.0.0", OWN4),
    "DHCP": udp4(frames.BROADCAST, MAC, "0.0.0.0", "255.255.255.255", 67, 68),
    "router solicitation": icmp6(MAC, LL, 133, bytes(4)),
    "MLD before there is an address": frames.extended(icmp6(MAC, "::", 143, MLD2, "ff02::16"), ROUTER_ALERT),
    "MLD": frames.extended(icmp6(MAC, LL, 143, MLD2, "ff02::16"), ROUTER_ALERT),
    "link-local advertises a global address": advertisement(MAC, LL, OWN6),
    "QEMU's announcement": rarp(MAC),
    "echo request": icmp6(MAC, OWN6, 128),
    "first fragment": frames.extended(icmp6(MAC, OWN6, 128), frames.fragment(0, True)),
    "later fragment": frames.extended(icmp6(MAC, OWN6, 0), frames.fragment(3, False)),
    "later fragment, UDP": frames.extended(udp6(PEER, MAC, OWN6, OUT6, 10), frames.fragment(3, False)),
    **mine(ip4=OWN4, ip6=OWN6),
    **mine(ip4=IN4, ip6=IN6),
    **mine(ip6=LL),
}
FORGED = {
    "MAC, IPv4": udp4(PEER, OTHER, OWN4, OUT4, 9),
    "MAC, IPv6": udp6(PEER, OTHER, OWN6, OUT6, 9),
    "MAC, ARP": arp(1, OTHER, OWN4, OUT4),
    "MAC, DHCP": udp4(frames.BROADCAST, OTHER, "0.0.0.0", "255.255.255.255", 67, 68),
    "MAC, DAD probe": solicitation(OTHER, "::", OWN6, lladdr=False),
    "MAC, RARP": rarp(OTHER),
    "MAC, unknown ethertype": ethernet(PEER, OTHER, 0x88B5, bytes(46)),
    "ARP's sender MAC": arp(1, OTHER, OWN4, OUT4, src=MAC),
    "ARP's sender MAC, reply": arp(2, OTHER, OWN4, OUT4, dst=PEER, src=MAC, target_mac=PEER),
    "ARP's sender MAC, tagged": tagged(arp(1, OTHER, OWN4, OUT4, src=MAC), 5),
}
"""Never let through, with addresses or without."""
STRANGE = {
    **{f"forged {name}": frame for name, frame in mine(ip4=OUT4, ip6=OUT6).items()},
    **{f"beside the prefix {name}": frame for name, frame in mine(ip4="10.99.1.1", ip6="2001:db8:7:2::1").items()},
    **{f"forged {name}": frame for name, frame in mine(ip6=OUT_LL).items()},
    "ARP reply of 0.0.0.0": arp(2, MAC, "0.0.0.0", OUT4, dst=PEER, target_mac=PEER),
    "0.0.0.0, other ports": udp4(frames.BROADCAST, MAC, "0.0.0.0", "255.255.255.255", 68, 67),
    "0.0.0.0, not DHCP's server": udp4(frames.BROADCAST, MAC, "0.0.0.0", "255.255.255.255", 69, 68),
    ":: with UDP": udp6(PEER, MAC, "::", OUT6, 9),
    ":: with an echo request": icmp6(MAC, "::", 128),
    ":: with a router solicitation": icmp6(MAC, "::", 133, bytes(4)),
    ":: advertises": advertisement(MAC, "::", OWN6),
    "another's address advertised": advertisement(MAC, OWN6, OUT6),
    "another's address advertised, link-local": advertisement(MAC, LL, OUT_LL),
    "own address advertised by another": advertisement(MAC, OUT6, OWN6),
    "router advertisement": router_advertisement(MAC, LL, "2001:db8:7::"),
    "router advertisement, global": router_advertisement(MAC, OWN6),
    "router advertisement, behind options": frames.extended(router_advertisement(MAC, LL), DESTINATION_OPTIONS),
    "router advertisement, fragmented": frames.extended(router_advertisement(MAC, LL), frames.fragment(0, True)),
    "first fragment without the ICMPv6 type": frames.extended(nothing(LL), frames.fragment(0, True), DESTINATION_OPTIONS),
    "later fragment that goes on with extensions": frames.extended(
        udp6(ALL, MAC, LL, "ff02::1", 9), frames.fragment(1, False), DESTINATION_OPTIONS
    ),
    "redirect": redirect(LL),
    "redirect, global": redirect(OWN6),
    "RARP with an address": rarp(MAC, OUT4),
    "RARP reply": rarp(MAC, op=4),
    "tagged IPv4": tagged(udp4(PEER, MAC, OWN4, OUT4, 9), 5),
    "tagged ARP": tagged(arp(1, MAC, OWN4, OUT4), 5),
    "tagged IPv6": tagged(udp6(PEER, MAC, OWN6, OUT6, 9), 5),
    "priority-tagged": tagged(udp4(PEER, MAC, OWN4, OUT4, 11), 0),
    "802.1ad": tagged(udp4(PEER, MAC, OWN4, OUT4, 9), 5, 0x88A8),
    "tagged twice": tagged(tagged(udp4(PEER, MAC, OWN4, OUT4, 9), 6), 5),
    "unknown ethertype": ethernet(PEER, MAC, 0x88B5, bytes(46)),
    "802.3 with LLC": frames.mac_bytes(PEER) + frames.mac_bytes(MAC) + struct.pack("!H", 46) + b"\xaa\xaa\x03" + bytes(43),
}
"""From a guest with addresses: not let through."""
OF_ROLES = {
    *(name for name in STRANGE if name.startswith(("router advertisement", "redirect"))),
    "first fragment without the ICMPv6 type",
    "later fragment that goes on with extensions",
    "0.0.0.0, other ports",
    "tagged twice",
}
"""What a guest without addresses needs a role for, or what could hide that: see test_guest_roles.py."""
EVERYTHING = ADDRESSED | FORGED | STRANGE
MARK = b"the last frame"


@contextmanager
def guest(one: Single, ips: Sequence[str] = (), filter: bool = True, bare: bool = False) -> Iterator[tuple[Interface, Node]]:
    """The guest, started; `bare` is one that its bridge alone claims."""
    nic = Interface(MAC, TAP, "" if bare else "lan", ips, "br0", filter)
    with wired(one.host, TAP, "liar", Nic(MAC)) as node:
        one.start("dom", nic)
        yield nic, node
        one.stop("dom", nic)


def passed(one: Single, node: Node, wanted: dict[str, bytes], path: Path) -> set[str]:
    """Which of the frames came out of the bridge, at the peer."""
    pcap = path / "seen.pcap"
    sniffer = one.peer.popen(
        ["tcpdump", "-Z", "root", "-U", "-s", "2048", "-i", "lan0", "--immediate-mode", "-w", str(pcap)], stderr=-1
    )
    for line in sniffer.stderr:
        if "listening on" in line:
            break
    send(node, "eth0", *wanted.values())
    # From the host, which no filter holds up: behind it nothing more comes.
    send(one.host, "br0", ethernet(PEER, "02:00:00:00:00:55", 0x88B6, MARK))
    assert eventually(lambda: pcap.exists() and MARK in pcap.read_bytes())
    sniffer.terminate()
    sniffer.wait()
    seen = packets(pcap.read_bytes())
    return {name for name, frame in wanted.items() if frame.rstrip(b"\0") in seen}


def packets(pcap: bytes) -> set[bytes]:
    """Without the padding, which a bridge may take off (br_netfilter)."""
    found, at = set(), 24
    while at + 16 <= len(pcap):
        (length,) = struct.unpack("<I", pcap[at + 8 : at + 12])
        found.add(pcap[at + 16 : at + 16 + length].rstrip(b"\0"))
        at += 16 + length
    return found


@pytest.fixture(scope="module")
def one():
    with Single(LAN) as single:
        yield single


def test_frames_differ():
    assert len({frame.rstrip(b"\0") for frame in EVERYTHING.values()}) == len(EVERYTHING) > 70


def test_addressed(one, tmp_path):
    with guest(one, IPS) as (_, node):
        assert passed(one, node, EVERYTHING, tmp_path) == set(ADDRESSED)
        table = one.host.sh("nft list table bridge vmnet")
        assert table.count("counter packets 0 ") <= table.count("counter packets ") - 6, "what is dropped is counted"


def test_mac_alone(one, tmp_path):
    one.host.config(LAN + "antispoof = true\n")
    try:
        with guest(one, bare=True) as (_, node):
            assert passed(one, node, EVERYTHING, tmp_path) == set(ADDRESSED | STRANGE) - OF_ROLES
    finally:
        one.host.config(LAN)


@pytest.mark.parametrize("how", ["filter off", "antispoof off", "no addresses"])
def test_off(one, tmp_path, how):
    one.host.config(LAN + 'reach_host = "all"\n' + ("antispoof = false\n" if how == "antispoof off" else ""))
    try:
        with guest(one, () if how == "no addresses" else IPS, filter=how != "filter off") as (_, node):
            assert passed(one, node, EVERYTHING, tmp_path) == set(EVERYTHING)
            assert "table bridge" not in one.host.sh("nft list tables")
    finally:
        one.host.config(LAN)


def test_filter_off_although_the_network_is_strict(one, tmp_path):
    one.host.config(LAN + "antispoof = true\n")
    try:
        with guest(one, IPS, filter=False) as (_, node):
            assert passed(one, node, EVERYTHING, tmp_path) == set(EVERYTHING)
    finally:
        one.host.config(LAN)


def test_a_family_without_an_address_is_closed(one, tmp_path):
    with guest(one, [OWN6, "2001:db8:7:1::/64"]) as (_, node):
        through = passed(one, node, EVERYTHING, tmp_path)
        four = {name for name in ADDRESSED if OWN4 in name or IN4 in name}
        assert through == set(ADDRESSED) - four and four
    with guest(one, [OWN4]) as (_, node):
        through = passed(one, node, EVERYTHING, tmp_path)
        assert {name for name in through if LL in name} == set(mine(ip6=LL)) and f"IPv4 {OWN4}" in through
        assert not [name for name in through if OWN6 in name or IN6 in name or IN4 in name or "fragment" in name]


def test_a_family_is_opened(one, tmp_path):
    """`::/0` and `0.0.0.0/0`: any address, but still no router's word, and no other MAC."""
    with guest(one, [OWN4, "0.0.0.0/0", "10.0.0.0/8", "::/0"]) as (_, node):
        through = passed(one, node, EVERYTHING, tmp_path)
    assert set(ADDRESSED) | {f"forged {name}" for name in mine(ip4=OUT4, ip6=OUT6)} <= through
    assert not through & set(FORGED)
    shut = (
        "router advertisement",
        "redirect",
        "tagged",
        "priority",
        "802.",
        "unknown",
        "RARP",
        "first fragment without",
        "later fragment that",
    )
    assert not [name for name in through if name.startswith(shut)]


@pytest.mark.parametrize("how", ["given addresses", "MAC alone", "off"])
def test_no_mac_is_stolen_with_frames_that_no_chain_sees(one, how):
    """Those to 01:80:c2:00:00:0x (LLDP, LACP, STP) go past the filter: the bridge must not learn whom they claim to be of."""
    one.host.config(LAN + {"MAC alone": "antispoof = true\n", "off": 'roles = ["switch"]\n'}.get(how, ""))
    try:
        with guest(one, IPS if how == "given addresses" else (), filter=how != "off") as (_, node):
            for last in (0, 2, 3, 14):
                send(node, "eth0", ethernet(f"01:80:c2:00:00:{last:02x}", f"02:00:00:00:44:{last:02x}", 0x88CC, bytes(46)))
            learned = "02:00:00:00:44:" in one.host.sh("bridge fdb show br br0")
            assert learned == (how == "off"), "else this test shows nothing"
    finally:
        one.host.config(LAN)
    assert "no_linklocal_learn 0 " in one.host.sh("ip -d link show br0")


def test_honest_traffic(one):
    """A guest with its own stack: ARP, ND, DAD, fragments, both ways."""
    one.peer.sh("ip addr add 10.7.0.1/24 dev lan0; ip -6 addr add 2001:db8:7::1/64 dev lan0 nodad")
    nic = Interface(MAC, TAP, "lan", IPS, "br0")
    try:
        with wired(one.host, TAP, "honest", Nic(MAC, OWN4)) as node:
            one.start("dom", nic)
            node.sh(f"echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip -6 addr add {OWN6}/64 dev eth0")
            assert eventually(lambda: ping(node, "10.7.0.1", wait=1) is not None)
            assert eventually(lambda: "tentative" not in node.run("ip -6 addr show dev eth0").stdout)
            assert "dadfailed" not in node.run("ip -6 addr show dev eth0").stdout
            assert eventually(lambda: ping(node, "2001:db8:7::1", wait=1) is not None)
            one.peer.sh("ip neigh flush dev lan0; ip -6 neigh flush dev lan0")
            assert ping(one.peer, OWN4) is not None and ping(one.peer, OWN6) is not None
            for target in ("10.7.0.1", "2001:db8:7::1"):
                node.run(["ping", "-n", "-c", "1", "-W", "2", "-s", "4000", target])
            # Another's address, taken by a real stack.
            node.sh("ip addr add 10.7.0.66/24 dev eth0")
            assert node.run("ping -n -c 1 -W 1 -I 10.7.0.66 10.7.0.1", check=False).returncode != 0
            one.stop("dom", nic)
    finally:
        one.peer.sh("ip addr flush dev lan0 scope global")


def test_gone_with_the_guest(one):
    before = one.state()
    with wired(one.host, TAP, "first", Nic(MAC)), wired(one.host, "lan-tap17", "second", Nic(OTHER)):
        bare = one.state()
        first, second = Interface(MAC, TAP, "lan", IPS, "br0"), Interface(OTHER, "lan-tap17", "lan", [OUT4], "br0")
        one.start("dom", first)
        alone = one.state()
        one.start("dom2", second)
        assert "lan-tap17" in one.host.sh("nft list table bridge vmnet")
        one.stop("dom2", second)
        assert "lan-tap17" not in one.host.sh("nft list table bridge vmnet")
        assert [line for line in alone.splitlines() if "lan-tap17" not in line] == [
            line for line in one.state().splitlines() if "lan-tap17" not in line
        ]
        one.stop("dom", first)
        same(bare, one.state())
    assert eventually(lambda: one.state() == before)


def test_tagged_frames_are_looked_into(one, tmp_path):
    """A NIC with tagged VLANs, which only a VLAN-aware bridge gives: one tag, and behind it the same rules."""
    wanted = {name: tagged(frame, 5) for name, frame in EVERYTHING.items() if "agged" not in name and name != "802.1ad"}
    with guest(one, IPS) as (_, node):
        assert passed(one, node, wanted, tmp_path) == set()
        (tmp_path / "seen.pcap").unlink()
        one.host.sh(f"nft add element bridge vmnet tagged '{{ \"{TAP}\" }}'")
        assert passed(one, node, wanted, tmp_path) == set(ADDRESSED)
        (tmp_path / "seen.pcap").unlink()
        twice = {name: tagged(frame, 6) for name, frame in wanted.items()}
        assert passed(one, node, twice, tmp_path) == set()
        one.host.sh(f"nft delete element bridge vmnet tagged '{{ \"{TAP}\" }}'")


def test_what_lost_records_leave_is_found(one):
    with wired(one.host, TAP, "lost", Nic(MAC)):
        one.start("dom", Interface(MAC, TAP, "lan", IPS, "br0"))
        one.host.sh("rm -f /run/vmnet-hooks/state.db*")
        checked = one.host.cli("check")
        assert checked.returncode == 1 and f"{TAP}: a guest runs on it, and is in no record" in checked.stdout, checked.stdout
        assert one.host.cli("repair").returncode == 1
        assert f'"{TAP}"' in one.host.sh("nft list set bridge vmnet guarded"), "its filter stays"
    # Its tap is gone.
    assert one.host.cli("repair").returncode == 0
    assert "table bridge" not in one.host.sh("nft list tables") and one.host.cli("check").returncode == 0
    one.host.run("ip link set br0 type bridge no_linklocal_learn 0")


DAMAGE = {
    "table deleted": "nft delete table bridge vmnet",
    "chains flushed": "nft flush table bridge vmnet",
    "set flushed": "nft flush set bridge vmnet guarded",
    "prefixes flushed": "nft flush set bridge vmnet blocks4; nft flush set bridge vmnet blocks6",
    "everything": "nft flush ruleset",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(one, tmp_path, damage):
    with guest(one, IPS) as (_, node):
        before = one.host.sh("nft -s list table bridge vmnet")
        one.host.sh(DAMAGE[damage])
        checked = one.host.cli("check")
        assert checked.returncode == 1 and "nft bridge" in checked.stdout, (checked.stdout, checked.stderr)
        done = one.host.cli("repair")
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert one.host.cli("check").returncode == 0
        assert one.host.sh("nft -s list table bridge vmnet") == before
        assert passed(one, node, EVERYTHING, tmp_path) == set(ADDRESSED)


def test_a_table_of_another_version_is_made_anew(one, tmp_path):
    """With every guest's elements: those that run are not let out of it, nor cut off."""
    with guest(one, IPS) as (_, node):
        old = one.host.sh("nft list table bridge vmnet")
        version = next(line for line in old.splitlines() if "vmnet-hooks" in line)
        one.host.write("/tmp/old.nft", old.replace(version, '\tcomment "vmnet-hooks 000000000000"'))
        one.host.sh("nft delete table bridge vmnet; nft -f /tmp/old.nft; nft delete chain bridge vmnet guard")
        second = Interface(OTHER, "lan-tap17", "lan", [OUT4], "br0")
        with wired(one.host, "lan-tap17", "second", Nic(OTHER)):
            one.start("dom2", second)
            now = one.host.sh("nft list table bridge vmnet")
            assert version in now and "chain guard" in now
            assert one.host.cli("check").returncode == 0
            assert passed(one, node, EVERYTHING, tmp_path) == set(ADDRESSED)
            one.stop("dom2", second)


def test_the_filter_is_there_before_the_port_is_up(one):
    with wired(one.host, TAP, "liar", Nic(MAC)):
        one.host.run(f"ip link set {TAP} down")
        nic = Interface(MAC, TAP, "lan", IPS, "br0")
        one.host.write("/tmp/dom.xml", domain_xml("dom", nic, stage="start"))
        planned = one.host.cli("plan", "dom", "--xml", "/tmp/dom.xml").stdout.splitlines()
        filters = [at for at, line in enumerate(planned) if "bridge vmnet" in line]
        joins = [
            at
            for at, line in enumerate(planned)
            if f"ip link set dev {TAP} master" in line or f"ip link set dev {TAP} up" in line
        ]
        assert filters and len(joins) == 2 and max(filters) < min(joins), planned


def test_prefixes_are_shared_and_addresses_are_not(one):
    first, second = (
        Interface(MAC, TAP, "lan", ["10.99.0.0/24"], "br0"),
        Interface(OTHER, "lan-tap17", "lan", ["10.99.0.0/24"], "br0"),
    )
    with wired(one.host, TAP, "first", Nic(MAC)), wired(one.host, "lan-tap17", "second", Nic(OTHER)):
        one.start("dom", first)
        one.start("dom2", second)
        one.stop("dom2", second)
        one.stop("dom", first)


@pytest.mark.parametrize(
    ("ip", "word"),
    [
        ("10.99.0.1/24", "has host bits set"),
        ("224.0.0.1", "can't be a guest's"),
        ("0.0.0.0", "can't be a guest's"),
        ("::1", "can't be a guest's"),
    ],
)
def test_refused(one, ip, word):
    before = one.state()
    one.tap(TAP, MAC)
    done = one.host.hook("dom", "start", "begin", domain_xml("dom", Interface(MAC, TAP, "lan", [ip], "br0"), stage="start"))
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.strip().splitlines()) == 1, done
    one.untap(TAP)
    assert eventually(lambda: one.state() == before)
