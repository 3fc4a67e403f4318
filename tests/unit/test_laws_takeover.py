"""A takeover that is watched over: confirmed, or everything as before. And what `up` and `down` refuse, with nothing changed."""
# ruff: noqa: E501  (tables of inputs and messages)

import time

import pytest
from fake_kernel import Killed
from scenario import Host
from test_laws_hostnet import (
    ADOPT,
    ANYCAST,
    AWARE,
    BRIDGE,
    DECLARED,
    FIVE,
    FORTY,
    FORTY2,
    IMPLIED,
    LAN,
    PUBLIC1,
    ROUTED,
    STACK,
    TEN,
    VLAN,
    Act,
    assert_same,
    everything,
    up,
)

from vmnet_hooks.engine import takeover
from vmnet_hooks.errors import ConfigError, ConflictError, InputError, KernelError
from vmnet_hooks.model.objects import Address, Device, LinkAttribute, Route
from vmnet_hooks.model.objects.bridge import Adoption
from vmnet_hooks.records.store import Store

GATEWAYS = ["203.0.113.8", "203.0.113.1", "2001:db8:ffff::1"]
EDITED = ADOPT.replace('ports = ["eth0"]', 'ports = ["eth0", "eth3"]\nstp = true')


class Watch:
    """`answers` are the gateways that answer, each time that they are asked."""

    def __init__(self, *answers: set[str]) -> None:
        self.answers, self.asked, self.guards = list(answers), [], 0

    def answering(self, gateways, seconds: float) -> dict[tuple[str, str], float]:
        self.asked.append((list(gateways), seconds))
        now = self.answers.pop(0)
        return {way: 0.001 for way in gateways if way[1] in now}

    def guard(self, _deadline: float) -> None:
        self.guards += 1


def adopting(path, toml: str = ADOPT, *first, then: str = "") -> Host:
    path.mkdir(exist_ok=True)
    return Act(toml, up(), *first, then=then).host(path / "host")


def pending(host: Host):
    return host.kept().pending()


def revert(host: Host) -> None:
    host.call(takeover.revert)


def test_the_gateway_answers_as_before(tmp_path):
    host, watch = adopting(tmp_path), Watch({"203.0.113.1"}, {"203.0.113.1"})
    assert [owner.id for owner in host.up(watch=watch)] == ["bridge:xenbr0"]
    before, after = watch.asked
    assert {dev for dev, _ in before[0]} == {"eth0"} and {a for _, a in before[0]} == set(GATEWAYS)
    assert after[0] == [("xenbr0", "203.0.113.1")], "those that answered are asked again, through the bridge"
    assert watch.guards == 1 and pending(host) is None
    assert host.check() == []


def test_the_gateway_does_not_answer_any_more(tmp_path):
    host, watch = adopting(tmp_path), Watch(set(GATEWAYS[:2]), {GATEWAYS[0]})
    before = everything(host)
    with pytest.raises(KernelError, match="^gateway 203.0.113.1 does not answer any more: everything was put back$"):
        host.up(watch=watch)
    assert_same(before, everything(host), "put back")


def test_a_gateway_that_never_answered_decides_nothing(tmp_path):
    host, watch = adopting(tmp_path), Watch(set())
    host.up(watch=watch)
    assert len(watch.asked) == 1 and pending(host) is None


def test_nothing_is_watched_where_nothing_is_taken_over(tmp_path):
    host, watch = adopting(tmp_path, BRIDGE), Watch()
    host.up(watch=watch)
    assert not watch.guards and not watch.asked and pending(host) is None
    host, watch = adopting(tmp_path, ADOPT, up()), Watch()
    assert host.up(watch=watch) == [] and not watch.guards


