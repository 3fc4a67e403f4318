"""The records: owners, claims, the journal, the lock."""
# ruff: noqa: E501  (tables of inputs and messages)

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import pytest

from vmnet_hooks.errors import StoreError
from vmnet_hooks.model.objects import Address, Device, NftElement, Route, Sysctl
from vmnet_hooks.model.objects.bridge import Adoption, PortVlans
from vmnet_hooks.model.owner import DescribedNetwork, Nic, Part, Preparation
from vmnet_hooks.model.plan import Change
from vmnet_hooks.records import encode
from vmnet_hooks.records import store as module
from vmnet_hooks.records.pending import Pending
from vmnet_hooks.records.store import EXPECT_SECONDS, Store

A = Nic(
    **dict(id="u1/m1", domain="d1", domain_id="u1", ifname="tap1", ifindex=7, mac="m1", network="public", frontend="libvirt"),
    **dict(addresses=("192.0.2.1", "2001:db8::1"), since=1.0),
)
B = Nic(
    **dict(id="u2/m2", domain="d2", domain_id="u2", ifname="tap2", ifindex=8, mac="m2", network="public", frontend="libvirt"),
    **dict(addresses=("192.0.2.2",), filter=False, since=2.0),
)
SHARED, OWN = Route(222, "192.0.2.0/24", "eth1"), Route(222, "192.0.2.1/32", "tap1")
VALUE, BEFORE = Sysctl("a/b/c/eth1/x", "1"), Sysctl("a/b/c/eth1/x", "0")
ELEMENT = NftElement("arp", "own", ('"tap1"', "192.0.2.1"))


@pytest.fixture
def store(tmp_path):
    opened = Store(str(tmp_path))
    yield opened
    opened.close()


def add(store, owner, *resources, originals=None, drop=()):
    by_key = {r.key: r for r in resources}
    store.commit(drop, {owner: list(by_key)}, by_key, originals or {})


def test_owners_come_back_as_they_were(store):
    add(store, B, SHARED)
    add(store, A, SHARED, OWN)
    assert store.owners() == [A, B]
    assert store.owners(domain="d1") == [A] and store.owners(ifname="tap2") == [B] and store.owners(id="nobody") == []
    assert store.of_domain("d1", "u1") == [A] and store.of_domain("d1", "") == [A] and store.of_domain("d1", "u2") == [B]
    assert store.of_domain("d1", "", "tap2") == [] and store.of_domain("", "", "tap2") == [B] and store.of_domain("", "") == []


def test_a_resource_lives_as_long_as_somebody_claims_it(store):
    add(store, A, SHARED, OWN)
    add(store, B, SHARED)
    assert store.claimed_elsewhere(SHARED.key, [A.id]) and not store.claimed_elsewhere(OWN.key, [A.id])
    assert not store.claimed_elsewhere(SHARED.key, [A.id, B.id])
    store.forget(A.id)
    assert store.resources() == {SHARED.key: SHARED} and store.owners() == [B]
    store.forget(B.id)
    assert store.resources() == {}


def test_the_value_found_first_is_kept(store):
    add(store, A, VALUE, originals={VALUE.key: BEFORE})
    add(store, B, replace(VALUE, value="2"), originals={VALUE.key: VALUE})
    assert store.recorded(VALUE.key) == (replace(VALUE, value="2"), BEFORE)
    assert store.recorded("nothing") is None


def test_replacing_an_owner_releases_what_it_wants_no_more(store):
    add(store, A, SHARED, OWN)
    add(store, A, SHARED)
    assert store.claims(A.id) == {SHARED.key: SHARED} and set(store.resources()) == {SHARED.key}


def test_commit_drops_others(store):
    add(store, A, SHARED, OWN)
    add(store, B, SHARED, drop=[A.id])
    assert store.owners() == [B] and set(store.resources()) == {SHARED.key}


def test_a_leftover_keeps_what_stays_and_nothing_else(store):
    add(store, A, SHARED, OWN, ELEMENT)
    store.forget(A.id, [OWN.key])
    assert [o.phase for o in store.owners()] == ["leftover"]
    assert store.claims(A.id) == {OWN.key: OWN}
    assert store.resources() == {OWN.key: OWN}, "what could be removed is in no record any more"
    assert store.holder("public", "192.0.2.1", []) is None, "its addresses are free"


def rows(store, query: str) -> list[tuple]:
    return sorted(store._query(query))


