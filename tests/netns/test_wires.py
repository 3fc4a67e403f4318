"""Wires between guests, with real frames: every kind of frame crosses, whichever end comes or goes, and nothing else does."""

from __future__ import annotations

import random
import re
import signal
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.domains import Interface
from lab.frames import BROADCAST, arp, udp4, udp6
from lab.nodes import settled, wire
from lab.routed import eventually
from lab.single import Single, same
from lab.wires import ALL, Plug, WiredGuest, as_a_cable, count, crossed, spliced
from lab.xenhost import XenHost, nothing_stays, offline, online, succeeded

CONFIG = '[wires.a-b]\nends = ["a:0", "b:52:54:00:cc:00:0b"]\n'
EXAMPLE = Path(__file__).parents[2] / "etc/examples/wires.toml"
TABLE = "netdev vmnet-wires-between-guests"


@pytest.fixture
def one():
    with Single(CONFIG, foreign=False) as single:
        yield single


def guest(one: Single, name: str) -> WiredGuest:
    return WiredGuest(one.host, name, **{f"w.{name}": f"52:54:00:cc:00:0{name}"})


@pytest.fixture
def pair(one):
    """Two guests at the wire, which leave nothing behind."""
    before = settled(one.host)
    a, b = guest(one, "a"), guest(one, "b")
    yield a.start(), b.start()
    for each in (a, b):
        each.stop()
    same(before, settled(one.host))
    ok(one)


def ok(one: Single) -> None:
    done = one.host.cli("check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", ""), done


def isolated(plug: Plug) -> None:
    """Nothing of what it sends comes back, and nothing else."""
    plug.ask("send")
    heard = plug.hear()
    assert (heard["echoes"], heard["strange"], sum(heard["came"].values())) == (0, 0, 0)


def test_every_kind_of_frame(one, pair):
    assert ALL == 47
    a, b = pair
    as_a_cable(a.plug, b.plug)
    ok(one)
    shown = one.host.cli("status").stdout
    assert "a w.a: wire a-b to b (w.b)" in shown and "b w.b: wire a-b to a (w.a)" in shown, shown
    drawn = one.host.cli("graph", "--ascii").stdout
    assert re.search(r"w\.a -.*w\.b -", drawn), drawn


def test_a_bridge_is_no_wire(one):
    """So that the test can fail: a bridge passes about half of the kinds."""
    a, b = Plug(one.host, "pa", "a"), Plug(one.host, "pb", "b")
    one.host.sh("ip link add br9 type bridge mcast_snooping 0; for i in br9 pa pb; do ip link set $i up; done")
    one.host.sh("for i in pa pb; do ip link set $i master br9; done")
    for plug in (a, b):
        plug.hear()
    assert 20 <= count(a, b) <= 30
    assert {"PAUSE", "LACP", "EAPOL", "LLDP", "9000"} <= set(crossed(a, b)["lost"])


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_an_end_goes_and_comes_back(one, pair, order, killed):
    """Both ends follow: the new tap has another number. Of a QEMU that was killed, no hook tells before it starts again."""
    guests = {guest.name: guest for guest in pair}
    for name in order:
        end, other = guests[name], guests[order.replace(name, "")]
        end.die() if killed else end.stop()
        isolated(other.plug)
        end.start()
        as_a_cable(end.plug, other.plug)
        ok(one)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_both_go_and_come_back(one, pair, order):
    guests = {guest.name: guest for guest in pair}
    for name in order:
        guests[name].stop()
    for name in order:
        guests[name].start()
        isolated(guests[name].plug) if name == order[0] else None
    as_a_cable(pair[0].plug, pair[1].plug)
    ok(one)


def test_the_other_end_that_is_waited_for(one):
    a = guest(one, "a").start()
    assert "a w.a: wire a-b waits for b:52:54:00:cc:00:0b" in one.host.cli("status").stdout
    assert "waiting" in one.host.cli("graph").stdout
    isolated(a.plug)
    ok(one)
    a.stop()


