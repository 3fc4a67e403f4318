"""What others do to a host on which every object of ours is as it should be: `check` says what does not work, as packets show,
and the remedy works.

guest web (192.0.2.30, 2001:db8::30) -- tap0 -- host -- eth0 (192.0.2.2, 2001:db8::2) == peer (192.0.2.1, 2001:db8::1)
"""

from __future__ import annotations

import fcntl
import json
import re
import threading
from contextlib import ExitStack

import pytest
from lab.bus import SystemBus
from lab.domains import Interface
from lab.guest import Nic, wired
from lab.hostnet import Product
from lab.nodes import Node, settled, wire
from lab.routed import RoutedLab, call, eventually, ping, reach
from lab.single import same

HOSTROUTE = '[networks.hosting]\nmode = "hostroute"\nnetdev = "eth0"\n'
NIC = Interface("52:54:00:aa:00:30", "tap0", "hosting", ("192.0.2.30", "2001:db8::30"))


class Lab:
    """A hoster's: addresses of the wire, by host routes. The guest is plugged."""

    def __init__(self, config: str = HOSTROUTE, nic: Interface = NIC, network: str = "hosting"):
        self.stack = ExitStack()
        try:
            self.host, self.peer = host, peer = [self.stack.enter_context(Node(name)) for name in ("host", "peer")]
            self.vmnet = Product(host)
            wire(host, "eth0", peer, "eth0", "02:00:00:00:00:02", "02:00:00:00:00:01")
            for node, last in ((host, 2), (peer, 1)):
                node.sh(f"""
                    for f in all default eth0; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done
                    ip link set eth0 up; ip addr add 192.0.2.{last}/24 dev eth0; ip -6 addr add 2001:db8::{last}/64 dev eth0 nodad
                """)
            wire(host, "eth9", peer, "eth9")
            peer.run("ip link set eth9 up")
            host.sh("ip link set eth9 up; ip addr add 10.9.9.1/24 dev eth9")
            host.config(config)
            for node in (host, peer):
                assert eventually(lambda node=node: "fe80::" in node.run("ip -6 addr show dev eth0 -tentative").stdout)
            stack = Nic(nic.mac, "192.0.2.30", 24, "", "2001:db8::30", "2001:db8::2")
            self.guest = self.stack.enter_context(wired(host, nic.tap, "web", stack))
            call(host, "web", "start", nic)
            call(host, "web", "started", nic)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def found(self) -> list[dict[str, str]]:
        return json.loads(self.vmnet.tried("check", "--json").output)

    def forget(self) -> None:
        for node in (self.guest, self.host, self.peer):
            node.run("ip neigh flush all", check=False)


@pytest.fixture(scope="module")
def shared():
    with Lab() as running:
        assert reach([(running.peer, "192.0.2.30"), (running.peer, "2001:db8::30"), (running.guest, "192.0.2.2")]) == []
        assert running.vmnet("check") == "ok\n"
        yield running


@pytest.fixture
def lab(shared):
    yield shared
    shared.forget()
    assert shared.vmnet("check") == "ok\n"


ELSEWHERE = "ip link set eth9 up; ip{v} route add default dev eth9 table 51820\n"
WAYS = {
    "a rule by interface": (
        4,
        ELSEWHERE + "ip rule add iif eth0 lookup 51820 pref 99",
        "to eth9 (table 51820), not to tap0; see ip rule",
    ),
    "a VPN's rule": (
        4,
        ELSEWHERE + "ip rule add not fwmark 0xca6c lookup 51820 pref 99",
        "to eth9 (table 51820), not to tap0; see ip rule",
    ),
    "a rule for IPv6": (
        6,
        ELSEWHERE + "ip -6 rule add iif eth0 lookup 51820 pref 99",
        "to eth9 (table 51820), not to tap0; see ip -6 rule",
    ),
    "a route with a better metric": (
        6,
        "ip -6 route add 2001:db8::30 dev eth9 metric 1",
        "to eth9 (table main), not to tap0; see ip -6 route",
    ),
    "an address of the host": (4, "ip addr add 192.0.2.30/32 dev eth9", "keeps packets from eth0: it is an address of the host"),
    "an IPv6 address of the host": (6, "ip addr add 2001:db8::30/128 dev eth9 nodad", "keeps packets from eth0"),
}
"""What an admin or a VPN does: IP version, commands, and what `check` says of it."""


