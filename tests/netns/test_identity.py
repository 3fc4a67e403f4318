"""Plug then unplug is identity: the full dump of the host is the one before, whatever happened in between."""

from __future__ import annotations

import pytest
from lab import frames
from lab.domains import Interface, domain_toml, domain_xml
from lab.guest import Nic, tapped
from lab.nodes import dump
from lab.routed import GATEWAY4, GATEWAY6, PUBLIC, call, eventually, reach, send
from lab.single import LAN, V4, V6, Single, bridged, routed, same

MODES = {
    "routed-4": (V4, [routed(10, v6=False)], [routed(20, v6=False)]),
    "routed-6": (V6, [routed(10, v4=False)], [routed(20, v4=False)]),
    "routed-46": (PUBLIC, [routed(10)], [routed(20)]),
    "routed-open": (PUBLIC, [routed(10, filter=False)], [routed(20)]),
    "bridged": (LAN, [bridged(10)], [bridged(20)]),
    "routed+bridged": (PUBLIC + LAN, [routed(10), bridged(10)], [routed(20), bridged(20)]),
}


def plugged_taps(one: Single, nics: list[Interface]) -> None:
    for nic in nics:
        one.tap(nic.tap, nic.mac, bridge=nic.bridge)


ROUNDS = [(mode, "first", tap) for mode in MODES for tap in ("stays", "vanishes")]
ROUNDS += [(mode, "second", tap) for mode in ("routed-46", "routed+bridged") for tap in ("stays", "vanishes")]


@pytest.mark.parametrize("mode, guest, tap", ROUNDS)
def test_identity(mode, guest, tap):
    config, nics, others = MODES[mode]
    with Single(config) as one:
        if guest == "second":
            plugged_taps(one, others)
            one.start("other", *others)
        without = one.state()
        plugged_taps(one, nics)
        before = one.state()
        one.start("dom", *nics)
        if mode != "bridged":
            assert dump(one.host) != before, "the hook changed nothing"
        if tap == "vanishes":
            for nic in nics:
                one.untap(nic.tap)
        one.stop("dom", *nics)
        same(without if tap == "vanishes" else before, one.state())


@pytest.mark.parametrize(
    "how, tap",
    [
        ("config deleted", "stays"),
        ("config deleted", "vanishes"),
        ("config edited", "stays"),
        ("config edited", "vanishes"),
        ("network renamed", "stays"),
        ("config broken", "stays"),
        ("config broken", "vanishes"),
        ("no metadata", "vanishes"),
        ("release alone", "stays"),
        ("release alone", "vanishes"),
        ("stopped alone", "vanishes"),
    ],
)
def test_identity_whatever_the_admin_did_meanwhile(how, tap):
    config, nics, _ = MODES["routed+bridged"]
    with Single(config) as one:
        without = one.state()
        plugged_taps(one, nics)
        before = one.state()
        one.start("dom", *nics)
        if tap == "vanishes":
            for nic in nics:
                one.untap(nic.tap)
        path = one.host.path("/etc/vmnet-hooks/vmnet.toml")
        if how == "config deleted":
            path.unlink()
        elif how == "config edited":
            one.host.config(
                config.replace("222", "333")
                .replace('"up0"', '"eth9"')
                .replace('"br0"', '"br7"')
                .replace("192.0.2", "198.51.100")
                .replace("2001:db8::", "2001:db8:1::")
            )
        elif how == "network renamed":
            one.host.config(config.replace("networks.public", "networks.other").replace("networks.lan", "networks.office"))
        elif how == "config broken":
            one.host.config("this is [not TOML")
        ops = {"release alone": ["release"], "stopped alone": ["stopped"]}.get(how, ["stopped", "release"])
        for op in ops:
            call(one.host, "dom", op, *nics, metadata=how != "no metadata", check=how != "config broken")
        same(without if tap == "vanishes" else before, one.state())


HALF = {
    "nft": "nft delete table inet vmnet; nft delete table arp vmnet",
    "rules": "ip rule del pref 22000; ip -6 rule del pref 22000",
    "all rules": "for f in -4 -6; do for p in 22000 22001 22002; do"
    " while ip $f rule del pref $p 2>/dev/null; do :; done; done; done",
    "guest routes": "ip route del 192.0.2.10 table 222; ip -6 route del 2001:db8::10 table 222",
    "default routes": "ip route del default table 222; ip -6 route del default table 222",
    "main routes": "ip route del 192.0.2.0/24; ip -6 route del 2001:db8::/64",
    "proxies": "ip -6 neigh del proxy 2001:db8::10 dev up0; ip -6 neigh del proxy 2001:db8::1 dev tap10",
    "neighbours": "ip neigh del 192.0.2.10 dev tap10; ip -6 neigh del 2001:db8::10 dev tap10",
    "sysctls": "echo 0 > /proc/sys/net/ipv4/conf/tap10/proxy_arp; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    "table name": "rm /etc/iproute2/rt_tables.d/vmnet-*",
    "elements": "nft flush map arp vmnet arp_source; for s in sources4 guarded; do nft flush set inet vmnet $s; done",
}


