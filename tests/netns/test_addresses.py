"""Whose address it is: next hops of the host, addresses that another machine has, senders of ARP requests."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
from lab import frames
from lab.agent import Agent
from lab.capture import Capture
from lab.domains import Interface
from lab.guest import Nic, wired
from lab.nodes import CommandFailed, Node
from lab.routed import ARP_SOURCE, GATEWAY4, GATEWAY6, PUBLIC, WORLD4, WORLD6, call, eventually, ping, send
from lab.single import Single, routed, same

HOSTING = '[networks.hosting]\nmode = "hostroute"\nnetdev = "eth9"\n'
WITHOUT = HOSTING + "probe = false\n"
UPSTREAM, UPSTREAM6 = "10.0.1.254", "fd00:1::254"
OTHER_MAC = "02:00:00:00:05:01"
BY_DAEMON = "ip neigh add 10.0.1.7 lladdr 02:00:00:00:00:07 dev eth9; ip route add 10.9.0.0/16 via 10.0.1.7 proto 186"


def hosted(*ips: str, last: int = 10) -> Interface:
    return Interface(f"52:54:00:aa:00:{last:02x}", f"tap{last}", "hosting", ips)


def refused(one: Single, nic: Interface, op: str = "start") -> str:
    with pytest.raises(CommandFailed) as caught:
        call(one.host, "dom", op, nic)
    return str(caught.value)


# --- next hops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "address", "name"),
    [
        ("", UPSTREAM, "default dev eth9"),
        ("", UPSTREAM6, "default dev eth9"),
        ("", "10.0.1.252/30", "default dev eth9"),
        ("", "10.0.1.128/25", "default dev eth9"),
        ("", "fd00:1::/64", "default dev eth9"),
        ("ip route add 10.9.0.0/16 via 10.0.1.7", "10.0.1.7", "10.9.0.0/16 dev eth9"),
        ("ip route add 10.9.0.0/16 via 10.0.1.7 proto dhcp table 100", "10.0.1.7", "10.9.0.0/16 dev eth9 table 100"),
        ("ip route add 10.9.0.0/16 nexthop via 10.0.1.6 nexthop via 10.0.1.7", "10.0.1.7", "10.9.0.0/16 dev eth9"),
        ("ip -6 route add fd09::/48 nexthop via fd00:1::6 nexthop via fd00:1::7", "fd00:1::7", "fd09::/48 dev eth9"),
        ("ip route add 10.9.0.0/16 via inet6 fd00:1::7 dev eth9", "fd00:1::7", "10.9.0.0/16 dev eth9"),
        # Of a routing daemon, which has talked to it; one that is on no subnet of the host.
        (BY_DAEMON, "10.0.1.7", "10.9.0.0/16 dev eth9"),
        (BY_DAEMON, "10.0.1.4/30", "10.9.0.0/16 dev eth9"),
        ("ip route replace default via 172.31.1.1 dev eth9 onlink proto 186", "172.31.1.1", "default dev eth9"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("resident", [False, True], ids=["hook", "agent"])
def test_a_next_hop_of_the_host_is_no_guests_address(route, address, name, resident):
    with Single(WITHOUT, foreign=False) as one, ExitStack() as stack:
        one.peer.sh(f"ip addr add {UPSTREAM}/24 dev eth9; ip -6 addr add {UPSTREAM6}/64 dev eth9 nodad")
        one.host.sh(route)
        nic = hosted("10.0.1.50", address) if "/" in address else hosted(address)
        one.tap(nic.tap, nic.mac)
        if resident:
            stack.enter_context(Agent(one.host))
        before = one.state()
        with Capture(one.peer, "eth9", "arp or icmp6") as seen:
            said = refused(one, nic)
        what = rf"{address}, a guest's prefix, contains \S+," if "/" in address else f"{address}, a guest's address, is"
        assert re.search(f"dom: {what} the next hop of the host's route {name}; give the guest another", said), said
        assert not seen.having(f"{address.partition('/')[0]}\\b.*{address.partition('/')[0]}\\b")
        same(before, one.state())
        assert ping(one.host, UPSTREAM) is not None
        # The remedy.
        other = hosted("fd00:1::51" if ":" in address else "10.0.1.51")
        one.start("dom", other)


KEPT = {
    "on another link": ("ip addr add 10.55.0.1/32 dev up0", "10.55.0.1", "is an address of the host"),
    "IPv6, on another link": ("ip addr add fd55::1/128 dev up0 nodad", "fd55::1", "is an address of the host"),
    "broadcast": ("", "10.0.1.255", "is a broadcast address of the host's subnets"),
    "broadcast of another link": ("ip addr add 10.55.0.1/24 brd + dev up0", "10.55.0.255", "is a broadcast address"),
}


@pytest.mark.parametrize("case", KEPT)
def test_an_address_whose_packets_the_host_keeps_is_no_guests(case):
    script, address, says = KEPT[case]
    with Single(WITHOUT, foreign=False) as one:
        one.host.sh(script)
        one.tap("tap10", hosted().mac)
        before = one.state()
        said = refused(one, hosted(address))
        assert f"dom: {address}, a guest's address, {says}" in said and "give the guest another" in said, said
        same(before, one.state())
        # The remedy.
        one.start("dom", hosted("10.0.1.51"))


def test_an_address_of_the_host_that_is_new_ends_no_guest():
    """A running guest is set up again by a hook that must not fail."""
    with Single(WITHOUT, foreign=False) as one:
        nic = hosted("10.0.1.9")
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        one.host.sh("ip addr add 10.0.1.9/32 dev up0")
        call(one.host, "dom", "reconnect", nic)
        assert "10.0.1.9: the kernel keeps packets from eth9" in one.host.cli("check").stdout


ANYCAST = "fd00:1::"
"""Of the routers of eth9's subnet: of this host, as soon as it forwards for a guest."""


