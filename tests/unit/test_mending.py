"""Mending puts back what somebody took away, and nothing else; and it gives way to who takes it away again and again."""

import random
from dataclasses import replace

import pytest
from scenario import EVERYTHING, LAN, Host, difference, guest

from vmnet_hooks.agent.healing import FIGHT_TIMES, Patience
from vmnet_hooks.engine import lives, name_now
from vmnet_hooks.engine.healing import Departed, amiss, depart, mend, suspected
from vmnet_hooks.errors import KernelError
from vmnet_hooks.model.objects import Address, LinkAttribute, NftElement, NftTable, ProxyNeighbour, Route, Rule, Sysctl
from vmnet_hooks.model.plan import Change
from vmnet_hooks.records.store import Store

ONE = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]), ("lan", ()))
TWO = guest(2, ("public", ["192.0.2.20", "2001:db8::20"]))
THREE = guest(3, ("edge", ["198.51.100.5", "2001:db8:1::5"]))
SPOOFLESS = guest(4, ("lan", ["10.7.0.10", "2001:db8:7::10", "10.99.0.0/24"]))
GUESTS = (ONE, TWO, THREE, SPOOFLESS)
BRIDGE = LAN.replace("br0", "br1") + '[bridges.br1]\nports = ["eth3"]\naddresses = ["192.0.2.1/24"]\nmtu = 1400\n'


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path, EVERYTHING)
    for domain in GUESTS:
        host.add_taps(domain)
        host.plug(domain)
    host.kernel.clear_faults()
    return host


def left_alone(resource) -> bool:
    """What mending never touches, and what a link can't be without."""
    return isinstance(resource, LinkAttribute) and resource.name != "no_linklocal_learn"


def lose(host: Host, *keys: str) -> None:
    """Somebody takes these away, or changes them."""
    world = host.kernel.world
    for key in keys:
        resource = world[key]
        if isinstance(resource, Sysctl):
            world[key] = replace(resource, value="77")
        elif isinstance(resource, LinkAttribute):
            world[key] = replace(resource, value="0")
        else:
            del world[key]
            if isinstance(resource, NftTable) and resource.family != "netdev":
                for element in [k for k, r in world.items() if isinstance(r, NftElement) and r.table == key]:
                    del world[element]


def damageable(host: Host) -> list[str]:
    return sorted(key for key, r in host.claimed().items() if key in host.kernel.world and not left_alone(r))


def test_each_thing_alone(host):
    before = host.everything()
    for key in damageable(host):
        lose(host, key)
        damaged = host.everything()
        assert damaged != before, key
        assert key in host.call(lambda session, key=key: amiss(session, suspected(session.records, [key], (), ())))
        assert host.everything() == damaged, "looking changes nothing"
        mended = host.call(mend, [key])
        assert key in {change.subject.key for change in mended.changes} and not mended.failed
        assert host.everything() == before, difference(host.everything(), before)


@pytest.mark.parametrize("seed", range(20))
def test_any_things_at_once(host, seed):
    before = host.everything()
    chosen = random.Random(seed).sample(damageable(host), 12)
    world = host.kernel.world
    lose(host, *[key for key in chosen if key in world and not isinstance(world[key], NftTable)])
    lose(host, *[key for key in chosen if key in world and isinstance(world[key], NftTable)])
    keys = chosen if seed % 2 else None
    mended = host.call(mend, keys)
    assert (mended.failed, mended.waits, mended.departed) == ({}, [], [])
    assert host.everything() == before, difference(host.everything(), before)
    again = host.call(mend, keys)
    assert again.changes == [] and host.kernel.steps, "nothing is left to do"


def test_nothing_but_what_was_asked_for(host):
    """Another guest's damage is another matter."""
    routes = sorted(key for key, r in host.claimed().items() if isinstance(r, Route) and r.dev in ("t1.0", "t2.0"))
    lose(host, *routes)
    host.call(mend, routes[:1])
    assert [key for key in routes if key in host.kernel.world] == routes[:1]


