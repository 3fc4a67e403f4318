"""NAT's table is apart from the others: a chain of NAT, wherever it is, makes the kernel track every connection of the host."""

from dataclasses import replace

import pytest
from scenario import Host, difference, guest

from vmnet_hooks import records
from vmnet_hooks.declared import compose
from vmnet_hooks.engine import guests
from vmnet_hooks.engine.healing import amiss, mend, reconcile
from vmnet_hooks.model import objects, resource, ruleset
from vmnet_hooks.model.objects import NftElement, nft
from vmnet_hooks.model.ruleset import INET, NAT
from vmnet_hooks.networks import reach, routed

PLAIN = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]))
EDGE = guest(2, ("edge", ["198.51.100.5", "2001:db8:1::5"]))
OTHER = guest(3, ("public", ["192.0.2.20", "2001:db8::20"]))
MASQUERADE = 'nft inet masquerade4 198.51.100.0/24 . "eth9"'
# As it was when both were one: NAT's chain and sets were in INET.
BEFORE = replace(INET, rules=tuple(sorted((*INET.rules, *NAT.rules))), version="before")


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    for domain in (PLAIN, EDGE, OTHER):
        host.add_taps(domain)
    return host


def test_there_while_somebody_translates(host):
    before = host.everything()
    host.plug(PLAIN)
    plain = host.everything()
    assert NAT.key not in host.kernel.world and INET.key in host.kernel.world
    host.plug(EDGE)
    assert host.kernel.world[NAT.key] == NAT and MASQUERADE in host.kernel.world
    assert host.check() == []
    host.unplug(EDGE)
    assert host.everything() == plain, difference(host.everything()[0], plain[0])
    host.unplug(PLAIN)
    assert host.everything() == before


def test_elements_know_their_table():
    for family, name, key in (
        ("inet", "masquerade4", NAT.key),
        ("inet", "private6", NAT.key),
        ("inet", "snat4", NAT.key),
        ("inet", "guarded", INET.key),
        ("arp", "own", "nft arp"),
    ):
        assert NftElement(family, name, ('"tap0"',)).table == key
    assert {NftElement("inet", name, ()).table for name in ("prefixes4", "sources6", "closed", "forwarding")} == {INET.key}
    for table in ruleset.TABLES:
        names = [line.split()[1] for line in table.body.splitlines() if line.startswith(("\tset ", "\tmap "))]
        assert (names or table == ruleset.GUESTS) and all(objects.table_of(table.family, name) == table.name for name in names)


@pytest.fixture
def upgraded(host, monkeypatch):
    """A host where PLAIN and EDGE were started before NAT had a table of its own."""
    with monkeypatch.context() as patched:
        for module in (routed, reach, ruleset):
            patched.setattr(module, "INET", BEFORE)
        patched.setattr(routed, "NAT", BEFORE)
        patched.setattr("vmnet_hooks.engine.transaction.INET", BEFORE)
        patched.setattr(nft, "table_of", lambda family, name: resource.TABLE)
        records.decode.cache_clear()
        compose._first.cache_clear()
        host.plug(PLAIN)
        host.plug(EDGE)
        assert host.check() == [] and NAT.key not in host.claimed() and MASQUERADE in host.claimed()
    records.decode.cache_clear()
    compose._first.cache_clear()
    # In a table that is not looked at any more.
    for key in [key for key, r in host.kernel.world.items() if key.startswith("nft inet masquerade")]:
        del host.kernel.world[key]
    yield host
    records.decode.cache_clear()
    compose._first.cache_clear()


def is_right(host: Host) -> bool:
    world = host.kernel.world
    return (world.get(INET.key), world.get(NAT.key)) == (INET, NAT) and MASQUERADE in world and host.check() == []


def test_repair_after_an_upgrade(upgraded):
    assert {drift.what.partition(": ")[0] for drift in upgraded.check()} >= {INET.key, NAT.key}
    upgraded.repair()
    assert is_right(upgraded)
    upgraded.unplug(EDGE)
    assert NAT.key not in upgraded.kernel.world
    upgraded.unplug(PLAIN)
    upgraded.assert_no_records()


@pytest.mark.parametrize("last", [EDGE, OTHER], ids=["the one that translates goes first", "it goes last"])
def test_a_guest_is_started_after_an_upgrade(upgraded, last):
    """It makes the table anew that NAT was in: who translates goes on to, in the new one."""
    owners = upgraded.plug(OTHER)
    assert [owner.domain for owner in owners] == [OTHER.name]
    assert upgraded.kernel.world[NAT.key] == NAT and MASQUERADE in upgraded.kernel.world
    upgraded.repair()
    assert is_right(upgraded)
    order = [PLAIN, *([EDGE, OTHER] if last is OTHER else [OTHER, EDGE])]
    for domain in order:
        assert (NAT.key in upgraded.kernel.world) == (domain is not OTHER or last is EDGE)
        upgraded.unplug(domain)
    upgraded.assert_no_records()
    assert not [key for key in upgraded.kernel.world if key.startswith("nft ")]


def test_stopped_after_an_upgrade(upgraded):
    upgraded.unplug(EDGE)
    assert upgraded.kernel.world[INET.key] == BEFORE
    upgraded.unplug(PLAIN)
    upgraded.assert_no_records()
    assert not [key for key in upgraded.kernel.world if key.startswith("nft ")]


def test_reassured_after_an_upgrade(upgraded):
    """What a hypervisor's daemon asks for when it is restarted."""
    upgraded.call(guests.reassert, EDGE)
    assert upgraded.kernel.world[NAT.key] == NAT and MASQUERADE in upgraded.kernel.world
    assert NAT.key in upgraded.claimed()


def test_the_agent_after_an_upgrade(upgraded):
    """It goes by the records: what the old table has is left to `repair`."""
    session = upgraded.session()
    try:
        assert amiss(session, session.records.resources()) == set()
        for mended in (reconcile(session, (), tuple), mend(session, None), mend(session, [MASQUERADE])):
            assert (list(mended.changes), mended.failed) == ([], {})
        del upgraded.kernel.world[INET.key]
        mended = mend(session, None)
        assert mended.failed == {} and upgraded.kernel.world[INET.key] == BEFORE
    finally:
        session.records.close()
