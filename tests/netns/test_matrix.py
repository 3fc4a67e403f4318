"""Which frames a guest gets out, for each kind of NIC: what is judged is what is sent. See lab/matrix.py.

`-s` prints the table as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab import offload
from lab.bridged import ANYCAST, STRICT, guests, of_kind, takes_over
from lab.domains import Interface
from lab.frames import udp4
from lab.guest import Nic, wired
from lab.matrix import BRIDGED, Bench, Rows, listening, observed, routed, table, undocumented, words, written
from lab.roles import MAC, OWN4, OWN6, VICTIM, plain
from lab.routed import PUBLIC, TAP_MAC
from lab.single import LAN, Single
from lab.xenhost import XenHost, offline, online

EXPECTED = table("""
                    addresses    anycast      Xen vif      MAC alone    no filter    routed       hostroute    routed, no filter
own traffic         allowed own  allowed own  allowed own  allowed own  allowed off  allowed own  allowed own  allowed routed
MAC                 dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
IPv4                dropped      dropped      dropped      allowed MAC  allowed off  dropped      dropped      allowed routed
IPv6                dropped      dropped      dropped      allowed MAC  allowed off  dropped      dropped      allowed routed
ARP                 dropped      dropped      dropped      allowed MAC  allowed off  dropped      dropped      allowed routed
ND                  dropped      dropped      dropped      allowed MAC  allowed off  dropped      dropped      allowed routed
RA                  dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
redirect            dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
DHCPv4 server       dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
DHCPv6 server       dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
IGMP querier        dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
MLD querier         dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
BPDU                dropped      dropped      dropped      dropped      dropped      dropped      dropped      dropped
one tag             dropped      dropped      dropped      allowed MAC  allowed off  dropped      dropped      dropped
two tags            dropped      dropped      dropped      dropped      allowed off  dropped      dropped      dropped
rewritten: MAC      dropped      dropped      dropped      dropped      allowed off  -            -            -
rewritten: address  dropped      dropped      dropped      allowed MAC  allowed off  dropped      dropped      allowed routed
rewritten: role     dropped      dropped      dropped      dropped      allowed off  dropped      dropped      allowed routed
""")


@contextmanager
def on_a_bridge(config: str, kind: str, bridge: str = "br0") -> Iterator[tuple[Bench, Rows]]:
    with Single(config, foreign=False) as one:
        if bridge != "br0":
            takes_over(one)
        plain(one.host)
        with guests(one, of_kind(kind, bridge)) as (liar, victim):
            offload.tx_checksum(one.host, "tap2", False)
            with listening(one.host, "tap1", liar, (victim, "eth0")) as bench:
                yield bench, BRIDGED


@contextmanager
def of_xen() -> Iterator[tuple[Bench, Rows]]:
    with XenHost(LAN, foreign=False) as one, wired(one.host, "tap2", "victim", Nic(VICTIM)) as victim:
        plain(one.host)
        one.host.run("ip link set tap2 master br0")
        vif = one.vif(5, bridge="br0", mac=MAC, ip=f"{OWN4} {OWN6}")
        online(vif)
        offload.tx_checksum(one.host, "tap2", False)
        with listening(one.host, vif.ifname, vif.guest, (victim, "eth0")) as bench:
            yield bench, BRIDGED
        offline(vif)


@contextmanager
def by_routes(mode: str, filter: bool = True) -> Iterator[tuple[Bench, Rows]]:
    """The packets go to another guest of the host, and to a router."""
    net4, net6, link, config = {
        "routed": ("192.0.2", "2001:db8:", "up0", PUBLIC),
        "hostroute": ("10.0.1", "fd00:1:", "eth9", '[networks.public]\nmode = "hostroute"\nnetdev = "eth9"\n'),
    }[mode]
    # Foreign addresses leave by the host's own default route.
    config += "" if filter else 'reach = "all"\n'
    own, victims, other = ((f"{net4}.{last}", f"{net6}:{last}") for last in (10, 20, 99))
    gateway = (f"{net4}.1", f"{net6}:1")
    away = ("198.51.100.9", "2001:db8:ffff::9")
    with Single(config, foreign=False) as one:
        one.segment.plug(one.peer, "wire0", "02:00:00:00:00:01")
        outside = {"up0": "wire0", "eth9": "eth9"}[link]
        for router, ifname in ((gateway, "up0"), (("10.0.1.254", "fd00:1::254"), "eth9")):
            for address in router:
                one.host.run(f"ip neigh replace {address} lladdr 02:00:00:00:00:01 dev {ifname} nud permanent")
        offload.tx_checksum(one.host, link, False)
        nic = Interface(MAC, "tap1", "public", own, filter=filter)
        target = Interface(VICTIM, "tap2", "public", victims)
        with (
            wired(one.host, "tap1", "liar", Nic(MAC, own[0], 24, gateway[0], own[1], gateway[1])) as liar,
            wired(one.host, "tap2", "victim", Nic(VICTIM, victims[0], 24, gateway[0], victims[1], gateway[1])) as victim,
        ):
            one.start("dom1", nic)
            one.start("dom2", target)
            offload.tx_checksum(one.host, "tap2", False)

            def canaries(number: int) -> list[bytes]:
                return [udp4(TAP_MAC, MAC, own[0], to, 40000 + number) for to in (victims[0], away[0])]

            links = {name: (one.peer, name) for name in ("wire0", "eth9")}
            hear = (victim, "eth0"), links.pop(outside)
            with listening(one.host, "tap1", liar, *hear, canaries=canaries, others=links.values()) as bench:
                yield bench, routed(MAC, own, other, gateway, (*victims, *away))
            one.stop("dom2", target)
            one.stop("dom1", nic)


KINDS = {
    "addresses": lambda: on_a_bridge(LAN, "addressed"),
    "anycast": lambda: on_a_bridge(ANYCAST, "addressed", "br9"),
    "Xen vif": of_xen,
    "MAC alone": lambda: on_a_bridge(LAN + STRICT, "MAC alone"),
    "no filter": lambda: on_a_bridge(LAN, "unfiltered"),
    "routed": lambda: by_routes("routed"),
    "hostroute": lambda: by_routes("hostroute"),
    "routed, no filter": lambda: by_routes("routed", False),
}


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, dict[str, str]]]:
    columns: dict[str, dict[str, str]] = {}
    yield columns
    if columns:
        print(f"\n{written(columns)}")


@pytest.mark.parametrize("kind", KINDS)
def test_kind(found, kind):
    with KINDS[kind]() as (bench, rows):
        found[kind] = observed(bench, rows)
    assert found[kind] == words(EXPECTED[kind])


def test_what_is_allowed_is_documented():
    assert undocumented(EXPECTED) == []
    assert list(EXPECTED) == list(KINDS)