def test_an_element_brings_its_table(host):
    before = host.everything()
    lose(host, "nft inet")
    key = 'nft inet guarded "t1.0"'
    mended = host.call(mend, [key])
    assert host.everything() == before
    [step] = [step for step in host.kernel.steps if step]
    assert {change.subject.key for change in mended.changes} == {change.subject.key for change in step}, "in one transaction"


def test_a_table_that_somebody_worked_in_is_made_anew(host):
    before = host.everything()
    key = "nft arp"
    assert host.call(mend, [key]).changes == []
    mended = host.call(mend, [key], {key})
    changed = {change.subject.key for change in mended.changes}
    assert changed == {k for k in host.claimed() if k.startswith("nft arp")}
    assert host.everything() == before


def test_what_others_put_there_stays(host):
    """Somebody's route where ours was: said, not fought."""
    key = "route 222 192.0.2.10/32"
    lose(host, key)
    theirs = Route(222, "192.0.2.10/32", "eth0", "", 3)
    host.kernel.put(theirs)
    lose(host, "route 222 192.0.2.20/32")
    mended = host.call(mend, None)
    assert set(mended.failed) == {key} and "another program's route" in mended.failed[key]
    assert host.kernel.world[key] == theirs
    assert "route 222 192.0.2.20/32" in host.kernel.world, "the rest is mended"


def test_a_link_that_was_taken_down_stays_down(host):
    """What is on it waits; sysctls do not."""
    before = host.everything()
    key = "link eth1 state"
    host.kernel.apply([change_of(host, key, "down")])
    lose(host, "sysctl net/ipv4/conf/eth1/proxy_arp")
    mended = host.call(mend, None)
    assert host.kernel.world[key].value == "down" and not mended.failed
    assert {"route 222 192.0.2.0/24", "proxy eth1 2001:db8::10"} <= set(mended.waits)
    assert host.kernel.world["sysctl net/ipv4/conf/eth1/proxy_arp"].value == "1"
    assert not host.call(lambda session: amiss(session, suspected(session.records, (), (), ["eth1"])))
    host.kernel.apply([change_of(host, key, "up")])
    wrong = host.call(lambda session: amiss(session, suspected(session.records, (), (), ["eth1"])))
    assert {"route 222 192.0.2.0/24", "proxy eth1 2001:db8::10", "proxy eth1 2001:db8::20"} <= wrong
    host.call(mend, wrong)
    assert host.everything() == before, difference(host.everything(), before)


def change_of(host: Host, key: str, value: str) -> Change:
    have = host.kernel.world[key]
    return Change(have, replace(have, value=value))


def test_all_of_a_link(host):
    def of(name: str) -> set[str]:
        return set(host.call(lambda session: suspected(session.records, (), (), [name])))

    claimed = host.claimed()
    for name in ("eth1", "t1.0", "t1.1", "eth2", "eth9"):
        assert of(name) == {key for key, r in claimed.items() if r.link == name}, name
    assert of("t1") == of("eth") == of("nobody's") == set(), "names that only start so"


def test_starts_of_keys(host):
    def under(*starts: str) -> set[str]:
        return set(host.call(lambda session: suspected(session.records, (), starts, ())))

    assert under('nft inet sources4 "t1.0"') == {'nft inet sources4 "t1.0" . 52:54:00:aa:01:00 . 192.0.2.10'}
    assert under("sysctl net/ipv4/conf/all/") == {"sysctl net/ipv4/conf/all/send_redirects"}
    assert under("nft inet masquerade4 ") == {'nft inet masquerade4 198.51.100.0/24 . "eth9"'}


def test_a_tap_that_is_gone(host):
    index = host.kernel.links["t1.0"].index
    others = {key for key in host.claimed() if '"t2.0"' in key or "192.0.2.20" in key}
    host.kernel.remove_link("t1.0")
    waits = host.call(mend, list(host.claimed())).waits
    assert any("t1.0" in key for key in waits)
    assert host.call(depart, [(index + 1000, "t1.0")]) == Departed(), "another one of that name"
    departed, renamed, failed = host.call(depart, [(index, "t1.0")])
    assert not renamed and ([owner.ifname for owner in departed], failed) == (["t1.0"], {})
    assert others <= host.claimed().keys()
    assert not any("t1.0" in key or "192.0.2.10" in key for key in {*host.claimed(), *host.kernel.world})
    assert host.call(depart, [(index, "t1.0")]) == Departed(), "once"


