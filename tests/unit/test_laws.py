"""The laws of the engine, against a fake kernel that can fail at any step, with real records:

applying twice changes nothing; a failure at any step leaves the world as it was, and names the step; nothing that we do
not own is touched; plug then unplug is identity; what a killed process leaves is taken back by the next; check is clean
after repair.
"""

import random
from dataclasses import replace
from itertools import permutations

import pytest
from fake_kernel import PORT_FLAGS, FakeKernel, Killed, label
from scenario import EVERYTHING, LAN, PUBLIC, V4, V6, Build, Host, difference, guest, mac, uuid

from vmnet_hooks.engine import guests
from vmnet_hooks.errors import ConflictError, InputError, KernelError, VmnetError
from vmnet_hooks.model.guest import Domain, Vif
from vmnet_hooks.model.objects import (
    HostName,
    Ifb,
    LinkAttribute,
    Neighbour,
    NftChain,
    NftElement,
    NftTable,
    ProxyNeighbour,
    Route,
    Rule,
    Sysctl,
    TableName,
)
from vmnet_hooks.model.objects.bridge import PortMac
from vmnet_hooks.model.resource import NAT_SETS
from vmnet_hooks.model.ruleset import NAT
from vmnet_hooks.model.ruleset import WIRES as WIRES_NFT

BRIDGED = guest(1, ("lan", ()))
ROUTED = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]))
OPEN = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]), filter=False)
BOTH = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]), ("lan", ()))
SECOND = guest(2, ("public", ["192.0.2.20"]))
GIVEN = guest(1, ("lan", ["10.7.0.10", "2001:db8:7::10", "10.99.0.0/24", "10.99.0.0/16", "::/0"]))
GIVEN_TOO = guest(2, ("lan", ["10.7.0.20", "10.99.0.0/24"]))
BARE = LAN + "antispoof = true\n"
EDGE = guest(3, ("edge", ["198.51.100.5", "2001:db8:1::5"]))
EDITED = EVERYTHING.replace("table = 222", "table = 223").replace("192.0.2.254", "192.0.2.253").replace('"eth1"', '"eth3"')
EDITED_LIGHTLY = EVERYTHING.replace("192.0.2.254", "192.0.2.253").replace("[networks.edge]", "mtu = 1400\n[networks.edge]")
HOSTROUTE = (
    '[networks.plain]\nmode = "hostroute"\nnetdev = "eth1"\naddress = "192.0.2.1"\n'
    '[networks.private]\nmode = "hostroute"\nnetdev = "eth1"\nnat = true\n'
)
PLAIN = guest(4, ("plain", ["192.0.2.40", "2001:db8::40", "10.98.0.0/16", "10.98.1.0/24", "2001:db8:40::/56"]))
PLAIN_TOO = guest(5, ("plain", ["192.0.2.50"]))
PRIVATE = guest(6, ("private", ["10.0.6.1", "10.97.0.0/24"]))


WIRES = '[wires.a-b]\nends = ["d7:0", "d8:52:54:00:aa:08:00"]\nmtu = 9000\n[wires.loop]\nends = ["d9:0", "d9:t9.1"]\n'
TO_LINK = '[wires.out]\nends = ["link:eth3", "d7:t7.0"]\n'


def wired(number: int, nics: int = 1) -> Domain:
    """Domain dN with NICs that no claim names."""
    return Domain(f"d{number}", uuid(number), tuple(Vif(mac(number, i), f"t{number}.{i}", i) for i in range(nics)))


ONE_END, OTHER_END, LOOP = wired(7), wired(8), wired(9, 2)


def halves(domain: Domain) -> tuple[Domain, Domain]:
    """An HVM guest of Xen's as its scripts see it: one NIC, of which there are two."""
    [vif] = domain.vifs
    first = replace(vif, id="0", twin="0-emu", metric=2, mtu=1400, port_mac="fe:ff:ff:ff:ff:ff")
    second = replace(first, ifname=f"{vif.ifname}-emu", id="0-emu", twin="0", metric=1)
    return replace(domain, vifs=(first,), partial=True), replace(domain, vifs=(second,), partial=True)


ISOLATED = LAN + "isolated = true\nmtu = 1300\n"


class Case(Build):
    """`before` makes the world in which `domain` is plugged (or unplugged, if it was plugged there)."""

    def __init__(self, domain, toml=EVERYTHING, first=(), then="", **facts):
        self.domain, self.toml, self.first, self.then, self.facts = domain, toml, first, then, facts

    def build(self, path) -> Host:
        host = Host(path, self.toml, **self.facts)
        for domain in (*self.first, self.domain):
            host.add_taps(domain)
        for domain in self.first:
            host.plug(domain)
        if self.then:
            host.configure(self.then)
        return host