@pytest.mark.parametrize("toml", [ADOPT, BRIDGE, ADOPT + ANYCAST], ids=["adopt", "bridge", "more"])
def test_unless_confirmed(toml, tmp_path):
    host, watch = adopting(tmp_path, toml), Watch()
    before = everything(host)
    start = time.monotonic()
    host.up(watch=watch, confirm_within=30)
    waiting = pending(host)
    assert waiting.needs_word and 29 < waiting.deadline - start < 32 and watch.guards == 1 and not watch.asked
    for refused in (host.up, host.down):
        with pytest.raises(
            ConflictError, match="an `up` waits to be confirmed: run `vmnet-hook confirm`, or `vmnet-hook revert` to put it back"
        ):
            refused()
    revert(host)
    assert_same(before, everything(host), "put back")
    revert(host)
    assert_same(before, everything(host), "put back, twice")


def test_confirmed(tmp_path):
    host = adopting(tmp_path)
    host.up(watch=Watch(), confirm_within=30)
    up_ = everything(host)
    assert host.call(takeover.confirm) is True and host.call(takeover.confirm) is False
    assert_same((*up_[:2], {**up_[2], "pending": []}), everything(host), "kept")
    revert(host)
    assert host.check() == [] and host.kernel.master("eth0") == "xenbr0"


@pytest.mark.parametrize(
    ("toml", "then"),
    [
        (ADOPT, EDITED),
        (ADOPT, ADOPT + VLAN),
        (ADOPT, VLAN),
        (EDITED, ADOPT),
        (ADOPT.replace("xenbr0", "x") + STACK, ADOPT.replace("xenbr0", "x") + STACK.replace("id = 100", "id = 101")),
    ],
    ids=["port and STP added", "VLAN added", "adopts no more", "port removed", "VLAN's ID changed"],
)
def test_an_edit_that_is_not_confirmed(toml, then, tmp_path):
    host = adopting(tmp_path, toml, up(), then=then)
    before = everything(host)
    host.up(watch=Watch(), confirm_within=30)
    assert host.kernel.calls
    revert(host)
    assert_same(before, everything(host), "put back")
    host.configure(toml)
    assert host.check() == [] and host.up() == []


def test_a_takeover_that_fails_waits_for_nothing(tmp_path):
    host = adopting(tmp_path)
    before = everything(host)
    host.kernel.fail_at = 3
    with pytest.raises(KernelError):
        host.up(watch=Watch(set(GATEWAYS)))
    assert_same(before, everything(host), "failed")


def count(host: Host, call) -> list[tuple[int, int]]:
    host.kernel.clear_faults()
    call(host)
    return [(step, done) for step, small in enumerate(host.kernel.small) for done in range(small + 1)]


def test_killed_while_it_works(tmp_path, monkeypatch):
    """What the guard does when the command is gone: at any point it comes to the same."""
    real = Store.set_pending

    def set_pending(self, value) -> None:
        if value is None and host.kernel.dead:
            raise Killed
        real(self, value)

    monkeypatch.setattr(Store, "set_pending", set_pending)
    host = adopting(tmp_path / "count")
    for number, (step, done) in enumerate(count(host, lambda host: host.up(watch=Watch(), confirm_within=30))):
        host = adopting(tmp_path / str(number))
        before = everything(host)
        host.kernel.kill_at, host.kernel.after = step, done
        with pytest.raises(Killed):
            host.up(watch=Watch(), confirm_within=30)
        host.kernel.clear_faults()
        assert pending(host)
        revert(host)
        assert_same(before, everything(host), f"step {step}, {done} done")


@pytest.mark.parametrize("fault", ["kill_at", "fail_at"])
def test_putting_back_that_is_interrupted_is_done_again(fault, tmp_path):
    def waiting(path) -> Host:
        host = adopting(path)
        host.up(watch=Watch(), confirm_within=30)
        host.kernel.clear_faults()
        return host

    before = everything(adopting(tmp_path / "fresh"))
    for number, (step, done) in enumerate(count(waiting(tmp_path / "count"), revert)):
        host = waiting(tmp_path / str(number))
        setattr(host.kernel, fault, step)
        host.kernel.after = done
        with pytest.raises((Killed, KernelError)):
            revert(host)
        host.kernel.clear_faults()
        revert(host)
        assert_same(before, everything(host), f"step {step}, {done} done")


