"""NAT on one node: guests' addresses are translated on the way out of one interface, and nothing else is.

guest (192.168.77.5, fd77::5) -- guestbr0 -- host -- ext0 == world (203.0.113.2, 2001:db8:f::2)
other (192.168.78.5)          -- otherbr0 --/    \\-- ext1 == world (198.51.100.2)
"""

from __future__ import annotations

import sqlite3
import struct
from contextlib import ExitStack, closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from lab.capture import Capture
from lab.domains import Interface
from lab.frames import checksum, ethernet
from lab.guest import Nic, wired
from lab.hostnet import Product, refusal
from lab.nodes import Node, settled, wire
from lab.routed import call, eventually, ping, reach, send
from lab.single import same

from vmnet_hooks.model.ruleset import NAT
from vmnet_hooks.records import decode, encode

INSIDE = """
[bridges.guestbr0]
addresses = ["192.168.77.1/24", "fd77::1/64"]
[bridges.otherbr0]
addresses = ["192.168.78.1/24"]
forwarding = true
[networks.guests]
mode = "bridged"
bridge = "guestbr0"
[networks.others]
mode = "bridged"
bridge = "otherbr0"
"""
REACHING = INSIDE.replace("[networks.others]", 'reach = ["others", "link:ext1"]\nreach_host = "all"\n[networks.others]')
SNAT = REACHING + '[nat.out4]\nsubnet = "192.168.77.0/24"\nout = "ext0"\nsnat = "203.0.113.7"\n'
MASQUERADE = REACHING + (
    '[nat.out4]\nsubnet = "192.168.77.0/24"\nout = "ext0"\nmasquerade = true\n'
    '[nat.out6]\nsubnet = "fd77::/64"\nout = "ext0"\nmasquerade = true\n'
)
GATE = "192.168.77.1"
OUT4, OUT6, SIDE = "203.0.113.2", "2001:db8:f::2", "198.51.100.2"
# As Docker leaves a host, through iptables-nft: everything that is not a container's is dropped.
DOCKER = """
nft add table ip filter
nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
nft add chain ip filter DOCKER-USER; nft add rule ip filter FORWARD counter jump DOCKER-USER
"""


class Lab:
    """The host before the product has done anything."""

    def __init__(self, config: str):
        self.stack = ExitStack()
        try:
            self.host = host = self.stack.enter_context(Node("host"))
            self.world = world = self.stack.enter_context(Node("world"))
            self.vmnet = Product(host)
            for number in (0, 1):
                wire(host, f"ext{number}", world, f"eth{number}", f"02:00:00:00:0{number}:01", f"02:00:00:00:0{number}:02")
            for node, last in ((host, 1), (world, 2)):
                name = "ext" if node is host else "eth"
                node.sh(f"""
                    for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done
                    ip link set {name}0 up; ip link set {name}1 up
                    ip addr add 203.0.113.{last}/24 dev {name}0; ip -6 addr add 2001:db8:f::{last}/64 dev {name}0 nodad
                    ip addr add 198.51.100.{last}/24 dev {name}1
                """)
            host.run("ip addr add 203.0.113.7/24 dev ext0")
            # The world answers whatever address it sees.
            world.sh("ip route add 192.168.0.0/16 via 203.0.113.1; ip -6 route add fd77::/64 via 2001:db8:f::1")
            host.config(config)
            # The kernel notices carriers late (linkwatch), and only then adds link-local addresses.
            for ifname in ("ext0", "ext1"):
                shown = ["ip", "-6", "addr", "show", "dev", ifname, "-tentative"]
                assert eventually(lambda shown=shown: "fe80::" in host.run(shown).stdout), ifname
            self.before = settled(host)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def up(self) -> None:
        self.vmnet("up")
        self.guest = self.start("guests", 77)
        self.other = self.start("others", 78)

    def start(self, network: str, subnet: int) -> Node:
        nic = Interface(f"52:54:00:00:{subnet}:05", f"tap{subnet}", network)
        stack = Nic(nic.mac, f"192.168.{subnet}.5", 24, f"192.168.{subnet}.1", f"fd{subnet}::5")
        node = self.stack.enter_context(wired(self.host, nic.tap, f"guest{subnet}", stack))
        node.run(f"ip -6 route add default via fd{subnet}::1")
        call(self.host, f"dom{subnet}", "start", nic)
        return node