PLUGS = {
    "hostroute": Case(PLAIN, HOSTROUTE),
    "hostroute, host without IPv6": Case(PLAIN_TOO, HOSTROUTE, ipv6=False),
    "hostroute beside another": Case(PLAIN, HOSTROUTE, first=[PLAIN_TOO]),
    "hostroute, router advertisements, strict": Case(PLAIN, HOSTROUTE, ra_links=("eth1",), rp_filter=1),
    "hostroute with NAT": Case(PRIVATE, HOSTROUTE),
    "hostroute with NAT beside plain": Case(PRIVATE, HOSTROUTE, first=[PLAIN]),
    "second half of a NIC, hostroute": Case(halves(PLAIN)[1], HOSTROUTE, first=[halves(PLAIN)[0]]),
    "second half of a NIC, routed": Case(halves(ROUTED)[1], first=[halves(ROUTED)[0]]),
    "second half of a NIC, bridged": Case(halves(GIVEN)[1], LAN, first=[halves(GIVEN)[0]]),
    "bridged": Case(BRIDGED),
    "bridged, isolated, mtu": Case(BRIDGED, ISOLATED),
    "bridged, antispoof": Case(GIVEN),
    "bridged, antispoof, host without IPv6": Case(GIVEN, LAN, ipv6=False),
    "bridged, antispoof, MAC alone": Case(BRIDGED, BARE),
    "bridged, antispoof switched on": Case(BRIDGED, LAN, first=[BRIDGED], then=BARE),
    "bridged, antispoof switched off": Case(GIVEN, LAN, first=[GIVEN], then=LAN + "antispoof = false\n"),
    "bridged, antispoof beside another": Case(GIVEN, LAN, first=[GIVEN_TOO]),
    "bridged, antispoof with other addresses": Case(guest(1, ("lan", ["10.7.0.11"])), LAN, first=[GIVEN]),
    "routed v4": Case(guest(1, ("public", ["192.0.2.10"])), PUBLIC + V4),
    "routed v4, host without IPv6": Case(guest(1, ("public", ["192.0.2.10"])), PUBLIC + V4, ipv6=False),
    "routed v6": Case(guest(1, ("public", ["2001:db8::10"])), PUBLIC + V6),
    "routed v6, RA host": Case(guest(1, ("public", ["2001:db8::10"])), PUBLIC + V6, ra_links=("eth0", "eth1")),
    "routed v4+v6": Case(ROUTED),
    "routed v4+v6, open, strict host": Case(OPEN, rp_filter=1),
    "routed, no neighbours, own MAC, mtu": Case(
        ROUTED, PUBLIC + 'permanent_neighbours = false\ntap_mac = ""\nmtu = 1400\n' + V4 + V6
    ),
    "routed and bridged": Case(BOTH),
    "second guest of a network": Case(SECOND, first=[ROUTED]),
    "router+host with masquerade": Case(EDGE),
    "router+host beside host": Case(EDGE, first=[ROUTED]),
    "replug": Case(ROUTED, first=[ROUTED]),
    "replug after an edit": Case(ROUTED, first=[ROUTED], then=EDITED),
    "replug after an edit, two guests": Case(ROUTED, first=[ROUTED, SECOND], then=EDITED_LIGHTLY),
    "replug with other addresses": Case(guest(1, ("public", ["192.0.2.11"])), first=[ROUTED]),
    "replug with a NIC less": Case(guest(1, ("public", ["192.0.2.10"])), first=[BOTH]),
    "from routed to bridged": Case(BRIDGED, first=[ROUTED]),
    "at a wire": Case(ONE_END, WIRES),
    "at a wire, host without IPv6": Case(ONE_END, WIRES, ipv6=False),
    "at a wire with another": Case(OTHER_END, WIRES, first=[ONE_END]),
    "both ends of a wire": Case(LOOP, WIRES),
    "wire to a link": Case(ONE_END, TO_LINK),
    "second half of a NIC at a wire": Case(halves(ONE_END)[1], WIRES, first=[OTHER_END, halves(ONE_END)[0]]),
    "from a wire to bridged": Case(replace(guest(7, ("lan", ())), name="d7"), WIRES, first=[OTHER_END, ONE_END], then=LAN),
}
UNPLUGS = {
    "hostroute": Case(PLAIN, HOSTROUTE, first=[PLAIN]),
    "hostroute, first of two": Case(PLAIN, HOSTROUTE, first=[PLAIN, PLAIN_TOO]),
    "hostroute with NAT": Case(PRIVATE, HOSTROUTE, first=[PRIVATE, PLAIN]),
    "bridged": Case(BRIDGED, first=[BRIDGED]),
    "bridged, isolated": Case(BRIDGED, ISOLATED, first=[BRIDGED]),
    "bridged, antispoof": Case(GIVEN, LAN, first=[GIVEN]),
    "bridged, antispoof, first of two": Case(GIVEN, LAN, first=[GIVEN, GIVEN_TOO]),
    "routed": Case(ROUTED, first=[ROUTED]),
    "routed and bridged": Case(BOTH, first=[BOTH]),
    "first of two": Case(ROUTED, first=[ROUTED, SECOND]),
    "second of two": Case(SECOND, first=[ROUTED, SECOND]),
    "router+host": Case(EDGE, first=[EDGE]),
    "after an edit": Case(ROUTED, first=[ROUTED], then=EDITED),
    "at a wire": Case(ONE_END, WIRES, first=[ONE_END]),
    "at a wire with another": Case(ONE_END, WIRES, first=[ONE_END, OTHER_END]),
    "both ends of a wire": Case(LOOP, WIRES, first=[LOOP]),
    "wire to a link": Case(ONE_END, TO_LINK, first=[ONE_END]),
    "network deleted": Case(ROUTED, first=[ROUTED], then=LAN),
}
plugs = pytest.mark.parametrize("case", PLUGS.values(), ids=PLUGS.keys())
unplugs = pytest.mark.parametrize("case", UNPLUGS.values(), ids=UNPLUGS.keys())
late = pytest.mark.parametrize("late", [False, True], ids=["before the step", "after the step"])


def assert_same(host: Host, before: tuple, what: str) -> None:
    world, links, records = host.everything()
    assert not difference(before[0], world), what
    assert links == before[1], what
    assert records == before[2], what


def assert_clean(host: Host) -> None:
    assert host.check() == []


def count_steps(case: Case, path) -> int:
    host = case.host(path)
    host.plug(case.domain)
    return host.kernel.calls


# --- a failure at any step -------------------------------------------------------------------------------------------


@plugs
@late
def test_plug_fails_at_every_step(case, late, tmp_path):
    host = case.host(tmp_path)
    before = host.everything()
    step = 0
    while True:
        host.kernel.clear_faults()
        host.kernel.fail_at, host.kernel.late = step, late
        try:
            host.plug(case.domain)
            break
        except KernelError as error:
            assert label(host.kernel.steps[step]) in str(error), "the error names the step"
            assert "\n" not in str(error)
            assert "putting back failed" not in str(error)
        assert_same(host, before, f"step {step}: {label(host.kernel.steps[step])}")
        step += 1
    host.kernel.clear_faults()
    assert step > 0 or case.first
    if len(case.first) < 2:
        # An edit reaches the other guests with their own next plug.
        assert_clean(host)


@plugs
def test_plug_notices_a_change_that_does_not_take(case, tmp_path):
    """Every single change of the plan is silently dropped once."""
    host = case.host(tmp_path)
    session = host.session()
    plan = guests.plan_plug(session, case.domain, "libvirt")
    session.records.close()
    before = host.everything()
    for change in plan:
        if change.want is None:
            continue
        host.kernel.clear_faults()
        host.kernel.lost = {change.subject.key}
        if (have := before[0].get(change.subject.key)) and change.want.covers(have[0]):
            # A side effect of another step, put right by this one.
            continue
        if isinstance(change.subject, NftElement):
            # An nft transaction holds as a whole or not at all: not read back (libnftables would load every set of the host).
            continue
        if change.subject.key.endswith("lladdr"):
            # The kernel makes this one by itself when the link comes up.
            continue
        with pytest.raises(VmnetError):
            host.plug(case.domain)
        assert_same(host, before, change.subject.key)