def test_gateways():
    def found(*routes: str) -> list[str]:
        return Adoption("eth0", "br0", routes=routes).gateways

    assert found("192.0.2.0/24 dev {dev} table 254", "192.0.2.0/25 via 192.0.2.9 dev {dev}", "0.0.0.0/0 dev {dev}") == []
    assert found("0.0.0.0/0 via 192.0.2.1 dev {dev} table 254", "::/0 via fe80::1 dev {dev}") == ["192.0.2.1", "fe80::1"]
    assert found("0.0.0.0/0 via 192.0.2.1 dev {dev}", "0.0.0.0/0 via 192.0.2.1 dev {dev} table 7") == ["192.0.2.1"]


def test_gateways_of_the_other_family():
    """`ip route` writes `via inet6 fe80::1` for an IPv4 route through an IPv6 neighbour."""
    assert Adoption("eth0", "br0", routes=("0.0.0.0/0 via inet6 fe80::1 dev {dev} table 254",)).gateways == []


# --- refused, and nothing changed ------------------------------------------------------------------------------------


def refused(host: Host, error: type[Exception], message: str, call=lambda host: host.up()) -> None:
    before = everything(host)
    host.kernel.clear_faults()
    with pytest.raises(error) as caught:
        call(host)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert host.kernel.calls == 0
    assert_same(before, everything(host), "refused")


@pytest.mark.parametrize(
    ("toml", "links", "resources", "error", "message"),
    [
        (BRIDGE.replace("eth1", "eth8"), {}, [], ConfigError, "bridges.guestbr0.ports: eth8 does not exist; is the NIC there"),
        (VLAN.replace('"eth1"', '"eth8"'), {}, [], ConfigError, 'vlans."eth1.100".parent: eth8 does not exist'),
        ('[nat.n]\nsubnet = "10.0.0.0/8"\nout = "eth8"\nmasquerade = true\n', {}, [], ConfigError, "nat.n.out: eth8 does not exist"),
        (BRIDGE, {"brX": "bridge"}, [LinkAttribute("eth1", "master", "brX")], ConfigError, "eth1 is a port of brX already; take it out: ip link set dev eth1 nomaster"),
        (BRIDGE, {"guestbr0": "bridge"}, [], ConflictError, "link guestbr0 exists already and is not ours (bridge); remove it, or choose another name"),
        (BRIDGE, {"guestbr0": ""}, [], ConflictError, "link guestbr0 exists already and is not ours (plain interface)"),
        (ANYCAST, {"guestbr0-gw": "dummy"}, [], ConflictError, "link guestbr0-gw exists already and is not ours (dummy)"),
        (BRIDGE, {}, [Address("eth1", "192.0.2.1/24")], ConfigError, 'eth1 has address 192.0.2.1/24, which a port can\'t keep; set adopt = "eth1" in place of `addresses` and `gateway`, or remove it first'),
        ('[bonds.b]\nports = ["eth1"]\n', {}, [Address("eth1", "192.0.2.1/24")], ConfigError, 'eth1 has address 192.0.2.1/24, which a port can\'t keep; set adopt = "eth1", or remove it first'),
        (VLAN + "mtu = 1501\n", {}, [], ConfigError, "mtu: 1501 does not fit eth1 (MTU 1500); lower it, or raise that of eth1"),
        (BRIDGE + "mtu = 9000\n", {}, [], ConfigError, "mtu: 9000 does not fit eth1 (MTU 1500)"),
        (BRIDGE, {}, [Route(254, "10.5.5.0/24", "eth9", "", 3)], None, ""),
        (ANYCAST, {}, [Route(254, "10.5.5.0/24", "eth9", "", 3)], ConflictError, "another program's route is in the way: 10.5.5.0/24 dev eth9"),
        (IMPLIED + VLAN, {}, [], None, ""),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) and " " in value else "",
)  # fmt: skip
def test_refused(toml, links, resources, error, message, tmp_path):
    host = adopting(tmp_path, toml)
    for name, kind in links.items():
        host.kernel.add_link(name, kind, up=True)
    host.kernel.put(*resources)
    if error:
        refused(host, error, message)
    else:
        host.up()


