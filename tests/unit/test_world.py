"""`check` looks at the world: what is declared is up, the kernel's own way to a guest is its tap, no port has an address. Packets
prove the same in tests/netns/test_world.py."""

import pytest
from scenario import LAN, PUBLIC, ROUTER, V4, V6, Host, guest

from vmnet_hooks.engine import check, guests, world
from vmnet_hooks.model.objects import Address, LinkAttribute, Route, Rule, Sysctl
from vmnet_hooks.records import look, taken_down
from vmnet_hooks.records.store import Store

PRIVATE = (
    '[bridges.br1]\naddresses = ["10.5.5.1/24", "fd05::1/64"]\n[networks.inside]\nmode = "bridged"\nbridge = "br1"\n'
    '[nat.out4]\nsubnet = "10.5.5.0/24"\nout = "eth9"\nmasquerade = true\n'
    '[nat.out6]\nsubnet = "fd05::/64"\nout = "eth9"\nmasquerade = true\n'
)
OTHER = '[nat.other]\nsubnet = "10.9.9.0/24"\nout = "eth9"\nmasquerade = true\n'
IMPLIED = '[networks.forty]\nmode = "bridged"\nbridge = "br40"\nuplink = "eth3"\nvlan = 40\n'
WEB = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]))
INSIDE = (guest(2, ("inside", ())), guest(3, ("inside", ())))


def told(host: Host, **kw: str) -> list[tuple[str, str, str, str]]:
    return [(drift.kind, drift.owner, drift.what, drift.remedy) for drift in host.check(**kw)]


def owners(host: Host) -> set[str]:
    return {owner.id for owner in host.kept().owners() if "/" not in owner.id}


def plugged(path, *domains, toml: str) -> Host:
    host = Host(path, toml)
    for domain in domains:
        host.add_taps(domain)
        host.plug(domain)
    return host


# --- what is declared ------------------------------------------------------------------------------------------------------


def test_what_is_declared_is_up(tmp_path):
    """A network without a guest is brought up by its first one, with what it implies; but for a router, which serves others."""
    host = Host(
        tmp_path,
        PRIVATE
        + OTHER
        + '[vlans."eth3.7"]\nparent = "eth3"\nid = 7\n'
        + IMPLIED
        + PUBLIC
        + V4
        + LAN
        + ROUTER.replace("router+host", "router"),
    )
    expected = ["vlan:eth3.7", "bridge:br1", "nat:out4", "nat:out6", "nat:other", "network:edge"]
    found = host.check()
    assert {drift.kind for drift in found} == {"not-up"} and sorted(drift.owner_id for drift in found) == sorted(expected)
    for drift in found:
        assert drift.remedy == f"vmnet-hook up {drift.owner_id}" and drift.owner == drift.owner_id.replace(":", " ")
        # The remedy works.
        host.up(drift.remedy.split()[-1])
    assert host.check() == []
    # What the admin takes down is down as it shall be, until it is brought up again.
    host.down("out4")
    assert host.check() == [] and [part.id for part in host.call(world.down)] == ["nat:out4"]
    host.up("out4")
    assert host.check() == [] and taken_down.read(host.kept()) == set()


# --- NAT of guests ---------------------------------------------------------------------------------------------------------


def test_a_guest_brings_its_nat(tmp_path):
    """And no other; it goes with the last guest."""
    host = Host(tmp_path, PRIVATE + OTHER)
    before = host.kernel.snapshot()
    for domain in INSIDE:
        host.prepare(domain)
        host.add_taps(domain)
        host.plug(domain)
    assert owners(host) == {"bridge:br1", "nat:out4", "nat:out6"}
    assert [drift.owner_id for drift in host.check()] == ["nat:other"]
    host.unplug(INSIDE[0])
    assert owners(host) == {"bridge:br1", "nat:out4", "nat:out6"}
    host.unplug(INSIDE[1])
    for domain in INSIDE:
        host.remove_taps(domain)
    assert owners(host) == set() and host.kernel.snapshot() == before


def test_nat_that_was_asked_for_stays(tmp_path):
    host = Host(tmp_path, PRIVATE)
    host.up("out4")
    host.add_taps(INSIDE[0])
    host.plug(INSIDE[0])
    host.unplug(INSIDE[0])
    assert owners(host) == {"nat:out4"}


def test_nat_that_guests_need_stays_until_they_are_gone(tmp_path):
    host = plugged(tmp_path, INSIDE[0], toml=PRIVATE)
    host.up()
    host.down()
    assert owners(host) == {"bridge:br1", "nat:out4", "nat:out6"} and host.check() == []
    host.unplug(INSIDE[0])
    assert owners(host) == set()


@pytest.mark.parametrize("problem", ["missing", "adopts"])
def test_a_guest_starts_without_nat_that_cannot_be(tmp_path, problem):
    """Its interface is missing, or would have to be taken over: `check` tells, and what it says helps."""
    toml = PRIVATE.replace("eth9", "wg0" if problem == "missing" else "xenbr0")
    toml += '[bridges.xenbr0]\nports = ["eth0"]\nadopt = "eth0"\n' if problem == "adopts" else ""
    host = plugged(tmp_path, INSIDE[0], toml=toml)
    assert owners(host) == {"bridge:br1"}
    assert ("not-up", "d2", "needs nat out4, which is not up", "vmnet-hook up nat:out4") in told(host, domain="d2")
    if problem == "missing":
        host.kernel.add_link("wg0", up=True)
        host.kernel.put(Route(254, "0.0.0.0/0", "wg0", "203.0.113.1", 3))
    else:
        host.kernel.put(Address("eth0", "203.0.113.2/24"))
    host.up("nat:out4")
    host.up("nat:out6")
    assert host.check() == []


