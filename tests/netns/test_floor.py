"""What a network's table has no route for goes nowhere, and several networks on one host: each packet takes one way, and none by
the host's own default route (eth9 here).

    guests a1 a2, s1 -- host-a -- up0 -- segment -- eth0 --+
                              |-- up1 ------------- eth1 -- router
                              +-- eth9 ------------ mg1 ---+
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.agent import Agent
from lab.capture import Capture
from lab.domains import Interface
from lab.guest import Nic, wired
from lab.nodes import wire
from lab.routed import PUBLIC, WORLD4, WORLD6, Plugged, RoutedLab, ping, reach

SECOND = """
[networks.second]
mode = "routed"
uplink = "up1"
table = 223
role = "{role}"
ipv4 = {{ subnet = "203.0.113.0/24", gateway = "203.0.113.1", arp_source = "203.0.113.254" }}
ipv6 = {{ subnet = "2001:db8:1::/64", gateway = "2001:db8:1::1" }}
"""
DAMAGE = {
    "uplink down": "ip link set up0 down",
    "uplink deleted": "ip link del up0",
    "tables flushed": "ip route flush table 222; ip -6 route flush table 222",
    "default routes deleted": "ip route del default table 222; ip -6 route del default table 222",
}
OURS = "(src net 192.0.2.0/24 or src net 2001:db8::/64) and (icmp or icmp6)"
UNKNOWN4, UNKNOWN6 = "192.0.2.99", "2001:db8::99"


class TwoNetworks(RoutedLab):
    """With a guest of a second network on host a: s1."""

    def __init__(self, role: str, second_role: str, reached: str = '"public"'):
        super().__init__(PUBLIC + f'role = "{role}"\n' + SECOND.format(role=second_role) + f"reach = [{reached}]\n")
        try:
            wire(self.a, "up1", self.router, "eth1", "02:00:00:00:00:a1", "02:00:00:00:00:02")
            # The gateway of a role that routes is this host itself; the router sends what is for its guests to it.
            for of, second, dev in ((role, False, "eth0"), (second_role, True, "eth1")):
                net4, net6 = ("203.0.113.", "2001:db8:1::") if second else ("192.0.2.", "2001:db8::")
                self.router.sh(f"ip link set {dev} up; echo 0 > /proc/sys/net/ipv6/conf/{dev}/accept_dad")
                if of == "host":
                    self.router.sh(f"ip addr replace {net4}1/24 dev {dev}; ip -6 addr replace {net6}1/64 dev {dev} nodad")
                else:
                    self.router.sh(
                        f"ip addr flush dev {dev} scope global\n"
                        f"ip route replace {net4}0/24 via 10.0.1.1; ip -6 route replace {net6}/64 via fd00:1::1"
                    )
            nic = Interface("52:54:00:aa:00:31", "tap-s1", "second", ("203.0.113.31", "2001:db8:1::31"))
            node = self.add(
                wired(self.a, nic.tap, "guest-s1", Nic(nic.mac, nic.ips[0], 24, "203.0.113.1", nic.ips[1], "2001:db8:1::1"))
            )
            self.s1 = Plugged("s1", self.a, nic, node)
        except BaseException:
            self.stack.close()
            raise

    def start_both(self) -> tuple[Plugged, Plugged]:
        a1 = self.guests["a1"]
        self.start(a1, self.s1)
        return a1, self.s1


@pytest.fixture(params=[False, True], ids=["", "agent"])
def agent(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_guest_does_not_leave_by_the_hosts_own_route(agent, damage):
    with RoutedLab() as lab, ExitStack() as stack:
        if agent:
            stack.enter_context(Agent(lab.a))
        a1 = lab.guests["a1"]
        lab.start(a1, lab.guests["a2"])
        assert reach([(a1.node, WORLD4), (a1.node, WORLD6)]) == []
        lab.a.sh(DAMAGE[damage])
        with Capture(lab.router, "mg1", OURS) as seen:
            for target in (WORLD4, WORLD6, "10.0.1.254", "fd00:1::254", UNKNOWN4, UNKNOWN6):
                ping(a1.node, target, wait=0.3)
        assert seen.lines == []
        # What the table still has serves: guests of this host reach one another.
        if damage != "tables flushed" or agent:
            assert reach([(a1.node, lab.guests["a2"].ip4), (a1.node, lab.guests["a2"].ip6)]) == []


@pytest.mark.parametrize("second", ["host", "router+host"])
@pytest.mark.parametrize("first", ["host", "router+host"])
def test_two_networks_reach_one_another_once(first, second):
    """Straight from tap to tap, whatever the roles: no copy of a packet is on any other wire, and none crosses one twice."""
    with TwoNetworks(first, second) as lab:
        a1, s1 = lab.start_both()
        pairs = [(a1.node, s1.ip4), (a1.node, s1.ip6), (s1.node, a1.ip4), (s1.node, a1.ip6)]
        assert reach(pairs) == []
        with ExitStack() as stack:
            wires = [stack.enter_context(Capture(lab.router, dev, "icmp or icmp6")) for dev in ("eth0", "eth1", "mg1")]
            assert all(ping(node, target) is not None for node, target in pairs)
        for seen in wires:
            assert seen.having("echo request") == [], str(seen)
        assert lab.a.cli("check").returncode == 0, lab.a.cli("check").stdout


@pytest.mark.parametrize("second", ["host", "router+host"])
@pytest.mark.parametrize("first", ["host", "router+host"])
def test_two_networks_that_do_not_reach_one_another(first, second):
    """Nothing arrives, by no way. Where the gateway is elsewhere, the guest reaches the outside by it."""
    with TwoNetworks(first, second, reached="") as lab:
        a1, s1 = lab.start_both()
        outside = [(guest.node, ip) for guest, role in ((a1, first), (s1, second)) if role == "host" for ip in (WORLD4, WORLD6)]
        assert reach(outside) == []
        with ExitStack() as stack:
            seen = [stack.enter_context(Capture(guest.node, "eth0", "icmp or icmp6")) for guest in (a1, s1)]
            for node, target in ((a1.node, s1.ip4), (a1.node, s1.ip6), (s1.node, a1.ip4), (s1.node, a1.ip6)):
                assert ping(node, target, wait=0.3) is None
        assert seen[0].having(f"{s1.ip4} > |{s1.ip6} > ") == seen[1].having(f"{a1.ip4} > |{a1.ip6} > ") == []


@pytest.mark.parametrize("first", ["host", "router+host"])
def test_packets_to_a_network_without_its_uplink_go_nowhere(first):
    """From a guest of another network, and from the host itself, to an address that would be on the uplink."""
    with TwoNetworks(first, "router+host") as lab:
        _, s1 = lab.start_both()
        lab.a.sh("ip link set up0 down")
        with Capture(lab.router, "mg1", "icmp or icmp6") as seen:
            for node in (s1.node, lab.a):
                for target in (UNKNOWN4, UNKNOWN6):
                    ping(node, target, wait=0.3)
        if first == "host":
            # Its gateway knows another way, perhaps; this host does not.
            assert seen.having("echo request", s1.ip4) == seen.having("echo request", s1.ip6) == []
        assert seen.having("echo request", "2001:db8::99|192.0.2.99") == [], str(seen)


@pytest.mark.parametrize("role", ["host", "router+host"])
def test_the_floor_comes_and_goes_with_the_network(role):
    with RoutedLab(PUBLIC + f'role = "{role}"\n') as lab:
        before = rules_of(lab)
        a1 = lab.guests["a1"]
        lab.start(a1)
        floors = [line for line in rules_of(lab) if "unreachable" in line]
        selectors = ("from", "to") if role == "host" else ("to",)
        assert len(floors) == 2 * len(selectors)
        lab.stop(a1)
        assert rules_of(lab) == before


def rules_of(lab: RoutedLab) -> list[str]:
    return lab.a.sh("ip rule; ip -6 rule").splitlines()
