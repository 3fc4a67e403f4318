"""The records under /run/vmnet-hooks: what was set up for which owner, the values found before, and the lock.

An owner (see model/owner.py) *claims* resources by key. A resource without a claim is removed.

The first owner of a resource is stored in the resource's row. Later owners claim a *bundle*, the set of keys that all guests of
a network share: one row per guest instead of one per key, each on another page of the file.

The journal, a file beside the database, holds the changes under way. The next process that takes the lock undoes what a killed
process left half-done.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

from .. import RUN
from ..errors import Damaged, StoreError
from ..model.objects import NftElement
from ..model.owner import ASKED_FOR, NEEDED, DescribedNetwork, GuestOwner, HostOwner, Nic, Owner, Part, Preparation
from ..model.plan import Change, Plan
from ..model.resource import Resource
from . import ANEW, Journal, clock, decode, decode_both, encode, encoded, lock, unreadable

if TYPE_CHECKING:
    from .pending import Pending

DIRECTORY = RUN
EXPECT_SECONDS = 600.0
"""Validity of the mark that a domain is about to migrate in: after an offline migration no call removes it."""

VERSION = 5
"""The version of the tables in schema.py; user_version in the database."""

_COLUMNS = (
    *("id", "domain", "domain_id", "ifname", "ifindex", "mac", "network", "frontend", "phase", "addresses", "filter"),
    *("since", "vlan", "tagged", "mtu", "metric"),
)
# By name: a later version may add columns while a process of this one runs.
_SELECT = f"SELECT owner.{', owner.'.join(_COLUMNS)} FROM owner"
_AMONG = "key IN (SELECT value FROM json_each(?))"
_OF_HOST = "ifname = ''"
"""The few owners that are no NICs, by the index owner_ifname."""

Kind = TypeVar("Kind", bound=Owner)

# The keys that owner ?1 claims: as the first owner, one by one, in bundles.
_ALONE = "SELECT key FROM resource WHERE owner = ?1"
_SHARED = (
    "SELECT key FROM claim WHERE owner = ?1 AND key NOT LIKE '@%' UNION "
    "SELECT bundle.key FROM claim JOIN bundle ON bundle.id = claim.key WHERE claim.owner = ?1"
)
# Whether an owner of which a condition holds claims a key.
_HAS = (
    "(EXISTS (SELECT 1 FROM resource WHERE key = {0} AND owner IS NOT NULL AND owner {1}) "
    "OR EXISTS (SELECT 1 FROM claim WHERE key = {0} AND owner {1}) "
    "OR EXISTS (SELECT 1 FROM bundle JOIN claim ON claim.key = bundle.id WHERE bundle.key = {0} AND claim.owner {1}))"
)
# The owners that claim the key ?1.
_CLAIMANTS = (
    "SELECT owner FROM resource WHERE key = ?1 AND owner IS NOT NULL UNION SELECT owner FROM claim WHERE key = ?1 UNION "
    "SELECT claim.owner FROM bundle JOIN claim ON claim.key = bundle.id WHERE bundle.key = ?1"
)
# Whether an owner other than the first claims a resource.
_CLAIMED = (
    "(EXISTS (SELECT 1 FROM claim WHERE claim.key = resource.key) OR EXISTS "
    "(SELECT 1 FROM bundle JOIN claim ON claim.key = bundle.id WHERE bundle.key = resource.key))"
)


def identity(directory: str | None = None) -> object:
    """Return the identity of the database file (by default the host's), which changes when another file takes its place; None
    without a file."""
    try:
        return identity_of(os.stat(f"{directory or DIRECTORY}/state.db"))
    except OSError:
        return None


def identity_of(found: os.stat_result) -> object:
    """Return the identity of the file with this status."""
    return found.st_dev, found.st_ino


class Store:
    """The records. Call every method but `lock` and the readers with the lock held. All raise StoreError."""

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory = directory or DIRECTORY
        self._journal = Journal(directory)
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            path = f"{directory}/state.db"
            self._db = sqlite3.connect(path, timeout=lock.SECONDS, isolation_level=None, check_same_thread=False)
            # The database is on a tmpfs: there is nothing to sync to. PERSIST overwrites SQLite's journal instead of removing it.
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute("PRAGMA journal_mode = PERSIST")
            version = self._version()
            if version > VERSION:
                raise StoreError(f"{path}: of a newer vmnet-hooks; install that version, or stop all guests and move it away")
            if version < VERSION:
                with self.lock():
                    self._migrate()
        except OSError as error:
            raise StoreError(f"{directory}: {error.strerror}; it must be writable, run as root") from None
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def has_tables(self) -> bool:
        """Return whether the file still has them. It may have been emptied since it was opened."""
        try:
            return self._version() > 0
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def _migrate(self) -> None:
        # Needed once for a host and once for an upgrade.
        from .schema import migrate

        self._settle()
        migrate(self._db, self._journal.write)

    def close(self) -> None:
        self._db.close()

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> StoreError:
        path = f"{self.directory}/state.db"
        if os.path.isdir(path) or (isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)):
            return Damaged(f"{path}: {error}; {ANEW}")
        return StoreError(f"{path}: {error}; check free space and permissions")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the host's lock. Raises StoreError if it is not free within lock.SECONDS."""
        with lock.held(self.directory), self.reading():
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read from one snapshot. Without the lock, writers wait for the end of it."""
        try:
            self._db.execute("BEGIN")
            yield
        except sqlite3.Error as error:
            raise self._broken(error) from None
        finally:
            with suppress(sqlite3.Error):
                self._settle()

    def _settle(self) -> None:
        """End the snapshot, so that every write from here on is committed at once and survives a kill."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def _writing(self, _ids: Collection[str]) -> AbstractContextManager[None]:
        """Return the context in which records of these owners are written. A subclass may take note of them."""
        return nullcontext()

    def _write(self, sql: str, values: Sequence[object] = ()) -> None:
        self._settle()
        self._db.execute(sql, values)

    # --- reading ---------------------------------------------------------------------------------------------------

    def owners(self, **match: str) -> list[Owner]:
        """Return the owners whose columns equal `match`, oldest first."""
        return self._owners(Owner, "1", match)

    def nics(self, **match: str) -> list[Nic]:
        """Like `owners`, for NICs alone."""
        return self._owners(Nic, "1", match)

    def parts(self, **match: str) -> list[Part]:
        """Like `owners`, for declared parts of the host alone."""
        return self._owners(Part, _OF_HOST, match)

    def of_host(self) -> list[HostOwner]:
        """Return the owners that are the host's own: no guest's."""
        return self._owners(HostOwner, _OF_HOST, {})

    def _owners(self, wanted: type[Kind], where: str, match: Mapping[str, str]) -> list[Kind]:
        conditions = " AND ".join((where, *(f"{column} = ?" for column in match)))
        rows = self._query(f"{_SELECT} WHERE {conditions} ORDER BY since, id", tuple(match.values()))
        return [owner for owner in map(_owner, rows) if isinstance(owner, wanted)]

    def owners_among(self, ids: Iterable[str]) -> list[Owner]:
        """Return those of these owners that exist."""
        rows = self._query(f"{_SELECT} WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))
        return [_owner(row) for row in rows]

    def of_domain(self, name: str, uuid: str, ifname: str = "") -> list[GuestOwner]:
        """Return the owners of a domain, by UUID if it has one, else by name; with `ifname`, those of that tap only."""
        match = {"domain_id": uuid} if uuid else {"domain": name} if name else {}
        if ifname:
            match["ifname"] = ifname
        return self._owners(GuestOwner, "1", match) if match else []

    def user(self, network: str, part_id: str, but: Iterable[str]) -> Owner | None:
        """Return an owner that uses a network and is not in `but`: a NIC, or the network itself, as the part of the host with
        that id; None if there is none."""
        excluded = list(but)
        others = f"id NOT IN ({','.join('?' * len(excluded))})"
        query = f"{_SELECT} WHERE network = ? AND (ifname <> '' OR id = ?) AND {others} LIMIT 1"
        return next(map(_owner, self._query(query, (network, part_id, *excluded))), None)

    def holder(self, network: str, address: str, but: Collection[str]) -> Nic | None:
        """Return a NIC that holds an address of a network and is not in `but`."""
        query = f"{_SELECT} JOIN address ON owner.id = address.owner WHERE address.network = ? AND address.address = ?"
        return _first_nic(self._query(query, (network, address)), but)

    def holder_of_mac(self, network: str, mac: str, but: Collection[str]) -> Nic | None:
        """Return a NIC with that MAC on a network that is not in `but`."""
        return _first_nic(self._query(f"{_SELECT} WHERE network = ? AND mac = ?", (network, mac)), but)

    def claimants(self, start: str) -> list[tuple[Resource, Owner]]:
        """Return the resources whose keys start with `start`, each with an owner that claims it."""
        return self._claimants("key >= ? AND key < ?", (start, f"{start}\x7f"))

    def claimants_of_address(self, address: str) -> list[tuple[Resource, Owner]]:
        """Return the resources that are this address (with prefix length) on any link, each with an owner that claims it."""
        return self._claimants("kind = 'address' AND substr(key, 6 + instr(substr(key, 6), ' ')) = ?", (address,))

    def _claimants(self, where: str, values: Sequence[str]) -> list[tuple[Resource, Owner]]:
        found = []
        for key, want in self._query(f"SELECT key, want FROM resource WHERE {where}", values):
            rows = self._query(f"{_SELECT} WHERE id IN ({_CLAIMANTS})", (key,))
            found += [(decode(want), _owner(row)) for row in rows]
        return found

    def claims(self, owner: str) -> dict[str, Resource]:
        """Return the resources that an owner claims, by key."""
        rows = self._query(f"SELECT key, want FROM resource WHERE key IN ({_ALONE} UNION {_SHARED})", (owner,))
        return {key: decode(want) for key, want in rows}

    def claimed(self, owner: str) -> set[str]:
        """Return the keys that an owner claims, including its needs."""
        return {key for (key,) in self._query(f"{_ALONE} UNION {_SHARED}", (owner,))}

    def claimed_among(self, owner: str, keys: Iterable[str]) -> set[str]:
        """Return those of these keys that an owner claims."""
        rows = self._query(
            f"SELECT value FROM json_each(?2) WHERE {_HAS.format('value', '= ?1')}", (owner, json.dumps(list(keys)))
        )
        return {key for (key,) in rows}

    def needs(self, owner: str) -> list[str]:
        """Return the ids of the owners that an owner needs."""
        rows = self._query("SELECT key FROM claim WHERE owner = ? AND key LIKE 'needs %' ORDER BY key", (owner,))
        return [key.removeprefix("needs ") for (key,) in rows]

    def needing(self, owner: str) -> list[Owner]:
        """Return the owners that need an owner."""
        rows = self._query(f"{_SELECT} WHERE id IN (SELECT owner FROM claim WHERE key = ?)", (f"needs {owner}",))
        return [_owner(row) for row in rows]

    def claimed_elsewhere(self, key: str, owners: Sequence[str]) -> bool:
        """Return whether an owner that is not in `owners` claims a key."""
        others = _HAS.format("?1", "NOT IN (SELECT value FROM json_each(?2))")
        return bool(self._query(f"SELECT 1 WHERE {others}", (key, json.dumps(list(owners)))))

    def recorded(self, key: str) -> tuple[Resource, Resource | None] | None:
        """Return what was set at a key, and what was found there before; None if no owner claims it."""
        rows = self._query("SELECT want, original FROM resource WHERE key = ?", (key,))
        return decode_both(*rows[0]) if rows else None

    def records(self, keys: Iterable[str]) -> dict[str, tuple[Resource, Resource | None]]:
        """Return, by key, what `recorded` returns for those of the keys that are claimed."""
        rows = self._query(f"SELECT key, want, original FROM resource WHERE {_AMONG}", (json.dumps(list(keys)),))
        return {key: decode_both(want, original) for key, want, original in rows}

    def released(self, owners: Sequence[str], wants: Container[str]) -> dict[str, tuple[Resource, Resource | None]]:
        """Return, by key, what `recorded` returns for the keys that only these owners claim and that are not in `wants`: in the
        order of the owners, and sorted by key within each."""
        alone = len(owners) == 1  # Nearly always.
        names = owners[0] if alone else json.dumps(list(owners))
        mine = "= ?1" if alone else "IN (SELECT value FROM json_each(?1))"
        theirs = "<> ?1" if alone else f"NOT {mine}"
        rows = self._query(
            "SELECT key, want, original FROM resource WHERE key IN "
            f"(SELECT key FROM resource WHERE owner {mine} UNION SELECT key FROM claim WHERE owner {mine} UNION "
            # A bundle that another owner claims too is not released.
            "SELECT bundle.key FROM claim JOIN bundle ON bundle.id = claim.key "
            f"WHERE claim.owner {mine} AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.key = bundle.id AND c.owner {theirs})) "
            f"AND (owner IS NULL OR owner {mine}) "
            f"AND NOT EXISTS (SELECT 1 FROM claim WHERE claim.key = resource.key AND claim.owner {theirs}) "
            "AND NOT EXISTS (SELECT 1 FROM bundle JOIN claim ON claim.key = bundle.id "
            f"WHERE bundle.key = resource.key AND claim.owner {theirs})",
            (names,),
        )
        found = {key: decode_both(want, original) for key, want, original in sorted(rows) if key not in wants}
        if alone:
            return found
        order = dict.fromkeys(key for owner in owners for key in sorted(self.claimed(owner)))
        return {key: found[key] for key in order if key in found}

    def resources(self) -> dict[str, Resource]:
        """Return all claimed resources by key."""
        return {key: decode(want) for key, want in self._query("SELECT key, want FROM resource")}

    def under(self, start: str) -> dict[str, Resource]:
        """Return the claimed resources whose keys start with `start`."""
        rows = self._query("SELECT key, want FROM resource WHERE key >= ? AND key < ?", (start, f"{start}\x7f"))
        return {key: decode(want) for key, want in rows}

    def there(self, keys: Iterable[str]) -> set[str]:
        """Return those of these keys that are claimed."""
        rows = self._query(f"SELECT key FROM resource WHERE {_AMONG}", (json.dumps(list(keys)),))
        return {key for (key,) in rows}

    def keys_under(self, start: str) -> list[str]:
        """Return the claimed keys that start with `start`."""
        return [key for (key,) in self._query("SELECT key FROM resource WHERE key >= ? AND key < ?", (start, f"{start}\x7f"))]

    def routes_through(self, ifname: str) -> dict[str, Resource]:
        """Return the claimed routes through a link."""
        query = "SELECT key, want FROM resource WHERE kind = 'route' AND json_extract(want, '$.dev') = ?"
        return {key: decode(want) for key, want in self._query(query, (ifname,))}

    def elements(self, table: str) -> dict[str, Resource]:
        """Return the claimed elements of the nft table with that key."""
        rows = self._query("SELECT key, want FROM resource WHERE kind IN ('nft-element', 'nft-chain')")
        return {key: r for key, want in rows if isinstance(r := decode(want), NftElement) and r.table == table}

    # --- the journal -----------------------------------------------------------------------------------------------

    def journal(self) -> tuple[str, list[Change]]:
        """Return what was under way ("" if nothing) and its changes."""
        found = self._journal.read()
        return found[1:] if found and found[0] == self._recorded() + 1 else ("", [])

    def open_journal(self, what: str, plan: Plan) -> int:
        """Write the changes that are about to be made. Returns the serial."""
        before, after = encoded([change.have for change in plan]), encoded([change.want for change in plan])
        serial = self._recorded() + 1
        self._journal.write(serial, what, zip(before, after, strict=True))
        return serial

    def is_committed(self, serial: int) -> bool:
        """Return whether the changes of the journal with that serial are recorded."""
        return self._recorded() >= serial

    def close_journal(self) -> None:
        """Remove the journal."""
        self._journal.remove()

    def _recorded(self) -> int:
        """Return the serial of the last journal whose changes are committed."""
        return self._query("PRAGMA application_id")[0][0]

    # --- changing --------------------------------------------------------------------------------------------------

    def commit(
        self,
        drop: Iterable[str],
        add: Mapping[Owner, Iterable[str]],
        wants: Mapping[str, Resource],
        originals: Mapping[str, Resource | None],
    ) -> None:
        """Forget the owners `drop`, record the owners `add` with the keys that they claim, and close the journal, in one
        transaction. `wants` are the resources by key, `originals` the values found at keys that were not claimed before."""
        drop = [*drop]
        with self._writing([*drop, *(owner.id for owner in add)]), self._transaction():
            gone = [key for name in drop for key in self._forget(name)]
            put: set[str] = set()
            for owner, keys in add.items():
                gone += self._add(owner, sorted(keys), wants, originals, put)
            self._put([key for key in wants if key not in put], wants, originals)
            # The serial is in the header of the file, which every commit writes.
            self._db.execute(f"PRAGMA application_id = {self._recorded() + 1}")
            self._sweep(gone)
        with suppress(StoreError):
            # Its serial tells that its changes are committed, even if the file stays.
            self.close_journal()

    def _put(
        self,
        keys: Sequence[str],
        wants: Mapping[str, Resource],
        originals: Mapping[str, Resource | None],
        owner: str | None = None,
    ) -> None:
        """Record the resources at these keys. A row that exists keeps its original and its owner."""
        found = [wants[key] for key in keys]
        before = encoded([originals.get(key) for key in keys])
        self._db.executemany(
            "INSERT INTO resource (key, kind, want, original, owner) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET want = excluded.want",
            zip(keys, [resource.kind for resource in found], encoded(found), before, repeat(owner), strict=False),
        )

    def _add(
        self,
        owner: Owner,
        keys: Sequence[str],
        wants: Mapping[str, Resource],
        originals: Mapping[str, Resource | None],
        put: set[str],
    ) -> list[str]:
        """Record an owner with the keys that it claims. Returns the keys that it no longer claims. Adds to `put` the keys whose
        resources are recorded with it."""
        before: set[str] = set()
        sole: set[str] = set()
        if self._query("SELECT 1 FROM owner WHERE id = ?", (owner.id,)):
            before = self.claimed(owner.id)
            sole = {key for (key,) in self._query(_ALONE, (owner.id,))}
            self._forget_owner(owner.id)
        columns = owner.columns()
        self._db.execute(_INSERT_OWNER, _row(columns))
        addresses = [(columns["network"], address, owner.id) for address in columns["addresses"]]
        self._db.executemany("INSERT INTO address VALUES (?, ?, ?)", addresses)
        there = self.there(keys)
        fresh = [key for key in keys if key in wants and key not in there]
        self._put(fresh, wants, originals, owner.id)
        put.update(fresh)
        if left := sole.difference(keys):
            self._db.executemany("UPDATE resource SET owner = NULL WHERE key = ?", [(key,) for key in left])
        shared = [key for key in keys if key in there and key not in sole]
        # Keys that are no resources: needs.
        claims = [key for key in keys if key not in there and key not in wants]
        if shared:
            claims.append(self._bundle(shared))
        self._db.executemany("INSERT INTO claim VALUES (?, ?)", [(owner.id, key) for key in claims])
        return list(before.difference(keys))

    def _bundle(self, keys: Sequence[str]) -> str:
        """Return the id of the bundle of these keys, after making it if there is none."""
        name = "@" + hashlib.sha256("\n".join(keys).encode(errors="surrogateescape")).hexdigest()[:32]
        if not self._query("SELECT 1 FROM bundle WHERE id = ? LIMIT 1", (name,)):
            self._db.executemany("INSERT INTO bundle VALUES (?, ?)", [(name, key) for key in keys])
        return name

    def forget(self, owner: str, keep: Iterable[str] = ()) -> None:
        """Forget an owner. The keys in `keep` could not be cleaned up: they stay, claimed by the owner in phase leftover."""
        kept = set(keep)
        with self._writing([owner]), self._transaction():
            rows = self._query(f"{_SELECT} WHERE id = ?", (owner,)) if kept else []
            kept &= self.claimed(owner) if kept else kept
            gone = self._forget_owner(owner)
            if kept:
                self._db.executemany(_INSERT_OWNER, [_row(replace(_owner(row), phase="leftover").columns()) for row in rows])
                self._db.executemany("INSERT INTO claim VALUES (?, ?)", [(owner, key) for key in sorted(kept)])
            self._db.execute(f"DELETE FROM resource WHERE owner = ? AND NOT {_CLAIMED}", (owner,))
            self._db.execute("UPDATE resource SET owner = NULL WHERE owner = ?", (owner,))
            self._sweep(gone)

    def set_phase(self, owner: str, phase: str) -> None:
        """Record the phase of an owner."""
        with self._writing([owner]):
            self._write("UPDATE owner SET phase = ? WHERE id = ?", (phase, owner))

    def set_frontend(self, owner: str, frontend: str) -> None:
        """Record the front end of an owner."""
        with self._writing([owner]):
            self._write("UPDATE owner SET frontend = ? WHERE id = ?", (frontend, owner))

    # --- takeovers that wait to be confirmed ----------------------------------------------------------------------------

    def pending(self) -> "Pending | None":
        """Return the takeover that waits for confirmation; None if there is none."""
        rows = self._query("SELECT value FROM pending")
        if not rows:
            return None
        # Few hosts have one.
        from .pending import Pending

        try:
            value = json.loads(rows[0][0])
            before = {
                _owner([row[name] for name in _COLUMNS]): (tuple(map(decode, claims)), needs)
                for row, claims, needs in value.pop("before")
            }
            originals = {key: decode(line) if line else None for key, line in value.pop("originals").items()}
            return Pending(**value, before=before, originals=originals)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise unreadable("the takeover that waits") from None

    def set_pending(self, pending: "Pending | None") -> None:
        """Record the takeover that waits for confirmation; None removes it."""
        self._write("DELETE FROM pending")
        if pending:
            before = [
                (dict(zip(_COLUMNS, _row(owner.columns()), strict=True)), encoded(claims), list(needs))
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
        """Record that a domain (one of Domain.marks) is about to migrate in. Needs no lock."""
        with open(f"{self.directory}/incoming-{mark}", "w") as file:
            file.write(f"{self.now()!r}\n")

    def expects(self, mark: str) -> bool:
        """Return whether a domain is about to migrate in."""
        try:
            # An offline migration, or one that another hook refused, leaves the mark behind; `started` follows within seconds.
            with open(f"{self.directory}/incoming-{mark}") as file:
                # An older version wrote nothing.
                since = float(file.read() or os.fstat(file.fileno()).st_mtime)
        except (OSError, ValueError):
            return False
        return self.now() - since < EXPECT_SECONDS

    def now(self) -> float:
        """Return the time of the records, see clock.py."""
        return clock.now(self.directory)

    def expected(self, mark: str) -> bool:
        """Like `expects`, and removes the mark."""
        fresh = self.expects(mark)
        try:
            os.unlink(f"{self.directory}/incoming-{mark}")
        except OSError:
            return False
        return fresh

    def _forget(self, owner: str) -> list[str]:
        """Forget an owner. Returns the keys that it claimed, without those of bundles that other owners claim too."""
        gone = [key for (key,) in self._query(_ALONE, (owner,))]
        self._db.execute("UPDATE resource SET owner = NULL WHERE owner = ?", (owner,))
        return gone + self._forget_owner(owner)

    def _forget_owner(self, owner: str) -> list[str]:
        """Like `_forget`, but leaves the resources whose first owner it is."""
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
        """Forget those of the keys that no owner claims, without a scan over the keys of all guests."""
        if gone:
            self._db.execute(
                f"DELETE FROM resource WHERE {_AMONG} AND owner IS NULL AND NOT {_CLAIMED}",
                (json.dumps(gone),),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # The snapshot that the lock opened becomes the write transaction: no other process writes meanwhile.
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


_ENCODED: Mapping[str, Callable[[Any], Any]] = {
    "addresses": json.dumps,
    "filter": int,
    "tagged": lambda tagged: None if tagged is None else json.dumps(tagged),
}
_INSERT_OWNER = f"INSERT INTO owner ({','.join(_COLUMNS)}) VALUES ({','.join('?' * len(_COLUMNS))})"


def _row(columns: Mapping[str, Any]) -> list[Any]:
    """Return the values of an owner's columns, in their order."""
    return [_ENCODED[name](columns[name]) if name in _ENCODED else columns[name] for name in _COLUMNS]


def _owner(row: Sequence[Any]) -> Owner:
    columns = dict(zip(_COLUMNS, row, strict=True))
    try:
        columns["addresses"] = tuple(json.loads(columns["addresses"]))
        columns["filter"] = int(columns["filter"])
        columns["tagged"] = columns["tagged"] and tuple(json.loads(columns["tagged"]))
        if any(not isinstance(address, str) for address in columns["addresses"]):
            raise ValueError
    except (ValueError, TypeError):
        raise unreadable(f"owner {columns['id']}") from None
    return _kind(columns).of_columns(columns)


def _kind(columns: Mapping[str, Any]) -> type[Owner]:
    """Return the class of a row's owner. The table has no column for it: processes of 0.1.0 (an agent, the guard of a takeover,
    one that waits for a guest to arrive) read and write the same rows while the package is upgraded."""
    if columns["ifname"]:
        return Nic
    if columns["domain"]:
        return Preparation
    return Part if columns["frontend"] in (ASKED_FOR, NEEDED) else DescribedNetwork


def _first_nic(rows: Iterable[Sequence[Any]], but: Collection[str]) -> Nic | None:
    for owner in map(_owner, rows):
        if isinstance(owner, Nic) and owner.id not in but:
            return owner
    return None
