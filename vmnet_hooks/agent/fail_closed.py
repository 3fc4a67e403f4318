"""Fail closed: after another program has flushed our filters, and until they are restored, packets of guests are dropped.

The agent's tables (ruleset.KEEPERS) are owned by its netlink socket, so `nft flush ruleset` does not remove them. They mark
packets from a guarded tap before our filter, and drop those that are still marked after it. The filter itself clears the mark.

The agent sets them up before anything else, so this imports little.
"""

import json
from collections.abc import Collection

from ..errors import KernelError, VmnetError
from ..kernel.libnftables import JSON, Context
from ..kernel.netlink import NETLINK_NETFILTER, Netlink, Socket
from ..kernel.objects import nft
from ..model.objects import NftTable
from ..model.ruleset import ARP, BRIDGE, CLOSED6, INET, KEEP_CLOSED, KEEPER, KEEPERS, KEPT_SETS
from ..records.store import Store, identity

_FILTERS = (INET, ARP, BRIDGE)
Taps = frozenset[tuple[str, int]]
"""Elements of a keeper table, as (set, ifindex of a tap)."""


def first() -> "Keeper | None":
    """Return a keeper that guards already what should be guarded; None if it can't be made yet."""
    try:
        keeper = Keeper()
    except (VmnetError, OSError):
        return None
    try:
        records = Store()
        try:
            keeper.follow(records)
        finally:
            records.close()
    except (VmnetError, OSError):
        # Another agent's are there, or the records can't be read: it is tried again, and told, once the agent runs.
        pass
    return keeper