@plugs
def test_plug_survives_a_tap_that_vanishes_at_every_step(case, tmp_path):
    steps = count_steps(case, _folder(tmp_path, "count"))
    tap = case.domain.vifs[0].ifname
    without = case.host(_folder(tmp_path, "without"))
    records = without.records()
    without.kernel.remove_link(tap)
    for step in range(steps):
        host = case.host(_folder(tmp_path, f"step{step}"))
        host.kernel.vanish = (step, tap)
        try:
            host.plug(case.domain)
        except VmnetError:
            host.kernel.remove_link(tap)
            assert not difference(without.kernel.snapshot(), host.kernel.snapshot()), f"step {step}"
            assert host.records() == records
        # The guest never came to be: its clean-up, by name, leaves nothing.
        host.kernel.clear_faults()
        host.unplug(case.domain)
        for domain in case.first:
            host.unplug(domain)
        host.assert_no_records()


def _folder(path, name):
    folder = path / name
    folder.mkdir()
    return folder


@pytest.mark.parametrize("network", ["edge", "public"])
@late
def test_up_fails_at_every_step(network, late, tmp_path):
    host = Host(tmp_path)
    before = host.everything()
    step = 0
    while True:
        host.kernel.clear_faults()
        host.kernel.fail_at, host.kernel.late = step, late
        try:
            host.up(network)
            break
        except KernelError as error:
            assert label(host.kernel.steps[step]) in str(error)
        assert_same(host, before, f"step {step}")
        step += 1
    host.kernel.clear_faults()
    assert_clean(host)
    host.up(network)
    host.down(network)
    assert_same(host, before, "up then down")


@plugs
def test_a_second_failure_while_putting_back_is_told(case, tmp_path):
    host = case.host(tmp_path)
    steps = count_steps(case, _folder(tmp_path, "count"))
    if steps < 3:
        return
    # The kernel takes the first thing, and then nothing any more.
    host.kernel.fail_at = steps - 1
    real, failed = host.kernel.apply, []

    def apply(step):
        if failed:
            raise KernelError(f"{label(step)}: refused")
        try:
            real(step)
        except KernelError:
            failed.append(step)
            raise

    host.kernel.apply = apply
    with pytest.raises(KernelError, match="putting back failed"):
        host.plug(case.domain)
    host.kernel.apply = real
    host.kernel.clear_faults()
    host.repair()
    if not case.then:
        assert_clean(host)


# --- twice is once, and back is identity -----------------------------------------------------------------------------


@plugs
def test_plug_twice_changes_nothing(case, tmp_path):
    host = case.host(tmp_path)
    host.plug(case.domain)
    world = host.kernel.snapshot()
    records = host.records()
    host.kernel.clear_faults()
    host.plug(case.domain)
    assert host.kernel.calls == 0
    assert not difference(world, host.kernel.snapshot())
    assert host.records() == records
    session = host.session()
    assert guests.plan_plug(session, case.domain, "libvirt") == []
    session.records.close()


@plugs
def test_plug_then_unplug_is_identity(case, tmp_path):
    fresh = Host(_folder(tmp_path, "fresh"), case.toml, **case.facts)
    host = case.host(_folder(tmp_path, "host"))
    for domain in (*case.first, case.domain):
        fresh.add_taps(domain)
    before = fresh.everything()
    host.plug(case.domain)
    for domain in {d.name: d for d in (*case.first, case.domain)}.values():
        host.unplug(domain)
    assert_same(host, before, "identity")
    host.assert_no_records()
    host.kernel.clear_faults()
    host.unplug(case.domain)
    assert host.kernel.calls == 0


@plugs
def test_plan_is_what_plug_does(case, tmp_path):
    host = case.host(tmp_path)
    session = host.session()
    before = host.everything()
    planned = guests.plan_plug(session, case.domain, "libvirt")
    assert_same(host, before, "a plan changes nothing")
    session.records.close()
    host.plug(case.domain)
    assert [str(c) for step in host.kernel.steps for c in step] == [str(c) for c in planned]


@unplugs
def test_plan_of_unplug_is_what_unplug_does(case, tmp_path):
    host = case.host(tmp_path)
    session = host.session()
    before = host.everything()
    planned = guests.plan_unplug(session, case.domain)
    assert_same(host, before, "a plan changes nothing")
    session.records.close()
    host.unplug(case.domain)
    assert [str(c) for step in host.kernel.steps for c in step] == [str(c) for c in planned]


def test_values_found_before_are_put_back(tmp_path):
    host = Host(tmp_path)
    host.add_taps(BOTH)
    kernel = host.kernel
    kernel.put(
        Sysctl("net/ipv4/conf/eth1/proxy_arp", "1"),
        Sysctl("net/ipv4/neigh/eth1/proxy_delay", "33"),
        Sysctl("net/ipv6/conf/eth1/accept_ra", "2"),
        Sysctl("net/ipv4/conf/t1.0/rp_filter", "7"),
        Sysctl("net/ipv6/conf/t1.1/disable_ipv6", "0"),
        # A route, a rule and neighbours that somebody else made, and that happen to be what we want.
        Route(254, "192.0.2.0/24", "eth1", "", 2),
        Rule(22000, "from", "192.0.2.0/24", 222, 4),
        ProxyNeighbour("eth1", "2001:db8::10"),
    )
    kernel._set_link(LinkAttribute("t1.1", "mtu", "9000"))
    before = host.everything()
    host.plug(BOTH)
    assert_clean(host)
    host.unplug(BOTH)
    assert_same(host, before, "values found before")


def test_what_somebody_changed_since_is_theirs(tmp_path):
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    before = host.kernel.snapshot()
    host.plug(ROUTED)
    theirs = Sysctl("net/ipv4/neigh/eth1/proxy_delay", "5")
    host.kernel.put(theirs)
    host.unplug(ROUTED)
    assert difference(before, host.kernel.snapshot()) == {theirs.key: (before[theirs.key], (theirs, None))}
    host.assert_no_records()


# --- nothing foreign -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "foreign",
    [
        Route(254, "192.0.2.0/24", "eth0", "", 2),
        Route(222, "0.0.0.0/0", "eth0", "203.0.113.9", 3),
        Route(222, "::/0", "eth0", "2001:db8:9::1", 3),
        Route(222, "192.0.2.10/32", "eth0", "", 4),
    ],
    ids=str,
)
def test_a_foreign_route_in_the_way_is_a_conflict(foreign, tmp_path):
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    host.kernel.put(foreign)
    before = host.everything()
    with pytest.raises(ConflictError, match="another program's route is in the way") as caught:
        host.plug(ROUTED)
    assert str(foreign) in str(caught.value)
    assert host.kernel.calls == 0
    assert_same(host, before, "conflict")