def test_taps_that_went_unseen(host):
    for name in ("t2.0", "t3.0"):
        host.kernel.remove_link(name)
    mended = host.call(mend, None)
    assert sorted(owner.ifname for owner in mended.departed) == ["t2.0", "t3.0"] and not mended.failed
    assert host.check() == []


def test_a_failing_step_does_not_keep_the_others(host):
    rules = sorted(key for key, r in host.claimed().items() if isinstance(r, Rule))
    lose(host, *rules)
    host.kernel.stuck = {rules[0]}
    mended = host.call(mend, rules)
    assert set(mended.failed) == {rules[0]}
    assert {key for key in rules if key in host.kernel.world} == set(rules[1:])
    host.kernel.stuck, host.kernel.lost = set(), {rules[0]}
    mended = host.call(mend, rules)
    assert set(mended.failed) == {rules[0]} and "does not hold it" in mended.failed[rules[0]] and mended.changes == []


def test_what_waits_to_be_taken_away_is_not_mended(host):
    """Its clean-up failed."""
    key = "route 222 192.0.2.10/32"
    host.kernel.stuck = {key}
    with pytest.raises(KernelError):
        host.unplug(ONE)
    host.kernel.clear_faults()
    assert key in host.claimed()
    host.kernel.world.pop(key, None)
    assert host.call(mend, [key]).changes == []
    assert key not in host.kernel.world


def test_a_bridge_that_somebody_deleted(tmp_path):
    """It comes back with its port, its address, and up; its guests with it."""
    host = Host(tmp_path, BRIDGE)
    bridged = guest(5, ("lan", ()))
    host.up("br1")
    host.add_taps(bridged)
    host.plug(bridged)
    world = host.kernel.snapshot()
    host.kernel.remove_link("br1")
    links = ["br1", "eth3", "t5.0"]
    wrong = host.call(lambda session: amiss(session, suspected(session.records, (), (), links)))
    assert "device br1" in wrong
    mended = host.call(mend, wrong)
    assert not mended.failed
    assert host.kernel.snapshot() == world, difference((host.kernel.snapshot(),), (world,))
    assert host.check() == []


def test_an_address_of_a_bridge(tmp_path):
    host = Host(tmp_path, BRIDGE)
    host.up("br1")
    before = host.everything()
    [key] = [key for key, r in host.claimed().items() if isinstance(r, Address)]
    lose(host, key)
    host.call(mend, [key])
    assert host.everything() == before


def test_proxies_of_a_link_that_is_gone(host):
    host.kernel.remove_link("eth1")
    wants = [key for key, r in host.claimed().items() if isinstance(r, ProxyNeighbour) and r.ifname == "eth1"]
    mended = host.call(mend, wants)
    assert (set(mended.waits), mended.changes, mended.failed) == (set(wants), [], {})


def test_the_records_say_the_same_to_everybody(host):
    """The engine's face of the records has all that mending asks for."""
    assert {"under", "keys_under", "routes_through"} <= set(dir(Store))
    store = host.kept()
    assert set(store.keys_under("nft inet guarded ")) == set(store.under("nft inet guarded "))
    assert {r.dev for r in store.routes_through("t1.0").values()} == {"t1.0"}


# --- who takes it away again and again ---------------------------------------------------------------------------------


def fight(patience: Patience, key: str, seconds: float, every: float = 0.05) -> tuple[int, int]:
    """Somebody removes `key` as often as that: how many times it was put back, and how many times that was said."""
    mendings = said = 0
    for tick in range(int(seconds / every)):
        now = tick * every
        patience.due(now)
        if patience.allows(key, now):
            mendings += 1
            said += key in patience.mended([key], now)
    return mendings, said


def test_a_fight_is_given_up():
    mendings, said = fight(Patience(), "rule 1", 600)
    # The sixth time is the last for 5 s, then 10, 20, 40, 60, 60 …
    assert mendings == FIGHT_TIMES + 1 + 4 + (600 - 75) // 60 and said == 1