@pytest.mark.parametrize("address", [ANYCAST, f"{ANYCAST}/120"])
def test_the_anycast_address_of_the_routers(address):
    """No remedy takes the rule of the host's own addresses away; a prefix has other addresses."""
    with Single(WITHOUT, foreign=False) as one, ExitStack() as stack:
        nic = hosted(address)
        stack.enter_context(wired(one.host, nic.tap, "guest", Nic(nic.mac, ip6="fd00:1::10", gateway6="fd00:1::1")))
        one.start("dom", nic)
        done = one.host.cli("check")
        if address == ANYCAST:
            assert done.returncode == 1 and "it is the anycast address of the routers" in done.stdout, done
            assert "give the guest another" in done.stdout and "rule del" not in done.stdout
        else:
            assert done.returncode == 0, done.stdout
            one.peer.sh("ip -6 addr add fd00:1::254/64 dev eth9 nodad; ip -6 route add fd00:1::10 via fd00:1::1")
            assert ping(one.peer, "fd00:1::10") is not None


@pytest.mark.parametrize(
    ("route", "address", "name"),
    [
        ("ip route replace default via 10.0.1.7 dev eth9 onlink", "10.0.1.7", "default dev eth9"),
        ("ip route add 10.9.0.0/16 via 10.0.1.7 dev eth9 onlink table 100", "10.0.1.7", "10.9.0.0/16 dev eth9 table 100"),
        ("ip route add 10.9.0.0/16 nexthop via 10.0.1.6 dev eth9 onlink nexthop via 10.0.1.7 dev eth9 onlink",)
        + ("10.0.1.4/30", "10.9.0.0/16 dev eth9"),
    ],
)
def test_a_next_hop_that_comes_later(route, address, name):
    """A route by a guest's own tap is one to the guest; any other is told of."""
    with Single(WITHOUT, foreign=False) as one:
        nic = hosted("10.0.1.50", address) if "/" in address else hosted(address)
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        one.host.sh("ip route add 10.8.0.0/16 via 10.0.1.7")
        assert one.host.cli("check").stdout == "ok\n"
        one.host.sh(route)
        done = one.host.cli("check")
        said = "contains 10.0.1." if "/" in address else f"{address}, a guest's address, is the next hop"
        assert done.returncode == 1 and said in done.stdout and f"the host's route {name} " in done.stdout, done.stdout
        # The remedy.
        call(one.host, "dom", "stopped", nic)
        one.start("dom", hosted("10.0.1.51"))
        assert one.host.cli("check").stdout == "ok\n"