def test_a_foreign_route_that_came_meanwhile_stays(tmp_path):
    """Our route was replaced by somebody: unplug leaves theirs alone."""
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    host.plug(ROUTED)
    theirs = Route(222, "0.0.0.0/0", "eth0", "203.0.113.9", 3)
    host.kernel.put(theirs)
    host.unplug(ROUTED)
    assert host.kernel.world[theirs.key] == theirs
    host.assert_no_records()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (guest(2, ("public", ["192.0.2.10"])), "address 192.0.2.10 of network public is held by d1"),
        (guest(2, ("public", ["192.0.2.20", "2001:db8::10"])), "address 2001:db8::10 of network public is held by d1"),
    ],
)
def test_two_live_guests_never_hold_one_address(other, message, tmp_path):
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    host.add_taps(other)
    host.plug(ROUTED)
    before = host.everything()
    with pytest.raises(ConflictError, match=message):
        host.plug(other)
    assert_same(host, before, "conflict")
    host.unplug(ROUTED)
    host.plug(other)


@pytest.mark.parametrize(
    ("route", "domain", "message"),
    [
        (Route(254, "0.0.0.0/0", "eth1", "192.0.2.40", 3), PLAIN, "192.0.2.40, a guest's address, is the next hop of the host's"),
        (Route(254, "10.9.0.0/16", "eth1", "192.0.2.10", 4), ROUTED, "route 10.9.0.0/16 dev eth1; give the guest another"),
        (Route(254, "::/0", "eth1", "2001:db8:40::1", 9), PLAIN, "2001:db8:40::/56, a guest's prefix, contains 2001:db8:40::1,"),
        (Route(100, "10.9.0.0/16", "eth1", "10.98.0.1", 4), PLAIN, "host's route 10.9.0.0/16 dev eth1 table 100; give the guest"),
    ],
)
def test_a_next_hop_is_no_guests_address(route, domain, message, tmp_path):
    host = Host(tmp_path, EVERYTHING + HOSTROUTE)
    host.add_taps(domain)
    host.kernel.put(route)
    before = host.everything()
    with pytest.raises(ConflictError, match=message):
        host.plug(domain)
    assert_same(host, before, "next hop")


def test_an_address_in_use_is_refused_unless_the_guest_has_it(tmp_path):
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    host.kernel.in_use = {("eth1", "2001:db8::10"): "02:00:00:00:05:01"}
    before = host.everything()
    with pytest.raises(ConflictError, match="d1: 2001:db8::10 is in use: 02:00:00:00:05:01 answers for it on eth1; give"):
        host.plug(ROUTED)
    assert_same(host, before, "in use")
    assert host.kernel.asked == set(), "and the question is withdrawn"
    host.kernel.in_use = {}
    host.plug(ROUTED)
    assert host.kernel.asked == {("eth1", "192.0.2.10"), ("eth1", "2001:db8::10")}
    host.kernel.in_use = {("eth1", "2001:db8::10"): "02:00:00:00:05:01"}
    host.plug(ROUTED)


def test_two_live_guests_never_hold_one_mac(tmp_path):
    host = Host(tmp_path)
    thief = guest(2, ("public", ["192.0.2.20"]))
    vif, claim = replace(thief.vifs[0], mac=ROUTED.vifs[0].mac), replace(thief.claims[0], mac=ROUTED.vifs[0].mac)
    thief = replace(thief, vifs=(vif,), claims=(claim,))
    for domain in (ROUTED, thief):
        host.add_taps(domain)
    host.plug(ROUTED)
    before = host.everything()
    with pytest.raises(ConflictError, match="MAC .* network public is held by d1"):
        host.plug(thief)
    assert_same(host, before, "conflict")


def test_an_address_of_a_dead_guest_is_free(tmp_path):
    host = Host(tmp_path)
    other = guest(2, ("public", ["192.0.2.10", "2001:db8::10"]))
    host.add_taps(ROUTED)
    before = host.kernel.snapshot()
    host.plug(ROUTED)
    host.remove_taps(ROUTED)
    host.add_taps(other)
    host.plug(other)
    host.repair()
    assert_clean(host)
    host.unplug(other)
    host.assert_no_records()
    after = host.kernel.snapshot()
    taps = {k for k in difference(before, after) if " t1.0" in k or "/t1.0/" in k or " t2.0" in k or "/t2.0/" in k}
    assert set(difference(before, after)) == taps


# --- from the first guest to the last --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_shared_resources_live_until_the_last_guest_leaves(order, tmp_path):
    guests = [guest(n + 1, ("public", [f"192.0.2.{n + 10}"])) for n in range(3)]
    host = Host(tmp_path)
    for domain in guests:
        host.add_taps(domain)
    before = host.everything()
    for domain in guests:
        host.plug(domain)
    shared = [
        "route 254 192.0.2.0/24",
        "rule 22001 from 192.0.2.0/24 222",
        "nft inet",
        "nft arp",
        'nft arp arp_source "eth1"',
    ]
    for left, number in enumerate(order, 1):
        host.unplug(guests[number])
        assert all((key in host.kernel.world) == (left < 3) for key in shared)
        assert_clean(host)
    assert_same(host, before, "the last one put out the light")


def test_a_network_that_is_up_outlives_its_guests(tmp_path):
    host = Host(tmp_path)
    host.add_taps(EDGE)
    before = host.everything()
    host.up("edge")
    up = host.kernel.snapshot()
    host.plug(EDGE)
    host.unplug(EDGE)
    assert not difference(up, host.kernel.snapshot())
    host.plug(EDGE)
    host.down("edge")
    assert_clean(host)
    host.unplug(EDGE)
    assert_same(host, before, "up, plug, down, unplug")


# --- killed ----------------------------------------------------------------------------------------------------------


def recoveries(case: Case):
    """What the next process may be, and whether the guest runs afterwards."""
    return {
        "plug": lambda host: host.plug(case.domain),
        "unplug": lambda host: host.unplug(case.domain),
        "repair": lambda host: host.repair(),
        "another guest": lambda host: (
            host.add_taps(OTHER),
            host.plug(OTHER),
            host.unplug(OTHER),
            host.remove_taps(OTHER),
        ),
    }


OTHER = guest(9, ("public", ["192.0.2.99"]), ("lan", ()))


