"""Wires between guests, with real frames: every kind of frame crosses, whichever end comes or goes, and nothing else does."""

from __future__ import annotations

import pytest
from lab.nodes import settled
from lab.single import Single, same
from lab.wires import ALL, Plug, WiredGuest, as_a_cable, count, crossed

CONFIG = '[wires.a-b]\nends = ["a:0", "b:52:54:00:cc:00:0b"]\n'


@pytest.fixture
def one():
    with Single(CONFIG, foreign=False) as single:
        yield single


def guest(one: Single, name: str) -> WiredGuest:
    return WiredGuest(one.host, name, f"w.{name}", f"52:54:00:cc:00:0{name}")


@pytest.fixture
def pair(one):
    """Two guests at the wire, which leave nothing behind."""
    before = settled(one.host)
    a, b = guest(one, "a"), guest(one, "b")
    yield a.start(), b.start()
    for each in (a, b):
        each.stop()
    same(before, settled(one.host))
    assert one.host.cli("check").stdout == "ok\n"


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