class Keeper:
    """The agent's tables, from the first `follow` until `close` or the end of the process. Not thread-safe."""

    def __init__(self) -> None:
        self._nft = Context()
        self._socket = Socket(NETLINK_NETFILTER)
        self._links = Netlink()
        self._held: dict[str, Taps] = {}
        """The elements of the tables that exist, by family."""
        self._known: set[str] = set()
        """The families whose taps were all read from the records once. From then on only changes are read."""
        self._closed = False
        self._file: object = None
        """The identity of the records that are followed."""
        self._numbers: dict[str, int] = {}
        """The taps of the records, by name, as they were last read."""
        self._lost: dict[str, Taps] = {}
        """What was guarded when these records took the place of others that were lost, by family: the guests may run."""

    def close(self) -> None:
        self._nft.close()
        self._socket.close()
        self._links.close()

    def follow(self, store: Store, taps: Collection[str] | None = None) -> None:
        """Guard the taps that are guarded by the records, and those of guests that run and whose records were lost. If only
        `taps` can have changed, only they are read, and the cost does not depend on the number of guests. Raises KernelError,
        with nothing changed, if the kernel does not support tables with an owner, or another process owns them."""
        if (file := identity(store.directory)) != self._file:
            found = {table.family: self._held.get(table.family) or self._in_kernel(table) for table in _FILTERS}
            self._lost = {family: kept for family, kept in found.items() if kept}
            self._file, taps = file, None
        with store.reading():
            self._lost = {family: there for family, kept in self._lost.items() if (there := self._unrecorded(kept, store))}
            ours = [table for table in _FILTERS if _is_ours(table, store)]
            before = self._number(store, taps)
            guarded: dict[NftTable, Taps] = dict.fromkeys(_FILTERS, frozenset())
            guarded |= {table: self._guarded(table, store, taps, before) for table in ours}
            closed = INET in ours and store.recorded(CLOSED6.key) is not None
        # The filter of another version may not remove the mark: its taps are not guarded.
        self._known = {table.family for table in ours}
        for table, kept in guarded.items():
            self._follow(table, kept | self._lost.get(table.family, frozenset()))
        closed = (closed or (self._closed and "inet" in self._lost)) and "inet" in self._held
        if closed and not self._closed:
            self._run(KEEP_CLOSED)
        elif self._closed and not closed:
            self._run("".join(f"delete chain inet {KEEPER} {name}_forward\n" for name in ("before", "after")))
        self._closed = closed

    def _number(self, store: Store, taps: Collection[str] | None) -> Collection[int]:
        """Read the numbers of taps from the records. Returns those that they had before."""
        if taps is None:
            self._numbers, before = {}, {}
            nics = store.nics()
        else:
            before = {tap: self._numbers.pop(tap) for tap in taps if tap in self._numbers}
            nics = [nic for tap in taps for nic in store.nics(ifname=tap)]
        held = {number for kept in self._held.values() for _, number in kept}
        # The records may be of another network namespace; a tap that is held may have got another name.
        found = [nic for nic in nics if nic.ifindex in held or self._links.name(nic.ifindex) == nic.ifname]
        self._numbers.update((nic.ifname, nic.ifindex) for nic in found)
        return before.values()

    def _guarded(self, table: NftTable, store: Store, taps: Collection[str] | None, before: Collection[int]) -> Taps:
        """Return the taps that a filter guards by the records. `before` are the former numbers of `taps`."""
        held = self._held.get(table.family)
        starts = {name: f"{table.key} {name} " for name in KEPT_SETS[table.family]}
        stay: Taps = frozenset()
        if held is None or taps is None or table.family not in self._known:
            pairs = [
                (name, key.removeprefix(start).strip('"')) for name, start in starts.items() for key in store.keys_under(start)
            ]
        else:
            asked = {f'{start}"{tap}"': (name, tap) for name, start in starts.items() for tap in taps}
            pairs = [asked[key] for key in store.there(asked)]
            stay = frozenset(item for item in held if item[1] not in before)
        return stay | {(name, number) for name, tap in pairs if (number := self._numbers.get(tap))}

    def _unrecorded(self, kept: Taps, store: Store) -> Taps:
        """Return those of which no record tells, and whose link is there."""
        there = {
            index for index in {index for _, index in kept} if (tap := self._links.name(index)) and not store.nics(ifname=tap)
        }
        return frozenset((name, index) for name, index in kept if index in there)

    def _in_kernel(self, table: NftTable) -> Taps:
        """Return the taps that the filter guards now."""
        if nft.read_table(self._socket, table) != table:
            return frozenset()
        found: set[tuple[str, str]] = set()
        for name in KEPT_SETS[table.family]:
            output, error = self._nft.run(f"list set {table.family} {table.name} {name}", JSON)
            items = [] if error else json.loads(output)["nftables"]
            found |= {(name, tap) for item in items for tap in item.get("set", {}).get("elem", ())}
        links = {tap: link.index for _, tap in found if (link := self._links.link(tap))}
        return frozenset((name, links[tap]) for name, tap in found if tap in links)

    def _follow(self, table: NftTable, taps: Taps) -> None:
        held = self._held.get(table.family)
        if held is None:
            have = nft.read_table(self._socket, table) if taps else None
            # One of another version may not remove the mark. One that was flushed is about to be mended.
            if not taps or (have and have.version != table.version):
                return
        statements = [] if held is not None else [KEEPERS[table.family]]
        held = held or frozenset()
        for verb, changed in (("delete", held - taps), ("add", taps - held)):
            for name in KEPT_SETS[table.family]:
                if chosen := sorted(index for kept, index in changed if kept == name):
                    numbers = ", ".join(map(str, chosen))
                    statements.append(f"{verb} element {table.family} {KEEPER} {name} {{ {numbers} }}\n")
        if statements:
            self._run("".join(statements))
        self._held[table.family] = taps

    def lost(self) -> bool:
        """Return whether one of the tables has gone. Then the others are deleted, and the next `follow` makes all anew. Raises
        KernelError."""
        there = [f for f in self._held if nft.read_table(self._socket, NftTable(f, "", (), KEEPER)) is not None]
        if len(there) == len(self._held):
            return False
        self._run("".join(f"delete table {family} {KEEPER}\n" for family in there))
        self._held, self._closed = {}, False
        return True

    def _run(self, statements: str) -> None:
        _, error = self._nft.run(statements)
        if error:
            raise KernelError(f"filters are not kept while others flush them: {error.splitlines()[0]}")


def _is_ours(table: NftTable, store: Store) -> bool:
    recorded = store.recorded(table.key)
    return recorded is not None and recorded[0] == table