@pytest.mark.parametrize("case", WAYS)
def test_the_kernels_own_way(lab, case):
    version, script, says = WAYS[case]
    target = {4: "192.0.2.30", 6: "2001:db8::30"}[version]
    lab.host.sh(script.format(v="" if version == 4 else " -6"))
    lab.forget()
    if "an " not in case:
        assert ping(lab.peer, target, 1) is None
    [found] = lab.found()
    assert (found["kind"], found["owner"]) == ("unreached", "web") and found["what"].startswith(f"{target}: the kernel "), found
    assert says in found["what"], found
    assert lab.found() == json.loads(lab.vmnet.tried("check", "web", "--json").output)
    # repair can't know better, and says so again.
    lab.vmnet.tried("repair")
    assert lab.found() == [found]
    lab.host.sh(found["remedy"])
    lab.forget()
    assert ping(lab.peer, target) is not None and lab.found() == []
    for family in ("-4", "-6"):
        lab.host.run(f"ip {family} route flush table 51820", check=False)


def test_a_rule_that_drops(lab):
    lab.host.sh("ip rule add to 192.0.2.30 unreachable pref 99")
    assert ping(lab.peer, "192.0.2.30", 1) is None
    [found] = lab.found()
    assert "192.0.2.30: the kernel drops packets from eth0" in found["what"], found
    # What the remedy shows is the same.
    assert lab.host.run(found["remedy"], check=False).returncode
    lab.host.sh("ip rule del pref 99")
    assert ping(lab.peer, "192.0.2.30") is not None


def test_arp_is_not_answered(lab):
    """2 answers senders in the address's own subnet alone, and a gateway on a tap is a /32; 1, load balancers' value, is fine."""
    for where, value, silent in (("all", 1, False), ("all", 2, True), ("tap0", 2, True), ("tap0", 8, True)):
        lab.host.sysctl(f"ipv4/conf/{where}/arp_ignore", value)
        lab.forget()
        assert (ping(lab.guest, "192.0.2.2", 1) is None) == silent, (where, value)
        found = lab.found()
        assert len(found) == silent
        for difference in found:
            assert difference["kind"] == "hindered" and f"conf/{where}/arp_ignore is {value}" in difference["what"], found
            lab.host.sh(difference["remedy"])
        lab.forget()
        assert ping(lab.guest, "192.0.2.2") is not None and lab.found() == []
    for where in ("all", "tap0"):
        lab.host.sysctl(f"ipv4/conf/{where}/arp_ignore", 0)


@pytest.mark.parametrize("where", ["eth0", "all"])
def test_arp_is_answered_for_all(lab, where):
    def taken() -> bool:
        lab.peer.run("ip neigh flush all", check=False)
        ping(lab.peer, "192.0.2.77", 1)
        return "lladdr 02:00:00:00:00:02" in lab.peer.run("ip neigh show 192.0.2.77").stdout

    assert not taken()
    lab.host.sysctl(f"ipv4/conf/{where}/proxy_arp_pvlan", 1)
    found = lab.found()
    assert taken() and len(found) == 1 and f"conf/{where}/proxy_arp_pvlan is 1" in found[0]["what"], found
    lab.host.sh(found[0]["remedy"])
    assert not taken() and lab.found() == []


def test_proxy_arp_switched_off_by_a_medium(lab):
    lab.host.sysctl("ipv4/conf/tap0/medium_id", -1)
    lab.forget()
    assert ping(lab.guest, "192.0.2.1", 1) is None
    [found] = lab.found()
    assert "conf/tap0/medium_id is -1" in found["what"] and found["owner"] == "web"
    lab.host.sh(found["remedy"])
    assert ping(lab.guest, "192.0.2.1") is not None


def test_a_link_that_became_a_port():
    with Lab() as lab:
        lab.host.sh("ip link add br9 type bridge; ip link set br9 up; ip link set eth0 master br9")
        lab.forget()
        assert ping(lab.peer, "192.0.2.30", 1) is None
        found = [item for item in lab.found() if item["kind"] == "hindered"]
        assert len(found) == 1 and "eth0, which network hosting leads through, is a port of br9" in found[0]["what"], found
        lab.host.sh(found[0]["remedy"])
        lab.forget()
        assert eventually(lambda: ping(lab.peer, "192.0.2.30", 1) is not None) and lab.found() == []


