"""A guest is a client unless it has a role: what only servers, routers and queriers send stays at its port, and so does what the
host's own bridge would send. Frames of one guest, as another guest on the bridge sees them.

liar eth0 == tap1 -- br0 or br9 -- tap2 == eth0 victim
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from lab import frames
from lab.bridged import ANYCAST, BESIDE, STRICT, guests, of_kind, takes_over
from lab.domains import Interface, domain_toml, domain_xml
from lab.frames import advertisement, arp, ip4, ip6, router_advertisement, solicitation, tagged, udp6
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.offload import eui64
from lab.roles import (
    ALL6,
    DESTINATION_OPTIONS,
    EVERYTHING,
    GW4,
    GW6,
    LL,
    MAC,
    MARK,
    OF_ROLE,
    OPEN,
    OTHER4,
    OWN4,
    OWN6,
    ROLES,
    VICTIM,
    expected,
    names,
    passed,
    plain,
    summed,
    udp,
    vrrp4,
)
from lab.routed import eventually, send
from lab.single import LAN, PUBLIC, Single, routed
from lab.xenhost import XenHost, offline, online


def as_gateway(mac: str, link_local: str) -> dict[str, bytes]:
    """What only the host sends, with its MAC on the bridge and the link-local address that this makes."""
    other = arp(2, MAC, GW4, GW4)
    return {
        "gateway's ARP": arp(1, MAC, GW4, OTHER4),
        "gateway's ARP reply": other,
        "gateway's ARP, IEEE 802": other[:14] + b"\0\6" + other[16:],
        "gateway's ARP behind two priority tags": tagged(tagged(other, 0), 0),
        "gateway's ARP, priority-tagged": tagged(other, 0),
        "gateway's IPv4": ip4(MAC, GW4, "224.0.0.1", 17, udp(9, 9)),
        "gateway's IPv6": udp6(ALL6, MAC, GW6, "ff02::1", 9),
        "gateway's link-local": udp6(ALL6, MAC, link_local, "ff02::1", 9),
        "gateway's RA": router_advertisement(MAC, link_local),
        "gateway's solicitation": solicitation(MAC, GW6, "2001:db8:7::99"),
        "gateway's advertisement": advertisement(MAC, GW6, GW6),
        "gateway's, advertised from the own address": advertisement(MAC, OWN6, GW6),
        "gateway's link-local, advertised": advertisement(MAC, LL, link_local),
        "gateway's, advertised behind options": frames.extended(advertisement(MAC, LL, GW6), DESTINATION_OPTIONS),
        "gateway's, advertised in a fragment": frames.extended(advertisement(MAC, LL, GW6), frames.fragment(0, True)),
        "gateway's, probed for": solicitation(MAC, "::", GW6, lladdr=False),
        "gateway's MAC": ip4(mac, OWN4, "224.0.0.1", 17, udp(10, 9)),
        "gateway's MAC, unknown EtherType": frames.ethernet(frames.BROADCAST, mac, 0x88B5, bytes(46)),
    }


@pytest.fixture(scope="module")
def one():
    with Single(LAN) as single:
        plain(single.host)
        yield single


@pytest.fixture(scope="module", params=["the host's own", "anycast"])
def beside(request):
    config = ANYCAST if request.param == "anycast" else BESIDE
    with Single(config, foreign=False) as single:
        plain(single.host)
        takes_over(single)
        yield single


def test_behinddiffer():
    assert len({frame.rstrip(b"\0") for frame in EVERYTHING.values()}) == len(EVERYTHING) > 50


@pytest.mark.parametrize("roles", [None, *([role] for role in ROLES), ROLES], ids=lambda roles: "+".join(roles or ["client"]))
@pytest.mark.parametrize("kind", ["addressed", "MAC alone"])
def test_roles(one, tmp_path, kind, roles):
    one.host.config(LAN + STRICT)
    with guests(one, of_kind(kind, roles=roles)) as (liar, victim):
        assert passed(liar, victim, EVERYTHING, tmp_path) == expected(roles or (), kind == "addressed")


def test_unfiltered(one, tmp_path):
    one.host.config(LAN + 'reach_host = "all"\n')
    with guests(one, of_kind("unfiltered")) as (liar, victim):
        assert passed(liar, victim, EVERYTHING, tmp_path) == set(EVERYTHING)
        assert "table bridge" not in one.host.sh("nft list tables")


def test_of_the_network_and_of_the_guest(one, tmp_path):
    """A guest that says nothing has its network's roles; one that names roles, even none, has these."""
    one.host.config(LAN + 'roles = ["querier"]\n')
    for roles, found in ((None, ["querier"]), ((), []), (["router"], ["router"])):
        with guests(one, of_kind("addressed", roles=roles)) as (liar, victim):
            assert passed(liar, victim, EVERYTHING, tmp_path) == expected(found, True)