def test_an_obstacle_to_a_takeover(tmp_path):
    host = adopting(tmp_path)
    host.kernel.obstacles["eth0"] = "a DHCP client (process 7) runs on it"
    refused(host, ConflictError, "xenbr0 can't take over eth0: a DHCP client", lambda host: host.up(watch=Watch()))
    host.up()
    assert host.up(watch=Watch()) == [], "once it is done, it is no obstacle any more"


@pytest.mark.parametrize(
    ("toml", "vlan"),
    [
        (AWARE, {"parent": "eth3", "id": "25"}),
        (VLAN, {"parent": "eth1", "id": "100"}),
    ],
    ids=["of a VLAN-aware bridge's port", "of a VLAN device"],
)
def test_a_vid_that_a_legacy_device_has(toml, vlan, tmp_path):
    host = adopting(tmp_path, toml)
    host.kernel.add_link("legacy", "vlan", **vlan)
    refused(host, ConfigError, f"VLAN {vlan['id']} of {vlan['parent']} is taken by legacy")


def test_names(tmp_path):
    host = adopting(tmp_path, STACK + DECLARED + LAN)
    refused(host, InputError, "'nope' is not declared in", lambda host: host.up("nope"))
    refused(host, InputError, "did you mean 'bond:bond0'", lambda host: host.up("bond:bond1"))
    refused(host, ConfigError, "br0 is not declared: there is nothing to bring up without a guest", lambda host: host.up("lan"))
    refused(host, InputError, "guestbr0 is not up; see `vmnet-hook status`", lambda host: host.down("guestbr0"))
    host.up("five")
    owners = {owner.id: owner.frontend for owner in host.kept().owners()}
    assert owners == {"bond:bond0": "auto", "vlan:bond0.100": "auto", "bridge:guestbr0": "cli"}


# --- who stays -------------------------------------------------------------------------------------------------------


def ids(host: Host) -> dict[str, str]:
    return {owner.id: owner.frontend for owner in host.kept().of_host()}


def test_what_somebody_needs_stays(tmp_path):
    host = adopting(tmp_path, STACK)
    fresh = everything(host)
    host.up()
    assert set(ids(host).values()) == {"cli"}
    assert host.down("bond0") == [] and ids(host)["bond:bond0"] == "auto"
    assert host.check() == []
    host.down("guestbr0")
    assert "bridge:guestbr0" not in ids(host) and "vlan:bond0.100" in ids(host)
    host.down()
    assert_same(fresh, everything(host), "down")


def test_what_only_the_bridge_needed_goes_with_it(tmp_path):
    host = adopting(tmp_path, STACK)
    fresh = everything(host)
    host.up("guestbr0")
    assert {owner.id for owner in host.down("guestbr0")} == {"bridge:guestbr0", "vlan:bond0.100", "bond:bond0"}
    assert_same(fresh, everything(host), "down")


def test_down_while_a_guest_runs(tmp_path):
    act = Act(DECLARED + STACK, up(), domains=(FIVE,))
    host = act.host(tmp_path / "host")
    fresh = everything(host)
    host.up()
    host.plug(FIVE)
    world = host.kernel.snapshot()
    assert host.down() == []
    assert host.kernel.snapshot() == world and set(ids(host).values()) == {"auto"}
    host.unplug(FIVE)
    assert_same(fresh, everything(host), "the last one put out the light")


def test_down_while_a_guest_of_nobody_we_know_is_on_the_bridge(tmp_path):
    host = adopting(tmp_path, STACK)
    host.up()
    host.kernel.add_link("foreign", "tun")
    host.kernel._set_link(LinkAttribute("foreign", "master", "guestbr0"))
    refused(
        host,
        ConflictError,
        "bridge guestbr0 still has ports: foreign; stop the guests there, or take it out: ip link set dev foreign nomaster",
        lambda host: host.down(),
    )


