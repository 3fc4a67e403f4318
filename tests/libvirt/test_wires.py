"""Two real guests at a wire: they start and stop in any order, under a real libvirtd, and every kind of frame that their NICs
send gets to the other."""

from __future__ import annotations

import time

import pytest
from guest import Guest, Nic, domain_xml
from lab.agent import Agent
from lab.cable import KINDS, frame

CONFIG = '[wires.a-b]\nends = ["a:0", "b:52:54:00:cc:00:0b"]\n'
MACS = {"a": "52:54:00:cc:00:0a", "b": "52:54:00:cc:00:0b"}
ADDRESS = {"a": "10.7.0.1", "b": "10.7.0.2"}
LONGEST = 1514
"""Bytes that a guest's NIC sends, without its MTU being raised."""
SENT = [made for name in KINDS if len(made := frame(name, "A")) <= LONGEST]

MOST_OF_KERNELS = 6
"""Frames of neighbour discovery and of groups that a guest's kernel may send meanwhile."""

pytestmark = pytest.mark.libvirt


def booted(lab, name: str) -> Guest:
    lab.host.create(domain_xml(name, [Nic(MACS[name], dev=f"w{name}")], f"ip0={ADDRESS[name]}/24"))
    return Guest(lab.host, name).ready()


def received(guest: Guest) -> int:
    return int(guest.run("cat /sys/class/net/eth0/statistics/rx_packets").output)


def quiet(guest: Guest) -> int:
    """The frames that a guest has received, once no more come."""
    before = -1
    while (now := received(guest)) != before:
        before = now
        time.sleep(0.5)
    return now


def is_wired(one: Guest, other: Guest) -> None:
    """Every frame gets from one guest to the other, and none back, but for what the guests' kernels say themselves."""
    one.ping(ADDRESS[other.name])
    for guest in (one, other):
        # QEMU's NIC takes nothing else but what is for its own MAC and groups. And the kernel asks for the neighbour again.
        assert guest.run("ifconfig eth0 promisc -arp").status == 0
    before = quiet(one), quiet(other)
    for made in SENT:
        assert one.run(f"vnet eth0 0 0 {made.hex()}").status == 0
    back, there = quiet(one) - before[0], quiet(other) - before[1]
    assert back < MOST_OF_KERNELS and len(SENT) <= there < len(SENT) + MOST_OF_KERNELS, (back, there)
    for guest in (one, other):
        assert guest.run("ifconfig eth0 arp").status == 0


def ok(lab) -> None:
    done = lab.host.cli("check")
    assert done.stdout == "ok\n", done


def test_two_guests(lab):
    lab.host.config(CONFIG)
    assert len(SENT) > 38
    guests = {name: booted(lab, name) for name in "ab"}
    is_wired(guests["a"], guests["b"])
    is_wired(guests["b"], guests["a"])
    ok(lab)
    for name, other in ("ab", "ba"):
        lab.host.virsh("destroy", name)
        lab.host.wait_gone(name)
        assert guests[other].unreachable(ADDRESS[name])
        assert f"waits for {name}:" in lab.host.cli("status").stdout
        ok(lab)
        guests[name] = booted(lab, name)
        is_wired(guests[other], guests[name])
    # From inside, under a libvirtd that was killed and has come back.
    lab.host.stop_libvirtd("KILL")
    is_wired(guests["a"], guests["b"])
    lab.host.start_libvirtd()
    lab.host.virsh("reset", "a")
    guests["a"].ready()
    is_wired(guests["a"], guests["b"])
    ok(lab)
    for name in "ab":
        lab.host.virsh("destroy", name)
        lab.host.wait_gone(name)
    lab.assert_clean()


def test_an_end_that_the_guest_does_not_have(lab):
    lab.host.config(CONFIG.replace("a:0", "a:1"))
    done = lab.host.create(domain_xml("a", [Nic(MACS["a"], dev="wa")]), "--paused", check=False)
    assert done.returncode != 0 and "wires.a-b.ends: a has no NIC 1 (it has: 0 (52:54:00:cc:00:0a)); correct it" in done.stderr
    lab.assert_clean()


def has_carrier(guest: Guest) -> bool:
    return guest.run("cat /sys/class/net/eth0/carrier").output.strip() == "1"


def test_the_carrier_follows_the_other_end(lab):
    """By the agent; one that has been away catches up."""
    lab.host.config(CONFIG + "carrier = true\n")
    with Agent(lab.host) as agent:
        a = booted(lab, "a")
        try:
            lab.host.wait_for(lambda: not has_carrier(a), "a to lose its carrier")
        except AssertionError:
            raise AssertionError(agent.log) from None
        b = booted(lab, "b")
        lab.host.wait_for(lambda: has_carrier(a) and has_carrier(b), "both to have a carrier")
        is_wired(a, b)
        lab.host.virsh("destroy", "b")
        lab.host.wait_gone("b")
        lab.host.wait_for(lambda: not has_carrier(a), "a to lose its carrier")
        assert not agent.errors, agent.log
    b = booted(lab, "b")
    assert not has_carrier(a), "no agent has told"
    with Agent(lab.host) as agent:
        lab.host.wait_for(lambda: has_carrier(a), "a to get its carrier")
        is_wired(a, b)
        ok(lab)
        for name in "ab":
            lab.host.virsh("destroy", name)
            lab.host.wait_gone(name)
        assert not agent.errors, agent.log
    lab.assert_clean()
