"""The tables of the records. Those of an older version are brought up to date while guests run: the package is upgraded then."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator

from ..model.owner import ASKED_FOR, NEEDED
from .store import VERSION

_OWNER = """(
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, domain TEXT NOT NULL, domain_id TEXT NOT NULL, ifname TEXT NOT NULL,
    ifindex INTEGER NOT NULL, mac TEXT NOT NULL, network TEXT NOT NULL, frontend TEXT NOT NULL, phase TEXT NOT NULL,
    addresses TEXT NOT NULL, filter INTEGER NOT NULL, since REAL NOT NULL, vlan INTEGER, tagged TEXT, mtu INTEGER,
    metric INTEGER NOT NULL DEFAULT 0)"""

TABLES = f"""
CREATE TABLE IF NOT EXISTS owner {_OWNER};
CREATE INDEX IF NOT EXISTS owner_domain ON owner (domain_id);
CREATE INDEX IF NOT EXISTS owner_name ON owner (domain);
CREATE INDEX IF NOT EXISTS owner_kind ON owner (kind) WHERE kind <> 'nic';
DROP INDEX IF EXISTS owner_frontend;
CREATE INDEX IF NOT EXISTS owner_ifname ON owner (ifname);
CREATE INDEX IF NOT EXISTS owner_mac ON owner (network, mac);
CREATE TABLE IF NOT EXISTS address (
    network TEXT, address TEXT, owner TEXT, PRIMARY KEY (network, address, owner)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS address_owner ON address (owner);
CREATE TABLE IF NOT EXISTS resource (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, want TEXT NOT NULL, original TEXT, owner TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS resource_owner ON resource (owner) WHERE owner IS NOT NULL;
CREATE INDEX IF NOT EXISTS resource_address ON resource (substr(key, 6 + instr(substr(key, 6), ' '))) WHERE kind = 'address';
CREATE TABLE IF NOT EXISTS claim (owner TEXT, key TEXT, PRIMARY KEY (owner, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claim_key ON claim (key);
CREATE TABLE IF NOT EXISTS bundle (id TEXT, key TEXT, PRIMARY KEY (id, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS bundle_key ON bundle (key);
CREATE INDEX IF NOT EXISTS resource_route ON resource (json_extract(want, '$.dev')) WHERE kind = 'route';
CREATE TABLE IF NOT EXISTS pending (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL)
"""

# Before version 6 the kind of an owner showed in what it did not have.
_KIND = f"""CASE WHEN ifname <> '' THEN 'nic' WHEN domain <> '' THEN 'preparation'
    WHEN frontend IN ('{ASKED_FOR}', '{NEEDED}') THEN 'part' ELSE 'network' END"""

Rows = Iterable[tuple[str | None, str | None]]


def migrate(database: sqlite3.Connection, write_journal: Callable[[int, str, Rows], None]) -> None:
    """Make the tables, or bring those of an older version up to date. Call it with the lock held and no transaction open.

    `write_journal(serial, what, changes)` writes the journal file: older versions kept the journal in a table.
    Raises sqlite3.Error, and what `write_journal` raises."""
    # The first serial is random: the journal of an earlier database, left in the directory, must not match.
    serial = database.execute("PRAGMA application_id").fetchone()[0] or int.from_bytes(os.urandom(4)) >> 2
    # One transaction: a process that is killed here leaves either all tables or none.
    database.execute("BEGIN IMMEDIATE")
    try:
        for statement in (*_brought_up(database), *TABLES.split(";")):
            database.execute(statement)
        if _columns(database, "journal"):
            # Processes of the older version that still run find the table there, empty.
            rows = database.execute("SELECT what, have, want FROM journal ORDER BY id").fetchall()
            if rows:
                write_journal(serial + 1, rows[0][0], [(have, want) for _, have, want in rows])
            database.execute("DELETE FROM journal")
        for (value,) in database.execute("SELECT value FROM pending").fetchall():
            database.execute("UPDATE pending SET value = ?", (_with_kinds(value),))
        database.execute(f"PRAGMA application_id = {serial}")
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _brought_up(database: sqlite3.Connection) -> Iterator[str]:
    """Yield the statements that give tables of an older version the columns that they lack."""
    owner, resource = _columns(database, "owner"), _columns(database, "resource")
    if owner and "kind" not in owner:
        # Made anew: a process of an older version that still runs can't write a row that has no kind.
        names = ", ".join(owner)
        yield f"CREATE TABLE owner_made_anew {_OWNER}"
        yield f"INSERT INTO owner_made_anew ({names}, kind) SELECT {names}, {_KIND} FROM owner"
        yield "DROP TABLE owner"
        yield "ALTER TABLE owner_made_anew RENAME TO owner"
    if resource and "owner" not in resource:
        yield "ALTER TABLE resource ADD COLUMN owner TEXT"


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    """Return the names of a table's columns; [] if there is no such table."""
    return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]


def _with_kinds(pending: str) -> str:
    """Return a takeover that waits, with the kind of each of its owners, which are the host's own."""
    value = json.loads(pending)
    for row, _, _ in value["before"]:
        row.setdefault("kind", "part" if row["frontend"] in (ASKED_FOR, NEEDED) else "network")
    return json.dumps(value)