def test_guests_of_one_network_claim_what_they_share_in_one_row(store):
    add(store, A, SHARED, VALUE, OWN)
    add(store, B, SHARED, VALUE)
    third = replace(B, id="u3/m3", domain_id="u3", ifname="tap3", mac="m3", addresses=())
    add(store, third, SHARED, VALUE)
    assert len(rows(store, "SELECT * FROM claim")) == 2 and len(rows(store, "SELECT DISTINCT id FROM bundle")) == 1
    for owner in (A, B, third):
        assert {SHARED.key, VALUE.key} <= store.claimed(owner.id) == set(store.claims(owner.id))
    assert store.claimed_elsewhere(SHARED.key, [A.id, B.id]) and not store.claimed_elsewhere(OWN.key, [A.id])
    assert {o.id for _, o in store.claimants(SHARED.key)} == {A.id, B.id, third.id}
    assert store.released([A.id], ()).keys() == {OWN.key} and store.released([B.id], ()) == {}
    assert store.released([A.id, B.id, third.id], (SHARED.key,)).keys() == {OWN.key, VALUE.key}
    store.forget(A.id)
    assert store.claims(B.id) == {SHARED.key: SHARED, VALUE.key: VALUE} == store.resources()
    store.forget(third.id)
    assert store.released([B.id], ()).keys() == {SHARED.key, VALUE.key}
    store.forget(B.id)
    assert not any(rows(store, f"SELECT * FROM {table}") for table in ("owner", "address", "resource", "claim", "bundle"))


def test_plugging_in_again_changes_no_row(store):
    add(store, A, SHARED, OWN)
    add(store, B, SHARED, ELEMENT)
    tables = ("owner", "address", "resource", "claim", "bundle")
    before = {table: rows(store, f"SELECT * FROM {table}") for table in tables}
    add(store, B, SHARED, ELEMENT)
    add(store, A, SHARED, OWN)
    assert {table: rows(store, f"SELECT * FROM {table}") for table in tables} == before


def test_an_owner_takes_over_what_another_had(store):
    add(store, A, OWN, ELEMENT)
    add(store, B, OWN, drop=[A.id])
    assert store.claims(B.id) == {OWN.key: OWN} == store.resources()
    assert [o.id for _, o in store.claimants("route 222 ")] == [B.id]
    store.forget(B.id)
    assert store.resources() == {}


def test_two_may_claim_what_one_of_them_made(store):
    add(store, A, OWN, ELEMENT)
    add(store, B, OWN)
    assert store.released([A.id], ()).keys() == {ELEMENT.key}
    store.forget(A.id)
    assert store.resources() == {OWN.key: OWN} and store.claims(B.id) == {OWN.key: OWN}
    add(store, B)
    assert store.resources() == {}


def test_what_is_recorded_of_many_keys(store):
    add(store, A, VALUE, OWN, originals={VALUE.key: BEFORE})
    assert store.records([VALUE.key, OWN.key, "nothing"]) == {VALUE.key: (VALUE, BEFORE), OWN.key: (OWN, None)}
    assert store.records([]) == {}


def test_who_has_an_address(store):
    mine = Address("tap1", "192.0.2.1/32")
    add(store, A, mine, Address("tap1", "192.0.2.11/32"))
    assert store.claimants_of_address("192.0.2.1/32") == [(mine, A)] and store.claimants_of_address("2.1/32") == []


def test_records_of_an_older_version(tmp_path):
    """As version 3 left them: every claim is a row."""
    add(first := Store(str(tmp_path)), A, SHARED, OWN, originals={SHARED.key: SHARED})
    first.close()
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute("INSERT INTO claim SELECT owner, key FROM resource")
        for index in ("resource_owner", "resource_address", "owner_name"):
            db.execute(f"DROP INDEX {index}")
        db.execute("ALTER TABLE resource DROP COLUMN owner")
        db.execute("DROP TABLE bundle")
        db.execute("PRAGMA user_version = 3")
    opened = Store(str(tmp_path))
    assert opened.owners() == [A] and opened.claims(A.id) == {SHARED.key: SHARED, OWN.key: OWN}
    add(opened, B, SHARED, ELEMENT)
    assert opened.released([A.id], ()).keys() == {OWN.key} and opened.recorded(SHARED.key) == (SHARED, SHARED)
    opened.forget(A.id)
    assert set(opened.resources()) == {SHARED.key, ELEMENT.key}
    opened.forget(B.id)
    assert opened.resources() == {}
    opened.close()


