"""Three nodes with their guests' VLAN on a ring of cables: STP, the same gateway on every node, NAT on one of them.

The tests of this file go through one life of one cluster, in their order.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

import pytest
from lab.capture import Capture
from lab.nodes import Node
from lab.ring import CONVERGENCE, GATEWAY4, GATEWAY6, INTERNET, NAT, Ring
from lab.routed import eventually, reach
from lab.vm import assert_restored, everywhere, snapshots

# A machine under emulation is late; STP's own time comes on top.
SLOW = 20


@pytest.fixture(scope="module")
def ring(product):
    """The cluster, brought up, without guests; `ring.before` is what each node was like before."""
    with Ring(product) as built:
        built.before = snapshots(built.nodes)
        for done in everywhere(built.nodes, "up"):
            assert done.returncode == 0, done.stdout + done.stderr
        yield built


@pytest.fixture(scope="module")
def guests(ring):
    ring.add_guests()
    yield ring.guests


def others(guests):
    """Every guest with the addresses of each other one."""
    return [
        (guest.node, address)
        for guest in guests
        for other in guests
        if other is not guest
        for address in (other.nic.ip4, other.nic.ip6)
    ]


def test_one_ring_port_blocks(ring):
    assert eventually(ring.converged, CONVERGENCE + SLOW, every=1), ring.port_states()


def test_guests_reach_each_other(ring, guests):
    """Once STP lets their taps forward."""
    pairs = others(guests)
    assert eventually(lambda: reach(pairs) == [], CONVERGENCE + SLOW), reach(pairs)


def arping(guest: Node) -> tuple[set[str], int, int]:
    """Ask for the gateway, about four times. Returns the MACs that answered, and the numbers of requests and of answers. arping
    itself does not wait for an answer that is late, and a machine under emulation can be."""
    with Capture(guest, "eth0", "arp") as seen:
        guest.run(["arping", "-c", "4", "-I", "eth0", GATEWAY4], check=False)
        time.sleep(1)
    answers = [re.search(r"is-at ([0-9a-f:]+)", line)[1] for line in seen.having(rf"Reply {re.escape(GATEWAY4)} ")]
    return set(answers), len(seen.having(rf"who-has {re.escape(GATEWAY4)} ")), len(answers)


def test_every_guest_has_its_own_gateway(ring, guests):
    """The gateway's MAC is the same on all nodes, one answers, and none of it is ever on the ring. Guests and nodes
    forget what they know, so that ARP and ND run in both directions."""
    for machine in (*ring.nodes, *(guest.node for guest in guests)):
        machine.run("ip neigh flush all", check=False)
    with ExitStack() as stack:
        cables = [stack.enter_context(capture) for capture in ring.captures()]
        answered = [arping(guest.node) for guest in guests]
        assert reach([(guest.node, address) for guest in guests for address in (GATEWAY4, GATEWAY6, INTERNET)]) == []
        assert reach(others(guests)) == []
    macs = {mac for found, _, _ in answered for mac in found}
    assert len(macs) == 1, answered
    for _, requests, answers in answered:
        assert answers == requests >= 4, f"not an answer of each guest's own node, and no other: {answered}"
    mac = macs.pop()
    for guest in guests:
        assert mac in guest.node.run(f"ip -6 neigh show {GATEWAY6}").stdout, "ND says something else than ARP"
    used = [cable for cable in cables if cable.having("vlan 100", "ICMP echo request")]
    assert len(used) == 2, "guests' packets on another number of cables than those that STP leaves"
    for cable in cables:
        assert cable.having("vlan 100", "ARP"), f"the capture saw no ARP of guests for guests:\n{cable}"
        for about in (rf"(ARP|who-has|Reply).*\b{re.escape(GATEWAY4)}\b", rf"neighbor.*\b{GATEWAY6}\b", mac):
            assert not cable.having(about), f"{about} on the ring:\n" + "\n".join(cable.having(about))


def test_guests_reach_the_internet_through_the_node_that_translates(ring, guests):
    with Capture(ring.router, "eth0", "icmp") as seen:
        assert reach([(guest.node, INTERNET) for guest in guests]) == []
    asked = seen.having("echo request")
    sources = {re.search(r"(\S+) > \S+: ICMP echo request", line)[1] for line in asked}
    assert sources == {NAT}, seen


def test_nodes_reach_each_other_and_every_guest(ring, guests):
    """A node asks for a guest without the gateway's address, which all of them have."""
    for node in ring.nodes:
        node.run("ip neigh flush all", check=False)
    with ExitStack() as stack:
        cables = [stack.enter_context(capture) for capture in ring.captures()]
        assert reach([(ring.nodes[index], guests[index].nic.ip4) for index in range(3)]) == []
    for cable in cables:
        assert not cable.having(rf"ARP.*{re.escape(GATEWAY4)}\b"), cable


