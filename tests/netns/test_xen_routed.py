"""vif-route and vif-nat: a guest of Xen's behind host routes, a routed network of vmnet.toml, or network address translation."""

from __future__ import annotations

import re

import pytest
from lab.capture import Capture
from lab.guest import Nic, configure
from lab.nodes import Node
from lab.routed import PUBLIC, eventually, ping, reach
from lab.single import same
from lab.tap import __file__ as TAP
from lab.xenhost import (
    OWN,
    OWN6,
    OWN_MAC,
    UPSTREAM,
    UPSTREAM6,
    UPSTREAM_MAC,
    WORLD,
    WORLD6,
    XenHost,
    nothing_stays,
    offline,
    online,
    plugged,
    refused,
    succeeded,
)
from lab.xenstore import Vif

GUEST, GUEST6 = "10.0.1.10", "fd00:1::10"
GATEWAY6 = "fe80::fcff:ffff:feff:ffff"
"""The link-local address that goes with the MAC of every vif: the same for a guest wherever it runs."""


@pytest.fixture
def one():
    with XenHost() as host:
        yield host


def guest(
    one: XenHost, domid: int = 1, last: int = 10, script: str = "vmnet-vif-route", gateway6: str = OWN6, **keys: object
) -> Vif:
    """A vif whose guest has an address of the host's own subnet, and the host as gateway."""
    vif = one.vif(domid, script=script, **{"ip": f"10.0.1.{last} fd00:1::{last}", **keys})
    vif.configure(f"10.0.1.{last}", 24, OWN, f"fd00:1::{last}", gateway6)
    return vif


def talks(one: XenHost, vif: Vif, last: int = 10) -> None:
    """Both ways, over the host's subnet and beyond."""
    pairs = [(vif.guest, target) for target in (UPSTREAM, UPSTREAM6, WORLD, WORLD6, OWN, OWN6)]
    pairs += [(one.peer, f"10.0.1.{last}"), (one.peer, f"fd00:1::{last}"), (one.host, f"10.0.1.{last}")]
    assert eventually(lambda: reach(pairs, wait=1) == []), reach(pairs, wait=1)


def routes(one: XenHost, family: int = 4) -> list[str]:
    """The main table's routes that lead to guests."""
    shown = one.host.run(f"ip -N -{family} route show table main").stdout
    return [" ".join(line.split()) for line in shown.splitlines() if re.search(r" dev (vif|foo)", line)]


# --- host routes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gateway6", [OWN6, GATEWAY6], ids=["the host's address", "the vif's"])
@pytest.mark.parametrize("netdev", ["eth9", ""], ids=["gatewaydev", "the default route's"])
def test_a_guests_life(one, netdev, gateway6):
    with nothing_stays(one):
        vif = guest(one, gateway6=gateway6, **({"gatewaydev": netdev} if netdev else {}))
        online(vif)
        [route] = routes(one)
        assert re.match(rf"{GUEST} dev vif1.0 .*src {OWN} .*metric 2\b", route), route
        assert any(re.match(rf"{GUEST6} dev vif1.0 .*metric 2\b", line) for line in routes(one, 6)), routes(one, 6)
        assert re.search(rf"inet {OWN}/32 ", one.host.run("ip addr show dev vif1.0").stdout)
        one.peer.run("ip neigh flush dev eth9", check=False)
        with Capture(one.peer, "eth9", "arp or icmp6") as seen:
            talks(one, vif)
        assert seen.having(f"{OWN_MAC} > {UPSTREAM_MAC}", f"Reply {GUEST} is-at {OWN_MAC}"), str(seen)
        assert seen.having(f"{OWN_MAC} > ", f"neighbor advertisement, .*tgt is {GUEST6}"), str(seen)
        offline(vif)


def test_only_the_guests_addresses_are_answered_for(one):
    vif = guest(one)
    with plugged(one, vif), Capture(one.peer, "eth9", "arp or icmp6") as seen:
        assert ping(one.peer, "10.0.1.77", 1) is None and ping(one.peer, "fd00:1::77", 1) is None
        assert ping(one.peer, GUEST, 2) is not None
    assert seen.having(f"Reply {GUEST} is-at")
    assert not seen.having("Reply 10.0.1.77") and not seen.having("neighbor advertisement", "fd00:1::77"), str(seen)