def test_records_of_one_that_was_killed_when_it_made_them(tmp_path):
    """As a version left them that made one table after the other."""
    Store(str(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        for table in ("address", "resource", "claim", "bundle", "pending"):
            db.execute(f"DROP TABLE {table}")
        db.execute("PRAGMA user_version = 0")
    opened = Store(str(tmp_path))
    add(opened, A, SHARED, OWN)
    assert opened.owners() == [A] and opened.claims(A.id) == {SHARED.key: SHARED, OWN.key: OWN}
    opened.close()


def test_what_is_written_is_there_at_once(store, tmp_path):
    """Whatever was read before under the lock: who is killed then must have written it."""
    add(store, A, OWN)
    with store.lock():
        assert store.owners() == [A]
        for write, read in (
            (lambda: store.set_phase(A.id, "active"), "SELECT phase FROM owner"),
            (lambda: store.set_pending(Pending(1.0, False)), "SELECT id FROM pending"),
        ):
            store.owners()
            write()
            with closing(sqlite3.connect(tmp_path / "state.db")) as other:
                assert other.execute(read).fetchone()[0] in ("active", 1)


def test_holders(store):
    add(store, A, OWN)
    assert store.holder("public", "192.0.2.1", []) == A and store.holder("public", "192.0.2.1", [A.id]) is None
    assert store.holder("other", "192.0.2.1", []) is None
    assert store.holder_of_mac("public", "m1", [B.id]) == A and store.holder_of_mac("lan", "m1", []) is None


def test_elements(store):
    add(store, A, OWN, ELEMENT)
    assert store.elements("nft arp") == {ELEMENT.key: ELEMENT} and store.elements("nft inet") == {}


def test_the_journal_outlives_the_process(tmp_path):
    first = Store(str(tmp_path))
    changes = [Change(None, OWN), Change(BEFORE, VALUE), Change(ELEMENT, None)]
    first.open_journal("plug d1", changes)
    first.close()
    second = Store(str(tmp_path))
    assert second.journal() == ("plug d1", changes)
    add(second, A, OWN)
    assert second.journal() == ("", []), "a commit closes it"
    second.open_journal("x", changes)
    second.close_journal()
    assert second.journal() == ("", [])
    second.close()


def test_a_journal_of_what_is_recorded(store, tmp_path):
    """Killed between the commit and the file's removal."""
    for _ in range(2):
        store.open_journal("plug d1", [Change(None, OWN)])
        left = (tmp_path / "journal").read_bytes()
        add(store, A, OWN)
        (tmp_path / "journal").write_bytes(left)
        assert store.journal() == ("", [])
    store.open_journal("plug d2", [Change(None, OWN)])
    assert store.journal() == ("plug d2", [Change(None, OWN)])


def test_a_journal_of_other_records(tmp_path):
    """They were moved away, as the message about broken ones says: what it names may be a guest's that runs."""
    first = Store(str(tmp_path))
    add(first, A, OWN)
    first.open_journal("plug d2", [Change(None, OWN)])
    first.close()
    (tmp_path / "state.db").rename(tmp_path / "old")
    second = Store(str(tmp_path))
    assert second.journal() == ("", [])
    second.open_journal("plug d3", [Change(None, ELEMENT)])
    assert second.journal() == ("plug d3", [Change(None, ELEMENT)])
    second.close()


@pytest.mark.parametrize("text", ["", "x", "7\n", "7\nx\n", '7\n"plug"\n{}\n', '7\n"plug"\n{}\t\n', "\xff\n"])
def test_a_journal_that_makes_no_sense(store, tmp_path, text):
    (tmp_path / "journal").write_text(text, "latin-1")
    with pytest.raises(StoreError, match=f"^{tmp_path}/journal: .*`vmnet-hook repair` moves it away"):
        store.journal()


def test_the_journal_of_an_older_version(tmp_path):
    """It was a table: of one killed before the upgrade."""
    Store(str(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE journal (id INTEGER PRIMARY KEY, what TEXT NOT NULL, have TEXT, want TEXT)")
        rows = [("plug d1", None, encode(OWN)), ("plug d1", encode(BEFORE), encode(VALUE))]
        db.executemany("INSERT INTO journal (what, have, want) VALUES (?, ?, ?)", rows)
        db.execute("PRAGMA user_version = 4")
    for _ in range(2):
        opened = Store(str(tmp_path))
        assert opened.journal() == ("plug d1", [Change(None, OWN), Change(BEFORE, VALUE)])
        opened.close()
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        assert not db.execute("SELECT * FROM journal").fetchall(), "its processes find it empty"


def test_a_commit_is_all_or_nothing(store):
    add(store, A, SHARED)
    with pytest.raises(AttributeError):
        store.commit([A.id], {B: [OWN.key]}, {OWN.key: None}, {})
    assert store.owners() == [A] and set(store.resources()) == {SHARED.key}


def test_phase(store):
    add(store, A, OWN)
    store.set_phase(A.id, "active")
    assert store.owners() == [replace(A, phase="active")]


def test_migration_is_remembered_once(store):
    assert not store.expected("u1")
    store.expect("u1")
    assert store.expected("u1") and not store.expected("u1")


def test_vlans_of_a_vif(store):
    for owner in (replace(A, vlan=10, tagged=(20, 30)), replace(B, vlan=None, tagged=())):
        add(store, owner, OWN)
    assert [(o.vlan, o.tagged) for o in store.owners()] == [(10, (20, 30)), (None, ())]
    add(store, A, OWN)
    assert [(o.vlan, o.tagged) for o in store.owners(id=A.id)] == [(None, None)]


def test_needs(store):
    store.commit([], {A: [OWN.key, "needs bridge:br0", "needs vlan:eth1.100"], B: ["needs bridge:br0"]}, {OWN.key: OWN}, {})
    assert store.needs(A.id) == ["bridge:br0", "vlan:eth1.100"] and store.needs(B.id) == ["bridge:br0"]
    assert store.claims(A.id) == {OWN.key: OWN}, "a need is no resource"
    assert store.claimed_elsewhere("needs bridge:br0", [A.id]) and not store.claimed_elsewhere("needs vlan:eth1.100", [A.id])
    store.forget(A.id)
    assert store.needs(A.id) == [] and store.owners() == [B]


ADOPTION = Adoption("eth0", "br0", ("192.0.2.1/24",), ("0.0.0.0/0 via 192.0.2.9 dev {dev} table 254 proto 3",), ipv6=True)
PART = Part(id="bridge:br0", name="br0", frontend="cli", since=3.0)
OWNERS = (
    A,
    B,
    PART,
    Part(id="vlan:eth1.100", name="eth1.100", frontend="auto", phase="leftover", since=4.0),
    DescribedNetwork(id="ifupdown:eth5/inet", name="eth5-inet", frontend="ifupdown", since=5.0),
    Preparation(id="u4/prepare", domain="d4", domain_id="u4", frontend="libvirt", phase="preparing", since=6.0),
)


def test_owners_of_every_kind(store):
    for owner in OWNERS:
        add(store, owner)
    assert tuple(store.owners()) == OWNERS and len({type(owner) for owner in OWNERS}) == 4
    assert store.nics() == [A, B] and store.nics(domain_id="u1") == [A] and store.nics(id=PART.id) == []
    assert tuple(store.parts()) == OWNERS[2:4] and store.parts(frontend="auto") == [OWNERS[3]]
    assert tuple(store.of_host()) == OWNERS[2:5]
    assert store.of_domain("", "u4") == [OWNERS[5]] and store.of_domain("d1", "") == [A]


def test_owners_of_the_host_are_found_without_a_look_at_every_nic(store):
    asked = []
    store._db.set_trace_callback(asked.append)
    store.parts(frontend="auto")
    store.of_host()
    store._db.set_trace_callback(None)
    for query in asked:
        (plan,) = (row[3] for row in store._db.execute(f"EXPLAIN QUERY PLAN {query}") if "owner" in row[3])
        assert plan.startswith("SEARCH owner USING INDEX owner_")
    assert len(asked) == 2


def test_who_uses_a_network(store):
    network = Part(id="network:public", name="public", frontend="cli")
    # A link may have the name of a network.
    add(store, Part(id="vlan:public", name="public", frontend="auto"))
    assert store.user("public", network.id, []) is None
    add(store, network)
    assert store.user("public", network.id, []) == network and network.user == "the node"
    add(store, A)
    assert store.user("public", network.id, [network.id]) == A and A.user == "d1"
    assert store.user("public", network.id, [network.id, A.id]) is None


@pytest.mark.parametrize(
    "pending",
    [
        Pending(12.5, False),
        Pending(1e6, True, {}, ["bridge:br0", "vlan:eth1.100"]),
        Pending(
            0.0,
            True,
            {
                PART: (
                    (Device("br0", "bridge", options=(("stp_state", "0"),)), ADOPTION, PortVlans("eth0", 0, "10-20")),
                    ["bond:b"],
                ),
                replace(B, vlan=3, tagged=(4, 5)): ((), []),
            },
            [],
        ),
    ],
    ids=["a guess", "added", "before"],
)
def test_what_waits_to_be_confirmed(pending, tmp_path):
    first = Store(str(tmp_path))
    assert first.pending() is None
    first.set_pending(Pending(1.0, False))
    first.set_pending(pending)
    first.close()
    second = Store(str(tmp_path))
    found = second.pending()
    assert (found.deadline, found.needs_word) == (pending.deadline, pending.needs_word)
    assert list(found.added) == list(pending.added)
    assert {o: (list(c), list(n)) for o, (c, n) in found.before.items()} == {
        o: (list(c), list(n)) for o, (c, n) in pending.before.items()
    }
    second.set_pending(None)
    assert second.pending() is None
    second.close()


def test_only_root_reads_the_records(tmp_path):
    Store(str(tmp_path / "run")).close()
    assert os.stat(tmp_path / "run").st_mode & 0o777 == 0o700


def test_the_lock_is_one_per_host(tmp_path, monkeypatch):
    monkeypatch.setattr(module.lock, "SECONDS", 0.05)
    one, two = Store(str(tmp_path)), Store(str(tmp_path))
    with one.lock():
        with pytest.raises(StoreError, match="held by another process for .* s; see `fuser"), two.lock():
            pass
    with two.lock():
        pass
    one.close()
    two.close()


def test_the_lock_dies_with_its_holder(tmp_path):
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[1]); from vmnet_hooks.records.store import Store; s = Store(sys.argv[2]);"
        "c = s.lock(); c.__enter__(); print('locked', flush=True); os.kill(os.getpid(), 9)"
    )
    root = os.path.dirname(os.path.dirname(module.__file__))
    done = subprocess.run([sys.executable, "-c", code, root, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "locked\n" and done.returncode == -9
    opened = Store(str(tmp_path))
    with opened.lock():
        pass
    opened.close()


@pytest.mark.parametrize("content", [b"rubbish" * 1000, b"SQLite format 3\0" + b"x" * 5000], ids=["text", "damaged"])
def test_broken_records(content, tmp_path):
    (tmp_path / "state.db").write_bytes(content)
    with pytest.raises(StoreError, match="state.db: .*; `vmnet-hook repair` moves it away"):
        Store(str(tmp_path))


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="run as root"):
        Store(str(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE owner SET addresses = '[1]'", "owner u1/m1"),
        ("UPDATE owner SET addresses = 'x'", "owner u1/m1"),
        ("UPDATE owner SET tagged = '{'", "owner u1/m1"),
        ('UPDATE resource SET want = \'{"kind": "alien"}\'', "a record"),
        ("UPDATE resource SET want = '7'", "a record"),
        ("INSERT INTO pending VALUES (1, '{}')", "the takeover that waits"),
        ("INSERT INTO pending VALUES (1, 'x')", "the takeover that waits"),
    ],
)
def test_rows_that_we_did_not_write(tmp_path, statement, what):
    """One line with the remedy."""
    with closing(Store(str(tmp_path))) as opened:
        add(opened, A, OWN)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute(statement)
    with (
        closing(Store(str(tmp_path))) as opened,
        pytest.raises(StoreError, match=f"{what}.* can't be read; `vmnet-hook repair` moves it away") as caught,
    ):
        opened.owners()
        opened.claims(A.id)
        opened.pending()
    assert "\n" not in str(caught.value)


def test_records_of_a_newer_version(tmp_path):
    Store(str(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 99")
        with pytest.raises(StoreError, match="of a newer vmnet-hooks"):
            Store(str(tmp_path))
        assert db.execute("PRAGMA user_version").fetchone() == (99,)


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_wall_clock_that_is_set(store, tmp_path, monkeypatch, jump):
    """Nothing expires, and nothing is kept for longer."""
    begin, wall = store.now(), time.time
    assert abs(begin - wall()) < 60, "older versions know the wall clock"
    store.expect("u1")
    monkeypatch.setattr(time, "time", lambda: wall() + jump)
    assert 0 <= Store(str(tmp_path)).now() - begin < 60
    assert store.expects("u1")
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + EXPECT_SECONDS + 1)
    assert not store.expects("u1")


def test_the_mark_of_an_older_version(store, tmp_path):
    """It is empty, and has its time in the file system."""
    mark = tmp_path / "incoming-u1"
    mark.touch()
    assert store.expects("u1")
    os.utime(mark, (time.time() - EXPECT_SECONDS - 60,) * 2)
    assert not store.expected("u1") and not mark.exists()


def test_a_clock_that_cant_be_kept(store, tmp_path):
    (tmp_path / "clock").mkdir()
    assert abs(store.now() - time.time()) < 60
