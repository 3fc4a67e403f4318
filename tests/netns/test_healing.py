"""Self-healing: somebody damages what is set up, the agent puts it back by itself, and at no moment does a guest get through
what it must not. VMNET_DAMAGES says how many random damages are done (40), VMNET_HEALED_WITHIN in how many seconds each must be
healed: 3, for machines on which much else runs. Half of them are healed within one second on any.
"""

from __future__ import annotations

import os
import random
import re
import time
from contextlib import contextmanager

import pytest
from lab import frames
from lab.agent import Agent
from lab.capture import Capture
from lab.domains import domain_xml
from lab.flood import __file__ as FLOOD
from lab.guest import Nic, tapped
from lab.nodes import HOOK, Node, canonical, changes, dump, settled, without_anycast
from lab.routed import (
    GATEWAY4,
    GATEWAY6,
    PUBLIC,
    SUBOPERATION,
    TAP_MAC,
    WORLD4,
    WORLD6,
    Interface,
    Plugged,
    RoutedLab,
    eventually,
    reach,
)

from vmnet_hooks.agent.healing import FIGHT_SECONDS, FIGHT_TIMES

HEALED_WITHIN = float(os.environ.get("VMNET_HEALED_WITHIN", "3"))
DAMAGES = int(os.environ.get("VMNET_DAMAGES", "40"))
STRANGER = "02:de:ad:be:ef:01"
SPOOFED_PORT = 6666

# What is done to host-a. Each of them cuts guests off, or opens what must be shut.
DAMAGE = {
    "flush": "nft flush ruleset",
    "table": "nft delete table inet vmnet",
    "ARP table": "nft delete table arp vmnet",
    "chains": "nft flush table inet vmnet",
    "guard": "nft flush chain inet vmnet guard",
    "rule in front": "nft insert rule inet vmnet guest accept",
    "rule replaced": 'h=$(nft -a list chain inet vmnet guard | sed -n "s/.* goto guest # handle //p"); '
    "nft replace rule inet vmnet guard handle $h accept",
    "guarded": "nft flush set inet vmnet guarded; nft flush set arp vmnet guarded",
    "sources": "nft flush set inet vmnet sources4; nft flush set inet vmnet sources6",
    "ARP source": "nft flush map arp vmnet arp_source",
    "rules": "for p in 22000 22001 22002; do while ip rule del pref $p 2>/dev/null; do :; done; done",
    "IPv6 rules": "for p in 22000 22001 22002; do while ip -6 rule del pref $p 2>/dev/null; do :; done; done",
    "rules flushed": "ip rule flush; ip rule add lookup main pref 32766; ip rule add lookup default pref 32767",
    "table 222": "ip route flush table 222",
    "IPv6 table 222": "ip -6 route flush table 222",
    "everything of ours": "ip route flush proto 86 table all; ip -6 route flush proto 86 table all",
    "route replaced": "ip route replace 192.0.2.11/32 dev lo table 222",
    "default replaced, then gone": "ip route replace default dev lo table 222; sleep 0.3; ip route del default table 222",
    "IPv6 default replaced": "ip -6 route replace default dev lo table 222",
    "main routes": "ip route del 192.0.2.0/24 dev up0; ip -6 route del 2001:db8::/64 dev up0",
    "neighbours": "ip neigh flush nud permanent dev tap-a1; ip -6 neigh flush nud permanent dev tap-a2",
    "neighbour changed": "ip neigh replace 192.0.2.11 lladdr 02:00:00:00:00:66 dev tap-a1 nud permanent",
    "proxies": "for ip in $(ip -6 neigh show proxy | cut -d' ' -f1,3 --output-delimiter=%); do "
    "ip -6 neigh del proxy ${ip%%%*} dev ${ip##*%}; done",
    "uplink": "ip link set up0 down; ip link set up0 up",
    "tap": "ip link set tap-a1 down; ip link set tap-a1 up",
    "sysctls": "cd /proc/sys/net; echo 0 > ipv4/conf/up0/proxy_arp; echo 0 > ipv6/conf/up0/proxy_ndp\n"
    "echo 0 > ipv4/conf/tap-a1/rp_filter",
    "forwarding": "cd /proc/sys/net; echo 0 > ipv4/ip_forward; echo 0 > ipv6/conf/all/forwarding",
}