def test_roles_of_a_running_guest(one, tmp_path):
    """An edit is a difference, which `repair` applies; `status` shows the roles."""
    one.host.config(LAN)
    nic = of_kind("addressed")
    with wired(one.host, "tap1", "liar", Nic(MAC)) as liar, wired(one.host, "tap2", "victim", Nic(VICTIM)) as victim:
        one.host.run("ip link set tap2 master br0")
        one.host.path("/etc/vmnet-hooks/domains.d").mkdir(exist_ok=True)
        file = one.host.path("/etc/vmnet-hooks/domains.d/dom.toml")
        file.write_text(domain_toml(nic))
        done = one.host.cli("start", "dom")
        assert done.returncode == 0, done
        assert passed(liar, victim, EVERYTHING, tmp_path) == expected((), True)
        for roles in (["router", "querier"], []):
            file.write_text(domain_toml(Interface(MAC, "tap1", "lan", (OWN4, OWN6), "br0", roles=roles)))
            checked = one.host.cli("check")
            assert f"its roles are to be {', '.join(roles) or 'client'}" in checked.stdout, checked
            assert one.host.cli("repair", "dom").returncode == 0 and one.host.cli("check").returncode == 0
            assert passed(liar, victim, EVERYTHING, tmp_path) == expected(roles, True)
        file.unlink()
        one.host.cli("stop", "dom")


@pytest.mark.parametrize("kind", ["addressed", "MAC alone"])
def test_a_guest_that_runs_since_an_older_version(one, tmp_path, kind):
    """It sends what it did, until `repair` or its next start: only routers were kept down, on guests with addresses."""
    one.host.config(LAN + STRICT)
    with guests(one, of_kind(kind)) as (liar, victim):
        for name in ("clients", *(["vrrp4"] if kind == "addressed" else ())):
            one.host.run(f"nft flush set bridge vmnet {name}")
        through = passed(liar, victim, EVERYTHING, tmp_path)
        assert {name for name in names("dhcp-server") | names("querier") | names("own") | names("foreign")} <= through
        assert kind == "addressed" or through == set(EVERYTHING)
        checked = one.host.cli("check")
        assert 'nft bridge clients "tap1"' in checked.stdout, checked
        assert one.host.cli("repair").returncode == 0 and one.host.cli("check").returncode == 0
        assert passed(liar, victim, EVERYTHING, tmp_path) == expected((), kind == "addressed")


def test_behind_a_tag(one, tmp_path):
    """A NIC with tagged VLANs, which only a VLAN-aware bridge gives, and a MAC-only one: behind one tag, the same rules."""
    one.host.config(LAN + STRICT)
    behind = {f"{role}: {name}": tagged(frame, 5) for role, found in OF_ROLE.items() for name, frame in found.items()}
    for kind in ("addressed", "MAC alone"):
        with guests(one, of_kind(kind)) as (liar, victim):
            if kind == "addressed":
                one.host.sh("nft add element bridge vmnet tagged '{ \"tap1\" }'")
            assert passed(liar, victim, behind, tmp_path) == set()
        with guests(one, of_kind(kind, roles=["dhcp-server"])) as (liar, victim):
            if kind == "addressed":
                one.host.sh("nft add element bridge vmnet tagged '{ \"tap1\" }'")
            assert passed(liar, victim, behind, tmp_path) == {name for name in behind if "DHCP" in name}


@pytest.mark.parametrize("kind", ["addressed", "MAC alone", "unfiltered"])
def test_beside_the_gateway(beside, tmp_path, kind):
    """Whatever a guest's filter and roles are, it can't speak for the bridge."""
    file = beside.host.path("/etc/vmnet-hooks/vmnet.toml")
    config = file.read_text().removesuffix(STRICT)
    beside.host.config(config + (STRICT if kind == "MAC alone" else ""))
    for mac in set(beside.host.sh("cat /sys/class/net/br9*/address").split()):
        octets = bytes.fromhex(mac.replace(":", ""))
        lladdr = IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:])
        wanted = as_gateway(mac, str(lladdr))
        for roles in (None, ROLES):
            with guests(beside, of_kind(kind, "br9", roles)) as (liar, victim):
                through = passed(liar, victim, {**wanted, **EVERYTHING}, tmp_path)
            # The shared gateway answers that one (test_anycast.py); a guest with addresses probes for its own alone.
            answered = {"gateway's, probed for"} if "anycast" in config and kind != "addressed" else set()
            assert through & set(wanted) == answered
            assert (
                through - answered
                == (set(EVERYTHING) if kind == "unfiltered" else expected(roles or (), kind == "addressed")) - BLIND
            )