def test_a_route_by_the_guest_itself_is_in_nobodys_way():
    with Single(HOSTING, foreign=False) as one:
        nic = hosted("10.0.1.50", "10.0.1.52")
        one.tap(nic.tap, nic.mac)
        one.start("dom", hosted("10.0.1.50"))
        one.host.sh("ip route add 10.9.0.0/16 via 10.0.1.50")
        one.start("dom", nic)
        assert "10.0.1.52" in one.host.run(["ip", "route"]).stdout


def test_a_change_of_routes_is_known_to_the_agent_at_once():
    with Single(WITHOUT, foreign=False) as one, Agent(one.host):
        nic = hosted("10.0.1.7")
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        one.stop("dom", nic)
        for add, remove in (
            ("ip route add 10.9.0.0/16 via 10.0.1.7", "ip route del 10.9.0.0/16"),
            ("ip route add 10.9.0.0/16 via 10.0.1.7", "ip route replace 10.9.0.0/16 via 10.0.1.8 proto 186"),
            ("ip route replace 10.9.0.0/16 via 10.0.1.7", "ip link set eth9 down; ip link set eth9 up"),
        ):
            one.host.sh(add)
            assert "is the next hop of" in refused(one, nic)
            one.host.sh(remove)
            one.start("dom", nic)
            one.stop("dom", nic)


def test_a_prefix_does_not_take_the_hosts_own_way_out():
    with Single(HOSTING, foreign=False) as one:
        nic = hosted("10.0.1.50", "2000::/3")
        one.tap(nic.tap, nic.mac)
        assert "2000::/3 is so large that the host would lose its own way out; name a prefix of /12 or longer" in refused(
            one, nic
        )
        one.start("dom", hosted("10.0.1.50", "2001:db8:50::/48"))


# --- duplicates ---------------------------------------------------------------------------------------------------------