def test_filters_are_left_alone_for_no_longer_than_a_moment():
    mendings, said = fight(Patience(), "nft inet", 60)
    assert said == 1 and 25 <= mendings <= 36


def test_what_happens_now_and_then_is_no_fight():
    mendings, said = fight(Patience(), "rule 1", 600, every=2.5)
    assert (mendings, said) == (240, 0)


def test_others_are_not_held_back():
    patience = Patience()
    fight(patience, "nft inet", 1)
    assert not patience.allows("nft inet", 1) and not patience.allows('nft inet guarded "tap1"', 1)
    assert patience.allows("nft arp", 1) and patience.allows('nft arp guarded "tap1"', 1) and patience.allows("rule 1", 1)
    masquerade = 'nft inet masquerade4 192.0.2.0/24 . "eth9"'
    assert patience.allows("nft inet vmnet-nat", 1) and patience.allows(masquerade, 1)
    assert patience.next_due() == pytest.approx(0.25 + 2)
    assert patience.due(3) == {"nft inet"} and patience.due(3) == set() and patience.next_due() is None


def test_nat_is_held_back_with_its_table():
    patience = Patience()
    fight(patience, "nft inet vmnet-nat", 1)
    masquerade = 'nft inet masquerade4 192.0.2.0/24 . "eth9"'
    assert not patience.allows("nft inet vmnet-nat", 1) and not patience.allows(masquerade, 1)
    assert patience.allows("nft inet", 1) and patience.allows('nft inet guarded "tap1"', 1)
    assert patience.allows("nft netdev vmnet-nat", 1)


def test_a_fight_long_ago_is_forgotten():
    patience = Patience()
    fight(patience, "rule 1", 2)
    assert patience.mended(["rule 1"], 100.0) == {} and patience.allows("rule 1", 100.1)


def test_what_can_not_be_mended_is_tried_less_and_less():
    patience = Patience()
    times, now, said = [], 0.0, []
    while now < 300:
        if patience.allows("route 1", now):
            times.append(now)
            said += patience.failed(["route 1"], now)
        now += 0.5
    assert said == ["route 1"]
    assert times == [0, 2, 6, 14, 30, 62, 122, 182, 242]
    assert patience.mended(["route 1"], 300.0) == {} and patience.allows("route 1", 300.0), "it went well at last"
    assert patience.failed(["route 1"], 301.0) == ["route 1"]


def test_a_tap_with_another_name(host):
    """It is one by its number and the MAC that it was given: else the guest is gone."""
    [nic] = host.kept().nics(ifname="t1.0")
    host.kernel.remove_link("t1.0")
    host.kernel.add_link("other", "tun", up=True)
    link = replace(host.kernel.links["other"], index=nic.ifindex)
    given = host.claimed()["link t1.0 address"].value
    host.kernel.links["other"] = replace(link, address=given)
    assert host.call(lambda session: (name_now(session, nic), lives(session, nic))) == ("other", True)
    drifts = [drift for drift in host.check() if drift.owner_id == nic.id]
    assert [drift.what for drift in drifts] == ["t1.0: is called other now, a name without filter and network"]
    host.kernel.links["other"] = replace(link, address="02:00:00:00:00:99")
    assert host.call(lambda session: (name_now(session, nic), lives(session, nic))) == ("", False)


def test_what_failed_is_tried_at_once_when_a_link_comes():
    """What another program removes again and again is not: that pause goes on."""
    patience = Patience()
    for now in (0, 10, 20, 40, 80):
        patience.failed(["link tap1 master"], now)
    for now in range(FIGHT_TIMES + 1):
        patience.mended(["rule 1"], 80 + now / 10)
    assert not patience.allows("link tap1 master", 90) and not patience.allows("rule 1", 81)
    assert (
        patience.hurry(81) == {"link tap1 master"} and patience.allows("link tap1 master", 81) and patience.due(90) == {"rule 1"}
    )
    assert patience.failed(["link tap1 master"], 91) == [] and not patience.allows("link tap1 master", 92)
    patience.mended(["link tap1 master"], 200)
    assert patience.hurry(201) == set()