BLIND = {
    *(f"open: {name}" for name in OPEN if "priority tag" in name),
    "hidden: first fragment without ICMPv6's type",
}
"""What could hide a word of the gateway's."""


@pytest.mark.parametrize("prefixes", [["0.0.0.0/0", "::/0"], ["10.7.0.0/24", "2001:db8:7::/64"]])
def test_prefixes_that_hold_the_gateway(beside, tmp_path, prefixes):
    wanted = as_gateway("02:00:00:00:00:01", "fe80::1")
    unheld = ("link-local", "RA", "MAC", "probed")
    wanted = {name: frame for name, frame in wanted.items() if not any(word in name for word in unheld)}
    with guests(beside, Interface(MAC, "tap1", "lan", (OWN4, OWN6, *prefixes), "br9")) as (liar, victim):
        assert passed(liar, victim, wanted, tmp_path) == set()


@pytest.mark.parametrize("address", [GW4, GW6])
def test_the_gateway_is_no_guests(beside, address):
    nic = Interface(MAC, "tap1", "lan", (address,), "br9")
    before = beside.state()
    with wired(beside.host, "tap1", "liar", Nic(MAC)):
        done = beside.host.hook("dom", "start", "begin", domain_xml("dom", nic, stage="start"))
    line = f"{address} is bridges.br9's own; choose another address"
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.strip().splitlines()) == 1, done
    assert eventually(lambda: beside.state() == before)


def test_the_gateways_mac_is_no_guests(beside):
    mac = beside.host.run("cat /sys/class/net/br9/address").stdout.strip()
    nic = Interface(mac, "tap1", "lan", (OWN4,), "br9")
    with wired(beside.host, "tap1", "liar", Nic(MAC)):
        done = beside.host.hook("dom", "start", "begin", domain_xml("dom", nic, stage="start"))
    assert done.returncode == 2 and "its MAC is that of bridges.br9" in done.stderr, done
    assert len(done.stderr.strip().splitlines()) == 1


def test_guests_that_share_an_address(one, tmp_path):
    """keepalived in two guests: both have the address, and advertise it in turns."""
    one.host.config(LAN)
    first = Interface(MAC, "tap1", "lan", (OWN4, OTHER4), "br0")
    second = Interface(VICTIM, "tap2", "lan", ("10.7.0.17", OTHER4), "br0")
    with wired(one.host, "tap1", "liar", Nic(MAC)) as liar, wired(one.host, "tap2", "victim", Nic(VICTIM)) as victim:
        one.start("dom1", first)
        one.start("dom2", second)
        wanted = {"VRRP": vrrp4(OTHER4), "VRRPv3": vrrp4(OTHER4, 3), "ARP": arp(2, MAC, OTHER4, OTHER4), "own": vrrp4(OWN4)}
        strange = {"of another": vrrp4("10.7.0.17"), "of none": vrrp4("10.7.0.99")}
        assert passed(liar, victim, {**wanted, **strange}, tmp_path) == set(wanted)
        one.stop("dom2", second)
        one.stop("dom1", first)


@pytest.mark.parametrize("ip", ["10.7.0.16", ""])
def test_xen(tmp_path, ip):
    """A vif of Xen's with addresses is filtered; what its settings leave out (roles), domains.d and the network say."""
    with XenHost(LAN + ("" if ip else STRICT)) as one, wired(one.host, "tap2", "victim", Nic(VICTIM)) as victim:
        plain(one.host)
        one.host.run("ip link set tap2 master br0")
        vif = one.vif(5, script="vmnet-vif-bridge", bridge="br0", mac=MAC, **({"ip": f"{ip} {OWN6}"} if ip else {}))
        for roles in ((), ("router",)):
            one.host.config(LAN + ("" if ip else STRICT) + f"roles = {list(roles)}\n".replace("'", '"'))
            online(vif)
            assert passed(vif.guest, victim, EVERYTHING, tmp_path) == expected(roles, bool(ip))
            if not roles:
                assert one.host.cli("stop", vif.name).returncode == 0
        offline(vif)


# --- routed guests -------------------------------------------------------------------------------------------------------