@pytest.fixture(params=["snat", "masquerade"])
def lab(request):
    with Lab(SNAT if request.param == "snat" else MASQUERADE) as running:
        running.address = "203.0.113.7" if request.param == "snat" else "203.0.113.1"
        running.both = request.param == "masquerade"
        yield running


def test_translated(lab):
    """What the guests' subnet sends out of the interface, and nothing else."""
    lab.up()
    targets = [(lab.guest, OUT4), (lab.guest, SIDE), (lab.other, OUT4)] + ([(lab.guest, OUT6)] if lab.both else [])
    with Capture(lab.world, "eth0", "icmp or icmp6") as seen, Capture(lab.world, "eth1", "icmp") as side:
        assert reach(targets) == []
    assert seen.having(rf"{lab.address} > {OUT4}: ICMP echo request") and not seen.having(r"192\.168\.77\.5 >"), str(seen)
    assert seen.having(rf"192\.168\.78\.5 > {OUT4}: ICMP echo request"), str(seen)
    assert side.having(rf"192\.168\.77\.5 > {SIDE}: ICMP echo request"), str(side)
    if lab.both:
        assert seen.having(rf"2001:db8:f::1 > {OUT6}: .*echo request") and not seen.having(r"fd77::5 >"), str(seen)
    # In from outside it is not translated either.
    with Capture(lab.guest, "eth0", "icmp") as inside:
        assert ping(lab.world, "192.168.77.5") is not None
    assert inside.having(rf"{OUT4} > 192\.168\.77\.5: ICMP echo request"), str(inside)


def test_a_guest_brings_its_nat(lab):
    """After a boot at which vmnet-networks.service failed: nothing is up. It goes with its last guest."""
    lab.vmnet("up")
    lab.host.sh("ip link del guestbr0; ip link del otherbr0; nft flush ruleset; rm -r /run/vmnet-hooks")
    before = settled(lab.host)
    guest, other = lab.start("guests", 77), lab.start("others", 78)
    with Capture(lab.world, "eth0", "icmp or icmp6") as seen:
        assert reach([(guest, OUT4), *([(guest, OUT6)] if lab.both else [])]) == []
    assert seen.having(rf"{lab.address} > {OUT4}: ICMP echo request"), str(seen)
    assert lab.vmnet("check") == "ok\n"
    # Its guest needs it.
    lab.vmnet("up", "out4")
    lab.vmnet("down", "out4")
    assert reach([(guest, OUT4)]) == [] and lab.vmnet("check") == "ok\n"
    for subnet, node in ((78, other), (77, guest)):
        assert lab.host.run("nft list table inet vmnet-nat", check=False).returncode == 0
        node.close()
        assert eventually(lambda subnet=subnet: f"tap{subnet}" not in lab.host.run("ip link").stdout)
        call(lab.host, f"dom{subnet}", "stopped", Interface(f"52:54:00:00:{subnet}:05", f"tap{subnet}", ""))
    same(before, settled(lab.host))


def test_a_guest_starts_without_nat_that_can_not_be():
    """Its interface is missing: the guest runs, `check` says what it lacks, and the remedy helps."""
    with Lab(MASQUERADE.replace('"ext0"', '"wg0"')) as lab:
        guest = lab.start("guests", 77)
        assert ping(guest, "192.168.77.1") is not None and ping(guest, OUT4, 1) is None
        assert "needs nat out4, which is not up" in lab.vmnet("check", "dom77", status=1)
        lab.host.sh("ip link set ext0 down; ip link set ext0 name wg0; ip link set wg0 up")
        lab.vmnet("up", "nat:out4")
        lab.vmnet("up", "nat:out6")
        assert ping(guest, OUT4) is not None and lab.vmnet("check", "dom77") == "ok\n"


