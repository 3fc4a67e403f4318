"""Records of an older version (see tests/netns/test_upgrade.py) are opened by this one, whatever happens meanwhile."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from vmnet_hooks.errors import StoreError
from vmnet_hooks.model.owner import DescribedNetwork, Nic, Part, Preparation
from vmnet_hooks.records import schema
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


def made(folder, path):
    """Put the records of an older version in a folder, as an upgrade finds them."""
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
        made(folder, path)
        ran = subprocess.run([sys.executable, "-c", KILLER, str(ROOT), str(number), str(folder)], capture_output=True, text=True)
        assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
        opened = subprocess.run([sys.executable, "-c", READER, str(ROOT), str(folder)], capture_output=True, text=True)
        assert opened.returncode == 0, opened.stderr
        if number == 1:
            first = opened.stdout
        assert opened.stdout == first
    assert number > 30


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
    after = rows(tmp_path)
    assert [{name: value for name, value in row.items() if name != "kind"} for row in after] == before
    assert [row["kind"] for row in after] == [next(o.kind for o in owners if o.id == row["id"]) for row in after]


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


class OlderProcess:
    """A process of the older version that still runs: it has the records open, and writes them as it did."""

    def __init__(self, folder, path):
        self.row = json.loads(path.read_text())["rows"]["owner"][0]
        self.database = sqlite3.connect(folder / "state.db", isolation_level=None)
        self.database.execute("SELECT * FROM owner").fetchall()

    def plug(self):
        row = self.row | {"id": "u9/m9", "domain": "dom9"}
        self.database.execute(f"INSERT INTO owner ({','.join(row)}) VALUES ({','.join('?' * len(row))})", list(row.values()))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_an_older_process_records_no_owner_without_a_kind(tmp_path, path):
    """It undoes what it has begun. An owner that no process of ours could read would keep every guest from starting."""
    made(tmp_path, path)
    older = OlderProcess(tmp_path, path)
    with closing(Store(str(tmp_path))) as opened:
        before = opened.owners()
        with pytest.raises(sqlite3.IntegrityError, match="owner.kind"):
            older.plug()
        assert opened.owners() == before


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_an_older_process_opened_them_after_us(tmp_path, path):
    """It makes what tables it misses, and writes its own version: the next process of ours takes them over again."""
    made(tmp_path, path)
    with closing(Store(str(tmp_path))) as opened:
        before = opened.owners()
    with closing(sqlite3.connect(tmp_path / "state.db")) as older:
        for statement in json.loads(path.read_text())["schema"]:
            older.execute(statement.replace("TABLE ", "TABLE IF NOT EXISTS ", 1).replace("INDEX ", "INDEX IF NOT EXISTS ", 1))
        older.execute("PRAGMA user_version = 5")
    with closing(Store(str(tmp_path))) as opened:
        assert opened.owners() == before
    names = {row["name"] for row in rows(tmp_path, "sqlite_master")}
    assert "owner_kind" in names and "owner_frontend" not in names


def test_the_migration_fails(tmp_path, monkeypatch):
    """What it has begun is taken back; once the cause is gone, the records are taken over."""
    path = RECORDED[0]
    made(tmp_path, path)
    before = rows(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(schema, "TABLES", schema.TABLES + ";CREATE TABLE owner (id TEXT)")
        with pytest.raises(StoreError, match="owner already exists"):
            Store(str(tmp_path))
    assert rows(tmp_path) == before
    with closing(Store(str(tmp_path))) as opened:
        assert len(opened.owners()) == len(before)