def test_the_host_hears_nothing_without_the_chains(one, pair):
    """Another program has flushed them, and no agent runs: frames are lost, and the host answers none."""
    a, _ = pair
    one.host.sh(f"nft delete table {TABLE}; ip addr add 10.7.7.1/24 dev lo; ip addr add 10.7.7.2/24 dev br0")
    own = one.host.run("cat /sys/class/net/w.a/address").stdout.strip()
    mac, target = "52:54:00:cc:00:0a", "10.7.7.1"
    sent = [
        arp(1, mac, "10.7.7.9", target),
        *(udp4(dst, mac, source, target, 9) for dst in (own, BROADCAST) for source in ("10.7.7.9", "192.0.2.9")),
        udp6(own, mac, "2001:db8::9", "ff02::1", 9),
    ]

    def counted() -> dict[str, int]:
        words = ("UdpInDatagrams", "UdpNoPorts", "Udp6InDatagrams", "Udp6NoPorts", "IcmpOutMsgs", "Icmp6OutMsgs")
        shown = one.host.run(["nstat", "-asz", *words]).stdout
        return {name: int(value) for name, value in re.findall(r"^(\w+) +(\d+)", shown, re.M)}

    before = counted()
    assert len(before) == 6
    for each in sent:
        a.plug.ask(f"frame {each.hex()}")
    assert counted() == before
    assert a.plug.hear()["strange"] == 0
    # So that this can fail: it is the settings that keep the host from it.
    one.host.sysctl("ipv4/conf/w.a/rp_filter", 0)
    for each in sent:
        a.plug.ask(f"frame {each.hex()}")
    assert counted()["UdpNoPorts"] > before["UdpNoPorts"]
    one.host.sh("ip addr del 10.7.7.1/24 dev lo; ip addr del 10.7.7.2/24 dev br0")
    assert one.host.cli("repair").returncode == 0
    ok(one)


# --- with the agent --------------------------------------------------------------------------------------------------

DAMAGES = {
    "everything flushed": "nft flush ruleset",
    "table": f"nft delete table {TABLE}",
    "chains emptied": f"nft flush chain {TABLE} wired",
    "chain of an end": f"nft delete chain {TABLE} port-w.a",
    "rule of an end": f"nft flush chain {TABLE} port-w.b",
    "way to an end": f'nft delete element {TABLE} wires {{ "w.a" }}',
    "ways": f"nft flush map {TABLE} wires",
    "way elsewhere": f'nft "delete element {TABLE} wires {{ w.a }}; add element {TABLE} wires {{ w.a : lo }}"',
}


def test_damage_is_healed(one, pair):
    a, b = pair
    with Agent(one.host) as agent:
        for damage in DAMAGES.values():
            one.host.sh(damage)
            assert eventually(lambda: one.host.cli("check").stdout == "ok\n"), (damage, one.host.cli("check").stdout, agent.log)
            for plug in (a.plug, b.plug):
                plug.hear()
            as_a_cable(a.plug, b.plug)
        assert agent.errors == []


def test_the_agent_follows_a_tap_that_goes(one, pair):
    """No hook tells of it. The agent is killed, and the ends are set up without it, and by the next one."""
    a, b = pair
    ways = ["nft", "list", "map", *TABLE.split(), "wires"]
    with Agent(one.host) as agent:
        b.die()
        assert eventually(lambda: "w.a" not in one.host.run(ways).stdout), agent.log
        isolated(a.plug)
        ok(one)
        b.start()
        as_a_cable(a.plug, b.plug)
        agent.stop(signal.SIGKILL)
    as_a_cable(a.plug, b.plug)
    b.die()
    b.start()
    as_a_cable(a.plug, b.plug)
    with Agent(one.host):
        as_a_cable(a.plug, b.plug)
        a.stop()
        isolated(b.plug)
        a.start()
        as_a_cable(a.plug, b.plug)
        ok(one)


# --- other ends ------------------------------------------------------------------------------------------------------


