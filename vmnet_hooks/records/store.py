"""The records under /run/vmnet-hooks: what was set up for which vif, what was found before, and the one lock.

An owner (a vif, or a network that was brought up alone) *claims* resources by key; a resource that no owner claims any more
is taken away. Whoever is the first to claim one is named beside it; what was there already, guests claim in a bundle: all of one
network claim the same, and one row says so, not one a key, each of them on another page of the file. The journal, a file beside
it, holds the changes under way: whoever takes the lock next undoes what a killed process left half-done.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

from ..errors import StoreError
from ..model.encoding import decode, encode
from ..model.objects import NftElement
from ..model.owner import Owner
from ..model.plan import Change, Plan
from ..model.resource import Resource
from .journal import Journal
from .pending import Pending

DIRECTORY = "/run/vmnet-hooks"
LOCK_SECONDS = 30.0
"""libvirt waits for a hook for ever, xl kills it after 40 s: give up before."""

EXPECT_SECONDS = 600.0
"""How long after `migrate` a domain may come in: an offline migration has no other call."""

_VERSION = 5
_SCHEMA = """
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

# The keys that owner ?1 claims: alone, one by one, in bundles.
_ALONE = "SELECT key FROM resource WHERE owner = ?1"
_SHARED = (
    "SELECT key FROM claim WHERE owner = ?1 AND key NOT LIKE '@%' UNION "
    "SELECT bundle.key FROM claim JOIN bundle ON bundle.id = claim.key WHERE claim.owner = ?1"
)
# Who claims the key ?1.
_CLAIMANTS = (
    "SELECT owner FROM resource WHERE key = ?1 AND owner IS NOT NULL UNION SELECT owner FROM claim WHERE key = ?1 UNION "
    "SELECT claim.owner FROM bundle JOIN claim ON claim.key = bundle.id WHERE bundle.key = ?1"
)
# Whether anybody claims a resource who is not named beside it.
_CLAIMED = (
    "(EXISTS (SELECT 1 FROM claim WHERE claim.key = resource.key) OR EXISTS "
    "(SELECT 1 FROM bundle JOIN claim ON claim.key = bundle.id WHERE bundle.key = resource.key))"
)


def identity(directory: str = DIRECTORY) -> object:
    """What tells one file of records from another that took its place; None if there is none."""
    try:
        return identity_of(os.stat(f"{directory}/state.db"))
    except OSError:
        return None


def identity_of(found: os.stat_result) -> object:
    return found.st_dev, found.st_ino


