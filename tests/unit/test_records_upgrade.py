"""Records of an older version (see tests/netns/test_upgrade.py) are opened by this one, whatever happens meanwhile."""

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

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
print(sorted((o.id, len(s.claims(o.id)), s.needs(o.id)) for o in s.owners()), s.pending(), len(s.resources()))
"""


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_killed_in_the_middle_of_the_migration(tmp_path, path):
    """After each statement that the migration consists of: the next process opens the same records."""
    recorded = json.loads(path.read_text())
    number, ran = 0, None
    while ran is None or ran.returncode:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        with closing(sqlite3.connect(folder / "state.db")) as made:
            for statement in recorded["schema"]:
                made.execute(statement)
            for table, rows in recorded["rows"].items():
                for row in rows:
                    marks = ",".join("?" * len(row))
                    made.execute(f"INSERT INTO {table} ({','.join(row)}) VALUES ({marks})", list(row.values()))
            made.execute(f"PRAGMA application_id = {recorded['serial']}")
            # One before: the present version is migrated too, when it is the one that was recorded.
            made.execute(f"PRAGMA user_version = {recorded['version'] - 1}")
            made.commit()
        ran = subprocess.run([sys.executable, "-c", KILLER, str(ROOT), str(number), str(folder)], capture_output=True, text=True)
        assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
        opened = subprocess.run([sys.executable, "-c", READER, str(ROOT), str(folder)], capture_output=True, text=True)
        assert opened.returncode == 0, opened.stderr
        if number == 1:
            first = opened.stdout
        assert opened.stdout == first
    assert number > 5