def test_taps_of_plain_qemu(one):
    """By ifup and ifdown, which know nothing but the tap."""
    before = settled(one.host)
    one.host.config('[wires.q]\nends = ["one:q0", "two:q1"]\n')
    plugs = []
    for tap in ("q0", "q1"):
        plugs.append(Plug(one.host, tap, tap[-1]))
        done = one.host.ifup(tap)
        assert done.returncode == 0, done
    as_a_cable(*plugs)
    ok(one)
    assert "one q0: wire q to two (q1)" in one.host.cli("status").stdout
    done = one.host.ifdown("q1")
    assert done.returncode == 0, done
    isolated(plugs[0])
    # As `start` does it for a guest whose script was not called.
    assert one.host.cli("start", "two").returncode == 0
    as_a_cable(*plugs)
    ok(one)
    for plug in plugs:
        plug.close()
        assert one.host.ifdown(plug.tap).returncode == 0
    one.host.config(CONFIG)
    same(before, settled(one.host))


def test_a_link_of_the_host(one):
    """Behind it is another machine, as behind a NIC: its frames come with any MAC."""
    wire(one.host, "eth7", one.peer, "eth7", "02:00:00:00:77:01", "02:00:00:00:77:02")
    one.host.sh("ip link set eth7 up")
    far = spliced(one.peer, "eth7", "z")
    one.host.config('[wires.out]\nends = ["a:0", "link:eth7"]\nmtu = 9000\n')
    assert eventually(lambda: "fe80::" in one.host.run("ip -6 addr show dev eth7 -tentative").stdout)
    before = settled(one.host)
    done = one.host.cli("up")
    assert done.returncode == 0, done
    far.hear()
    isolated(far)
    a = guest(one, "a").start()
    as_a_cable(a.plug, far)
    assert "PROMISC" in one.host.run("ip link show eth7").stdout
    assert "a w.a: wire out to eth7" in one.host.cli("status").stdout
    ok(one)
    a.stop()
    isolated(far)
    a.start()
    as_a_cable(a.plug, far)
    a.stop()
    assert one.host.cli("down").returncode == 0
    assert eventually(lambda: "fe80::" in one.host.run("ip -6 addr show dev eth7 -tentative").stdout)
    same(before, settled(one.host))


def test_a_link_of_the_host_that_is_made_anew(one):
    """It has another number then. The agent notices, and without it `repair`."""
    one.host.config('[wires.out]\nends = ["a:0", "link:eth7"]\nmtu = 9000\n')

    def made(letter: str) -> Plug:
        wire(one.host, "eth7", one.peer, "eth7")
        one.host.sh("ip link set eth7 up")
        return spliced(one.peer, "eth7", letter)

    far = made("x")
    a = guest(one, "a").start()
    far.hear()
    as_a_cable(a.plug, far)
    with Agent(one.host):
        far.close()
        one.host.run("ip link del eth7")
        far = made("y")
        assert eventually(lambda: one.host.cli("check").stdout == "ok\n"), one.host.cli("check").stdout
        far.hear()
        as_a_cable(a.plug, far)
    far.close()
    one.host.run("ip link del eth7")
    far = made("z")
    assert "wires" in one.host.cli("check").stdout
    assert one.host.cli("repair").returncode == 0
    ok(one)
    far.hear()
    as_a_cable(a.plug, far)
    a.stop()


def test_a_guest_of_xen_with_an_emulated_nic():
    """It hears at both of its links, and sends by either; then its drivers take over, and the emulated one goes."""
    with XenHost('[wires.x]\nends = ["dom1:0", "b:0"]\nmtu = 9000\n', foreign=False) as one, nothing_stays(one):
        vif = one.vif(hvm=True)
        pv = spliced(vif.guest, "eth0", "p")
        emulated = Plug(one.host, vif.tap, "e")
        b = WiredGuest(one.host, "b", **{"w.b": "52:54:00:cc:00:0b"}).start()
        online(vif)
        as_a_cable(pv, b.plug)
        succeeded(vif.call("add"))
        for plug in (pv, emulated, b.plug):
            plug.hear()
        for sender in (pv, emulated):
            assert crossed(sender, b.plug) == {}
        assert b.plug.ask("send") == "sent\n"
        for each in (pv, emulated):
            heard = each.hear()
            assert set(heard["came"].values()) == {1} and not heard["wrong"], heard
        emulated.close()
        succeeded(vif.call("remove"))
        as_a_cable(pv, b.plug)
        pv.close()
        offline(vif)
        isolated(b.plug)
        b.stop()