def test_within_the_subnet(lab):
    """Guests, and the host, talk to guests under their own addresses."""
    lab.up()
    with Capture(lab.guest, "eth0", "icmp") as inside:
        assert ping(lab.host, "192.168.77.5") is not None and ping(lab.other, "192.168.77.5") is not None
    assert inside.having(r"192\.168\.77\.1 > 192\.168\.77\.5: ICMP echo request"), str(inside)
    assert inside.having(r"192\.168\.78\.5 > 192\.168\.77\.5: ICMP echo request"), str(inside)


# Sent from an address of the guests' subnet out of the interface, as dnsmasq and mDNS reflectors on the host do.
SPEAK = """
import socket
def speak(family, source, target, *options):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"ext0")
    for option in options:
        sock.setsockopt(*option)
    sock.bind((source, 5353))
    sock.sendto(b"hello", (target, 5353))
index = socket.if_nametoindex("ext0")
speak(socket.AF_INET, "192.168.77.1", "224.0.0.251", (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1))
speak(socket.AF_INET, "192.168.77.1", "255.255.255.255", (socket.SOL_SOCKET, socket.SO_BROADCAST, 1))
speak(socket.AF_INET6, "fd77::1", "ff02::fb", (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index))
"""


def test_multicast_and_broadcast_are_left_alone(lab):
    """libvirt's exemptions: what is for this link only has no way back through a translation."""
    lab.up()
    with Capture(lab.world, "eth0", "udp port 5353") as seen:
        lab.host.run(["/usr/bin/python3", "-IS", "-c", SPEAK])
    for target in (
        r"192\.168\.77\.1\.5353 > 224\.0\.0\.251",
        r"192\.168\.77\.1\.5353 > 255\.255\.255\.255",
        r"fd77::1\.5353 > ff02::fb",
    ):
        assert seen.having(target), f"{target}\n{seen}"


def tcp4(src: str, dst: str, flags: int) -> bytes:
    """A TCP segment with nothing in it, behind an IPv4 header; its port is one that no connection has."""
    pseudo = IPv4Address(src).packed + IPv4Address(dst).packed + struct.pack("!BBH", 0, 6, 20)
    segment = struct.pack("!HHIIBBHHH", 4444, 80, 1, 1, 0x50, flags, 512, 0, 0)
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, IPv4Address(src).packed, IPv4Address(dst).packed)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + segment


def test_what_is_no_part_of_a_connection_does_not_leave_untranslated(lab):
    """The kernel translates no packet that conntrack takes for invalid: segments with impossible flags, errors of no connection,
    ICMP of an unknown type."""
    lab.up()
    assert reach([(lab.guest, OUT4)]) == []
    inside = IPv4Address("192.168.77.5").packed
    error = struct.pack("!BBHI", 3, 1, 0, 0) + tcp4(OUT4, "192.168.77.5", 2)[:28]
    unknown = struct.pack("!BBHI", 253, 0, 0, 0)
    packets = [tcp4("192.168.77.5", OUT4, flags) for flags in (0, 3, 5, 0x3F)]
    for body in (error, unknown):
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0, inside, IPv4Address(OUT4).packed)
        packets.append(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body)
    gateway = lab.host.run("cat /sys/class/net/guestbr0/address").stdout.strip()
    own = lab.guest.run("cat /sys/class/net/eth0/address").stdout.strip()
    source6, target6 = IPv6Address("fd77::5").packed, IPv6Address(OUT6).packed
    body = struct.pack("!BBHI", 1, 4, 0, 0) + struct.pack("!IHBB", 6 << 28, 8, 17, 64) + target6 + source6 + bytes(8)
    body = body[:2] + struct.pack("!H", checksum(source6 + target6 + struct.pack("!II", len(body), 58) + body)) + body[4:]
    error6 = struct.pack("!IHBB", 6 << 28, len(body), 58, 64) + source6 + target6 + body
    with Capture(lab.world, "eth0", "net 192.168.77.0/24 or net fd77::/64") as seen:
        send(lab.guest, "eth0", *(ethernet(gateway, own, 0x0800, packet) for packet in packets))
        if lab.both:
            send(lab.guest, "eth0", ethernet(gateway, own, 0x86DD, error6))
    assert seen.lines == []
    assert reach([(lab.guest, OUT4)]) == []