class Store:
    """The records. Every method but `lock` and the readers must be called with the lock held."""

    def __init__(self, directory: str = DIRECTORY) -> None:
        self.directory = directory
        self._journal = Journal(directory)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            path = f"{directory}/state.db"
            self._db = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
            # A tmpfs: there is nothing to sync to. The journal of a change is overwritten, not made and removed each time.
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute("PRAGMA journal_mode = PERSIST")
            if self._db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                with self.lock():
                    self._migrate()
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}; it must be writable, run as root") from None
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def _migrate(self) -> None:
        """Makes the tables, or brings those of an older version up to date: guests run while the package is upgraded."""
        self._settle()
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(owner)")}
        for name, kind in (("vlan", "INTEGER"), ("tagged", "TEXT"), ("mtu", "INTEGER"), ("metric", "INTEGER NOT NULL DEFAULT 0")):
            if columns and name not in columns:
                self._db.execute(f"ALTER TABLE owner ADD COLUMN {name} {kind}")
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(resource)")}
        if columns and "owner" not in columns:
            self._db.execute("ALTER TABLE resource ADD COLUMN owner TEXT")
        # Journals of other records, which were here before, have other numbers.
        done = self._recorded() or int.from_bytes(os.urandom(4)) >> 2
        leave = ""
        if self._db.execute("PRAGMA table_info(journal)").fetchall():
            # It was a table once. Processes of that version that still run find it there, empty.
            rows = self._query("SELECT what, have, want FROM journal ORDER BY id")
            if rows:
                self._journal.write(done + 1, rows[0][0], [row[1:] for row in rows])
            leave = "DELETE FROM journal;"
        # At once: whoever is killed here leaves no half of them.
        self._db.executescript(
            f"BEGIN; {_SCHEMA} {leave} PRAGMA application_id = {done}; PRAGMA user_version = {_VERSION}; COMMIT"
        )

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
            with self.reading():
                yield
        finally:
            os.close(fd)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One look at the file for all that is read. Without the lock, whoever wants to write waits meanwhile."""
        try:
            self._db.execute("BEGIN")
            yield
        except sqlite3.Error as error:
            raise self._broken(error) from None
        finally:
            with suppress(sqlite3.Error):
                self._settle()

    def _settle(self) -> None:
        """Ends the reading: what is written from here on is there at once, for whoever comes after a kill."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def _writing(self, _ids: Collection[str]) -> AbstractContextManager[None]:
        """Around all that is written of owners; a subclass may tell somebody."""
        return nullcontext()

    def _write(self, sql: str, values: Sequence[object] = ()) -> None:
        self._settle()
        self._db.execute(sql, values)

    # --- reading ---------------------------------------------------------------------------------------------------

    def owners(self, **match: str) -> list[Owner]:
        """The owners whose columns equal `match`, oldest first."""
        where = " AND ".join(f"{column} = ?" for column in match) or "1"
        rows = self._query(f"SELECT * FROM owner WHERE {where} ORDER BY since, id", tuple(match.values()))
        return [_owner(row) for row in rows]

    def owners_among(self, ids: Iterable[str]) -> list[Owner]:
        """Those of these owners that there are."""
        rows = self._query("SELECT * FROM owner WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))
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

    def claimants(self, start: str) -> list[tuple[Resource, Owner]]:
        """What is claimed under keys that start so, each with who claims it."""
        return self._claimants("key >= ? AND key < ?", (start, f"{start}\x7f"))

    def claimants_of_address(self, address: str) -> list[tuple[Resource, Owner]]:
        """Who claims an address (with prefix length), on whatever link, each with what is claimed."""
        return self._claimants("kind = 'address' AND substr(key, 6 + instr(substr(key, 6), ' ')) = ?", (address,))

    def _claimants(self, where: str, values: Sequence[str]) -> list[tuple[Resource, Owner]]:
        found = []
        for key, want in self._query(f"SELECT key, want FROM resource WHERE {where}", values):
            rows = self._query(f"SELECT * FROM owner WHERE id IN ({_CLAIMANTS})", (key,))
            found += [(_decoded(want), _owner(row)) for row in rows]
        return found

    def claims(self, owner: str) -> dict[str, Resource]:
        """What an owner claims, by key."""
        rows = self._query(f"SELECT key, want FROM resource WHERE key IN ({_ALONE} UNION {_SHARED})", (owner,))
        return {key: _decoded(want) for key, want in rows}

    def claimed(self, owner: str) -> set[str]:
        """The keys that an owner claims, its needs among them."""
        return {key for (key,) in self._query(f"{_ALONE} UNION {_SHARED}", (owner,))}

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
        excluded = json.dumps(list(owners))
        query = "owner NOT IN (SELECT value FROM json_each(?2))"
        return bool(
            self._query(f"SELECT 1 FROM resource WHERE key = ?1 AND owner IS NOT NULL AND {query}", (key, excluded))
            or self._query(f"SELECT 1 FROM claim WHERE key = ?1 AND {query} LIMIT 1", (key, excluded))
            or self._query(
                f"SELECT 1 FROM bundle JOIN claim ON claim.key = bundle.id WHERE bundle.key = ?1 AND {query} LIMIT 1",
                (key, excluded),
            )
        )

    def recorded(self, key: str) -> tuple[Resource, Resource | None] | None:
        """What we put at a key, and what was there before; None if nobody claims it."""
        rows = self._query("SELECT want, original FROM resource WHERE key = ?", (key,))
        return (_decoded(rows[0][0]), decode(rows[0][1])) if rows else None

    def records(self, keys: Iterable[str]) -> dict[str, tuple[Resource, Resource | None]]:
        """What `recorded` says of each of these keys that anybody claims."""
        rows = self._query(
            "SELECT key, want, original FROM resource WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(list(keys)),)
        )
        return {key: (_decoded(want), decode(original)) for key, want, original in rows}

    def released(self, owners: Sequence[str], wants: Container[str]) -> dict[str, tuple[Resource, Resource | None]]:
        """What `recorded` says of the keys that these owners claim and nobody else does, but for those in `wants`: in the order
        of the owners, and each one's by key."""
        # Nearly always it is one.
        alone = len(owners) == 1
        names = owners[0] if alone else json.dumps(list(owners))
        mine = "= ?1" if alone else "IN (SELECT value FROM json_each(?1))"
        theirs = "<> ?1" if alone else f"NOT {mine}"
        rows = self._query(
            "SELECT key, want, original FROM resource WHERE key IN "
            f"(SELECT key FROM resource WHERE owner {mine} UNION SELECT key FROM claim WHERE owner {mine} UNION "
            # Of a bundle that somebody else claims too, there is nothing to release.
            "SELECT bundle.key FROM claim JOIN bundle ON bundle.id = claim.key "
            f"WHERE claim.owner {mine} AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.key = bundle.id AND c.owner {theirs})) "
            f"AND (owner IS NULL OR owner {mine}) "
            f"AND NOT EXISTS (SELECT 1 FROM claim WHERE claim.key = resource.key AND claim.owner {theirs}) "
            "AND NOT EXISTS (SELECT 1 FROM bundle JOIN claim ON claim.key = bundle.id "
            f"WHERE bundle.key = resource.key AND claim.owner {theirs})",
            (names,),
        )
        found = {key: (_decoded(want), decode(original)) for key, want, original in sorted(rows) if key not in wants}
        if alone:
            return found
        order = dict.fromkeys(key for owner in owners for key in sorted(self.claimed(owner)))
        return {key: found[key] for key in order if key in found}

    def resources(self) -> dict[str, Resource]:
        """Everything that anybody claims."""
        return {key: _decoded(want) for key, want in self._query("SELECT key, want FROM resource")}

    def under(self, start: str) -> dict[str, Resource]:
        """Everything that anybody claims under keys that start so."""
        rows = self._query("SELECT key, want FROM resource WHERE key >= ? AND key < ?", (start, f"{start}\x7f"))
        return {key: _decoded(want) for key, want in rows}

    def there(self, keys: Iterable[str]) -> set[str]:
        """Those of these keys that anybody claims."""
        query = "SELECT key FROM resource WHERE key IN (SELECT value FROM json_each(?))"
        return {key for (key,) in self._query(query, (json.dumps(list(keys)),))}

    def keys_under(self, start: str) -> list[str]:
        """The claimed keys that start so."""
        return [key for (key,) in self._query("SELECT key FROM resource WHERE key >= ? AND key < ?", (start, f"{start}\x7f"))]

    def routes_through(self, ifname: str) -> dict[str, Resource]:
        """Every claimed route through a link."""
        query = "SELECT key, want FROM resource WHERE kind = 'route' AND json_extract(want, '$.dev') = ?"
        return {key: _decoded(want) for key, want in self._query(query, (ifname,))}

    def elements(self, table: str) -> dict[str, Resource]:
        """Every claimed element of the nft table of ours with that key."""
        rows = self._query("SELECT key, want FROM resource WHERE kind = 'nft-element'")
        found = {key: _decoded(want) for key, want in rows}
        return {key: r for key, r in found.items() if isinstance(r, NftElement) and r.table == table}

    # --- the journal -----------------------------------------------------------------------------------------------

    def journal(self) -> tuple[str, list[Change]]:
        """What was under way ("" if nothing) and its changes. Raises StoreError."""
        found = self._journal.read()
        return found[1:] if found and found[0] == self._recorded() + 1 else ("", [])

    def open_journal(self, what: str, plan: Plan) -> None:
        """Raises StoreError."""
        self._journal.write(self._recorded() + 1, what, [(encode(change.have), encode(change.want)) for change in plan])

    def close_journal(self) -> None:
        """Raises StoreError."""
        self._journal.remove()

    def _recorded(self) -> int:
        """The number of the last journal whose changes are recorded."""
        return self._query("PRAGMA application_id")[0][0]

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
        drop = [*drop]
        with self._writing([*drop, *(owner.id for owner in add)]), self._transaction():
            gone = [key for name in drop for key in self._forget(name)]
            put: set[str] = set()
            for owner, keys in add.items():
                gone += self._add(owner, sorted(keys), wants, originals, put)
            self._put((key, want, originals.get(key), None) for key, want in wants.items() if key not in put)
            # In the file's header, which is written anyway.
            self._db.execute(f"PRAGMA application_id = {self._recorded() + 1}")
            self._sweep(gone)
        with suppress(StoreError):
            # It is known to be recorded, whether it is there or not.
            self.close_journal()

    def _put(self, rows: Iterable[tuple[str, Resource, Resource | None, str | None]]) -> None:
        """Records (key, resource, original, owner) each; what is there keeps its original and its owner."""
        self._db.executemany(
            "INSERT INTO resource (key, kind, want, original, owner) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET want = excluded.want",
            [(key, want.kind, encode(want), encode(original), owner) for key, want, original, owner in rows],
        )

    def _add(
        self,
        owner: Owner,
        keys: Sequence[str],
        wants: Mapping[str, Resource],
        originals: Mapping[str, Resource | None],
        put: set[str],
    ) -> list[str]:
        """Records an owner with the keys that it claims. Returns those that it did claim, and does not any more; `put` grows by
        those whose resources are recorded with it."""
        before: set[str] = set()
        sole: set[str] = set()
        if self._query("SELECT 1 FROM owner WHERE id = ?", (owner.id,)):
            before = self.claimed(owner.id)
            sole = {key for (key,) in self._query(_ALONE, (owner.id,))}
            self._forget_owner(owner.id)
        self._db.execute(_INSERT_OWNER, _row(owner))
        self._db.executemany("INSERT INTO address VALUES (?, ?, ?)", [(owner.network, a, owner.id) for a in owner.addresses])
        there = self.there(keys)
        fresh = [key for key in keys if key in wants and key not in there]
        self._put((key, wants[key], originals.get(key), owner.id) for key in fresh)
        put.update(fresh)
        if left := sole.difference(keys):
            self._db.executemany("UPDATE resource SET owner = NULL WHERE key = ?", [(key,) for key in left])
        shared = [key for key in keys if key in there and key not in sole]
        # What is no resource: needs.
        claims = [key for key in keys if key not in there and key not in wants]
        if shared:
            claims.append(self._bundle(shared))
        self._db.executemany("INSERT INTO claim VALUES (?, ?)", [(owner.id, key) for key in claims])
        return list(before.difference(keys))

    def _bundle(self, keys: Sequence[str]) -> str:
        """The id of a bundle of these keys, which is made if there is none."""
        name = "@" + hashlib.sha256("\n".join(keys).encode(errors="surrogateescape")).hexdigest()[:32]
        if not self._query("SELECT 1 FROM bundle WHERE id = ? LIMIT 1", (name,)):
            self._db.executemany("INSERT INTO bundle VALUES (?, ?)", [(name, key) for key in keys])
        return name

    def forget(self, owner: str, keep: Iterable[str] = ()) -> None:
        """Forgets an owner. Keys in `keep` could not be cleaned up: they stay, under the owner in phase leftover."""
        kept = set(keep)
        with self._writing([owner]), self._transaction():
            rows = self._query("SELECT * FROM owner WHERE id = ?", (owner,)) if kept else []
            kept &= self.claimed(owner) if kept else kept
            gone = self._forget_owner(owner)
            if kept:
                self._db.executemany(_INSERT_OWNER, [_row(replace(_owner(row), phase="leftover")) for row in rows])
                self._db.executemany("INSERT INTO claim VALUES (?, ?)", [(owner, key) for key in sorted(kept)])
            self._db.execute(f"DELETE FROM resource WHERE owner = ? AND NOT {_CLAIMED}", (owner,))
            self._db.execute("UPDATE resource SET owner = NULL WHERE owner = ?", (owner,))
            self._sweep(gone)

    def set_phase(self, owner: str, phase: str) -> None:
        with self._writing([owner]):
            self._write("UPDATE owner SET phase = ? WHERE id = ?", (phase, owner))

    def set_frontend(self, owner: str, frontend: str) -> None:
        with self._writing([owner]):
            self._write("UPDATE owner SET frontend = ? WHERE id = ?", (frontend, owner))

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
        self._write("DELETE FROM pending")
        if pending:
            before = [
                (dict(zip(_COLUMNS, _row(owner), strict=True)), [encode(resource) for resource in claims], list(needs))
                for owner, (claims, needs) in pending.before.items()
            ]
            value = {
                "deadline": pending.deadline,
                "needs_word": pending.needs_word,
                "added": list(pending.added),
                "before": before,
                "originals": {key: encode(found) for key, found in pending.originals.items()},
            }
            self._write("INSERT INTO pending VALUES (1, ?)", (json.dumps(value),))

    # --- live migration --------------------------------------------------------------------------------------------

    def expect(self, mark: str) -> None:
        """Remembers that a domain (see Domain.marks) is about to come in by live migration. Needs no lock."""
        with open(f"{self.directory}/incoming-{mark}", "w"):
            pass

    def expects(self, mark: str) -> bool:
        """Whether a domain comes in by live migration."""
        try:
            # An offline migration, or one that another hook refused, leaves it behind: `started` follows within seconds.
            return time.time() - os.stat(f"{self.directory}/incoming-{mark}").st_mtime < EXPECT_SECONDS
        except OSError:
            return False

    def expected(self, mark: str) -> bool:
        """As `expects`; answers once."""
        fresh = self.expects(mark)
        try:
            os.unlink(f"{self.directory}/incoming-{mark}")
        except OSError:
            return False
        return fresh

    def _forget(self, owner: str) -> list[str]:
        """Returns the keys that it claimed, but for those in bundles that others claim too."""
        gone = [key for (key,) in self._query(_ALONE, (owner,))]
        self._db.execute("UPDATE resource SET owner = NULL WHERE owner = ?", (owner,))
        return gone + self._forget_owner(owner)

    def _forget_owner(self, owner: str) -> list[str]:
        """As `_forget`, but for what it is named beside."""
        claims = [key for (key,) in self._query("SELECT key FROM claim WHERE owner = ?", (owner,))]
        for table, column in (("claim", "owner"), ("address", "owner"), ("owner", "id")):
            self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (owner,))
        gone = [key for key in claims if not key.startswith("@")]
        for name in (key for key in claims if key.startswith("@")):
            if not self._query("SELECT 1 FROM claim WHERE key = ? LIMIT 1", (name,)):
                gone += [key for (key,) in self._query("SELECT key FROM bundle WHERE id = ?", (name,))]
                self._db.execute("DELETE FROM bundle WHERE id = ?", (name,))
        return gone

    def _sweep(self, gone: Sequence[str]) -> None:
        """Forgets those of the keys that nobody claims any more: never a scan over every guest's."""
        if gone:
            self._db.execute(
                "DELETE FROM resource WHERE key IN (SELECT value FROM json_each(?)) AND owner IS NULL AND NOT " + _CLAIMED,
                (json.dumps(gone),),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # What the lock began goes on as writing: nobody else writes meanwhile.
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


_COLUMNS = (
    *("id", "domain", "domain_id", "ifname", "ifindex", "mac", "network", "frontend", "phase", "addresses", "filter", "since"),
    *("vlan", "tagged", "mtu", "metric"),
)

_ENCODED: Mapping[str, Callable[[Any], Any]] = {
    "addresses": json.dumps,
    "filter": int,
    "tagged": lambda tagged: None if tagged is None else json.dumps(tagged),
}
_INSERT_OWNER = f"INSERT INTO owner ({','.join(_COLUMNS)}) VALUES ({','.join('?' * len(_COLUMNS))})"


def _row(owner: Owner) -> list[Any]:
    """The owner's columns, in their order."""
    values = [getattr(owner, name) for name in _COLUMNS]
    return [_ENCODED[name](value) if name in _ENCODED else value for name, value in zip(_COLUMNS, values, strict=True)]


def _owner(row: Sequence) -> Owner:
    values = list(row)
    values[9:11] = tuple(json.loads(values[9])), bool(values[10])
    values[13] = values[13] and tuple(json.loads(values[13]))
    return Owner(*values)


def _first_other(rows: Iterable[Sequence], but: Iterable[str]) -> Owner | None:
    excluded = set(but)
    return next((owner for owner in map(_owner, rows) if owner.id not in excluded), None)


def _decoded(line: str) -> Resource:
    resource = decode(line)
    assert resource is not None
    return resource
