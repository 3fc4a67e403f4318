"""Somebody else damages what is ours: `check` lists it and exits 1, `repair` mends it, and the guests never know."""

from __future__ import annotations

import json

import pytest
from lab.nodes import settled, without_anycast
from lab.routed import GATEWAY4, GATEWAY6, WORLD4, WORLD6, RoutedLab, reach
from lab.single import LAN, PUBLIC, Single, bridged, routed, same


@pytest.fixture(scope="module")
def lab():
    with RoutedLab() as running:
        running.start()
        yield running


def check(node, *words: str, status: int) -> str:
    done = node.cli("check")
    assert done.returncode == status, f"check: {done.returncode}\n{done.stdout}{done.stderr}"
    for word in words:
        assert word in done.stdout + done.stderr, f"check does not name {word}:\n{done.stdout}{done.stderr}"
    return done.stdout


def repair(node) -> None:
    done = node.cli("repair")
    assert done.returncode == 0, f"repair: {done.returncode}\n{done.stdout}{done.stderr}"


# What is done to host-a, and words that `check` must say of it.
DAMAGE = {
    "nft flush ruleset": ("nft flush ruleset", ["vmnet", "arp_source"]),
    "nft chain flushed": ("nft flush chain inet vmnet guard", ["guard"]),
    "nft set flushed": ("nft flush set inet vmnet sources4", ["sources4", "192.0.2.11", "192.0.2.12"]),
    "nft map changed": ("nft delete element arp vmnet arp_source '{ \"up0\" }'", ["arp_source", "up0"]),
    "rule of one family": ("ip rule del pref 22000; ip rule del pref 22001", ["192.0.2.0/24"]),
    "all rules": (
        "ip rule flush; ip rule add lookup main pref 32766; ip rule add lookup default pref 32767\n"
        "ip -6 rule flush; ip -6 rule add lookup main pref 32766",
        ["192.0.2.0/24", "2001:db8::/64"],
    ),
    "table 222 flushed": (
        "ip route flush table 222; ip -6 route flush table 222",
        ["192.0.2.11", "2001:db8::11", "default"],
    ),
    "main route": (
        "ip route del 192.0.2.0/24 dev up0; ip -6 route del 2001:db8::/64 dev up0",
        ["192.0.2.0/24", "2001:db8::/64"],
    ),
    "neighbours": (
        "ip neigh del 192.0.2.11 dev tap-a1; ip -6 neigh del 2001:db8::11 dev tap-a1",
        ["192.0.2.11", "tap-a1"],
    ),
    "proxies": (
        "ip -6 neigh del proxy 2001:db8::11 dev up0; ip -6 neigh del proxy 2001:db8::1 dev tap-a1",
        ["2001:db8::11", "2001:db8::1"],
    ),
    "sysctls of the uplink": (
        "cd /proc/sys/net; echo 0 > ipv4/conf/up0/proxy_arp; echo 0 > ipv6/conf/up0/proxy_ndp",
        ["proxy_arp", "proxy_ndp", "up0"],
    ),
    "sysctls of the tap": (
        "cd /proc/sys/net; echo 0 > ipv4/conf/tap-a1/forwarding; echo 80 > ipv4/neigh/tap-a1/proxy_delay",
        ["forwarding", "proxy_delay", "tap-a1"],
    ),
    "forwarding": ("cd /proc/sys/net; echo 0 > ipv6/conf/all/forwarding; echo 0 > ipv4/ip_forward", ["forwarding"]),
    "tap MAC": ("ip link set tap-a1 address 52:54:00:00:11:22", ["tap-a1"]),
    "tap down": ("ip link set tap-a1 down", ["tap-a1"]),
    "uplink down and up": ("ip link set up0 down; ip link set up0 up", ["up0"]),
    "IPv6 off": ("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6", ["2001:db8::11"]),
    "table name": ("rm /etc/iproute2/rt_tables.d/vmnet-*", ["snf_routed"]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(lab, damage):
    script, words = DAMAGE[damage]
    check(lab.a, status=0)
    before = settled(lab.a)
    lab.a.sh(script)
    # A link that was down lost what others had put on it; that is theirs to restore, here ours.
    check(lab.a, *words, status=1)
    repair(lab.a)
    check(lab.a, status=0)
    if damage == "IPv6 off":
        lab.a.sh(
            "cd /proc/sys/net/ipv6/conf; echo 0 > all/disable_ipv6; ip -6 addr replace fd00:1::1/64 dev eth9 nodad\n"
            "ip -6 route replace default via fd00:1::254; ip -6 addr replace ::1/128 dev lo"
        )
        repair(lab.a)
    else:
        same(without_anycast(before), without_anycast(settled(lab.a)))
    lab.forget_neighbours()
    guests = [guest for guest in lab.guests.values() if guest.host is lab.a]
    assert (
        reach(
            [(guest.node, target) for guest in guests for target in (GATEWAY4, GATEWAY6, WORLD4, WORLD6)]
            + [(lab.router, ip) for guest in guests for ip in guest.nic.ips]
            + [(lab.guests["a1"].node, ip) for ip in lab.guests["a2"].nic.ips]
        )
        == []
    )


def test_check_of_one_domain_and_as_json(lab):
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    lab.a.sh(f"ip route del {a1.ip4} table 222")
    try:
        assert lab.a.cli("check", a1.domain).returncode == 1
        assert lab.a.cli("check", a2.domain).returncode == 0
        done = lab.a.cli("check", "--json")
        assert done.returncode == 1 and a1.ip4 in json.dumps(json.loads(done.stdout))
        assert lab.a.cli("repair", a1.domain).returncode == 0
        done = lab.a.cli("check", "--json")
        assert done.returncode == 0
        json.loads(done.stdout)
    finally:
        repair(lab.a)


ORPHANS = {
    "route": ("ip route add 192.0.2.99 dev tap-a1 table 222 proto 86", ["192.0.2.99"]),
    "IPv6 route": ("ip -6 route add 2001:db8::9999 dev tap-a1 table 222 proto 86", ["2001:db8::9999"]),
    "route in another table": ("ip route add 198.18.7.0/24 dev up0 table 777 proto 86", ["198.18.7.0/24"]),
    "rule": ("ip rule add from 198.18.0.0/15 lookup 222 pref 22001 protocol 86", ["198.18.0.0/15"]),
    "nft elements": (
        "nft add element inet vmnet sources4 '{ \"tap-zz\" . 52:54:00:00:00:99 . 192.0.2.99 }'\n"
        "nft add element inet vmnet guarded '{ \"tap-zz\" }'\n"
        "nft add element arp vmnet arp_source '{ \"tap-zz\" : 192.0.2.1 }'",
        ["tap-zz", "192.0.2.99"],
    ),
    "table name": ("echo 777 old > /etc/iproute2/rt_tables.d/vmnet-old.conf", ["table-name 777 old"]),
    "host name": (
        "mkdir -p /run/vmnet-hosts; echo 192.0.2.99 web > /run/vmnet-hosts/tap-zz",
        ["host-name tap-zz"],
    ),
}


@pytest.mark.parametrize("orphan", ORPHANS)
def test_orphans(lab, orphan):
    """What carries our mark but is in no record (a hook was killed before it could write one) is found and removed."""
    script, words = ORPHANS[orphan]
    before = settled(lab.a)
    lab.a.sh(script)
    check(lab.a, *words, status=1)
    repair(lab.a)
    check(lab.a, status=0)
    same(before, settled(lab.a))


def test_the_name_of_a_table_does_not_outlive_its_network():
    """A reboot leaves what is in /etc, and no records. While the network is declared the file waits for its next guest."""
    with Single() as one:
        nic, file = routed(10), "/etc/iproute2/rt_tables.d/vmnet-snf_routed.conf"
        one.tap(nic.tap, nic.mac)
        before = one.state()
        one.start("dom", nic)
        text = one.host.path(file).read_text()
        one.stop("dom", nic)
        same(before, one.state())
        one.host.write(file, text)
        one.host.write("/etc/iproute2/rt_tables.d/vmnet-mine.conf", "# of the admin\n")
        check(one.host, status=0)
        repair(one.host)
        assert one.host.path(file).read_text() == text
        one.host.config(LAN)
        check(one.host, "table-name 222 snf_routed", "in no record", f"rm -f {file}", status=1)
        repair(one.host)
        check(one.host, status=0)
        assert sorted(one.host.sh("ls /etc/iproute2/rt_tables.d").split()) == ["admin.conf", "vmnet-mine.conf"]


def test_what_others_did_is_not_drift(lab):
    """Routes, rules, neighbours and tables of an admin, also in our table: not listed, and not touched by `repair`."""
    lab.a.sh(
        "ip route add 198.18.0.0/15 dev eth9 table 222; ip rule add from 10.9.0.0/16 lookup 100 pref 100\n"
        "ip -6 neigh add proxy 2001:db8::abcd dev up0; nft add table inet theirs; ip route add 198.19.7.0/24 dev up0"
    )
    try:
        before = settled(lab.a)
        check(lab.a, status=0)
        repair(lab.a)
        same(before, settled(lab.a))
    finally:
        lab.a.sh(
            "ip route del 198.18.0.0/15 dev eth9 table 222; ip rule del pref 100\n"
            "ip -6 neigh del proxy 2001:db8::abcd dev up0; nft delete table inet theirs\n"
            "ip route del 198.19.7.0/24 dev up0"
        )


def test_a_domain_that_is_gone(lab):
    """Its tap vanished and no clean-up ever came: `check` says so, `repair` removes what it left, the others stay."""
    before = settled(lab.a)
    a3 = lab.guest("a3", lab.a, 13)
    try:
        lab.start(a3)
        assert reach([(a3.node, GATEWAY4), (a3.node, GATEWAY6)]) == []
        lab.a.run(f"ip link del {a3.nic.tap}")
        check(lab.a, a3.domain, status=1)
        repair(lab.a)
        check(lab.a, status=0)
        same(before, settled(lab.a))
        assert a3.domain not in lab.a.cli("status").stdout
    finally:
        del lab.guests["a3"]


def test_the_last_domain_is_gone():
    """And with it everything of the network."""
    with Single() as one:
        nics = [routed(10), bridged(10)]
        before = one.state()
        for nic in nics:
            one.tap(nic.tap, nic.mac, bridge=nic.bridge)
        one.start("dom", *nics)
        for nic in nics:
            one.untap(nic.tap)
        check(one.host, "dom", status=1)
        repair(one.host)
        check(one.host, status=0)
        same(before, one.state())
        one.stop("dom", *nics)
        same(before, one.state())


def test_everything_at_once():
    """A firewall reload, a network restart and a lost state directory on one evening."""
    with Single(PUBLIC) as one:
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        up = one.state()
        one.host.sh(
            "nft delete table inet vmnet; nft delete table arp vmnet\n"
            "ip route flush proto 86 table all; ip -6 route flush proto 86 table all\n"
            "for f in -4 -6; do for p in 22000 22001 22002; do while ip $f rule del pref $p 2>/dev/null; do :; done; done; done\n"
            "ip neigh flush nud permanent dev tap10; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding"
        )
        check(one.host, "dom", status=1)
        repair(one.host)
        same(up, one.state())


def test_bridge_damage():
    with Single() as one:
        nic = bridged(10)
        one.tap(nic.tap, nic.mac, bridge="br0")
        one.start("dom", nic)
        up = one.state()
        check(one.host, status=0)
        one.host.sh(f"ip link set {nic.tap} nomaster; ip link set {nic.tap} mtu 1400; ip link set {nic.tap} down")
        check(one.host, nic.tap, status=1)
        repair(one.host)
        check(one.host, status=0)
        same(up, one.state())