@pytest.mark.parametrize("half", HALF)
def test_identity_when_half_was_removed_by_hand(half):
    with Single(PUBLIC) as one:
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        before = one.state()
        one.start("dom", nic)
        one.host.sh(HALF[half])
        one.stop("dom", nic)
        same(before, one.state())


def test_tap_that_was_down_and_odd():
    """A persistent tap with a state of its own (down, other MAC, other sysctls) gets all of it back."""
    with Single(PUBLIC) as one:
        nic = routed(10)
        one.tap(nic.tap, "52:54:00:11:22:33", up=False)
        one.host.sh(
            "cd /proc/sys/net\necho 1 > ipv4/conf/tap10/send_redirects; echo 2 > ipv4/conf/tap10/rp_filter\n"
            "echo 7 > ipv4/neigh/tap10/proxy_delay; echo 2 > ipv6/conf/tap10/accept_ra; ip link set tap10 mtu 1400"
        )
        before = one.state()
        one.start("dom", nic)
        assert "UP" in one.host.run("ip link show tap10").stdout.split(">")[0]
        one.stop("dom", nic)
        same(before, one.state())


def test_tap_without_a_carrier():
    """Nobody holds the persistent tap open yet."""
    with Single(PUBLIC) as one:
        nic = routed(10)
        one.tap(nic.tap, nic.mac, held=False)
        before = one.state()
        one.start("dom", nic)
        one.stop("dom", nic)
        # The kernel adds this route with the first IPv6 address of a link, and drops it only when the link goes down: a
        # link with a carrier has it anyway.
        ours = [line for line in one.state().splitlines() if "ff00::/8 dev tap10" not in line]
        same(before, "\n".join(ours))


def test_applying_twice_changes_nothing():
    config, nics, others = MODES["routed+bridged"]
    with Single(config) as one:
        plugged_taps(one, nics)
        plugged_taps(one, others)
        before = one.state()
        one.start("dom", *nics)
        one.start("other", *others)
        after = one.state()
        one.start("dom", *nics)
        same(after, one.state())
        call(one.host, "dom", "reconnect", *nics)
        same(after, one.state())
        assert one.host.cli("repair").returncode == 0
        same(after, one.state())
        one.stop("dom", *nics)
        one.stop("dom", *nics)
        one.stop("other", *others)
        same(before, one.state())


def test_second_guest_leaves_the_first_alone():
    """What belongs to the network stays until its last guest has gone, in either order."""
    with Single(PUBLIC) as one:
        first, second = routed(10), routed(20)
        plugged_taps(one, [first, second])
        nothing = one.state()
        one.start("dom1", first)
        only_first = one.state()
        one.start("dom2", second)
        one.stop("dom1", first)
        one.start("dom1", first)
        one.stop("dom2", second)
        same(only_first, one.state())
        one.stop("dom1", first)
        same(nothing, one.state())


def refused(done, *words: str) -> None:
    """The hook failed with one clear line that holds all the words."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode in (1, 2), (done.returncode, done.stderr)
    assert len(lines) == 1 and lines[0].startswith("vmnet-hook: "), done.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


@pytest.mark.parametrize("what", ["IPv4", "IPv6", "MAC"])
def test_two_guests_never_share(what):
    """One address or one MAC twice in a network: a clear error that names the other guest, and nothing is changed."""
    first = routed(10)
    second = {
        "IPv4": Interface("52:54:00:aa:00:14", "tap20", "public", ("192.0.2.10", "2001:db8::20")),
        "IPv6": Interface("52:54:00:aa:00:14", "tap20", "public", ("192.0.2.20", "2001:db8::10")),
        "MAC": Interface(first.mac, "tap20", "public", ("192.0.2.20", "2001:db8::20")),
    }[what]
    with Single(PUBLIC) as one:
        plugged_taps(one, [first, second])
        nothing = one.state()
        one.start("first-guest", first)
        before = one.state()
        done = one.host.hook("second-guest", "start", "begin", domain_xml("second-guest", second, stage="start"))
        refused(done, "first-guest", {"IPv4": "192.0.2.10", "IPv6": "2001:db8::10", "MAC": first.mac}[what])
        same(before, one.state())
        # libvirt now calls the clean-up of the guest that never was.
        one.stop("second-guest", second)
        same(before, one.state())
        one.stop("first-guest", first)
        same(nothing, one.state())


def test_stale_state_of_the_same_tap_name_is_reconciled():
    """libvirtd was killed: no clean-up ever came for dom1, and libvirt gives its tap's name to dom2."""
    with Single(PUBLIC) as one:
        nothing = one.state()
        old, new = routed(10, "tapx"), routed(20, "tapx")
        one.tap("tapx", old.mac)
        one.start("dom1", old)
        one.untap("tapx")
        one.tap("tapx", new.mac)
        one.start("dom2", new)
        state = one.state()
        for word in ("192.0.2.10 ", "2001:db8::10 ", old.mac):
            assert word not in state, f"{word} of dom1 is still there:\n" + "\n".join(
                line for line in state.splitlines() if word in line
            )
        # The late clean-up of dom1 names what is now dom2's tap.
        one.stop("dom1", old)
        same(state, one.state())
        one.untap("tapx")
        one.stop("dom2", new)
        same(nothing, one.state())