def test_no_link_local_address():
    """Taken away, or never there: without one the kernel solicits no neighbour for what it forwards."""
    with Lab() as lab:
        lab.host.run("ip -6 addr flush dev eth0 scope link")
        lab.forget()
        assert ping(lab.guest, "2001:db8::1", 1) is None
        [found] = lab.found()
        assert found["kind"] == "hindered" and "eth0 has no link-local IPv6 address" in found["what"], found
        lab.host.sh(found["remedy"])
        assert ping(lab.guest, "2001:db8::1") is not None and lab.found() == []


def test_an_uplink_that_makes_no_link_local_address():
    """As networkd (LinkLocalAddressing=no) and NetworkManager (ipv6.method=disabled) leave it: it has one for guests."""
    with RoutedLab() as lab:
        lab.a.sh("echo 1 > /proc/sys/net/ipv6/conf/up0/addr_gen_mode; ip -6 addr flush dev up0 scope link")
        before = settled(lab.a)
        one, two = lab.guests["a1"], lab.guests["a2"]
        lab.start(one, two)
        lab.forget_neighbours()
        assert reach([(one.node, "2001:db8::1"), (lab.router, one.ip6), (lab.router, two.ip6)]) == []
        vmnet = Product(lab.a)
        assert vmnet("check") == "ok\n"
        lab.a.run("ip -6 addr flush dev up0 scope link")
        assert "fe80::ff:fe00:aa/64: missing" in vmnet("check", status=1)
        vmnet("repair")
        lab.forget_neighbours()
        assert reach([(one.node, "2001:db8::1")]) == [] and vmnet("check") == "ok\n"
        lab.stop(one)
        assert "fe80::" in lab.a.run("ip -6 addr show dev up0").stdout
        lab.stop(two)
        same(before, settled(lab.a))


def test_a_port_that_gets_an_address():
    """From a DHCP client or ifup that came late: the host answers on the port for nobody."""
    with ExitStack() as stack:
        host, peer = (stack.enter_context(Node(name)) for name in ("host", "peer"))
        wire(host, "eth0", peer, "eth0", "02:00:00:00:00:02", "02:00:00:00:00:01")
        peer.sh("ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0")
        host.config('[bridges.br0]\nports = ["eth0"]\n')
        vmnet = Product(host)
        vmnet("up")
        assert vmnet("check") == "ok\n"
        host.sh("ip addr add 192.0.2.2/24 dev eth0")
        assert ping(host, "192.0.2.1", 1) is None
        [found] = [item for item in json.loads(vmnet("check", "--json", status=1)) if item["kind"] != "refused"]
        assert (found["kind"], found["owner"]) == ("hindered", "bridge br0") and "eth0 has address 192.0.2.2/24" in found["what"]
        host.sh(found["remedy"])
        host.sh("ip addr add 192.0.2.2/24 dev br0")
        assert ping(host, "192.0.2.1") is not None and vmnet("check") == "ok\n"


# --- what is declared ------------------------------------------------------------------------------------------------------

DECLARED = """
[bridges.br1]
addresses = ["10.5.5.1/24"]
[networks.inside]
mode = "bridged"
bridge = "br1"
[nat.guests]
subnet = "10.5.5.0/24"
out = "eth0"
masquerade = true
[networks.edge]
mode = "routed"
uplink = "eth0"
role = "router"
table = 333
ipv4 = { subnet = "203.0.113.0/24", gateway = "203.0.113.1" }
[networks.forty]
mode = "bridged"
bridge = "br40"
uplink = "eth1"
"""


