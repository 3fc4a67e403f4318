"""The records under /run/vmnet-hooks: what was set up for which vif, what was found before, and the one lock.

An owner (a vif, or a network that was brought up alone) *claims* resources by key; a resource that no owner claims any more
is taken away. The journal holds the changes under way: whoever takes the
lock next undoes what a killed process left half-done.
"""

import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

from .domain import Owner
from .errors import StoreError
from .plan import Change, Plan
from .state import NftElement, Resource, decode, encode
from .transaction import Pending

DIRECTORY = "/run/vmnet-hooks"
LOCK_SECONDS = 30.0
"""libvirt waits for a hook for ever, xl kills it after 40 s: give up before."""

EXPECT_SECONDS = 600.0
"""How long after `migrate` a domain may come in: an offline migration has no other call."""

_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS owner (
    id TEXT PRIMARY KEY, domain TEXT NOT NULL, domain_id TEXT NOT NULL, ifname TEXT NOT NULL, ifindex INTEGER NOT NULL,
    mac TEXT NOT NULL, network TEXT NOT NULL, frontend TEXT NOT NULL, phase TEXT NOT NULL, addresses TEXT NOT NULL,
    filter INTEGER NOT NULL, since REAL NOT NULL, vlan INTEGER, tagged TEXT, mtu INTEGER, metric INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS owner_domain ON owner (domain_id);
CREATE INDEX IF NOT EXISTS owner_ifname ON owner (ifname);
CREATE INDEX IF NOT EXISTS owner_mac ON owner (network, mac);
CREATE TABLE IF NOT EXISTS address (
    network TEXT, address TEXT, owner TEXT, PRIMARY KEY (network, address, owner)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS address_owner ON address (owner);
CREATE TABLE IF NOT EXISTS resource (
    key TEXT PRIMARY KEY, kind TEXT NOT NULL, want TEXT NOT NULL, original TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claim (owner TEXT, key TEXT, PRIMARY KEY (owner, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claim_key ON claim (key);
CREATE TABLE IF NOT EXISTS pending (id INTEGER PRIMARY KEY CHECK (id = 1), value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, what TEXT NOT NULL, have TEXT, want TEXT);
"""


class Store:
    """The records. Every method but `lock` and the readers must be called with the lock held."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self.directory = directory
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._db = sqlite3.connect(f"{directory}/state.db", timeout=LOCK_SECONDS, isolation_level=None)
            # A tmpfs: there is nothing to sync to.
            self._db.execute("PRAGMA synchronous = OFF")
            if self._db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                with self.lock():
                    self._migrate()
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}; it must be writable, run as root") from None
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def _migrate(self) -> None:
        """Makes the tables, or brings those of an older version up to date: guests run while the package is upgraded."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(owner)")}
        for name, kind in (("vlan", "INTEGER"), ("tagged", "TEXT"), ("mtu", "INTEGER"), ("metric", "INTEGER NOT NULL DEFAULT 0")):
            if columns and name not in columns:
                self._db.execute(f"ALTER TABLE owner ADD COLUMN {name} {kind}")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        self._db.close()

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> StoreError:
        remedy = "is there room, and may we write?"
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            remedy = "move it away, then restart libvirtd, or `vmnet-hook start` every guest again"
        return StoreError(f"{self.directory}/state.db: {error}; {remedy}")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The one lock of this host. Raises StoreError if it is not free within LOCK_SECONDS."""
        try:
            fd = os.open(f"{self.directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{self.directory}/lock: {error.strerror}; it must be writable, run as root") from None
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        path = f"{self.directory}/lock"
                        raise StoreError(
                            f"{path}: held by another process for {LOCK_SECONDS:.0f} s; see `fuser {path}`"
                        ) from None
                    time.sleep(0.002)
            yield
        except sqlite3.Error as error:
            raise self._broken(error) from None
        finally:
            os.close(fd)

    # --- reading ---------------------------------------------------------------------------------------------------

    def owners(self, **match: str) -> list[Owner]:
        """The owners whose columns equal `match`, oldest first."""
        where = " AND ".join(f"{column} = ?" for column in match) or "1"
        rows = self._query(f"SELECT * FROM owner WHERE {where} ORDER BY since, id", tuple(match.values()))
        return [_owner(row) for row in rows]

    def of_domain(self, name: str, uuid: str, ifname: str = "") -> list[Owner]:
        """The owners of a domain, by UUID if it has one, else by name; of one tap of it, or of a tap alone."""
        match = {"domain_id": uuid} if uuid else {"domain": name} if name else {}
        if ifname:
            match["ifname"] = ifname
        return self.owners(**match) if match else []

    def neighbour(self, network: str, but: Iterable[str]) -> Owner | None:
        """Some other owner on a network."""
        excluded = list(but)
        marks = ",".join("?" * len(excluded))
        rows = self._query(f"SELECT * FROM owner WHERE network = ? AND id NOT IN ({marks}) LIMIT 1", (network, *excluded))
        return _owner(rows[0]) if rows else None

    def holder(self, network: str, address: str, but: Iterable[str]) -> Owner | None:
        """Who else holds an address of a network."""
        rows = self._query(
            "SELECT owner.* FROM address JOIN owner ON owner.id = owner WHERE address.network = ? AND address = ?",
            (network, address),
        )
        return _first_other(rows, but)

    def holder_of_mac(self, network: str, mac: str, but: Iterable[str]) -> Owner | None:
        """Who else has a NIC with that MAC on a network."""
        return _first_other(self._query("SELECT * FROM owner WHERE network = ? AND mac = ?", (network, mac)), but)

    def claimants(self, start: str, end: str) -> list[tuple[Resource, Owner]]:
        """What is claimed under keys that start and end so, each with who claims it."""
        rows = self._query(
            "SELECT want, owner.* FROM resource JOIN claim ON claim.key = resource.key JOIN owner ON owner.id = claim.owner "
            "WHERE resource.key >= ? AND resource.key < ? AND resource.key LIKE ?",
            (start, f"{start}\x7f", f"%{end}"),
        )
        return [(_decoded(row[0]), _owner(row[1:])) for row in rows]

    def claims(self, owner: str) -> dict[str, Resource]:
        """What an owner claims, by key."""
        rows = self._query("SELECT key, want FROM resource WHERE key IN (SELECT key FROM claim WHERE owner = ?)", (owner,))
        return {key: _decoded(want) for key, want in rows}

    def needs(self, owner: str) -> list[str]:
        """Ids of the owners that must be there for an owner."""
        rows = self._query("SELECT key FROM claim WHERE owner = ? AND key LIKE 'needs %' ORDER BY key", (owner,))
        return [key.removeprefix("needs ") for (key,) in rows]

    def needing(self, owner: str) -> list[Owner]:
        """The owners that need an owner."""
        rows = self._query("SELECT * FROM owner WHERE id IN (SELECT owner FROM claim WHERE key = ?)", (f"needs {owner}",))
        return [_owner(row) for row in rows]

    def claimed_elsewhere(self, key: str, owners: Sequence[str]) -> bool:
        """Whether anybody but `owners` claims a key."""
        marks = ",".join("?" * len(owners))
        query = f"SELECT 1 FROM claim WHERE key = ? AND owner NOT IN ({marks}) LIMIT 1"
        return self._query(query, (key, *owners)) != []

    def recorded(self, key: str) -> tuple[Resource, Resource | None] | None:
        """What we put at a key, and what was there before; None if nobody claims it."""
        rows = self._query("SELECT want, original FROM resource WHERE key = ?", (key,))
        return (_decoded(rows[0][0]), decode(rows[0][1])) if rows else None

    def resources(self) -> dict[str, Resource]:
        """Everything that anybody claims."""
        return {key: _decoded(want) for key, want in self._query("SELECT key, want FROM resource")}

    def elements(self, family: str) -> dict[str, Resource]:
        """Every claimed element of our nft table of one family."""
        rows = self._query("SELECT key, want FROM resource WHERE kind = 'nft-element'")
        found = {key: _decoded(want) for key, want in rows}
        return {key: r for key, r in found.items() if isinstance(r, NftElement) and r.family == family}

    # --- the journal -----------------------------------------------------------------------------------------------

    def journal(self) -> tuple[str, list[Change]]:
        """What was under way ("" if nothing) and its changes."""
        rows = self._query("SELECT what, have, want FROM journal ORDER BY id")
        return (rows[0][0] if rows else ""), [Change(decode(have), decode(want)) for _, have, want in rows]

    def open_journal(self, what: str, plan: Plan) -> None:
        with self._transaction():
            self._db.executemany(
                "INSERT INTO journal (what, have, want) VALUES (?, ?, ?)",
                [(what, encode(change.have), encode(change.want)) for change in plan],
            )

    def close_journal(self) -> None:
        self._db.execute("DELETE FROM journal")

    # --- changing --------------------------------------------------------------------------------------------------

    def commit(
        self,
        drop: Iterable[str],
        add: Mapping[Owner, Iterable[str]],
        wants: Mapping[str, Resource],
        originals: Mapping[str, Resource | None],
    ) -> None:
        """In one transaction: forgets the owners `drop`, records the owners `add` with the keys that they claim, and
        closes the journal. `wants` are the resources by key, `originals` what was found at keys that were unclaimed."""
        with self._transaction():
            for name in drop:
                self._forget(name)
            for owner, keys in add.items():
                self._forget(owner.id)
                row = _row(owner)
                marks = ",".join(f":{column}" for column in row)
                self._db.execute(f"INSERT INTO owner ({','.join(row)}) VALUES ({marks})", row)
                self._db.executemany(
                    "INSERT INTO address VALUES (?, ?, ?)", [(owner.network, a, owner.id) for a in owner.addresses]
                )
                self._db.executemany("INSERT INTO claim VALUES (?, ?)", [(owner.id, key) for key in keys])
            for key, want in wants.items():
                self._db.execute(
                    "INSERT INTO resource VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET want = excluded.want",
                    (key, want.kind, encode(want), encode(originals.get(key))),
                )
            self._db.execute("DELETE FROM journal")
            self._sweep()

    def forget(self, owner: str, keep: Iterable[str] = ()) -> None:
        """Forgets an owner. Keys in `keep` could not be cleaned up: they stay, under the owner in phase leftover."""
        kept = list(keep)
        with self._transaction():
            if kept:
                self._db.execute("UPDATE owner SET phase = 'leftover' WHERE id = ?", (owner,))
                self._db.execute("DELETE FROM address WHERE owner = ?", (owner,))
                marks = ",".join("?" * len(kept))
                released = f"FROM claim WHERE owner = ? AND key NOT IN ({marks})"
                self._db.execute(f"INSERT INTO temp.unclaimed SELECT key {released}", (owner, *kept))
                self._db.execute(f"DELETE {released}", (owner, *kept))
            else:
                self._forget(owner)
            self._db.execute("DELETE FROM journal")
            self._sweep()

    def set_phase(self, owner: str, phase: str) -> None:
        self._db.execute("UPDATE owner SET phase = ? WHERE id = ?", (phase, owner))

    def set_frontend(self, owner: str, frontend: str) -> None:
        self._db.execute("UPDATE owner SET frontend = ? WHERE id = ?", (frontend, owner))

    # --- takeovers that wait to be confirmed ----------------------------------------------------------------------------

    def pending(self) -> Pending | None:
        """The takeover that waits, if one does."""
        rows = self._query("SELECT value FROM pending")
        if not rows:
            return None
        value = json.loads(rows[0][0])
        before = {
            _owner(tuple(row.values())): (tuple(_decoded(line) for line in claims), needs)
            for row, claims, needs in value.pop("before")
        }
        originals = {key: decode(line) for key, line in value.pop("originals").items()}
        return Pending(**value, before=before, originals=originals)

    def set_pending(self, pending: Pending | None) -> None:
        self._db.execute("DELETE FROM pending")
        if pending:
            before = [
                (_row(owner), [encode(resource) for resource in claims], list(needs))
                for owner, (claims, needs) in pending.before.items()
            ]
            value = {
                "deadline": pending.deadline,
                "needs_word": pending.needs_word,
                "added": list(pending.added),
                "before": before,
                "originals": {key: encode(found) for key, found in pending.originals.items()},
            }
            self._db.execute("INSERT INTO pending VALUES (1, ?)", (json.dumps(value),))

    # --- live migration --------------------------------------------------------------------------------------------

    def expect(self, uuid: str) -> None:
        """Remembers that a domain is about to come in by live migration. Needs no lock."""
        with open(f"{self.directory}/incoming-{uuid}", "w"):
            pass

    def expected(self, uuid: str) -> bool:
        """Whether a domain came in by live migration; answers once."""
        path = f"{self.directory}/incoming-{uuid}"
        try:
            # An offline migration, or one that another hook refused, leaves it behind: `started` follows within seconds.
            fresh = time.time() - os.stat(path).st_mtime < EXPECT_SECONDS
            os.unlink(path)
        except OSError:
            return False
        return fresh

    def _forget(self, owner: str) -> None:
        self._db.execute("INSERT INTO temp.unclaimed SELECT key FROM claim WHERE owner = ?", (owner,))
        for table, column in (("claim", "owner"), ("address", "owner"), ("owner", "id")):
            self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (owner,))

    def _sweep(self) -> None:
        # Only keys that this transaction released: never a scan over every guest's.
        self._db.execute(
            "DELETE FROM resource WHERE key IN (SELECT key FROM temp.unclaimed) "
            "AND NOT EXISTS (SELECT 1 FROM claim WHERE claim.key = resource.key)"
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS unclaimed (key TEXT)")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("DELETE FROM temp.unclaimed")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _row(owner: Owner) -> dict[str, object]:
    tagged = None if owner.tagged is None else json.dumps(owner.tagged)
    return asdict(owner) | {"addresses": json.dumps(owner.addresses), "filter": int(owner.filter), "tagged": tagged}


def _owner(row: Sequence) -> Owner:
    *head, addresses, has_filter, since, vlan, tagged, mtu, metric = row
    return replace(
        Owner(*head),
        addresses=tuple(json.loads(addresses)),
        filter=bool(has_filter),
        since=since,
        vlan=vlan,
        tagged=None if tagged is None else tuple(json.loads(tagged)),
        mtu=mtu,
        metric=metric,
    )


def _first_other(rows: Iterable[Sequence], but: Iterable[str]) -> Owner | None:
    excluded = set(but)
    return next((owner for owner in map(_owner, rows) if owner.id not in excluded), None)


def _decoded(line: str) -> Resource:
    resource = decode(line)
    assert resource is not None
    return resource