def test_the_same_domain_starts_again_without_ever_having_stopped():
    """With another address, as after an edit of its metadata."""
    with Single(PUBLIC) as one:
        nothing = one.state()
        one.tap("tapx", routed(10).mac)
        one.start("dom", routed(10, "tapx"))
        one.untap("tapx")
        one.tap("tapx", routed(20).mac)
        one.start("dom", routed(20, "tapx"))
        assert "192.0.2.10 " not in dump(one.host)
        one.untap("tapx")
        one.stop("dom", routed(20, "tapx"))
        same(nothing, one.state())


def test_default_route_from_a_router_advertisement_survives():
    """Forwarding makes the kernel drop default routes learnt by RA; those of other interfaces must stay, before and
    after."""
    with Single(PUBLIC) as one:
        host = one.host
        host.run("ip -6 route del default")
        advertisement = frames.router_advertisement("02:00:00:00:08:01", "fe80::ff:fe00:801", "2001:db8:77::")

        def learnt() -> bool:
            send(one.peer, "eth9", advertisement)
            return "default via fe80::ff:fe00:801 dev eth9 proto ra" in host.run("ip -6 route").stdout

        assert eventually(learnt)
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        before = one.state()
        one.start("dom", nic)
        now = host.run("ip -6 route").stdout
        assert "default via fe80::ff:fe00:801 dev eth9 proto ra" in now, now
        # And it is still renewed: a route that only survives dies with its lifetime.
        host.run("ip -6 route del default via fe80::ff:fe00:801 dev eth9")
        assert eventually(learnt), "router advertisements are not accepted while the guest runs"
        one.stop("dom", nic)
        same(before, one.state())
        host.run("ip -6 route del default via fe80::ff:fe00:801 dev eth9")
        assert eventually(learnt), "router advertisements are not accepted afterwards"


def test_forwarding_of_other_interfaces_is_not_switched_on():
    """net.ipv6.conf.all.forwarding writes to every device; the others keep their own value."""
    with Single(PUBLIC) as one:
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        forwarding = {
            dev: (one.host.sysctl(f"ipv4/conf/{dev}/forwarding"), one.host.sysctl(f"ipv6/conf/{dev}/forwarding"))
            for dev in ("up0", "tap10", "eth9", "br0", "lo")
        }
        # eth9 had IPv4 forwarding on before.
        assert forwarding == {
            "up0": ("1", "1"),
            "tap10": ("1", "1"),
            "eth9": ("1", "0"),
            "br0": ("0", "0"),
            "lo": ("0", "0"),
        }


def test_ifup_and_ifdown():
    """Plain QEMU knows a tap's name and nothing else: domains.d tells the rest."""
    with Single(PUBLIC + LAN) as one:
        nics = [routed(10), Interface(bridged(10).mac, "lan-tap10", "lan")]
        without = one.state()
        for nic in nics:
            one.tap(nic.tap, up=False)
        before = one.state()
        one.host.domain_toml("dom", domain_toml(*nics))
        for nic in nics:
            done = one.host.ifup(nic.tap)
            assert done.returncode == 0, done.stderr
        assert "192.0.2.10 dev tap10" in one.host.run("ip route show table 222").stdout
        assert "master br0" in one.host.run("ip link show lan-tap10").stdout
        for nic in nics:
            done = one.host.ifdown(nic.tap)
            assert done.returncode == 0, done.stderr
        same(before, one.state())
        for nic in nics:
            assert one.host.ifup(nic.tap).returncode == 0
            one.untap(nic.tap)
            assert one.host.ifdown(nic.tap).returncode == 0
        same(without, one.state())


def test_domains_d_instead_of_metadata():
    with Single(PUBLIC) as one:
        nic = routed(10)
        one.host.domain_toml("dom", domain_toml(nic))
        one.tap(nic.tap, nic.mac)
        before = one.state()
        one.start("dom", nic, metadata=False)
        assert "192.0.2.10 dev tap10" in one.host.run("ip route show table 222").stdout
        one.host.domain_toml("dom", None)
        one.stop("dom", nic, metadata=False)
        same(before, one.state())


def test_real_tap_with_a_guest_behind_it():
    """A real tap whose other end a process holds, as QEMU does: packets flow, and its death takes nothing else
    along."""
    with Single(PUBLIC) as one:
        router = one.peer
        one.segment.plug(router, "gw", "02:00:00:00:00:01")
        router.sh(f"ip addr add {GATEWAY4}/24 dev gw; ip -6 addr add {GATEWAY6}/64 dev gw nodad")
        nic = routed(10)
        before = one.state()
        with tapped(one.host, nic.tap, "guest", Nic(nic.mac, nic.ips[0], 24, GATEWAY4, nic.ips[1], GATEWAY6)) as guest:
            one.start("dom", nic)
            assert reach([(guest, GATEWAY4), (guest, GATEWAY6)]) == []
        one.untap(nic.tap)
        one.stop("dom", nic)
        same(before, one.state())