def test_what_is_declared_and_not_up():
    with ExitStack() as stack:
        host, peer = (stack.enter_context(Node(name)) for name in ("host", "peer"))
        wire(host, "eth0", peer, "eth0")
        host.config(DECLARED)
        vmnet = Product(host)
        expected = ["bridge:br1", "nat:guests", "network:edge"]
        found = json.loads(vmnet("check", "--json", status=1))
        assert [item["remedy"] for item in found] == [f"vmnet-hook up {name}" for name in expected]
        rows = json.loads(vmnet("status", "--json"))
        assert [(row["name"], row["state"]) for row in rows] == [(name, "not up") for name in expected]
        shown, drawn = vmnet("status"), vmnet("graph", "--ascii")
        assert shown.count("not up") == 3 and "nothing is set up" not in shown
        assert drawn.count("not up") == 3 + 3 and "!br1" in drawn and "!NAT" in drawn and "!table 333" in drawn, drawn
        for item in found:
            vmnet(*item["remedy"].split()[1:])
        assert vmnet("check") == "ok\n" and "not up" not in vmnet("status") + vmnet("graph")
        # What the admin takes down shall be down; what goes by another way shall not.
        vmnet("down")
        assert vmnet("check") == "ok\n" and len(re.findall(r" down\n", vmnet("status"))) == 3
        vmnet("up")
        host.sh("rm -r /run/vmnet-hooks; ip link del br1")
        assert vmnet("check", status=1).count("is declared, and not up") == 3


# --- the way out -----------------------------------------------------------------------------------------------------------


BLACKHOLE = "ip{v} route add blackhole default table 99; ip{v} rule add pref 99 "
DROPS = {
    "by source": (
        4,
        BLACKHOLE + "from 192.0.2.30 lookup 99",
        "the kernel drops what the guest sends (Invalid argument); see ip rule",
    ),
    "by tap": (4, BLACKHOLE + "iif tap0 lookup 99", "the kernel drops what the guest sends (Invalid argument); see ip rule"),
    "IPv6": (
        6,
        BLACKHOLE + "from 2001:db8::30 lookup 99",
        "the kernel drops what the guest sends (Invalid argument); see ip -6 rule",
    ),
}


@pytest.mark.parametrize("case", DROPS)
def test_a_rule_that_drops_what_the_guest_sends(lab, case):
    version, script, says = DROPS[case]
    target, v = ("192.0.2.1", "") if version == 4 else ("2001:db8::1", " -6")
    lab.host.sh(f"ip{v} route add default via {target}\n" + script.format(v=v))
    try:
        assert ping(lab.guest, target, 1) is None
        (item,) = lab.found()
        assert (item["kind"], item["owner"]) == ("unreached", "web") and says in item["what"]
        # The remedy shows what the kernel does.
        assert lab.host.run(item["remedy"].split(), check=False).returncode
    finally:
        lab.host.sh(f"ip{v} rule del pref 99; ip{v} route flush table 99; ip{v} route del default")
    assert ping(lab.guest, target) is not None


def test_a_way_that_the_admin_chose(lab):
    """Guests' packets may leave through another link: that is policy routing."""
    lab.host.sh("ip route add default via 192.0.2.1; ip route add default dev eth9 table 99")
    lab.host.sh("ip rule add pref 99 from 192.0.2.30 to 198.51.100.0/24 lookup 99")
    assert lab.vmnet("check") == "ok\n"
    lab.host.sh("ip rule del pref 99; ip route flush table 99; ip route del default")


def test_an_uplink_without_a_carrier(lab):
    lab.peer.run("ip link set eth0 down")
    try:
        (item,) = lab.found()
        assert (item["kind"], item["owner"]) == ("hindered", "web") and "eth0 has no carrier" in item["what"]
    finally:
        lab.peer.sh("ip link set eth0 up; ip -6 addr add 2001:db8::1/64 dev eth0 nodad")


TRANSLATED = """
[bridges.br0]
ports = ["eth9"]
[networks.wire]
mode = "bridged"
bridge = "br0"
[bridges.br1]
addresses = ["10.5.5.1/24"]
[networks.inside]
mode = "bridged"
bridge = "br1"
[nat.guests]
subnet = "10.5.5.0/24"
out = "eth0"
masquerade = true
"""


