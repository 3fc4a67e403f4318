"""The laws of test_laws.py, for what the host itself is made of: links that we make, what adopts, NAT, shared gateways.

A fault comes between any two system calls of a step, not only between steps.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_kernel import PORT_FLAGS, Killed, label
from scenario import LAN, PUBLIC, V4, V6, Build, Host, difference, guest

from vmnet_hooks.engine import guests
from vmnet_hooks.engine import host as engine_host
from vmnet_hooks.errors import KernelError
from vmnet_hooks.model.objects import Address, Device, LinkAttribute, Neighbour, Route, Sysctl

VLAN = '[vlans."eth1.100"]\nparent = "eth1"\nid = 100\naddresses = ["10.6.0.2/24"]\n'
BOND = '[bonds.bond0]\nports = ["eth1", "eth2"]\nprimary = "eth2"\nmtu = 1400\naddresses = ["10.6.0.2/24", "2001:db8:6::2/64"]\n'
BRIDGE = '[bridges.guestbr0]\nports = ["eth1"]\naddresses = ["10.5.5.254/24", "2001:db8:5::1/64"]\ntx_checksum = false\n'
ALONE = '[bridges.guestbr0]\n[dummies.dummy0]\naddresses = ["10.9.9.9/32"]\n'
STACK = (
    '[bridges.guestbr0]\nports = ["bond0.100"]\n'
    '[vlans."bond0.100"]\nparent = "bond0"\nid = 100\n'
    '[bonds.bond0]\nports = ["eth1", "eth2"]\nmode = "802.3ad"\nlacp_rate = "fast"\n'
)
RING = (
    '[vlans."eth1.100"]\nparent = "eth1"\nid = 100\n[vlans."eth2.100"]\nparent = "eth2"\nid = 100\n'
    '[bridges.guestbr0]\nports = ["eth1.100", "eth2.100"]\nstp = true\npriority = 4096\n'
)
ANYCAST = RING + 'addresses = ["10.5.5.254/24", "2001:db8:5::1/64"]\nanycast_gateway = true\n'
ADOPT = '[bridges.xenbr0]\nports = ["eth0"]\nadopt = "eth0"\n'
NAT = BRIDGE + '[nat.guests]\nsubnet = "10.5.5.0/24"\nout = "eth9"\nsnat = "203.0.113.9"\n'
MASQUERADE = BRIDGE + (
    '[nat.guests]\nsubnet = "10.5.5.0/24"\nout = "eth9"\nmasquerade = true\n'
    '[nat.guests6]\nsubnet = "2001:db8:5::/64"\nout = "eth9"\nmasquerade = true\n'
)
AWARE = (
    '[bridges.ebr0]\nports = ["eth3"]\nvlan_filtering = true\nvlans = [10, "20-30"]\n'
    '[vlans."ebr0.10"]\nparent = "ebr0"\nid = 10\naddresses = ["10.10.0.1/24"]\n'
    '[networks.ten]\nmode = "bridged"\nbridge = "ebr0"\nvlan = 10\n'
    '[networks.trunk]\nmode = "bridged"\nbridge = "ebr0"\ntagged = [20, 30]\n'
)
IMPLIED = '[networks.forty]\nmode = "bridged"\nbridge = "br40"\nuplink = "eth3"\nvlan = 40\n'
VIRTUAL = (
    '[networks.lab]\nmode = "virtual"\nout = "eth0"\nipv4 = { subnet = "10.9.0.0/24" }\n'
    'ipv6 = { subnet = "fd00:9::/64", nat = true }\nreach = ["inner"]\n'
    '[networks.inner]\nmode = "virtual"\nforward = "routed"\nout = "eth0"\nipv4 = { subnet = "10.8.0.0/24" }\n'
    '[networks.closed]\nmode = "virtual"\nforward = "isolated"\nipv4 = { subnet = "10.7.0.0/24" }\nautostart = false\n'
)
DECLARED = '[networks.five]\nmode = "bridged"\nbridge = "guestbr0"\n'
ROUTED = PUBLIC.replace('"eth1"', '"eth3.7"') + V4 + V6 + '[vlans."eth3.7"]\nparent = "eth3"\nid = 7\n'
SERVED = (
    BRIDGE
    + '[networks.served]\nmode = "bridged"\nbridge = "guestbr0"\n'
    + '[networks.served.dhcp]\npool = ["10.5.5.100-10.5.5.199"]\ndomain = "lan.example"\n'
    + 'hosts = [{ mac = "52:54:00:00:00:07", ips = ["10.5.5.7"] }]\n[networks.served.dns]\n'
)
POOLED, NAMED = guest(1, ("served", ())), guest(2, ("served", ["10.5.5.20"]))
WIRES = '[dummies.d0]\n[wires.out]\nends = ["link:d0", "link:eth3"]\nmtu = 1400\n[wires.guest]\nends = ["link:eth2", "d7:0"]\n'
EVERYTHING = ANYCAST + ADOPT + AWARE + ROUTED + LAN + NAT[len(BRIDGE) :]
TEN, TRUNK = guest(1, ("ten", ())), guest(2, ("trunk", ()))
INSIDE = guest(1, ("lab", ["10.9.0.7", "fd00:9::7"]), ("closed", ["10.7.0.7"]))
INSIDE2 = guest(2, ("lab", ["10.9.0.8"]), ("inner", ["10.8.0.8"]))
FORTY, FORTY2, FIVE = guest(1, ("forty", ())), guest(2, ("forty", ())), guest(1, ("five", ()))
PUBLIC1 = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]))


class Call:
    """A function of the engine, the one that plans it, and arguments."""

    def __init__(self, function: Callable, plan: Callable, *arguments: object) -> None:
        self.function, self.plan_of, self.arguments = function, plan, arguments

    def __call__(self, host: Host) -> None:
        host.call(self.function, *self.arguments)

    def plan(self, host: Host) -> list[str]:
        return [str(change) for change in host.call(self.plan_of, *self.arguments)]


class Act(Build):
    """`call`, on a host that `toml` and the calls `first` made; `like` is what makes the same host from nothing."""

    def __init__(self, toml: str, call, *first, then: str = "", like=None, domains=(), stays=(), **facts) -> None:
        self.toml, self.call, self.first, self.then, self.like = toml, call, first, then, like
        self.stays = stays
        self.domains, self.facts = domains, facts

    def fresh(self, path, toml: str = "") -> Host:
        path.mkdir(exist_ok=True)
        host = Host(path, toml or self.toml, **self.facts)
        host.kernel.put(
            # What there is to take over, in every host.
            Address("eth0", "203.0.113.2/24"),
            Route(254, "198.51.100.0/24", "eth0", "203.0.113.7", 3),
            Route(7, "0.0.0.0/0", "eth0", "203.0.113.8", 4, "203.0.113.2"),
            Neighbour("eth0", "203.0.113.8", "02:00:00:00:99:08"),
            Sysctl("net/ipv4/conf/eth0/rp_filter", "1"),
        )
        if host.kernel.ipv6:
            host.kernel.put(Address("eth0", "2001:db8:ffff::2/64"), Route(254, "::/0", "eth0", "2001:db8:ffff::1", 3))
        for domain in self.domains:
            host.add_taps(domain)
        return host

    def build(self, path) -> Host:
        host = self.fresh(path)
        for call in self.first:
            call(host)
        if self.then:
            host.configure(self.then)
        return host


def up(*names: str) -> Call:
    return Call(engine_host.up, engine_host.plan_up, names)


def down(*names: str) -> Call:
    return Call(engine_host.down, engine_host.plan_down, names)


def plug(domain) -> Call:
    return Call(guests.plug, guests.plan_plug, domain, "libvirt")


def unplug(domain) -> Call:
    return Call(guests.unplug, guests.plan_unplug, domain)


def amiss(host: Host) -> list:
    """What `check` finds, but for parts that are declared and not up: a call brings up or takes down only some."""
    return [drift for drift in host.check() if not drift.is_of_part]


def prepare(domain) -> Callable[[Host], object]:
    return lambda host: host.prepare(domain)


def edit(old: str, new: str, text: str, **more) -> Act:
    """Up, an edit, up again: as if it had never been otherwise."""
    assert old in text
    return Act(text, up(), up(), then=text.replace(old, new), like=up(), **more)


UPS = {
    "vlan": Act(VLAN, up()),
    "bond": Act(BOND, up()),
    "bridge": Act(BRIDGE, up()),
    "bridge without a port, dummy": Act(ALONE, up()),
    "bridge over vlan over bond": Act(STACK, up()),
    "ring with STP": Act(RING, up()),
    "shared gateway": Act(ANYCAST, up()),
    "shared gateway, strict host without IPv6": Act(ANYCAST.replace(', "2001:db8:5::1/64"', ""), up(), ipv6=False, rp_filter=1),
    "adopt": Act(ADOPT, up()),
    "adopt, host without IPv6": Act(ADOPT, up(), ipv6=False),
    "NAT": Act(NAT, up()),
    "masquerade": Act(MASQUERADE, up()),
    "VLAN-aware": Act(AWARE, up()),
    "routed uplink": Act(ROUTED, up()),
    "virtual networks": Act(VIRTUAL, up()),
    "virtual network, with its guests alone": Act(VIRTUAL, up("closed")),
    "network with a server": Act(SERVED, up()),
    "everything": Act(EVERYTHING, up()),
    "wires": Act(WIRES, up()),
    "by name, with what it needs": Act(STACK, up("guestbr0")),
    "by kind": Act(EVERYTHING, up("vlan:eth1.100", "network:public")),
    "a network's name": Act(AWARE, up("ten")),
    "the rest": Act(EVERYTHING, up(), up("guestbr0"), like=up()),
}
EDITS = {
    "port added": edit('ports = ["eth1"]', 'ports = ["eth1", "eth3"]', BRIDGE),
    "port removed": edit('ports = ["eth1.100", "eth2.100"]', 'ports = ["eth1.100"]', RING),
    "port exchanged": edit('ports = ["eth1"]', 'ports = ["eth3"]', BRIDGE),
    "STP off": edit("stp = true\npriority = 4096\n", "", RING),
    "STP on": edit("tx_checksum = false\n", "stp = true\nforward_delay = 4\nmax_age = 6\n", BRIDGE),
    "option changed": edit(
        "priority = 4096", "priority = 8192\nageing = 30\nfdb_max_learned = 100\ngroup_fwd_mask = 0x4000", RING
    ),
    "option removed": edit("priority = 4096\n", "", RING),
    "address changed": edit("10.5.5.254/24", "10.5.6.254/24", BRIDGE),
    "shared address changed": edit("10.5.5.254/24", "10.5.6.254/24", ANYCAST),
    "shared gateway no more": edit("anycast_gateway = true\n", "", ANYCAST),
    "MTU changed": edit("tx_checksum", "mtu = 1400\ntx_checksum", BRIDGE),
    "MTU changed below": edit("mtu = 1400", "mtu = 1300", BOND),
    "VLAN ID changed": edit("id = 100", "id = 101", VLAN),
    "VLAN ID changed under a bridge": edit('parent = "eth1"\nid = 100', 'parent = "eth1"\nid = 101', ANYCAST),
    "VLAN ID changed under a routed network": edit("id = 7", "id = 8", ROUTED),
    "VLAN's parent changed": edit('parent = "eth1"', 'parent = "eth2"', VLAN),
    "bond's port added": edit('ports = ["eth1", "eth2"]', 'ports = ["eth1", "eth2", "eth3"]', BOND),
    "bond's port removed": edit('ports = ["eth1", "eth2"]', 'ports = ["eth2"]', BOND, stays=(" address",)),
    "bond's options removed": edit("updelay = 200\n", "", BOND + "updelay = 200\n"),
    "bond's primary removed": edit('primary = "eth2"\n', "", BOND),
    "bond's mode changed": edit('ports = ["eth1", "eth2"]', 'ports = ["eth1", "eth2"]\nmode = "balance-tlb"', BOND),
    "bond's mode changed under a stack": edit('mode = "802.3ad"\nlacp_rate = "fast"\n', "", STACK),
    "bridge renamed": edit("guestbr0", "otherbr0", BRIDGE),
    "shared gateway renamed": edit("guestbr0", "otherbr0", ANYCAST),
    "bridge became a bond": edit("[bridges.x0]", "[bonds.x0]", '[bridges.x0]\nports = ["eth1"]\n'),
    "adopting bridge renamed": edit("xenbr0", "otherbr0", ADOPT),
    "adopts no more": edit(ADOPT, '[bridges.xenbr0]\nports = ["eth3"]\n', ADOPT, stays=("xenbr0/rp_filter",)),
    "adopting bridge gets a port": edit('ports = ["eth0"]', 'ports = ["eth0", "eth3"]', ADOPT),
    "adopting bridge gets STP": edit('adopt = "eth0"', 'adopt = "eth0"\nstp = true', ADOPT),
    "removed": edit(BRIDGE, VLAN, BRIDGE),
    "removed from under": edit(STACK, '[bonds.bond0]\nports = ["eth1", "eth2"]\n', STACK),
    "NAT changed": edit('snat = "203.0.113.9"', "masquerade = true", NAT),
    "NAT removed": edit(NAT[len(BRIDGE) :], "", NAT),
    "static lease added": edit("hosts = [", 'hosts = [{ mac = "52:54:00:00:00:08", ips = ["10.5.5.8"] }, ', SERVED),
    "server changed": edit('domain = "lan.example"', 'domain = "example.org"', SERVED),
    "network with a server renamed": edit("networks.served", "networks.other", SERVED),
    "no server any more": edit(SERVED[len(BRIDGE) :], '[networks.served]\nmode = "bridged"\nbridge = "guestbr0"\n', SERVED),
    "VLANs changed": edit('vlans = [10, "20-30"]', 'vlans = [10, "25-40"]', AWARE),
    "virtual, closed": edit(
        'forward = "routed"\nout = "eth0"', 'forward = "isolated"', VIRTUAL.replace('reach = ["inner"]\n', "")
    ),
    "virtual, opened": edit(
        'out = "eth0"\nipv4 = { subnet = "10.9.0.0/24" }\nipv6 = { subnet = "fd00:9::/64", nat = true }',
        'forward = "open"\nipv4 = { subnet = "10.9.0.0/25" }',
        VIRTUAL,
    ),
    "virtual, other bridge": edit('reach = ["inner"]', 'bridge = "virbr7"', VIRTUAL),
    "aware no more": edit("vlan_filtering = true\nvlans", "vlan_filtering = true\nmcast_snooping = false\nvlans", AWARE),
}
GUESTS = {
    "untagged guest": Act(AWARE, plug(TEN), up(), domains=(TEN,)),
    "trunk guest beside another": Act(AWARE, plug(TRUNK), up(), plug(TEN), domains=(TEN, TRUNK)),
    "guest that brings the bridge": Act(DECLARED + BRIDGE, plug(FIVE), domains=(FIVE,)),
    "guest that brings a stack": Act(DECLARED + STACK, plug(FIVE), domains=(FIVE,)),
    "guest that brings a server": Act(SERVED, plug(POOLED), domains=(POOLED,)),
    "guest with a name beside another": Act(SERVED, plug(NAMED), up(), plug(POOLED), domains=(POOLED, NAMED)),
    "first guest of an implied bridge": Act(IMPLIED, plug(FORTY), domains=(FORTY,)),
    "second guest of an implied bridge": Act(IMPLIED, plug(FORTY2), plug(FORTY), domains=(FORTY, FORTY2)),
    "first guest of virtual networks": Act(VIRTUAL, plug(INSIDE), domains=(INSIDE,)),
    "second guest of virtual networks": Act(VIRTUAL, plug(INSIDE2), plug(INSIDE), domains=(INSIDE, INSIDE2)),
    "prepare": Act(IMPLIED, prepare(FORTY), domains=()),
    "prepare of a stack": Act(DECLARED + STACK, prepare(FIVE), domains=()),
    "prepare, then plug": Act(IMPLIED, plug(FORTY), prepare(FORTY), like=plug(FORTY), domains=(FORTY,)),
    "moved to other VLANs": Act(
        AWARE,
        plug(TRUNK),
        up(),
        plug(TRUNK),
        then=AWARE.replace("tagged = [20, 30]", 'vlan = 21\ntagged = ["22-25"]'),
        domains=(TRUNK,),
    ),
}
GOING = {
    "down": Act(EVERYTHING, down(), up()),
    "down of a stack": Act(STACK, down(), up()),
    "down of wires": Act(WIRES, down(), up()),
    "down of a server": Act(SERVED, down(), up()),
    "guest that brought a server": Act(SERVED, unplug(NAMED), plug(NAMED), domains=(NAMED,)),
    "down of an adoption": Act(ADOPT, down("xenbr0"), up()),
    "down after an edit": Act(EVERYTHING, down(), up(), then=BRIDGE),
    "last guest of an implied bridge": Act(IMPLIED, unplug(FORTY), plug(FORTY), domains=(FORTY,)),
    "down of virtual networks": Act(VIRTUAL, down(), up()),
    "last guest of virtual networks": Act(VIRTUAL, unplug(INSIDE), plug(INSIDE), domains=(INSIDE,)),
    "first of two guests of virtual networks": Act(
        VIRTUAL, unplug(INSIDE), plug(INSIDE), plug(INSIDE2), domains=(INSIDE, INSIDE2)
    ),
    "prepared, and never came": Act(IMPLIED, unplug(FORTY), prepare(FORTY), domains=()),
}
ADDING = {**UPS, **EDITS, **GUESTS}
ups = pytest.mark.parametrize("act", UPS.values(), ids=UPS.keys())
edits = pytest.mark.parametrize("act", EDITS.values(), ids=EDITS.keys())
adding = pytest.mark.parametrize("act", ADDING.values(), ids=ADDING.keys())
going = pytest.mark.parametrize("act", GOING.values(), ids=GOING.keys())


def everything(host: Host) -> tuple:
    """World, links and records. A link of ours that was made again has another index."""
    links = {name: host.kernel.link(name) for name in host.kernel.links}
    links = {name: replace(link, index=0) if link.ours else link for name, link in links.items()}
    return host.kernel.snapshot(), links, host.records()


def assert_same(before: tuple, after: tuple, what: str) -> None:
    assert not difference(before[0], after[0]), what
    assert not difference(before[1], after[1]), what
    assert not difference(before[2], after[2]), what


def points(act: Act, path) -> list[tuple[int, int]]:
    """(step, how much of it was done) of every place where a fault can come."""
    host = act.host(path)
    act.call(host)
    small = host.kernel.small
    return [(step, done) for step, count in enumerate(small) for done in range(count + 1)]


# --- faults ----------------------------------------------------------------------------------------------------------


@adding
def test_a_failure_at_every_point(act, tmp_path):
    host = act.host(tmp_path / "host")
    before = everything(host)
    found = points(act, tmp_path / "count")
    assert found
    for step, done in found:
        host.kernel.clear_faults()
        host.kernel.fail_at, host.kernel.after = step, done
        with pytest.raises(KernelError) as caught:
            act.call(host)
        where = f"step {step}, {done} done: {host.kernel.steps[step][0]}"
        assert label(host.kernel.steps[step]) in str(caught.value) and "\n" not in str(caught.value), where
        assert "putting back failed" not in str(caught.value), where
        host.kernel.clear_faults()
        assert_same(before, everything(host), where)
    act.call(host)
    assert amiss(host) == []


@adding
def test_killed_at_every_point(act, tmp_path):
    before = everything(act.host(tmp_path / "before"))
    for number, (step, done) in enumerate(points(act, tmp_path / "count")):
        host = act.host(tmp_path / f"{number}")
        host.kernel.kill_at, host.kernel.after = step, done
        with pytest.raises(Killed):
            act.call(host)
        where = f"step {step}, {done} done: {host.kernel.steps[step][0]}"
        host.kernel.clear_faults()
        host.recover()
        assert_same(before, everything(host), where)
        if number % 5 == 0:
            act.call(host)
            assert amiss(host) == [], where


def test_a_link_has_the_name_of_a_network(tmp_path):
    """It is no user of the network: a second guest is not in the way of the first."""
    vlan = '[vlans.public]\nparent = "eth3"\nid = 7\n'
    host = Host(tmp_path, PUBLIC.replace('"eth1"', '"public"') + V4 + V6 + vlan)
    for domain in (PUBLIC1, guest(2, ("public", ["192.0.2.11"]))):
        host.add_taps(domain)
        host.plug(domain)
    assert host.check() == []


def test_the_last_guest_of_an_implied_bridge_has_died(tmp_path):
    """`repair` removes it, and what only it needed."""
    host = Host(tmp_path, IMPLIED)
    before = everything(host)
    host.add_taps(FORTY)
    host.plug(FORTY)
    host.remove_taps(FORTY)
    assert [drift.what for drift in host.check()] == ["forty: t1.0 is gone"]
    host.repair()
    assert_same(before, everything(host), "a part stays up")
    assert host.check() == []


@going
def test_going_gets_over_a_failure_at_every_point(act, tmp_path):
    """What could not be removed is told, and `repair` removes it."""
    calm = act.host(tmp_path / "calm")
    act.call(calm)
    for number, (step, done) in enumerate(points(act, tmp_path / "count")):
        host = act.host(tmp_path / f"{number}")
        host.kernel.fail_at, host.kernel.after = step, done
        try:
            act.call(host)
        except KernelError as error:
            assert "\n" not in str(error)
        host.kernel.clear_faults()
        host.repair()
        assert not difference(calm.kernel.snapshot(), host.kernel.snapshot()), f"step {step}, {done} done"
        assert amiss(host) == []


@going
def test_going_killed_at_every_point(act, tmp_path):
    calm = act.host(tmp_path / "calm")
    act.call(calm)
    for number, (step, done) in enumerate(points(act, tmp_path / "count")):
        host = act.host(tmp_path / f"{number}")
        host.kernel.kill_at, host.kernel.after = step, done
        with pytest.raises(Killed):
            act.call(host)
        host.kernel.clear_faults()
        act.call(host)
        assert not difference(calm.kernel.snapshot(), host.kernel.snapshot()), f"step {step}, {done} done"
        assert amiss(host) == []


# --- twice, and back -------------------------------------------------------------------------------------------------


@adding
def test_twice_changes_nothing(act, tmp_path):
    host = act.host(tmp_path / "host")
    act.call(host)
    assert amiss(host) == []
    once = everything(host)
    host.kernel.clear_faults()
    act.call(host)
    assert host.kernel.calls == 0
    assert_same(once, everything(host), "twice")


@adding
def test_back_is_identity(act, tmp_path):
    fresh = everything(act.fresh(tmp_path / "fresh"))
    host = act.host(tmp_path / "host")
    act.call(host)
    for domain in (*act.domains, FORTY, FIVE):
        host.unplug(domain)
    host.down()
    host.assert_no_records()
    assert_same(fresh, everything(host), "back")
    host.kernel.clear_faults()
    assert host.down() == [] and host.kernel.calls == 0


@pytest.mark.parametrize("act", {**ADDING, **GOING}.values(), ids={**ADDING, **GOING}.keys())
def test_a_plan_is_what_is_done(act, tmp_path):
    if not isinstance(act.call, Call):
        return
    host = act.host(tmp_path / "host")
    before = everything(host)
    planned = act.call.plan(host)
    assert_same(before, everything(host), "a plan changes nothing")
    act.call(host)
    assert planned == [str(change) for step in host.kernel.steps for change in step]


@adding
def test_nothing_foreign_is_touched(act, tmp_path):
    host = act.fresh(tmp_path / "host")
    fresh = host.kernel.snapshot()
    host = act.host(tmp_path / "host2")
    act.call(host)
    claimed = host.claimed()
    made = {r.ifname for r in claimed.values() if isinstance(r, Device)}
    changed = difference(fresh, host.kernel.snapshot())
    # What comes along: of a link of ours everything; of a port what being one means.
    ports = {r.ifname for r in claimed.values() if getattr(r, "ifname", "") and r.key.startswith(("link", "adoption"))}
    along = {
        f"{kind} {port}{what}"
        for port in ports
        for kind, what in (*(("link", f" {name}") for name in ("lladdr", *PORT_FLAGS)), ("vlans", ""))
    }
    bonded = {f"link {port} {what}" for port in ports for what in ("address", "mtu")} if "bond0" in made else set()
    for key in changed.keys() - claimed.keys() - along - bonded:
        resource = host.kernel.world.get(key) or fresh[key][0]
        device = getattr(resource, "ifname", getattr(resource, "dev", getattr(resource, "link", "")))
        adopted = device == "eth0" and "adoption eth0" in claimed
        assert device in made or adopted or key.removeprefix("vlans ") in made, key


@edits
def test_an_edit_comes_to_the_same(act, tmp_path):
    host = act.host(tmp_path / "host")
    act.call(host)
    like = act.fresh(tmp_path / "like", act.then)
    act.like(like)
    changed = difference(like.kernel.snapshot(), host.kernel.snapshot())
    # A link-local address stays when the MAC that it was made from is changed; and so does a bond's MAC.
    assert not {key: value for key, value in changed.items() if not key.endswith((" lladdr", *act.stays))}


# NAT, servers, and what a network implies, are for `repair`.
FOR_UP = {name: act for name, act in EDITS.items() if NAT not in act.toml and SERVED not in act.toml and "virtual" not in name}


@pytest.mark.parametrize("act", FOR_UP.values(), ids=FOR_UP)
def test_repair_leaves_an_edit_of_a_link_to_up(act, tmp_path):
    """`up` asks the gateways. What is damaged is repaired, and what `check` says of the edit stays."""
    host = act.host(tmp_path)
    before, found = everything(host), amiss(host)
    assert {drift.kind for drift in found} <= {"edited", "unwanted", "missing", "refused", "hindered", "different"}
    link = next(name for name in host.kernel.links if host.kernel.link(name).ours)
    host.kernel.put(LinkAttribute(link, "state", "down"))
    host.repair()
    assert_same(before, everything(host), "repair")
    assert amiss(host) == found
    act.call(host)
    assert amiss(host) == []
