"""The tables of the records. Those of an older version are brought up to date while guests run: the package is upgraded then."""

import os
import sqlite3
from collections.abc import Callable, Iterable

from .store import VERSION

TABLES = """
CREATE TABLE IF NOT EXISTS owner (
    id TEXT PRIMARY KEY, domain TEXT NOT NULL, domain_id TEXT NOT NULL, ifname TEXT NOT NULL, ifindex INTEGER NOT NULL,
    mac TEXT NOT NULL, network TEXT NOT NULL, frontend TEXT NOT NULL, phase TEXT NOT NULL, addresses TEXT NOT NULL,
    filter INTEGER NOT NULL, since REAL NOT NULL, vlan INTEGER, tagged TEXT, mtu INTEGER, metric INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS owner_domain ON owner (domain_id);
CREATE INDEX IF NOT EXISTS owner_name ON owner (domain);
CREATE INDEX IF NOT EXISTS owner_frontend ON owner (frontend);
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
CREATE TABLE IF NOT EXISTS pending (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL);
"""

_LATER = {
    "owner": (("vlan", "INTEGER"), ("tagged", "TEXT"), ("mtu", "INTEGER"), ("metric", "INTEGER NOT NULL DEFAULT 0")),
    "resource": (("owner", "TEXT"),),
}
"""Columns that older versions did not have, by table."""


Rows = Iterable[tuple[str | None, str | None]]


def migrate(database: sqlite3.Connection, write_journal: Callable[[int, str, Rows], None]) -> None:
    """Make the tables, or bring those of an older version up to date. Call it with the lock held and no transaction open.

    `write_journal(serial, what, changes)` writes the journal file: older versions kept the journal in a table.
    Raises sqlite3.Error, and what `write_journal` raises."""
    for table, columns in _LATER.items():
        there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for name, kind in columns:
            if there and name not in there:
                database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    # The first serial is random: the journal of an earlier database, left in the directory, must not match.
    serial = database.execute("PRAGMA application_id").fetchone()[0] or int.from_bytes(os.urandom(4)) >> 2
    leave = ""
    if database.execute("PRAGMA table_info(journal)").fetchall():
        # Processes of the older version that still run find the table there, empty.
        rows = database.execute("SELECT what, have, want FROM journal ORDER BY id").fetchall()
        if rows:
            write_journal(serial + 1, rows[0][0], [(have, want) for _, have, want in rows])
        leave = "DELETE FROM journal;"
    # One transaction: a process that is killed here leaves either all tables or none.
    database.executescript(f"BEGIN; {TABLES} {leave} PRAGMA application_id = {serial}; PRAGMA user_version = {VERSION}; COMMIT")