def differences(lab: Lab) -> list[str]:
    """What `check` says of tables; on a slow machine it also tells of guests that have waited for long to be called running."""
    return [line for line in lab.vmnet.tried("check").output.splitlines() if " nft " in line]


FILL = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, int(sys.argv[2]) + 1):
    sock.sendto(b"x", (sys.argv[1], port))
"""


@pytest.mark.parametrize("target", [OUT4, GATE, SIDE])
def test_connections_of_one_guest_are_limited(target):
    """Wherever they lead to: NAT makes the kernel track all of them. Another guest has a limit of its own."""
    with Lab(SNAT + "connections = 50\n") as lab:
        lab.up()
        lab.world.sh("nft add table ip f; nft add chain ip f i '{ type filter hook prerouting priority -300; }'")
        lab.world.run("nft add rule ip f i udp dport 1-1000 drop")
        before = int(lab.host.sysctl("netfilter/nf_conntrack_count"))
        second = lab.stack.enter_context(wired(lab.host, "tap9", "second", Nic("52:54:00:00:77:09", "192.168.77.9", 24, GATE)))
        call(lab.host, "dom9", "start", Interface("52:54:00:00:77:09", "tap9", "guests"))
        lab.guest.run(["/usr/bin/python3", "-IS", "-c", FILL, target, "500"])
        assert 45 <= int(lab.host.sysctl("netfilter/nf_conntrack_count")) - before <= 60
        # Known connections go on, new ones of others are made.
        assert ping(lab.guest, OUT4, 1) is None and reach([(second, OUT4), (lab.other, SIDE)]) == []
        assert lab.vmnet("up") == "up: nothing to do\n" and differences(lab) == []
        lab.host.sh("nft flush ruleset")
        lab.vmnet.tried("repair")
        assert "ct count over 50" in lab.host.run("nft list table inet vmnet-shares-out4").stdout
        lab.host.config(SNAT)
        lab.vmnet("up")
        assert "vmnet-shares" not in lab.host.run("nft list tables").stdout and differences(lab) == []


def test_a_table_of_connections_that_no_record_has():
    with Lab(SNAT) as lab:
        lab.up()
        lab.host.run("nft add table inet vmnet-shares-gone")
        assert "nft inet vmnet-shares-gone: ours, but in no record" in lab.vmnet.tried("check").output
        lab.vmnet.tried("repair")
        assert "vmnet-shares" not in lab.host.run("nft list tables").stdout and differences(lab) == []


def test_repair_makes_the_table_of_this_version(lab):
    """An upgraded host has the older table with its elements, in the kernel and in the records."""
    lab.up()
    before = settled(lab.host)
    older = replace(NAT, body=NAT.body.partition("\tchain invalid")[0].rstrip(), rules=(("nat", 8),), version="0123456789ab")
    state = lab.host.path("/run/vmnet-hooks/state.db")
    # By its bytes: SQLite follows /proc/PID/root, to the machine's own files.
    with closing(sqlite3.connect(":memory:")) as records:
        records.deserialize(state.read_bytes())
        records.execute("UPDATE resource SET want = ? WHERE key = ?", (encode(older), older.key))
        records.commit()
        found = [decode(want) for (want,) in records.execute("SELECT want FROM resource WHERE kind = 'nft-element'")]
        state.write_bytes(records.serialize())
    elements = [element for element in found if element.table == older.key]
    lab.host.run(["nft", "-f", "-"], older.statement() + "".join(element.statement() for element in elements))
    assert "nft inet vmnet-nat: the configuration has changed" in lab.vmnet.tried("check").output
    lab.vmnet.tried("repair")
    same(before, settled(lab.host))
    assert reach([(lab.guest, OUT4)]) == [] and differences(lab) == []


def test_down_after_up(lab):
    """Identity; beside tables of others that stay as they are, and before a second `up` that finds nothing to do."""
    lab.host.sh("nft add table ip nat; nft add chain ip nat POSTROUTING '{ type nat hook postrouting priority 100; }'")
    before = settled(lab.host)
    lab.vmnet("up")
    up = settled(lab.host)
    assert lab.vmnet("up") == "up: nothing to do\n" and lab.vmnet("check") == "ok\n"
    same(up, settled(lab.host))
    lab.vmnet("down", "out4")
    assert "203.0.113.7" not in lab.host.run("nft list table inet vmnet-nat", check=False).stdout
    lab.vmnet("down")
    same(before, settled(lab.host))


def test_connections_survive_an_edit(lab):
    """Another part is added, the rules are not made anew: what is translated stays so."""
    lab.up()
    ruleset = lab.host.run("nft -a list table inet vmnet-nat").stdout
    lab.host.config(lab.host.path("/etc/vmnet-hooks/vmnet.toml").read_text() + "[bridges.br-x]\n")
    lab.vmnet("up")
    assert lab.host.run("nft -a list table inet vmnet-nat").stdout == ruleset
    assert ping(lab.guest, OUT4) is not None


DAMAGE = {
    "table": "nft delete table inet vmnet-nat",
    "chain": "nft flush chain inet vmnet-nat nat",
    "sets": "for s in masquerade4 masquerade6; do nft flush set inet vmnet-nat $s; done; nft flush map inet vmnet-nat snat4",
    "everything": "nft flush ruleset",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_others_flush_is_put_back(lab, damage):
    lab.up()
    up = settled(lab.host)
    lab.host.sh(DAMAGE[damage])
    found = lab.vmnet.tried("check")
    assert found.returncode and "nft inet " in found.output, found
    lab.vmnet("repair")
    same(up, settled(lab.host))
    assert ping(lab.guest, OUT4) is not None


def test_its_table_alone(lab):
    """What forwards IPv4 and translates it needs no other table; what belongs to nobody is removed."""
    config = lab.host.path("/etc/vmnet-hooks/vmnet.toml").read_text()
    lab.host.config(
        "[bridges.guestbr0]\naddresses = ['192.168.77.1/24']\n[nat.out4"
        + config.partition("[nat.out4")[2].partition("[nat.out6")[0]
    )
    lab.vmnet("up")
    assert [line.split()[1:] for line in lab.host.run("nft list tables").stdout.splitlines()] == [["inet", "vmnet-nat"]]
    lab.vmnet("down")
    assert lab.host.run("nft list tables").stdout == ""
    lab.host.sh(
        "nft add table inet vmnet-nat; nft add set inet vmnet-nat private4 '{ type ipv4_addr . ifname; }'\n"
        "nft add element inet vmnet-nat private4 '{ 10.0.0.1 . ext0 }'"
    )
    assert 'nft inet private4 10.0.0.1 . "ext0": ours, but in no record' in lab.vmnet.tried("check").output
    lab.vmnet("repair")
    assert lab.host.run("nft list tables").stdout == ""


def test_other_tables_first(lab):
    """Our chains sit at the documented priorities: an admin's rule that comes earlier has the last word."""
    lab.up()
    lab.host.sh("""
        nft add table ip mine; nft add chain ip mine post '{ type nat hook postrouting priority srcnat - 10; }'
        nft add rule ip mine post oif ext0 ip saddr 192.168.77.0/24 snat to 203.0.113.1
    """)
    with Capture(lab.world, "eth0", "icmp") as seen:
        assert ping(lab.guest, OUT4) is not None
    assert seen.having(rf"203\.0\.113\.1 > {OUT4}"), str(seen)


