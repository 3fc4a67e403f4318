"""Fail-closed: while somebody's flush has taken our filters away, and until they are back, nothing that guests send passes.

The agent's tables (ruleset.KEEPERS) belong to its socket, so that `nft flush ruleset` does not touch them. They know nothing but
which taps are guarded; judging is left to the filters.
"""

from ..errors import KernelError
from ..kernel import tables
from ..kernel.libnftables import Context
from ..kernel.wire import Socket
from ..ruleset import ARP, BRIDGE, CLOSED6, INET, KEEP_CLOSED, KEEPER, KEEPERS, KEPT_SETS
from ..state import NftTable
from ..transaction import Kernel, Store

_FILTERS = (INET, ARP, BRIDGE)
Taps = frozenset[tuple[str, str]]
"""Elements as (set, tap)."""


class Keeper:
    """For one thread. The tables are there from the first `follow` until `close`, or until this process ends."""

    def __init__(self) -> None:
        self._nft = Context()
        self._socket = Socket(tables.NETLINK_NETFILTER)
        self._held: dict[str, Taps] = {}
        """By family of the tables that are there."""
        self._closed = False

    def close(self) -> None:
        self._nft.close()
        self._socket.close()

    def follow(self, store: Store, kernel: Kernel) -> None:
        """Guards what the records say. Raises KernelError, with nothing changed, where the kernel knows no such tables or another
        process has them."""
        for table in _FILTERS:
            self._follow(table, self._guarded(table, store, kernel))
        closed = "inet" in self._held and _is_ours(INET, store) and store.recorded(CLOSED6.key) is not None
        if closed and not self._closed:
            self._run(KEEP_CLOSED)
        elif self._closed and not closed:
            self._run("".join(f"delete chain inet {KEEPER} {name}_forward\n" for name in ("before", "after")))
        self._closed = closed

    def _guarded(self, table: NftTable, store: Store, kernel: Kernel) -> Taps:
        """The taps that a filter guards; none if it is one of another version, which may take no marks off."""
        if not _is_ours(table, store):
            return frozenset()
        if table.family not in self._held and kernel.read([table]).get(table.key) != table:
            return frozenset()
        starts = {name: f"{table.key} {name} " for name in KEPT_SETS[table.family]}
        return frozenset((name, key.removeprefix(start)) for name, start in starts.items() for key in store.keys_under(start))

    def _follow(self, table: NftTable, taps: Taps) -> None:
        held = self._held.get(table.family)
        if held is None and not taps:
            return
        statements = [] if held is not None else [KEEPERS[table.family]]
        held = held or frozenset()
        for verb, changed in (("delete", held - taps), ("add", taps - held)):
            for name in KEPT_SETS[table.family]:
                if chosen := sorted(tap for kept, tap in changed if kept == name):
                    statements.append(f"{verb} element {table.family} {KEEPER} {name} {{ {', '.join(chosen)} }}\n")
        if statements:
            self._run("".join(statements))
        self._held[table.family] = taps

    def lost(self) -> bool:
        """Whether a table of ours is gone: then all are made anew by the next `follow`."""
        there = [f for f in self._held if tables.read(self._socket, NftTable(f, "", (), KEEPER)) is not None]
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