def test_announced(one):
    """Who had the address elsewhere in its neighbour table learns of it at once."""
    one.peer.sh(f"ip neigh replace {GUEST} lladdr 02:00:00:00:00:77 dev eth9 nud stale")
    vif = guest(one)
    with Capture(one.peer, "eth9", "arp or icmp6") as seen:
        online(vif)
    assert seen.having(f"{OWN_MAC} > ", f"(Request who-has|Reply) {GUEST} "), str(seen)
    assert seen.having(f"{OWN_MAC} > ", f"neighbor advertisement.*{GUEST6}"), str(seen)
    assert f"lladdr {OWN_MAC}" in one.peer.run(f"ip neigh show {GUEST}").stdout
    offline(vif)


def test_source_filter(one):
    """A guest sends from what `ip` says, or not at all."""
    vif = guest(one)
    with plugged(one, vif):
        talks(one, vif)
        vif.guest.sh("ip addr add 10.0.1.66/24 dev eth0; ip -6 addr add fd00:1::66/128 dev eth0 nodad")
        with Capture(one.peer, "eth9", "host 10.0.1.66 or host fd00:1::66") as seen:
            for source, target in (("10.0.1.66", UPSTREAM), ("fd00:1::66", UPSTREAM6)):
                vif.guest.run(["ping", "-c", "2", "-i", "0.2", "-W", "1", "-I", source, target], check=False)
        assert seen.lines == [], str(seen)


def test_prefixes(one):
    """ADDR/LEN is the subnet, with host bits or without: what Xen's documentation shows, and what vif-nat prints."""
    with nothing_stays(one):
        vif = one.vif(script="vmnet-vif-route", ip="10.0.1.10 198.18.5.0/29 2001:db8:5::/64 10.0.1.12/24")
        online(vif)
        assert sorted(line.split()[0] for line in routes(one)) == ["10.0.1.10", "10.0.1.12", "198.18.5.0/29"]
        assert "2001:db8:5::/64" in [line.split()[0] for line in routes(one, 6)]
        vif.configure("198.18.5.1", 29)
        vif.guest.sh(f"ip addr add {GUEST}/24 dev eth0; ip route add default via {OWN}")
        one.peer.run(f"ip route add 198.18.5.0/29 via {OWN}")
        assert eventually(lambda: ping(one.peer, "198.18.5.1", 1) is not None)
        one.peer.run(f"ip route del 198.18.5.0/29 via {OWN}")
        offline(vif)


def test_two_guests(one):
    """They reach each other, and the first one's end changes nothing for the second."""
    with nothing_stays(one):
        second = guest(one, 2, 11)
        with plugged(one, second):
            alone = one.state()
            first = guest(one)
            online(first)
            assert eventually(lambda: reach([(first.guest, "10.0.1.11"), (second.guest, "10.0.1.10")], wait=1) == [])
            offline(first)
            same(alone, one.state())
            talks(one, second, 11)


def test_two_guests_never_share(one):
    first, second = guest(one, name="first-guest"), guest(one, 2)
    online(first)
    before = one.state()
    refused(second, second.call("online"), GUEST, "first-guest")
    same(before, one.state())
    talks(one, first)


def test_vifname(one):
    with nothing_stays(one):
        vif = guest(one, vifname="foo0")
        online(vif)
        assert [line.split()[2] for line in routes(one)] == ["foo0"]
        talks(one, vif)
        offline(vif)


@pytest.mark.parametrize("first", ["vif", "tap"])
def test_hvm(one, first):
    """Before the guest's drivers are loaded it is reached through its emulated card: by the route with the better metric."""
    with nothing_stays(one):
        vif = guest(one, hvm=True)
        online(vif)
        node = one.stack.enter_context(Node("emulated"))
        one.host.run(["ip", "tuntap", "add", vif.tap, "mode", "tap"])
        one.host.popen(["/usr/bin/python3", "-IS", TAP, vif.tap, node.pid])
        node.sh("for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && exit 0; sleep 0.05; done; exit 1")
        node.run(["ip", "link", "set", "eth0", "address", vif.mac])
        configure(node, Nic(vif.mac, GUEST, 24, OWN, GUEST6, OWN6))
        succeeded(vif.call("add"))
        metrics = {line.split()[2]: line.rpartition("metric ")[2] for line in routes(one)}
        assert metrics == {"vif1.0": "2", "vif1.0-emu": "1"}
        pairs = [(node, UPSTREAM), (node, UPSTREAM6), (one.peer, GUEST), (one.peer, GUEST6)]
        assert eventually(lambda: reach(pairs, wait=1) == []), reach(pairs, wait=1)
        # The guest unplugs its emulated card and goes on with the other one.
        node.close()
        one.host.run(["ip", "link", "del", vif.tap])
        if first == "tap":
            succeeded(vif.call("remove"))
        talks(one, vif)
        vif.leave()
        for command in ("offline", "remove") if first == "vif" else ("offline",):
            succeeded(vif.call(command))
        vif.forget()


