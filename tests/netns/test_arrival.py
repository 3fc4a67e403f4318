"""The cut-over of a live migration, as the destination's tap and wire see it: by the hook's own child, and by the agent.

QEMU is played by a process that holds the tap and sends what it is told. See tests/libvirt/test_migration.py for the real one.
"""

from __future__ import annotations

import os
import re
import signal
import time
from ipaddress import ip_address

import pytest
from lab import frames
from lab.agent import Agent
from lab.capture import Capture
from lab.domains import domain_toml
from lab.nodes import changes
from lab.routed import PUBLIC, WORLD4, WORLD6, call, eventually
from lab.single import LAN, Single, routed
from lab.tap import __file__ as TAP

NIC = routed(10)
ADDRESSES = NIC.ips
SHARED = ("lock", "state.db")
REFUSED = "a guest has arrived, but"


class Qemu:
    """A tap that is there as long as the block lasts, and goes as QEMU's does."""

    def __init__(self, one: Single, tap: str = NIC.tap):
        self.one, self.tap = one, tap

    def __enter__(self) -> Qemu:
        self.process = self.one.host.popen(["/usr/bin/python3", "-IS", TAP, self.tap, "speaks"], stdin=-1, stdout=-1)
        assert self.process.stdout.readline() == "ready\n"
        self.one.host.sh(f"ip link set {self.tap} address fe{NIC.mac[2:]} up")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.wait()

    def sends(self, frame: bytes) -> None:
        self.process.stdin.write(frame.hex() + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "sent\n"


@pytest.fixture(scope="module")
def lab():
    with Single() as one:
        yield one


@pytest.fixture(params=["child", "agent"])
def one(lab, request):
    """The host, with or without an agent; nothing may be left on it."""
    before = lab.state()
    if request.param == "agent":
        with Agent(lab.host) as agent:
            yield lab
            assert not [error for error in agent.errors if REFUSED not in error]
    else:
        yield lab
        assert eventually(lambda: not children(lab), 20), "a child waits still"
    call(lab.host, "web", "stopped", NIC)
    assert not changes(before, lab.state())


def comes_in(one: Single) -> None:
    """As far as libvirt's hooks go: the memory is copied after that."""
    for operation in ("migrate", "prepare", "start", "started"):
        call(one.host, "web", operation, NIC)


def children(one: Single) -> list[int]:
    return [pid for pid in one.host.processes() if "hooks/libvirt/qemu" in one.host.command(pid)]


def attracted(one: Single) -> list[str]:
    """What draws the guest's traffic."""
    found = one.host.sh("ip route show table 222; ip -6 route show table 222; ip -6 neigh show proxy")
    return [line.strip() for line in found.splitlines() if line.split()[0] in ADDRESSES]


def has_arrived(one: Single) -> bool:
    return eventually(lambda: len(attracted(one)) == 3, 10)


def is_silent(one: Single) -> bool:
    """Whether the guest is still expected, after a while."""
    time.sleep(0.5)
    return not attracted(one) and "incoming" in one.host.cli("status").stdout


def announced(seen: Capture) -> list[str]:
    return seen.having("192.0.2.10 tell 192.0.2.10|192.0.2.10 is-at") + seen.having("tgt is 2001:db8::10")


def test_the_first_frame_is_the_cut_over(one):
    with Qemu(one) as qemu, Capture(one.host, "up0", "-Q out arp or icmp6") as seen:
        comes_in(one)
        assert is_silent(one)
        qemu.sends(frames.rarp(NIC.mac))
        assert has_arrived(one)
        done = one.host.cli("check")
        assert done.returncode == 0, done.stdout
        assert "active" in one.host.cli("status").stdout
        # Both rounds.
        time.sleep(1.5)
    assert len(announced(seen)) == 6, seen


def test_what_others_send_is_not_the_guest(one):
    with Qemu(one) as qemu:
        comes_in(one)
        # The host itself, to the guest that is not there.
        one.host.sh(f"ping -c 2 -i 0.2 -W 1 -I {NIC.tap} 192.0.2.10 || :")
        assert is_silent(one)
        one.host.sh(f"ip link set {NIC.tap} down; ip link set {NIC.tap} up")
        assert is_silent(one)
        qemu.sends(frames.rarp(NIC.mac))
        assert has_arrived(one)


def test_another_mac_is_not_the_guest(one):
    """On a tap that stays, whose counters are another's."""
    one.tap(NIC.tap, NIC.mac, held=False)
    try:
        with Qemu(one) as qemu:
            qemu.sends(frames.rarp("52:54:00:aa:00:99"))
            comes_in(one)
            qemu.sends(frames.rarp("52:54:00:aa:00:99"))
            assert is_silent(one)
            qemu.sends(frames.rarp(NIC.mac))
            assert has_arrived(one)
    finally:
        one.untap(NIC.tap)


def test_it_came_before_anybody_listened(one):
    with Qemu(one) as qemu:
        for operation in ("migrate", "prepare", "start"):
            call(one.host, "web", operation, NIC)
        qemu.sends(frames.rarp(NIC.mac))
        call(one.host, "web", "started", NIC)
        assert has_arrived(one)


def test_cancelled(one):
    with Capture(one.host, "up0", "-Q out arp or icmp6") as seen:
        with Qemu(one):
            before = one.state()
            comes_in(one)
        call(one.host, "web", "stopped", NIC)
        time.sleep(0.3)
    assert not announced(seen)
    assert before != one.state(), "the tap is gone"


def test_a_command_was_first(one):
    """Whoever hears the guest then has nothing to do, and nothing to say."""
    with Qemu(one) as qemu, Capture(one.host, "up0", "-Q out arp or icmp6") as seen:
        comes_in(one)
        # libvirt's daemon calls it running.
        call(one.host, "web", "reconnect", NIC)
        assert has_arrived(one)
        time.sleep(1.5)
        qemu.sends(frames.rarp(NIC.mac))
        time.sleep(1.5)
    assert len(announced(seen)) == 6, seen


def test_a_cut_over_that_fails_is_tried_again(one):
    with Qemu(one) as qemu:
        comes_in(one)
        # Somebody else's, in the way.
        one.host.sh("ip route add 192.0.2.10/32 dev eth9 table 222")
        qemu.sends(frames.rarp(NIC.mac))
        time.sleep(0.5)
        assert len(attracted(one)) == 1 and "incoming" in one.host.cli("status").stdout
        one.host.sh("ip route del 192.0.2.10/32 dev eth9 table 222")
        assert has_arrived(one)


def test_connections_from_before_are_forgotten(one):
    one.host.sh("nft add table inet tracks; nft add chain inet tracks in '{ type filter hook prerouting priority 0; }'")
    one.host.sh("nft add rule inet tracks in ct state new counter")
    try:
        with Qemu(one) as qemu:
            comes_in(one)
            macs = "02:00:00:00:00:aa", "02:00:00:00:00:01"
            for last in (10, 99):
                packets = frames.udp4(*macs, f"192.0.2.{last}", WORLD4, 53), frames.udp6(*macs, f"2001:db8::{last}", WORLD6, 53)
                one.segment.run(["/usr/bin/python3", "-IS", frames.__file__, "br0", *(frame.hex() for frame in packets)])
            others = {f"192.0.2.99 {WORLD4}", f"2001:db8::99 {WORLD6}"}
            both = {f"192.0.2.10 {WORLD4}", f"2001:db8::10 {WORLD6}", *others}
            assert eventually(lambda: tracked(one) == both), tracked(one)
            qemu.sends(frames.rarp(NIC.mac))
            assert eventually(lambda: tracked(one) == others), tracked(one)
    finally:
        one.host.sh("nft delete table inet tracks")


def tracked(one: Single) -> set[str]:
    """Source and destination of every connection with the world."""
    found = re.findall(r" src=(\S+) dst=(\S+) ", one.host.sh("cat /proc/net/nf_conntrack"))
    pairs = [(str(ip_address(src)), str(ip_address(dst))) for src, dst in found]
    return {f"{src} {dst}" for src, dst in pairs if dst in (WORLD4, WORLD6)}


def test_who_waits_holds_nothing(lab):
    """Neither the hook's output, for whose end libvirt waits, nor the records, nor the lock."""
    with Qemu(lab):
        comes_in(lab)
        [child] = children(lab)
        # It has what it needs by now.
        time.sleep(1)
        held = [os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")]
        assert sorted(held)[:3] == ["/dev/null"] * 3
        assert not [name for name in held if os.path.basename(name) in SHARED or name.startswith("pipe:")]
        assert os.getsid(child) == child
        call(lab.host, "web", "stopped", NIC)
    assert eventually(lambda: not children(lab), 20), "it ends with the tap"


def test_an_agent_goes_on_where_a_child_waited(lab):
    """And the child, when it hears the guest too, finds nothing to do."""
    with Qemu(lab) as qemu, Capture(lab.host, "up0", "-Q out arp or icmp6") as seen:
        comes_in(lab)
        assert children(lab)
        with Agent(lab.host) as agent:
            qemu.sends(frames.rarp(NIC.mac))
            assert has_arrived(lab)
            time.sleep(1.5)
            assert not agent.errors
        assert eventually(lambda: not children(lab), 20)
        call(lab.host, "web", "stopped", NIC)
    assert len(announced(seen)) == 6, seen


def test_both_nics_of_a_guest_speak_at_once(lab):
    """QEMU announces them all in one go: the first that is heard cuts the guest over, and the other's ear is closed by then."""
    nics = (NIC, routed(11))
    before = lab.state()
    with Agent(lab.host) as agent:
        with Qemu(lab) as first, Qemu(lab, nics[1].tap) as second:
            for operation in ("migrate", "prepare", "start", "started"):
                call(lab.host, "web", operation, *nics)
            assert is_silent(lab)
            agent.process.send_signal(signal.SIGSTOP)
            first.sends(frames.rarp(nics[0].mac))
            second.sends(frames.rarp(nics[1].mac))
            agent.process.send_signal(signal.SIGCONT)
            assert has_arrived(lab)
            call(lab.host, "web", "stopped", *nics)
        assert not agent.errors
    assert not changes(before, lab.state())


def test_a_script_does_not_attract_either():
    """libvirt's <script> comes before its hook, and knows the domain's name alone."""
    with Single(PUBLIC + LAN) as lab, Qemu(lab) as qemu:
        lab.host.domain_toml("web", domain_toml(NIC))
        call(lab.host, "web", "migrate", NIC, metadata=False)
        done = lab.host.ifup(NIC.tap)
        assert done.returncode == 0, done.stderr
        assert not attracted(lab)
        for operation in ("start", "started"):
            call(lab.host, "web", operation, NIC, metadata=False)
            assert not attracted(lab)
        qemu.sends(frames.rarp(NIC.mac))
        assert has_arrived(lab)
        call(lab.host, "web", "stopped", NIC, metadata=False)