@pytest.mark.parametrize("family", ["ip", "inet"])
def test_forward_policy_drop(family):
    """Docker or ufw on the host: `check` says what breaks, and what to do; and what it says is true."""
    with Lab(MASQUERADE) as lab:
        lab.up()
        assert lab.vmnet("check") == "ok\n"
        lab.host.sh(
            DOCKER.replace("table ip", f"table {family}")
            .replace("chain ip", f"chain {family}")
            .replace("rule ip", f"rule {family}")
        )
        assert ping(lab.guest, OUT4, 1) is None
        result = lab.vmnet.tried("check")
        lines = [line for line in result.output.splitlines() if "FORWARD" in line and "drop" in line]
        assert lines, result
        # Not ours to mend: repair leaves it alone.
        table = lab.host.run(f"nft list table {family} filter").stdout
        lab.vmnet.tried("repair")
        assert lab.host.run(f"nft list table {family} filter").stdout == table
        # What the admin would do.
        lab.host.sh(
            f"nft insert rule {family} filter FORWARD iifname guestbr0 accept\n"
            f"nft insert rule {family} filter FORWARD oifname guestbr0 ct state established,related accept"
        )
        assert ping(lab.guest, OUT4) is not None


def test_bridged_traffic_through_iptables():
    """With br_netfilter, what only crosses a bridge runs into FORWARD's policy too: guests of one bridge can't talk."""
    with Lab(INSIDE) as lab:
        lab.up()
        lab.stack.enter_context(wired(lab.host, "tap9", "second", Nic("52:54:00:00:77:09", "192.168.77.9")))
        call(lab.host, "dom9", "start", Interface("52:54:00:00:77:09", "tap9", "guests"))
        if lab.host.run("test -e /proc/sys/net/bridge/bridge-nf-call-iptables", check=False).returncode:
            lab.host.sh(DOCKER)
            assert ping(lab.guest, "192.168.77.9") is not None
            assert "bridge-nf-call" not in lab.vmnet.tried("check").output
            return
        lab.host.sysctl("bridge/bridge-nf-call-iptables", 1)
        lab.host.sh(DOCKER)
        assert ping(lab.guest, "192.168.77.9", 1) is None
        output = lab.vmnet.tried("check").output
        assert "bridge-nf-call-iptables" in output, output
        for key in ("iptables", "ip6tables", "arptables"):
            lab.host.sysctl(f"bridge/bridge-nf-call-{key}", 0)
        assert ping(lab.guest, "192.168.77.9") is not None
        assert "bridge-nf-call" not in lab.vmnet.tried("check").output