def test_up_again_has_nothing_to_do(ring, guests):
    for done in everywhere(ring.nodes, "up"):
        assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
    for done in everywhere(ring.nodes, "plan", "up"):
        assert done.returncode == 0 and not re.search(r"(?m)^(ip|bridge|nft|sysctl|tc) ", done.stdout), done.stdout


def test_check_is_clean(ring, guests):
    for done in everywhere(ring.nodes, "check"):
        assert done.returncode == 0, done.stdout + done.stderr


def longest_gap(output: str) -> float:
    """The longest time between two answers in the output of `ping -D`, seconds."""
    times = [float(stamp) for stamp in re.findall(r"(?m)^\[([0-9.]+)\] .* bytes from", output)]
    return max(after - before for before, after in zip(times, times[1:], strict=False))


def test_a_cut_cable_is_healed_by_stp(ring, guests, record_property):
    """The cable whose loss costs most: one in use, at the node across from the blocking port."""
    blocking = next(name for name, state in ring.port_states().items() if state == "blocking").split()
    at = next(index for index, node in enumerate(ring.nodes) if node.name == blocking[0])
    # eth1 of a node leads to the next, eth2 to the one before; the cable at the other port of the blocking node.
    node, port = ring.nodes[at], "eth2" if blocking[1] == "eth1.100" else "eth1"
    neighbour = (at + (1 if port == "eth1" else -1)) % 3
    sender, target = guests[at], guests[neighbour]
    ping = sender.node.popen(["ping", "-D", "-n", "-i", "0.2", target.nic.ip4], stdout=-1)
    time.sleep(2)
    cut = time.time()
    node.run(f"ip link set {port} down")

    def answered() -> bool:
        return reach([(sender.node, target.nic.ip4)], wait=1) == []

    assert not answered(), "the cable that was cut was not in use"
    assert eventually(answered, CONVERGENCE + SLOW), ring.port_states()
    time.sleep(1)
    ping.send_signal(2)
    output, _ = ping.communicate(timeout=10)
    gap = longest_gap(output)
    record_property("seconds without traffic", round(gap, 1))
    print(f"cut at {cut:.1f}: {gap:.1f} s without traffic, STP may take {CONVERGENCE} s")
    assert gap < CONVERGENCE + 5, f"{gap:.1f} s"
    assert reach(others(guests)) == []
    node.run(f"ip link set {port} up")
    assert eventually(ring.converged, CONVERGENCE + SLOW, every=1), ring.port_states()
    assert eventually(lambda: reach(others(guests)) == [], CONVERGENCE + SLOW)
    for done in everywhere(ring.nodes, "check"):
        assert done.returncode == 0, done.stdout + done.stderr


def test_down_keeps_what_a_running_guest_needs(ring, guests):
    everywhere(ring.nodes[:1], "down")
    assert eventually(lambda: reach([(guests[0].node, guests[1].nic.ip4)]) == [], SLOW)


def test_down_leaves_nothing(ring, guests):
    for guest in guests:
        guest.unplug()
        guest.host.run(f"ip link del {guest.tap}")
    for done in everywhere(ring.nodes, "down", "--force"):
        assert done.returncode == 0, done.stdout + done.stderr
    assert_restored(ring.nodes, ring.before)