def test_many_wires(one):
    """Twenty guests with seven NICs each, in any order, some of them again: each end leads to the tap that is there."""
    before = settled(one.host)
    order = random.Random(20)
    taps = {f"g{number}": [f"g{number}.{nic}" for nic in range(7)] for number in range(20)}
    ends = [f"{name}:{nic}" for name, own in taps.items() for nic in range(len(own))]
    order.shuffle(ends)
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    one.host.config("".join(f'[wires.w{n}]\nends = ["{a}", "{b}"]\n' for n, (a, b) in enumerate(pairs)))
    assert one.host.cli("validate").stdout == "ok: 0 networks, 70 wires, 0 domains\n"
    guests = {
        name: [Interface(f"52:54:00:{int(name[1:]):02x}:00:{at:02x}", tap) for at, tap in enumerate(own)]
        for name, own in taps.items()
    }

    def started(name: str) -> None:
        one.host.sh("\n".join(f"ip tuntap add {nic.tap} mode tap; ip link set {nic.tap} up" for nic in guests[name]))
        one.start(name, *guests[name])

    def ended(name: str) -> None:
        one.host.sh("\n".join(f"ip link del {nic.tap}" for nic in guests[name]))

    with Agent(one.host) as agent:
        for name in order.sample(list(guests), len(guests)):
            started(name)
        for name in order.choices(list(guests), k=6):
            ended(name)
            started(name)
        shown = one.host.run(["nft", "list", "map", *TABLE.split(), "wires"]).stdout
        found = dict(re.findall(r'"([^"]+)" : "([^"]+)"', shown))
        tap_of = {f"{name}:{nic}": tap for name, own in taps.items() for nic, tap in enumerate(own)}
        assert found == {tap_of[a]: tap_of[b] for pair in pairs for a, b in (pair, pair[::-1])}
        ok(one)
        for name in guests:
            ended(name)
            one.stop(name, *guests[name])
        assert agent.errors == []
    same(before, settled(one.host))


def test_the_example(one):
    """Leaves and spines, started all at once and one by one again; the switch is behind eth7."""
    text = EXAMPLE.read_text()
    wires = [table["ends"] for table in tomllib.loads(text)["wires"].values()]
    wire(one.host, "eth7", one.peer, "eth7")
    one.host.sh("ip link set eth7 up mtu 9000")
    far = spliced(one.peer, "eth7", "z")
    one.host.config(text)
    assert eventually(lambda: "fe80::" in one.host.run("ip -6 addr show dev eth7 -tentative").stdout)
    before = settled(one.host)
    # The taps of each guest, by number or with the MAC that its wire names.
    taps: dict[str, dict[str, str]] = {}
    for at, end in enumerate(sorted(end for ends in wires for end in ends if not end.startswith("link:"))):
        name, _, nic = end.partition(":")
        taps.setdefault(name, {})[f"{name}-{nic[:1]}"] = nic if ":" in nic else f"52:54:00:cc:01:{at:02x}"
    guests = {name: WiredGuest(one.host, name, **there) for name, there in taps.items()}

    def plug(end: str) -> Plug:
        name, _, nic = end.partition(":")
        return far if name == "link" else next(plug for plug in guests[name].plugs if plug.tap == f"{name}-{nic[:1]}")

    order = random.Random(7)
    with ThreadPoolExecutor() as pool:
        list(pool.map(WiredGuest.start, guests.values()))
    again = order.choice(list(guests.values()))
    again.die()
    again.start()
    for ends in wires:
        both = [plug(end) for end in ends]
        for each in both:
            each.hear()
        as_a_cable(*both)
    assert one.host.cli("up").returncode == 0
    ok(one)
    for guest in order.sample(list(guests.values()), len(guests)):
        guest.stop()
    assert one.host.cli("down").returncode == 0
    assert eventually(lambda: "fe80::" in one.host.run("ip -6 addr show dev eth7 -tentative").stdout)
    same(before, settled(one.host))