def test_nothing_to_warn_of(lab):
    """An accepting FORWARD chain, and an INPUT chain that drops, are no reason for a warning."""
    lab.up()
    lab.host.sh("""
        nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy accept; }'
        nft add chain ip filter INPUT '{ type filter hook input priority 0; policy drop; }'
        nft add rule ip filter INPUT iif lo accept
    """)
    assert lab.vmnet("check") == "ok\n"


REFUSED = {
    "neither": ('subnet = "192.168.77.0/24"\nout = "ext0"\n', ["nat.x", "snat", "masquerade"]),
    "both": ('subnet = "192.168.77.0/24"\nout = "ext0"\nsnat = "203.0.113.7"\nmasquerade = true\n', ["nat.x", "snat"]),
    "other family": ('subnet = "fd77::/64"\nout = "ext0"\nsnat = "203.0.113.7"\n', ["nat.x", "203.0.113.7", "fd77::/64"]),
    "host bits": ('subnet = "192.168.77.1/24"\nout = "ext0"\nmasquerade = true\n', ["nat.x", "subnet", "192.168.77.1/24"]),
    "no interface": ('subnet = "192.168.77.0/24"\nmasquerade = true\n', ["nat.x", "out"]),
    "no subnet": ('out = "ext0"\nmasquerade = true\n', ["nat.x", "subnet"]),
}


@pytest.fixture(scope="module")
def quiet():
    with Lab("") as running:
        yield running


@pytest.mark.parametrize("case", REFUSED)
def test_refused(quiet, case):
    text, words = REFUSED[case]
    quiet.host.config(INSIDE + f"[nat.x]\n{text}")
    refusal(quiet.vmnet.tried("up"), *words)
    same(quiet.before, settled(quiet.host))