@pytest.fixture(scope="module")
def lab():
    with RoutedLab() as running:
        # A link that comes up has its addresses at once: what the kernel waits for, for itself, is no damage.
        running.a.sh("for f in all default tap-a1 tap-a2; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
        running.start()
        yield running


@pytest.fixture(scope="module")
def agent(lab):
    with Agent(lab.a) as running:
        assert eventually(lambda: keeps(lab.a), 10), running.log
        yield running
        assert running.process.poll() is None, running.log
        assert not running.errors


class Pace:
    """Damages come one by one, and not all to the same thing: else they are a fight, which is another test."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def allows(self, damage: str) -> bool:
        """Whether it can be done now."""
        self.times = [at for at in self.times if at > time.monotonic() - FIGHT_SECONDS - 1]
        return "nft" not in DAMAGE[damage] or len(self.times) < FIGHT_TIMES

    def done(self, damage: str) -> None:
        if "nft" in DAMAGE[damage]:
            self.times.append(time.monotonic())


@pytest.fixture(scope="module")
def pace():
    return Pace()


def keeps(node: Node) -> bool:
    """Whether the agent's own tables guard all of the host's guests."""
    guarded = node.sh("nft list set inet vmnet_keeper guarded 2>/dev/null || :")
    return '"tap-a1"' in guarded and '"tap-a2"' in guarded


def state(node: Node) -> str:
    return without_anycast(settled(node), r"\S+")


# What of the host's state is the product's, and quickly read. The rest, link-local addresses and their groups, the kernel itself
# brings back, when it has noticed the carrier.
LOOK = """
for f in -4 -6; do ip -N $f rule; ip -N $f route show table 222; ip -N $f route show proto 86; ip -N $f neigh show proxy; done
ip -N neigh show nud permanent | grep -v " ff"
cd /proc/sys/net; grep . ipv4/ip_forward ipv[46]/conf/*/forwarding ipv4/conf/*/rp_filter ipv4/conf/*/send_redirects
grep . ipv4/conf/*/proxy_arp ipv6/conf/*/proxy_ndp ipv[46]/neigh/*/proxy_delay
ip -o link show | sed "s/^[0-9]*: //; s/.*link.ether/&/" | grep -o "^[^@:]*\\|,UP\\|link/ether [^ ]*"
nft -s list ruleset
"""


def look(node: Node) -> str:
    """What healing is about."""
    tables, lines = node.sh(LOOK, check=False).partition("table "), []
    lines = sorted(line.replace(" linkdown", "").strip() for line in tables[0].splitlines())
    return "\n".join([*lines, *canonical("nft", tables[1] + tables[2]).splitlines()])


def healed(node: Node, damage: str, within: float = HEALED_WITHIN, before: str = "") -> float:
    """Seconds from before the damage until the node has been seen to be as it was (now, or when it looked like `before`).
    Raises AssertionError if that took too long."""
    before = before or look(node)
    begin = time.monotonic()
    node.sh(damage)
    while (now := look(node)) != before:
        assert time.monotonic() - begin < within + 3, f"not healed:\n{changes(before, now)}"
    took = time.monotonic() - begin
    assert took <= within, f"healed, but it took {took:.2f} s"
    return took


def settles(node: Node, before: str, timeout: float = 5.0) -> bool:
    """Whether the node comes to be as it was, everything that the kernel does by itself included."""
    end = time.monotonic() + timeout
    while (now := without_anycast(dump(node), r"\S+")) != before:
        if time.monotonic() > end:
            raise AssertionError(f"not as it was after {timeout} s:\n{changes(before, now)}")
    return True


def spoofed(guest: Plugged) -> list[bytes]:
    """What a guest must not send, and what the host would pass on, or answer, if nothing kept it from that: strict rp_filter
    catches strange IPv4 sources by itself, but not a strange MAC."""
    mac = guest.nic.mac
    return [
        frames.udp4(TAP_MAC, STRANGER, guest.ip4, WORLD4, SPOOFED_PORT),
        frames.udp6(TAP_MAC, mac, "2001:db8::7777", WORLD6, SPOOFED_PORT),
        frames.udp6(TAP_MAC, STRANGER, guest.ip6, WORLD6, SPOOFED_PORT),
        frames.arp(1, mac, "192.0.2.77", GATEWAY4),
        frames.arp(1, STRANGER, guest.ip4, GATEWAY4, src=mac),
    ]


class Flood:
    """Guests that spoof without end while the block runs. `passed` is then what got through, as tcpdump saw it: at the uplink,
    and as the host's answers to ARP."""

    def __init__(self, *guests: Plugged, uplink: str = "up0"):
        self.guests = guests
        host = guests[0].host
        self.captures = [Capture(host, uplink, f"udp port {SPOOFED_PORT}")]
        self.captures += [Capture(host, guest.nic.tap, "arp[6:2] = 2") for guest in guests]
        self.passed: list[str] = []

    def __enter__(self) -> Flood:
        for capture in self.captures:
            capture.__enter__()
        self.senders = []
        for guest in self.guests:
            argv = ["/usr/bin/python3", "-IS", FLOOD, "eth0", "2", *(frame.hex() for frame in spoofed(guest) * 4)]
            self.senders.append(guest.node.popen(argv, stdout=-1))
            self.senders[-1].stdout.readline()
        return self

    def __exit__(self, *exc: object) -> None:
        for sender in self.senders:
            assert sender.poll() is None, "it has ended by itself"
            sender.kill()
        for capture in self.captures:
            capture.__exit__(*exc)
        answers = [line for capture in self.captures[1:] for line in capture.having(f"> {STRANGER}|192.0.2.77")]
        self.passed = self.captures[0].lines + answers


def test_without_the_keeper_it_would_get_through(lab):
    """That the tests below can fail: the same flood, the same damage, no agent."""
    a1 = lab.guests["a1"]
    with Flood(a1) as flood:
        time.sleep(0.3)
    assert flood.passed == [], "the filter alone"
    try:
        with Flood(a1) as flood:
            lab.a.sh("nft flush ruleset; sleep 0.3")
    finally:
        assert lab.a.cli("repair").returncode == 0
    text = "\n".join(flood.passed)
    assert "ethertype IPv4" in text and "2001:db8::7777" in text and "is-at" in text


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage(lab, agent, pace, damage):
    assert eventually(lambda: pace.allows(damage), 12)
    before, said = state(lab.a), len(agent.log)
    pace.done(damage)
    healed(lab.a, DAMAGE[damage])
    assert settles(lab.a, before)
    lines = [line for line in agent.log[said:].splitlines() if " heal: " in line]
    assert 1 <= len(lines) <= 3 and not any("left alone" in line for line in lines), lines


def alone(guest: Plugged, *operations: str) -> None:
    """Call the hook where it finds no agent."""
    hide = 'mount --bind /dev/null /run/vmnet-hooks/agent.sock; exec "$@"'
    for operation in operations:
        hook = guest.host.program(HOOK, guest.domain, operation, SUBOPERATION[operation], "-")
        xml = domain_xml(guest.domain, guest.nic, stage=operation)
        guest.host.run(["unshare", "--mount", "sh", "-ec", hide, "-", *hook], input=xml)


def test_nothing_to_do_is_done_in_silence(lab, agent):
    """Guests that come and go through the agent, by hooks without it, and what is none of our business."""
    said = agent.log.count(" heal: ")
    a1 = lab.guests["a1"]
    for _ in range(3):
        lab.stop(a1)
        lab.start(a1)
    for _ in range(3):
        alone(a1, "stopped", "release", "start", "started")
    lab.a.sh("""
        ip route add 198.18.0.0/15 dev eth9 table 222; ip route del 198.18.0.0/15 dev eth9 table 222
        ip rule add from 10.9.0.0/16 lookup 100 pref 100; ip rule del pref 100
        nft add table inet theirs; nft delete table inet theirs
        ip -6 neigh add proxy 2001:db8::abcd dev up0; sleep 0.5; ip -6 neigh del proxy 2001:db8::abcd dev up0
        ip link add other type veth peer name rehto; ip link set other up; ip link del other; sleep 0.6
    """)
    assert eventually(lambda: keeps(lab.a), 5)
    assert agent.log.count(" heal: ") == said, agent.log
    assert reach([(a1.node, GATEWAY4), (a1.node, GATEWAY6)]) == []


class Pings:
    """Guests that ping all the time; what each lost in a row, at most, in seconds."""

    def __init__(self, pairs: list[tuple[Node, str]]):
        self.pairs = pairs

    def __enter__(self) -> Pings:
        self.running = [node.popen(["ping", "-n", "-D", "-O", "-i", "0.1", "-W", "1", ip], stdout=-1) for node, ip in self.pairs]
        return self

    def __exit__(self, *_exc: object) -> None:
        self.gaps = []
        for process in self.running:
            process.terminate()
            output, _ = process.communicate()
            times = [float(at) for at in re.findall(r"^\[([0-9.]+)\] \d+ bytes from", output, re.M)]
            self.gaps.append(max((b - a for a, b in zip(times, times[1:], strict=False)), default=float("inf")))


def test_random_damages(lab, agent, pace):
    """A deck of damages, shuffled again and again: each is healed before the next, guests ping and others spoof meanwhile."""
    chance, deck, times = random.Random(86), [], []
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    before, said = state(lab.a), len(agent.log)
    with Flood(a2) as flood, Pings([(a1.node, target) for target in (GATEWAY4, GATEWAY6, WORLD4, WORLD6)]) as pings:
        while len(times) < DAMAGES:
            if not deck:
                deck = sorted(DAMAGE)
                chance.shuffle(deck)
            damage = next(filter(pace.allows, deck), None)
            time.sleep(chance.uniform(0.1, 0.6))
            if damage:
                deck.remove(damage)
                pace.done(damage)
                try:
                    times.append((healed(lab.a, DAMAGE[damage]), damage))
                except AssertionError as error:
                    raise AssertionError(f"number {len(times)}, {damage}: {error}\n{agent.log[-2000:]}") from None
    assert settles(lab.a, before)
    times.sort(reverse=True)
    print(f"{DAMAGES} damages, each healed in {times[DAMAGES // 2][0]:.2f} s (median), at most {times[0]}", end="; ")
    print(f"longest gaps of pings {[round(gap, 2) for gap in pings.gaps]} s; passed unfiltered: {len(flood.passed)}")
    assert flood.passed == [], f"{len(flood.passed)} packets passed, the first: {flood.passed[0]}"
    assert times[DAMAGES // 2][0] <= 1
    # The uplink's neighbours are asked for again, too.
    assert max(pings.gaps) <= 2 + HEALED_WITHIN
    assert "left alone" not in agent.log[said:]
    assert lab.a.cli("check").returncode == 0


def test_nothing_passes_while_somebody_flushes_and_flushes(lab, agent):
    """Faster than anything could be put back. Guests are cut off for as long, and not for longer."""
    a1, a2 = lab.guests["a1"], lab.guests["a2"]
    with Flood(a1, a2) as flood:
        lab.a.sh("for i in $(seq 100); do nft flush ruleset; sleep 0.02; done")
    assert flood.passed == [], f"{len(flood.passed)} packets passed, the first: {flood.passed[0]}"
    assert eventually(lambda: reach([(a1.node, GATEWAY4), (a1.node, GATEWAY6)], 1) == [], 6), agent.log
    assert lab.a.cli("check").returncode == 0


def test_killed(lab, agent):
    """Its own tables are gone with it, the filters stay, and guests do not notice; a new agent takes up where it was."""
    a1 = lab.guests["a1"]
    with Pings([(a1.node, GATEWAY4), (a1.node, WORLD6)]) as pings, Flood(lab.guests["a2"]) as flood:
        time.sleep(0.5)
        agent.process.kill()
        agent.process.wait()
        assert eventually(lambda: "vmnet_keeper" not in lab.a.sh("nft list tables"), 2)
        time.sleep(1)
        assert "table inet vmnet" in lab.a.sh("nft list tables")
        agent.start()
        assert eventually(lambda: keeps(lab.a), 10), agent.log
        time.sleep(0.5)
    assert max(pings.gaps) < 0.5 and flood.passed == []


def test_what_is_damaged_while_nobody_looks(lab, agent):
    before = state(lab.a)
    agent.process.kill()
    agent.process.wait()
    lab.a.sh("nft flush ruleset; ip route flush table 222")
    agent.start()
    assert settles(lab.a, before, 10)
    assert eventually(lambda: keeps(lab.a), 10), agent.log


def test_started_with_a_configuration_that_cant_be_used(lab, agent):
    """What is set up is looked after by the records alone."""
    before, broken = state(lab.a), lab.a.path("/etc/vmnet-hooks/conf.d/broken.toml")
    agent.process.kill()
    agent.process.wait()
    broken.parent.mkdir(exist_ok=True)
    broken.write_text("nonsense = [")
    try:
        agent.start()
        assert eventually(lambda: keeps(lab.a), 10), agent.log
        healed(lab.a, DAMAGE["flush"] + "; " + DAMAGE["table 222"], before=look(lab.a))
    finally:
        broken.unlink()
    assert settles(lab.a, before)


def test_a_fight(lab, agent):
    """Somebody deletes a rule every 50 ms: it is put back a few times, said once, and left alone."""
    before, said = state(lab.a), len(agent.log)
    used = agent.cpu()
    script = "while :; do ip rule del from 192.0.2.0/24 pref 22001 2>/dev/null && echo deleted; sleep 0.05; done"
    fighter = lab.a.popen(["sh", "-c", script], stdout=-1)
    time.sleep(8)
    fighter.kill()
    deleted = fighter.communicate()[0].count("deleted")
    said = agent.log[said:]
    # Six times until it is a fight, and one try after the pause of 5 s.
    assert 6 <= deleted <= 8, said
    assert said.count("left alone") == 1 and said.count(" heal: ") <= 9, said
    assert agent.cpu() - used < 2, "it waits, it does not spin"
    # The pause after that try was longer.
    assert settles(lab.a, before, 15)


def test_sysctls_that_nobody_tells_of(lab, agent):
    """One owner every two seconds, and what is the network's with each of them."""
    script = "cd /proc/sys/net/ipv4; echo 1 > conf/up0/send_redirects; echo 80 > neigh/tap-a1/proxy_delay"
    healed(lab.a, script, 9)


def test_a_carrier_that_comes_back(lab, agent):
    """A flap seen from the other end of the cable, with the uplink down for a while: nothing on it is mended before it is up,
    nobody is told off, and then all of it is back at once."""
    before, looked, said = state(lab.a), look(lab.a), len(agent.log)
    lab.a.sh("ip link set up0 down")
    time.sleep(1.5)
    assert "up0" in lab.a.sh("ip link show up0") and "LOWER_UP" not in lab.a.sh("ip link show up0"), "the admin took it down"
    assert "can't be put back" not in agent.log[said:]
    healed(lab.a, "ip link set up0 up", before=looked)
    assert settles(lab.a, before)
    lab.segment.sh("for p in /sys/class/net/p*; do ip link set ${p##*/} down; done; sleep 0.5")
    lab.segment.sh("for p in /sys/class/net/p*; do ip link set ${p##*/} up; done")
    assert settles(lab.a, before)
    a1 = lab.guests["a1"]
    assert eventually(lambda: reach([(a1.node, WORLD4), (a1.node, WORLD6)], 1) == [], 10)


def test_a_tap_that_an_admin_took_down(lab, agent):
    """It stays down, and the rest of the host is nobody's concern."""
    before = state(lab.a)
    lab.a.sh("ip link set tap-a2 down; sleep 1; ip route flush table 222")
    try:
        time.sleep(1)
        assert "UP" not in lab.a.sh("ip -o link show tap-a2").partition("<")[2].partition(">")[0].split(",")
        assert reach([(lab.guests["a1"].node, WORLD4)]) == []
    finally:
        lab.a.sh("ip link set tap-a2 up")
    assert settles(lab.a, before)


def test_a_tap_that_goes_with_its_guest(lab, agent):
    """QEMU died, or a NIC was unplugged while it ran: no hook comes for that."""
    before, looked, said = state(lab.a), look(lab.a), len(agent.log)
    nic = Interface("52:54:00:aa:00:0d", "tap-a3", "public", ("192.0.2.13", "2001:db8::13"))
    node = tapped(lab.a, nic.tap, "guest-a3", Nic(nic.mac, nic.ips[0], 24, GATEWAY4, nic.ips[1], GATEWAY6))
    with node:
        a3 = Plugged("a3", lab.a, nic, node)
        lab.start(a3)
        assert reach([(node, GATEWAY4), (node, GATEWAY6)]) == []
        healed(lab.a, "ip link del tap-a3", before=looked)
    assert "tap-a3 is gone" in agent.log[said:]
    assert "a3" not in lab.a.cli("status").stdout
    lab.stop(a3)
    assert state(lab.a) == before, "the hook that comes late finds nothing left"


def test_a_bridge_with_filters():
    """Bridged guests: the same damage, the same flood, to the bridge's own port."""
    config = PUBLIC + '\n[networks.lan]\nmode = "bridged"\nbridge = "br0"\nantispoof = true\n'
    with RoutedLab(config) as lab:
        host = lab.a
        host.sh("ip link add br0 type bridge; ip link set br0 up; ip link set eth9 master br0")
        nic = Interface("52:54:00:bb:00:01", "tap-l1", "lan", ("10.0.1.50",))
        a1 = lab.guests["a1"]
        guest = tapped(host, nic.tap, "guest-l1", Nic(nic.mac, "10.0.1.50"))
        with guest, Agent(host) as agent:
            one = Plugged("l1", host, nic, guest)
            host.sh("ip link set tap-l1 master br0")
            lab.start(one, a1)
            guarded = "nft list set bridge vmnet_keeper guarded 2>/dev/null || :"
            assert eventually(lambda: "tap-l1" in host.sh(guarded), 10), agent.log
            assert reach([(guest, "10.0.1.254")]) == [], host.sh("nft list ruleset; bridge link")
            bad = [
                frames.udp4("02:00:00:00:08:01", nic.mac, "10.0.1.99", "10.0.1.254", SPOOFED_PORT),
                frames.udp4("02:00:00:00:08:01", STRANGER, "10.0.1.50", "10.0.1.254", SPOOFED_PORT),
                frames.arp(1, nic.mac, "10.0.1.99", "10.0.1.254"),
            ]
            flood = guest.popen(["/usr/bin/python3", "-IS", FLOOD, "eth0", "2", *(f.hex() for f in bad * 5)], stdout=-1)
            flood.stdout.readline()
            expression = f"udp port {SPOOFED_PORT} or (arp and host 10.0.1.99)"
            with Capture(host, "eth9", expression) as seen:
                for damage in ("nft flush ruleset", "nft flush chain bridge vmnet guard", "nft flush set bridge vmnet addressed"):
                    healed(host, damage)
                    time.sleep(0.3)
            assert seen.lines == []
            agent.process.kill()
            agent.process.wait()
            with Capture(host, "eth9", expression) as seen:
                host.sh("nft flush ruleset; sleep 0.3")
            assert seen.lines, "without the agent it would have got through"
            flood.kill()


@contextmanager
def stranger_forwards(lab: RoutedLab):
    """A host that is no router: whoever sends it IPv6 for others, from a link of no network, is not served."""
    other = lab.add(Node("other"))
    lab.a.run(["ip", "link", "add", "oth0", "type", "veth", "peer", "name", "oth0", "netns", other.pid])
    lab.a.sh("ip link set oth0 address 02:00:00:00:77:01 up; ip -6 addr add fd00:77::1/64 dev oth0 nodad")
    other.sh("ip link set oth0 up; ip -6 addr add fd00:77::2/64 dev oth0 nodad")
    frame = frames.udp6("02:00:00:00:77:01", "02:00:00:00:77:02", "fd00:77::2", WORLD6, SPOOFED_PORT)
    sender = other.popen(["/usr/bin/python3", "-IS", FLOOD, "oth0", "1", *([frame.hex()] * 5)], stdout=-1)
    sender.stdout.readline()
    try:
        yield
    finally:
        sender.kill()
        lab.a.sh("ip link del oth0")


def test_a_host_that_is_no_router_becomes_none(lab, agent):
    before = state(lab.a)
    with stranger_forwards(lab):
        with Capture(lab.a, "any", f"udp port {SPOOFED_PORT} and not dst host fd00:77::1") as seen:
            for _ in range(4):
                lab.a.sh("nft flush ruleset; sleep 0.6")
        out = [line for line in seen.lines if " Out " in line or "up0" in line or "eth9" in line]
        assert out == [] and seen.lines, "asked, and not passed on"
    assert settles(lab.a, before)