def test_what_nat_passes_by():
    with ExitStack() as stack:
        host, peer = (stack.enter_context(Node(name)) for name in ("host", "peer"))
        for link, net in (("eth0", "192.0.2"), ("eth9", "198.51.100")):
            wire(host, link, peer, link)
            peer.sh(f"ip link set {link} up; ip addr add {net}.1/24 dev {link}")
        # What is behind the peer.
        peer.sh("ip addr add 193.0.14.129/32 dev lo")
        wire(host, "tun0", peer, "tun0")
        peer.run("ip link set tun0 up")
        host.sh("ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; ip route add default via 192.0.2.1; ip link set tun0 up")
        host.config(TRANSLATED)
        vmnet = Product(host)
        vmnet("up")
        inner = Nic("52:54:00:00:00:05", "10.5.5.5", 24, "10.5.5.1")
        guest = stack.enter_context(wired(host, "tap5", "web", inner))
        call(host, "web", "start", Interface(inner.mac, "tap5", "inside", ()))
        assert eventually(lambda: ping(guest, "193.0.14.129") is not None) and vmnet("check") == "ok\n"

        def says(text: str) -> str:
            assert ping(guest, "193.0.14.129", 1) is None
            (item,) = json.loads(vmnet("check", "--json", status=1))
            assert (item["kind"], item["owner"]) == ("unreached", "nat guests") and text in item["what"], item
            return item["remedy"]

        vpn = "ip route {0} 0.0.0.0/1 dev tun0; ip route {0} 128.0.0.0/1 dev tun0"
        host.sh(vpn.format("add"))
        asked = says("but the kernel sends it to tun0 (table 254, 128.0.0.0/1), where it is not translated")
        assert "dev tun0" in host.run(asked.split()).stdout
        host.sh(vpn.format("del"))
        host.sh("ip rule add pref 99 from 10.5.5.0/24 prohibit")
        says("but the kernel drops it (Permission denied)")
        host.sh("ip rule del pref 99; ip route del 10.5.5.0/24 dev br1")
        host.run(says("10.5.5.0/24: the kernel sends packets from eth0 to eth0 (table 254), not to br1").split())
        assert ping(guest, "193.0.14.129") is not None and vmnet("check") == "ok\n"

        # A bridge without a guest leads no guest anywhere.
        peer.run("ip link set eth9 down")
        assert vmnet("check") == "ok\n"
        wide = Nic("52:54:00:00:00:06", "198.51.100.6")
        stack.enter_context(wired(host, "tap6", "wide", wide))
        call(host, "wide", "start", Interface(wide.mac, "tap6", "wire", ()))
        (item,) = json.loads(vmnet("check", "--json", status=1))
        assert item["owner"] == "wide" and "no port of br0 has a carrier: eth9; network wire leads through it" in item["what"]
        peer.run("ip link set eth9 up")
        assert eventually(lambda: vmnet.tried("check").output == "ok\n")


@pytest.mark.parametrize("declared", [False, True])
def test_a_bridge_of_guests_alone_needs_no_carrier(declared):
    """Its carrier is that of its guests, which may not run yet. Another program's bridge is one by its ports."""
    network = '[networks.lan]\nmode = "bridged"\nbridge = "br7"\n'
    with ExitStack() as stack:
        host = stack.enter_context(Node("host"))
        host.config(("[bridges.br7]\n" if declared else "") + network)
        vmnet = Product(host)
        if not declared:
            host.sh("ip link add br7 type bridge; ip link set br7 up")
        host.sh("ip link add tap7 type veth peer name inner7")
        call(host, "quiet", "start", Interface("52:54:00:00:00:07", "tap7", "lan", ()))
        assert "NO-CARRIER" in host.run("ip link show br7").stdout and vmnet("check") == "ok\n"
        if not declared:
            host.sh("ip link add eth7 type veth peer name far7; ip link set eth7 master br7 up")
            assert "no port of br7 has a carrier: eth7" in vmnet("check", status=1)


# --- forward chains --------------------------------------------------------------------------------------------------------

FIREWALLD = """
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_FORWARD_ZONES {
	}
}
"""
"""The shape of firewalld's (python3-firewall 1.3.3, nftables.py)."""

