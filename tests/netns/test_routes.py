"""Routes of host links: gateways outside of the subnet, peers, static routes, metrics. Proof is what comes back through them.

Host   guestbr0 (eth1) -- end1, with 198.51.100.9 and 2001:db8:9::9 behind it
"""

from __future__ import annotations

import pytest
from lab.agent import Agent
from lab.hostnet import Host, refusal
from lab.routed import eventually, ping
from lab.single import same

BRIDGE = '[bridges.guestbr0]\nports = ["eth1"]\n'
BEHIND = ("198.51.100.9", "2001:db8:9::9")
ONLINK = 'addresses = ["203.0.113.250/32", "2001:db8:7::250/128"]\ngateway = ["203.0.113.193", "2001:db8:7::1"]\n'
CASES = {
    "gateway outside of the subnet": (ONLINK, BEHIND),
    "gateway by a route of its own": (
        'addresses = ["203.0.113.9/29"]\ngateway = "203.0.113.193"\nroutes = [{ to = "203.0.113.193" }]\n',
        BEHIND[:1],
    ),
    "peer": ('addresses = ["203.0.113.250 peer 203.0.113.193/32"]\ngateway = "203.0.113.193"\n', BEHIND[:1]),
    "peer, IPv6": ('addresses = ["2001:db8:7::250 peer 2001:db8:7::1/128"]\ngateway = "2001:db8:7::1"\n', BEHIND[1:]),
    "static": (
        'addresses = ["203.0.113.200/26", "2001:db8:7::250/64"]\nroutes = [\n'
        '  { to = "198.51.100.0/24", via = "203.0.113.193", metric = 5, mtu = 1400 },\n'
        '  { to = "2001:db8:9::/48", via = "2001:db8:7::1", metric = 7, mtu = 1300, src = "2001:db8:7::250" },\n]\n',
        BEHIND,
    ),
    "onlink": (
        'addresses = ["203.0.113.9/29"]\nroutes = [{ to = "198.51.100.9", via = "203.0.113.193", onlink = true }]\n',
        BEHIND[:1],
    ),
    "IPv4 by an IPv6 gateway": (
        'addresses = ["203.0.113.250/32", "2001:db8:7::250/64"]\nroutes = [{ to = "default", via = "2001:db8:7::1" },\n'
        '  { to = "0.0.0.0/0", via = "2001:db8:7::1" }]\n',
        BEHIND,
    ),
    "metric": (
        'addresses = ["203.0.113.200/26"]\ngateway = "203.0.113.193"\nmetric = 50\n'
        'routes = [{ to = "0.0.0.0/0", via = "203.0.113.199", metric = 60 }]\n',
        BEHIND[:1],
    ),
    "table": (
        'addresses = ["203.0.113.200/26"]\nroutes = [\n  { to = "default", via = "203.0.113.193", table = 1000 },\n'
        '  { to = "198.51.100.9", via = "203.0.113.193", src = "203.0.113.200" },\n]\n',
        BEHIND[:1],
    ),
}


@pytest.fixture
def lab():
    with Host() as running:
        end, host = running.ends[0], running.host
        end.sh(f"""
            ip addr add 203.0.113.193/26 dev eth0; ip addr add 2001:db8:7::1/64 dev eth0 nodad
            ip route add 203.0.113.0/24 dev eth0
            ip addr add {BEHIND[0]}/32 dev lo; ip addr add {BEHIND[1]}/128 dev lo nodad
        """)
        host.sh("ip route del default; ip -6 route del default")
        yield running


def reached(lab: Host, targets: tuple[str, ...]) -> bool:
    return all(ping(lab.host, target, 1) is not None for target in targets)


@pytest.mark.parametrize("case", CASES)
def test_what_is_declared_leads_there(lab, case):
    config, targets = CASES[case]
    lab.host.config(BRIDGE + config)
    before = lab.state()
    assert not reached(lab, targets)
    lab.vmnet("up")
    up = lab.state()
    assert eventually(lambda: reached(lab, targets)), lab.host.sh("ip route show table all; ip -6 route")
    assert lab.vmnet("check") == "ok\n" and lab.vmnet("up") == "up: nothing to do\n"
    same(up, lab.state())
    lab.vmnet("down", "--force")
    same(before, lab.state())