def another(one: Single, *addresses: str) -> Node:
    """A third machine, on the segment of up0, that has these addresses."""
    node = one.stack.enter_context(Node("another"))
    one.segment.plug(node, "eth0", OTHER_MAC)
    node.sh("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
    for address in addresses:
        node.sh(f"ip addr add {address} dev eth0 {'nodad' if ':' in address else ''}")
    return node


@pytest.mark.parametrize("held", ["192.0.2.10/24", "2001:db8::10/64"])
@pytest.mark.parametrize("resident", [False, True], ids=["hook", "agent"])
def test_an_address_that_another_machine_has_is_refused(held, resident):
    with Single(PUBLIC) as one, ExitStack() as stack:
        other = another(one, held)
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        if resident:
            stack.enter_context(Agent(one.host))
        # The uplink is up, and has a sender.
        one.tap("tap20")
        one.start("first", routed(20))
        before = one.state()
        address = held.partition("/")[0]
        with Capture(other, "eth0", "arp or icmp6") as seen:
            said = refused(one, nic)
        assert f"dom: {address} is in use: {OTHER_MAC} answers for it on up0; give the guest another" in said
        assert not seen.having(f"tell {address}|advertisement.*tgt is {address}.*02:00:00:00:00:aa"), seen.lines
        same(before, one.state())
        # The remedies that the message names, one after the other.
        one.host.config(PUBLIC + "probe = false\n")
        one.start("dom", nic)
        one.stop("dom", nic)
        one.host.config(PUBLIC)
        assert "is in use" in refused(one, nic)
        other.sh("ip link set eth0 down")
        one.start("dom", nic)
        one.stop("dom", nic)


def test_an_address_behind_another_hypervisor_is_refused():
    """By proxy ARP and proxy ND."""
    with Single(HOSTING, foreign=False) as one:
        one.peer.sh("""
            echo 1 > /proc/sys/net/ipv4/conf/eth9/forwarding; echo 0 > /proc/sys/net/ipv4/neigh/eth9/proxy_delay
            ip neigh add proxy 10.0.1.50 dev eth9; ip route add 10.0.1.50 dev lan0
        """)
        nic = hosted("10.0.1.50")
        one.tap(nic.tap, nic.mac)
        assert "10.0.1.50 is in use: 02:00:00:00:08:01 answers for it on eth9" in refused(one, nic)


def test_what_the_guest_has_already_is_not_asked_for():
    with Single(PUBLIC) as one:
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        # Until the guest has been announced, the kernel goes on asking.
        assert eventually(lambda: not re.search(r"192\.0\.2\.10|2001:db8::10", one.host.run("ip neigh show dev up0").stdout))
        other = another(one, "192.0.2.10/24", "2001:db8::10/64")
        with Capture(other, "eth0", "arp or icmp6") as seen:
            call(one.host, "dom", "start", nic)
            call(one.host, "dom", "reconnect", nic)
        assert not seen.having("who-has 192.0.2.10|solicitation.*who has 2001:db8::10"), seen.lines


def test_a_guest_that_migrates_here_is_not_asked_for():
    with Single(PUBLIC) as one:
        other = another(one, "192.0.2.10/24", "2001:db8::10/64")
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        assert "is in use" in refused(one, nic)
        call(one.host, "dom", "migrate", nic)
        with Capture(other, "eth0", "arp or icmp6") as seen:
            call(one.host, "dom", "start", nic)
        assert not seen.having("who-has 192.0.2.10|solicitation.*who has 2001:db8::10"), seen.lines


@pytest.mark.parametrize("resident", [False, True], ids=["hook", "agent"])
def test_a_late_answer_stops_the_announcement(resident):
    with Single(PUBLIC.replace("\nipv6 =", "\n# ipv6 =")) as one, ExitStack() as stack:
        other = another(one)
        nic = routed(10, v6=False)
        one.tap(nic.tap, nic.mac)
        if resident:
            stack.enter_context(Agent(one.host))
        call(one.host, "dom", "start", nic)
        mine = "02:00:00:00:00:aa"
        reply = frames.arp(2, OTHER_MAC, "192.0.2.10", ARP_SOURCE, dst=mine, target_mac=mine)
        send(other, "eth0", reply)
        assert eventually(lambda: OTHER_MAC in one.host.run("ip neigh show 192.0.2.10 dev up0").stdout)
        with Capture(other, "eth0", "arp") as seen:
            call(one.host, "dom", "started", nic)
            Capture.pause(1.5)
        assert not seen.having("192.0.2.10 .*tell 192.0.2.10|Reply 192.0.2.10"), seen.lines
        found = one.host.cli("check")
        assert found.returncode == 1 and f"192.0.2.10 is in use: {OTHER_MAC} answers for it on up0" in found.stdout, found
        # The remedy: that machine (which the answer was all of) is stopped, and the guest is announced.
        with Capture(other, "eth0", "arp") as seen:
            assert one.host.cli("start", "dom").returncode == 0
            Capture.pause(1.5)
        assert seen.having("192.0.2.10 .*tell 192.0.2.10"), seen.lines
        assert one.host.cli("check").stdout == "ok\n"


def test_a_late_answer_counts_no_more_once_probe_is_off():
    """A router that answers for every address can't be stopped."""
    with Single(HOSTING, foreign=False) as one:
        router, address = "02:00:00:00:08:01", "203.0.113.77"
        nic = hosted(address)
        one.tap(nic.tap, nic.mac)
        call(one.host, "dom", "start", nic)
        send(
            one.peer, "eth9", frames.arp(2, router, address, "10.0.1.1", dst="02:00:00:00:09:01", target_mac="02:00:00:00:09:01")
        )
        assert eventually(lambda: router in one.host.run(f"ip neigh show {address} dev eth9").stdout)
        call(one.host, "dom", "started", nic)
        found = one.host.cli("check")
        assert found.returncode == 1 and "or set probe = false, then vmnet-hook start dom" in found.stdout, found
        one.host.config(WITHOUT)
        with Capture(one.peer, "eth9", "arp") as seen:
            one.start("dom", nic)
            Capture.pause(1.5)
        assert seen.having(f"{address} .*tell {address}"), seen.lines
        assert one.host.cli("check").stdout == "ok\n"


def test_the_link_local_gateway_is_no_guests_own():
    with Single(HOSTING + 'link_local = "fe80::5054:ff:feaa:a"\n', foreign=False) as one:
        nic = hosted("10.0.1.9", "fd00:1::9")
        one.tap(nic.tap, nic.mac)
        assert "its link-local address is fe80::5054:ff:feaa:a, the link_local of network hosting" in refused(one, nic)
        # The remedy.
        one.host.config(HOSTING + 'link_local = "fe80::1"\n')
        one.start("dom", nic)


def test_a_start_waits_for_no_answer():
    """And leaves no entry that it asked with."""
    with Single(PUBLIC) as one, Agent(one.host):
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        assert eventually(lambda: "192.0.2.10" not in one.host.run("ip neigh show dev up0").stdout)


# --- senders ------------------------------------------------------------------------------------------------------------

TWO = PUBLIC.replace("\nipv6 =", "\n# ipv6 =") + (
    '\n[networks.second]\nmode = "routed"\nuplink = "up0"\ntable = 223\n'
    'ipv4 = { subnet = "203.0.113.0/24", gateway = "203.0.113.1", arp_source = "203.0.113.254" }\n'
)


@pytest.mark.parametrize("shared", [False, True])
def test_two_subnets_on_one_uplink(shared):
    """Each gateway is asked by a sender of its own, or both by one; the uplink's own subnet by the host's address."""
    with Single(TWO.replace("203.0.113.254", ARP_SOURCE) if shared else TWO, foreign=False) as one:
        assert one.host.cli("validate").returncode == 0
        other = another(one, f"{GATEWAY4}/24", "203.0.113.1/24", "10.0.9.2/24")
        one.host.sh("ip addr add 10.0.9.1/24 dev up0")
        second = Interface("52:54:00:aa:00:20", "tap20", "second", ("203.0.113.20",))
        for nic in (routed(10, v6=False), second):
            one.tap(nic.tap, nic.mac)
        one.start("dom", routed(10, v6=False))
        one.start("other", second)
        one.host.sh("ip neigh flush dev up0", check=False)
        with Capture(other, "eth0", "arp") as seen:
            for target in (GATEWAY4, "203.0.113.1", "10.0.9.2"):
                one.host.run(["ping", "-c", "1", "-W", "1", "-I", "10.0.1.1", target], check=False)
        for target, sender in (
            (GATEWAY4, ARP_SOURCE),
            ("203.0.113.1", ARP_SOURCE if shared else "203.0.113.254"),
            ("10.0.9.2", "10.0"),
        ):
            assert seen.having(f"who-has {target} .*tell {sender}"), (target, seen.lines)
        assert one.host.cli("check").returncode == 0
        one.stop("dom", routed(10, v6=False))
        assert "203.0.113.0/24" in one.host.run("nft list map arp vmnet-senders senders").stdout
        one.stop("other", second)


def test_the_hosts_own_subnet_on_the_uplink():
    """Many routers answer no sender that is not in the subnet: with a guest's, the host would lose its own gateway."""
    with Single(PUBLIC.replace("\nipv6 =", "\n# ipv6 ="), foreign=False) as one:
        other = another(one, f"{GATEWAY4}/24", "10.0.9.2/24", "10.0.8.2/24")
        other.sh("echo 2 > /proc/sys/net/ipv4/conf/eth0/arp_ignore")
        # With the last address of a link, the kernel removes its routes.
        one.host.sh("ip addr add 192.0.2.9/32 dev up0; ip addr add 10.0.9.1/24 dev up0")
        before = one.state()
        nic = routed(10, v6=False)
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)

        def asked(target: str) -> bool:
            one.host.sh("ip neigh flush dev up0", check=False)
            return ping(one.host, target, 1) is not None

        with Capture(other, "eth0", "arp") as seen:
            assert asked("10.0.9.2")
            asked(GATEWAY4)
        assert seen.having(f"who-has {GATEWAY4} .*tell {ARP_SOURCE}"), seen.lines
        assert one.host.cli("check").stdout == "ok\n"
        # Without such an address, one that comes later, and goes again.
        call(one.host, "dom", "stopped", nic)
        one.host.sh("ip addr del 10.0.9.1/24 dev up0")
        one.start("dom", nic)
        one.host.sh("ip addr add 10.0.8.1/24 dev up0")
        assert not asked("10.0.8.2")
        assert one.host.cli("check").returncode == 1
        assert one.host.cli("repair").returncode == 0
        assert asked("10.0.8.2") and one.host.cli("check").stdout == "ok\n"
        one.host.sh("ip addr del 10.0.8.1/24 dev up0")
        assert one.host.cli("check").stdout == "ok\n"
        one.host.sh("ip addr add 10.0.9.1/24 dev up0")
        one.stop("dom", nic)
        one.untap(nic.tap)
        same(before, one.state())