FORWARD = "type filter hook forward priority 0; policy accept;"
CHAINS = {
    "firewalld": (
        FIREWALLD,
        "nft chain inet firewalld filter_FORWARD: ends in reject",
        "firewall-cmd --permanent --zone=trusted --add-interface=",
    ),
    "drop at the end": (
        f"table inet mine {{ chain pass {{ {FORWARD} ct state established accept; counter drop; }}; }}",
        "nft chain inet mine pass: ends in drop",
        "nft insert rule inet mine pass iifname BRIDGE-OR-TAP accept, and the same with oifname",
    ),
    "a jump to what rejects": (
        "table ip filter { chain ufw-reject-forward { counter reject; };"
        " chain ufw-before-forward { ct state established accept; };"
        f" chain FORWARD {{ {FORWARD} jump ufw-before-forward; counter jump ufw-reject-forward; }}; }}",
        "nft chain ip filter FORWARD: ends in reject",
        "ufw route allow in on BRIDGE-OR-TAP, and the same with out",
    ),
    "Docker": (
        f"table ip filter {{ chain DOCKER-USER {{ }}; chain FORWARD {{ {FORWARD} counter jump DOCKER-USER; counter drop; }}; }}",
        "nft chain ip filter FORWARD: ends in drop",
        "iptables -I DOCKER-USER -i BRIDGE-OR-TAP -j ACCEPT, and the same with -o",
    ),
}
"""Another program's table, what the warning says of it, and the remedy that it names."""
REMEDIES = {
    # What firewalld makes of its command: an interface's packets go to the zone's chain.
    "firewalld": "nft add rule inet firewalld filter_FORWARD_ZONES iifname {0} accept",
    "drop at the end": "nft insert rule inet mine pass iifname {0} accept; nft insert rule inet mine pass oifname {0} accept",
    # What ufw makes of it, in ufw-user-forward.
    "a jump to what rejects": "nft add rule ip filter ufw-before-forward iifname {0} accept",
    "Docker": "iptables -I DOCKER-USER -i {0} -j ACCEPT; iptables -I DOCKER-USER -o {0} -j ACCEPT",
}


@pytest.mark.parametrize("case", CHAINS)
def test_a_forward_chain_that_loses_what_no_rule_accepts(lab, case):
    table, says, remedy = CHAINS[case]
    lab.host.run("nft -f -", input=table)
    try:
        assert ping(lab.guest, "192.0.2.1", 1) is None
        warned = [line for line in lab.vmnet("check").splitlines() if line.startswith("warning: ")]
        assert len(warned) == 1 and says in warned[0] and remedy in warned[0], warned
        lab.host.sh(REMEDIES[case].format("tap0"))
        assert ping(lab.guest, "192.0.2.1") is not None
        # What accepts answers by a set of states is not looked into.
        assert case == "firewalld" or lab.vmnet("check") == "ok\n"
    finally:
        lab.host.run(["nft", "delete", "table", *table.split()[1:3]])


OPEN = {
    "by the beginning of a name": 'iifname "tap*" accept; oifname "tap*" accept;',
    "by index": "iif tap0 accept; oif tap0 accept;",
    "out, and what answers": 'ct state established,related accept; iifname "tap0" accept;',
    "by a chain": "iifname tap0 goto other; oifname tap0 goto other;",
}
SHUT = {
    "another link": "iifname eth9 accept; oifname eth9 accept;",
    "one way": "iifname tap0 accept;",
    "some of it": "iifname tap0 tcp dport 22 accept; oifname tap0 accept;",
    "a rule before": "iifname tap0 drop; iifname tap0 accept; oifname tap0 accept;",
}


@pytest.mark.parametrize("case", [*OPEN, *SHUT])
def test_a_chain_that_drops_what_no_rule_accepts(lab, case):
    rules = (OPEN | SHUT)[case]
    chain = f"chain pass {{ type filter hook forward priority 0; policy drop; {rules} }};"
    lab.host.run("nft -f -", input=f"table ip mine {{ chain other {{ accept; }}; {chain} }}")
    try:
        assert (ping(lab.guest, "192.0.2.1", 1) is not None) == (case in OPEN)
        assert ("nft chain ip mine pass: policy drop" in lab.vmnet("check")) == (case in SHUT)
    finally:
        lab.host.run("nft delete table ip mine")