# --- a routed network of vmnet.toml ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["network=", "bridge=", "bridge key", "subnet"])
def test_routed_network(one, how):
    """Found by name, or by the guest's first address: then it is the same as with any other hypervisor."""
    one.host.config(PUBLIC)
    with nothing_stays(one):
        keys = {"bridge": "public"} if how == "bridge key" else {}
        vif = one.vif(script="vmnet-vif-route", ip="192.0.2.10 2001:db8::10", **keys)
        online(vif, *([f"{how}public"] if how.endswith("=") else []))
        for family, address in ((4, "192.0.2.10"), (6, "2001:db8::10")):
            assert f"{address} dev vif1.0" in one.host.run(f"ip -{family} route show table 222").stdout
            assert "lookup snf_routed" in one.host.run(f"ip -{family} rule show").stdout
        assert routes(one) == []
        offline(vif)


def test_hostroute_as_a_network(one):
    """The same mode, declared."""
    one.host.config('[networks.hosting]\nmode = "hostroute"\nnetdev = "eth9"\n')
    with nothing_stays(one):
        vif = guest(one)
        online(vif, "network=hosting")
        assert "hosting" in one.host.cli("status").stdout
        talks(one, vif)
        offline(vif)


# --- vif-nat ---------------------------------------------------------------------------------------------------------


def nat(one: XenHost, domid: int = 7, devid: int = 0, gateway: str = "", address: str = "", **keys: object) -> Vif:
    vif = one.vif(domid, devid, script="vmnet-vif-nat", **keys)
    address = address or f"10.{domid // 256}.{domid % 256}.{devid + 1}"
    head, _, last = address.rpartition(".")
    vif.configure(address, 16, gateway or f"{head}.{int(last) + 127}")
    return vif


def test_nat(one):
    """The guest's address is made of its domain's number; outside it is the host's."""
    with nothing_stays(one):
        vif = nat(one)
        online(vif)
        with Capture(one.peer, "eth9", "icmp") as seen:
            assert eventually(lambda: reach([(vif.guest, WORLD), (vif.guest, "10.0.7.128")], wait=1) == [])
        assert seen.having(f"{OWN} > {WORLD}: ICMP echo request") and not seen.having("10.0.7.1 > "), str(seen)
        assert "inet 10.0.7.128/" in one.host.run("ip addr show dev vif7.0").stdout
        offline(vif)


def test_nat_of_a_high_domid_and_a_second_vif(one):
    with nothing_stays(one):
        first, second = nat(one, 700), nat(one, 700, 1)
        for vif in (first, second):
            online(vif)
        found = one.host.run("ip addr show").stdout
        assert "inet 10.2.188.128/" in found and "inet 10.2.188.129/" in found
        assert [line.split()[0] for line in routes(one)] == ["10.2.188.1", "10.2.188.2"]
        for vif in (first, second):
            offline(vif)


def test_nat_of_a_given_address(one):
    with nothing_stays(one):
        vif = nat(one, ip="172.31.5.9", address="172.31.5.9")
        online(vif)
        assert eventually(lambda: reach([(vif.guest, WORLD), (vif.guest, "172.31.5.136")], wait=1) == [])
        offline(vif)


def test_nat_hosts_file(one):
    """For dnsmasq's hostsdir: there while the guest is."""
    vif = nat(one, name="web")
    file = one.host.path("/run/vmnet-hosts/vif7.0")
    with plugged(one, vif):
        assert file.read_text() == "10.0.7.1 web\n"
    assert not file.exists()


def test_nat_leaves_others_alone(one):
    """Masquerading is for the guest's address alone."""
    one.peer.run("ip route add 192.0.2.0/24 via 10.0.1.1")
    vif = nat(one)
    with plugged(one, vif):
        one.host.run("ip addr add 192.0.2.99/32 dev lo")
        with Capture(one.peer, "eth9", "icmp") as seen:
            one.host.run(["ping", "-c", "1", "-W", "2", "-I", "192.0.2.99", WORLD])
        assert seen.having(f"192.0.2.99 > {WORLD}")
        one.host.run("ip addr del 192.0.2.99/32 dev lo")