@pytest.mark.parametrize("next_call", ["plug", "unplug", "repair", "another guest"])
@plugs
def test_killed_at_every_step_of_plug(case, next_call, tmp_path):
    if next_call == "another guest" and not all(n in case.toml for n in ("[networks.public]", "[networks.lan]", "ipv4")):
        return
    if next_call == "another guest" and case.then == EDITED:
        # Refused: see test_a_network_that_moved_under_its_guests_takes_no_new_one.
        return
    steps = count_steps(case, _folder(tmp_path, "count"))
    # After one step is before the next.
    # Every step for repair; whichever comes instead takes back the same journal, by the same code.
    first, stride = {"repair": (0, 1), "plug": (0, 2), "unplug": (1, 2), "another guest": (0, 3)}[next_call]
    points = [(step, False) for step in range(first, steps, stride)] + ([(steps - 1, True)] if steps else [])
    before = case.host(_folder(tmp_path, "before")).everything()
    for step, late in points:
        host = case.host(_folder(tmp_path, f"{step}{late}"))
        host.kernel.kill_at, host.kernel.late = step, late
        with pytest.raises(Killed):
            host.plug(case.domain)
        host.kernel.clear_faults()
        if next_call == "repair":
            assert any("interrupted: plug" in drift.what for drift in host.check())
        recoveries(case)[next_call](host)
        if next_call == "another guest" and not case.then:
            assert not difference(before[0], host.kernel.snapshot()), f"step {step}"
        if next_call == "repair" and not case.first:
            assert_same(host, before, f"step {step}")
        if next_call == "unplug":
            for domain in case.first:
                host.unplug(domain)
            host.assert_no_records()
        if not case.then:
            assert_clean(host)
        host.unplug(case.domain)
        for domain in case.first:
            host.unplug(domain)
        host.assert_no_records()


@pytest.mark.parametrize("next_call", ["unplug", "repair", "plug"])
@unplugs
def test_killed_at_every_step_of_unplug(case, next_call, tmp_path):
    fresh = Host(_folder(tmp_path, "fresh"), case.toml, **case.facts)
    for domain in case.first:
        fresh.add_taps(domain)
    before = fresh.everything()
    count = case.host(_folder(tmp_path, "count"))
    count.unplug(case.domain)
    steps = count.kernel.calls
    for step, late in [*((step, False) for step in range(steps)), (steps - 1, True)]:
        host = case.host(_folder(tmp_path, f"{step}{late}"))
        host.kernel.kill_at, host.kernel.late = step, late
        with pytest.raises(Killed):
            host.unplug(case.domain)
        host.kernel.clear_faults()
        if next_call == "repair":
            # No journal: the records still stand, and show what is missing by now.
            assert host.check() or step == 0
        if next_call == "plug":
            host.configure(case.toml)
        recoveries(case)[next_call](host)
        if not case.then:
            assert_clean(host)
        for domain in case.first:
            host.unplug(domain)
        assert_same(host, before, f"step {step}")