def test_the_kernel_has_the_words(lab):
    lab.host.config(BRIDGE + CASES["static"][0])
    lab.vmnet("up")
    shown = lab.host.sh("ip route show; ip -6 route show")
    assert "198.51.100.0/24 via 203.0.113.193 dev guestbr0 proto vmnet metric 5 onlink mtu 1400" in shown.replace(
        "proto 86", "proto vmnet"
    )
    assert "metric 7 mtu 1300" in shown.replace(" onlink", "")


@pytest.mark.parametrize(
    "old, new",
    [
        ("static", CASES["static"][0].replace("metric = 5, mtu = 1400", "metric = 6")),
        ("static", CASES["static"][0].replace("mtu = 1300", "mtu = 1280")),
        ("peer", 'addresses = ["203.0.113.251 peer 203.0.113.193/32"]\ngateway = "203.0.113.193"\n'),
        ("gateway outside of the subnet", ONLINK.replace(".250/32", ".251/32")),
        ("metric", CASES["metric"][0].replace("metric = 50", "metric = 70")),
    ],
    ids=["metric", "mtu", "peer", "the only address", "the gateway's metric"],
)
def test_edited(lab, old, new):
    """The edit leaves what a fresh `up` makes."""
    config, targets = CASES[old]
    lab.host.config(BRIDGE + new)
    lab.vmnet("up")
    fresh = routes(lab)
    lab.vmnet("down", "--force")
    lab.host.config(BRIDGE + config)
    lab.vmnet("up")
    lab.host.config(BRIDGE + new)
    lab.vmnet("up")
    assert routes(lab) == fresh
    assert lab.vmnet("check") == "ok\n"
    if old != "metric":
        assert eventually(lambda: reached(lab, targets))


def routes(lab: Host) -> list[str]:
    shown = lab.host.sh("ip addr show guestbr0 | grep inet || :; ip route show table all; ip -6 route show")
    return sorted(" ".join(line.split()) for line in shown.splitlines() if "guestbr0" in line or "inet" in line)


DAMAGE = {
    "route": "ip route del 198.51.100.0/24",
    "IPv6 route": "ip -6 route del 2001:db8:9::/48",
    "another mtu": "ip route replace 198.51.100.0/24 via 203.0.113.193 dev guestbr0 proto 86 metric 5 mtu 1000 onlink",
    "address": "ip addr del 203.0.113.200/26 dev guestbr0",
    "link down": "ip link set guestbr0 down",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_repaired(lab, damage):
    config, targets = CASES["static"]
    lab.host.config(BRIDGE + config)
    lab.vmnet("up")
    whole = routes(lab)
    lab.host.sh(DAMAGE[damage])
    lab.vmnet("check", status=1)
    lab.vmnet("repair")
    assert lab.vmnet("check") == "ok\n" and routes(lab) == whole
    assert eventually(lambda: reached(lab, targets))


def test_healed(lab):
    """The agent puts back what leads to the gateway, and what leads through it."""
    lab.host.config(BRIDGE + ONLINK)
    lab.vmnet("up")
    assert eventually(lambda: reached(lab, BEHIND))
    whole = routes(lab)
    with Agent(lab.host):
        for damage in ("ip route del default", "ip -6 route del default", "ip addr flush dev guestbr0 scope global"):
            lab.host.sh(damage)
            assert eventually(lambda: routes(lab) == whole), (damage, routes(lab))
            assert eventually(lambda: reached(lab, BEHIND)), damage


def test_a_gateway_that_is_nowhere_is_refused_with_a_remedy_that_works(lab):
    config = BRIDGE + 'addresses = ["203.0.113.9/29"]\ngateway = "203.0.113.193"\n'
    lab.host.config(config)
    result = refusal(lab.vmnet.tried("up"), "bridges.guestbr0.gateway", "in no subnet", "routes = [")
    remedy = "routes = " + result.output.partition("routes = ")[2]
    lab.host.config(config + remedy)
    lab.vmnet("up")
    assert eventually(lambda: reached(lab, BEHIND[:1]))