# --- a link-local gateway -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["routed", "hostroute"])
def test_a_link_local_gateway_of_the_admins_choice(mode):
    """Images of providers have fe80::1 as their gateway."""
    config = PUBLIC.replace('gateway = "2001:db8::1"', 'gateway = "2001:db8::1", link_local = "fe80::1"')
    address, world = ("2001:db8::10", WORLD6) if mode == "routed" else ("fd00:1::50", UPSTREAM6)
    with Single(config + HOSTING + 'link_local = "fe80::1"\n') as one:
        if mode == "routed":
            router = another(one, "2001:db8::1/64", f"{WORLD6}/128")
            router.sh("echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        one.peer.sh(f"ip -6 addr add {UPSTREAM6}/64 dev eth9 nodad")
        network = "public" if mode == "routed" else "hosting"
        nic = Interface("52:54:00:aa:00:10", "tap10", network, ("192.0.2.10", address) if mode == "routed" else (address,))
        guest = one.stack.enter_context(wired(one.host, nic.tap, "guest", Nic(nic.mac)))
        guest.sh(f"""
            echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
            ip link set eth0 up; ip -6 addr add {address}/128 dev eth0 nodad; ip -6 route add default via fe80::1 dev eth0
        """)
        before = one.state()
        one.start("dom", nic)
        for target in ("fe80::1%eth0", "fe80::fcff:ffff:feff:ffff%eth0", world):
            assert ping(guest, target) is not None, target
        assert one.host.cli("check").stdout == "ok\n"
        one.stop("dom", nic)
        same(before, one.state())


# --- addresses outside the subnet ---------------------------------------------------------------------------------------


def test_failover_addresses_and_a_second_block():
    more = PUBLIC.replace(
        f'arp_source = "{ARP_SOURCE}"', f'arp_source = "{ARP_SOURCE}", prefixes = ["203.0.113.77/32", "198.51.100.128/28"]'
    ).replace(f'gateway = "{GATEWAY6}"', f'gateway = "{GATEWAY6}", prefixes = ["2001:db8:9::/64"]')
    mine = ("192.0.2.10", "203.0.113.77", "198.51.100.128", "2001:db8:9::10")
    with Single(PUBLIC, foreign=False) as one:
        one.host.sysctl("ipv4/conf/all/rp_filter", 1)
        router = another(one, f"{GATEWAY4}/24", f"{GATEWAY6}/64", f"{WORLD4}/32", f"{WORLD6}/128")
        router.sh("""
            ip route add 203.0.113.77 dev eth0; ip route add 198.51.100.128/28 dev eth0; ip -6 route add 2001:db8:9::/64 dev eth0
        """)
        nic = Interface("52:54:00:aa:00:10", "tap10", "public", mine)
        guest = one.stack.enter_context(wired(one.host, nic.tap, "guest", Nic(nic.mac, mine[0], 24, GATEWAY4, mine[3], GATEWAY6)))
        guest.sh(f"ip addr add {mine[1]}/32 dev eth0; ip addr add {mine[2]}/32 dev eth0")
        said = refused(one, nic)
        assert "203.0.113.77 is not in subnet 192.0.2.0/24; choose another address of 192.0.2.0/24, or add its prefix to" in said
        one.host.config(more)
        before = one.state()
        one.start("dom", nic)
        for address in mine:
            world = WORLD6 if ":" in address else WORLD4
            guest.run(["ping", "-c", "1", "-W", "2", "-I", address, world])
            router.run("ip neigh flush all", check=False)
            router.run(["ping", "-c", "1", "-W", "2", "-I", world, address])
        assert one.host.cli("check").stdout == "ok\n"
        one.stop("dom", nic)
        same(before, one.state())