@pytest.mark.parametrize("method", ["open_journal", "commit", "close_journal", "forget"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_the_records(method, when, tmp_path):
    """Killed just before or after each write of the records."""
    host = Host(tmp_path)
    host.add_taps(BOTH)
    before = host.everything()
    for verb in ("plug", "unplug"):
        session = host.session()
        real = getattr(session.records, method)

        def dying(*args, real=real, **kw):
            if when == "after":
                real(*args, **kw)
            host.kernel.dead = True
            raise Killed

        setattr(session.records, method, dying)
        try:
            guests.plug(session, BOTH, "libvirt") if verb == "plug" else guests.unplug(session, BOTH)
        except Killed:
            pass
        session.records.close()
        host.kernel.clear_faults()
        host.repair()
        assert_clean(host)
        if verb == "plug":
            host.plug(BOTH)
            assert_clean(host)
    host.unplug(BOTH)
    assert_same(host, before, "clean")


def test_a_signal_after_the_records_takes_nothing_back(tmp_path):
    """What is recorded is there, even if its caller is told of a failure."""
    host = Host(tmp_path)
    host.add_taps(BOTH)
    session = host.session()
    commit = session.records.commit

    def late(*args):
        commit(*args)
        raise VmnetError("too late")

    session.records.commit = late
    with pytest.raises(VmnetError, match="^too late$"):
        guests.plug(session, BOTH, "libvirt")
    session.records.close()
    assert host.records()["owner"]
    assert_clean(host)


# --- unplug does all it can ------------------------------------------------------------------------------------------


@unplugs
@late
def test_unplug_gets_over_a_failure_at_every_step(case, late, tmp_path):
    """A step that fails once is tried again, change by change."""
    fresh = Host(_folder(tmp_path, "fresh"), case.toml, **case.facts)
    for domain in case.first:
        fresh.add_taps(domain)
    count = case.host(_folder(tmp_path, "count"))
    count.unplug(case.domain)
    want = count.kernel.snapshot()
    for step in range(count.kernel.calls):
        host = case.host(_folder(tmp_path, str(step)))
        host.kernel.fail_at, host.kernel.late = step, late
        host.unplug(case.domain)
        host.kernel.clear_faults()
        assert not difference(want, host.kernel.snapshot()), f"step {step}"
        assert not host.records()["journal"]


@unplugs
def test_unplug_continues_reports_and_keeps_a_leftover(case, tmp_path):
    """Every single key refuses to be cleaned up: the rest goes, the error names the step, repair finishes."""
    count = case.host(_folder(tmp_path, "count"))
    count.unplug(case.domain)
    want = count.kernel.snapshot()
    changes = [change for step in count.kernel.steps for change in step]
    for number, change in enumerate(changes):
        key = change.subject.key
        host = case.host(_folder(tmp_path, str(number)))
        own = any(key in host.kept().claimed(owner.id) for owner in host.kept().owners(domain=case.domain.name))
        host.kernel.stuck = {key}
        with pytest.raises(KernelError) as caught:
            host.unplug(case.domain)
        assert "not everything could be removed" in str(caught.value)
        assert label([change]) in str(caught.value), "the error names the step"
        assert "vmnet-hook repair" in str(caught.value)
        host.kernel.clear_faults()
        left = set(difference(want, host.kernel.snapshot()))
        assert left <= {key} | {k for k in left if _depends(k, key)}, f"more than {key} is left"
        # Of several NICs, each that needs it. What leads to it from the other end of a wire is that end's.
        assert {owner.phase for owner in host.kept().owners(domain=case.domain.name)} == ({"leftover"} if own else set())
        assert [drift for drift in host.check() if ("could not be cleaned up" if own else "no longer wanted") in drift.what]
        host.repair()
        assert not difference(want, host.kernel.snapshot()), key
        assert not [o for o in host.kept().owners(domain=case.domain.name)]


def _depends(key: str, stuck: str) -> bool:
    """What can't go while `stuck` stays: a table's elements go with it, a port's flags with its master."""
    if stuck.endswith("/disable_ipv6"):
        return key == f"link {stuck.split('/')[-2]} lladdr"
    if not stuck.startswith(("nft ", "link ")):
        return False
    if stuck == NAT.key:
        return key.startswith(tuple(f"nft inet {name}" for name in NAT_SETS))
    if stuck == WIRES_NFT.key:
        return key.startswith(("nft netdev ends", "nft netdev wires", "nft netdev copies"))
    if stuck in ("nft inet", "nft arp", "nft bridge", "nft netdev"):
        return key.startswith(stuck)
    *link, attribute = stuck.split()
    port = [*(" ".join([*link, flag]) for flag in PORT_FLAGS), f"vlans {link[-1]}"]
    return key in {"master": port, "state": [" ".join([*link, "lladdr"])]}.get(attribute, [])


@unplugs
def test_unplug_after_the_tap_is_gone(case, tmp_path):
    host = case.host(tmp_path)
    host.remove_taps(case.domain)
    host.unplug(Domain(case.domain.name, case.domain.uuid))
    world = host.kernel.snapshot()
    for vif in case.domain.vifs:
        assert not [k for k in world if vif.ifname in k]
    if len(case.first) == 1:
        host.assert_no_records()
    if not case.then:
        assert_clean(host)


@unplugs
def test_unplug_when_half_of_it_is_gone(case, tmp_path):
    """Any single thing of ours was already removed by hand."""
    count = case.host(_folder(tmp_path, "count"))
    ours = [key for key, r in count.claimed().items() if not isinstance(r, Sysctl | LinkAttribute)]
    count.unplug(case.domain)
    want = count.kernel.snapshot()
    for number, key in enumerate(ours):
        host = case.host(_folder(tmp_path, str(number)))
        delete(host.kernel, key)
        host.unplug(case.domain)
        left = difference(want, host.kernel.snapshot())
        assert set(left) <= {k for k in left if k == key or k.startswith(f"{key} ") or _depends(k, key)}, key
        assert not host.kept().owners(domain=case.domain.name)


def delete(kernel: FakeKernel, key: str) -> None:
    """By hand, as an admin would: a table takes its elements along."""
    gone = kernel.world.pop(key, None)
    if isinstance(gone, NftTable):
        for other in [k for k, r in kernel.world.items() if isinstance(r, NftElement) and r.table == key]:
            del kernel.world[other]


def test_a_leftover_that_is_plugged_again_is_no_leftover(tmp_path):
    """stop failed half-way, the guest was started again on the same tap: repair must not take it down."""
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    host.plug(ROUTED)
    host.kernel.stuck = {"route 222 192.0.2.10/32"}
    with pytest.raises(KernelError):
        host.unplug(ROUTED)
    host.kernel.clear_faults()
    host.plug(ROUTED)
    world = host.kernel.snapshot()
    assert_clean(host)
    host.repair()
    assert not difference(world, host.kernel.snapshot())


# --- damage and repair -----------------------------------------------------------------------------------------------


def damaged(resource):
    """A value that somebody else put in its place; None where there is only there or not there."""
    match resource:
        case Sysctl():
            return replace(resource, value="77")
        case LinkAttribute(name="mtu"):
            return replace(resource, value="777")
        case LinkAttribute(name="group"):
            return replace(resource, value="7")
        case LinkAttribute(name="address"):
            return replace(resource, value="02:00:00:00:77:77")
        case LinkAttribute(name="state"):
            return replace(resource, value="down")
        case LinkAttribute(name="master", value=""):
            return replace(resource, value="br0")
        case LinkAttribute(name="master" | "lladdr"):
            return replace(resource, value="")
        case LinkAttribute(name="isolated" | "guard"):
            return replace(resource, value="off")
        case LinkAttribute(name="promisc"):
            return replace(resource, value="off")
        case LinkAttribute(name="learning"):
            return replace(resource, value="on")
        case PortMac():
            return replace(resource, state="static")
        case LinkAttribute(name="fdb_max_learned"):
            return replace(resource, value="7")
        case LinkAttribute(name="no_linklocal_learn"):
            return replace(resource, value="0")
        case Neighbour():
            return replace(resource, lladdr="02:00:00:00:77:77")
        case NftChain():
            return replace(resource, value="")
        case NftElement(value=value) if value:
            return replace(resource, value="203.0.113.77")
        case Ifb():
            return replace(resource, tx="on")
    return None


@plugs
def test_repair_after_the_loss_of_any_single_resource(case, tmp_path):
    host = case.host(tmp_path)
    host.plug(case.domain)
    if case.then:
        # Other guests are told of the edit by their own next plug.
        for domain in case.first:
            host.plug(domain)
        host.plug(case.domain)
    assert_clean(host)
    world = host.kernel.snapshot()
    for key, resource in host.claimed().items():
        if isinstance(resource, Sysctl | LinkAttribute):
            host.kernel._one([_change(host.kernel, damaged(resource))])
        else:
            delete(host.kernel, key)
        drifts = host.check()
        assert any(key in drift.what for drift in drifts), f"check lists {key}"
        assert all("\n" not in drift.what for drift in drifts)
        host.repair()
        assert_clean(host)
        if key.endswith(" address"):
            # A tap that may keep its own MAC keeps whichever it has.
            world = host.kernel.snapshot()
        assert not difference(world, host.kernel.snapshot()), key
        other = damaged(resource)
        if other and not isinstance(resource, LinkAttribute):
            host.kernel.put(other)
            assert any(key in drift.what for drift in host.check()), f"check lists {key}"
            host.repair()
            assert_clean(host)


def _change(kernel, want):
    from_ = kernel.world.get(want.key)
    return type("Change", (), {"subject": want, "want": want, "have": from_})()


def test_repair_after_everything_was_flushed(tmp_path):
    host = Host(tmp_path)
    for domain in (BOTH, SECOND, EDGE):
        host.add_taps(domain)
        host.plug(domain)
    world = host.kernel.snapshot()
    for key, resource in host.claimed().items():
        if not isinstance(resource, Sysctl | LinkAttribute):
            delete(host.kernel, key)
    assert host.check()
    assert host.repair()
    assert_clean(host)
    assert not difference(world, host.kernel.snapshot())


def test_repair_removes_orphans(tmp_path):
    """The records were lost (a tmpfs, an rm), and the guest has ended: what shows by itself that it is ours goes."""
    host = Host(tmp_path)
    before = host.kernel.snapshot()
    host.add_taps(ROUTED)
    host.plug(ROUTED)
    (tmp_path / "run" / "state.db").unlink()
    host.remove_taps(ROUTED)
    assert any("in no record" in drift.what for drift in host.check())
    host.repair()
    assert_clean(host)
    left = difference(before, host.kernel.snapshot())
    assert all(
        isinstance(pair[1][0], Sysctl | LinkAttribute | Neighbour | ProxyNeighbour) or k.startswith("table-name")
        for k, pair in left.items()
    )


@pytest.mark.parametrize("domain", (ROUTED, GIVEN), ids=("routed", "bridged"))
def test_repair_leaves_a_guest_that_runs_and_is_in_no_record(tmp_path, domain):
    """The records were lost: what is set up for it stays, and is its own again after its next start; then it is taken down."""
    host = Host(tmp_path)
    host.add_taps(domain)
    before = host.kernel.snapshot()
    host.plug(domain)
    plugged = host.kernel.snapshot()
    (tmp_path / "run" / "state.db").unlink()
    for _ in range(2):
        assert [drift.what for drift in host.check()] == ["t1.0: a guest runs on it, and is in no record; its filter stays"]
        assert host.repair() == [] and not difference(plugged, host.kernel.snapshot())
    host.plug(domain)
    assert_clean(host)
    assert not difference(plugged, host.kernel.snapshot())
    host.unplug(domain)
    left = difference(before, host.kernel.snapshot())
    assert not [key for key in left if key.startswith(("nft", "route", "rule"))]


def test_a_stray_permission_of_a_guest_that_is_recorded_goes(tmp_path):
    """Also while another guest runs without a record."""
    host = Host(tmp_path)
    for domain in (ROUTED, SECOND):
        host.add_taps(domain)
        host.plug(domain)
    (tmp_path / "run" / "state.db").unlink()
    host.plug(SECOND)
    stray = NftElement("inet", "sources4", ('"t2.0"', SECOND.vifs[0].mac, "192.0.2.99"))
    gone = NftElement("inet", "guarded", ('"t9.0"',))
    host.kernel.put(stray, gone)
    host.repair()
    assert stray.key not in host.kernel.world and gone.key not in host.kernel.world
    assert NftElement("inet", "guarded", ('"t1.0"',)).key in host.kernel.world


def test_names_in_files_do_not_outlive_their_network(tmp_path):
    """A reboot leaves /etc, and no records. While the network is declared the file waits for its next guest."""
    host = Host(tmp_path)
    before = host.kernel.snapshot()
    name, guest_name = TableName(222, "routed"), HostName("t9.0", "nine", ("192.0.2.9",))
    host.kernel.put(name)
    assert_clean(host)
    assert host.repair() == [] and name.key in host.kernel.world
    host.kernel.put(TableName(223, "routed"), guest_name)
    host.configure(EDITED)
    assert [(drift.what, drift.remedy) for drift in host.check()] == [
        (f"{guest_name.key}: ours, but in no record", f"rm -f {guest_name.path}")
    ]
    host.configure(LAN)
    assert {drift.what.partition(":")[0] for drift in host.check()} == {"table-name 223 routed", guest_name.key}
    host.repair()
    assert_clean(host)
    assert not difference(before, host.kernel.snapshot())


def test_repair_removes_domains_that_are_gone(tmp_path):
    host = Host(tmp_path)
    for domain in (ROUTED, SECOND):
        host.add_taps(domain)
    before = host.everything()
    host.plug(ROUTED)
    alone = host.kernel.snapshot()
    host.plug(SECOND)
    assert any("t2.0 is gone" in drift.what for drift in host.check(gone=[SECOND.uuid]))
    host.repair(gone=[SECOND.uuid])
    assert not difference(alone, host.kernel.snapshot())
    host.repair(gone=[ROUTED.uuid])
    assert_same(host, before, "all gone")


def test_a_tap_that_came_back_as_another_domains(tmp_path):
    """libvirt gives names again: the record of the dead domain must not be taken for the new one's."""
    host = Host(tmp_path)
    host.add_taps(ROUTED)
    host.plug(ROUTED)
    host.remove_taps(ROUTED)
    newcomer = guest(2, ("public", ["192.0.2.20"]))
    newcomer = replace(newcomer, vifs=(replace(newcomer.vifs[0], ifname="t1.0"),))
    host.add_taps(newcomer)
    before = host.kernel.snapshot()
    host.plug(newcomer)
    assert [owner.domain for owner in host.kept().owners()] == ["d2"]
    assert_clean(host)
    plugged = host.kernel.snapshot()
    host.unplug(ROUTED)
    assert not difference(plugged, host.kernel.snapshot())
    host.unplug(newcomer)
    host.assert_no_records()
    assert not [k for k in host.kernel.world if "192.0.2.10" in k]
    assert before


# --- anything, in any order ------------------------------------------------------------------------------------------


def assert_invariant(host: Host, base: dict, running: set[str]) -> None:
    """The kernel is what it was, plus the union of the claims."""
    claims = host.claimed()
    alive = {owner.ifname for owner in host.kept().owners() if owner.ifname in host.kernel.links}
    for key, want in claims.items():
        if (have := host.kernel.world.get(key)) is None or not want.covers(have):
            owners = [o for o in host.kept().owners() if key in host.kept().claims(o.id)]
            assert all(o.ifname not in alive or o.domain not in running for o in owners), f"{key} is claimed, but not there"
    # The kernel makes and removes link-local addresses with a link's state.
    skip = {*claims, *(k.replace(" state", " lladdr") for k in claims if k.endswith(" state"))}
    world = {k: v for k, v in host.kernel.snapshot().items() if k not in skip and not _of_tap(k)}
    expected = {k: v for k, v in base.items() if k not in skip}
    assert not difference(expected, world)


def _of_tap(key: str) -> bool:
    words = key.replace("/", " ").split()
    return any(w[0] == "t" and w[1:2].isdigit() and "." in w for w in words) and words[0] in ("link", "sysctl", "device", "vlans")


def variant(rng: random.Random) -> str:
    toml = EVERYTHING
    if rng.random() < 0.3:
        toml = toml.replace("table = 222", "table = 224")
    if rng.random() < 0.3:
        toml = toml.replace("192.0.2.254", "192.0.2.253")
    if rng.random() < 0.2:
        toml = toml.replace('"eth1"', '"eth3"')
    if rng.random() < 0.2:
        toml = toml.replace('[networks.lan]\nmode = "bridged"\n', '[networks.lan]\nmode = "bridged"\nisolated = true\n')
    if rng.random() < 0.2:
        toml = toml.replace('masquerade = "eth9"\n', "")
    return toml


def random_guest(rng: random.Random, number: int) -> Domain:
    nics = []
    for network, v4, v6 in (("public", "192.0.2", "2001:db8:"), ("edge", "198.51.100", "2001:db8:1:"), ("lan", "", "")):
        if rng.random() < 0.6:
            addresses = [f"{v4}.{number + 10}", f"{v6}:{number + 10:x}"][: rng.randint(1, 2)] if v4 else []
            nics.append((network, addresses))
    return guest(number, *(nics or [("lan", [])]), filter=rng.random() < 0.8)


@pytest.mark.parametrize("block", range(10))
def test_random_sequences(block, tmp_path):
    for seed in range(block * 30, block * 30 + 30):
        rng = random.Random(seed)
        history: list[str] = []
        try:
            _random_sequence(rng, _folder(tmp_path, str(seed)), history)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {'; '.join(history)}") from error


def _random_sequence(rng: random.Random, path, history: list[str]) -> None:
    host = Host(path)
    base = host.kernel.snapshot()
    running: dict[int, Domain] = {}
    clean = True

    def plug(domain: Domain) -> None:
        """A network that was edited as a whole takes nobody before its guests have moved."""
        try:
            host.plug(domain)
        except ConflictError as refused:
            assert "was edited while" in str(refused)
            host.kernel.clear_faults()
            host.repair()
            host.plug(domain)
        except InputError as refused:
            # A tap that joined a bridge does not become a routed one while the guest runs.
            assert "is a port of br0, and network" in str(refused)
            host.unplug(domain)
            host.kernel.clear_faults()
            plug(domain)

    for _ in range(rng.randint(6, 14)):
        number = rng.randint(1, 6)
        match rng.choice(["plug", "plug", "plug", "unplug", "unplug", "edit", "fail", "kill", "stuck", "repair"]):
            case "unplug" if number in running:
                history.append(f"unplug d{number}")
                domain = running.pop(number)
                if gone := rng.random() < 0.5:
                    host.remove_taps(domain)
                host.unplug(Domain(domain.name, domain.uuid))
                if not gone:
                    host.remove_taps(domain)
            case "plug":
                domain = random_guest(rng, number)
                if number in running and [v.ifname for v in running[number].vifs] != [v.ifname for v in domain.vifs]:
                    continue
                history.append(f"plug d{number} {[c.network for c in domain.claims]}")
                host.add_taps(domain)
                plug(domain)
                running[number] = domain
            case "edit":
                history.append("edit")
                host.configure(variant(rng))
            case "fail":
                domain = running.get(number) or random_guest(rng, number)
                history.append(f"fail d{number}")
                host.add_taps(domain)
                before = host.kernel.snapshot(), host.records()
                host.kernel.clear_faults()
                host.kernel.fail_at, host.kernel.late = rng.randint(0, 30), rng.random() < 0.5
                try:
                    plug(domain)
                    running[number] = domain
                except KernelError:
                    assert not difference(before[0], host.kernel.snapshot())
                    assert host.records() == before[1]
                    if number not in running:
                        host.remove_taps(domain)
                host.kernel.clear_faults()
            case "kill":
                domain = running.get(number) or random_guest(rng, number)
                unplugging = number in running and rng.random() < 0.5
                history.append(f"kill {'un' if unplugging else ''}plug d{number}")
                host.add_taps(domain)
                host.kernel.clear_faults()
                host.kernel.kill_at, host.kernel.late = rng.randint(0, 30), rng.random() < 0.5
                try:
                    host.unplug(domain) if unplugging else plug(domain)
                    if not unplugging:
                        running[number] = domain
                    else:
                        host.remove_taps(running.pop(number))
                except Killed:
                    host.kernel.clear_faults()
                    if unplugging:
                        host.unplug(domain)
                        host.remove_taps(running.pop(number))
                    else:
                        plug(domain)
                        running[number] = domain
                host.kernel.clear_faults()
            case "stuck" if number in running:
                domain = running.pop(number)
                keys = sorted(host.claimed())
                history.append(f"stuck d{number}")
                host.kernel.clear_faults()
                host.kernel.stuck = set(rng.sample(keys, min(3, len(keys))))
                try:
                    host.unplug(domain)
                except KernelError:
                    clean = False
                host.kernel.clear_faults()
                if rng.random() < 0.5:
                    host.remove_taps(domain)
                else:
                    # Started again at once, on the same taps.
                    history.append(f"plug d{number} again")
                    plug(domain)
                    running[number] = domain
            case "repair":
                history.append("repair")
                host.repair()
                assert_clean(host)
                clean = True
        assert_invariant(host, base, {d.name for d in running.values()})
        assert not host.records()["journal"]
    history.append("end")
    for domain in list(running.values()):
        host.unplug(domain)
        host.remove_taps(domain)
    if not clean:
        host.repair()
    host.assert_no_records()
    world = {k: v for k, v in host.kernel.snapshot().items() if not _of_tap(k)}
    assert not (left := difference(base, world)), left


def test_an_uplink_that_was_down_is_brought_up_and_left_so(tmp_path):
    """By the time that the last guest leaves, others may use the link."""
    host = Host(tmp_path)
    for domain in (ROUTED, SECOND):
        host.add_taps(domain)
    host.kernel.put(LinkAttribute("eth1", "state", "down"))
    host.plug(ROUTED)
    assert host.kernel.read([LinkAttribute("eth1", "state", "up")])["link eth1 state"].value == "up"
    host.unplug(ROUTED)
    assert host.kernel.read([LinkAttribute("eth1", "state", "up")])["link eth1 state"].value == "up"


@pytest.mark.parametrize(
    "old, new",
    [
        ("table = 222", "table = 223"),
        ('"eth1"', '"eth3"'),
        ('"2001:db8::/64"', '"2001:db8::/60"'),
        ("ipv4 = {", "rule_priority = 9\nipv4 = {"),
    ],
)
def test_a_network_that_moved_under_its_guests_takes_no_new_one(old, new, tmp_path):
    host = Host(tmp_path)
    for domain in (ROUTED, SECOND):
        host.add_taps(domain)
    host.plug(SECOND)
    before = host.everything()
    host.configure(EVERYTHING.replace(old, new))
    with pytest.raises(ConflictError, match="network public: .* was edited while d2 uses it; .*repair"):
        host.plug(ROUTED)
    assert_same(host, before, "refused")
    host.repair()
    host.plug(ROUTED)
    assert host.check() == []


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("domain", "toml"), [(PLAIN, HOSTROUTE), (ROUTED, EVERYTHING), (GIVEN, LAN)], ids=["plain", "routed", "bridged"]
)
def test_each_half_of_a_nic_leaves_by_itself(domain, toml, first, tmp_path):
    host, both = Host(tmp_path, toml), halves(domain)
    before = host.kernel.snapshot()
    for half in both:
        host.add_taps(half)
    taps = host.kernel.snapshot()
    for half in both:
        assert host.plug(half)
    assert host.check() == []
    ids = [f"{domain.id}/{half.vifs[0].id}" for half in both]
    host.call(guests.remove_owner, ids[first])
    left = both[1 - first].vifs[0].ifname
    assert [owner.ifname for owner in host.kept().owners()] == [left] and host.check() == []
    assert host.call(guests.remove_owner, ids[first]) == []
    host.remove_taps(both[1 - first])
    host.call(guests.remove_owner, ids[1 - first])
    host.remove_taps(both[first])
    assert difference(before, host.kernel.snapshot()) == {} and taps != before
    host.assert_no_records()