@pytest.mark.parametrize("hook", ["forward", "prerouting", "postrouting"])
def test_a_rule_that_drops_a_guests_packets(lab, hook):
    link = "oifname" if hook == "postrouting" else "iifname"
    chain = f"chain pass {{ type filter hook {hook} priority 0; policy accept; {link} tap0 counter drop; }};"
    lab.host.run("nft -f -", input=f"table ip mine {{ {chain} }}")
    try:
        assert ping(lab.guest, "192.0.2.1", 1) is None
        assert "nft chain ip mine pass: a rule drops those of tap0" in lab.vmnet("check")
        lab.host.run(f"nft insert rule ip mine pass {link} tap0 accept")
        assert ping(lab.guest, "192.0.2.1") is not None and lab.vmnet("check") == "ok\n"
    finally:
        lab.host.run("nft delete table ip mine")


HARMLESS = {
    "accepts all before": "accept; counter drop;",
    "rejects some": "ip daddr 198.51.100.0/24 reject;",
    "a match by rate": "limit rate over 1000/second drop;",
    "returns": "jump other;",
}


@pytest.mark.parametrize("case", HARMLESS)
def test_a_forward_chain_that_does_not(lab, case):
    rules = HARMLESS[case]
    table = f"table ip mine {{ chain other {{ return; }}; chain pass {{ {FORWARD} {rules} }}; }}"
    lab.host.run("nft -f -", input=table)
    try:
        assert ping(lab.guest, "192.0.2.1") is not None and lab.vmnet("check") == "ok\n"
    finally:
        lab.host.run("nft delete table ip mine")


# --- without the lock ------------------------------------------------------------------------------------------------------


def test_nothing_waits_for_the_lock(shared):
    """Another process holds it all the time."""
    with open(shared.host.path("/run/vmnet-hooks/lock")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert shared.vmnet("check") == "ok\n"
        shared.host.run("ip neigh del proxy 192.0.2.30 dev eth0")
        assert "proxy eth0 192.0.2.30: missing" in shared.vmnet("check", status=1)
    shared.vmnet("repair")
    assert shared.vmnet("check") == "ok\n"


def test_guests_that_come_and_go_meanwhile():
    with RoutedLab() as lab:
        one, two = lab.guests["a1"], lab.guests["a2"]
        lab.start(one)
        vmnet, ended = Product(lab.a), threading.Event()

        def come_and_go() -> None:
            while not ended.is_set():
                lab.start(two)
                lab.stop(two)

        worker = threading.Thread(target=come_and_go)
        worker.start()
        try:
            assert {vmnet.tried("check").output for _ in range(20)} == {"ok\n"}
        finally:
            ended.set()
            worker.join()


def test_firewalld_itself():
    """The real program, and the commands that the warning names: packets pass in both directions."""
    with Lab() as lab, ExitStack() as stack:
        stack.enter_context(SystemBus(lab.host))
        for folder in ("/etc/firewalld", "/var/log"):
            lab.host.run(["mount", "-t", "tmpfs", "tmpfs", folder])
        lab.host.popen(["firewalld", "--nofork", "--nopid"], stdout=-3, stderr=-3)
        assert eventually(lambda: lab.host.run("firewall-cmd --state", check=False).returncode == 0, 30)
        lab.host.sh("firewall-cmd --zone=work --add-interface=eth0; firewall-cmd --permanent --zone=work --add-interface=eth0")
        # Within one zone, firewalld forwards.
        lab.forget()
        assert ping(lab.guest, "192.0.2.1", 1) is None and ping(lab.peer, "192.0.2.30", 1) is None
        (warned,) = [line for line in lab.vmnet("check").splitlines() if line.startswith("warning: ")]
        assert "nft chain inet firewalld filter_FORWARD: ends in reject" in warned, warned
        commands = re.search(r"for firewalld's: (.*)$", warned)
        assert commands
        for command in commands[1].replace("BRIDGE-OR-TAP", "tap0").split("; "):
            lab.host.run(command.partition(" (or ")[0].split())
        lab.forget()
        paths = [(lab.guest, "192.0.2.1"), (lab.peer, "192.0.2.30"), (lab.guest, "2001:db8::1"), (lab.peer, "2001:db8::30")]
        assert reach(paths) == []
        left = lab.vmnet("check")
        assert left == "ok\n", lab.host.run("nft list table inet firewalld").stdout
