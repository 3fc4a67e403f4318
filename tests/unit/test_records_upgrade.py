"""Records of an older version (see tests/netns/test_upgrade.py) are opened by this one, whatever happens meanwhile."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from vmnet_hooks.errors import StoreError
from vmnet_hooks.model.guest import Domain, Vif
from vmnet_hooks.model.objects import Route
from vmnet_hooks.model.objects.bridge import PortVlans
from vmnet_hooks.model.owner import DescribedNetwork, Nic, Part, Preparation
from vmnet_hooks.records import decode, encode, schema
from vmnet_hooks.records.store import Store

ROOT = Path(__file__).resolve().parents[2]
RECORDED = sorted((ROOT / "tests/records").glob("*.json"))

KILLER = """
import os, sqlite3, sys
sys.path.insert(0, sys.argv[1])
number = int(sys.argv[2])
real, counted = sqlite3.connect, 0

class Connection(sqlite3.Connection):
    def count(self):
        global counted
        counted += 1
        if counted == number:
            os.kill(os.getpid(), 9)

    def execute(self, *words):
        self.count()
        return super().execute(*words)

    def executescript(self, script):
        # Statement by statement, so that the process can die between any two.
        for statement in script.split(";"):
            self.execute(statement)

sqlite3.connect = lambda *words, **options: real(*words, **options, factory=Connection)
from vmnet_hooks.records.store import Store
Store(sys.argv[3]).close()
print(counted)
"""


READER = """
import sys
sys.path.insert(0, sys.argv[1])
from vmnet_hooks.records.store import Store
s = Store(sys.argv[2])
print(sorted((repr(o), len(s.claims(o.id)), s.needs(o.id)) for o in s.owners()), s.pending(), len(s.resources()))
"""


def made(folder, path, older=False):
    """Put the records of an older version in a folder, as an upgrade finds them. `older`: in the tables that version 3 had, which
    are migrated."""
    recorded = json.loads(path.read_text())
    with closing(sqlite3.connect(folder / "state.db")) as database:
        for statement in recorded["schema"]:
            database.execute(statement)
        for table, rows in recorded["rows"].items():
            for row in rows:
                marks = ",".join("?" * len(row))
                database.execute(f"INSERT INTO {table} ({','.join(row)}) VALUES ({marks})", list(row.values()))
        database.execute(f"PRAGMA application_id = {recorded['serial']}")
        database.execute(f"PRAGMA user_version = {recorded['version']}")
        database.commit()
        if older:
            for statement in OLDER:
                database.execute(statement)
            database.commit()


OLDER = (
    *(f"DROP INDEX {name}" for name in ("resource_owner", "resource_address", "owner_name", "bundle_key")),
    "INSERT OR IGNORE INTO claim SELECT owner, key FROM resource WHERE owner IS NOT NULL",
    "INSERT OR IGNORE INTO claim SELECT claim.owner, bundle.key FROM claim JOIN bundle ON bundle.id = claim.key",
    "DELETE FROM claim WHERE key LIKE '@%'",
    "ALTER TABLE owner DROP COLUMN metric",
    "ALTER TABLE resource DROP COLUMN owner",
    "DROP TABLE bundle",
    "PRAGMA user_version = 3",
)


def rows(folder, table="owner"):
    with closing(sqlite3.connect(folder / "state.db")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY 1")]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_killed_in_the_middle_of_the_migration(tmp_path, path):
    """After each statement that the migration consists of: the next process opens the same records."""
    number, ran = 0, None
    while ran is None or ran.returncode:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        made(folder, path, older=True)
        ran = subprocess.run([sys.executable, "-c", KILLER, str(ROOT), str(number), str(folder)], capture_output=True, text=True)
        assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
        opened = subprocess.run([sys.executable, "-c", READER, str(ROOT), str(folder)], capture_output=True, text=True)
        assert opened.returncode == 0, opened.stderr
        if number == 1:
            first = opened.stdout
        assert opened.stdout == first
    assert number > 20


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_owner_has_its_kind(tmp_path, path):
    made(tmp_path, path)
    before = rows(tmp_path)
    with closing(Store(str(tmp_path))) as opened:
        owners, pending = opened.owners(), opened.pending()
    assert {owner.id: type(owner) for owner in owners} == {
        row["id"]: next(kind for start, kind in IDS.items() if re.match(start, row["id"])) for row in before
    }
    assert pending is not None and pending.added == ["bridge:xenbr0"]
    assert rows(tmp_path) == before


IDS = {r"bridge:": Part, r"ifupdown:": DescribedNetwork, r".*/prepare$": Preparation, r"[^/]*/": Nic}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_takeover_that_changes_a_part(tmp_path, path):
    """What it put down of a part from before comes back as that part."""
    made(tmp_path, path)
    with closing(sqlite3.connect(tmp_path / "state.db")) as database:
        (value,) = database.execute("SELECT value FROM pending").fetchone()
        database.row_factory = sqlite3.Row
        row = dict(database.execute("SELECT * FROM owner WHERE id = 'bridge:xenbr0'").fetchone())
        database.execute("UPDATE pending SET value = ?", (json.dumps(json.loads(value) | {"before": [[row, [], []]]}),))
        database.commit()
    for _ in range(2):
        with closing(Store(str(tmp_path))) as opened:
            pending = opened.pending()
            assert pending is not None
            assert pending.before == {owner: ((), []) for owner in opened.parts(id="bridge:xenbr0")}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_an_older_process_goes_on(tmp_path, path):
    """An agent, the guard of a takeover, or one that waits for a guest, of the older version: it has the records open, takes a
    row for an owner by the order of its columns, and writes them as it did."""
    made(tmp_path, path)
    row = json.loads(path.read_text())["rows"]["owner"][0]
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as older:
        older.execute("SELECT * FROM owner").fetchall()
        with closing(Store(str(tmp_path))) as opened:
            mine = Nic.of(Domain("dom8", "u8"), Vif("m8", "tap8"), "public", "libvirt", 8, 1.0)
            opened.commit((), {mine: []}, {}, {})
            pending = opened.pending()
            assert pending is not None
            opened.set_pending(replace(pending, before={part: ((), []) for part in opened.parts(id="bridge:xenbr0")}))
            found = older.execute("SELECT * FROM owner WHERE id = ?", (mine.id,))
            assert [column[0] for column in found.description] == list(row)
            assert found.fetchone()[:5] == (mine.id, "dom8", "u8", "tap8", 8)
            ((owner, _, _),) = json.loads(older.execute("SELECT value FROM pending").fetchone()[0])["before"]
            assert list(owner) == list(row)
            theirs = row | {"id": "u9/m9", "domain": "dom9"}
            older.execute(f"INSERT INTO owner ({','.join(row)}) VALUES ({','.join('?' * len(row))})", list(theirs.values()))
            assert [nic.domain for nic in opened.nics(id="u9/m9")] == ["dom9"]


def test_the_migration_fails(tmp_path, monkeypatch):
    """No owner is lost; once the cause is gone, the records are taken over."""
    path = RECORDED[0]
    made(tmp_path, path, older=True)
    before = rows(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(schema, "TABLES", schema.TABLES + ";CREATE TABLE owner (id TEXT)")
        with pytest.raises(StoreError, match="owner already exists"):
            Store(str(tmp_path))
    assert [row | {"metric": None} for row in rows(tmp_path)] == [row | {"metric": None} for row in before]
    with closing(Store(str(tmp_path))) as opened:
        assert len(opened.owners()) == len(before)


def test_what_the_first_release_could_not_say_is_left_out_while_it_is_empty():
    """Its processes (an agent, a guard) read and write the same rows while the package is upgraded."""
    route, ports = Route(254, "10.0.0.0/8", "br0", "192.0.2.1"), PortVlans("eth0", 0, "10")
    assert json.loads(encode(route)).keys() == {"kind", "table", "dst", "dev", "via", "proto", "src", "metric"}
    assert json.loads(encode(ports)).keys() == {"kind", "ifname", "untagged", "tagged", "own"}
    for resource in (route, ports, replace(route, mtu=1400), replace(ports, adopted=True)):
        assert vars(decode(encode(resource)))["line"] == encode(resource) and decode(encode(resource)) == resource
    assert decode(encode(replace(route, mtu=1400))).mtu == 1400 and decode(encode(replace(ports, adopted=True))).adopted