HOST_MAC, FROM, TO = "fe:ff:ff:ff:ff:ff", routed(10, "tap1"), routed(20, "tap2")
FORWARDED = {
    "dhcp-server": {"DHCPv4": (17, udp(67, 68)), "DHCPv6": (17, udp(547, 546))},
    "router": {
        "ICMP redirect": (1, summed(struct.pack("!BBHI", 5, 1, 0, 0) + bytes(28))),
        "PIM register": (103, b"\x21" + bytes(19)),
        "VRRP": (112, vrrp4(FROM.ips[0])[34:]),
    },
    "querier": {"IGMP query": (2, summed(struct.pack("!BBHI", 0x11, 100, 0, 0)))},
    "": {"DNS": (17, udp(53, 68)), "IGMP report": (2, summed(struct.pack("!BBHI", 0x16, 0, 0, 0)))},
}
"""What a routed guest can send to another machine through the host: unicast alone. The host forwards no multicast and nothing
that is link-local (router advertisements, redirects of IPv6, MLD, answers of DHCPv6 to a client without an address), and ignores
router advertisements and redirects of IPv6 on a tap. Unicast answers of DHCP, redirects of IPv4, IGMP and PIM do go on."""


def test_routed(tmp_path):
    with Single(PUBLIC) as one:
        for roles in ((), *((role,) for role in ROLES)):
            nic = Interface(FROM.mac, FROM.tap, "public", FROM.ips, roles=roles)
            configs = [Nic(each.mac, each.ips[0], 24, "192.0.2.1", each.ips[1], "2001:db8::1") for each in (FROM, TO)]
            with wired(one.host, "tap1", "liar", configs[0]) as liar, wired(one.host, "tap2", "victim", configs[1]) as victim:
                one.start("dom1", nic)
                one.start("dom2", TO)
                assert forwarded(liar, victim, tmp_path) == {name for role in ("", *roles) for name in FORWARDED[role]}, roles
                one.stop("dom2", TO)
                one.stop("dom1", nic)


def forwarded(sender: Node, receiver: Node, path: Path) -> set[str]:
    """Which of FORWARDED arrive; each carries its number."""
    pcap = path / "forwarded.pcap"
    pcap.unlink(missing_ok=True)
    sniffer = receiver.popen(
        ["tcpdump", "-Z", "root", "-U", "-i", "eth0", "-Q", "in", "--immediate-mode", "-w", str(pcap)], stderr=-1
    )
    for line in sniffer.stderr:
        if "listening on" in line:
            break
    found = [(name, proto, payload) for of in FORWARDED.values() for name, (proto, payload) in of.items()]
    wanted = {name: (proto, payload + f"number {number:03}".encode()) for number, (name, proto, payload) in enumerate(found)}
    sent = []
    for name, (proto, payload) in wanted.items():
        if name == "DHCPv6":
            sent.append(ip6(HOST_MAC, FROM.mac, FROM.ips[1], TO.ips[1], proto, payload, 6))
        else:
            sent.append(ip4(FROM.mac, FROM.ips[0], TO.ips[0], proto, payload, dst_mac=HOST_MAC))
    send(sender, "eth0", *sent, ip4(FROM.mac, FROM.ips[0], TO.ips[0], 17, udp(9, 9) + MARK, dst_mac=HOST_MAC))
    assert eventually(lambda: pcap.exists() and MARK in pcap.read_bytes())
    sniffer.terminate()
    sniffer.wait()
    data = pcap.read_bytes()
    return {name for name, (_, payload) in wanted.items() if payload[-10:] in data}


def test_what_a_bridge_has_taken_over(tmp_path):
    """The host's addresses, which a bridge adopts, are its own as those that are declared for it."""
    config = '[bridges.br9]\nports = ["lan0"]\nadopt = "lan0"\nmcast_snooping = false\n' + LAN.replace("br0", "br9")
    with Single(config, foreign=False) as one:
        plain(one.host)
        one.host.sh(
            f"ip link set lan0 nomaster; ip link del br0; ip addr add {GW4}/24 dev lan0; ip -6 addr add {GW6}/64 dev lan0"
        )
        one.peer.sh("ip addr add 10.7.0.250/24 dev lan0; ip -6 addr add 2001:db8:7::250/64 dev lan0 nodad")
        done = one.host.cli("up")
        assert done.returncode == 0, done.stderr
        mac = one.host.run("cat /sys/class/net/br9/address").stdout.strip()
        link_local = f"fe80::{eui64(mac)}"
        with guests(one, of_kind("unfiltered", "br9")) as (liar, victim):
            assert passed(liar, victim, as_gateway(mac, link_local), tmp_path) == set()
        for nic in (Interface(MAC, "tap1", "lan", (GW4,), "br9"), Interface(mac, "tap1", "lan", (OWN4,), "br9")):
            with wired(one.host, "tap1", "liar", Nic(MAC)):
                refused = one.host.hook("dom1", "start", "begin", domain_xml("dom1", nic, stage="start"))
                assert refused.returncode and "bridges.br9" in refused.stderr, refused