def test_an_implied_bridge_lives_from_the_first_guest_to_the_last(tmp_path):
    host = Act(IMPLIED, up(), domains=(FORTY, FORTY2)).host(tmp_path / "host")
    fresh = everything(host)
    assert host.up() == [], "nothing to bring up without a guest"
    host.plug(FORTY)
    host.plug(FORTY2)
    assert ids(host) == {"vlan:eth3.40": "auto", "bridge:br40": "auto"}
    host.unplug(FORTY)
    assert host.check() == [] and "br40" in host.kernel.links
    host.unplug(FORTY2)
    assert_same(fresh, everything(host), "gone with the last")


def test_an_implied_bridge_that_was_there_stays(tmp_path):
    host = Act(IMPLIED, up(), domains=(FORTY,)).host(tmp_path / "host")
    host.kernel.add_link("br40", "bridge", up=True)
    # A bridge without ports has no carrier, and changes its MAC with the first.
    host.kernel.add_link("own40", up=True, master="br40")
    fresh = everything(host)
    host.plug(FORTY)
    assert host.kernel.master("eth3.40") == "br40" and host.check() == []
    host.unplug(FORTY)
    assert_same(fresh, everything(host), "the admin's own")


def test_an_implied_bridge_that_was_brought_up_by_name_stays_until_down(tmp_path):
    host = Act(IMPLIED, up(), domains=(FORTY,)).host(tmp_path / "host")
    fresh = everything(host)
    host.up("forty")
    host.plug(FORTY)
    host.unplug(FORTY)
    assert "br40" in host.kernel.links and host.check() == []
    host.down("br40")
    assert_same(fresh, everything(host), "down")


def test_a_vlan_aware_bridge_leaks_no_pvid(tmp_path):
    host = Act(AWARE, up(), domains=(TEN,)).host(tmp_path / "host")
    host.up()
    host.plug(TEN)
    assert host.kernel.vlans["t1.0"] == {10: True} and host.kernel.pvids["t1.0"] == 10
    assert 1 not in host.kernel.vlans["eth3"] and 1 not in host.kernel.vlans["ebr0"]


def test_an_admins_vlan_aware_bridge_leaks_no_pvid_either(tmp_path):
    """Its default PVID is 1, and the kernel gives it to each port that joins."""
    toml = '[networks.ten]\nmode = "bridged"\nbridge = "brX"\nvlan = 10\n'
    host = Act(toml, up(), domains=(TEN,)).host(tmp_path / "host")
    host.kernel.add_link("brX", "bridge", up=True, vlan_filtering="1")
    # A bridge without ports has no carrier, and changes its MAC with the first.
    host.kernel.add_link("ownX", up=True, master="brX")
    fresh = everything(host)
    host.plug(TEN)
    assert host.kernel.vlans["t1.0"] == {10: True}
    host.unplug(TEN)
    assert_same(fresh, everything(host), "unplugged")


def test_an_edit_of_one_part_by_name_keeps_what_stands_on_it(tmp_path):
    host = adopting(tmp_path, STACK, up(), then=STACK.replace("id = 100", "id = 101"))
    host.up("bond0.100")
    assert host.check() == [] and host.kernel.master("bond0.100") == "guestbr0"


def test_a_tap_keeps_what_is_on_its_uplink_when_that_is_made_again(tmp_path):
    """Proxy entries of the guests are on the VLAN device that is made anew."""
    act = Act(ROUTED, up(), domains=(PUBLIC1,))
    host = act.host(tmp_path / "host")
    host.up()
    host.plug(PUBLIC1)
    host.configure(ROUTED.replace("id = 7", "id = 8"))
    host.up()
    assert host.check() == []


def test_a_link_of_that_name_that_came_meanwhile_is_not_deleted(tmp_path):
    """Somebody else makes the bridge between our look and our step: his stays."""
    host = adopting(tmp_path, "[bridges.guestbr0]\n")
    real = host.kernel.apply

    def apply(step):
        if isinstance(step[0].subject, Device) and "guestbr0" not in host.kernel.links:
            host.kernel.add_link("guestbr0", "bridge", up=True)
        real(step)

    host.kernel.apply = apply
    with pytest.raises(KernelError):
        host.up()
    assert "guestbr0" in host.kernel.links and not host.kernel.link("guestbr0").ours