# --- the kernel's own way --------------------------------------------------------------------------------------------------


def test_a_rule_that_leads_elsewhere(tmp_path):
    host = plugged(tmp_path, WEB, toml=PUBLIC + V4 + V6)
    assert host.check() == []
    host.kernel.put(Rule(99, "to", "192.0.2.0/25", 51820, 3), Route(51820, "0.0.0.0/0", "eth9", "", 3))
    what = "192.0.2.10: the kernel sends packets from eth1 to eth9 (table 51820), not to t1.0; see ip rule"
    assert told(host) == told(host, domain="d1") == [("unreached", "d1", what, "ip rule del pref 99")]


def test_an_address_of_another_guests_prefix(tmp_path):
    toml = '[networks.plain]\nmode = "hostroute"\nnetdev = "eth1"\naddress = "192.0.2.1"\n'
    host = plugged(tmp_path, guest(1, ("plain", ["10.98.0.0/24"])), guest(2, ("plain", ["10.98.0.0"])), toml=toml)
    assert host.check() == host.check(domain="d1") == []


def test_what_follows_from_a_difference_is_not_told_again(tmp_path):
    host = plugged(tmp_path, WEB, toml=PUBLIC + V4 + V6)
    del host.kernel.world["route 222 192.0.2.10/32"]
    assert [drift[:3] for drift in told(host)] == [("missing", "d1", "route 222 192.0.2.10/32: missing")]


def test_a_guest_that_has_not_arrived_is_not_asked_for(tmp_path):
    host = Host(tmp_path, PUBLIC + V4)
    domain = guest(1, ("public", ["192.0.2.10"]))
    host.add_taps(domain)
    host.call(guests.plug, domain, "libvirt", True)
    assert host.check() == []


# --- links -----------------------------------------------------------------------------------------------------------------


def test_an_address_on_a_port(tmp_path):
    host = Host(tmp_path, '[bridges.br1]\nports = ["eth3"]\n')
    host.up()
    assert host.check() == []
    host.kernel.put(Address("eth3", "192.0.2.2/24"))
    what = "eth3 has address 192.0.2.2/24, which does not work on a port of br1; what sets it must not"
    assert told(host)[1:] == [("hindered", "bridge br1", what, "ip addr del 192.0.2.2/24 dev eth3")]


def test_an_uplink_in_a_foreign_bridge(tmp_path):
    host = plugged(tmp_path, WEB, toml=PUBLIC + V4 + V6)
    host.kernel._set_link(LinkAttribute("eth1", "master", "br0"))
    [(kind, owner, what, remedy)] = told(host)
    assert (kind, owner, remedy) == ("hindered", "d1", "ip link set dev eth1 nomaster") and "is a port of br0" in what


@pytest.mark.parametrize("own", ["", "fe80::2/64"])
def test_an_uplink_without_a_link_local_address(tmp_path, own):
    """It gets one while guests are on it, unless another program gave it one."""
    host = Host(tmp_path, PUBLIC + V4 + V6)
    host.kernel.put(Sysctl("net/ipv6/conf/eth1/addr_gen_mode", "1"), LinkAttribute("eth1", "lladdr", ""))
    if own:
        host.kernel.put(Address("eth1", own))
    host.add_taps(WEB)
    before = host.kernel.snapshot()
    address = Address("eth1", "fe80::ff:fe00:2/64")
    for _ in range(2):
        host.plug(WEB)
        assert (address.key in host.kernel.world) == (not own) and host.check() == []
    host.unplug(WEB)
    assert host.kernel.snapshot() == before


def test_guests_that_run_do_not_keep_others_from_a_bare_uplink(tmp_path):
    host = plugged(tmp_path, WEB, toml=PUBLIC + V4 + V6)
    host.kernel.put(Sysctl("net/ipv6/conf/eth1/addr_gen_mode", "1"), LinkAttribute("eth1", "lladdr", ""))
    [(kind, _, what, remedy)] = [drift for drift in told(host) if drift[0] != "edited"]
    other = guest(2, ("public", ["192.0.2.20"]))
    host.add_taps(other)
    host.plug(other)
    host.repair()
    assert host.check() == []


# --- without the lock ------------------------------------------------------------------------------------------------------


def test_the_lock_is_not_held_and_not_needed(tmp_path):
    host = plugged(tmp_path, WEB, toml=PUBLIC + V4 + V6)
    held = []
    read = host.kernel.read
    other = Store(str(tmp_path / "run"))
    host.kernel.read = lambda wanted: held.append(look.is_locked(other)) or read(wanted)
    assert host.check() == [] and held and not any(held)
    del host.kernel.read
    with other.lock():
        assert host.check() == []


def test_what_a_hook_has_half_done_is_no_difference(tmp_path, monkeypatch):
    """A plug between two looks, and one that goes on all the time."""
    host = plugged(tmp_path, WEB, toml=PUBLIC + V4 + V6)
    monkeypatch.setattr(check, "PAUSES", (0, 0, 0, 0))
    other, looks = guest(2, ("public", ["192.0.2.20"])), []
    host.add_taps(other)
    ours = host.kernel.ours

    def late() -> dict:
        # After the records have been read.
        looks.append(1)
        host.plug(other) if len(looks) % 2 else host.unplug(other)
        return ours()

    host.kernel.ours = late
    assert host.check() == []
    del host.kernel.ours
    # What is wrong, is told all the same.
    del host.kernel.world["route 222 192.0.2.10/32"]
    with host.store().lock():
        assert [drift.what for drift in host.check()] == ["route 222 192.0.2.10/32: missing"]
